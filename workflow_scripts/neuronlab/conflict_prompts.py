"""Conflict prompts as the decoding takes them: lists, checks, and when a continuation's label stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl
from transformers import PreTrainedTokenizerBase

from neuronlab.answer_text import split_answer
from neuronlab.models import Model
from neuronlab.prompt_tokens import continuation_text


class ConflictPromptError(ValueError):
    """Conflict prompts or tables that cannot be decoded as they are."""


@dataclass(frozen=True)
class Conflicts:
    """Conflict prompts as lists, in order."""

    numbers: list[int]
    prompts: list[list[int]]
    counter_ids: list[list[int]]
    answer_ids: list[list[int]]
    counters: list[str]
    answers: list[str]

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> Conflicts:
        """From rows of conflicts.parquet."""
        names = ("prompt", "tokens", "counter_ids", "answer_ids", "counter", "answer")
        return cls(*(frame.sort("prompt")[name].to_list() for name in names))

    def __len__(self) -> int:
        return len(self.numbers)

    def check(self, model: Model, where: str) -> None:
        """Refuse what cannot be read out: objects without tokens, or too long for the context; foreign ids.

        Raises:
            ConflictPromptError: naming the table, the prompt and the remedy.
        """
        for number, prompt, *objects in zip(self.numbers, self.prompts, self.counter_ids, self.answer_ids, strict=True):
            for name, ids in zip(("counter-object", "parametric answer"), objects, strict=True):
                if not ids:
                    raise ConflictPromptError(
                        f"{where}: the {name} of prompt {number} has no tokens; make the prompts again"
                    )
                if not all(0 <= token < model.d_vocab for token in ids):
                    raise ConflictPromptError(
                        f"{where}: the {name} of prompt {number} has ids outside the vocabulary of {model.spec.where} "
                        f"({model.d_vocab} ids); they are another model's: delete the table and run again"
                    )
                if model.n_ctx and len(prompt) + len(ids) - 1 > model.n_ctx:
                    raise ConflictPromptError(
                        f"{where}: prompt {number} with its {name} has {len(prompt) + len(ids)} tokens, but the "
                        f"context of {model.spec.where} is {model.n_ctx}: leave the fact out"
                    )


def label_fixed(tokenizer: PreTrainedTokenizerBase, longest: int) -> Callable[[Sequence[int]], bool]:
    """Whether further tokens cannot change the label: a delimiter came, or more words than any object has.

    Args:
        longest: words of the longest object; the first words of an answer with more of them stand.
    """

    def fixed(tokens: Sequence[int]) -> bool:
        answer, ended = split_answer(continuation_text(tokenizer, tokens))
        return ended or len(answer.split()) > longest

    return fixed


def longest_object(conflicts: pl.DataFrame) -> int:
    """Words of the longest object of all prompts, whatever the shard."""
    texts = [*conflicts["counter"].to_list(), *conflicts["answer"].to_list()]
    return max((len(text.casefold().split()) for text in texts), default=0)
