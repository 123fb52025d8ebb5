"""From which label to which: 3 x 3 shares for each selection, and the mean of its control sets (study B, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import CONTROLS, NAMES, about
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import read_table

TITLE = "Answers before and after ablation"
CELL_WIDTH, CELL = 82, 58
SMALLEST = 0.001  # the colour scale's faint end; smaller shares have its colour, and none is white
RAMP = ["#eaf1f7", "#b9d2e6", "#7fb0d3", "#3f82b5", "#155a91", "#083b66"]
DARK = 0.05  # text is white above this share


def cells_of(transitions: pl.DataFrame, name: str, kind: str) -> pl.DataFrame:
    """Nine rows: before, after, share, two lines of text.

    Args:
        transitions: of one replacement.
        kind: "selection", or the kind of control sets to take means of.
    """
    if kind == "selection":
        rows = transitions.filter((pl.col("kind") == kind) & (pl.col("set") == name))
        rows = rows.with_columns(mean="share", low="share_low", high="share_high")
    else:
        rows = transitions.filter((pl.col("kind") == kind) & (pl.col("control_of") == name))
        ranges = copying_data.control_ranges(rows, ["before", "after"], "share")
        sizes = rows.group_by("before", "after").agg(pl.col("n").mean(), pl.col("n_before").max())
        rows = ranges.join(sizes, on=["before", "after"])
    found = {(row["before"], row["after"]): row for row in rows.iter_rows(named=True)}
    cells = []
    for before in LABELS:
        for after in LABELS:
            row = found.get((before, after))
            share = row["mean"] if row else None
            cells.append(
                {
                    "before": NAMES[before],
                    "after": NAMES[after].split(" (")[0],
                    "share": share,
                    "first": copying_data.percent(share) if share is not None else "no prompt",
                    "second": _numbers(row, kind) if row and share is not None else "",
                }
            )
    return pl.DataFrame(cells, schema_overrides={"share": pl.Float64})


def _numbers(row: dict[str, float], kind: str) -> str:
    """'20 of 1,120' for a selection; for controls their range."""
    if kind == "selection":
        return f"{row['n']:,} of {row['n_before']:,}"
    low, high = (copying_data.percent(row[end]).removesuffix(" %").replace("> ", "") for end in ("low", "high"))
    return f"{low} to {high}"


def matrix(cells: pl.DataFrame, title: alt.Title, *, first: bool, foot: bool) -> alt.LayerChart:
    """One matrix; row names only in the `first` of a row, column names beneath all in the last row (`foot`)."""
    rows = [NAMES[label] for label in LABELS]
    columns = [NAMES[label].split(" (")[0] for label in LABELS]
    look = {"ticks": False, "domain": False, "grid": False}
    x = alt.X(
        "after:N",
        sort=columns,
        scale=alt.Scale(domain=columns, padding=0.03),
        axis=alt.Axis(title="after ablation" if foot else None, labelAngle=0, labelPadding=5, **look),
    )
    y = alt.Y(
        "before:N",
        sort=rows,
        scale=alt.Scale(domain=rows, padding=0.04),
        axis=alt.Axis(
            title="clean model" if first else None,
            labels=first,
            labelPadding=6,
            **({"minExtent": 106} if first else {}),
            **look,
        ),
    )
    scale = alt.Scale(type="log", domain=[SMALLEST, 1.0], range=RAMP, clamp=True, interpolate="lab")
    base = alt.Chart(cells.with_columns(dark=pl.col("share").fill_null(0.0) > DARK)).encode(
        x=x, y=y, tooltip=["before:N", "after:N", alt.Tooltip("share:Q", format=".5f"), "second:N"]
    )
    there = base.transform_filter("datum.share !== null && datum.share > 0")
    words = {"baseline": "middle", "align": "center"}
    ink = alt.condition("datum.dark", alt.value("white"), alt.value(theme.INK))
    return alt.layer(
        base.mark_rect(color="white", stroke="#c3c9cf", strokeWidth=0.8),
        there.mark_rect().encode(color=alt.Color("share:Q", scale=scale, legend=None)),
        base.mark_text(fontSize=13.5, fontWeight="bold", dy=-7, **words).encode(text="first:N", color=ink),
        base.mark_text(fontSize=11, dy=10, **words).encode(text="second:N", color=ink),
    ).properties(width=3 * CELL_WIDTH, height=3 * CELL, title=title)


def chart(
    transitions: pl.DataFrame, *, model: str, facts: str, replacement: str, level: float = 0.95
) -> alt.TopLevelMixin:
    """The figure, from the table `transitions`, for one replacement: a row per selection.

    Raises:
        MissingReplacement: if the table holds others only.
    """
    here = copying_data.one_replacement(transitions, replacement)
    names = copying_data.selections(here)
    if not names or not here["share"].count():
        why = "no set of neurons was ablated" if not names else "no prompt is left to score"
        return theme.finish(theme.note_chart(why), TITLE, [about(model, facts)])
    colours = copying_data.set_colours(names)
    rows = []
    for number, name in enumerate(names):
        own = here.filter(pl.col("control_of") == name)
        matrices = []
        for kind in ["selection", *copying_data.control_kinds(own)]:
            sets = own.filter(pl.col("kind") == kind)["set"].n_unique()
            words = groups.set_label(name) if kind == "selection" else theme.count(sets, CONTROLS[kind][:-1])
            title = alt.Title(
                words if kind == "selection" else f"{words}: mean" if sets > 1 else words,
                fontSize=13,
                fontWeight="bold" if kind == "selection" else "normal",
                color=colours[name] if kind == "selection" else theme.INK,
                anchor="start",
                frame="group",
                offset=5,
            )
            cells = cells_of(here, name, kind)
            matrices.append(matrix(cells, title, first=kind == "selection", foot=number == len(names) - 1))
        rows.append(alt.hconcat(*matrices, spacing=18))
    one = here.filter((pl.col("kind") == "selection") & (pl.col("set") == names[0]))
    prompts = int(one["n"].sum())
    empty = [NAMES[label] for label in LABELS if not one.filter(pl.col("before") == label)["n_before"].max()]
    subtitle = [
        about(model, facts, theme.count(prompts, "prompt")),
        f"activations replaced by their {replacement}; shares of each row, logarithmic colours; white: no prompt",
        f"small: numbers of prompts; beside it {copying_data.RANGE_WORDS} (in %)",
        f"no answer of the clean model is {' or '.join(empty)}" if empty else None,
        copying_data.left_out(here),
    ]
    return theme.finish(alt.vconcat(*rows, spacing=18), TITLE, subtitle)


def draw(
    *,
    transitions: str | Path,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_transition_matrix`: read the table, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(transitions, "transitions"), model=model, facts=facts, replacement=replacement, level=level)
    saving.save(made, figures)
