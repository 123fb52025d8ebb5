"""Reliability before and after joint ablation, and changes of the scores, against control sets.

One column of panels per selection: accuracy against confidence, and beneath it their difference on a scale of its own.
The control sets' range is a band. Then the changes of likelihood, Brier score, calibration error and confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.figures.set_rows import LIMIT, MATCHED, OWN, RANDOM, SECOND, key, row_panel, rows_of
from neuronlab.tables import read_table

TITLE = "Calibration of the top prediction, before and after joint ablation"
CLEAN, ABLATED, RANGE = "clean model", "set ablated", "range of control sets"
SIZE, GAP_HEIGHT, COLUMNS = 300, 150, 3
ALIGNED = {"minExtent": 50}  # room for labels, the same in all panels
MEASURES = {
    "nll": "loss (nats)",
    "brier": "Brier score",
    "ece": "calibration error",
    "confidence": "mean confidence",
}


def prepare(reliability: pl.DataFrame, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Curves of the clean model and of a selection, and the band of its control sets; with the column gap."""
    plain = reliability.filter(pl.col("condition").is_in(["clean", "ablated"])).with_columns(
        gap=pl.col("accuracy") - pl.col("confidence"),
        gap_low=pl.col("accuracy_low") - pl.col("confidence"),
        gap_high=pl.col("accuracy_high") - pl.col("confidence"),
    )
    own = plain.filter((pl.col("condition") == "clean") | (pl.col("set") == name)).with_columns(
        curve=pl.when(pl.col("condition") == "clean").then(pl.lit(CLEAN)).otherwise(pl.lit(ABLATED))
    )
    controls = plain.filter(pl.col("control_of") == name).group_by("bin", maintain_order=True)
    ends = [end(column).alias(f"{column}_{label}") for column in ("accuracy", "gap") for label, end in _ENDS.items()]
    band = controls.agg(pl.col("confidence").mean(), *ends).sort("confidence")
    return own.sort("curve", "bin"), band


_ENDS = {"low": lambda column: pl.col(column).min(), "high": lambda column: pl.col(column).max()}


def diagram(
    curves: pl.DataFrame, band: pl.DataFrame, column: str, x: Axis, y: Axis, colour: str, height: int, *, names: bool
) -> alt.LayerChart:
    """Accuracy, or the gap to the confidence, against confidence.

    Args:
        names: whether the horizontal axis is labelled.
    """
    across = x.x() if names else replace(x, title="").x(labels=False, ticks=False, domain=False)
    ends = [x.domain[0], x.domain[1]] if column == "accuracy" else [0.0, 0.0]
    line = alt.Chart(pl.DataFrame({x.column: list(x.domain), y.column: ends}))
    span = {"y": alt.Y(f"{column}_low:Q", scale=y.scale(), axis=y.axis(**ALIGNED)), "y2": f"{column}_high:Q"}
    layers = [
        alt.Chart(band).mark_area(color=theme.OTHER_COLOUR, opacity=0.55, clip=True).encode(x=across, **span),
        line.mark_line(color="#9aa3ac", strokeWidth=1.2, strokeDash=[4, 3], clip=True).encode(
            x=across, y=y.y(**ALIGNED)
        ),
    ]
    tips = [alt.Tooltip("curve:N"), alt.Tooltip("n_tokens:Q", format=",")]
    tips += [alt.Tooltip(f"{n}:Q", format=".4g") for n in ("confidence", "accuracy", "accuracy_low", "accuracy_high")]
    for curve, shade in ((CLEAN, theme.INK), (ABLATED, colour)):
        base = alt.Chart(curves.filter(pl.col("curve") == curve)).encode(x=across, tooltip=tips)
        dots = base.mark_point(shape="circle", filled=True, size=42, opacity=1, stroke="white", strokeWidth=0.6)
        layers += [
            base.mark_rule(color=shade, strokeWidth=1.3, opacity=0.8, clip=True).encode(**span),
            base.mark_line(color=shade, strokeWidth=1.6).encode(y=y.y(**ALIGNED)),
            dots.encode(y=y.y(**ALIGNED), color=alt.value(shade)),
        ]
    return alt.layer(*layers).properties(width=SIZE, height=height)


def legend(colours: Sequence[str], controls: bool, width: int) -> alt.LayerChart:
    """What the curves mean, as a row of its own."""
    entries = [(CLEAN, theme.INK, "circle")]
    entries += [(ABLATED if i == len(colours) - 1 else "", colour, "circle") for i, colour in enumerate(colours)]
    if controls:
        entries.append((RANGE, theme.OTHER_COLOUR, "square"))
    entries.append(("perfect calibration", "#9aa3ac", "M-1,0L1,0"))
    starts = [8.0]
    for name, *_ in entries[:-1]:
        starts.append(starts[-1] + (34 + 6.3 * len(name) if name else 14))
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, width], nice=False, zero=False), axis=None)
    layers = []
    for (name, colour, shape), at in zip(entries, starts, strict=True):
        base = alt.Chart(pl.DataFrame({"name": [name], "at": [at]})).encode(x=x, y=alt.value(8))
        layers.append(base.mark_point(shape=shape, color=colour, filled=True, size=90, opacity=1, stroke=colour))
        text = base.mark_text(align="left", dx=11, baseline="middle", fontSize=13, color=theme.INK)
        layers.append(text.encode(text="name:N"))
    return alt.layer(*layers).properties(width=width, height=18)


