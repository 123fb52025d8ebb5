"""What is read at a position when heads are ablated there: entropy, loss, scale and length of the residual, KL."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.readout import Readout

QUANTITIES = ("entropy", "loss", "norm_scale", "residual_norm", "top_logit", "kl")


def read(
    readout: Readout,
    residual: Float[Tensor, "*rows d"],
    targets: Int[Tensor, "*rows"],
    clean: Float[Tensor, "*rows vocab"] | None = None,
) -> tuple[Float[Tensor, "quantities *rows"], Float[Tensor, "*rows vocab"]]:
    """Quantities, in the order of `QUANTITIES`, and the log-probabilities that other runs are compared with.

    entropy, loss, kl in nats; residual_norm is |x| of the final residual, centred where the norm centres; top_logit is
    the largest logit, relative to the mean over the vocabulary unless a softcap forbids centring; kl is
    KL(clean || ablated), 0 for the clean run.

    Args:
        targets: next tokens; any id where there is none, and the loss there is not to be used.
        clean: log-probabilities of the clean run at the same positions; without them kl is 0.
    """
    logits = readout.logits(residual)
    logp, top = logits.log_softmax(-1), logits.amax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    loss = -logp.gather(-1, targets[..., None])[..., 0]
    kl = torch.zeros_like(loss) if clean is None else (clean.exp() * (clean - logp)).sum(-1)
    length = readout.centre(residual).norm(dim=-1)
    values = (entropy, loss, readout.scale(residual)[..., 0], length, top, kl)
    return torch.stack(values), logp
