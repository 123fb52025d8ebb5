"""Tests of paired changes against zero and against controls, without counting a document twice.

Sequences of one document are not independent: the t test's sample are the documents' means, so that a document with
many sequences weighs as much as one with a single sequence. Missing values are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num
from scipy.special import stdtr

from neuronlab.statistics import rank_p_value

Array = np.ndarray


@dataclass(frozen=True)
class TTest:
    """t statistics with their two-sided p-values, arrays of one shape."""

    t: Float64[Array, "..."]
    p: Float64[Array, "..."]


def paired_t(sums: Float64[Array, "documents ..."], counts: Num[Array, " documents"]) -> TTest:
    """Student's t of the documents' mean changes against 0, two-sided, n - 1 degrees of freedom.

    Args:
        sums: sum of the changes of a document's sequences.
        counts: how many they are; documents without one are left out.

    Returns:
        Missing with fewer than two documents, and where all documents have the same change (no variance).
    """
    there = counts > 0
    shape, n = sums.shape[1:], int(there.sum())
    if n < 2:
        return TTest(np.full(shape, np.nan), np.full(shape, np.nan))
    means = sums[there] / counts[there].reshape(-1, *[1] * len(shape))
    error = means.std(axis=0, ddof=1) / np.sqrt(n)
    varies = error > 0
    t = np.where(varies, means.mean(axis=0) / np.where(varies, error, 1.0), np.nan)
    return TTest(t, 2 * stdtr(n - 1, -np.abs(t)))


def holm(p: Float64[Array, " tests"]) -> Float64[Array, " tests"]:
    """Holm's step-down correction of a family of p-values; missing ones stay missing and do not count."""
    corrected = np.full(len(p), np.nan)
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


def control_p(value: float, controls: Float64[Array, " controls"]) -> float:
    """(1+b)/(1+n), b of n controls whose |change| is at least as large (METHODS 0.6); missing without controls."""
    if not len(controls):
        return float("nan")
    return float(rank_p_value(np.abs(value), np.abs(controls)))
