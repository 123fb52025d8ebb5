"""A seeded sample of a text's sequences: what every measure by depth reads, so that all speak of the same tokens."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from neuronlab.final_states import Text


def sample_sequences(text: Text, sequences: int, seed: int) -> Text:
    """The same text with nothing counted outside `sequences` of its sequences; all of them if it has no more.

    Rows stay where they are, so that a place in the text is the same in every table. Only sequences with a counted
    position are drawn.
    """
    useful = np.flatnonzero(text.counted.any(axis=1))
    if sequences >= len(useful):
        if sequences > len(useful):
            print(
                f"the text has {len(useful)} sequences with counted tokens, not {sequences}: all read", file=sys.stderr
            )
        return text
    chosen = np.random.default_rng([seed, 0x7371]).choice(useful, size=sequences, replace=False)
    counted = np.zeros_like(text.counted)
    counted[chosen] = text.counted[chosen]
    return replace(text, counted=counted)
