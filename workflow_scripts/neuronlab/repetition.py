"""What is averaged of repeated sequences: positions that have a next token, at their places, within their documents.

A place is a pair (copy, offset) as in repeats.parquet. A sequence's last position has no next token, hence no loss: it
is averaged nowhere (METHODS A defect 5), and neither is a position outside the copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int

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

    The first and the last copy, the `ends`, are compared at the places that a sequence has in both: in the last copy of
    made repetitions the last token is missing, and with it the first copy's, whose next token opens the repetition and
    cannot be known.
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

    def compared(self) -> Bool[Array, "ends sequences position"]:
        """For the first and the last copy, the positions at which they are compared."""
        copy, offset = (np.append(self.places[:, i], -1)[self.place] for i in (0, 1))  # place -1: copy -1
        found = np.stack([copy == end for end in self.ends])
        for row in range(len(copy)):
            both = set.intersection(*(set(offset[row, there[row]]) for there in found))
            found[:, row] &= np.isin(offset[row], list(both))
        return found

    def over_documents(self, values: Float64[Array, "sequences ..."]) -> Float64[Array, "documents ..."]:
        """Sums over the sequences of each document."""
        sums = np.zeros((self.documents, *values.shape[1:]))
        np.add.at(sums, self.document, values)
        return sums
