"""Neurons that follow a feature of the tokens: the best of each feature, and how it splits the vocabulary (study C).

A neuron's logit effect on a token is w_out W_U, per unit of activation. Left: the best neuron of each feature, that
with the largest difference between the mean effect on tokens with the feature and on the others. Right: the whole
distributions of some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import overlays, saving, theme
from neuronlab.figures.layer_neuron_counts import KINDS
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

TITLE = "Neurons of vocabulary features"
ROWS, WIDTH = 64, 215  # features listed, at most; pixels of a panel
SHOWN, MOST, COLUMNS, HISTOGRAM = 6, 12, 2, (230, 116)  # histograms: as many as fit beside the list, within these
OTHER = "of no kind"
COLOURS = {**KINDS, OTHER: theme.PURPLE}


def best_neurons(feature_neurons: pl.DataFrame, level: float) -> pl.DataFrame:
    """The first neuron of each feature, largest |effect size| first; missing ones last.

    Columns of the table and label (feature, neuron, tokens), group (its kind), significant.
    """
    best = feature_neurons.filter(pl.col("place") == 0).with_columns(
        group=pl.col("kind").fill_null(OTHER),
        significant=(pl.col("p_value_holm") <= 1 - level).fill_null(value=False),
        name=pl.format("{}.{}", "layer", "neuron"),
    )
    size = pl.col("effect_size").abs()
    return best.sort(size, pl.col("difference").abs(), "feature", descending=[True, True, False], nulls_last=True)


def shown_histograms(best: pl.DataFrame, histograms: pl.DataFrame, count: int = SHOWN) -> pl.DataFrame:
    """Features whose histograms are drawn: the first ones, significant before others, each of a neuron of its own.

    Several features may share their best neuron (-s and -es); the next feature tells more than the same one again.
    """
    there = histograms.select("feature", "layer", "neuron").unique()
    able = best.join(there, on=["feature", "layer", "neuron"], how="semi", maintain_order="left")
    ranked = able.sort("significant", descending=True, maintain_order=True)
    return ranked.unique(["layer", "neuron"], keep="first", maintain_order=True).head(count)


def densities(histograms: pl.DataFrame, feature: str, layer: int, neuron: int) -> pl.DataFrame:
    """Bins of one neuron: group, bin_start, bin_end, n, density (share of the group per unit of effect), tokens.

    Where a group is small, neighbouring bins of the table are put together; bins without a token are left out.
    """
    chosen = (pl.col("feature") == feature) & (pl.col("layer") == layer) & (pl.col("neuron") == neuron)
    own = histograms.filter(chosen).sort("group", "bin_start")
    smaller = own.group_by("group").agg(pl.col("n").sum())["n"].min()
    together = next(number for limit, number in ((100, 3), (1000, 2), (np.inf, 1)) if smaller < limit)
    bins = own.with_columns(bin=pl.int_range(pl.len()).over("group") // together)
    wide = bins.group_by("group", "bin", maintain_order=True).agg(
        pl.col("bin_start").first(), pl.col("bin_end").last(), pl.col("n").sum()
    )
    total = pl.col("n").sum().over("group")
    density = pl.col("n") / total / (pl.col("bin_end") - pl.col("bin_start"))
    return wide.with_columns(density=density, tokens=total).filter(pl.col("n") > 0).drop("bin")


def row_height(rows: int) -> int:
    """Pixels of a row of the list."""
    return 24 if rows <= 12 else 19 if rows <= 30 else 16


def _colour(groups: Sequence[str], *, legend: bool) -> alt.Color:
    domain = [name for name in COLOURS if name in groups]
    shown = alt.Legend(title=None, orient="top", direction="horizontal", symbolType="circle", columns=2)
    scale = alt.Scale(domain=domain, range=[COLOURS[name] for name in domain])
    return alt.Color("group:N", scale=scale, legend=shown if legend else None)


def rows_panel(best: pl.DataFrame, column: str, title: str, *, first: bool) -> alt.LayerChart:
    """A row per feature: its best neuron's value, filled if significant.

    Args:
        first: name the features, and draw the legend.
    """
    order = best["feature"].to_list()
    names = {row["feature"]: f"{row['feature']} ({row['name']})" for row in best.iter_rows(named=True)}
    cases = " : ".join([*(f"datum.value == '{feature}' ? '{name}'" for feature, name in names.items()), "''"])
    look = {"title": None, "ticks": False, "domain": False, "grid": True, "labelLimit": 260, "labelPadding": 8}
    axis = alt.Axis(labelExpr=cases, **look) if first else alt.Axis(labels=False, **look)
    y = alt.Y("feature:N", sort=None, scale=alt.Scale(domain=order), axis=axis)
    domain = theme.linear_domain(best[column], include=[0.0], pad=0.07)
    x = Axis(column, title, (domain[0], domain[1]), pixels=WIDTH)
    tips = [alt.Tooltip(f"{name}:N") for name in ("feature", "name", "group", "n_feature", "significant")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3g") for name in ("difference", "effect_size", "p_value_holm")]
    colour = _colour(best["group"].unique().to_list(), legend=first)
    base = alt.Chart(best.drop_nulls(column)).encode(y=y, color=colour)
    zero = alt.Chart(pl.DataFrame({column: [0.0]})).mark_rule(color=theme.FAINT, strokeWidth=1)
    bar = base.mark_rule(strokeWidth=1.4, opacity=0.55).encode(x=x.x(tickCount=5), x2=alt.datum(0.0))
    dots = base.encode(x=x.x(tickCount=5), tooltip=tips)
    return alt.layer(
        zero.encode(x=x.x(tickCount=5)),
        bar,
        dots.transform_filter("datum.significant").mark_circle(size=52, opacity=1),
        dots.transform_filter("!datum.significant").mark_point(
            filled=False, fill="white", size=40, opacity=1, strokeWidth=1.6, shape="circle"
        ),
    ).properties(width=WIDTH, height=row_height(len(order)) * len(order))


def histogram(frame: pl.DataFrame, row: dict[str, object], *, foot: bool) -> alt.LayerChart:
    """Logit effects of one neuron on tokens with the feature, in its kind's colour, and on the others, in grey."""
    width, height = HISTOGRAM
    ends = theme.linear_domain(frame["bin_start"], frame["bin_end"], pad=0.02)
    x = alt.X(
        "bin_start:Q",
        scale=alt.Scale(domain=ends, nice=False, zero=False),
        axis=alt.Axis(title="logit effect" if foot else None, tickCount=5, grid=False, titleFontSize=12),
    )
    top = float(frame["density"].max()) * 1.05
    # Heights are shares per unit of effect: comparable within a panel alone, and told by the area.
    y = alt.Y("density:Q", scale=alt.Scale(domain=[0, top], nice=False), axis=None)
    colour = COLOURS[str(row["group"])]
    tips = [alt.Tooltip("group:N"), alt.Tooltip("n:Q"), alt.Tooltip("bin_start:Q"), alt.Tooltip("bin_end:Q")]
    base = alt.Chart(frame).encode(x=x, x2="bin_end:Q", y=y, y2=alt.datum(0.0), tooltip=tips)
    name = f"{row['name']}: {row['feature']}"
    of = dict(frame.select("group", "tokens").unique().iter_rows())
    detail = f"{of.get('feature', 0):,} tokens with it, {of.get('rest', 0):,} without"
    detail += "" if row["significant"] else "; not significant"
    return alt.layer(
        base.transform_filter("datum.group == 'rest'").mark_rect(color="#b3bbc3"),
        base.transform_filter("datum.group == 'feature'").mark_rect(color=colour, opacity=0.62),
    ).properties(width=width, height=height, title=overlays.heading(name, detail, colour))


