"""How well ensembles of neurons tell a feature of the next token, by their size (study C).

A panel per feature: ensembles in the order of the neurons' scores, the same neurons one by one, ensembles drawn at
random, and what the model itself says: its top prediction, and a probe on its log odds of the feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import overlays, saving, theme
from neuronlab.tables import read_table

TITLE = "Probes: a feature of the next token from ensembles of neurons"
MEASURES = {"accuracy": "balanced accuracy", "auc": "area under ROC curve"}
WIDTH, HEIGHT, COLUMNS = 300, 190, 3
SCORE, SINGLE, RANDOM = "best neurons by score, together", "these neurons one by one", "random neurons, together"
MODEL, MASS = "the model itself", "probe on the model's log odds"
COLOURS = {
    SCORE: theme.VERMILION,
    SINGLE: theme.ORANGE,
    RANDOM: theme.FAINT,
    MODEL: theme.BLUE,
    MASS: theme.PURPLE,
}
NAMES = {"score": SCORE, "single": SINGLE, "random": RANDOM, "model": MODEL, "mass": MASS}
CHANCE = 0.5


def curves(probes: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Value and ends of one measure: columns feature, line, size, value, low, high, probes.

    Of random ensembles the mean over draws with their range; of the neurons one by one the mean and the range over
    those that the ensemble of this size consists of; of all else the estimate with its interval.
    """
    named = probes.with_columns(line=pl.col("order").replace_strict(NAMES, default=None)).drop_nulls(["line", measure])
    ensembles = named.filter(pl.col("line") == SCORE).select("feature", "size")
    alone = named.filter(pl.col("line") == SINGLE).drop("size").join(ensembles, on="feature")
    several = pl.concat(
        [
            frame.select("feature", "line", "size", measure)
            for frame in (
                named.filter(pl.col("line") == RANDOM),
                alone.filter(pl.col("draw") < pl.col("size")),
            )
        ]
    )
    ranges = several.group_by("feature", "line", "size", maintain_order=True).agg(
        value=pl.col(measure).mean(),
        low=pl.col(measure).min(),
        high=pl.col(measure).max(),
        probes=pl.len().cast(pl.Int64),
    )
    ends = {"value": measure, "low": f"{measure}_low", "high": f"{measure}_high"}
    columns = [pl.col(old).alias(new) for new, old in ends.items()]
    estimates = named.filter(~pl.col("line").is_in([RANDOM, SINGLE]))
    single = estimates.select("feature", "line", "size", *columns, probes=pl.lit(1, pl.Int64))
    return pl.concat([single, ranges]).sort("feature", "line", "size", maintain_order=True)


def sizes_axis(sizes: Sequence[int], *, title: bool) -> alt.X:
    """The sizes, logarithmic, each named where it has room."""
    pad = 1.25
    shown, last = [], -np.inf
    span = np.log(max(sizes) / min(sizes) * pad**2)
    for size in sizes:
        at = np.log(size) / span * WIDTH if span else 0.0
        if at - last >= 26:
            shown.append(size)
            last = at
    axis = alt.Axis(title="neurons of the ensemble" if title else None, values=shown, grid=False, format=",d")
    scale = alt.Scale(type="log", domain=[min(sizes) / pad, max(sizes) * pad], nice=False)
    return alt.X("size:Q", scale=scale, axis=axis)


