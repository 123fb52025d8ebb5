"""The next token under every variant, from the clean model's state: greedy choices by algebra and bounds.

A variant changes the final residual x by D (see `joint`), or by D' = kappa x + s D_r if it is synthetic (see
`synthetic_sets`). With alpha = 1/sigma the norm's inverse scale, l = alpha z + b the clean logits and u_n those that a
direction writes, its logits are

    l'_v = f l_v + (1 - f) b_v + e m_v + sum_n h_n u_nv,     f = alpha' (1 + kappa) / alpha,    h_n = alpha' s delta_n

exactly (kappa = 0, s = 1 for a set's own directions). Behind a norm after the MLP h_n gains a factor pi', and the MLP's
normed output, whose logits are m, comes with e = alpha' (pi' - pi); without one e = 0. A softcap is monotone: tokens
are chosen before it, near ties are told after it.

Most variants keep the clean token t, and a bound proves it. With f > 0 every other token v has

    l'_t - l'_v >= f (l_t - l_2) - R(1 - f, b) - R(e, m) - sum_n R(h_n, u_n)
    R(c, y) = max_v c (y_v - y_t) = max(c (max y - y_t), c (min y - y_t))

where l_2 is the second best logit. Variants that it leaves open are computed for the clean model's `FEW` best tokens,
then `MORE`; all others have at most f l_next plus the largest values of (1 - f) b, e m and h_n u_n, l_next the best of
their clean logits. What still is open is computed over the whole vocabulary. Among logits equal but for rounding the
lowest id wins, as with `torch.argmax`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuronlab.ablation import LastLayer
from neuronlab.kernels.interface import precise_product
from neuronlab.prompt_batches import LastState
from neuronlab.readout import Readout
from neuronlab.synthetic_sets import synthetic_factors
from neuronlab.variant_table import Bucket, VariantTable

FEW, MORE = 8, 256  # candidate tokens
BUDGET = {"cpu": 2**20, "cuda": 2**28}  # numbers in the largest temporary
GATHERED = 16  # neurons of a set up to which inner products are gathered pair by pair
ROUNDING = 1e-12  # of float64 logits, in units of 1 + the largest term


@dataclass(frozen=True)
class Choice:
    """Next tokens of (node, variant) pairs.

    Attributes:
        token: the token with the largest logit.
        near: the two largest logits differ by less than the tolerance.
    """

    token: Int[Tensor, " pairs"]
    near: Bool[Tensor, " pairs"]


@dataclass(frozen=True)
class Nodes:
    """Clean state of some prefixes.

    Attributes:
        activations: those of the variants' neurons.
        x: residual, centred where the norm centres.
        xw: <x, w> with each line.
        power: |x|^2.
        alpha: inverse scale of the final norm.
        logits: before a softcap; `largest` is the largest of their absolute values.
        best, top: the largest logits and their tokens, from the largest; one more logit than tokens.
        at_top: logits that each line writes at the first `FEW` of them.
        b: the read-out's bias, float64.
    """

    readout: Readout
    activations: Float[Tensor, "nodes columns"]
    x: Float[Tensor, "nodes d"]
    xw: Float[Tensor, "nodes lines"]
    power: Float[Tensor, " nodes"]
    alpha: Float[Tensor, " nodes"]
    logits: Float[Tensor, "nodes vocab"]
    largest: Float[Tensor, " nodes"]
    best: Float[Tensor, "nodes candidates+1"]
    top: Int[Tensor, "nodes candidates"]
    at_top: Float[Tensor, "nodes lines few"]
    b: Float[Tensor, " vocab"]
    after: AfterMLP | None


@dataclass(frozen=True)
class AfterMLP:
    """The same of the norm after the MLP: with M = gamma m and pi = 1/sigma_p.

    Attributes:
        logits: M W, `low` and `high` the smallest and largest of a node.
        pi, power: inverse scale, and |m|^2 + d eps_p.
        mr, Mw: <m, raw> and <M, w> of each line.
        xM, MM: <x, M> and |M|^2.
    """

    logits: Float[Tensor, "nodes vocab"]
    low: Float[Tensor, " nodes"]
    high: Float[Tensor, " nodes"]
    pi: Float[Tensor, " nodes"]
    power: Float[Tensor, " nodes"]
    mr: Float[Tensor, "nodes lines"]
    Mw: Float[Tensor, "nodes lines"]
    xM: Float[Tensor, " nodes"]
    MM: Float[Tensor, " nodes"]


@dataclass(frozen=True)
class Pairs:
    """What (node, variant) pairs of one bucket make of the clean logits; see the module's head."""

    node: Int[Tensor, " pairs"]
    written: Int[Tensor, "pairs k"]
    f: Float[Tensor, " pairs"]
    e: Float[Tensor, " pairs"] | None
    h: Float[Tensor, "pairs k"]

    def __getitem__(self, chosen: Tensor) -> Pairs:
        e = None if self.e is None else self.e[chosen]
        return Pairs(self.node[chosen], self.written[chosen], self.f[chosen], e, self.h[chosen])

    def __len__(self) -> int:
        return len(self.node)


