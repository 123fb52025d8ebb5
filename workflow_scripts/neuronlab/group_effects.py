"""Effects of a group's variants on the next token's distribution: one set of neurons, held at several constants.

For a token with activations a and a variant that holds the set at v, the final residual changes by D = sum_n delta_n
w_n, delta = v - a; from there on it is the algebra of `joint`, with the variants of a group in the place of sets: they
share U = w W and the Gram matrix. A synthetic group (see `synthetic_sets`) adds D' = kappa x + s sum_n delta_n r_n,
whose logits are kappa z + s delta (r W): the kernels' form again; the norm's scale moves as it does for D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from neuronlab.ablation import LastLayer, Products, Tokens, coefficients_of, products_of, run_kernel
from neuronlab.joint import clean_part
from neuronlab.kernels import brute_force, entropy_kernel
from neuronlab.kernels.interface import Clean, Coefficients, Directions, Effects, directions
from neuronlab.synthetic_sets import synthetic_directions, synthetic_factors, synthetic_move
from neuronlab.variant_groups import VariantGroup

Array = np.ndarray
BUDGET = {"cpu": 4 * 2**20, "cuda": 2 * 2**30}  # bytes of logits that tokens x variants write, alive at once


@dataclass(frozen=True)
class GroupLines:
    """What the neurons of a group write, whatever the token.

    Attributes:
        group: the group.
        U: logits of its directions, those drawn at random for a synthetic group; the kernel's dtype.
        r: the random directions of a synthetic group, float64; None otherwise.
    """

    group: VariantGroup
    U: Float[Tensor, "k vocab"]
    r: Float[Tensor, "k d"] | None


def lines_of_groups(last: LastLayer, groups: Sequence[VariantGroup], seed: int) -> list[GroupLines]:
    """Directions' logits of some groups; a neuron that is in several is computed once.

    Raises:
        SyntheticSetError: for a synthetic group where a norm follows the MLP.
    """
    neurons = sorted({n for group in groups if group.draw is None for n in group.neurons})
    place = {n: i for i, n in enumerate(neurons)}
    U = directions(last.readout, last.w[neurons], dtype=last.dtype).U if neurons else None
    found = []
    for group in groups:
        if group.draw is not None:
            r = synthetic_directions(last.readout, last.w[list(group.neurons)], group.draw, seed)
            found.append(GroupLines(group, directions(last.readout, r, dtype=last.dtype).U, r))
        elif U is not None:
            found.append(GroupLines(group, U[[place[n] for n in group.neurons]], None))
    return found


def blocks_of_groups(last: LastLayer, groups: Sequence[VariantGroup], budget: int) -> Iterator[list[VariantGroup]]:
    """Runs of groups whose directions' logits stay within `budget` bytes; one group at least."""
    size = last.readout.vocab * torch.finfo(last.dtype).bits // 8
    block: list[VariantGroup] = []
    seen: set[int] = set()
    rows = 0
    for group in groups:
        new = len(group.neurons) if group.draw is not None else len(set(group.neurons) - seen)
        if block and (rows + new) * size > budget:
            yield block
            block, seen, rows, new = [], set(), 0, len(group.neurons)
        block.append(group)
        rows += new
        if group.draw is None:
            seen |= set(group.neurons)
    if block:
        yield block


