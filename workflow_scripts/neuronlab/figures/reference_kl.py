"""Change of KL(reference || model) when sets of neurons are ablated, against their controls.

One panel per reference: a larger model's distribution, or the softmax of the read-out's bias. A negative change says
that the output came nearer to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.tables import read_table

TITLE = "Divergence from other distributions, before and after ablation"
LIMIT, SINGLES = 12, 12
SINGLE = "single neurons"
TOTAL, DIRECT, RANDOM, MATCHED = "total", "final norm frozen", "random control set", "norm-matched control set"
SHAPES = {TOTAL: "circle", DIRECT: "circle", RANDOM: "M0,-0.6L0,0.6", MATCHED: "diamond"}
CONTROLS = {"uniform": RANDOM, "norm_matched": MATCHED}


def prepare(reference_kl: pl.DataFrame) -> tuple[pl.DataFrame, list[str], int]:
    """Long frame with one row per drawn value; rows of the panels in order; number of single neurons left out.

    Columns reference, label, group, source, value, low, high. Only totals of sets and of single neurons have an
    interval: control sets are many and show their spread themselves.
    """
    names = reference_kl.filter(pl.col("kind") == "selection")["set"].unique(maintain_order=True).to_list()[:LIMIT]
    labels = {name: f"{groups.set_label(name)}, jointly" for name in names}
    singles = reference_kl.filter(pl.col("kind") == "single")["set"].unique(maintain_order=True).to_list()
    joint = pl.col("kind").is_in(["selection", *CONTROLS])
    shown = reference_kl.filter(joint | pl.col("set").is_in(singles[:SINGLES])).with_columns(
        owner=pl.coalesce("control_of", "set")
    )
    shown = shown.filter(~joint | pl.col("owner").is_in(names)).with_columns(
        label=pl.col("owner").replace(labels),
        group=pl.when(pl.col("kind") == "single").then(pl.lit(SINGLE)).otherwise(pl.col("owner").replace(labels)),
    )
    own, none = ~pl.col("kind").is_in(list(CONTROLS)), pl.lit(None, pl.Float64)
    columns = ["reference", "label", "group", "source", "value", "low", "high"]
    parts = [
        shown.filter(own).with_columns(
            source=pl.lit(TOTAL), value="kl_total", low="kl_total_low", high="kl_total_high"
        ),
        shown.filter(own).with_columns(source=pl.lit(DIRECT), value="kl_direct", low=none, high=none),
        shown.filter(~own).with_columns(
            source=pl.col("kind").replace_strict(CONTROLS, return_dtype=pl.String),
            value="kl_total",
            low=none,
            high=none,
        ),
    ]
    order = [*labels.values(), *singles[:SINGLES]]
    return pl.concat([part.select(columns) for part in parts]), order, max(len(singles) - SINGLES, 0)


def colour_of(frame: pl.DataFrame) -> alt.Color:
    """Colour of a row: its set's, ink for single neurons."""
    fixed = {f"{label}, jointly": colour for label, colour in groups.KNOWN.values()} | {SINGLE: theme.FAINT}
    present = frame["group"].unique(maintain_order=True).to_list()
    further = [name for name in present if name not in fixed]
    fixed |= {name: groups.FURTHER[i % len(groups.FURTHER)] for i, name in enumerate(further)}
    return alt.Color("group:N", scale=alt.Scale(domain=present, range=[fixed[n] for n in present]), legend=None)


