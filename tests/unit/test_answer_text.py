"""Where an answer ends, and whose object it is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.answer_text import (
    CONTEXT,
    DELIMITERS,
    NEITHER,
    PARAMETRIC,
    label_answer,
    same_words,
    split_answer,
    whole_characters,
)

WORDS = st.text(alphabet=string.ascii_letters + "éüß-'", min_size=1, max_size=6)
OBJECTS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
TEXTS = st.text(alphabet=string.ascii_letters + " \t\n\\" + "".join(mark for mark in DELIMITERS if len(mark) == 1))


@pytest.mark.parametrize(
    ("continuation", "answer", "ended"),
    [
        (" Paris. It is", "Paris", True),
        (" New York City, where", "New York City", True),
        (" Paris", "Paris", False),
        ("\nParis", "", True),
        ('"Paris"', "", True),
        (" Paris\\nFrance", "Paris", True),
        (" Paris (France)", "Paris", True),
        (" the <unk>", "the", True),
        (" [INST]", "", True),
        (" C\\C++", "C\\C++", False),
        ("", "", False),
        ("   ", "", False),
    ],
)
def test_answer_ends_before_the_first_delimiter(continuation: str, answer: str, ended: bool) -> None:
    assert split_answer(continuation) == (answer, ended)


@settings(deadline=None)
@given(TEXTS)
def test_answer_is_what_a_scan_from_the_left_finds(continuation: str) -> None:
    scanned = ""
    ended = False
    for place, character in enumerate(continuation):
        if character in '".\n,([]<' or continuation[place : place + 2] == "\\n":
            ended = True
            break
        scanned += character
    assert split_answer(continuation) == (scanned.strip(), ended)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_an_ended_answer_never_changes_with_more_text(continuation: str, more: str) -> None:
    answer, ended = split_answer(continuation)
    if ended:
        assert split_answer(continuation + more) == (answer, True)


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_an_object_counts_whatever_its_case_and_what_follows(object_: str, rest: str) -> None:
    assert same_words(object_.swapcase(), object_)
    assert same_words(f"{object_} {rest}", object_)
    assert not same_words("", object_)
    assert not same_words(object_, "  ")


@settings(deadline=None)
@given(OBJECTS)
def test_words_count_whole(object_: str) -> None:
    assert not same_words(object_ + "s", object_)
    assert not same_words("x" + object_, object_)


@settings(deadline=None)
@given(OBJECTS, OBJECTS, OBJECTS)
def test_labels(answer: str, counter: str, parametric: str) -> None:
    def begins(text: str) -> bool:
        return (answer.casefold() + " ").startswith(text.casefold() + " ")

    expected = CONTEXT if begins(counter) else PARAMETRIC if begins(parametric) else NEITHER
    assert label_answer(answer, counter, parametric) == expected


def test_context_is_looked_for_first_and_an_empty_answer_is_neither() -> None:
    assert label_answer("New York", "New", "New York") == CONTEXT
    assert label_answer("", "New", "New York") == NEITHER
    assert label_answer("NEW  YORK city", "Boston", "New York") == PARAMETRIC


def test_an_unfinished_character_is_no_part_of_an_answer():
    assert whole_characters("Paris \ufffd") == "Paris"
    assert whole_characters("\ufffd\ufffd") == ""
    assert whole_characters("Zürich") == "Zürich"
