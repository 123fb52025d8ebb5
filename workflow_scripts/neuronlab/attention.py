"""Heads ablated at one query position, for all positions in one extra pass (METHODS A6).

The intervention is local: at query position p, and nowhere else, some heads either attend to position 0 alone (`bos`:
row p of their attention becomes one-hot on key 0) or put out their mean (`mean`: z before W_O is replaced). What is
read is read at p. Since a causal model's positions before p do not see p, everything that p's changed stream attends
to is clean, but for its own key and value: so all positions are ablated in one pass in which every query sees the clean
keys and values of earlier positions and its own changed ones. The numbers are those of one hooked forward pass for each
position (`forward_at`), which the tests compare for every architecture, to rounding.

The pass starts at the first layer with an ablated head, from the clean residual there. Several sets of heads share it.
Refused are sequences longer than an attention window: key 0 must be visible from everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.attention_parts import (
    KeptKeys,
    Visit,
    attention_window,
    forward_beside,
    head_count,
    head_output,
    kept_layers,
    pattern,
    residual_before,
    visit_patterns,
)
from neuronlab.bridge_parts import FINAL_RESIDUAL, Hook, hooked_forward, post_activation
from neuronlab.head_sets import AttentionError, HeadSet
from neuronlab.model_checks import TOLERANCE
from neuronlab.models import Model

__all__ = ["AttentionError", "CleanPass", "HeadSet", "States", "ablated_pass", "clean_pass", "forward_at"]

Method = Literal["bos", "mean"]
Means = Float[Tensor, "layer head d_head"]


@dataclass(frozen=True)
class States:
    """What is read at the last layer.

    Attributes:
        residual: input of the final norm.
        activations: `hook_post` of the last layer.
    """

    residual: Float[Tensor, "*rows d"]
    activations: Float[Tensor, "*rows neurons"]


@dataclass(frozen=True)
class CleanPass:
    """A clean forward pass, and what the ablated ones start from.

    Attributes:
        tokens: the sequences.
        kept: keys and values of every layer, after rotary positions.
        residuals: what enters the layers that passes may start at.
        states: what is read, at every position.
    """

    tokens: Int[Tensor, "batch position"]
    kept: dict[int, tuple[Tensor, Tensor]]
    residuals: dict[int, Float[Tensor, "batch position d"]]
    states: States


@torch.no_grad()
def clean_pass(model: Model, tokens: Int[Tensor, "batch position"], layers: Iterable[int]) -> CleanPass:
    """One forward pass, after which heads of `layers` and above can be ablated.

    Raises:
        AttentionError: sequences longer than the context or an attention window; attention without the hook points, or
            layers that share keys with others.
    """
    check_attention(model, tokens.shape[1])
    tokens = tokens.to(model.device)
    caught: dict[str, Tensor] = {}
    starts = {layer: residual_before(layer) for layer in sorted(set(layers))}
    final = (FINAL_RESIDUAL, post_activation(model.n_layers - 1))
    hooks = {name: _keeping(caught, name) for name in (*starts.values(), *final)}
    cache = KeptKeys()
    hooked_forward(model.bridge, tokens, hooks, past_key_values=cache, logits_to_keep=1)
    if not kept_layers(cache.kept, model.n_layers, tokens.shape):
        raise AttentionError(
            f"{model.spec.where}: {model.architecture} does not keep keys and values of its own in every layer; "
            "ablating heads at one position is not covered. Leave `heads` out of confidence_regulation.parts"
        )
    states = States(*(caught[name].to(model.dtype) for name in final))
    return CleanPass(tokens, cache.kept, {layer: caught[name] for layer, name in starts.items()}, states)


@torch.no_grad()
def ablated_pass(
    model: Model,
    clean: CleanPass,
    sets: Sequence[HeadSet],
    method: Method,
    *,
    means: Means | None = None,
    positions: Int[Tensor, " query"] | None = None,
    first: int | None = None,
) -> States:
    """The effect at p of ablating each set at p alone, for all `positions` p, in one pass: [set, batch, query, ...].

    Args:
        sets: they share the pass, which starts at the lowest layer of them all.
        method: "bos" or "mean".
        means: outputs z of all heads, for "mean".
        positions: query positions, all by default.
        first: start here; a layer of `clean.residuals`, at or below the lowest one of the sets.

    Raises:
        AttentionError: "mean" without means, or a start that the clean pass did not keep.
    """
    kept = min(clean.residuals) if first is None else first  # where a pass starts that ablates nothing
    lowest = min((layer for chosen in sets for layer, _ in chosen.heads), default=kept)
    first = lowest if first is None else first
    if first > lowest or first not in clean.residuals:
        raise AttentionError(f"a pass over heads of layer {lowest} cannot start at layer {first}")
    if positions is None:
        positions = torch.arange(clean.tokens.shape[1])
    positions = positions.to(model.device)
    batch, n_sets = len(clean.tokens), len(sets)
    start = clean.residuals[first][:, positions]
    hooks = _ablating(sets, method, means, positions, clean.tokens.shape[1], batch)
    caught: dict[str, Tensor] = {}
    final = (FINAL_RESIDUAL, post_activation(model.n_layers - 1))
    hooks |= {name: _keeping(caught, name) for name in final}
    rows = start.expand(n_sets, *start.shape).flatten(0, 1)
    forward_beside(model.bridge, rows, positions, clean.kept, n_sets, first, hooks)
    return States(*(caught[name].to(model.dtype).unflatten(0, (n_sets, batch)) for name in final))


@torch.no_grad()
def forward_at(
    model: Model,
    tokens: Int[Tensor, "batch position"],
    heads: HeadSet,
    method: Method,
    at: Int[Tensor, " batch"],
    *,
    means: Means | None = None,
) -> States:
    """The same by brute force: a plain hooked forward pass, each sequence ablated at one position of its own.

    Args:
        at: query position of each sequence; what is read is read there.
    """
    tokens, at = tokens.to(model.device), at.to(model.device)
    row = torch.arange(len(tokens), device=model.device)

    def to_bos(layer: int) -> Hook:
        def hook(attention: Tensor, hook: Any) -> Tensor:
            attention = attention.clone()
            for head in (head for at_layer, head in heads.heads if at_layer == layer):
                attention[row, head, at] = 0
                attention[row, head, at, 0] = 1
            return attention

        return hook

    def to_mean(layer: int) -> Hook:
        def hook(z: Tensor, hook: Any) -> Tensor:
            z = z.clone()
            for head in (head for at_layer, head in heads.heads if at_layer == layer):
                z[row, at, head] = _needed(means)[layer, head].to(z)
            return z

        return hook

    caught: dict[str, Tensor] = {}
    final = (FINAL_RESIDUAL, post_activation(model.n_layers - 1))
    hooks = {name: _keeping(caught, name) for name in final}
    for layer in {layer for layer, _ in heads.heads}:
        hooks |= {pattern(layer): to_bos(layer)} if method == "bos" else {head_output(layer): to_mean(layer)}
    hooked_forward(model.bridge, tokens, hooks, logits_to_keep=1)
    return States(*(caught[name].to(model.dtype)[row, at] for name in final))


@torch.no_grad()
def mean_outputs(
    model: Model, batches: Iterable[tuple[Int[Tensor, "batch position"], Tensor]]
) -> Float[Tensor, "layer head d_head"]:
    """Mean output z of every head over chosen positions, in float64.

    Args:
        batches: sequences, and a boolean mask of the positions that count.
    """
    total, count = 0.0, 0

    for tokens, counted in batches:
        check_attention(model, tokens.shape[1])
        caught: dict[str, Tensor] = {}
        names = [head_output(layer) for layer in range(model.n_layers)]
        hooks = {name: _keeping(caught, name) for name in names}
        hooked_forward(model.bridge, tokens.to(model.device), hooks, logits_to_keep=1)
        counted = counted.to(model.device)
        wide = torch.float32 if model.device.type == "mps" else torch.float64
        total = total + torch.stack([caught[name][counted].to(wide).sum(0) for name in names]).cpu().double()
        count += int(counted.sum())
    if not count:
        raise AttentionError("no position to take the heads' mean output over")
    return total / count


def patterns(model: Model, tokens: Int[Tensor, "batch position"], visit: Visit) -> None:
    """`visit(layer, pattern)` for every layer of a clean pass; one layer's [batch, head, query, key] at a time."""
    check_attention(model, tokens.shape[1], window=False)
    visit_patterns(model.bridge, tokens.to(model.device), visit)


