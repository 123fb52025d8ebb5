"""The next token under every variant, from the clean model's state: what a variant makes of the logits, by algebra.

A variant changes the final residual x by D (see `joint`), or by D' = kappa x + s D_r if it is synthetic (see
`synthetic_sets`). With alpha = 1/sigma the norm's inverse scale, alpha' the changed one, l = alpha z + b the clean
logits and u_n those that a direction writes, its logits are

    l'_v = f l_v + (1 - f) b_v + e m_v + sum_n h_n u_nv,     f = alpha' (1 + kappa) / alpha,    h_n = alpha' s delta_n

exactly; kappa = 0 and s = 1 for a set's own directions. alpha' follows from |x + D|^2, by <x, w_n> and the Gram matrix
of the set. Behind a norm after the MLP, h_n gains that norm's inverse scale pi', and the MLP's output times its gain,
whose logits are m, comes with e = alpha' (pi' - pi); without one e = 0. Everything is float64.

The kernels `choice_numba` and `choice_torch` turn these factors into tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuronlab.ablation import LastLayer
from neuronlab.kernels import choice_numba, choice_torch
from neuronlab.kernels.choice_interface import Changes, Decision, Lines, Readings, candidates_for
from neuronlab.kernels.interface import precise_product
from neuronlab.prompt_batches import LastState
from neuronlab.readout import Readout
from neuronlab.synthetic_sets import synthetic_factors
from neuronlab.variant_table import Bucket, VariantTable

BUDGET = {"cpu": 2**20, "cuda": 2**28}  # numbers in the largest temporary
GATHERED = 16  # neurons of a set up to which inner products are gathered pair by pair


@dataclass(frozen=True)
class Nodes:
    """Clean state of some prefixes.

    Attributes:
        activations: those of the variants' neurons.
        xw: <x, w> with each line, x the residual, centred where the norm centres.
        power: |x|^2.
        alpha: inverse scale of the final norm.
        after: the same of a norm after the MLP, if there is one.
    """

    readout: Readout
    activations: Float[Tensor, "nodes columns"]
    xw: Float[Tensor, "nodes lines"]
    power: Float[Tensor, " nodes"]
    alpha: Float[Tensor, " nodes"]
    after: AfterMLP | None


@dataclass(frozen=True)
class AfterMLP:
    """Products with the MLP's output before the norm, m, and with M = gain m.

    Attributes:
        pi, power: the norm's inverse scale, and |m|^2 + d eps.
        mr, Mw: <m, raw> and <M, w> of each line.
        xM, MM: <x, M> and |M|^2.
    """

    pi: Float[Tensor, " nodes"]
    power: Float[Tensor, " nodes"]
    mr: Float[Tensor, "nodes lines"]
    Mw: Float[Tensor, "nodes lines"]
    xM: Float[Tensor, " nodes"]
    MM: Float[Tensor, " nodes"]


def choose(
    last: LastLayer,
    table: VariantTable,
    state: LastState,
    node: Int[Tensor, " pairs"],
    variant: Int[Tensor, " pairs"],
    *,
    tie: float,
) -> Decision:
    """The next token of every (node, variant) pair, and whether its two best logits are nearly tied.

    Args:
        state: of the nodes, on the device of `last`.
        node: rows of `state`.
        variant: numbers of variants.
        tie: two best logits closer than this are a near tie.
    """
    nodes, readings = read_nodes(last, table, state)
    token, near = torch.empty_like(node), torch.empty_like(node, dtype=torch.bool)
    bucket, place = table.bucket[variant], table.place[variant]
    budget = BUDGET.get(last.device.type, BUDGET["cpu"])
    for number, members in enumerate(table.buckets):
        here = (bucket == number).nonzero()[:, 0]
        for part in here.split(max(1, budget // max(1, members.size * min(members.size, GATHERED)))):
            changes = changes_of(members, nodes, node[part], place[part])
            token[part], near[part] = _decide(last, table.lines, readings, changes, tie, budget)
    return token, near


def _decide(
    last: LastLayer, lines: Lines, readings: Readings, changes: Changes, tie: float, budget: int
) -> tuple[Int[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """By the kernel in use."""
    if last.kernel == "numba":
        return choice_numba.decide(lines, readings, changes, tie=tie)
    if last.kernel == "brute_force":
        return choice_torch.decide_over_all(lines, readings, changes, tie=tie, budget=budget)
    return choice_torch.decide(lines, readings, changes, tie=tie, budget=budget)


def read_nodes(last: LastLayer, table: VariantTable, state: LastState) -> tuple[Nodes, Readings]:
    """Clean logits and inner products of some prefixes, shared by all variants."""
    readout, w = last.readout, table.w
    residual = state.residual.double()
    x = readout.centre(residual)
    alpha = 1 / readout.scale(residual)
    b = readout.b.double()
    after, written = None, None
    if readout.post_gain is not None and state.mlp_out is not None and table.raw is not None:
        m = state.mlp_out.double()
        M = readout.centre(m * readout.post_gain.double())
        scale = readout.post_scale(m)
        after = AfterMLP(
            pi=1 / scale[:, 0],
            power=scale[:, 0].square() * readout.d,
            mr=m @ table.raw.T,
            Mw=M @ w.T,
            xM=(x * M).sum(-1),
            MM=M.square().sum(-1),
        )
        written = precise_product(M, readout.W)
    nodes = Nodes(
        readout=readout,
        activations=state.activations.index_select(1, table.neurons).double(),
        xw=x @ w.T,
        power=x.square().sum(-1),
        alpha=alpha[:, 0],
        after=after,
    )
    readings = Readings.of_logits(
        precise_product(x, readout.W) * alpha + b,
        b,
        candidates_for(readout.vocab),
        m=written,
        softcap=readout.softcap,
    )
    return nodes, readings


def changes_of(bucket: Bucket, nodes: Nodes, node: Int[Tensor, " pairs"], place: Int[Tensor, " pairs"]) -> Changes:
    """Factors of the changed logits.

    Args:
        place: places in the bucket.
    """
    own, written, group = bucket.own[place], bucket.written[place], bucket.group[place]

    def at(values: Float[Tensor, "nodes lines"], lines: Int[Tensor, "pairs k"]) -> Float[Tensor, "pairs k"]:
        return values.flatten()[node[:, None] * values.shape[1] + lines]

    delta = bucket.values[place] - at(nodes.activations, own)
    xD, DD = (delta * at(nodes.xw, own)).sum(-1), _quadratic(delta, bucket.own_gram, group)
    alpha, power = nodes.alpha[node], nodes.power[node]
    whole = power + nodes.readout.d * nodes.readout.eps
    if nodes.after is not None and bucket.raw_gram is not None:
        after = nodes.after
        mD, RR = (delta * at(after.mr, own)).sum(-1), _quadratic(delta, bucket.raw_gram, group)
        MD = (delta * at(after.Mw, own)).sum(-1)
        pi = after.pi[node]
        pi_new = pi / (1 + (2 * mD + RR) / after.power[node]).sqrt()
        a = pi_new - pi
        grown = (
            2 * (a * after.xM[node] + pi_new * xD)
            + a.square() * after.MM[node]
            + pi_new.square() * DD
            + 2 * a * pi_new * MD
        )
        f = 1 / (1 + grown / whole).sqrt()
        return Changes(node, written, f, alpha * f * a, (alpha * f * pi_new)[:, None] * delta)
    f = 1 / (1 + (2 * xD + DD) / whole).sqrt()
    h = (alpha * f)[:, None] * delta
    if bucket.synthetic and bucket.written_gram is not None:
        xR, RR = (delta * at(nodes.xw, written)).sum(-1), _quadratic(delta, bucket.written_gram, group)
        kappa, s = synthetic_factors(power, xD, DD, xR, RR)
        f, h = f * (1 + kappa), h * s[:, None]
    return Changes(node, written, f, None, h)


def _quadratic(
    delta: Float[Tensor, "pairs k"], gram: Float[Tensor, "groups k k"], group: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """delta G delta with each pair's own G; a square, but for rounding."""
    if delta.shape[1] <= GATHERED:
        product = torch.bmm(delta[:, None], gram[group])[:, 0]
    else:
        product = torch.empty_like(delta)
        order = group.argsort(stable=True)
        found, counts = group[order].unique_consecutive(return_counts=True)
        for one, rows in zip(found.tolist(), order.split(counts.tolist()), strict=True):
            product[rows] = delta[rows] @ gram[one]
    return (product * delta).sum(-1).clamp_min(0)
