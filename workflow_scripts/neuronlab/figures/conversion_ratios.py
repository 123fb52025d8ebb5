"""Conversion ratios: of the prompts without a label, the share that gets it when a set is ablated.

A column of panels per label, a block of rows per selection: the selection with its interval, beneath it its control
sets one by one, a row per kind (study B, conversion-ratio figure; each label with its own formula).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import CONTROL_COLOURS, CONTROLS, NAMES, about
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import read_table

TITLE = "Conversion ratios under ablation, against control sets"
WIDTH, ROW, BLOCK_GAP = 248, 25, 12
DOTS = 200  # per row


@dataclass(frozen=True)
class Row:
    """One row of the figure: a selection, or one kind of its control sets.

    Attributes:
        name: the selection.
        kind: "selection", or a kind of control.
        label: what stands beside the axis.
        at: its middle, pixels from the top.
    """

    name: str
    kind: str
    label: str
    at: float


def rows_of(scores: pl.DataFrame, names: Sequence[str]) -> tuple[list[Row], int]:
    """The rows from top to bottom and the height of all."""
    rows, at = [], 0.0
    for name in names:
        rows.append(Row(name, "selection", groups.set_label(name), at + ROW / 2))
        at += ROW
        own = scores.filter(pl.col("control_of") == name)
        for kind in copying_data.control_kinds(own):
            number = own.filter(pl.col("kind") == kind)["set"].n_unique()
            rows.append(Row(name, kind, theme.count(number, CONTROLS[kind][:-1]), at + ROW / 2))
            at += ROW
        at += BLOCK_GAP
    return rows, int(at - BLOCK_GAP)


def dots_of(values: pl.Series, at: float) -> pl.DataFrame:
    """Columns value, y: at most `DOTS` of the values, evenly from the sorted ones, spread over the row."""
    ordered = values.drop_nulls().sort().to_numpy()
    if len(ordered) > DOTS:
        ordered = ordered[np.round(np.linspace(0, len(ordered) - 1, DOTS)).astype(int)]
    # Multiples of the golden ratio leave no visible pattern, and neighbours in value far apart.
    spread = (np.arange(len(ordered)) * 0.6180339887498949) % 1.0 - 0.5
    return pl.DataFrame(
        {"value": ordered, "y": at + spread * (ROW - 11)}, schema={"value": pl.Float64, "y": pl.Float64}
    )


def panel(
    scores: pl.DataFrame,
    tests: pl.DataFrame,
    label: str,
    rows: Sequence[Row],
    height: int,
    colours: dict[str, str],
    *,
    first: bool,
) -> alt.LayerChart:
    """One label's ratios; row names only in the `first` panel."""
    own = scores.filter(pl.col("kind") == "selection")
    highest = [scores["value"].max(), own["value_high"].max()]
    end = max([float(value) for value in highest if value is not None], default=0.0) * 1.04
    end = min(max(end, 1e-4), 1.0)
    x_options = {
        "scale": alt.Scale(domain=[0.0, end], range=[0, WIDTH], nice=False),
        "axis": copying_data.percent_axis("converted (%)", values=copying_data.share_ticks(end, 4)),
    }
    y_options = {"scale": alt.Scale(domain=[0, height], range=[0, height], nice=False), "axis": None}
    y = alt.Y("y:Q", **y_options)
    dots, ranges, points, notes, guides = [], [], [], [], []
    for row in rows:
        of = own if row.kind == "selection" else scores.filter(pl.col("control_of") == row.name)
        found = of.filter((pl.col("set") == row.name) if row.kind == "selection" else (pl.col("kind") == row.kind))
        values = found.drop_nulls("value")
        if row.kind == "selection":
            text = "nothing to convert"
            if len(values):
                best = values.row(0, named=True)
                points.append(
                    {"y": row.at, "colour": colours[row.name]}
                    | {name: best[name] for name in ("value", "value_low", "value_high", "n", "n_eligible")}
                )
                guides.append({"value": best["value"], "y": row.at, "y2": row.at, "colour": colours[row.name]})
                text = f"{copying_data.percent(best['value'])} ({best['n']:,})"
            notes.append({"y": row.at, "text": text, "weight": "bold"})
            continue
        if not len(values):
            continue
        if guides and points and points[-1]["colour"] == colours[row.name]:
            guides[-1]["y2"] = row.at + ROW / 2 - 2
        dots.append(dots_of(values["value"], row.at).with_columns(colour=pl.lit(CONTROL_COLOURS[row.kind])))
        spread = copying_data.control_ranges(values, ["kind"]).row(0, named=True)
        ranges.append({"y": row.at, **{name: spread[name] for name in ("mean", "low", "high")}})
        test = tests.filter((pl.col("set") == row.name) & (pl.col("controls") == row.kind))
        notes.append({"y": row.at, "text": copying_data.probability(_one(test, "p_value")), "weight": "normal"})
    colour = alt.Color("colour:N", scale=None)
    layers: list[alt.Chart] = []
    if guides:
        base = alt.Chart(pl.DataFrame(guides)).mark_rule(strokeWidth=1.2, strokeDash=[3, 2], opacity=0.9)
        layers.append(base.encode(x=alt.X("value:Q", **x_options), y=y, y2="y2:Q", color=colour))
    if dots:
        base = alt.Chart(pl.DataFrame(ranges)).encode(y=y)
        cloud = alt.Chart(pl.concat(dots)).mark_circle(size=15, opacity=0.6)
        layers += [
            base.mark_rule(color=theme.GRID, strokeWidth=ROW - 6).encode(x=alt.X("low:Q", **x_options), x2="high:Q"),
            cloud.encode(x=alt.X("value:Q", **x_options), y=y, color=colour),
            base.mark_tick(color=theme.INK, thickness=2, size=ROW - 5).encode(x=alt.X("mean:Q", **x_options)),
        ]
    if points:
        base = alt.Chart(pl.DataFrame(points)).encode(
            y=y,
            color=colour,
            tooltip=[alt.Tooltip("value:Q", format=".4g"), alt.Tooltip("n:Q"), alt.Tooltip("n_eligible:Q", format=",")],
        )
        layers += [
            base.mark_rule(strokeWidth=2.4).encode(x=alt.X("value_low:Q", **x_options), x2="value_high:Q"),
            base.mark_circle(size=85, opacity=1, stroke="white", strokeWidth=0.8).encode(
                x=alt.X("value:Q", **x_options)
            ),
        ]
    texts = alt.Chart(pl.DataFrame(notes)).encode(y=y, text="text:N", x=alt.value(WIDTH + 8))
    for weight in ("bold", "normal"):
        of = texts.transform_filter(alt.FieldEqualPredicate(field="weight", equal=weight))
        layers.append(of.mark_text(align="left", fontSize=12, fontWeight=weight, color=theme.INK))
    if first:
        names = [{"y": r.at, "text": r.label, "bold": r.kind == "selection", "colour": colours[r.name]} for r in rows]
        base = alt.Chart(pl.DataFrame(names)).encode(y=y, text="text:N", x=alt.value(-10))
        look = {"align": "right", "baseline": "middle", "fontSize": theme.LABEL_SIZE}
        layers += [
            base.transform_filter("datum.bold").mark_text(fontWeight="bold", **look).encode(color=colour),
            base.transform_filter("!datum.bold").mark_text(color=theme.INK, **look),
        ]
    eligible = own["n_eligible"].max()
    title = alt.Title(
        f"to {NAMES[label]}",
        subtitle=f"of {theme.count(int(eligible or 0), 'prompt')} with another label",
        fontSize=13,
        subtitleFontSize=12,
        anchor="start",
        frame="group",
        offset=6,
    )
    return alt.layer(*layers).properties(width=WIDTH, height=height, title=title)


