"""Rule `trace_neurons`: effects at every counted token, for chosen neurons and their controls.

Only of the first configured replacement, the one that figures and cards show: a row for each (neuron, token) is much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from neuronlab.ablation import clean_of, directions_of, effects_of_chunk
from neuronlab.final_states import AblationInputs, Setup
from neuronlab.neuron_sets import read_selections
from neuronlab.schemas import OUTCOMES, RANK_VARIANTS, SCHEMAS, VARIANTS
from neuronlab.tables import Provenance, write_table


def trace_neurons(
    *,
    inputs: AblationInputs,
    selection: str | Path | Sequence[str | Path],
    traces: str | Path,
    sets: Sequence[str] = (),
    provenance: Provenance | None = None,
) -> None:
    """Write traces.parquet, in order of neuron, sequence and position.

    Args:
        sets: selections whose last-layer neurons, and whose controls', are traced; all selections if empty.

    Raises:
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    chosen = traced_neurons(read_selections(selection), sets)
    setup = inputs.set_up(inputs.replacements[:1])
    neurons = sorted(chosen.filter(pl.col("layer") == setup.last.layer)["neuron"].unique().to_list())
    tile = inputs.neurons_per_tile
    frames = [
        trace_frame(
            setup, neurons[start : start + tile], batch_size=inputs.batch_size, tokens_per_chunk=inputs.tokens_per_chunk
        )
        for start in range(0, len(neurons), tile)
    ]
    empty = pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["traces"].items()})
    frame = pl.concat([empty, *(f.select(empty.columns).cast(dict(empty.schema)) for f in frames)])
    frame = frame.sort("neuron", "sequence", "position")
    write_table(frame, traces, "traces", {**(provenance or {}), "kernel": setup.last.kernel})


def traced_neurons(selection: pl.DataFrame, sets: Sequence[str]) -> pl.DataFrame:
    """Rows of selection.parquet of the sets named, or of all, with their controls."""
    if not sets:
        return selection
    return selection.filter(pl.col("set").is_in(list(sets)) | pl.col("control_of").is_in(list(sets)))


def trace_frame(setup: Setup, neurons: Sequence[int], *, batch_size: int, tokens_per_chunk: int) -> pl.DataFrame:
    """Per-token rows of some neurons over the whole text, for the setup's first replacement."""
    last, text, replacement = setup.last, setup.text, setup.replacements[0]
    lines, neurons = directions_of(last, list(neurons)), list(neurons)
    columns: dict[str, list[np.ndarray]] = {}
    for batch in setup.batches(range(len(text.tokens)), batch_size, "trace"):
        for part in batch.chunks(tokens_per_chunk):
            chunk = batch.tokens[part]
            clean = clean_of(last, chunk)
            value = setup.value(batch, part, neurons, replacement)
            activation = chunk.activations[:, neurons].double()
            effects = effects_of_chunk(last, chunk, clean, lines, neurons, value - activation)
            shape = tuple(value.shape)
            found = {
                name: np.broadcast_to(array[:, None], shape)
                for name, array in text.rows(batch.sequence[part], batch.position[part]).items()
            }
            found["neuron"] = np.broadcast_to(np.array(neurons), shape)
            found["activation"], found["value"] = activation.cpu().numpy(), value.cpu().numpy()
            for name in ("loss", "entropy", "rank", "prediction"):
                found[name] = np.broadcast_to(getattr(clean, name).cpu().numpy()[:, None], shape)
            for outcome in OUTCOMES:
                for i, variant in enumerate(VARIANTS):
                    found[f"{outcome}_{variant}"] = getattr(effects, outcome)[i]
            assert effects.rank is not None
            assert effects.prediction is not None
            for i, variant in enumerate(RANK_VARIANTS):
                found[f"prediction_{variant}"], found[f"rank_{variant}"] = effects.prediction[i], effects.rank[i]
            for name, array in found.items():
                columns.setdefault(name, []).append(array.ravel())
    return pl.DataFrame({name: np.concatenate(arrays) for name, arrays in columns.items()}).with_columns(
        replacement=pl.lit(replacement.name), layer=pl.lit(last.layer, dtype=pl.Int32)
    )
