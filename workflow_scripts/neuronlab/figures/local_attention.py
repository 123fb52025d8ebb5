"""Attention on the tokens just before, layer by layer and head by head (study C, detokenization).

One model: per layer the attention on the previous tokens, added up and by offset, and that on the BOS; below, every
head. Several models: the two curves, a panel per family where one has several models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import depth_lines, families, overlays, saving, theme
from neuronlab.figures.head_maps import head_map
from neuronlab.figures.points import Axis

TITLE = "Attention on the tokens just before"
WIDTH, HEIGHT = 400, 250
NARROW, COLUMNS = 290, 3  # of a family's panel, and how many of them stand side by side
FULL = (0.0, 1.04)  # all of a head's attention; a label at the very top would stick out
OWN = "the token itself"
RAMP = ("#083b66", "#2f77b0", "#62a3cc", "#93bedb", "#b5cbda", "#c9d3da")  # offset 1, 2, ...; dark is near


def window_name(window: int) -> str:
    """What a sum over the window is called."""
    return f"previous {window} tokens" if window > 1 else "previous token"


def queries(layers: pl.DataFrame) -> str:
    """How many queries there are, from the measure with the fewest to that with the most."""
    low, high = int(layers["n"].min()), int(layers["n"].max())
    return theme.count(high, "query", "queries") if low == high else f"{low:,} to {high:,} queries"


def of_measure(table: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Rows of one measure: window, offset or bos."""
    return table.filter(pl.col("measure") == measure)


def _axis(title: str, *values: pl.Series) -> Axis:
    top = theme.linear_domain(*values, include=[0.0])[1]
    return Axis("attention", title, (0.0, min(max(top, 0.05), 1.0)), pixels=HEIGHT)


def _tips(*names: str) -> list[alt.Tooltip]:
    return [*(alt.Tooltip(f"{name}:N") for name in names), alt.Tooltip("attention:Q", format=".3f")]


def offsets_panel(layers: pl.DataFrame) -> alt.LayerChart:
    """The sum over the window, and a line for each offset, all with their intervals."""
    total = window_name(int(layers["window"].max()))
    named = of_measure(layers, "offset").with_columns(
        line=pl.when(pl.col("offset") == 0).then(pl.lit(OWN)).otherwise(pl.format("{} back", "offset"))
    )
    frame = of_measure(layers, "window").with_columns(line=pl.lit(total))
    offsets = named.filter(pl.col("offset") > 0)["offset"].unique().sort().to_list()
    nearby = [f"{offset} back" for offset in offsets]
    domain = [total, *nearby, *([OWN] if OWN in named["line"] else [])]
    shades = [RAMP[min(i, len(RAMP) - 1)] for i in range(len(nearby))]
    colours = [theme.VERMILION, *shades, *([theme.PURPLE] if len(domain) > len(nearby) + 1 else [])]
    legend = alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=3, orient="right")
    color = alt.Color("line:N", scale=alt.Scale(domain=domain, range=colours), sort=domain, legend=legend)
    shown = pl.concat([named, frame])
    x, y = overlays.depth_x(shown), _axis("mean attention", shown["attention"], shown["attention_high"])
    order = dict(zip(domain, range(len(domain)), strict=True))
    shown = shown.sort(pl.col("line").replace_strict(order, return_dtype=pl.Int32), maintain_order=True)
    curves = overlays.curve(overlays.dodged(shown, "line"), x, y, {"color": color}, tooltip=_tips("layer", "line"))
    return alt.layer(*curves).properties(width=WIDTH, height=HEIGHT)


def bos_panel(layers: pl.DataFrame, heads: pl.DataFrame) -> alt.LayerChart:
    """Attention on the BOS by layer: a dot per head, and their mean with its interval."""
    x, y = overlays.depth_x(layers), Axis("attention", "attention on the BOS", FULL, pixels=HEIGHT)
    last = max(int(heads["layer"].max()), 1)
    dots = alt.Chart(heads.with_columns(depth=pl.col("layer") / last)).encode(
        x=x, y=y.y(values=overlays.ticks(y.domain[1]))
    )
    means = overlays.curve(layers, x, y, {"color": alt.value(theme.INK)}, tooltip=_tips("layer"))
    return alt.layer(
        dots.mark_circle(size=24, opacity=0.55, color="#9aa3ac").encode(tooltip=_tips("layer", "head")), *means
    ).properties(width=int(0.8 * WIDTH), height=HEIGHT)


