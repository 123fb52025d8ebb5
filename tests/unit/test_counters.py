"""Counter-objects against brute force: one pass for each fact and candidate, sorted by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.answer_text import CONTEXT, label_answer
from neuronlab.counters import Asked, CounterError, candidates_of, choose_counters, needed, ranking
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame
from tiny_tokenizers import letters_only

OBJECTS = ("the", "them", "Rome", "Oslo", "then some", "Rom", "an end", "Andes")


def kept(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        [(fact, relation, answer) for fact, (relation, answer) in enumerate(rows)],
        schema=["fact", "relation", "answer"],
        orient="row",
    )


def asked(model: object, candidates: tuple[str, ...] = OBJECTS, facts: int = 4) -> list[Asked]:
    texts = [f"{'so ' * fact}it is in" for fact in range(facts)]
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    bos = [] if model.bos_token_id is None else [model.bos_token_id]
    return [
        Asked(7 * fact, text, (*bos, *found), candidates)
        for fact, (text, found) in enumerate(zip(texts, ids, strict=True))
    ]


def brute_force(model: object, one: Asked, candidate: str) -> tuple[int, float, float]:
    """First token, its log-probability, and that of the whole candidate, from one unpadded pass."""
    whole = model.tokenizer(f"{one.text} {candidate}", add_special_tokens=False)["input_ids"]
    ids = whole[len(one.tokens) - (model.bos_token_id is not None) :]
    lp = torch.log_softmax(model.logits(torch.tensor([[*one.tokens, *ids]]))[0].double(), -1)
    each = [float(lp[len(one.tokens) - 1 + place, token]) for place, token in enumerate(ids)]
    return ids[0], each[0], sum(each)


@pytest.mark.parametrize("by", ["first_token", "object"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_counters_are_the_least_likely(tiny_model: Callable, architecture: str, by: str) -> None:
    model = tiny_model(architecture, "float64")
    facts = asked(model)
    found = choose_counters(model, facts, per_fact=3, by=by, batch_size=3)
    assert list(found.columns) == list(SCHEMAS["counters"])
    check_frame(found, "counters")
    for one in facts:
        oracle = {candidate: brute_force(model, one, candidate) for candidate in OBJECTS}
        key = 1 if by == "first_token" else 2
        # Equal first tokens have one log-probability, whatever the rounding.
        expected = sorted(OBJECTS, key=lambda c: (round(oracle[c][key], 9), round(oracle[c][2], 9), c))[:3]
        rows = found.filter(fact=one.fact)
        assert rows["counter"].to_list() == expected
        assert rows["place"].to_list() == [0, 1, 2]
        assert rows["first_token"].to_list() == [oracle[c][0] for c in expected]
        np.testing.assert_allclose(rows["log_prob_first"], [oracle[c][1] for c in expected], rtol=0, atol=1e-10)
        np.testing.assert_allclose(rows["log_prob"], [oracle[c][2] for c in expected], rtol=0, atol=1e-10)
        heads = [oracle[c][0] for c in OBJECTS]
        assert rows["tied"].to_list() == [heads.count(oracle[c][0]) > 1 for c in expected]
        assert (rows["n_candidates"] == len(OBJECTS)).all()


def test_batch_size_changes_no_choice(tiny_model: Callable) -> None:
    model = tiny_model("gpt_neox")
    one, many = (choose_counters(model, asked(model), per_fact=5, by="object", batch_size=n) for n in (1, 64))
    assert one["counter"].equals(many["counter"])
    np.testing.assert_allclose(one["log_prob"], many["log_prob"], rtol=0, atol=1e-4)


def test_b_defect_8_ties_of_first_tokens_are_settled_by_the_whole_object(tiny_model: Callable) -> None:
    model = tiny_model("gpt2", "float64")
    facts = asked(model, ("Rome", "Oslo", "Andes", "Lima"))  # all begin with the token of a space
    found = choose_counters(model, facts, per_fact=4, by="first_token", batch_size=8)
    assert found["tied"].all()
    assert found.group_by("fact").agg(pl.col("first_token", "log_prob_first").n_unique()).select(
        (pl.col("first_token", "log_prob_first") == 1).all()
    ).row(0) == (True, True)
    for (_,), rows in found.group_by("fact"):
        assert rows["log_prob"].is_sorted()
    assert found.equals(choose_counters(model, facts[::-1], per_fact=4, by="first_token", batch_size=8))
    some = choose_counters(model, asked(model, ("Rome", "the", "Oslo"), 1), per_fact=3, by="first_token", batch_size=8)
    assert dict(some.select("counter", "tied").iter_rows()) == {"Rome": True, "Oslo": True, "the": False}


def test_b_defect_8_few_candidates_give_few_counters_and_none_gives_none(tiny_model: Callable) -> None:
    model = tiny_model("gpt2")
    facts = asked(model)
    few = [Asked(one.fact, one.text, one.tokens, OBJECTS[:n]) for n, one in enumerate(facts)]
    found = choose_counters(model, few, per_fact=2, by="first_token", batch_size=2)
    assert dict(found.group_by("fact").len().iter_rows()) == {7: 1, 14: 2, 21: 2}
    assert dict(found.select("fact", "n_candidates").unique().iter_rows()) == {7: 1, 14: 2, 21: 3}
    assert len(choose_counters(model, [], per_fact=2, by="object", batch_size=2)) == 0


def test_candidates_without_tokens_or_room_are_left_out_loudly(
    tiny_model: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    model = copy.copy(tiny_model("gpt2"))
    model.tokenizer = letters_only()
    facts = asked(model, ("42", "Rome", "Oslo" * 20), facts=1)
    found = choose_counters(model, facts, per_fact=3, by="object", batch_size=2)
    assert found["counter"].to_list() == ["Rome"]
    assert found["n_candidates"].to_list() == [1]
    log = capsys.readouterr().err
    assert "no tokens: '42'" in log
    assert "room for: 'OsloOslo" in log


@pytest.mark.parametrize(("per_fact", "by"), [(0, "object"), (3, "tokens")])
def test_nonsense_is_refused(tiny_model: Callable, per_fact: int, by: str) -> None:
    with pytest.raises(CounterError, match=r"context_copying\.counters is"):
        choose_counters(tiny_model("gpt2"), [], per_fact=per_fact, by=by, batch_size=2)


def test_candidates_are_answers_of_the_same_relation() -> None:
    found = candidates_of(
        kept(("r", "Rome"), ("r", "rome"), ("r", "Rome"), ("r", "Oslo"), ("s", "Lima"), ("r", "New"), ("r", "New York"))
    )
    assert found[0] == found[1] == found[2] == ("New", "New York", "Oslo")
    assert found[3] == ("New", "New York", "Rome")  # the commonest spelling stands for all
    assert found[4] == ()
    assert found[5] == ("New York", "Oslo", "Rome")
    assert found[6] == ("Oslo", "Rome")  # "New York" would count as a copy of "New"


NAMES = st.lists(st.sampled_from(["a", "B", "cd", "Ef"]), min_size=1, max_size=3).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("rs"), NAMES), max_size=12), st.randoms())
def test_candidates_hold_whatever_the_order_and_can_be_told_from_the_answer(rows: list, random: object) -> None:
    found = candidates_of(kept(*rows))
    order = list(range(len(rows)))
    random.shuffle(order)
    again = candidates_of(kept(*(rows[i] for i in order)))
    for fact, (relation, answer) in enumerate(rows):
        assert again[order.index(fact)] == found[fact]
        folded = [text.casefold() for text in found[fact]]
        assert len(set(folded)) == len(folded)
        assert set(found[fact]) <= {other for name, other in rows if name == relation}
        assert all(label_answer(answer, other, answer) != CONTEXT for other in found[fact])
        told_apart = {
            other.casefold()
            for name, other in rows
            if name == relation and not (answer.casefold() + " ").startswith(other.casefold() + " ")
        }
        assert set(folded) == told_apart


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-4, 0), st.integers(-3, 0)), min_size=1, max_size=9),
    st.integers(1, 5),
    st.sampled_from(["first_token", "object"]),
)
def test_whole_objects_that_are_not_computed_change_no_choice(pairs: list, per_fact: int, by: str) -> None:
    first = np.array([float(one) for one, _ in pairs])
    whole = first + np.array([float(rest) for _, rest in pairs])
    texts = [f"{place:02d}" for place in range(len(pairs))]
    mask = needed(first, per_fact, by)
    unknown = np.where(mask, whole, first)  # what stands there before whole objects are scored
    chosen = ranking(first, unknown, texts, by)[:per_fact]
    rows = sorted(zip(first if by == "first_token" else whole, whole, texts, strict=True))[:per_fact]
    assert [texts[index] for index in chosen] == [text for _, _, text in rows]
    assert mask[chosen].all()
