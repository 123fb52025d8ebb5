"""Filters of answers, against oracles by brute force; none of them may depend on the order of the facts."""

from __future__ import annotations

import itertools
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.answer_filters import (
    FILTERS,
    FilterError,
    contained,
    filter_answers,
    filtered_facts,
    funnel_steps,
    refuse_nothing_left,
)
from neuronlab.answer_text import same_words
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame, read_table, write_table

Fact = tuple[str, str, str, str, str]  # subject, relation, group, object, answer


def frames(
    rows: list[Fact], examples: dict[str, tuple[str, str]] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Tables "facts", "relations" and "answers" of some facts; examples are (subject, object) by relation."""
    facts = pl.DataFrame(
        [
            {"fact": i, "subject": s, "relation": r, "relation_group": g, "phrase": r, "object": o}
            | {"query": f"{s} {r}", "statement": f"{s} {r} {o}.", "subset": None}
            for i, (s, r, g, o, _) in enumerate(rows)
        ],
        schema={name: column.dtype for name, column in SCHEMAS["facts"].items()},
    )
    groups = {r: g for _, r, g, _, _ in rows}
    nobody = (None, None)
    relations = pl.DataFrame(
        [
            {"relation": r, "relation_group": g, "n_facts": 1, "description": None, "example_query": None}
            | dict(zip(("example_subject", "example_object"), (examples or {}).get(r, nobody), strict=True))
            for r, g in groups.items()
        ],
        schema={name: column.dtype for name, column in SCHEMAS["relations"].items()},
    )
    answers = pl.DataFrame(
        [
            {"fact": i, "text": "q", "continuation": a, "answer": a, "ended": "eos", "n_tokens": 1, "first_token": 0}
            | {"log_prob": -1.0, "entropy": 1.0, "correct": a == o}
            for i, (*_, o, a) in enumerate(rows)
        ],
        schema={name: column.dtype for name, column in SCHEMAS["answers"].items()},
    )
    return facts, relations, answers


def dropped(rows: list[Fact], filters: tuple[str, ...] = FILTERS, **options: object) -> list[str | None]:
    """What drops each fact."""
    facts, relations, answers = frames(rows, **options)
    return filtered_facts(facts, relations, answers, filters, 0.8)["dropped_by"].to_list()


# Facts of another relation that only keep the facts under test from being lonely.
COMPANY: list[Fact] = [("Quux", "r", "g", "Oslo", "Oslo"), ("Wombat", "r", "g", "Lima", "Lima")]


def test_each_filter_drops_what_it_says_and_the_first_one_is_named() -> None:
    rows: list[Fact] = [
        ("New York City", "r", "g", "USA", "new york"),  # contained, whatever the case
        ("York", "r", "g", "USA", "New York"),  # the other way round
        ("Martha", "r", "g", "USA", "Marhta"),  # similar: 0.961
        ("Bolivia", "r", "g", "USA", ""),
        ("Bolivar", "r", "g", "x", "Peru"),
        *COMPANY,
    ]
    expected = ["containment", "containment", "similarity", "empty", None, None, None]
    assert dropped(rows) == expected


def test_filters_that_are_not_configured_are_reported_but_drop_nothing() -> None:
    facts, relations, answers = frames([("New York City", "r", "g", "USA", "New York"), *COMPANY])
    table = check_frame(filtered_facts(facts, relations, answers, (), 0.8), "filtered")
    assert table["containment"].to_list() == [True, False, False]
    assert table["dropped_by"].to_list() == [None, None, None]


def test_similarity_looks_at_the_case_and_at_the_threshold() -> None:
    rows: list[Fact] = [("MARTHA", "r", "g", "USA", "marhta"), ("Martha", "r", "g", "USA", "Marhta"), *COMPANY]
    facts, relations, answers = frames(rows)
    table = filtered_facts(facts, relations, answers, FILTERS, 0.8)
    # Jaro-Winkler by hand: Jaro of MARTHA and MARHTA is 17/18, and three common letters lift it to 0.9611.
    assert table["similarity"].to_list()[:2] == pytest.approx([0.0, 17 / 18 + 3 * 0.1 / 18])
    assert table["similar"].to_list()[:2] == [False, True]
    exact = table["similarity"][1]
    assert filtered_facts(facts, relations, answers, FILTERS, exact)["similar"][1]
    assert not filtered_facts(facts, relations, answers, FILTERS, exact + 1e-9)["similar"][1]


def test_an_empty_answer_is_neither_contained_nor_similar_even_at_threshold_zero() -> None:
    assert not contained("Ada", "")
    facts, relations, answers = frames([("Ada", "r", "g", "x", ""), *COMPANY])
    row = filtered_facts(facts, relations, answers, FILTERS, 0.0).row(0, named=True)
    assert (row["containment"], row["similar"], row["example"]) == (False, False, False)
    assert row["dropped_by"] == "empty"


def test_the_example_is_leakage_unless_it_is_the_right_answer() -> None:
    rows: list[Fact] = [
        ("Ada", "r", "g", "London", "PARIS"),  # copied from the example
        ("Bo", "r", "g", "London", "France"),  # its subject
        ("Cy", "r", "g", "Paris", "paris"),  # right
        ("Di", "s", "g", "London", "Paris"),  # of another relation
        ("Ed", "s", "g", "London", "Rome"),
        *COMPANY,
    ]
    examples = {"r": ("France", "Paris")}
    assert dropped(rows, examples=examples) == ["example", "example", None, None, None, None, None]
    without = tuple(name for name in FILTERS if name != "example")
    assert dropped(rows, without, examples=examples) == [None] * len(rows)


def test_overlap_goes_on_both_sides_and_only_between_groups() -> None:
    rows: list[Fact] = [
        ("Ada", "born", "places", "x", "London"),
        ("Bo", "lives", "places", "x", "LONDON"),  # the same group
        ("Cy", "owns", "things", "x", "Hat"),
        ("Di", "owns", "things", "x", "london"),  # another group: this one and the two above go
        ("Ed", "born", "places", "x", "Oslo"),
        ("Fe", "born", "places", "x", "Lima"),
        ("Hat", "born", "places", "x", "Rome"),  # a subject there, an answer here
        ("Gy", "owns", "things", "x", "Coat"),
        ("Iz", "owns", "things", "x", "Belt"),
    ]
    overlap = "overlap"
    assert dropped(rows) == [overlap, overlap, overlap, overlap, None, None, overlap, None, None]


def test_b_defect_13_overlap_does_not_depend_on_the_order_of_facts() -> None:
    """Deleting on the way through would keep the last of a chain: A-B overlap, B-C overlap."""
    chain: list[Fact] = [
        ("Ada", "r", "g", "x", "Hat"),
        ("Hat", "s", "h", "x", "Oslo"),
        ("Oslo", "t", "i", "x", "Blue"),
        ("Cy", "r", "g", "x", "Rome"),
        ("Di", "r", "g", "x", "Lima"),
    ]
    expected = dict(zip(chain, dropped(chain), strict=True))
    assert [expected[row] for row in chain] == ["overlap", "overlap", "overlap", None, None]
    for order in itertools.permutations(chain):
        assert dict(zip(order, dropped(list(order)), strict=True)) == expected


def test_facts_that_go_for_another_reason_make_no_overlap() -> None:
    rows: list[Fact] = [
        ("Ada", "born", "places", "x", "London"),
        ("Bo", "born", "places", "x", "Oslo"),
        ("London Bridge", "owns", "things", "x", "London"),  # contained
        ("Cy", "owns", "things", "x", ""),  # no answer
    ]
    assert dropped(rows) == [None, None, "containment", "empty"]
    assert dropped(rows, ("overlap",)) == ["overlap", "lonely", "overlap", "empty"]


def test_a_relation_with_one_distinct_answer_is_lonely() -> None:
    rows: list[Fact] = [
        ("Ada", "r", "g", "x", "Paris"),
        ("Bo", "r", "g", "x", "PARIS"),
        ("Cy", "s", "g", "x", "Rome"),
        ("Di", "s", "g", "x", "Oslo"),
        ("Ed", "t", "g", "x", "Bern"),
        ("Bernard", "t", "g", "x", "Bern"),  # contained, and no counter-object for Ed either way
    ]
    assert dropped(rows) == ["lonely", "lonely", None, None, "lonely", "containment"]


def test_an_answer_that_begins_with_the_only_other_one_is_lonely_and_leaves_that_one_alone() -> None:
    rows: list[Fact] = [("Ada", "r", "g", "x", "Old Town Hall"), ("Bo", "r", "g", "x", "old town")]
    assert dropped(rows) == ["lonely", "lonely"]
    assert dropped([*rows, ("Cy", "r", "g", "x", "Lima")]) == [None, None, None]


@pytest.mark.slow
def test_kept_facts_have_counter_objects_by_the_rule_that_chooses_them() -> None:
    from neuronlab.counters import candidates_of  # loads torch

    words = ["New York", "new york", "New York City", "Lima", "Oslo", "Oslo Fjord"]
    pairs = itertools.combinations_with_replacement(words, 2)
    rows: list[Fact] = [(f"Person{i}", f"r{i}", "g", "x", word) for i, pair in enumerate(pairs) for word in pair]
    facts, relations, answers = frames(rows)
    table = filtered_facts(facts, relations, answers, FILTERS, 0.8)
    kept = table.filter(pl.col("dropped_by").is_null()).join(facts.select("fact", "relation"), on="fact")
    assert 0 < kept.height < table.height
    assert all(candidates_of(kept).values())


WORDS = st.sampled_from(["ann", "Ann", "bob", "cleo", "dora", "Emil", "", "fran", "ann bob"])
ROWS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "gus", "hal", "ida"]), st.sampled_from(["r", "s", "t"]), WORDS, WORDS),
    min_size=1,
    max_size=12,
)
GROUPS = {"r": "g", "s": "g", "t": "h"}


def brute_force(rows: list[Fact], filters: tuple[str, ...], examples: dict[str, tuple[str, str]]) -> list[str | None]:
    """The same by definition, without sets that are shared between facts; Jaro-Winkler is left out."""

    def first_reason(row: Fact) -> str | None:
        subject, relation, _, object_, answer = row
        low = answer.lower()
        if not answer:
            return "empty"
        if "containment" in filters and (subject.lower() in low or low in subject.lower()):
            return "containment"
        copied = low in [text.lower() for text in examples.get(relation, ())]
        return "example" if "example" in filters and copied and low != object_.lower() else None

    alone = [first_reason(row) for row in rows]
    here = [row for row, reason in zip(rows, alone, strict=True) if reason is None]

    def overlaps(row: Fact) -> bool:
        mine = {row[0].lower(), row[4].lower()}
        return any(other[2] != row[2] and mine & {other[0].lower(), other[4].lower()} for other in here)

    found = [
        reason or ("overlap" if "overlap" in filters and overlaps(row) else None)
        for row, reason in zip(rows, alone, strict=True)
    ]

    def lonely(row: Fact, reasons: list[str | None]) -> bool:
        left = [other for other, reason in zip(rows, reasons, strict=True) if reason is None and other[1] == row[1]]
        return all(same_words(row[4], other[4]) for other in left)

    for _ in rows:  # a lonely fact may leave another one alone
        found = [reason or ("lonely" if lonely(row, found) else None) for row, reason in zip(rows, found, strict=True)]
    return found


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sets(st.sampled_from(["containment", "example", "overlap"])), st.randoms(use_true_random=False))
def test_filters_agree_with_brute_force_and_with_themselves_in_any_order(rows, chosen, random) -> None:
    facts: list[Fact] = [(s, r, GROUPS[r], o, a) for s, r, o, a in rows]
    examples = {"r": ("dora", "cleo")}
    filters = tuple(sorted(chosen))
    expected = brute_force(facts, filters, examples)
    assert dropped(facts, filters, examples=examples) == expected
    order = list(range(len(facts)))
    random.shuffle(order)
    assert dropped([facts[i] for i in order], filters, examples=examples) == [expected[i] for i in order]


@settings(max_examples=40, deadline=None)
@given(ROWS, st.sets(st.sampled_from(FILTERS)))
def test_every_step_of_the_funnel_takes_what_its_reason_drops(rows, chosen) -> None:
    facts, relations, answers = frames([(s, r, GROUPS[r], o, a) for s, r, o, a in rows])
    filters = tuple(sorted(chosen))
    table = filtered_facts(facts, relations, answers, filters, 0.8)
    steps = check_frame(funnel_steps(facts, table, filters), "funnel")
    names = ["facts", "answered", *(name for name in FILTERS if name in filters), "counter-objects"]
    assert steps["step"].to_list() == names
    assert steps["order"].to_list() == list(range(len(names)))
    assert steps["n_prompts"].null_count() == len(names)
    reasons = ["empty", *names[2:-1], "lonely"]
    taken = [table.filter(dropped_by=reason).height for reason in reasons]
    assert (-steps["n_facts"].diff().drop_nulls()).to_list() == taken
    assert steps["n_facts"][-1] == table["dropped_by"].null_count()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("Ada", "r", "g", "x", "")], r"after the step 'answered' .*facts: 1; answered: 0.*context_copying\.template"),
        (
            [("Ada", "r", "g", "x", "ada"), ("Bo", "r", "g", "x", "bo")],
            r"after the step 'containment' .*facts: 2; answered: 2; containment: 0.*'containment' out of "
            r"context_copying\.filters",
        ),
        ([("Martha", "r", "g", "x", "Marhta")], r"after the step 'similarity' .*Raise context_copying\.similarity"),
        (
            [("Ada", "r", "g", "x", "hat"), ("Bo", "s", "h", "x", "hat")],
            r"after the step 'overlap' .*similarity: 2; example: 2; overlap: 0.*relation_group",
        ),
        ([("Ada", "r", "g", "x", "hat")], r"after the step 'counter-objects' .*two different answers"),
    ],
)
def test_nothing_left_names_the_filter_that_took_the_last_facts(tmp_path: Path, rows: list[Fact], message: str) -> None:
    names = ("facts", "relations", "answers")
    for name, frame in zip(names, frames(rows), strict=True):
        write_table(frame, tmp_path / f"{name}.parquet", name)
    paths = {name: tmp_path / f"{name}.parquet" for name in names}
    with pytest.raises(FilterError, match=message) as error:
        filter_answers(**paths, filtered=tmp_path / "filtered.parquet", filters=FILTERS, similarity=0.8)
    assert "Answers that are the knowledge base's object: 0." in str(error.value)
    assert not (tmp_path / "filtered.parquet").exists()


def test_the_rule_writes_its_table(tmp_path: Path) -> None:
    for name, frame in zip(("facts", "relations", "answers"), frames([*COMPANY]), strict=True):
        write_table(frame, tmp_path / f"{name}.parquet", name)
    paths = {name: tmp_path / f"{name}.parquet" for name in ("facts", "relations", "answers", "filtered")}
    filter_answers(**paths, filters=["overlap"], similarity=0.8)
    assert read_table(paths["filtered"], "filtered")["dropped_by"].null_count() == 2


def test_unknown_filters_and_foreign_answers_are_refused() -> None:
    facts, relations, answers = frames([*COMPANY])
    with pytest.raises(FilterError, match=r"context_copying\.filters: 'speling' is no filter; there are containment"):
        filtered_facts(facts, relations, answers, ["speling"], 0.8)
    with pytest.raises(FilterError, match="lacks facts"):
        filtered_facts(facts, relations, answers.head(1), FILTERS, 0.8)


def test_an_empty_knowledge_base_has_a_remedy_too() -> None:
    facts, relations, answers = (frame.clear() for frame in frames([*COMPANY]))
    with pytest.raises(FilterError, match="after the step 'facts'"):
        refuse_nothing_left(funnel_steps(facts, filtered_facts(facts, relations, answers, FILTERS, 0.8), FILTERS))
