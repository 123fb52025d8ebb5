"""Attention in a TransformerBridge: hook points, patterns layer by layer, clean keys and values kept and given back.

The pass that ablates every query position at once (see `attention`) is an ordinary cached forward pass to Hugging Face:
the queries come after a cache that holds the clean keys and values of the whole sequence, and a mask lets each of them
see the clean keys before its own position and, of the new ones, its own alone. So rotary positions, grouped keys,
parallel blocks, softcaps and whatever else a model does with its scores stay the model's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from neuronlab.bridge_parts import Hook, hooked_forward

Visit = Callable[[int, Float[Tensor, "batch head query key"]], None]


def pattern(layer: int) -> str:
    """Where the attention of a layer's heads passes, after the softmax: [batch, head, query, key]."""
    return f"blocks.{layer}.attn.hook_pattern"


def head_output(layer: int) -> str:
    """Where the heads' outputs z pass before W_O: [batch, query, head, d_head]."""
    return f"blocks.{layer}.attn.hook_z"


def residual_before(layer: int) -> str:
    """Where the residual stream enters a block."""
    return f"blocks.{layer}.hook_in"


def head_count(bridge: Any) -> int:
    """Query heads of a layer."""
    return int(bridge.cfg.n_heads)


def attention_window(bridge: Any) -> int | None:
    """Keys that a query of the most short-sighted layer sees, itself included; None where all see everything."""
    config = bridge.original_model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(window) for window in found if window), default=None)


@torch.no_grad()
def visit_patterns(bridge: Any, tokens: Int[Tensor, "batch position"], visit: Visit) -> None:
    """One clean pass in which `visit(layer, pattern)` sees the attention of all heads, a layer in memory at a time."""

    def seeing(layer: int) -> Hook:
        def see(tensor: Tensor, hook: Any) -> None:
            visit(layer, tensor.detach())

        return see

    layers = range(len(bridge.blocks))
    hooked_forward(bridge, tokens, {pattern(layer): seeing(layer) for layer in layers}, logits_to_keep=1)


class KeptKeys(DynamicCache):
    """An empty cache that keeps the keys and values of a clean pass, as they are after rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep what a layer computed and hand it back unchanged."""
        self.kept[layer_idx] = key_states, value_states
        return key_states, value_states


class KeysBefore(DynamicCache):
    """A cache that puts the kept keys and values in front of new ones, `sets` times for a batch of as many variants."""

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]], sets: int) -> None:
        super().__init__()
        self.kept, self.sets = kept, sets

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """[sets x batch, head, position + query, d_head]: the clean ones, then those just computed."""
        keys, values = self.kept[layer_idx]
        return self._joined(keys, key_states), self._joined(values, value_states)

    def _joined(self, clean: Tensor, new: Tensor) -> Tensor:
        parts = clean.expand(self.sets, *clean.shape), new.unflatten(0, (self.sets, -1))
        return torch.cat(parts, dim=-2).flatten(0, 1)


def earlier_and_own(
    positions: Int[Tensor, " query"], length: int, dtype: torch.dtype
) -> Float[Tensor, "1 1 query position+query"]:
    """Additive mask: the clean keys before each query's position, and of the new keys its own."""
    earlier = torch.arange(length, device=positions.device) < positions[:, None]
    own = torch.eye(len(positions), dtype=torch.bool, device=positions.device)
    seen = torch.cat([earlier, own], dim=1)
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[None, None]


@torch.no_grad()
def forward_beside(
    bridge: Any,
    residual: Float[Tensor, "row query d"],
    positions: Int[Tensor, " query"],
    kept: dict[int, tuple[Tensor, Tensor]],
    sets: int,
    first: int,
    hooks: dict[str, Hook],
) -> None:
    """A pass from block `first` on in which each query sees clean keys before it and its own; read it by hooks.

    Args:
        residual: what enters block `first`; rows are sets x batch, sets first.
        kept: from `KeptKeys`, of the clean pass over the whole sequences.
    """
    length = next(iter(kept.values()))[0].shape[-2]
    with skipped_blocks(bridge, first):
        hooked_forward(
            bridge,
            residual,
            hooks,
            start_at_layer=first,
            past_key_values=KeysBefore(kept, sets),
            attention_mask=earlier_and_own(positions, length, residual.dtype),
            position_ids=positions[None],
            logits_to_keep=1,
        )


@contextmanager
def skipped_blocks(bridge: Any, first: int) -> Iterator[None]:
    """Blocks below `first` hand their input on: TransformerLens runs them all the same and drops what they make."""

    def hand_on(*args: Any, **kwargs: Any) -> Tensor:
        return args[0] if args else kwargs["hidden_states"]

    blocks = list(bridge.blocks)[:first]
    for block in blocks:
        block.__dict__["forward"] = hand_on
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def kept_layers(kept: dict[int, tuple[Tensor, Tensor]], n_layers: int, shape: Sequence[int]) -> bool:
    """Whether every layer kept keys of its own for every sequence and position: what `KeysBefore` builds on."""
    return set(kept) == set(range(n_layers)) and all(
        key.ndim == 4 and (key.shape[0], key.shape[2]) == tuple(shape) for key, _ in kept.values()
    )
