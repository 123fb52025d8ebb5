"""Prompts of different lengths in one forward pass, and their continuations by one token at a time.

Prompts are padded on the left, so that the last column is every prompt's last token. Padding is masked out of the
attention and takes no positions: position ids count real tokens. What comes after a prompt passes alone, behind the
keys and values that the model kept of its prefix; a row may have any number of successors, which all start from its
keys. Masks go to the Hugging Face model as one flag per key, so that sliding windows, rotary positions, grouped keys
and softcaps stay its own business; a window counts columns, and within a row columns differ as positions do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from neuronlab.bridge_parts import FINAL_RESIDUAL, Hook, hooked_forward, mlp_out_before_norm, post_activation
from neuronlab.models import Model

PADDING = 0  # any id will do: nothing sees it


class DecodingError(ValueError):
    """Prompts, variants or a model that cannot be decoded as asked."""


@dataclass(frozen=True)
class LastState:
    """What the closed form needs of the last position of some rows, in the model wrapper's dtype.

    Attributes:
        residual: input of the final norm.
        activations: `hook_post` of the last layer.
        mlp_out: output of the last MLP before the norm that follows it (Gemma-2); None without such a norm.
    """

    residual: Float[Tensor, "rows d"]
    activations: Float[Tensor, "rows neurons"]
    mlp_out: Float[Tensor, "rows d"] | None = None

    def to(self, device: torch.device) -> LastState:
        """The same on another device."""
        mlp = None if self.mlp_out is None else self.mlp_out.to(device)
        return LastState(self.residual.to(device), self.activations.to(device), mlp)


@dataclass(frozen=True)
class Prefixes:
    """Rows that have passed through the model.

    Attributes:
        state: at the last position.
        logits: the model's own, there.
        kept: keys and values of every layer, [row, head, column, d_head].
        real: columns that hold a token of the row; the others are padding.
    """

    state: LastState
    logits: Float[Tensor, "rows vocab"]
    kept: tuple[tuple[Tensor, Tensor], ...]
    real: Bool[Tensor, "rows column"]

    def __len__(self) -> int:
        return len(self.real)


def check_prompts(model: Model, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Refuse prompts that the model cannot continue by `new_tokens` tokens.

    Raises:
        DecodingError: for an empty prompt, an id outside the vocabulary, a prompt too long for the context, or fewer
            than one new token.
    """
    if new_tokens < 1:
        raise DecodingError(f"new_tokens is {new_tokens}; at least one token must be generated")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise DecodingError(f"prompt {number} is empty; put the BOS token or some text in front")
        if not all(0 <= token < model.d_vocab for token in prompt):
            raise DecodingError(
                f"prompt {number} holds an id outside the vocabulary of {model.spec.where} ({model.d_vocab} ids): "
                "it was made with another tokenizer"
            )
        if model.n_ctx and len(prompt) + new_tokens - 1 > model.n_ctx:
            raise DecodingError(
                f"prompt {number} has {len(prompt)} tokens; with {new_tokens} new ones it exceeds the context of "
                f"{model.spec.where} ({model.n_ctx}): leave it out or lower new_tokens"
            )


def by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Numbers of prompts that share a batch: those of similar length, for little padding; in a fixed order.

    Raises:
        DecodingError: for a batch size below one.
    """
    if batch_size < 1:
        raise DecodingError(f"batch_size is {batch_size}; at least one row must pass at a time")
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad_left(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "rows column"], Bool[Tensor, "rows column"]]:
    """Tokens with padding on the left, and which of them are real."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[PADDING] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    real = torch.tensor([[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return tokens, real


def read_prompts(model: Model, prompts: Sequence[Sequence[int]]) -> Prefixes:
    """One forward pass over whole prompts."""
    tokens, real = pad_left(prompts)
    return _forward(model, tokens.to(model.device), real.to(model.device), DynamicCache())


def extend(model: Model, before: Prefixes, rows: Sequence[int], tokens: Sequence[int]) -> Prefixes:
    """One forward pass over a further token behind the prefixes of some rows.

    Args:
        rows: which prefix each new row continues; any number of times each, in any order.
        tokens: by which token.
    """
    chosen = torch.as_tensor(rows, device=model.device)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(before.kept):
        cache.update(keys.index_select(0, chosen), values.index_select(0, chosen), layer)
    real = before.real.index_select(0, chosen)
    real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
    return _forward(model, torch.as_tensor(tokens, device=model.device)[:, None], real, cache)


@torch.no_grad()
def _forward(
    model: Model, tokens: Int[Tensor, "rows new"], real: Bool[Tensor, "rows column"], cache: DynamicCache
) -> Prefixes:
    last = model.n_layers - 1
    names = [FINAL_RESIDUAL, post_activation(last)]
    if model.has_post_mlp_norm:
        names.append(mlp_out_before_norm(last))
    caught: dict[str, Tensor] = {}

    def keeping(name: str) -> Hook:
        def keep(tensor: Tensor, hook: Any) -> None:
            caught[name] = tensor[:, -1].detach().to(model.dtype)

        return keep

    positions = (real.long().cumsum(-1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
    logits = hooked_forward(
        model.bridge,
        tokens,
        {name: keeping(name) for name in names},
        attention_mask=real.long(),
        position_ids=positions,
        past_key_values=cache,
        logits_to_keep=1,
    )
    state = LastState(*(caught[name] for name in names))
    if not bool(torch.isfinite(state.residual).all()):
        raise DecodingError(
            f"{model.spec.where}: NaN or infinity in the residual stream; its dtype {model.spec.dtype} overflows: "
            "choose bfloat16 or float32"
        )
    return Prefixes(state, logits[:, -1].to(model.dtype), _kept(model, cache, real.shape), real)


def _kept(model: Model, cache: DynamicCache, shape: Sequence[int]) -> tuple[tuple[Tensor, Tensor], ...]:
    """Keys and values of every layer.

    Raises:
        DecodingError: where a layer keeps none of its own for every row and column: then a prefix is not all that the
            model remembers, and continuations cannot share it.
    """
    kept = tuple((layer.keys, layer.values) for layer in cache.layers)
    whole = all(key is not None and key.ndim == 4 and (key.shape[0], key.shape[2]) == tuple(shape) for key, _ in kept)
    if len(kept) != model.n_layers or not whole:
        raise DecodingError(
            f"{model.spec.where}: {model.architecture} does not keep keys and values of its own in every layer "
            "(a recurrent or sharing architecture); decoding with shared prefixes is not covered"
        )
    return kept
