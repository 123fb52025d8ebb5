"""Rule `decode_conflicts`: greedy continuations, labels and read-outs of one shard's prompts under all variants."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from neuronlab.conflict_prompts import ConflictPromptError, Conflicts, longest_object
from neuronlab.conflict_tables import COSTS, TABLES, conflict_tables, empty_table, inspected
from neuronlab.copying_variants import read_groups
from neuronlab.last_layers import last_layer_of
from neuronlab.model_files import ModelSpec
from neuronlab.models import load_model
from neuronlab.replacements import ActivationStatistics
from neuronlab.tables import Provenance, read_table, write_table

# Logits that numba must be worth its compilation for, some seconds: a shard's prompts x variants x vocabulary.
MANY_LOGITS = 1e10


def decode_conflicts(
    *,
    model: ModelSpec,
    conflicts: str | Path,
    statistics: str | Path,
    sets: str | Path,
    variants: str | Path,
    decoded: str | Path,
    continuations: str | Path,
    states: str | Path,
    costs: str | Path,
    shard: int,
    shards: int,
    new_tokens: int = 10,
    kernel: str = "auto",
    batch_size: int = 16,
    tokens_per_chunk: int = 128,
    tie: float = 1e-4,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write a shard's tables; it takes prompts shard, shard + shards, ... An empty shard writes empty tables.

    Args:
        conflicts, statistics, sets, variants: tables "conflicts", "activation_statistics", "copying_sets", "variants".
        decoded, continuations, states, costs: written.
        new_tokens: tokens generated at most.
        tie: two best logits nearer than this (nats) are counted as a near-tie.
        tokens_per_chunk: places whose effects are held in memory at once; changes results by rounding at most.

    Raises:
        ConflictPromptError, DecodingError, VariantError, ReplacementError, TableError, ModelError: what does not fit.
    """
    if not 0 <= shard < shards:
        raise ConflictPromptError(
            f"shard {shard} of {shards}: context_copying.shards must be larger than the shard's number"
        )
    everything = read_table(conflicts, "conflicts")
    table = read_table(variants, "variants")
    mine = Conflicts.of_frame(everything.filter(pl.col("prompt") % shards == shard))
    paths = {"decoded": decoded, "continuations": continuations, "states": states}
    outputs = {name: empty_table(name) for name in TABLES}
    record = {**(provenance or {})}
    spent = dict.fromkeys(COSTS, 0)
    if len(mine):
        loaded = load_model(model)
        mine.check(loaded, str(conflicts))
        last = last_layer_of(
            loaded, kernel=kernel_for(kernel, -(-len(everything) // shards), len(table), loaded.d_vocab)
        )
        numbers = ActivationStatistics.of_layer(
            read_table(statistics, "activation_statistics"), last.layer, last.neurons
        )
        groups = read_groups(read_table(sets, "copying_sets"), table, numbers)
        outputs, spent = conflict_tables(
            loaded,
            last,
            mine,
            groups,
            inspected(groups, table),
            new_tokens=new_tokens,
            longest=longest_object(everything),
            batch_size=batch_size,
            tokens_per_chunk=tokens_per_chunk,
            tie=tie,
            seed=seed,
        )
        record |= {"kernel": last.kernel, "kernel_dtype": str(last.dtype)}
    bill = {
        "shard": shard,
        "n_prompts": len(mine),
        "n_variants": len(table),
        "n_continuations": len(outputs["continuations"]),
    }
    for name, frame in outputs.items():
        write_table(frame, paths[name], name, record)
    write_table(pl.DataFrame([bill | spent]), costs, "decoding_costs", record)


def kernel_for(kernel: str, prompts: int, variants: int, vocab: int) -> str:
    """`auto` becomes torch where a shard has too little work for numba's compilation to pay."""
    return "torch" if kernel == "auto" and prompts * variants * vocab < MANY_LOGITS else kernel
