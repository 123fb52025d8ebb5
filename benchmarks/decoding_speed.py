"""Greedy decoding under many last-layer replacements: one prefix tree for all against one generation for each.

    python benchmarks/decoding_speed.py [--model demo | random] [--prompts 64] [--sets 51] [--values 5] [--size 6]
        [--new-tokens 10] [--spread 1.0] [--batch-size 64] [--naive 255] [--device cpu] [--dtype float32]

`demo` is the shipped model on conflict prompts about its facts, `random` a random model at GPT-2 small's size
(`--layers`, `--d`, `--heads`, `--vocab`) on random tokens. Variants are random sets of `--size` last-layer neurons,
each held at `--values` vectors: what the prompts' ends have on average plus `--spread` standard deviations of noise.
Both ways generate `--new-tokens` tokens with no other end, in float32 or as asked, with the same hooked forward passes:

* one by one: a generation for each variant, all prompts in left-padded batches with a cache of keys and values, the
  activations replaced by a hook, the token taken from the model's own logits;
* one tree: `decoding.decode_variants`, everything that it needs computed anew, compiling its kernel included.

With fewer `--naive` variants than there are, the time of one by one is theirs, scaled up. Tokens of both are compared.
"""

# ruff: noqa: E402 (threads are fixed before the libraries are loaded)

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow_scripts"))

import numpy as np
import torch
from neuronlab.ablation import LastLayer
from neuronlab.decoding import Decoded, decode_variants
from neuronlab.demo.world_files import facts
from neuronlab.last_layers import last_layer_of
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.naive_decoding import generate_batch
from neuronlab.prompt_batches import by_length, read_prompts
from neuronlab.variant_groups import VariantGroup
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


def random_model(folder: Path, arguments: argparse.Namespace) -> Model:
    """A random GPT-2 whose logits spread over some nats."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=arguments.vocab,
        n_embd=arguments.d,
        n_layer=arguments.layers,
        n_head=arguments.heads,
        initializer_range=2 / arguments.d**0.5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(arguments.vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w0").save_pretrained(folder)
    return load_model(
        ModelSpec("random", "directory", path=str(folder), device=arguments.device, dtype=arguments.dtype)
    )


def random_prompts(model: Model, count: int, generator: np.random.Generator) -> list[list[int]]:
    """Twelve to twenty random tokens."""
    return [generator.integers(1, model.d_vocab, generator.integers(12, 21)).tolist() for _ in range(count)]


def demo_prompts(model: Model, count: int, generator: np.random.Generator) -> list[list[int]]:
    """Statements about the demo's subjects with another object of the same relation, then the query again."""
    rows = facts().to_dicts()
    prompts = []
    for i in generator.permutation(len(rows))[:count]:
        fact = rows[i]
        others = [
            row["object"] for row in rows if row["relation"] == fact["relation"] and row["object"] != fact["object"]
        ]
        text = f"{fact['query']} {others[generator.integers(len(others))]}. {fact['query']}"
        prompts.append([model.bos_token_id, *model.tokenizer.encode(text, add_special_tokens=False)])
    return prompts


def make_groups(
    model: Model, prompts: Sequence[Sequence[int]], arguments: argparse.Namespace, generator: np.random.Generator
) -> list[VariantGroup]:
    """Random sets with `values` vectors each."""
    states = [read_prompts(model, [prompts[i] for i in part]).state for part in by_length(prompts, 64)]
    activations = torch.cat([state.activations for state in states]).double().cpu().numpy()
    mean, sd = activations.mean(0), activations.std(0)
    groups = []
    for i in range(arguments.sets):
        chosen = generator.permutation(model.d_mlp)[: arguments.size]
        noise = generator.standard_normal((arguments.values, arguments.size))
        first = 1 + i * arguments.values
        groups.append(
            VariantGroup(
                neurons=tuple(chosen.tolist()),
                variants=np.arange(first, first + arguments.values),
                values=mean[chosen] + arguments.spread * sd[chosen] * noise,
            )
        )
    return groups


