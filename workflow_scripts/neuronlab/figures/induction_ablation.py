"""Entropy and loss along a repetition with neurons held back: jointly, singly, and their controls (Figs 5b, 9, 10).

A block of panels for each selection. Left all its neurons at once, right those whose clipping alone changes the entropy
of the last copy most; above the ratio of entropy after to before, below the change of the loss. Grey is what the
selection's controls do: control sets left, their single neurons right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.figures.induction_profile import COPIES, Places
from neuronlab.figures.repetition_panels import VARIANTS, WIDTH, Line, band_name, column, shades
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLES = {
    "synthetic": "Clipped mean ablation on repeated sequences",
    "natural": "Clipped mean ablation on stretches that the text repeats",
}
SETS, SINGLES = 4, 3


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
    if not len(ablation) or not len(tests):
        none = f"no {kind} repetition in this text, or no neuron of the last layer selected:\nnothing was ablated"
        note = "the copies share no place:\nnothing was compared" if len(ablation) else none
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
        read_selections(selection),
        model=model,
        text=text,
        kind=kind,
        level=level,
        sets=sets,
    )
    saving.save(made, figures)