def _one(frame: pl.DataFrame, column: str) -> float | None:
    return frame[column].item() if len(frame) == 1 else None


def chart(
    scores: pl.DataFrame,
    control_tests: pl.DataFrame,
    *,
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `copying_scores` and `control_tests`, for one replacement.

    Raises:
        MissingReplacement: if the scores hold others only.
    """
    here = copying_data.one_replacement(scores, replacement)
    sample = copying_data.sample(here)
    names = copying_data.selections(here)
    shown = here.filter(pl.col("measure").str.starts_with("cr_") & pl.coalesce("control_of", "set").is_in(names))
    if not names or not shown["value"].count():
        why = "no set of neurons was ablated" if not names else "no prompt is left to score"
        return theme.finish(theme.note_chart(why), TITLE, [about(model, facts, sample)])
    tests = control_tests.filter(pl.col("replacement") == replacement)
    rows, height = rows_of(shown, names)
    colours = copying_data.set_colours(names)
    panels = [
        panel(
            shown.filter(pl.col("measure") == f"cr_{label.lower()}"),
            tests.filter(pl.col("measure") == f"cr_{label.lower()}"),
            label,
            rows,
            height,
            colours,
            first=number == 0,
        )
        for number, label in enumerate(LABELS)
    ]
    many = shown.filter(pl.col("kind") != "selection").group_by("control_of", "kind", "measure").len()["len"].max()
    subtitle = [
        about(model, facts, sample),
        f"activations replaced by their {replacement}; of the prompts without a label, the share that gets it",
        f"selections with {100 * level:g} % intervals, by fact",
        f"ticks: means of the control sets; shaded: {copying_data.RANGE_WORDS}",
        f"{DOTS} control sets drawn of {many:,}" if (many or 0) > DOTS else None,
        copying_data.left_out(here),
    ]
    return theme.finish(alt.hconcat(*panels, spacing=22), TITLE, subtitle)


def draw(
    *,
    scores: str | Path,
    control_tests: str | Path,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_conversion_ratios`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(scores, "copying_scores"),
        read_table(control_tests, "control_tests"),
        model=model,
        facts=facts,
        replacement=replacement,
        level=level,
    )
    saving.save(made, figures)
