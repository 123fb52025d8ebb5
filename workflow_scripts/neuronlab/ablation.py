"""Effects of replacing the activation of one last-layer neuron, in closed form: coefficients, kernels, chunks.

The final residual x changes by delta w, delta = value - activation. With alpha = 1/sigma the inverse scale of the final
norm, z = x W and u = w W (see `kernels.interface`), the logits change by D = A z + B u, up to a constant:

    q      = (2 delta <x, w> + delta^2 |w|^2) / (|x|^2 + d eps)
    dalpha = alpha expm1(-log1p(q) / 2)                 change of the inverse scale, without cancellation
    total    A = dalpha, B = delta (alpha + dalpha)
    direct   A = 0,      B = delta alpha                final norm frozen (METHODS A2)
    norm     A = dalpha, B = 0                          clean residual, changed scale: natural indirect effect
    unigram  total, with the projection on the log-unigram direction put back (METHODS A3)

Exact only where nothing but the final norm and the unembedding follows: the last layer. A norm between MLP and residual
(Gemma-2) rescales the MLP's whole output m when one neuron changes: with inverse scale pi = 1/sigma_p, M = gamma m,
w = gamma w_raw, the residual moves by a M + b w, a = dpi, b = delta (pi + dpi), and D gets a term C (M W).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.kernels import brute_force, numba_kernel, torch_kernel
from neuronlab.kernels.interface import Clean, Coefficients, Directions, Effects, Reference, clean_state, directions
from neuronlab.readout import Readout
from neuronlab.readout import readout_dtype as readout_dtype
from neuronlab.schemas import RANK_VARIANTS, VARIANTS

KERNELS = ("auto", "numba", "torch", "triton", "brute_force")
RANKED = tuple(list(VARIANTS).index(name) for name in RANK_VARIANTS)
TORCH_BUDGET = {"cpu": 32 * 2**20, "cuda": 4 * 2**30}  # bytes of temporaries; small ones stay in a CPU's cache


class AblationError(ValueError):
    """An ablation that cannot be run as configured."""


@dataclass(frozen=True)
class LastLayer:
    """All that effects of last-layer neurons need of a model, on the device where they are computed.

    Attributes:
        layer: index of the last layer.
        readout: folded norm and unembedding.
        w: output directions: centred for LayerNorm, gain of a norm after the MLP folded in.
        raw: output weights as the forward pass has them.
        reference: unigram distribution and direction.
        kernel: "numba", "torch", "triton" or "brute_force".
        dtype: of the kernel.
        threads: of the numba kernel; changes no bit.
    """

    layer: int
    readout: Readout
    w: Float[Tensor, "neurons d"]
    raw: Float[Tensor, "neurons d"]
    reference: Reference | None
    kernel: str
    dtype: torch.dtype = torch.float32
    threads: int = 1

    @property
    def neurons(self) -> int:
        return len(self.w)

    @property
    def device(self) -> torch.device:
        return self.w.device


@dataclass(frozen=True)
class Tokens:
    """Last-layer state at some counted positions, flat over tokens."""

    residual: Float[Tensor, "tokens d"]
    activations: Float[Tensor, "tokens neurons"]
    targets: Int[Tensor, " tokens"]
    mlp: Float[Tensor, "tokens d"] | None = None

    def __getitem__(self, part: slice) -> Tokens:
        mlp = None if self.mlp is None else self.mlp[part]
        return Tokens(self.residual[part], self.activations[part], self.targets[part], mlp)

    def __len__(self) -> int:
        return len(self.residual)


def choose_kernel(kernel: str, readout: Readout, device: torch.device) -> str:
    """The kernel that runs: "auto" is numba on the CPU where the algebra needs no extra term, torch elsewhere.

    Falls back from numba and triton to torch, loudly, where there is a softcap or a norm after the MLP, and from numba
    on a GPU.

    Raises:
        AblationError: for a kernel that does not exist, and for triton where it cannot run.
    """
    if kernel not in KERNELS:
        raise AblationError(f"compute.kernel is '{kernel}'; it must be one of {', '.join(KERNELS)}")
    plain = readout.softcap is None and readout.post_gain is None
    possible = {"numba": plain and device.type == "cpu", "triton": plain}
    if kernel == "triton":
        _check_triton(device)
    if kernel == "auto":
        chosen = "numba" if possible["numba"] else "torch"
    else:
        chosen = kernel if possible.get(kernel, True) else "torch"
    if chosen not in possible and (kernel in possible or not plain):
        reason = f"device {device.type}" if plain else "a softcap on the logits or a norm after the MLP"
        fast = kernel if kernel in possible else "numba"
        print(f"WARNING: kernel '{chosen}' instead of {fast}, because of {reason}: slower", file=sys.stderr)
    if chosen == "brute_force":
        print("WARNING: effects by brute force: two orders of magnitude slower", file=sys.stderr)
    return chosen


def _check_triton(device: torch.device) -> None:
    """Refuse the triton kernel where it cannot run. Its interpreter, for tests, runs on a CPU.

    Raises:
        AblationError: with what is missing.
    """
    if find_spec("triton") is None:
        raise AblationError(
            "compute.kernel is 'triton', but Python finds no package triton here. It comes with torch's builds for "
            "CUDA on Linux; install such a build, or set compute.kernel to auto"
        )
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise AblationError(
            f"compute.kernel is 'triton', which needs a CUDA device, but effects are computed on {device.type} here: "
            "set compute.device to cuda where there is one, or compute.kernel to auto"
        )


@dataclass(frozen=True)
class Products:
    """Inner products of unit changes w of the residual, float64: of one neuron each, or of several together.

    Attributes:
        xw, ww: <x, w> with the (centred) residual, and |w|^2.
        mr, rr, Mw: <m, raw>, |raw|^2 and <gamma m, w>, where a norm follows the MLP.
    """

    xw: Float[Tensor, "tokens changes"]
    ww: Float[Tensor, "#tokens changes"]
    mr: Float[Tensor, "tokens changes"] | None = None
    rr: Float[Tensor, "#tokens changes"] | None = None
    Mw: Float[Tensor, "tokens changes"] | None = None


def coefficients(
    readout: Readout,
    residual: Float[Tensor, "tokens d"],
    w: Float[Tensor, "neurons d"],
    delta: Float[Tensor, "tokens neurons"],
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    raw: Float[Tensor, "neurons d"] | None = None,
    mlp: Float[Tensor, "tokens d"] | None = None,
    freeze_post_norm: bool = False,
) -> Coefficients:
    """The numbers A, B (and C) of the module's head, in float64.

    Args:
        residual: input of the final norm.
        w: output directions, as `LastLayer.w`.
        delta: replacement minus activation.
        raw, mlp: raw output weights and output of the MLP before the norm that follows it, where there is one.
        freeze_post_norm: for the direct variant, freeze that norm's scale as well as the final one.

    Raises:
        AblationError: if `raw` or `mlp` is missing although a norm follows the MLP.
    """
    products = products_of(readout, residual, w, raw=raw, mlp=mlp)
    return coefficients_of(
        readout, residual, products, delta, variants=variants, mlp=mlp, freeze_post_norm=freeze_post_norm
    )


def products_of(
    readout: Readout,
    residual: Float[Tensor, "tokens d"],
    w: Float[Tensor, "neurons d"],
    *,
    raw: Float[Tensor, "neurons d"] | None = None,
    mlp: Float[Tensor, "tokens d"] | None = None,
) -> Products:
    """Products of some neurons' directions with a chunk's state; arguments and errors as for `coefficients`."""
    x, w = readout.centre(residual.double()), readout.centre(w.double())
    xw, ww = x @ w.T, w.square().sum(-1)[None]
    if readout.post_gain is None:
        return Products(xw, ww)
    if raw is None or mlp is None or readout.post_eps is None:
        raise AblationError("a norm follows the MLP: its output and the raw weights are needed")
    m, raw = mlp.double(), raw.double()
    M = readout.centre(m * readout.post_gain.double())
    return Products(xw, ww, m @ raw.T, raw.square().sum(-1)[None], M @ w.T)


def coefficients_of(
    readout: Readout,
    residual: Float[Tensor, "tokens d"],
    products: Products,
    delta: Float[Tensor, "tokens changes"],
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    mlp: Float[Tensor, "tokens d"] | None = None,
    freeze_post_norm: bool = False,
) -> Coefficients:
    """The numbers A, B (and C) from the products of the changes; arguments as for `coefficients`."""
    x, delta = readout.centre(residual.double()), delta.double()
    power = x.square().sum(-1, keepdim=True) + readout.d * readout.eps
    alpha = 1 / readout.scale(residual.double())
    if mlp is None or readout.post_gain is None or readout.post_eps is None:
        a, b, b_frozen = None, delta, delta
        numerator = 2 * delta * products.xw + delta.square() * products.ww
    else:
        m = mlp.double()
        M = readout.centre(m * readout.post_gain.double())
        pi = 1 / readout.post_scale(m)
        grown = (2 * delta * products.mr + delta.square() * products.rr) / (
            m.square().sum(-1, keepdim=True) + readout.d * readout.post_eps
        )
        a = pi * torch.expm1(-torch.log1p(grown) / 2)
        b, b_frozen = delta * (pi + a), delta * pi
        MM, xM = M.square().sum(-1, keepdim=True), (x * M).sum(-1, keepdim=True)
        numerator = (
            2 * (a * xM + b * products.xw) + a.square() * MM + b.square() * products.ww + 2 * a * b * products.Mw
        )
    dalpha = alpha * torch.expm1(-torch.log1p(numerator / power) / 2)
    zero = torch.zeros_like(dalpha)
    direct = (alpha * b_frozen, zero) if freeze_post_norm or a is None else (alpha * b, alpha * a)
    moved = (alpha + dalpha) * b, zero if a is None else (alpha + dalpha) * a
    factors = {
        "total": (dalpha, *moved),
        "direct": (zero, *direct),
        "norm": (dalpha, zero, zero),
        "unigram": (dalpha, *moved),
    }
    A, B, C = (torch.stack([factors[variant][i] for variant in variants]) for i in range(3))
    return Coefficients(A, B, tuple(v == "unigram" for v in variants), None if a is None else C)


def clean_of(last: LastLayer, tokens: Tokens) -> Clean:
    """Clean read-out of a chunk, in the kernel's precision."""
    return clean_state(
        last.readout, tokens.residual, tokens.targets, reference=last.reference, mlp=tokens.mlp, dtype=last.dtype
    )


