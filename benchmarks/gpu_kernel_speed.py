"""How fast the two kernels for GPUs are, torch and triton, and how exact, on the machine's CUDA device.

    python benchmarks/gpu_kernel_speed.py [--d 768] [--vocab 50257] [--tokens 128] [--neurons 3072] [--scale 1]

What the rules compute for every (token, neuron): the four variants with loss, entropy and divergence, ranks of two.
Each round times both kernels once, arrays already on the device; of each the fastest round counts. The first call,
which compiles, is timed by itself. Errors are those of 64 pairs against float64. TRITON_INTERPRET=1 runs it on a CPU,
to see that it works: name sizes of a few hundred then.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow_scripts"))

import numpy as np
import torch
from neuronlab.ablation import RANKED, TORCH_BUDGET, AblationError, choose_kernel, coefficients
from neuronlab.kernels import brute_force, torch_kernel
from neuronlab.kernels.interface import Effects, Reference, clean_state, directions
from neuronlab.readout import fold

CHECKED = 64  # pairs that are compared with the oracle


def on(value: object, device: torch.device) -> object:
    """A dataclass with its tensors on the device."""
    there = {field.name: getattr(value, field.name) for field in fields(value)}
    return replace(value, **{name: x.to(device) for name, x in there.items() if isinstance(x, torch.Tensor)})


def largest_error(got: Effects, exact: Effects) -> float:
    """Largest error of the first token's pairs in units of 1e-6 + 1e-5 |effect|."""
    worst, pairs = 0.0, exact.loss.shape[1]
    for name in ("loss", "entropy", "kl"):
        value, oracle = getattr(got, name)[:, 0, :pairs], getattr(exact, name)[..., 0]
        worst = max(worst, float((np.abs(value - oracle) / (1e-6 + 1e-5 * np.abs(oracle))).max()))
    return worst


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("d", 768), ("vocab", 50257), ("tokens", 128), ("neurons", 3072), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the changes")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    d, vocab = options.d, options.vocab
    readout = fold(3.5 * draw(d, vocab) / d**0.5, None, torch.ones(d), torch.zeros(d), eps=1e-5, kind="LN")
    precise = readout.to(dtype=torch.float64)
    residual, w = 10 * draw(options.tokens, d).double(), 0.1 * options.scale * draw(options.neurons, d).double()
    delta = draw(options.tokens, options.neurons).double()
    targets = torch.multinomial(precise.logits(residual).softmax(-1), 1, generator=generator)[:, 0]
    q = torch.softmax(2 * draw(vocab).double(), 0)
    along = q.log() - q.log().mean()
    reference = Reference(q, along / along.norm())
    try:
        choose_kernel("triton", readout, device)
    except AblationError as error:
        sys.exit(str(error))
    from neuronlab.kernels import triton_kernel

    given = (
        clean_state(precise, residual, targets, reference=reference),
        directions(precise, w, reference=reference),
        coefficients(precise, residual, w, delta),
    )
    moved, there = [on(value, device) for value in given], reference.to(device)
    budget = TORCH_BUDGET.get(device.type, TORCH_BUDGET["cpu"])
    kernels = {"torch": torch_kernel, "triton": triton_kernel}

    def run(name: str) -> tuple[Effects, float]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()  # effects end on the host, so that the device is done when they are there
        found = kernels[name].effects(*moved, reference=there, ranked=RANKED, budget=budget)
        return found, time.perf_counter() - start

    n = min(CHECKED, options.neurons)
    exact = brute_force.pair_effects(
        precise, residual[0].expand(n, -1), w[:n], delta[0, :n], targets[0].expand(n), reference=reference
    )
    print(f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}; d {d}, V {vocab}, ", end="")
    print(f"{delta.numel()} pairs; |change of loss|: median {np.median(np.abs(exact.loss[0])):.2g} nats")
    best = {}
    for name in kernels:
        found, first = run(name)
        print(f"  {name}: first call {first:.2f} s, largest error {largest_error(found, exact):.2g} of the tolerance")
        best[name] = first
    for _ in range(options.rounds):
        for name in kernels:
            best[name] = min(best[name], run(name)[1])
    for name, seconds in best.items():
        triples = delta.numel() * vocab
        print(f"  {name:7} {seconds:8.3f} s, {seconds / triples * 1e12:9.2f} ps per (token, neuron, id)")
    print(f"triton: {best['torch'] / best['triton']:.1f} times as fast as torch")


if __name__ == "__main__":
    main()