def one_model(heads: pl.DataFrame, layers: pl.DataFrame, bos: pl.DataFrame) -> alt.ConcatChart:
    """Curves over the layers above, heads below; without a BOS its two panels are left out."""
    name = window_name(int(layers["window"].max()))
    own = of_measure(heads, "window")
    top = min(1.0, theme.round_up(float(own["attention"].max())))
    curves = [offsets_panel(layers).properties(title=overlays.heading("Mean over heads"))]
    maps = [
        head_map(own, "attention", f"attention on the {name}", [0.0, top]).properties(
            title=overlays.heading(f"Every head: {name}")
        )
    ]
    if len(bos):
        title = overlays.heading("On the BOS: a dot per head, and their mean")
        curves.append(bos_panel(of_measure(layers, "bos"), bos).properties(title=title))
        most = min(1.0, theme.round_up(float(bos["attention"].max())))
        made = head_map(bos, "attention", "attention on the BOS", [0.0, most])
        maps.append(made.properties(title=overlays.heading("Every head: BOS")))
    made = alt.concat(*curves, *maps, columns=len(curves), spacing={"row": 24, "column": 34})
    return made.resolve_scale(color="independent", fill="independent")


def several_models(layers: pl.DataFrame, named: families.Families) -> alt.VConcatChart:
    """Both curves: all models in one panel, or a panel per family where a family has several models.

    All panels of a curve have one vertical axis.
    """
    look, groups = families.encodings(named), families.grouped(named)
    apart = 1 < len(groups) < len(named)
    parts = list(groups.items()) if apart else [("", list(named))]
    rows = [families.key(named, min(len(parts), COLUMNS) * (NARROW if apart else WIDTH))]
    for measure, title in (("window", window_name(int(layers["window"].max())).capitalize()), ("bos", "BOS")):
        frame = of_measure(layers, measure)
        if not len(frame):
            continue
        y = Axis("attention", "", FULL, pixels=HEIGHT)
        if measure == "window":
            y = _axis("", frame["attention"], frame["attention_high"])
        panels = []
        for family, models in parts:
            own = overlays.dodged(frame.filter(pl.col("model").is_in(models)), "model")
            words = "mean attention over heads" if len(panels) % COLUMNS == 0 else ""
            axis = Axis(y.column, words, y.domain, pixels=HEIGHT)
            made = alt.layer(*overlays.curve(own, overlays.depth_x(frame), axis, look, tooltip=_tips("model", "layer")))
            heading = overlays.heading(f"{title}: {family}" if apart else title)
            panels.append(made.properties(width=NARROW if apart else WIDTH, height=HEIGHT, title=heading))
        rows.append(alt.concat(*panels, columns=COLUMNS, spacing={"row": 20, "column": 24}))
    if apart or len(rows) < 3:
        return alt.vconcat(*rows, spacing=18)
    return alt.vconcat(rows[0], alt.hconcat(*rows[1:], spacing=30), spacing=18)


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
        note = theme.note_chart("no token has so many of its document before it:\nnothing was measured")
        return theme.finish(note, TITLE, [depth_lines.about(models, text)])
    bos = of_measure(layers, "bos")
    named = families.families_of({model: [table] for model, table in local_attention_layers.items()})
    if len(models) == 1:
        body = one_model(local_attention[models[0]], layers, attention_bos[models[0]])
        facts = [theme.count(layers["layer"].n_unique(), "layer"), queries(layers)]
    else:
        body, facts = several_models(layers, named), []
    windows = layers["window"].unique().sort().to_list()
    most = layers.group_by("model").agg(pl.col("layer").n_unique())["layer"].max()
    subtitle = [
        depth_lines.about(models, text, *facts),
        f"{'bars' if most <= overlays.FEW else 'bands'}: {100 * level:g} % intervals, bootstrap by document",
        "sums over previous tokens: queries with so many tokens of their document before them",
        "previous tokens: of the query's document, neither BOS nor EOS",
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
