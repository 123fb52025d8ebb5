"""Panels of ablated sets along a repetition: lines, intervals, controls in grey, the places' axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl

from neuronlab.figures import theme
from neuronlab.figures.induction_profile import COPIES, Places

MEASURES = {"entropy_ratio": "entropy after / before", "loss_change": "change of loss (nats)"}
UNCHANGED = {"entropy_ratio": 1.0, "loss_change": 0.0}
WIDTH, HEIGHT = 470, 130
MANY = 20  # controls from which on the band is their 5th to 95th percentile instead of their range
LABEL = 10.5
FAR = 10.0  # ratios that span more than this factor have a logarithmic axis
AXIS = 52  # pixels for the numbers and the title of a vertical axis, so that the panels are aligned
VARIANTS = {"total": [1, 0], "direct": [5, 3]}  # dashes


@dataclass(frozen=True)
class Line:
    """One ablated set in a panel: its rows' name, what it is called there, and its colour."""

    name: str
    label: str
    colour: str


def shades(colour: str, number: int) -> list[str]:
    """`number` shades of a colour: itself, darker, lighter."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))

    def mixed(other: int, share: float) -> str:
        return "#" + "".join(f"{round(v + (other - v) * share):02x}" for v in (red, green, blue))

    return [colour, mixed(0, 0.5), mixed(255, 0.45)][:number]


def control_band(rows: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Range of the controls at every place, or from `MANY` on their 5th to 95th percentile: columns at, low, high."""
    wide = rows["set"].n_unique() < MANY
    ends = (0.0, 1.0) if wide else (0.05, 0.95)
    value = pl.col(measure).drop_nulls()
    low, high = (value.quantile(end, "linear").alias(name) for end, name in zip(ends, ("low", "high"), strict=True))
    return rows.group_by("copy", "at").agg(low, high).sort("at").drop_nulls()


def band_name(number: int, noun: str) -> str:
    """What the grey band is, for a panel's heading."""
    if not number:
        return "no controls"
    return f"{'range' if number < MANY else '5 to 95 %'} of {theme.count(number, noun)}"


