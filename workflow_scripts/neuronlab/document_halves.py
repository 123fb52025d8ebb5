"""Two halves of a text's documents, and every neuron's effects on each: select on one, report on the other.

Choosing neurons by their effects and reporting those very effects would be circular (METHODS 0.6). The sums are those
of the ablation's shards, per (neuron, document), so that nothing is computed anew for a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from neuronlab.schemas import OUTCOMES
from neuronlab.statistics import (
    COLUMNS_PER_TILE,
    Interval,
    clustered_function_interval,
    clustered_interval,
    mediated_fraction,
)
from neuronlab.tables import read_table

Array = np.ndarray
SUMS_AT_ONCE = (
    2 * 2**30
)  # bytes of sums per (document, neuron) in memory, twice: with what rounding lost, or with half of them copied


class HalvesError(ValueError):
    """Too few documents to halve, or shards that do not fit."""


@dataclass(frozen=True)
class Sums:
    """Sums per (document, neuron) of one replacement, from the shards."""

    documents: Int[Array, " documents"]
    counts: Int[Array, " documents"]
    columns: dict[str, Float[Array, "documents neurons"]]

    def of(self, documents: Int[Array, " chosen"]) -> Sums:
        """The rows of some documents."""
        rows = np.isin(self.documents, documents)
        return Sums(self.documents[rows], self.counts[rows], {k: v[rows] for k, v in self.columns.items()})

    def te_kl(self) -> Float[Array, " neurons"]:
        """Mean |change of KL(P_freq || P_model)| (nats)."""
        return self.columns["kl_total_abs"].sum(0) / self.counts.sum()

    def m_freq(self, outcome: str, te_floor: float) -> Float[Array, " neurons"]:
        """1 - DE_freq/TE; NaN where TE is not above the floor."""
        total, frozen = (self.columns[f"{outcome}_{variant}_abs"].sum(0) for variant in ("total", "unigram"))
        return mediated_fraction(total / self.counts.sum(), frozen / self.counts.sum(), te_floor)

    def te_kl_interval(self, weights: Float[Array, "resamples documents"], level: float) -> Interval:
        """`te_kl` with its interval."""
        return clustered_interval(self.columns["kl_total_abs"], self.counts, weights, level)

    def m_freq_interval(
        self, outcome: str, te_floor: float, weights: Float[Array, "resamples documents"], level: float
    ) -> Interval:
        """`m_freq` with its interval, TE and DE resampled together."""
        both = tuple(self.columns[f"{outcome}_{variant}_abs"] for variant in ("total", "unigram"))
        return clustered_function_interval(
            lambda total, frozen: mediated_fraction(total, frozen, te_floor), both, self.counts, weights, level
        )


def documents_of(shards: Sequence[str | Path], replacement: str, layer: int) -> Int[Array, " documents"]:
    """Documents that the shards hold sums of, in order.

    Raises:
        TableError: a shard is truncated or has other columns.
        HalvesError: no shard holds the replacement.
    """
    found: set[int] = set()
    for path in shards:
        rows = _rows_of(path, replacement, layer, ())
        found.update(rows["document"].unique().to_list())
    if not found:
        raise _incomplete(replacement, layer)
    return np.array(sorted(found), dtype=np.int32)


def read_sums(
    shards: Sequence[str | Path],
    replacement: str,
    layer: int,
    neurons: int,
    documents: Int[Array, " documents"],
    *,
    part: slice = slice(None),
    outcomes: Sequence[str] = tuple(OUTCOMES),
) -> Sums:
    """The shards' sums of one replacement, documents in order; one shard in memory at a time.

    Additions are compensated (Kahan), so that the order of many shards hardly matters.

    Args:
        neurons: of the layer.
        documents: all that the shards hold (see `documents_of`).
        part: neurons whose sums are kept.
        outcomes: whose sums are kept, beside those that `Sums.te_kl` needs.

    Raises:
        TableError: a shard is truncated or has other columns.
        HalvesError: shards that lack the replacement, or neurons for a document.
    """
    wanted = sum_columns(outcomes)
    shape = (len(documents), len(range(neurons)[part]))
    columns, lost = ({name: np.zeros(shape) for name in wanted} for _ in range(2))
    counts = np.zeros(len(documents), dtype=np.int64)
    for path in shards:
        rows = _rows_of(path, replacement, layer, ("neuron", "n_tokens", *wanted))
        here = rows["document"].unique().sort().to_numpy()
        if not _in_order(rows, here, neurons):
            rows = rows.sort("document", "neuron")
        if not _in_order(rows, here, neurons):
            raise _incomplete(replacement, layer)
        place = np.searchsorted(documents, here)
        counts[place] += rows["n_tokens"].to_numpy().reshape(-1, neurons)[:, 0]
        for name in wanted:
            before = columns[name][place]
            added = rows[name].to_numpy().reshape(-1, neurons)[:, part] - lost[name][place]
            columns[name][place] = after = before + added
            lost[name][place] = (after - before) - added
    return Sums(documents, counts, columns)


def sum_columns(outcomes: Sequence[str]) -> list[str]:
    """Columns of a shard that `Sums` needs for some outcomes."""
    names = [f"{outcome}_{variant}_abs" for outcome in outcomes for variant in ("total", "unigram")]
    return list(dict.fromkeys([*names, "kl_total_abs"]))


def _rows_of(path: str | Path, replacement: str, layer: int, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a shard beside the document, for one replacement."""
    wanted = (pl.col("replacement") == replacement) & (pl.col("layer") == layer)
    read = read_table(path, "ablation_shard", ["replacement", "layer", "document", *columns], rows=wanted)
    return read.drop("replacement", "layer")


