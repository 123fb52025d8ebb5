"""Counter-objects: what a conflict prompt claims instead of what the model knows (METHODS B2, step 3).

Candidates are the different answers (whatever the case) that the model gave to kept facts of the same relation. Left
out are the fact's own answer and candidates that the own answer begins with ("New" for "New York"): a continuation with
the answer would count as a copy of them. The least likely ones are taken, by the log-probability of the first token
after the prompt that asked for the answer, or by that of the whole object; whole objects also decide among candidates
with the same first token, which study B left to chance, and the text decides what is then still equal. Relations with
few answers give fewer counter-objects (both B defect 8).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from neuronlab.answer_text import same_words
from neuronlab.models import Model
from neuronlab.object_tokens import next_log_probs, object_ids, object_log_probs, precise_readout
from neuronlab.schemas import SCHEMAS

RANKED_BY = ("first_token", "object")


class CounterError(ValueError):
    """Counter-objects that cannot be chosen as asked."""


@dataclass(frozen=True)
class Asked:
    """A kept fact with the prompt that asked for its answer.

    Attributes:
        fact: its number.
        text, tokens: the prompt; tokens with BOS.
        candidates: possible counter-objects, in alphabetical order.
    """

    fact: int
    text: str
    tokens: tuple[int, ...]
    candidates: tuple[str, ...]


def candidates_of(kept: pl.DataFrame) -> dict[int, tuple[str, ...]]:
    """Possible counter-objects of every fact, in alphabetical order.

    Of spellings that differ in case or white space the commonest stands for all, the first in the alphabet if equal.

    Args:
        kept: facts that pass the filters, with columns fact, relation and answer.
    """
    spellings: dict[str, dict[str, Counter[str]]] = {}
    for relation, answer in kept.select("relation", "answer").iter_rows():
        spellings.setdefault(relation, {}).setdefault(_folded(answer), Counter())[answer] += 1
    answers = {
        relation: sorted(min(found, key=lambda text: (-found[text], text)) for found in groups.values())
        for relation, groups in spellings.items()
    }
    return {
        fact: tuple(other for other in answers[relation] if not same_words(answer, other))
        for fact, relation, answer in kept.select("fact", "relation", "answer").iter_rows()
    }


def choose_counters(model: Model, asked: Sequence[Asked], *, per_fact: int, by: str, batch_size: int) -> pl.DataFrame:
    """Rows of counters.parquet, sorted by fact and place; facts without any candidate have none.

    Args:
        per_fact: counter-objects for each fact, at most.
        by: what they are ranked by, of `RANKED_BY`.
        batch_size: prompts per forward pass.

    Raises:
        CounterError: `by` is unknown, or `per_fact` below one.
    """
    if by not in RANKED_BY or per_fact < 1:
        raise CounterError(
            f"context_copying.counters is {per_fact} and counters_by '{by}'; give at least one, ranked by "
            + " or ".join(RANKED_BY)
        )
    tokenised = _tokenised(model, asked)
    readout = precise_readout(model)
    prompts = [one.tokens for one in asked]
    firsts = [[ids[0] for ids in found.values()] for found in tokenised]
    first = next_log_probs(model, readout, prompts, firsts, batch_size)
    wanted = [needed(lp, per_fact, by) for lp in first]
    whole = [lp.copy() for lp in first]  # that of the first token is that of a whole object of one token
    pairs = [
        (row, column)
        for row, (found, mask) in enumerate(zip(tokenised, wanted, strict=True))
        for column, ids in enumerate(found.values())
        if mask[column] and len(ids) > 1
    ]
    objects = [list(tokenised[row].values())[column] for row, column in pairs]
    scored = object_log_probs(model, readout, [prompts[row] for row, _ in pairs], objects, batch_size)
    for (row, column), value in zip(pairs, scored, strict=True):
        whole[row][column] = value
    frames = [
        _rows(one, found, first[row], whole[row], ranking(first[row], whole[row], list(found), by)[:per_fact])
        for row, (one, found) in enumerate(zip(asked, tokenised, strict=True))
    ]
    schema = {name: column.dtype for name, column in SCHEMAS["counters"].items()}
    return pl.DataFrame([row for rows in frames for row in rows], schema=schema).sort("fact", "place")


def needed(first: Float64[np.ndarray, " candidates"], per_fact: int, by: str) -> Bool[np.ndarray, " candidates"]:
    """Candidates whose whole log-probability matters: all, or those that can be among the first `per_fact`."""
    if by == "object" or len(first) <= per_fact:
        return np.ones(len(first), dtype=bool)
    return first <= np.partition(first, per_fact - 1)[per_fact - 1]


def ranking(
    first: Float64[np.ndarray, " candidates"],
    whole: Float64[np.ndarray, " candidates"],
    texts: Sequence[str],
    by: str,
) -> Int64[np.ndarray, " candidates"]:
    """Indices from the least likely candidate on; what is equal by the first measure is settled by whole object, text.

    Args:
        first, whole: log-probabilities of the first token and of the whole object (nats).
    """
    leading = first if by == "first_token" else whole
    return np.array(sorted(range(len(texts)), key=lambda i: (leading[i], whole[i], texts[i])), dtype=np.int64)


def _rows(
    one: Asked,
    found: Mapping[str, tuple[int, ...]],
    first: Float64[np.ndarray, " candidates"],
    whole: Float64[np.ndarray, " candidates"],
    chosen: Int64[np.ndarray, " counters"],
) -> list[dict[str, object]]:
    """Rows of one fact."""
    texts, heads = list(found), [ids[0] for ids in found.values()]
    shared = Counter(heads)
    return [
        {
            "fact": one.fact,
            "place": place,
            "counter": texts[index],
            "n_candidates": len(texts),
            "first_token": heads[index],
            "log_prob_first": float(first[index]),
            "log_prob": float(whole[index]),
            "tied": shared[heads[index]] > 1,
        }
        for place, index in enumerate(chosen)
    ]


def _tokenised(model: Model, asked: Sequence[Asked]) -> list[dict[str, tuple[int, ...]]]:
    """Tokens of every candidate after its fact's prompt; candidates without tokens, or too long, are left out."""
    texts = [one.text for one in asked for _ in one.candidates]
    objects = [candidate for one in asked for candidate in one.candidates]
    ids = iter(object_ids(model.tokenizer, texts, objects))
    empty, long, result = set(), set(), []
    for one in asked:
        found = {}
        for candidate in one.candidates:
            tokens = next(ids)
            if not tokens:
                empty.add(candidate)
            elif model.n_ctx is not None and len(one.tokens) + len(tokens) - 1 > model.n_ctx:
                long.add(candidate)
            else:
                found[candidate] = tokens
        result.append(found)
    for names, reason in ((empty, "no tokens"), (long, "more tokens than the context has room for")):
        if names:
            shown = ", ".join(f"'{name}'" for name in sorted(names)[:5])
            print(f"WARNING: {len(names)} answers cannot be counter-objects, {reason}: {shown}", file=sys.stderr)
    return result


def _folded(text: str) -> str:
    """What spellings of one answer share."""
    return " ".join(text.casefold().split())