def choose(
    last: LastLayer,
    table: VariantTable,
    state: LastState,
    node: Int[Tensor, " pairs"],
    variant: Int[Tensor, " pairs"],
    *,
    tie: float,
) -> Choice:
    """The next token of every (node, variant) pair.

    Args:
        state: of the nodes, on the device of `last`.
        node: rows of `state`.
        variant: numbers of variants.
        tie: two best logits closer than this are a near tie.
    """
    found = Choice(torch.empty_like(node), torch.empty_like(node, dtype=torch.bool))
    if not len(node):
        return found
    nodes = read_nodes(last, table, state)
    bucket = torch.from_numpy(table.bucket).to(node.device)[variant]
    place = torch.from_numpy(table.place).to(node.device)[variant]
    for number, members in enumerate(table.buckets):
        here = (bucket == number).nonzero()[:, 0]
        for part in here.split(_share(last, max(members.size, 1) * max(FEW, min(members.size, GATHERED)))):
            pairs = pairs_of(table, members, nodes, node[part], place[part])
            found.token[part], found.near[part] = _decide(last, table, nodes, pairs, tie)
    return found


def _share(last: LastLayer, numbers: int) -> int:
    """Pairs at a time, of so many numbers each."""
    return max(1, BUDGET.get(last.device.type, BUDGET["cpu"]) // numbers)


def read_nodes(last: LastLayer, table: VariantTable, state: LastState) -> Nodes:
    """Clean logits and inner products of some prefixes, shared by all variants."""
    readout, lines = last.readout, table.lines
    residual = state.residual.double()
    x = readout.centre(residual)
    alpha = 1 / readout.scale(residual)
    b = readout.b.double()
    logits = precise_product(x, readout.W) * alpha + b
    candidates = min(MORE, readout.vocab - 1)
    best, top = logits.topk(candidates + 1, dim=1)
    few = top[:, :FEW]
    at_top = lines.U.index_select(1, few.flatten()).double()
    after = None
    if readout.post_gain is not None and state.mlp_out is not None and lines.raw is not None:
        m = state.mlp_out.double()
        M = readout.centre(m * readout.post_gain.double())
        scale = readout.post_scale(m)
        written = precise_product(M, readout.W)
        after = AfterMLP(
            logits=written,
            low=written.amin(1),
            high=written.amax(1),
            pi=1 / scale[:, 0],
            power=scale[:, 0].square() * readout.d,
            mr=m @ lines.raw.T,
            Mw=M @ lines.w.T,
            xM=(x * M).sum(-1),
            MM=M.square().sum(-1),
        )
    return Nodes(
        readout=readout,
        activations=state.activations.index_select(1, table.neurons).double(),
        x=x,
        xw=x @ lines.w.T,
        power=x.square().sum(-1),
        alpha=alpha[:, 0],
        logits=logits,
        largest=logits.abs().amax(1),
        best=best,
        top=top[:, :candidates],
        at_top=at_top.unflatten(1, few.shape).transpose(0, 1).contiguous(),
        b=b,
        after=after,
    )


def pairs_of(
    table: VariantTable, bucket: Bucket, nodes: Nodes, node: Int[Tensor, " pairs"], place: Int[Tensor, " pairs"]
) -> Pairs:
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
        return Pairs(node, written, f, alpha * f * a, (alpha * f * pi_new)[:, None] * delta)
    f = 1 / (1 + (2 * xD + DD) / whole).sqrt()
    h = (alpha * f)[:, None] * delta
    if bucket.synthetic and bucket.written_gram is not None:
        xR, RR = (delta * at(nodes.xw, written)).sum(-1), _quadratic(delta, bucket.written_gram, group)
        kappa, s = synthetic_factors(power, xD, DD, xR, RR)
        f, h = f * (1 + kappa), h * s[:, None]
    return Pairs(node, written, f, None, h)


def _quadratic(
    delta: Float[Tensor, "pairs k"], gram: Float[Tensor, "groups k k"], group: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """delta G delta with each pair's own G; a square, but for rounding."""
    if delta.shape[1] <= GATHERED:
        product = torch.bmm(delta[:, None], gram[group])[:, 0]
    else:
        product = torch.empty_like(delta)
        for one, rows in _by_value(group):
            product[rows] = delta[rows] @ gram[one]
    return (product * delta).sum(-1).clamp_min(0)


def _by_value(values: Int[Tensor, " pairs"]) -> Iterator[tuple[int, Int[Tensor, " some"]]]:
    """Each value with the places where it stands."""
    order = values.argsort(stable=True)
    found, counts = values[order].unique_consecutive(return_counts=True)
    yield from zip(found.tolist(), order.split(counts.tolist()), strict=True)


def _decide(
    last: LastLayer, table: VariantTable, nodes: Nodes, pairs: Pairs, tie: float
) -> tuple[Int[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """The choice of every pair: by the shared bound, by few candidates, by more, by the whole vocabulary."""
    token = nodes.top[pairs.node, 0]
    near = torch.zeros_like(token, dtype=torch.bool)
    left = (~_kept(table, nodes, pairs, tie)).nonzero()[:, 0]
    vocab = nodes.readout.vocab
    for candidates in (FEW, MORE):
        if candidates > nodes.top.shape[1] or 4 * candidates > vocab:
            break
        size = _share(last, max(pairs.h.shape[1], 1) * candidates)
        still = []
        for part in left.split(size):
            done, here, close = _among(table, nodes, pairs[part], candidates, tie)
            token[part], near[part] = here, close
            still.append(part[~done])
        left = torch.cat(still) if still else left
    for _, rows in _by_value(_set_key(pairs[left])):
        for part in left[rows].split(_share(last, 4 * vocab)):
            token[part], near[part] = _over_all(table, nodes, pairs[part], tie)
    return token, near


def _set_key(pairs: Pairs) -> Int[Tensor, " pairs"]:
    """A number that pairs share only if they write along the same lines."""
    if not len(pairs) or not pairs.written.shape[1]:
        return pairs.node.new_zeros(len(pairs))
    return pairs.written.unique(dim=0, return_inverse=True)[1]


def _kept(table: VariantTable, nodes: Nodes, pairs: Pairs, tie: float) -> Bool[Tensor, " pairs"]:
    """Pairs that keep the clean token by the shared bound, with no near tie."""
    if nodes.readout.softcap is not None:  # differences after the cap are not those before it
        return torch.zeros_like(pairs.node, dtype=torch.bool)
    lines, node = table.lines, pairs.node
    at_best = nodes.at_top[:, :, 0].flatten()[node[:, None] * nodes.at_top.shape[1] + pairs.written]
    rise = _most(pairs.h, lines.low[pairs.written] - at_best, lines.high[pairs.written] - at_best).sum(-1)
    b, best = nodes.b, nodes.top[:, 0]
    rise = rise + _most(1 - pairs.f, (b.min() - b[best])[node], (b.max() - b[best])[node])
    if pairs.e is not None and nodes.after is not None:
        m_best = nodes.after.logits.gather(1, best[:, None])[:, 0]
        rise = rise + _most(pairs.e, (nodes.after.low - m_best)[node], (nodes.after.high - m_best)[node])
    gap = (nodes.best[:, 0] - nodes.best[:, 1])[node]
    margin = _margin(pairs, nodes, rise, tie)
    return (pairs.f > 0) & (pairs.f * gap - rise >= margin)


def _most(factor: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The largest of factor * value over low <= value <= high."""
    return torch.maximum(factor * low, factor * high)


def _margin(pairs: Pairs, nodes: Nodes, rise: Tensor, tie: float) -> Tensor:
    """By how much a token must lead: no near tie, and more than rounding."""
    largest = nodes.largest[pairs.node] * pairs.f.abs() + rise.abs()
    return (ROUNDING * (1 + largest)).clamp_min(tie)


def _among(
    table: VariantTable, nodes: Nodes, pairs: Pairs, candidates: int, tie: float
) -> tuple[Bool[Tensor, " pairs"], Int[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """Choices among the clean model's best tokens: whether no other token can come near, the token, near tie."""
    lines, node, readout = table.lines, pairs.node, nodes.readout
    tokens = nodes.top[node, :candidates]
    if candidates <= FEW:
        at = nodes.at_top.flatten(0, 1)[node[:, None] * nodes.at_top.shape[1] + pairs.written]
    else:
        flat = pairs.written[:, :, None] * readout.vocab + tokens[:, None]
        at = lines.U.flatten()[flat].double()
    b, f = nodes.b, pairs.f[:, None]
    changed = f * nodes.best[node, :candidates] + (1 - f) * b[tokens] + torch.bmm(pairs.h[:, None], at)[:, 0]
    others = pairs.f * nodes.best[node, candidates]
    rise = _most(pairs.h, lines.low[pairs.written], lines.high[pairs.written]).sum(-1)
    rise = rise + _most(1 - pairs.f, b.min(), b.max())
    if pairs.e is not None and nodes.after is not None:
        after = nodes.after
        changed = changed + pairs.e[:, None] * after.logits[node[:, None], tokens]
        rise = rise + _most(pairs.e, after.low[node], after.high[node])
    margin = _margin(pairs, nodes, rise, tie)
    token, first, second = _best(changed, tokens)
    cap = readout.cap
    done = (pairs.f > 0) & (first - (others + rise) >= margin) & (cap(first) - cap(others + rise) >= tie)
    return done, token, cap(first) - cap(second) < tie


def _over_all(
    table: VariantTable, nodes: Nodes, pairs: Pairs, tie: float
) -> tuple[Int[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """Choices of pairs that write along the same lines, over the whole vocabulary."""
    f, readout = pairs.f[:, None], nodes.readout
    changed = nodes.logits[pairs.node] * f
    if pairs.h.shape[1]:
        changed += pairs.h @ table.lines.U[pairs.written[0]].double()
    changed += (1 - f) * nodes.b
    if pairs.e is not None and nodes.after is not None:
        changed += pairs.e[:, None] * nodes.after.logits[pairs.node]
    token, first, second = _best(changed, torch.arange(readout.vocab, device=changed.device).expand_as(changed))
    return token, readout.cap(first) - readout.cap(second) < tie


def _best(
    logits: Float[Tensor, "pairs tokens"], tokens: Int[Tensor, "pairs tokens"]
) -> tuple[Int[Tensor, " pairs"], Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """The token with the largest logit, the lowest id among equals; the two largest logits."""
    first, place = logits.max(1)
    token = tokens.gather(1, place[:, None])[:, 0]
    second = logits.scatter(1, place[:, None], -torch.inf).amax(1)
    equal = (second >= first - ROUNDING * (1 + first.abs())).nonzero()[:, 0]
    if len(equal):
        tied = logits[equal] >= (first - ROUNDING * (1 + first.abs()))[equal, None]
        token[equal] = torch.where(tied, tokens[equal], torch.iinfo(tokens.dtype).max).amin(1)
    return token, first, second