def _in_order(rows: pl.DataFrame, documents: Int[Array, " documents"], neurons: int) -> bool:
    """Whether there is a row for every document and, within it, every neuron, in this order."""
    if len(rows) != len(documents) * neurons:
        return False
    document, neuron = (rows[name].to_numpy().reshape(-1, neurons) for name in ("document", "neuron"))
    return bool((document == documents[:, None]).all() and (neuron == np.arange(neurons, dtype=np.int32)).all())


def _incomplete(replacement: str, layer: int) -> HalvesError:
    return HalvesError(
        f"the ablation's shards do not hold replacement '{replacement}' for all neurons of layer {layer} and every "
        "document: delete them, run again"
    )


@dataclass(frozen=True)
class HalvesEffects:
    """Effects of every neuron: means over the selecting half, means with intervals over the reporting half."""

    te_kl: Float[Array, " neurons"]
    m_freq: Float[Array, " neurons"]
    te_kl_report: Interval
    m_freq_report: Interval


def effects_of_halves(
    shards: Sequence[str | Path],
    replacement: str,
    layer: int,
    neurons: int,
    halves: tuple[Array, Array],
    outcome: str,
    *,
    te_floor: float,
    weights: Float[Array, "resamples documents"],
    level: float,
) -> HalvesEffects:
    """What `Sums` tells of both halves, for some neurons at a time where all would be more than `SUMS_AT_ONCE`.

    Neurons do not depend on each other, and parts end where the bootstrap's tiles do: their number changes no bit.

    Args:
        halves: documents that select and documents that report.
        weights: of the bootstrap over those that report.

    Raises:
        TableError, HalvesError: see `read_sums`.
    """
    found = []
    documents = np.sort(np.concatenate(halves))
    for part in parts_of(neurons, len(documents) * len(sum_columns([outcome])) * 8):
        sums = read_sums(shards, replacement, layer, neurons, documents, part=part, outcomes=[outcome])
        first = sums.of(halves[0])
        means = first.te_kl(), first.m_freq(outcome, te_floor)
        del first
        second = sums.of(halves[1])
        del sums
        intervals = second.te_kl_interval(weights, level), second.m_freq_interval(outcome, te_floor, weights, level)
        found.append((*means, *intervals))
    te_kl, m_freq, te_kl_report, m_freq_report = zip(*found, strict=True)
    return HalvesEffects(np.concatenate(te_kl), np.concatenate(m_freq), _joined(te_kl_report), _joined(m_freq_report))


def parts_of(neurons: int, bytes_per_neuron: int) -> list[slice]:
    """Slices of whole tiles of the bootstrap whose sums fit into `SUMS_AT_ONCE`; one tile at least."""
    step = COLUMNS_PER_TILE * max(1, SUMS_AT_ONCE // (COLUMNS_PER_TILE * bytes_per_neuron))
    return [slice(start, min(start + step, neurons)) for start in range(0, neurons, step)]


def _joined(parts: Sequence[Interval]) -> Interval:
    return Interval(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("estimate", "low", "high")))


def split_documents(documents: Int[Array, " documents"], seed: int) -> tuple[Array, Array]:
    """Two halves of the documents by a seeded permutation; an odd one goes to the first, the selection half.

    Raises:
        HalvesError: for fewer than two documents.
    """
    if len(documents) < 2:
        raise HalvesError(
            "token-frequency neurons are selected on half of the documents and reported on the other half, but the "
            "text has only one with counted tokens; use more of it, or leave token_frequency out of "
            "confidence_regulation.parts"
        )
    shuffled = np.random.default_rng([seed, 0]).permutation(np.sort(documents))
    middle = (len(shuffled) + 1) // 2
    return np.sort(shuffled[:middle]), np.sort(shuffled[middle:])
