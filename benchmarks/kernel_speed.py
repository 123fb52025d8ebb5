"""How fast effects are: brute force, chunked torch and the numba kernel, interleaved on one thread.

    python benchmarks/kernel_speed.py [--d 768] [--vocab 50257] [--tokens 16] [--neurons 256] [--rounds 3] [--scale 1]

Each round times every method once, one after the other, on the same random read-out at GPT-2 small's size; of each the
fastest round counts. A pair is one (token, neuron); per pair, loss and entropy of the total and the direct effect are
computed, once without and once with the rank of the next token.

* brute force: the changed residual through norm, unembedding and log-softmax, 20 neurons at a time, as study A does;
  the rank by sorting all logits;
* chunked torch: the neurons' logits computed beforehand, full softmax of the changed logits, a chunk that fits the
  cache; the rank by counting;
* exponentials alone: what any method must do at least, one exp for each (variant, token, neuron, id), in numpy and by
  the kernel's own polynomial.

Random directions are alike and change every logit a little; `--scale` makes the changes larger or smaller.
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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow_scripts"))

import numpy as np
import torch
from neuronlab.ablation import coefficients
from neuronlab.kernels import brute_force, numba_kernel, torch_kernel
from neuronlab.kernels.arithmetic import exp2m1
from neuronlab.kernels.interface import Clean, Coefficients, Directions, Effects, clean_state, directions
from neuronlab.readout import Readout, fold
from numba import njit

VARIANTS = ("total", "direct")
CHUNK = 20  # neurons, as in study A
BUDGET = 4 * 2**20  # bytes of temporaries of chunked torch: larger chunks leave the cache and are slower


@dataclass(frozen=True)
class Problem:
    """Random tokens and neurons at a given size."""

    readout: Readout
    residual: torch.Tensor
    w: torch.Tensor
    delta: torch.Tensor
    targets: torch.Tensor
    clean: Clean
    lines: Directions
    factors: Coefficients

    @property
    def pairs(self) -> int:
        return self.delta.numel()


def make(d: int, vocab: int, tokens: int, neurons: int, scale: float) -> Problem:
    """Logits with a standard deviation near 3.5 nats; changes of logits near 0.03 nats at scale 1.

    Next tokens are drawn from the model's own distribution, as in a text that it predicts well.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    readout = fold(
        3.5 * draw(d, vocab) / d**0.5, None, torch.ones(d), torch.zeros(d), eps=1e-5, kind="LN", dtype=torch.float32
    )
    # What all pairs share is computed in float64, as in the rules where it is not too large.
    precise = readout.to(dtype=torch.float64)
    residual, w, delta = 10 * draw(tokens, d), 0.1 * scale * draw(neurons, d), draw(tokens, neurons)
    targets = torch.multinomial(readout.logits(residual).softmax(-1), 1, generator=generator)[:, 0]
    return Problem(
        readout,
        residual,
        w,
        delta,
        targets,
        clean_state(precise, residual, targets),
        directions(precise, w),
        coefficients(precise, residual, w, delta, variants=VARIANTS),
    )


def by_brute_force(problem: Problem, rank: bool) -> torch.Tensor:
    """METHODS A2 as published: float32, a full product with the unembedding for every neuron."""
    readout, found = problem.readout, []
    for t, x in enumerate(problem.residual):
        scale, target = readout.scale(x), problem.targets[t]
        for start in range(0, len(problem.w), CHUNK):
            part = slice(start, start + CHUNK)
            changed = x + problem.delta[t, part, None] * problem.w[part]
            for frozen in (None, scale):
                logits = readout.logits(changed, frozen)
                lp = logits.log_softmax(-1)
                found += [-lp[:, target], -(lp.exp() * lp).sum(-1)]
                if rank:
                    order = logits.argsort(-1, descending=True)
                    found.append((order == target).int().argmax(-1).float())
    return torch.cat(found)


