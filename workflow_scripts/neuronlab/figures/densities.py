"""Densities of samples by a Gaussian kernel, on a grid: small in a picture whatever the size of the sample."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

FEW = 5  # fewer values have no density worth drawing: they are shown one by one
BLOCK = 8192  # values taken at a time, so that memory is grid x block


def bandwidth(values: Float[np.ndarray, " n"]) -> float:
    """Silverman's rule with the smaller of two measures of spread; 0 for values that are all the same.

    The interquartile range keeps a few far values from smoothing away the bulk.
    """
    if len(values) < 2:
        return 0.0
    quartiles = np.quantile(values, [0.25, 0.75])
    spreads = [float(np.std(values, ddof=1)), float(quartiles[1] - quartiles[0]) / 1.349]
    spread = min((s for s in spreads if s > 0), default=0.0)
    return 0.9 * spread * len(values) ** -0.2


def density(values: Float[np.ndarray, " n"], grid: Float[np.ndarray, " g"], width: float) -> Float[np.ndarray, " g"]:
    """Mean over `values` of a normal density with standard deviation `width`, at the points of `grid`.

    Raises:
        ValueError: without values, or with a width that is not positive.
    """
    if not len(values) or not width > 0:
        raise ValueError(f"a density of {len(values)} values with a kernel of width {width:g} does not exist")
    total = np.zeros(len(grid))
    for start in range(0, len(values), BLOCK):
        distance = (grid[:, None] - values[None, start : start + BLOCK]) / width  # [grid, block]
        total += np.exp(-0.5 * distance**2).sum(axis=1)
    return total / (len(values) * width * np.sqrt(2 * np.pi))
