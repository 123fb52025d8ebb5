"""Seconds that a planned job reads and computes, term by term. See `resource_plan`."""

from __future__ import annotations

import math

from neuronlab.resource_load import (
    CHOSEN,
    NEW_TOKENS,
    RESAMPLES,
    SUM_COLUMNS,
    TRACE_COLUMNS,
    TRACED,
    Load,
    documents,
    heads,
    kept_tokens,
    mine,
)

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
CONTINUATIONS = 10  # distinct continuations of a prompt under all its variants
HEAD_SEQUENCES, HEAD_METHODS = 32, 2  # on which every head of the model is ablated, at most


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
    places = (load.sequences if kind == "frequency" else mine(load)) * load.sequence_length
    on_gpu = load.gpus > 0

    def flops(number: float, width: int) -> float:
        return number / (GPU_FLOPS[width] if on_gpu else CPU_FLOPS[width] * load.threads)

    def elementwise(number: float, cpu: float, gpu: float) -> float:
        return number * (gpu / GPU_BANDWIDTH if on_gpu else cpu / load.threads)

    terms = {"start": START_SECONDS}
    if kind == "traces":
        return terms | {"reading": kept_tokens(load) * TRACED * TRACE_COLUMNS * 20e-9}
    if kind == "tables":
        numbers = load.shards * documents(load) * N * load.replacements * SUM_COLUMNS
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
    elif kind in ("chosen", "sets"):
        terms |= {"passes": 2 * one_pass, "read-out": readout, "U": flops(2.0 * CHOSEN * d * V, 8)}
        terms["kernel"] = load.replacements * elementwise(places * CHOSEN * V, 4 * CPU_KERNEL, 4 * GPU_KERNEL_BYTES)
    elif kind == "frequency":
        numbers = load.shards * documents(load) * N * load.replacements * SUM_COLUMNS
        terms |= {"reading": numbers * 20e-9, "bootstrap": 2 * RESAMPLES * numbers / 15e9 / load.replacements}
        terms |= {"passes": one_pass, "U": flops(2.0 * CHOSEN * d * V, 8), "spectra": flops(40.0 * d**3, 8)}
        terms["kernel"] = elementwise(load.pairs * V, CPU_KERNEL, GPU_KERNEL_BYTES)
    elif kind == "ablation":
        batches = math.ceil(mine(load) / load.batch_size) if load.neurons_per_tile < N else 1
        terms |= {"passes": 2 * one_pass, "read-out": readout}  # two: "resample" reads the donors
        terms["U"] = batches * flops(2.0 * N * d * V, 8)  # once where it fits, else once per batch
        terms["kernel"] = load.replacements * elementwise(places * N * V, CPU_KERNEL, GPU_KERNEL_BYTES)
    elif kind == "decoding":
        grown, pairs = mine(load) * CONTINUATIONS * NEW_TOKENS, mine(load) * load.replacements
        terms["passes"] = one_pass + flops(pass_flops(load, grown), width)
        read = mine(load) + grown
        terms["read-out"] = flops(2.0 * d * V * read, 8) + elementwise(
            read * V, 2 * CPU_OUTCOMES, 2 * GPU_OUTCOME_BYTES
        )
        terms["choice"] = pairs * NEW_TOKENS * (1e-7 if on_gpu else 2e-6)
        terms["entropies"] = elementwise(pairs * V, CPU_ENTROPY, 60)
    elif kind == "answers":
        grown = mine(load) * NEW_TOKENS
        terms["passes"] = one_pass + flops(pass_flops(load, grown), width)
        terms["read-out"] = flops(2.0 * d * V * grown, width) + elementwise(grown * V, CPU_OUTCOMES, GPU_OUTCOME_BYTES)
    elif kind == "lens":
        terms |= {"passes": one_pass, "read-out": (L + 1) * readout}
    elif kind == "scores":
        patterns = elementwise(places * load.sequence_length * L * heads(load), CPU_MOMENTS, 50)
        terms |= {"passes": one_pass, "patterns": patterns}
    elif kind == "heads":
        # A clean pass and one for the means; then one for each set and method, of the layers above the lowest head.
        terms |= {"passes": (2 + load.replacements) * one_pass, "read-out": (load.replacements + 1) * readout}
        each = pass_flops(load, min(mine(load), HEAD_SEQUENCES) * load.sequence_length) / 2
        terms["every head"] = flops(HEAD_METHODS * L * heads(load) * each, width)
    elif kind == "layers":
        # A clean pass and one for the means; an intervention has half of the blocks left, on average.
        terms |= {"passes": (2 + load.replacements / 2) * one_pass, "read-out": (load.replacements + 1) * readout}
    else:
        terms["passes"] = flops(pass_flops(load, load.batch_size * load.sequence_length), width)
        terms["oracle"] = elementwise(512.0 * V, 100e-9, 1000) + flops(2.0 * d * V * 1024, 8)
    if copied:
        terms["copy"] = flops(pass_flops(load, 64 * load.sequence_length), 8)
    return terms
