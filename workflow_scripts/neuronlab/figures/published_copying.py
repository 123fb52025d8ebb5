"""Study B's published scores against ours: transition scores, conversion ratios, clean labels, replaced activations.

Published above, ours below in every row, controls in grey. A value that a defect of the published code made is hollow
and carries a number, which the reasons under the panels take up: it is no target.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_labels, points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

TITLE = "Context copying: published scores against ours"
PUBLISHED, OURS = "published", "ours"
CONTROL, OUR_CONTROL = "published controls, mean", "our controls, mean"
SERIES = {PUBLISHED: theme.VERMILION, CONTROL: "#b9a394", OURS: theme.BLUE, OUR_CONTROL: "#9aa3ac"}
SHAPES = ("diamond", "diamond", "circle", "circle")
SMALL_TICKS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # percent, on an axis that is linear near zero
ROW, WIDTH, SQUARE = 30, 330, 250
WRAP = 132
READ = r"approximate|rough|within about"
HELD = "mean"  # the replacement whose constants are drawn
TS, CR = "transition score", "conversion ratio"
LEFT = (TS, "cells", CR)
PANELS = {
    TS: "share of labels that change (global transition score), %",
    "percentile": "percentile of the selection among random sets, %",
    "cells": "share of a clean label's prompts that gets another one, %",
    CR: "conversion ratio: of the prompts without a label, those that get it, %",
    "count": "prompts by clean label, number",
    "share": "prompts by clean label, %",
}


def name_row(measure: str, replacement: str, approximate: bool) -> tuple[str, str] | None:
    """(panel, label) of a published value; None for those that are not drawn as a row."""
    parts = measure.split("_")
    sign = " ~" if approximate else ""
    replaced = replacement.replace("-", theme.MINUS)
    if measure == "gts":
        return TS, replaced + sign
    if measure == "gts_control_max":
        return TS, f"{replaced}, largest control{sign}"
    if measure == "gts_percentile":
        return "percentile", replaced + sign
    label = parts[1].upper()
    if parts[0] == "ts" and parts[1] != parts[2]:
        return "cells", copying_labels.transition(label, parts[2].upper()) + sign
    if parts[0] == "cr":
        return CR, f"to {copying_labels.NAMES[label]}{sign}"
    if parts[0] in ("count", "share"):
        return parts[0], copying_labels.NAMES[label] + sign
    return None


def prepare(published: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Long frame with one row per drawn value, and the numbers of the reasons why published ones are not usable.

    Columns panel, label, place (of the row), series, value, low, high, usable, number (of the reason; else missing),
    note. Rows of the table with nothing published and nothing of ours are left out.
    """
    rows, reasons = [], {}
    approximate = published["source"].str.contains(READ).to_list()
    for place, (row, read) in enumerate(zip(published.iter_rows(named=True), approximate, strict=True)):
        named = name_row(row["measure"], row["replacement"], read)
        if named is None:
            continue
        panel, label = named
        bad = not row["usable"]
        if bad:
            reasons.setdefault(row["note"], len(reasons) + 1)
        error = row["control_3se"]
        middle = row["published_control"]
        below, above = (None if error is None else max(0.0, middle + sign * error) for sign in (-1, 1))
        values = {
            PUBLISHED: (row["published"], None, None),
            CONTROL: (middle, below, above),
            OURS: (row["ours"], row["ours_low"], row["ours_high"]),
            OUR_CONTROL: (row["ours_control"], None, None),
        }
        for series, (value, low, high) in values.items():
            # Ours stands once beside a value that was published twice, such as a bar and what it should have been.
            if value is None or (
                series in (OURS, OUR_CONTROL) and any(_same(old, panel, label, series) for old in rows)
            ):
                continue
            hollow = bad and series == PUBLISHED
            rows.append(
                {"panel": panel, "label": label, "place": place, "series": series, "value": value}
                | {"low": low, "high": high, "usable": not hollow, "note": row["note"]}
                | {"number": str(reasons[row["note"]]) if hollow else None}
            )
    schema = dict.fromkeys(("panel", "label", "series", "note", "number"), pl.String)
    schema |= dict.fromkeys(("value", "low", "high"), pl.Float64) | {"place": pl.Int32, "usable": pl.Boolean}
    return pl.DataFrame(rows, schema=schema), reasons


