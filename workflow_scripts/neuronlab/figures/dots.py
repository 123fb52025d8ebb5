"""Clouds of many points as one path: a picture of thousands of neurons stays small.

One element per point costs some 350 bytes in a vector graphic. Here a point is a stroke of (almost) no length with
round ends within one long path, which costs some 35.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures.points import Axis

STROKE = 0.02  # length of a stroke in pixels: a path element without length is not drawn everywhere


def strokes(frame: pl.DataFrame, x: Axis, y: Axis, keep: list[str] | None = None) -> pl.DataFrame:
    """Three rows per point: where its stroke begins, where it ends, and a missing one that breaks the path.

    Args:
        frame: with the columns of both axes, without missing values.
        keep: further columns, such as the one of a facet.
    """
    at_x, at_y = frame[x.column].to_numpy(), frame[y.column].to_numpy()
    ends = x.value(x.place(at_x) + STROKE) if len(frame) else at_x
    triples = {x.column: np.stack([at_x, ends, np.full(len(frame), np.nan)], axis=1).ravel()}
    triples[y.column] = np.stack([at_y, at_y, np.full(len(frame), np.nan)], axis=1).ravel()
    repeated = frame.select(keep or [])[np.repeat(np.arange(len(frame)), 3)] if keep else pl.DataFrame()
    rows = pl.concat([pl.DataFrame(triples).with_columns(pl.all().fill_nan(None)), repeated], how="horizontal")
    return rows.with_row_index("row")


def dots(
    frame: pl.DataFrame,
    x: Axis,
    y: Axis,
    colour: alt.Color | alt.Value,
    *,
    diameter: float = 5.0,
    opacity: float = 1.0,
    keep: list[str] | None = None,
) -> alt.Chart:
    """The points of `frame` in one colour; where points overlap, the colour does not add up."""
    mark = alt.Chart(strokes(frame, x, y, keep)).mark_line(
        strokeWidth=diameter,
        strokeCap="round",
        strokeJoin="round",
        opacity=opacity,
        invalid="break-paths-show-path-domains",
    )
    return mark.encode(x=x.x(), y=y.y(), color=colour, order=alt.Order("row:Q"))
