"""Intervals by fact: against resampling done by hand, and where they would look too certain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from neuronlab.fact_bootstrap import FactBootstrap, clustered_wilson, divide
from neuronlab.statistics import wilson_interval


def test_division_by_nothing_is_missing() -> None:
    np.testing.assert_array_equal(divide(np.array([1, 0, 0]), np.array([2, 0, 3])), [0.5, np.nan, 0])


def by_hand(bootstrap: FactBootstrap, counted: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """The share in every resample, by laying the prompts of each drawn fact side by side."""
    shares = []
    for weights in bootstrap.weights:
        rows = np.concatenate(
            [np.repeat(np.flatnonzero(bootstrap.fact == fact), int(times)) for fact, times in enumerate(weights)]
        )
        below = eligible[rows].sum()
        shares.append((counted * eligible)[rows].sum() / below if below else np.nan)
    return np.array(shares)


def test_share_resamples_whole_facts() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 40, 120) * 7  # any numbers
    counted, eligible = rng.random(120) < 0.4, rng.random(120) < 0.7
    bootstrap = FactBootstrap.of(clusters, 200, 0.9, 3)
    found = bootstrap.share(counted[:, None], eligible[:, None])
    expected = by_hand(bootstrap, counted, eligible)
    assert found.estimate[0] == pytest.approx(counted[eligible].mean())
    np.testing.assert_allclose([found.low[0], found.high[0]], np.quantile(expected, [0.05, 0.95]))


def test_mean_resamples_whole_facts() -> None:
    rng = np.random.default_rng(1)
    values, fact = rng.normal(size=(30, 2)), np.repeat(np.arange(10), 3)
    bootstrap = FactBootstrap.of(fact, 300, 0.95, 3)
    found = bootstrap.mean(values)
    resampled = np.array(
        [
            values[np.repeat(np.argsort(fact, kind="stable"), np.repeat(w, 3).astype(int))].mean(0)
            for w in bootstrap.weights
        ]
    )
    np.testing.assert_allclose(found.estimate, values.mean(0))
    np.testing.assert_allclose(found.low, np.quantile(resampled, 0.025, axis=0))


@settings(deadline=None)
@given(
    arrays.arrays(bool, 12),
    arrays.arrays(bool, 12),
    arrays.arrays(np.int64, 12, elements=st.integers(0, 4)),
)
def test_intervals_of_shares_stay_between_zero_and_one(
    counted: np.ndarray, eligible: np.ndarray, clusters: np.ndarray
) -> None:
    """B defect 11: percents under a square root gave no interval, or one beyond 100 %."""
    found = FactBootstrap.of(clusters, 60, 0.95, 0).share(counted[:, None], eligible[:, None])
    estimate, low, high = found.estimate[0], found.low[0], found.high[0]
    assert np.isnan(estimate) == (not eligible.any())
    assert np.isnan(low) == np.isnan(high)
    if not np.isnan(low):
        assert 0 <= low <= high <= 1
        assert low <= estimate <= high or 0 < estimate < 1  # a percentile interval need not hold its estimate


def test_share_of_none_or_all_has_an_interval_with_width() -> None:
    """0 of 60 prompts is no certainty; prompts of a fact may agree, so facts are the trials."""
    bootstrap = FactBootstrap.of(np.repeat(np.arange(20), 3), 100, 0.95, 0)
    found = bootstrap.share(np.eye(2)[np.zeros(60, int)], np.ones((60, 2)))
    wide = 1.959964**2 / (20 + 1.959964**2)  # Wilson's end at 0 of 20
    np.testing.assert_allclose([found.low[0], found.high[0]], [1 - wide, 1], rtol=1e-5)
    np.testing.assert_allclose([found.low[1], found.high[1]], [0, wide], rtol=1e-5)


@pytest.mark.parametrize(("like", "trials"), [(True, 30), (False, 90)])
def test_prompts_are_worth_fewer_trials_if_those_of_a_fact_agree(like: bool, trials: int) -> None:
    """Six of 90 prompts: two facts whose prompts all agree are 2 of 30; six facts with one each are 6 of 90."""
    counted = np.zeros((30, 3))
    counted[: 2 if like else 6, : 3 if like else 1] = 1
    found = clustered_wilson(counted.sum(axis=1, keepdims=True), np.full((30, 1), 3.0), 0.95)
    expected = wilson_interval(np.array([6 / 90 * trials]), np.array([float(trials)]), 0.95)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])


def test_single_fact_has_no_interval() -> None:
    bootstrap = FactBootstrap.of(np.zeros(9, int), 50, 0.95, 0)
    for counted in (np.arange(9) < 4, np.zeros(9)):
        found = bootstrap.share(counted[:, None], np.ones((9, 1)))
        assert not np.isnan(found.estimate[0])
        assert np.isnan([found.low[0], found.high[0]]).all()
    assert np.isnan(bootstrap.mean(np.arange(9.0)[:, None]).low[0])


def test_class_of_one_fact_among_many_has_no_interval() -> None:
    """B defect 15: every resample that holds the fact gives the same share, an interval without width."""
    eligible = np.arange(30) < 3
    found = FactBootstrap.of(np.repeat(np.arange(10), 3), 400, 0.95, 0).share(
        (np.arange(30) == 0)[:, None], eligible[:, None]
    )
    assert found.estimate[0] == pytest.approx(1 / 3)
    assert np.isnan(found.low[0])


def test_no_prompt_no_crash() -> None:
    bootstrap = FactBootstrap.of(np.zeros(0, int), 10, 0.95, 0)
    found = bootstrap.share(np.zeros((0, 2)), np.zeros((0, 2)))
    assert bootstrap.n_facts == 0
    assert np.isnan([found.estimate, found.low, found.high]).all()


def test_within_sees_the_same_resamples() -> None:
    fact = np.repeat(np.arange(6), 2)
    bootstrap = FactBootstrap.of(fact, 80, 0.95, 1)
    member = np.isin(fact, [1, 4])
    part = bootstrap.within(member)
    assert part.n_facts == 2
    np.testing.assert_array_equal(part.weights, bootstrap.weights[:, [1, 4]])
    np.testing.assert_array_equal(part.fact, [0, 0, 1, 1])


@pytest.mark.parametrize("share", [0.005, 0.01, 0.05, 0.4])
@pytest.mark.parametrize("likeness", [0.0, 0.9])
def test_intervals_cover_the_truth(share: float, likeness: float) -> None:
    """250 studies of 60 facts with 3 prompts, like one another or not; rare events as ablation's flips are."""
    rng = np.random.default_rng(2)
    facts, studies = np.repeat(np.arange(60), 3), 250
    covered = 0
    for study in range(studies):
        shared, own = rng.random(60) < share, rng.random(180) < share
        counted = np.where(rng.random(180) < likeness, np.repeat(shared, 3), own)[:, None]
        found = FactBootstrap.of(facts, 200, 0.95, study).share(counted, np.ones((180, 1)))
        covered += found.low[0] <= share <= found.high[0]
    assert covered / studies >= 0.9


def test_single_prompts_would_be_too_sure() -> None:
    """The same with every prompt a cluster of its own: what clustering by fact is for (METHODS B defect 11)."""
    rng = np.random.default_rng(3)
    covered = 0
    for study in range(150):
        counted = np.repeat(rng.random(60) < 0.4, 3)[:, None]
        found = FactBootstrap.of(np.arange(180), 200, 0.95, study).share(counted, np.ones((180, 1)))
        covered += found.low[0] <= 0.4 <= found.high[0]
    assert covered / 150 < 0.85
