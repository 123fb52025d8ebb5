"""Entropy alone, of many variants that share few directions: a product of small matrices and four passes of torch.

The kernels of `effects` know loss, divergence and ranks as well and are compiled (numba) or pass a dozen times over the
logits (torch). Where thousands of variants of a model are compared by their entropy, a third of that is enough, and no
compilation is to be waited for. Rows are as many as a CPU's cache holds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from neuronlab.kernels.interface import Clean, Coefficients, KernelError

BUDGET = {"cpu": 2**20, "cuda": 2**30}  # bytes of logits alive at once
LARGE = 20.0  # log-probabilities that grow beyond this (nats) are computed in float64


def entropies(
    clean: Clean, delta: Float[Tensor, "tokens variants k"], U: Float[Tensor, "k vocab"], factors: Coefficients
) -> Float[Tensor, "tokens variants"]:
    """Entropy (nats, float64) of softmax(lp + A z + B delta U), by A and B of the first route of `factors`.

    Args:
        delta: how much of each direction a variant adds, before the factor B.
        U: logits of the directions.

    Raises:
        KernelError: under a softcap, behind a norm after the MLP, or for a frozen projection: `run_kernel` has those.
    """
    if clean.softcap is not None or clean.m is not None or factors.frozen[0]:
        raise KernelError("entropies of a softcap, a norm after the MLP or a frozen projection need another kernel")
    tokens, variants, _ = delta.shape
    rows = BUDGET.get(U.device.type, BUDGET["cpu"]) // (variants * U.shape[1] * U.element_size())
    step = max(1, rows)
    found = torch.empty(tokens, variants, dtype=torch.float64, device=U.device)
    for start in range(0, tokens, step):
        part = slice(start, start + step)
        amounts, A = delta[part] * factors.B[0, part, :, None], factors.A[0, part]
        y = _log_probs(clean.lp[part], clean.z[part], amounts, A, U, U.dtype)
        if U.dtype != torch.float64 and not float(y.amax()) <= LARGE:
            y = _log_probs(clean.lp[part], clean.z[part], amounts, A, U, torch.float64)
        found[part] = _entropies(y)
    return found


def _log_probs(
    lp: Float[Tensor, "tokens vocab"],
    z: Float[Tensor, "tokens vocab"],
    amounts: Float[Tensor, "tokens variants k"],
    A: Float[Tensor, "tokens variants"],
    U: Float[Tensor, "k vocab"],
    dtype: torch.dtype,
) -> Float[Tensor, "tokens variants vocab"]:
    """Log-probabilities after the change, up to a constant for each token and variant."""
    y = (amounts.flatten(0, 1).to(dtype) @ U.to(dtype)).view(*A.shape, -1)
    return y.addcmul_(A.to(dtype)[..., None], z.to(dtype)[:, None]).add_(lp.to(dtype)[:, None])


def _entropies(y: Float[Tensor, "tokens variants vocab"]) -> Float[Tensor, "tokens variants"]:
    """Entropies of softmax(y); `y` is changed."""
    y.sub_(y.amax(-1, keepdim=True))
    p = y.exp()
    total = p.sum(-1)
    return (total.log() - torch.linalg.vecdot(p, y) / total).clamp_min(0).double()
