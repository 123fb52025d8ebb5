"""Prompts as tokens, generated tokens as text, and batches of prompts for one forward pass.

A prompt is encoded without special tokens and gets its BOS from here, once, by the policy `context_copying.bos`
(study B's prompts spelt out a <s> and had the tokenizer's beside it: B defect 14). Batches are padded on the right: a
causal model's states at a prompt's own positions do not see what follows, so padded equals unpadded (study B padded on
the left without a mask: B defect 5), and pads are marked as not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neuronlab.answer_text import split_answer

POLICIES = ("auto", "always", "never")
BATCH = 1024  # texts encoded at once


class PromptError(ValueError):
    """A prompt that the model cannot be given."""


def opening_bos(bos: str, bos_token_id: int | None, where: str) -> int | None:
    """The BOS that opens every prompt, by the policy `context_copying.bos`, or None.

    Args:
        where: the model's config key, for messages.

    Raises:
        PromptError: an unknown policy, or "always" for a tokenizer without BOS.
    """
    if bos not in POLICIES:
        raise PromptError(f"context_copying.bos is '{bos}'; it must be {', '.join(POLICIES[:-1])} or {POLICIES[-1]}")
    if bos == "always" and bos_token_id is None:
        raise PromptError(
            f"context_copying.bos is 'always', but the tokenizer of {where} has no BOS; use auto or never"
        )
    return None if bos == "never" else bos_token_id


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
    found: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        part = list(texts[start : start + BATCH])
        encoded = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)
        found.extend(encoded["input_ids"])
    return found


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], bos_id: int | None) -> list[list[int]]:
    """Token ids of each prompt, BOS in front where there is one.

    Raises:
        PromptError: for a prompt without a token, or one whose text spells out the BOS that is put in front of it.
    """
    prompts = []
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        if bos_id is not None and ids[:1] == [bos_id]:
            raise PromptError(
                f"the prompt '{text}' spells out the BOS that context_copying.bos puts in front of it; take it out "
                "of the template or the facts, or set context_copying.bos to never"
            )
        if not ids:
            raise PromptError(f"the prompt '{text}' has no tokens; give the fact a query")
        prompts.append(ids if bos_id is None else [bos_id, *ids])
    return prompts


def continuation_text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Generated tokens as text, an EOS at their end left out; spelling of spaces as the model has it."""
    tokens = list(tokens)
    if tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()
    return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def answer_ends(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], bool]:
    """Whether generated tokens already hold the delimiter that ends the answer (see `answer_text.split_answer`)."""
    return lambda tokens: split_answer(continuation_text(tokenizer, tokens))[1]


def padded(
    prompts: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "batch position"], Bool[np.ndarray, "batch position"]]:
    """Prompts of different lengths as one tensor, and which of its positions are no pads. Pads stand on the right."""
    lengths = np.array([len(prompt) for prompt in prompts])
    tokens = torch.zeros((len(prompts), int(lengths.max())), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.as_tensor(list(prompt))
    return tokens, np.arange(tokens.shape[1]) < lengths[:, None]
