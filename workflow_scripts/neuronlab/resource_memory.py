"""Bytes that a planned job holds at its worst moment, term by term. See `resource_plan`."""

from __future__ import annotations

from dataclasses import replace

from neuronlab.resource_load import (
    CHOSEN,
    DIRECTIONS,
    FLOAT32,
    FLOAT64,
    FREQUENCY_COLUMNS,
    RESAMPLES,
    SHARD_ROW,
    SUM_COLUMNS,
    TRACE_COLUMNS,
    TRACED,
    WITHOUT_MODEL,
    Load,
    documents,
    heads,
    kept_tokens,
    mine,
    per_pass,
)

MIB = 2**20
LOADED = 32 * MIB  # a model's modules, hooks and tokenizer
PYTHON = 900 * MIB  # torch, transformers, numba's compiler, polars: before any weight is there
PYTHON_TABLES = 500 * MIB  # polars, numpy, altair
SNAKEMAKE = 400 * MIB  # the process that runs a job's script, which a cluster counts as well
CUDA_CONTEXT = 1024 * MIB
DOUBLE_READOUT = 2**30  # read-outs up to this size are kept in float64 (`ablation.DOUBLE_READOUT_BYTES`)
ROWS_IN_FLOAT64 = 256  # of U made float64 at a time (`kernels.interface.BLOCK`)
COLUMNS_IN_FLOAT64 = 8192  # of W_U made float64 at a time (`kernels.interface.COLUMNS`)
CLEAN_ARRAYS = 8  # float64 [tokens, V] of a chunk's clean read-out alive at once: z, logits, lp, p, their temporaries
SUMS_AT_ONCE = 4 * 2**30  # of the shards' sums (`effects.SUMS_AT_ONCE`)
HALVES_AT_ONCE = 2 * 2**30  # of those by which halves are compared (`document_halves.SUMS_AT_ONCE`)
BOOTSTRAP_TILE = 4096  # neurons resampled at a time (`statistics.COLUMNS_PER_TILE`)
EFFECT_ARRAYS = 64  # float64 [tokens, neurons] of a chunk: factors, effects, and the columns that are summed
HEAD_READINGS = 40  # float32 kept for every position, set and method: measures and activations of neurons
TABLE_COPIES = 3  # of sums and traces: as they are collected or read, as a frame, as the writer or a figure holds them
KERNEL_ON_GPU = 4 * 2**30  # temporaries of the torch kernel there (`ablation.TORCH_BUDGET`)
LINES_KEPT = {False: 256 * MIB, True: 4 * 2**30}  # directions' logits kept while decoding, by GPU
LINES_OF_A_VARIANT = 4  # neurons of a set, divided by the values that it is held at


def readout_bytes(load: Load) -> int:
    """The folded unembedding: float64 where that is small, float32 otherwise."""
    size = load.d_model * load.d_vocab
    return size * (FLOAT64 if size * FLOAT64 <= DOUBLE_READOUT else FLOAT32)


def pass_bytes(load: Load) -> int:
    """A forward pass of one batch: stream, attention and MLP of one layer, and what is kept of the last one."""
    places = per_pass(load) * load.sequence_length
    wide = max(load.bytes_per_weight, FLOAT32)  # softmax and norms are computed in float32
    stream = 8 * places * load.d_model * wide  # residual, queries, keys, values, outputs
    scores = 3 * places * load.sequence_length * heads(load) * wide
    mlp = 3 * places * load.d_mlp * wide  # gate, up and their product
    kept = 2 * places * (load.d_mlp + load.d_model) * FLOAT32  # as caught, and at the counted positions
    return stream + scores + mlp + kept + per_pass(load) * load.d_vocab * wide


def cache_bytes(load: Load) -> int:
    """Keys and values of all layers for a batch, twice: as they grow they are copied."""
    return 4 * load.n_layers * per_pass(load) * load.sequence_length * load.d_model * load.bytes_per_weight


