"""Lines over the depth of a model, each with its interval: what the figures of study C share.

A frame to draw has the columns series, x, value, low, high and said (what a tooltip calls the place). A series without
intervals has lines alone; a single point is a dot. Intervals are bands, or bars where a series has few places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from neuronlab.figures import theme

COLUMNS = ("series", "x", "value", "low", "high", "said")
MODEL_COLOURS = (theme.BLUE, theme.VERMILION, theme.GREEN, theme.ORANGE, theme.PURPLE, theme.SKY)
DASHES = ([1, 0], [6, 3], [2, 2])
WIDE = 12.0  # a ratio of largest to median size from which an axis of signed values compresses its ends
DOTS = 48  # a longer line has no dots
FEW = 4  # of so few places an interval is a bar: a band between them would claim what was not measured
ROOM = 0.12  # of the axis, between neighbouring ticks where they are not evenly spaced
EXTENT = 46  # of labelled vertical axes, so that panels stand below one another
LABELLED = {"minExtent": EXTENT, "maxExtent": EXTENT}
BARE = {"labels": False, "ticks": False, "minExtent": 0, "maxExtent": 0}


@dataclass(frozen=True)
class Look:
    """One series: its name, and how it is drawn."""

    name: str
    colour: str
    dash: Sequence[int] = (1, 0)


def model_looks(models: Sequence[str]) -> list[Look]:
    """A colour for each model, and another dash once the colours are used up."""
    turns = [divmod(i, len(MODEL_COLOURS)) for i in range(len(models))]
    return [
        Look(model, MODEL_COLOURS[i], DASHES[turn % len(DASHES)])
        for model, (turn, i) in zip(models, turns, strict=True)
    ]


def rows_of(table: pl.DataFrame, quantity: str, series: str | pl.Expr, x: str | pl.Expr, said: pl.Expr) -> pl.DataFrame:
    """The table's `quantity` as rows to draw; rows where it is missing are left out."""
    named = pl.lit(series) if isinstance(series, str) else series
    place = pl.col(x) if isinstance(x, str) else x
    ends = [pl.col(f"{quantity}_{end}").cast(pl.Float64).alias(end) for end in ("low", "high")]
    return table.drop_nulls(quantity).select(
        series=named.cast(pl.String),
        x=place.cast(pl.Float64),
        value=pl.col(quantity).cast(pl.Float64),
        low=ends[0],
        high=ends[1],
        said=said.cast(pl.String),
    )


@dataclass(frozen=True)
class Vertical:
    """A vertical axis: its scale, and how it is labelled."""

    scale: alt.Scale
    axis: dict[str, object]
    floor: float | None = None  # the lowest value that has a place
    unit: float | None = None  # the axis is compressed beyond it

    def y(self, column: str, title: str | list[str] | None) -> alt.Y:
        """The encoding; an axis without a title has no labels either: the panel to its left has them."""
        extent = LABELLED if title else BARE
        return alt.Y(f"{column}:Q", scale=self.scale, axis=alt.Axis(**{**self.axis, "title": title, **extent}))


def vertical(*frames: pl.DataFrame, kind: str = "linear", include: Sequence[float] = ()) -> Vertical:
    """An axis for the values and intervals of `frames`.

    Args:
        kind: `linear`; `share`, a linear one in per cent within 0 and 1; `log`, if all values are positive; `signed`, a
            linear one that compresses both ends if the largest size is more than `WIDE` times the median one.
    """
    values = pl.concat([frame["value"] for frame in frames])
    ends = [frame[column] for frame in frames for column in ("value", "low", "high")]
    low, high = theme.linear_domain(*ends, include=include, pad=0.06)
    if kind == "share":
        scale = alt.Scale(domain=[max(0.0, low), min(1.06, high)], nice=False, zero=False)
        return Vertical(scale, {"tickCount": 4, "format": "%"})
    if kind == "log" and len(values) and values.min() > 0:
        # The lower end of an interval may lie at 0: it does not decide how far the axis reaches.
        domain = theme.log_domain(values, *(end.filter(end > values.min() / 5) for end in ends), pad=0.06)
        ticks = _ticks(domain, lambda value: float(np.log(max(value, 1e-300))))
        scale = alt.Scale(domain=domain, type="log", nice=False)
        return Vertical(scale, {"values": ticks, "labelExpr": theme.log_labels(ticks)}, domain[0])
    sizes = np.abs(values.to_numpy())
    sizes = sizes[sizes > 0]
    if kind == "signed" and len(sizes) > 2 and sizes.max() > WIDE * np.median(sizes):
        unit = theme.round_up(float(np.median(sizes)))
        reach = pl.concat([*ends, pl.Series(include, dtype=pl.Float64)]).drop_nulls().to_numpy()
        # The margin is one of the compressed axis: in nats it would be wide around zero.
        at = theme.linear_domain(pl.Series(_compressed(reach, unit)), pad=0.05)
        low, high = (float(np.sign(end) * unit * np.expm1(abs(end))) for end in at)
        ticks = _ticks([low, high], lambda value: float(_compressed(np.array(value), unit)))
        scale = alt.Scale(domain=[low, high], type="symlog", constant=unit, nice=False)
        return Vertical(scale, {"values": ticks, "format": "~g"}, unit=unit)
    return Vertical(alt.Scale(domain=[low, high], nice=False, zero=False), {"tickCount": 4})


def _compressed(values: Float[np.ndarray, "..."], unit: float) -> Float[np.ndarray, "..."]:
    """Where values lie on an axis that is linear within `unit` and logarithmic far beyond it."""
    return np.sign(values) * np.log1p(np.abs(values) / unit)


