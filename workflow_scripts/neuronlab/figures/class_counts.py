"""Whose object the clean model says in a knowledge conflict, and how facts become prompts (study B, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_data, saving, theme
from neuronlab.figures.copying_labels import NAMES, about, label_colours
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import read_table

TITLE = "Answers of the clean model to prompts that contradict it"
WIDTH, FUNNEL_WIDTH, ROW, SUBSETS = 400, 250, 27, 8
ALL = "all"


def shown_subsets(class_counts: pl.DataFrame) -> tuple[list[str], str | None]:
    """All prompts first, then the subsets with most prompts; and the statement about those left out."""
    sizes = class_counts.unique("subset", keep="first", maintain_order=True)
    sizes = sizes.sort([pl.col("subset") != ALL, -pl.col("n_prompts"), "subset"])
    names = sizes["subset"].to_list()
    if len(names) == 2 and sizes["n_prompts"][0] == sizes["n_prompts"][1]:
        names = names[:1]  # a single subset that holds everything says nothing more
    hidden = len(names) - SUBSETS
    return names[:SUBSETS], f"{theme.count(hidden, 'smaller subset')} in the table, not drawn" if hidden > 0 else None


def prepare(class_counts: pl.DataFrame, subset: str) -> pl.DataFrame:
    """A subset's rows with the columns name (of the label), text (percent and number), at (where the text begins)."""
    rows = class_counts.filter(pl.col("subset") == subset)
    texts = [
        f"{copying_data.percent(share)}  ({n:,}{f', {empty:,} of them empty' if empty else ''})"
        if share is not None
        else "no prompt"
        for share, n, empty in rows.select("share", "n", "n_empty").iter_rows()
    ]
    return rows.with_columns(
        name=pl.col("label").replace_strict(NAMES),
        text=pl.Series(texts, dtype=pl.String),
        at=pl.max_horizontal("share", "share_high").fill_null(0.0),
    )


def bars(rows: pl.DataFrame, subset: str, *, end: float, foot: bool) -> alt.LayerChart:
    """The three shares of one subset."""
    scale = alt.Scale(domain=[0.0, end], nice=False)
    ticks = copying_data.share_ticks(end)
    axis = copying_data.percent_axis(
        "share of prompts (%)" if foot else None, values=ticks, labels=foot, ticks=foot, domain=False
    )
    order = [NAMES[label] for label in LABELS]
    y = alt.Y(
        "name:N",
        sort=order,
        scale=alt.Scale(domain=order, paddingInner=0.25, paddingOuter=0.15),
        axis=alt.Axis(title=None, ticks=False, domain=False, minExtent=110, labelPadding=6),
    )
    tips = [alt.Tooltip("subset:N"), alt.Tooltip("name:N"), alt.Tooltip("n:Q", format=",")]
    tips += [alt.Tooltip(f"{name}:Q", format=".4f") for name in ("share", "share_low", "share_high")]
    base = alt.Chart(rows).encode(y=y, tooltip=tips)
    of = base.transform_filter("isValid(datum.share)")
    x = alt.X("share:Q", scale=scale, axis=axis)
    ends = {"x": alt.X("share_low:Q", scale=scale, axis=axis), "x2": "share_high:Q"}
    facts, prompts = int(rows["n_facts"].max()), int(rows["n_prompts"].max())
    numbers = f"{theme.count(prompts, 'prompt')} of {theme.count(facts, 'fact')}"
    title = alt.Title(
        "all prompts" if subset == ALL else f"subset {subset.replace('_', ' ')}",
        subtitle=numbers,
        fontSize=13,
        subtitleFontSize=12,
        subtitlePadding=2,
        anchor="start",
        frame="bounds",
        offset=4,
    )
    return alt.layer(
        of.mark_bar(opacity=0.9).encode(x=x, color=label_colours()),
        of.mark_rule(color="white", strokeWidth=4.5).encode(**ends),
        of.mark_rule(color=theme.INK, strokeWidth=2).encode(**ends),
        base.mark_text(align="left", dx=7, fontSize=12.5, color=theme.INK).encode(
            x=alt.X("at:Q", scale=scale, axis=axis), text="text:N"
        ),
    ).properties(width=WIDTH, height=ROW * 3, title=title)


