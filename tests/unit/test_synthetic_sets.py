"""Synthetic controls of sets: same length, same product with the residual, other directions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.readout import Readout, fold
from neuronlab.synthetic_sets import SyntheticSetError, synthetic_directions, synthetic_move

D, K, TOKENS = 12, 4, 6


def make(kind: str, seed: int = 0, post: bool = False) -> tuple[Readout, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A read-out, residuals that are not centred, directions as the measures use them, replacement minus activation."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    extra = {"post_gain": torch.ones(D), "post_eps": 1e-5} if post else {}
    readout = fold(draw(D, 20), None, 1 + 0.1 * draw(D), None, eps=1e-3, kind=kind, dtype=torch.float64, **extra)
    return readout, 3 * draw(TOKENS, D) + 1, readout.centre(draw(K, D)), draw(TOKENS, K)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["LN", "RMS"]), st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e3]))
def test_length_and_product_with_the_residual_are_the_sets_own(kind, seed, size):
    readout, residual, w, delta = make(kind, seed)
    r = synthetic_directions(readout, w, 2, seed)
    delta = size * delta
    own, x = delta @ w, readout.centre(residual)
    moved = synthetic_move(readout, residual, w, r, delta)
    torch.testing.assert_close(moved.norm(dim=1), own.norm(dim=1), rtol=1e-9, atol=0)
    torch.testing.assert_close((x * moved).sum(1), (x * own).sum(1), rtol=1e-9, atol=1e-9 * size)
    # So the final norm's scale changes alike, and the direction is another one.
    torch.testing.assert_close(readout.scale(residual + moved), readout.scale(residual + own), rtol=1e-9, atol=1e-12)
    assert bool(((moved - own).norm(dim=1) > 0.1 * own.norm(dim=1)).any())


def test_directions_depend_on_seed_and_draw_alone_and_are_as_long_as_the_sets_own():
    readout, _, w, _ = make("LN")
    r = synthetic_directions(readout, w, 1, 7)
    torch.testing.assert_close(r.norm(dim=1), w.norm(dim=1))
    torch.testing.assert_close(r.mean(1), torch.zeros(K, dtype=torch.float64))
    assert torch.equal(r, synthetic_directions(readout, w, 1, 7))
    assert not torch.allclose(r, synthetic_directions(readout, w, 2, 7))
    assert not torch.allclose(r, synthetic_directions(readout, w, 1, 8))
    assert len({tuple(row) for row in (r / r.norm(dim=1, keepdim=True)).tolist()}) == K


def test_nothing_replaced_moves_nothing():
    readout, residual, w, delta = make("RMS")
    moved = synthetic_move(readout, residual, w, synthetic_directions(readout, w, 0, 0), 0 * delta)
    assert torch.equal(moved, torch.zeros_like(residual))


def test_refused_behind_a_norm_after_the_mlp():
    readout, _, w, _ = make("RMS", post=True)
    with pytest.raises(SyntheticSetError, match="norm after the MLP"):
        synthetic_directions(readout, w, 0, 0)