def one_by_one(
    model: Model,
    last: LastLayer,
    prompts: Sequence[Sequence[int]],
    wanted: Sequence[tuple[VariantGroup, int]],
    arguments: argparse.Namespace,
) -> list[list[tuple[int, ...]]]:
    """A generation for each variant: tokens of each prompt."""
    found = []
    for group, row in wanted:
        tokens: dict[int, tuple[int, ...]] = {}
        for part in by_length(prompts, arguments.batch_size):
            batch = [prompts[i] for i in part]
            new = generate_batch(model, last, batch, group, row, new_tokens=arguments.new_tokens)
            tokens |= dict(zip(part, new, strict=True))
        found.append([tokens[i] for i in range(len(prompts))])
    return found


def same(decoded: Decoded, naive: list[list[tuple[int, ...]]], wanted: Sequence[tuple[VariantGroup, int]]) -> int:
    """How many continuations are the same, up to an EOS."""
    count = 0
    for (group, row), rows in zip(wanted, naive, strict=True):
        for prompt, tokens in enumerate(rows):
            ours = decoded.continuations[prompt][decoded.chosen[prompt, group.variants[row]]]
            count += ours == tokens[: len(ours)]
    return count


def synchronised() -> float:
    """The clock, once the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Time both ways, compare their tokens, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("demo", "random"), default="demo")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--sets", type=int, default=51)
    parser.add_argument("--values", type=int, default=5, help="variants of each set")
    parser.add_argument("--size", type=int, default=6, help="neurons of each set")
    parser.add_argument("--new-tokens", type=int, default=10)
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviations")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--naive", type=int, default=255, help="variants that are generated one by one")
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    for name, value in {"layers": 12, "d": 768, "heads": 12, "vocab": 50257}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="of the random model")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_grad_enabled(False)
    generator = np.random.default_rng(0)
    if arguments.model == "demo":
        model = load_model(ModelSpec("demo", "demo", device=arguments.device, dtype=arguments.dtype))
        prompts = demo_prompts(model, arguments.prompts, generator)
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(Path(folder), arguments)
        prompts = random_prompts(model, arguments.prompts, generator)
    groups = make_groups(model, prompts, arguments, generator)
    last = last_layer_of(model, kernel=arguments.kernel)
    every = [(group, row) for group in groups for row in range(len(group.variants))]
    places = np.linspace(0, len(every) - 1, min(arguments.naive, len(every))).astype(int)
    wanted = [every[i] for i in places]
    one_by_one(model, last, prompts[:2], wanted[:1], arguments)  # touches the memory
    start = synchronised()
    decoded = decode_variants(
        model,
        last,
        prompts,
        groups,
        new_tokens=arguments.new_tokens,
        finished=lambda ids: False,
        batch_size=arguments.batch_size,
        tie=1e-4,
        seed=0,
    )
    tree = synchronised() - start
    start = synchronised()
    naive = one_by_one(model, last, prompts, wanted, arguments)
    brute = (synchronised() - start) * len(every) / len(wanted)
    costs, continuations = decoded.costs, sum(len(found) for found in decoded.continuations)
    batches = -(-len(prompts) // arguments.batch_size)
    print(
        f"{model.architecture}, {model.n_layers} layers, d {model.d_model}, vocabulary {model.d_vocab}, "
        f"{model.device}, {arguments.dtype}, kernel {last.kernel}, {torch.get_num_threads()} thread(s)\n"
        f"{len(every)} variants x {len(prompts)} prompts x {arguments.new_tokens} tokens: "
        f"{continuations / len(prompts):.1f} different continuations per prompt, "
        f"{np.mean(decoded.chosen != 0):.1%} of all not the clean one\n"
        f"{same(decoded, naive, wanted)} of {len(wanted) * len(prompts)} compared are the same "
        f"({costs.near_ties} near ties)"
    )
    print(
        f"one by one {brute:9.2f} s  {len(every) * batches * arguments.new_tokens:8} forward passes "
        f"{len(every) * len(prompts) * arguments.new_tokens:9} prefixes"
        + ("" if len(wanted) == len(every) else f"  (scaled up from {len(wanted)} variants)")
    )
    print(f"one tree   {tree:9.2f} s  {costs.passes:8} forward passes {costs.prefixes:9} prefixes")
    print(f"ratio      {brute / tree:9.1f}")


if __name__ == "__main__":
    main()
