"""Singular directions against a plain float64 SVD; rho's null against simulated rotations."""

import numpy as np
import pytest
import scipy.stats
import torch
from neuronlab import null_space as ns
from neuronlab.readout import Readout, fold


def readout_of(W: torch.Tensor, kind: str = "RMS", bias: torch.Tensor | None = None) -> Readout:
    """A read-out whose W is exactly `W` for RMS (a softcap keeps it uncentred)."""
    softcap = 30.0 if kind == "RMS" else None
    return fold(W, None, torch.ones(len(W)).double(), bias, eps=1e-5, kind=kind, softcap=softcap, dtype=torch.float64)


def random_readout(d: int = 24, vocab: int = 300, kind: str = "RMS", seed: int = 0, values=None) -> Readout:
    """A read-out of random weights, with the given singular values if any."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(d, vocab, generator=generator, dtype=torch.float64)
    if values is not None:
        U, _, Vt = torch.linalg.svd(W, full_matrices=False)
        return readout_of(U * torch.as_tensor(values) @ Vt)
    W = W * (torch.rand(d, 1, generator=generator, dtype=torch.float64) + 0.5)
    return readout_of(W, kind, torch.randn(d, generator=generator, dtype=torch.float64) if kind == "LN" else None)


def test_gram_is_tiled_over_the_vocabulary():
    W = torch.randn(7, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(ns.gram(W, tile=8), W @ W.T, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("d", [2, 3, 17])
def test_complement_of_ones_is_a_basis(d):
    basis = ns.complement_of_ones(d)
    torch.testing.assert_close(basis.T @ basis, torch.eye(d - 1, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(basis.sum(0), torch.zeros(d - 1, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_spectrum_equals_svd(kind):
    readout = random_readout(kind=kind)
    ours = ns.spectrum(readout)
    U, values, _ = torch.linalg.svd(readout.W, full_matrices=False)
    np.testing.assert_allclose(ours.values, values.numpy(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        (ours.directions.T @ U).abs(), torch.eye(24, dtype=torch.float64), rtol=0, atol=1e-7 if kind == "LN" else 1e-10
    )
    assert ours.has_exact_null == (kind == "LN")
    assert (ours.values[-1] == 0) == (kind == "LN")


def test_small_singular_values_survive_the_gram_matrix():
    """Down to 1e-5 of the largest: the smallest of GPT-2's are about 1e-3."""
    values = np.geomspace(200, 2e-3, 24)
    readout = random_readout(values=values)
    ours = ns.spectrum(readout)
    np.testing.assert_allclose(ours.values, values, rtol=1e-5)
    U = torch.linalg.svd(readout.W, full_matrices=False)[0]
    cosines = (ours.directions * U).sum(0).abs()
    assert float(cosines.min()) > 1 - 1e-9


def test_signs_of_directions_are_fixed():
    directions = ns.spectrum(random_readout()).directions
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


def test_damaged_unembedding_is_refused():
    readout = random_readout()
    readout.W[3, 4] = torch.nan
    with pytest.raises(ns.NullSpaceError, match="NaN or infinity"):
        ns.spectrum(readout)


