"""How far every last-layer neuron moves on a repetition: made repetitions against those found in text (study A, 11).

A score is (mean_second - mean_first) |w_out|. A neuron that reacts to repetition as such lies along a diagonal through
the origin; one that reacts to the made sequences alone lies on the horizontal line through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Change of activation on repetition: synthetic against natural"
EXTREMES, LABELS = 4, 18
WIDTH, HEIGHT = 560, 460
ENDS = ("score", "score_low", "score_high")


def prepare(
    synthetic: pl.DataFrame, natural: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None = None
) -> pl.DataFrame:
    """One row per neuron: both scores with their intervals, group and label.

    A neuron of no set has a label and the place behind the sets' in `order` if its score is among the `EXTREMES`
    largest of either kind.
    """
    layer = int(synthetic["layer"].max())
    kinds = {"synthetic": synthetic, "natural": natural}
    both = [
        frame.select("neuron", *(pl.col(name).alias(name.replace("score", kind)) for name in ENDS))
        for kind, frame in kinds.items()
    ]
    frame = both[0].join(both[1], on="neuron", how="inner").sort("neuron")
    frame = groups.attach_groups(frame, groups.group_neurons(selection, layer, sets))
    place = pl.min_horizontal(
        *(pl.col(kind).abs().rank("ordinal", descending=True) for kind in kinds)  # 1: the largest of its kind
    )
    extreme = place <= EXTREMES
    name = pl.format("{}.{}", pl.lit(layer), "neuron")
    return frame.with_columns(
        extreme=extreme,
        label=pl.when(extreme | pl.col("label").is_not_null()).then(name),
        order=pl.when(pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
        .then(pl.lit(100_000) + place)
        .otherwise(pl.col("order")),
    )


def _crosses(frame: pl.DataFrame, x: Axis, y: Axis, colour: alt.Color) -> list[alt.Chart]:
    """The intervals of both scores, as a cross through the point."""
    base = alt.Chart(frame).encode(color=colour)
    line = {"strokeWidth": 1.1, "opacity": 0.55}
    along = alt.X("synthetic_low:Q", scale=x.scale(), axis=x.axis())
    across = alt.Y("natural_low:Q", scale=y.scale(), axis=y.axis())
    return [
        base.mark_rule(**line).encode(x=along, x2="synthetic_high:Q", y=y.y()),
        base.mark_rule(**line).encode(x=x.x(), y=across, y2="natural_high:Q"),
    ]


def scatter(frame: pl.DataFrame, x: Axis, y: Axis) -> tuple[alt.LayerChart, list[str | None]]:
    """The scatter plot of `prepare`'s frame, and what it must state."""
    others = frame.filter(pl.col("group") == groups.OTHERS)
    shown = points.thin(others, x, y)
    controls = frame.filter(pl.col("group") == groups.CONTROLS)
    chosen = frame.filter(~pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
    present = frame["group"].unique(maintain_order=True).to_list()
    colour = groups.colour_encoding(
        present, groups.group_counts(frame), orient="bottom", direction="horizontal", columns=2
    )
    names = groups.text_colour(chosen) if len(chosen) else alt.value(theme.INK)
    tips = points.tooltips(
        [("neuron", "neuron", "d"), ("synthetic", "score, synthetic", ".3f"), ("natural", "score, natural", ".3f")]
    )
    zero = {"strokeDash": [4, 3], "color": theme.FAINT, "strokeWidth": 1}
    origin = alt.Chart(pl.DataFrame({"synthetic": [0.0], "natural": [0.0]}))
    back = alt.Chart(shown).mark_circle(size=22, opacity=0.8).encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    middle = (
        alt.Chart(controls)
        .mark_point(size=38, strokeWidth=1.4, filled=False, opacity=1)
        .encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    )
    front = (
        alt.Chart(chosen)
        .mark_circle(size=80, opacity=1, stroke="white", strokeWidth=0.8)
        .encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    )
    to_label, label_note = points.cap_labels(frame.drop_nulls("label").filter(_named()), LABELS)
    placed = points.place_labels(to_label, x, y, obstacles=shown)
    plain = pl.col("group").is_in([groups.OTHERS, groups.CONTROLS])
    layers = [
        origin.mark_rule(**zero).encode(x=x.x()),
        origin.mark_rule(**zero).encode(y=y.y()),
        back,
        middle,
        *_crosses(chosen, x, y, colour),
        front,
        *points.label_layer(placed.filter(plain), x, y, alt.value(theme.FAINT)),
        *points.label_layer(placed.filter(~plain), x, y, names),
    ]
    notes = [points.thinned_note(len(shown), len(others)), label_note]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT), notes


