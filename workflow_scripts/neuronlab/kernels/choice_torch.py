"""Next tokens of many variants by torch, on any device: stage by stage, ever fewer pairs against ever more tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuronlab.kernels.choice_interface import CANDIDATES, ROUNDING, Changes, Decision, Lines, Readings

STAGES = (1, 8, CANDIDATES)  # candidate tokens of each stage, as far as a node has so many


def decide(lines: Lines, nodes: Readings, changes: Changes, *, tie: float, budget: int) -> Decision:
    """The token of every pair.

    Args:
        tie: two best logits closer than this are a near tie.
        budget: numbers in the largest temporary.
    """
    token = nodes.top[changes.node, 0]
    near = torch.zeros_like(token, dtype=torch.bool)
    left = torch.arange(len(token), device=token.device)
    size = max(changes.h.shape[1], 1)
    available = nodes.top.shape[1]
    for candidates in sorted({min(stage, available) for stage in STAGES}):
        still = [left[:0]]
        for part in left.split(max(1, budget // (size * candidates))):
            done, token[part], near[part] = _among(lines, nodes, changes[part], candidates, tie)
            still.append(part[~done])
        left = torch.cat(still)
    token[left], near[left] = decide_over_all(lines, nodes, changes[left], tie=tie, budget=budget)
    return token, near


def decide_over_all(lines: Lines, nodes: Readings, changes: Changes, *, tie: float, budget: int) -> Decision:
    """The same with no bound: every logit of every pair is computed."""
    token = torch.zeros_like(changes.node)
    near = torch.zeros_like(token, dtype=torch.bool)
    ids = torch.arange(nodes.vocab, device=token.device)
    for rows in _by_lines(changes.written):
        for part in rows.split(max(1, budget // nodes.vocab)):
            some = changes[part]
            f = some.f[:, None]
            logits = nodes.logits[some.node] * f + (1 - f) * nodes.b
            if some.h.shape[1]:
                logits += some.h @ lines.U[some.written[0]].double()
            if some.e is not None and nodes.m is not None:
                logits += some.e[:, None] * nodes.m[some.node]
            token[part], first, second = _best(logits, ids.expand_as(logits))
            near[part] = nodes.cap(first) - nodes.cap(second) < tie
    return token, near


def _among(
    lines: Lines, nodes: Readings, changes: Changes, candidates: int, tie: float
) -> tuple[Bool[Tensor, " pairs"], Int[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """Choices among the clean model's best tokens: whether no other can come near, the token, near tie."""
    node, written, f, h = changes.node, changes.written, changes.f, changes.h
    tokens = nodes.top[node, :candidates]
    at = lines.U.flatten()[written[:, :, None] * nodes.vocab + tokens[:, None]].double()
    logits = f[:, None] * nodes.best[node, :candidates] + (1 - f)[:, None] * nodes.b[tokens]
    logits = logits + (h[:, :, None] * at).sum(1)
    rise = _most(1 - f, nodes.b_low, nodes.b_high) + _most(h, lines.low[written], lines.high[written]).sum(-1)
    if changes.e is not None and nodes.m is not None and nodes.m_low is not None and nodes.m_high is not None:
        logits = logits + changes.e[:, None] * nodes.m[node[:, None], tokens]
        rise = rise + _most(changes.e, nodes.m_low[node], nodes.m_high[node])
    others = f * nodes.best[node, candidates] + rise
    token, first, second = _best(logits, tokens)
    rounding = ROUNDING * (1 + f.abs() * nodes.largest[node] + rise.abs())
    done = (f > 0) & (first - others >= rounding.clamp_min(tie)) & (nodes.cap(first) - nodes.cap(others) >= tie)
    return done, token, nodes.cap(first) - nodes.cap(second) < tie


def _most(factor: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """The largest of factor * value over low <= value <= high."""
    return torch.maximum(factor * low, factor * high)


def _best(
    logits: Float[Tensor, "pairs tokens"], tokens: Int[Tensor, "pairs tokens"]
) -> tuple[Int[Tensor, " pairs"], Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """The token with the largest logit, the lowest id among equals; the two largest logits (-inf for want of two)."""
    first, place = logits.max(1)
    token = tokens.gather(1, place[:, None])[:, 0]
    second = logits.scatter(1, place[:, None], -torch.inf).amax(1)
    equal = first - ROUNDING * (1 + first.abs())
    several = (second >= equal).nonzero()[:, 0]
    if len(several):
        tied = logits[several] >= equal[several, None]
        token[several] = torch.where(tied, tokens[several], torch.iinfo(tokens.dtype).max).amin(1)
    return token, first, second


def _by_lines(written: Int[Tensor, "pairs k"]) -> Iterator[Int[Tensor, " some"]]:
    """Places of the pairs that write along the same lines."""
    if not len(written):
        return
    if not written.shape[1]:
        yield torch.arange(len(written), device=written.device)
        return
    key = written.unique(dim=0, return_inverse=True)[1]
    order = key.argsort(stable=True)
    yield from order.split(key[order].unique_consecutive(return_counts=True)[1].tolist())
