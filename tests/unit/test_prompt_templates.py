"""Templates of prompts: what is refused before any model runs, and what relations lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from neuronlab.prompt_templates import (
    NAMED,
    TemplateError,
    check_conflict,
    check_template,
    conflict_prompt,
    fill,
    query_prompts,
    shown_filters,
    uses_example,
)

WHERE = "context_copying.template"


def facts(*relations: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "relation": list(relations),
            "query": [f"Ann {name} " for name in relations],  # white space at the end, as in some published queries
            "subject": ["Ann"] * len(relations),
        }
    )


def relations(**details: tuple[str | None, str | None, str | None]) -> pl.DataFrame:
    columns = ("description", "example_query", "example_object")
    rows = [{"relation": name} | dict(zip(columns, found, strict=True)) for name, found in details.items()]
    return pl.DataFrame(rows, schema=dict.fromkeys(("relation", *columns), pl.String))


FULL = relations(lives=("a town", "Bob lives in", "Rome"), eats=("a dish", "Bob eats", "rice"))


def test_named_templates_end_in_the_query_and_show_what_they_promise() -> None:
    found = {name: query_prompts(WHERE, name, facts("lives", "eats"), FULL) for name in NAMED}
    assert found["none"] == ["Ann lives", "Ann eats"]
    for name in ("plain", "instruction"):
        assert "a town" in found[name][0]
        assert "a dish" in found[name][1]
        assert all(text.endswith(query) for text, query in zip(found[name], ("Ann lives", "Ann eats"), strict=True))
    assert "Bob lives in Rome." in found["instruction"][0]
    assert "Bob" not in found["plain"][0]
    assert {name: uses_example(name) for name in NAMED} == {"none": False, "plain": False, "instruction": True}
    assert uses_example("{example_object}? {query}")


def test_the_filter_of_examples_asks_for_none_that_the_model_does_not_see():
    """B defect 13, second half."""
    filters = ["containment", "example", "overlap"]
    assert shown_filters(filters, "instruction") == filters
    assert shown_filters(filters, "plain") == shown_filters(filters, "none") == ["containment", "overlap"]


def test_b_defect_14_no_template_spells_out_a_bos() -> None:
    for text in [prompt for name in NAMED for prompt in query_prompts(WHERE, name, facts("lives"), FULL)]:
        assert "<s>" not in text
        assert "</s>" not in text
    with pytest.raises(TemplateError, match=r"context_copying\.template: '<s>\[INST\].*<s>.*context_copying\.bos"):
        check_template(WHERE, "<s>[INST] {query} [/INST]")
    with pytest.raises(TemplateError, match="spells out <s>"):
        check_conflict("context_copying.conflict", " <s>{query} {counter}. {query}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("plian", "'plian' is no template; give none, plain, instruction"),
        ("", "is no template"),
        ("Say {counter}: {query}", r"unknown placeholder '\{counter\}'.*\{description\}"),
        ("{query!r}", r"unknown placeholder '\{query!r\}'"),
        ("{query:>9}", r"unknown placeholder '\{query:>9\}'"),
        ("{}", r"unknown placeholder '\{\}'"),
        ("{query.upper}", "unknown placeholder"),
        ("{query", "unpaired brace"),
        ("Name {description}:", r"lacks \{query\}"),
    ],
)
def test_templates_that_cannot_be_filled_in_are_refused(template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        check_template("context_copying.templates.gpt2", template)
    assert str(caught.value).startswith("context_copying.templates.gpt2: ")


def test_templates_of_ones_own() -> None:
    for template in (*NAMED, "Q: {query}\nA:", "{{{query}}}", "{description} {subject} {example_query} {query}"):
        check_template(WHERE, template)
    assert query_prompts(WHERE, "{{x}} {subject}: {query}\nA:", facts("lives"), FULL) == ["{x} Ann: Ann lives\nA:"]


def test_braces_in_facts_are_text() -> None:
    assert fill("{query}", {"query": "{counter} is"}) == "{counter} is"


@pytest.mark.parametrize("template", ["plain", "instruction", "{description}: {query}"])
def test_a_relation_without_description_is_named(template: str) -> None:
    table = relations(lives=("a town", "Bob lives in", "Rome"), eats=(None, "Bob eats", "rice"))
    with pytest.raises(TemplateError, match="needs description, which relation 'eats' lacks"):
        query_prompts(WHERE, template, facts("lives", "eats"), table)
    assert len(query_prompts(WHERE, template, facts("lives"), table)) == 1  # only relations with facts matter


def test_relations_without_example_do_without_it_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    table = relations(lives=("a town", "Bob lives in", "Rome"), eats=("a dish", None, None))
    with_example, without = query_prompts(WHERE, "instruction", facts("lives", "eats"), table)
    assert "Bob lives in Rome" in with_example
    assert "None" not in without
    assert "example" not in without
    assert "a dish" in without
    assert without.endswith("[/INST] Ann eats")
    warning = capsys.readouterr().err
    assert "'eats'" in warning
    assert "'lives'" not in warning
    with pytest.raises(TemplateError, match="needs example_object, which relation 'eats' lacks"):
        query_prompts(WHERE, "{example_object} {query}", facts("eats"), table)


def test_facts_of_an_unknown_relation_are_refused() -> None:
    with pytest.raises(TemplateError, match="'drinks'"):
        query_prompts(WHERE, "none", facts("drinks"), FULL)


def test_conflict_patterns() -> None:
    check_conflict("key", "{query} {counter}. {query}")
    assert conflict_prompt("{query} {counter}. {query}", "Ann lives in ", "Rome") == "Ann lives in Rome. Ann lives in"
    for pattern, message in (
        ("{query} {counter}. {query} ", "must end in"),
        ("{query} {counter}.", "must end in"),
        ("{query}", r"lacks \{counter\}"),
        ("{counter}", r"lacks \{query\}"),
        ("{subject} {counter} {query}", "unknown placeholder"),
    ):
        with pytest.raises(TemplateError, match=message):
            check_conflict("context_copying.conflict", pattern)


def test_checking_a_template_loads_no_torch() -> None:
    scripts = Path(__file__).parents[2] / "workflow_scripts"
    code = "import sys, neuronlab.prompt_templates; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(scripts)})
