"""Entropy and loss along a repetition with neurons held back: jointly, singly, and their controls (Figs 5b, 9, 10).

A block of panels for each selection. Left all its neurons at once, right those whose clipping alone changes the entropy
of the last copy most; above the ratio of entropy after to before, below the change of the loss. Grey is what the
selection's controls do: control sets left, their single neurons right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.figures.induction_profile import COPIES, Places
from neuronlab.tables import read_table

TITLES = {
    "synthetic": "Clipped mean ablation on repeated sequences",
    "natural": "Clipped mean ablation on stretches that the text repeats",
}
MEASURES = {"entropy_ratio": "entropy after / before", "loss_change": "change of loss (nats)"}
UNCHANGED = {"entropy_ratio": 1.0, "loss_change": 0.0}
WIDTH, HEIGHT = 470, 130
SETS, SINGLES = 4, 3
MANY = 20  # controls from which on the band is their 5th to 95th percentile instead of their range
DASH = [5, 3]
LABEL = 10.5
AXIS = 52  # pixels for the numbers and the title of a vertical axis, so that the panels are aligned
VARIANTS = {"total": [1, 0], "direct": DASH}


@dataclass(frozen=True)
class Line:
    """One ablated set in a panel: its rows' name, what it is called there, and its colour."""

    name: str
    label: str
    colour: str


def shades(colour: str, number: int) -> list[str]:
    """`number` shades of a colour: itself, darker, lighter."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))

    def mixed(other: int, share: float) -> str:
        return "#" + "".join(f"{round(v + (other - v) * share):02x}" for v in (red, green, blue))

    return [colour, mixed(0, 0.5), mixed(255, 0.45)][:number]


def control_band(rows: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Range of the controls at every place, or from `MANY` on their 5th to 95th percentile: columns at, low, high."""
    wide = rows["set"].n_unique() < MANY
    ends = (0.0, 1.0) if wide else (0.05, 0.95)
    value = pl.col(measure).drop_nulls()
    low, high = (value.quantile(end, "linear").alias(name) for end, name in zip(ends, ("low", "high"), strict=True))
    return rows.group_by("copy", "at").agg(low, high).sort("at").drop_nulls()


def band_name(number: int, noun: str) -> str:
    """What the grey band is, for a panel's heading."""
    if not number:
        return "no controls"
    return f"{'range' if number < MANY else '5 to 95 %'} of {theme.count(number, noun)}"


