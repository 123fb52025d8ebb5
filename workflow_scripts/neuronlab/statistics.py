"""Inference shared by every study: clustered bootstrap, Wilson intervals, ranks among controls.

Tokens of one document are not independent, so intervals resample documents (METHODS 0.6). One matrix of
`bootstrap_weights` serves every neuron and every effect, which keeps them resampled together: a function of
several means, such as M = 1 - DE/TE, sees TE and DE of the same resample.

A missing value is NaN here; tables turn it into a null. Streaming moments, histograms and medians of
activations are in `streaming.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num
from scipy.special import ndtri  # as in scipy.stats, which takes half a second to be imported

Array = np.ndarray
COLUMNS_PER_TILE = 4096  # bootstrap: columns resampled at a time, so that memory is resamples x tile


class StatisticsError(ValueError):
    """Input that no statistic can be computed from."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval, arrays of one shape; NaN where missing."""

    estimate: Float64[Array, "..."]
    low: Float64[Array, "..."]
    high: Float64[Array, "..."]


def bootstrap_weights(n_clusters: int, n_resamples: int, seed: int) -> Float64[Array, "resamples clusters"]:
    """How often each cluster occurs in each resample: rows are draws of `n_clusters` with replacement.

    Raises:
        StatisticsError: without a cluster or a resample.
    """
    if n_clusters < 1 or n_resamples < 1:
        raise StatisticsError(f"cannot draw {n_resamples} resamples of {n_clusters} documents")
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples).astype(np.float64)


def _quantiles(
    resampled: Float64[Array, "columns resamples"], level: float
) -> tuple[Float64[Array, " columns"], Float64[Array, " columns"]]:
    """Both ends of the percentile interval per row.

    Resamples in which the statistic is missing are left out, unless they are more than (1 - level)/2 of all:
    an end of the interval would then be undetermined, and is missing.
    """
    tail = (1 - level) / 2
    missing = np.isnan(resampled)
    usable = missing.mean(axis=1) <= tail
    low = np.full(len(resampled), np.nan)
    high = np.full(len(resampled), np.nan)
    whole = usable & ~missing.any(axis=1)
    for rows, quantile in ((whole, np.quantile), (usable & ~whole, np.nanquantile)):
        if rows.any():
            low[rows], high[rows] = quantile(resampled[rows], [tail, 1 - tail], axis=1)
    return low, high


def percentile_interval(
    estimate: Float64[Array, " columns"],
    resampled: Float64[Array, "resamples columns"],
    level: float = 0.95,
    *,
    clusters: int,
) -> Interval:
    """Percentile interval of any statistic that was computed anew for every resample.

    Args:
        resampled: the statistic per resample; NaN where it is undefined.
        clusters: how many were resampled: with one only there is nothing to resample, and the interval is missing.

    Raises:
        StatisticsError: for a level outside (0, 1), or shapes that do not fit.
    """
    estimate = np.asarray(estimate, dtype=np.float64)
    if not 0 < level < 1:
        raise StatisticsError(f"the level of an interval lies between 0 and 1, not at {level}")
    if resampled.shape[1:] != estimate.shape:
        raise StatisticsError(f"resamples {list(resampled.shape)} of an estimate {list(estimate.shape)} do not fit")
    low, high = _quantiles(np.ascontiguousarray(resampled.T), level)
    missing = np.isnan(estimate) | (clusters < 2)
    return Interval(estimate, np.where(missing, np.nan, low), np.where(missing, np.nan, high))