def chart(
    feature_neurons: pl.DataFrame, feature_histograms: pl.DataFrame, *, model: str, level: float = 0.95
) -> alt.TopLevelMixin:
    """The figure, from the tables `feature_neurons` and `feature_histograms`."""
    best = best_neurons(feature_neurons, level)
    if not len(best):
        note = "no neuron to compare: none has a heavy tail or a large variance,\nor no feature has tokens enough"
        return theme.finish(theme.note_chart(note), TITLE, [theme.about(model)])
    shown = best.head(ROWS)
    panels = [
        rows_panel(shown, "effect_size", "effect size (Cohen's d)", first=True),
        rows_panel(shown, "difference", "difference of mean logit effects", first=False),
    ]
    left = alt.hconcat(*panels, spacing=16).properties(title=overlays.heading("The best neuron of each feature"))
    fitting = COLUMNS * (len(shown) * row_height(len(shown)) // (HISTOGRAM[1] + 64))
    some = shown_histograms(best, feature_histograms, max(SHOWN, min(MOST, fitting)))
    body: alt.TopLevelMixin = left
    if len(some):
        histograms = []
        for i, row in enumerate(some.iter_rows(named=True)):
            frame = densities(feature_histograms, row["feature"], row["layer"], row["neuron"])
            histograms.append(histogram(frame, row, foot=i + COLUMNS >= len(some)))
        right = alt.concat(*histograms, columns=COLUMNS, spacing={"row": 16, "column": 20})
        body = alt.hconcat(left, right, spacing=30).resolve_scale(color="independent")
    significant, without = int(best["significant"].sum()), int(shown["effect_size"].null_count())
    more = len(best) - len(shown)
    subtitle = [
        theme.about(model, None, theme.count(len(best), "feature"), f"{significant:,} with a significant neuron"),
        "logit effect: w_out W_U per unit of activation; best: the largest |difference| of means, feature against rest",
        f"filled: Welch's t, p \N{LESS-THAN OR EQUAL TO} {1 - level:.2g} after Holm over all neurons and features; "
        "hollow: not",
        "histograms: areas of 1; colour: with the feature, grey: the others" if len(some) else None,
        "tokens are no sample: p-values take them as independent",
        f"{theme.count(more, 'more feature')} with smaller effects not drawn" if more else None,
        f"no effect size where neither group varies ({without})" if without else None,
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    feature_neurons: str | Path,
    feature_histograms: str | Path,
    figures: Sequence[str | Path],
    model: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_feature_neurons`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(feature_neurons, "feature_neurons"),
        read_table(feature_histograms, "feature_histograms"),
        model=model,
        level=level,
    )
    saving.save(made, figures)
