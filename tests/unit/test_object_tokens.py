"""Tokens of objects for every kind of tokenizer, and their log-probabilities against plain forward passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.object_tokens import forced_log_probs, next_log_probs, object_ids, object_log_probs, precise_readout
from tiny_tokenizers import KINDS, WORDS, letters_only
from transformers import AutoTokenizer, PreTrainedTokenizerBase

SHIPPED = Path(__file__).parents[2] / "workflow_scripts" / "neuronlab" / "demo" / "checkpoints" / "final"
LOADED = {kind: make() for kind, make in KINDS.items()}
PROMPTS = ("Ann lives in", "Ann is the", "Rome.", "the New", "[INST] Ann lives in [/INST]", "Ann lives in\n")


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return LOADED[request.param]


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(st.sampled_from(PROMPTS[:4]), st.lists(st.sampled_from([*WORDS, "Parisi", "x"]), min_size=1, max_size=3))
def test_prompt_and_object_together_are_the_whole_text(kind: str, prompt: str, words: list[str]) -> None:
    tokenizer = LOADED[kind]
    (ids,) = object_ids(tokenizer, [prompt], [" ".join(words)])
    whole = encoded(tokenizer, prompt) + list(ids)
    assert tokenizer.decode(whole, clean_up_tokenization_spaces=False).strip() == f"{prompt} {' '.join(words)}"
    assert whole == encoded(tokenizer, f"{prompt} {' '.join(words)}")


def test_first_token_of_a_known_word_is_that_word(tokenizer: PreTrainedTokenizerBase) -> None:
    pieces = tokenizer.get_vocab()
    for prompt in PROMPTS[:5]:
        found = object_ids(tokenizer, [prompt] * 3, ["Paris", "Rome", "New York"])
        expected = [pieces.get(f"▁{word}", pieces.get(f"Ġ{word}")) for word in ("Paris", "Rome", "New")]
        assert [ids[0] for ids in found] == expected
        assert len(found[2]) == 2


def test_b_defect_6_first_ids_are_neither_bos_nor_a_bare_space(tokenizer: PreTrainedTokenizerBase) -> None:
    """What study B did (decode, put a space in front, encode, take the first) gives one id for all objects here."""
    objects = ["Paris", "Rome", "the", "Ann"]
    own = [ids[0] for ids in object_ids(tokenizer, ["Ann lives in"] * 4, objects)]
    published = [tokenizer(f" {tokenizer.decode([token])}")["input_ids"][0] for token in own]
    useless = {tokenizer.bos_token_id, *(tokenizer.get_vocab().get(space) for space in ("▁", "Ġ"))}
    assert len(set(own)) == len(objects)
    assert not set(own) & useless
    if tokenizer is LOADED["byte_level"]:
        assert [tokenizer.decode([token]) for token in own] == [f" {text}" for text in objects]
        twice = [tokenizer("  Paris")["input_ids"][0], tokenizer("  Rome")["input_ids"][0]]
        assert set(twice) <= useless  # the space before the space is a token of its own
    else:
        assert set(published) <= useless


def test_prompt_that_ends_in_white_space_is_followed_by_the_object_itself(tokenizer: PreTrainedTokenizerBase) -> None:
    for prompt in ("Ann lives in\n", "Ann lives in "):
        for object_ in ("Paris", "x"):
            (ids,) = object_ids(tokenizer, [prompt], [object_])
            assert ids
            assert tokenizer.bos_token_id not in ids
            assert tokenizer.decode(list(ids), clean_up_tokenization_spaces=False).strip() == object_


def test_objects_without_tokens_have_none() -> None:
    tokenizer = letters_only()
    nothing, some, empty = object_ids(tokenizer, ["Ann lives in"] * 3, ["42", "Rome", ""])
    assert (nothing, empty) == ((), ())
    assert tokenizer.decode(list(some)) == " Rome"
    assert object_ids(LOADED["byte_level"], ["Ann"], [""]) == [()]


def check_real(directory: Path, prompts: list[str], objects: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    for prompt, object_, ids in zip(prompts, objects, object_ids(tokenizer, prompts, objects), strict=True):
        assert tokenizer.bos_token_id not in ids
        whole = tokenizer.decode(encoded(tokenizer, prompt) + list(ids), clean_up_tokenization_spaces=False)
        assert whole.strip() == f"{prompt} {object_}"


def test_objects_of_the_demo() -> None:
    check_real(SHIPPED, ["Vaelerim speaks", "Vaelerim was born in"], ["Ruuk", "Hagumora"])


def test_objects_of_a_real_byte_level_tokenizer(shared: Path) -> None:
    prompts = ["Thelonious Monk plays the", "The king is in", "Citizens of"]
    check_real(shared / "models" / "shakespeare-gpt2", prompts, ["piano", "New York City", "Zürich"])
    # Of this small vocabulary no token spells " Z": a space alone is then what the model would really write first.


def brute_force(model: object, prompt: list[int], ids: list[int]) -> list[float]:
    """Log-probability of each token after the ones before it, by one pass over the whole text, unpadded."""
    logits = model.logits(torch.tensor([[*prompt, *ids]]))[0].double()
    lp = torch.log_softmax(logits, -1)
    return [float(lp[len(prompt) - 1 + place, token]) for place, token in enumerate(ids)]


def draw_texts(n: int, vocabulary: int, n_ctx: int) -> tuple[list[list[int]], list[list[int]]]:
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, n_ctx - 8, n)
    prompts = [generator.integers(2, vocabulary, length).tolist() for length in lengths]
    return prompts, [generator.integers(2, vocabulary, generator.integers(1, 6)).tolist() for _ in range(n)]


def test_log_probs_equal_one_pass_for_each_text(architecture: str, tiny_model: Callable) -> None:
    model = tiny_model(architecture, "float64")
    readout = precise_readout(model)
    prompts, objects = draw_texts(7, model.d_vocab_real, model.n_ctx)
    expected = [brute_force(model, prompt, ids) for prompt, ids in zip(prompts, objects, strict=True)]
    wanted = [[ids[0], 5, 5] for ids in objects]
    for batch_size in (1, 3, 16):
        whole = object_log_probs(model, readout, prompts, objects, batch_size)
        np.testing.assert_allclose(whole, [sum(values) for values in expected], rtol=0, atol=1e-10)
        first = next_log_probs(model, readout, prompts, wanted, batch_size)
        np.testing.assert_allclose([lp[0] for lp in first], [values[0] for values in expected], rtol=0, atol=1e-10)
        assert all(lp[1] == lp[2] for lp in first)


def test_small_chunks_of_logits_change_nothing(tiny_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    readout = precise_readout(model)
    prompts, objects = draw_texts(5, model.d_vocab_real, model.n_ctx)
    expected = object_log_probs(model, readout, prompts, objects, 4)
    monkeypatch.setattr("neuronlab.object_tokens.LOGITS_BYTES", 1)
    np.testing.assert_allclose(object_log_probs(model, readout, prompts, objects, 4), expected, rtol=1e-14)


def test_nothing_asked_gives_nothing(tiny_model: Callable) -> None:
    model = tiny_model("gpt2")
    readout = precise_readout(model)
    assert next_log_probs(model, readout, [], [], 4) == []
    assert object_log_probs(model, readout, [], [], 4).shape == (0,)
    found = forced_log_probs(model, readout, [[3, 4]], [(1,)], [[[]]], 4)
    assert [len(values) for values in found] == [0]
