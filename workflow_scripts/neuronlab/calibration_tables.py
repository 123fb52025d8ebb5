"""Calibration error, reliability diagrams and scores, with intervals, as tables (METHODS A2, 0.6).

The expected calibration error takes the top prediction's probability in bins of equal mass: tokens in order of it, ties
in order of the text, cut into equal parts. Sum over bins of |sum of (confidence - right)| / n. It is never negative,
so that noise alone makes it positive: compare it with the controls', not with 0. Intervals resample documents, with
temperatures and bins as they are; differences from the clean model are taken resample by resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64, Int

from neuronlab.calibration import MEASURES, Calibrated
from neuronlab.neuron_sets import NeuronSet
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import bootstrap_weights, clustered_function_interval, percentile_interval

Array = np.ndarray
CLEAN = NeuronSet("none", "single", None, ())  # the model as it is, beside the sets


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
