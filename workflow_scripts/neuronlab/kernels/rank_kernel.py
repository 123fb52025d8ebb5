"""Rank of the target and top token after a change, without a pass over the vocabulary where a bound allows.

With |D| <= M a token can pass the target only if its clean log-probability lies within M of the target's new one, and
can come on top only if it lies within M of the best that is known. So the ids of a token are put into buckets by clean
log-probability, once for all neurons, and only the buckets in question are looked at. Where they hold too many ids, all
are taken, block by block. Both ways compute the same float32 numbers.

The rank counts the ids with a *larger* logit: the target never counts itself, and exact ties are not above it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int, Num
from numba import njit

from neuronlab.kernels.arithmetic import fma, ordered
from neuronlab.kernels.compiled import inlined, kept

BLOCK = 2048
BUCKETS = 4096
WINDOW = 4  # an id picked out costs as much as a pass over this many neighbours
LOWEST, SMALLEST = np.float32(-3.0e38), np.int32(-(2**31))
ZERO, ONE, ROUNDING = np.int32(0), np.float32(1), np.float32(1e-6)


@njit(inline="always")
def _logit(z, u, g, lp, a, b, c):
    return lp + fma(a, z, fma(c, g, b * u))


@inlined
def _block(z, u, g, lp, a, b, c, threshold):
    """Number of logits above `threshold`, and the largest as an ordered integer."""
    above, best = ZERO, SMALLEST
    for i in range(lp.size):
        value = _logit(z[i], u[i], g[i], lp[i], a, b, c)
        above += np.int32(value > threshold)
        best = max(best, ordered(value))
    return above, best


@inlined
def _all(z, u, g, lp, a, b, c, threshold):
    """Number of logits above `threshold`, and the first largest, over all ids."""
    above, best, where = ZERO, SMALLEST, 0
    for start in range(0, lp.size, BLOCK):
        stop = min(start + BLOCK, lp.size)
        n, top = _block(z[start:stop], u[start:stop], g[start:stop], lp[start:stop], a, b, c, threshold)
        above += n
        if top > best:
            best, where = top, start
    for i in range(where, min(where + BLOCK, lp.size)):
        if ordered(_logit(z[i], u[i], g[i], lp[i], a, b, c)) == best:
            return above, i
    return above, where


@inlined
def _bucket(value, top, per_unit):
    """Bucket of a log-probability: 0 the largest. Monotone, so that order between buckets is order of values."""
    return min(max(int((top - value) * per_unit), 0), BUCKETS - 1)


@inlined
def _sort(lp, order, starts):
    """Counting sort of ids into buckets, in order of id within each; returns the largest value and buckets per unit."""
    top, bottom = LOWEST, -LOWEST
    for i in range(lp.size):
        top, bottom = max(top, lp[i]), min(bottom, lp[i])
    per_unit = np.float32(BUCKETS - 1) / max(top - bottom, ROUNDING)
    starts[:] = 0
    for i in range(lp.size):
        starts[_bucket(lp[i], top, per_unit) + 1] += 1
    for k in range(BUCKETS):
        starts[k + 1] += starts[k]
    place = starts.copy()
    for i in range(lp.size):
        k = _bucket(lp[i], top, per_unit)
        order[place[k]] = i
        place[k] += 1
    return top, per_unit


@inlined
def _count(z, u, g, lp, order, a, b, c, threshold):
    above = ZERO
    for k in range(order.size):
        above += np.int32(_logit(z[k], u[order[k]], g[k], lp[k], a, b, c) > threshold)
    return above


@kept
def _tile(z, U, g, lp, A, B, C, targets, bound, first, last, rank, prediction):
    variants, tokens, _ = A.shape
    vocab = lp.shape[1]
    order, starts = np.empty(vocab, dtype=np.int32), np.empty(BUCKETS + 1, dtype=np.int32)
    zs, gs, ls = np.empty_like(g), np.empty_like(g), np.empty_like(g)
    for t in range(tokens):
        top, per_unit = _sort(lp[t], order, starts)
        for k in range(vocab):
            zs[k], gs[k], ls[k] = z[t, order[k]], g[order[k]], lp[t, order[k]]
        i0, target = order[0], targets[t]
        for j in range(first, last):
            u = U[j]
            for v in range(variants):
                a, b, c = A[v, t, j], B[v, t, j], C[v, t, j]
                threshold = _logit(z[t, target], u[target], g[target], lp[t, target], a, b, c)
                best = _logit(z[t, i0], u[i0], g[i0], lp[t, i0], a, b, c)
                # Slack for rounding, in D and in the sums that the window's ends are.
                reach = bound[v, t, j] + (ONE + abs(threshold) + abs(best) + bound[v, t, j]) * ROUNDING * np.float32(4)
                low = starts[_bucket(threshold + reach, top, per_unit)]
                high = starts[_bucket(threshold - reach, top, per_unit) + 1]
                tops = starts[_bucket(best - reach, top, per_unit) + 1]
                if (high - low + tops) * WINDOW > vocab:
                    rank[v, t, j], prediction[v, t, j] = _all(z[t], u, g, lp[t], a, b, c, threshold)
                    continue
                window = slice(low, high)
                found = _count(zs[window], u, gs[window], ls[window], order[window], a, b, c, threshold)
                where = i0
                for k in range(1, tops):
                    value = _logit(zs[k], u[order[k]], gs[k], ls[k], a, b, c)
                    if value > best or (value == best and order[k] < where):
                        best, where = value, order[k]
                rank[v, t, j], prediction[v, t, j] = low + found, where


def by_token(x: Num[np.ndarray, "variants tokens neurons"]) -> Num[np.ndarray, "tokens variants 1 neurons"]:
    """Tokens first, each in one piece: one token is an array of the type that the loops were compiled for."""
    return np.ascontiguousarray(x.transpose(1, 0, 2))[:, :, None]


def _own(
    z: Float[np.ndarray, "tokens vocab"],
    U: Float[np.ndarray, "tokens neurons vocab"],
    g: Float[np.ndarray, " vocab"],
    lp: Float[np.ndarray, "tokens vocab"],
    A: Float[np.ndarray, "ranked tokens neurons"],
    B: Float[np.ndarray, "ranked tokens neurons"],
    C: Float[np.ndarray, "ranked tokens neurons"],
    targets: Int[np.ndarray, " tokens"],
    bound: Float[np.ndarray, "ranked tokens neurons"],
    threads: int,
) -> tuple[Int[np.ndarray, "ranked tokens neurons"], Int[np.ndarray, "ranked tokens neurons"]]:
    """Ranks and top tokens where each token has directions of its own."""
    A, B, C, bound = (by_token(x) for x in (A, B, C, bound))
    rank, prediction = np.zeros(bound.shape, dtype=np.int32), np.zeros(bound.shape, dtype=np.int32)
    z, lp, targets = z[:, None], lp[:, None], targets[:, None]

    def work(t: int) -> None:
        n = U.shape[1]
        _tile(z[t], U[t], g, lp[t], A[t], B[t], C[t], targets[t], bound[t], 0, n, rank[t], prediction[t])

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(len(U))))
    else:
        for t in range(len(U)):
            work(t)
    return tuple(np.ascontiguousarray(x[:, :, 0].transpose(1, 0, 2)) for x in (rank, prediction))


def ranks(
    z: Float[np.ndarray, "tokens vocab"],
    U: Float[np.ndarray, "*tokens neurons vocab"],
    g: Float[np.ndarray, " vocab"],
    lp: Float[np.ndarray, "tokens vocab"],
    A: Float[np.ndarray, "ranked tokens neurons"],
    B: Float[np.ndarray, "ranked tokens neurons"],
    C: Float[np.ndarray, "ranked tokens neurons"],
    targets: Int[np.ndarray, " tokens"],
    bound: Float[np.ndarray, "ranked tokens neurons"],
    threads: int,
) -> tuple[Int[np.ndarray, "ranked tokens neurons"], Int[np.ndarray, "ranked tokens neurons"]]:
    """Rank of the target and top token after lp + A z + B u + C g.

    Args:
        bound: at least max |D| of each triple, in the unit of lp.
        threads: threads to work on; changes nothing in the result.
    """
    rank, prediction = np.zeros(A.shape, dtype=np.int32), np.zeros(A.shape, dtype=np.int32)
    bound = (bound * 1.00001).astype(np.float32)
    if U.ndim == 3:
        return _own(z, U, g, lp, A, B, C, targets, bound, threads)
    tile = -(-len(U) // threads) if threads > 1 else max(len(U), 1)  # ids are sorted once per tile

    def work(first: int) -> None:
        _tile(z, U, g, lp, A, B, C, targets, bound, first, min(first + tile, len(U)), rank, prediction)

    starts = range(0, len(U), tile)
    if len(starts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    else:
        for first in starts:
            work(first)
    return rank, prediction
