"""How a model is asked for its own answer, and how a conflict prompt is put together (METHODS B2, steps 1 and 4).

A template is one of three names or a text of one's own:

    none          the bare query, which the model continues
    plain         an instruction with the relation's description, then the query (study B: GPT-2)
    instruction   the same between [INST] and [/INST], with one example, then the query (study B: the other models)

All end in the query, so that base models, which only continue a text, complete the statement too. None spells out a
BOS: that comes from `context_copying.bos`, once (study B's prompts had a literal <s> beside the tokenizer's: B defect
14).

What a relation lacks: without a description, `plain` and `instruction` are refused; without an example, `instruction`
leaves the example out for that relation and says so. A text of one's own is never rewritten: what it names must be
there.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from string import Formatter

import polars as pl

NAMED = {
    "none": "{query}",
    "plain": "Complete the statement. What is missing is {description}.\n\n{query}",
    "instruction": (
        "[INST] <<SYS>>\nYou complete statements. What is missing is {description}. Write only that.\n<</SYS>>\n\n"
        "An example: {example_query} {example_object}.\nComplete the next statement in the same way. [/INST] {query}"
    ),
}
# Named templates for relations that lack what the full form shows.
WITHOUT_EXAMPLE = {
    "instruction": (
        "[INST] <<SYS>>\nYou complete statements. What is missing is {description}. Write only that.\n<</SYS>>\n\n"
        "Complete the next statement. [/INST] {query}"
    ),
}
EXAMPLE_FIELDS = ("example_query", "example_object")
QUERY_FIELDS = ("query", "subject", "description", *EXAMPLE_FIELDS)
CONFLICT_FIELDS = ("query", "counter")


class TemplateError(ValueError):
    """A template that cannot be filled in."""


def check_template(where: str, template: str) -> None:
    """Refuse a template that no fact could fill in; torch-free, for use before any job.

    Args:
        where: config key, for the message.
        template: a name of `NAMED` or a text of one's own.

    Raises:
        TemplateError: naming what is wrong and what there is.
    """
    if template in NAMED:
        return
    if "{" not in template:
        raise TemplateError(
            f"{where}: '{template}' is no template; give {', '.join(NAMED)}, or a text of your own with {{query}} in it"
        )
    fields = _fields(where, template, QUERY_FIELDS)
    if "query" not in fields:
        raise TemplateError(f"{where}: '{template}' lacks {{query}}, the statement that the model completes; add it")
    _no_opening_mark(where, template)


def check_conflict(where: str, pattern: str) -> None:
    """Refuse a pattern of conflict prompts that lacks a placeholder or does not end in the query.

    Raises:
        TemplateError: naming what is wrong.
    """
    fields = _fields(where, pattern, CONFLICT_FIELDS)
    for name in CONFLICT_FIELDS:
        if name not in fields:
            raise TemplateError(
                f"{where}: '{pattern}' lacks {{{name}}}; the default is '{{query}} {{counter}}. {{query}}'"
            )
    if not pattern.endswith("{query}"):
        raise TemplateError(
            f"{where}: '{pattern}' must end in {{query}}, without white space after it: the model's next words are "
            "the object that it chooses"
        )
    _no_opening_mark(where, pattern)


def uses_example(template: str) -> bool:
    """Whether prompts of this template show the relation's example, where it has one."""
    return bool(_names(NAMED.get(template, template)) & set(EXAMPLE_FIELDS))


def shown_filters(filters: Sequence[str], template: str) -> list[str]:
    """The filters that apply: that of the example's objects only where the model sees an example (B defect 13)."""
    return [name for name in filters if name != "example" or uses_example(template)]


def query_prompts(where: str, template: str, facts: pl.DataFrame, relations: pl.DataFrame) -> list[str]:
    """The prompt that asks for each fact's object, in the order of `facts`.

    Args:
        where: config key of the template, for messages.
        facts, relations: tables "facts" and "relations".

    Raises:
        TemplateError: for a template that cannot be filled in, naming the relations that lack something.
    """
    check_template(where, template)
    details = {row["relation"]: row for row in relations.iter_rows(named=True)}
    used = facts["relation"].unique().sort().to_list()
    if strangers := [name for name in used if name not in details]:
        raise TemplateError(
            f"relations {_some(strangers)} of the facts are not in the table of relations; make it again"
        )
    forms = {name: _form(where, template, details[name]) for name in used}
    if bare := [name for name, form in forms.items() if form == WITHOUT_EXAMPLE.get(template)]:
        print(f"WARNING: {where}: no example in the prompts of relations without one: {_some(bare)}", file=sys.stderr)
    return [
        fill(forms[row["relation"]], details[row["relation"]] | {"query": row["query"], "subject": row["subject"]})
        for row in facts.select("relation", "query", "subject").iter_rows(named=True)
    ]


def conflict_prompt(pattern: str, query: str, counter: str) -> str:
    """One conflict prompt: a statement with the counter-object, then the query again."""
    return fill(pattern, {"query": query, "counter": counter})


def fill(template: str, values: Mapping[str, str | int | None]) -> str:
    """Fill in a template; white space around a value would tear the tokens of what follows it, and goes."""
    return template.format_map({name: str(value).strip() for name, value in values.items() if value is not None})


def _form(where: str, template: str, relation: Mapping[str, str | int | None]) -> str:
    """The template's text for one relation."""
    text = NAMED.get(template, template)
    missing = [name for name in sorted(_names(text)) if name in relation and not str(relation[name] or "").strip()]
    if missing and template in WITHOUT_EXAMPLE and set(missing) <= set(EXAMPLE_FIELDS):
        return WITHOUT_EXAMPLE[template]
    if missing:
        raise TemplateError(
            f"{where}: '{template}' needs {' and '.join(missing)}, which relation '{relation['relation']}' lacks; "
            "add it to the table of relations (facts.<facts>.relations), leave its facts out, or take template 'none'"
        )
    return text


def _names(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def _fields(where: str, template: str, known: Collection[str]) -> set[str]:
    """Placeholders of a template, each a plain known name."""
    there_are = f"there are {', '.join(f'{{{name}}}' for name in known)}; write a brace as {{{{ or }}}}"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise TemplateError(f"{where}: '{template}' has an unpaired brace ({error}); {there_are}") from error
    for _, name, form, conversion in parts:
        if name is not None and (name not in known or form or conversion):
            written = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise TemplateError(f"{where}: unknown placeholder '{{{written}}}' in '{template}'; {there_are}")
    return {name for _, name, _, _ in parts if name is not None}


def _no_opening_mark(where: str, template: str) -> None:
    """No literal BOS of the Llama family; other tokenizers' are found when the prompts are encoded."""
    if template.lstrip().startswith("<s>"):
        raise TemplateError(
            f"{where}: '{template}' spells out <s>, but a BOS is put in front by context_copying.bos; take it out"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
