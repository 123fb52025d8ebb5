"""Prediction, suppression and partition neurons layer by layer (study C, prediction and suppression neurons).

One model: prediction and suppression neurons in one panel, partition neurons beside it, with the number of neurons on
the right. Several models: a panel per kind, a colour per family and a shade per model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import depth_lines, families, overlays, saving, theme
from neuronlab.figures.points import Axis

TITLE = "Prediction, suppression and partition neurons by layer"
KINDS = {"prediction": theme.BLUE, "suppression": theme.VERMILION, "partition": theme.GREEN}
TAILS = ("prediction", "suppression")  # one rule, one axis
HEIGHT, WIDTH, NARROW = 270, 430, 300
COMMON = 0.5  # a kind that so many of a layer's neurons are of is no special kind
PERCENT = "format(100 * datum.value, '.3~g') + ' %'"


def share_axis(frame: pl.DataFrame, pixels: int = HEIGHT) -> Axis:
    """From zero to the largest upper end."""
    top = theme.linear_domain(frame["share"], frame["share_high"], include=[0.0])[1]
    return Axis("share", "share of the layer's neurons", (0.0, min(max(top, 1e-4), 1.04)), pixels=pixels)


class _Shares(Axis):
    """Shares written in percent."""

    def axis(self, **options: object) -> alt.Axis:
        return super().axis(**{"labelExpr": PERCENT, "values": overlays.ticks(self.domain[1]), **options})


def _percent(axis: Axis) -> _Shares:
    return _Shares(axis.column, axis.title, axis.domain, pixels=axis.pixels)


def tooltips() -> list[alt.Tooltip]:
    """What a point tells."""
    plain = [alt.Tooltip(f"{name}:N") for name in ("model", "kind", "layer", "n", "n_neurons")]
    return [*plain, *(alt.Tooltip(f"{name}:Q", format=".3%") for name in ("share", "share_low", "share_high"))]


def panel(
    frame: pl.DataFrame, domain: pl.DataFrame, style: dict[str, object], width: int, *, first: bool = True
) -> alt.LayerChart:
    """Shares over depth.

    Args:
        frame: the rows drawn.
        domain: rows that set the vertical axis.
        first: name the vertical axis.
    """
    y = _percent(share_axis(domain))
    if not first:
        y = _Shares(y.column, "", y.domain, pixels=y.pixels)
    made = alt.layer(*overlays.curve(frame, overlays.depth_x(domain), y, style, tooltip=tooltips()))
    sizes = domain["n_neurons"].unique().to_list()
    if len(sizes) != 1 or domain["model"].n_unique() != 1 or not sizes[0]:
        return made.properties(width=width, height=HEIGHT)
    # All layers are of one size: the same axis in neurons.
    numbers = Axis("n", "neurons", (0.0, y.domain[1] * sizes[0]))
    at = overlays.ticks(numbers.domain[1], whole=True)
    right = numbers.y(orient="right", grid=False, values=at, format=",d")
    ghost = alt.Chart(frame).mark_point(opacity=0).encode(x=overlays.depth_x(domain), y=right)
    return alt.layer(made, ghost).resolve_scale(y="independent").properties(width=width, height=HEIGHT)


def _kind_colour(totals: dict[str, tuple[int, int]], kinds: Sequence[str]) -> alt.Color:
    names = {kind: f"{kind} ({totals[kind][0]:,} of {totals[kind][1]:,})" for kind in kinds}
    legend = alt.Legend(
        title=None,
        orient="bottom",
        direction="horizontal",
        symbolType="circle",
        labelExpr=" : ".join([*(f"datum.value == '{kind}' ? '{name}'" for kind, name in names.items()), "''"]),
    )
    scale = alt.Scale(domain=list(kinds), range=[KINDS[kind] for kind in kinds])
    return alt.Color("kind:N", scale=scale, legend=legend)


def one_model(frame: pl.DataFrame) -> alt.HConcatChart:
    """Prediction and suppression neurons, and beside them partition neurons."""
    rows = frame.group_by("kind").agg(pl.col("n").sum(), pl.col("n_neurons").sum())
    totals = {kind: (n, of) for kind, n, of in rows.select("kind", "n", "n_neurons").iter_rows()}
    panels = []
    for kinds, title, width in ((TAILS, "Few tokens: heavy tails", WIDTH), (("partition",), "Large variance", NARROW)):
        present = [kind for kind in kinds if kind in totals]
        if present:
            own = frame.filter(pl.col("kind").is_in(present))
            made = panel(
                overlays.dodged(own, "kind"), own, {"color": _kind_colour(totals, present)}, width, first=not panels
            )
            panels.append(made.properties(title=overlays.heading(title, _threshold(own, present))))
    return alt.hconcat(*panels, spacing=30).resolve_scale(color="independent")


def _threshold(frame: pl.DataFrame, kinds: Sequence[str]) -> str:
    """The rule that makes a neuron one of these kinds."""
    limits = " or ".join(f"{value:g}" for value in frame["threshold"].unique().sort())
    if "partition" in kinds:
        return f"variance > {limits}"
    signs = {"prediction": "skew > 0", "suppression": "skew < 0"}
    if len(kinds) == 1:
        return f"kurtosis > {limits}, {signs[kinds[0]]}"
    return f"kurtosis > {limits}; " + ", ".join(f"{kind}: {signs[kind]}" for kind in kinds)


def several_models(frame: pl.DataFrame, named: families.Families) -> alt.VConcatChart:
    """A panel per kind, below what the lines mean; the first two share their vertical axis."""
    look, panels = families.encodings(named), []
    for kind in KINDS:
        own = frame.filter(pl.col("kind") == kind)
        if len(own):
            domain = frame.filter(pl.col("kind").is_in(TAILS)) if kind in TAILS else own
            made = panel(overlays.dodged(own, "model"), domain, look, NARROW, first=not panels)
            panels.append(
                made.properties(title=overlays.heading(f"{kind.capitalize()} neurons", _threshold(own, [kind])))
            )
    return alt.vconcat(families.key(named, NARROW * len(panels)), alt.hconcat(*panels, spacing=24), spacing=18)


def chart(
    vocabulary_counts: Mapping[str, pl.DataFrame],
    *,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from tables `vocabulary_counts` by model."""
    models, frame = list(vocabulary_counts), overlays.stack(vocabulary_counts)
    if not frame["share"].count():
        note = theme.note_chart("no neuron was counted: none writes anything")
        return theme.finish(note, TITLE, [depth_lines.about(models, None)])
    single = len(models) == 1
    named = families.families_of({model: [table] for model, table in vocabulary_counts.items()})
    body = one_model(frame) if single else several_models(frame, named)
    layers = frame.group_by("model", maintain_order=True).agg(pl.col("layer").n_unique())["layer"].to_list()
    facts = [theme.count(layers[0], "layer")] if single else []
    common = frame.filter(pl.col("share") >= COMMON)["kind"].unique(maintain_order=True).to_list()
    marks = "bars" if max(layers) <= overlays.FEW else "bands"
    subtitle = [
        depth_lines.about(models, None, *facts),
        "kinds by moments of the cosines of w_out with the vocabulary's directions",
        f"{marks}: {100 * level:g} % intervals (Wilson)",
        f"most neurons of a layer count as {' and '.join(common)}: the threshold singles nothing out"
        if common
        else None,
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    vocabulary_counts: overlays.Tables,
    figures: Sequence[str | Path],
    model: str | Sequence[str] | None = None,
    level: float = 0.95,
) -> None:
    """Rule `draw_layer_neuron_counts`: read a table per model, write the figure in the formats of `figures`' suffixes.

    Args:
        vocabulary_counts: a table, or as many as there are models, in their order; or a mapping from models to tables.
    """
    saving.save(chart(overlays.read(vocabulary_counts, "vocabulary_counts", model), level=level), figures)
