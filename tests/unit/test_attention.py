"""Heads ablated at every query position in one pass, against one hooked forward pass for each position."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from neuronlab.attention import (
    HeadSet,
    ablated_pass,
    all_heads,
    clean_pass,
    forward_at,
)
from neuronlab.models import Model

TINY = Callable[..., Model]
LENGTH, BATCH = 14, 2
# Single heads of both layers, two of one layer (sharing a key under grouped queries), and heads of both layers.
SETS = [HeadSet(heads) for heads in (((0, 1),), ((1, 2),), ((1, 0), (1, 1)), ((1, 3), (0, 2), (0, 0)))]


def draw(seed: int = 0, batch: int = BATCH, length: int = LENGTH) -> torch.Tensor:
    tokens = torch.randint(2, 190, (batch, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


def draw_means(model: Model) -> torch.Tensor:
    n_heads = len(all_heads(model)) // model.n_layers
    d_head = model.bridge.cfg.d_head
    return torch.randn(model.n_layers, n_heads, d_head, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["bos", "mean"])
def test_one_pass_is_one_forward_per_position(tiny_model: TINY, architecture: str, method: str) -> None:
    model = tiny_model(architecture, dtype="float64")
    tokens, means = draw(), draw_means(model)
    found = ablated_pass(model, clean_pass(model, tokens, [0, 1]), SETS, method, means=means)
    for s, heads in enumerate(SETS):
        for b in range(BATCH):
            # A row for each position: each row is ablated at one position only.
            rows = tokens[b].expand(LENGTH, -1)
            brute = forward_at(model, rows, heads, method, torch.arange(LENGTH), means=means)
            torch.testing.assert_close(found.residual[s, b], brute.residual, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(found.activations[s, b], brute.activations, rtol=1e-11, atol=1e-11)
