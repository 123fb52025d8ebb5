"""How the norm of the output weights, LogitVar and rho vary over the layers (study B, its optional measures).

In many models neurons that write into the null space of W_U occur in the last layers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.figures.selected_neurons import rho_domain
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Norm, LogitVar and rho over the layers"
WIDTH, HEIGHT, LAYER = 640, 150, 110  # panel; at most so many pixels for a layer
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
OUTER, INNER, MIDDLE = "#dfe3e7", "#b3bbc3", theme.INK
MEASURES = {"norm": ["norm of w_out"], "logit_var": ["LogitVar"], "rho": ["rho"]}


def prepare(
    neurons: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    k: int,
    sets: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Quantiles by layer (measure, layer, p05 ... p95, chance), and selected neurons (measure, layer, value, group).

    Neurons that write nothing have a norm, and neither LogitVar nor rho. `chance` is rho of a random direction.
    """
    rho = null_space.filter(pl.col("k") == k).unique(["layer", "neuron"], keep="first", maintain_order=True)
    frame = neurons.join(rho.select("layer", "neuron", "rho", "rho_excess"), on=["layer", "neuron"], how="left")
    long = frame.unpivot(list(MEASURES), index=["layer", "neuron"], variable_name="measure").drop_nulls("value")
    bands = (
        long.group_by("measure", "layer", maintain_order=True)
        .agg(*(pl.col("value").quantile(q, "linear").alias(name) for name, q in QUANTILES.items()))
        .sort("measure", "layer")
    )
    expected = frame.drop_nulls("rho").group_by("layer").agg(chance=(pl.col("rho") - pl.col("rho_excess")).first())
    chosen = selection.filter(pl.col("kind") == "selection")
    members = [
        groups.group_neurons(chosen, layer, sets).select("neuron", "group", "label", layer=pl.lit(layer, pl.Int32))
        for layer in sorted(chosen["layer"].unique())
    ]
    empty = pl.DataFrame(schema={"neuron": pl.Int32, "group": pl.String, "label": pl.String, "layer": pl.Int32})
    marked = long.join(pl.concat([empty, *members]), on=["layer", "neuron"], how="inner", maintain_order="right")
    return bands.join(expected, on="layer", how="left", maintain_order="left"), marked


def panel(
    bands: pl.DataFrame, marked: pl.DataFrame, measure: str, layers: Sequence[int], colour: alt.Color, *, foot: bool
) -> alt.LayerChart:
    """One measure: per layer a wide bar from 5 to 95 %, a narrow one from 25 to 75 %, and the median."""
    own = bands.filter(pl.col("measure") == measure)
    here = marked.filter(pl.col("measure") == measure)
    log = measure == "logit_var"
    values = [own["p05"], own["p95"], here["value"]]
    if measure == "rho":
        domain = rho_domain(*values, own["chance"])
    else:
        domain = theme.log_domain(*values, pad=0.08) if log else theme.linear_domain(*values, include=[0.0])
    y = Axis("value", " ".join(MEASURES[measure]), tuple(domain), log=log, pixels=HEIGHT)
    width = min(WIDTH, max(360, LAYER * len(layers)))
    step = width / len(layers)
    x = alt.X(
        "layer:Q",
        scale=alt.Scale(domain=[layers[0] - 0.5, layers[-1] + 0.5], nice=False, zero=False),
        axis=alt.Axis(
            title="layer" if foot else None,
            labels=foot,
            ticks=foot,
            grid=False,
            values=list(layers) if len(layers) <= 40 else list(layers)[:: -(-len(layers) // 40)],
            labelOverlap=True,
            format="d",
        ),
    )

    def at(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", scale=y.scale(), axis=y.axis(minExtent=46, **({} if log else {"tickCount": 4})))

    base = alt.Chart(own).encode(x=x)
    bar = min(0.72 * step, 60.0)
    layers_drawn = [
        base.mark_bar(size=bar, color=OUTER).encode(y=at("p05"), y2="p95:Q"),
        base.mark_bar(size=bar, color=INNER).encode(y=at("p25"), y2="p75:Q"),
        base.mark_tick(orient="horizontal", size=bar, thickness=2, color=MIDDLE, opacity=1).encode(y=at("p50")),
    ]
    if measure == "rho":
        chance = alt.Chart(own.drop_nulls("chance").select("chance").head(1))
        layers_drawn.append(chance.mark_rule(color=theme.FAINT, strokeDash=[4, 3]).encode(y=at("chance")))
    tips = points.tooltips([("label", "neuron", ""), ("value", MEASURES[measure][0], ".4g")])
    dots = alt.Chart(here).mark_circle(size=42, opacity=1, stroke="white", strokeWidth=0.7)
    layers_drawn.append(dots.encode(x=x, y=at("value"), color=colour, tooltip=tips))
    return alt.layer(*layers_drawn).properties(width=width, height=HEIGHT)


def chart(
    neurons: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    sets: Sequence[str] | None = None,
    k: int | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `neurons`, `null_space` and `selection`.

    Args:
        sets: names of the sets to mark; all selections if not given.
        k: which rho; the first configured k if not given.
    """
    if not len(neurons) or not len(null_space):
        return theme.finish(theme.note_chart("no neuron has been measured"), TITLE, [theme.about(model)])
    k = effects_data.chosen_k(null_space, k)
    bands, marked = prepare(neurons, null_space, selection, k=k, sets=sets)
    layers = neurons["layer"].unique().sort().to_list()
    numbers = dict(marked.group_by("group").agg(pl.struct("layer", "neuron").n_unique()).iter_rows())
    present = marked["group"].unique(maintain_order=True).to_list()
    colour = groups.colour_encoding(present, numbers, orient="bottom", direction="horizontal")
    panels = [panel(bands, marked, measure, layers, colour, foot=measure == "rho") for measure in MEASURES]
    silent = neurons["logit_var"].null_count()
    subtitle = [
        theme.about(model, None, theme.count(len(layers), "layer"), theme.count(len(neurons), "neuron"), f"k = {k}"),
        "line: median of a layer's neurons; dark bar: 25 to 75 %; light bar: 5 to 95 %",
        "dashed: rho of a random direction",
        "points: selected neurons" if len(marked) else "no neuron selected",
        "LogitVar: variance over the vocabulary of cos(w_out, W_U)",
        "rho: share of |w_out| in the null space of W_U",
        f"{theme.count(silent, 'neuron')} without LogitVar and rho: output weights are zero" if silent else None,
    ]
    return theme.finish(alt.vconcat(*panels, spacing=16), TITLE, subtitle)


def draw(
    *,
    neurons: str | Path,
    null_space: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    sets: Sequence[str] | None = None,
    k: int | None = None,
) -> None:
    """Rule `draw_layer_trends`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(neurons, "neurons"),
        read_table(null_space, "null_space"),
        read_selections(selection),
        model=model,
        sets=sets,
        k=k,
    )
    saving.save(made, figures)
