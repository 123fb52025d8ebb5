"""What is read at a position when heads are ablated there: entropy, loss, scale and length of the residual, KL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.readout import Readout

QUANTITIES = ("entropy", "loss", "norm_scale", "residual_norm", "top_logit", "kl")


@dataclass(frozen=True)
class Read:
    """Quantities of one set of residuals, in the order of `QUANTITIES`.

    entropy, loss, kl in nats; residual_norm is |x| of the final residual, centred where the norm centres; top_logit is
    the largest logit, relative to the mean over the vocabulary unless a softcap forbids centring; kl is
    KL(clean || ablated), 0 for the clean run.
    """

    values: Float[Tensor, "quantities *rows"]


def log_probabilities(
    readout: Readout, residual: Float[Tensor, "*rows d"]
) -> tuple[Float[Tensor, "*rows vocab"], Float[Tensor, "*rows"]]:
    """Log-probabilities and the largest logit."""
    logits = readout.logits(residual)
    return logits.log_softmax(-1), logits.amax(-1)


def read(
    readout: Readout,
    residual: Float[Tensor, "*rows d"],
    targets: Int[Tensor, "*rows"],
    clean: Float[Tensor, "*rows vocab"] | None = None,
) -> tuple[Read, Float[Tensor, "*rows vocab"]]:
    """Quantities, and the log-probabilities that later runs are compared with.

    Args:
        targets: next tokens; any id where there is none, and the loss there is not to be used.
        clean: log-probabilities of the clean run at the same positions; without them kl is 0.
    """
    logp, top = log_probabilities(readout, residual)
    entropy = -(logp.exp() * logp).sum(-1)
    loss = -logp.gather(-1, targets[..., None])[..., 0]
    kl = torch.zeros_like(loss) if clean is None else (clean.exp() * (clean - logp)).sum(-1)
    length = readout.centre(residual).norm(dim=-1)
    values = (entropy, loss, readout.scale(residual)[..., 0], length, top, kl)
    return Read(torch.stack(values)), logp
