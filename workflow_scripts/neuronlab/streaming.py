"""Streaming descriptions of activations: float64 whatever comes in, vectorised over neurons, bounded memory.

A model's activations are described in three passes over the same batches: `Moments` (count, mean, central
power sums, range; beside it `PositionMeans`), `Histogram` once the range is known (and with it the mode), and
`MedianSearch` once the histogram is. A missing value is NaN here; tables turn it into a null.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

Array = np.ndarray


class StreamingError(ValueError):
    """Activations that cannot be described, or passes that saw different ones."""


def _as_float64(values: Num[Array, "items neurons"], n_neurons: int) -> Float64[Array, "items neurons"]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != n_neurons:
        raise StreamingError(f"expected values of shape [items, {n_neurons}], got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise StreamingError("activations hold NaN or infinity: look at the model's weights and at its dtype")
    return values


class Moments:
    """Count, mean, central power sums M2, M3, M4, minimum and maximum of every neuron, batch by batch.

    Batches are merged by the pairwise update of Chan et al. and Pébay, which has no cancellation between
    large sums: study B's standard deviations overflowed for want of it (METHODS B defect 2).
    """

    def __init__(self, n_neurons: int) -> None:
        self.n_neurons = n_neurons
        self.count = 0
        self.mean: Float64[Array, " neurons"] = np.zeros(n_neurons)
        self.m2: Float64[Array, " neurons"] = np.zeros(n_neurons)
        self.m3: Float64[Array, " neurons"] = np.zeros(n_neurons)
        self.m4: Float64[Array, " neurons"] = np.zeros(n_neurons)
        self.min: Float64[Array, " neurons"] = np.full(n_neurons, np.inf)
        self.max: Float64[Array, " neurons"] = np.full(n_neurons, -np.inf)

    def update(self, values: Num[Array, "items neurons"]) -> None:
        """Add a batch; an empty one changes nothing.

        Raises:
            StreamingError: for another shape, NaN or infinity.
        """
        values = _as_float64(values, self.n_neurons)
        if not len(values):
            return
        batch = Moments(self.n_neurons)
        batch.count = len(values)
        batch.mean = values.mean(axis=0)
        batch.min, batch.max = values.min(axis=0), values.max(axis=0)
        deviation = values - batch.mean
        square = deviation * deviation
        batch.m2 = square.sum(axis=0)
        batch.m3 = np.einsum("in,in->n", square, deviation)
        batch.m4 = np.einsum("in,in->n", square, square)
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Add what another accumulator has seen."""
        if other.n_neurons != self.n_neurons:
            raise StreamingError(f"cannot merge moments of {self.n_neurons} and {other.n_neurons} neurons")
        if not other.count:
            return
        n_a, n_b = self.count, other.count
        n = n_a + n_b
        gap = other.mean - self.mean
        step = gap / n
        m4 = (
            self.m4
            + other.m4
            + gap * step**3 * (n_a * n_b * (n_a**2 - n_a * n_b + n_b**2))
            + 6 * step**2 * (n_a**2 * other.m2 + n_b**2 * self.m2)
            + 4 * step * (n_a * other.m3 - n_b * self.m3)
        )
        m3 = (
            self.m3 + other.m3 + gap * step**2 * (n_a * n_b * (n_a - n_b)) + 3 * step * (n_a * other.m2 - n_b * self.m2)
        )
        self.m2 = self.m2 + other.m2 + gap * step * (n_a * n_b)
        self.m3, self.m4 = m3, m4
        self.mean = self.mean + step * n_b
        self.count = n
        self.min = np.minimum(self.min, other.min)
        self.max = np.maximum(self.max, other.max)

    def _require_values(self) -> None:
        if not self.count:
            raise StreamingError("no counted token: there is nothing to describe")

    @property
    def variance(self) -> Float64[Array, " neurons"]:
        """Population variance (ddof 0)."""
        self._require_values()
        return self.m2 / self.count

    @property
    def sd(self) -> Float64[Array, " neurons"]:
        """Population standard deviation (ddof 0)."""
        return np.sqrt(self.variance)

    @property
    def skew(self) -> Float64[Array, " neurons"]:
        """E[z^3]; NaN for a neuron that never varied."""
        return self._standardised(self.m3, 3)

    @property
    def kurtosis(self) -> Float64[Array, " neurons"]:
        """E[z^4], 3 for a Gaussian (Pearson, not excess); NaN for a neuron that never varied."""
        return self._standardised(self.m4, 4)

    def _standardised(self, power_sum: Float64[Array, " neurons"], order: int) -> Float64[Array, " neurons"]:
        variance = self.variance
        # A constant's mean may be off by a rounding error, which would make its z-scores noise. The same holds for
        # a spread so small that its fourth power leaves the range of float64.
        varies = (self.min < self.max) & (variance ** (order / 2) > 0)
        result = np.full(self.n_neurons, np.nan)
        result[varies] = power_sum[varies] / self.count / variance[varies] ** (order / 2)
        return result


