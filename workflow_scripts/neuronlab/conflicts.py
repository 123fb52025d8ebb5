"""Rule `make_conflicts`: prompts that contradict what the model knows (METHODS B2, steps 3 and 4; B3).

Answers stand in the prompt as the model wrote them. Study B lower-cased them; but a model copies what it reads, the
first token of "paris" is another than that of "Paris", and log-probabilities of tokens that the model would not write
say little. Comparisons with what it generates ignore the case.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from neuronlab.answer_filters import funnel_steps
from neuronlab.counters import Asked, candidates_of, choose_counters
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.object_tokens import object_ids
from neuronlab.prompt_activations import describe_prompts
from neuronlab.prompt_templates import check_conflict, conflict_prompt
from neuronlab.prompt_tokens import encode_prompts, opening_bos
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table

CONFLICT_KEY = "context_copying.conflict"
# Steps after the filters, and what each takes away.
STEPS = {
    "counters": "no counter-object has tokens and is told from the answer, or the answer has no tokens",
    "context": "prompt and object are too long for the model's context",
    "drawn": "not among the context_copying.max_prompts drawn",
}
REMEDIES = {
    "counters": "give relations with more facts, so that they have different answers",
    "context": "shorten context_copying.conflict or the facts' queries, or lower context_copying.new_tokens",
    "drawn": "raise context_copying.max_prompts",
}
DRAW = 0x636F  # keeps this draw apart from others of the same seed


class ConflictError(ValueError):
    """No conflict prompt is left, or tables that do not belong together."""


def make_conflicts(
    *,
    model: ModelSpec,
    facts: str | Path,
    relations: str | Path,
    answers: str | Path,
    filtered: str | Path,
    counters: str | Path,
    conflicts: str | Path,
    funnel: str | Path,
    statistics: str | Path,
    filters: Sequence[str],
    conflict: str,
    counters_per_fact: int,
    counters_by: str,
    bos: str,
    new_tokens: int,
    max_prompts: int | None,
    histogram_bins: int,
    batch_size: int,
    seed: int,
    provenance: Provenance | None = None,
) -> None:
    """Write counters.parquet, conflicts.parquet, funnel.parquet and activation_statistics.parquet.

    Args:
        facts, relations, answers, filtered: tables of those names.
        filters: the filters that applied, for the funnel.
        conflict: pattern of the prompt, with {query} and {counter}, ending in {query}.
        counters_per_fact, counters_by: how many counter-objects, and by what they are the least likely.
        bos: auto, always or never.
        new_tokens: room that is left for the continuation.
        max_prompts: draw so many prompts; all for None.
        histogram_bins: of the activation statistics.

    Raises:
        ConflictError: nothing is left, naming the step and the numbers after each.
        TemplateError, PromptError, CounterError: a configuration that does not fit.
        ModelError, TableError: model or tables unusable.
    """
    check_conflict(CONFLICT_KEY, conflict)
    known = read_table(facts, "facts").sort("fact")
    read_table(relations, "relations")
    passed = read_table(filtered, "filtered")
    said = read_table(answers, "answers")
    kept = kept_facts(known, said, passed)
    steps = funnel_steps(known, passed, filters)
    refuse_nothing_left(steps)
    loaded = load_model(model)
    bos_id = opening_bos(bos, loaded.bos_token_id, model.where)
    chosen = choose_counters(
        loaded, asked_facts(loaded, kept, bos_id), per_fact=counters_per_fact, by=counters_by, batch_size=batch_size
    )
    made = conflict_frame(loaded, kept, chosen, conflict, bos_id)
    usable = made.filter((pl.col("answer_ids").list.len() > 0) & (pl.col("counter_ids").list.len() > 0))
    fitting = usable.filter(fits(loaded.n_ctx, new_tokens))
    drawn = draw(fitting, max_prompts, seed)
    steps = extended_funnel(steps, {"counters": usable, "context": fitting, "drawn": drawn})
    _report(steps, chosen, drawn, counters_per_fact)
    refuse_nothing_left(steps)
    described = describe_prompts(
        loaded, drawn["tokens"].to_list(), histogram_bins=histogram_bins, batch_size=batch_size
    )
    write_table(chosen, counters, "counters", provenance)
    write_table(drawn, conflicts, "conflicts", provenance)
    write_table(steps, funnel, "funnel", provenance)
    write_table(described, statistics, "activation_statistics", provenance)


def kept_facts(facts: pl.DataFrame, answers: pl.DataFrame, filtered: pl.DataFrame) -> pl.DataFrame:
    """Facts that no filter drops, with the prompt that asked (`text`) and the `answer`; sorted by fact.

    Raises:
        ConflictError: if the tables are not about the same facts.
    """
    kept = filtered.filter(pl.col("dropped_by").is_null()).select("fact")
    found = kept.join(facts, on="fact").join(answers.select("fact", "text", "answer"), on="fact").sort("fact")
    if len(found) != len(kept):
        raise ConflictError("facts, answers and filtered facts do not fit together; delete the tables and run again")
    return found


def asked_facts(model: Model, kept: pl.DataFrame, bos_id: int | None) -> list[Asked]:
    """Kept facts with their prompts and candidates."""
    candidates = candidates_of(kept)
    prompts = encode_prompts(model.tokenizer, kept["text"].to_list(), bos_id)
    return [
        Asked(fact, text, tuple(tokens), candidates[fact])
        for fact, text, tokens in zip(kept["fact"], kept["text"], prompts, strict=True)
    ]


def conflict_frame(
    model: Model, kept: pl.DataFrame, counters: pl.DataFrame, pattern: str, bos_id: int | None
) -> pl.DataFrame:
    """All conflict prompts as rows of conflicts.parquet, sorted by fact and place of the counter-object."""
    joined = counters.select("fact", "place", "counter").join(kept.drop("text"), on="fact").sort("fact", "place")
    texts = [
        conflict_prompt(pattern, query, counter) for query, counter in joined.select("query", "counter").iter_rows()
    ]
    columns = {
        "text": pl.Series(texts, dtype=pl.String),
        "tokens": _lists(encode_prompts(model.tokenizer, texts, bos_id)),
        "counter_ids": _lists(object_ids(model.tokenizer, texts, joined["counter"].to_list())),
        "answer_ids": _lists(object_ids(model.tokenizer, texts, joined["answer"].to_list())),
    }
    return _numbered(joined.with_columns(**columns))


def fits(n_ctx: int | None, new_tokens: int) -> pl.Expr:
    """Whether a prompt leaves room in the context for the continuation and for either object.

    The last token of these is never fed to the model.
    """
    if n_ctx is None:
        return pl.lit(True)
    room = pl.max_horizontal(
        pl.lit(new_tokens), pl.col("counter_ids").list.len().cast(pl.Int64), pl.col("answer_ids").list.len()
    )
    return pl.col("tokens").list.len().cast(pl.Int64) + room - 1 <= n_ctx


def draw(conflicts: pl.DataFrame, max_prompts: int | None, seed: int) -> pl.DataFrame:
    """At most `max_prompts` of the prompts, each as likely, in their order, numbered anew."""
    if max_prompts is None or len(conflicts) <= max_prompts:
        return _numbered(conflicts)
    rows = np.random.default_rng([seed, DRAW]).choice(len(conflicts), size=max_prompts, replace=False)
    return _numbered(conflicts[np.sort(rows)])


def extended_funnel(steps: pl.DataFrame, prompts: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The funnel of the filters with the steps that leave prompts, by their names in `STEPS`."""
    schema = {name: column.dtype for name, column in SCHEMAS["funnel"].items()}
    rows = [
        {
            "order": len(steps) + number,
            "step": step,
            "meaning": STEPS[step],
            "n_facts": frame["fact"].n_unique(),
            "n_relations": frame["relation"].n_unique(),
            "n_prompts": len(frame),
        }
        for number, (step, frame) in enumerate(prompts.items())
    ]
    return pl.concat([steps.select(list(schema)).cast(schema), pl.DataFrame(rows, schema=schema)])


