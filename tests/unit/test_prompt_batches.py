"""Padded prompts against single ones, kept keys against whole passes, on all tiny architectures."""

from __future__ import annotations

import pytest
import torch
from neuronlab import prompt_batches
from neuronlab.greedy_decoding import greedy
from neuronlab.models import Model
from neuronlab.prompt_batches import (
    DecodingError,
    LastState,
    by_length,
    check_prompts,
    extend,
    pad_left,
    read_prompts,
)

LENGTHS = (1, 5, 30, 17, 22, 3)  # sliding windows of the tiny models are 16 long


def random_prompts(lengths: tuple[int, ...] = LENGTHS, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 190, (n,), generator=generator).tolist() for n in lengths]


def assert_same(model: Model, state: LastState, row: int, tokens: list[int], atol: float = 1e-12) -> None:
    """A row of a batched state against an unpadded pass over the whole prefix."""
    alone = model.run(torch.tensor([tokens]))
    torch.testing.assert_close(state.residual[row], alone.residual[0, -1], rtol=0, atol=atol)
    torch.testing.assert_close(state.activations[row], alone.activations[0, -1], rtol=0, atol=atol)
    if alone.mlp_out is None:
        assert state.mlp_out is None
    else:
        torch.testing.assert_close(state.mlp_out[row], alone.mlp_out[0, -1], rtol=0, atol=atol)


def test_padded_equals_unpadded_and_positions_are_not_shifted(tiny_model, architecture):
    model, prompts = tiny_model(architecture, "float64"), random_prompts()
    state = read_prompts(model, prompts).state
    for row, prompt in enumerate(prompts):
        assert_same(model, state, row, prompt)


def test_continuations_behind_kept_keys_equal_whole_passes(tiny_model, architecture):
    model, prompts = tiny_model(architecture, "float64"), random_prompts()
    first = extend(model, read_prompts(model, prompts), [0, 2, 2, 5], [7, 8, 9, 10])
    second = extend(model, first, [3, 1, 1, 0], [3, 4, 5, 6])  # rows branch, swap places, and the shortest stays
    expected = [[*prompts[5], 10, 3], [*prompts[2], 8, 4], [*prompts[2], 8, 5], [*prompts[0], 7, 6]]
    for row, tokens in enumerate(expected):
        assert_same(model, second.state, row, tokens)
        logits = model.logits(torch.tensor([tokens]))[0, -1]
        torch.testing.assert_close(second.logits[row], logits, rtol=0, atol=1e-11)


def test_float32_models_agree_too(tiny_model, architecture):
    model, prompts = tiny_model(architecture), random_prompts()
    state = extend(model, read_prompts(model, prompts), [1, 4], [7, 8]).state
    assert_same(model, state, 0, [*prompts[1], 7], atol=2e-4)
    assert_same(model, state, 1, [*prompts[4], 8], atol=2e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_padding_is_not_attended_whatever_its_id(tiny_model, name, monkeypatch):
    model, prompts = tiny_model(name, "float64"), random_prompts()
    before = read_prompts(model, prompts).state.residual
    monkeypatch.setattr(prompt_batches, "PADDING", 77)
    torch.testing.assert_close(read_prompts(model, prompts).state.residual, before, rtol=0, atol=1e-12)


def test_pads_on_the_left():
    tokens, real = pad_left([[5], [6, 7, 8]])
    assert tokens.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert real.tolist() == [[False, False, True], [True] * 3]


def test_batches_hold_every_prompt_once_and_similar_lengths():
    assert list(by_length(random_prompts(), 4)) == [[0, 5, 1, 3], [4, 2]]
    assert list(by_length([], 4)) == []
    with pytest.raises(DecodingError, match="batch_size is 0"):
        list(by_length([[1]], 0))


def test_prompts_that_cannot_be_continued_are_refused(tiny_model):
    model = tiny_model("gpt2", "float64")
    check_prompts(model, [[1] * 60], 5)  # 64 positions: the last token generated is not run
    for prompts, new_tokens, message in (
        ([[1] * 60], 6, "prompt 0 has 60 tokens; with 6 new ones it exceeds the context"),
        ([[1], []], 3, "prompt 1 is empty"),
        ([[1, 200]], 3, "outside the vocabulary"),
        ([[1, -1]], 3, "outside the vocabulary"),
        ([[1]], 0, "new_tokens is 0"),
    ):
        with pytest.raises(DecodingError, match=message):
            check_prompts(model, prompts, new_tokens)


def test_a_residual_that_overflowed_is_refused(tiny_model, monkeypatch):
    model = tiny_model("gpt2", "float64")

    def broken(bridge, tokens, hooks, **options):
        for hook in hooks.values():
            hook(torch.full((*tokens.shape, 32), torch.nan), None)
        return torch.zeros(len(tokens), 1, model.d_vocab)

    monkeypatch.setattr(prompt_batches, "hooked_forward", broken)
    with pytest.raises(DecodingError, match="overflows"):
        read_prompts(model, [[1, 2]])


def test_models_without_keys_of_their_own_are_refused(tiny_model, monkeypatch):
    model = tiny_model("gpt2", "float64")
    real = prompt_batches.hooked_forward

    def forgetful(bridge, tokens, hooks, **options):
        logits = real(bridge, tokens, hooks, **options)
        del options["past_key_values"].layers[-1]
        return logits

    monkeypatch.setattr(prompt_batches, "hooked_forward", forgetful)
    with pytest.raises(DecodingError, match="does not keep keys and values of its own"):
        read_prompts(model, [[1, 2]])


def test_greedy_equals_whole_passes(tiny_model, architecture):
    model, prompts = tiny_model(architecture, "float64"), random_prompts((1, 9, 20, 2))
    found = greedy(model, None, prompts, new_tokens=4, finished=lambda ids: ids[-1] % 7 == 0, batch_size=3)
    for prompt, one in zip(prompts, found, strict=True):
        tokens = list(prompt)
        for step, token in enumerate(one.tokens):
            lp = model.logits(torch.tensor([tokens]))[0, -1].log_softmax(-1)
            assert int(lp.argmax()) == token
            assert one.log_probs[step] == pytest.approx(float(lp.max()), abs=1e-9)
            if step == 0:
                assert one.entropy == pytest.approx(float(-(lp.exp() * lp).sum()), abs=1e-9)
            over = token % 7 == 0 or token == model.eos_token_id or step == 3
            assert over == (step == len(one.tokens) - 1)
            tokens.append(token)


def test_greedy_without_prompts_finds_nothing(tiny_model):
    assert greedy(tiny_model("gpt2"), None, [], new_tokens=3, finished=lambda ids: False, batch_size=2) == []
