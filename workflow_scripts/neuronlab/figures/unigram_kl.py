"""Distance from the unigram distribution against entropy, per token of the clean run (study A, figure 3a).

A token counts once, in a cell of a grid: the picture has at most some thousand cells, however long the text is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float, Int, Num

from neuronlab.figures import saving, theme
from neuronlab.figures.points import Axis
from neuronlab.statistics import Interval, bootstrap_weights
from neuronlab.tables import read_table

TITLE = "Distance from the unigram distribution against entropy"
CELLS = (48, 36)
BANDS = 12
KINDS = ("Spearman", "Pearson")
Array = np.ndarray


def mid_ranks(groups: Int[Array, " tokens"], weights: Float[Array, " tokens"]) -> Float[Array, " tokens"]:
    """Mid-ranks of a sample in which token i occurs `weights[i]` times; all are off by the same 1/2.

    Args:
        groups: the place of each token's value among the distinct values, from 0.
    """
    totals = np.bincount(groups, weights)
    return (np.cumsum(totals) - totals / 2)[groups]


def correlation(
    x: Num[Array, " tokens"], y: Num[Array, " tokens"], weights: Float[Array, " tokens"] | None = None
) -> float:
    """Pearson's correlation of weighted points; NaN where x or y is constant."""
    weights = np.ones(len(x)) if weights is None else weights
    used = weights > 0
    if not used.any() or np.ptp(x[used]) == 0 or np.ptp(y[used]) == 0:
        return float("nan")
    share = weights / weights.sum()
    dx, dy = x - share @ x, y - share @ y
    return float((share @ (dx * dy)) / np.sqrt((share @ dx**2) * (share @ dy**2)))


