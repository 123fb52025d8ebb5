"""Dose and response of copying: a set clamped over a grid, from the smallest to the largest activation of each neuron.

A column per selection; above, how many answers follow the context, the model's knowledge or neither; beneath, how the
entropy at the prompt's end changes. Thin lines are control sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import COLOURS, CONTROL_COLOURS, NAMES, about, label_colours
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import read_table

TITLE = "Copying against the dose: neurons held at a value between their smallest and largest"
WIDTHS = {1: 480, 2: 360, 3: 280}
NARROW, HEIGHT, ENTROPY_HEIGHT = 220, 250, 130


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


def shares_panel(
    shares: pl.DataFrame, name: str, domain: Sequence[float], *, width: int, first: bool
) -> alt.LayerChart:
    """The labels' shares against the dose: the selection with its interval, its controls, the clean model."""
    own = shares.filter((pl.col("kind") == "selection") & (pl.col("set") == name)).drop_nulls("share")
    controls = shares.filter(pl.col("control_of") == name).drop_nulls("share")
    clean = shares.filter(pl.col("kind") == "clean").drop_nulls("share")
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = copying_data.percent_axis("share of answers (%)" if first else None, minExtent=34)
    y, x = alt.Y("share:Q", scale=scale, axis=axis), _dose_axis(foot=False)
    band = alt.Chart(own.drop_nulls(["low", "high"])).mark_area(opacity=0.2)
    line = alt.Chart(own).encode(x=x, y=y, color=label_colours(), tooltip=["label:N", "dose:Q", "share:Q"])
    layers = [
        alt.Chart(clean).mark_rule(strokeDash=[5, 3], strokeWidth=1.4).encode(y=y, color=label_colours()),
        alt.Chart(controls)
        .mark_line(strokeWidth=0.7, opacity=0.4)
        .encode(x=x, y=y, color=label_colours(), detail="set:N"),
        band.encode(x=x, y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q", color=label_colours()),
        line.mark_line(strokeWidth=2.4),
        line.mark_circle(size=34, opacity=1),
    ]
    return alt.layer(*layers).properties(width=width, height=HEIGHT)


def entropy_panel(
    doses: pl.DataFrame, name: str, domain: Sequence[float], colour: str, *, width: int, first: bool
) -> alt.LayerChart:
    """Mean change of the entropy against the dose."""
    own = doses.filter((pl.col("kind") == "selection") & (pl.col("set") == name)).drop_nulls("entropy_change")
    controls = doses.filter(pl.col("control_of") == name).drop_nulls("entropy_change")
    controls = controls.with_columns(shade=pl.col("kind").replace_strict(CONTROL_COLOURS, default=theme.FAINT))
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    axis = alt.Axis(title=["change of the", "entropy (nats)"] if first else None, tickCount=5, minExtent=34)
    y, x = alt.Y("entropy_change:Q", scale=scale, axis=axis), _dose_axis(foot=True)
    band = alt.Chart(own.drop_nulls("entropy_change_low")).mark_area(opacity=0.22, color=colour)
    line = alt.Chart(own).encode(x=x, y=y)
    layers = [
        alt.Chart(pl.DataFrame({"entropy_change": [0.0]})).mark_rule(color="#9aa3ac").encode(y=y),
        alt.Chart(controls)
        .mark_line(strokeWidth=0.8, opacity=0.7)
        .encode(
            x=x,
            y=y,
            detail="set:N",
            color=alt.Color("shade:N", scale=None),
        ),
        band.encode(x=x, y=alt.Y("entropy_change_low:Q", scale=scale, axis=axis), y2="entropy_change_high:Q"),
        line.mark_line(strokeWidth=2.4, color=colour),
        line.mark_circle(size=34, opacity=1, color=colour),
    ]
    return alt.layer(*layers).properties(width=width, height=ENTROPY_HEIGHT)


def legend(width: int, *, controls: bool, clean: bool) -> alt.LayerChart:
    """What the lines are, as a row of its own."""
    entries = [(NAMES[label], COLOURS[label], 2.4, [1, 0]) for label in LABELS]
    entries += [("clean model", theme.INK, 1.4, [5, 3])] if clean else []
    entries += [("control sets", theme.FAINT, 0.8, [1, 0])] if controls else []
    at, layers = 8.0, []
    x = {"scale": alt.Scale(domain=[0, width], range=[0, width], nice=False), "axis": None}
    for name, colour, thickness, dash in entries:
        base = alt.Chart(pl.DataFrame({"name": [name], "at": [at], "to": [at + 26]})).encode(y=alt.value(8))
        layers += [
            base.mark_rule(color=colour, strokeWidth=thickness, strokeDash=dash).encode(
                x=alt.X("at:Q", **x), x2="to:Q"
            ),
            base.mark_text(align="left", dx=7, fontSize=12.5, color=theme.INK).encode(
                x=alt.X("to:Q", **x), text="name:N"
            ),
        ]
        at += 58 + 6.4 * len(name)
    return alt.layer(*layers).properties(width=width, height=18)


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
    domain = theme.linear_domain(shares["share"], shares["low"], shares["high"], pad=0.05)
    domain = [max(domain[0], 0.0) if domain[0] > 0.2 else 0.0, min(domain[1], 1.0)]
    changes = [shown[column] for column in ("entropy_change", "entropy_change_low", "entropy_change_high")]
    limits = theme.linear_domain(*changes, include=[0.0], pad=0.06)
    width = WIDTHS.get(len(names), NARROW)
    columns = []
    for number, name in enumerate(names):
        title = alt.Title(
            groups.set_label(name), color=colours[name], fontSize=14, anchor="start", frame="group", offset=8
        )
        upper = shares_panel(shares, name, domain, width=width, first=number == 0).properties(title=title)
        lower = entropy_panel(shown, name, limits, colours[name], width=width, first=number == 0)
        columns.append(alt.vconcat(upper, lower, spacing=16))
    kinds = copying_data.control_kinds(shown)
    sets = shown.filter(pl.col("kind").is_in(kinds)).group_by("control_of").agg(pl.col("set").n_unique())["set"].max()
    subtitle = [
        about(model, facts, sample),
        f"band: {100 * level:g} % interval of the selection, bootstrap by fact",
        f"thin: up to {theme.count(int(sets), 'control set')} per selection, clamped alike" if sets else None,
        copying_data.left_out(doses),
    ]
    key = legend(640, controls=bool(kinds), clean=bool(shown.filter(pl.col("kind") == "clean")["ck"].count()))
    return theme.finish(alt.vconcat(key, alt.hconcat(*columns, spacing=28), spacing=14), TITLE, subtitle)


def draw(*, doses: str | Path, figures: Sequence[str | Path], model: str, facts: str, level: float = 0.95) -> None:
    """Rule `draw_copying_doses`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(doses, "copying_doses"), model=model, facts=facts, level=level), figures)
