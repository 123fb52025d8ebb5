"""Ablating induction heads at one query position, for every position of a repetition (study A, figure 5c).

Activations are shown as they are, clean and ablated; everything else as its change. Grey is what ablating as many
other heads does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Neurons and output when attention heads are ablated"
NEURONS = 3
TOP_COLOURS = (theme.VERMILION, theme.BLUE, theme.SKY, theme.PURPLE)  # the largest set first
CONFIGURED_COLOURS = (theme.GREEN, theme.ORANGE)
BASELINE_COLOUR = "#aab1b8"
METHODS = {
    "bos": "the heads attend to position 0 alone",
    "mean": "the heads' output is their mean",
}
CHANGES = {
    "entropy": ["change of", "entropy (nats)"],
    "loss": ["change of", "loss (nats)"],
    "norm_scale": ["change of the", "norm's scale"],
    "residual_norm": ["change of the", "residual's norm"],
    "top_logit": ["change of the", "top logit"],
    "kl": ["KL(clean ||", "ablated) (nats)"],
}
WIDTHS = {1: 640, 2: 360}
HEIGHT = 92


def shown_sets(table: pl.DataFrame) -> list[str]:
    """The sets with a line: the growing top sets (up to 4, by size), then configured ones (up to 2).

    Where there are none, single heads (up to 4).
    """

    def of(role: str, count: int) -> list[str]:
        names = table.filter(pl.col("role") == role)["set"].unique(maintain_order=True).to_list()
        return sorted(names, key=lambda name: name.count("+"))[:count]

    found = [*of("top", len(TOP_COLOURS)), *of("configured", len(CONFIGURED_COLOURS))]
    return list(dict.fromkeys(found or of("single", len(TOP_COLOURS))))


def set_colours(table: pl.DataFrame) -> dict[str, str]:
    """A colour per set with a line; the largest top set is always vermilion."""
    sets = shown_sets(table)
    others = set(table.filter(pl.col("role") == "configured")["set"]) - set(
        table.filter(pl.col("role") == "top")["set"]
    )
    top, further = ([name for name in sets if (name in others) == which] for which in (False, True))
    colours = dict(zip(reversed(top), TOP_COLOURS, strict=False))
    colours |= dict(zip(further, CONFIGURED_COLOURS, strict=False))
    return {name: colours[name] for name in sets}


def main_set(table: pl.DataFrame) -> str | None:
    """The set that neurons are chosen by and baselines are shown of: the largest top set, else the first shown."""
    sets = shown_sets(table)
    top = [name for name in sets if name in set(table.filter(pl.col("role") == "top")["set"])]
    return top[-1] if top else (sets[0] if sets else None)


def moved_neurons(table: pl.DataFrame, selection: pl.DataFrame, count: int = NEURONS) -> list[tuple[int, int, str]]:
    """(layer, neuron, set) of the neurons whose activation the main set changes most.

    Of the first set with neurons in the table (`entropy` if it has any): the largest mean change on the last copy,
    in absolute value, by the table's first method.
    """
    chosen = table.filter((pl.col("quantity") == "activation") & (pl.col("set") == main_set(table)))
    if not len(chosen):
        return []
    chosen = chosen.filter((pl.col("copy") == table["copy"].max()) & (pl.col("method") == chosen["method"].first()))
    sizes = chosen.group_by("layer", "neuron", maintain_order=True).agg(size=pl.col("change").mean().abs())
    for name in groups.highlighted_sets(selection, None):
        members = selection.filter((pl.col("set") == name) & (pl.col("kind") == "selection"))
        found = sizes.join(members.select("layer", "neuron", "rank"), on=["layer", "neuron"]).drop_nulls("size")
        if len(found):
            best = found.sort(["size", "rank"], descending=[True, False]).head(count)
            return [(layer, neuron, name) for layer, neuron in best.select("layer", "neuron").iter_rows()]
    return []


def with_position(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with the column position: places of all copies one after the other, the first one at 1."""
    length = int(table["offset"].max()) - int(table["offset"].min()) + 1
    return table.with_columns(position=1 + pl.col("copy") * length + pl.col("offset") - table["offset"].min())


