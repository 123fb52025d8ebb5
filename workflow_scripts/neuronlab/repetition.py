"""What is averaged of repeated sequences: positions that have a next token, at their places, within their documents.

A place is a pair (copy, offset) as in repeats.parquet. A sequence's last position has no next token, hence no loss: it
is averaged nowhere (METHODS, A defect 5), and neither is a position outside the copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int

from neuronlab.ablation import AblationError
from neuronlab.final_states import Text
from neuronlab.repeat_places import Repeats

Array = np.ndarray


@dataclass(frozen=True)
class Repetition:
    """Repeated sequences, numbered from 0.

    Attributes:
        text: the sequences, with the averaged positions counted.
        document: cluster of every sequence, numbered from 0 without gaps.
        places: copy and offset of every place, in order.
        place: index into `places` of every position, -1 where it is not averaged.
    """

    text: Text
    document: Int[Array, " sequences"]
    places: Int[Array, "places 2"]
    place: Int[Array, "sequences position"]

    @classmethod
    def read(cls, path: str | Path) -> Repetition:
        """Read a table "repeats". Without rows, or without a position in a copy, there are no places.

        Raises:
            AblationError: if a place occurs twice in a sequence.
        """
        repeats = Repeats.read(path)
        copy = repeats.copy.copy()
        copy[:, -1:] = -1
        places, place = replace(repeats, copy=copy).places()
        for row in place:
            if len(np.unique(row[row >= 0])) < (row >= 0).sum():
                raise AblationError(f"{path}: a place (copy, offset) occurs twice in a sequence; make the table again")
        documents = np.broadcast_to(repeats.document[:, None], copy.shape)
        return cls(Text(repeats.tokens, documents, place >= 0), repeats.clusters(), places, place)

    @property
    def documents(self) -> int:
        """Number of documents, the clusters of the bootstrap."""
        return int(self.document.max(initial=-1)) + 1

    @property
    def ends(self) -> list[int]:
        """The first and the last copy; one number if there is but one copy, none without places."""
        return sorted({int(copy) for copy in self.places[[0, -1], 0]}) if len(self.places) else []

    def places_of(self, copy: int) -> Int[Array, " sequences"]:
        """How many places of a copy every sequence has."""
        belongs = np.append(self.places[:, 0] == copy, False)  # the last one stands for -1, no place
        return belongs[self.place].sum(axis=1)

    def over_documents(self, values: Float64[Array, "sequences ..."]) -> Float64[Array, "documents ..."]:
        """Sums over the sequences of each document."""
        sums = np.zeros((self.documents, *values.shape[1:]))
        np.add.at(sums, self.document, values)
        return sums
