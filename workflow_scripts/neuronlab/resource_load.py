"""What a planned job does: its kind, and the sizes that its needs follow from. See `resource_plan`."""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = {
    "weights": "reads weights: norms, singular directions, vocabulary moments, null space; no text",
    "forward": "passes over a text: activation statistics, baselines, attention, induction, conflicts",
    "ablation": "effects of all last-layer neurons at every token of a shard, in closed form",
    "chosen": "the same of chosen neurons: traces, doses, synthetic controls",
    "sets": "the same of sets of neurons, with the proof by a float64 copy of the model, if it fits",
    "frequency": "token-frequency neurons: all shards' sums, then candidates with directions frozen on a sample",
    "decoding": "greedy continuations of a shard's prompts under many variants of the last layer",
    "answers": "one greedy continuation of every fact's query",
    "layers": "deleted, averaged and swapped layers: one clean pass, then what is left of each changed one; with proof",
    "lens": "logit lens: one pass, and a read-out of what every layer leaves",
    "scores": "attention of all heads on repetitions",
    "heads": "ablated heads: one pass for each set and method, and for every head on a few sequences; with proof",
    "float64": "verification: a float64 copy of the model beside the model, if it fits",
    "tables": "reads the shards' sums, no model: means with intervals",
    "traces": "reads the traces of chosen neurons, no model: figures, cards",
}
WITHOUT_MODEL = ("tables", "traces")
COPYING = ("float64", "sets", "layers", "heads")  # kinds that load a float64 copy of the model, if it fits


# Counts that memory and time follow from.
FLOAT32, FLOAT64 = 4, 8
TOKENS_PER_DOCUMENT = 200  # tables have rows per document; texts of shorter documents take more
CHOSEN = 256  # neurons of all selections and their controls
TRACED, TRACE_COLUMNS = 120, 30  # neurons that are traced token by token, and columns of that table
SUM_COLUMNS = 32  # of a shard's table (`schemas`, "ablation_shard")
FREQUENCY_COLUMNS = 3  # of sums that token-frequency neurons are chosen by
SHARD_ROW = 64  # bytes of a row of a shard in memory, of these columns and those that say whose they are
DIRECTIONS = 100  # logit directions that are frozen
RESAMPLES = 1000  # of the bootstrap
HEAD_WIDTH = 64  # the narrowest heads in use: as many attention matrices as there can be
NEW_TOKENS = 10  # of an answer


@dataclass(frozen=True)
class Load:
    """Sizes that a job's needs follow from.

    Attributes:
        parameters: of the model.
        bytes_per_weight: 2 for bfloat16 and float16, 4 for float32, 8 for float64.
        sequences, sequence_length: of the text; prompts and their length where there is no text.
        shards: jobs that the sequences are divided among; 1 for jobs that take them all.
        replacements: changes that every token sees: replacement values (ablation), variants (decoding), interventions
            (layers), sets and methods (heads); 1 elsewhere.
        gpus: GPUs of the job; weights and blocks are on the first.
        threads: of the job, without a GPU.
        n_heads: of a layer; None for as many as there can be.
        most_tokens: of the text that a job keeps rows (traces) or states (sets) of; None for all.
        pairs: (token, neuron) of a sample, for each direction that is frozen there.
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
    n_heads: int | None = None
    most_tokens: int | None = None
    pairs: int = 0


def mine(load: Load) -> int:
    """Sequences of one shard, of the fullest."""
    return math.ceil(load.sequences / load.shards)


def documents(load: Load) -> int:
    """Documents of one shard: one for each sequence, and more where sequences are long."""
    return mine(load) * (1 + load.sequence_length // TOKENS_PER_DOCUMENT)


def per_pass(load: Load) -> int:
    """Sequences of one forward pass."""
    return min(load.batch_size, max(mine(load), 1))


def kept_tokens(load: Load) -> int:
    """Tokens that rows or states are kept of: all, or a sample of them."""
    tokens = load.sequences * load.sequence_length
    return tokens if load.most_tokens is None else min(tokens, load.most_tokens)


def heads(load: Load) -> int:
    """Attention heads of a layer."""
    return load.n_heads or max(1, load.d_model // HEAD_WIDTH)