def diagrams(reliability: pl.DataFrame, names: Sequence[str]) -> alt.TopLevelMixin:
    """The upper part: two panels above one another for each selection."""
    domain, colours = groups.colours([groups.set_label(name) for name in names])
    colour = dict(zip(domain, colours, strict=True))
    frames = {name: prepare(reliability, name) for name in names}
    gaps = [frame[column] for pair in frames.values() for frame in pair for column in ("gap_low", "gap_high")]
    limits = tuple(theme.linear_domain(*gaps, include=[0.0]))
    x = Axis("confidence", "confidence: probability of the top prediction", (0.0, 1.0), pixels=SIZE)
    rows: list[alt.TopLevelMixin] = []
    for start in range(0, len(names), COLUMNS):
        upper, lower = [], []
        for number, name in enumerate(names[start : start + COLUMNS]):
            curves, band = frames[name]
            label = groups.set_label(name)
            y = Axis("accuracy", "" if number else "accuracy", (0.0, 1.0))
            gap = Axis("gap", "" if number else f"accuracy {theme.MINUS} confidence", limits)
            title = alt.Title(f"{label}, ablated jointly", fontSize=13, anchor="start", offset=6)
            top = diagram(curves, band, "accuracy", x, y, colour[label], SIZE, names=False)
            upper.append(top.properties(title=title))
            lower.append(diagram(curves, band, "gap", x, gap, colour[label], GAP_HEIGHT, names=True))
        rows += [alt.hconcat(*panels, spacing=84, bounds="flush") for panels in (upper, lower)]
    controls = any(len(band) for _, band in frames.values())
    return alt.vconcat(*rows, legend(colours, controls, 2 * SIZE), spacing=12)


def changes(calibration: pl.DataFrame, *, refit: bool) -> alt.TopLevelMixin:
    """The lower part: change of each score, a row for each selection."""
    plain = calibration.filter((pl.col("condition") == "ablated") & (pl.col("kind") != "single"))
    refitted = calibration.filter(pl.col("condition") == "ablated_refit")
    second = {f"{name}_change": f"{name}_refitted" for name in MEASURES}
    if refit:
        plain = plain.join(refitted.select("set", *second).rename(second), on="set", how="left", maintain_order="left")
    rows = rows_of(plain)
    drawn = rows.frame
    panels = []
    for number, (name, title) in enumerate(MEASURES.items()):
        columns = [f"{name}_change", f"{name}_change_low", f"{name}_change_high"]
        columns += [second[f"{name}_change"]] if refit else []
        domain = theme.linear_domain(*(drawn[column] for column in columns), include=[0.0], pad=0.06)
        x = Axis("value", f"change of {title}", tuple(domain), pixels=228)
        panels.append(
            row_panel(
                rows,
                f"{name}_change",
                x,
                names=number == 0,
                second=second[f"{name}_change"] if refit else None,
                reference=0.0,
            )
        )
    marks = [(OWN, "set ablated, with interval")] + ([(SECOND, "both with a fitted temperature")] if refit else [])
    present = drawn["source"].unique().to_list()
    marks += [(mark, mark) for mark in (RANDOM, MATCHED) if mark in present]
    return alt.vconcat(alt.hconcat(*panels, spacing=22), key(marks, 900), spacing=12)


def chart(
    calibration: pl.DataFrame,
    reliability: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `calibration` and `reliability`."""
    selections = calibration.filter(pl.col("kind") == "selection")
    about = theme.about(model, text, effects_data.sample_size(calibration))
    if not len(selections):
        return theme.finish(theme.note_chart("no set of neurons is selected in the last layer"), TITLE, [about])
    names = groups.highlighted_sets(selections, None)[:LIMIT]
    refit = "ablated_refit" in calibration["condition"].to_list()
    clean = calibration.filter(pl.col("condition") == "clean").row(0, named=True)
    fitted = calibration.filter(pl.col("condition") == "clean_refit")
    subtitle = [
        about,
        f"last layer; {reliability['bin'].n_unique()} bins of equal mass",
        f"bars: {100 * level:g} % intervals, bootstrap by document",
        f"clean model: loss {clean['nll']:.4g} nats, Brier score {clean['brier']:.3g}, calibration error "
        f"{clean['ece']:.2g}, mean confidence {clean['confidence']:.3g}"
        + (f", fitted temperature {fitted['refit_temperature'][0]:.3g}" if len(fitted) else ""),
    ]
    parts = [diagrams(reliability, names), changes(calibration, refit=refit)]
    made = alt.vconcat(*parts, spacing=30).resolve_scale(color="independent", stroke="independent")
    return theme.finish(made, TITLE, subtitle)


def draw(
    *,
    calibration: str | Path,
    reliability: str | Path,
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_calibration`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(calibration, "calibration"),
        read_table(reliability, "reliability"),
        model=model,
        text=text,
        level=level,
    )
    saving.save(made, figures)
