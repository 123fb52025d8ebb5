"""Curves over depth, of one model or of several in one picture.

A figure takes one table, of the model that `model` names, or as many tables as `model` names models, in their order, or
a mapping from models to tables. Several models are drawn over relative depth, layer / (layers - 1), in the colours that
they have in all figures of depth (`families`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import theme
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

Tables = str | Path | Sequence[str | Path] | Mapping[str, str | Path]

FEW = 4  # up to so many layers an interval is a bar: a band between them would claim what was not measured
MARGIN = 0.03  # of the axis of depth beyond the first and the last layer: room for dots beside one another
LABELLED = 13  # layers named along an axis, at most


class OverlayError(ValueError):
    """Tables that do not say whose they are."""


def read(tables: Tables, schema: str, model: str | Sequence[str] | None) -> dict[str, pl.DataFrame]:
    """The tables by model.

    Args:
        model: whose they are; not needed for a mapping, which says so itself.

    Raises:
        OverlayError: not as many models as tables, or none.
        TableError: unusable table.
    """
    if isinstance(tables, Mapping):
        paths = dict(tables)
    else:
        given = [tables] if isinstance(tables, str | Path) else list(tables)
        names = [model] if isinstance(model, str) else list(model or [])
        if len(given) != len(names) or len(set(names)) < len(names):
            raise OverlayError(
                f"{len(given)} tables '{schema}' ({', '.join(map(str, given))}) for the models "
                f"{', '.join(names) or 'none'}: give one model for each table, and each model once"
            )
        paths = dict(zip(names, given, strict=True))
    if not paths:
        raise OverlayError(f"no table '{schema}' to draw: name at least one model in stages_of_inference.models")
    return {name: read_table(path, schema) for name, path in paths.items()}


def stack(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All rows, with the column `model`, in the order of the mapping."""
    return pl.concat([frame.with_columns(model=pl.lit(model)) for model, frame in frames.items()])


def depth_x(frame: pl.DataFrame, *, title: bool = True) -> alt.X:
    """The horizontal axis: relative depth; of a single model its layers are named, each at its relative depth.

    Args:
        frame: columns depth, layer and model.
    """
    layers = frame.select("layer", "depth").unique().sort("layer")
    single = frame["model"].n_unique() == 1
    domain = [-0.5, 0.5] if layers["depth"].max() == 0 else [-MARGIN - 0.005, 1.005 + MARGIN]
    options = {"grid": False, "values": [0, 0.25, 0.5, 0.75, 1], "format": ".2~f"}
    name = "relative depth: layer / (layers \N{MINUS SIGN} 1)"
    if single:
        step = -(-len(layers) // LABELLED)
        shown = layers.filter(pl.col("layer") % step == 0)
        labels = [f"abs(datum.value - {depth!r}) < 1e-9 ? '{layer}'" for layer, depth in shown.iter_rows()]
        last = int(layers["layer"].max())
        name = "layer" if len(layers) == 1 else f"layer (0 to {last}: relative depth 0 to 1)"
        options = {"grid": False, "values": shown["depth"].to_list(), "labelExpr": " : ".join([*labels, "''"])}
    axis = alt.Axis(title=name if title else None, labelOverlap=False, **options)
    return alt.X("depth:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=axis)


def curve(
    frame: pl.DataFrame, x: alt.X, y: Axis, style: dict[str, object], *, tooltip: Sequence[alt.Tooltip] = ()
) -> list[alt.Chart]:
    """A line with dots over depth, behind it the interval: a band, or bars where there are few layers.

    Args:
        frame: columns depth, layer, model, `y.column` and its two ends; rows with a missing value are left out.
        style: encodings of colour, and of dashes or detail, that tell lines apart.
    """
    column = y.column
    shown = frame.drop_nulls(column)
    # The band needs the colour alone; a dashed area has no meaning.
    plain = {key: value for key, value in style.items() if key != "strokeDash"}
    base, ends = alt.Chart(shown).encode(x=x), {"y2": f"{column}_high:Q"}
    low = alt.Y(f"{column}_low:Q", scale=y.scale(), axis=y.axis())
    few = most_layers(shown) <= FEW
    mark = base.mark_rule(strokeWidth=1.8, opacity=0.75) if few else base.mark_area(opacity=0.18, line=False)
    dots = base.mark_circle(size=34 if shown["layer"].n_unique() <= 24 else 16, opacity=1)
    return [
        mark.encode(y=low, **ends, **plain),
        base.mark_line(strokeWidth=2).encode(y=y.y(), **style),
        dots.encode(y=y.y(), **plain, tooltip=list(tooltip)),
    ]


def most_layers(frame: pl.DataFrame) -> int:
    """Layers of the model that has most of them: they decide between bars and bands for a whole figure."""
    return int(frame.group_by("model").agg(pl.col("layer").n_unique())["layer"].max() or 0)


def dodged(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """`frame` with lines of different `column` a little beside one another where their intervals are bars."""
    if most_layers(frame) > FEW:
        return frame
    names = frame[column].unique(maintain_order=True).to_list()
    step = min(0.014, 2 * MARGIN / max(1, len(names) - 1))
    shift = {name: step * (i - (len(names) - 1) / 2) for i, name in enumerate(names)}
    return frame.with_columns(depth=pl.col("depth") + pl.col(column).replace_strict(shift, return_dtype=pl.Float64))


def ticks(top: float, *, whole: bool = False) -> list[float]:
    """Ticks from zero, some five, none so close to `top` that its label would stick out of the panel."""
    power = 10.0 ** np.floor(np.log10(top / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if top / (factor * power) <= 7)
    step = max(1.0, step) if whole else step
    return [float(f"{i * step:.6g}") for i in range(int(0.97 * top / step) + 1)]


def heading(text: str, subtitle: str | None = None, colour: str = theme.INK) -> alt.Title:
    """Title of a panel."""
    more = {"subtitle": subtitle, "subtitleFontSize": 12, "subtitlePadding": 3} if subtitle else {}
    return alt.Title(text, color=colour, fontSize=13, anchor="start", frame="group", offset=8, **more)
