"""Which part of a text's tokens traces.parquet holds: told by the table's provenance where it is not the whole text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from neuronlab.tables import read_provenance

KEY = "sample"  # of the provenance


@dataclass(frozen=True)
class TracedSample:
    """How much of a text is traced.

    Attributes:
        tokens: that are traced.
        of_tokens: that count in the text.
        sequences: that hold the traced tokens.
        of_sequences: that hold all that count.
    """

    tokens: int
    of_tokens: int
    sequences: int
    of_sequences: int

    @classmethod
    def of(
        cls, counted: Bool[np.ndarray, "sequences position"], traced: Bool[np.ndarray, "sequences position"]
    ) -> TracedSample | None:
        """None where all that counts is traced."""
        if traced.sum() == counted.sum():
            return None
        drawn, there = (int(places.any(axis=1).sum()) for places in (traced, counted))
        return cls(int(traced.sum()), int(counted.sum()), drawn, there)

    def record(self) -> dict[str, int]:
        """As the provenance has it."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} of {self.of_tokens:,} counted tokens "
            f"({self.sequences:,} of {self.of_sequences:,} sequences, drawn by the seed)"
        )


def sample_of(traces: str | Path) -> TracedSample | None:
    """What traces.parquet is a sample of; None where it holds the whole text."""
    record = read_provenance(traces).get(KEY)
    return TracedSample(**record) if record else None