def lines(table: pl.DataFrame, method: str, quantity: str, neuron: tuple[int, int] | None) -> pl.DataFrame:
    """What a panel draws: columns series ('baseline <set>', 'clean', or a set), position, y, low, high.

    In the order in which lines are drawn: sets on top, the largest above the others. Activations are levels (clean +
    change); everything else is the change, without a clean line.
    """
    rows = table.filter((pl.col("method") == method) & (pl.col("quantity") == quantity))
    if neuron is not None:
        rows = rows.filter((pl.col("layer") == neuron[0]) & (pl.col("neuron") == neuron[1]))
    base = pl.col("clean") if neuron is not None else pl.lit(0.0)
    main = main_set(table)
    line = rows.filter(pl.col("set").is_in(shown_sets(table)) & (pl.col("role") != "baseline"))
    line = line.unique(["set", "position"], keep="first", maintain_order=True)
    baseline = rows.filter((pl.col("role") == "baseline") & (pl.col("control_of") == main))
    values = {"y": base + pl.col("change"), "low": base + pl.col("change_low"), "high": base + pl.col("change_high")}
    frames = [baseline.select(series=pl.lit("baseline ") + pl.col("set"), position="position", **values)]
    if neuron is not None:
        clean = line.unique("position", keep="first", maintain_order=True)
        empty = pl.lit(None, pl.Float64)
        frames.append(clean.select(series=pl.lit("clean"), position="position", y="clean", low=empty, high=empty))
    order = {name: i for i, name in enumerate(shown_sets(table))}
    turn = pl.col("set").replace_strict(order, default=len(order), return_dtype=pl.Int32)
    line = line.sort(turn, "position", maintain_order=True)
    frames.append(line.select(series="set", position="position", **values))
    return pl.concat(frames)


def panel(
    frame: pl.DataFrame,
    borders: Sequence[float],
    title: list[str],
    colours: dict[str, str],
    banded: str | None,
    domains: tuple[Sequence[float], Sequence[float]],
    *,
    width: int,
    foot: bool,
) -> alt.LayerChart:
    """One quantity along the repetition, from `lines`; the set `banded` with its interval."""
    x = alt.X(
        "position:Q",
        scale=alt.Scale(domain=list(domains[0]), nice=False, zero=False),
        axis=alt.Axis(
            title="token of the repetition" if foot else None, labels=foot, ticks=foot, grid=False, tickCount=8
        ),
    )
    scale, axis = (
        alt.Scale(domain=list(domains[1]), nice=False, zero=False),
        alt.Axis(title=title, tickCount=4, minExtent=40),
    )
    y, low = (alt.Y(f"{column}:Q", scale=scale, axis=axis) for column in ("y", "low"))
    baselines = frame.filter(pl.col("series").str.starts_with("baseline "))
    span = baselines.group_by("position", maintain_order=True).agg(low=pl.col("y").min(), high=pl.col("y").max())
    bands = [
        span.select("position", "low", "high", colour=pl.lit(BASELINE_COLOUR)),
        frame.filter(pl.col("series") == banded).select(
            "position", "low", "high", colour=pl.lit(colours.get(banded or "", theme.INK))
        ),
    ]
    looks = {name: (colour, 1.8) for name, colour in colours.items()} | {"clean": (theme.INK, 2.0)}
    drawn = frame.select(
        "series",
        "position",
        "y",
        colour=pl.col("series").replace_strict({k: v[0] for k, v in looks.items()}, default=BASELINE_COLOUR),
        thickness=pl.col("series").replace_strict({k: v[1] for k, v in looks.items()}, default=1.1),
    )
    # Few layers, because the time that a figure takes is that of copying and checking its layers.
    colour = alt.Color("colour:N", scale=None)
    zero = pl.DataFrame({"y": [0.0] if domains[1][0] <= 0 <= domains[1][1] else []}, schema={"y": pl.Float64})
    border = pl.DataFrame({"position": list(borders)}, schema={"position": pl.Float64})
    return alt.layer(
        alt.Chart(border).mark_rule(color=theme.FAINT, strokeDash=[4, 3]).encode(x=x),
        alt.Chart(zero).mark_rule(color="#9aa3ac").encode(y=y),
        alt.Chart(pl.concat(bands).drop_nulls()).mark_area(opacity=0.25).encode(x=x, y=low, y2="high:Q", color=colour),
        alt.Chart(drawn)
        .mark_line()
        .encode(x=x, y=y, color=colour, detail="series:N", strokeWidth=alt.StrokeWidth("thickness:Q", scale=None)),
    ).properties(width=width, height=HEIGHT)