def _ticks(domain: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """0, powers of ten, then 5 and 2 times them, as far as there is room.

    Args:
        place: where on the axis a value is.
    """
    low, high = place(domain[0]), place(domain[1])
    powers = [10.0**power for power in range(-9, 7)]
    sizes = [0.0, *(factor * power for factor in (1, 5, 2) for power in reversed(powers))]
    kept: list[float] = []
    for size in sizes:
        for value in {size, -size}:
            at = place(value) if domain[0] <= value <= domain[1] else None
            if at is not None and all(abs(at - place(other)) >= ROOM * (high - low) for other in kept):
                kept.append(float(f"{value:.6g}"))
    return sorted(kept)


def colours(looks: Sequence[Look]) -> tuple[alt.Color, alt.StrokeDash]:
    """The encodings of all series of a figure: panels side by side share them, so each is given all."""
    names = [look.name for look in looks]
    colour = alt.Scale(domain=names, range=[look.colour for look in looks])
    dash = alt.Scale(domain=names, range=[list(look.dash) for look in looks])
    return alt.Color("series:N", scale=colour, legend=None), alt.StrokeDash("series:N", scale=dash, legend=None)


def lines(
    frame: pl.DataFrame,
    looks: Sequence[Look],
    x: alt.X,
    axis: Vertical,
    title: str | list[str] | None,
    *,
    quantity: str,
) -> list[alt.Chart]:
    """Layers: bands or bars, lines and dots of every series.

    Args:
        looks: of all series in the figure.
        x: of the column x.
        title: of the vertical axis; None for a panel whose left neighbour has it.
        quantity: what a tooltip calls the value.
    """
    colour, dash = colours(looks)
    if axis.floor is not None:
        frame = frame.with_columns(pl.col("low").clip(lower_bound=axis.floor))
    frame = frame.with_columns(few=pl.col("x").n_unique().over("series") <= FEW)
    base = alt.Chart(frame).encode(x=x)
    tips = [alt.Tooltip("series:N"), alt.Tooltip("said:N", title="where")]
    tips += [alt.Tooltip(f"{c}:Q", title=quantity if c == "value" else c, format=".4g") for c in COLUMNS[2:5]]
    known = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    ends = {"y": axis.y("low", title), "y2": "high:Q"}
    y = axis.y("value", title)
    layers = [
        known.transform_filter("!datum.few")
        .mark_area(opacity=0.17, line=False)
        .encode(**ends, color=colour, detail="series:N"),
        base.mark_line(strokeWidth=1.8, strokeJoin="round").encode(y=y, color=colour, strokeDash=dash, tooltip=tips),
    ]
    if frame["few"].any():
        bars = known.transform_filter("datum.few").mark_rule(strokeWidth=1.4)
        layers.append(bars.encode(**ends, color=colour))
    if frame["x"].n_unique() <= DOTS or frame["few"].any():
        layers.append(base.mark_point(filled=True, size=26, opacity=1).encode(y=y, color=colour, tooltip=tips))
    return layers


def key(looks: Sequence[Look], shown: Sequence[Look], width: int) -> alt.LayerChart:
    """What the lines of the series `shown` mean, as rows of its own: a piece of each line and its name.

    Args:
        looks: of all series in the figure.
    """
    at, row, places = 0.0, 0, []
    for look in shown:
        need = 33 + 6.4 * len(look.name) + 16
        if at and at + need > width:
            at, row = 0.0, row + 1
        places.append({"series": look.name, "at": at, "end": at + 26, "words": at + 33, "row": row})
        at += need
    frame = pl.DataFrame(places, schema_overrides=dict.fromkeys(("at", "end", "words"), pl.Float64))
    across = alt.Scale(domain=[0, width], nice=False, zero=False)
    colour, dash = colours(looks)
    y = alt.Y("row:Q", scale=alt.Scale(domain=[row + 0.5, -0.5], nice=False, zero=False), axis=None)
    base = alt.Chart(frame).encode(y=y)
    strokes = base.mark_rule(strokeWidth=2.2).encode(
        x=alt.X("at:Q", scale=across, axis=None), x2="end:Q", color=colour, strokeDash=dash
    )
    words = base.mark_text(align="left", baseline="middle", fontSize=12.5, color=theme.INK)
    named = words.encode(x=alt.X("words:Q", scale=across, axis=None), text="series:N")
    return alt.layer(strokes, named).properties(width=width, height=18 * (row + 1))


def about(models: Sequence[str], text: str | None, *facts: str) -> str:
    """First line of a subtitle; the key names the models where there are several."""
    if len(models) == 1:
        return theme.about(models[0], text, *facts)
    return "  ·  ".join([theme.count(len(models), "model"), *([f"text {text}"] if text else []), *facts])


def heading(chart: alt.LayerChart, words: str) -> alt.LayerChart:
    """The chart with a bold line above it."""
    title = alt.Title(words, fontSize=13, fontWeight="bold", color=theme.INK, anchor="start", frame="group", offset=6)
    return chart.properties(title=title)


def marks(layers: int) -> str:
    """What intervals are drawn as in a figure of models of up to so many layers."""
    return "bars" if layers <= FEW else "bands"


def span(counts: pl.Series, noun: str) -> str:
    """How many there are of something: one number, or the smallest and the largest of several."""
    low, high = int(counts.min()), int(counts.max())
    return theme.count(low, noun) if low == high else f"{low:,} to {high:,} {noun}s"