def last_layer_bytes(load: Load) -> int:
    """Output directions and raw output weights of the last layer; two more copies in float64 while they are made."""
    return load.d_mlp * load.d_model * 2 * (FLOAT32 + FLOAT64)


def tile_bytes(load: Load, neurons: int) -> int:
    """U of one tile of neurons, with the rows and the columns of W_U that are in float64 while it is made."""
    rows = 2 * min(ROWS_IN_FLOAT64, neurons) * load.d_vocab * FLOAT64
    columns = load.d_model * min(COLUMNS_IN_FLOAT64, load.d_vocab) * FLOAT64
    return neurons * load.d_vocab * FLOAT32 + rows + columns


def chunk_bytes(load: Load, neurons: int) -> int:
    """Clean read-out of a chunk of tokens, and the effects of a tile of neurons there."""
    clean = load.tokens_per_chunk * load.d_vocab * (CLEAN_ARRAYS * FLOAT64 + 3 * FLOAT32)
    return clean + load.tokens_per_chunk * neurons * EFFECT_ARRAYS * FLOAT64


def spectrum_bytes(load: Load) -> int:
    """Gram matrix, basis, eigenvectors and the solver's workspace: ten d x d in float64."""
    return 10 * load.d_model**2 * FLOAT64


def memory_terms(kind: str, load: Load, copied: bool = False) -> dict[str, int]:
    """Bytes where the model is, at the worst moment, by what they are for; no floor.

    Args:
        copied: a float64 copy of the model stands beside it.
    """
    if kind in WITHOUT_MODEL:
        return {}
    if kind == "frequency":
        load = replace(load, shards=1)
    single = load.d_model * load.d_vocab * FLOAT32
    tile = min(load.neurons_per_tile, load.d_mlp)
    terms = {"weights": load.parameters * load.bytes_per_weight, "modules": LOADED}
    block = load.d_model * min(COLUMNS_IN_FLOAT64, load.d_vocab) * FLOAT64  # of W_U, while it is folded or multiplied
    if kind == "weights":
        # The read-out and its columns of unit length, with a copy while they are chosen; with them one layer's weights,
        # or the singular directions.
        return terms | {"read-out": 3 * single, "work": block + max(last_layer_bytes(load), spectrum_bytes(load))}
    terms |= {"read-out": readout_bytes(load), "last layer": last_layer_bytes(load), "pass": pass_bytes(load)}
    if kind in ("ablation", "chosen", "sets", "frequency"):
        neurons = tile if kind == "ablation" else min(tile, CHOSEN)
        terms |= {"U": tile_bytes(load, neurons), "chunk": chunk_bytes(load, neurons)}
        if kind == "sets":  # residuals, what a norm after the MLP was given, and changes of activation
            terms["states"] = kept_tokens(load) * (2 * load.d_model * FLOAT32 + CHOSEN * FLOAT64)
        if kind == "frequency":  # directions, as drawn and joined; the row space of W_U
            terms |= {"directions": 3 * DIRECTIONS * load.d_vocab * FLOAT64, "row space": spectrum_bytes(load)}
    elif kind == "forward":
        terms |= {"U": tile_bytes(load, min(tile, ROWS_IN_FLOAT64)), "chunk": chunk_bytes(load, 0)}
    elif kind == "decoding":
        lines = LINES_OF_A_VARIANT * load.replacements * load.d_vocab
        lines *= FLOAT64 if lines * FLOAT64 <= DOUBLE_READOUT else FLOAT32
        terms |= {
            "U": lines + tile_bytes(load, ROWS_IN_FLOAT64),
            "block of lines": min(LINES_KEPT[load.gpus > 0], lines),
        }
        terms |= {"keys and values": cache_bytes(load), "chunk": chunk_bytes(load, 0)}
    elif kind == "answers":
        terms |= {"keys and values": cache_bytes(load), "logits": 3 * per_pass(load) * load.d_vocab * FLOAT32}
    elif kind == "scores":
        terms |= {"patterns": per_pass(load) * load.sequence_length**2 * heads(load) * FLOAT32}
    elif kind in ("layers", "lens", "heads"):
        # What enters every layer, for a batch; the changed residuals that wait for the read-out take as much at most.
        streams = 2 * (load.n_layers + 1) * per_pass(load) * load.sequence_length * load.d_model
        terms |= {"streams": streams * max(load.bytes_per_weight, FLOAT32), "chunk": chunk_bytes(load, 0)}
    else:
        # The oracle's read-out in float64.
        terms |= {"oracle": 2 * single + block, "chunk": chunk_bytes(load, ROWS_IN_FLOAT64)}
    if copied:  # with a pass of its own and, for sets, a last layer
        terms["copy"] = load.parameters * FLOAT64 + pass_bytes(replace(load, bytes_per_weight=FLOAT64))
        terms["copy"] += readout_bytes(load) + last_layer_bytes(load) if kind == "sets" else 0
    if load.gpus and kind in ("ablation", "chosen", "sets", "frequency", "decoding"):
        terms["kernel"] = KERNEL_ON_GPU
    return terms


