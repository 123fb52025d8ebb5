"""Dose and response of copying: a set clamped over a grid, from the smallest to the largest activation of each neuron.

A column per selection; above, a row per label with the share of answers that have it; beneath, how the entropy at the
prompt's end changes. Thin lines are control sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import COLOURS, CONTROL_COLOURS, CONTROLS, NAMES, about
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import read_table

TITLE = "Copying against the dose: neurons held at a value between their smallest and largest"
WIDTHS = {1: 480, 2: 360, 3: 280}
NARROW, HEIGHT = 220, 118


def long_shares(doses: pl.DataFrame) -> pl.DataFrame:
    """A row per label: the columns of the table that name a set, dose, label, share, low, high."""
    keys = ["set", "kind", "control_of", "dose"]
    frames = [
        doses.select(
            *keys,
            label=pl.lit(label),
            share=pl.col(label.lower()),
            low=pl.col(f"{label.lower()}_low"),
            high=pl.col(f"{label.lower()}_high"),
        )
        for label in LABELS
    ]
    return pl.concat(frames)


def _dose_axis(foot: bool) -> alt.X:
    words = "({0: 'smallest', 1: 'largest'})[datum.value] || format(datum.value, '~g')"
    axis = alt.Axis(
        title="dose" if foot else None,
        labels=foot,
        ticks=foot,
        values=[0, 0.25, 0.5, 0.75, 1],
        labelExpr=words,
        grid=False,
    )
    return alt.X("dose:Q", scale=alt.Scale(domain=[0.0, 1.0], nice=False), axis=axis)


def panel(
    frame: pl.DataFrame,
    name: str,
    column: str,
    axis: alt.Axis,
    domain: Sequence[float],
    colour: str,
    *,
    width: int,
    foot: bool,
) -> alt.LayerChart:
    """One quantity against the dose: the selection with its interval, its controls, the clean model.

    Args:
        frame: with the columns kind, set, control_of, dose and `column`, and with low and high.
        foot: whether the horizontal axis is labelled.
    """
    there = frame.drop_nulls(column)
    own = there.filter((pl.col("kind") == "selection") & (pl.col("set") == name))
    controls = there.filter(pl.col("control_of") == name)
    controls = controls.with_columns(shade=pl.col("kind").replace_strict(CONTROL_COLOURS, default=theme.FAINT))
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    y, x = alt.Y(f"{column}:Q", scale=scale, axis=axis), _dose_axis(foot=foot)
    band = alt.Chart(own.drop_nulls(["low", "high"])).mark_area(opacity=0.25, color=colour)
    line = alt.Chart(own).encode(
        x=x, y=y, tooltip=[alt.Tooltip(f"{of}:Q", format=".4g") for of in ("dose", column, "low", "high")]
    )
    return alt.layer(
        alt.Chart(controls)
        .mark_line(strokeWidth=0.8, opacity=0.55)
        .encode(x=x, y=y, detail="set:N", color=alt.Color("shade:N", scale=None)),
        alt.Chart(there.filter(pl.col("kind") == "clean"))
        .mark_rule(strokeDash=[5, 3], strokeWidth=1.4, color=theme.INK)
        .encode(y=y),
        band.encode(x=x, y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q"),
        line.mark_line(strokeWidth=2.4, color=colour),
        line.mark_circle(size=34, opacity=1, color=colour),
    ).properties(width=width, height=HEIGHT)


def legend(kinds: Sequence[str], width: int, *, clean: bool) -> alt.LayerChart | None:
    """What the thin and dashed lines are, as a row of its own."""
    entries = [("clean model", theme.INK, 1.4, [5, 3])] if clean else []
    entries += [(CONTROLS[kind], CONTROL_COLOURS[kind], 1.2, [1, 0]) for kind in kinds]
    at, layers = 8.0, []
    x = {"scale": alt.Scale(domain=[0, width], range=[0, width], nice=False), "axis": None}
    for name, colour, thickness, dash in entries:
        base = alt.Chart(pl.DataFrame({"name": [name], "at": [at], "to": [at + 26]})).encode(y=alt.value(8))
        sample = base.mark_rule(color=colour, strokeWidth=thickness, strokeDash=dash)
        text = base.mark_text(align="left", dx=7, fontSize=12.5, color=theme.INK)
        layers += [
            sample.encode(x=alt.X("at:Q", **x), x2="to:Q"),
            text.encode(x=alt.X("to:Q", **x), text="name:N"),
        ]
        at += 58 + 6.4 * len(name)
    return alt.layer(*layers).properties(width=width, height=18) if layers else None


def _domain(frame: pl.DataFrame, column: str, *, include: Sequence[float] = ()) -> list[float]:
    return theme.linear_domain(frame[column], frame["low"], frame["high"], include=include, pad=0.06)


def chart(doses: pl.DataFrame, *, model: str, facts: str, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the table `copying_doses`."""
    names, sample = copying_data.selections(doses), copying_data.sample(doses)
    if not names or not doses["ck"].count():
        why = "no set was clamped: context_copying.doses is 0, or no set was ablated"
        if names:
            why = "no prompt is left to score"
        return theme.finish(theme.note_chart(why), TITLE, [about(model, facts, sample)])
    shown = doses.filter((pl.col("kind") == "clean") | pl.coalesce("control_of", "set").is_in(names))
    shares, colours = long_shares(shown), copying_data.set_colours(names)
    changes = shown.rename({"entropy_change_low": "low", "entropy_change_high": "high"})
    width = WIDTHS.get(len(names), NARROW)
    columns = []
    for number, name in enumerate(names):
        rows = []
        for label in LABELS:
            of = shares.filter(pl.col("label") == label)
            domain = [max(_domain(of, "share")[0], 0.0), min(_domain(of, "share")[1], 1.0)]
            title = [NAMES[label], "answers (%)"] if number == 0 else None
            axis = copying_data.percent_axis(title, minExtent=34)
            rows.append(panel(of, name, "share", axis, domain, COLOURS[label], width=width, foot=False))
        axis = alt.Axis(title=["change of the", "entropy (nats)"] if number == 0 else None, tickCount=4, minExtent=34)
        limits = _domain(changes, "entropy_change", include=[0.0])
        rows.append(panel(changes, name, "entropy_change", axis, limits, colours[name], width=width, foot=True))
        title = alt.Title(
            groups.set_label(name), color=colours[name], fontSize=14, anchor="start", frame="group", offset=8
        )
        rows[0] = rows[0].properties(title=title)
        columns.append(alt.vconcat(*rows, spacing=14))
    kinds = copying_data.control_kinds(shown)
    sets = shown.filter(pl.col("kind").is_in(kinds)).group_by("control_of").agg(pl.col("set").n_unique())["set"].max()
    subtitle = [
        about(model, facts, sample),
        f"band: {100 * level:g} % interval of the selection, by fact",
        f"thin: up to {theme.count(int(sets), 'control set')} per selection, clamped alike" if sets else None,
        copying_data.left_out(doses),
    ]
    key = legend(kinds, 760, clean=bool(shown.filter(pl.col("kind") == "clean")["ck"].count()))
    body = alt.hconcat(*columns, spacing=28)
    return theme.finish(body if key is None else alt.vconcat(key, body, spacing=14), TITLE, subtitle)


def draw(*, doses: str | Path, figures: Sequence[str | Path], model: str, facts: str, level: float = 0.95) -> None:
    """Rule `draw_copying_doses`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(doses, "copying_doses"), model=model, facts=facts, level=level), figures)
