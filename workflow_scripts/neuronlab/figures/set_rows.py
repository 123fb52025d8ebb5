"""Panels with a row for each set of neurons: the set with its interval, its control sets beneath it on the same row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl

from neuronlab.figures import groups, theme
from neuronlab.figures.points import Axis

LIMIT, SINGLES = 8, 16
SINGLE = "single neurons"
OWN, SECOND, RANDOM, MATCHED = "own", "second", "random control set", "norm-matched control set"
SHAPES = {OWN: "circle", SECOND: "circle", RANDOM: "M0,-0.6L0,0.6", MATCHED: "diamond"}
CONTROLS = {"uniform": RANDOM, "norm_matched": MATCHED}
ROW = 34


@dataclass(frozen=True)
class Rows:
    """Which sets are drawn, in which order.

    Attributes:
        frame: the table's rows that are drawn, with the columns label (row), group (colour) and source (mark).
        order: labels from top to bottom.
        left_out: single neurons that are not drawn.
    """

    frame: pl.DataFrame
    order: list[str]
    left_out: int


def rows_of(table: pl.DataFrame) -> Rows:
    """Selections in the order of the table, their control sets, and single neurons.

    Args:
        table: with the columns of `schemas_sets.SET`; `single` rows are those of selected neurons.
    """
    selections = table.filter(pl.col("kind") == "selection")
    names = groups.highlighted_sets(selections, None)[:LIMIT]
    sizes = dict(selections.select("set", "n_neurons").unique(maintain_order=True).iter_rows())
    labels = {name: f"{groups.set_label(name)} ({sizes[name]}), jointly" for name in names}
    singles = table.filter(pl.col("kind") == "single")["set"].unique(maintain_order=True).to_list()
    joint = pl.col("kind").is_in(["selection", *CONTROLS])
    owner = pl.coalesce("control_of", "set")
    shown = table.filter(
        (joint & owner.is_in(names)) | ((pl.col("kind") == "single") & pl.col("set").is_in(singles[:SINGLES]))
    ).with_columns(
        label=pl.when(joint).then(owner.replace(labels)).otherwise(pl.col("set")),
        group=pl.when(joint)
        .then(owner.replace({name: groups.set_label(name) for name in names}))
        .otherwise(pl.lit(SINGLE)),
        source=pl.col("kind").replace_strict(CONTROLS, default=OWN, return_dtype=pl.String),
    )
    return Rows(shown, [*labels.values(), *singles[:SINGLES]], max(len(singles) - SINGLES, 0))


def colour_of(frame: pl.DataFrame) -> alt.Color:
    """A set has its colour, single neurons one for all."""
    present = frame["group"].unique(maintain_order=True).to_list()
    domain, colours = groups.colours([name for name in present if name != SINGLE])
    if SINGLE in present:
        domain, colours = [*domain, SINGLE], [*colours, theme.FAINT]
    return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colours), legend=None)


def row_panel(
    rows: Rows,
    measure: str,
    x: Axis,
    *,
    names: bool,
    second: str | None = None,
    reference: float | None = None,
) -> alt.LayerChart:
    """One measure of every row.

    Args:
        x: its axis; the column is `value`.
        names: whether the rows are named.
        second: another measure of the set itself, drawn hollow.
        reference: where a line stands for "no difference".
    """
    columns = ["label", "group", "source", "value", "low", "high", "set"]
    own = pl.col("source") == OWN
    none = pl.lit(None, pl.Float64)
    frame = rows.frame.with_columns(
        value=pl.col(measure),
        low=pl.when(own).then(f"{measure}_low").otherwise(none),
        high=pl.when(own).then(f"{measure}_high").otherwise(none),
    ).select(columns)
    if second is not None:
        hollow = rows.frame.filter(own).with_columns(value=pl.col(second), low=none, high=none, source=pl.lit(SECOND))
        frame = pl.concat([frame, hollow.select(columns)])
    frame = frame.drop_nulls("value")
    y = alt.Y(
        "label:N",
        sort=rows.order,
        scale=alt.Scale(domain=rows.order),
        title=None,
        axis=alt.Axis(
            grid=True, labels=names, ticks=False, domain=False, labelFontWeight="bold", labelLimit=280, labelPadding=8
        ),
    )
    colour = colour_of(frame)
    tips = [
        alt.Tooltip("set:N"),
        alt.Tooltip("value:Q", format=".4g"),
        alt.Tooltip("low:Q", format=".4g"),
        alt.Tooltip("high:Q", format=".4g"),
    ]
    base = alt.Chart(frame).encode(y=y, tooltip=tips)
    ticks = {} if x.log else {"values": few_ticks(x.domain)}

    def of(source: str) -> alt.Chart:
        return base.transform_filter(alt.FieldEqualPredicate(field="source", equal=source))

    layers: list[alt.Chart] = []
    if reference is not None:
        line = alt.Chart(pl.DataFrame({"value": [reference]}))
        layers.append(line.mark_rule(color="#9aa3ac", strokeWidth=1.2).encode(x=x.x(**ticks)))
    layers += [
        of(name).mark_point(shape=SHAPES[name], opacity=0.9, yOffset=9, **look).encode(x=x.x(**ticks))
        for name, look in {
            RANDOM: {"size": 120, "strokeWidth": 1.5, "color": theme.FAINT},
            MATCHED: {"size": 46, "strokeWidth": 1.5, "color": theme.INK, "filled": False},
        }.items()
    ]
    bounds = {"x": alt.X("low:Q", scale=x.scale(), axis=x.axis(**ticks)), "x2": "high:Q"}
    layers.append(of(OWN).mark_rule(strokeWidth=2.4, clip=True).encode(color=colour, **bounds))
    stroke = alt.Stroke("group:N", scale=colour["scale"], legend=None)
    layers.append(
        of(SECOND)
        .mark_point(shape="circle", size=70, filled=True, fill="white", strokeWidth=1.6, opacity=1)
        .encode(x=x.x(), stroke=stroke)
    )
    dots = of(OWN).mark_point(shape="circle", size=80, filled=True, opacity=1, stroke="white", strokeWidth=0.8)
    layers.append(dots.encode(x=x.x(), color=colour))
    return alt.layer(*layers).properties(width=x.pixels, height=max(80, ROW * len(rows.order)))


def few_ticks(domain: Sequence[float]) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within `domain`, at most seven, so that long numbers find room."""
    step = theme.round_up((domain[1] - domain[0]) / 6)
    first, last = math.ceil(domain[0] / step - 1e-9), math.floor(domain[1] / step + 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def key(marks: Sequence[tuple[str, str]], width: int) -> alt.LayerChart:
    """What the marks mean, as a row of its own: pairs of a mark of `SHAPES` and its name."""
    starts = [8.0]
    for _, name in marks[:-1]:
        starts.append(starts[-1] + 34 + 6.3 * len(name))
    frame = pl.DataFrame({"source": [m for m, _ in marks], "name": [n for _, n in marks], "at": starts[: len(marks)]})
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, width], nice=False, zero=False), axis=None)
    base = alt.Chart(frame).encode(x=x, y=alt.value(8))
    looks = {
        OWN: {"filled": True, "size": 80, "color": theme.INK},
        SECOND: {"filled": True, "fill": "white", "stroke": theme.INK, "size": 70, "strokeWidth": 1.6},
        RANDOM: {"filled": False, "size": 150, "strokeWidth": 1.5, "color": theme.FAINT},
        MATCHED: {"filled": False, "size": 56, "strokeWidth": 1.5, "color": theme.INK},
    }
    layers = [
        base.transform_filter(alt.FieldEqualPredicate(field="source", equal=mark)).mark_point(
            shape=SHAPES[mark], opacity=1, **looks[mark]
        )
        for mark, _ in marks
    ]
    texts = base.mark_text(align="left", dx=11, baseline="middle", fontSize=13, color=theme.INK)
    return alt.layer(*layers, texts.encode(text="name:N")).properties(width=width, height=18)