def correlations(
    baseline: pl.DataFrame, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Spearman's and Pearson's correlation of entropy and KL over tokens, intervals by bootstrap over documents.

    A document drawn twice counts twice, in the ranks too. An interval is missing (NaN) for one document, and where
    more than (1 - level)/2 of the resamples are constant.
    """
    x, y = baseline["entropy"].to_numpy(), baseline["kl"].to_numpy()
    group_x, group_y = (np.unique(values, return_inverse=True)[1] for values in (x, y))
    documents, document = np.unique(baseline["document"].to_numpy(), return_inverse=True)

    def both(weights: Float[Array, " tokens"]) -> tuple[float, float]:
        ranks = mid_ranks(group_x, weights), mid_ranks(group_y, weights)
        return correlation(*ranks, weights), correlation(x, y, weights)

    estimate = both(np.ones(len(x)))
    ends = np.full((2, len(KINDS)), np.nan)
    if len(documents) > 1:
        drawn = bootstrap_weights(len(documents), resamples, seed)
        found = np.array([both(row[document]) for row in drawn])
        tail = (1 - level) / 2
        for i in np.flatnonzero(np.isnan(found).mean(axis=0) <= tail):
            kept = found[:, i][~np.isnan(found[:, i])]
            ends[:, i] = np.quantile(kept, [tail, 1 - tail])
    return {kind: Interval(*(np.array(value) for value in (estimate[i], *ends[:, i]))) for i, kind in enumerate(KINDS)}


def density(baseline: pl.DataFrame, cells: tuple[int, int] = CELLS) -> pl.DataFrame:
    """Occupied cells of a grid: columns entropy, entropy_high, kl, kl_high (their edges), tokens.

    Cells are even in the entropy and in the logarithm of the KL; a KL that rounding made zero or negative is in the
    lowest cell.
    """
    x, y = baseline["entropy"].to_numpy(), positive(baseline["kl"]).to_numpy()
    low, high = theme.log_domain(pl.Series(y), pad=0.0)
    edges_x = np.linspace(*theme.linear_domain(pl.Series(x), pad=0.001), cells[0] + 1)
    edges_y = np.geomspace(low, high, cells[1] + 1)
    counts, _, _ = np.histogram2d(x, y, bins=[edges_x, edges_y])
    i, j = np.nonzero(counts)
    return pl.DataFrame(
        {
            "entropy": edges_x[i],
            "entropy_high": edges_x[i + 1],
            "kl": edges_y[j],
            "kl_high": edges_y[j + 1],
            "tokens": counts[i, j].astype(np.int64),
        }
    )


def positive(kl: pl.Series) -> pl.Series:
    """Divergences for a logarithmic axis: at least 1e-6 nats, which is less than float32 resolves."""
    return kl.clip(lower_bound=1e-6)


def middle(baseline: pl.DataFrame, bands: int = BANDS) -> pl.DataFrame:
    """Median entropy, and quartiles of the KL, in `bands` groups of tokens: neighbouring entropies, equally many."""
    ranked = baseline.with_columns(positive(baseline["kl"])).sort("entropy", "kl")
    ranked = ranked.with_columns(band=pl.int_range(pl.len()) * bands // pl.len())
    return ranked.group_by("band", maintain_order=True).agg(
        entropy=pl.col("entropy").median(),
        q1=pl.col("kl").quantile(0.25, "linear"),
        median=pl.col("kl").median(),
        q3=pl.col("kl").quantile(0.75, "linear"),
    )


def panel(baseline: pl.DataFrame, *, width: int = 560, height: int = 400) -> alt.LayerChart:
    """The density with the median over bands of entropy."""
    cells, line = density(baseline), middle(baseline)
    x = Axis(
        "entropy",
        "entropy of the model's distribution (nats)",
        tuple(theme.linear_domain(cells["entropy"], cells["entropy_high"], pad=0.02)),
        pixels=width,
    )
    y = Axis(
        "kl",
        "KL(P_freq || P_model) (nats), logarithmic",
        tuple(theme.log_domain(cells["kl"], cells["kl_high"], pad=0.02)),
        log=True,
        pixels=height,
    )
    top = max(int(cells["tokens"].max()), 2)
    ticks = theme.log_ticks([1, top])
    fill = alt.Fill(
        "tokens:Q",
        scale=alt.Scale(type="log", domain=[1, top], scheme=theme.SEQUENTIAL, reverse=True),
        legend=alt.Legend(
            title=["tokens", "per cell"],
            gradientLength=180,
            values=[tick for tick in ticks if tick == int(tick)],
            format=",d",
        ),
    )
    # Cells reach a little under the next one, which closes the seams that renderers leave between them.
    drawn = cells.with_columns(
        entropy_high=pl.col("entropy_high") + 0.07 * (pl.col("entropy_high") - pl.col("entropy")),
        kl_high=pl.col("kl_high") * (pl.col("kl_high") / pl.col("kl")) ** 0.07,
    )
    squares = (
        alt.Chart(drawn)
        .mark_rect(strokeWidth=0)
        .encode(x=x.x(), x2="entropy_high:Q", y=y.y(), y2="kl_high:Q", fill=fill)
    )
    base = alt.Chart(line).encode(x=x.x())
    layers = [squares]
    for column, thickness in (("q1", 1.2), ("q3", 1.2), ("median", 2.6)):
        at = base.encode(y=alt.Y(f"{column}:Q", scale=y.scale(), axis=y.axis()))
        layers.append(at.mark_line(color="white", strokeWidth=thickness + 2.2, opacity=0.8))
        layers.append(at.mark_line(color=theme.VERMILION, strokeWidth=thickness))
    layers.append(
        base.mark_circle(color=theme.VERMILION, size=42, opacity=1, stroke="white", strokeWidth=1).encode(
            y=alt.Y("median:Q", scale=y.scale(), axis=y.axis())
        )
    )
    return alt.layer(*layers).properties(width=width, height=height)


def _stated(kind: str, found: Interval) -> str:
    """'Spearman's correlation -0.810 (-0.830 to -0.790)'."""
    value, low, high = float(found.estimate), float(found.low), float(found.high)
    if np.isnan(value):
        return f"{kind}'s correlation undefined: one of the two is constant"
    ends = "" if np.isnan(low) else f" ({low:.3f} to {high:.3f})"
    return f"{kind}'s correlation {value:.3f}{ends}".replace("-", theme.MINUS)


def chart(
    baseline: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 1000,
) -> alt.TopLevelMixin:
    """The figure, from the table `baseline`."""
    if not len(baseline):
        return theme.finish(theme.note_chart("no counted token"), TITLE, [theme.about(model, text)])
    documents = baseline["document"].n_unique()
    found = correlations(baseline, level=level, resamples=resamples, seed=seed)
    subtitle = [
        theme.about(model, text, f"{theme.count(len(baseline), 'token')} of {theme.count(documents, 'document')}"),
        "; ".join(_stated(kind, interval) for kind, interval in found.items()),
        f"{100 * level:g} % intervals, bootstrap by document" if documents > 1 else "no intervals: one document",
        f"lines: median and quartiles in {BANDS} bands of entropy",
    ]
    return theme.finish(panel(baseline), TITLE, subtitle)


def draw(
    *,
    baseline: str | Path,
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 1000,
) -> None:
    """Rule `draw_unigram_kl`: read the table, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(baseline, "baseline"), model=model, text=text, level=level, seed=seed, resamples=resamples)
    saving.save(made, figures)
