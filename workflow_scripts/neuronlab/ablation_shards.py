"""Rule `ablate_neurons`: effects of all last-layer neurons, summed per (neuron, document), for one shard of a text.

Shard i of n takes the sequences i, i + n, i + 2n, ...; a shard without sequences is an empty table. Per-token numbers
exist for one chunk (tokens_per_chunk x neurons_per_tile) at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.ablation import RANKED, clean_of, directions_of, effects_of_chunk
from neuronlab.final_states import AblationInputs, Batch, Setup
from neuronlab.kernels.interface import Clean, Effects
from neuronlab.schemas import OUTCOMES, RANK_VARIANTS, SCHEMAS, VARIANTS
from neuronlab.tables import Provenance, write_table

Array = np.ndarray


def ablate_neurons(
    *,
    inputs: AblationInputs,
    output: str | Path,
    shard: int = 0,
    shards: int = 1,
    provenance: Provenance | None = None,
) -> None:
    """Write one shard of sums, the table "ablation_shard".

    Args:
        shard, shards: which part of the sequences.

    Raises:
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    setup = inputs.set_up()
    frame = shard_sums(
        setup,
        range(shard, len(setup.text.tokens), shards),
        batch_size=inputs.batch_size,
        tokens_per_chunk=inputs.tokens_per_chunk,
        neurons_per_tile=inputs.neurons_per_tile,
    )
    write_table(frame, output, "ablation_shard", {**(provenance or {}), "kernel": setup.last.kernel})


def sum_columns() -> list[str]:
    """Columns of a shard that are sums over tokens."""
    return [name for name in SCHEMAS["ablation_shard"] if name not in ("replacement", "document", "layer", "neuron")]


class DocumentSums:
    """Sums per (document, neuron) of every column of a shard, or of those named."""

    def __init__(self, documents: Int[Array, " documents"], neurons: int, columns: Sequence[str] | None = None) -> None:
        self.documents = documents
        self.sums: dict[str, Float[Array, "documents neurons"]] = {
            name: np.zeros((len(documents), neurons)) for name in columns or sum_columns()
        }

    def add(
        self, documents: Int[Array, " tokens"], neurons: slice, values: dict[str, Float[Array, "tokens neurons"]]
    ) -> None:
        """Add one chunk's values per token."""
        row = np.searchsorted(self.documents, documents)
        for here in np.unique(row):
            chosen = row == here
            for name, array in values.items():
                self.sums[name][here, neurons] += array[chosen].sum(0)

    def frame(self, replacement: str, layer: int) -> pl.DataFrame:
        """Rows in order of document, then neuron."""
        n_documents, neurons = len(self.documents), self.sums["n_tokens"].shape[1]
        return pl.DataFrame(
            {
                "replacement": pl.Series([replacement] * (n_documents * neurons), dtype=pl.String),
                "document": np.repeat(self.documents, neurons),
                "layer": np.full(n_documents * neurons, layer),
                "neuron": np.tile(np.arange(neurons), n_documents),
            }
            | {name: array.ravel() for name, array in self.sums.items()}
        ).with_columns(pl.col("n_tokens").cast(pl.Int64))


def shard_sums(
    setup: Setup, sequences: Sequence[int], *, batch_size: int, tokens_per_chunk: int, neurons_per_tile: int
) -> pl.DataFrame:
    """The table "ablation_shard" for some sequences: every replacement, document and neuron."""
    text, last = setup.text, setup.last
    chosen = list(sequences)
    documents = np.unique(text.documents[chosen][text.counted[chosen]]) if chosen else np.array([], dtype=np.int64)
    sums = {r.name: DocumentSums(documents, last.neurons) for r in setup.replacements}
    for batch, part, tile, name, clean, delta, effects in iterate_effects(
        setup, chosen, batch_size=batch_size, tokens_per_chunk=tokens_per_chunk, neurons_per_tile=neurons_per_tile
    ):
        owners = text.documents[batch.sequence[part], batch.position[part]]
        sums[name].add(owners, tile, token_values(clean, delta, effects))
    frames = [sums[r.name].frame(r.name, last.layer) for r in setup.replacements]
    return pl.concat(frames)


def iterate_effects(
    setup: Setup,
    sequences: Sequence[int],
    *,
    batch_size: int,
    tokens_per_chunk: int,
    neurons_per_tile: int,
    variants: Sequence[str] = tuple(VARIANTS),
    ranked: tuple[int, ...] = RANKED,
) -> Iterator[tuple[Batch, slice, slice, str, Clean, Float[Tensor, "tokens neurons"], Effects]]:
    """Effects of all neurons at all counted positions, chunk by chunk.

    The logits that a tile of neurons writes are computed once where all neurons fit into one tile, and once per batch
    of sequences where they do not: a few percent of the work, for memory that does not grow with the model.
    """
    last, tiles = setup.last, setup.tiles(neurons_per_tile)
    kept = directions_of(last, tiles[0]) if len(tiles) == 1 else None
    for batch in setup.batches(sequences, batch_size, "ablate"):
        for tile in tiles:
            lines = kept if kept is not None else directions_of(last, tile)
            for part in batch.chunks(tokens_per_chunk):
                chunk = batch.tokens[part]
                clean = clean_of(last, chunk)
                for replacement in setup.replacements:
                    delta = setup.delta(batch, part, tile, replacement)
                    effects = effects_of_chunk(last, chunk, clean, lines, tile, delta, variants=variants, ranked=ranked)
                    yield batch, part, tile, replacement.name, clean, delta, effects


def token_values(
    clean: Clean, delta: Float[Tensor, "tokens neurons"], effects: Effects
) -> dict[str, Float[Array, "tokens neurons"]]:
    """What is summed, per token: the columns of a shard."""
    moved = delta.abs().cpu().numpy()
    values = {"n_tokens": np.ones_like(moved), "abs_delta": moved}
    for outcome in OUTCOMES:
        for i, variant in enumerate(VARIANTS):
            change = getattr(effects, outcome)[i]
            values[f"{outcome}_{variant}"] = change
            values[f"{outcome}_{variant}_abs"] = np.abs(change)
    assert effects.rank is not None
    assert effects.prediction is not None
    prediction, rank = clean.prediction.cpu().numpy()[:, None], clean.rank.cpu().numpy()[:, None]
    for i, variant in enumerate(RANK_VARIANTS):
        change = 1 / (effects.rank[i] + 1.0) - 1 / (rank + 1.0)
        values[f"prediction_{variant}"] = (effects.prediction[i] != prediction).astype(np.float64)
        values[f"reciprocal_rank_{variant}"] = change
        values[f"reciprocal_rank_{variant}_abs"] = np.abs(change)
    return values
