"""What the optional parts of the study add to a neuron card: missing where the table is, or lacks the neuron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from neuronlab.cards_doses import Doses, doses
from neuronlab.cards_induction import DrivingHeads, Repetition, driving_heads, repetitions
from neuronlab.cards_ranks import Row


@dataclass(frozen=True)
class Studies:
    """One neuron in the optional parts.

    `frequency` is its row of `token_frequency`, `temperature` the row of its own ablation, alone, in `temperature`.
    """

    frequency: Row | None = None
    frequency_outcome: str | None = None
    temperature: Row | None = None
    doses: Doses | None = None
    repetitions: list[Repetition] = field(default_factory=list)
    heads: DrivingHeads | None = None


def _row(table: pl.DataFrame | None, where: pl.Expr) -> Row | None:
    rows = table.filter(where) if table is not None else pl.DataFrame()
    return rows.row(0, named=True) if len(rows) else None


@dataclass(frozen=True)
class StudyTables:
    """Tables of the parts that were made; `scores` by kind of repetition, `temperature` of one replacement value.

    `frequency_outcome` names the effect that `m_freq` is about.
    """

    token_frequency: pl.DataFrame | None = None
    frequency_outcome: str | None = None
    temperature: pl.DataFrame | None = None
    dose_response: pl.DataFrame | None = None
    head_neurons: pl.DataFrame | None = None
    scores: Mapping[str, pl.DataFrame] = field(default_factory=dict)

    def of(self, layer: int, neuron: int, activation: Row | None) -> Studies:
        """What they tell about a neuron.

        Args:
            activation: the neuron's row of `activation_statistics`, for its mean and standard deviation.
        """
        mean, sd = (activation or {}).get("mean"), (activation or {}).get("sd")
        single = (pl.col("kind") == "single") & (pl.col("set") == f"{layer}.{neuron}")
        return Studies(
            frequency=_row(self.token_frequency, (pl.col("layer") == layer) & (pl.col("neuron") == neuron)),
            frequency_outcome=self.frequency_outcome,
            temperature=_row(self.temperature, single),
            doses=None if self.dose_response is None else doses(self.dose_response, layer, neuron, mean),
            repetitions=repetitions(self.scores, layer, neuron),
            heads=None if self.head_neurons is None else driving_heads(self.head_neurons, layer, neuron, sd),
        )