def _same(row: dict, panel: str, label: str, series: str) -> bool:
    return (row["panel"], row["label"], row["series"]) == (panel, label, series)


def _scale(panel: str, frame: pl.DataFrame) -> tuple[alt.Scale, alt.Axis]:
    """Horizontal scale and axis of a panel."""
    title = PANELS[panel]
    if panel == "count":  # no logarithm: a label that no prompt has is a result
        end = 1.2 * max(10.0, float(frame["value"].max() or 0))
        ticks = [0, *(10**power for power in range(1, 8) if 10**power <= end)]
        axis = alt.Axis(title=title, values=ticks, labelExpr="format(datum.value, ',')")
        return alt.Scale(type="symlog", constant=5, domain=[-1, end], nice=False, clamp=True), axis
    if panel in ("percentile", "share"):
        return alt.Scale(domain=[0, 100], nice=False), alt.Axis(title=title, values=[0, 25, 50, 75, 100])
    largest = max([3.0, *(v for column in ("value", "high") for v in frame[column].drop_nulls())])
    end = next((tick for tick in SMALL_TICKS if tick >= largest), 100.0)
    values = [tick for tick in SMALL_TICKS if tick <= end]
    scale = alt.Scale(type="symlog", constant=0.1, domain=[-0.02, end * 1.1], nice=False, clamp=True)
    return scale, alt.Axis(title=title, values=values, labelExpr="datum.value + ''")


def panel(frame: pl.DataFrame, name: str) -> alt.LayerChart:
    """One panel: a row for every published value, and in it what is known of it."""
    frame = frame.filter(pl.col("panel") == name)
    order = frame.sort("place")["label"].unique(maintain_order=True).to_list()
    scale, axis = _scale(name, frame)
    axis.titleAnchor, axis.titleAlign = "start", "left"
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(ticks=False, domain=False, grid=True, labelLimit=300))
    x = alt.X("value:Q", scale=scale, axis=axis)
    offset = alt.YOffset("series:N", scale=alt.Scale(domain=list(SERIES), paddingOuter=0.3))
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(SERIES), range=list(SERIES.values())), legend=None)
    base = alt.Chart(frame).encode(y=y, yOffset=offset)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=list(SERIES), range=list(SHAPES)), legend=None)
    tips = [alt.Tooltip("series:N"), alt.Tooltip("value:Q", format=".3g"), alt.Tooltip("note:N")]
    ends = base.transform_filter("datum.low !== null && datum.high !== null")
    layers = [
        ends.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", color=colour),
        base.transform_filter("datum.usable")
        .mark_point(size=52, filled=True, opacity=1)
        .encode(x=x, color=colour, shape=shape, tooltip=tips),
        base.transform_filter("!datum.usable")
        .mark_point(size=52, filled=False, strokeWidth=1.4, opacity=1)
        .encode(x=x, color=colour, shape=shape, tooltip=tips),
        base.transform_filter("datum.number !== null")
        .mark_text(align="left", dx=8, fontSize=10.5, color=theme.FAINT)
        .encode(x=x, text="number:N"),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=ROW * len(order))


def activation_panel(published: pl.DataFrame) -> alt.LayerChart | None:
    """What every entropy neuron was held at against what we hold it at; None where one of them is missing."""
    rows = published.filter(pl.col("measure").str.contains(r"^activation_\d+$"), pl.col("replacement") == HELD)
    rows = rows.drop_nulls(["published", "ours"]).with_columns(label=pl.col("measure").str.extract(r"(\d+)"))
    if rows.is_empty():
        return None
    domain = tuple(theme.linear_domain(rows["published"], rows["ours"], pad=0.12))
    x = Axis("published", f"published {HELD} activation", domain, pixels=SQUARE)
    y = Axis("ours", f"our {HELD} activation", domain, pixels=SQUARE)
    ends = pl.DataFrame({"published": list(domain), "ours": list(domain)})
    diagonal = alt.Chart(ends).mark_line(color="#9aa3ac", strokeDash=[4, 3]).encode(x=x.x(), y=y.y())
    marks = (
        alt.Chart(rows)
        .mark_point(size=52, shape="diamond", filled=False, strokeWidth=1.4, opacity=1, color=theme.VERMILION)
        .encode(x=x.x(), y=y.y())
    )
    texts = points.label_layer(points.place_labels(rows, x, y), x, y, alt.value(theme.INK))
    return alt.layer(diagonal, marks, *texts).properties(width=SQUARE, height=SQUARE)


