"""LogitVar against rho of every neuron in the last layer, selected ones named (study B, figures 3 and 7).

Entropy neurons lie at the upper left: their weights are in the null space of W_U, and they move all logits alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, points, saving, theme
from neuronlab.figures.dots import dots
from neuronlab.figures.margins import margin
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Selected neurons on LogitVar and rho"
WIDTH, HEIGHT = 540, 420
LABELS, ROUNDS = 24, 3


def prepare(
    neurons: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    k: int,
    sets: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, int]:
    """The last layer's neurons with group, label and rho; and how many of them write nothing and have neither measure.

    Controls count as other neurons.
    """
    layer = int(neurons["layer"].max() or 0)
    chosen = selection.filter(pl.col("kind") == "selection")
    everything = groups.attach_groups(
        neurons.filter(pl.col("layer") == layer), groups.group_neurons(chosen, layer, sets)
    )
    frame = effects_data.join_rho(everything, null_space, k).drop_nulls(["logit_var", "rho"])
    return frame, len(everything) - len(frame)


def chance(null_space: pl.DataFrame, k: int) -> float | None:
    """rho of a random direction: rho less its excess, the same for all neurons; none without a neuron that writes."""
    first = null_space.filter(pl.col("k") == k).drop_nulls(["rho", "rho_excess"]).head(1)
    return float((first["rho"] - first["rho_excess"]).item()) if len(first) else None


def rho_domain(*values: pl.Series) -> tuple[float, float]:
    """From 0 to 1, so that models compare; less where all values are small."""
    largest = max((float(series.max()) for series in values if len(series.drop_nulls())), default=1.0)
    return 0.0, 1.0 if largest > 0.5 else max(1.15 * largest, 0.05)


def scatter(frame: pl.DataFrame, x: Axis, y: Axis, expected: float | None) -> tuple[alt.LayerChart, list[str | None]]:
    """The scatter plot of what `prepare` returns, and what it must state."""
    others = frame.filter(pl.col("group") == groups.OTHERS)
    chosen = frame.filter(pl.col("group") != groups.OTHERS)
    shown = points.thin(others, x, y)
    colour = groups.colour_encoding(
        frame["group"].unique(maintain_order=True).to_list(),
        groups.group_counts(frame),
        orient="bottom",
        direction="horizontal",
        columns=2,
    )
    tips = points.tooltips(
        [("label", "neuron", ""), ("logit_var", "LogitVar", ".3e"), ("rho", "rho", ".3f"), ("norm", "norm", ".4g")]
    )
    front = (
        alt.Chart(chosen)
        .mark_circle(size=80, opacity=1, stroke="white", strokeWidth=0.8)
        .encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    )
    to_label, label_note = points.cap_labels(chosen, LABELS)
    placed = points.place_labels(to_label, x, y, obstacles=shown, rounds=ROUNDS)
    layers = [dots(shown, x, y, alt.value(theme.OTHER_COLOUR)), front, *points.label_layer(placed, x, y, colour)]
    if expected is not None:
        line = alt.Chart(pl.DataFrame({"rho": [expected]})).mark_rule(color=theme.FAINT, strokeDash=[4, 3])
        layers.insert(1, line.encode(y=y.y()))
    chance_note = f"dashed: rho of a random direction, {expected:.2f}" if expected is not None else None
    notes = [chance_note, points.thinned_note(len(shown), len(others)), label_note]
    return alt.layer(*layers).properties(width=x.pixels, height=y.pixels), notes


def chart(
    neurons: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    sets: Sequence[str] | None = None,
    k: int | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `neurons`, `null_space` and `selection`.

    Args:
        sets: names of the sets to mark; all selections if not given.
        k: which rho; the first configured k if not given.
    """
    if not len(neurons) or not len(null_space):
        return theme.finish(theme.note_chart("no neuron has been measured"), TITLE, [theme.about(model)])
    k = effects_data.chosen_k(null_space, k)
    frame, silent = prepare(neurons, null_space, selection, k=k, sets=sets)
    layer = int(neurons["layer"].max())
    about = theme.about(model, None, f"layer {layer} (last)", theme.count(len(frame), "neuron"), f"k = {k}")
    left_out = f"{theme.count(silent, 'neuron')} left out: output weights are zero" if silent else None
    if not len(frame):
        return theme.finish(theme.note_chart("no neuron of the last layer writes anything"), TITLE, [about, left_out])
    x = Axis(
        "logit_var",
        "LogitVar: variance over the vocabulary of cos(w_out, W_U)",
        tuple(theme.log_domain(frame["logit_var"], pad=0.07)),
        log=True,
        pixels=WIDTH,
    )
    y = Axis(
        "rho", f"rho: share of |w_out| in the null space of W_U (k = {k})", rho_domain(frame["rho"]), pixels=HEIGHT
    )
    panel, notes = scatter(frame, x, y, chance(null_space, k))
    body = alt.vconcat(
        margin(frame, x, vertical=False),
        alt.hconcat(panel, margin(frame, y, vertical=True), spacing=4, bounds="flush"),
        spacing=4,
        bounds="flush",
    )
    marked = frame.filter(pl.col("group") != groups.OTHERS)
    subtitle = [
        about,
        None if len(marked) else "no neuron selected in the last layer",
        left_out,
        *notes,
        "histograms: all neurons of the layer" + ("; ticks: the selected ones" if len(marked) else ""),
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    neurons: str | Path,
    null_space: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    sets: Sequence[str] | None = None,
    k: int | None = None,
) -> None:
    """Rule `draw_selected_neurons`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(neurons, "neurons"),
        read_table(null_space, "null_space"),
        read_selections(selection),
        model=model,
        sets=sets,
        k=k,
    )
    saving.save(made, figures)
