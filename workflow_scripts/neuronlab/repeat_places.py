"""The table "repeats" as arrays: which position of which sequence is which place of which copy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from neuronlab.tables import read_table

Array = np.ndarray


@dataclass(frozen=True)
class Repeats:
    """Sequences with repeated tokens, see `repeats`.

    Attributes:
        tokens: token ids.
        document: document of every sequence, the cluster of the bootstrap.
        copy: copy that a position belongs to, 0 the first, -1 none.
        offset: place within the copy.
        continues: whether what follows the last repetition's prefix is what followed the first.
        sequence: its number in repeats.parquet, whichever of the sequences these are.
    """

    tokens: Int[Array, "sequences position"]
    document: Int[Array, " sequences"]
    copy: Int[Array, "sequences position"]
    offset: Int[Array, "sequences position"]
    continues: Bool[Array, " sequences"]
    sequence: Int[Array, " sequences"]

    @classmethod
    def read(cls, path: str | Path) -> Repeats:
        """Read repeats.parquet; without a row, arrays of no sequences and no positions."""
        frame = read_table(path, "repeats").sort("sequence")
        n = len(frame)
        lists = {
            name: np.array(frame[name].to_list(), dtype=np.int64).reshape(n, -1 if n else 0)
            for name in ("tokens", "copy", "offset")
        }
        rest = {name: frame[name].to_numpy() for name in ("document", "continues", "sequence")}
        return cls(**lists, **rest)

    @classmethod
    def of_stretches(
        cls, rows: Int[Array, "sequences position"], copy: Int[Array, " position"], offset: Int[Array, " position"]
    ) -> Repeats:
        """Sequences of one layout whose copies are equal, each a document of its own."""
        n = len(rows)
        alike = (np.tile(row, (n, 1)) for row in (copy, offset))
        return cls(rows, np.arange(n), *alike, continues=np.ones(n, dtype=bool), sequence=np.arange(n))

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, rows: slice | Int[Array, " rows"]) -> Repeats:
        """Some of the sequences."""
        return Repeats(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def last_copy(self) -> int:
        """Number of the last copy; -1 without a sequence."""
        return int(self.copy.max(initial=-1))

    def places(self) -> tuple[Int[Array, "places 2"], Int[Array, "sequences position"]]:
        """All (copy, offset) that occur, in order, and the index of every position's place there; -1 outside."""
        inside = self.copy >= 0
        pairs = np.stack([self.copy[inside], self.offset[inside]], axis=-1)
        found, which = np.unique(pairs, axis=0, return_inverse=True)
        index = np.full(self.copy.shape, -1, dtype=np.int64)
        index[inside] = which.ravel()
        return found, index

    def clusters(self) -> Int[Array, " sequences"]:
        """The sequences' documents numbered from 0."""
        return np.unique(self.document, return_inverse=True)[1].ravel()
