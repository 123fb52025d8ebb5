"""Models side by side: loss, induction, and how many neurons of either kind the last layer has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import saving, theme
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

TITLE = "Models side by side"
WIDTH, STEP = 178, 30
MUTED = "#8a939c"


@dataclass(frozen=True)
class Panel:
    """Quantities of the summary on one axis: quantity, name in the key, colour."""

    title: str
    unit: str
    marks: tuple[tuple[str, str, str], ...]
    percent: bool = False
    zero: bool = True


PANELS = (
    Panel("Loss", "nats", (("loss", "", theme.INK),), zero=False),
    Panel("Best induction head", "mean attention", (("induction_head", "", theme.GREEN),)),
    Panel("Entropy neurons", "share of the layer", (("entropy_neurons", "", theme.VERMILION),), percent=True),
    Panel(
        "Token-frequency neurons",
        "share of the layer",
        (("frequency_neurons", "neurons", theme.BLUE), ("frequency_chance", "random directions", MUTED)),
        percent=True,
    ),
    Panel("Largest rho", "rho", (("max_rho", "", theme.INK),)),
    Panel(
        f"Largest 1 {theme.MINUS} DE/TE",
        f"1 {theme.MINUS} DE/TE",
        (
            ("max_m_loss", "loss", theme.INK),
            ("max_m_entropy", "entropy", theme.VERMILION),
            ("max_m_freq_loss", "unigram", theme.BLUE),
        ),
    ),
)


def _names(models: Sequence[str], show: bool) -> alt.Y:
    axis = alt.Axis(title=None, labels=show, ticks=False, domain=False, grid=True, labelLimit=260, labelPadding=8)
    scale = alt.Scale(domain=list(models), padding=0)
    return alt.Y("model:N", sort=list(models), scale=scale, axis=axis)


def _label(chart: alt.Chart, x: float, y: float, **look: object) -> alt.Chart:
    mark = chart.mark_text(align="left", baseline="middle", color=theme.INK, **look)
    return mark.encode(x=alt.value(x), y=alt.value(y), text="name:N")


def spread(neurons: pl.DataFrame) -> pl.DataFrame:
    """rho of each model's layer: 5th percentile, median, 95th percentile."""
    return (
        neurons.drop_nulls("rho")
        .group_by("model", maintain_order=True)
        .agg(
            low=pl.col("rho").quantile(0.05, "linear"),
            value=pl.col("rho").median(),
            high=pl.col("rho").quantile(0.95, "linear"),
        )
    )


def panel(
    summary: pl.DataFrame, spec: Panel, models: Sequence[str], layer: pl.DataFrame | None, first: bool
) -> alt.LayerChart:
    """One quantity, or several on one axis, of every model: a point with its interval."""
    height = STEP * len(models)
    known = [mark for mark in spec.marks if mark[0] in set(summary["quantity"])]
    frame = summary.filter(pl.col("quantity").is_in([m[0] for m in known])).drop_nulls("value")
    series = [frame["value"], frame["value_low"], frame["value_high"]]
    if layer is not None:
        series += [layer["low"], layer["high"]]
    domain = tuple(theme.linear_domain(*series, include=[0.0] if spec.zero else [], pad=0.06))
    x = Axis("value", spec.unit, domain, pixels=WIDTH)
    y = _names(models, first)

    def at(column: str) -> alt.X:
        form = {"format": "%"} if spec.percent else {}
        return alt.X(f"{column}:Q", scale=x.scale(), axis=alt.Axis(title=spec.unit, tickCount=4, grid=False, **form))

    layers: list[alt.Chart] = []
    if layer is not None:
        bars = alt.Chart(layer).encode(y=y)
        layers.append(bars.mark_bar(height=10, color=theme.OTHER_COLOUR, opacity=0.7).encode(x=at("low"), x2="high:Q"))
        layers.append(bars.mark_tick(height=10, thickness=2, color=MUTED, bandSize=10).encode(x=at("value")))
    shift = {m[0]: (i - (len(known) - 1) / 2) * 7 for i, m in enumerate(known)}
    for quantity, _, paint in known:
        rows = frame.filter(pl.col("quantity") == quantity)
        moved = {"yOffset": shift[quantity], "color": paint}
        ends = alt.Chart(rows.drop_nulls(["value_low", "value_high"])).mark_rule(strokeWidth=1.8, **moved)
        layers.append(ends.encode(x=at("value_low"), x2="value_high:Q", y=y))
        dots = alt.Chart(rows).mark_circle(size=58, opacity=1, **moved)
        layers.append(dots.encode(x=at("value"), y=y))
    layers.append(_label(alt.Chart(pl.DataFrame({"name": [spec.title]})), 0, -26, fontSize=13, fontWeight="bold"))
    place = 5.0
    for _, name, paint in known:
        if not name:
            continue
        mark = alt.Chart(pl.DataFrame({"name": [name]}))
        layers.append(mark.mark_circle(size=60, color=paint, opacity=1).encode(x=alt.value(place), y=alt.value(-10)))
        layers.append(_label(mark, place + 8, -10, fontSize=theme.LABEL_SIZE))
        place += 22 + 6.1 * len(name)
    return alt.layer(*layers).properties(width=WIDTH, height=height)


def chart(
    summary: pl.DataFrame,
    neurons: pl.DataFrame | None = None,
    *,
    comparison: str,
    text: str,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables "comparison_summary" and, for the spread of rho, "comparison_neurons"."""
    models = summary["model"].unique(maintain_order=True).to_list()
    if not models:
        return theme.finish(theme.note_chart("no model to compare"), TITLE, [f"comparison {comparison}"])
    layer = None if neurons is None else spread(neurons)
    made = [
        panel(summary, spec, models, layer if spec.title == "Largest rho" else None, i == 0)
        for i, spec in enumerate(PANELS)
    ]
    tokens = summary.filter(pl.col("quantity") == "loss")["n"]
    widths = summary.filter(pl.col("quantity") == "entropy_neurons")["n"]
    missing = summary.filter(pl.col("value").is_null()).select("model", "quantity")
    subtitle = [
        "  ·  ".join(
            [
                f"comparison {comparison}",
                f"text {text}",
                theme.count(len(models), "model"),
                _range(tokens, "tokens"),
                _range(widths, "last-layer neurons"),
            ]
        ),
        f"bars: {100 * level:g} % intervals (loss: bootstrap by document; shares: Wilson); rho has none",
        "entropy neuron: rho above chance and most of its effect on the entropy through the final norm's scale",
        "token-frequency neuron: |cosine with the log-unigram direction| > 0.3",
        "rho: grey, 5th to 95th percentile of the layer with its median" if layer is not None else None,
        f"1 {theme.MINUS} DE/TE: neurons whose total effect is above the median; unigram: loss, that direction frozen",
        f"{theme.count(len(missing), 'value')} missing: no neuron with an effect above the floor"
        if len(missing)
        else None,
    ]
    return theme.finish(alt.hconcat(*made, spacing=20), TITLE, subtitle)


def _range(numbers: pl.Series, noun: str) -> str:
    low, high = int(numbers.min() or 0), int(numbers.max() or 0)
    return f"{low:,} {noun}" if low == high else f"{low:,} to {high:,} {noun}"


def draw(
    *,
    summary: str | Path,
    neurons: str | Path | None = None,
    figures: Sequence[str | Path],
    comparison: str,
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_models`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(summary, "comparison_summary"),
        None if neurons is None else read_table(neurons, "comparison_neurons"),
        comparison=comparison,
        text=text,
        level=level,
    )
    saving.save(made, figures)
