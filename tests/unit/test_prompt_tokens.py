"""Prompts as tokens: one BOS at most; generated tokens as text; padding that nothing sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from neuronlab.prompt_tokens import (
    PromptError,
    answer_ends,
    continuation_text,
    encode_prompts,
    opening_bos,
    padded,
)
from tiny_tokenizers import KINDS

TEXTS = ["Ann lives in", "Rome is the", "[INST] Ann [/INST] Ann is"]


def test_bos_policy() -> None:
    assert [opening_bos(bos, 5, "models.m") for bos in ("auto", "always", "never")] == [5, 5, None]
    assert opening_bos("auto", None, "models.m") is None
    assert opening_bos("auto", 0, "models.m") == 0
    with pytest.raises(PromptError, match=r"context_copying\.bos is 'always'.*models\.m has no BOS; use auto or never"):
        opening_bos("always", None, "models.m")
    with pytest.raises(PromptError, match="must be auto, always or never"):
        opening_bos("yes", 5, "models.m")


@pytest.mark.parametrize("kind", KINDS)
def test_b_defect_14_a_prompt_has_exactly_one_bos(kind: str) -> None:
    tokenizer = KINDS[kind]()
    bos = tokenizer.bos_token_id
    for prompt in encode_prompts(tokenizer, TEXTS, bos):
        assert prompt.count(bos) == 1
        assert prompt[0] == bos
    for prompt in encode_prompts(tokenizer, TEXTS, None):
        assert bos not in prompt
    with pytest.raises(PromptError, match="spells out the BOS"):
        encode_prompts(tokenizer, [f"{tokenizer.bos_token}Ann lives in"], bos)
    with pytest.raises(PromptError, match="has no tokens"):
        encode_prompts(tokenizer, [""], bos)


@pytest.mark.parametrize("kind", KINDS)
def test_continuations_as_text(kind: str) -> None:
    tokenizer = KINDS[kind]()
    body = tokenizer("Ann lives in Rome.", add_special_tokens=False)["input_ids"]
    start = len(tokenizer("Ann lives in", add_special_tokens=False)["input_ids"])
    generated = body[start:]
    assert continuation_text(tokenizer, generated).strip() == "Rome."
    assert continuation_text(tokenizer, [*generated, tokenizer.eos_token_id]).strip() == "Rome."
    assert continuation_text(tokenizer, []) == ""
    ends = answer_ends(tokenizer)
    assert [ends(generated[:n]) for n in range(1, len(generated) + 1)] == [False] * (len(generated) - 1) + [True]


def test_padding_stands_on_the_right() -> None:
    tokens, real = padded([[5, 6, 7], [8]])
    assert tokens.tolist()[0] == [5, 6, 7]
    assert tokens.tolist()[1][:1] == [8]
    assert real.tolist() == [[True, True, True], [True, False, False]]


def test_b_defect_5_padded_prompts_have_the_states_of_unpadded_ones(architecture: str, tiny_model: Callable) -> None:
    model = tiny_model(architecture, "float64")
    generator = np.random.default_rng(1)
    prompts = [generator.integers(2, model.d_vocab_real, length).tolist() for length in (1, 40, 7, 23)]
    tokens, real = padded(prompts)
    together = model.run(tokens)
    for row, prompt in enumerate(prompts):
        alone = model.run(padded([prompt])[0])
        for name in ("residual", "activations"):
            np.testing.assert_allclose(
                getattr(together, name)[row][real[row]], getattr(alone, name)[0], rtol=0, atol=1e-11
            )
