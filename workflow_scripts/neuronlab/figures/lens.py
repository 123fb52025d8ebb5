"""What the residual says about the next token, layer by layer: the logit lens (study C, entropy; C3).

Layer p is the residual after p blocks: 0 the embedding, the last one the model's own output. Thin lines are single
documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import depth_lines, saving, theme
from neuronlab.figures.depth_lines import Look
from neuronlab.tables import read_table

TITLE = "What the logit lens reads from each layer"
WIDTH, HEIGHT = 380, 180
DOCUMENTS, TOKENS = 40, 20  # thin lines, at most, and how many tokens a document needs for one
QUANTITIES = {
    "entropy": ("entropy (nats)", "entropy of the lens", theme.VERMILION, "linear"),
    "kl": ("KL(final || lens) (nats)", "divergence from the final distribution", theme.BLUE, "linear"),
    "loss": ("loss (nats)", "loss of the next token", theme.PURPLE, "linear"),
    "agreement": ("share of tokens", "top prediction is the final one", theme.GREEN, "share"),
    "reciprocal_rank": ("reciprocal rank", "rank of the final prediction in the lens", theme.ORANGE, "linear"),
}
LOOKS = [Look(quantity, colour) for quantity, (_, _, colour, _) in QUANTITIES.items()]


def long_documents(documents: pl.DataFrame, most: int = DOCUMENTS) -> pl.DataFrame:
    """Rows of the longest documents, at most `most`; shorter than `TOKENS` none: their means are mostly noise."""
    sizes = documents.group_by("document").agg(pl.col("n_tokens").max()).filter(pl.col("n_tokens") >= TOKENS)
    chosen = sizes.sort(["n_tokens", "document"], descending=[True, False]).head(most)
    return documents.filter(pl.col("document").is_in(chosen["document"].to_list()))


def panel(table: pl.DataFrame, documents: pl.DataFrame, quantity: str, *, foot: bool) -> alt.LayerChart:
    """One quantity over the layers: mean, band, thin lines of documents; the entropy has an axis in bits too."""
    title, words, colour, kind = QUANTITIES[quantity]
    said = pl.format("after {} blocks", pl.col("layer"))
    frame = depth_lines.rows_of(table.sort("layer"), quantity, quantity, "layer", said)
    single = documents.select("document", x="layer", value=quantity) if quantity in documents.columns else None
    reach = (
        frame
        if single is None
        else pl.concat([frame, single.select(pl.lit("").alias("series"), "x", "value")], how="diagonal_relaxed")
    )
    axis = depth_lines.vertical(reach, kind=kind, include=[0.0])
    last = int(table["layer"].max())
    step = next(s for s in (1, 2, 4, 5, 8, 10, 20, 50) if WIDTH * s / max(last, 1) >= 24)
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=[-0.03 * last, 1.03 * last], nice=False, zero=False),
        axis=alt.Axis(
            title="blocks passed" if foot else None,
            values=list(range(0, last + 1, step)),
            labels=foot,
            ticks=foot,
            grid=False,
            format="d",
        ),
    )
    layers = []
    if single is not None:
        thin = alt.Chart(single).mark_line(strokeWidth=0.7, opacity=0.35, color=colour)
        layers.append(thin.encode(x=x, y=axis.y("value", title), detail="document:N"))
    layers += depth_lines.lines(frame, LOOKS, x, axis, title, quantity=quantity)
    made = alt.layer(*layers)
    if quantity == "entropy":
        low, high = axis.scale.domain
        bits = alt.Scale(domain=[low / np.log(2), high / np.log(2)], nice=False, zero=False)
        right = alt.Axis(title="entropy (bits)", orient="right", tickCount=4, grid=False)
        ghost = alt.Chart(frame.with_columns(value=pl.col("value") / np.log(2))).mark_point(opacity=0, size=1)
        ghost = ghost.encode(x=x, y=alt.Y("value:Q", scale=bits, axis=right))
        made = alt.layer(made, ghost).resolve_scale(y="independent")
    return depth_lines.heading(made.properties(width=WIDTH, height=HEIGHT), words)


def chart(
    table: pl.DataFrame, documents: pl.DataFrame, *, model: str, text: str, level: float = 0.95
) -> alt.TopLevelMixin:
    """The figure, from the tables `lens` and `lens_documents`.

    Args:
        level: of the intervals in the table.
    """
    if not len(table):
        return theme.finish(theme.note_chart("no layer was read"), TITLE, [theme.about(model, text)])
    shown = long_documents(documents)
    n, there = shown["document"].n_unique(), documents["document"].n_unique()
    panels = [panel(table, shown, quantity, foot=i >= len(QUANTITIES) - 2) for i, quantity in enumerate(QUANTITIES)]
    clusters = int(table["n_documents"].max())
    tokens, layers = int(table["n_tokens"].max()), int(table["layer"].max())
    drawn = depth_lines.marks(layers + 1)
    subtitle = [
        theme.about(
            model,
            text,
            theme.count(layers, "layer"),
            theme.count(tokens, "token"),
            theme.count(clusters, "document"),
        ),
        f"{drawn}: {100 * level:g} % interval, bootstrap by document" if clusters > 1 else "one document: no interval",
        "0: the embedding" + ("; thin: single documents" if n else ""),
        f"{n} of {there} documents drawn, the longest" if n < there else None,
        "each layer with its own norm; the last one is the model's own output",
    ]
    return theme.finish(alt.concat(*panels, columns=2, spacing={"row": 20, "column": 24}), TITLE, subtitle)


def draw(
    *,
    lens: str | Path,
    lens_documents: str | Path,
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_lens`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(lens, "lens"), read_table(lens_documents, "lens_documents"), model=model, text=text, level=level
    )
    saving.save(made, figures)
