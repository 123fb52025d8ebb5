"""Temperatures from curves against minimisation over the vocabulary, token by token and for all of them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab.kernels.interface import Clean
from neuronlab.neuron_sets import NeuronSet
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import bootstrap_weights
from neuronlab.temperature import ETA, TemperatureSums, chunk_curves, minimise, temperature_frame
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TOKENS, VOCAB, DOCUMENTS = 60, 300, 6
OWNERS = np.sort(np.arange(TOKENS) % DOCUMENTS) + 10


def clean_of(logits: torch.Tensor, dtype: torch.dtype) -> Clean:
    lp = logits.log_softmax(-1)
    zeros = torch.zeros(len(lp), dtype=torch.float64)
    whole = torch.zeros(len(lp), dtype=torch.int64)
    return Clean(lp.to(dtype), lp.to(dtype), lp.exp().to(dtype), whole, zeros, zeros, zeros, whole, whole)


def some_logits(scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(TOKENS, VOCAB, generator=generator, dtype=torch.float64)


def some_changes(logits: torch.Tensor, sizes: tuple[float, ...]) -> torch.Tensor:
    """A change of temperature with noise on top, one for each size; centred, as the kernels give it."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(TOKENS, len(sizes), VOCAB, generator=generator, dtype=torch.float64)
    strength = torch.tensor(sizes, dtype=torch.float64)[:, None]
    D = strength * (noise + 0.4 * logits[:, None])
    return D - (logits.softmax(-1)[:, None] * D).sum(-1, keepdim=True)


def left_at(logits: np.ndarray, changes: np.ndarray, temperature: float) -> np.ndarray:
    """KL(softmax(logits / temperature) || ablated) of each token, by definition."""
    tempered, ablated = log_softmax(logits / temperature, -1), log_softmax(logits + changes, -1)
    return (np.exp(tempered) * (tempered - ablated)).sum(-1)


