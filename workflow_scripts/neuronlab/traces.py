"""Rule `trace_neurons`: effects at every counted token, for chosen neurons and their controls.

Only of the first configured replacement, the one that figures and cards show: a row for each (neuron, token) is much.
A text with more counted tokens than asked for is traced on some of its documents, drawn by the seed; the table's
provenance tells how many then (`traced_sample`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool

from neuronlab.ablation import clean_of, directions_of, effects_of_chunk
from neuronlab.final_states import AblationInputs, Setup, Text
from neuronlab.neuron_sets import read_selections
from neuronlab.schemas import OUTCOMES, RANK_VARIANTS, SCHEMAS, VARIANTS
from neuronlab.tables import Provenance, write_table
from neuronlab.traced_sample import KEY, TracedSample

Array = np.ndarray
DTYPES = {pl.Int32: np.int32, pl.Float64: np.float64}


class TraceError(ValueError):
    """A number of tokens that cannot be traced."""


def trace_neurons(
    *,
    inputs: AblationInputs,
    selection: str | Path | Sequence[str | Path],
    traces: str | Path,
    sets: Sequence[str] = (),
    tokens: int | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write traces.parquet, in order of neuron, sequence and position.

    Args:
        sets: selections whose last-layer neurons, and whose controls', are traced; all selections if empty.
        tokens: the most counted tokens that are traced (see `draw_sequences`); all for None.

    Raises:
        TraceError: for `tokens` below 1.
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    if tokens is not None and tokens < 1:
        raise TraceError(f"ablation.traced_tokens is {tokens}; at least one token must be traced: set it to 1 or more")
    chosen = traced_neurons(read_selections(selection), sets)
    setup = inputs.set_up(inputs.replacements[:1])
    whole = setup.text
    # Donors and statistics stay those of the whole text.
    setup = replace(setup, text=replace(whole, counted=draw_sequences(whole, tokens, inputs.seed)))
    neurons = sorted(chosen.filter(pl.col("layer") == setup.last.layer)["neuron"].unique().to_list())
    tile = inputs.neurons_per_tile
    frames = [
        trace_frame(
            setup, neurons[start : start + tile], batch_size=inputs.batch_size, tokens_per_chunk=inputs.tokens_per_chunk
        )
        for start in range(0, len(neurons), tile)
    ]
    empty = pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["traces"].items()})
    frame = frames.pop() if len(frames) == 1 else pl.concat([empty, *frames], rechunk=True)
    del frames
    record = {**(provenance or {}), "kernel": setup.last.kernel}
    if sample := TracedSample.of(whole.counted, setup.text.counted):
        record[KEY] = sample.record()
    write_table(frame, traces, "traces", record)


def traced_neurons(selection: pl.DataFrame, sets: Sequence[str]) -> pl.DataFrame:
    """Rows of selection.parquet of the sets named, or of all, with their controls."""
    if not sets:
        return selection
    return selection.filter(pl.col("set").is_in(list(sets)) | pl.col("control_of").is_in(list(sets)))


def draw_sequences(text: Text, tokens: int | None, seed: int) -> Bool[Array, "sequences position"]:
    """Counted positions of whole sequences, `tokens` at most; all counted positions where there are no more.

    Sequences are taken in an order drawn by the seed, up to the first one that no longer fits: long documents, which
    fill many sequences, have the share of the sample that they have of the text. Where not even one sequence fits, the
    start of one is taken.
    """
    counted = text.counted
    if tokens is None or counted.sum() <= tokens:
        return counted
    order = np.random.default_rng([seed, 0x7472]).permutation(len(counted))
    total = counted[order].sum(axis=1).cumsum()
    chosen = np.zeros_like(counted)
    drawn = order[total <= tokens]
    chosen[drawn] = counted[drawn]
    if not chosen.any():
        first = order[np.argmax(total > 0)]
        chosen[first, np.flatnonzero(counted[first])[:tokens]] = True
    return chosen


def trace_frame(setup: Setup, neurons: Sequence[int], *, batch_size: int, tokens_per_chunk: int) -> pl.DataFrame:
    """The table "traces" of some neurons, increasing, over the whole text, for the setup's first replacement.

    Every column is filled in place, in the table's order: at no time is there a second copy of all of them.
    """
    last, text, replacement = setup.last, setup.text, setup.replacements[0]
    lines, neurons = directions_of(last, list(neurons)), list(neurons)
    schema = SCHEMAS["traces"]
    n = int(text.counted.sum())
    columns: dict[str, Array] = {
        name: np.empty((len(neurons), n), dtype=DTYPES[column.dtype])
        for name, column in schema.items()
        if name not in ("replacement", "layer", "neuron")
    }
    start = 0
    for batch in setup.batches(range(len(text.tokens)), batch_size, "trace"):
        for part in batch.chunks(tokens_per_chunk):
            chunk = batch.tokens[part]
            here = slice(start, start + len(chunk))
            start = here.stop
            clean = clean_of(last, chunk)
            value = setup.value(batch, part, neurons, replacement)
            activation = chunk.activations[:, neurons].double()
            effects = effects_of_chunk(last, chunk, clean, lines, neurons, value - activation)
            found: dict[str, Array] = {  # per token
                name: array[:, None] for name, array in text.rows(batch.sequence[part], batch.position[part]).items()
            }
            for name in ("loss", "entropy", "rank", "prediction"):
                found[name] = getattr(clean, name).cpu().numpy()[:, None]
            found["activation"], found["value"] = activation.cpu().numpy(), value.cpu().numpy()
            for outcome in OUTCOMES:
                for i, variant in enumerate(VARIANTS):
                    found[f"{outcome}_{variant}"] = getattr(effects, outcome)[i]
            assert effects.rank is not None
            assert effects.prediction is not None
            for i, variant in enumerate(RANK_VARIANTS):
                found[f"prediction_{variant}"], found[f"rank_{variant}"] = effects.prediction[i], effects.rank[i]
            for name, column in columns.items():
                column[:, here] = found[name].T
    series = {name: pl.Series(name, columns.pop(name).ravel()) for name in list(columns)}
    frame = pl.DataFrame(series).with_columns(
        replacement=pl.lit(replacement.name),
        layer=pl.lit(last.layer, dtype=pl.Int32),
        neuron=pl.Series(np.repeat(np.array(neurons, dtype=np.int32), n)),
    )
    return frame.select(list(schema))