def panel(
    frame: pl.DataFrame, sizes: Sequence[int], domain: Sequence[float], title: str | None, *, foot: bool
) -> alt.LayerChart:
    """One measure of one feature over the sizes of the ensembles.

    Args:
        frame: rows of `curves` of one feature.
        title: of the vertical axis, or none.
        foot: name the horizontal axis.
    """
    x = sizes_axis(sizes, title=foot)
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = alt.Axis(title=title, tickCount=5, format=".2~f", minExtent=30)
    y, low = (alt.Y(f"{name}:Q", scale=scale, axis=axis) for name in ("value", "low"))
    legend = alt.Legend(
        title=None, orient="bottom", direction="horizontal", symbolType="stroke", symbolStrokeWidth=3, columns=3
    )
    scale_of = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    colour = alt.Color("line:N", scale=scale_of, legend=legend)
    tips = [alt.Tooltip("line:N"), alt.Tooltip("size:Q"), alt.Tooltip("probes:Q")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("value", "low", "high")]
    everywhere = {"x": alt.value(0), "x2": alt.value(WIDTH)}
    chance = alt.Chart(pl.DataFrame({"value": [CHANCE]})).mark_rule(color="#9aa3ac", strokeDash=[2, 3]).encode(y=y)
    layers = [chance]
    for line, dash in ((MODEL, [7, 4]), (MASS, [3, 3])):
        own = alt.Chart(frame.filter(pl.col("line") == line)).encode(color=colour)
        band = own.transform_filter("isValid(datum.low)").mark_rect(opacity=0.13)
        layers.append(band.encode(y=low, y2="high:Q", **everywhere))
        layers.append(own.mark_rule(strokeWidth=2, strokeDash=dash).encode(y=y, tooltip=tips))
    for line in (RANDOM, SINGLE):
        own = alt.Chart(frame.filter(pl.col("line") == line)).encode(x=x, color=colour)
        layers += [
            own.mark_area(opacity=0.2, line=False).encode(y=low, y2="high:Q"),
            own.mark_line(strokeWidth=1.8).encode(y=y),
            own.mark_circle(size=28, opacity=1).encode(y=y, tooltip=tips),
        ]
    own = alt.Chart(frame.filter(pl.col("line") == SCORE)).encode(x=x, color=colour)
    layers += [
        own.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.8).encode(y=low, y2="high:Q"),
        own.mark_line(strokeWidth=2.2).encode(y=y),
        own.mark_circle(size=42, opacity=1).encode(y=y, tooltip=tips),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _domain(frame: pl.DataFrame) -> list[float]:
    """Of all panels of a measure: chance and everything measured, at most 1."""
    low, high = theme.linear_domain(frame["value"], frame["low"], frame["high"], include=[CHANCE])
    return [max(low, 0.0), min(high, 1.01)]


def chart(probes: pl.DataFrame, *, model: str, text: str | None = None, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the table `probes`: a row of panels for each measure."""
    features = probes["feature"].unique(maintain_order=True).to_list()
    sizes = probes.filter(pl.col("size") > 0)["size"].unique().sort().to_list()
    if not features or not sizes:
        note = "no probe was trained: no feature had tokens enough,\nor no neuron was of a kind to choose from"
        return theme.finish(theme.note_chart(note), TITLE, [theme.about(model, text)])
    measures = [name for name in MEASURES if probes[name].count()]
    found = {name: curves(probes, name) for name in measures}
    # Features fill rows of a few columns; the measures of a feature stand below one another.
    panels, columns = [], 2 if len(features) == 4 else min(COLUMNS, len(features))
    for start in range(0, len(features), columns):
        here = features[start : start + columns]
        for measure in measures:
            for i, feature in enumerate(here):
                own = found[measure].filter(pl.col("feature") == feature)
                title, foot = MEASURES[measure] if i == 0 else None, measure == measures[-1]
                made = panel(own, sizes, _domain(found[measure]), title, foot=foot)
                if measure == measures[0]:
                    row = probes.filter(pl.col("feature") == feature).row(0, named=True)
                    detail = f"{row['n_positive']:,} of {row['n_test']:,} tokens have it"
                    made = made.properties(title=overlays.heading(feature, detail))
                panels.append(made)
            panels += [alt.Chart(pl.DataFrame({"x": [0]})).mark_point(opacity=0)] * (
                (columns - len(here)) if start else 0
            )
    body = alt.concat(*panels, columns=columns, spacing={"row": 18, "column": 22})
    draws = probes.filter(pl.col("order") == "random")["draw"].n_unique()
    orders = probes["order"].unique().to_list()
    of_draws = [f"random: {theme.count(draws, 'draw')}"] if draws else []
    ranges = [*of_draws, *(["one by one: the neurons of an ensemble"] if "single" in orders else [])]
    trained = probes["n_train"].unique().sort().to_list()
    subtitle = [
        theme.about(model, text, f"probes fitted on {trained[-1]:,} tokens" if trained else ""),
        "feature of the next token; tested on other documents; dotted: chance",
        "model: its top prediction; area: of its probability of the feature" if "model" in orders else None,
        f"bars, bands around straight lines: {100 * level:g} % intervals, bootstrap by document",
        f"other bands: ranges ({', '.join(ranges)}), lines: means" if ranges else None,
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(*, probes: str | Path, figures: Sequence[str | Path], model: str, text: str, level: float = 0.95) -> None:
    """Rule `draw_probes`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(probes, "probes"), model=model, text=text, level=level), figures)
