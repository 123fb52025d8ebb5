"""Rule `filter_answers`: which facts a conflict prompt can be made of (METHODS B2, step 2).

A fact goes if the model gave no answer, if subject and answer contain one another (copying the subject would be the
answer), if they are similar in spelling, if the answer may have been copied from the example in the prompt, if subject
or answer occurs in another group of relations, or if no other answer of its relation is left to contradict it with.

All but the last two look at one fact alone. Overlap is a property of a set of facts, and deleting while going through
them makes it depend on their order (B defect 13). Here it is settled at once, on the facts that pass the filters
before: each of them whose subject or answer, whatever the case, is a subject or answer in another group goes, on both
sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool
from rapidfuzz.distance import JaroWinkler

from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table

# Reasons in the order in which they are given, and the column of table "filtered" that each stands in.
REASONS = {
    "empty": "empty",
    "containment": "containment",
    "similarity": "similar",
    "example": "example",
    "overlap": "overlap",
    "lonely": "lonely",
}
FILTERS = ("containment", "similarity", "example", "overlap")  # what can be configured
MEANINGS = {
    "empty": "the model gives no answer",
    "containment": "subject and answer contain one another",
    "similarity": "subject and answer are similar in spelling",
    "example": "the answer is the example's object or subject",
    "overlap": "subject or answer occurs in another group of relations",
    "lonely": "no answer of the relation contradicts the fact's own",
}
STEPS = {"empty": "answered", "lonely": "counter-objects"}  # names of steps that differ from the reason
REMEDIES = {
    "empty": "choose another context_copying.template, or a model that continues statements",
    "containment": "leave 'containment' out of context_copying.filters",
    "similarity": "raise context_copying.similarity, or leave 'similarity' out of context_copying.filters",
    "example": "leave 'example' out of context_copying.filters, or choose another context_copying.template",
    "overlap": "leave 'overlap' out of context_copying.filters, or give relations with common subjects or objects one "
    "relation_group",
    "lonely": "raise facts.<facts>.max_facts, or give relations with more facts: each needs two different answers; "
    "or take another model",
}


class FilterError(ValueError):
    """No facts are left; the message names the filter that took the last ones."""


def filter_answers(
    *,
    facts: str | Path,
    relations: str | Path,
    answers: str | Path,
    filtered: str | Path,
    filters: Sequence[str],
    similarity: float,
    provenance: Provenance | None = None,
) -> None:
    """Write the table "filtered": for every fact what each filter says, and what drops it.

    Args:
        facts, relations, answers: paths of those tables.
        filters: filters that apply, of `FILTERS`; facts without an answer or a counter-object go anyway.
        similarity: Jaro-Winkler similarity from which on subject and answer are similar.

    Raises:
        FilterError: nothing is left, or an unknown filter.
        TableError: a table is missing or damaged.
    """
    known, answered = read_table(facts, "facts"), read_table(answers, "answers")
    table = filtered_facts(known, read_table(relations, "relations"), answered, filters, similarity)
    steps = funnel_steps(known, table, filters)
    print("; ".join(f"{step}: {n} facts" for step, n in steps.select("step", "n_facts").iter_rows()))
    refuse_nothing_left(steps, n_correct=answered["correct"].sum())
    write_table(table, filtered, "filtered", provenance)


def filtered_facts(
    facts: pl.DataFrame, relations: pl.DataFrame, answers: pl.DataFrame, filters: Sequence[str], similarity: float
) -> pl.DataFrame:
    """The table "filtered", one row for every fact, sorted; columns of filters that do not apply are filled in too.

    Raises:
        FilterError: an unknown filter, or facts without a row of answers.
    """
    if unknown := sorted(set(filters) - set(FILTERS)):
        raise FilterError(f"context_copying.filters: '{unknown[0]}' is no filter; there are {', '.join(FILTERS)}")
    examples = relations.select("relation", "example_subject", "example_object")
    joined = facts.join(answers.select("fact", "answer"), on="fact", how="left", validate="1:1")
    joined = joined.join(examples, on="relation", how="left").sort("fact")
    if joined["answer"].null_count():
        raise FilterError("answers.parquet lacks facts of facts.parquet; delete it and run the workflow again")
    rows = list(joined.iter_rows(named=True))
    spelling = [JaroWinkler.similarity(row["subject"], row["answer"]) if row["answer"] else 0.0 for row in rows]
    table = joined.with_columns(
        pl.Series("empty", [not row["answer"] for row in rows], pl.Boolean),
        pl.Series("containment", [contained(row["subject"], row["answer"]) for row in rows], pl.Boolean),
        pl.Series("similarity", spelling, pl.Float64),
        pl.Series("example", [leaked(row) for row in rows], pl.Boolean),
    ).with_columns(similar=(pl.col("similarity") >= similarity) & ~pl.col("empty"))
    passing = ~table["empty"].to_numpy()
    for name in filters:
        if name != "overlap":
            passing &= ~table[REASONS[name]].to_numpy()
    table = table.with_columns(pl.Series("overlap", overlapping(table, passing), pl.Boolean))
    if "overlap" in filters:
        passing &= ~table["overlap"].to_numpy()
    table = table.with_columns(pl.Series("lonely", without_counter(table, passing), pl.Boolean))
    reasons = [
        pl.when(column).then(pl.lit(reason))
        for reason, column in REASONS.items()
        if reason in filters or reason not in FILTERS
    ]
    return table.with_columns(dropped_by=pl.coalesce(reasons)).select(list(SCHEMAS["filtered"]))


def contained(subject: str, answer: str) -> bool:
    """Whether one contains the other, whatever the case; an empty answer contains nothing and is contained nowhere."""
    first, second = subject.casefold(), answer.casefold()
    return bool(first and second) and (first in second or second in first)


def leaked(row: dict[str, str | None]) -> bool:
    """Whether the answer is the example's object or subject, whatever the case, and not the knowledge base's object."""
    answer = same(row["answer"])
    return (
        bool(answer)
        and answer != same(row["object"])
        and answer
        in {
            same(row["example_object"]),
            same(row["example_subject"]),
        }
    )


def same(text: str | None) -> str:
    """What two texts share if they are the same but for case and white space."""
    return " ".join((text or "").casefold().split())


def overlapping(table: pl.DataFrame, passing: Bool[np.ndarray, " facts"]) -> Bool[np.ndarray, " facts"]:
    """Which facts have a subject or answer that is a subject or answer in another group, among the facts passing.

    Args:
        table: facts with subject, answer and relation_group.
        passing: facts that count.
    """
    groups: dict[str, set[str]] = {}
    rows = list(table.select("subject", "answer", "relation_group").iter_rows())
    for (subject, answer, group), counts in zip(rows, passing, strict=True):
        for text in (subject, answer) if counts else ():
            groups.setdefault(same(text), set()).add(group)
    return np.array(
        [
            any(groups.get(same(text), set()) - {group} for text in (subject, answer) if same(text))
            for subject, answer, group in rows
        ],
        dtype=bool,
    )


def without_counter(table: pl.DataFrame, passing: Bool[np.ndarray, " facts"]) -> Bool[np.ndarray, " facts"]:
    """Which facts have no counter-object: no answer of their relation, among facts passing, that contradicts theirs.

    An answer that begins with the words of another one does not contradict it ("New York City" and "New York"): it
    would be labelled as a copy of it. Facts without a counter-object are no counter-object themselves.

    Args:
        table: facts with answer and relation.
        passing: facts that pass the filters.
    """
    rows = [(same(answer), relation) for answer, relation in table.select("answer", "relation").iter_rows()]
    lonely = np.zeros(len(rows), dtype=bool)
    while True:
        pool: dict[str, set[str]] = {}
        for (answer, relation), counts in zip(rows, passing & ~lonely, strict=True):
            if counts:
                pool.setdefault(relation, set()).add(answer)
        found = np.array([not pool.get(relation, set()) - beginnings(answer) for answer, relation in rows], dtype=bool)
        # A smaller pool leaves more facts alone, so this ends, and wherever it starts it ends the same.
        if (found == lonely).all():
            return lonely
        lonely = found


def beginnings(text: str) -> set[str]:
    """The text and what remains of it without its last words."""
    words = text.split()
    return {" ".join(words[: i + 1]) for i in range(len(words))}


def funnel_steps(facts: pl.DataFrame, filtered: pl.DataFrame, filters: Sequence[str]) -> pl.DataFrame:
    """How many facts and relations are left after each step, in the columns of table "funnel".

    Args:
        facts, filtered: those tables.
        filters: filters that apply.

    Returns:
        Steps `facts`, `answered`, the filters that apply, `counter-objects`; `n_prompts` is missing in all of them.
    """
    left = facts.select("fact", "relation").join(filtered.select("fact", "dropped_by"), on="fact")
    steps = [("facts", "facts of the knowledge base", left)]
    for reason in REASONS:
        if reason in FILTERS and reason not in filters:
            continue
        # Reasons come in this order, so what a step leaves is what is dropped by a later one or by none.
        left = left.filter(pl.col("dropped_by").is_null() | (pl.col("dropped_by") != reason))
        steps.append((STEPS.get(reason, reason), MEANINGS[reason], left))
    rows = [
        {
            "order": i,
            "step": step,
            "meaning": meaning,
            "n_facts": rest.height,
            "n_relations": rest["relation"].n_unique(),
        }
        for i, (step, meaning, rest) in enumerate(steps)
    ]
    schema = {name: column.dtype for name, column in SCHEMAS["funnel"].items()}
    return pl.DataFrame([row | {"n_prompts": None} for row in rows], schema=schema)


def refuse_nothing_left(steps: pl.DataFrame, n_correct: int | None = None) -> None:
    """Raise if no fact is left after the last step.

    Args:
        steps: table "funnel".
        n_correct: answers that are the knowledge base's object, where that is known: a model may know nothing.

    Raises:
        FilterError: naming the step that took the last facts, the number after every step, and the config key.
    """
    if steps["n_facts"][-1]:
        return
    numbers = "; ".join(f"{step}: {n}" for step, n in steps.select("step", "n_facts").iter_rows())
    step = steps.filter(n_facts=0).row(0, named=True)
    reason = {name: reason for reason, name in STEPS.items()}.get(step["step"], step["step"])
    known = "" if n_correct is None else f" Answers that are the knowledge base's object: {n_correct}."
    remedy = REMEDIES.get(reason, "give a knowledge base with facts")
    raise FilterError(
        f"context_copying: no fact is left after the step '{step['step']}' ({step['meaning']}). Facts left after every "
        f"step: {numbers}.{known} {remedy[0].upper()}{remedy[1:]}"
    )
