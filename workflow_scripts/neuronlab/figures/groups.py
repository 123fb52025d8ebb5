"""Which neuron is of which kind in a figure: highlighted sets, controls, all others.

Sets come from the configuration, so their number and names are open. `entropy` and `token_frequency` have
their fixed colours; any further set takes the next colour of the palette.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from neuronlab.figures import theme

OTHERS = "other neurons"
CONTROLS = "controls"
KNOWN = {"entropy": ("entropy neurons", theme.VERMILION), "token_frequency": ("token-frequency neurons", theme.BLUE)}
WORDS = {"induction_driven": "induction-driven neurons"}
FURTHER = (theme.GREEN, theme.PURPLE, theme.ORANGE, theme.SKY)


def highlighted_sets(selection: pl.DataFrame, sets: Sequence[str] | None) -> list[str]:
    """The sets to highlight, in order of precedence: those asked for that exist, else all selections.

    The table may lack a set that the config names, because its rule found no neuron.
    """
    chosen = selection.filter(pl.col("kind") == "selection")
    present = chosen["set"].unique(maintain_order=True).to_list()
    if sets:
        return [name for name in dict.fromkeys(sets) if name in present]
    return [*(name for name in KNOWN if name in present), *(name for name in present if name not in KNOWN)]


def set_label(name: str) -> str:
    """What a legend calls a set."""
    return KNOWN[name][0] if name in KNOWN else WORDS.get(name, f"{name.replace('_', ' ')} neurons")


def group_neurons(selection: pl.DataFrame, layer: int, sets: Sequence[str] | None = None) -> pl.DataFrame:
    """One row per neuron of `layer` that is highlighted or a control: columns neuron, group, set, kind, label, order.

    A neuron of several sets counts as the first of them; a neuron that is both selected and somebody's
    control counts as selected.
    """
    names = highlighted_sets(selection, sets)
    here = selection.filter(pl.col("layer") == layer)
    chosen = here.filter((pl.col("kind") == "selection") & pl.col("set").is_in(names)).with_columns(
        order=pl.col("set").replace_strict({name: i for i, name in enumerate(names)}, default=len(names)),
        group=pl.col("set").replace_strict({name: set_label(name) for name in names}, default=OTHERS),
    )
    belongs = pl.col("control_of").is_in(names) | pl.col("control_of").is_null()
    controls = here.filter((pl.col("kind") != "selection") & belongs).with_columns(
        order=pl.lit(len(names)), group=pl.lit(CONTROLS)
    )
    columns = ["neuron", "group", "set", "kind", "order", "rank"]
    both = pl.concat(
        [
            chosen.select(columns).cast({"order": pl.Int32, "group": pl.String}),
            controls.select(columns).cast({"order": pl.Int32}),
        ]
    )
    both = both.sort("order", "rank", "neuron", maintain_order=True).unique("neuron", keep="first", maintain_order=True)
    return both.with_columns(
        label=pl.lit(f"{layer}.") + pl.col("neuron").cast(pl.String), order=pl.int_range(pl.len(), dtype=pl.Int32)
    ).drop("rank")


def attach_groups(frame: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """`frame` (one row per neuron of one layer) with the columns group, label, order; others are OTHERS."""
    return frame.join(groups.select("neuron", "group", "label", "order"), on="neuron", how="left").with_columns(
        pl.col("group").fill_null(OTHERS)
    )


def colours(present: Sequence[str]) -> tuple[list[str], list[str]]:
    """Legend entries in order and their colours, for the groups that occur."""
    fixed = dict(KNOWN.values()) | {
        CONTROLS: theme.CONTROL_COLOUR,
        OTHERS: theme.OTHER_COLOUR,
    }
    unknown = [name for name in dict.fromkeys(present) if name not in fixed]
    further = {name: FURTHER[i % len(FURTHER)] for i, name in enumerate(unknown)}
    order = [*(label for label, _ in KNOWN.values()), *unknown, CONTROLS, OTHERS]
    domain = [name for name in order if name in set(present)]
    return domain, [(fixed | further)[name] for name in domain]


def colour_encoding(
    present: Sequence[str], numbers: dict[str, int] | None = None, *, show: bool = True, **legend: object
) -> alt.Color:
    """Colour by group, with how many neurons each group has in the legend where `numbers` are given.

    A legend without an entry has no finite size, and neither has its figure: without a group there is none.
    """
    domain, colour_range = colours(present)
    if not show or not domain:
        return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colour_range), legend=None)
    options: dict[str, object] = {"title": None, **legend}
    if numbers:
        pairs = ", ".join(f"{name!r}: {f'{name} ({numbers.get(name, 0):,})'!r}" for name in domain)
        options["labelExpr"] = f"({{{pairs}}})[datum.value]"
    return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colour_range), legend=alt.Legend(**options))


def group_counts(frame: pl.DataFrame) -> dict[str, int]:
    """Number of rows per group."""
    return dict(frame.group_by("group").len().iter_rows())


def text_colour(frame: pl.DataFrame) -> alt.Color:
    """Colour of labels by group, without a legend."""
    return colour_encoding(frame["group"].unique(maintain_order=True).to_list(), show=False)


def key(present: Sequence[str], numbers: dict[str, int], width: int) -> alt.LayerChart:
    """A legend as a row of its own, for a figure of several panels."""
    domain, colour_range = colours(present)
    names = [f"{name} ({numbers.get(name, 0):,})" for name in domain]
    starts = [8.0]
    for name in names[:-1]:
        starts.append(starts[-1] + 34 + 6.4 * len(name))
    frame = pl.DataFrame({"group": domain, "name": names, "at": starts[: len(domain)]})
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, width], nice=False, zero=False), axis=None)
    colour = alt.Color("group:N", scale=alt.Scale(domain=domain, range=colour_range), legend=None)
    base = alt.Chart(frame).encode(x=x, y=alt.value(8))
    dots = base.mark_circle(size=110, opacity=1).encode(color=colour)
    texts = base.mark_text(align="left", dx=11, baseline="middle", fontSize=13, color=theme.INK).encode(text="name:N")
    return alt.layer(dots, texts).properties(width=width, height=18)
