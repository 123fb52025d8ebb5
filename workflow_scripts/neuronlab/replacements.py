"""What an activation is replaced by: one parser for `ablation.replacements`, one function for the values.

    mean, zero, median, mode, min, max      of the neuron's activations over the counted positions
    mean-3sd, mean+0.5sd                    any multiple, clipped to the range that was observed
    constant:1.5                            any number
    position_mean                           mean over the counted tokens at that position
    resample                                the activation at another counted position (see `Donors`)

Which population a mean is taken over is part of the result (METHODS 0.6): here always the counted positions, the same
ones that effects are measured at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

Array = np.ndarray
STATISTICS = ("mean", "median", "mode", "min", "max")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_DEVIATIONS = re.compile(r"mean([+-])(\d+\.?\d*|\.\d+)sd")
_CONSTANT = re.compile(rf"constant:({_NUMBER})")


class ReplacementError(ValueError):
    """An entry of `ablation.replacements` that means nothing, or statistics that do not serve it."""


@dataclass(frozen=True)
class Replacement:
    """One parsed entry.

    Attributes:
        name: as configured; the key in every table.
        kind: a name of `STATISTICS`, "constant", "deviations", "position_mean" or "resample".
        number: the constant, or the signed number of standard deviations.
    """

    name: str
    kind: str
    number: float = 0.0


def parse_replacement(name: str) -> Replacement:
    """Parse one entry of `ablation.replacements`.

    Raises:
        ReplacementError: naming the entry and what there is.
    """
    if name in STATISTICS or name in ("position_mean", "resample"):
        return Replacement(name, name)
    if name == "zero":
        return Replacement(name, "constant", 0.0)
    if match := _DEVIATIONS.fullmatch(name):
        return Replacement(name, "deviations", float(match[1] + match[2]))
    if match := _CONSTANT.fullmatch(name):
        return Replacement(name, "constant", float(match[1]))
    raise ReplacementError(
        f"ablation.replacements: '{name}' is no replacement; there are {', '.join(STATISTICS)}, zero, mean-3sd, "
        "mean+3sd (any multiple), constant:1.5 (any number), position_mean and resample"
    )


def parse_replacements(names: Sequence[str]) -> list[Replacement]:
    """Parse all entries.

    Raises:
        ReplacementError: for an entry that means nothing, one that occurs twice, or none at all.
    """
    if not names:
        raise ReplacementError("ablation.replacements is empty; name at least one, such as mean")
    if len(set(names)) != len(names):
        raise ReplacementError(f"ablation.replacements: {list(names)} names one of them twice")
    return [parse_replacement(name) for name in names]


@dataclass(frozen=True)
class ActivationStatistics:
    """Statistics of one layer's neurons, from activation_statistics.parquet; arrays over neurons."""

    mean: Float[Array, " neurons"]
    sd: Float[Array, " neurons"]
    median: Float[Array, " neurons"]
    mode: Float[Array, " neurons"]
    min: Float[Array, " neurons"]
    max: Float[Array, " neurons"]
    position_means: Float[Array, "neurons positions"]

    @classmethod
    def of_layer(cls, frame: pl.DataFrame, layer: int, neurons: int) -> ActivationStatistics:
        """The rows of `layer`, in order of neuron.

        Raises:
            ReplacementError: if the layer has no statistics, or not of all its neurons.
        """
        rows = frame.filter(pl.col("layer") == layer).sort("neuron")
        if rows["neuron"].to_list() != list(range(neurons)):
            raise ReplacementError(
                f"activation statistics: layer {layer} has {len(rows)} of {neurons} neurons; "
                "put -1, the last layer, into ablation.statistics_layers"
            )
        plain = {name: rows[name].to_numpy() for name in ("mean", "sd", "median", "mode", "min", "max")}
        return cls(**plain, position_means=_matrix(rows["position_means"]))

    def values(
        self,
        replacement: Replacement,
        positions: Int[Array, " tokens"],
        donated: Float[Array, "tokens neurons"] | None = None,
    ) -> Float[Array, "tokens neurons"]:
        """What the activations at `positions` are replaced by; float64, may be a read-only view.

        Args:
            donated: activations at the donor positions, for "resample".

        Raises:
            ReplacementError: "resample" without donors, or a position that no mean was taken over.
        """
        shape = (len(positions), len(self.mean))
        if replacement.kind == "resample":
            if donated is None or donated.shape != shape:
                raise ReplacementError("replacement 'resample' needs the activations of the donor positions")
            return donated
        if replacement.kind == "position_mean":
            means = self.position_means[:, positions].T
            if not np.isfinite(means).all():
                raise ReplacementError("replacement 'position_mean': a position has no mean; the texts differ")
            return means
        if replacement.kind == "constant":
            return np.broadcast_to(np.float64(replacement.number), shape)
        if replacement.kind == "deviations":
            return np.broadcast_to(np.clip(self.mean + replacement.number * self.sd, self.min, self.max), shape)
        return np.broadcast_to(getattr(self, replacement.kind), shape)


def _matrix(lists: pl.Series) -> Float[Array, "rows columns"]:
    """Lists of one length as an array, nulls as NaN; not by way of Python's numbers, which take much memory."""
    return lists.explode().cast(pl.Float64).to_numpy().reshape(len(lists), -1)


@dataclass(frozen=True)
class Donors:
    """For every counted position another one, whose activation replaces it under "resample".

    Sequences lend to one another in one seeded cycle; within the lending sequence every position is drawn anew. So the
    donors of a sequence lie in one other sequence, whatever batch or shard it is in, and none is its own donor.

    Attributes:
        sequence: lending sequence of every sequence.
        position: lending position of every counted position, -1 elsewhere.
    """

    sequence: Int[Array, " sequences"]
    position: Int[Array, "sequences position"]


def draw_donors(counted: Bool[Array, "sequences position"], seed: int) -> Donors:
    """Draw donors among the counted positions.

    Raises:
        ReplacementError: if there is but one counted position.
    """
    if counted.sum() < 2:
        raise ReplacementError("replacement 'resample' needs at least two counted positions; use more text")
    generator = np.random.default_rng([seed, 0x7265])
    lenders = generator.permutation(np.flatnonzero(counted.any(1)))
    lending = np.zeros(len(counted), dtype=np.int64)
    lending[lenders] = np.roll(lenders, 1)
    position = np.full(counted.shape, -1, dtype=np.int64)
    for sequence in np.flatnonzero(counted.any(1)):
        own, there = np.flatnonzero(counted[sequence]), np.flatnonzero(counted[lending[sequence]])
        if lending[sequence] != sequence:
            position[sequence, own] = generator.choice(there, len(own))
        else:  # a single sequence lends to itself, from another position
            position[sequence, own] = there[
                (np.arange(len(own)) + generator.integers(1, len(own), len(own))) % len(own)
            ]
    return Donors(lending, position)
