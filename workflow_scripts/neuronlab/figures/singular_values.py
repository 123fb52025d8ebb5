"""Singular values of the unembedding, and where neurons' output weights lie among its directions (study A, figure 2d).

Above, the spectrum of the folded, centred W_U with its null space: the few directions whose singular values
drop. Below, |cos(w_out, U_j)|: entropy neurons sit in that null space, controls spread evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Singular values of the unembedding and the neurons in its null space"
BINS, WHOLE_BINS = 256, 96
LEGEND = {"orient": "bottom", "direction": "horizontal", "title": None, "symbolType": "stroke", "symbolStrokeWidth": 3}


def null_sizes(singular_values: pl.DataFrame, null_space: pl.DataFrame) -> tuple[int, list[int]]:
    """The automatic size of the null space (0 if there is none) and the configured ones, smallest first."""
    automatic = int(singular_values["automatic"].sum())
    configured = null_space.filter(pl.col("k_rule") == "configured")["k"].unique().sort().to_list()
    return automatic, [int(k) for k in configured]


def bin_profile(frame: pl.DataFrame, low: int, high: int, bins: int = BINS) -> pl.DataFrame:
    """|cos| of every neuron at the indices low..high-1, as the largest per bin where there are more than `bins`.

    Columns: set, neuron, label, index (the bin's middle), cosine (absolute).
    """
    width = max(1, int(np.ceil((high - low) / bins)))
    here = frame.filter(pl.col("index").is_between(low, high - 1))
    if not len(here):
        return here.select("set", "neuron", "label", pl.col("index").cast(pl.Float64), "cosine")
    last = pl.lit(high - 1)
    start = (pl.col("index") - low) // width * width + low
    return (
        here.group_by("set", "neuron", "label", start.alias("start"), maintain_order=True)
        .agg(pl.col("cosine").abs().max())
        .with_columns(index=(pl.col("start") + pl.min_horizontal(pl.col("start") + width - 1, last)) / 2)
        .select("set", "neuron", "label", "index", "cosine")
        .sort("set", "neuron", "index")
    )


def group_rms(frame: pl.DataFrame, low: int, high: int, bins: int = BINS) -> pl.DataFrame:
    """Root mean square of the cosine over a group and over the directions of a bin: set, index, cosine."""
    width = max(1, int(np.ceil((high - low) / bins)))
    here = frame.filter(pl.col("index").is_between(low, high - 1))
    start = ((pl.col("index") - low) // width * width + low).alias("start")
    return (
        here.group_by("set", start, maintain_order=True)
        .agg((pl.col("cosine") ** 2).mean().sqrt())
        .with_columns(index=(pl.col("start") + pl.min_horizontal(pl.col("start") + width - 1, pl.lit(high - 1))) / 2)
        .sort("set", "index")
        .select("set", "index", "cosine")
    )


def _shades(automatic: int, d: int, x: Axis, height: int) -> list[alt.Chart]:
    """The band of the automatic null space; drawn only as far as the axis goes."""
    if not automatic:
        return []
    band = pl.DataFrame({"from": [max(d - automatic - 0.5, x.domain[0])], "to": [x.domain[1]]})
    return [
        alt.Chart(band)
        .mark_rect(color=theme.ORANGE, opacity=0.16)
        .encode(x=alt.X("from:Q", scale=x.scale(), axis=x.axis(format="d", grid=False)), x2="to:Q")
    ]


def _lines(configured: Sequence[int], d: int, x: Axis, named: bool) -> list[alt.Chart]:
    """A dashed line where each configured null space begins, named at its foot."""
    rows = [(d - k - 0.5, f"k = {k}") for k in configured if d - k - 0.5 >= x.domain[0]]
    if not rows:
        return []
    frame = pl.DataFrame(rows, schema=["at", "name"], orient="row")
    at = alt.X("at:Q", scale=x.scale(), axis=x.axis(format="d", grid=False))
    rules = alt.Chart(frame).mark_rule(strokeDash=[4, 3], color=theme.FAINT).encode(x=at)
    names = (
        alt.Chart(frame)
        .mark_text(align="right", dx=-4, fontSize=12, color=theme.FAINT)
        .encode(x=at, y=alt.value(12), text="name:N")
    )
    return [rules, names] if named else [rules]


def _spectrum(frame: pl.DataFrame, automatic: int, configured: Sequence[int], x: Axis, y: Axis) -> alt.LayerChart:
    """Singular values by index; exactly null ones as triangles at the foot, since a logarithm cannot show them."""
    d = len(frame)
    here = frame.filter(pl.col("index").is_between(*x.domain))
    shown = here.filter(~pl.col("exact_null") & (pl.col("singular_value") > 0))
    null = here.filter(pl.col("exact_null") | (pl.col("singular_value") <= 0))
    dense = len(shown) > 200
    dots = (
        alt.Chart(shown)
        .mark_circle(size=12 if dense else 34, color=theme.INK, opacity=1)
        .encode(x=alt.X("index:Q", scale=x.scale(), axis=x.axis(format="d", grid=False)), y=y.y())
    )
    layers = [*_shades(automatic, d, x, y.pixels), *_lines(configured, d, x, named=True), dots]
    if len(null):
        foot = alt.Chart(null).encode(x=alt.X("index:Q", scale=x.scale()), y=alt.value(y.pixels - 6))
        layers.append(foot.mark_point(shape="triangle-down", filled=True, size=70, color=theme.VERMILION, opacity=1))
        if x.domain[0] > 0 and y.pixels > 150:
            text = alt.value("all-ones direction: exactly null")
            type_ = {"align": "right", "dx": -8, "fontSize": 12}
            halo = foot.mark_text(**type_, stroke="white", strokeWidth=4, strokeJoin="round")
            layers += [halo.encode(text=text), foot.mark_text(**type_, color=theme.VERMILION).encode(text=text)]
    return alt.layer(*layers).properties(width=x.pixels, height=y.pixels)


def _cosines(
    frame: pl.DataFrame, d: int, automatic: int, configured: Sequence[int], x: Axis, y: Axis, legend: bool
) -> alt.LayerChart:
    span = int(np.ceil(x.domain[0])), int(np.floor(x.domain[1])) + 1
    # Over the whole spectrum single neurons are a thicket: only their group's mean square is drawn there.
    tail = x.domain[0] > 0 or d <= WHOLE_BINS
    profile = bin_profile(frame, *span)
    profile = profile.with_columns(group=pl.col("set"))
    present = frame["set"].unique(maintain_order=True).to_list()
    lines = (
        alt.Chart(profile)
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("index:Q", scale=x.scale(), axis=x.axis(format="d", grid=False)),
            y=y.y(),
            detail="label:N",
            color=groups.colour_encoding(present, show=legend, **LEGEND),
            opacity=alt.value(0.4 if profile["label"].n_unique() > 8 else 0.6),
            tooltip=[alt.Tooltip("label:N", title="neuron"), alt.Tooltip("cosine:Q", format=".3f")],
        )
    )
    means = (
        alt.Chart(group_rms(frame, *span, BINS if tail else WHOLE_BINS).with_columns(group=pl.col("set")))
        .mark_line(strokeWidth=2.6)
        .encode(
            x=alt.X("index:Q", scale=x.scale()), y=y.y(), color=groups.colour_encoding(present, show=legend, **LEGEND)
        )
    )
    layers = [
        *_shades(automatic, d, x, y.pixels),
        *_lines(configured, d, x, named=False),
        *([lines] if tail else []),
        means,
    ]
    return alt.layer(*layers).properties(width=x.pixels, height=y.pixels)


def prepare(alignment: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None = None) -> pl.DataFrame:
    """Alignment rows of highlighted sets and of controls, `set` replaced by the name that the legend shows."""
    names = groups.highlighted_sets(selection, sets)
    controls = selection.filter(pl.col("kind") != "selection")["set"].unique().to_list()
    label = {name: groups.set_label(name) for name in names} | dict.fromkeys(controls, groups.CONTROLS)
    return (
        alignment.filter(pl.col("set").is_in(list(label)))
        .with_columns(
            pl.col("set").replace_strict(label, default=None),
            label=pl.format("{}.{}", "layer", "neuron"),
        )
        .unique(["layer", "neuron", "index"], keep="first", maintain_order=True)
    )


def panels(
    singular_values: pl.DataFrame,
    profiles: pl.DataFrame,
    automatic: int,
    configured: Sequence[int],
    *,
    tail_only: bool = False,
    legend: bool = True,
    width: int = 330,
    height: int = 210,
) -> alt.VConcatChart:
    """Spectrum above cosines, whole and tail side by side."""
    d = len(singular_values)
    tail = min(d, max(4 * max([automatic, *configured, 4]), 32))
    shown = singular_values.filter(~pl.col("exact_null") & (pl.col("index") >= (d - tail if tail_only else 0)))
    positive = shown["singular_value"]
    low = height < 150  # room for a short title only
    name = "singular value" if low else "singular value of W_U"
    y_spectrum = Axis("singular_value", name, tuple(theme.log_domain(positive, pad=0.12)), True, height)
    drawn = profiles if d <= WHOLE_BINS else profiles.filter(pl.col("index") >= d - tail)
    top = max(
        float(drawn["cosine"].abs().max() or 0.0), float(group_rms(profiles, 0, d, WHOLE_BINS)["cosine"].max() or 0.0)
    )
    y_cosine = Axis("cosine", "|cos(w_out, U_j)|", (0.0, min(1.02, top * 1.08) or 1.0), pixels=height)
    ranges = [] if tail_only else [("index j of the singular direction", 0, width)]
    if tail < d or tail_only:
        title = "index j of the singular direction" if tail_only else f"index j: the last {tail} directions"
        ranges.append((title, d - tail, width))
    columns = []
    for title, start, pixels in ranges:
        x = Axis("index", title, (start - 0.6, d - 0.4), pixels=pixels)
        columns.append(
            alt.vconcat(
                _spectrum(singular_values, automatic, configured, replace(x, title="") if low else x, y_spectrum),
                _cosines(profiles, d, automatic, configured, x, y_cosine, legend),
                spacing=14,
            )
        )
    return alt.hconcat(*columns, spacing=26)


def chart(
    singular_values: pl.DataFrame,
    alignment: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    sets: Sequence[str] | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables of the same names."""
    automatic, configured = null_sizes(singular_values, null_space)
    profiles = prepare(alignment, selection, sets)
    d = len(singular_values)
    numbers = dict(profiles.group_by("set").agg(pl.col("label").n_unique()).iter_rows())
    shown = ", ".join(f"{numbers[name]} {name}" for name in groups.colours(list(numbers))[0]) or "no neuron selected"
    width = -(-d // WHOLE_BINS)
    chance = float(singular_values["automatic_p_value"].max())
    subtitle = [
        theme.about(model, None, f"d_model {d}", shown),
        "shaded: null space of automatic size, "
        + (f"k = {automatic} (p = {chance:.2g} for a drop as sharp by chance)" if automatic else "which found none"),
        "dashed: configured k" if configured else None,
        "bold: root mean square of the group"
        + (f" (left: over every {width} directions); thin: single neurons (right)" if width > 1 else "; thin: neurons"),
        "triangle: the all-ones direction, exactly null by the final LayerNorm; not on the logarithmic axis"
        if singular_values["exact_null"].any()
        else None,
    ]
    return theme.finish(panels(singular_values, profiles, automatic, configured), TITLE, subtitle)


def draw(
    *,
    singular_values: str | Path,
    alignment: str | Path,
    null_space: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    sets: Sequence[str] | None = None,
) -> None:
    """Rule `draw_singular_values`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(singular_values, "singular_values"),
        read_table(alignment, "alignment"),
        read_table(null_space, "null_space"),
        read_selections(selection),
        model=model,
        sets=sets,
    )
    saving.save(made, figures)
