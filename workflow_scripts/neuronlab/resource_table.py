"""The planning table of docs/scale.md, from `resource_plan`: models of growing size, what their jobs ask for.

`python -m neuronlab.resource_plan` prints it; a test compares the document with it.
"""

from __future__ import annotations

import math
from dataclasses import replace

from neuronlab.resource_plan import Load, plan, time_terms

# parameters, d_model, layers, d_mlp, vocabulary, bytes per weight
MODELS = {
    "gpt2": (124_439_808, 768, 12, 3072, 50257, 4),
    "pythia-410m": (405_334_016, 1024, 24, 4096, 50304, 4),
    "gemma-2b": (2_506_172_416, 2048, 18, 16384, 256000, 4),
    "pythia-2.8b": (2_775_208_960, 2560, 32, 10240, 50304, 4),
    "Llama-2-7b": (6_738_415_616, 4096, 32, 11008, 32000, 2),
    "Llama-3-8B": (8_030_261_248, 4096, 32, 14336, 128256, 2),
    "Llama-2-13b": (13_015_864_320, 5120, 40, 13824, 32000, 2),
    "Llama-3-70B": (70_553_706_496, 8192, 80, 28672, 128256, 2),
}
COLUMNS = ("weights", "forward", "ablation", "chosen", "decoding", "layers")
SHARDS, SEQUENCES, LENGTH = 8, 100, 256
PROMPTS, PROMPT_LENGTH, VARIANTS, CHANGED_PARTS = 15_000, 32, 500, 3
THREADS = 8
LARGE_SHARDS = 64


def load_of(name: str, kind: str, gpus: int) -> Load:
    """The published sizes of text and prompts for one of the models."""
    parameters, d, layers, neurons, vocab, width = MODELS[name]
    load = Load(
        parameters=parameters,
        d_model=d,
        n_layers=layers,
        d_mlp=neurons,
        d_vocab=vocab,
        bytes_per_weight=width,
        sequences=SEQUENCES,
        sequence_length=LENGTH,
        shards=SHARDS if kind in ("ablation", "decoding") else 1,
        replacements=1,
        neurons_per_tile=4096,
        tokens_per_chunk=128,
        batch_size=16,
        gpus=gpus,
        threads=1 if gpus else THREADS,
    )
    if kind == "decoding":
        return replace(load, sequences=PROMPTS, sequence_length=PROMPT_LENGTH, replacements=VARIANTS)
    return replace(load, replacements=CHANGED_PARTS * layers) if kind == "layers" else load


def gigabytes(mebibytes: float) -> str:
    """Whole GiB, rounded up."""
    return str(math.ceil(mebibytes / 1024))


def table(gpus: int) -> str:
    """One row for each model: sizes, and for each kind of job memory (GiB; of the GPU where there is one), minutes."""
    heads = ["model", "parameters", "bytes", "N", "V", "all of U", *(["host"] if gpus else []), *COLUMNS]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, (parameters, _, _, neurons, vocab, width) in MODELS.items():
        plans = {kind: plan(kind, load_of(name, kind, gpus), float64_limit_mb=0) for kind in COLUMNS}
        memory = {kind: each.gpu_memory_mb if gpus else each.memory_mb for kind, each in plans.items()}
        lines.append(
            [
                name,
                f"{parameters / 1e9:.2f} B",
                str(width),
                str(neurons),
                str(vocab),
                f"{neurons * vocab * 4 / 2**30:.1f}",
                *([gigabytes(max(each.memory_mb for each in plans.values()))] if gpus else []),
                *(f"{gigabytes(memory[kind])}, {plans[kind].minutes}" for kind in COLUMNS),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def large_table() -> str:
    """The same models on a text of a million tokens, one replacement, on many GPUs."""
    heads = ["model", "passes, min", "GPU hours of the kernel", "a shard, min", "its start, min"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name in MODELS:
        load = replace(load_of(name, "ablation", 1), sequences=1000, sequence_length=1024, shards=LARGE_SHARDS)
        seconds, whole = time_terms("ablation", load), time_terms("forward", replace(load, shards=1))
        start = seconds["start"] + seconds["load"] + seconds["folding"]
        lines.append(
            [
                name,
                f"{whole['passes'] / 60:.0f}",
                f"{LARGE_SHARDS * seconds['kernel'] / 3600:.0f}",
                f"{sum(seconds.values()) / 60:.0f}",
                f"{start / 60:.0f}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def planning_tables() -> str:
    """All tables, as they stand in the document."""
    return (
        f"On one GPU:\n\n{table(1)}\n\nWithout a GPU, {THREADS} threads:\n\n{table(0)}\n\n"
        f"1000 sequences of 1024 tokens, {LARGE_SHARDS} shards, a GPU each:\n\n{large_table()}\n"
    )
