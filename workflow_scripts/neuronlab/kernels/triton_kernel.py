"""The kernel for NVIDIA GPUs: one pass over the vocabulary for all variants of a tile of neurons, in registers.

`torch_kernel` writes and reads arrays of (tokens x neurons x ids) a dozen times; here u is read once, z, p and log p
once for a tile of `ROWS` neurons, and nothing but sums is written. The arithmetic is that of `numba_kernel`: powers of
two by a short polynomial, sums of p * expm1(D), float32 within `CHUNK` ids and float64 across them. All D are centred
under p beforehand, by one product of p with u, so that |D| may be large; where a bound on it exceeds `LARGE` powers of
two, the torch kernel computes the triple. Last digits differ from both, and with what else is in a call.

The loops cover what most models have: float32, no softcap, no norm after the MLP, with directions shared by all tokens
or each token's own. A call with anything else goes to the torch kernel as a whole.

Runs on a CPU under Triton's interpreter (TRITON_INTERPRET=1 before triton is imported): for tests, very slowly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuronlab.kernels import torch_kernel
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
from neuronlab.kernels.polynomial import EXP2M1_RATIO

LOG2_E, LN_2 = math.log2(math.e), math.log(2.0)
LARGE = 40.0  # |D| in powers of two; centring may double it, and that times |log p| must stay within a float32's range
GROUP = 4  # variants per launch: their sums fill the registers
ROWS = 8  # neurons per program at most
TILE = 512  # (neuron, id) at a time, two per thread
WARPS, REGISTERS = 8, 128  # two programs per multiprocessor; nothing spills (tested for compute capability 8.0 and 9.0)
CHUNK = 2048  # ids that are summed up in float32

P0, P1, P2, P3, P4, P5 = (tl.constexpr(float(c)) for c in EXP2M1_RATIO)
ROUND = tl.constexpr(1.5 * 2.0**23)  # added and taken away again, it rounds to an integer, which its bits end in
ONE_BITS = tl.constexpr(0x3F800000)  # of 2^0
LOWEST = tl.constexpr(-3.0e38)  # for log p beside the vocabulary: finite, because it is multiplied by zero
# Numbers that change from call to call are not compiled in; those of the model are.
ANY_NUMBER = ("tokens", "neurons", "token_stride")
ANY_ADDRESS = ("A", "B", "C", "K", "targets", "s_out", "h_out", "rank_out", "top_out")


@triton.jit
def _exponent(z, u, g, a, b, c, shift, FROZEN: tl.constexpr):
    """D in powers of two, always by the same roundings: equal logits stay equal."""
    y = tl.fma(b, u, shift)
    if FROZEN:
        y = tl.fma(c, g, y)
    return tl.fma(a, z, y)


@triton.jit
def _exp2m1(y):
    """2^y - 1 for |y| <= 126: 2^k (2^r - 1) + (2^k - 1), k = round(y), r = y - k."""
    rounded = y + ROUND
    r = y - (rounded - ROUND)
    scale = ((rounded.to(tl.int32, bitcast=True) << 23) + ONE_BITS).to(tl.float32, bitcast=True)
    ratio = tl.fma(tl.fma(tl.fma(tl.fma(tl.fma(r, P5, P4), r, P3), r, P2), r, P1), r, P0)
    return tl.fma(scale, r * ratio, scale - 1.0)


@triton.jit(do_not_specialize=ANY_NUMBER, do_not_specialize_on_alignment=ANY_ADDRESS)
def _sums(
    z, U, g, p, lp, A, B, C, K, targets, s_out, h_out, rank_out, top_out,
    tokens, neurons, vocab, token_stride, row_stride,
    VARIANTS: tl.constexpr, FROZEN: tl.constexpr, RANKED: tl.constexpr,
    ROWS: tl.constexpr, IDS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sums of p E and p E (lp + y) + p y, E = 2^y - 1, for one token and a tile of neurons, a pair for each variant.

    Args:
        z, p, lp: [tokens, vocab]; lp in powers of two, as A, B, C and the shift K, [VARIANTS, tokens, neurons].
        U: rows of `vocab` numbers, `row_stride` apart; `token_stride` is 0 where tokens share them.
        FROZEN, RANKED: a bit for each variant.
    """
    t = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = j < neurons
    j = tl.minimum(j, neurons - 1).to(tl.int64)
    z, p, lp = z + t * vocab, p + t * vocab, lp + t * vocab
    rows = U + t * token_stride + j[:, None] * row_stride
    target = tl.load(targets + t)
    z_target, lp_target, g_target = tl.load(z + target), tl.load(lp + target), tl.load(g + target)
    u_target = tl.load(rows + target)

    a, b, c, shift, threshold = (), (), (), (), ()
    s, h, above, best, where = (), (), (), (), ()
    for v in tl.static_range(VARIANTS):
        column = (v * tokens + t) * neurons + j[:, None]
        a += (tl.load(A + column),)
        b += (tl.load(B + column),)
        c += (tl.load(C + column),)
        shift += (tl.load(K + column),)
        y_target = _exponent(z_target, u_target, g_target, a[v], b[v], c[v], shift[v], (FROZEN >> v) & 1)
        threshold += (lp_target + y_target,)
        s += (tl.zeros([ROWS], tl.float64),)
        h += (tl.zeros([ROWS], tl.float64),)
        above += (tl.zeros([ROWS, IDS], tl.int32),)
        best += (tl.full([ROWS, IDS], LOWEST, tl.float32),)
        where += (tl.zeros([ROWS, IDS], tl.int32),)

    for start in range(0, vocab, CHUNK):
        s_part, h_part = (), ()
        for _ in tl.static_range(VARIANTS):
            s_part += (tl.zeros([ROWS, IDS], tl.float32),)
            h_part += (tl.zeros([ROWS, IDS], tl.float32),)
        for first in range(start, tl.minimum(start + CHUNK, vocab), IDS):
            i = first + tl.arange(0, IDS)[None, :]
            inside = i < vocab
            zi = tl.load(z + i, mask=inside, other=0.0)
            pi = tl.load(p + i, mask=inside, other=0.0)
            li = tl.load(lp + i, mask=inside, other=LOWEST)
            ui = tl.load(rows + i, mask=inside, other=0.0)
            gi = zi
            if FROZEN:
                gi = tl.load(g + i, mask=inside, other=0.0)
            s_new, h_new, above_new, best_new, where_new = (), (), (), (), ()
            for v in tl.static_range(VARIANTS):
                y = _exponent(zi, ui, gi, a[v], b[v], c[v], shift[v], (FROZEN >> v) & 1)
                logit = li + y
                rise = pi * _exp2m1(y)
                s_new += (s_part[v] + rise,)
                h_new += (h_part[v] + tl.fma(rise, logit, pi * y),)
                if (RANKED >> v) & 1:
                    larger = logit > best[v]
                    above_new += (above[v] + (logit > threshold[v]).to(tl.int32),)
                    best_new += (tl.where(larger, logit, best[v]),)
                    where_new += (tl.where(larger, i, where[v]),)
                else:
                    above_new += (above[v],)
                    best_new += (best[v],)
                    where_new += (where[v],)
            s_part, h_part, above, best, where = s_new, h_new, above_new, best_new, where_new
        s_new, h_new = (), ()
        for v in tl.static_range(VARIANTS):
            s_new += (s[v] + tl.sum(s_part[v], 1).to(tl.float64),)
            h_new += (h[v] + tl.sum(h_part[v], 1).to(tl.float64),)
        s, h = s_new, h_new

    for v in tl.static_range(VARIANTS):
        place = (v * tokens + t) * neurons + j
        tl.store(s_out + place, s[v], mask=there)
        tl.store(h_out + place, h[v], mask=there)
        if (RANKED >> v) & 1:
            tl.store(rank_out + place, tl.sum(above[v], 1), mask=there)
            highest = best[v] == tl.max(best[v], 1)[:, None]
            tl.store(top_out + place, tl.min(tl.where(highest, where[v], vocab), 1), mask=there)