def best(logits: np.ndarray, changes: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Temperature and divergence at the lowest minimum: there may be several, so a fine scan comes first."""

    def left(x: float) -> float:
        return weights @ left_at(logits, changes, np.exp(x)) / weights.sum()

    scan = np.linspace(-3, 3, 49)
    x = scan[np.argmin([left(x) for x in scan])]
    ends = max(x - 0.125, -3), min(x + 0.125, 3)
    found = minimize_scalar(left, bounds=ends, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x)), float(found.fun)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_curves_give_the_divergence_at_every_node(dtype: torch.dtype) -> None:
    logits = some_logits()
    D = some_changes(logits, (1e-3, 0.3))
    F, K, G = chunk_curves(clean_of(logits, dtype), D.to(dtype))
    for s in range(2):
        changes = D[:, s].numpy()
        change = left_at(logits.numpy(), changes, 1.0)
        np.testing.assert_allclose(F[:, s], change, rtol=1e-9 if dtype == torch.float64 else 2e-3)
        for j, eta in enumerate(ETA):
            curve = F[:, s] + eta**2 * K[:, j] - eta * G[:, s, j]
            oracle = left_at(logits.numpy(), changes, 1 / (1 + eta))
            np.testing.assert_allclose(curve, oracle, rtol=1e-8 if dtype == torch.float64 else 2e-3, atol=1e-10)


@pytest.mark.parametrize(("scale", "dtype"), [(3.0, torch.float32), (0.5, torch.float32), (3.0, torch.float64)])
def test_minima_equal_those_over_the_vocabulary(scale: float, dtype: torch.dtype) -> None:
    """For every token, and for all together; changes from tiny to large."""
    logits, sizes, tolerances = some_logits(scale), (1e-3, 0.05, 1.0), (1e-4, 1e-5, 1e-3)
    D = some_changes(logits, sizes)
    sums = TemperatureSums(np.unique(OWNERS), len(sizes))
    clean = clean_of(logits, dtype)
    sums.add(OWNERS, clean, D.to(dtype))
    measured = sums.measures(np.ones((1, DOCUMENTS)))
    F, K, G = chunk_curves(clean, D.to(dtype))
    temperature, left = minimise(F, K[:, None], G)
    ones = np.ones(TOKENS)
    for s in range(len(sizes)):
        changes = D[:, s].numpy()
        change = left_at(logits.numpy(), changes, 1.0)
        oracle = np.array([best(logits[[t]].numpy(), changes[[t]], np.ones(1)) for t in range(TOKENS)])
        assert np.abs(left[:, s] - oracle[:, 1]).max() <= tolerances[s] * change.max()
        usual = np.abs(np.log(oracle[:, 0])) < 1.2  # further out the minimum is flat
        np.testing.assert_allclose(temperature[usual, s], oracle[usual, 0], rtol=1e-6 if sizes[s] < 1 else 0.01)
        one, whole = best(logits.numpy(), changes, ones)
        assert measured["kl_change"][0, s] == pytest.approx(change.mean(), rel=1e-3)
        assert measured["temperature"][0, s] == pytest.approx(one, abs=1e-4)
        assert measured["explained"][0, s] == pytest.approx(1 - whole / change.mean(), abs=1e-3)
        per_token = 1 - oracle[:, 1].mean() / change.mean()
        assert measured["explained_per_token"][0, s] == pytest.approx(per_token, abs=1e-3)
        assert 0 < measured["explained"][0, s] < measured["explained_per_token"][0, s] < 1


@pytest.mark.parametrize("temperature", [0.3, 0.97, 1.0002, 1.4, 6.0])
def test_a_change_of_temperature_is_explained_whole(temperature: float) -> None:
    logits = some_logits()
    clean = clean_of(logits, torch.float32)
    D = (1 / temperature - 1) * logits[:, None]
    D = D - (logits.softmax(-1)[:, None] * D).sum(-1, keepdim=True)
    sums = TemperatureSums(np.unique(OWNERS), 1)
    sums.add(OWNERS, clean, D.float())
    measured = sums.measures(np.ones((1, DOCUMENTS)))
    assert measured["temperature"][0, 0] == pytest.approx(temperature, rel=1e-5 if 0.9 < temperature < 1.1 else 1e-3)
    assert measured["explained"][0, 0] == pytest.approx(1, abs=2e-3)
    assert measured["explained_per_token"][0, 0] == pytest.approx(1, abs=2e-3)


def test_what_no_temperature_can_do() -> None:
    """A change that is uncorrelated with the log-probabilities leaves the best temperature at 1, explaining nothing."""
    logits = some_logits()
    lp = logits.log_softmax(-1)
    p = lp.exp()
    D = some_changes(logits, (1e-3,))[:, 0]
    own = lp - (p * lp).sum(-1, keepdim=True)
    D = D - own * (p * own * D).sum(-1, keepdim=True) / (p * own.square()).sum(-1, keepdim=True)
    sums = TemperatureSums(np.unique(OWNERS), 1)
    sums.add(OWNERS, clean_of(logits, torch.float64), D[:, None])
    measured = sums.measures(np.ones((1, DOCUMENTS)))
    assert measured["temperature"][0, 0] == pytest.approx(1, abs=1e-5)
    assert measured["explained"][0, 0] == pytest.approx(0, abs=1e-4)


def test_resamples_equal_full_refits() -> None:
    """The interval's resamples come from curves; refitted over the vocabulary they are the same."""
    logits = some_logits()
    D = some_changes(logits, (0.2,))
    sums = TemperatureSums(np.unique(OWNERS), 1)
    for part in (slice(0, 7), slice(7, TOKENS)):
        clean = clean_of(logits[part], torch.float32)
        sums.add(OWNERS[part], clean, D[part].float())
    weights = bootstrap_weights(DOCUMENTS, 20, 3)
    measured = sums.measures(weights)
    per_token = weights[:, OWNERS - 10]
    for r in range(len(weights)):
        change = per_token[r] @ left_at(logits.numpy(), D[:, 0].numpy(), 1.0) / per_token[r].sum()
        temperature, left = best(logits.numpy(), D[:, 0].numpy(), per_token[r])
        assert measured["temperature"][r, 0] == pytest.approx(temperature, abs=1e-4)
        assert measured["explained"][r, 0] == pytest.approx(1 - left / change, abs=1e-3)


def test_frame_and_a_set_that_changes_nothing() -> None:
    logits = some_logits()
    D = torch.cat([some_changes(logits, (0.1,)), torch.zeros(TOKENS, 1, VOCAB, dtype=torch.float64)], 1)
    sums = TemperatureSums(np.unique(OWNERS), 2)
    sums.add(OWNERS, clean_of(logits, torch.float32), D.float())
    sets = [NeuronSet("some", "selection", None, (1, 2)), NeuronSet("1.3", "single", None, (3,))]
    frame = temperature_frame(sums, sets, "mean", bootstrap_weights(DOCUMENTS, 200, 0), 0.9)
    assert frame.columns == list(SCHEMAS["temperature"])
    assert frame["n_tokens"].to_list() == [TOKENS, TOKENS]
    first = frame.row(0, named=True)
    for name in ("kl_change", "temperature", "kl_left", "explained", "explained_per_token"):
        assert first[f"{name}_low"] < first[name] < first[f"{name}_high"]
    second = frame.row(1, named=True)
    assert second["kl_change"] == 0
    assert second["explained"] is second["temperature"] is second["explained_low"] is None
    assert frame.select(pl.col("n_documents").unique()).item() == DOCUMENTS