def clustered_function_interval(
    function: Callable[..., Float64[Array, "..."]],
    sums: tuple[Float64[Array, "clusters ..."], ...],
    counts: Num[Array, "clusters"],
    weights: Float64[Array, "resamples clusters"],
    level: float = 0.95,
) -> Interval:
    """Percentile interval of `function(*means)`, every mean a ratio of sums over resampled clusters.

    Args:
        function: elementwise on the means (arrays of one shape); NaN where it is undefined.
        sums: one array per mean: its sum within each cluster; all of one shape.
        counts: tokens within each cluster, the weight of the cluster in the means.
        weights: from `bootstrap_weights`; the same for whatever is to be resampled together.
        level: nominal coverage, between 0 and 1.

    Returns:
        The estimate over all clusters and its interval, of the shape of the sums without their first axis. The
        interval is missing where the estimate is, and where there is one cluster only: nothing to resample.

    Raises:
        StatisticsError: for shapes that do not fit, a level outside (0, 1), or no token at all.
    """
    counts = np.asarray(counts, dtype=np.float64)
    arrays = [np.asarray(array, dtype=np.float64) for array in sums]
    shape = arrays[0].shape
    if counts.ndim != 1 or any(array.shape != shape for array in arrays) or shape[0] != len(counts):
        raise StatisticsError(
            f"sums {[list(array.shape) for array in arrays]} and counts {list(counts.shape)} do not fit: clusters first"
        )
    if weights.shape[1] != len(counts):
        raise StatisticsError(f"weights are for {weights.shape[1]} clusters, the sums for {len(counts)}")
    if not 0 < level < 1:
        raise StatisticsError(f"the level of an interval lies between 0 and 1, not at {level}")
    if counts.sum() <= 0:
        raise StatisticsError("no counted token: there is no mean")
    columns = [array.reshape(len(counts), -1) for array in arrays]
    n_columns = columns[0].shape[1]
    estimate, low, high = (np.full(n_columns, np.nan) for _ in range(3))
    drawn = weights @ counts  # may be 0 if some clusters are empty and only those were drawn: missing there
    drawn = np.where(drawn > 0, drawn, np.nan)
    for start in range(0, n_columns, COLUMNS_PER_TILE):
        tile = slice(start, start + COLUMNS_PER_TILE)
        estimate[tile] = function(*(array[:, tile].sum(axis=0) / counts.sum() for array in columns))
        if len(counts) > 1:
            low[tile], high[tile] = _quantiles(
                function(*((array[:, tile].T @ weights.T) / drawn for array in columns)), level
            )
    low[np.isnan(estimate)] = np.nan
    high[np.isnan(estimate)] = np.nan
    return Interval(estimate.reshape(shape[1:]), low.reshape(shape[1:]), high.reshape(shape[1:]))


def clustered_interval(
    sums: Float64[Array, "clusters ..."],
    counts: Num[Array, "clusters"],
    weights: Float64[Array, "resamples clusters"],
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a mean over tokens, clustered by document: see `clustered_function_interval`."""
    return clustered_function_interval(lambda mean: mean, (sums,), counts, weights, level)


def mediated_fraction(
    total: Float64[Array, "..."], direct: Float64[Array, "..."], floor: float
) -> Float64[Array, "..."]:
    """M = 1 - DE/TE of mean absolute effects (METHODS A2); NaN where TE is not above `floor` (nats, >= 0).

    A ratio of means. It is the papers' measure, not a mediated fraction in the sense of causal mediation.
    """
    total, direct = np.asarray(total, dtype=np.float64), np.asarray(direct, dtype=np.float64)
    above = total > max(floor, 0.0)
    return np.where(above, 1 - direct / np.where(above, total, 1.0), np.nan)


def wilson_interval(successes: Num[Array, "..."], n: Num[Array, "..."], level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, elementwise; NaN where n is 0.

    Unlike p +- z sd it stays within [0, 1] and has width at p = 0 (METHODS B defect 11).

    Raises:
        StatisticsError: unless 0 <= successes <= n and 0 < level < 1.
    """
    successes, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(n, np.float64))
    if (successes < 0).any() or (successes > n).any() or not 0 < level < 1:
        raise StatisticsError("a proportion needs 0 <= successes <= n, and a level between 0 and 1")
    z = ndtri(0.5 + level / 2)
    some = n > 0
    trials = np.where(some, n, 1.0)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # At p = 0 and p = 1 the end is exact, but for rounding.
    low = np.where(successes == 0, 0.0, centre - half)
    high = np.where(successes == n, 1.0, centre + half)
    return Interval(*(np.where(some, values, np.nan) for values in (share, low, high)))


def rank_p_value(
    values: Num[Array, "..."], controls: Num[Array, "... controls"], alternative: str = "greater"
) -> Float64[Array, "..."]:
    """p = (1 + b) / (1 + n), b the number of n controls that are at least as extreme (METHODS 0.6).

    Args:
        controls: the last axis holds the controls of each value.
        alternative: 'greater' (a control >= the value counts) or 'less'.

    Raises:
        StatisticsError: without controls, with NaN, or for another alternative.
    """
    values, controls = np.asarray(values, np.float64), np.asarray(controls, np.float64)
    if not controls.shape or not controls.shape[-1] or np.isnan(controls).any() or np.isnan(values).any():
        raise StatisticsError("a rank among controls needs at least one control, and no missing value")
    if alternative == "greater":
        extreme = controls >= values[..., None]
    elif alternative == "less":
        extreme = controls <= values[..., None]
    else:
        raise StatisticsError(f"alternative is 'greater' or 'less', not '{alternative}'")
    return (1 + extreme.sum(axis=-1)) / (1 + controls.shape[-1])