def directions_of(last: LastLayer, neurons: Sequence[int] | slice) -> Directions:
    """Logits that some neurons write."""
    return directions(last.readout, last.w[neurons], reference=last.reference, dtype=last.dtype)


def effects_of_chunk(
    last: LastLayer,
    tokens: Tokens,
    clean: Clean,
    lines: Directions,
    neurons: Sequence[int] | slice,
    delta: Float[Tensor, "tokens neurons"],
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    ranked: tuple[int, ...] = RANKED,
) -> Effects:
    """Effects of some variants of `schemas.VARIANTS`, by default all, for every (token, neuron) of a chunk.

    Args:
        clean, lines: from `clean_of` and `directions_of`, for the same tokens and neurons.
        delta: replacement minus activation, for the neurons of the chunk.
        ranked: places of the variants whose rank and prediction are wanted.
    """
    w, raw = last.w[neurons], last.raw[neurons]
    if last.kernel == "brute_force":
        return _by_brute_force(last, tokens, raw, delta, variants, ranked)
    factors = coefficients(last.readout, tokens.residual, w, delta, variants=variants, raw=raw, mlp=tokens.mlp)
    return run_kernel(last, clean, lines, factors, ranked=ranked)


def run_kernel(
    last: LastLayer, clean: Clean, lines: Directions, factors: Coefficients, *, ranked: tuple[int, ...] = RANKED
) -> Effects:
    """Effects by the kernel in closed form that this run uses."""
    if last.kernel == "numba":
        return numba_kernel.effects(
            clean, lines, factors, reference=last.reference, ranked=ranked, threads=last.threads
        )
    budget = TORCH_BUDGET.get(last.device.type, TORCH_BUDGET["cpu"])
    if last.kernel == "triton":
        from neuronlab.kernels import triton_kernel  # triton is not everywhere

        return triton_kernel.effects(clean, lines, factors, reference=last.reference, ranked=ranked, budget=budget)
    return torch_kernel.effects(clean, lines, factors, reference=last.reference, ranked=ranked, budget=budget)


def _by_brute_force(
    last: LastLayer,
    tokens: Tokens,
    raw: Float[Tensor, "neurons d"],
    delta: Float[Tensor, "tokens neurons"],
    variants: Sequence[str],
    ranked: tuple[int, ...],
) -> Effects:
    """The same effects by the float64 oracle, token by token."""
    readout = last.readout.to(dtype=torch.float64)
    rows = []
    for t in range(len(tokens)):
        n = len(raw)
        rows.append(
            brute_force.pair_effects(
                readout,
                tokens.residual[t].expand(n, -1),
                raw,
                delta[t],
                tokens.targets[t].expand(n),
                variants=tuple(variants),
                reference=last.reference,
                mlp=None if tokens.mlp is None else tokens.mlp[t].expand(n, -1),
            )
        )
    return brute_force.stack_tokens(rows, ranked)
