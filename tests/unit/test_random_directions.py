"""Random logit directions: in the read-out's row space, of the variance asked for, orthogonal where that can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neuronlab.random_directions import RowSpace, matched_directions
from neuronlab.readout import fold

D, VOCAB, REAL = 12, 50, 45


def make_space(kind: str = "LN", softcap: float | None = None) -> tuple[RowSpace, np.ndarray]:
    """A row space on the real ids, and its matrix as it should be: padded ids zero, real ones centred."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(D, VOCAB, generator=generator, dtype=torch.float64)
    real = torch.arange(VOCAB) < REAL
    gain = 1 + 0.3 * torch.randn(D, generator=generator, dtype=torch.float64)
    readout = fold(W, None, gain, None, eps=1e-5, kind=kind, softcap=softcap, real=real, dtype=torch.float64)
    matrix = np.zeros((D, VOCAB))
    matrix[:, :REAL] = readout.W[:, :REAL].numpy()
    matrix[:, :REAL] -= matrix[:, :REAL].mean(1, keepdims=True)
    return RowSpace.of(readout, real), matrix


@pytest.mark.parametrize(("kind", "softcap", "size"), [("LN", None, D - 1), ("RMS", None, D), ("RMS", 5.0, D)])
def test_row_space_is_that_of_the_folded_weights(kind: str, softcap: float | None, size: int) -> None:
    space, matrix = make_space(kind, softcap)
    assert space.size == size
    basis = space.vectors(torch.eye(size, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(size), atol=1e-10)
    right = np.linalg.svd(matrix)[2][:size]
    np.testing.assert_allclose(basis.T @ basis, right.T @ right, atol=1e-10)
    assert not basis[:, REAL:].any()
    np.testing.assert_allclose(basis.sum(1), 0, atol=1e-10)
    some = np.random.default_rng(0).standard_normal((3, VOCAB))
    np.testing.assert_allclose(
        space.vectors(space.coordinates(torch.from_numpy(some))).numpy(), some @ right.T @ right, atol=1e-10
    )


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    """States with variances from 10^4 to 10^-4, and a mean that is not zero."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((400, 20)) * np.logspace(2, -2, 20) + 5


@pytest.mark.parametrize("target", [1e-3, 0.5, 40.0, 600.0, 5000.0, 9500.0])
def test_variance_is_met_by_directions_orthogonal_to_the_one_avoided(states: np.ndarray, target: float) -> None:
    avoid = np.random.default_rng(1).standard_normal(20)
    drawn, orthogonal = matched_directions(states, target, 50, np.random.default_rng(2), avoid=avoid)
    assert orthogonal
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(np.var(states @ drawn.T, axis=0), target, rtol=1e-6)
    np.testing.assert_allclose(drawn @ avoid, 0, atol=1e-10)
    cosines = np.abs(drawn @ drawn.T - np.eye(50))
    assert cosines.max() < 1 - 1e-6  # no direction is drawn twice


def test_orthogonality_is_given_up_where_the_variance_is_not_found_there(states: np.ndarray) -> None:
    axis = np.linalg.eigh(np.cov(states.T))[1][:, -1]
    drawn, orthogonal = matched_directions(states, 8000.0, 20, np.random.default_rng(0), avoid=axis)
    assert not orthogonal
    np.testing.assert_allclose(np.var(states @ drawn.T, axis=0), 8000, rtol=1e-6)
    largest = np.linalg.eigvalsh(np.cov(states.T, ddof=0))[-1]
    drawn, orthogonal = matched_directions(states, 10 * largest, 20, np.random.default_rng(0), avoid=axis)
    assert not orthogonal
    np.testing.assert_allclose(np.var(states @ drawn.T, axis=0), largest, rtol=1e-6)


def test_draws_depend_on_the_seed_alone(states: np.ndarray) -> None:
    first, second, other = (matched_directions(states, 50.0, 5, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)


def test_uniform_where_every_direction_has_the_variance() -> None:
    """With a covariance that is a multiple of the identity nothing is turned: draws are uniform on the sphere."""
    rng = np.random.default_rng(0)
    states = np.linalg.qr(rng.standard_normal((60, 5)))[0]
    states = np.concatenate([states, -states])  # mean zero
    variance = states[:, 0].var()
    drawn, _ = matched_directions(states, variance, 4000, np.random.default_rng(1))
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), np.eye(5) / 5, atol=0.02)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.03)
