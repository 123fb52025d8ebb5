"""How well probabilities hold what they promise, with and without a set of neurons (METHODS A2, 0.6).

Conditions: the clean model, a joint ablation, and both with a temperature fitted to the negative log-likelihood. The
documents fall into two halves by the seed; a half's temperature is fitted on the other one (cross-fitting), so that
every token is used and none for its own temperature. The likelihood is convex in beta = 1/T: Newton's method, kept
within a bracket, some passes over the tokens. Intervals resample documents with temperatures and bins as they are.

The expected calibration error takes the top prediction's probability in bins of equal mass: tokens in order of it, ties
in order of the text, cut into equal parts. Sum over bins of |sum of (confidence - right)| / n. It is never negative,
so that noise alone makes it positive: compare it with the controls', not with 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuronlab.kernels.interface import Clean
from neuronlab.neuron_sets import NeuronSet
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import (
    bootstrap_weights,
    clustered_function_interval,
    percentile_interval,
)

Array = np.ndarray
CLEAN = NeuronSet("none", "single", None, ())  # the model as it is, beside the sets
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


def equal_mass_bins(confidence: Float64[Array, " tokens"], bins: int) -> Int[Array, " tokens"]:
    """Bin of each token: rank of its confidence, ties in order of the tokens, cut into `bins` equal parts."""
    rank = np.empty(len(confidence), dtype=np.int64)
    rank[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
    return rank * bins // max(len(confidence), 1)


@dataclass(frozen=True)
class Resampled:
    """A number, and what it is in every resample."""

    estimate: float
    resamples: Float64[Array, " resamples"]

    def __sub__(self, other: Resampled) -> Resampled:
        """The difference, resample by resample."""
        return Resampled(self.estimate - other.estimate, self.resamples - other.resamples)


@dataclass(frozen=True)
class Documents:
    """Which document each token stems from, and the resamples."""

    row: Int[Array, " tokens"]
    counts: Int[Array, " documents"]
    weights: Float64[Array, "resamples documents"]
    level: float

    @classmethod
    def of(cls, documents: Int[Array, " tokens"], resamples: int, level: float, seed: int) -> Documents:
        """From the document of each token."""
        _, row, counts = np.unique(documents, return_inverse=True, return_counts=True)
        return cls(row, counts, bootstrap_weights(len(counts), resamples, seed), level)

    def sums(
        self, values: Float64[Array, " tokens"], column: Int[Array, " tokens"], columns: int
    ) -> Float64[Array, "documents columns"]:
        """Sums per document and column."""
        cell = self.row * columns + column
        return np.bincount(cell, weights=values, minlength=len(self.counts) * columns).reshape(-1, columns)

    @property
    def drawn(self) -> Float64[Array, " resamples"]:
        """Tokens of each resample."""
        return self.weights @ self.counts

    def mean(self, values: Float64[Array, " tokens"]) -> Resampled:
        """Mean over tokens."""
        sums = np.bincount(self.row, weights=values, minlength=len(self.counts))
        return Resampled(sums.sum() / self.counts.sum(), self.weights @ sums / self.drawn)

    def columns(self, name: str, value: Resampled | None) -> dict[str, float | None]:
        """A number with its interval, as a table has it; all missing for None."""
        names = (name, f"{name}_low", f"{name}_high")
        if value is None:
            return dict.fromkeys(names)
        interval = percentile_interval(
            np.array([value.estimate]), value.resamples[:, None], self.level, clusters=len(self.counts)
        )
        ends = (interval.estimate, interval.low, interval.high)
        return {key: float(end[0]) for key, end in zip(names, ends, strict=True)}


def calibration_error(
    confidence: Float64[Array, " tokens"], right: Float64[Array, " tokens"], bins: int, documents: Documents
) -> tuple[Resampled, pl.DataFrame]:
    """ECE, and the rows of its reliability diagram (without the columns that name the set)."""
    place = equal_mass_bins(confidence, bins)
    gaps = documents.sums(confidence - right, place, bins)
    ece = Resampled(
        np.abs(gaps.sum(0)).sum() / documents.counts.sum(),
        np.abs(documents.weights @ gaps).sum(1) / documents.drawn,
    )
    sizes = documents.sums(np.ones_like(right), place, bins)
    filled = sizes.sum(0) > 0
    accuracy = clustered_function_interval(
        lambda a, n: a / np.where(n > 0, n, np.nan),
        (documents.sums(right, place, bins)[:, filled], sizes[:, filled]),
        documents.counts,
        documents.weights,
        documents.level,
    )
    rows = pl.DataFrame(
        {
            "bin": np.flatnonzero(filled),
            "n_tokens": sizes.sum(0)[filled].astype(np.int64),
            "confidence": documents.sums(confidence, place, bins).sum(0)[filled] / sizes.sum(0)[filled],
            "accuracy": accuracy.estimate,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
        }
    )
    return ece, rows


def calibration_frames(
    calibrated: Calibrated, sets: Sequence[NeuronSet], bins: int, documents: Documents
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables "calibration" and "reliability".

    Args:
        sets: what the scores' columns are; the first is `CLEAN`, the model as it is.
    """
    records, diagrams = [], []
    conditions = [("", calibrated.plain)] + ([("_refit", calibrated.refit)] if calibrated.refit else [])
    clean: dict[str, dict[str, Resampled]] = {}
    for s, one in enumerate(sets):
        for suffix, found in conditions:
            values = {name: array[:, s] for name, array in found.values.items()}
            condition = ("clean" if one == CLEAN else "ablated") + suffix
            record: dict[str, object] = one.columns() | {"condition": condition, "refit_temperature": 1.0}
            if suffix and calibrated.temperature is not None:
                record["refit_temperature"] = float(calibrated.temperature[:, s].mean())
            record |= {"n_tokens": len(values["nll"]), "n_documents": len(documents.counts)}
            measured = {("accuracy" if name == "right" else name): documents.mean(values[name]) for name in MEASURES}
            measured["ece"], rows = calibration_error(values["confidence"], values["right"], bins, documents)
            if one == CLEAN:
                clean[suffix] = measured
            for name, value in measured.items():
                record |= documents.columns(name, value)
                record |= documents.columns(f"{name}_change", None if one == CLEAN else value - clean[suffix][name])
            records.append(record)
            names = one.columns() | {"condition": condition}
            diagrams.append(rows.with_columns(**{name: pl.lit(value) for name, value in names.items()}))
    return _table(pl.DataFrame(records, infer_schema_length=None), "calibration"), _table(
        pl.concat(diagrams, how="vertical_relaxed"), "reliability"
    )


def _table(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Columns and types of a table; NaN is missing."""
    schema = {column: entry.dtype for column, entry in SCHEMAS[name].items()}
    return frame.select(pl.col(column).cast(dtype) for column, dtype in schema.items()).with_columns(
        pl.col(pl.Float64).fill_nan(None)
    )
