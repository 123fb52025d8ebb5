"""Memory and time of a model job, planned from the sizes of its model and text: arithmetic alone, no torch.

`plan` adds up what a job of some kind holds at its peak and what it computes; every term says what it is. Costs per
unit of work come from `benchmarks/scale.py` on one CPU thread, where they were measured, and from memory bandwidth and
arithmetic throughput for GPUs, where they are estimates; both are multiplied by `SAFETY`. With GPUs the weights and all
blocks that effects are computed on are there; the host holds the weights while they are loaded, and the tables.

The plan is what a job needs, not what it gets: the configuration's floors come on top (`compute.memory_mb`,
`compute.runtime_minutes`), and both grow with each attempt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = {
    "weights": "reads weights: norms, singular directions, vocabulary moments, null space; no text",
    "forward": "passes over a text: activation statistics, baselines, attention, induction, answers",
    "ablation": "effects of all last-layer neurons at every token of a shard, in closed form",
    "chosen": "the same of chosen neurons and sets: traces, doses, joint ablation, controls",
    "decoding": "greedy continuations of a shard's prompts under many variants of the last layer",
    "layers": "deleted, averaged and swapped layers, logit lens: one clean pass, then what is left of each changed one",
    "float64": "verification: a float64 copy of the model beside the model, if it fits",
    "tables": "reads the shards' sums, no model: means with intervals",
    "traces": "reads the traces of chosen neurons, no model: figures, cards",
}
WITHOUT_MODEL = ("tables", "traces")

MIB = 2**20
SAFETY = 1.3  # on memory and time, for what the terms leave out: allocators, fragmentation, machines unlike ours

# Memory, bytes.
LOADED = 32 * MIB  # a model's modules, hooks and tokenizer
PYTHON = 900 * MIB  # torch, transformers, numba's compiler, polars: before any weight is there
PYTHON_TABLES = 500 * MIB  # polars, numpy, altair
SNAKEMAKE = 400 * MIB  # the process that runs a job's script, which a cluster counts as well
CUDA_CONTEXT = 1024 * MIB
FLOAT32, FLOAT64 = 4, 8
DOUBLE_READOUT = 2**30  # read-outs up to this size are kept in float64 (`ablation.DOUBLE_READOUT_BYTES`)
ROWS_IN_FLOAT64 = 256  # of U made float64 at a time (`kernels.interface.BLOCK`)
COLUMNS_IN_FLOAT64 = 8192  # of W_U made float64 at a time (`kernels.interface.COLUMNS`)
CLEAN_ARRAYS = 8  # float64 [tokens, V] of a chunk's clean read-out alive at once: z, logits, lp, p, their temporaries
TOKENS_PER_DOCUMENT = 200  # tables have rows per document; texts of shorter documents take more
SUMS_AT_ONCE = 4 * 2**30  # of the shards' sums (`effects.SUMS_AT_ONCE`)
CHOSEN = 256  # neurons of all selections and their controls
TRACED, TRACE_COLUMNS = 120, 30  # neurons that are traced token by token, and columns of that table
SUM_COLUMNS = 32  # of a shard's table (`schemas`, "ablation_shard")
EFFECT_ARRAYS = 64  # float64 [tokens, neurons] of a chunk: factors, effects, and the columns that are summed
TABLE_COPIES = 3  # of sums and traces: as they are collected, as a frame, as the writer or a reader holds them
KERNEL_ON_GPU = 4 * 2**30  # temporaries of the torch kernel there (`ablation.TORCH_BUDGET`)
LINES_KEPT = {False: 256 * MIB, True: 4 * 2**30}  # directions' logits kept while decoding, by GPU
LINES_OF_A_VARIANT = 4  # neurons of a set, divided by the values that it is held at
RESAMPLES = 1000  # of the bootstrap
HEAD_WIDTH = 64  # the narrowest heads in use: as many attention matrices as there can be

# Time, seconds per unit on one thread of a CPU; measured, see docs/scale.md.
CPU_FLOPS = {4: 30e9, 2: 30e9, 8: 15e9}  # multiply-adds count two; by bytes per number
CPU_KERNEL = 1.2e-9  # one (token, neuron, id) of the ablation: four variants, ranks of two
CPU_MOMENTS = 3e-9  # one (neuron, id) of the vocabulary moments, beside the product
CPU_ENTROPY = 1.0e-9  # one (place, variant, id) of the entropy that decoding reads for all variants
CPU_OUTCOMES = 20e-9  # one (token, id) of a read-out: softmax, divergence, rank, in float64
# GPUs: an estimate for a card of 1.5 TB/s, of which a chain of elementwise operations reaches two thirds.
GPU_FLOPS = {4: 8e12, 2: 60e12, 8: 5e12}
GPU_BANDWIDTH = 1e12
GPU_KERNEL_BYTES = 700  # read and written by the torch kernel for one (token, neuron, id), four variants
GPU_OUTCOME_BYTES = 200  # the same for a read-out in float64
START_SECONDS = 60  # imports, compilation, tables
LOAD_BANDWIDTH = 200e6  # bytes per second from a shared disk
CONTINUATIONS = 10  # distinct continuations of a prompt under all its variants, and tokens of each
NEW_TOKENS = 10


@dataclass(frozen=True)
class Load:
    """Sizes that a job's needs follow from.

    Attributes:
        parameters: of the model.
        bytes_per_weight: 2 for bfloat16 and float16, 4 for float32, 8 for float64.
        sequences, sequence_length: of the text; prompts and their length where there is no text.
        shards: jobs that the sequences are divided among; 1 for jobs that take them all.
        replacements: changes that every token sees: replacement values (ablation), variants (decoding), interventions
            (layers); 1 elsewhere.
        gpus: GPUs of the job; weights and blocks are on the first.
        threads: of the job, without a GPU.
    """

    parameters: int
    d_model: int
    n_layers: int
    d_mlp: int
    d_vocab: int
    bytes_per_weight: int
    sequences: int
    sequence_length: int
    shards: int
    replacements: int
    neurons_per_tile: int
    tokens_per_chunk: int
    batch_size: int
    gpus: int
    threads: int = 1


@dataclass(frozen=True)
class Plan:
    """What a job asks for, rounded up.

    Attributes:
        memory_mb: of the host.
        gpu_memory_mb: of its GPU; 0 without one.
        minutes: wall time.
    """

    memory_mb: int
    gpu_memory_mb: int
    minutes: int


def plan(kind: str, load: Load, *, float64_limit_mb: float = math.inf) -> Plan:
    """Memory and time of a job of some kind, without the configuration's floors.

    Args:
        kind: a key of `KINDS`.
        float64_limit_mb: what the job may take for the model and its float64 copy together (`compute.float64_mb`):
            beyond it there is no copy (see `precise_copies.fits_twice`), and none is planned.

    Raises:
        ValueError: for a kind that does not exist.
    """
    if kind not in KINDS:
        raise ValueError(f"no jobs of kind '{kind}'; there are {', '.join(KINDS)}")
    on_gpu = load.gpus > 0 and kind not in WITHOUT_MODEL
    copied = kind == "float64" and load.parameters * (load.bytes_per_weight + FLOAT64) <= float64_limit_mb * MIB
    device = sum(memory_terms(kind, load, copied).values())
    host = sum(table_terms(kind, load).values()) + (load.parameters * load.bytes_per_weight if on_gpu else device)
    return Plan(
        memory_mb=_rounded(SAFETY * host / MIB, 100),
        gpu_memory_mb=_rounded((CUDA_CONTEXT + SAFETY * device) / MIB, 100) if on_gpu else 0,
        minutes=_rounded(SAFETY * sum(time_terms(kind, load, copied).values()) / 60, 5),
    )


def _rounded(value: float, step: int) -> int:
    return step * math.ceil(value / step)


def _mine(load: Load) -> int:
    """Sequences of one shard, of the fullest."""
    return math.ceil(load.sequences / load.shards)


def _documents(load: Load) -> int:
    """Documents of one shard: one for each sequence, and more where sequences are long."""
    return _mine(load) * (1 + load.sequence_length // TOKENS_PER_DOCUMENT)


def _per_pass(load: Load) -> int:
    """Sequences of one forward pass."""
    return min(load.batch_size, max(_mine(load), 1))


def readout_bytes(load: Load) -> int:
    """The folded unembedding: float64 where that is small, float32 otherwise."""
    size = load.d_model * load.d_vocab
    return size * (FLOAT64 if size * FLOAT64 <= DOUBLE_READOUT else FLOAT32)


def pass_bytes(load: Load) -> int:
    """A forward pass of one batch: stream, attention and MLP of one layer, and what is kept of the last one."""
    places = _per_pass(load) * load.sequence_length
    wide = max(load.bytes_per_weight, FLOAT32)  # softmax and norms are computed in float32
    stream = 8 * places * load.d_model * wide  # residual, queries, keys, values, outputs
    scores = 3 * places * load.sequence_length * max(1, load.d_model // HEAD_WIDTH) * wide
    mlp = 3 * places * load.d_mlp * wide  # gate, up and their product
    kept = 2 * places * (load.d_mlp + load.d_model) * FLOAT32  # as caught, and at the counted positions
    return stream + scores + mlp + kept + _per_pass(load) * load.d_vocab * wide


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
    single = load.d_model * load.d_vocab * FLOAT32
    tile = min(load.neurons_per_tile, load.d_mlp)
    terms = {"weights": load.parameters * load.bytes_per_weight, "modules": LOADED}
    block = load.d_model * min(COLUMNS_IN_FLOAT64, load.d_vocab) * FLOAT64  # of W_U, while it is folded or multiplied
    if kind == "weights":
        # The read-out and its columns of unit length, with a copy while they are chosen; with them one layer's weights,
        # or the singular directions.
        return terms | {"read-out": 3 * single, "work": block + max(last_layer_bytes(load), spectrum_bytes(load))}
    terms |= {"read-out": readout_bytes(load), "last layer": last_layer_bytes(load), "pass": pass_bytes(load)}
    if kind in ("ablation", "chosen"):
        neurons = tile if kind == "ablation" else min(tile, CHOSEN)
        terms |= {"U": tile_bytes(load, neurons), "chunk": chunk_bytes(load, neurons)}
    elif kind == "forward":
        terms |= {"U": tile_bytes(load, min(tile, ROWS_IN_FLOAT64)), "chunk": chunk_bytes(load, 0)}
    elif kind == "decoding":
        lines = LINES_OF_A_VARIANT * load.replacements * load.d_vocab
        lines *= FLOAT64 if lines * FLOAT64 <= DOUBLE_READOUT else FLOAT32
        cache = 2 * load.n_layers * _per_pass(load) * load.sequence_length * 2 * load.d_model * load.bytes_per_weight
        terms |= {
            "U": lines + tile_bytes(load, ROWS_IN_FLOAT64),
            "block of lines": min(LINES_KEPT[load.gpus > 0], lines),
        }
        terms |= {"keys and values": cache, "chunk": chunk_bytes(load, 0)}
    elif kind == "layers":
        # What enters every layer, for a batch; the changed residuals that wait for the read-out take as much at most.
        streams = 2 * (load.n_layers + 1) * _per_pass(load) * load.sequence_length * load.d_model
        terms |= {"streams": streams * max(load.bytes_per_weight, FLOAT32), "chunk": chunk_bytes(load, 0)}
    else:
        # The oracle's read-out in float64; the model's copy, with a pass of its own.
        terms |= {"oracle": 2 * single + block, "chunk": chunk_bytes(load, ROWS_IN_FLOAT64)}
        terms |= {"copy": load.parameters * FLOAT64 + pass_bytes(load)} if copied else {}
    if load.gpus and kind in ("ablation", "chosen", "decoding"):
        terms["kernel"] = KERNEL_ON_GPU
    return terms


def table_terms(kind: str, load: Load) -> dict[str, int]:
    """Bytes on the host beside the model: libraries and tables."""
    tokens = load.sequences * load.sequence_length
    text = 3 * 3 * tokens * FLOAT64  # tokens, documents, what counts; as a frame, flat, and as arrays
    statistics = 3 * load.d_mlp * load.sequence_length * FLOAT64  # means by position
    sums = TABLE_COPIES * _documents(load) * load.d_mlp * SUM_COLUMNS * FLOAT64 * load.replacements
    traces = TABLE_COPIES * TRACED * tokens * TRACE_COLUMNS * FLOAT64
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
    if kind == "chosen":
        terms["traces"] = traces
    if kind == "decoding":
        terms["entropies"] = _mine(load) * load.replacements * 40
    return terms


def pass_flops(load: Load, places: int) -> float:
    """Operations of a forward pass over some positions: products with all blocks' weights, and attention.

    The embedding is looked up and logits are not computed. Blocks have at most four d x d matrices and three d x N.
    """
    d, L = load.d_model, load.n_layers
    blocks = min(load.parameters, L * (4 * d * d + 3 * d * load.d_mlp))
    return 2.0 * places * (blocks + 2 * L * d * load.sequence_length)


def time_terms(kind: str, load: Load, copied: bool = False) -> dict[str, float]:
    """Seconds of reading and computing, by what they are for; arguments as for `memory_terms`."""
    d, V, N, L = load.d_model, load.d_vocab, load.d_mlp, load.n_layers
    places = _mine(load) * load.sequence_length
    on_gpu = load.gpus > 0

    def flops(number: float, width: int) -> float:
        return number / (GPU_FLOPS[width] if on_gpu else CPU_FLOPS[width] * load.threads)

    def elementwise(number: float, cpu: float, gpu: float) -> float:
        return number * (gpu / GPU_BANDWIDTH if on_gpu else cpu / load.threads)

    terms = {"start": START_SECONDS}
    if kind == "traces":
        return terms | {"reading": load.sequences * load.sequence_length * TRACED * TRACE_COLUMNS * 20e-9}
    if kind == "tables":
        numbers = load.shards * _documents(load) * N * load.replacements * SUM_COLUMNS
        return terms | {"reading": numbers * 20e-9, "bootstrap": 2 * RESAMPLES * numbers / 15e9}
    width = load.bytes_per_weight
    one_pass = flops(pass_flops(load, places), width)
    readout = flops(2.0 * d * V * places, 8) + elementwise(places * V, CPU_OUTCOMES, GPU_OUTCOME_BYTES)
    terms |= {"load": load.parameters * width / LOAD_BANDWIDTH, "folding": elementwise(d * V, 10e-9, 100)}
    if kind == "weights":
        draws = min(99, max(19, math.ceil(99 * (512 / d) ** 3)))  # `null_space.null_draws`
        terms["spectrum"] = flops(2.0 * d * d * V + 20.0 * d**3, 8)
        terms["random spectra"] = flops(6.0 * draws * d**3, 8)
        terms["vocabulary moments"] = L * (flops(2.0 * N * d * V, 4) + elementwise(N * V, CPU_MOMENTS, 50))
    elif kind == "forward":
        # Moments with the baseline, histograms, medians.
        terms |= {"passes": 3 * one_pass, "read-out": readout}
    elif kind == "chosen":
        terms |= {"passes": 2 * one_pass, "read-out": readout, "U": flops(2.0 * CHOSEN * d * V, 8)}
        terms["kernel"] = load.replacements * elementwise(places * CHOSEN * V, 4 * CPU_KERNEL, 4 * GPU_KERNEL_BYTES)
    elif kind == "ablation":
        batches = math.ceil(_mine(load) / load.batch_size) if load.neurons_per_tile < N else 1
        terms |= {"passes": 2 * one_pass, "read-out": readout}  # two: "resample" reads the donors
        terms["U"] = batches * flops(2.0 * N * d * V, 8)  # once where it fits, else once per batch
        terms["kernel"] = load.replacements * elementwise(places * N * V, CPU_KERNEL, GPU_KERNEL_BYTES)
    elif kind == "decoding":
        grown, pairs = _mine(load) * CONTINUATIONS * NEW_TOKENS, _mine(load) * load.replacements
        terms["passes"] = one_pass + flops(pass_flops(load, grown), width)
        read = _mine(load) + grown
        terms["read-out"] = flops(2.0 * d * V * read, 8) + elementwise(
            read * V, 2 * CPU_OUTCOMES, 2 * GPU_OUTCOME_BYTES
        )
        terms["choice"] = pairs * NEW_TOKENS * (1e-7 if on_gpu else 2e-6)
        terms["entropies"] = elementwise(pairs * V, CPU_ENTROPY, 60)
    elif kind == "layers":
        # A clean pass and one for the means; an intervention has half of the blocks left, on average.
        terms |= {"passes": (2 + load.replacements / 2) * one_pass, "read-out": (load.replacements + 1) * readout}
    else:
        terms["passes"] = flops(pass_flops(load, load.batch_size * load.sequence_length), width)
        terms["oracle"] = elementwise(512.0 * V, 100e-9, 1000) + flops(2.0 * d * V * 1024, 8)
        terms |= {"copy": flops(pass_flops(load, 64 * load.sequence_length), 8)} if copied else {}
    return terms


if __name__ == "__main__":
    from neuronlab.resource_table import planning_tables

    print(planning_tables(), end="")
