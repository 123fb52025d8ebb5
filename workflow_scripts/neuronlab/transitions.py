"""How labels move from the clean model to every variant, and what the entropy does on the way (METHODS B4)."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Float64, Int, Int64, Shaped

from neuronlab.conversions import CELLS, MEASURES, place_among, score_counts
from neuronlab.copying_frames import frame_of
from neuronlab.fact_bootstrap import FactBootstrap, columns_of, divide
from neuronlab.schemas_knowledge import COPYING_VARIANT
from neuronlab.statistics import Interval

Array = np.ndarray
IDENTITY = tuple(COPYING_VARIANT)


def cells(labels: Int[Array, "variants prompts"], variant: int) -> Int64[Array, " prompts"]:
    """Each prompt's cell of the flat 3x3 table: 3 x label under the clean model (variant 0) + label under `variant`."""
    return 3 * labels[0].astype(np.int64) + labels[variant]


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
        changes[row] = np.bincount(cell, entropy[variant] - entropy[0], minlength=9)
    return counts, changes


def repeat_rows(frame: pl.DataFrame, times: int) -> pl.DataFrame:
    """Every row so many times in a row."""
    return frame[np.repeat(np.arange(len(frame)), times)]


def blank(rows: int, columns: int) -> Interval:
    """Room for intervals, all missing."""
    return Interval(*(np.full((rows, columns), np.nan) for _ in range(3)))


def store(into: Interval, row: int, found: Interval) -> None:
    """Put the ends of an interval into a row; the estimate is there already."""
    into.low[row], into.high[row] = found.low, found.high


def score_variants(
    labels: Int[Array, "variants prompts"],
    entropy: Float64[Array, "variants prompts"],
    variants: pl.DataFrame,
    bootstrap: FactBootstrap,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables "transitions" and "copying_scores" of the given variants; intervals for selections only.

    Args:
        labels: 0, 1, 2 for CK, ND, PK; the clean model first.
        entropy: at the prompt's end (nats).
        variants: rows of table "variants", the clean one and the clamped ones left out.
    """
    chosen = variants["variant"].to_numpy()
    counts, summed = count_cells(labels, entropy, chosen)
    counted, eligible = score_counts(counts)
    scores = Interval(divide(counted, eligible), *(blank(len(chosen), len(MEASURES)).low for _ in range(2)))
    changes = Interval(divide(summed, counts), *(blank(len(chosen), 9).low for _ in range(2)))
    for row in np.flatnonzero(variants["kind"] == "selection"):
        cell = cells(labels, chosen[row])
        member = np.eye(9)[cell]
        change = entropy[chosen[row]] - entropy[0]
        sums = bootstrap.sums(np.concatenate([member, member * change[:, None]], axis=1))
        store(scores, row, bootstrap.shares(score_counts, sums[:, :9]))
        store(changes, row, bootstrap.interval(lambda rows: divide(rows[:, 9:], rows[:, :9]), sums))
    n_prompts = {"n_prompts": pl.lit(labels.shape[1], pl.Int64), "n_facts": pl.lit(bootstrap.n_facts, pl.Int64)}
    identity = variants.select(IDENTITY)
    n_shares = len(CELLS)
    transitions = repeat_rows(identity, n_shares).with_columns(
        before=_cycle([before for before, _ in CELLS], len(chosen)),
        after=_cycle([after for _, after in CELLS], len(chosen)),
        n_before=_flat(eligible[:, -n_shares:].astype(np.int64)),
        n=_flat(counts),
        **_interval("share", Interval(*(part[:, -n_shares:] for part in (scores.estimate, scores.low, scores.high)))),
        **_interval("entropy_change", changes),
    )
    table = repeat_rows(identity, len(MEASURES)).with_columns(
        **n_prompts,
        measure=_cycle(MEASURES, len(chosen)),
        n_eligible=_flat(eligible.astype(np.int64)),
        n=_flat(counted.astype(np.int64)),
        **_interval("value", scores),
    )
    return transitions, table


def _flat(values: Shaped[Array, "rows columns"]) -> pl.Series:
    return pl.Series(values.ravel())


def _cycle(names: list[str] | tuple[str, ...], times: int) -> pl.Series:
    return pl.Series(list(names) * times, dtype=pl.String)


def _interval(name: str, interval: Interval) -> dict[str, pl.Series]:
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
