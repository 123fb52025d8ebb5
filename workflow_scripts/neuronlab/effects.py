"""Rule `summarize_effects`: mean effects per neuron from the shards' sums, with intervals (METHODS A2, A3, 0.6).

Documents are resampled, and every mean of a neuron comes from the same resample: TE, DE and what is made of both belong
together. Beside the papers' 1 - DE/TE of mean absolute effects stand the signed natural direct and indirect effects and
their interaction, which add up to the mean total effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from neuronlab.schemas import OUTCOMES
from neuronlab.statistics import Interval, bootstrap_weights, clustered_function_interval, mediated_fraction
from neuronlab.tables import Provenance, read_provenance, read_table, write_table

Array = np.ndarray
KEYS = ("replacement", "layer", "neuron")
SUMS_AT_ONCE = 4 * 2**30  # bytes of rows in memory; computing takes about three times as many
UNPACKED = 1.3  # bytes of a row in memory for each in a shard's file, at least


class EffectsError(ValueError):
    """Shards that hold nothing, or do not belong together."""


def summarize_effects(
    *,
    shards: Sequence[str | Path],
    effects: str | Path,
    resamples: int = 1000,
    level: float = 0.95,
    te_floor: float = 1e-6,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write effects.parquet from the tables "ablation_shard".

    Args:
        te_floor: 1 - DE/TE is missing where TE is not above this (nats).

    Raises:
        TableError: a shard is truncated or has other columns: named, with the remedy.
        EffectsError: no shard holds a token, or shards were made with different kernels.
    """
    found = []
    for sums in _in_parts([Path(path) for path in shards]):
        found.append(effects_frame(sums, resamples=resamples, level=level, te_floor=te_floor, seed=seed))
    if not found:
        raise EffectsError("no shard holds a counted token; use more text")
    write_table(pl.concat(found).sort(KEYS), effects, "effects", provenance)


def _in_parts(shards: Sequence[Path]) -> Iterator[pl.DataFrame]:
    """The shards' rows together, for some neurons at a time: as many as `SUMS_AT_ONCE` allows, usually all.

    Every part reads all shards, one after the other; neurons do not depend on each other.

    Raises:
        TableError, EffectsError: see `summarize_effects`.
    """
    size = UNPACKED * sum(path.stat().st_size for path in shards if path.exists())
    parts = max(1, math.ceil(size / SUMS_AT_ONCE))
    for part in range(parts):
        rows = None if parts == 1 else pl.col("neuron") % parts == part
        frame = pl.concat([read_table(path, "ablation_shard", rows=rows) for path in shards])
        made_by = {read_provenance(path).get("kernel") for path in shards}
        if len(made_by) > 1:
            raise EffectsError(
                f"shards were made by different kernels {sorted(map(str, made_by))}: delete them, run again"
            )
        if len(frame):
            yield frame


def effects_frame(
    sums: pl.DataFrame, *, resamples: int, level: float, te_floor: float, seed: int, keys: Sequence[str] = KEYS
) -> pl.DataFrame:
    """Means with intervals, one row for each combination of `keys`, in the order of `keys`.

    Args:
        sums: sums per (keys, document), as in a shard; a document may occur several times.
    """
    columns = [name for name in sums.columns if name not in (*keys, "document")]
    sums = sums.group_by(*keys, "document", maintain_order=True).agg(pl.col(columns).sum())
    documents = np.sort(sums["document"].unique().to_numpy())
    weights = bootstrap_weights(len(documents), resamples, seed)
    order = {name: i for i, name in enumerate(sums["replacement"].unique(maintain_order=False).sort().to_list())}
    frames = []
    for name in order:
        rows = sums.filter(pl.col("replacement") == name).sort("document", *keys[1:])
        units = rows.filter(pl.col("document") == documents[0]).select(keys)
        if len(rows) != len(documents) * len(units):
            raise EffectsError("shards do not hold the same neurons for every document: delete them, run again")
        blocks = {column: rows[column].to_numpy().reshape(len(documents), len(units)) for column in columns}
        counts = blocks["n_tokens"][:, 0]
        if (blocks["n_tokens"] != counts[:, None]).any():
            raise EffectsError("shards counted different tokens for different neurons: delete them, run again")
        measured = _intervals(blocks, counts, weights, level, te_floor)
        frames.append(
            units.with_columns(
                n_tokens=pl.lit(int(counts.sum()), dtype=pl.Int64),
                n_documents=pl.lit(len(documents), dtype=pl.Int64),
                **{column: pl.Series(values, dtype=pl.Float64).fill_nan(None) for column, values in measured.items()},
            )
        )
    return pl.concat(frames)


def _intervals(
    sums: dict[str, Float[Array, "documents units"]],
    counts: Int[Array, " documents"],
    weights: Float[Array, "resamples documents"],
    level: float,
    te_floor: float,
) -> dict[str, Float[Array, " units"]]:
    """Every effect with both ends of its interval."""
    found: dict[str, Float[Array, " units"]] = {}

    def measure(name: str, function: Callable[..., Array], *columns: str) -> None:
        interval: Interval = clustered_function_interval(
            function, tuple(sums[column] for column in columns), counts, weights, level
        )
        found[name] = interval.estimate
        found[f"{name}_low"], found[f"{name}_high"] = interval.low, interval.high

    def mean(x: Array) -> Array:
        return x

    def mediated(total: Array, direct: Array) -> Array:
        return mediated_fraction(total, direct, te_floor)

    for o in OUTCOMES:
        measure(f"te_{o}", mean, f"{o}_total_abs")
        measure(f"de_{o}", mean, f"{o}_direct_abs")
        measure(f"m_{o}", mediated, f"{o}_total_abs", f"{o}_direct_abs")
        measure(f"de_freq_{o}", mean, f"{o}_unigram_abs")
        measure(f"m_freq_{o}", mediated, f"{o}_total_abs", f"{o}_unigram_abs")
        measure(f"total_{o}", mean, f"{o}_total")
        measure(f"direct_{o}", mean, f"{o}_direct")
        measure(f"indirect_{o}", mean, f"{o}_norm")
        measure(f"interaction_{o}", lambda t, d, i: t - d - i, f"{o}_total", f"{o}_direct", f"{o}_norm")
    measure("prediction_change", mean, "prediction_total")
    measure("prediction_change_direct", mean, "prediction_direct")
    measure("reciprocal_rank_change", mean, "reciprocal_rank_total_abs")
    measure("reciprocal_rank_change_direct", mean, "reciprocal_rank_direct_abs")
    return found
