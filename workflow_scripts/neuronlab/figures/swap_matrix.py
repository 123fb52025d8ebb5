"""How often the top prediction stays when two layers change places: a matrix of layers by layers (after C1).

The study swaps neighbours; with pairs further apart the matrix says how far a layer may be moved. Both halves show the
same, for a swap has no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import saving, theme
from neuronlab.tables import read_table

TITLE = "How often the top prediction stays when two layers change places"
SIDE, LARGEST, SMALLEST = 560, 92, 9  # of the matrix and of a cell, in pixels
NUMBERS = 26  # cells from this size have their number written in
UNTESTED, DIAGONAL = "#f1f3f5", "#cfd5da"
DARK = 0.55  # of the colour scale: lighter cells have dark numbers


def prepare(table: pl.DataFrame) -> pl.DataFrame:
    """Cells of the tested pairs, both ways: row, column, agreement, its interval, kl."""
    swaps = table.filter(pl.col("intervention") == "swap").drop_nulls(["other", "agreement"])
    names = ["row", "column", "agreement", "agreement_low", "agreement_high", "kl"]
    ways = [
        swaps.rename({first: "row", second: "column"}).select(names)
        for first, second in (("layer", "other"), ("other", "layer"))
    ]
    return pl.concat(ways).sort("row", "column")


def layers_of(swaps: pl.DataFrame) -> int:
    """Layers of the model: a pair's depth is its middle over the last layer, whichever pairs were tested."""
    first = swaps.row(0, named=True)
    return 1 + round((first["layer"] + first["other"]) / 2 / first["depth"])


def cell_size(n_layers: int) -> int:
    """Side of a cell in pixels."""
    return int(np.clip(SIDE / n_layers, SMALLEST, LARGEST))


def matrix(cells: pl.DataFrame, n_layers: int) -> alt.LayerChart:
    """The matrix, layer 0 in the upper left corner; untested pairs are pale, the diagonal is grey."""
    cell = cell_size(n_layers)
    layers = list(range(n_layers))
    step = next(s for s in (1, 2, 4, 5, 8, 10, 20, 50) if s * cell >= 20)
    look = {"ticks": False, "domain": False, "grid": False, "values": layers[::step], "labelAngle": 0}
    scale = alt.Scale(domain=layers, paddingInner=0.04, paddingOuter=0.02)
    x = alt.X("column:O", scale=scale, axis=alt.Axis(title="layer", orient="top", **look))
    y = alt.Y("row:O", scale=scale, axis=alt.Axis(title="layer", **look))
    every = pl.DataFrame({"row": layers}).join(pl.DataFrame({"column": layers}), how="cross")
    same = pl.col("row") == pl.col("column")
    low = min(0.9, np.floor(10 * cells["agreement"].min()) / 10) if len(cells) else 0.0
    colour = alt.Color(
        "agreement:Q",
        scale=alt.Scale(scheme=theme.SEQUENTIAL, domain=[low, 1.0], clamp=True),
        legend=alt.Legend(
            title=["top prediction", "stays"], format=".0%", gradientLength=min(220, cell * n_layers), offset=18
        ),
    )
    tips = [alt.Tooltip("row:O", title="layer"), alt.Tooltip("column:O", title="and")]
    tips += [alt.Tooltip(f"{name}:Q", format=".4g") for name in cells.columns if name not in ("row", "column")]
    layers_drawn = [
        alt.Chart(every.filter(~same)).mark_rect(color=UNTESTED).encode(x=x, y=y),
        alt.Chart(every.filter(same)).mark_rect(color=DIAGONAL).encode(x=x, y=y),
        alt.Chart(cells).mark_rect().encode(x=x, y=y, color=colour, tooltip=tips),
    ]
    if cell >= NUMBERS:
        dark = (pl.col("agreement") - low) / (1 - low) < DARK
        words = cells.with_columns(said=(100 * pl.col("agreement")).round(0).cast(pl.Int32).cast(pl.String))
        style = {"fontSize": min(14, 0.42 * cell), "baseline": "middle", "align": "center"}
        for ink, part in (("white", words.filter(dark)), (theme.INK, words.filter(~dark))):
            layers_drawn.append(alt.Chart(part).mark_text(color=ink, **style).encode(x=x, y=y, text="said:N"))
    return alt.layer(*layers_drawn).properties(width=cell * n_layers, height=cell * n_layers)


def chart(table: pl.DataFrame, *, model: str, text: str, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the table `interventions`; rows other than swaps are not drawn.

    Args:
        level: of the intervals in the table.
    """
    swaps = table.filter(pl.col("intervention") == "swap")
    cells = prepare(table)
    if not len(cells):
        why = "one layer: nothing to swap" if len(table) and table["layer"].max() == 0 else "no layers were swapped"
        return theme.finish(theme.note_chart(why), TITLE, [theme.about(model, text)])
    n_layers = layers_of(swaps)
    pairs, possible = len(cells) // 2, n_layers * (n_layers - 1) // 2
    near = swaps.filter(pl.col("other") - pl.col("layer") == 1)
    tested = f"{pairs:,} of {possible:,} pairs tested" + (" (neighbours)" if len(near) == pairs < possible else "")
    half = ((swaps["agreement_high"] - swaps["agreement_low"]) / 2).drop_nulls()
    counted = theme.count(int(swaps["n_tokens"].max()), "token")
    subtitle = [
        theme.about(model, text, theme.count(n_layers, "layer"), counted),
        f"{tested}; grey: a layer and itself" + ("; pale: not tested" if pairs < possible else ""),
        "share of tokens whose top prediction is that of the model as it is"
        + (", in per cent" if cell_size(n_layers) >= NUMBERS else ""),
        f"{100 * level:g} % intervals: at most \N{PLUS-MINUS SIGN} {100 * half.max():.2g} points, bootstrap by document"
        if len(half)
        else "one document: no interval",
    ]
    return theme.finish(matrix(cells, n_layers), TITLE, subtitle)


def draw(
    *,
    interventions: str | Path,
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_swap_matrix`: read the table, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(interventions, "interventions"), model=model, text=text, level=level)
    saving.save(made, figures)
