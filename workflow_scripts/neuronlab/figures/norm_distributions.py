"""Norms of the output weights of selected neurons and of all others in the last layer (study B, figure 2).

In some models entropy neurons have the longest output weights of their layer, in others they have not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import groups, points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Norm of the output weights: selected neurons and all others"
WIDTH, HEIGHT, ROW = 620, 220, 58
BINS = 80


def prepare(neurons: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None = None) -> pl.DataFrame:
    """The last layer's neurons with group and label. Controls count as others."""
    layer = int(neurons["layer"].max() or 0)
    chosen = selection.filter(pl.col("kind") == "selection")
    return groups.attach_groups(neurons.filter(pl.col("layer") == layer), groups.group_neurons(chosen, layer, sets))


def histogram(norms: pl.Series, x: Axis) -> pl.DataFrame:
    """Neurons per bin: low, high, neurons."""
    edges = x.value(np.linspace(0, x.pixels, BINS + 1))
    counts, _ = np.histogram(norms.to_numpy(), bins=edges)
    return pl.DataFrame({"low": edges[:-1], "high": edges[1:], "neurons": counts})


def _tiers(rows: pl.DataFrame, x: Axis) -> pl.DataFrame:
    """`rows` whose names find room side by side, with `tier`: which of two lines they stand on, 0 the lower one."""
    places = x.place(rows["norm"].to_numpy())
    ends, tiers = [-np.inf, -np.inf], np.full(len(rows), -1)
    for i in np.argsort(places, kind="stable"):
        half = len(rows["label"][int(i)]) * theme.LABEL_SIZE * 0.28 + 3
        free = next((tier for tier, end in enumerate(ends) if places[i] - half > end), None)
        if free is not None:
            tiers[i], ends[free] = free, places[i] + half
    return rows.with_columns(tier=pl.Series(tiers, dtype=pl.Int32)).filter(pl.col("tier") >= 0)


def _row(rows: pl.DataFrame, x: Axis, colour: alt.Color, *, title: str) -> alt.LayerChart:
    """The neurons of one set on a line, their names above it, a triangle below it at their median."""
    at = alt.X("norm:Q", scale=x.scale(), axis=x.axis(labels=False, ticks=False, domain=False, title=None))
    tips = points.tooltips([("label", "neuron", ""), ("norm", "norm", ".4g")])
    base = alt.Chart(rows).encode(x=at, color=colour)
    dots = base.mark_circle(size=64, opacity=0.9, stroke="white", strokeWidth=0.7)
    median = alt.Chart(rows.select(pl.col("norm").median())).encode(x=at, y=alt.value(ROW - 6))
    named = alt.Chart(_tiers(rows, x)).encode(x=at, text="label:N", color=colour)
    look = {"fontSize": theme.LABEL_SIZE, "fontWeight": "bold", "baseline": "middle"}
    layers = [
        median.mark_point(shape="triangle-up", filled=True, size=70, color=theme.INK, opacity=1),
        dots.encode(y=alt.value(ROW - 18), tooltip=tips),
        *(
            named.transform_filter(f"datum.tier == {tier}").mark_text(**look).encode(y=alt.value(ROW - 32 - 14 * tier))
            for tier in (0, 1)
        ),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=ROW, title=_heading(title))


def _heading(text: str) -> alt.Title:
    return alt.Title(text, fontSize=12.5, fontWeight="normal", color=theme.INK, anchor="start", offset=3, frame="group")


def summary(rows: pl.DataFrame, name: str, others: pl.DataFrame | None = None) -> str:
    """'entropy neurons (6): median norm 1.72, above 97.2 % of the others'."""
    if not len(rows):
        return f"{name}: none"
    median = float(rows["norm"].median())
    said = f"{name} ({len(rows):,}): median norm {median:.3g}"
    if others is None or not len(others):
        return said
    above = 100 * float((others["norm"] < median).mean())
    return f"{said}, above {'more than 99.9' if 99.9 < above < 100 else f'{above:.3g}'} % of the others"


def chart(
    neurons: pl.DataFrame, selection: pl.DataFrame, *, model: str, sets: Sequence[str] | None = None
) -> alt.TopLevelMixin:
    """The figure, from the tables `neurons` and `selection`.

    Args:
        sets: names of the sets to show; all selections if not given.
    """
    if not len(neurons):
        return theme.finish(theme.note_chart("no neuron has been measured"), TITLE, [theme.about(model)])
    frame = prepare(neurons, selection, sets)
    others = frame.filter(pl.col("group") == groups.OTHERS)
    x = Axis("norm", "norm of w_out", tuple(theme.linear_domain(frame["norm"])), pixels=WIDTH)
    names = [n for n in groups.colours(frame["group"].unique(maintain_order=True).to_list())[0] if n != groups.OTHERS]
    colour = groups.colour_encoding(names, show=False)
    bars = histogram(others["norm"], x)
    along = alt.X("low:Q", scale=x.scale(), axis=x.axis())
    up = alt.Y("neurons:Q", title="neurons per bin", scale=alt.Scale(domain=[0, max(int(bars["neurons"].max()), 1)]))
    hist = alt.Chart(bars).mark_rect(color="#aab2ba").encode(x=along, x2="high:Q", y=up, y2=alt.datum(0))
    heading = _heading(summary(others, groups.OTHERS))
    median = alt.Chart(others.select(pl.col("norm").median())).mark_rule(color=theme.INK, strokeWidth=1.6)
    body = alt.layer(hist, median.encode(x=alt.X("norm:Q", scale=x.scale(), axis=x.axis())))
    body = body.properties(width=WIDTH, height=HEIGHT, title=heading)
    rows = []
    for name in names:
        members = frame.filter(pl.col("group") == name)
        rows.append(_row(members, x, colour, title=summary(members, name, others)))
    layer = int(neurons["layer"].max())
    subtitle = [
        theme.about(model, None, f"layer {layer} (last)", theme.count(len(frame), "neuron")),
        None if names else "no neuron selected in the last layer",
        "triangles and black line: medians",
    ]
    return theme.finish(alt.vconcat(*rows, body, spacing=10), TITLE, subtitle)


def draw(
    *,
    neurons: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    sets: Sequence[str] | None = None,
) -> None:
    """Rule `draw_norm_distributions`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(neurons, "neurons"), read_selections(selection), model=model, sets=sets)
    saving.save(made, figures)
