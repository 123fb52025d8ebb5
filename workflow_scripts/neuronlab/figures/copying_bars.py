"""Answers that turn to the context when a set is ablated, from neither and from parametric ones (study B, ND->CK)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import CONTROL_COLOURS, CONTROLS, about, transition
from neuronlab.tables import read_table

TITLE = "Answers that turn to the context under ablation"
MEASURES = {"ts_nd_ck": ("ND", "CK"), "ts_pk_ck": ("PK", "CK")}
BAR, GAP, BLOCK = 14, 2, 8  # pixels: a bar, between bars, between replacements
WIDTHS, COLUMNS = {1: 460, 2: 340, 3: 250}, 3
TEXT = 112  # pixels that numbers beside the bars need
FAR = 12.0  # one bar is this many times as long as the middle one: square-root axis


def bars_of(scores: pl.DataFrame, name: str, measure: str, replacements: Sequence[str]) -> pl.DataFrame:
    """One row per bar: replacement, kind, value, low, high, text, and its place (top, bottom, middle in pixels).

    Of control sets the mean, with their range; a kind without a value has no bar.
    """
    of = scores.filter(pl.col("measure") == measure)
    kinds = ["selection", *copying_data.control_kinds(of.filter(pl.col("control_of") == name))]
    found, top = [], 0.0
    for replacement in replacements:
        here = of.filter(pl.col("replacement") == replacement)
        for kind in kinds:
            if kind == "selection":
                rows = here.filter((pl.col("kind") == kind) & (pl.col("set") == name))
                values = rows.select(value="value", low="value_low", high="value_high")
            else:
                rows = here.filter((pl.col("kind") == kind) & (pl.col("control_of") == name))
                values = copying_data.control_ranges(rows, ["kind"]).select(value="mean", low="low", high="high")
            numbers = values.row(0, named=True) if len(values) else {"value": None, "low": None, "high": None}
            found.append(
                {"replacement": replacement, "kind": kind, **numbers, "text": _text(kind, numbers["value"], rows)}
                | {"top": top, "bottom": top + BAR, "middle": top + BAR / 2}
            )
            top += BAR + GAP
        top += BLOCK
    real = ("value", "low", "high", "top", "bottom", "middle")
    return pl.DataFrame(found, schema_overrides=dict.fromkeys(real, pl.Float64))


def _text(kind: str, value: float | None, rows: pl.DataFrame) -> str:
    """'3.2 % (10)'; of control sets the mean number of prompts."""
    if value is None:
        return "no prompt" if len(rows) and not rows["n_eligible"].max() else "not scored"
    mean = float(rows["n"].mean())
    number = f"{mean:,.0f}" if kind == "selection" or not mean else f"{mean:,.1f}"
    return f"{copying_data.percent(value)} ({number})"


def panel(
    bars: pl.DataFrame, colour: str, scale: tuple[float, bool], title: alt.Title, *, width: int, first: bool
) -> alt.LayerChart:
    """The bars of one selection and one kind of transition.

    Args:
        scale: the largest value that is drawn, and whether the axis is one of square roots.
    """
    longest, root = scale
    height = float(bars["bottom"].max())
    x_options = {
        "scale": alt.Scale(
            domain=[0.0, longest],
            range=[0, width - TEXT],
            nice=False,
            **({"type": "pow", "exponent": 0.5} if root else {}),
        ),
        "axis": copying_data.percent_axis(
            "turn to the context (%)",
            values=copying_data.ticks(longest, root=root) if bars["value"].count() else [0.0],
            domain=False,
            titleAnchor="start",
        ),
    }
    y_options = {"scale": alt.Scale(domain=[0, height], range=[0, height], nice=False), "axis": None}
    shades = CONTROL_COLOURS | {"selection": colour}
    drawn = bars.with_columns(
        shade=pl.col("kind").replace_strict(shades), reach=pl.max_horizontal("value", "high").fill_null(0.0)
    )
    tips = ["replacement:N", "kind:N", *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("value", "low", "high"))]
    base = alt.Chart(drawn).encode(tooltip=tips)
    there = base.transform_filter("isValid(datum.value)")
    middle = alt.Y("middle:Q", **y_options)
    ends = {"x": alt.X("low:Q", **x_options), "x2": "high:Q", "y": middle}
    layers = [
        there.mark_rect(opacity=0.92).encode(
            x=alt.X("value:Q", **x_options),
            x2=alt.datum(0),
            y=alt.Y("top:Q", **y_options),
            y2="bottom:Q",
            color=alt.Color("shade:N", scale=None),
        ),
        there.mark_rule(color="white", strokeWidth=4).encode(**ends),
        there.mark_rule(color=theme.INK, strokeWidth=1.8).encode(**ends),
        base.mark_text(align="left", baseline="middle", dx=7, fontSize=11.5, color=theme.INK).encode(
            x=alt.X("reach:Q", **x_options), y=middle, text="text:N"
        ),
    ]
    if first:
        names = bars.group_by("replacement", maintain_order=True).agg(y=pl.col("middle").mean())
        text = alt.Chart(names).mark_text(align="right", baseline="middle", fontSize=theme.LABEL_SIZE, color=theme.INK)
        layers.append(text.encode(x=alt.value(-8), y=alt.Y("y:Q", **y_options), text="replacement:N"))
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def legend(kinds: Sequence[str], colours: dict[str, str], width: int) -> alt.LayerChart:
    """What the bars are, as a row of its own."""
    entries = [(groups.set_label(name) + ", ablated", colour) for name, colour in colours.items()]
    entries += [(f"{CONTROLS[kind]}, mean", CONTROL_COLOURS[kind]) for kind in kinds]
    at, row, placed = 8.0, 0, []
    for name, colour in entries:
        need = 40 + 6.4 * len(name)
        if at > 8 and at + need > width:
            at, row = 8.0, row + 1
        placed.append({"name": name, "colour": colour, "at": at, "y": 9.0 + 20 * row})
        at += need
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, width], range=[0, width], nice=False), axis=None)
    height = 20 * (row + 1)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, height], range=[0, height], nice=False), axis=None)
    base = alt.Chart(pl.DataFrame(placed)).encode(x=x, y=y)
    return alt.layer(
        base.mark_square(size=130, opacity=1).encode(color=alt.Color("colour:N", scale=None)),
        base.mark_text(align="left", dx=12, fontSize=12.5, color=theme.INK).encode(text="name:N"),
    ).properties(width=width, height=height)


def chart(
    scores: pl.DataFrame, control_tests: pl.DataFrame, *, model: str, facts: str, level: float = 0.95
) -> alt.TopLevelMixin:
    """The figure, from the tables `copying_scores` and `control_tests`: a block per selection."""
    shown = scores.filter(pl.col("measure").is_in(list(MEASURES)))
    sample = copying_data.sample(shown)
    names, replacements = copying_data.selections(shown), copying_data.replacements(shown)
    if not names or not shown["value"].count():
        why = "no set of neurons was ablated" if not names else "no prompt is left that does not follow the context"
        return theme.finish(theme.note_chart(why), TITLE, [about(model, facts, sample)])
    colours = copying_data.set_colours(names)
    frames = {(name, measure): bars_of(shown, name, measure, replacements) for name in names for measure in MEASURES}
    scales = {measure: _scale([frames[name, measure] for name in names]) for measure in MEASURES}
    width = WIDTHS[min(len(names), COLUMNS)]
    rows = []
    for start in range(0, len(names), COLUMNS):
        for measure, (before, after) in MEASURES.items():
            panels = []
            for place, name in enumerate(names[start : start + COLUMNS]):
                eligible = shown.filter((pl.col("measure") == measure) & (pl.col("set") == name))["n_eligible"].max()
                title = alt.Title(
                    groups.set_label(name),
                    subtitle=f"{transition(before, after)}, of {theme.count(int(eligible or 0), 'prompt')}",
                    color=colours[name],
                    fontSize=12.5,
                    subtitleFontSize=12,
                    anchor="start",
                    frame="group",
                    offset=5,
                )
                made = panel(
                    frames[name, measure], colours[name], scales[measure], title, width=width, first=place == 0
                )
                panels.append(made)
            rows.append(alt.hconcat(*panels, spacing=34, bounds="flush"))
    lowest = _lowest_p(control_tests, names)
    subtitle = [
        about(model, facts, sample),
        f"bars: selections {100 * level:g} % intervals, by fact; {copying_data.RANGE_WORDS}",
        "square-root axis" if any(root for _, root in scales.values()) else None,
        lowest,
        copying_data.left_out(shown),
    ]
    kinds = copying_data.control_kinds(shown)
    body = alt.vconcat(legend(kinds, colours, min(len(names), COLUMNS) * (width + 20)), *rows, spacing=20)
    return theme.finish(body, TITLE, subtitle)


def _scale(frames: Sequence[pl.DataFrame]) -> tuple[float, bool]:
    """Where the axis of these bars ends, and whether it is one of square roots, so that small shares are seen."""
    reach = pl.concat([frame.select(reach=pl.max_horizontal("value", "high")) for frame in frames])["reach"]
    values = pl.concat(frames).filter(pl.col("kind") == "selection")["value"].drop_nulls()
    longest = max(float(reach.max() or 0.0), 1e-3)
    usual = values.filter(values > 0).median()
    return longest, usual is not None and longest > FAR * float(usual)


def _lowest_p(tests: pl.DataFrame, names: Sequence[str]) -> str | None:
    """How many of the comparisons with control sets have p below 0.05; they are not corrected for their number."""
    of = tests.filter(pl.col("measure").is_in(list(MEASURES)) & pl.col("set").is_in(list(names)))
    found = of["p_value"].drop_nulls()
    if not len(found):
        return None
    compared = theme.count(len(found), "comparison")
    return f"{(found < 0.05).sum()} of {compared} with control sets have p < 0.05, uncorrected"


def draw(
    *,
    scores: str | Path,
    control_tests: str | Path,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_copying_bars`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(scores, "copying_scores"),
        read_table(control_tests, "control_tests"),
        model=model,
        facts=facts,
        level=level,
    )
    saving.save(made, figures)
