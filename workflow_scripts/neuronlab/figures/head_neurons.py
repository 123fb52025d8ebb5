"""What every ablated head does to every neuron's activation on a repetition, times the neuron's norm (study A, A6).

The norm makes neurons comparable: activation times |w_out| is the length of what the neuron writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Which heads drive which neurons"
HEADS, NEURONS, OTHERS = 24, 24, 12
CELL = 26
METHODS = {"bos": "heads attend to position 0 alone", "mean": "heads' output is their mean"}


def prepare(
    head_neurons: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    heads: int = HEADS,
    neurons: int = NEURONS,
    others: int = OTHERS,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row per cell; and of how many heads, highlighted neurons and other neurons (controls) are left out.

    Columns method, group, layer, head, name (of the head), label (of the neuron), value (change x |w_out|), low, high,
    certain (the interval excludes zero; missing without one). Heads in order of layer; of more than `heads`, those with
    the largest |value| on a highlighted neuron. Neurons by set and rank, and never chosen by their values: controls
    would look more alike otherwise. The first `neurons` highlighted ones and the first `others` of the rest stay.
    """
    # The best head is held against every neuron of the layer; shown are those that all heads are held against.
    heads_of = pl.struct("layer", "head").n_unique().over("neuron")
    head_neurons = head_neurons.filter(heads_of == heads_of.max())
    layer = int(head_neurons["neuron_layer"].max()) if len(head_neurons) else 0
    members = groups.group_neurons(selection, layer)
    frame = (
        head_neurons.join(members.select("neuron", "group", "order"), on="neuron", how="left", maintain_order="left")
        .with_columns(pl.col("group").fill_null(groups.OTHERS), pl.col("order").fill_null(len(members)))
        .sort("order", "neuron", "layer", "head", maintain_order=True)
        .select(
            "method",
            "group",
            "layer",
            "head",
            name=pl.format("{}.{}", "layer", "head"),
            label=pl.format("{}.{}", "neuron_layer", "neuron"),
            value=pl.col("change") * pl.col("norm"),
            low=pl.col("change_low") * pl.col("norm"),
            high=pl.col("change_high") * pl.col("norm"),
            certain=(pl.col("change_low") > 0) | (pl.col("change_high") < 0),
        )
    )
    rest = pl.col("group").is_in([groups.CONTROLS, groups.OTHERS])
    highlighted, remaining = (
        frame.filter(which)["label"].unique(maintain_order=True).to_list() for which in (~rest, rest)
    )
    shown = frame.filter(pl.col("label").is_in([*highlighted[:neurons], *remaining[:others]]))
    by = shown if not highlighted else shown.filter(~rest)
    sizes = by.group_by("name", "layer", "head").agg(size=pl.col("value").abs().max().fill_null(0.0))
    largest = sizes.sort(["size", "layer", "head"], descending=[True, False, False])["name"].head(heads).to_list()
    left_out = {
        "heads": frame["name"].n_unique() - len(largest),
        "neurons": max(len(highlighted) - neurons, 0),
        "others": max(len(remaining) - others, 0),
    }
    return shown.filter(pl.col("name").is_in(largest)), left_out


def _columns(frame: pl.DataFrame) -> list[str]:
    """Neurons from left to right, with an empty column (its own name of blanks) between two groups."""
    found, before = [], None
    for label, group in frame.select("label", "group").unique("label", keep="first", maintain_order=True).iter_rows():
        if before is not None and group != before:
            found.append(" " * (1 + sum(not name.strip() for name in found)))
        found.append(label)
        before = group
    return found