def _named() -> pl.Expr:
    """Rows with a label in the figure: selected neurons and extremes, not the other controls."""
    return (pl.col("group") != groups.CONTROLS) | pl.col("extreme")


def chart(
    synthetic: pl.DataFrame,
    natural: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str,
    level: float = 0.95,
    sets: Sequence[str] | None = None,
) -> alt.TopLevelMixin:
    """The figure, from two tables `induction_scores` and the selections.

    Args:
        level: of the intervals in the tables.
        sets: names of the sets to highlight; all selections if not given.
    """
    missing = [kind for kind, frame in (("synthetic", synthetic), ("natural", natural)) if not len(frame)]
    if missing:
        note = f"no {' and no '.join(missing)} repetition was measured:\nthere is nothing to compare"
        return theme.finish(theme.note_chart(note), TITLE, [theme.about(model, text)])
    frame = prepare(synthetic, natural, selection, sets)
    x, y = (
        Axis(kind, f"score on {what} (change of activation times |w_out|)", tuple(_domain(frame, kind)), pixels=pixels)
        for kind, what, pixels in (
            ("synthetic", "synthetic repetitions", WIDTH),
            ("natural", "natural repetitions", HEIGHT),
        )
    )
    body, notes = scatter(frame, x, y)
    moving = [set(table.filter(pl.col("moves"))["neuron"].to_list()) for table in (synthetic, natural)]
    both = len(moving[0] & moving[1])
    agreement = frame.select(pl.corr("synthetic", "natural", method="spearman")).item()
    numbers = [theme.count(int(table["n_sequences"].max()), "sequence") for table in (synthetic, natural)]
    crossed = f"crosses: {100 * level:g} % intervals, bootstrap by document"
    subtitle = [
        theme.about(model, text, f"layer {int(synthetic['layer'].max())} (last)", theme.count(len(frame), "neuron")),
        f"score = (mean on the last copy {theme.MINUS} mean on the first) |w_out|",
        f"synthetic: {numbers[0]}; natural: {numbers[1]}",
        f"above the threshold: {len(moving[0]):,} synthetic, {len(moving[1]):,} natural, {both:,} both",
        None if agreement is None or agreement != agreement else f"rank correlation of all neurons {agreement:.2f}",
        crossed if groups.highlighted_sets(selection, sets) else "no neuron selected",
        *notes,
    ]
    return theme.finish(body, TITLE, subtitle)


def _domain(frame: pl.DataFrame, kind: str) -> list[float]:
    """Holds every score, and the intervals of the highlighted neurons, which are drawn."""
    chosen = frame.filter(~pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
    ends = [chosen[f"{kind}_{end}"] for end in ("low", "high")]
    return theme.linear_domain(frame[kind], *ends, include=[0.0], pad=0.05)


def draw(
    *,
    synthetic: str | Path,
    natural: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
    sets: Sequence[str] | None = None,
) -> None:
    """Rule `draw_induction_scores`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(synthetic, "induction_scores"),
        read_table(natural, "induction_scores"),
        read_selections(selection),
        model=model,
        text=text,
        level=level,
        sets=sets,
    )
    saving.save(made, figures)