def check_attention(model: Model, length: int, *, window: bool = True) -> None:
    """Refuse what the one pass does not cover, before any work is spent on it.

    Raises:
        AttentionError: naming the reason.
    """
    where, bridge = model.spec.where, model.bridge
    points = [name for layer in range(model.n_layers) for name in (pattern(layer), head_output(layer))]
    missing = [name for name in points if name not in bridge.hook_dict]
    if missing:
        raise AttentionError(
            f"{where}: {model.architecture} has no hook point {missing[0]}: its attention is not covered. Leave "
            "`heads` out of confidence_regulation.parts"
        )
    if length > (model.n_ctx or length):
        raise AttentionError(
            f"{where}: sequences of {length} tokens, but its context is {model.n_ctx}; lower induction.heads.length "
            "and induction.synthetic.length"
        )
    seen = attention_window(bridge)
    if window and seen is not None and length > seen:
        raise AttentionError(
            f"{where}: its attention reaches {seen} tokens back, so position 0 is out of sight in sequences of "
            f"{length}: ablating heads at one position is not covered there. Lower induction.synthetic.length"
        )


def check_reproduced(model: Model, clean: CleanPass) -> None:
    """Without an ablated head the pass must give the clean run again, at every position.

    Raises:
        AttentionError: if it does not: the architecture's attention is not what this module takes it for.
    """
    again = ablated_pass(model, clean, [HeadSet(())], "bos", first=min(clean.residuals))
    size = 1 + clean.states.residual.abs().max()
    error, tolerance = (
        float((again.residual[0] - clean.states.residual).abs().max() / size),
        TOLERANCE[model.spec.dtype],
    )
    if not error <= tolerance:
        raise AttentionError(
            f"{model.spec.where}: the pass that sees clean keys differs from the clean run by {error:.1e} where "
            f"rounding in {model.spec.dtype} explains {tolerance:.0e}: the attention of {model.architecture} is not "
            "covered. Leave `heads` out of confidence_regulation.parts"
        )


