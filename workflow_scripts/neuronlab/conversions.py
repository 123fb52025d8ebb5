"""Scores of a 3x3 table of labels before and after ablation, and their place among controls (METHODS B4).

Rows are labels under the clean model, columns labels under the ablated one, both in the order CK, ND, PK. Every score
is a count over a count, each by its own formula; where nothing is eligible it is missing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Num

from neuronlab.schemas_knowledge import LABELS
from neuronlab.statistics import rank_p_value

Array = np.ndarray
CELLS = tuple((before, after) for before in LABELS for after in LABELS)  # in the order of a flat 3x3 table
SHARES = tuple(f"ts_{before}_{after}".lower() for before, after in CELLS)
MEASURES = ("gts", "invariance", *(f"cr_{label}".lower() for label in LABELS), *SHARES)
# Of these, less says that the ablation does more: labels that stay.
STAYING = frozenset({"invariance", *(f"ts_{label}_{label}".lower() for label in LABELS)})


def score_counts(
    counts: Num[Array, "... nine"],
) -> tuple[Float64[Array, "... measures"], Float64[Array, "... measures"]]:
    """For every measure in `MEASURES`, how many prompts it counts, and of how many.

    GTS = mean 1[K != K'];  CR(K) = |{K(x) != K, K'(x) = K}| / |{K(x) != K}|;  TS(K, K') = |{K -> K'}| / |{K}|.

    Args:
        counts: flat 3x3 tables, `CELLS` last; counts, or weighted counts of a resample.
    """
    table = np.asarray(counts, np.float64).reshape(*counts.shape[:-1], 3, 3)
    total = table.sum(axis=(-1, -2))
    stay = np.trace(table, axis1=-2, axis2=-1)
    before, after = table.sum(axis=-1), table.sum(axis=-2)
    kept = np.diagonal(table, axis1=-2, axis2=-1)
    counted = np.concatenate(
        [(total - stay)[..., None], stay[..., None], after - kept, table.reshape(*table.shape[:-2], 9)], axis=-1
    )
    eligible = np.concatenate(
        [total[..., None], total[..., None], total[..., None] - before, np.repeat(before, 3, axis=-1)], axis=-1
    )
    return counted, eligible


class Place(NamedTuple):
    """Where a value stands among its controls; None where that is undefined."""

    n_controls: int
    control_mean: float | None
    control_sd: float | None
    control_max: float | None
    p_value: float | None
    percentile: float | None


def place_among(value: float, controls: Float64[Array, " controls"], measure: str) -> Place:
    """The place of a selection's value among its control sets.

    p = (1 + b) / (1 + n), b of n controls at least as large, or as small for what stays the same. The percentile is
    the share of controls that are smaller, or larger for what stays, and half of those that are equal: a score and
    what is left of it to 1 have the same (METHODS B4; the published Q-value counts ties otherwise, and neither is a
    false discovery rate, METHODS 0.6). Controls without a value, NaN, are left out.
    """
    controls = controls[~np.isnan(controls)]
    if not len(controls):
        return Place(0, None, None, None, None, None)
    p_value = percentile = None
    if not np.isnan(value):
        stays = measure in STAYING
        p_value = float(rank_p_value(np.asarray(value), controls, "less" if stays else "greater"))
        beyond = (controls > value if stays else controls < value).sum()
        percentile = float(100 * (beyond + (controls == value).sum() / 2) / len(controls))
    return Place(
        len(controls),
        float(controls.mean()),
        float(controls.std(ddof=1)) if len(controls) > 1 else None,
        float(controls.max()),
        p_value,
        percentile,
    )
