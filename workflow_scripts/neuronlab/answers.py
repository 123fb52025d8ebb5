"""Rule `answer_queries`: what the model says by itself (METHODS B2, step 1)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from neuronlab.answer_text import split_answer, whole_characters
from neuronlab.greedy_decoding import Greedy, greedy
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.prompt_templates import query_prompts
from neuronlab.prompt_tokens import PromptError, answer_ends, continuation_text, encode_prompts, opening_bos
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table

TEMPLATE_KEY = "context_copying.template"


def answer_queries(
    *,
    model: ModelSpec,
    facts: str | Path,
    relations: str | Path,
    answers: str | Path,
    template: str,
    bos: str,
    new_tokens: int,
    batch_size: int,
    provenance: Provenance | None = None,
) -> None:
    """Write answers.parquet: the greedy answer to each fact's query, in the order of facts.

    A model that answers nothing gives empty answers here; the next step, which filters them, says so.

    Args:
        facts, relations: tables "facts" and "relations".
        template: a name of `prompt_templates.NAMED` or a text of one's own.
        bos: auto, always or never.
        new_tokens: tokens generated, at most; generation ends where the answer does.
        batch_size: prompts per forward pass.

    Raises:
        TemplateError: the template does not fit, or a relation lacks what it shows.
        PromptError: a prompt that does not fit in the model's context, or a BOS that the tokenizer lacks.
        ModelError, TableError: model or tables unusable.
    """
    rows = read_table(facts, "facts").sort("fact")
    texts = query_prompts(TEMPLATE_KEY, template, rows, read_table(relations, "relations"))
    loaded = load_model(model)
    bos_id = opening_bos(bos, loaded.bos_token_id, model.where)
    prompts = encode_prompts(loaded.tokenizer, texts, bos_id)
    check_length(loaded, rows, prompts, new_tokens)
    found = greedy(
        loaded,
        None,
        prompts,
        new_tokens=new_tokens,
        finished=answer_ends(loaded.tokenizer),
        batch_size=batch_size,
    )
    frame = answers_frame(loaded, rows, texts, found)
    _report(frame)
    write_table(frame, answers, "answers", provenance)


def check_length(model: Model, facts: pl.DataFrame, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Refuse prompts that leave no room for the answer in the model's context.

    Raises:
        PromptError: naming the longest one, its fact and what to change.
    """
    if model.n_ctx is None or not prompts:
        return
    # The last new token is never fed back.
    long = [number for number, prompt in enumerate(prompts) if len(prompt) + new_tokens - 1 > model.n_ctx]
    if not long:
        return
    worst = max(long, key=lambda number: len(prompts[number]))
    fact, subject, relation = facts.row(worst, named=True)["fact"], facts["subject"][worst], facts["relation"][worst]
    raise PromptError(
        f"{len(long)} of {len(prompts)} prompts are too long for {model.spec.where}: that of fact {fact} ('{subject}', "
        f"'{relation}') has {len(prompts[worst])} tokens, and with {new_tokens} new ones the context of {model.n_ctx} "
        "leaves room for "
        f"{model.n_ctx - new_tokens + 1}; shorten context_copying.template, lower context_copying.new_tokens, or leave "
        "that fact out"
    )


def answers_frame(model: Model, facts: pl.DataFrame, texts: Sequence[str], found: Sequence[Greedy]) -> pl.DataFrame:
    """Rows of answers.parquet from greedy continuations of the prompts `texts`."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMAS["answers"]}
    for fact, object_, text, one in zip(facts["fact"], facts["object"], texts, found, strict=True):
        continuation = continuation_text(model.tokenizer, one.tokens)
        answer, delimited = split_answer(continuation)
        answer = whole_characters(answer)
        ended = "delimiter" if delimited else "eos" if one.tokens[-1] == model.eos_token_id else "length"
        row = {
            "fact": fact,
            "text": text,
            "continuation": continuation,
            "answer": answer,
            "ended": ended,
            "n_tokens": len(one.tokens),
            "first_token": one.tokens[0],
            "log_prob": sum(one.log_probs),
            "entropy": one.entropy,
            "correct": answer.casefold().split() == object_.casefold().split(),
        }
        for name, value in row.items():
            columns[name].append(value)
    return pl.DataFrame(columns, schema={name: column.dtype for name, column in SCHEMAS["answers"].items()})


def _report(answers: pl.DataFrame) -> None:
    """To the log: how much of it is an answer, and how much of that is right."""
    n, empty, right = len(answers), (answers["answer"] == "").sum(), answers["correct"].sum()
    print(f"{n} answers: {right} are the knowledge base's object, {empty} are empty", file=sys.stderr)
    if n and empty == n:
        print(
            "WARNING: the model answers nothing: every continuation opens with a delimiter or white space; look at "
            "context_copying.template",
            file=sys.stderr,
        )
