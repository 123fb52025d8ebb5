"""The kernel for CPUs: one pass over the vocabulary per (variant, token, neuron), in vector code, on threads.

What makes it fast: the product with the unembedding is gone (see `interface`); exponentials are a short polynomial;
a block of 2048 ids of a token stays in the first cache while a tile of neurons passes by. What keeps it accurate in
float32: sums of p * expm1(D) rather than differences of large numbers, float32 within a block, float64 across blocks.

A bound on |D| from the largest |z|, |u|, |g| sorts every triple into one of four ways, before any work:

* zero: no change at all (exactly zero effects);
* small, |D| log2(e) <= 1/2: the polynomial alone;
* large, up to 40 powers of two: with reduction of the exponent, and D centred under p, which may double it;
* huge: float64 with a shift, one by one. Rare, and slow.

Each triple is computed alone and in one order: the number of threads changes no bit.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int

from neuronlab.kernels.arithmetic import LN_2, LOG2_E, exp2m1, exp2m1_ratio, fma
from neuronlab.kernels.compiled import inlined, kept
from neuronlab.kernels.interface import (
    Clean,
    Coefficients,
    Directions,
    Effects,
    KernelError,
    Reference,
    check,
    products,
)
from neuronlab.kernels.rank_kernel import by_token, ranks

BLOCK = 2048  # ids per block: z, p and lp of a block fill half of a 48 kB cache
TILE = 64  # neurons per tile: their block of u stays in the second cache
SMALL, LARGE = 0.5, 40.0  # |D| in powers of two; twice LARGE times |lp| must stay within a float32's range
ZERO_WAY, SMALL_WAY, LARGE_WAY, HUGE_WAY = 0, 1, 2, 3
F0, F1 = np.float32(0), np.float32(1)


@partial(inlined, reassociate=True)
def _small(z, u, g, p, lp, a, b, c):
    """Sums of p E and p E (lp + y) + p y over a block, E = 2^y - 1, y = a z + b u + c g, |y| <= 1/2."""
    s, h = F0, F0
    for i in range(p.size):
        y = F0
        if u is not None:
            y = b * u[i]
        if z is not None:
            y = fma(a, z[i], y)
        if g is not None:
            y = fma(c, g[i], y)
        py = p[i] * y
        rise = py * exp2m1_ratio(y)
        s += rise
        h += fma(rise, lp[i] + y, py)
    return s, h


@partial(inlined, reassociate=True)
def _large(z, u, g, p, lp, a, b, c, shift):
    """The same for y + shift, |y| and |shift| up to LARGE."""
    s, h = F0, F0
    for i in range(p.size):
        y = shift
        if u is not None:
            y = fma(b, u[i], y)
        if z is not None:
            y = fma(a, z[i], y)
        if g is not None:
            y = fma(c, g[i], y)
        rise = p[i] * exp2m1(y)
        s += rise
        h += fma(rise, lp[i] + y, p[i] * y)
    return s, h


@partial(inlined, reassociate=True)
def _dot(p, u):
    s = F0
    for i in range(p.size):
        s += p[i] * u[i]
    return s


@inlined
def _huge(z, u, g, lp, a, b, c):
    """Change of the log-sum-exp and sum of p' log p' after a change of any size; float64, base 2 in, nats out."""
    top = -math.inf
    for i in range(lp.size):
        top = max(top, lp[i] + a * z[i] + b * u[i] + c * g[i])
    total, weighted = 0.0, 0.0
    for i in range(lp.size):
        y = (lp[i] + a * z[i] + b * u[i] + c * g[i] - top) * LN_2
        e = math.exp(y)
        total += e
        weighted += e * y
    lse = math.log(total)
    return top * LN_2 + lse, weighted / total - lse


@kept
def _tile(z, U, g, p, lp, A, B, C, way, first, last, shift, s, h):
    """Sums for all tokens and the neurons first..last; s and h are zero where nothing is to be done.

    For the huge way s receives the change of the log-sum-exp and h the sum of p' log p'. A is zero where z plays no
    part (direct effects), C where nothing is frozen: their loads are left out then.
    """
    variants, tokens, _ = A.shape
    vocab = p.shape[1]
    for start in range(0, vocab, BLOCK):
        stop = min(start + BLOCK, vocab)
        for t in range(tokens):
            for j in range(first, last):
                needs = False
                for v in range(variants):
                    needs |= way[v, t, j] == LARGE_WAY
                if needs:
                    dot = _dot(p[t, start:stop], U[j, start:stop])
                    for v in range(variants):
                        shift[v, t, j] -= B[v, t, j] * dot
    for start in range(0, vocab, BLOCK):
        stop = min(start + BLOCK, vocab)
        gb = g[start:stop]
        for t in range(tokens):
            zb, pb, lb = z[t, start:stop], p[t, start:stop], lp[t, start:stop]
            for j in range(first, last):
                ub = U[j, start:stop]
                for v in range(variants):
                    w = way[v, t, j]
                    a, b, c = A[v, t, j], B[v, t, j], C[v, t, j]
                    if w == SMALL_WAY:
                        if c != F0:
                            ds, dh = _small(zb, ub, gb, pb, lb, a, b, c)
                        elif a == F0:
                            ds, dh = _small(None, ub, None, pb, lb, a, b, c)
                        elif b == F0:
                            ds, dh = _small(zb, None, None, pb, lb, a, b, c)
                        else:
                            ds, dh = _small(zb, ub, None, pb, lb, a, b, c)
                    elif w == LARGE_WAY:
                        k = np.float32(shift[v, t, j])
                        if c != F0:
                            ds, dh = _large(zb, ub, gb, pb, lb, a, b, c, k)
                        elif a == F0:
                            ds, dh = _large(None, ub, None, pb, lb, a, b, c, k)
                        elif b == F0:
                            ds, dh = _large(zb, None, None, pb, lb, a, b, c, k)
                        else:
                            ds, dh = _large(zb, ub, None, pb, lb, a, b, c, k)
                    else:
                        continue
                    s[v, t, j] += ds
                    h[v, t, j] += dh
    for t in range(tokens):
        for j in range(first, last):
            for v in range(variants):
                if way[v, t, j] == HUGE_WAY:
                    a, b, c = float(A[v, t, j]), float(B[v, t, j]), float(C[v, t, j])
                    s[v, t, j], h[v, t, j] = _huge(z[t], U[j], g, lp[t], a, b, c)


def effects(
    clean: Clean,
    lines: Directions,
    coefficients: Coefficients,
    *,
    reference: Reference | None = None,
    ranked: tuple[int, ...] = (),
    threads: int = 1,
) -> Effects:
    """Effects of every (variant, token, neuron) on the CPU, in float32 with float64 sums; see `torch_kernel.effects`.

    Args:
        threads: threads to work on; changes no bit of the result.

    Raises:
        KernelError: shapes that do not belong together, a softcap or a norm after the MLP (the torch kernel has those),
            or arrays that are not float32.
    """
    frozen = check(clean, lines, coefficients, reference, ranked)
    if clean.softcap is not None or clean.m is not None:
        raise KernelError("the numba kernel has neither softcap nor norm after the MLP; use the torch kernel")
    z, U, p = (_array(x) for x in (clean.z, lines.U, clean.p))
    lp = _array(clean.lp) * np.float32(LOG2_E)
    A, B = (x.detach().cpu().numpy().astype(np.float64) for x in (coefficients.A, coefficients.B))
    g64 = np.zeros(z.shape[1]) if reference is None else reference.direction.detach().cpu().numpy().astype(np.float64)
    dot_g = np.zeros(len(z)) if reference is None else products(clean.z, reference.direction).cpu().numpy()
    C = -(A * dot_g[:, None] + B * lines.dot_g.cpu().numpy()) * frozen[:, None, None]
    g = g64.astype(np.float32)

    # In powers of two and float32, as the loops see them.
    A2, B2, C2 = (np.ascontiguousarray((x * LOG2_E).astype(np.float32)) for x in (A, B, C))
    bound = np.abs(A2) * _largest(z)[:, None] + np.abs(B2) * _largest(U) + np.abs(C2) * _largest(g[None])
    way = np.full(bound.shape, HUGE_WAY, dtype=np.int8)
    way[bound <= LARGE] = LARGE_WAY
    way[bound <= SMALL] = SMALL_WAY
    way[bound == 0] = ZERO_WAY
    # The shift that centres D under p: z is centred already, u's share is added in the loops.
    dot_pg = p.astype(np.float64) @ g64 if reference is not None else np.zeros(len(z))
    shift = -C2.astype(np.float64) * dot_pg[:, None]
    s, h = np.zeros(A.shape), np.zeros(A.shape)
    if lines.own:
        s, h, shift = _own(z, U, g, p, lp, A2, B2, C2, way, shift, threads)

    def work(first: int) -> None:
        last = min(first + TILE, len(U))
        _tile(z, U, g, p, lp, A2, B2, C2, way, first, last, shift, s, h)

    starts = range(0) if lines.own else range(0, len(U), TILE)
    if threads > 1 and len(starts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    else:
        for first in starts:
            work(first)
    factors = (A2, B2, C2)
    shift = np.where(way == LARGE_WAY, shift.astype(np.float32), F0).astype(np.float64)
    loss, entropy, kl = _outcomes(clean, lines, reference, factors, way, shift, s, h)
    rank, prediction = None, None
    if ranked:
        chosen = list(ranked)
        rank, prediction = ranks(
            z, U, g, lp, *(x[chosen] for x in factors), clean.targets.numpy(), bound[chosen], threads
        )
    return Effects(loss=loss, entropy=entropy, kl=kl, rank=rank, prediction=prediction)


def _own(
    z: Float[np.ndarray, "tokens vocab"],
    U: Float[np.ndarray, "tokens neurons vocab"],
    g: Float[np.ndarray, " vocab"],
    p: Float[np.ndarray, "tokens vocab"],
    lp: Float[np.ndarray, "tokens vocab"],
    A: Float[np.ndarray, "variants tokens neurons"],
    B: Float[np.ndarray, "variants tokens neurons"],
    C: Float[np.ndarray, "variants tokens neurons"],
    way: Int[np.ndarray, "variants tokens neurons"],
    shift: Float[np.ndarray, "variants tokens neurons"],
    threads: int,
) -> tuple[Float[np.ndarray, "variants tokens neurons"], ...]:
    """s, h and shift where each token has directions of its own: one token at a time through the same loops."""
    A, B, C, way, shift = (by_token(x) for x in (A, B, C, way, shift))
    s, h = np.zeros(shift.shape), np.zeros(shift.shape)
    z, p, lp = z[:, None], p[:, None], lp[:, None]

    def work(t: int) -> None:
        _tile(z[t], U[t], g, p[t], lp[t], A[t], B[t], C[t], way[t], 0, U.shape[1], shift[t], s[t], h[t])

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(len(U))))
    else:
        for t in range(len(U)):
            work(t)
    return tuple(x[:, :, 0].transpose(1, 0, 2) for x in (s, h, shift))


def _outcomes(
    clean: Clean,
    lines: Directions,
    reference: Reference | None,
    factors: tuple[Float[np.ndarray, "variants tokens neurons"], ...],
    way: Int[np.ndarray, "variants tokens neurons"],
    shift: Float[np.ndarray, "variants tokens neurons"],
    s: Float[np.ndarray, "variants tokens neurons"],
    h: Float[np.ndarray, "variants tokens neurons"],
) -> tuple[Float[np.ndarray, "variants tokens neurons"], ...]:
    """Changes of loss, entropy and KL from the sums, all in float64 with the float32 factors that the sums saw."""
    A, B, C = (x.astype(np.float64) for x in factors)
    huge = way == HUGE_WAY
    entropy_clean = clean.entropy.numpy()[:, None]
    dlse = np.where(huge, s, np.log1p(np.where(huge, 0, s)))
    delta_form = dlse - (LN_2 * h + s * entropy_clean) / (1 + np.where(huge, 0, s))
    entropy = np.where(huge, -h - entropy_clean, delta_form)

    def at(z: Float[np.ndarray, " tokens"], u: Float[np.ndarray, "tokens neurons"], g: Float[np.ndarray, "#tokens"]):
        return LN_2 * (A * z[:, None] + B * u + C * g[:, None] + shift)

    tokens, targets = np.arange(clean.tokens), clean.targets.numpy()
    direction = np.zeros(clean.z.shape[1]) if reference is None else reference.direction.numpy().astype(np.float32)
    z_target = clean.z.numpy()[tokens, targets].astype(np.float64)
    U = lines.U.numpy()
    u_target = (U[tokens, :, targets] if lines.own else U[:, targets].T).astype(np.float64)
    loss = dlse - at(z_target, u_target, direction[targets].astype(np.float64))
    kl = np.zeros_like(loss)
    if reference is not None:
        q_z, q_g = products(clean.z, reference.q).numpy(), np.atleast_1d(reference.q.numpy() @ direction)
        kl = dlse - at(q_z, lines.dot_q.numpy(), q_g)
    kl[way == ZERO_WAY] = 0
    return loss, entropy, kl


def _array(x: torch.Tensor) -> Float[np.ndarray, "... vocab"]:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise KernelError(f"the numba kernel takes float32 on the CPU, not {x.dtype} on {x.device}")
    return np.ascontiguousarray(x.detach().numpy())


def _largest(x: Float[np.ndarray, "... vocab"]) -> Float[np.ndarray, "..."]:
    return np.maximum(x.max(-1, initial=0), -x.min(-1, initial=0))
