"""Histograms along the sides of a scatter plot."""

from __future__ import annotations

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import groups
from neuronlab.figures.points import Axis

BINS = 60


def margin(frame: pl.DataFrame, axis: Axis, vertical: bool, depth: int = 54) -> alt.LayerChart:
    """Histogram of all neurons along one side of the scatter plot, with a tick per highlighted neuron."""
    edges = axis.value(np.linspace(0, axis.pixels, BINS + 1))
    counts, _ = np.histogram(np.clip(frame[axis.column].to_numpy(), edges[0], edges[-1]), bins=edges)
    bars = pl.DataFrame({"low": edges[:-1], "high": edges[1:], "neurons": counts})
    chosen = frame.filter(~pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
    along = {"scale": axis.scale(), "axis": None}
    across = {"axis": None, "scale": alt.Scale(domain=[0, max(int(counts.max()), 1)])}
    colour = groups.colour_encoding(frame["group"].unique(maintain_order=True).to_list())
    # An invisible second axis would reserve space; neither side has one, and the counts are in the legend.
    if vertical:
        hist = (
            alt.Chart(bars)
            .mark_rect(color="#aab2ba")
            .encode(y=alt.Y("low:Q", **along), y2="high:Q", x=alt.X("neurons:Q", **across), x2=alt.datum(0))
        )
        rug = (
            alt.Chart(chosen)
            .mark_tick(thickness=1.6, size=12, opacity=1)
            .encode(y=alt.Y(f"{axis.column}:Q", **along), x=alt.value(6), color=colour)
        )
        return alt.layer(hist, rug).properties(width=depth, height=axis.pixels)
    hist = (
        alt.Chart(bars)
        .mark_rect(color="#aab2ba")
        .encode(x=alt.X("low:Q", **along), x2="high:Q", y=alt.Y("neurons:Q", **across), y2=alt.datum(0))
    )
    rug = (
        alt.Chart(chosen)
        .mark_tick(thickness=1.6, size=12, opacity=1, orient="vertical")
        .encode(x=alt.X(f"{axis.column}:Q", **along), y=alt.value(depth - 6), color=colour)
    )
    return alt.layer(hist, rug).properties(width=axis.pixels, height=depth)