def group_effects(
    last: LastLayer,
    tokens: Tokens,
    clean: Clean,
    lines: GroupLines,
    *,
    routes: Sequence[str] = ("total",),
    ranked: tuple[int, ...] = (),
) -> Effects:
    """Changes [routes, tokens, variants of the group], float64, nats; rank and prediction for the routes in `ranked`.

    Args:
        clean: from `ablation.clean_of`, for the same tokens, whose targets losses are of.
        routes: names of `schemas.VARIANTS` but for `unigram`.
    """
    delta = deltas(last, tokens, lines.group)
    if last.kernel == "brute_force":
        return _by_brute_force(last, tokens, lines, delta, routes, ranked)
    factors = group_coefficients(last, tokens, lines, delta, routes)
    variants, vocab = delta.shape[1], last.readout.vocab
    budget = BUDGET.get(last.device.type, BUDGET["cpu"])
    size = max(1, budget // (variants * vocab * lines.U.element_size()))
    zeros = torch.zeros(min(size, len(tokens)), variants, dtype=torch.float64, device=last.device)
    parts = []
    for start in range(0, len(tokens), size):
        part = slice(start, min(start + size, len(tokens)))
        own = (delta[part].flatten(0, 1).to(last.dtype) @ lines.U).view(-1, variants, vocab)
        nothing = zeros[: len(own)]
        C = None if factors.C is None else factors.C[:, part]
        here = Coefficients(factors.A[:, part], factors.B[:, part], factors.frozen, C)
        parts.append(run_kernel(last, clean_part(clean, part), Directions(own, nothing, nothing), here, ranked=ranked))
    return brute_force.joined(parts)


def group_entropies(
    last: LastLayer, tokens: Tokens, clean: Clean, lines: GroupLines
) -> Float64[Array, "tokens variants"]:
    """Entropies (nats) under the group's variants, by the cheapest kernel that there is; arguments as before."""
    plain = last.readout.softcap is None and last.readout.post_gain is None
    if last.kernel != "torch" or not plain:
        return clean.entropy.cpu().numpy()[:, None] + group_effects(last, tokens, clean, lines).entropy[0]
    delta = deltas(last, tokens, lines.group)
    factors = group_coefficients(last, tokens, lines, delta, ("total",))
    return entropy_kernel.entropies(clean, delta, lines.U, factors).cpu().numpy()


def deltas(last: LastLayer, tokens: Tokens, group: VariantGroup) -> Float64[Tensor, "tokens variants k"]:
    """Replacement minus activation."""
    values = torch.from_numpy(np.ascontiguousarray(group.values)).to(last.device)
    return values - tokens.activations[:, list(group.neurons)].double()[:, None]


def group_coefficients(
    last: LastLayer,
    tokens: Tokens,
    lines: GroupLines,
    delta: Float64[Tensor, "tokens variants k"],
    routes: Sequence[str],
) -> Coefficients:
    """The numbers A, B (and C) of every (route, token, variant), float64."""
    chosen, readout = list(lines.group.neurons), last.readout
    w, raw = readout.centre(last.w[chosen].double()), last.raw[chosen].double()
    single = products_of(readout, tokens.residual, w, raw=raw, mlp=tokens.mlp)

    def summed(values: Float[Tensor, "tokens k"]) -> Float[Tensor, "tokens variants"]:
        return (delta @ values[..., None])[..., 0]

    def squared(rows: Float[Tensor, "k d"]) -> Float[Tensor, "tokens variants"]:
        return ((delta @ (rows @ rows.T)) * delta).sum(-1).clamp_min(0)  # a square, but for rounding

    products = Products(
        xw=summed(single.xw),
        ww=squared(w),
        mr=None if single.mr is None else summed(single.mr),
        rr=None if single.mr is None else squared(raw),
        Mw=None if single.Mw is None else summed(single.Mw),
    )
    ones = torch.ones_like(products.xw)
    own = coefficients_of(readout, tokens.residual, products, ones, variants=routes, mlp=tokens.mlp)
    if lines.r is None:
        return own
    x = readout.centre(tokens.residual.double())
    products_with_r = summed(x @ lines.r.T), squared(lines.r)
    power = x.square().sum(-1, keepdim=True).expand_as(products.xw)
    flat = (each.flatten() for each in (power, products.xw, products.ww, *products_with_r))
    kappa, s = (each.view_as(power) for each in synthetic_factors(*flat))
    return Coefficients(own.A + own.B * kappa, own.B * s, own.frozen, own.C)


def written(
    last: LastLayer, tokens: Tokens, lines: GroupLines, delta: Float64[Tensor, "tokens variants k"]
) -> Float64[Tensor, "tokens variants d"]:
    """What is added to the MLP's output, as a vector, for brute force."""
    chosen = list(lines.group.neurons)
    if lines.r is None:
        return delta @ last.raw[chosen].double()
    variants = delta.shape[1]
    residual = tokens.residual.repeat_interleave(variants, 0)
    moved = synthetic_move(last.readout, residual, last.w[chosen], lines.r, delta.flatten(0, 1))
    return moved.unflatten(0, (-1, variants))


def _by_brute_force(
    last: LastLayer,
    tokens: Tokens,
    lines: GroupLines,
    delta: Float64[Tensor, "tokens variants k"],
    routes: Sequence[str],
    ranked: tuple[int, ...],
) -> Effects:
    """The same effects by the float64 oracle, token by token."""
    readout, n = last.readout.to(dtype=torch.float64), delta.shape[1]
    step = written(last, tokens, lines, delta)
    rows = [
        brute_force.pair_effects(
            readout,
            tokens.residual[t].expand(n, -1),
            step[t],
            torch.ones(n, dtype=torch.float64, device=last.device),
            tokens.targets[t].expand(n),
            variants=tuple(routes),
            mlp=None if tokens.mlp is None else tokens.mlp[t].expand(n, -1),
        )
        for t in range(len(tokens))
    ]
    return brute_force.stack_tokens(rows, ranked)