def table_terms(kind: str, load: Load) -> dict[str, int]:
    """Bytes on the host beside the model: libraries and tables."""
    tokens = load.sequences * load.sequence_length
    text = 3 * 3 * tokens * FLOAT64  # tokens, documents, what counts; as a frame, flat, and as arrays
    statistics = 3 * load.d_mlp * load.sequence_length * FLOAT64  # means by position
    sums = TABLE_COPIES * documents(load) * load.d_mlp * SUM_COLUMNS * FLOAT64 * load.replacements
    traces = TABLE_COPIES * TRACED * kept_tokens(load) * TRACE_COLUMNS * FLOAT64
    if kind == "traces":
        return {"libraries": PYTHON_TABLES + SNAKEMAKE, "traces": traces}
    if kind == "tables":
        # Of one shard as it is read, and of all shards or, where that is too much, of some of their neurons.
        shards = sums // TABLE_COPIES + min(load.shards * sums, TABLE_COPIES * SUMS_AT_ONCE)
        return {
            "libraries": PYTHON_TABLES + SNAKEMAKE,
            "sums": shards,
            "bootstrap": 4 * RESAMPLES * load.d_mlp * FLOAT64,
        }
    if kind == "weights":
        return {"libraries": PYTHON + SNAKEMAKE, "table": load.n_layers * load.d_mlp * 40 * FLOAT64}
    terms = {"libraries": PYTHON + SNAKEMAKE, "text": text, "statistics": statistics}
    if kind == "ablation":
        terms["sums"] = sums
    if kind == "frequency":
        terms |= frequency_terms(load)
    if kind == "chosen":
        terms["traces"] = traces
    if kind == "sets":  # scores of every token, before and after recalibration
        terms["scores"] = 2 * kept_tokens(load) * CHOSEN * FLOAT64
    if kind == "heads":
        terms["changes"] = load.replacements * tokens * HEAD_READINGS * FLOAT32
    if kind == "decoding":
        terms["entropies"] = mine(load) * load.replacements * 40
    return terms


def frequency_terms(load: Load) -> dict[str, int]:
    """Sums of both halves: one shard as it is read and filtered; and twice the sums of all documents or, where that is
    too much, of some of the neurons: with what rounding lost, then with a half copied."""
    found = load.shards * documents(load)  # at most: a document may lie in several shards
    each = found * FREQUENCY_COLUMNS * FLOAT64
    sums = min(each * load.d_mlp, max(HALVES_AT_ONCE, each * min(BOOTSTRAP_TILE, load.d_mlp)))
    return {
        "shard": 2 * documents(load) * load.d_mlp * load.replacements * SHARD_ROW,
        "sums": 2 * sums,
        "bootstrap": 4 * RESAMPLES * BOOTSTRAP_TILE * FLOAT64,
        "covariance": spectrum_bytes(load),
    }
