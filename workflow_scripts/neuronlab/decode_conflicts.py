"""Rule `decode_conflicts`: greedy continuations, labels and read-outs of one shard's prompts under all variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64
from transformers import PreTrainedTokenizerBase

from neuronlab.ablation import LastLayer
from neuronlab.answer_text import label_answer, split_answer
from neuronlab.conflict_states import StateRows, prompt_entropies, read_states
from neuronlab.copying_variants import read_groups
from neuronlab.decoding import Decoded, decode_variants
from neuronlab.last_layers import last_layer_of
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.prompt_tokens import continuation_text
from neuronlab.replacements import ActivationStatistics
from neuronlab.schemas import SCHEMAS
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import Provenance, read_table, write_table
from neuronlab.variant_groups import VariantGroup

Array = np.ndarray
TABLES = ("decoded", "continuations", "states")
COSTS = ("prefixes", "passes", "naive_prefixes", "near_ties")
# Logits that numba must be worth its compilation for, some seconds: prompts x variants x vocabulary.
MANY_LOGITS = 1e9


class ConflictError(ValueError):
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
            ConflictError: naming the table, the prompt and the remedy.
        """
        for number, prompt, *objects in zip(self.numbers, self.prompts, self.counter_ids, self.answer_ids, strict=True):
            for name, ids in zip(("counter-object", "parametric answer"), objects, strict=True):
                if not ids:
                    raise ConflictError(f"{where}: the {name} of prompt {number} has no tokens; make the prompts again")
                if not all(0 <= token < model.d_vocab for token in ids):
                    raise ConflictError(
                        f"{where}: the {name} of prompt {number} has ids outside the vocabulary of {model.spec.where} "
                        f"({model.d_vocab} ids); they are another model's: delete the table and run again"
                    )
                if model.n_ctx and len(prompt) + len(ids) - 1 > model.n_ctx:
                    raise ConflictError(
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


def decode_conflicts(
    *,
    model: ModelSpec,
    conflicts: str | Path,
    statistics: str | Path,
    sets: str | Path,
    variants: str | Path,
    decoded: str | Path,
    continuations: str | Path,
    states: str | Path,
    costs: str | Path,
    shard: int,
    shards: int,
    new_tokens: int = 10,
    kernel: str = "auto",
    batch_size: int = 16,
    tokens_per_chunk: int = 128,
    tie: float = 1e-4,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write a shard's tables; it takes prompts shard, shard + shards, ... An empty shard writes empty tables.

    Args:
        conflicts, statistics, sets, variants: tables "conflicts", "activation_statistics", "copying_sets", "variants".
        decoded, continuations, states, costs: written.
        new_tokens: tokens generated at most.
        tie: two best logits nearer than this (nats) are counted as a near-tie.
        tokens_per_chunk: places whose effects are held in memory at once; changes results by rounding at most.

    Raises:
        ConflictError, DecodingError, VariantError, ReplacementError, TableError, ModelError: whatever does not fit.
    """
    if not 0 <= shard < shards:
        raise ConflictError(f"shard {shard} of {shards}: context_copying.shards must be larger than the shard's number")
    everything = read_table(conflicts, "conflicts")
    table = read_table(variants, "variants")
    mine = Conflicts.of_frame(everything.filter(pl.col("prompt") % shards == shard))
    paths = {"decoded": decoded, "continuations": continuations, "states": states}
    outputs = {name: _empty(name) for name in TABLES}
    record = {**(provenance or {})}
    spent = dict.fromkeys(COSTS, 0)
    if len(mine):
        loaded = load_model(model)
        mine.check(loaded, str(conflicts))
        last = last_layer_of(loaded, kernel=kernel_for(kernel, len(mine), len(table), loaded.d_vocab))
        numbers = ActivationStatistics.of_layer(
            read_table(statistics, "activation_statistics"), last.layer, last.neurons
        )
        groups = read_groups(read_table(sets, "copying_sets"), table, numbers)
        outputs, spent = conflict_tables(
            loaded,
            last,
            mine,
            groups,
            looked_into(groups, table),
            new_tokens=new_tokens,
            longest=longest_object(everything),
            batch_size=batch_size,
            tokens_per_chunk=tokens_per_chunk,
            tie=tie,
            seed=seed,
        )
        record |= {"kernel": last.kernel, "kernel_dtype": str(last.dtype)}
    bill = {
        "shard": shard,
        "n_prompts": len(mine),
        "n_variants": len(table),
        "n_continuations": len(outputs["continuations"]),
    }
    for name, frame in outputs.items():
        write_table(frame, paths[name], name, record)
    write_table(pl.DataFrame([bill | spent]), costs, "decoding_costs", record)


def conflict_tables(
    model: Model,
    last: LastLayer,
    mine: Conflicts,
    groups: Sequence[VariantGroup],
    inspected: Sequence[VariantGroup],
    *,
    new_tokens: int,
    longest: int,
    batch_size: int,
    tokens_per_chunk: int,
    tie: float,
    seed: int,
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """The tables of `TABLES` for some prompts, and the decoding's `COSTS`.

    Args:
        groups: all variants, numbered from 1 without gaps.
        inspected: those whose states are read.
        longest: words of the longest object of all prompts.
    """
    found = decode_variants(
        model,
        last,
        mine.prompts,
        groups,
        new_tokens=new_tokens,
        finished=label_fixed(model.tokenizer, longest),
        batch_size=batch_size,
        tie=tie,
        seed=seed,
    )
    entropies = prompt_entropies(last, found.root, groups, tokens_per_chunk=tokens_per_chunk, seed=seed)
    rows = read_states(
        model,
        last,
        found.root,
        mine.prompts,
        mine.counter_ids,
        mine.answer_ids,
        inspected,
        batch_size=batch_size,
        tokens_per_chunk=tokens_per_chunk,
        seed=seed,
    )
    continuations = continuations_frame(mine, found, model.tokenizer)
    tables = {
        "decoded": decoded_frame(mine, found, continuations, entropies),
        "continuations": continuations,
        "states": states_frame(mine, rows),
    }
    return tables, {name: int(getattr(found.costs, name)) for name in COSTS}


def kernel_for(kernel: str, prompts: int, variants: int, vocab: int) -> str:
    """`auto` becomes torch where there is too little work for numba's compilation to pay."""
    return "torch" if kernel == "auto" and prompts * variants * vocab < MANY_LOGITS else kernel


def longest_object(conflicts: pl.DataFrame) -> int:
    """Words of the longest object of all prompts, whatever the shard."""
    texts = [*conflicts["counter"].to_list(), *conflicts["answer"].to_list()]
    return max((len(text.casefold().split()) for text in texts), default=0)


def looked_into(groups: Sequence[VariantGroup], variants: pl.DataFrame) -> list[VariantGroup]:
    """The groups' variants that states are read for: those of selections, doses left out."""
    wanted = set(variants.filter((pl.col("kind") == "selection") & pl.col("dose").is_null())["variant"].to_list())
    found = []
    for group in groups:
        kept = np.array([int(v) in wanted for v in group.variants], dtype=bool)
        if kept.any():
            found.append(VariantGroup(group.neurons, group.variants[kept], group.values[kept], group.draw))
    return found


def continuations_frame(mine: Conflicts, found: Decoded, tokenizer: PreTrainedTokenizerBase) -> pl.DataFrame:
    """The table "continuations"."""
    rows: list[dict[str, Any]] = []
    for i, number in enumerate(mine.numbers):
        for k, tokens in enumerate(found.continuations[i]):
            text = continuation_text(tokenizer, tokens)
            answer, _ = split_answer(text)
            rows.append(
                {
                    "prompt": number,
                    "continuation": k,
                    "tokens": [int(token) for token in tokens],
                    "text": text,
                    "answer": answer,
                    "label": label_answer(answer, mine.counters[i], mine.answers[i]),
                }
            )
    return pl.DataFrame(rows, schema=_schema("continuations"))


def decoded_frame(
    mine: Conflicts, found: Decoded, continuations: pl.DataFrame, entropies: Float64[Array, "prompts variants"]
) -> pl.DataFrame:
    """The table "decoded": prompts first, variants within."""
    prompts, variants = found.chosen.shape
    start = np.cumsum([0, *(len(each) for each in found.continuations)])[:-1]
    label = continuations["label"].replace_strict({name: i for i, name in enumerate(LABELS)}).to_numpy()
    codes = label[start[:, None] + found.chosen]
    return pl.DataFrame(
        {
            "prompt": np.repeat(np.array(mine.numbers, dtype=np.int32), variants),
            "variant": np.tile(np.arange(variants, dtype=np.int32), prompts),
            "continuation": found.chosen.ravel().astype(np.int32),
            "label": pl.Series(np.array(LABELS)[codes.ravel()], dtype=pl.String),
            "entropy": entropies.ravel(),
        }
    )


def states_frame(mine: Conflicts, rows: StateRows) -> pl.DataFrame:
    """The table "states"."""
    frame = pl.DataFrame(
        {
            "prompt": np.array(mine.numbers, dtype=np.int32)[rows.prompt],
            "variant": rows.variant,
            "route": rows.route,
            "entropy": rows.entropy,
            "log_prob_ck": rows.log_probs[:, 0],
            "log_prob_pk": rows.log_probs[:, 1],
            "log_prob_nd": rows.log_probs[:, 2],
            "nd_token": rows.nd_token,
            "object_log_prob_ck": rows.object_log_probs[:, 0],
            "object_log_prob_pk": rows.object_log_probs[:, 1],
            "top_token": rows.top_token,
        }
    )
    return frame.with_columns(pl.col("object_log_prob_ck", "object_log_prob_pk").fill_nan(None))


def _schema(name: str) -> dict[str, Any]:
    return {column: spec.dtype for column, spec in SCHEMAS[name].items()}


def _empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema=_schema(name))
