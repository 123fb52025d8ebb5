"""Induction scores of every attention head, and the best heads on random, synthetic and natural repetitions (A6).

The score is the mean attention from the last copy to the token after the same token's earlier occurrence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import saving, theme
from neuronlab.tables import read_table

TITLE = "Induction heads"
BEST = 8
SOURCES = {"random": theme.INK, "synthetic": theme.BLUE, "natural": theme.ORANGE}
MAP_WIDTH, MAP_HEIGHT = 330, 400
WRITTEN = 64  # cells of a heat map that have their number written into them, at most
ROW = 34


def map_source(heads: pl.DataFrame) -> str:
    """The source whose scores the heat map shows and the heads are ranked by: random, else the first there is."""
    present = heads["source"].unique(maintain_order=True).to_list()
    return next((name for name in SOURCES if name in present), present[0])


def best_heads(heads: pl.DataFrame, source: str, count: int = BEST) -> pl.DataFrame:
    """Rows of the `count` heads with the best rank on `source`, on every source.

    Columns name (layer.head), place (0 the best), source and the table's measures, in order of place and source.
    """
    named = heads.with_columns(name=pl.format("{}.{}", "layer", "head"))
    best = named.filter((pl.col("source") == source) & pl.col("score").is_not_null()).sort("rank", "layer", "head")
    order = best.head(count).select("name", place=pl.int_range(pl.len()))
    sources = [*(name for name in SOURCES if name in heads["source"]), *sorted(set(heads["source"]) - set(SOURCES))]
    return (
        named.join(order, on="name")
        .with_columns(turn=pl.col("source").replace_strict({name: i for i, name in enumerate(sources)}))
        .sort("place", "turn")
    )


def heat_map(frame: pl.DataFrame) -> alt.LayerChart:
    """Layers by heads, coloured by score; induction heads outlined, heads without a score grey.

    Args:
        frame: rows of one source.
    """
    n_layers, n_heads = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1
    width, height = min(60.0, MAP_WIDTH / n_heads), min(44.0, MAP_HEIGHT / n_layers)
    step_x, step_y = max(1, -(-n_heads * 16 // MAP_WIDTH)), max(1, -(-n_layers * 16 // MAP_HEIGHT))
    x = alt.X(
        "head:O",
        scale=alt.Scale(domain=list(range(n_heads)), paddingInner=0.06, paddingOuter=0.03),
        axis=alt.Axis(
            title="head",
            orient="bottom",
            values=list(range(0, n_heads, step_x)),
            labelAngle=0,
            ticks=False,
            domain=False,
        ),
    )
    y = alt.Y(
        "layer:O",
        scale=alt.Scale(domain=list(range(n_layers)), paddingInner=0.06, paddingOuter=0.03),
        axis=alt.Axis(title="layer", values=list(range(0, n_layers, step_y)), ticks=False, domain=False),
    )
    fill = alt.Fill(
        "score:Q",
        scale=alt.Scale(domain=[0, 1], scheme=theme.SEQUENTIAL, clamp=True),
        legend=alt.Legend(
            title="induction score",
            orient="bottom",
            direction="horizontal",
            gradientLength=min(200, int(max(width * n_heads, 120))),
            gradientThickness=10,
            values=[0, 0.5, 1],
        ),
    )
    base = alt.Chart(frame).encode(x=x, y=y)
    layers = [
        base.transform_filter("datum.score === null").mark_rect(color=theme.GRID),
        base.transform_filter("datum.score !== null").mark_rect().encode(fill=fill),
        base.transform_filter("datum.is_induction").mark_rect(
            filled=False, stroke=theme.VERMILION, strokeWidth=2.4 if width > 14 else 1.8
        ),
    ]
    if len(frame) <= WRITTEN and width >= 34:
        layers.append(
            base.transform_filter("datum.score !== null")
            .mark_text(fontSize=11)
            .encode(
                text=alt.Text("score:Q", format=".2f"),
                color=alt.condition("datum.score > 0.6", alt.value(theme.INK), alt.value("white")),
            )
        )
    return alt.layer(*layers).properties(width=width * n_heads, height=height * n_layers)


def _places(best: pl.DataFrame) -> tuple[alt.Y, list[str]]:
    order = best.sort("place")["name"].unique(maintain_order=True).to_list()
    axis = alt.Axis(title=None, labelFontWeight="bold", ticks=False, domain=False, grid=True, labelPadding=8)
    return alt.Y("name:N", sort=None, scale=alt.Scale(domain=order), axis=axis), order


def _colour(best: pl.DataFrame, *, legend: bool) -> alt.Color:
    present = best.sort("turn")["source"].unique(maintain_order=True).to_list()
    colours = [SOURCES.get(name, theme.PURPLE) for name in present]
    shown = alt.Legend(title=None, orient="bottom", direction="horizontal", symbolType="circle") if legend else None
    return alt.Color("source:N", scale=alt.Scale(domain=present, range=colours), legend=shown)


def _offset(best: pl.DataFrame) -> alt.YOffset:
    """A line of its own for every source within a head's row."""
    return alt.YOffset("turn:O", scale=alt.Scale(domain=sorted(best["turn"].unique()), padding=0.6))


