"""Published rho, LogitVar and norm of the same neurons against ours (METHODS B1).

The same weights should give the same numbers: a relative error above about 1e-3 says that the weights were
processed differently (folding, centring, another revision), not that the science differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

TITLE = "Published measures against ours"
MEASURES = {"rho": "rho", "logit_var": "LogitVar", "norm": "norm of w_out"}
COLOURS = (theme.VERMILION, theme.BLUE, theme.GREEN, theme.PURPLE, theme.ORANGE, theme.SKY)


def _identity(frame: pl.DataFrame, measure: str, colour: alt.Color) -> alt.LayerChart:
    """Published against ours with the diagonal."""
    domain = tuple(theme.linear_domain(frame["published"], frame["ours"], pad=0.1))
    style = "~e" if measure == "logit_var" else None
    x = Axis("published", f"published {MEASURES[measure]}", domain, pixels=250, number_format=style)
    y = Axis("ours", f"our {MEASURES[measure]}", domain, pixels=250, number_format=style)
    ends = pl.DataFrame({"published": list(domain), "ours": list(domain)})
    diagonal = alt.Chart(ends).mark_line(color="#9aa3ac", strokeDash=[4, 3]).encode(x=x.x(), y=y.y())
    dots = alt.Chart(frame).mark_circle(size=70, opacity=0.9).encode(x=x.x(), y=y.y(), color=colour)
    placed = points.place_labels(frame, x, y)
    texts = points.label_layer(placed, x, y, alt.value(theme.INK)) if len(frame) <= 16 else []
    return alt.layer(diagonal, dots, *texts).properties(width=250, height=250)


def _errors(frame: pl.DataFrame, measure: str, colour: alt.Color, domain: tuple[float, float]) -> alt.Chart:
    """|ours/published - 1| of every neuron."""
    x = Axis("size", f"|ours / published {theme.MINUS} 1|", domain, True, 250)
    order = frame["label"].unique(maintain_order=True).to_list()
    return (
        alt.Chart(frame)
        .mark_circle(size=70, opacity=0.9)
        .encode(
            x=x.x(),
            y=alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=True)),
            color=colour,
            tooltip=[
                alt.Tooltip("label:N", title="neuron"),
                alt.Tooltip("published:Q", format=".5g"),
                alt.Tooltip("ours:Q", format=".5g"),
                alt.Tooltip("relative_error:Q", format=".2e"),
            ],
        )
        .properties(width=250, height=max(100, 20 * len(order)))
    )


def chart(published: pl.DataFrame, *, model: str) -> alt.TopLevelMixin:
    """The figure, from the table `published`; a measure without a published value or ours is left out and counted."""
    frame = published.drop_nulls(["published", "ours", "relative_error"]).with_columns(
        label=pl.format("{}.{}", "layer", "neuron"), size=pl.col("relative_error").abs()
    )
    absent = len(published) - len(frame)
    neurons = frame.select("layer", "neuron").unique().height
    about = theme.about(model, None, theme.count(neurons, "published neuron"), theme.count(len(frame), "value"))
    if not len(frame):
        return theme.finish(theme.note_chart("no published value for this model's neurons"), TITLE, [about])
    exact = int((frame["size"] == 0).sum())
    smallest = float(frame.filter(pl.col("size") > 0)["size"].min() or 1e-12)
    frame = frame.with_columns(pl.col("size").clip(lower_bound=smallest))
    studies = frame["study"].unique(maintain_order=True).to_list()
    colour = alt.Color(
        "study:N",
        scale=alt.Scale(domain=studies, range=list(COLOURS[: len(studies)])),
        legend=alt.Legend(title="published by", orient="bottom"),
    )
    domain = tuple(theme.log_domain(frame["size"], include=[1e-5, 1e-2]))
    columns = [
        alt.vconcat(
            _identity(frame.filter(pl.col("measure") == measure), measure, colour),
            _errors(frame.filter(pl.col("measure") == measure), measure, colour, domain),
            spacing=18,
        )
        for measure in MEASURES
        if measure in frame["measure"].unique()
    ]
    sizes = frame.filter(pl.col("measure") == "rho")["k"].drop_nulls().unique().sort().to_list()
    subtitle = [
        about,
        f"largest relative error {frame['size'].max():.2g}"
        + (f"; rho at the published k = {', '.join(map(str, sizes))}" if sizes else ""),
        f"{theme.count(absent, 'value')} left out: not published, or not ours to measure" if absent else None,
        f"{exact:,} errors of exactly zero are drawn at the smallest error" if exact else None,
    ]
    return theme.finish(alt.hconcat(*columns, spacing=28), TITLE, subtitle)


def draw(*, published: str | Path, figures: Sequence[str | Path], model: str) -> None:
    """Rule `draw_published`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(published, "published"), model=model), figures)
