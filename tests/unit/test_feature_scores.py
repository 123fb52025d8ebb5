"""Scores of (neuron, feature) pairs by sums of powers, against one call of scipy.stats per pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neuronlab.feature_scores import FeatureError, central, logit_effects, power_sums, score, shape
from scipy import stats

D, TOKENS, NEURONS = 12, 400, 9


@pytest.fixture(scope="module")
def problem():
    """Heavy-tailed effects: a few tokens have columns far from the others; features from 2 tokens to all but 2."""
    generator = np.random.default_rng(3)
    W = generator.normal(size=(D, TOKENS))
    W[:, :6] *= 15.0
    W[:, 200:240] += 2.0
    w = generator.normal(size=(NEURONS, D)) * 10.0 ** generator.integers(-3, 3, size=(NEURONS, 1))
    has = generator.random((TOKENS, 6)) < [0.5, 0.1, 0.9, 0.0, 0.0, 0.0]
    has[200:240, 3] = True
    has[[2, 7], 4] = True
    has[:-2, 5] = True
    return torch.from_numpy(w), torch.from_numpy(W), has


def oracle(effects, member):
    """What the columns mean, from a pair's two groups by scipy.stats."""
    inside, outside = effects[member], effects[~member]
    test = stats.ttest_ind(inside, outside, equal_var=False)
    n, rest = len(inside), len(outside)
    pooled = ((n - 1) * inside.var(ddof=1) + (rest - 1) * outside.var(ddof=1)) / (n + rest - 2)
    within = (n * inside.var() + rest * outside.var()) / (n + rest)
    excess = stats.kurtosis(effects)
    return {
        "mean_feature": inside.mean(),
        "mean_rest": outside.mean(),
        "difference": inside.mean() - outside.mean(),
        "effect_size": (inside.mean() - outside.mean()) / np.sqrt(pooled),
        "t": test.statistic,
        "p_value": test.pvalue,
        "variance_reduction": 1 - within / effects.var(),
        "skew_reduction": 1 - abs(stats.skew(inside)) / abs(stats.skew(effects)),
        "kurtosis_reduction": 1 - stats.kurtosis(inside) / excess if excess > 0 else np.nan,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tiles", [{}, {"neurons_per_tile": 4, "tokens_per_tile": 37}])
def test_every_measure_against_scipy(problem, dtype, tiles):
    w, W, has = problem
    w, W = w.to(dtype), W.to(dtype)
    scores = score(power_sums(w, W, has, **tiles))
    effects = w.double().numpy() @ W.double().numpy()
    for neuron in range(NEURONS):
        for feature in range(has.shape[1]):
            expected = oracle(effects[neuron], has[:, feature])
            for name, value in expected.items():
                found = getattr(scores, name)[neuron, feature]
                assert found == pytest.approx(value, rel=1e-9, abs=1e-11, nan_ok=True), (name, neuron, feature)


def test_logit_effects_are_the_product(problem):
    w, W, _ = problem
    np.testing.assert_allclose(logit_effects(w.float(), W.float()), w.float().double() @ W.float().double(), rtol=1e-12)


def test_a_feature_far_from_all_other_tokens_keeps_its_variance():
    """Groups 10,000 standard deviations apart, the mean of all between them: the variances survive the subtraction."""
    generator = np.random.default_rng(0)
    effects = generator.normal(size=300)
    member = np.arange(300) < 30
    effects[member] += 1e4
    scores = score(power_sums(torch.ones(1, 1), torch.from_numpy(effects)[None], member[:, None]))
    expected = oracle(effects, member)
    assert scores.t[0, 0] == pytest.approx(expected["t"], rel=1e-6)
    assert scores.effect_size[0, 0] == pytest.approx(expected["effect_size"], rel=1e-6)
    assert scores.difference[0, 0] == pytest.approx(expected["difference"], rel=1e-12)


def test_d_defect_3_precedence_of_skewness_and_kurtosis():
    """z is (x - mean) / sd. Taken as x - mean / sd, a shifted Gaussian would have the moments of something else."""
    values = 5 + 2 * np.random.default_rng(1).normal(size=2000)
    sums = np.array([[(values**k).sum()] for k in (1, 2, 3, 4)])
    skew, excess = shape(central(sums, len(values)), len(values))
    assert skew[0] == pytest.approx(stats.skew(values), abs=1e-9)
    assert excess[0] == pytest.approx(stats.kurtosis(values), abs=1e-9)
    wrong = values - values.mean() / values.std()
    assert abs((wrong**3).mean() - stats.skew(values)) > 1


def test_groups_that_do_not_vary_have_no_t_and_no_shape():
    effects = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    has = np.array([[1, 1], [1, 1], [1, 0], [0, 0], [0, 1], [0, 1]], dtype=bool)
    scores = score(power_sums(torch.full((1, 1), 0.1), torch.from_numpy(effects)[None], has))
    assert scores.difference[0, 0] == pytest.approx(-0.2)
    for name in ("effect_size", "t", "p_value", "skew_reduction", "kurtosis_reduction"):
        assert np.isnan(getattr(scores, name)[0, 0]), name
    assert scores.variance_reduction[0, 0] == pytest.approx(1)
    assert scores.t[0, 1] == pytest.approx(stats.ttest_ind([1, 1, 3, 3], [1, 3], equal_var=False).statistic)


def test_one_group_without_variance_is_still_tested():
    effects = np.array([0.3, 0.3, 0.3, 1.0, 2.0, 4.0])
    member = np.arange(6) < 3
    scores = score(power_sums(torch.full((1, 1), 0.7), torch.from_numpy(effects)[None], member[:, None]))
    error = np.var(0.7 * effects[3:], ddof=1) / 3
    assert scores.t[0, 0] == pytest.approx((0.21 - 0.7 * 7 / 3) / np.sqrt(error))
    assert scores.p_value[0, 0] == pytest.approx(2 * stats.t.sf(abs(scores.t[0, 0]), 2))


@pytest.mark.parametrize("member", [[True, False, False, False], [True, True, True, False]])
def test_groups_of_one_token_are_refused(member):
    sums = power_sums(torch.ones(1, 1), torch.arange(4.0)[None], np.array(member)[:, None])
    with pytest.raises(FeatureError, match="two tokens"):
        score(sums)


def test_no_neurons_no_rows():
    scores = score(power_sums(torch.ones(0, 3), torch.ones(3, 6), np.arange(6)[:, None] < 3))
    assert scores.p_value.shape == (0, 1)
