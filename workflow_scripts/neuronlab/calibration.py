"""How well probabilities hold what they promise, with and without a set of neurons (METHODS A2).

Conditions: the clean model, a joint ablation, and both with a temperature fitted to the negative log-likelihood. The
documents fall into two halves by the seed; a half's temperature is fitted on the other one (cross-fitting), so that
every token is used and none for its own temperature. The likelihood is convex in beta = 1/T: Newton's method, kept
within a bracket, some passes over the tokens. What follows from the scores stands in `calibration_tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuronlab.kernels.interface import Clean

Array = np.ndarray
MEASURES = ("nll", "brier", "confidence", "right")
PASSES = 30
STOP = 3e-3  # relative step of beta after which no other is made: what is left is about its square
LIMIT = 100.0  # temperatures from 1/100 to 100

# One pass over the tokens: where each chunk's tokens stand, its clean state, and how each set changes its logits.
Pass = Callable[[], Iterator[tuple[slice, Clean, Float[Tensor, "tokens sets vocab"]]]]


def scores(
    lp: Float[Tensor, "tokens sets vocab"], p: Float[Tensor, "tokens sets vocab"], targets: Int[Tensor, " tokens"]
) -> dict[str, Float64[Array, "tokens sets"]]:
    """Negative log-likelihood, Brier score, confidence of the top prediction, and whether it is right (0 or 1).

    Args:
        lp, p: log-probabilities and probabilities.
    """
    nll = -at_targets(lp, targets).double()
    confidence, top = p.max(-1)
    brier = torch.linalg.vecdot(p, p).double() - 2 * torch.exp(-nll) + 1
    found = {"nll": nll, "brier": brier, "confidence": confidence.double(), "right": (top == targets[:, None]).double()}
    return {name: value.cpu().numpy() for name, value in found.items()}


def slopes(
    lp: Float[Tensor, "tokens sets vocab"], p: Float[Tensor, "tokens sets vocab"], targets: Int[Tensor, " tokens"]
) -> tuple[Float64[Array, "tokens sets"], Float64[Array, "tokens sets"]]:
    """First and second derivative of the negative log-likelihood in log beta, at beta.

    With l = log p up to a constant, beta times the derivative in beta is E l - l_target, and beta^2 times the second
    one Var l. Newton's method in log beta takes their ratio.

    Args:
        lp, p: log-probabilities and probabilities at beta.
    """
    mean = torch.linalg.vecdot(p, lp).double()
    square = torch.linalg.vecdot(p * lp, lp).double()
    value = mean - at_targets(lp, targets).double()
    return value.cpu().numpy(), (square - mean.square()).clamp_min(0).cpu().numpy()


def at_targets(lp: Float[Tensor, "tokens sets vocab"], targets: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens sets"]:
    """Values at the next token."""
    return lp.gather(-1, targets[:, None, None].expand(-1, lp.shape[1], 1)).squeeze(-1)


@dataclass
class Newton:
    """Minima of convex functions of beta > 0, one per cell, from their derivatives, pass by pass."""

    beta: Float64[Array, "halves sets"]
    low: Float64[Array, "halves sets"]
    high: Float64[Array, "halves sets"]
    done: bool = False

    @classmethod
    def start(cls, shape: tuple[int, int]) -> Newton:
        return cls(np.ones(shape), np.full(shape, 1 / LIMIT), np.full(shape, LIMIT))

    def step(self, first: Float64[Array, "halves sets"], second: Float64[Array, "halves sets"]) -> None:
        """Move `beta`, given beta f' and beta^2 f'' there; by bisection where Newton leaves the bracket."""
        self.low = np.where(first <= 0, self.beta, self.low)
        self.high = np.where(first >= 0, self.beta, self.high)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = self.beta * (1 - first / second)
        inside = (moved >= self.low) & (moved <= self.high)
        moved = np.where(first == 0, self.beta, np.where(inside, moved, np.sqrt(self.low * self.high)))
        # Newton's error is about the square of its step.
        self.done = bool((np.abs(moved / self.beta - 1) <= STOP).all())
        self.beta = moved


class Scores:
    """Scores of every (token, set), float64, in order of the tokens."""

    def __init__(self, tokens: int, sets: int) -> None:
        self.values = {name: np.zeros((tokens, sets)) for name in MEASURES}

    def put(self, tokens: slice, values: dict[str, Float64[Array, "tokens sets"]]) -> None:
        for name, array in values.items():
            self.values[name][tokens] = array


@dataclass(frozen=True)
class Calibrated:
    """Scores without and with the fitted temperature, and the temperature applied to each half."""

    plain: Scores
    refit: Scores | None
    temperature: Float64[Array, "halves sets"] | None


def halves(documents: int, seed: int) -> Int[Array, " documents"]:
    """Half, 0 or 1, of each document, drawn by the seed; sizes differ by one at most."""
    order = np.random.default_rng([seed, 0x6361]).permutation(documents)
    half = np.zeros(documents, dtype=np.int64)
    half[order[: documents // 2]] = 1
    return half


def calibrate(passes: Pass, half: Int[Array, " tokens"], sets: int) -> Calibrated:
    """Scores of every token, with temperatures fitted on one half and applied to the other.

    Args:
        passes: gives a pass over the tokens, always the same.
        half: half of each token; without a token in both nothing is fitted.
        sets: how many sets `passes` gives the changes of.
    """
    plain, newton = Scores(len(half), sets), Newton.start((2, sets))
    fit = len(np.unique(half)) == 2
    counts = np.bincount(half, minlength=2)[:, None]

    def sweep(beta: Float64[Array, "halves sets"] | None, kept: Scores | None) -> None:
        """One pass at some temperatures: keep the scores, or take a step, or both."""
        first, second = np.zeros((2, sets)), np.zeros((2, sets))
        for part, clean, D in passes():
            logits = D.add_(clean.lp[:, None])
            if beta is not None:
                logits.mul_(torch.from_numpy(beta[half[part]]).to(logits)[..., None])
            lp = logits.log_softmax(-1)
            p = lp.exp()
            if kept is not None:
                kept.put(part, scores(lp, p, clean.targets))
            if fit and kept is not refit:
                found = slopes(lp, p, clean.targets)
                for total, values in zip((first, second), found, strict=True):
                    for h in (0, 1):
                        total[h] += values[half[part] == h].sum(0)
        if fit and kept is not refit:
            newton.step(first / counts, second / counts)

    refit = Scores(len(half), sets)
    sweep(None, plain)
    if not fit:
        return Calibrated(plain, None, None)
    for _ in range(PASSES):
        if newton.done:
            break
        sweep(newton.beta, None)
    applied = np.ascontiguousarray(newton.beta[::-1])  # each half gets the other's
    sweep(applied, refit)
    return Calibrated(plain, refit, 1 / applied)