def key() -> alt.LayerChart:
    """What the marks mean, as a row of its own."""
    names = {PUBLISHED: 0, CONTROL: 215, OURS: 400, OUR_CONTROL: 480}
    entries = [{"x": x, "series": name, "name": name, "filled": True} for name, x in names.items()]
    entries.append({"x": 85, "series": PUBLISHED, "name": "made by a defect", "filled": False})
    frame = pl.DataFrame(entries)
    base = alt.Chart(frame).encode(x=alt.X("x:Q", scale=alt.Scale(domain=[0, 2 * WIDTH]), axis=None), y=alt.value(8))
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(SERIES), range=list(SERIES.values())), legend=None)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=list(SERIES), range=list(SHAPES)), legend=None)
    marks = [
        base.transform_filter(f"datum.filled === {'true' if filled else 'false'}")
        .mark_point(size=60, filled=filled, strokeWidth=1.4, opacity=1)
        .encode(color=colour, shape=shape)
        for filled in (True, False)
    ]
    texts = base.mark_text(align="left", dx=9, fontSize=12.5, color=theme.INK).encode(text="name:N")
    return alt.layer(*marks, texts).properties(width=2 * WIDTH, height=18)


def reasons_chart(reasons: dict[str, int], width: int) -> alt.Chart | None:
    """The numbered reasons as lines of text; None without any."""
    lines = [
        line
        for reason, number in reasons.items()
        for line in textwrap.wrap(f"{number}  {reason}", WRAP, subsequent_indent="    ")
    ]
    if not lines:
        return None
    frame = pl.DataFrame({"text": lines, "row": list(range(len(lines)))})
    return (
        alt.Chart(frame)
        .mark_text(align="left", baseline="top", fontSize=11.5, color=theme.FAINT)
        .encode(
            text="text:N",
            x=alt.value(0),
            y=alt.Y("row:Q", scale=alt.Scale(domain=[0, len(lines)], reverse=True), axis=None),
        )
        .properties(width=width, height=17 * len(lines))
    )


def shared_neurons(published: pl.DataFrame) -> str | None:
    """The statement about how far our selection is the published one."""
    row = published.filter(pl.col("measure") == "shared_neurons").head(1)
    if row.is_empty() or row["ours"][0] is None:
        return "nothing of ours: no selection has neurons in the last layer"
    return (
        f"our selection '{row['set'][0]}' holds {row['ours'][0]:.0f} of the {row['published'][0]:.0f} published neurons"
    )


def chart(published: pl.DataFrame, *, model: str, facts: str, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the table `published_copying`."""
    frame, reasons = prepare(published)
    prompts = published.filter(pl.col("measure").str.starts_with("count_"))["n"].drop_nulls()
    about = copying_labels.about(
        model, facts, theme.count(int(prompts[0]), "prompt of ours", "prompts of ours") if len(prompts) else None
    )
    if frame.is_empty():
        return theme.finish(theme.note_chart("no published score of this model"), TITLE, [about])
    present = [name for name in PANELS if name in frame["panel"]]
    left = [panel(frame, name) for name in present if name in LEFT]
    right = [panel(frame, name) for name in present if name not in LEFT]
    if (activations := activation_panel(published)) is not None:
        right.append(activations)
    columns = [alt.vconcat(*parts, spacing=24) for parts in (left, right) if parts]
    body = [key(), alt.hconcat(*columns, spacing=30)]
    if (listed := reasons_chart(reasons, 2 * WIDTH + 30)) is not None:
        body.append(listed)
    replaced = published.filter(pl.col("measure").str.contains("^(?:ts|cr)_"))["replacement"].unique().sort().to_list()
    subtitle = [
        about,
        shared_neurons(published),
        f"transitions and conversions: replaced by {', '.join(replaced)}" if replaced else None,
        f"bars: ours {100 * level:g} % (by fact), published controls three standard errors",
        "~ read off a figure or rebuilt",
        "activations were published over padding too" if activations is not None else None,
    ]
    return theme.finish(alt.vconcat(*body, spacing=20), TITLE, subtitle)


def draw(*, published: str | Path, figures: Sequence[str | Path], model: str, facts: str, level: float = 0.95) -> None:
    """Rule `draw_published_copying`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(published, "published_copying"), model=model, facts=facts, level=level), figures)
