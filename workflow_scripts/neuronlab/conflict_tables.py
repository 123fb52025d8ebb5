"""Decoded conflict prompts as tables: decoded, continuations, states (see `schemas_knowledge`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64
from transformers import PreTrainedTokenizerBase

from neuronlab.ablation import LastLayer
from neuronlab.answer_text import label_answer, split_answer
from neuronlab.conflict_prompts import Conflicts, label_fixed
from neuronlab.conflict_states import StateRows, prompt_entropies, read_states
from neuronlab.decoding import Decoded, decode_variants
from neuronlab.models import Model
from neuronlab.prompt_tokens import continuation_text
from neuronlab.schemas import SCHEMAS
from neuronlab.schemas_knowledge import LABELS
from neuronlab.variant_groups import VariantGroup

Array = np.ndarray
TABLES = ("decoded", "continuations", "states")
WHOLE_ROUTES = ("clean", "total")  # of the routes, those that are a model's own
COSTS = ("prefixes", "passes", "naive_prefixes", "near_ties")


def conflict_tables(
    model: Model,
    last: LastLayer,
    mine: Conflicts,
    groups: Sequence[VariantGroup],
    looked_into: Sequence[VariantGroup],
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
        looked_into: those whose states are read.
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
        looked_into,
        batch_size=batch_size,
        tokens_per_chunk=tokens_per_chunk,
        seed=seed,
    )
    # One number for one thing: where states are read, their kernel's, which is the more precise one.
    whole = np.isin(np.array(rows.route), WHOLE_ROUTES)
    entropies[rows.prompt[whole], rows.variant[whole]] = rows.entropy[whole]
    continuations = continuations_frame(mine, found, model.tokenizer)
    tables = {
        "decoded": decoded_frame(mine, found, continuations, entropies),
        "continuations": continuations,
        "states": states_frame(mine, rows),
    }
    return tables, {name: int(getattr(found.costs, name)) for name in COSTS}


def inspected(groups: Sequence[VariantGroup], variants: pl.DataFrame) -> list[VariantGroup]:
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


def empty_table(name: str) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema=_schema(name))