def funnel_panel(funnel: pl.DataFrame) -> alt.LayerChart:
    """Facts that are left after each step, from top to bottom, with numbers of relations and prompts."""
    rows = funnel.sort("order")
    texts = [
        f"{facts:,}" + ("" if prompts is None else f"  ({theme.count(prompts, 'prompt')})")
        for facts, prompts in rows.select("n_facts", "n_prompts").iter_rows()
    ]
    rows = rows.with_columns(
        text=pl.Series(texts, dtype=pl.String), step=pl.col("step").str.replace_all("_", " ", literal=True)
    )
    most = max(int(rows["n_facts"].max() or 0), 1)
    order = rows["step"].to_list()
    x = alt.X(
        "n_facts:Q",
        scale=alt.Scale(domain=[0, most * 1.55], nice=False),
        axis=alt.Axis(title="facts left", values=_round_ticks(most), format=",d", grid=False, domain=False),
    )
    y = alt.Y(
        "step:N", sort=order, axis=alt.Axis(title=None, ticks=False, domain=False, labelLimit=220, labelPadding=6)
    )
    tips = [alt.Tooltip("meaning:N"), alt.Tooltip("n_facts:Q", format=","), alt.Tooltip("n_relations:Q", format=",")]
    base = alt.Chart(rows).encode(y=y, x=x, tooltip=tips)
    first, last = int(rows["n_relations"][0]), int(rows["n_relations"][-1])
    title = alt.Title(
        "From facts to prompts",
        subtitle=f"{theme.count(first, 'relation')} at first, {last:,} at last",
        fontSize=13,
        subtitleFontSize=12,
        subtitlePadding=2,
        anchor="start",
        frame="bounds",
        offset=4,
    )
    return alt.layer(
        base.mark_bar(color="#8fa0ae"),
        base.mark_text(align="left", dx=6, fontSize=12.5, color=theme.INK).encode(text="text:N"),
    ).properties(width=FUNNEL_WIDTH, height=max(ROW * len(rows), 80), title=title)


def _round_ticks(most: int) -> list[float]:
    step = theme.round_up(most / 4)
    return [float(i * step) for i in range(int(most // step) + 1)]


def right_answers(answers: pl.DataFrame) -> str:
    """How much of what the model says by itself is what the knowledge base says."""
    right = int(answers["correct"].sum())
    return f"asked alone, the model names the knowledge base's object for {right:,} of {len(answers):,} facts"


def chart(
    class_counts: pl.DataFrame,
    funnel: pl.DataFrame,
    answers: pl.DataFrame | None = None,
    *,
    model: str,
    facts: str,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `class_counts` and `funnel`; with `answers`, how many of those are right."""
    everything = class_counts.filter(pl.col("subset") == ALL)
    total = int(everything["n_prompts"].max() or 0) if len(everything) else 0
    parts: list[alt.TopLevelMixin] = []
    note = None
    if total:
        names, note = shown_subsets(class_counts)
        frames = [prepare(class_counts, name) for name in names]
        end = min(1.0, max(frame["at"].max() for frame in frames)) * 1.28
        panels = [
            bars(frame, name, end=end, foot=i == len(names) - 1)
            for i, (frame, name) in enumerate(zip(frames, names, strict=True))
        ]
        parts.append(alt.vconcat(*panels, spacing=14))
    else:
        parts.append(theme.note_chart("no prompt is left: see the steps on the right", WIDTH, 200))
    if len(funnel):
        parts.append(funnel_panel(funnel))
    elif not total:
        parts = [theme.note_chart("no prompt is left", WIDTH, 120)]
    subtitle = [
        about(model, facts, copying_data.sample(everything) if total else "no prompt"),
        "CK: the answer is the object that the context names; PK: the one that the model knows; ND: neither"
        if total
        else None,
        None if answers is None else right_answers(answers),
        f"bars: {100 * level:g} % intervals, by fact" if total else None,
        note,
    ]
    return theme.finish(alt.hconcat(*parts, spacing=56), TITLE, subtitle)


def draw(
    *,
    class_counts: str | Path,
    funnel: str | Path,
    answers: str | Path | None = None,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_class_counts`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(class_counts, "class_counts"),
        read_table(funnel, "funnel"),
        None if answers is None else read_table(answers, "answers"),
        model=model,
        facts=facts,
        level=level,
    )
    saving.save(made, figures)
