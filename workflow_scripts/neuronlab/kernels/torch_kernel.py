"""The kernel in torch: any device, float32 or float64, with softcap and a norm after the MLP.

Same results as `numba_kernel`, from the same formulas (see `interface`), written over whole chunks:
a chunk of (tokens x neurons) is as large as `budget` bytes allow, never tokens x neurons x vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.kernels.interface import Clean, Coefficients, Directions, Effects, Reference, check

# Above this |D| (nats) the delta form would overflow float32 or lose the sum to one term: float64 with a shift instead.
LARGE = 20.0
TEMPORARIES = 6  # arrays of the chunk's size alive at once


def effects(
    clean: Clean,
    lines: Directions,
    coefficients: Coefficients,
    *,
    reference: Reference | None = None,
    ranked: tuple[int, ...] = (),
    budget: int = 256 * 2**20,
) -> Effects:
    """Effects of every (variant, token, neuron).

    Args:
        clean: clean read-out of the tokens.
        lines: logits of the neurons' directions.
        coefficients: what each variant adds to the logits.
        reference: for the KL divergence and frozen variants; without it `kl` is zero.
        ranked: variants whose rank and prediction are wanted.
        budget: bytes that temporaries may take.

    Raises:
        KernelError: shapes that do not belong together.
    """
    check(clean, lines, coefficients, reference, ranked)
    device = clean.z.device
    variants, T, n = coefficients.variants, clean.tokens, lines.neurons
    shape = (variants, T, n)
    loss, entropy, kl = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3))
    rank = torch.zeros((len(ranked), T, n), dtype=torch.int32, device=device)
    prediction = torch.zeros_like(rank)
    vectors = None if reference is None else torch.stack([reference.q, reference.direction]).to(device)

    pairs = max(1, int(budget // (TEMPORARIES * lines.U.shape[-1] * lines.U.element_size())))
    step_n = min(n, pairs) or 1
    step_t = max(1, pairs // step_n)
    for t in range(0, T, step_t):
        for j in range(0, n, step_n):
            tokens, neurons = slice(t, t + step_t), slice(j, j + step_n)
            for variant in range(variants):
                change = _change(clean, lines, coefficients, variant, tokens, neurons, vectors)
                part = (variant, tokens, neurons)
                loss[part], entropy[part], kl[part] = _outcomes(clean, change, tokens)
                if variant in ranked:
                    place = (ranked.index(variant), tokens, neurons)
                    rank[place], prediction[place] = _ranks(clean, change.D, tokens)
    return Effects(
        loss=loss.cpu().numpy(),
        entropy=entropy.cpu().numpy(),
        kl=kl.cpu().numpy(),
        rank=rank.cpu().numpy() if ranked else None,
        prediction=prediction.cpu().numpy() if ranked else None,
    )


def logit_change(
    clean: Clean, lines: Directions, coefficients: Coefficients, *, reference: Reference | None = None
) -> Float[Tensor, "tokens neurons vocab"]:
    """D of the first variant for a whole chunk: what is added to the clean log-probabilities, up to a constant.

    Centred under the clean distribution, but for rounding. The caller bounds the size.

    Raises:
        KernelError: shapes that do not belong together.
    """
    check(clean, lines, coefficients, reference, ())
    vectors = None
    if reference is not None and coefficients.frozen[0]:
        vectors = torch.stack([reference.q, reference.direction]).to(clean.z.device)
    return _change(clean, lines, coefficients, 0, slice(None), slice(None), vectors).D


def log_sum_exp_change(
    lp: Float[Tensor, "tokens vocab"], p: Float[Tensor, "tokens vocab"], D: Float[Tensor, "tokens neurons vocab"]
) -> Float[Tensor, "tokens neurons"]:
    """log sum p exp(D), float64: in delta form, or with a shift where D is large."""
    if D.numel() and float(D.abs().amax()) > LARGE:
        return (lp[:, None].double() + D.double()).logsumexp(-1)
    return torch.log1p(torch.expm1(D).mul_(p[:, None]).sum(-1, dtype=torch.float64))


@dataclass(frozen=True)
class _Change:
    """D of a chunk, about centred under p, and its product with q (float64; None without a reference)."""

    D: Float[Tensor, "tokens neurons vocab"]
    dot_q: Float[Tensor, "tokens neurons"] | None


def _change(
    clean: Clean,
    lines: Directions,
    coefficients: Coefficients,
    variant: int,
    tokens: slice,
    neurons: slice,
    vectors: Float[Tensor, "2 vocab"] | None,
) -> _Change:
    """D with its constant taken out: directions are centred under p *before* they are scaled.

    A constant changes nothing but the digits that float32 has left. Products with q and g are formed from those of z, u
    and m in float64, because D's rounding does not average out; under a softcap, where D is not linear, from D itself.
    """
    part, dtype = (variant, tokens, neurons), clean.z.dtype
    a, b = (x[part].to(dtype) for x in (coefficients.A, coefficients.B))
    c = None if coefficients.C is None else coefficients.C[part].to(dtype)
    p, z = clean.p[tokens], clean.z[tokens]
    U = lines.U[tokens, neurons] if lines.own else lines.U[None, neurons]
    along = (tokens, neurons) if lines.own else (neurons,)
    capped = clean.softcap is not None
    mean = torch.bmm(U, p[..., None])[..., 0] if lines.own else p @ U[0].T
    constant = torch.zeros_like(mean) if capped else mean
    D = (U - constant[..., None]).mul_(b[..., None]).addcmul_(a[..., None], z[:, None])
    if c is not None and clean.m is not None:
        D.addcmul_(c[..., None], clean.m[tokens, None])
    if capped:
        D = _capped(clean, D, tokens)
        D.sub_((p[:, None] * D).sum(-1, keepdim=True))
    if vectors is None:
        return _Change(D, None)

    if capped:
        dot_q, dot_g = (D.double() @ vectors.T).unbind(-1)
    else:
        a, b, constant = a.double(), b.double(), constant.double()
        along_u = torch.stack([lines.dot_q[along], lines.dot_g[along]]).view(2, -1, a.shape[1])
        dots = a * (vectors @ z.double().T)[..., None] + b * along_u
        if c is not None and clean.m is not None:
            dots = dots + c.double() * (vectors @ clean.m[tokens].double().T)[..., None]
        dot_q, dot_g = dots[0] - b * constant, dots[1]  # q sums to 1, g to 0
    if coefficients.frozen[variant]:
        centred = vectors[1] - (p.double() @ vectors[1])[:, None]
        D.sub_(dot_g.to(dtype)[..., None] * centred.to(dtype)[:, None])
        dot_q = dot_q - dot_g * (centred @ vectors[0])[:, None]
    return _Change(D, dot_q)


def _capped(
    clean: Clean, D: Float[Tensor, "tokens neurons vocab"], tokens: slice
) -> Float[Tensor, "tokens neurons vocab"]:
    """cap(logits + D) - cap(logits) by the addition theorem of tanh, which loses no digits to cancellation."""
    assert clean.logits is not None
    assert clean.softcap is not None
    before = torch.tanh(clean.logits[tokens] / clean.softcap)[:, None]
    step = torch.tanh(D.div_(clean.softcap))
    # tanh(a + b) - tanh(a) = tanh(b) (1 - tanh(a)^2) / (1 + tanh(a) tanh(b))
    return (clean.softcap * step).mul_(1 - before.square()).div_(step.mul_(before).add_(1))


def _outcomes(
    clean: Clean, change: _Change, tokens: slice
) -> tuple[Float[Tensor, "tokens neurons"], Float[Tensor, "tokens neurons"], Float[Tensor, "tokens neurons"]]:
    """Changes of loss, entropy and KL(q || p), float64."""
    D, p, lp = change.D, clean.p[tokens, None, :], clean.lp[tokens, None, :]
    entropy = clean.entropy[tokens, None]
    if float(D.abs().amax()) > LARGE:
        dlse, entropy_change = _shifted(lp.double(), D.double(), entropy)
    else:
        rise = torch.expm1(D).mul_(p)
        s = rise.sum(-1, dtype=torch.float64)
        mixed = rise.mul_(lp + D).add_(p * D).sum(-1, dtype=torch.float64)
        dlse = torch.log1p(s)
        entropy_change = dlse - (mixed + s * entropy) / (1 + s)
    at_target = D.gather(-1, clean.targets[tokens, None, None].expand(-1, D.shape[1], 1)).squeeze(-1).double()
    kl = torch.zeros_like(dlse) if change.dot_q is None else dlse - change.dot_q
    return dlse - at_target, entropy_change, kl


def _shifted(
    lp: Float[Tensor, "tokens 1 vocab"], D: Float[Tensor, "tokens neurons vocab"], entropy: Float[Tensor, "tokens 1"]
) -> tuple[Float[Tensor, "tokens neurons"], Float[Tensor, "tokens neurons"]]:
    """Change of the log-sum-exp and of the entropy by full softmax, float64, for changes of any size."""
    logits = lp + D
    dlse = logits.logsumexp(-1)
    after = logits - dlse[..., None]
    return dlse, -(after.exp() * after).sum(-1) - entropy


def _ranks(
    clean: Clean, D: Float[Tensor, "tokens neurons vocab"], tokens: slice
) -> tuple[Int[Tensor, "tokens neurons"], Int[Tensor, "tokens neurons"]]:
    """Rank of the target (others with a larger logit) and the top token after the change."""
    logits = D + clean.lp[tokens, None, :]
    at_target = logits.gather(-1, clean.targets[tokens, None, None].expand(-1, D.shape[1], 1))
    return (logits > at_target).sum(-1).int(), logits.argmax(-1).int()
