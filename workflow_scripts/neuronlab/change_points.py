"""Where a curve over the layers changes: places that a rule finds, and curves as they might have been measured.

Two rules: half of a fall, in a curve made monotone, and the bend between a level and a straight rise. `stages` says
which curves they are applied to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import isotonic_regression
from scipy.stats import norm as normal

Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """One quantity over the layers.

    Attributes:
        x: places on the axis of layers, rising.
        y, low, high: the estimate and its interval; both ends NaN where there is no interval.
    """

    x: Float64[Array, " points"]
    y: Float64[Array, " points"]
    low: Float64[Array, " points"]
    high: Float64[Array, " points"]

    @property
    def has_intervals(self) -> bool:
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def draw(self, resamples: int, level: float, generator: np.random.Generator) -> Float64[Array, "resamples points"]:
        """Curves as they might have been measured; points without an interval stay."""
        z = generator.standard_normal((resamples, len(self.y)))
        width = np.where(z > 0, self.high - self.y, self.y - self.low) / normal.ppf(0.5 + level / 2)
        return self.y + z * np.nan_to_num(np.maximum(width, 0.0))

    def exceeds(self, top: int, others: Array) -> bool:
        """Whether the point `top` lies above the median of the points `others`, intervals included."""
        low = np.where(np.isnan(self.low), self.y, self.low)
        high = np.where(np.isnan(self.high), self.y, self.high)
        return bool(low[top] > np.median(high[others]))


def half_fall(x: Float64[Array, " points"], y: Float64[Array, " points"], n_layers: int) -> float:
    """Border 0 (see above): where `y` has fallen half of the way from its early maximum to the mid-depth median.

    Returns:
        The place on the axis of layers; NaN if `y` does not fall below it up to the end of the middle third.
    """
    early, middle = thirds(x, n_layers)
    start = int(np.flatnonzero(early)[np.argmax(y[early])])
    half = (y[start] + np.median(y[middle])) / 2
    stop = int(np.flatnonzero(middle)[-1]) + 1
    falling = np.asarray(isotonic_regression(y[start:stop], increasing=False).x)
    below = np.flatnonzero(falling < half)
    if not len(below) or below[0] == 0:
        return float("nan")
    i = below[0]
    part = (falling[i - 1] - half) / (falling[i - 1] - falling[i])
    return float(x[start + i - 1] + part * (x[start + i] - x[start + i - 1]))


def thirds(x: Float64[Array, " points"], n_layers: int) -> tuple[Array, Array]:
    depth = x / (n_layers - 1)
    return depth <= 1 / 3, (depth >= 1 / 3) & (depth <= 2 / 3)


def bend_costs(
    x: Float64[Array, " points"], y: Float64[Array, "resamples points"], bends: Float64[Array, " bends"]
) -> Float64[Array, "resamples bends"]:
    """Unexplained share of the variance of `y` up to its maximum, by a level up to each bend and a rise from there.

    A bend from where the curve would fall explains nothing (share 1), and neither does any for a constant curve.
    """
    rise = np.maximum(0.0, x[:, None] - bends)  # [points, bends]
    weight = (np.arange(len(x)) <= np.argmax(y, axis=1)[:, None]).astype(np.float64)
    weight /= weight.sum(axis=1, keepdims=True)
    centred = y - (weight * y).sum(axis=1, keepdims=True)
    variance = (weight * centred**2).sum(axis=1, keepdims=True)
    covariance = (weight * centred) @ rise
    spread = weight @ rise**2 - (weight @ rise) ** 2
    useful = (covariance > 0) & (spread > 1e-12) & (variance > 1e-300)
    explained = covariance**2 / np.where(useful, spread * variance, 1.0)
    return np.where(useful, 1 - explained, 1.0)


def common_bend(costs: Float64[Array, "curves resamples bends"]) -> tuple[Array, Array]:
    """Index of the bend with the smallest mean cost over the curves, per resample, and that cost."""
    mean = costs.mean(axis=0)
    best = mean.argmin(axis=1)
    return best, np.take_along_axis(mean, best[:, None], axis=1)[:, 0]
