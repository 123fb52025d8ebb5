"""The logit lens on one passage: what each layer would say next, token by token (study C, logit lens; C3).

Columns are the tokens of the passage, rows the layers: the embedding at the bottom, the model's own output on top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import saving, theme
from neuronlab.figures.token_data import spelled
from neuronlab.tables import read_table

TITLE = "What each layer would say next"
PER_ROW = 14  # tokens side by side, at most
PASSAGE = 28  # tokens drawn, at most
CELL_WIDTH, LETTERS = 66, 9
HEIGHTS = (26, 16)  # of a cell, few and many layers
RAMP = ("#0b4f8a", "#3a86bf", "#9cc5e3", "#f1f5f9")  # from the smallest entropy to the largest
DARK = 0.42  # of the colour scale: cells beyond it are light and have dark words


def shortened(string: str) -> str:
    """A token as a cell holds it."""
    shown = spelled(string)
    return shown if len(shown) <= LETTERS else f"{shown[: LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def prepare(table: pl.DataFrame, passage: int = 0) -> pl.DataFrame:
    """Cells of one passage: layer, position, entropy, rank, kl, said (top token), label (the token), final (rank 0)."""
    own = table.filter(pl.col("passage") == passage)
    positions = own["position"].unique().sort().head(PASSAGE)
    return (
        own.filter(pl.col("position").is_in(positions.to_list()))
        .with_columns(
            said=pl.col("top_string").map_elements(shortened, return_dtype=pl.String),
            label=pl.col("string").map_elements(shortened, return_dtype=pl.String),
            final=pl.col("rank") == 0,
        )
        .sort("layer", "position")
    )


def strips(positions: Sequence[int]) -> list[list[int]]:
    """The positions in strips of about equal length, at most `PER_ROW` each."""
    number = max(1, math.ceil(len(positions) / PER_ROW))
    size = math.ceil(len(positions) / number)
    return [list(positions[i : i + size]) for i in range(0, len(positions), size)]


def strip(cells: pl.DataFrame, domain: Sequence[float], *, legend: bool) -> alt.LayerChart:
    """One strip of the passage; `domain` is that of the entropy, of all strips."""
    layers = cells["layer"].unique().sort(descending=True).to_list()
    height = HEIGHTS[0] if len(layers) <= 14 else HEIGHTS[1]
    names = dict(cells.select(pl.col("position").cast(pl.String), "label").iter_rows())
    places = cells["position"].unique().sort().to_list()
    plain = {"ticks": False, "domain": False, "grid": False}
    x = alt.X(
        "position:O",
        scale=alt.Scale(domain=places, padding=0.02),
        axis=alt.Axis(
            title=None,
            labelExpr=f"({json.dumps(names)})[toString(datum.value)]",
            labelAngle=0,
            labelOverlap=False,
            labelLimit=CELL_WIDTH,
            labelFontWeight="bold",
            labelPadding=6,
            **plain,
        ),
    )
    step = next(s for s in (1, 2, 4, 5, 8, 10, 20) if s * height >= 16)
    shown = [layer for layer in layers if layer % step == 0 or layer == layers[0]]
    y = alt.Y(
        "layer:O",
        scale=alt.Scale(domain=layers, padding=0.02),
        axis=alt.Axis(title="blocks passed", values=shown, **plain),
    )
    colour = alt.Color(
        "entropy:Q",
        scale=alt.Scale(range=list(RAMP), domain=list(domain), interpolate="lab"),
        legend=alt.Legend(title=["entropy of", "the lens (nats)"], gradientLength=160, tickCount=4, offset=14)
        if legend
        else None,
    )
    tips = [alt.Tooltip("layer:O", title="blocks passed"), alt.Tooltip("string:N", title="token")]
    tips += [
        alt.Tooltip("top_string:N", title="lens says"),
        alt.Tooltip("rank:Q", title="rank of the final prediction"),
    ]
    tips += [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("entropy", "kl")]
    base = alt.Chart(cells).encode(x=x, y=y)
    pale = (pl.col("entropy") - domain[0]) / (domain[1] - domain[0]) > DARK
    drawn: list[alt.Chart] = [base.mark_rect().encode(color=colour, tooltip=tips)]
    for final, weight in ((True, "bold"), (False, "normal")):
        for light, ink in ((True, theme.INK), (False, "white")):
            part = cells.filter((pl.col("final") == final) & (pale == light))
            size = 11.5 if height >= 20 else 10.5
            words = alt.Chart(part).mark_text(
                color=ink, fontWeight=weight, fontSize=size, baseline="middle", limit=CELL_WIDTH - 4
            )
            drawn.append(words.encode(x=x, y=y, text="said:N"))
    return alt.layer(*drawn).properties(width=CELL_WIDTH * len(places), height=height * len(layers))


def chart(table: pl.DataFrame, *, model: str, text: str, passage: int = 0) -> alt.TopLevelMixin:
    """The figure, from the table `lens_tokens`.

    Args:
        passage: which to draw; 0 the first that was drawn by the seed.
    """
    if not len(table):
        return theme.finish(theme.note_chart("no passage was read"), TITLE, [theme.about(model, text)])
    cells = prepare(table, passage)
    parts = strips(cells["position"].unique().sort().to_list())
    domain = theme.linear_domain(cells["entropy"], pad=0.0)
    drawn = [strip(cells.filter(pl.col("position").is_in(part)), domain, legend=i == 0) for i, part in enumerate(parts)]
    places = sum(len(part) for part in parts)
    passages, tokens = table["passage"].n_unique(), table.filter(pl.col("passage") == passage)["position"].n_unique()
    subtitle = [
        theme.about(model, text, f"sequence {cells['sequence'][0]}", theme.count(places, "token")),
        "below: the passage; in the cells: the token that the lens at this layer puts first",
        "bold: it is the model's final prediction",
        "top row: the model's own output",
        "\N{MIDDLE DOT} a leading space",
        f"passage {passage + 1} of {passages}; all are in the table" if passages > 1 else None,
        f"its first {places} of {tokens} tokens" if places < tokens else None,
    ]
    return theme.finish(alt.vconcat(*drawn, spacing=22), TITLE, subtitle)


def draw(*, lens_tokens: str | Path, figures: Sequence[str | Path], model: str, text: str) -> None:
    """Rule `draw_lens_tokens`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(lens_tokens, "lens_tokens"), model=model, text=text), figures)
