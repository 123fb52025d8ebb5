"""Error of the closed form against brute force, by size of the effect, with the tolerance.

Every point is one (token, neuron) pair and one effect; the line is the tolerance that the run is held to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

TITLE = "Closed form against brute force"
TIERS = {
    "readout": "read-out alone: norm, unembedding, softmax in float64",
    "forward": "whole forward pass with a hook, float64",
}
VARIANTS = {"total": theme.VERMILION, "direct": theme.BLUE, "norm": theme.GREEN, "unigram": theme.PURPLE}
NAMES = {
    "total": "total",
    "direct": "direct: norm frozen",
    "norm": "norm alone",
    "unigram": "unigram projection frozen",
}


def worst(verification: pl.DataFrame) -> float:
    """Largest error over its tolerance; above 1 the run fails."""
    return float((verification["error"] / verification["tolerance"]).max() or 0.0)


def _panel(frame: pl.DataFrame, name: str, x: Axis, y: Axis) -> tuple[alt.LayerChart, int]:
    shown = points.thin(frame, x, y, limit=2500)
    variants = [name for name in VARIANTS if name in frame["variant"].unique()]
    line = frame.select("effect", "tolerance").unique().sort("effect")
    line = pl.concat([line.gather_every(max(1, len(line) // 200)), line.tail(1)]).unique(maintain_order=True)
    tolerance = (
        alt.Chart(line)
        .mark_line(color=theme.INK, strokeWidth=1.6, strokeDash=[6, 4])
        .encode(x=x.x(), y=alt.Y("tolerance:Q", scale=y.scale(), axis=y.axis()))
    )
    dots = (
        alt.Chart(shown)
        .mark_circle(size=20, opacity=0.6)
        .encode(
            x=x.x(),
            y=y.y(),
            color=alt.Color(
                "variant:N",
                scale=alt.Scale(domain=variants, range=[VARIANTS[name] for name in variants]),
                legend=alt.Legend(title=None, orient="bottom", labelExpr=f"({json.dumps(NAMES)})[datum.value]"),
            ),
        )
    )
    heading = alt.Title(
        TIERS.get(name, name),
        subtitle=f"{theme.count(len(frame), 'effect')}; largest error {worst(frame):.2g} of the tolerance",
        fontSize=13,
        subtitleFontSize=12,
        anchor="start",
        offset=6,
    )
    return alt.layer(dots, tolerance).properties(width=x.pixels, height=y.pixels, title=heading), len(shown)


def chart(verification: pl.DataFrame, *, model: str, text: str | None = None) -> alt.TopLevelMixin:
    """The figure, from the table `verification`: one panel per tier."""
    about = theme.about(model, text, theme.count(len(verification), "checked effect"))
    if not len(verification):
        return theme.finish(theme.note_chart("nothing was verified"), TITLE, [about])
    frame = verification.with_columns(effect=pl.col("brute_force").abs())
    smallest = float(frame.filter(pl.col("error") > 0)["error"].min() or 1e-18)
    least_effect = float(frame.filter(pl.col("effect") > 0)["effect"].min() or 1e-18)
    # A logarithm has no zero: those lie at the foot and at the left edge, and the subtitle counts them.
    exact = int((frame["error"] == 0).sum())
    frame = frame.with_columns(
        pl.col("error").clip(lower_bound=smallest), pl.col("effect").clip(lower_bound=least_effect)
    )
    tiers = [name for name in TIERS if name in frame["tier"].unique()]
    tiers += sorted(set(frame["tier"].unique()) - set(tiers))
    width = 380 if len(tiers) > 1 else 520
    x = Axis("effect", "|effect| by brute force (nats)", tuple(theme.log_domain(frame["effect"])), True, width)
    y = Axis(
        "error",
        "error of the closed form (nats)",
        tuple(theme.log_domain(frame["error"], frame["tolerance"])),
        True,
        320,
    )
    panels, shown = zip(*(_panel(frame.filter(pl.col("tier") == name), name, x, y) for name in tiers), strict=True)
    failed = int((~verification["passed"]).sum())
    subtitle = [
        about,
        f"largest error: {worst(verification):.2g} of the tolerance (dashed); "
        + ("all passed" if not failed else f"{failed:,} above it"),
        f"{exact:,} errors of exactly zero are drawn at the foot" if exact else None,
        points.thinned_note(sum(shown), len(frame), "effects"),
    ]
    return theme.finish(alt.hconcat(*panels, spacing=30), TITLE, subtitle)


def draw(*, verification: str | Path, figures: Sequence[str | Path], model: str, text: str) -> None:
    """Rule `draw_verification`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(verification, "verification"), model=model, text=text), figures)
