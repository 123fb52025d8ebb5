"""Tables of conflict prompts, sets and variants for tiny models, as the rules before the decoding write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from neuronlab.answer_text import split_answer
from neuronlab.models import Model
from neuronlab.prompt_activations import describe_prompts
from neuronlab.prompt_tokens import continuation_text
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import read_table, write_table

REPLACEMENTS = ("mean", "mode", "mean+3sd", "zero")
DOSES = (0.0, 0.5, 1.0)
NEW_TOKENS = 4
LETTERS = (36, 100)  # ids of printable characters, none of them a mark
# set -> kind, control_of, neurons, draw
SETS = {
    "entropy": ("selection", None, (3, 11, 40), None),
    "frequency": ("selection", None, (7, 40), None),
    "entropy/uniform_000": ("uniform", "entropy", (0, 25, 19), None),
    "entropy/norm_matched_000": ("norm_matched", "entropy", (1, 2, 5), None),
    "entropy/synthetic_000": ("synthetic", "entropy", (3, 11, 40), 0),
}


@dataclass(frozen=True)
class ConflictFiles:
    """Paths of the tables that the decoding reads."""

    conflicts: Path
    statistics: Path
    sets: Path
    variants: Path

    @property
    def paths(self) -> dict[str, Path]:
        """As the rules' keywords."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def table(self, name: str) -> pl.DataFrame:
        """One of them."""
        schema = {"statistics": "activation_statistics", "sets": "copying_sets"}.get(name, name)
        return read_table(getattr(self, name), schema)


def drawn_prompts(n: int, seed: int = 0) -> list[list[int]]:
    """Prompts of 3 to 13 tokens behind a BOS; no two of their lengths in a row are equal."""
    generator = np.random.default_rng(seed)
    return [[0, *generator.integers(*LETTERS, 3 + (5 * i) % 11).tolist()] for i in range(n)]


def write_conflicts(folder: Path, model: Model, *, n: int = 7, synthetic: bool = True) -> ConflictFiles:
    """Random prompts with objects of one to four tokens; some objects are what the clean model says, for CK and PK.

    Args:
        model: whose activations and continuations they are made from.
    """
    prompts = drawn_prompts(n)
    generator = np.random.default_rng(1)
    rows = []
    for i, prompt in enumerate(prompts):
        said: list[int] = []
        for _ in range(NEW_TOKENS):
            said.append(int(model.logits(torch.tensor([[*prompt, *said]]))[0, -1].argmax()))
        other = generator.integers(*LETTERS, 1 + (i + 1) % 4).tolist()
        words = split_answer(continuation_text(model.tokenizer, said))[0]
        both = [(said[: 1 + i % 3], words or f"said {i}"), (other, f"other {i}")]
        (counter, counter_text), (answer, answer_text) = both if i % 2 == 0 else both[::-1]
        rows.append(
            {
                "prompt": i, "fact": i // 2, "relation": "r", "subset": None,
                "counter": counter_text, "answer": answer_text,
                "text": continuation_text(model.tokenizer, prompt), "tokens": prompt,
                "counter_ids": counter, "answer_ids": answer,
            }
        )  # fmt: skip
    files = ConflictFiles(*(folder / f"{name}.parquet" for name in ConflictFiles.__dataclass_fields__))
    write_table(_frame("conflicts", rows), files.conflicts, "conflicts")
    described = describe_prompts(model, prompts, histogram_bins=32, batch_size=4)
    write_table(described, files.statistics, "activation_statistics")
    chosen = {name: what for name, what in SETS.items() if synthetic or what[0] != "synthetic"}
    sets = [
        {"set": name, "kind": kind, "control_of": of, "layer": model.n_layers - 1, "neuron": neuron, "rank": rank}
        | {"norm": 1.0, "matched": None, "norm_ratio": None, "draw": draw}
        for name, (kind, of, neurons, draw) in chosen.items()
        for rank, neuron in enumerate(neurons)
    ]
    write_table(_frame("copying_sets", sets), files.sets, "copying_sets")
    variants = [("clean", "clean", None, "none", None, 0)]
    for name, (kind, of, neurons, _) in chosen.items():
        variants += [(name, kind, of, replacement, None, len(neurons)) for replacement in REPLACEMENTS]
    variants += [("entropy", "selection", None, "dose", dose, 3) for dose in DOSES]
    columns = ("set", "kind", "control_of", "replacement", "dose", "n_neurons")
    numbered = [{"variant": i} | dict(zip(columns, row, strict=True)) for i, row in enumerate(variants)]
    write_table(_frame("variants", numbered), files.variants, "variants")
    return files


def _frame(name: str, rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})
