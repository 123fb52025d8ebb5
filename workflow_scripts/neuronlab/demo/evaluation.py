"""Does a demo model show what the demo is for? Five targets, measured with plain torch on a Hugging Face directory.

(a) induction heads, (b) facts, (c) conflicts between context and memory, (d) token-frequency neurons, (e) entropy
neurons. Everything is measured on one of two splits with different documents, facts, counter-objects and random tokens:
a model is chosen on ``evaluation_a`` and reported on ``evaluation_b``. The norm is folded and the weights are centred
here, independently of the rest of the library.

``python -m neuronlab.demo.evaluation DIR [DIR ...]`` prints the table of the README.
"""

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import GPTNeoXForCausalLM

from neuronlab.demo import neuron_effects, tokenizer
from neuronlab.demo.language import RELATIONS, build_world
from neuronlab.demo.world_files import SPLITS, objects_of, true_object

SPAN, INDUCTION_SEQUENCES = 60, 64
COUNTERS = 3  # counter-objects per fact
NULL_SPACE = 6  # k, fixed before any model was trained; 4.7 % of d
Row = tuple[str, str, float, str, bool | None]


def evaluate(model_directory: str | Path, split: str, counts_path: str | Path | None = None) -> pl.DataFrame:
    """Columns target, measure, value, goal, reached (null where a row only informs). About a minute on one thread."""
    directory = Path(model_directory)
    model = GPTNeoXForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    counts = np.load(counts_path or directory.parent / "token_counts.npy")
    with torch.inference_mode():
        rows = [
            *induction(model, split),
            *facts_and_conflicts(model, split),
            *neuron_effects.token_frequency(model, counts),
            *neuron_effects.entropy_neurons(model, split, NULL_SPACE),
        ]
    return pl.DataFrame(rows, schema=["target", "measure", "value", "goal", "reached"], orient="row")


def split_seed(split: str) -> int:
    return SPLITS.index(split)


def induction(model: GPTNeoXForCausalLM, split: str) -> list[Row]:
    """Random tokens twice: attention from each token of the second copy to the successor of its first occurrence."""
    rng = np.random.default_rng((17, split_seed(split)))
    span = rng.integers(2, model.config.vocab_size, size=(INDUCTION_SEQUENCES, SPAN))
    first = np.full((INDUCTION_SEQUENCES, 1), tokenizer.BOS_ID)
    tokens = torch.from_numpy(np.concatenate([first, span, span], axis=1))
    output = model(tokens, output_attentions=True)
    queries = torch.arange(SPAN + 1, 2 * SPAN)
    scores = torch.stack([layer[:, :, queries, queries - SPAN + 1].mean((0, 2)) for layer in output.attentions])
    loss = torch.nn.functional.cross_entropy(output.logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    # Column i holds the loss of token i + 1. The second copy's first token cannot be known to be a repetition.
    once, twice = loss[:, 1:SPAN].mean().item(), loss[:, SPAN + 1 :].mean().item()
    return [
        ("a", "best head's induction score", scores.max().item(), "> 0.6", scores.max().item() > 0.6),
        ("a", "loss on the first copy (nats)", once, "", None),
        ("a", "loss on the second copy (nats)", twice, "", None),
        ("a", "second copy's loss / first's", twice / once, "< 0.25", twice / once < 0.25),
    ]


def facts_and_conflicts(model: GPTNeoXForCausalLM, split: str) -> list[Row]:
    """Greedy answers to half of the facts' queries, alone and after a statement with one of three wrong objects."""
    world, rng = build_world(), np.random.default_rng((23, split_seed(split)))
    pairs = [(subject, relation) for subject in range(len(world.held_out)) for relation in range(len(RELATIONS))]
    halves = np.random.default_rng(29).permutation(len(pairs))
    queries, answers, prompts, conflicts = [], [], [], []
    for subject, relation in (pairs[i] for i in halves[split_seed(split) :: len(SPLITS)]):
        query = f"{world.units[world.subject_unit(subject)]} {world.units[world.relation_unit(relation)]}"
        truth = true_object(world, subject, relation)
        queries.append(query)
        answers.append(truth)
        others = [thing for thing in objects_of(world, relation) if thing != truth]
        for counter in rng.choice(others, size=COUNTERS, replace=False):
            prompts.append(f"{query} {counter}. {query}")
            conflicts.append((str(counter), truth, bool(world.held_out[subject, relation])))
    known = np.mean([got == truth for got, truth in zip(complete(model, queries), answers, strict=True)])
    rows: list[Row] = [("b", "facts completed greedily", float(known), "> 0.95", bool(known > 0.95))]
    outcome = np.array(
        [
            0 if got == c else 1 if got == t else 2
            for got, (c, t, _) in zip(complete(model, prompts), conflicts, strict=True)
        ]
    )
    held_out = np.array([held for _, _, held in conflicts])
    for label, chosen in (("contradicted pairs", ~held_out), ("held-out pairs", held_out)):
        for which, name in enumerate(("context", "parametric", "neither")):
            share = float((outcome[chosen] == which).mean())
            rows.append(("c", f"{label}: {name}", share, ">= 0.05", share >= 0.05))
    return rows


def complete(model: GPTNeoXForCausalLM, prompts: list[str], new_tokens: int = 5) -> list[str]:
    """Greedy continuations up to the full stop, without padding: prompts are batched by length."""
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    answers = [""] * len(prompts)
    for _, group in groupby(order, key=lambda i: len(encoded[i])):
        members = list(group)
        tokens = torch.tensor([encoded[i] for i in members])
        length = tokens.shape[1]
        for _ in range(new_tokens):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
        for i, row in zip(members, tokens[:, length:].tolist(), strict=True):
            answers[i] = tokenizer.build_tokenizer().decode(row).partition(".")[0]
    return answers


def report(directories: list[Path], measure: Callable[[Path, str], pl.DataFrame] = evaluate) -> str:
    """A Markdown table: one row per measure, for each directory its values on both splits."""
    tables = {(d, split): measure(d, split) for d in directories for split in SPLITS}
    first = next(iter(tables.values()))
    head = [f"{d.parent.name.replace('_', ' ')}, {split[-1].upper()}" for d, split in tables]
    lines = ["| | measure | goal | " + " | ".join(head) + " |", "|---|---|---|" + "---:|" * len(head)]
    for i, (target, name, _, goal, _) in enumerate(first.iter_rows()):
        cells = [_cell(table["value"][i], table["reached"][i]) for table in tables.values()]
        lines.append(f"| {target} | {name} | {goal} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float, reached: bool | None) -> str:
    text = f"{value:.0f}" if value.is_integer() and value != 1 else f"{value:.3f}"
    return f"**{text}** (missed)" if reached is False else text


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(report([Path(argument) for argument in sys.argv[1:]]))