def by_chunked_torch(problem: Problem, rank: bool) -> torch.Tensor:
    """Changed logits from precomputed directions, then log-softmax and entropy, in chunks of neurons."""
    clean, U, found = problem.clean, problem.lines.U, []
    step = max(1, BUDGET // (4 * U.element_size() * U.shape[1]))
    A, B = problem.factors.A.float(), problem.factors.B.float()
    for t in range(clean.tokens):
        target = problem.targets[t]
        for start in range(0, len(U), step):
            part = slice(start, start + step)
            for v in range(len(VARIANTS)):
                logits = torch.addcmul(clean.lp[t] + A[v, t, part, None] * clean.z[t], U[part], B[v, t, part, None])
                lp = logits.log_softmax(-1)
                found += [-lp[:, target], -(lp.exp() * lp).sum(-1)]
                if rank:
                    found.append((logits > logits[:, target, None]).sum(-1).float())
    return torch.cat(found)


def by_numba(problem: Problem, rank: bool) -> Effects:
    """The kernel of this package."""
    return numba_kernel.effects(problem.clean, problem.lines, problem.factors, ranked=(0, 1) if rank else ())


def by_torch_kernel(problem: Problem, rank: bool) -> Effects:
    """The torch kernel of this package, which serves GPUs and softcaps."""
    return torch_kernel.effects(
        problem.clean, problem.lines, problem.factors, ranked=(0, 1) if rank else (), budget=BUDGET
    )


@njit(fastmath={"reassoc", "nsz"})
def _exponentials(u: np.ndarray, b: np.float32) -> np.float32:
    total = np.float32(0)
    for i in range(u.size):
        total += exp2m1(b * u[i])
    return total


def microseconds(function: Callable[[], object], pairs: int) -> float:
    """Time of one call, per pair."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) / pairs * 1e6


def largest_error(problem: Problem) -> float:
    """Largest error of the numba kernel in units of 1e-6 + 1e-5 |effect|, for one token against float64."""
    got, n = by_numba(problem, False), min(len(problem.w), 64)
    oracle = brute_force.pair_effects(
        problem.readout.to(dtype=torch.float64),
        problem.residual[0].expand(n, -1),
        problem.w[:n],
        problem.delta[0, :n],
        problem.targets[0].expand(n),
        variants=VARIANTS,
    )
    worst = 0.0
    for name in ("loss", "entropy"):
        value, exact = getattr(got, name)[:, 0, :n], getattr(oracle, name)[..., 0]
        worst = max(worst, float((np.abs(value - exact) / (1e-6 + 1e-5 * np.abs(exact))).max()))
    return worst


def main() -> None:
    """Parse arguments, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--neurons", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the changes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = make(options.d, options.vocab, options.tokens, options.neurons, options.scale)
    # Slow methods run on a part of the pairs, as many as a chunk needs to be typical.
    few = make(options.d, options.vocab, 1, 2 * CHUNK, options.scale)
    u, b = problem.lines.U[0].numpy(), np.float32(0.1)
    buffer = np.empty_like(u)
    methods: dict[str, tuple[Callable[[], object], int]] = {}
    for rank, suffix in ((False, ""), (True, " + rank")):
        methods |= {
            f"brute force{suffix}": (lambda rank=rank: by_brute_force(few, rank), few.pairs),
            f"chunked torch{suffix}": (lambda rank=rank: by_chunked_torch(few, rank), few.pairs),
            f"torch kernel{suffix}": (lambda rank=rank: by_torch_kernel(few, rank), few.pairs),
            f"numba kernel{suffix}": (lambda rank=rank: by_numba(problem, rank), problem.pairs),
        }
    methods["exponentials alone, numpy"] = (lambda: [np.exp(u, out=buffer) for _ in range(200)], 100)
    methods["exponentials alone, ours"] = (lambda: [_exponentials(u, b) for _ in range(2000)], 1000)

    best = dict.fromkeys(methods, float("inf"))
    for _, (function, _) in methods.items():
        function()  # compiles, and touches the memory
    for round_ in range(options.rounds):
        for name, (function, pairs) in methods.items():
            best[name] = min(best[name], microseconds(function, pairs))
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
    effect = np.abs(by_numba(problem, False).loss)
    print(f"d {options.d}, V {options.vocab}, {problem.pairs} pairs; loss and entropy, total and direct; one thread")
    print(f"|change of loss|: median {np.median(effect):.2g}, largest {effect.max():.2g} nats")
    for name, time_ in best.items():
        suffix = " + rank" if name.endswith("rank") else ""
        ratio = best["brute force" + suffix] / time_
        print(f"  {name:28} {time_:10.1f} us per pair {ratio:9.1f} times brute force{suffix}")
    for suffix in ("", " + rank"):
        numba_time = best[f"numba kernel{suffix}"]
        print(
            f"numba kernel{suffix}: {best['brute force' + suffix] / numba_time:.0f} times brute force, "
            f"{best['chunked torch' + suffix] / numba_time:.0f} times chunked torch"
        )
    print(f"largest error of the numba kernel: {largest_error(problem):.2g} of 1e-6 + 1e-5 |effect|")


if __name__ == "__main__":
    main()
