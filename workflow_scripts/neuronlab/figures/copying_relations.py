"""Relation by relation: whose object the clean model says, and how many answers change or turn to the context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import COLOURS, NAMES, about
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import read_table

TITLE = "Answers relation by relation"
LIMIT = 25
PANELS = {"gts": "answers that change (%)", "cr_ck": "converted to the context (%)"}
WIDTHS = {"clean": 300, "gts": 230, "cr_ck": 230}
ROW, STEP = 14, 6.5  # pixels: least height of a row, between the marks of one row


def shown_relations(relations: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Columns relation, n_prompts, n_facts of the `LIMIT` relations with most prompts; and how many there are."""
    sizes = (
        relations.filter(pl.col("measure") == "gts")
        .group_by("relation")
        .agg(n_prompts=pl.col("n_eligible").max(), n_facts=pl.col("n_facts").max())
        .sort(["n_prompts", "relation"], descending=[True, False])
    )
    return sizes.head(LIMIT), len(sizes)


def places(
    relations: pl.DataFrame, order: Sequence[str], series: dict[str, str], height: float, *, by: str
) -> pl.DataFrame:
    """Rows with the columns y (pixels) and colour: marks of one row beneath one another, in the order of `series`.

    Args:
        series: colour of each value of the column `by`.
        height: of a row.
    """
    rows = {name: i for i, name in enumerate(order)}
    turns = {name: (i - (len(series) - 1) / 2) * STEP for i, name in enumerate(series)}
    kept = relations.filter(pl.col("relation").is_in(list(order)) & pl.col(by).is_in(list(series)))
    return kept.with_columns(
        y=(pl.col("relation").replace_strict(rows, return_dtype=pl.Float64) + 0.5) * height
        + pl.col(by).replace_strict(turns, return_dtype=pl.Float64),
        colour=pl.col(by).replace_strict(series, return_dtype=pl.String),
    )


def panel(
    marks: pl.DataFrame,
    sizes: pl.DataFrame,
    height: float,
    end: float,
    title: str,
    heading: str,
    *,
    width: int,
    names: bool,
    numbers: bool,
) -> alt.LayerChart:
    """One column of points with intervals.

    Args:
        marks: from `places`.
        names: whether the rows are named.
        numbers: whether each mark's number of prompts stands beside the panel (one series only).
    """
    total = height * len(sizes)
    ticks = copying_data.share_ticks(end, 5)
    x_options = {
        "scale": alt.Scale(domain=[0.0, end], range=[0, width], nice=False),
        "axis": copying_data.percent_axis(title, values=ticks, domain=False),
    }
    y_options = {"scale": alt.Scale(domain=[0, total], range=[0, total], nice=False), "axis": None}
    tops = [height * i for i in range(0, len(sizes), 2)]
    stripes = pl.DataFrame({"top": tops, "bottom": [top + height for top in tops]})
    y = alt.Y("y:Q", **y_options)
    tips = ["relation:N", "measure:N", alt.Tooltip("value:Q", format=".4f"), "n:Q", "n_eligible:Q", "n_facts:Q"]
    base = alt.Chart(marks.drop_nulls("value")).encode(y=y, color=alt.Color("colour:N", scale=None), tooltip=tips)
    ends = {"x": alt.X("value_low:Q", **x_options), "x2": "value_high:Q"}
    layers = [
        alt.Chart(stripes)
        .mark_rect(color="#f4f6f7")
        .encode(x=alt.value(0), x2=alt.value(width), y=alt.Y("top:Q", **y_options), y2="bottom:Q"),
        base.mark_rule(strokeWidth=1.5, opacity=0.75, clip=True).encode(**ends),
        base.mark_circle(size=44, opacity=1, stroke="white", strokeWidth=0.5).encode(x=alt.X("value:Q", **x_options)),
    ]
    if names:
        texts = [
            {"name": short_name(name), "size": f"{prompts:,}", "y": height * (i + 0.5)}
            for i, (name, prompts) in enumerate(sizes.select("relation", "n_prompts").iter_rows())
        ]
        base = alt.Chart(pl.DataFrame(texts)).encode(y=y)
        look = {"align": "right", "baseline": "middle", "fontSize": 11.5}
        layers += [
            base.mark_text(color=theme.INK, **look).encode(x=alt.value(-46), text="name:N"),
            base.mark_text(color=theme.FAINT, **look).encode(x=alt.value(-8), text="size:N"),
        ]
    if numbers:
        texts = marks.with_columns(
            text=pl.when(pl.col("n_eligible") > 0)
            .then(pl.format("{} of {}", "n", "n_eligible"))
            .otherwise(pl.lit("none eligible"))
        )
        base = alt.Chart(texts).mark_text(align="left", baseline="middle", fontSize=11, color=theme.FAINT)
        layers.append(base.encode(x=alt.value(width + 6), y=y, text="text:N"))
    top = alt.Title(heading, fontSize=13, anchor="start", frame="group", offset=6)
    return alt.layer(*layers).properties(width=width, height=total, title=top)