class PositionMeans:
    """Mean activation at every position, over the counted tokens there."""

    def __init__(self, n_positions: int, n_neurons: int) -> None:
        self.sums: Float64[Array, "positions neurons"] = np.zeros((n_positions, n_neurons))
        self.counts: Int64[Array, " positions"] = np.zeros(n_positions, dtype=np.int64)

    def update(self, values: Num[Array, "batch positions neurons"], counted: Bool[Array, "batch positions"]) -> None:
        """Add a batch of whole sequences, of which the positions marked in `counted` count."""
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (len(counted), *self.sums.shape):
            raise StreamingError(f"expected [batch, {', '.join(map(str, self.sums.shape))}], got {list(values.shape)}")
        # where= rather than a product with 0: an uncounted position may hold infinity.
        self.sums += values.sum(axis=0, where=counted[:, :, None])
        self.counts += counted.sum(axis=0)

    @property
    def means(self) -> Float64[Array, "positions neurons"]:
        """NaN at positions where nothing was counted."""
        means = np.full(self.sums.shape, np.nan)
        seen = self.counts > 0
        means[seen] = self.sums[seen] / self.counts[seen, None]
        return means


def _bins(
    values: Float64[Array, "items neurons"],
    low: Float64[Array, " neurons"],
    high: Float64[Array, " neurons"],
    n_bins: int,
) -> Int64[Array, "items neurons"]:
    """Index of the equal bin of [low, high] that each value falls in; all in bin 0 where low == high."""
    width = np.where(high > low, high - low, 1.0)
    return np.clip(((values - low) / width * n_bins).astype(np.int64), 0, n_bins - 1)


def _count_bins(indices: Int64[Array, "items neurons"], n_bins: int, weights: Array | None = None) -> Array:
    """Counts [neurons, bins] of bin indices [items, neurons]; `weights` of 0 and 1 leave entries out."""
    n_neurons = indices.shape[1]
    flat = (indices + np.arange(n_neurons) * n_bins).ravel()
    if weights is not None:
        flat = flat[weights.ravel()]
    return np.bincount(flat, minlength=n_neurons * n_bins).reshape(n_neurons, n_bins)