def _key(entries: list[tuple[str, str, float]], width: int) -> alt.LayerChart:
    """A legend of lines as rows of its own: (name, colour, thickness), as many to a row as fit."""
    at, row, placed = 8.0, 0, []
    for name, colour, thickness in entries:
        need = 56 + 6.6 * len(name)
        if at > 8 and at + need > width:
            at, row = 8.0, row + 1
        placed.append({"name": name, "colour": colour, "x": at, "x2": at + 24, "y": row, "thickness": thickness})
        at += need
    x = {"scale": alt.Scale(domain=[0, width], nice=False, zero=False), "axis": None}
    base = alt.Chart(pl.DataFrame(placed, schema_overrides={"y": pl.Int32})).encode(
        y=alt.Y("y:O", axis=None, scale=alt.Scale(domain=list(range(row + 1))))
    )
    samples = base.mark_rule().encode(
        x=alt.X("x:Q", **x),
        x2="x2:Q",
        color=alt.Color("colour:N", scale=None),
        strokeWidth=alt.StrokeWidth("thickness:Q", scale=None),
    )
    names = base.mark_text(align="left", dx=7, baseline="middle", fontSize=12.5, color=theme.INK).encode(
        x=alt.X("x2:Q", **x), text="name:N"
    )
    return alt.layer(samples, names).properties(width=width, height=20 * (row + 1))


def _domain(frames: Sequence[pl.DataFrame], banded: str | None) -> list[float]:
    """Holds every line, and the interval that is drawn."""
    ends = [frame.filter(pl.col("series") == banded)[column] for frame in frames for column in ("low", "high")]
    return theme.linear_domain(*(frame["y"] for frame in frames), *ends, pad=0.05)


def chart(
    head_ablation: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `head_ablation` and `selection`: a column per method, a row per quantity."""
    sets = shown_sets(head_ablation)
    if not sets:
        return theme.finish(theme.note_chart("no set of heads was ablated"), TITLE, [theme.about(model, text)])
    table, colours, main = with_position(head_ablation), set_colours(head_ablation), main_set(head_ablation)
    methods = [name for name in METHODS if name in table["method"]]
    neurons = moved_neurons(table, selection)
    rows: list[tuple[str, tuple[int, int] | None, list[str]]] = [
        ("activation", (layer, neuron), ["activation", f"of {layer}.{neuron}"]) for layer, neuron, _ in neurons
    ]
    rows += [(name, None, title) for name, title in CHANGES.items() if name in table["quantity"]]
    length = int(table["offset"].max()) - int(table["offset"].min()) + 1
    borders = [copy * length + 0.5 for copy in range(1, int(table["copy"].max()) + 1)]
    span = [float(table["position"].min()) - 0.5, float(table["position"].max()) + 0.5]
    width, cells = WIDTHS[len(methods)], []
    for i, (quantity, neuron, title) in enumerate(rows):
        frames = [lines(table, method, quantity, neuron) for method in methods]
        domains = (span, _domain(frames, main))
        for j, (method, frame) in enumerate(zip(methods, frames, strict=True)):
            made = panel(
                frame, borders, title if j == 0 else [""], colours, main, domains, width=width, foot=i == len(rows) - 1
            )
            if i == 0:
                made = made.properties(
                    title=alt.Title(METHODS[method], fontSize=13, anchor="start", frame="group", offset=8)
                )
            cells.append(made)
    body = alt.concat(*cells, columns=len(methods), spacing={"row": 10, "column": 24})
    baselines = table.filter((pl.col("role") == "baseline") & (pl.col("control_of") == main))["set"].n_unique()
    entries = [("clean", theme.INK, 2.0)] if neurons else []
    entries += [(f"without {name}", colour, 2.4) for name, colour in colours.items()]
    if baselines:
        of = theme.count(str(main).count("+") + 1, "other head")
        entries.append((f"{theme.count(baselines, 'set')} of {of}", BASELINE_COLOUR, 3.5))
    single = table.filter(pl.col("role") == "single")["set"].unique()
    hidden = len([name for name in single if name not in sets])
    subtitle = [
        theme.about(model, text, theme.count(int(table["n_sequences"].max()), "synthetic sequence")),
        "heads ablated at the query position alone; dashed: the copy begins",
        f"band: {100 * level:g} % interval without {main}, bootstrap by document",
        "grey band: range of the sets of other heads" if baselines else None,
        f"the {len(neurons)} {groups.set_label(neurons[0][2])} that ablating {main} moves most" if neurons else None,
        f"{theme.count(hidden, 'head')} ablated alone: in the table, not drawn" if hidden else None,
    ]
    total = len(methods) * width + (len(methods) - 1) * 90
    return theme.finish(alt.vconcat(_key(entries, total), body, spacing=14), TITLE, subtitle)


def draw(
    *,
    head_ablation: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_head_ablation`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(head_ablation, "head_ablation"),
        read_selections(selection),
        model=model,
        text=text,
        level=level,
    )
    saving.save(made, figures)
