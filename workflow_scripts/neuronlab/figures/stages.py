"""Everything measured by layer on one axis of depth, with the borders of the four stages (study C in one figure).

Depth is the share of the blocks passed: the lens after p of L blocks stands at p / L, and what concerns a layer in the
middle of its part, at (layer + 1/2) / L, so that a border means the same for every curve. The strip on top shows the
stages of each model, and in black each border with its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import depth_lines, families, saving, theme
from neuronlab.figures.depth_lines import Look
from neuronlab.figures.stage_strip import (
    WIDTH,
    Tables,
    borders_of,
    key,
    layers_of,
    place_of,
    segments_of,
    strip,
    unknown,
)
from neuronlab.tables import read_table

TITLE = "Stages of inference over depth"
HEIGHT = 88
DOMAIN = (-0.012, 1.012)
# Curve: table, column, what the rows are filtered by, title, kind of axis, colour where there is one model.
CURVES: dict[str, tuple[str, str, pl.Expr | None, list[str], str, str]] = {
    "deletion": (
        "interventions",
        "kl",
        pl.col("intervention") == "delete",
        ["KL without", "the layer (nats)"],
        "log",
        theme.VERMILION,
    ),
    "lens entropy": ("lens", "entropy", None, ["lens: entropy", "(nats)"], "linear", theme.BLUE),
    "lens agreement": ("lens", "agreement", None, ["lens: final top", "prediction"], "share", theme.GREEN),
    "prediction neurons": (
        "vocabulary_counts",
        "share",
        pl.col("kind") == "prediction",
        ["prediction", "neurons"],
        "share",
        theme.ORANGE,
    ),
    "suppression neurons": (
        "vocabulary_counts",
        "share",
        pl.col("kind") == "suppression",
        ["suppression", "neurons"],
        "share",
        theme.PURPLE,
    ),
    "local attention": (
        "local_attention_layers",
        "attention",
        pl.col("measure") == "window",
        ["attention just", "before"],
        "share",
        theme.INK,
    ),
}
PAIR = ("prediction neurons", "suppression neurons")  # one panel where there is one model


def prepare(tables: Tables, curve: str, series: str) -> pl.DataFrame | None:
    """Rows to draw (see `depth_lines`) of one curve of one model; None if its table is missing or has no such row."""
    table, column, keep, *_ = CURVES[curve]
    frame = tables.get(table)
    if frame is None:
        return None
    frame = frame if keep is None else frame.filter(keep)
    layer = pl.col("layer") - (0.5 if table == "lens" else 0.0)
    said = pl.format("after {} blocks" if table == "lens" else "layer {}", pl.col("layer"))
    place = place_of(layers_of(tables))(layer)
    rows = depth_lines.rows_of(frame.sort("layer"), column, series, place, said)
    return rows if len(rows) else None


def axis_of(n_layers: int | None, *, foot: bool, column: str = "x") -> alt.X:
    """The axis of depth, labelled in the last panel: by layer for a model of `n_layers`, else by the share."""
    if n_layers is None:
        ticks, label = [0, 0.2, 0.4, 0.6, 0.8, 1], "format(datum.value, '.1f')"
    else:
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if WIDTH * s / n_layers >= 24)
        ticks = [(layer + 0.5) / n_layers for layer in range(0, n_layers, step)]
        label = f"format(datum.value * {n_layers} - 0.5, '.0f')"
    words = "depth: share of the blocks passed" if n_layers is None else "layer"
    return alt.X(
        f"{column}:Q",
        scale=alt.Scale(domain=list(DOMAIN), nice=False, zero=False),
        axis=alt.Axis(
            title=words if foot else None, values=ticks, labelExpr=label, labels=foot, ticks=foot, grid=False
        ),
    )


def panel(
    frames: Sequence[pl.DataFrame],
    curve: str,
    borders: pl.DataFrame,
    looks: Sequence[Look],
    *,
    title: list[str],
    foot: bool,
    n_layers: int | None,
) -> alt.LayerChart:
    """One curve (or two) over depth; borders are rules, of several models (`n_layers` None) in their colours."""
    kind = CURVES[curve][4]
    axis = depth_lines.vertical(*frames, kind=kind, include=[0.0] if kind == "share" else [])
    x = axis_of(n_layers, foot=foot)
    drawn: list[alt.Chart] = []
    if len(borders):
        lines = borders.with_columns(x="depth", series="model")
        base = alt.Chart(lines).encode(tooltip=["model:N", "said:N"])
        if n_layers is None:
            colour, _ = depth_lines.colours(looks)
            drawn.append(base.mark_rule(strokeDash=[3, 3], strokeWidth=1.2, opacity=0.8).encode(x=x, color=colour))
        else:
            span = base.transform_filter("isValid(datum.low)").mark_rect(color="#eceff1")
            drawn.append(span.encode(x=axis_of(n_layers, foot=foot, column="low"), x2="high:Q"))
            drawn.append(base.mark_rule(strokeDash=[4, 3], strokeWidth=1.2, color=theme.FAINT).encode(x=x))
    drawn += depth_lines.lines(pl.concat(frames), looks, x, axis, title, quantity=curve)
    return alt.layer(*drawn).properties(width=WIDTH, height=HEIGHT)


def panels(models: Mapping[str, Tables], borders: pl.DataFrame, looks: Sequence[Look]) -> list[alt.LayerChart]:
    """A panel per curve that was measured; of one model prediction and suppression neurons share one."""
    several = len(models) > 1
    n_layers = None if several else layers_of(next(iter(models.values())))
    found: dict[str, list[pl.DataFrame]] = {}
    for curve in CURVES:
        rows = [prepare(tables, curve, model if several else curve) for model, tables in models.items()]
        if any(frame is not None for frame in rows):
            found[curve] = [frame for frame in rows if frame is not None]
    titles = {curve: CURVES[curve][3] for curve in found}
    heads: dict[str, alt.LayerChart] = {}
    if not several and all(name in found for name in PAIR):
        found[PAIR[0]] += found.pop(PAIR[1])
        titles[PAIR[0]] = ["share of", "neurons"]
        heads[PAIR[0]] = depth_lines.key(looks, [look for look in looks if look.name in PAIR], WIDTH)
    made: list[alt.LayerChart] = []
    for curve, frames in found.items():
        if curve in heads:
            made.append(heads[curve])
        foot = curve == list(found)[-1]
        made.append(panel(frames, curve, borders, looks, title=titles[curve], foot=foot, n_layers=n_layers))
    return made


def chart(models: Mapping[str, Tables], *, text: str, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the tables of one model or of several.

    Args:
        models: by name, the tables of `TABLES` by name; a table that was not made is None or missing.
        level: of the intervals in the tables.
    """
    names = list(models)
    several = len(names) > 1
    named = families.families_of({model: list(tables.values()) for model, tables in models.items()})
    looks = families.looks_of(named) if several else [Look(curve, spec[5]) for curve, spec in CURVES.items()]
    segments = pl.concat([segments_of(tables, model) for model, tables in models.items()])
    borders = pl.concat([borders_of(tables, model) for model, tables in models.items()])
    drawn = panels(models, borders, looks)
    if not drawn:
        return theme.finish(theme.note_chart("nothing was measured by layer"), TITLE, [depth_lines.about(names, text)])
    ordered = [look.name for look in looks] if several else names
    rows = [key(), strip(segments, borders, ordered, DOMAIN)]
    rows += [families.key(named, WIDTH)] if several else []
    layers = layers_of(models[names[0]])
    subtitle = [
        depth_lines.about(names, text, *([] if several else [theme.count(layers, "layer")])),
        f"bands and bars: {100 * level:g} % intervals" + ("" if several or not len(borders) else " (of borders: grey)"),
        "KL on a logarithmic axis",
        "attention just before: on the few tokens before, the mean over heads",
        "the lens stands between two layers; a layer in the middle of its part"
        if several
        else "the lens stands between two layers",
        *unknown(models),
    ]
    return theme.finish(alt.vconcat(*rows, *drawn, spacing=10), TITLE, subtitle)


