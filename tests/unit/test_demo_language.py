"""The demo language and its tokenizer: what the sampler promises to the studies."""

from collections import Counter

import numpy as np
import pytest
from neuronlab.demo import tokenizer
from neuronlab.demo.language import (
    CONTEXT,
    FULL_STOP,
    MEMORY,
    RELATIONS,
    SUBJECTS,
    UNKNOWN,
    WORDS,
    build_world,
    uniforms,
)
from neuronlab.demo.names import RESERVED
from neuronlab.demo.training import SEQUENCE, training_batch
from neuronlab.demo.world_files import evaluation_documents

WORLD = build_world()
RELATION_UNITS = set(range(2, 2 + len(RELATIONS)))


def sample(documents: int, stream: str = "training", seed: int = 0) -> list[list[int]]:
    sampler = tokenizer.build_sampler()
    return [sampler.document(stream, seed, index, SEQUENCE - 1) for index in range(documents)]


def test_tokenizer_gives_the_ids_that_the_sampler_emits_and_decodes_to_the_same_text():
    for document in sample(400):
        text = WORLD.text(document)
        ids = tokenizer.build_tokenizer().encode(text).ids
        assert [tokenizer.BOS_ID, *ids] == tokenizer.document_tokens(document)
        assert tokenizer.build_tokenizer().decode(ids) == text


def test_a_name_is_the_same_tokens_wherever_it_stands():
    encode = tokenizer.build_tokenizer().encode
    for subject in range(0, SUBJECTS, 7):
        name = WORLD.units[WORLD.subject_unit(subject)]
        assert encode(name).ids == encode(f" {name}").ids
        assert encode(f"unknown {name}.").ids == encode("unknown").ids + encode(name).ids + [
            tokenizer.unit_tokens()[FULL_STOP][0]
        ]


def test_foreign_characters_become_one_special_token():
    assert tokenizer.build_tokenizer().encode("unknown 漢.").ids[1:] == [1, tokenizer.unit_tokens()[FULL_STOP][0]]


def test_words_and_names_of_one_to_four_tokens_exist_and_frequent_words_are_whole():
    lengths = [len(ids) for ids in tokenizer.unit_tokens()]
    words = Counter(lengths[WORLD.first_word : WORLD.first_subject])
    assert set(words) == {1, 2, 3, 4}
    assert min(words.values()) >= 30
    assert set(lengths[WORLD.first_word : WORLD.first_word + 80]) == {1}
    subjects = lengths[WORLD.first_subject : WORLD.first_object]
    for names in (subjects, lengths[WORLD.first_object : WORLD.first_nonsense]):
        assert 0.5 < np.mean(np.array(names) == 1) < 0.9
        assert set(names) >= {1, 2, 3}


def test_every_token_but_the_special_ones_is_in_use():
    used = {token for ids in tokenizer.unit_tokens() for token in ids}
    assert used == set(range(2, tokenizer.build_tokenizer().get_vocab_size()))


def test_units_are_unique_and_spelled_words_avoid_the_phrases():
    assert len(set(WORLD.units)) == len(WORLD.units)
    assert not RESERVED & set(WORLD.units[WORLD.first_word :])


def test_text_is_zipfian():
    sampler, counts = tokenizer.build_sampler(), np.zeros(WORDS)
    draw = uniforms("counts", 3, 0)
    for _ in range(40_000):
        for unit in sampler.sentence(draw):
            if unit != FULL_STOP:
                counts[unit - WORLD.first_word] += 1
    ordered = np.sort(counts)[::-1]
    ranks = np.arange(5, 400)
    slope, _ = np.polyfit(np.log(ranks), np.log(ordered[ranks - 1]), 1)
    assert -1.3 < slope < -0.7
    assert counts.min() > 0


def test_most_words_leave_the_next_one_open():
    def entropy(row):
        share = np.unique(row, return_counts=True)[1] / len(row)
        return -(share * np.log(share)).sum()

    entropies = np.array([entropy(row) for row in WORLD.successors])
    assert np.quantile(entropies, 0.1) < 1.2
    assert np.quantile(entropies, 0.9) > 2.5


def test_held_out_pairs_never_occur_in_a_contradiction():
    sampler, draw, seen = tokenizer.build_sampler(), uniforms("training", 5, 0), set()
    outcomes = Counter()
    for _ in range(30_000):
        segment = sampler.contradiction(draw)
        subject, relation = segment[0] - WORLD.first_subject, segment[1] - 2
        truth = WORLD.object_unit(relation, int(WORLD.fact_object[subject, relation]))
        assert segment[-4:-2] == segment[:2]
        assert segment[2] != truth
        seen.add((subject, relation))
        second = segment[-2]
        outcomes[CONTEXT if second == segment[2] else MEMORY if second == truth else UNKNOWN] += 1
    assert not any(WORLD.held_out[pair] for pair in seen)
    assert len(seen) > 0.95 * (~WORLD.held_out).sum()
    assert all(outcomes[kind] / 30_000 > 0.2 for kind in (CONTEXT, MEMORY, UNKNOWN))


def test_whole_documents_state_nothing_false_about_held_out_pairs():
    stated = Counter()
    for document in sample(6000):
        for position, unit in enumerate(document[:-1]):
            if unit in RELATION_UNITS:
                subject, relation = document[position - 1] - WORLD.first_subject, unit - 2
                if WORLD.held_out[subject, relation]:
                    truth = WORLD.object_unit(relation, int(WORLD.fact_object[subject, relation]))
                    stated[document[position + 1] == truth] += 1
    assert stated[True] > 300
    assert stated[False] == 0


def test_batches_are_reproducible_differ_between_steps_and_seeds_and_begin_with_bos():
    sampler = tokenizer.build_sampler()
    batch = training_batch(sampler, 0, 3)
    assert batch.shape == (32, SEQUENCE)
    assert np.array_equal(batch, training_batch(sampler, 0, 3))
    assert not np.array_equal(batch, training_batch(sampler, 0, 4))
    assert not np.array_equal(batch, training_batch(sampler, 1, 3))
    assert (batch[:, 0] == tokenizer.BOS_ID).all()
    assert (batch[:, 1:] != tokenizer.BOS_ID).all()


def test_evaluation_documents_are_new_fit_the_window_and_contain_repetition():
    def windows(document, size=12):
        return {tuple(document[i : i + size]) for i in range(len(document) - size + 1)}

    training = set().union(*(windows(d) for d in sample(3000)))
    a, b = (evaluation_documents(split, 100) for split in ("evaluation_a", "evaluation_b"))
    assert all(tuple(document) not in {tuple(d) for d in b} for document in a)
    for document in a + b:
        # Facts recur, but 12 units in a row that recur would be a copied document.
        assert not windows(document) & training
        assert document[-1] == FULL_STOP
        assert 40 <= len(tokenizer.document_tokens(document)) <= SEQUENCE
    repeats = [any(d[:n] == d[n : 2 * n] for n in range(6, len(d) // 2)) for d in a]
    assert 0.15 < np.mean(repeats) < 0.45


@pytest.mark.parametrize("stream", ["training", "evaluation_a"])
def test_documents_are_reproducible(stream):
    assert sample(5, stream) == sample(5, stream)