def panel(
    rows: pl.DataFrame,
    controls: pl.DataFrame,
    lines: Sequence[Line],
    places: Places,
    measure: str,
    *,
    intervals: bool,
    copies: bool,
) -> alt.LayerChart:
    """One measure along the places.

    Args:
        rows: of the sets in `lines`, both variants, with a column `at`.
        controls: rows of the controls, total effect.
        intervals: draw the intervals of the total effect.
        copies: name the copies above the panel.
    """
    grey = control_band(controls, measure)
    rows = rows.with_columns(colour=pl.col("set").replace_strict({line.name: line.colour for line in lines}))
    total = rows.filter(pl.col("variant") == "total")
    ends = (f"{measure}_low", f"{measure}_high") if intervals else ()
    drawn = pl.concat([rows[measure], *(total[end].alias(measure) for end in ends)])
    scale = alt.Scale(domain=vertical(drawn, grey, UNCHANGED[measure]), nice=False, zero=False)
    colour, title = alt.Color("colour:N", scale=None), MEASURES[measure]

    def up(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", scale=scale, axis=alt.Axis(title=title, tickCount=5, minExtent=AXIS))

    x = horizontal(places)
    starts = pl.DataFrame({"at": places.starts()})
    none = pl.DataFrame({"value": [UNCHANGED[measure]]})
    layers = [
        alt.Chart(grey)
        .mark_area(color=theme.OTHER_COLOUR, opacity=0.6, clip=True)
        .encode(x=x, y=up("low"), y2="high:Q", detail="copy:N"),
        alt.Chart(none).mark_rule(color=theme.FAINT, strokeWidth=1).encode(y=up("value")),
        alt.Chart(starts[1:]).mark_rule(strokeDash=[2, 3], color=theme.FAINT, strokeWidth=1.2).encode(x=x),
    ]
    if intervals:
        low, high = ends
        band = alt.Chart(total).mark_area(opacity=0.25)
        layers.append(band.encode(x=x, y=up(low), y2=f"{high}:Q", color=colour, detail="copy:N"))
    tips = [alt.Tooltip(f"{name}:N") for name in ("set", "variant", "copy", "offset")]
    for variant, dash in VARIANTS.items():
        base = alt.Chart(rows.filter(pl.col("variant") == variant))
        layers.append(
            base.mark_line(strokeWidth=1.8 if variant == "total" else 1.3, strokeDash=dash).encode(
                x=x,
                y=up(measure),
                color=colour,
                detail=["set:N", "copy:N"],
                tooltip=[*tips, alt.Tooltip(f"{measure}:Q", format=".4g")],
            )
        )
    if copies:
        names = starts.with_columns(name=pl.Series([COPIES[places.kind].format(nth(i)) for i in range(places.copies)]))
        text = alt.Chart(names).mark_text(align="left", fontSize=11, color=theme.FAINT, baseline="bottom", dx=2)
        layers.append(text.encode(x=x, y=alt.value(-3), text="name:N"))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def vertical(drawn: pl.Series, grey: pl.DataFrame, unchanged: float) -> list[float]:
    """Domain of a measure: all that is drawn of the ablated sets, and of the controls as much above and below again.

    Controls may be far away: a ratio of entropies knows no bound where the clean entropy is small.
    """
    values = [unchanged, *drawn.drop_nulls()]
    low, high = min(values), max(values)
    band = pl.concat([grey["low"], grey["high"]]).clip(low - (high - low), high + (high - low))
    return theme.linear_domain(drawn, band, include=[unchanged], pad=0.06)


def horizontal(places: Places) -> alt.X:
    """The axis of places, those named that fit."""
    ticks = places.ticks()
    names = " : ".join([*(f"datum.value == {at} ? '{text}'" for at, text in ticks.items()), "''"])
    return alt.X(
        "at:Q",
        scale=alt.Scale(domain=list(places.domain), nice=False, zero=False),
        axis=alt.Axis(
            title=None, values=list(ticks), labelExpr=names, grid=False, labelFontSize=LABEL, labelOverlap=False
        ),
    )


def nth(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ... from 0."""
    return f"{number + 1}{('st', 'nd', 'rd')[number] if number < 3 else 'th'}"


def column(
    ablation: pl.DataFrame,
    controls: pl.DataFrame,
    lines: Sequence[Line],
    places: Places,
    heading: str,
    *,
    intervals: bool,
) -> alt.VConcatChart:
    """Both measures of some sets one above the other, under a heading and the lines' names in their colours."""
    rows = ablation.filter(pl.col("set").is_in([line.name for line in lines]))
    panels = [
        panel(rows, controls, lines, places, measure, intervals=intervals, copies=i == 0)
        for i, measure in enumerate(MEASURES)
    ]
    starts = [0.0]
    for line in lines[:-1]:
        starts.append(starts[-1] + 22 + 5.9 * len(line.label))
    named = pl.DataFrame(
        {"label": [line.label for line in lines], "colour": [line.colour for line in lines], "at": starts[: len(lines)]}
    )
    names = (
        alt.Chart(named)
        .mark_text(align="left", fontSize=11.5, baseline="middle", fontWeight="bold")
        .encode(
            x=alt.X("at:Q", scale=alt.Scale(domain=[0, WIDTH]), axis=None),
            y=alt.value(8),
            text="label:N",
            color=alt.Color("colour:N", scale=None),
        )
        .properties(
            width=WIDTH, height=16, title=alt.Title(heading, fontSize=12.5, anchor="start", offset=2, color=theme.INK)
        )
    )
    return alt.vconcat(names, *panels, spacing=12)


def last_copy(tests: pl.DataFrame) -> pl.DataFrame:
    """Tests of the entropy on the last copy, total effect."""
    last = pl.col("copy") == pl.col("copy").max()
    return tests.filter(last & (pl.col("variant") == "total") & (pl.col("outcome") == "entropy"))


def effect(tests: pl.DataFrame, name: str) -> str:
    """A set's change of the entropy on the last copy, with interval and p-values."""
    row = last_copy(tests).row(by_predicate=pl.col("set") == name, named=True)
    parts = [f"entropy {signed(row['mean_change'])} nats"]
    if row["mean_change_low"] is not None:
        parts[0] += f" [{signed(row['mean_change_low'])}, {signed(row['mean_change_high'])}]"
    if row["p_value_holm"] is not None:
        parts.append(f"t test {p_value(row['p_value_holm'])}")
    if row["p_value_controls"] is not None:
        parts.append(f"among {theme.count(row['n_controls'], 'control')} {p_value(row['p_value_controls'])}")
    return ", ".join(parts)


def signed(value: float) -> str:
    """With its sign and three decimals, or two digits where it is small."""
    return (f"{value:+.3f}" if abs(value) >= 0.002 else f"{value:+.1e}").replace("-", theme.MINUS)


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.0001`: smaller ones say no more."""
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def names_of(selection: pl.DataFrame, rows: pl.Expr) -> list[str]:
    """Some neurons of the selection tables as the ablation names them when they are alone."""
    found = selection.filter(rows).select(pl.format("{}.{}", "layer", "neuron").alias("name"))
    return found["name"].unique(maintain_order=True).to_list()


def block(
    ablation: pl.DataFrame, tests: pl.DataFrame, selection: pl.DataFrame, name: str, colour: str, places: Places
) -> alt.HConcatChart:
    """Panels of one selection: all its neurons jointly, and the most effective ones singly."""
    total = ablation.filter(pl.col("variant") == "total")
    joint = ablation.filter((pl.col("set") == name) & (pl.col("kind") == "selection"))
    rivals = total.filter((pl.col("control_of") == name) & (pl.col("kind") != "single"))
    number = int(joint["n_neurons"][0])
    what = f"{groups.set_label(name)}, {f'all {number} jointly' if number > 1 else 'a single one'}"
    grey = band_name(rivals["set"].n_unique(), "control set")
    left = column(
        joint,
        rivals,
        [Line(name, effect(tests, name), colour)],
        places,
        f"{what}; grey: {grey}",
        intervals=True,
    )
    alone = (pl.col("kind") == "single") & pl.col("set").is_in(names_of(selection, pl.col("set") == name))
    ranked = last_copy(tests.filter(alone)).sort(pl.col("mean_change").abs(), descending=True, maintain_order=True)
    lines = [
        Line(row["set"], f"{row['set']} {signed(row['mean_change'])} nats", shade)
        for row, shade in zip(ranked.head(SINGLES).iter_rows(named=True), shades(colour, SINGLES), strict=False)
    ]
    others = total.filter(
        (pl.col("kind") == "single")
        & pl.col("control_of").is_not_null()
        & pl.col("set").is_in(names_of(selection, pl.col("control_of") == name))
    )
    most = f"the {len(lines)} of {len(ranked)} with the largest effect" if len(ranked) > len(lines) else "each alone"
    right = column(
        ablation.filter(pl.col("kind") == "single"),
        others,
        lines,
        places,
        f"singly, {most}; grey: {band_name(others['set'].n_unique(), 'control neuron')}",
        intervals=len(lines) == 1,
    )
    return alt.hconcat(left, right, spacing=26)


def key() -> alt.LayerChart:
    """What solid, dashed and grey mean, as a row of its own."""
    lines = pl.DataFrame(
        {"x": [0, 245], "x2": [30, 275], "name": ["total effect", "direct: the final norm's scale frozen"]}
    )
    base = alt.Chart(lines).encode(x=alt.X("x:Q", scale=alt.Scale(domain=[0, 2 * WIDTH]), axis=None), y=alt.value(8))
    layers = [
        base.transform_filter(f"datum.x == {x}")
        .mark_rule(color=theme.INK, strokeWidth=1.8, strokeDash=dash)
        .encode(x2="x2:Q")
        for x, dash in zip(lines["x"], VARIANTS.values(), strict=True)
    ]
    texts = base.mark_text(align="left", dx=36, fontSize=12.5, color=theme.INK).encode(text="name:N")
    return alt.layer(*layers, texts).properties(width=2 * WIDTH, height=16)


def chart(
    ablation: pl.DataFrame,
    tests: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str,
    kind: str,
    level: float = 0.95,
    sets: Sequence[str] | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `induction_ablation`, `induction_tests` and `selection`.

    Args:
        kind: "synthetic" or "natural".
        level: of the intervals in the tables.
        sets: names of the selections to draw; the first `SETS` of all if not given.
    """
    if not len(ablation):
        note = f"no {kind} repetition in this text, or no neuron of the last layer selected:\nnothing was ablated"
        return theme.finish(theme.note_chart(note), TITLES[kind], [theme.about(model, text)])
    places = Places.of(ablation, kind)
    last = ablation.filter(pl.col("copy") == places.copies - 1)["offset"].unique()
    ablation = ablation.filter(pl.col("offset").is_in(last.to_list())).with_columns(at=places.at())
    present = ablation.filter(pl.col("kind") == "selection")["set"].unique(maintain_order=True).to_list()
    names = [name for name in groups.highlighted_sets(selection, sets) if name in present]
    domain, colour_range = groups.colours([groups.set_label(name) for name in names])
    colour = dict(zip(domain, colour_range, strict=True))
    blocks = [block(ablation, tests, selection, name, colour[groups.set_label(name)], places) for name in names[:SETS]]
    n, left_out = ablation["n_sequences"], len(names) - len(blocks)
    sequences = f"{n.min()} to {n.max()} sequences by place" if n.min() < n.max() else theme.count(n.max(), "sequence")
    copy = COPIES[kind].format("").strip()
    axis = {
        "synthetic": f"horizontal: token of the copy, 0 to {last.max()}; the one after these has no next token",
        "natural": f"A0 to A{-places.first - 1}: repeated tokens; B, X: the tokens after them",
    }
    subtitle = [
        theme.about(model, text, sequences, theme.count(int(tests["n_documents"].max()), "document")),
        "activations that rise on the repetition are held down to their mean, those that fall held up to it",
        f"bands: {100 * level:g} % intervals, bootstrap by document",
        f"numbers: total effect on the entropy of the last {copy}, t test over documents (Holm)",
        f"dotted: the next {copy} begins",
        "grey is cut where it leaves the panel",
        axis[kind],
        f"{theme.count(left_out, 'more selection')} not drawn" if left_out else None,
    ]
    return theme.finish(alt.vconcat(key(), *blocks, spacing=20), TITLES[kind], subtitle)


def draw(
    *,
    ablation: str | Path,
    tests: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    kind: str,
    level: float = 0.95,
    sets: Sequence[str] | None = None,
) -> None:
    """Rule `draw_induction_ablation`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(ablation, "induction_ablation"),
        read_table(tests, "induction_tests"),
        groups.read_selection(selection),
        model=model,
        text=text,
        kind=kind,
        level=level,
        sets=sets,
    )
    saving.save(made, figures)