def _paths(given: str | Path | Sequence[str | Path] | None, number: int) -> list[str | Path | None]:
    if not given:
        return [None] * number
    return [given] if isinstance(given, str | Path) else list(given)


def draw(
    *,
    stages: str | Path | Sequence[str | Path],
    interventions: str | Path | Sequence[str | Path] | None,
    lens: str | Path | Sequence[str | Path] | None,
    vocabulary_counts: str | Path | Sequence[str | Path] | None,
    local_attention_layers: str | Path | Sequence[str | Path] | None,
    figures: Sequence[str | Path],
    model: str | Sequence[str],
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_stages`: read the tables, write the figure in the formats of `figures`' suffixes.

    Args:
        stages, interventions, lens, vocabulary_counts, local_attention_layers: a table, or one per model in the order
            of `model`; None or nothing for a part that is not made.
    """
    names = [model] if isinstance(model, str) else list(model)
    given = {
        "interventions": interventions,
        "lens": lens,
        "vocabulary_counts": vocabulary_counts,
        "local_attention_layers": local_attention_layers,
        "stages": stages,
    }
    read: dict[str, dict[str, pl.DataFrame | None]] = {name: {} for name in names}
    for table, paths in given.items():
        for name, path in zip(names, _paths(paths, len(names)), strict=True):
            read[name][table] = None if path is None else read_table(path, table)
    saving.save(chart(read, text=text, level=level), figures)
