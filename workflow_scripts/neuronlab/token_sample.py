"""A seeded sample of a text's counted tokens, whole sequences as far as possible, so that forward passes are few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from neuronlab.final_states import Setup

Array = np.ndarray


def sample_counted(
    counted: Bool[Array, "sequences position"], tokens: int | None, seed: int
) -> Bool[Array, "sequences position"]:
    """Exactly `tokens` of the counted positions, or all of them where there are no more.

    Sequences are taken in an order drawn by the seed; of the last one, only as many positions as are still wanted.

    Args:
        tokens: how many; all for None.
    """
    if tokens is None or counted.sum() <= tokens:
        return counted
    generator = np.random.default_rng(seed)
    chosen, missing = np.zeros_like(counted), tokens
    for sequence in generator.permutation(len(counted)):
        positions = np.flatnonzero(counted[sequence])
        if len(positions) > missing:
            positions = generator.choice(positions, missing, replace=False)
        chosen[sequence, positions] = True
        missing -= len(positions)
        if not missing:
            break
    return chosen


def spread_counted(
    counted: Bool[Array, "sequences position"], tokens: int, sequences: int, seed: int
) -> Bool[Array, "sequences position"]:
    """Exactly `tokens` of the counted positions, of `sequences` sequences at least where so many have some.

    Each sequence, in an order drawn by the seed, gives its share, at random places; where some have less than that,
    all give once more.
    """
    generator = np.random.default_rng([seed, 0x7370])
    share = max(1, tokens // sequences)
    row, position = np.nonzero(counted)
    shuffled = generator.permutation(len(row))
    row, position = row[shuffled], position[shuffled]
    grouped = np.argsort(row, kind="stable")
    row, position = row[grouped], position[grouped]
    place = np.arange(len(row)) - np.searchsorted(row, row)  # among the sequence's positions
    turn = generator.permutation(len(counted))
    order = np.lexsort((place, turn[row], place // share))[:tokens]
    chosen = np.zeros_like(counted)
    chosen[row[order], position[order]] = True
    return chosen


def with_sample(setup: Setup, tokens: int | None, seed: int) -> Setup:
    """The same setup, counting only the positions of `sample_counted`."""
    counted = sample_counted(setup.text.counted, tokens, seed)
    return replace(setup, text=replace(setup.text, counted=counted))
