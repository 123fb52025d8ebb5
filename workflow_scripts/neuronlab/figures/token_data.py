"""What the figures about single tokens share: whose tokens they show, and how tokens are spelt on an axis."""

from __future__ import annotations

import polars as pl

from neuronlab.figures import groups

FREQUENCY = "token_frequency"
SPELLED_LENGTH = 14


def with_reciprocal_ranks(traces: pl.DataFrame) -> pl.DataFrame:
    """`traces` with rr and rr_after: 1/(rank + 1) of the next token, clean and after the replacement."""
    return traces.with_columns(rr=1 / (pl.col("rank") + 1), rr_after=1 / (pl.col("rank_total") + 1))


def shown_sets(traces: pl.DataFrame, selection: pl.DataFrame) -> dict[str, list[int]]:
    """The sets to show and their traced neurons, by rank: one chosen by its weights, and `token_frequency`.

    The first is `entropy`, or in its absence the first other selection with traced neurons. A set without any is
    left out; a neuron of both sets counts in the first.
    """
    if not len(traces):
        return {}
    here = selection.filter(
        (pl.col("kind") == "selection")
        & (pl.col("layer") == traces["layer"].max())
        & pl.col("neuron").is_in(traces["neuron"].unique().to_list())
    ).sort("rank", maintain_order=True)
    names = [name for name in groups.highlighted_sets(selection, None) if name != FREQUENCY]
    found: dict[str, list[int]] = {}
    for name in names:
        members = here.filter(pl.col("set") == name)["neuron"].unique(maintain_order=True).to_list()
        if members:
            found[name] = members
            break
    taken = {neuron for members in found.values() for neuron in members}
    frequency = here.filter(pl.col("set") == FREQUENCY)["neuron"].unique(maintain_order=True).to_list()
    if left := [neuron for neuron in frequency if neuron not in taken]:
        found[FREQUENCY] = left
    return found


def largest(traces: pl.DataFrame, neurons: list[int], column: str, count: int) -> list[int]:
    """The `count` of `neurons` with the largest mean |column| over their tokens; the earlier one first in a tie."""
    order = pl.DataFrame({"neuron": neurons, "place": range(len(neurons))}, schema_overrides={"neuron": pl.Int32})
    # Rounded, because the order in which a mean is summed may tell equal ones apart.
    size = pl.col(column).abs().mean().round_sig_figs(12)
    sizes = traces.join(order, on="neuron").group_by("neuron", "place").agg(size=size)
    return sizes.sort(["size", "place"], descending=[True, False])["neuron"].head(count).to_list()


def spelled(string: str) -> str:
    """A token as an axis shows it: a leading space as a middle dot, line ends and the like by their escapes."""
    body = string[1:] if string.startswith(" ") else string
    shown = ("\N{MIDDLE DOT}" if string.startswith(" ") else "") + "".join(
        letter if letter == " " or letter.isprintable() else repr(letter)[1:-1] for letter in body
    )
    return shown if len(shown) <= SPELLED_LENGTH else f"{shown[: SPELLED_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
