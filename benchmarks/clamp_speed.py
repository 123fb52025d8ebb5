"""What a value of a clamping grid costs, against what a replacement costs in `ablate_neurons`, interleaved, one thread.

    python benchmarks/clamp_speed.py [--d 768] [--vocab 50257] [--tokens 16] [--clamped 64] [--points 9]
                                     [--neurons 512] [--rounds 5]

Each round times every method once, one after the other, on the same random read-out at GPT-2 small's size; of each the
fastest round counts, and the ratio is also given per round. Clean read-outs and coefficients are part of the time, the
logits that neurons write, computed once per text, are not. Per (token, neuron, value):

* clamping grid: `dose_response.clamped`, as the rule `clamp_neurons` calls it: loss and entropy, total and direct, the
  norm's scale, and the rank of the next token, for `--points` values from each neuron's smallest to largest activation;
* replacement: `effects_of_chunk`, as the rule `ablate_neurons` calls it for every neuron and its mean: loss, entropy
  and KL of four variants, two ranks and top predictions;
* replacement, the same outcomes: that for total and direct with one rank, on the grid's own neurons.
"""

# ruff: noqa: E402 (threads are fixed before the libraries are loaded)

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow_scripts"))

import numpy as np
import torch
from neuronlab.ablation import LastLayer, Tokens, clean_of, directions_of, effects_of_chunk
from neuronlab.dose_response import CLAMPED, clamped
from neuronlab.kernels.interface import Reference
from neuronlab.readout import fold


def make(d: int, vocab: int, tokens: int, neurons: int) -> tuple[LastLayer, Tokens]:
    """Logits with a standard deviation near 3.5 nats; rectified activations; Zipfian unigram distribution."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    readout = fold(
        3.5 * draw(d, vocab) / d**0.5, None, torch.ones(d), torch.zeros(d), eps=1e-5, kind="LN", dtype=torch.float64
    )
    residual, w = 10 * draw(tokens, d), 0.1 * draw(neurons, d)
    targets = torch.multinomial(readout.logits(residual.double()).softmax(-1), 1, generator=generator)[:, 0]
    q = 1 / torch.arange(1, vocab + 1, dtype=torch.float64)
    q /= q.sum()
    direction = q.log() - q.log().mean()
    reference = Reference(q, direction / direction.norm())
    last = LastLayer(layer=0, readout=readout, w=w, raw=w, reference=reference, kernel="numba")
    return last, Tokens(residual, torch.nn.functional.gelu(2 * draw(tokens, neurons)), targets)


def main() -> None:
    """Parse arguments, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--clamped", type=int, default=64, help="neurons that are clamped")
    parser.add_argument("--points", type=int, default=9, help="values per neuron")
    parser.add_argument("--neurons", type=int, default=512, help="neurons whose activation is replaced")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    last, tokens = make(options.d, options.vocab, options.tokens, max(options.neurons, options.clamped))
    without = replace(last, reference=None)  # as `clamp_neurons` does
    few, many = list(range(options.clamped)), list(range(options.neurons))
    grid = np.linspace(
        tokens.activations[:, few].double().amin(0).numpy(),
        tokens.activations[:, few].double().amax(0).numpy(),
        options.points,
    )
    to_mean = tokens.activations.double().mean(0) - tokens.activations.double()
    lines_few, lines_many = directions_of(without, few), directions_of(last, many)

    def by_grid() -> None:
        clamped(without, tokens, clean_of(without, tokens), lines_few, few, grid)

    def by_replacement() -> None:
        effects_of_chunk(last, tokens, clean_of(last, tokens), lines_many, many, to_mean[:, many])

    def by_same_outcomes() -> None:
        clean = clean_of(without, tokens)
        effects_of_chunk(without, tokens, clean, lines_few, few, to_mean[:, few], variants=CLAMPED, ranked=(0,))

    methods: dict[str, tuple[Callable[[], None], int]] = {
        "clamping grid": (by_grid, options.tokens * grid.size),
        "replacement": (by_replacement, options.tokens * options.neurons),
        "replacement, same outcomes": (by_same_outcomes, options.tokens * options.clamped),
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    for function, _ in methods.values():
        function()  # compiles, and touches the memory
    for round_ in range(options.rounds):
        for name, (function, pairs) in methods.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) / pairs * 1e6)
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
    print(
        f"d {options.d}, V {options.vocab}, {options.tokens} tokens; grid: {options.clamped} neurons x "
        f"{options.points} values; replacement: {options.neurons} neurons; one thread"
    )
    for name, found in times.items():
        print(f"  {name:28} {min(found):8.2f} us per (token, neuron, value)")
    for name in ("replacement", "replacement, same outcomes"):
        ratios = np.array(times["clamping grid"]) / np.array(times[name])
        print(
            f"grid / {name}: {min(times['clamping grid']) / min(times[name]):.2f} "
            f"(rounds {ratios.min():.2f} to {ratios.max():.2f})"
        )


if __name__ == "__main__":
    main()
