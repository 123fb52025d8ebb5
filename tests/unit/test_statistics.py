"""Intervals against explicit resampling and scipy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab import statistics as stats

FEW = settings(max_examples=40, deadline=None)


def test_bootstrap_weights_draw_with_replacement():
    weights = stats.bootstrap_weights(7, 4000, seed=3)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(weights.var(axis=0), 6 / 7, rtol=0.1)  # binomial(7, 1/7)
    np.testing.assert_array_equal(weights, stats.bootstrap_weights(7, 4000, seed=3))
    assert (weights != stats.bootstrap_weights(7, 4000, seed=4)).any()


def clusters(seed: int = 0, n: int = 25, columns: int = 3):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 30, n)
    tokens = [generator.gamma(2.0, size=(c, columns)) + generator.normal() ** 2 for c in counts]
    return tokens, np.stack([t.sum(axis=0) for t in tokens]), counts


def test_clustered_interval_equals_resampling_the_tokens():
    tokens, sums, counts = clusters()
    weights = stats.bootstrap_weights(len(counts), 50, seed=5)
    interval = stats.clustered_interval(sums, counts, weights, level=0.8)
    means = []
    for row in weights.astype(int):
        drawn = [t for t, times in zip(tokens, row, strict=True) for _ in range(times)]
        means.append(np.concatenate(drawn).mean(axis=0))
    np.testing.assert_allclose(interval.estimate, np.concatenate(tokens).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(interval.low, np.percentile(means, 10, axis=0), rtol=1e-12)
    np.testing.assert_allclose(interval.high, np.percentile(means, 90, axis=0), rtol=1e-12)


def test_clustered_interval_agrees_with_scipy():
    _, sums, counts = clusters(columns=1)
    ours = stats.clustered_interval(sums, counts, stats.bootstrap_weights(len(counts), 20_000, seed=1))
    theirs = scipy.stats.bootstrap(
        (sums[:, 0], counts),
        lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low[0] - theirs.low) < 0.04 * width
    assert abs(ours.high[0] - theirs.high) < 0.04 * width


def test_columns_beyond_a_tile(monkeypatch):
    _, sums, counts = clusters(columns=7)
    weights = stats.bootstrap_weights(len(counts), 40, seed=5)
    whole = stats.clustered_interval(sums.reshape(25, 7), counts, weights)
    monkeypatch.setattr(stats, "COLUMNS_PER_TILE", 2)
    tiled = stats.clustered_interval(sums.reshape(25, 7, 1), counts, weights)
    assert tiled.low.shape == (7, 1)
    np.testing.assert_allclose(tiled.low[:, 0], whole.low, rtol=1e-12)


def test_te_and_de_are_resampled_together():
    """DE is half of TE in every document, so M is one half in every resample, however TE varies."""
    _, sums, counts = clusters()
    weights = stats.bootstrap_weights(len(counts), 100, seed=5)
    interval = stats.clustered_function_interval(
        lambda te, de: stats.mediated_fraction(te, de, 1e-9), (sums, sums / 2), counts, weights
    )
    for values in (interval.estimate, interval.low, interval.high):
        np.testing.assert_allclose(values, 0.5, rtol=1e-12)


def test_m_is_missing_below_the_floor():
    _, sums, counts = clusters()
    sums = sums * np.array([1.0, 1e-12, 1.0])
    weights = stats.bootstrap_weights(len(counts), 100, seed=5)
    interval = stats.clustered_function_interval(
        lambda te, de: stats.mediated_fraction(te, de, 1e-6), (sums, sums), counts, weights
    )
    for values in (interval.estimate, interval.low, interval.high):
        np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    assert np.isnan(stats.mediated_fraction(np.array([0.0]), np.array([0.0]), 0.0)).all()


def test_interval_is_missing_where_many_resamples_are():
    """One document carries all of TE: a third of the resamples lack it, so an end of the interval is unknown."""
    sums = np.zeros((3, 1))
    sums[0] = 1.0
    counts, weights = np.ones(3), stats.bootstrap_weights(3, 500, seed=0)
    interval = stats.clustered_function_interval(
        lambda te, de: stats.mediated_fraction(te, de, 0.01), (sums, sums / 4), counts, weights
    )
    assert interval.estimate[0] == 0.75
    assert np.isnan(interval.low[0])
    # An empty document among many: the few resamples without a token are left out.
    counts = np.array([0] * 3 + [1] * 3)
    sums = counts[:, None] * 2.0
    interval = stats.clustered_interval(sums, counts, stats.bootstrap_weights(6, 500, seed=0))
    assert interval.low[0] == interval.high[0] == 2.0


def test_one_document_gives_no_interval():
    interval = stats.clustered_interval(np.ones((1, 2)), np.array([3]), stats.bootstrap_weights(1, 10, seed=0))
    np.testing.assert_allclose(interval.estimate, 1 / 3)
    assert np.isnan(interval.low).all()
    assert np.isnan(interval.high).all()


@pytest.mark.parametrize(
    ("sums", "counts", "level", "message"),
    [
        (np.ones((3, 2)), np.ones(4), 0.95, "do not fit"),
        (np.ones((3, 2)), np.ones(3), 1.0, "between 0 and 1"),
        (np.ones((3, 2)), np.zeros(3), 0.95, "no counted token"),
        (np.ones((2, 2)), np.ones(2), 0.95, "weights are for 3"),
    ],
)
def test_clustered_interval_refuses(sums, counts, level, message):
    with pytest.raises(stats.StatisticsError, match=message):
        stats.clustered_interval(sums, counts, stats.bootstrap_weights(3, 10, seed=0), level)


@FEW
@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(successes, n, level):
    successes = min(successes, n)
    expected = scipy.stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    interval = stats.wilson_interval(np.array([successes]), np.array([n]), level)
    np.testing.assert_allclose([interval.low[0], interval.high[0]], [expected.low, expected.high], atol=1e-12)


def test_wilson_without_trials_is_missing():
    interval = stats.wilson_interval(np.array([0, 0]), np.array([0, 5]))
    np.testing.assert_array_equal(np.isnan(interval.estimate), [True, False])
    assert interval.low[1] == 0.0
    assert interval.high[1] > 0.3
    with pytest.raises(stats.StatisticsError, match="successes"):
        stats.wilson_interval(np.array([3]), np.array([2]))


def test_rank_p_value():
    controls = np.arange(99.0)
    assert stats.rank_p_value(1000.0, controls) == 0.01
    assert stats.rank_p_value(-1.0, controls) == 1.0
    assert stats.rank_p_value(98.0, controls) == 0.02  # a tie counts against
    assert stats.rank_p_value(-1.0, controls, "less") == 0.01
    np.testing.assert_allclose(stats.rank_p_value(np.array([0.5, 98.5]), np.stack([controls] * 2)), [0.99, 0.01])
    for bad in (np.empty(0), np.array([np.nan])):
        with pytest.raises(stats.StatisticsError, match="at least one control"):
            stats.rank_p_value(1.0, bad)
    with pytest.raises(stats.StatisticsError, match="alternative"):
        stats.rank_p_value(1.0, controls, "both")


def test_rank_p_value_is_uniform_under_the_null():
    draws = np.random.default_rng(0).normal(size=(4000, 20))
    p = stats.rank_p_value(draws[:, 0], draws[:, 1:])
    assert scipy.stats.chisquare(np.bincount((p * 20).round().astype(int))[1:]).pvalue > 0.001


def test_percentile_interval_of_a_statistic_resampled_elsewhere() -> None:
    """The same ends as `clustered_interval` gives for a mean; missing for one cluster, and where the estimate is."""
    generator = np.random.default_rng(5)
    sums, counts = generator.normal(size=(12, 3)), generator.integers(1, 9, 12)
    weights = stats.bootstrap_weights(12, 300, 1)
    oracle = stats.clustered_interval(sums, counts, weights, 0.9)
    resampled = weights @ sums / (weights @ counts)[:, None]
    found = stats.percentile_interval(sums.sum(0) / counts.sum(), resampled, 0.9, clusters=12)
    np.testing.assert_allclose(found.low, oracle.low)
    np.testing.assert_allclose(found.high, oracle.high)
    assert np.isnan(stats.percentile_interval(oracle.estimate, resampled, 0.9, clusters=1).low).all()
    missing = stats.percentile_interval(np.array([1.0, np.nan, 2.0]), resampled, 0.9, clusters=12)
    assert np.isnan(missing.high).tolist() == [False, True, False]
    for level, shape in ((1.0, (300, 3)), (0.9, (300, 2))):
        with pytest.raises(stats.StatisticsError):
            stats.percentile_interval(oracle.estimate, np.zeros(shape), level, clusters=12)
