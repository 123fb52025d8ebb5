"""Does a changed answer follow the change of the entropy? Changed against kept prompts, by route.

A block of rows per selection, a row per route: what the ablation does through everything, with the final norm's scale
frozen, and through that scale alone. Columns: mean changes of the entropy and of three log-ratios of first tokens;
then how well the size of the change tells changed prompts from kept ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import copying_data, groups, saving, theme
from neuronlab.figures.copying_labels import about
from neuronlab.tables import read_table

TITLE = "Changed and kept answers: entropy and log-ratios by route"
ROUTES = {"total": "total", "direct": "direct (scale frozen)", "norm": "through the norm's scale"}
QUANTITIES = {
    "entropy": ["change of the", "entropy (nats)"],
    "ck_pk": ["change of", "log P(CK)/P(PK) (nats)"],
    "nd_ck": ["change of", "log P(ND)/P(CK) (nats)"],
    "nd_pk": ["change of", "log P(ND)/P(PK) (nats)"],
}
PREDICTORS = {"entropy": "|entropy change|", "margin": "|log-ratio change|"}
NAMES_WIDTH, WIDTH, AUC_WIDTH = 172, 152, 92
AUC_TICKS = [0, 0.25, 0.5, 0.75, 1]
ROW, HEADING, GAP = 31, 40, 16
OFFSET = 6.5  # pixels between changed and kept on a row


@dataclass(frozen=True)
class Row:
    """A selection's route, and its middle in pixels from the top."""

    name: str
    route: str
    at: float


def rows_of(flips: pl.DataFrame, names: Sequence[str]) -> tuple[list[Row], list[float], int]:
    """The rows from top to bottom, where each selection's heading stands, and the height of all."""
    rows, headings, at = [], [], 0.0
    for name in names:
        headings.append(at + 12)
        at += HEADING
        for route in ROUTES:
            if len(flips.filter((pl.col("set") == name) & (pl.col("route") == route))):
                rows.append(Row(name, route, at + ROW / 2))
                at += ROW
        at += GAP
    return rows, headings, int(at - GAP)


def changes_panel(
    flips: pl.DataFrame, quantity: str, rows: Sequence[Row], height: int, colours: dict[str, str]
) -> alt.LayerChart:
    """Mean change of one quantity: filled where the answer changed, hollow where it was kept."""
    column, found = f"{quantity}_change", []
    for row in rows:
        of = flips.filter((pl.col("set") == row.name) & (pl.col("route") == row.route))
        for group, shift in (("changed", -OFFSET), ("kept", OFFSET)):
            for own in of.filter(pl.col("group") == group).iter_rows(named=True):
                found.append(
                    {"y": row.at + shift, "group": group, "colour": colours[row.name], "value": own[column]}
                    | {"low": own[f"{column}_low"], "high": own[f"{column}_high"], "n": own["n_prompts"]}
                )
    real = dict.fromkeys(("y", "value", "low", "high"), pl.Float64)
    schema = {"y": pl.Float64, "group": pl.String, "colour": pl.String, **real, "n": pl.Int64}
    marks = pl.DataFrame(found, schema=schema).drop_nulls("value")
    domain = theme.linear_domain(marks["value"], marks["low"], marks["high"], include=[0.0], pad=0.06)
    x_options = {
        "scale": alt.Scale(domain=domain, range=[0, WIDTH], nice=False, zero=False),
        "axis": alt.Axis(title=QUANTITIES[quantity], tickCount=3, domain=False),
    }
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, height], range=[0, height], nice=False), axis=None)
    colour = alt.Color("colour:N", scale=None)
    tips = ["group:N", "n:Q", *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("value", "low", "high"))]
    base = alt.Chart(marks).encode(y=y, tooltip=tips)
    dots = base.encode(x=alt.X("value:Q", **x_options))
    changed, kept = (alt.FieldEqualPredicate(field="group", equal=name) for name in ("changed", "kept"))
    return alt.layer(
        alt.Chart(pl.DataFrame({"value": [0.0]})).mark_rule(color="#9aa3ac").encode(x=alt.X("value:Q", **x_options)),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", **x_options), x2="high:Q", color=colour),
        dots.transform_filter(changed).mark_circle(size=72, opacity=1).encode(color=colour),
        dots.transform_filter(kept)
        .mark_point(shape="circle", size=58, filled=True, fill="white", strokeWidth=1.8, opacity=1)
        .encode(stroke=alt.Stroke("colour:N", scale=None)),
    ).properties(width=WIDTH, height=height)


