"""Variants of a model that differ in what a set of last-layer activations is held at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

CLEAN = 0  # the variant in which nothing is replaced


@dataclass(frozen=True)
class VariantGroup:
    """Variants that replace the same neurons, each by a vector of constants.

    Attributes:
        neurons: their indices in the last layer.
        variants: the variants' numbers, none of them `CLEAN`.
        values: what each variant holds the activations at.
        draw: None, or the number of a synthetic control: what the neurons write is turned to random directions of the
            same joint norm and the same effect on the final norm's scale.
    """

    neurons: tuple[int, ...]
    variants: Int[np.ndarray, " variants"]
    values: Float64[np.ndarray, "variants k"]
    draw: int | None = None