def panel(
    frame: pl.DataFrame, columns: list[str], rows: list[str], bound: float, *, cell: float, labels: bool, legend: bool
) -> alt.LayerChart:
    """Heads by neurons of one method: full squares where the interval excludes zero, small ones elsewhere."""
    colours = dict(frame.select("label", "group").unique("label").iter_rows())
    domain, shades = groups.colours(list(dict.fromkeys(colours.values())))
    by_group = dict(zip(domain, shades, strict=True))
    shown = {colour: [name for name in columns if by_group.get(colours.get(name, "")) == colour] for colour in shades}
    tests = [f"indexof({names!r}, datum.value) >= 0 ? '{colour}'" for colour, names in shown.items() if names]
    x = alt.X(
        "label:N",
        sort=None,
        scale=alt.Scale(domain=columns, paddingInner=0.08, paddingOuter=0.04),
        axis=alt.Axis(
            title="neuron",
            labelAngle=-60,
            ticks=False,
            domain=False,
            labelFontWeight="bold",
            labelColor=alt.ExprRef(" : ".join([*tests, f"'{theme.INK}'"])),
            labelOverlap=False,
        ),
    )
    y = alt.Y(
        "name:N",
        sort=None,
        scale=alt.Scale(domain=rows, paddingInner=0.08, paddingOuter=0.04),
        axis=alt.Axis(title="head" if labels else None, labels=labels, ticks=False, domain=False, labelOverlap=False),
    )
    colour = alt.Fill(
        "value:Q",
        scale=alt.Scale(
            domain=[-bound, 0, bound], range=[theme.BLUE, "#e9e9e9", theme.VERMILION], interpolate="lab", clamp=True
        ),
        legend=alt.Legend(
            title=["change of", "activation", "times |w_out|"],
            values=[-bound, 0, bound],
            format="~g",
            gradientLength=110,
        )
        if legend
        else None,
    )
    base = alt.Chart(frame).encode(x=x, y=y)
    tips = [alt.Tooltip("name:N", title="head"), alt.Tooltip("label:N", title="neuron")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3g") for name in ("value", "low", "high")]
    small = {"width": {"band": 0.42}, "height": {"band": 0.42}}
    layers = [
        base.mark_rect(color="#f6f7f8"),
        base.transform_filter("datum.certain === true").mark_rect().encode(fill=colour, tooltip=tips),
        base.transform_filter("datum.certain !== true && datum.value !== null")
        .mark_rect(**small)
        .encode(fill=colour, tooltip=tips),
        base.transform_filter("datum.value === null").mark_text(text="x", color=theme.FAINT, fontSize=11),
    ]
    return alt.layer(*layers).properties(width=cell * len(columns), height=cell * len(rows))


def chart(
    head_neurons: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `head_neurons` and `selection`: a panel per method."""
    frame, left_out = prepare(head_neurons, selection)
    if not len(frame):
        return theme.finish(theme.note_chart("no head was ablated"), TITLE, [theme.about(model, text)])
    methods = [name for name in METHODS if name in frame["method"]]
    columns = _columns(frame)
    rows = frame.sort("layer", "head")["name"].unique(maintain_order=True).to_list()
    sizes = frame["value"].abs()
    bound = theme.round_up(float(sizes.quantile(0.98, "linear") or 0.0))
    # Two panels side by side if their labels stay readable, else one above the other.
    beside = len(methods) > 1 and len(columns) <= 21
    cell = min(CELL, (350 if beside else 780) / len(columns))
    panels = []
    with_legend = len(methods) - 1 if beside else 0
    for i, method in enumerate(methods):
        of = frame.filter(pl.col("method") == method)
        heading = alt.Title(METHODS[method], fontSize=13, anchor="start", frame="group", offset=8)
        panels.append(
            panel(of, columns, rows, bound, cell=cell, labels=i == 0 or not beside, legend=i == with_legend).properties(
                title=heading
            )
        )
    body = alt.hconcat(*panels, spacing=24) if beside else alt.vconcat(*panels, spacing=20)
    body = body.resolve_scale(fill="independent")
    one = frame.unique("label", keep="first", maintain_order=True)
    numbers = groups.group_counts(one)
    width = int(max(cell * len(columns) * (2 if beside else 1), 560))
    body = alt.vconcat(groups.key(list(numbers), numbers, width), body, spacing=10)
    subtitle = [
        theme.about(model, text, theme.count(int(head_neurons["n_sequences"].max()), "synthetic sequence")),
        "mean change on the last copy when the head is ablated at the query position",
        f"small squares: the {100 * level:g} % interval (bootstrap by document) includes zero",
        f"colour ends at ±{bound:g}" if float(sizes.max() or 0.0) > bound else None,
        f"{theme.count(left_out['heads'], 'head')} with smaller changes not drawn" if left_out["heads"] else None,
        f"{theme.count(left_out['neurons'], 'more highlighted neuron')} not drawn" if left_out["neurons"] else None,
        f"{theme.count(left_out['others'], 'more control')} not drawn" if left_out["others"] else None,
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    head_neurons: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_head_neurons`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(head_neurons, "head_neurons"),
        read_selections(selection),
        model=model,
        text=text,
        level=level,
    )
    saving.save(made, figures)
