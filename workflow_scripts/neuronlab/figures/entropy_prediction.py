"""Mean change of prediction against mean |dH| of every last-layer neuron, coloured by 1 - DE/TE (study A, figure 1).

Neurons in the upper left change the entropy a great deal and the prediction hardly ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Change of entropy against change of prediction"
M_DOMAIN = (-1.0, 1.0)


def prepare(
    effects: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None, outcome: str = "loss"
) -> pl.DataFrame:
    """One row per neuron with neuron, label, group, change, dh, m (missing where the total effect is too small)."""
    frame, _ = effects_data.with_groups(effects, selection, sets)
    return frame.select(
        "neuron",
        "group",
        "order",
        label=pl.format("{}.{}", "layer", "neuron"),
        change="prediction_change",
        dh="te_entropy",
        m=f"m_{outcome}",
    ).drop_nulls(["change", "dh"])


def panel(
    frame: pl.DataFrame, *, outcome: str = "loss", width: int = 520, height: int = 400
) -> tuple[alt.LayerChart, list[str | None]]:
    """The scatter plot of what `prepare` returns, and what it must state."""
    x = Axis(
        "change",
        "share of tokens whose top prediction changes",
        tuple(theme.linear_domain(frame["change"], include=[0.0])),
        pixels=width,
        number_format="~%",
    )
    y = Axis(
        "dh",
        "mean |change of entropy| (nats)",
        tuple(theme.linear_domain(frame["dh"], include=[0.0])),
        pixels=height,
    )
    shade = alt.Scale(domain=list(M_DOMAIN), range=theme.DIVERGING, clamp=True, interpolate="lab")
    legend = alt.Legend(
        title=[f"1 {theme.MINUS} DE/TE, {outcome}", "(colour ends at ±1)"],
        gradientLength=180,
        values=[-1, -0.5, 0, 0.5, 1],
        format="~g",
    )
    tips = points.tooltips(
        [
            ("label", "neuron", ""),
            ("change", "prediction changes", ".2%"),
            ("dh", "mean |dH|", ".2e"),
            ("m", "1 - DE/TE", ".3f"),
        ]
    )
    marks = frame.filter(~pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
    rest = frame.join(marks.select("neuron"), on="neuron", how="anti")
    measured, unmeasured = rest.drop_nulls("m"), rest.filter(pl.col("m").is_null())
    shown = points.thin(measured, x, y)
    style = {"filled": True, "opacity": 1, "strokeWidth": 0.4, "stroke": "#7a838c"}
    back = (
        alt.Chart(shown)
        .mark_point(size=34, **style)
        .encode(x=x.x(), y=y.y(), fill=alt.Fill("m:Q", scale=shade, legend=legend), tooltip=tips)
    )
    hollow = (
        alt.Chart(unmeasured).mark_point(size=26, color="#9aa3ac", filled=False, strokeWidth=1).encode(x=x.x(), y=y.y())
    )
    domain, colours = groups.colours(marks["group"].unique(maintain_order=True).to_list())
    stroke = alt.Stroke(
        "group:N",
        scale=alt.Scale(domain=domain, range=colours),
        legend=alt.Legend(title=None, symbolFillColor="white", symbolStrokeWidth=2.4) if domain else None,
    )
    front = (
        alt.Chart(marks.with_columns(pl.col("m").fill_null(0.0)))
        .mark_point(filled=True, size=95, opacity=1, strokeWidth=2.2)
        .encode(x=x.x(), y=y.y(), fill=alt.Fill("m:Q", scale=shade, legend=None), stroke=stroke, tooltip=tips)
    )
    to_label, label_note = points.cap_labels(marks)
    placed = points.place_labels(to_label, x, y, obstacles=shown)
    layers = [hollow, back, front, *points.label_layer(placed, x, y, groups.text_colour(marks))]
    missing = f"{theme.count(len(unmeasured), 'neuron')} hollow: total effect below the floor, no 1 {theme.MINUS} DE/TE"
    notes = [
        points.thinned_note(len(shown), len(measured)),
        label_note,
        missing if len(unmeasured) else None,
    ]
    made = alt.layer(*layers).resolve_scale(color="independent", fill="independent", stroke="shared")
    return made.properties(width=width, height=height), notes


def chart(
    effects: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    outcome: str = "loss",
) -> alt.TopLevelMixin:
    """The figure, from the tables `effects` and `selection`."""
    effects, replacement = effects_data.one_replacement(effects, replacement)
    frame = prepare(effects, selection, sets, outcome)
    about = [
        theme.about(model, text, theme.count(len(frame), "neuron"), effects_data.sample_size(effects)),
        f"last layer; {effects_data.replaced_by(replacement)}",
    ]
    if not len(frame):
        return theme.finish(theme.note_chart("no effects in the table"), TITLE, about)
    made, notes = panel(frame, outcome=outcome)
    return theme.finish(made, TITLE, [*about, *notes])


def draw(
    *,
    effects: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
) -> None:
    """Rule `draw_entropy_prediction`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(effects, "effects"),
        read_selections(selection),
        model=model,
        text=text,
        sets=sets,
        replacement=replacement,
    )
    saving.save(made, figures)
