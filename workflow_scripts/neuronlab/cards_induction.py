"""What a neuron card tells about induction: scores on repetitions, and the heads that move the neuron. No HTML here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from neuronlab.cards_ranks import Row, percentile

METHODS = ("bos", "mean")  # ways to ablate a head, the one shown first
TOP_HEADS = 3


@dataclass(frozen=True)
class Repetition:
    """A neuron's row of `induction_scores` on one kind of repetition, and its place in the layer by signed score."""

    kind: str
    row: Row
    percentile: float | None


@dataclass(frozen=True)
class HeadChange:
    """Mean change of a neuron's activation on the last copy when a head is ablated, with its interval.

    `in_sd` is the change in standard deviations of the activation on the text.
    """

    head: str
    change: float
    low: float | None
    high: float | None
    in_sd: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class DrivingHeads:
    """The heads that move a neuron most, the largest |change| first, out of all that were ablated one by one."""

    method: str
    strongest: list[HeadChange]
    tested: int
    clear: int  # heads whose interval excludes 0
    n_sequences: int


def repetitions(scores: Mapping[str, pl.DataFrame], layer: int, neuron: int) -> list[Repetition]:
    """The neuron's scores by kind of repetition, in the mapping's order; kinds that lack the neuron are left out."""
    found = []
    for kind, table in scores.items():
        here = table.filter(pl.col("layer") == layer)
        own = here.filter(pl.col("neuron") == neuron)
        if not len(own):
            continue
        row = own.row(0, named=True)
        others = here.filter(pl.col("neuron") != neuron)["score"].drop_nulls().to_numpy()
        found.append(Repetition(kind, row, None if row["score"] is None else percentile(others, row["score"])))
    return found


def driving_heads(head_neurons: pl.DataFrame, layer: int, neuron: int, sd: float | None) -> DrivingHeads | None:
    """The heads that move the neuron most, by the first of `METHODS` in the table; None if it lacks the neuron.

    Also None if not all heads of the table were held against it.

    Args:
        head_neurons: table of that name; heads that leave the neuron exactly as it was are counted, but not listed.
        sd: standard deviation of the neuron's activation on the text.
    """
    own = head_neurons.filter((pl.col("neuron_layer") == layer) & (pl.col("neuron") == neuron))
    method = next((name for name in METHODS if name in own["method"]), None)
    every = head_neurons.select("layer", "head").n_unique()
    if method is None or own.select("layer", "head").n_unique() < every:  # the best head alone is no ranking
        return None
    own = own.filter(pl.col("method") == method, pl.col("change").is_not_null()).sort("layer", "head")
    changes = [
        HeadChange(f"{at}.{head}", change, low, high, change / sd if sd else None)
        for at, head, change, low, high in own.select(
            "layer", "head", "change", "change_low", "change_high"
        ).iter_rows()
    ]
    moving = sorted((head for head in changes if head.change != 0), key=lambda head: -abs(head.change))
    return DrivingHeads(
        method=method,
        strongest=moving[:TOP_HEADS],
        tested=len(changes),
        clear=sum(head.clear for head in changes),
        n_sequences=int(own["n_sequences"].max() or 0),
    )