def effects(
    clean: Clean,
    lines: Directions,
    coefficients: Coefficients,
    *,
    reference: Reference | None = None,
    ranked: tuple[int, ...] = (),
    budget: int = 256 * 2**20,
) -> Effects:
    """Effects of every (variant, token, neuron) on a GPU, float32 with float64 sums; see `torch_kernel.effects`.

    Args:
        budget: bytes that temporaries of the torch kernel may take, where that one computes.

    Raises:
        KernelError: shapes that do not belong together, or arrays on a CPU, unless Triton's interpreter runs.
    """
    frozen = check(clean, lines, coefficients, reference, ranked)
    plain = clean.softcap is None and clean.m is None
    if not plain or clean.z.dtype != torch.float32 or lines.U.dtype != torch.float32:
        return torch_kernel.effects(clean, lines, coefficients, reference=reference, ranked=ranked, budget=budget)
    device = clean.z.device
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise KernelError(f"the triton kernel takes arrays on a CUDA device, not on {device}; use another kernel")
    reference = None if reference is None else reference.to(device)
    change = _change(clean, lines, coefficients, reference, [bool(flag) for flag in frozen])
    with torch.cuda.device_of(clean.z):
        s, h, rank, prediction = _launch(clean, lines, change, reference, ranked)
    loss, entropy, kl = _outcomes(clean, lines, change, reference, s, h)
    chosen = list(ranked)
    found = Effects(
        loss=loss.cpu().numpy(),
        entropy=entropy.cpu().numpy(),
        kl=kl.cpu().numpy(),
        rank=rank[chosen].cpu().numpy() if ranked else None,
        prediction=prediction[chosen].cpu().numpy() if ranked else None,
    )
    for variant, t, j in _pairs(change.huge, budget // (16 * clean.z.shape[1] * clean.z.element_size())):
        _replace(found, clean, lines, coefficients, reference, chosen, variant, t, j, budget)
    return found


@dataclass(frozen=True)
class _Change:
    """Factors of z, u and g and a constant, in powers of two and float32, as the loops see them; zero where huge."""

    A: Float[Tensor, "variants tokens neurons"]
    B: Float[Tensor, "variants tokens neurons"]
    C: Float[Tensor, "variants tokens neurons"]
    shift: Float[Tensor, "variants tokens neurons"]
    frozen: list[bool]
    huge: Bool[Tensor, "variants tokens neurons"]


def _change(
    clean: Clean, lines: Directions, coefficients: Coefficients, reference: Reference | None, frozen: list[bool]
) -> _Change:
    """The loops' factors: the shift centres D under p, but for rounding (z is centred already)."""
    z, U, p = clean.z, lines.U, clean.p
    A, B = coefficients.A.to(z.device), coefficients.B.to(z.device)
    C = torch.zeros_like(A)
    if reference is not None and any(frozen):
        flags = torch.tensor(frozen, device=z.device)
        C = -(A * products(z, reference.direction)[:, None] + B * lines.dot_g) * flags[:, None, None]
    A, B, C = ((x * LOG2_E).float() for x in (A, B, C))
    mean = torch.bmm(U, p[..., None])[..., 0] if lines.own else p @ U.T
    shift = -B * mean
    bound = A.abs() * _largest(z)[:, None] + B.abs() * _largest(U)
    if reference is not None and any(frozen):
        shift -= C * (p @ reference.direction.float())[:, None]
        bound += C.abs() * reference.direction.abs().max().float()
    huge = ~(bound <= LARGE)
    return _Change(*(x.masked_fill(huge, 0).contiguous() for x in (A, B, C, shift)), frozen, huge)


def _largest(x: Float[Tensor, "... vocab"]) -> Float[Tensor, "..."]:
    """Largest absolute value of each row, without a copy of them all."""
    low, high = torch.aminmax(x, dim=-1)
    return torch.maximum(-low, high)


def _launch(
    clean: Clean, lines: Directions, change: _Change, reference: Reference | None, ranked: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums s and h, rank and prediction [variants, tokens, neurons]; the latter two for ranked variants only."""
    z, p, U, device = clean.z.contiguous(), clean.p.contiguous(), lines.U, clean.z.device
    U = U if U.stride(-1) == 1 else U.contiguous()
    variants, tokens, neurons = shape = tuple(change.A.shape)
    s, h = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))
    rank, prediction = (torch.zeros(shape, dtype=torch.int32, device=device) for _ in range(2))
    if not tokens or not neurons:
        return s, h, rank, prediction
    lp, targets = clean.lp.contiguous() * LOG2_E, clean.targets.contiguous()
    g = z[0] if reference is None else reference.direction.float().contiguous()  # read only where something is frozen
    rows = min(ROWS, triton.next_power_of_2(neurons))
    for first in range(0, variants, GROUP):
        some = slice(first, min(first + GROUP, variants))
        places = range(some.start, some.stop)
        _sums[(tokens, triton.cdiv(neurons, rows))](
            z, U, g, p, lp, change.A[some], change.B[some], change.C[some], change.shift[some], targets,
            s[some], h[some], rank[some], prediction[some],
            tokens, neurons, z.shape[1], U.stride(0) if lines.own else 0, U.stride(-2),
            VARIANTS=len(places),
            FROZEN=sum(change.frozen[v] << i for i, v in enumerate(places)),
            RANKED=sum((v in ranked) << i for i, v in enumerate(places)),
            ROWS=rows, IDS=TILE // rows, CHUNK=CHUNK, num_warps=WARPS, maxnreg=REGISTERS,
        )  # fmt: skip
    return s, h, rank, prediction


def _outcomes(
    clean: Clean,
    lines: Directions,
    change: _Change,
    reference: Reference | None,
    s: Float[Tensor, "variants tokens neurons"],
    h: Float[Tensor, "variants tokens neurons"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of loss, entropy and KL from the sums, in float64 with the float32 factors that the sums saw."""
    A, B, C, shift = (x.double() for x in (change.A, change.B, change.C, change.shift))
    dlse = torch.log1p(s)
    entropy = dlse - (LN_2 * h + s * clean.entropy[:, None]) / (1 + s)

    def along(z: Tensor, u: Tensor, g: Tensor) -> Tensor:
        return LN_2 * (A * z[:, None] + B * u + C * g[:, None] + shift)

    targets = clean.targets
    z = clean.z.gather(-1, targets[:, None])[:, 0].double()
    if lines.own:
        u = lines.U.gather(-1, targets[:, None, None].expand(-1, lines.neurons, 1))[..., 0].double()
    else:
        u = lines.U[:, targets].T.double()
    if reference is None:
        loss = dlse - along(z, u, torch.zeros_like(z))
        return loss, entropy, torch.zeros_like(loss)
    g = reference.direction.float().double()
    kl = dlse - along(products(clean.z, reference.q), lines.dot_q, (reference.q @ g)[None])
    return dlse - along(z, u, g[targets]), entropy, kl


def _pairs(
    huge: Bool[Tensor, "variants tokens neurons"], size: int
) -> Iterator[tuple[int, Int[Tensor, " pairs"], Int[Tensor, " pairs"]]]:
    """Variant, tokens and neurons of the triples that the loops left out, some at a time."""
    for variant in huge.flatten(1).any(1).nonzero()[:, 0].tolist():
        for part in huge[variant].nonzero().split(max(1, size)):
            yield variant, part[:, 0], part[:, 1]


def _replace(
    found: Effects,
    clean: Clean,
    lines: Directions,
    coefficients: Coefficients,
    reference: Reference | None,
    ranked: list[int],
    variant: int,
    t: Int[Tensor, " pairs"],
    j: Int[Tensor, " pairs"],
    budget: int,
) -> None:
    """Put the torch kernel's effects of some (token, neuron) of a variant into `found`."""
    names = ("z", "lp", "p", "targets", "loss", "entropy", "kl", "rank", "prediction")
    there = replace(clean, **{name: getattr(clean, name)[t] for name in names})
    at = (t, j) if lines.own else (j,)
    own = Directions(*(getattr(lines, name)[at][:, None] for name in ("U", "dot_g", "dot_q")))
    A, B = (x.to(t.device)[variant, t, j][None, :, None] for x in (coefficients.A, coefficients.B))
    places = [i for i, other in enumerate(ranked) if other == variant]
    right = torch_kernel.effects(
        there,
        own,
        Coefficients(A, B, (coefficients.frozen[variant],)),
        reference=reference,
        ranked=(0,) if places else (),
        budget=budget,
    )
    rows, columns = t.cpu().numpy(), j.cpu().numpy()
    for name in ("loss", "entropy", "kl"):
        getattr(found, name)[variant, rows, columns] = getattr(right, name)[0, :, 0]
    for name in ("rank", "prediction") if places else ():
        for place in places:
            getattr(found, name)[place, rows, columns] = getattr(right, name)[0, :, 0]