@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_rho_equals_its_definition(kind):
    readout = random_readout(kind=kind)
    w = torch.randn(11, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    w = readout.centre(w)
    shares = ns.null_space_shares(w, ns.spectrum(readout), [1, 4, 9, 24])
    U = torch.linalg.svd(readout.W, full_matrices=False)[0]
    for k, share in zip([1, 4, 9, 24], shares, strict=True):
        expected = (w @ U[:, 24 - k :]).norm(dim=1) / w.norm(dim=1)
        np.testing.assert_allclose(share, expected.numpy(), rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(shares[-1], 1.0)
    if kind == "LN":
        np.testing.assert_allclose(shares[0], 0.0, atol=1e-14)


def test_rho_of_a_silent_neuron_is_missing():
    shares = ns.null_space_shares(torch.zeros(1, 24), ns.spectrum(random_readout()), [4])
    assert np.isnan(shares).all()
    assert np.isnan(ns.share_survival(shares[0], 4, ns.spectrum(random_readout()))).all()


@pytest.mark.parametrize("kind", ["LN", "RMS"])
@pytest.mark.parametrize("k", [1, 2, 6, 23])
def test_beta_null_equals_simulated_rotations(kind, k):
    """Haar rotations of a fixed w_out, inside the complement of ones where weights are centred."""
    directions = ns.spectrum(random_readout(kind=kind))
    w = torch.randn(24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    basis = ns.complement_of_ones(24).numpy() if kind == "LN" else np.eye(24)
    inside = basis.T @ w.numpy()
    rotations = scipy.stats.special_ortho_group(basis.shape[1], seed=np.random.default_rng(3)).rvs(2000)
    rotated = torch.from_numpy((rotations @ inside) @ basis.T)
    rho = ns.null_space_shares(rotated, directions, [k])[0]
    assert abs(np.sqrt(np.mean(rho**2)) - ns.random_share(k, directions)) < 0.02
    survival = ns.share_survival(rho, k, directions)
    if kind == "LN" and k == 1:
        np.testing.assert_array_equal(survival, 1.0)  # nothing but the exact null direction: rho is 0
    else:
        assert scipy.stats.kstest(survival, "uniform").pvalue > 1e-3


def test_automatic_k_finds_a_drop():
    values = np.linspace(10, 5, 40)
    values[-4:] /= 6
    directions = ns.spectrum(random_readout(40, values=values))
    assert ns.automatic_k(directions) == 4
    assert ns.drop_p_value(directions, 300, seed=0) == 1 / 100


def test_automatic_k_leaves_the_exact_null_direction_out_of_the_search():
    directions = ns.spectrum(random_readout(40, kind="LN"))
    ratios = ns.successive_ratios(directions.values[:39])
    start = ns.tail_start(39)
    assert ns.automatic_k(directions) == 40 - 1 - (start + ratios[start:].argmax())
    assert ns.automatic_k(directions) > 1
    same = np.append(directions.values[:39], 5.0)  # whatever value stands there
    assert ns.automatic_k(ns.Spectrum(directions.directions, same, True, directions.gram)) == ns.automatic_k(directions)


def test_rank_deficient_unembedding_has_a_finite_drop():
    values = np.append(np.linspace(10, 5, 37), np.zeros(3))
    directions = ns.spectrum(random_readout(40, values=values))
    assert ns.automatic_k(directions) == 3
    assert np.isfinite(ns.successive_ratios(directions.values)).all()


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_smooth_spectra_seldom_look_like_a_drop(slope):
    """Gaussian matrices with equal rows, and with rows that shrink steadily to a third: the test keeps its level."""
    p = []
    for seed in range(40):
        W = torch.randn(48, 400, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        W *= torch.linspace(1 + slope / 2, 1 - slope / 2, 48, dtype=torch.float64)[:, None]
        p.append(ns.drop_p_value(ns.spectrum(readout_of(W)), 400, seed=seed))
    assert np.mean(np.array(p) <= 0.1) <= 0.125
    assert np.mean(p) > 0.4


@pytest.mark.parametrize(("k", "expected"), [(12, 12), (12.0, 12), (0.0234, 18), (1e-9, 1), (1, 1), (768, 768)])
def test_resolve_k(k, expected):
    assert ns.resolve_k(k, 768) == expected


@pytest.mark.parametrize(
    ("k", "message"),
    [(769, "larger than the model's width d = 768"), (0, "neither"), (-1, "neither"), (2.5, "neither")],
)
def test_resolve_k_refuses(k, message):
    with pytest.raises(ns.NullSpaceError, match=f"weights.null_space_k: .*{message}"):
        ns.resolve_k(k, 768, "weights.null_space_k")


def test_published_sizes_as_shares():
    """B's 2.34 % gives the published k at d = 2048 and 4096."""
    assert [ns.resolve_k(0.0234, d) for d in (2048, 4096)] == [48, 96]