def panel(frame: pl.DataFrame, order: Sequence[str], title: str, colour: alt.Color, *, names: bool) -> alt.LayerChart:
    """One reference."""
    domain = theme.linear_domain(frame["value"], frame["low"], frame["high"], include=[0.0])
    x = Axis("value", "change of KL(reference || model) (nats)", tuple(domain), pixels=380)
    y = alt.Y(
        "label:N",
        sort=list(order),
        scale=alt.Scale(domain=list(order)),
        title=None,
        axis=alt.Axis(grid=True, labels=names, ticks=False, domain=False, labelFontWeight="bold", labelLimit=260),
    )
    sources = [name for name in SHAPES if name in frame["source"].to_list()]
    shape = alt.Shape(
        "source:N",
        scale=alt.Scale(domain=sources, range=[SHAPES[name] for name in sources]),
        legend=None,
    )
    tips = [
        alt.Tooltip("label:N"),
        alt.Tooltip("source:N"),
        alt.Tooltip("value:Q", format=".4g"),
        alt.Tooltip("low:Q", format=".4g"),
        alt.Tooltip("high:Q", format=".4g"),
    ]
    base = alt.Chart(frame).encode(y=y, tooltip=tips)

    def of(*names: str) -> alt.Chart:
        return base.transform_filter(alt.FieldOneOfPredicate(field="source", oneOf=list(names)))

    zero = alt.Chart(pl.DataFrame({"value": [0.0]})).mark_rule(color="#9aa3ac", strokeWidth=1).encode(x=x.x())
    ticks = of(RANDOM).mark_point(size=120, strokeWidth=1.5, opacity=0.9, color=theme.FAINT, yOffset=9)
    twins = of(MATCHED).mark_point(size=50, filled=False, strokeWidth=1.5, opacity=0.9, color=theme.INK, yOffset=9)
    bars = (
        of(TOTAL)
        .mark_rule(strokeWidth=2.4)
        .encode(x=alt.X("low:Q", scale=x.scale(), axis=x.axis()), x2="high:Q", color=colour)
    )
    direct = of(DIRECT).mark_point(size=70, filled=True, fill="white", strokeWidth=1.6, opacity=1)
    total = of(TOTAL).mark_point(size=80, filled=True, opacity=1, stroke="white", strokeWidth=0.8)
    layers = [
        zero,
        ticks.encode(x=x.x(), shape=shape),
        twins.encode(x=x.x(), shape=shape),
        bars,
        direct.encode(x=x.x(), shape=shape, stroke=alt.Stroke("group:N", scale=colour["scale"], legend=None)),
        total.encode(x=x.x(), shape=shape, color=colour),
    ]
    return alt.layer(*layers).properties(
        width=x.pixels, height=max(90, 34 * len(order)), title=alt.Title(title, fontSize=13, anchor="start", offset=6)
    )


def key(sources: Sequence[str], width: int) -> alt.LayerChart:
    """What the marks mean, as a row of its own."""
    shown = [name for name in SHAPES if name in sources]
    starts = [8.0]
    for name in shown[:-1]:
        starts.append(starts[-1] + 34 + 6.3 * len(name))
    rows = pl.DataFrame({"source": shown, "at": starts[: len(shown)]})
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, width], nice=False, zero=False), axis=None)
    base = alt.Chart(rows).encode(x=x, y=alt.value(8))
    layers = []
    for name, options in {
        TOTAL: {"filled": True, "size": 80},
        DIRECT: {"filled": False, "size": 70, "strokeWidth": 1.6},
        RANDOM: {"filled": False, "size": 150, "strokeWidth": 1.5, "color": theme.FAINT},
        MATCHED: {"filled": False, "size": 60, "strokeWidth": 1.6},
    }.items():
        if name in shown:
            look = {"color": theme.INK, "opacity": 1, "shape": SHAPES[name], **options}
            layers.append(base.transform_filter(alt.FieldEqualPredicate(field="source", equal=name)).mark_point(**look))
    layers.append(
        base.mark_text(align="left", dx=11, baseline="middle", fontSize=13, color=theme.INK).encode(text="source:N")
    )
    return alt.layer(*layers).properties(width=width, height=18)


def reference_label(name: str) -> str:
    """How a panel's title names a reference."""
    return "softmax of the read-out's bias" if name == "bias" else f"model {name.removeprefix('model:')}"


def chart(reference_kl: pl.DataFrame, *, model: str, text: str | None = None, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the table `reference_kl`: one panel per reference."""
    if not len(reference_kl):
        note = "nothing to compare with: no larger model is configured for this one and its read-out\n"
        note += "has no bias, or no neuron is selected in the last layer"
        return theme.finish(theme.note_chart(note, width=620), TITLE, [theme.about(model, text)])
    frame, order, left_out = prepare(reference_kl)
    colour = colour_of(frame)
    clean = dict(reference_kl.select("reference", "kl_clean").unique(maintain_order=True).iter_rows())
    panels = [
        panel(
            frame.filter(pl.col("reference") == name),
            order,
            f"{reference_label(name)}: clean KL {value:.3g} nats",
            colour,
            names=number == 0,
        )
        for number, (name, value) in enumerate(clean.items())
    ]
    replacement = reference_kl["replacement"][0]
    subtitle = [
        theme.about(model, text, effects_data.sample_size(reference_kl), effects_data.replaced_by(replacement)),
        f"last layer; bars: {100 * level:g} % intervals, bootstrap by document",
        "below zero: nearer to the reference",
        f"{left_out} more single neurons not drawn" if left_out else None,
    ]
    marks = key(frame["source"].unique().to_list(), 540)
    return theme.finish(alt.vconcat(alt.hconcat(*panels, spacing=24), marks, spacing=16), TITLE, subtitle)


def draw(
    *, reference_kl: str | Path, figures: Sequence[str | Path], model: str, text: str, level: float = 0.95
) -> None:
    """Rule `draw_reference_kl`: read the table, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(reference_kl, "reference_kl"), model=model, text=text, level=level)
    saving.save(made, figures)
