"""Prompts whose answer flips, chosen so that transitions and relations differ, with both continuations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from neuronlab.conversions import CELLS
from neuronlab.copying_frames import frame_of
from neuronlab.decoded_labels import Decoded
from neuronlab.tables import read_table
from neuronlab.transitions import cells
from neuronlab.variant_groups import CLEAN

KEYS = ("prompt", "continuation", "text", "label")


class ExampleError(ValueError):
    """Continuations that do not belong to what was decoded."""


@dataclass(frozen=True)
class Example:
    """A prompt that flips under a variant."""

    set: str
    replacement: str
    variant: int
    prompt: int
    cell: int  # of the flat 3x3 table


def choose_examples(
    found: Decoded, selected: pl.DataFrame, relations: Sequence[str], replacements: Sequence[str], per_set: int
) -> list[Example]:
    """At most `per_set` flipped prompts of each selection.

    The replacements in their order, the shown one first; within one, whatever transition, then relation, has been
    chosen the least, and of those the largest |change of the entropy|. No prompt is shown twice for a set.

    Args:
        selected: variants of selections, clamped ones left out.
        relations: the relation of every prompt.
        replacements: in the order of preference.
    """
    examples = []
    for name in selected["set"].unique(maintain_order=True):
        taken: list[Example] = []
        transitions, chosen_relations = Counter(), Counter()
        own = selected.filter(pl.col("set") == name)
        for replacement in replacements:
            for variant in own.filter(pl.col("replacement") == replacement)["variant"]:
                cell = cells(found.labels, variant)
                change = np.abs(found.entropy[variant] - found.entropy[CLEAN])
                shown = {example.prompt for example in taken}
                left = [
                    p for p in np.flatnonzero(found.labels[CLEAN] != found.labels[variant]).tolist() if p not in shown
                ]
                left.sort(key=lambda p: (-change[p], p))
                while left and len(taken) < per_set:
                    best = min(left, key=lambda p: (transitions[cell[p]], chosen_relations[relations[p]]))
                    left.remove(best)
                    transitions[cell[best]] += 1
                    chosen_relations[relations[best]] += 1
                    taken.append(Example(name, replacement, variant, best, int(cell[best])))
        examples += taken
    return examples


def with_texts(
    chosen: Sequence[Example], found: Decoded, prompts: pl.DataFrame, continuations: Sequence[str | Path]
) -> pl.DataFrame:
    """Table "copying_examples": the chosen prompts with what the model wrote before and after.

    Raises:
        ExampleError: a continuation that is not there, or that is labelled otherwise.
    """
    wanted = [example.prompt for example in chosen]
    texts: dict[tuple[int, int], tuple[str, str]] = {}
    for path in continuations:
        table = read_table(path, "continuations").filter(pl.col("prompt").is_in(wanted))
        texts |= {(prompt, number): rest for prompt, number, *rest in table.select(KEYS).iter_rows()}
    rows = []
    for example in chosen:
        prompt = prompts.row(example.prompt, named=True)
        row = {"set": example.set, "replacement": example.replacement, "prompt": example.prompt}
        row |= {name: prompt[name] for name in ("relation", "text", "counter", "answer")}
        row["before"], row["after"] = CELLS[example.cell]
        for when, variant in (("before", CLEAN), ("after", example.variant)):
            number = int(found.continuation[variant, example.prompt])
            text, label = texts.get((example.prompt, number), (None, None))
            if label != row[when]:
                raise ExampleError(
                    f"continuations: prompt {example.prompt} has no continuation {number} labelled {row[when]}; the "
                    "shards belong to different runs: delete them, and decode_conflicts makes them anew"
                )
            row[f"text_{when}"] = text
            row[f"entropy_{when}"] = found.entropy[variant, example.prompt]
        rows.append(row)
    return frame_of(rows, "copying_examples")
