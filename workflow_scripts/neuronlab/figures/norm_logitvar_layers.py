"""Norm of the output weights against LogitVar, a small panel for every layer (as study B looks at them).

All panels share their axes: neurons far to the right and far down are a matter of the last layers, or they are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, points, saving, theme
from neuronlab.figures.dots import strokes
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Norm of the output weights against LogitVar in every layer"
WIDTH, GAP = 900, 14  # pixels of a whole row, and between panels
POINTS, LEAST, MOST = 8000, 90, 1500  # drawn in all; in a panel, at least and at most
WIDE = 50.0  # ratio of the largest norm to the smallest from which on the axis is logarithmic


def grid_columns(panels: int) -> int:
    """How many columns: about as wide as a page, with few empty places in the last row."""
    if panels <= 4:
        return max(panels, 1)
    target = min(10.0, math.sqrt(1.9 * panels))
    choices = range(max(3, round(0.7 * target)), min(10, round(1.35 * target)) + 1)
    return min(choices, key=lambda n: ((-panels % n) / n + abs(n - target) / target, n))


def prepare(
    neurons: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None = None
) -> tuple[pl.DataFrame, int]:
    """All neurons with group and label; and how many write nothing and are left out. Controls count as others."""
    chosen = selection.filter(pl.col("kind") == "selection")
    found = [
        groups.attach_groups(rows, groups.group_neurons(chosen, layer, sets))
        for (layer,), rows in neurons.group_by("layer", maintain_order=True)
    ]
    if not found:
        return neurons.with_columns(group=pl.lit(groups.OTHERS), label=pl.lit(None, pl.String), order=0), 0
    frame = pl.concat(found).sort("layer", maintain_order=True)
    kept = frame.drop_nulls("logit_var")
    return kept, len(frame) - len(kept)


def grid(frame: pl.DataFrame, *, columns: int, x: Axis, y: Axis) -> tuple[alt.FacetChart, list[str | None]]:
    """The panels of what `prepare` returns, and what they must state."""
    layers = frame["layer"].unique().sort().to_list()
    limit = min(max(POINTS // len(layers), LEAST), MOST)
    others = frame.filter(pl.col("group") == groups.OTHERS)
    shown = pl.concat([points.thin(rows, x, y, limit) for rows in others.partition_by("layer", maintain_order=True)])
    chosen = frame.filter(pl.col("group") != groups.OTHERS)
    # One data set for all layers of a panel, as a facet wants it.
    both = pl.concat(
        [strokes(shown, x, y, ["layer"]), chosen.select("norm", "logit_var", "layer", "group", "label")], how="diagonal"
    )
    present = frame["group"].unique(maintain_order=True).to_list()
    colour = groups.colour_encoding(present, groups.group_counts(frame), orient="bottom", direction="horizontal")
    few = {"tickCount": 4, "labelOverlap": True, "titlePadding": 4}
    base = alt.Chart().encode(x=x.x(**few), y=y.y(labelOverlap=True, titlePadding=4))
    cloud = (
        base.transform_filter("!isValid(datum.label)")
        .mark_line(
            strokeWidth=2.6, strokeCap="round", color=theme.OTHER_COLOUR, invalid="break-paths-show-path-domains"
        )
        .encode(order=alt.Order("row:Q"))
    )
    tips = points.tooltips([("label", "neuron", ""), ("norm", "norm", ".4g"), ("logit_var", "LogitVar", ".3e")])
    marks = (
        base.transform_filter("isValid(datum.label)")
        .mark_circle(size=34, opacity=1, stroke="white", strokeWidth=0.6)
        .encode(color=colour, tooltip=tips)
    )
    header = alt.Header(title=None, labelExpr="'layer ' + datum.value", labelFontSize=12, labelPadding=3)
    made = (
        alt.layer(cloud, marks)
        .properties(width=x.pixels, height=y.pixels)
        .facet(facet=alt.Facet("layer:O", header=header, sort=layers), columns=columns, data=both, spacing=GAP)
    )
    return made, [points.thinned_note(len(shown), len(others))]


def chart(
    neurons: pl.DataFrame, selection: pl.DataFrame, *, model: str, sets: Sequence[str] | None = None
) -> alt.TopLevelMixin:
    """The figure, from the tables `neurons` and `selection`.

    Args:
        sets: names of the sets to mark; all selections if not given.
    """
    frame, silent = prepare(neurons, selection, sets)
    left_out = f"{theme.count(silent, 'neuron')} left out: output weights are zero" if silent else None
    if not len(frame):
        return theme.finish(theme.note_chart("no neuron writes anything"), TITLE, [theme.about(model), left_out])
    layers = frame["layer"].n_unique()
    columns = grid_columns(layers)
    width = min(300, (WIDTH - GAP * (columns - 1)) // columns)
    wide = float(frame["norm"].max()) > WIDE * float(frame["norm"].min())
    span = theme.log_domain(frame["norm"]) if wide else theme.linear_domain(frame["norm"])
    x = Axis("norm", "norm of w_out", tuple(span), log=wide, pixels=width)
    y = Axis("logit_var", "LogitVar", tuple(theme.log_domain(frame["logit_var"])), log=True, pixels=round(0.8 * width))
    made, notes = grid(frame, columns=columns, x=x, y=y)
    marked = frame.filter(pl.col("group") != groups.OTHERS)
    subtitle = [
        theme.about(model, None, theme.count(layers, "layer"), theme.count(len(frame), "neuron")),
        "LogitVar: variance over the vocabulary of cos(w_out, W_U)",
        None if len(marked) else "no neuron selected",
        left_out,
        *notes,
    ]
    return theme.finish(made, TITLE, subtitle)


def draw(
    *,
    neurons: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    sets: Sequence[str] | None = None,
) -> None:
    """Rule `draw_norm_logitvar_layers`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(neurons, "neurons"), read_selections(selection), model=model, sets=sets)
    saving.save(made, figures)
