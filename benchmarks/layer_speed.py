"""How fast layers are deleted and swapped: whole passes for each intervention against starts from cached residuals.

    python benchmarks/layer_speed.py [--layers 12] [--d 256] [--heads 4] [--vocab 8000] [--positions 128]
        [--sequences 4] [--rounds 2] [--device cpu]

A random GPT-2 of that size. Every layer is deleted and every two neighbours are swapped; each way gives KL, loss,
entropy, agreement and reciprocal rank at every position but the last, and their numbers are compared. Weights are
exchanged in place and nothing is reloaded in any of the three, so that passes alone are compared (the published code
makes a new model for each swap, which would make it slower still); all of them read out with the same function:

* published: a clean and a changed whole pass for each intervention, and the read-out of both (METHODS C1);
* whole passes: a changed whole pass for each intervention, one clean pass and one clean read-out for all;
* from residuals: this library, which starts each intervention at its layer.
"""

# ruff: noqa: E402 (threads are fixed before the libraries are loaded)

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow_scripts"))

import numpy as np
import torch
from neuronlab.bridge_parts import FINAL_RESIDUAL, hooked_forward
from neuronlab.layer_outcomes import outcomes
from neuronlab.layer_passes import Intervention, LayerPasses, exchanged_weights
from neuronlab.layer_plan import plan_interventions
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.readout import Readout
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

CHUNK = 128


def make_model(folder: Path, arguments: argparse.Namespace) -> Model:
    """A random GPT-2, with weights large enough that layers do something."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=arguments.vocab,
        n_embd=arguments.d,
        n_layer=arguments.layers,
        n_head=arguments.heads,
        n_positions=max(arguments.positions, 16),
        initializer_range=0.5 / arguments.d**0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(arguments.vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w0").save_pretrained(folder)
    return load_model(ModelSpec("random", "directory", path=str(folder), device=arguments.device))


def whole_pass(passes: LayerPasses, tokens: torch.Tensor, intervention: Intervention | None = None) -> torch.Tensor:
    """Input of the final norm at every position but the last, from the tokens, through all blocks."""
    model, kept = passes.model, {}
    swapped = intervention is not None and intervention.kind == "swap"
    hooks = {} if intervention is None or swapped else passes.replacing(intervention)
    hooks |= {FINAL_RESIDUAL: lambda tensor, hook: kept.update(residual=tensor)}
    with exchanged_weights(model, intervention.layer, intervention.other) if swapped else nullcontext():
        hooked_forward(model.bridge, tokens, hooks, logits_to_keep=1)
    passes.evaluations += len(tokens) * model.n_layers
    return counted(kept["residual"])


def counted(residual: torch.Tensor) -> torch.Tensor:
    """All positions but the last, flat."""
    return residual[:, :-1].flatten(0, 1)


def published(passes: LayerPasses, readout: Readout, tokens: torch.Tensor, planned: list[Intervention]) -> np.ndarray:
    """Both passes and both read-outs for each intervention."""
    targets = tokens[:, 1:].flatten()
    found = []
    for each in planned:
        clean = whole_pass(passes, tokens)
        found.append(outcomes(readout, clean, [whole_pass(passes, tokens, each)], targets, CHUNK)[1][0])
    return np.stack(found)


def whole_passes(
    passes: LayerPasses, readout: Readout, tokens: torch.Tensor, planned: list[Intervention]
) -> np.ndarray:
    """One clean pass, a whole one for each intervention."""
    clean = whole_pass(passes, tokens)
    states = [whole_pass(passes, tokens, each) for each in planned]
    return outcomes(readout, clean, states, tokens[:, 1:].flatten(), CHUNK)[1]


def from_residuals(
    passes: LayerPasses, readout: Readout, tokens: torch.Tensor, planned: list[Intervention]
) -> np.ndarray:
    """One clean pass, each intervention from its layer on."""
    residuals = passes.clean(tokens)
    states = [counted(passes.changed(residuals, each)) for each in planned]
    return outcomes(readout, counted(residuals[-1]), states, tokens[:, 1:].flatten(), CHUNK)[1]


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds, and what came out."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    """Time the three ways, compare their numbers, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"layers": 12, "d": 256, "heads": 4, "vocab": 8000, "positions": 128, "sequences": 4, "rounds": 2}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), arguments)
    shape = (arguments.sequences, arguments.positions)
    tokens = torch.randint(1, arguments.vocab, shape, generator=torch.Generator().manual_seed(1)).to(model.device)
    planned = plan_interventions(["delete", "swap"], "adjacent", model.n_layers, "random")
    readout = model.readout()
    ways = {"published": published, "whole passes": whole_passes, "from residuals": from_residuals}
    best: dict[str, float] = {}
    blocks: dict[str, int] = {}
    found: dict[str, np.ndarray] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            passes = LayerPasses(model)
            seconds, found[name] = timed(lambda way=way, passes=passes: way(passes, readout, tokens, planned))
            best[name] = min(seconds, best.get(name, seconds))
            blocks[name] = passes.evaluations // len(tokens)
    error = max(float(np.abs(found[name] - found["from residuals"])[:, :3].max()) for name in ways)
    print(
        f"{model.architecture}, {model.n_layers} layers, d {model.d_model}, vocabulary {model.d_vocab}, "
        f"{len(planned)} interventions on {shape[0]} sequences of {shape[1]} positions, {model.device}, "
        f"{torch.get_num_threads()} thread(s); largest difference of a KL, loss or entropy {error:.1e} nats"
    )
    for name, seconds in best.items():
        print(
            f"{name:15} {blocks[name]:4} blocks per sequence, {blocks[name] / blocks['from residuals']:.2f} times ours;"
            f" {seconds:7.3f} s, {seconds / best['from residuals']:.2f} times ours"
        )


if __name__ == "__main__":
    main()
