"""Singular values of the unembedding of several models or checkpoints in one figure (study A, figure 6).

Models differ in scale and in width: values are divided by their model's median, and the index by the number of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import saving, theme
from neuronlab.figures.checkpoints import training
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

TITLE = "Singular values of the unembedding, side by side"
WIDTH, HEIGHT = 420, 330
PALETTE = (theme.BLUE, theme.VERMILION, theme.GREEN, theme.PURPLE, theme.ORANGE, theme.SKY, theme.INK)
DASHES = ([1, 0], [6, 3], [2, 2])  # a second and third round of the palette
RAMP = ("#fde08d", "#f6a25f", "#e2615c", "#b03779", "#72217f", "#2c115f")  # early to late, light to dark
NULL = 1e-7  # of the largest value: an exact null direction, not on a logarithmic axis
TAIL_SHARE, TAIL_LEAST = 0.1, 24
FEW = 60  # values in the tail up to which each is a dot


def prepare(spectra: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Columns model, place (relative index), value (over the median); and how many null values are left out."""
    largest = pl.col("singular_value").max().over("model")
    kept = spectra.filter(pl.col("singular_value") > NULL * largest)
    shown = kept.sort("index", maintain_order=True).with_columns(
        place=(pl.int_range(pl.len()).over("model") + 0.5) / pl.len().over("model"),
        value=pl.col("singular_value") / pl.col("singular_value").median().over("model"),
    )
    return shown.select("model", "place", "value"), len(spectra) - len(kept)


def colours(spectra: pl.DataFrame, models: Sequence[str]) -> list[str]:
    """One colour per model: early to late along one training run, else a palette that repeats after seven."""
    run = training(spectra)
    if run is None or run.others:
        return [PALETTE[i % len(PALETTE)] for i in range(len(models))]
    order = run.places["model"].to_list()
    knots = np.linspace(0, 1, len(RAMP))
    channels = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP])
    found = {}
    for i, model in enumerate(order):
        at = i / max(len(order) - 1, 1)
        mixed = [round(float(np.interp(at, knots, channels[:, c]))) for c in range(3)]
        found[model] = "#" + "".join(f"{value:02x}" for value in mixed)
    return [found[model] for model in models]


def _panel(
    frame: pl.DataFrame, look: dict[str, alt.Color | alt.StrokeDash], low: float, title: str, name: str
) -> alt.LayerChart:
    here = frame.filter(pl.col("place") >= low)
    x = Axis("place", title, (low, 1.0), pixels=WIDTH)
    y = Axis("value", name, tuple(theme.log_domain(here["value"], include=[1.0] if low == 0 else [])), True, HEIGHT)
    base = alt.Chart(here).encode(x=x.x(grid=False), y=y.y(), color=look["color"], detail="model:N")
    layers = [base.mark_line(strokeWidth=2, clip=True).encode(strokeDash=look["strokeDash"])]
    if here.group_by("model").len()["len"].max() <= FEW:
        layers.append(base.mark_circle(size=34, opacity=1, clip=True))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def chart(spectra: pl.DataFrame, *, comparison: str) -> alt.TopLevelMixin:
    """The figure, from the table "comparison_spectra"."""
    models = spectra["model"].unique(maintain_order=True).to_list()
    if not models:
        return theme.finish(theme.note_chart("no model to compare"), TITLE, [f"comparison {comparison}"])
    frame, null = prepare(spectra)
    smallest = int(frame.group_by("model").len()["len"].min())
    tail = min(1.0, max(TAIL_SHARE, TAIL_LEAST / smallest))
    scale = alt.Scale(domain=models, range=colours(spectra, models))
    legend = alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=3, orient="right", labelLimit=260)
    rounds = [DASHES[min(i // len(PALETTE), 2)] if scale.range[i] in PALETTE else DASHES[0] for i in range(len(models))]
    dashes = alt.StrokeDash("model:N", scale=alt.Scale(domain=models, range=rounds), sort=models, legend=legend)
    look = {"color": alt.Color("model:N", scale=scale, sort=models, legend=legend), "strokeDash": dashes}
    widths = spectra.group_by("model").len()["len"]
    low, high = int(widths.min()), int(widths.max())
    made = alt.hconcat(
        _panel(frame, look, 0.0, "relative index of the singular direction", "singular value of W_U / median"),
        _panel(frame, look, 1 - tail, f"relative index: the last {100 * tail:.0f} %", ""),
        spacing=26,
    )
    subtitle = [
        "  ·  ".join(
            [
                f"comparison {comparison}",
                theme.count(len(models), "model"),
                f"{low} singular values each" if low == high else f"{low} to {high} singular values",
            ]
        ),
        "W_U folded with the final norm's gain and centred; values over their model's median",
        f"{theme.count(null, 'value')} exactly null (the all-ones direction of a LayerNorm) left out" if null else None,
    ]
    return theme.finish(made, TITLE, subtitle)


def draw(*, spectra: str | Path, figures: Sequence[str | Path], comparison: str) -> None:
    """Rule `draw_spectra`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(spectra, "comparison_spectra"), comparison=comparison), figures)
