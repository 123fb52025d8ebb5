"""Loaded models against plain Hugging Face, against TransformerLens' own folding, and bad directories."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

TOKENS = torch.randint(2, 196, (3, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def plain(tiny_directories, architecture):
    """The same weights in plain Hugging Face."""
    return AutoModelForCausalLM.from_pretrained(tiny_directories[architecture], attn_implementation="eager").eval()


@torch.no_grad()
def test_logits_equal_hugging_face(tiny_model, plain, architecture):
    assert torch.allclose(tiny_model(architecture).logits(TOKENS), plain(TOKENS).logits, atol=1e-5, rtol=1e-5)