class Histogram:
    """Counts of every neuron's activations in `n_bins` equal bins from its minimum to its maximum (second pass)."""

    def __init__(self, low: Float64[Array, " neurons"], high: Float64[Array, " neurons"], n_bins: int = 256) -> None:
        if n_bins < 1:
            raise StreamingError(f"a histogram needs at least one bin, not {n_bins}")
        self.low, self.high, self.n_bins = np.asarray(low, np.float64), np.asarray(high, np.float64), n_bins
        if (self.high < self.low).any():
            raise StreamingError("a histogram's range ends below its start: were the moments given any token?")
        self.counts: Int64[Array, "neurons bins"] = np.zeros((len(self.low), n_bins), dtype=np.int64)

    def update(self, values: Num[Array, "items neurons"]) -> None:
        """Add a batch.

        Raises:
            StreamingError: for another shape, NaN, infinity, or a value outside the range, since the first
                pass must have seen other activations then.
        """
        values = _as_float64(values, len(self.low))
        if ((values < self.low) | (values > self.high)).any():
            raise StreamingError("an activation lies outside the range of the first pass: the passes saw other data")
        self.counts += _count_bins(_bins(values, self.low, self.high, self.n_bins), self.n_bins)

    @property
    def mode(self) -> Float64[Array, " neurons"]:
        """Midpoint of the fullest bin, the lowest of equally full ones (METHODS 0.6); the value of a constant."""
        width = (self.high - self.low) / self.n_bins
        return np.where(self.high > self.low, self.low + width * (self.counts.argmax(axis=1) + 0.5), self.low)


class MedianSearch:
    """Median by refining the histogram's bins that hold the two middle order statistics (third pass).

    The error is at most `resolution`, half a refined bin: (max - min) / (2 n_bins n_fine). The two middle values
    of an even count are searched apart, because they may lie in bins far from each other.
    """

    def __init__(self, histogram: Histogram, n_fine: int = 256) -> None:
        totals = histogram.counts.sum(axis=1)
        if not len(totals) or (totals < 1).any():
            raise StreamingError("no counted token: there is no median")
        self._histogram, self._n_fine = histogram, n_fine
        cumulative = histogram.counts.cumsum(axis=1)
        self._coarse, self._rank, self._fine = [], [], []
        for rank in ((totals - 1) // 2, totals // 2):  # of the lower and the upper middle value, from 0
            coarse = (cumulative <= rank[:, None]).sum(axis=1)
            below = np.take_along_axis(cumulative - histogram.counts, coarse[:, None], axis=1)[:, 0]
            self._coarse.append(coarse)
            self._rank.append(rank - below)
            self._fine.append(np.zeros((len(totals), n_fine), dtype=np.int64))

    @property
    def resolution(self) -> Float64[Array, " neurons"]:
        """Largest possible error of the median."""
        return (self._histogram.high - self._histogram.low) / (2 * self._histogram.n_bins * self._n_fine)

    def update(self, values: Num[Array, "items neurons"]) -> None:
        """Add a batch of the activations that the histogram has seen."""
        histogram = self._histogram
        values = _as_float64(values, len(histogram.low))
        # One grid for both passes: a fine index whose quotient is the coarse bin. Two separately rounded
        # grids could put a value near an edge into different bins.
        indices = _bins(values, histogram.low, histogram.high, histogram.n_bins)
        width = np.where(histogram.high > histogram.low, histogram.high - histogram.low, 1.0)
        offset = (values - histogram.low) / width * histogram.n_bins - indices
        fine = np.clip((offset * self._n_fine).astype(np.int64), 0, self._n_fine - 1)
        for coarse, counts in zip(self._coarse, self._fine, strict=True):
            counts += _count_bins(fine, self._n_fine, indices == coarse)

    @property
    def median(self) -> Float64[Array, " neurons"]:
        """The median of every neuron, within `resolution`.

        Raises:
            StreamingError: if this pass saw fewer values than the histogram.
        """
        histogram = self._histogram
        width = (histogram.high - histogram.low) / histogram.n_bins
        middle = []
        for coarse, rank, counts in zip(self._coarse, self._rank, self._fine, strict=True):
            expected = np.take_along_axis(histogram.counts, coarse[:, None], axis=1)[:, 0]
            if (counts.sum(axis=1) != expected).any():
                raise StreamingError("the median's pass saw other activations than the histogram's")
            fine = (counts.cumsum(axis=1) <= rank[:, None]).sum(axis=1)
            middle.append(histogram.low + width * (coarse + (fine + 0.5) / self._n_fine))
        return np.where(histogram.high > histogram.low, (middle[0] + middle[1]) / 2, histogram.low)