def all_heads(model: Model) -> list[tuple[int, int]]:
    """Every (layer, head)."""
    return [(layer, head) for layer in range(model.n_layers) for head in range(head_count(model.bridge))]


def _keeping(caught: dict[str, Tensor], name: str) -> Hook:
    def keep(tensor: Tensor, hook: Any) -> None:
        caught[name] = tensor.detach()

    return keep


def _needed(means: Means | None) -> Means:
    if means is None:
        raise AttentionError("method 'mean' needs the heads' mean outputs")
    return means


def _ablating(
    sets: Sequence[HeadSet],
    method: Method,
    means: Means | None,
    positions: Int[Tensor, " query"],
    length: int,
    batch: int,
) -> dict[str, Hook]:
    """Hooks that ablate each set in its rows of the batch (sets first)."""
    n_sets = len(sets)
    # Row p of an ablated pattern: key 0, which for p = 0 is the query's own, behind the `length` clean ones.
    target = torch.where(positions == 0, length + torch.arange(len(positions), device=positions.device), 0)

    def to_bos(which: Tensor, heads: Tensor) -> Hook:
        def hook(attention: Tensor, hook: Any) -> Tensor:
            one_hot = torch.zeros(attention.shape[-2:], dtype=attention.dtype, device=attention.device)
            one_hot[torch.arange(len(target), device=target.device), target] = 1
            changed = attention.clone(memory_format=torch.contiguous_format)
            changed.view(n_sets, batch, *attention.shape[1:])[which, :, heads] = one_hot
            return changed

        return hook

    def to_mean(which: Tensor, heads: Tensor, values: Tensor) -> Hook:
        def hook(z: Tensor, hook: Any) -> Tensor:
            changed = z.clone(memory_format=torch.contiguous_format)
            changed.view(n_sets, batch, *z.shape[1:])[which, :, :, heads] = values.to(z)[:, None, None]
            return changed

        return hook

    hooks: dict[str, Hook] = {}
    for layer in sorted({layer for chosen in sets for layer, _ in chosen.heads}):
        places = [(s, head) for s, chosen in enumerate(sets) for at_layer, head in chosen.heads if at_layer == layer]
        which, heads = torch.tensor(places, device=positions.device).T
        if method == "bos":
            hooks[pattern(layer)] = to_bos(which, heads)
        else:
            hooks[head_output(layer)] = to_mean(which, heads, _needed(means)[layer, heads.cpu()])
    return hooks