def refuse_nothing_left(steps: pl.DataFrame) -> None:
    """Raise if a step leaves nothing.

    Raises:
        ConflictError: naming the first such step, what is left after every step, and what to do.
    """
    empty = steps.filter((pl.col("n_facts") == 0) | (pl.col("n_prompts") == 0))
    if not len(empty):
        return
    numbers = "; ".join(f"{step}: {n}" for step, n in steps.select("step", "n_facts").iter_rows())
    step, meaning = empty.select("step", "meaning").row(0)
    remedy = REMEDIES.get(step, "look at filtered.parquet and change context_copying.filters")
    raise ConflictError(
        f"context_copying: no conflict prompt is left after the step '{step}' ({meaning}). Facts left after every "
        f"step: {numbers}. To change that, {remedy}"
    )


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """With `prompt` from 0, in the columns of conflicts.parquet."""
    return frame.with_columns(prompt=pl.int_range(len(frame), dtype=pl.Int32)).select(list(SCHEMAS["conflicts"]))


def _lists(ids: Sequence[Sequence[int]]) -> pl.Series:
    return pl.Series([list(one) for one in ids], dtype=pl.List(pl.Int32))


def _report(steps: pl.DataFrame, counters: pl.DataFrame, conflicts: pl.DataFrame, per_fact: int) -> None:
    """To the log: the funnel, facts with fewer counter-objects than asked for, objects that begin alike."""
    for step, n_facts, n_prompts in steps.select("step", "n_facts", "n_prompts").iter_rows():
        print(f"{step}: {n_facts} facts" + ("" if n_prompts is None else f", {n_prompts} prompts"), file=sys.stderr)
    fewer = counters.group_by("fact").len().filter(pl.col("len") < per_fact)
    if len(fewer):
        print(f"{len(fewer)} facts have fewer than {per_fact} counter-objects: too few answers", file=sys.stderr)
    alike = conflicts.filter(pl.col("counter_ids").list.first() == pl.col("answer_ids").list.first())
    if len(alike):
        print(
            f"in {len(alike)} prompts counter-object and answer begin with the same token: log-ratios of first tokens "
            "are 0 there, those of whole objects are not",
            file=sys.stderr,
        )
