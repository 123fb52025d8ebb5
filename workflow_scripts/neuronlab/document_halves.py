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
from neuronlab.statistics import Interval, clustered_function_interval, clustered_interval, mediated_fraction
from neuronlab.tables import read_table

Array = np.ndarray


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


def read_sums(shards: Sequence[str | Path], replacement: str, layer: int, neurons: int) -> Sums:
    """The shards' sums of one replacement, documents in order.

    Raises:
        TableError: a shard is truncated or has other columns.
        HalvesError: shards that lack the replacement, or neurons for a document.
    """
    wanted = [f"{outcome}_{variant}_abs" for outcome in OUTCOMES for variant in ("total", "unigram")]
    frames = [
        read_table(path, "ablation_shard")
        .filter(pl.col("replacement") == replacement, pl.col("layer") == layer)
        .select("document", "neuron", "n_tokens", *wanted)
        for path in shards
    ]
    rows = pl.concat(frames).group_by("document", "neuron").sum().sort("document", "neuron")
    documents = rows["document"].unique().sort().to_numpy()
    whole = len(documents) > 0 and np.array_equal(
        rows["neuron"].to_numpy(), np.tile(np.arange(neurons, dtype=np.int32), len(documents))
    )
    if not whole:
        raise HalvesError(
            f"the ablation's shards do not hold replacement '{replacement}' for all {neurons} neurons of layer {layer} "
            "and every document: delete them, run again"
        )
    blocks = {name: rows[name].to_numpy().reshape(len(documents), neurons) for name in ("n_tokens", *wanted)}
    return Sums(documents, blocks.pop("n_tokens")[:, 0], blocks)


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
