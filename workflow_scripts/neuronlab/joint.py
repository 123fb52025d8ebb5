"""Effects of replacing several last-layer activations at once: the algebra of one neuron with a direction per token.

A set s of neurons changes the final residual of a token by D = sum_n delta_n w_n, one vector. So everything in the head
of `ablation` holds with w replaced by D and delta by 1:

    q      = (2 <x, D> + |D|^2) / (|x|^2 + d eps)
    dalpha = alpha expm1(-log1p(q) / 2)
    logits change by dalpha z + (alpha + dalpha) (delta U),     U = w W of the set's neurons, computed once

(exact, METHODS A2). The products are delta's too: <x, D> = sum delta_n <x, w_n>, |D|^2 = delta G delta with the Gram
matrix G of the set's directions; the same goes for the raw weights under a norm after the MLP. Effects are not sums of
the neurons' own: D is, what norm and softmax make of it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuronlab.ablation import (
    AblationError,
    LastLayer,
    Products,
    Tokens,
    coefficients_of,
    products_of,
    readout_dtype,
    run_kernel,
)
from neuronlab.kernels import brute_force, torch_kernel
from neuronlab.kernels.interface import BLOCK, Clean, Coefficients, Directions, Effects, directions
from neuronlab.schemas import RANK_VARIANTS, VARIANTS

JointEffects = Effects  # arrays [variants, tokens, sets]
BUDGET = {"cpu": 4 * 2**20, "cuda": 4 * 2**30}  # bytes of logits that tokens x sets write, alive at once


@dataclass(frozen=True)
class SetLines:
    """What the neurons of some sets write, shared by all chunks of tokens.

    Attributes:
        sets: neurons of each set.
        neurons: all neurons of all sets, each once, in order.
        places: for each set, where its neurons stand in `neurons`.
        lines: their logits U (float64 unless that would be too large) and products.
        grams: for each set, <w_n, w_m> of its directions.
        raw_grams: the same of its raw weights, where a norm follows the MLP.
    """

    sets: tuple[tuple[int, ...], ...]
    neurons: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]
    lines: Directions
    grams: tuple[Float[Tensor, "k k"], ...]
    raw_grams: tuple[Float[Tensor, "k k"], ...] | None


def lines_of_sets(last: LastLayer, sets: Sequence[Sequence[int]]) -> SetLines:
    """Compute what `joint_effects` needs of sets, whatever the tokens.

    Raises:
        AblationError: for an empty set, a neuron twice in one, or one that the layer does not have.
    """
    for chosen in sets:
        if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= n < last.neurons for n in chosen):
            raise AblationError(
                f"set {list(chosen)[:10]}: needs different neurons of layer {last.layer}, from 0 to {last.neurons - 1}"
            )
    neurons = sorted({n for chosen in sets for n in chosen})
    place = {n: i for i, n in enumerate(neurons)}
    places = tuple(tuple(place[n] for n in chosen) for chosen in sets)
    readout = last.readout
    lines = directions(
        readout, last.w[neurons], reference=last.reference, dtype=readout_dtype(len(neurons), readout.vocab)
    )
    w, raw = readout.centre(last.w[neurons].double()), last.raw[neurons].double()
    post = readout.post_gain is not None
    return SetLines(
        sets=tuple(tuple(chosen) for chosen in sets),
        neurons=tuple(neurons),
        places=places,
        lines=lines,
        grams=tuple(w[list(p)] @ w[list(p)].T for p in places),
        raw_grams=tuple(raw[list(p)] @ raw[list(p)].T for p in places) if post else None,
    )


def joint_effects(
    last: LastLayer,
    tokens: Tokens,
    clean: Clean,
    sets: Sequence[Sequence[int]],
    deltas: Sequence[Float[Tensor, "tokens k"]],
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    lines: SetLines | None = None,
) -> JointEffects:
    """Effects of replacing all activations of a set at once, for every (token, set) of a chunk.

    Args:
        clean: from `ablation.clean_of`, for the same tokens.
        deltas: for each set, replacement minus activation of its neurons, in its order.
        variants: names of `schemas.VARIANTS`.
        lines: `lines_of_sets` of the same sets; computed here without it.

    Returns:
        Changes [variants, tokens, sets]; rank and prediction for those variants that are in `RANK_VARIANTS`.

    Raises:
        AblationError: for sets as `lines_of_sets` has it, or deltas of another shape.
    """
    lines = _checked(last, tokens, sets, deltas, lines)
    ranked = tuple(i for i, name in enumerate(variants) if name in RANK_VARIANTS)
    if last.kernel == "brute_force":
        return _by_brute_force(last, tokens, sets, deltas, variants, ranked)
    factors = joint_coefficients(last, tokens, lines, deltas, variants=variants)
    parts = []
    for part in _parts(last, len(tokens), len(sets)):
        own = _own_lines(last, lines, [delta[part] for delta in deltas], torch.float64)
        parts.append(run_kernel(last, clean_part(clean, part), own, _factors_part(factors, part), ranked=ranked))
    return brute_force.joined(parts)


def joint_coefficients(
    last: LastLayer,
    tokens: Tokens,
    lines: SetLines,
    deltas: Sequence[Float[Tensor, "tokens k"]],
    *,
    variants: Sequence[str] = tuple(VARIANTS),
) -> Coefficients:
    """The numbers A, B (and C) of every (token, set), float64."""
    chosen = list(lines.neurons)
    single = products_of(last.readout, tokens.residual, last.w[chosen], raw=last.raw[chosen], mlp=tokens.mlp)

    def summed(values: Float[Tensor, "tokens neurons"]) -> Float[Tensor, "tokens sets"]:
        parts = [(d.double() * values[:, list(p)]).sum(-1) for d, p in zip(deltas, lines.places, strict=True)]
        return torch.stack(parts, -1)

    def squared(grams: Sequence[Float[Tensor, "k k"]]) -> Float[Tensor, "tokens sets"]:
        parts = [((d.double() @ gram) * d.double()).sum(-1) for d, gram in zip(deltas, grams, strict=True)]
        return torch.stack(parts, -1).clamp_min(0)  # a square, but for rounding

    products = Products(
        xw=summed(single.xw),
        ww=squared(lines.grams),
        mr=None if single.mr is None else summed(single.mr),
        rr=None if lines.raw_grams is None else squared(lines.raw_grams),
        Mw=None if single.Mw is None else summed(single.Mw),
    )
    ones = torch.ones_like(products.xw)
    return coefficients_of(last.readout, tokens.residual, products, ones, variants=variants, mlp=tokens.mlp)


def logit_changes(
    last: LastLayer,
    tokens: Tokens,
    clean: Clean,
    sets: Sequence[Sequence[int]],
    deltas: Sequence[Float[Tensor, "tokens k"]],
    *,
    variant: str = "total",
    lines: SetLines | None = None,
) -> Iterator[tuple[slice, Float[Tensor, "tokens sets vocab"]]]:
    """How a joint ablation changes the logits, part by part of a chunk: the tokens' slice, and D for all sets.

    D has about mean zero under the clean distribution and the kernel's dtype: `clean.lp + D`, normalised, are the
    ablated log-probabilities. Arguments and errors as for `joint_effects`.
    """
    lines = _checked(last, tokens, sets, deltas, lines)
    factors = joint_coefficients(last, tokens, lines, deltas, variants=[variant])
    for part in _parts(last, len(tokens), len(sets)):
        own = _own_lines(last, lines, [delta[part] for delta in deltas], last.dtype)
        here = _factors_part(factors, part)
        yield part, torch_kernel.logit_change(clean_part(clean, part), own, here, reference=last.reference)


def ablated_log_probs(
    last: LastLayer,
    tokens: Tokens,
    clean: Clean,
    sets: Sequence[Sequence[int]],
    deltas: Sequence[Float[Tensor, "tokens k"]],
    *,
    variant: str = "total",
    lines: SetLines | None = None,
) -> Iterator[tuple[slice, Float[Tensor, "tokens sets vocab"]]]:
    """Log-probabilities after a joint ablation, part by part; see `logit_changes`."""
    for part, change in logit_changes(last, tokens, clean, sets, deltas, variant=variant, lines=lines):
        yield part, change.add_(clean.lp[part, None]).log_softmax(-1)


def clean_part(clean: Clean, part: slice) -> Clean:
    """Clean read-out of some tokens of a chunk."""
    return Clean(
        z=clean.z[part],
        lp=clean.lp[part],
        p=clean.p[part],
        targets=clean.targets[part],
        loss=clean.loss[part],
        entropy=clean.entropy[part],
        kl=clean.kl[part],
        rank=clean.rank[part],
        prediction=clean.prediction[part],
        m=None if clean.m is None else clean.m[part],
        logits=None if clean.logits is None else clean.logits[part],
        softcap=clean.softcap,
    )


def _checked(
    last: LastLayer,
    tokens: Tokens,
    sets: Sequence[Sequence[int]],
    deltas: Sequence[Float[Tensor, "tokens k"]],
    lines: SetLines | None,
) -> SetLines:
    shapes = [(len(tokens), len(chosen)) for chosen in sets]
    if not sets or [tuple(delta.shape) for delta in deltas] != shapes:
        raise AblationError(f"deltas of shapes {[tuple(d.shape) for d in deltas]} for sets that ask for {shapes}")
    if lines is None:
        return lines_of_sets(last, sets)
    if lines.sets != tuple(tuple(chosen) for chosen in sets):
        raise AblationError("lines of other sets")
    return lines


def _parts(last: LastLayer, tokens: int, sets: int) -> Iterator[slice]:
    """Slices of tokens whose logits, written by all sets in float64, stay within the budget."""
    budget = BUDGET.get(last.device.type, BUDGET["cpu"])
    size = max(1, budget // (sets * last.readout.vocab * 8))
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _own_lines(
    last: LastLayer, lines: SetLines, deltas: Sequence[Float[Tensor, "tokens k"]], dtype: torch.dtype
) -> Directions:
    """Logits that the sets write at each token: delta U, summed in `dtype` and rounded once."""
    tokens, sets = len(deltas[0]), len(deltas)
    U = torch.empty(tokens, sets, last.readout.vocab, dtype=last.dtype, device=last.device)
    dot_g, dot_q = (torch.empty(tokens, sets, dtype=torch.float64, device=last.device) for _ in range(2))
    for s, (delta, place) in enumerate(zip(deltas, lines.places, strict=True)):
        delta, chosen = delta.double(), list(place)
        U[:, s] = sum(
            delta[:, i : i + BLOCK].to(dtype) @ lines.lines.U[chosen[i : i + BLOCK]].to(dtype)
            for i in range(0, len(chosen), BLOCK)
        )
        dot_g[:, s], dot_q[:, s] = delta @ lines.lines.dot_g[chosen], delta @ lines.lines.dot_q[chosen]
    return Directions(U, dot_g, dot_q)


def _factors_part(factors: Coefficients, part: slice) -> Coefficients:
    C = None if factors.C is None else factors.C[:, part]
    return Coefficients(factors.A[:, part], factors.B[:, part], factors.frozen, C)


def _by_brute_force(
    last: LastLayer,
    tokens: Tokens,
    sets: Sequence[Sequence[int]],
    deltas: Sequence[Float[Tensor, "tokens k"]],
    variants: Sequence[str],
    ranked: tuple[int, ...],
) -> Effects:
    """The same effects by the float64 oracle, token by token."""
    readout, n = last.readout.to(dtype=torch.float64), len(sets)
    step = torch.stack([d.double() @ last.raw[list(c)].double() for d, c in zip(deltas, sets, strict=True)], 1)
    rows = [
        brute_force.pair_effects(
            readout,
            tokens.residual[t].expand(n, -1),
            step[t],
            torch.ones(n, dtype=torch.float64, device=last.device),
            tokens.targets[t].expand(n),
            variants=tuple(variants),
            reference=last.reference,
            mlp=None if tokens.mlp is None else tokens.mlp[t].expand(n, -1),
        )
        for t in range(len(tokens))
    ]
    return brute_force.stack_tokens(rows, ranked)
