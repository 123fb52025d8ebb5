"""What a neuron card tells about the neuron held at a value: curves of entropy and loss. No HTML here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

OUTCOMES = ("entropy", "loss")

Values = Float[np.ndarray, " values"]


@dataclass(frozen=True)
class Curve:
    """Mean change of an outcome (nats) against the clamped value, with its interval.

    NaN where missing; `direct` is the change with the final norm's scale frozen; `at_mean` the total change, by
    linear interpolation, where the neuron is held at its mean activation (None if that lies outside of the grid).
    """

    outcome: str
    total: Values
    low: Values
    high: Values
    direct: Values
    at_mean: float | None


@dataclass(frozen=True)
class Doses:
    """A neuron's rows of `dose_response`, by rising value."""

    values: Values
    curves: list[Curve]
    mean: float | None
    n_tokens: int
    n_documents: int


def doses(dose_response: pl.DataFrame, layer: int, neuron: int, mean: float | None) -> Doses | None:
    """The curves of a neuron; None where the table lacks it.

    Args:
        mean: the neuron's mean activation on the text, if known.
    """
    own = dose_response.filter((pl.col("layer") == layer) & (pl.col("neuron") == neuron))
    own = own.unique("value", keep="first", maintain_order=True).sort("value")
    if not len(own):
        return None
    values = own["value"].to_numpy()
    inside = mean is not None and values[0] <= mean <= values[-1]
    curves = []
    for outcome in OUTCOMES:
        total, low, high, direct = (
            own[f"{outcome}_change{end}"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            for end in ("", "_low", "_high", "_direct")
        )
        if np.isnan(total).all():
            continue
        at_mean = float(np.interp(mean, values, total)) if mean is not None and inside else None
        known = at_mean is not None and np.isfinite(at_mean)
        curves.append(Curve(outcome, total, low, high, direct, at_mean if known else None))
    return Doses(values, curves, mean, int(own["n_tokens"].max()), int(own["n_documents"].max()))
