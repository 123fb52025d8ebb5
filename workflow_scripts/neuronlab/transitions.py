"""How labels move from the clean model to every variant, and what the entropy does on the way (METHODS B4)."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Float64, Int, Int64

from neuronlab.conversions import CELLS, MEASURES, place_among, score_counts
from neuronlab.copying_frames import frame_of
from neuronlab.fact_bootstrap import FactBootstrap, columns_of, divide, without_ends
from neuronlab.schemas_knowledge import COPYING_VARIANT
from neuronlab.statistics import Interval
from neuronlab.variant_groups import CLEAN

Array = np.ndarray
IDENTITY = tuple(COPYING_VARIANT)


def cells(labels: Int[Array, "variants prompts"], variant: int) -> Int64[Array, " prompts"]:
    """Each prompt's cell of the flat 3x3 table: 3 x label under the clean model + label under `variant`."""
    return 3 * labels[CLEAN].astype(np.int64) + labels[variant]


def count_cells(
    labels: Int[Array, "variants prompts"],
    entropy: Float64[Array, "variants prompts"],
    chosen: Int[Array, " rows"],
) -> tuple[Int64[Array, "rows nine"], Float64[Array, "rows nine"]]:
    """Prompts in every cell, and the summed change of their entropy (nats, after minus before), per chosen variant."""
    counts = np.zeros((len(chosen), 9), np.int64)
    changes = np.zeros((len(chosen), 9))
    for row, variant in enumerate(chosen):
        cell = cells(labels, variant)
        counts[row] = np.bincount(cell, minlength=9)
        changes[row] = np.bincount(cell, entropy[variant] - entropy[CLEAN], minlength=9)
    return counts, changes


def score_variants(
    labels: Int[Array, "variants prompts"],
    entropy: Float64[Array, "variants prompts"],
    variants: pl.DataFrame,
    bootstrap: FactBootstrap,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables "transitions" and "copying_scores" of the given variants; intervals for selections only.

    Args:
        labels: places in `LABELS`; the clean model first.
        entropy: at the prompt's end (nats).
        variants: rows of table "variants", the clean one and the clamped ones left out.
    """
    chosen = variants["variant"].to_numpy()
    counts, summed = count_cells(labels, entropy, chosen)
    counted, eligible = score_counts(counts)
    scores, changes = without_ends(divide(counted, eligible)), without_ends(divide(summed, counts))
    for row in np.flatnonzero(variants["kind"] == "selection"):
        member = np.eye(len(CELLS))[cells(labels, chosen[row])]
        change = entropy[chosen[row]] - entropy[CLEAN]
        sums = bootstrap.sums(np.concatenate([member, member * change[:, None]], axis=1))
        share = bootstrap.shares(score_counts, sums[:, : len(CELLS)])
        mean = bootstrap.interval(lambda rows: divide(rows[:, len(CELLS) :], rows[:, : len(CELLS)]), sums)
        for into, found in ((scores, share), (changes, mean)):
            into.low[row], into.high[row] = found.low, found.high

    n_cells, n_measures = len(CELLS), len(MEASURES)
    identity = variants.select(IDENTITY)
    # The shares of one class are the last of the measures, in the order of the cells.
    shares = Interval(*(part[:, -n_cells:] for part in (scores.estimate, scores.low, scores.high)))
    transitions = identity[np.repeat(np.arange(len(chosen)), n_cells)].with_columns(
        before=pl.Series([before for before, _ in CELLS] * len(chosen), dtype=pl.String),
        after=pl.Series([after for _, after in CELLS] * len(chosen), dtype=pl.String),
        n_before=pl.Series(eligible[:, -n_cells:].ravel(), dtype=pl.Float64).cast(pl.Int64),
        n=pl.Series(counts.ravel(), dtype=pl.Int64),
        **_series("share", shares),
        **_series("entropy_change", changes),
    )
    table = identity[np.repeat(np.arange(len(chosen)), n_measures)].with_columns(
        n_prompts=pl.lit(labels.shape[1], pl.Int64),
        n_facts=pl.lit(bootstrap.n_facts, pl.Int64),
        measure=pl.Series(MEASURES * len(chosen), dtype=pl.String),
        n_eligible=pl.Series(eligible.ravel(), dtype=pl.Float64).cast(pl.Int64),
        n=pl.Series(counted.ravel(), dtype=pl.Float64).cast(pl.Int64),
        **_series("value", scores),
    )
    return transitions, table


def _series(name: str, interval: Interval) -> dict[str, pl.Series]:
    return {
        column: pl.Series(values.ravel(), dtype=pl.Float64).fill_nan(None)
        for column, values in columns_of(name, interval).items()
    }


def rank_among_controls(scores: pl.DataFrame) -> pl.DataFrame:
    """Table "control_tests": every selection's value among its controls of each kind with the same replacement.

    Args:
        scores: table "copying_scores".
    """
    keys = ("control_of", "kind", "replacement", "measure")
    controls = {
        key: frame["value"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for key, frame in scores.filter(pl.col("kind") != "selection").group_by(*keys, maintain_order=True)
    }
    kinds = list(dict.fromkeys((of, kind) for of, kind, _, _ in controls))
    rows = []
    for row in scores.filter(pl.col("kind") == "selection").iter_rows(named=True):
        name, replacement, measure = row["set"], row["replacement"], row["measure"]
        value = np.nan if row["value"] is None else row["value"]
        for kind in (kind for of, kind in kinds if of == name):
            place = place_among(value, controls.get((name, kind, replacement, measure), np.empty(0)), measure)
            own = {"set": name, "replacement": replacement, "measure": measure, "controls": kind, "value": value}
            rows.append(own | place._asdict())
    return frame_of(rows, "control_tests")
