"""A row of a table, and a value's place among others: what all parts of a neuron card share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Row = dict[str, float | int | str | None]


def percentile(others: Float[np.ndarray, " n"], value: float) -> float:
    """Per cent of the values below `value`, ties counted half: 50 for the middle of a layer."""
    if not len(others):
        return 50.0
    below, equal = float((others < value).sum()), float((others == value).sum())
    return 100.0 * (below + equal / 2) / len(others)
