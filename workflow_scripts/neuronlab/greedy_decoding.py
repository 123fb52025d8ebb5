"""Greedy continuations of prompts by the clean model, with their log-probabilities."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from neuronlab.ablation import LastLayer, readout_dtype
from neuronlab.kernels.interface import precise_product
from neuronlab.models import Model
from neuronlab.prompt_batches import Prefixes, by_length, check_prompts, extend, read_prompts
from neuronlab.readout import Readout

Finished = Callable[[Sequence[int]], bool]


class Greedy(NamedTuple):
    """A prompt's greedy continuation.

    Attributes:
        tokens: generated ids; an EOS that ended them is the last.
        log_probs: log-probability of each (nats).
        entropy: entropy of the first one's distribution (nats).
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    entropy: float


def greedy(
    model: Model,
    last: LastLayer | None,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    finished: Finished,
    batch_size: int,
) -> list[Greedy]:
    """Continue every prompt by its most likely tokens, the lowest id among equals.

    Log-probabilities and entropies are computed in float64 from the model's final residual.

    Args:
        last: only its read-out is used; without it the read-out is made here.
        new_tokens: at most so many.
        finished: told the ids generated so far, whether they are all that is wanted; an EOS ends a continuation too.
        batch_size: prompts per forward pass.

    Raises:
        DecodingError: see `prompt_batches.check_prompts` and `prompt_batches.by_length`.
    """
    check_prompts(model, prompts, new_tokens)
    readout = last.readout if last is not None else _readout(model)
    found: list[Greedy | None] = [None] * len(prompts)
    batches = list(by_length(prompts, batch_size))
    for numbers in tqdm(batches, desc="answers", unit="batch", file=sys.stderr, disable=None):
        before = read_prompts(model, [prompts[i] for i in numbers])
        tokens: dict[int, list[int]] = {i: [] for i in numbers}
        log_probs: dict[int, list[float]] = {i: [] for i in numbers}
        entropy: dict[int, float] = {}
        alive = numbers
        for depth in range(new_tokens):
            lp = _log_probs(readout, before)
            chosen = lp.argmax(-1)
            best = lp.gather(-1, chosen[:, None])[:, 0].tolist()
            if depth == 0:
                entropy = dict(zip(alive, torch.special.entr(lp.exp()).sum(-1).tolist(), strict=True))
            for i, token, value in zip(alive, chosen.tolist(), best, strict=True):
                tokens[i].append(token)
                log_probs[i].append(value)
            rows = [row for row, i in enumerate(alive) if not ended(model, tokens[i], finished)]
            alive = [alive[row] for row in rows]
            if not alive or depth == new_tokens - 1:
                break
            before = extend(model, before, rows, [tokens[i][-1] for i in alive])
        for i in numbers:
            found[i] = Greedy(tuple(tokens[i]), tuple(log_probs[i]), entropy[i])
    return [one for one in found if one is not None]


def ended(model: Model, tokens: Sequence[int], finished: Finished) -> bool:
    """Whether a continuation is over although there is room for more."""
    return tokens[-1] == model.eos_token_id or bool(finished(tokens))


def _readout(model: Model) -> Readout:
    """The read-out of a model where it can be computed in float64: not on mps."""
    device = torch.device("cpu") if model.device.type == "mps" else model.device
    dtype = torch.float32 if model.device.type == "mps" else readout_dtype(model.d_model, model.d_vocab)
    return model.readout(dtype).to(device)


def _log_probs(readout: Readout, prefixes: Prefixes) -> Float[Tensor, "rows vocab"]:
    residual = prefixes.state.residual.to(readout.W.device).double()
    logits = precise_product(readout.normalise(residual), readout.W) + readout.b.double()
    return readout.cap(logits).log_softmax(-1)