def score_panel(best: pl.DataFrame, threshold: float, *, width: int = 200) -> alt.LayerChart:
    """Scores of the best heads with intervals, a colour per source, and the threshold."""
    y, order = _places(best)
    lowest = float(best["score_low"].min() or 0.0)
    scale = alt.Scale(domain=[min(0.0, lowest), 1.0], nice=False)
    axis = alt.Axis(title="induction score", tickCount=5)
    base = alt.Chart(best.drop_nulls("score")).encode(y=y, yOffset=_offset(best), color=_colour(best, legend=True))
    bars = (
        base.transform_filter("datum.score_low !== null")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("score_low:Q", scale=scale, axis=axis), x2="score_high:Q")
    )
    dots = base.mark_circle(size=46, opacity=1).encode(x=alt.X("score:Q", scale=scale, axis=axis))
    line = alt.Chart(pl.DataFrame({"score": [threshold]})).mark_rule(color=theme.VERMILION, strokeDash=[4, 3])
    return alt.layer(line.encode(x=alt.X("score:Q", scale=scale, axis=axis)), bars, dots).properties(
        width=width, height=ROW * len(order)
    )


def bos_panel(best: pl.DataFrame, *, width: int = 200) -> alt.LayerChart:
    """Attention to position 0 from the first copy (hollow) and from the last one (filled)."""
    y, order = _places(best)
    y = alt.Y("name:N", sort=None, scale=alt.Scale(domain=order), axis=alt.Axis(labels=False, title=None, ticks=False))
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(title="attention to position 0", tickCount=5)
    base = alt.Chart(best).encode(y=y, yOffset=_offset(best), color=_colour(best, legend=False))
    first, last = (alt.X(f"{column}:Q", scale=scale, axis=axis) for column in ("bos_first", "bos_second"))
    return alt.layer(
        base.mark_rule(strokeWidth=1.4).encode(x=first, x2="bos_second:Q"),
        base.mark_point(filled=False, fill="white", size=38, opacity=1, strokeWidth=1.6).encode(x=first),
        base.mark_circle(size=46, opacity=1).encode(x=last),
    ).properties(width=width, height=ROW * len(order))


def _heading(text: str, subtitle: str) -> alt.Title:
    return alt.Title(text, subtitle=subtitle, fontSize=13, subtitleFontSize=12, anchor="start", frame="group", offset=8)


def chart(
    heads: pl.DataFrame, *, model: str, text: str | None = None, threshold: float = 0.7, level: float = 0.95
) -> alt.TopLevelMixin:
    """The figure, from the table `induction_heads`."""
    if not len(heads):
        return theme.finish(theme.note_chart("no head was scored"), TITLE, [theme.about(model, text)])
    source = map_source(heads)
    shown = heads.filter(pl.col("source") == source)
    best = best_heads(heads, source)
    above = int(shown["is_induction"].sum())
    unscored = shown["score"].null_count()
    sizes = heads.unique("source", maintain_order=True)
    sequences = ", ".join(
        f"{name} {size:,}" for name, size in zip(sizes["source"].to_list(), sizes["n_sequences"].to_list(), strict=True)
    )
    of = theme.count(len(shown), "head")
    by_sequence = " (random: by sequence)" if "random" in sizes["source"] else ""
    subtitle = [
        theme.about(model, text, f"{above:,} of {of} above the threshold of {threshold:g} on {source} tokens"),
        f"sequences: {sequences}; bars: {100 * level:g} % intervals, bootstrap by document" + by_sequence,
        "score: attention from the last copy to the token after the same token's earlier occurrence",
        f"{theme.count(unscored, 'head')} without a score (grey)" if unscored else None,
    ]
    left = heat_map(shown).properties(title=_heading(f"Every head, {source} tokens", "outlined: above the threshold"))
    if not len(best):
        return theme.finish(left, TITLE, subtitle)
    number = best["name"].n_unique()
    titles = (
        _heading(f"The {number} best of {of}" if number < len(shown) else "All heads, best first", "dashed: threshold"),
        _heading("Their attention to the first position", "hollow: first copy; filled: last copy"),
    )
    right = [
        panel.properties(title=t)
        for panel, t in zip((score_panel(best, threshold), bos_panel(best)), titles, strict=True)
    ]
    body = alt.hconcat(left, *right, spacing=26).resolve_scale(color="independent", fill="independent")
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    heads: str | Path,
    figures: Sequence[str | Path],
    model: str,
    text: str,
    threshold: float = 0.7,
    level: float = 0.95,
) -> None:
    """Rule `draw_induction_heads`: read the table, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(heads, "induction_heads"), model=model, text=text, threshold=threshold, level=level)
    saving.save(made, figures)
