"""Activations of selected and of as many random neurons, with what a replacement puts in place (study B, figure 9).

Activations are skewed: mean, median and mode differ, and mean - 3 sd mostly is the smallest activation itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from neuronlab.figures import groups, saving, theme
from neuronlab.replacements import ActivationStatistics, parse_replacement
from neuronlab.tables import read_table

TITLE = "Activations of selected and of random neurons"
COLUMNS, WIDTH, HEIGHT, ROW = 6, 132, 96, 13  # panels in a row; pixels of a density, and of a line of replacements
BINS = 64
ALONE, EACH = 12, 6  # neurons drawn of a single selection, and of each of several
RANDOM = "random control neurons"
GREY = "#9aa3ac"
COLOURS = (theme.INK, theme.BLUE, theme.GREEN, theme.PURPLE, theme.ORANGE, theme.SKY)


@dataclass(frozen=True)
class Block:
    """Neurons that are drawn together: their name, colour, how many there are in all, and those that are drawn."""

    name: str
    colour: str
    total: int
    neurons: tuple[int, ...]


def blocks(sets: pl.DataFrame, seed: int = 0) -> list[Block]:
    """Selections in their order, then as many neurons of uniform controls as the largest of them shows."""
    chosen = sets.filter(pl.col("kind") == "selection")
    names = groups.highlighted_sets(chosen, None)
    if not names:
        return []
    limit = ALONE if len(names) == 1 else EACH
    labels, paints = groups.colours([groups.set_label(name) for name in names])
    paint = dict(zip(labels, paints, strict=True))
    found = []
    for name in names:
        own = chosen.filter(pl.col("set") == name).sort("rank")["neuron"].to_list()
        label = groups.set_label(name)
        found.append(Block(label, paint[label], len(own), tuple(own[:limit])))
    pool = sets.filter((pl.col("kind") == "uniform") & ~pl.col("neuron").is_in(chosen["neuron"].to_list()))
    neurons = pool["neuron"].unique().sort().to_numpy()
    count = min(max(len(block.neurons) for block in found), len(neurons))
    if count:
        drawn = np.random.default_rng([seed, 0x6163]).choice(neurons, count, replace=False)
        found.append(Block(RANDOM, GREY, len(neurons), tuple(int(n) for n in np.sort(drawn))))
    return found


def merged_bins(
    counts: Sequence[int], low: float, high: float
) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " bins"]]:
    """Edges and shares of at most `BINS` bins; a constant activation has one bin of width 1 around it."""
    if not high > low:
        return np.array([low - 0.5, low + 0.5]), np.array([1.0])
    width = -(-len(counts) // BINS)
    starts = np.arange(0, len(counts), width)
    shares = np.add.reduceat(np.asarray(counts, dtype=np.float64), starts)
    edges = np.linspace(low, high, len(counts) + 1)[[*starts, len(counts)]]
    return edges, shares / max(shares.sum(), 1.0)


def replaced(rows: pl.DataFrame, names: Sequence[str]) -> dict[str, Float[np.ndarray, " neurons"]]:
    """The value that each replacement puts in place of each neuron of `rows`, by the rule that ablations follow."""
    plain = {name: rows[name].to_numpy() for name in ("mean", "sd", "median", "mode", "min", "max")}
    numbers = ActivationStatistics(**plain, position_means=np.zeros((len(rows), 1)))
    first = np.zeros(1, dtype=np.int64)
    return {name: np.array(numbers.values(parse_replacement(name), first)[0], dtype=np.float64) for name in names}


class Heights:
    """Where things stand in a panel with a logarithmic axis: shares below, a line for each replacement above."""

    def __init__(self, tokens: int, lines: int) -> None:
        self.floor, self.pixels = 0.5 / max(tokens, 1), HEIGHT + ROW * lines + 4
        self.per_pixel = -np.log10(self.floor) / HEIGHT  # decades; the largest share, 1, is at HEIGHT
        self.top = float(10 ** ((self.pixels - HEIGHT) * self.per_pixel))
        self.lines = lines

    def line(self, place: int) -> float:
        """The value on the axis at which line `place` stands, 0 the uppermost."""
        return float(self.top / 10 ** ((ROW * place + ROW / 2) * self.per_pixel))

    def ticks(self) -> list[float]:
        """Powers of ten from 1 downwards, at most five."""
        decades = int(np.floor(-np.log10(self.floor)))
        return [float(f"1e-{power}") for power in range(0, decades + 1, max(1, -(-decades // 4)))]


def panel_rows(rows: pl.DataFrame, block: Block, replacements: Sequence[str], heights: Heights) -> pl.DataFrame:
    """Data of a block's panels: panel, part (`share` or `value`), x, y, text (the replacement).

    Densities are steps, one row per edge; shares of 0 stand on the floor.
    """
    layer = rows["layer"][0]
    values = replaced(rows, replacements)
    found: list[dict] = []
    for i, row in enumerate(rows.iter_rows(named=True)):
        panel = f"{layer}.{row['neuron']}"
        edges, shares = merged_bins(row["histogram"], row["min"], row["max"])
        for x, y in zip(edges, [*shares, shares[-1]], strict=True):
            found.append({"panel": panel, "part": "share", "x": float(x), "y": max(float(y), heights.floor)})
        for line, name in enumerate(replacements):
            place = {"panel": panel, "part": "value", "y": heights.line(line), "text": name}
            found.append(place | {"x": float(values[name][i])})
    strings = dict.fromkeys(("panel", "part", "text"), pl.String)
    schema = strings | {"x": pl.Float64, "y": pl.Float64}
    return pl.DataFrame(found, schema=schema)


def left_axis(replacements: Sequence[str], paints: Sequence[str], heights: Heights) -> alt.Axis:
    """Shares below, and above them the replacements as names of their lines, in the colours of their dots."""
    ticks = heights.ticks()
    lines = {heights.line(place): name for place, name in enumerate(replacements)}
    tests = {name: f"abs(datum.value / {at!r} - 1) < 1e-6" for at, name in lines.items()}
    names = " : ".join(f"{test} ? {name!r}" for name, test in tests.items())
    return alt.Axis(
        title="share of tokens",
        titleY=heights.pixels - HEIGHT / 2,
        titleAnchor="middle",
        titleFontSize=11.5,
        values=[*lines, *ticks],
        labelExpr=f"{names} : {theme.log_labels(ticks)}",
        labelColor={
            "condition": [{"test": test, "value": paint} for test, paint in zip(tests.values(), paints, strict=True)],
            "value": theme.INK,
        },
        labelFontSize=11,
        labelOverlap=False,
        ticks=False,
        domain=False,
    )


def block_chart(
    data: pl.DataFrame, block: Block, replacements: Sequence[str], heights: Heights, *, title: str
) -> alt.FacetChart:
    """The panels of one block."""
    x = alt.X(
        "x:Q",
        scale=alt.Scale(zero=False, nice=False, padding=5),
        axis=alt.Axis(
            title="activation",
            tickCount=3,
            grid=False,
            labelFontSize=11,
            labelOverlap=True,
            titleFontSize=11.5,
            titlePadding=3,
        ),
    )
    paints = [COLOURS[i % len(COLOURS)] for i in range(len(replacements))]
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[heights.floor, heights.top], nice=False),
        axis=left_axis(replacements, paints, heights),
        stack=None,
    )
    colour = alt.Color("text:N", scale=alt.Scale(domain=list(replacements), range=paints), legend=None)

    def of(part: str) -> alt.Chart:
        return alt.Chart().transform_filter(f"datum.part == '{part}'")

    area = of("share").mark_area(interpolate="step-after", color=block.colour, opacity=0.75)
    stem = of("value").mark_rule(strokeWidth=1, opacity=0.75)
    dot = of("value").mark_circle(size=34, opacity=1)
    layers = [
        area.encode(x=x, y=y, y2=alt.datum(heights.floor)),
        stem.encode(x=x, y=y, y2=alt.value(heights.pixels), color=colour),
        dot.encode(x=x, y=y, color=colour),
    ]
    order = data["panel"].unique(maintain_order=True).to_list()
    header = alt.Header(title=None, labelFontSize=12, labelFontWeight="bold", labelPadding=3, labelAnchor="start")
    made = alt.layer(*layers).properties(width=WIDTH, height=heights.pixels)
    return (
        made.facet(
            facet=alt.Facet("panel:N", sort=order, header=header),
            columns=COLUMNS,
            data=data,
            spacing={"row": 12, "column": 12},
        )
        .resolve_scale(x="independent")
        .properties(title=alt.Title(title, fontSize=13.5, anchor="start", offset=8))
    )


def chart(
    statistics: pl.DataFrame,
    sets: pl.DataFrame,
    *,
    model: str,
    facts: str,
    replacements: Sequence[str],
    seed: int = 0,
) -> alt.TopLevelMixin:
    """The figure, from the tables `activation_statistics` and `copying_sets`.

    Args:
        replacements: what is marked, as configured.
        seed: of the draw of control neurons.
    """
    about = theme.about(model, None, f"facts {facts}")
    found = blocks(sets, seed)
    if not found:
        return theme.finish(theme.note_chart("no neuron is selected in the last layer"), TITLE, [about])
    layer = int(sets["layer"].max())
    here = statistics.filter(pl.col("layer") == layer)
    if not len(here):
        return theme.finish(theme.note_chart("no activation was measured"), TITLE, [about])
    tokens = int(here["n_tokens"].max())
    heights, made = Heights(tokens, len(replacements)), []
    for block in found:
        order = pl.DataFrame({"neuron": block.neurons}, schema={"neuron": pl.Int32})
        rows = order.join(here, on="neuron", how="inner", maintain_order="left")
        if not len(rows):
            continue
        drawn = f"{len(rows)} of {block.total:,}" if len(rows) < block.total else f"{block.total:,}"
        data = panel_rows(rows, block, replacements, heights)
        made.append(block_chart(data, block, replacements, heights, title=f"{block.name} ({drawn})"))
    subtitle = [
        theme.about(
            model,
            None,
            f"facts {facts}",
            f"layer {layer} (last)",
            f"{theme.count(tokens, 'token')} of conflict prompts",
        ),
        f"share of the tokens in each of {BINS} bins from the smallest to the largest activation, logarithmic",
        "dots and lines: what each replacement holds the activation at",
    ]
    return theme.finish(alt.vconcat(*made, spacing=18), TITLE, subtitle)


def draw(
    *,
    statistics: str | Path,
    sets: str | Path,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    replacements: Sequence[str],
    seed: int = 0,
) -> None:
    """Rule `draw_activation_densities`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(statistics, "activation_statistics"),
        read_table(sets, "copying_sets"),
        model=model,
        facts=facts,
        replacements=replacements,
        seed=seed,
    )
    saving.save(made, figures)
