"""What a changed residual stream does to the prediction of the next token, against the clean one, token by token.

The final norm and the unembedding are read out in chunks of tokens, so that logits are in memory for one chunk of one
state at a time and are never stored. The product with W_U has the precision of the read-out's weights; norms, softmax
and sums are float64. The padded vocabulary stays in the softmax. All outcomes of a token concern the same position: the
distribution there, and the next token as its target (METHODS C defect 1):

* kl: KL(clean || state) in nats;
* loss: -log p(next token) in nats;
* entropy: of the state's distribution, in nats, of normalised probabilities (METHODS C defect 3);
* reciprocal_rank: 1 / (1 + tokens with a larger logit than the clean top prediction);
* agreement: 1 where no token has a larger logit than the clean top prediction, which so stays on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuronlab.readout import Readout

Array = np.ndarray
OUTCOMES = ("kl", "loss", "entropy", "agreement", "reciprocal_rank")
CLEAN_OUTCOMES = ("loss", "entropy")


@dataclass(frozen=True)
class Distribution:
    """Next-token distributions of some tokens.

    Attributes:
        logits: float64, up to a constant per token.
        normaliser: log of the sum of exp(logits).
        mean_logit: the expected logit, sum of p * logits.
    """

    logits: Float64[Tensor, "tokens vocab"]
    normaliser: Float64[Tensor, " tokens"]
    mean_logit: Float64[Tensor, " tokens"]

    @property
    def entropy(self) -> Float64[Tensor, " tokens"]:
        """In nats."""
        return self.normaliser - self.mean_logit

    def loss(self, targets: Int[Tensor, " tokens"]) -> Float64[Tensor, " tokens"]:
        """-log p(target) in nats."""
        return self.normaliser - self.logits.gather(-1, targets[:, None])[:, 0]


def read(readout: Readout, residual: Float[Tensor, "tokens d"]) -> tuple[Distribution, Float64[Tensor, "tokens vocab"]]:
    """Distributions of a few tokens, and their probabilities.

    Args:
        residual: input of the final norm, of any dtype, on any device.
    """
    x = readout.normalise(residual.to(readout.W.device).double()).to(readout.W.dtype)
    logits = readout.cap(x @ readout.W + readout.b).double()
    largest = logits.amax(-1, keepdim=True)
    weights = (logits - largest).exp_()
    total = weights.sum(-1, keepdim=True)
    probabilities = weights.div_(total)
    return Distribution(
        logits, (largest + total.log())[:, 0], torch.linalg.vecdot(probabilities, logits)
    ), probabilities


def compare(
    clean: Distribution,
    probabilities: Float64[Tensor, "tokens vocab"],
    top: Int[Tensor, " tokens"],
    changed: Distribution,
    targets: Int[Tensor, " tokens"],
) -> Float64[Tensor, "outcomes tokens"]:
    """Outcomes in the order of `OUTCOMES`.

    Args:
        probabilities, top: of the clean distribution; `top` is its most likely token.
    """
    cross = changed.normaliser - torch.linalg.vecdot(probabilities, changed.logits)
    kl = (cross - clean.entropy).clamp_(min=0)  # rounding alone makes it negative
    larger = (changed.logits > changed.logits.gather(-1, top[:, None])).sum(-1)
    return torch.stack([kl, changed.loss(targets), changed.entropy, (larger == 0).double(), 1 / (1 + larger.double())])


@torch.no_grad()
def outcomes(
    readout: Readout,
    clean: Float[Tensor, "tokens d"],
    states: Sequence[Float[Tensor, "tokens d"]],
    targets: Int[Tensor, " tokens"],
    tokens_per_chunk: int = 128,
) -> tuple[Float64[Array, "2 tokens"], Float64[Array, "states outcomes tokens"]]:
    """Loss and entropy of the clean run, and the outcomes of each state, at the same tokens.

    A chunk's clean distribution is made once for all states.

    Args:
        clean, states: inputs of the final norm.
        targets: the next tokens.
    """
    before = np.zeros((len(CLEAN_OUTCOMES), len(targets)))
    after = np.zeros((len(states), len(OUTCOMES), len(targets)))
    targets = targets.to(readout.W.device)
    for start in range(0, len(targets), tokens_per_chunk):
        part = slice(start, start + tokens_per_chunk)
        reference, probabilities = read(readout, clean[part])
        top, wanted = reference.logits.argmax(-1), targets[part]
        before[:, part] = torch.stack([reference.loss(wanted), reference.entropy]).cpu().numpy()
        for place, state in enumerate(states):
            changed, _ = read(readout, state[part])
            after[place, :, part] = compare(reference, probabilities, top, changed, wanted).cpu().numpy()
    return before, after
