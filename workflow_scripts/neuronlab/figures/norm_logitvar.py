"""Norm of the output weights against LogitVar, last layer (study A, figure 2a).

Entropy neurons write a long vector that barely separates the logits: far to the right and far down.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, points, saving, theme
from neuronlab.figures.margins import margin
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

LOGIT_VAR = "LogitVar: variance over the vocabulary of cos(w_out, W_U)"
TITLE = "Norm of the output weights against LogitVar"


def axes(frame: pl.DataFrame, width: int = 520, height: int = 400, title: str = LOGIT_VAR) -> tuple[Axis, Axis]:
    """Axes that hold every neuron of `frame` (columns norm, logit_var)."""
    x = Axis("norm", "norm of w_out", tuple(theme.linear_domain(frame["norm"])), pixels=width)
    y = Axis(
        "logit_var",
        title,
        tuple(theme.log_domain(frame["logit_var"])),
        log=True,
        pixels=height,
    )
    return x, y


def scatter(
    frame: pl.DataFrame, x: Axis, y: Axis, *, legend: bool = True, labels: int = 16
) -> tuple[alt.LayerChart, list[str | None]]:
    """The scatter plot of a frame with columns neuron, norm, logit_var, group, label; and what it must state."""
    others = frame.filter(pl.col("group") == groups.OTHERS)
    shown = points.thin(others, x, y)
    controls = frame.filter(pl.col("group") == groups.CONTROLS)
    chosen = frame.filter(~pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
    present = frame["group"].unique(maintain_order=True).to_list()
    colour = groups.colour_encoding(
        present, groups.group_counts(frame), show=legend, orient="bottom", direction="horizontal", columns=2
    )
    tips = points.tooltips([("label", "neuron", ""), ("norm", "norm", ".4g"), ("logit_var", "LogitVar", ".3e")])
    back = alt.Chart(shown).mark_circle(size=22, opacity=0.75, clip=False).encode(x=x.x(), y=y.y(), color=colour)
    middle = (
        alt.Chart(controls)
        .mark_point(size=38, strokeWidth=1.4, filled=False, opacity=1)
        .encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    )
    front = (
        alt.Chart(chosen)
        .mark_circle(size=80, opacity=1, stroke="white", strokeWidth=0.8)
        .encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    )
    to_label, label_note = points.cap_labels(chosen, labels)
    placed = points.place_labels(to_label, x, y, obstacles=shown)
    layers = [back, middle, front, *points.label_layer(placed, x, y, colour)]
    notes = [points.thinned_note(len(shown), len(others)), label_note]
    return alt.layer(*layers).properties(width=x.pixels, height=y.pixels), notes


def prepare(neurons: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None = None) -> pl.DataFrame:
    """The last layer's neurons with their group and label."""
    layer = int(neurons["layer"].max())
    return groups.attach_groups(neurons.filter(pl.col("layer") == layer), groups.group_neurons(selection, layer, sets))


def chart(
    neurons: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    sets: Sequence[str] | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `neurons` and `selection`.

    Args:
        sets: names of the sets to highlight, first come first coloured; all selections if not given.
    """
    everything = prepare(neurons, selection, sets)
    frame = everything.drop_nulls("logit_var")
    silent = len(everything) - len(frame)
    x, y = axes(frame)
    panel, notes = scatter(frame, x, y)
    none = groups.highlighted_sets(selection, sets) == []
    body = alt.vconcat(
        margin(frame, x, vertical=False),
        alt.hconcat(panel, margin(frame, y, vertical=True), spacing=4, bounds="flush"),
        spacing=4,
        bounds="flush",
    )
    layer = int(neurons["layer"].max())
    subtitle = [
        theme.about(model, text, f"layer {layer} (last)", theme.count(len(frame), "neuron")),
        "no neuron selected" if none else None,
        f"{theme.count(silent, 'neuron')} left out: output weights are zero" if silent else None,
        *notes,
        "histograms: all neurons of the layer; ticks: the highlighted ones",
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    neurons: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    sets: Sequence[str] | None = None,
) -> None:
    """Rule `draw_norm_logitvar`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(neurons, "neurons"), read_selections(selection), model=model, sets=sets)
    saving.save(made, figures)