def short_name(name: str, longest: int = 30) -> str:
    """A relation's name, cut if it is long."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def legend(series: dict[str, str], width: int) -> alt.LayerChart:
    """Names and colours, as a row of its own."""
    at, entries = 6.0, []
    for name, colour in series.items():
        entries.append({"name": name, "colour": colour, "at": at})
        at += 34 + 6.3 * len(name)
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, width], range=[0, width], nice=False), axis=None)
    base = alt.Chart(pl.DataFrame(entries)).encode(x=x, y=alt.value(8))
    return alt.layer(
        base.mark_circle(size=90, opacity=1).encode(color=alt.Color("colour:N", scale=None)),
        base.mark_text(align="left", dx=9, fontSize=12.5, color=theme.INK).encode(text="name:N"),
    ).properties(width=width, height=16)


def _end(marks: pl.DataFrame) -> float:
    """Where an axis ends: the largest value, and what of the intervals is no longer than three times that."""
    value, high = (float(marks[column].max() or 0.0) for column in ("value", "value_high"))
    return min(1.0, max(min(high, 3 * value), value, 0.01) * 1.05)


def chart(
    relations: pl.DataFrame, *, model: str, facts: str, replacement: str, level: float = 0.95
) -> alt.TopLevelMixin:
    """The figure, from the table `copying_relations`, for one replacement.

    Raises:
        MissingReplacement: if the table holds others only.
    """
    here = copying_data.one_replacement(relations, replacement)
    sizes, number = shown_relations(here)
    if not len(sizes):
        why = "no set of neurons was ablated, or no prompt is left to score"
        return theme.finish(theme.note_chart(why), TITLE, [about(model, facts)])
    names = copying_data.selections(here)
    colours, order = copying_data.set_colours(names), sizes["relation"].to_list()
    height = max(ROW, STEP * (max(3, len(names)) - 1) + 11)
    clean = here.filter(pl.col("measure").is_in([label.lower() for label in LABELS]))
    clean = clean.unique(["relation", "measure"], keep="first", maintain_order=True)
    shades = {label.lower(): COLOURS[label] for label in LABELS}
    columns = [
        panel(
            places(clean, order, shades, height, by="measure"),
            sizes,
            height,
            1.0,
            "share of prompts (%)",
            "clean model",
            width=WIDTHS["clean"],
            names=True,
            numbers=False,
        )
    ]
    cut = False
    for measure, title in PANELS.items():
        marks = places(here.filter(pl.col("measure") == measure), order, colours, height, by="set")
        end = _end(marks)
        cut |= float(marks["value_high"].max() or 0.0) > end
        columns.append(
            panel(
                marks,
                sizes,
                height,
                end,
                title,
                "ablated" if measure == "gts" else "ablated, of prompts not yet at the context",
                width=WIDTHS[measure],
                names=False,
                numbers=len(names) == 1,
            )
        )
    keys = {NAMES[label]: COLOURS[label] for label in LABELS}
    keys |= {groups.set_label(name): colour for name, colour in colours.items()}
    prompts = here.filter((pl.col("measure") == "gts") & (pl.col("set") == names[0]))["n_eligible"].sum()
    subtitle = [
        about(model, facts, theme.count(int(prompts), "prompt"), theme.count(number, "relation")),
        f"activations replaced by their {replacement}; beside the names: prompts",
        f"bars: {100 * level:g} % intervals, by fact" + (", cut off where a panel ends" if cut else ""),
        f"the {LIMIT} relations with most prompts; {number - LIMIT:,} more in the table" if number > LIMIT else None,
        copying_data.left_out(here),
    ]
    body = alt.hconcat(*columns, spacing=26)
    return theme.finish(alt.vconcat(legend(keys, 900), body, spacing=12), TITLE, subtitle)


def draw(
    *,
    relations: str | Path,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_copying_relations`: read the table, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(relations, "copying_relations"), model=model, facts=facts, replacement=replacement, level=level
    )
    saving.save(made, figures)