def auc_panel(
    prediction: pl.DataFrame, quantity: str, rows: Sequence[Row], height: int, colours: dict[str, str]
) -> alt.LayerChart:
    """How often a changed prompt has the larger change than a kept one, as point and text."""
    found, texts = [], []
    for row in rows:
        own = prediction.filter(
            (pl.col("set") == row.name) & (pl.col("route") == row.route) & (pl.col("quantity") == quantity)
        )
        auc = own.row(0, named=True) if len(own) else None
        if auc is None or auc["auc"] is None:
            texts.append({"y": row.at, "text": "undefined"})
            continue
        found.append(
            {"y": row.at, "colour": colours[row.name], "value": auc["auc"]}
            | {"low": auc["auc_low"], "high": auc["auc_high"]}
        )
        bounds = f" [{auc['auc_low']:.2f}, {auc['auc_high']:.2f}]" if auc["auc_low"] is not None else ""
        texts.append({"y": row.at, "text": f"{auc['auc']:.2f}{bounds}"})
    schema = {"y": pl.Float64, "colour": pl.String, **dict.fromkeys(("value", "low", "high"), pl.Float64)}
    marks = pl.DataFrame(found, schema=schema)
    low = min([0.4, *marks["value"].to_list(), *marks["low"].drop_nulls().to_list()])
    x_options = {
        "scale": alt.Scale(domain=[max(low - 0.02, 0.0), 1.0], range=[0, AUC_WIDTH], nice=False, zero=False),
        "axis": alt.Axis(
            title=["AUC of", PREDICTORS[quantity]], values=AUC_TICKS, labelExpr="datum.value", domain=False
        ),
    }
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, height], range=[0, height], nice=False), axis=None)
    base = alt.Chart(marks).encode(y=y, color=alt.Color("colour:N", scale=None))
    words = alt.Chart(pl.DataFrame(texts)).mark_text(align="left", baseline="middle", fontSize=11.5, color=theme.INK)
    return alt.layer(
        alt.Chart(pl.DataFrame({"value": [0.5]})).mark_rule(color="#9aa3ac").encode(x=alt.X("value:Q", **x_options)),
        base.mark_rule(strokeWidth=2, clip=True).encode(x=alt.X("low:Q", **x_options), x2="high:Q"),
        base.mark_square(size=58, opacity=1).encode(x=alt.X("value:Q", **x_options)),
        words.encode(x=alt.value(AUC_WIDTH + 6), y=y, text="text:N"),
    ).properties(width=AUC_WIDTH, height=height)


def names_panel(
    flips: pl.DataFrame, rows: Sequence[Row], headings: Sequence[float], names: Sequence[str], height: int
) -> alt.LayerChart:
    """Names of selections with their numbers of changed and kept prompts, and of routes."""
    colours, texts = copying_data.set_colours(names), []
    for name, at in zip(names, headings, strict=True):
        own = flips.filter((pl.col("set") == name) & (pl.col("route") == "total"))
        numbers = dict(own.select("group", "n_prompts").iter_rows())
        changed, kept = numbers.get("changed", 0), numbers.get("kept", 0)
        look = {"colour": colours[name], "x": 0}
        texts.append({"y": at, "text": groups.set_label(name), "bold": True, **look})
        text = f"{changed:,} changed, {kept:,} kept" if changed else f"no answer changes, {kept:,} kept"
        texts.append({"y": at + 17, "text": text, "bold": False, **look})
    texts += [{"y": row.at, "text": ROUTES[row.route], "colour": theme.INK, "bold": False, "x": 14} for row in rows]
    scale = alt.Scale(domain=[0, height], range=[0, height], nice=False)
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, NAMES_WIDTH], range=[0, NAMES_WIDTH], nice=False), axis=None)
    base = alt.Chart(pl.DataFrame(texts)).encode(
        x=x, y=alt.Y("y:Q", scale=scale, axis=None), text="text:N", color=alt.Color("colour:N", scale=None)
    )
    look = {"align": "left", "baseline": "middle"}
    return alt.layer(
        base.transform_filter("datum.bold").mark_text(fontWeight="bold", fontSize=13, **look),
        base.transform_filter("!datum.bold").mark_text(fontSize=theme.LABEL_SIZE, **look),
    ).properties(width=NAMES_WIDTH, height=height)


def chart(
    flips: pl.DataFrame,
    flip_prediction: pl.DataFrame,
    *,
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `flips` and `flip_prediction`, for one replacement.

    Raises:
        MissingReplacement: if the tables hold others only.
    """
    here = copying_data.one_replacement(flips, replacement)
    names = copying_data.selections(here)
    if not names:
        why = "no set of neurons was ablated, or no prompt is left to score"
        return theme.finish(theme.note_chart(why), TITLE, [about(model, facts)])
    prediction = flip_prediction.filter(pl.col("replacement") == replacement)
    rows, headings, height = rows_of(here, names)
    colours = copying_data.set_colours(names)
    parts: list[alt.TopLevelMixin] = [names_panel(here, rows, headings, names, height)]
    parts += [changes_panel(here, quantity, rows, height, colours) for quantity in QUANTITIES]
    parts += [auc_panel(prediction, quantity, rows, height, colours) for quantity in PREDICTORS]
    counted = here.filter((pl.col("route") == "total") & pl.col("group").is_in(["changed", "kept"]))
    prompts = counted.group_by("set").agg(pl.col("n_prompts").sum())["n_prompts"].max()
    subtitle = [
        about(model, facts, theme.count(int(prompts or 0), "prompt")),
        f"activations replaced by their {replacement}; means over prompts; filled: the answer changed, hollow: kept",
        f"bars: {100 * level:g} % intervals, bootstrap by fact",
        "AUC: how often a changed prompt has the larger change; 0.5 is chance",
        copying_data.left_out(here),
    ]
    return theme.finish(alt.hconcat(*parts, spacing=24), TITLE, subtitle)


def draw(
    *,
    flips: str | Path,
    flip_prediction: str | Path,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_flips`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(flips, "flips"),
        read_table(flip_prediction, "flip_prediction"),
        model=model,
        facts=facts,
        replacement=replacement,
        level=level,
    )
    saving.save(made, figures)
