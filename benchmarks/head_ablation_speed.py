"""How fast heads are ablated at every position: one hooked forward pass per position against the one extra pass.

    python benchmarks/head_ablation_speed.py [--layers 4] [--d 768] [--heads 12] [--vocab 8000] [--positions 101]
        [--sequences 4] [--layer 1] [--rounds 2] [--device cpu]

A random GPT-2 of that size. Both ways give activations of the last layer, entropy, loss, scale of the final norm,
largest logit and KL(clean || ablated) at every position for the BOS ablation of two heads, one in `--layer` and one in
the last; their numbers are compared. Both run the sequences as one batch and read out at the ablated position alone
(the published way computes all logits in every pass, which would make it slower still).

* per position: a hooked forward pass for each position, and a clean one for the KL;
* one pass: a clean pass, then the pass that sees clean keys, from `--layer` on;
* further set: the second of these alone, what every further set of heads on the same sequences costs.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow_scripts"))

import torch
from neuronlab.attention import States, ablated_pass, clean_pass, forward_at
from neuronlab.head_readouts import read
from neuronlab.head_sets import HeadSet
from neuronlab.models import Model, ModelSpec, load_model
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


def make_model(folder: Path, arguments: argparse.Namespace) -> Model:
    """A random GPT-2, with weights large enough that heads attend to something."""
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


def quantities(
    model: Model, states: States, clean: torch.Tensor, targets: torch.Tensor, chunk: int = 128
) -> torch.Tensor:
    """Read-outs of [row, ...] states against the clean residual at the same places: [quantity, row]."""
    readout, found = model.readout(), []
    for start in range(0, len(targets), chunk):
        rows = slice(start, start + chunk)
        _, reference = read(readout, clean[rows], targets[rows])
        found.append(read(readout, states.residual[rows], targets[rows], reference)[0])
    return torch.cat(found, dim=1)


def per_position(model: Model, tokens: torch.Tensor, heads: HeadSet, targets: torch.Tensor) -> torch.Tensor:
    """A hooked forward pass for every position: [quantity, sequence, position]."""
    clean = clean_pass(model, tokens, []).states.residual
    found = []
    for position in range(tokens.shape[1]):
        at = torch.full((len(tokens),), position)
        states = forward_at(model, tokens, heads, "bos", at)
        found.append(quantities(model, states, clean[:, position], targets[:, position]))
    return torch.stack(found, dim=-1)


def timed(function: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what came out."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def main() -> None:
    """Time both ways, compare their numbers, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "layers": 4,
        "d": 768,
        "heads": 12,
        "vocab": 8000,
        "positions": 101,
        "sequences": 4,
        "layer": 1,
        "rounds": 2,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), arguments)
    shape = (arguments.sequences, arguments.positions)
    tokens = torch.randint(1, arguments.vocab, shape, generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 0
    tokens = tokens.to(model.device)
    targets = tokens.roll(-1, 1)
    heads = HeadSet(((arguments.layer, 0), (arguments.layers - 1, 1)))
    best: dict[str, float] = {}
    for _ in range(arguments.rounds):
        seconds_clean, clean = timed(lambda: clean_pass(model, tokens, [arguments.layer]))

        def further(clean=clean) -> torch.Tensor:
            states = ablated_pass(model, clean, [heads], "bos")
            flat = States(*(x[0].flatten(0, 1) for x in (states.residual, states.activations)))
            found = quantities(model, flat, clean.states.residual.flatten(0, 1), targets.flatten())
            return found.unflatten(1, shape)

        seconds_further, once = timed(further)
        seconds_brute, brute = timed(lambda: per_position(model, tokens, heads, targets))
        times = {
            "per position": seconds_brute,
            "one pass": seconds_clean + seconds_further,
            "further set": seconds_further,
        }
        for name, seconds in times.items():
            best[name] = min(seconds, best.get(name, seconds))
    error = float((once - brute).abs().max())
    print(
        f"{model.architecture}, {arguments.layers} layers, d {arguments.d}, vocabulary {arguments.vocab}, "
        f"{arguments.sequences} sequences of {arguments.positions} positions, heads {heads.name}, {model.device}, "
        f"{torch.get_num_threads()} thread(s); largest difference of any quantity {error:.1e}"
    )
    for name, seconds in best.items():
        print(f"{name:13} {seconds:8.3f} s   {best['per position'] / seconds:6.1f} x")


if __name__ == "__main__":
    main()
