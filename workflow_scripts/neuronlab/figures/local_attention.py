"""Attention on the tokens just before, layer by layer and head by head (study C, detokenization).

One model: per layer the attention on the previous tokens, added up and by offset, and that on the BOS; below, every
head. Several models: the two curves, a colour per model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import depth_lines, overlays, saving, theme
from neuronlab.figures.head_maps import head_map
from neuronlab.figures.points import Axis

TITLE = "Attention on the tokens just before"
WIDTH, HEIGHT = 400, 250
FULL = (0.0, 1.04)  # all of a head's attention; a label at the very top would stick out
OWN = "the token itself"
RAMP = ("#083b66", "#2f77b0", "#62a3cc", "#93bedb", "#b5cbda", "#c9d3da")  # offset 1, 2, ...; dark is near


def window_name(window: int) -> str:
    """What a sum over the window is called."""
    return f"previous {window} tokens" if window > 1 else "previous token"


def by_offset(local_attention: pl.DataFrame) -> pl.DataFrame:
    """Mean over heads by layer and offset: columns layer, depth, offset, attention."""
    last = max(int(local_attention["layer"].max()), 1)
    means = local_attention.group_by("layer", "offset").agg(pl.col("attention").mean())
    return means.with_columns(depth=pl.col("layer") / last).sort("layer", "offset")


def by_head(local_attention: pl.DataFrame, window: int) -> pl.DataFrame:
    """Attention of each head on offsets 1 to `window`, added up: columns layer, head, attention."""
    inside = local_attention.filter(pl.col("offset").is_between(1, window))
    return inside.group_by("layer", "head").agg(pl.col("attention").sum()).sort("layer", "head")


def by_layer(attention_bos: pl.DataFrame) -> pl.DataFrame:
    """Mean over heads of the attention on the BOS, without intervals: columns layer, depth, attention."""
    if not len(attention_bos):
        return pl.DataFrame(schema={"layer": pl.Int32, "depth": pl.Float64, "attention": pl.Float64})
    last = max(int(attention_bos["layer"].max()), 1)
    means = attention_bos.group_by("layer").agg(pl.col("attention").mean())
    return means.with_columns(depth=pl.col("layer") / last).sort("layer")


def _axis(title: str, *values: pl.Series) -> Axis:
    top = theme.linear_domain(*values, include=[0.0])[1]
    return Axis("attention", title, (0.0, min(max(top, 0.05), 1.0)), pixels=HEIGHT)


def _tips(*names: str) -> list[alt.Tooltip]:
    return [*(alt.Tooltip(f"{name}:N") for name in names), alt.Tooltip("attention:Q", format=".3f")]


def offsets_panel(layers: pl.DataFrame, means: pl.DataFrame) -> alt.LayerChart:
    """The sum over the window with its interval, and a line for each offset."""
    window = int(layers["window"].max())
    total = window_name(window)
    named = means.filter(pl.col("offset") <= window).with_columns(
        line=pl.when(pl.col("offset") == 0).then(pl.lit(OWN)).otherwise(pl.format("{} back", "offset"))
    )
    frame = layers.with_columns(line=pl.lit(total))
    offsets = named.filter(pl.col("offset") > 0)["offset"].unique().sort().to_list()
    nearby = [f"{offset} back" for offset in offsets]
    domain = [total, *nearby, *([OWN] if OWN in named["line"] else [])]
    shades = [RAMP[min(i, len(RAMP) - 1)] for i in range(len(nearby))]
    colours = [theme.VERMILION, *shades, *([theme.PURPLE] if len(domain) > len(nearby) + 1 else [])]
    legend = alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=3, orient="right")
    color = alt.Color("line:N", scale=alt.Scale(domain=domain, range=colours), sort=domain, legend=legend)
    x, y = overlays.depth_x(frame), _axis("mean attention", frame["attention_high"], named["attention"])
    lines = alt.Chart(named).encode(x=x, y=y.y(values=overlays.ticks(y.domain[1])), color=color)
    dots = lines.mark_circle(size=22, opacity=1).encode(tooltip=_tips("layer", "line"))
    curve = overlays.curve(frame, x, y, {"color": color}, tooltip=_tips("layer", "line"))
    return alt.layer(lines.mark_line(strokeWidth=1.6), dots, *curve).properties(width=WIDTH, height=HEIGHT)


def bos_panel(layers: pl.DataFrame, heads: pl.DataFrame) -> alt.LayerChart:
    """Attention on the BOS by layer: a dot per head, and their mean."""
    x, y = overlays.depth_x(layers), Axis("attention", "attention on the BOS", FULL, pixels=HEIGHT)
    last = max(int(heads["layer"].max()), 1)
    dots = alt.Chart(heads.with_columns(depth=pl.col("layer") / last)).encode(
        x=x, y=y.y(values=overlays.ticks(y.domain[1]))
    )
    line = alt.Chart(layers).encode(x=x, y=y.y(values=overlays.ticks(y.domain[1])))
    return alt.layer(
        dots.mark_circle(size=24, opacity=0.55, color="#9aa3ac").encode(tooltip=_tips("layer", "head")),
        line.mark_line(strokeWidth=2, color=theme.INK),
        line.mark_circle(size=34, opacity=1, color=theme.INK),
    ).properties(width=int(0.8 * WIDTH), height=HEIGHT)


def one_model(heads: pl.DataFrame, layers: pl.DataFrame, bos: pl.DataFrame) -> alt.ConcatChart:
    """Curves over the layers above, heads below; without a BOS its two panels are left out."""
    model = layers["model"][0]
    window, name = int(layers["window"].max()), window_name(int(layers["window"].max()))
    own = by_head(heads, window)
    top = min(1.0, theme.round_up(float(own["attention"].max())))
    curves = [offsets_panel(layers, by_offset(heads)).properties(title=overlays.heading("Mean over heads"))]
    maps = [
        head_map(own, "attention", f"attention on the {name}", [0.0, top]).properties(
            title=overlays.heading(f"Every head: {name}")
        )
    ]
    if len(bos):
        means = by_layer(bos).with_columns(model=pl.lit(model))
        title = overlays.heading("On the BOS: a dot per head, and their mean")
        curves.append(bos_panel(means, bos).properties(title=title))
        most = min(1.0, theme.round_up(float(bos["attention"].max())))
        made = head_map(bos, "attention", "attention on the BOS", [0.0, most])
        maps.append(made.properties(title=overlays.heading("Every head: BOS")))
    made = alt.concat(*curves, *maps, columns=len(curves), spacing={"row": 24, "column": 34})
    return made.resolve_scale(color="independent", fill="independent")


def several_models(layers: pl.DataFrame, bos: pl.DataFrame, models: Sequence[str]) -> alt.HConcatChart:
    """Both curves, a colour per model."""
    look = overlays.look(models)
    shown = overlays.dodged(layers, "model")
    name = window_name(int(layers["window"].max()))
    x, y = overlays.depth_x(layers), _axis("mean attention over heads", layers["attention_high"])
    curve = overlays.curve(shown, x, y, look, tooltip=_tips("model", "layer"))
    panels = [alt.layer(*curve).properties(width=WIDTH, height=HEIGHT, title=overlays.heading(name.capitalize()))]
    if len(bos):
        y = Axis("attention", "", FULL, pixels=HEIGHT)
        base = alt.Chart(bos).encode(x=x, y=y.y(values=overlays.ticks(y.domain[1])), **look)
        lines = alt.layer(base.mark_line(strokeWidth=2), base.mark_circle(size=26, opacity=1))
        panels.append(lines.properties(width=WIDTH, height=HEIGHT, title=overlays.heading("BOS (no intervals)")))
    return alt.hconcat(*panels, spacing=30)


def chart(
    local_attention: Mapping[str, pl.DataFrame],
    local_attention_layers: Mapping[str, pl.DataFrame],
    attention_bos: Mapping[str, pl.DataFrame],
    *,
    text: str | None = None,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the three tables by model.

    Raises:
        OverlayError: the tables are of different models.
    """
    models = list(local_attention_layers)
    for tables in (local_attention, attention_bos):
        if set(tables) != set(models):
            raise overlays.OverlayError(
                f"tables of different models: {', '.join(sorted(tables))} and {', '.join(sorted(models))}"
            )
    layers = overlays.stack(local_attention_layers).drop_nulls("attention")
    if not len(layers):
        note = theme.note_chart("no token has so many tokens before it:\nnothing was measured")
        return theme.finish(note, TITLE, [depth_lines.about(models, text)])
    bos = overlays.stack({model: by_layer(attention_bos[model]) for model in models})
    queries = int(layers["n"].max())
    if len(models) == 1:
        body = one_model(local_attention[models[0]], layers, attention_bos[models[0]])
        facts = [theme.count(layers["layer"].n_unique(), "layer"), theme.count(queries, "query", "queries")]
    else:
        body, facts = several_models(layers, bos, models), []
    windows = layers["window"].unique().sort().to_list()
    most = layers.group_by("model").agg(pl.col("layer").n_unique())["layer"].max()
    subtitle = [
        depth_lines.about(models, text, *facts),
        f"{'bars' if most <= overlays.FEW else 'bands'}: {100 * level:g} % intervals, bootstrap by document",
        "previous tokens: all keys but a BOS at position 0",
        f"windows of {' and '.join(str(window) for window in windows)} tokens" if len(windows) > 1 else None,
        None if len(bos) else "no BOS at position 0 in this text",
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    local_attention: overlays.Tables,
    local_attention_layers: overlays.Tables,
    attention_bos: overlays.Tables,
    figures: Sequence[str | Path],
    text: str,
    model: str | Sequence[str] | None = None,
    level: float = 0.95,
) -> None:
    """Rule `draw_local_attention`: read the tables, write the figure in the formats of `figures`' suffixes.

    Args:
        local_attention, local_attention_layers, attention_bos: a table each, or as many as there are models, in
            their order; or mappings from models to tables.
    """
    made = chart(
        overlays.read(local_attention, "local_attention", model),
        overlays.read(local_attention_layers, "local_attention_layers", model),
        overlays.read(attention_bos, "attention_bos", model),
        text=text,
        level=level,
    )
    saving.save(made, figures)
