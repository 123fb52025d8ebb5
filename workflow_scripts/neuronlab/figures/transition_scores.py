"""How many labels change when a set is ablated, against its control sets (study B, transition-score histogram).

A column per selection. Above, histograms of the control sets, a row per kind, with the selection as a line; beneath,
every replacement in a row, on a scale that shows both small and large shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import CONTROL_COLOURS, CONTROLS, about
from neuronlab.tables import read_table

TITLE = "Share of answers that change class under ablation"
MEASURE = "gts"
BINS, HEIGHT, ROW = 32, 84, 27
WIDTHS = {1: 520, 2: 380, 3: 270}
NARROW = 210
FAR = 6.0  # the selection lies this many times beyond the controls: square-root axis


def histogram(counts: Sequence[int], total: int, end: float, *, root: bool) -> pl.DataFrame:
    """Columns left, right (shares), sets: bins from 0 to `end` that hold whole numbers of prompts.

    Args:
        counts: prompts that change, a number per control set.
        total: of how many; scores are multiples of its inverse, so that bins between them would stay empty.
        root: bins widen as a square-root axis narrows, instead of being equally wide.
    """
    last = int(np.ceil(end * total)) + 1
    if root:
        edges = np.unique(np.round(np.linspace(0.0, 1.0, BINS + 1) ** 2 * last))
    else:
        width = max(1, int(np.ceil(last / BINS)))
        edges = np.arange(0, last + width, width, dtype=float)
    numbers, _ = np.histogram(np.asarray(counts, dtype=float) + 0.5, bins=edges)
    # A bin reaches half a prompt to both sides of its numbers.
    places = (edges - 0.5) / total
    frame = pl.DataFrame({"left": np.maximum(places[:-1], 0.0 if root else -1.0), "right": places[1:], "sets": numbers})
    return frame.filter(pl.col("sets") > 0)


def shown_scale(scores: pl.DataFrame, total: int) -> tuple[float, bool]:
    """Where the axis ends (shares of `total` prompts), and whether it is one of square roots.

    It is one where selections lie so far beyond the controls that these would share a bin.
    """
    selected = scores.filter(pl.col("kind") == "selection")
    controls = scores.filter(pl.col("kind") != "selection")["value"].drop_nulls()
    own, bound = (float(selected[column].max() or 0.0) for column in ("value", "value_high"))
    usual = float(controls.quantile(0.95) or 0.0) if len(controls) else own
    end = max(1.04 * own, 1.04 * bound, 1.04 * float(controls.max() or 0.0), 6 / total)
    return end, own > FAR * usual + 6 / total


def _scale(end: float, root: bool, total: int) -> alt.Scale:
    """Bins reach beyond zero by half a prompt of `total`, except on a square-root axis."""
    if root:
        return alt.Scale(type="pow", exponent=0.5, domain=[0.0, end], nice=False)
    return alt.Scale(domain=[-max(0.012 * end, 0.55 / total), end], nice=False)


def _heading(text: str) -> alt.Title:
    return alt.Title(text, fontSize=12.5, fontWeight="normal", color=theme.INK, anchor="start", frame="group", offset=3)


def panel(
    scores: pl.DataFrame,
    tests: pl.DataFrame,
    name: str,
    kind: str,
    scale: tuple[float, bool],
    colour: str,
    *,
    width: int,
    first: bool,
    foot: bool,
) -> alt.LayerChart:
    """Histogram of one selection's control sets of one kind, the selection as a line with its interval.

    Args:
        first: whether the vertical axis is named.
        foot: whether the horizontal axis is.
    """
    end, root = scale
    own = scores.filter((pl.col("kind") == "selection") & (pl.col("set") == name))
    values = scores.filter((pl.col("kind") == kind) & (pl.col("control_of") == name)).drop_nulls("value")
    total = int(own["n_eligible"].max())
    bins = histogram(values["n"].to_list(), total, end, root=root)
    most = int(bins["sets"].max() or 0) if len(bins) else 0
    axis = copying_data.percent_axis(
        "answers that change (%)" if foot else None,
        values=copying_data.ticks(end, root=root),
        labels=foot,
        ticks=foot,
        grid=False,
    )
    x = {"scale": _scale(end, root, total), "axis": axis}
    y_scale = alt.Scale(domain=[0.0, max(most, 1) * 1.06], nice=False)
    step = max(1, int(theme.round_up(max(most, 1) / 3)))
    y_axis = alt.Axis(title="sets" if first else None, values=list(range(0, most + 1, step)), format="d", minExtent=24)
    tests_of = tests.filter((pl.col("set") == name) & (pl.col("controls") == kind))
    p = tests_of["p_value"].item() if len(tests_of) == 1 else None
    words = theme.count(len(values), CONTROLS[kind][:-1]) if len(values) else f"no {CONTROLS[kind][:-1]}"
    title = words + (f": {copying_data.probability(p)}" if len(values) else "")
    layers = [
        alt.Chart(own.select("value_low", "value_high").drop_nulls())
        .mark_rect(color=colour, opacity=0.16, clip=True)
        .encode(x=alt.X("value_low:Q", **x), x2="value_high:Q"),
        alt.Chart(bins)
        .mark_rect(color=CONTROL_COLOURS[kind], stroke="white", strokeWidth=0.4)
        .encode(
            x=alt.X("left:Q", **x),
            x2="right:Q",
            y=alt.Y("sets:Q", scale=y_scale, axis=y_axis),
            y2=alt.datum(0),
            tooltip=[alt.Tooltip(f"{column}:Q", format=".4g") for column in ("left", "right", "sets")],
        ),
        alt.Chart(own.select("value").drop_nulls())
        .mark_rule(color=colour, strokeWidth=2.4)
        .encode(x=alt.X("value:Q", **x), tooltip=alt.Tooltip("value:Q", format=".4g")),
    ]
    return alt.layer(*layers).properties(width=width, height=HEIGHT, title=_heading(title))


def every_replacement(
    scores: pl.DataFrame, name: str, names: Sequence[str], end: float, colour: str, *, width: int, first: bool
) -> alt.LayerChart:
    """A row per replacement: ranges of the control sets by kind, and the selection with its interval."""
    kinds = copying_data.control_kinds(scores)
    x_options = {
        "scale": alt.Scale(type="symlog", constant=0.002, domain=[0.0, end], nice=False),
        "axis": copying_data.percent_axis("answers that change (%)", values=_wide_ticks(end), labelOverlap=False),
    }
    y = alt.Y(
        "replacement:N",
        sort=list(names),
        scale=alt.Scale(domain=list(names)),
        axis=alt.Axis(
            title=None, labels=first, ticks=False, domain=False, labelPadding=8, **({"minExtent": 70} if first else {})
        ),
    )
    controls = scores.filter(pl.col("control_of") == name)
    ranges = copying_data.control_ranges(controls, ["replacement", "kind"]).drop_nulls("mean")
    own = scores.filter((pl.col("kind") == "selection") & (pl.col("set") == name)).drop_nulls("value")
    layers = []
    for place, kind in enumerate(kinds):
        base = alt.Chart(ranges.filter(pl.col("kind") == kind)).encode(y=y)
        rule = base.mark_rule(color=CONTROL_COLOURS[kind], strokeWidth=3, yOffset=4 * place - 1)
        mean = base.mark_tick(color=CONTROL_COLOURS[kind], thickness=3, size=7, yOffset=4 * place - 1)
        layers += [
            rule.encode(x=alt.X("low:Q", **x_options), x2="high:Q"),
            mean.encode(x=alt.X("mean:Q", **x_options)),
        ]
    dots = alt.Chart(own).encode(
        y=y, tooltip=["replacement:N", alt.Tooltip("value:Q", format=".4g"), alt.Tooltip("n:Q", format=",")]
    )
    layers += [
        dots.mark_rule(color=colour, strokeWidth=1.6, yOffset=-9).encode(
            x=alt.X("value_low:Q", **x_options), x2="value_high:Q"
        ),
        dots.mark_circle(color=colour, size=64, opacity=1, stroke="white", strokeWidth=0.7, yOffset=-9).encode(
            x=alt.X("value:Q", **x_options)
        ),
    ]
    return alt.layer(*layers).properties(
        width=width, height=max(ROW * len(names), 40), title=_heading("every replacement")
    )


def _wide_ticks(end: float) -> list[float]:
    ticks = [0.0, *([0.001] if end < 0.1 else []), 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    return [tick for tick in ticks if tick <= end * 1.001]


def chart(
    scores: pl.DataFrame,
    control_tests: pl.DataFrame,
    *,
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `copying_scores` and `control_tests`; `replacement` is shown above, all are beneath.

    Raises:
        MissingReplacement: if the scores hold others only.
    """
    gts = scores.filter(pl.col("measure") == MEASURE)
    here = copying_data.one_replacement(gts, replacement)
    sample = copying_data.sample(here)
    names = copying_data.selections(here)
    if not names or not here["value"].count():
        why = "no set of neurons was ablated" if not names else "no prompt is left to score"
        return theme.finish(theme.note_chart(why), TITLE, [about(model, facts, sample)])
    here = here.filter(pl.coalesce("control_of", "set").is_in(names))
    tests = control_tests.filter((pl.col("measure") == MEASURE) & (pl.col("replacement") == replacement))
    kinds, colours = copying_data.control_kinds(here), copying_data.set_colours(names)
    every = copying_data.replacements(gts)
    all_scores = gts.filter(pl.col("replacement").is_in(every) & pl.coalesce("control_of", "set").is_in(names))
    own = all_scores.filter(pl.col("kind") == "selection")
    wide = [all_scores["value"].max(), own["value_high"].max()]
    wide_end = min(1.0, max([float(end) for end in wide if end is not None]) * 1.1 + 1e-4)
    width = WIDTHS.get(len(names), NARROW)
    scale = shown_scale(here, max(int(here["n_eligible"].max()), 1))
    columns = []
    for number, name in enumerate(names):
        row = here.filter((pl.col("kind") == "selection") & (pl.col("set") == name)).row(0, named=True)
        panels = [
            panel(
                here,
                tests,
                name,
                kind,
                scale,
                colours[name],
                width=width,
                first=number == 0,
                foot=place == len(kinds) - 1,
            )
            for place, kind in enumerate(kinds)
        ]
        title = alt.Title(
            groups.set_label(name),
            subtitle=f"{copying_data.percent(row['value'])} ({row['n']:,} of {row['n_eligible']:,})",
            color=colours[name],
            fontSize=14,
            subtitleFontSize=12.5,
            anchor="start",
            offset=8,
        )
        column = [alt.vconcat(*panels, spacing=8)] if panels else []
        if len(every) > 1:
            column.append(
                every_replacement(all_scores, name, every, wide_end, colours[name], width=width, first=number == 0)
            )
        columns.append(alt.vconcat(*column, spacing=26).properties(title=title))
    subtitle = [
        about(model, facts, sample),
        f"histograms: activations replaced by their {replacement}; line: the selection",
        f"band: its {100 * level:g} % interval, by fact",
        "square-root axis" if scale[1] else None,
        f"every replacement: selection with interval; grey and brown: {copying_data.RANGE_WORDS}"
        if len(every) > 1
        else None,
        copying_data.left_out(gts),
    ]
    return theme.finish(alt.hconcat(*columns, spacing=34), TITLE, subtitle)


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
    """Rule `draw_transition_scores`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(scores, "copying_scores"),
        read_table(control_tests, "control_tests"),
        model=model,
        facts=facts,
        replacement=replacement,
        level=level,
    )
    saving.save(made, figures)
