"""Streamed descriptions of a layer's activations as rows of activation_statistics.parquet."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Float

from neuronlab.streaming import Histogram, MedianSearch, Moments, PositionMeans


def statistics_frame(
    layer: int, moments: Moments, means: PositionMeans, histogram: Histogram, median: MedianSearch
) -> pl.DataFrame:
    """One layer's rows of activation_statistics.parquet."""

    def missing(values: Float[np.ndarray, " neurons"]) -> pl.Series:
        return pl.Series(values, dtype=pl.Float64).fill_nan(None)

    n = moments.n_neurons
    return pl.DataFrame(
        {
            "layer": pl.Series([layer] * n, dtype=pl.Int32),
            "neuron": pl.Series(range(n), dtype=pl.Int32),
            "n_tokens": pl.Series([moments.count] * n, dtype=pl.Int64),
            "mean": moments.mean,
            "sd": moments.sd,
            "min": moments.min,
            "max": moments.max,
            "median": median.median,
            "mode": histogram.mode,
            "skew": missing(moments.skew),
            "kurtosis": missing(moments.kurtosis),
            "histogram": pl.Series(histogram.counts.tolist(), dtype=pl.List(pl.Int64)),
            "position_means": pl.Series(means.means.T.tolist(), dtype=pl.List(pl.Float64)),
        }
    )