def panel(
    rows: pl.DataFrame,
    controls: pl.DataFrame,
    lines: Sequence[Line],
    places: Places,
    measure: str,
    *,
    intervals: bool,
    copies: bool,
) -> alt.LayerChart:
    """One measure along the places.

    Args:
        rows: of the sets in `lines`, both variants, with a column `at`.
        controls: rows of the controls, total effect.
        intervals: draw the intervals of the total effect.
        copies: name the copies above the panel.
    """
    grey = control_band(controls, measure)
    rows = rows.with_columns(colour=pl.col("set").replace_strict({line.name: line.colour for line in lines}))
    total = rows.filter(pl.col("variant") == "total")
    ends = (f"{measure}_low", f"{measure}_high") if intervals else ()
    drawn = pl.concat([rows[measure], *(total[end].alias(measure) for end in ends)])
    colour, title = alt.Color("colour:N", scale=None), MEASURES[measure]
    if measure == "entropy_ratio" and wide(drawn):
        title = [title, "(logarithmic)"]
        domain = vertical(drawn.log(), grey.with_columns(pl.col("low", "high").clip(1e-9).log()), 0.0)
        domain = [math.exp(end) for end in domain]
        ticks = theme.log_ticks(domain)
        scale = alt.Scale(type="log", domain=domain, nice=False)
        axis = alt.Axis(title=title, values=ticks, labelExpr=theme.log_labels(ticks), minExtent=AXIS)
    else:
        scale = alt.Scale(domain=vertical(drawn, grey, UNCHANGED[measure]), nice=False, zero=False)
        axis = alt.Axis(title=title, tickCount=5, minExtent=AXIS)

    def up(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", scale=scale, axis=axis)

    x = horizontal(places)
    starts = pl.DataFrame({"at": places.starts()})
    none = pl.DataFrame({"value": [UNCHANGED[measure]]})
    layers = [
        alt.Chart(grey)
        .mark_area(color=theme.OTHER_COLOUR, opacity=0.6, clip=True)
        .encode(x=x, y=up("low"), y2="high:Q", detail="copy:N"),
        alt.Chart(none).mark_rule(color=theme.FAINT, strokeWidth=1).encode(y=up("value")),
        alt.Chart(starts[1:]).mark_rule(strokeDash=[2, 3], color=theme.FAINT, strokeWidth=1.2).encode(x=x),
    ]
    if intervals:
        low, high = ends
        band = alt.Chart(total).mark_area(opacity=0.25)
        layers.append(band.encode(x=x, y=up(low), y2=f"{high}:Q", color=colour, detail="copy:N"))
    tips = [alt.Tooltip(f"{name}:N") for name in ("set", "variant", "copy", "offset")]
    for variant, dash in VARIANTS.items():
        base = alt.Chart(rows.filter(pl.col("variant") == variant))
        layers.append(
            base.mark_line(strokeWidth=1.8 if variant == "total" else 1.3, strokeDash=dash).encode(
                x=x,
                y=up(measure),
                color=colour,
                detail=["set:N", "copy:N"],
                tooltip=[*tips, alt.Tooltip(f"{measure}:Q", format=".4g")],
            )
        )
    if copies:
        names = starts.with_columns(name=pl.Series([COPIES[places.kind].format(nth(i)) for i in range(places.copies)]))
        text = alt.Chart(names).mark_text(align="left", fontSize=11, color=theme.FAINT, baseline="bottom", dx=2)
        layers.append(text.encode(x=x, y=alt.value(-3), text="name:N"))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def wide(drawn: pl.Series) -> bool:
    """Whether ratios are too far apart for a linear axis; one that is not positive has no place on another."""
    values = drawn.drop_nulls()
    return bool(len(values)) and values.min() > 0 and values.max() / values.min() > FAR


def vertical(drawn: pl.Series, grey: pl.DataFrame, unchanged: float) -> list[float]:
    """Domain of a measure: all that is drawn of the ablated sets, and of the controls as much above and below again.

    Controls may be far away: a ratio of entropies knows no bound where the clean entropy is small.
    """
    values = [unchanged, *drawn.drop_nulls()]
    low, high = min(values), max(values)
    band = pl.concat([grey["low"], grey["high"]]).clip(low - (high - low), high + (high - low))
    return theme.linear_domain(drawn, band, include=[unchanged], pad=0.06)


def horizontal(places: Places) -> alt.X:
    """The axis of places, those named that fit."""
    ticks = places.ticks()
    names = " : ".join([*(f"datum.value == {at} ? '{text}'" for at, text in ticks.items()), "''"])
    return alt.X(
        "at:Q",
        scale=alt.Scale(domain=list(places.domain), nice=False, zero=False),
        axis=alt.Axis(
            title=None, values=list(ticks), labelExpr=names, grid=False, labelFontSize=LABEL, labelOverlap=False
        ),
    )


def nth(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ... from 0."""
    return f"{number + 1}{('st', 'nd', 'rd')[number] if number < 3 else 'th'}"


def column(
    ablation: pl.DataFrame,
    controls: pl.DataFrame,
    lines: Sequence[Line],
    places: Places,
    heading: str,
    *,
    intervals: bool,
) -> alt.VConcatChart:
    """Both measures of some sets one above the other, under a heading and the lines' names in their colours."""
    rows = ablation.filter(pl.col("set").is_in([line.name for line in lines]))
    panels = [
        panel(rows, controls, lines, places, measure, intervals=intervals, copies=i == 0)
        for i, measure in enumerate(MEASURES)
    ]
    starts = [0.0]
    for line in lines[:-1]:
        starts.append(starts[-1] + 22 + 5.9 * len(line.label))
    named = pl.DataFrame(
        {"label": [line.label for line in lines], "colour": [line.colour for line in lines], "at": starts[: len(lines)]}
    )
    names = (
        alt.Chart(named)
        .mark_text(align="left", fontSize=11.5, baseline="middle", fontWeight="bold")
        .encode(
            x=alt.X("at:Q", scale=alt.Scale(domain=[0, WIDTH]), axis=None),
            y=alt.value(8),
            text="label:N",
            color=alt.Color("colour:N", scale=None),
        )
        .properties(
            width=WIDTH, height=16, title=alt.Title(heading, fontSize=12.5, anchor="start", offset=2, color=theme.INK)
        )
    )
    return alt.vconcat(names, *panels, spacing=12)
