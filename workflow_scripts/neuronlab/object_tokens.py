"""Tokens of an object as it follows a prompt, and the model's log-probability of them (METHODS B2, B defect 6).

Study B took the first token that the model generated, wrote it out, put a space in front and encoded that: a space
alone for tokens that begin with one, and the BOS for tokenizers that add it. Here prompt and object are encoded
together, without special tokens, and the object's tokens are those after the prompt's own. Where the joint encoding
does not begin with the prompt's (a prompt that ends in white space, a tokenizer that merges across it), the object is
encoded after another text that it does follow cleanly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64
from transformers import PreTrainedTokenizerBase

from neuronlab.models import Model
from neuronlab.prompt_batches import by_length
from neuronlab.prompt_tokens import encode, padded
from neuronlab.readout import Readout, readout_dtype

# Texts that an object is encoded after where the prompt itself does not do.
ANCHORS = ("a", ".", ":", "1")
LOGITS_BYTES = 2**27  # float64 logits held at once


def object_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], objects: Sequence[str]
) -> list[tuple[int, ...]]:
    """Tokens of each object as it follows its prompt, after one space; no BOS.

    Empty where the tokenizer knows nothing of the object, so that the space before it is all that is left.

    Args:
        prompts, objects: as many of one as of the other.
    """
    gaps = ["" if not prompt or prompt[-1].isspace() else " " for prompt in prompts]
    different = sorted(set(prompts))
    alone = dict(zip(different, encode(tokenizer, different), strict=True))
    pairs = sorted({(prompt, gap, text) for prompt, gap, text in zip(prompts, gaps, objects, strict=True)})
    joint = encode(tokenizer, [prompt + gap + text for prompt, gap, text in pairs])
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for (prompt, gap, text), ids in zip(pairs, joint, strict=True):
        start = alone[prompt]
        follows = ids[: len(start)] == start
        found[prompt, text] = tuple(ids[len(start) :]) if follows else _after_anchor(tokenizer, gap, text)
    blank = {ids for ids in set(found.values()) if not tokenizer.decode(list(ids)).strip()}
    wanted = (found[prompt, text] for prompt, text in zip(prompts, objects, strict=True))
    return [() if ids in blank else ids for ids in wanted]


def _after_anchor(tokenizer: PreTrainedTokenizerBase, gap: str, text: str) -> tuple[int, ...]:
    """Tokens of an object after a short text; as it stands alone where no anchor serves."""
    for anchor in ANCHORS:
        start, ids = encode(tokenizer, [anchor, anchor + gap + text])
        if start and ids[: len(start)] == start:
            return tuple(ids[len(start) :])
    return tuple(encode(tokenizer, [gap + text])[0])


def precise_readout(model: Model) -> Readout:
    """The model's read-out in float64 where that is not too large, on a device that knows float64."""
    device = torch.device("cpu") if model.device.type == "mps" else model.device
    dtype = torch.float32 if model.device.type == "mps" else readout_dtype(model.d_model, model.d_vocab)
    return model.readout(dtype).to(device)


def next_log_probs(
    model: Model,
    readout: Readout,
    prompts: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    batch_size: int,
) -> list[Float64[np.ndarray, " tokens"]]:
    """Log-probabilities (nats) of some next tokens after each prompt, one forward pass for each.

    Args:
        prompts: token ids, BOS included.
        wanted: ids that are asked for, for each prompt.
    """
    return forced_log_probs(
        model, readout, prompts, [(len(prompt) - 1,) for prompt in prompts], [[ids] for ids in wanted], batch_size
    )


def object_log_probs(
    model: Model,
    readout: Readout,
    prompts: Sequence[Sequence[int]],
    objects: Sequence[Sequence[int]],
    batch_size: int,
) -> Float64[np.ndarray, " prompts"]:
    """Log-probability (nats) of a whole object after each prompt, by teacher forcing.

    Args:
        prompts: token ids, BOS included.
        objects: token ids, at least one each.
    """
    whole = [[*prompt, *ids[:-1]] for prompt, ids in zip(prompts, objects, strict=True)]
    places = [range(len(prompt) - 1, len(text)) for prompt, text in zip(prompts, whole, strict=True)]
    found = forced_log_probs(model, readout, whole, places, [[[i] for i in ids] for ids in objects], batch_size)
    return np.array([values.sum() for values in found], dtype=np.float64)


@torch.no_grad()
def forced_log_probs(
    model: Model,
    readout: Readout,
    prompts: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[Sequence[int]]],
    batch_size: int,
) -> list[Float64[np.ndarray, " tokens"]]:
    """Log-probabilities of the tokens `wanted` after the positions `places` of each prompt, one after another.

    Logits exist for a few positions at a time; of a prompt only the tokens asked for are kept.
    """
    found: list[Float64[np.ndarray, " tokens"]] = [np.empty(0)] * len(prompts)
    chunk = max(1, LOGITS_BYTES // (8 * readout.vocab))
    for batch in by_length(prompts, batch_size):
        tokens, _ = padded([prompts[index] for index in batch])
        residual = model.run(tokens).residual.to(readout.W.device)
        rows = [(row, place) for row, index in enumerate(batch) for place in places[index]]
        ids = [list(group) for index in batch for group in wanted[index]]
        parts: list[Float64[np.ndarray, " tokens"]] = []
        for start in range(0, len(rows), chunk):
            chosen = torch.as_tensor(rows[start : start + chunk], device=residual.device)
            parts += _gathered(readout, residual[chosen[:, 0], chosen[:, 1]], ids[start : start + chunk])
        position = 0
        for index in batch:
            of_prompt = parts[position : position + len(places[index])]
            found[index] = np.concatenate(of_prompt) if of_prompt else np.empty(0)
            position += len(places[index])
    return found


def _gathered(readout: Readout, residual: torch.Tensor, ids: list[list[int]]) -> list[Float64[np.ndarray, " tokens"]]:
    logits = readout.logits(residual.to(readout.W.dtype)).double()
    rows: Int64[np.ndarray, " tokens"] = np.repeat(np.arange(len(ids)), [len(group) for group in ids])
    columns = np.array([i for group in ids for i in group], dtype=np.int64)
    lp = torch.log_softmax(logits, dim=-1)[torch.from_numpy(rows), torch.from_numpy(columns)]
    return np.split(lp.cpu().numpy(), np.cumsum([len(group) for group in ids])[:-1])
