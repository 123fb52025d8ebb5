"""Highlighted neurons against synthetic and norm-matched controls, with intervals (METHODS 0.6).

A synthetic control has the neuron's own activations and a random output direction of the same norm and the
same <x, w>; a norm-matched control is another neuron of nearly the same norm. What remains different is
where the weights point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Selected neurons against synthetic and norm-matched controls"
LIMIT = 24
NEURON, SYNTHETIC, MATCHED = "the neuron, with its interval", "synthetic: random direction", "norm-matched neuron"


def prepare(
    effects: pl.DataFrame,
    synthetic: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    sets: Sequence[str] | None,
    measure: str,
) -> pl.DataFrame:
    """Long frame with one row per drawn value: label, group, source, value, low, high.

    `low` and `high` are missing for controls, which are many and show their spread themselves.
    """
    frame, layer = effects_data.with_groups(effects, selection, sets)
    chosen = frame.filter(~pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
    chosen = chosen.sort("order")
    names = chosen.select("neuron", "label", "group")
    columns = ["label", "group", "source", "value", "low", "high"]
    value = pl.col(measure).alias("value")
    none = [pl.lit(None, pl.Float64).alias("low"), pl.lit(None, pl.Float64).alias("high")]
    own = chosen.with_columns(
        value, pl.col(f"{measure}_low").alias("low"), pl.col(f"{measure}_high").alias("high"), source=pl.lit(NEURON)
    )
    draws = synthetic.filter(pl.col("layer") == layer).join(names, on="neuron", how="inner")
    draws = draws.with_columns(value, *none, source=pl.lit(SYNTHETIC))
    pairs = selection.filter((pl.col("kind") == "norm_matched") & (pl.col("layer") == layer)).select(
        "neuron", "matched"
    )
    twins = (
        effects.filter(pl.col("layer") == layer)
        .join(pairs.unique(), on="neuron", how="inner")
        .join(names.rename({"neuron": "matched"}), on="matched", how="inner")
        .with_columns(value, *none, source=pl.lit(MATCHED))
    )
    return pl.concat([part.select(columns) for part in (own, draws, twins)]).drop_nulls("value")


def panel(frame: pl.DataFrame, order: Sequence[str], x: Axis, *, legend: bool, names: bool) -> alt.LayerChart:
    """One panel: a row per neuron."""
    y = alt.Y(
        "label:N",
        sort=list(order),
        title=None,
        axis=alt.Axis(grid=True, labels=names, ticks=False, domain=False, labelFontWeight="bold"),
    )
    shape = alt.Shape(
        "source:N",
        sort=[NEURON, SYNTHETIC, MATCHED],
        scale=alt.Scale(domain=[NEURON, SYNTHETIC, MATCHED], range=["circle", "M0,-0.6L0,0.6", "diamond"]),
        legend=alt.Legend(title=None, orient="bottom", symbolStrokeWidth=1.8, symbolFillColor=None) if legend else None,
    )
    colour = groups.colour_encoding(frame["group"].unique(maintain_order=True).to_list(), orient="bottom")
    if not legend:
        colour.legend = None
    tips = [alt.Tooltip("label:N", title="neuron"), alt.Tooltip("source:N"), alt.Tooltip("value:Q", format=".4g")]
    base = alt.Chart(frame).encode(y=y, tooltip=tips)
    draws = (
        base.transform_filter(f"datum.source === '{SYNTHETIC}'")
        .mark_point(size=150, strokeWidth=1.5, opacity=0.8, color=theme.FAINT)
        .encode(x=x.x(), shape=shape)
    )
    twins = (
        base.transform_filter(f"datum.source === '{MATCHED}'")
        .mark_point(size=64, filled=False, strokeWidth=1.8, opacity=1, color=theme.INK)
        .encode(x=x.x(), shape=shape)
    )
    own = base.transform_filter(f"datum.source === '{NEURON}'")
    bars = own.mark_rule(strokeWidth=2.4).encode(
        x=alt.X("low:Q", scale=x.scale(), axis=x.axis()), x2="high:Q", color=colour
    )
    dots = own.mark_point(size=110, filled=True, opacity=1, stroke="white", strokeWidth=0.8).encode(
        x=x.x(), shape=shape, color=colour
    )
    height = max(120, 30 * len(order))
    return alt.layer(draws, bars, dots, twins).properties(width=x.pixels, height=height)


def chart(
    effects: pl.DataFrame,
    synthetic: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    level: float = 0.95,
    outcome: str = "loss",
) -> alt.TopLevelMixin:
    """The figure, from the tables `effects`, `synthetic` and `selection`: total effect, and 1 - DE/TE."""
    effects, replacement = effects_data.one_replacement(effects, replacement)
    synthetic = synthetic.filter(pl.col("replacement") == replacement)
    measures = {
        f"te_{outcome}": f"total effect: mean |change of {outcome}| (nats)",
        f"m_{outcome}": f"1 {theme.MINUS} DE/TE, {outcome}",
    }
    frames = {measure: prepare(effects, synthetic, selection, sets=sets, measure=measure) for measure in measures}
    te = frames[f"te_{outcome}"]
    order = te.filter(pl.col("source") == NEURON)["label"].to_list()
    about = theme.about(model, text, effects_data.sample_size(effects))
    if not order:
        return theme.finish(theme.note_chart("no neuron is selected in the last layer"), TITLE, [about])
    left_out, order = max(len(order) - LIMIT, 0), order[:LIMIT]
    panels = []
    for number, (measure, title) in enumerate(measures.items()):
        frame = frames[measure].filter(pl.col("label").is_in(order))
        zero = [0.0] if measure.startswith("te") else [0.0, 1.0]
        domain = theme.linear_domain(frame["value"], frame["low"], frame["high"], include=zero)
        panels.append(
            panel(frame, order, Axis("value", title, tuple(domain), pixels=360), legend=True, names=number == 0)
        )
    draws = int(synthetic["draw"].n_unique()) if len(synthetic) else 0
    matched = te.filter(pl.col("source") == MATCHED)["label"].n_unique()
    subtitle = [
        about,
        f"last layer; {effects_data.replaced_by(replacement)}; {100 * level:g} % intervals, bootstrap by document",
        f"{theme.count(draws, 'random direction')} per neuron with its activations, norm and <x, w>; "
        f"norm-matched controls for {theme.count(matched, 'neuron')}",
        f"{left_out} more highlighted neurons not drawn" if left_out else None,
    ]
    return theme.finish(alt.hconcat(*panels, spacing=24), TITLE, subtitle)


def draw(
    *,
    effects: str | Path,
    synthetic: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    level: float = 0.95,
) -> None:
    """Rule `draw_synthetic_controls`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(effects, "effects"),
        read_table(synthetic, "synthetic"),
        read_selections(selection),
        model=model,
        text=text,
        sets=sets,
        replacement=replacement,
        level=level,
    )
    saving.save(made, figures)
