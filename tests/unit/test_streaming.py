"""Streaming descriptions against numpy and scipy on the whole array."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from neuronlab import streaming

FEW = settings(max_examples=40, deadline=None)
ARRAYS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 60), st.integers(1, 4)),
    # A grid of 1e-3: spreads below it are either exactly zero or well inside the range of float64.
    elements=st.integers(-100_000, 100_000).map(lambda n: n / 1000),
)


def stream(values: np.ndarray, accumulator, cuts: list[int]):
    for part in np.split(values, sorted(c % (len(values) + 1) for c in cuts)):
        accumulator.update(part)
    return accumulator


@FEW
@given(ARRAYS, st.lists(st.integers(0, 100), max_size=5))
def test_moments_equal_scipy_on_the_whole_array(values, cuts):
    moments = stream(values, streaming.Moments(values.shape[1]), cuts)
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.sd, values.std(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(moments.min, values.min(axis=0))
    np.testing.assert_array_equal(moments.max, values.max(axis=0))
    for column in range(values.shape[1]):
        if np.ptp(values[:, column]) == 0:
            assert np.isnan(moments.skew[column])
            assert np.isnan(moments.kurtosis[column])
        else:
            np.testing.assert_allclose(moments.skew[column], scipy.stats.skew(values[:, column]), rtol=1e-8, atol=1e-8)
            expected = scipy.stats.kurtosis(values[:, column], fisher=False)
            np.testing.assert_allclose(moments.kurtosis[column], expected, rtol=1e-8)


@FEW
@given(ARRAYS, ARRAYS)
def test_merging_two_accumulators_equals_one(first, second):
    width = min(first.shape[1], second.shape[1])
    first, second = first[:, :width], second[:, :width]
    merged, other = streaming.Moments(width), streaming.Moments(width)
    merged.update(first)
    other.update(second)
    merged.merge(other)
    whole = np.concatenate([first, second])
    np.testing.assert_allclose(merged.m4, ((whole - whole.mean(axis=0)) ** 4).sum(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged.m3, ((whole - whole.mean(axis=0)) ** 3).sum(axis=0), rtol=1e-9, atol=1e-6)


def test_half_precision_input_does_not_overflow():
    """Study B's standard deviations of float16 activations are infinite (METHODS B defect 2)."""
    values = np.random.default_rng(0).normal(size=(300_000, 1)).astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(values.std())
    moments = streaming.Moments(1)
    moments.update(values)
    np.testing.assert_allclose(moments.sd, values.astype(np.float64).std(axis=0), rtol=1e-12)


def test_a_large_mean_does_not_cancel():
    values = np.random.default_rng(1).normal(size=(1000, 2)) + 1e7
    moments = stream(values, streaming.Moments(2), [10, 500, 501])
    np.testing.assert_allclose(moments.sd, values.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(moments.kurtosis, scipy.stats.kurtosis(values, fisher=False), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_moments_refuse_what_is_not_finite(bad):
    with pytest.raises(streaming.StreamingError, match="NaN or infinity"):
        streaming.Moments(2).update(np.array([[0.0, bad]]))


def test_moments_without_values_say_so():
    moments = streaming.Moments(2)
    moments.update(np.empty((0, 2)))
    with pytest.raises(streaming.StreamingError, match="no counted token"):
        _ = moments.sd
    with pytest.raises(streaming.StreamingError, match=r"shape \[items, 2\]"):
        moments.update(np.zeros((3, 4)))


@FEW
@given(ARRAYS, st.integers(1, 40), st.lists(st.integers(0, 100), max_size=4))
def test_histogram_equals_numpy(values, n_bins, cuts):
    histogram = stream(values, streaming.Histogram(values.min(axis=0), values.max(axis=0), n_bins), cuts)
    np.testing.assert_array_equal(histogram.counts.sum(axis=1), len(values))
    edges = np.linspace(values.min(axis=0), values.max(axis=0), n_bins + 1).T
    for column, counts in enumerate(histogram.counts):
        low, high = edges[column, 0], edges[column, -1]
        if low == high:
            assert histogram.mode[column] == low
            continue
        # Values on an edge may fall on either side of it by rounding: compare away from edges.
        position = (values[:, column] - low) / (high - low) * n_bins
        if (np.abs(position - position.round()) < 1e-9)[(position > 1e-9) & (position < n_bins - 1e-9)].any():
            continue
        np.testing.assert_array_equal(counts, np.histogram(values[:, column], bins=n_bins, range=(low, high))[0])
        fullest = counts.argmax()
        np.testing.assert_allclose(histogram.mode[column], edges[column, fullest : fullest + 2].mean(), atol=1e-9)


@FEW
@given(ARRAYS, st.integers(1, 20), st.integers(1, 20), st.lists(st.integers(0, 100), max_size=4))
def test_median_within_its_resolution(values, n_bins, n_fine, cuts):
    histogram = stream(values, streaming.Histogram(values.min(axis=0), values.max(axis=0), n_bins), [])
    search = stream(values, streaming.MedianSearch(histogram, n_fine), cuts)
    error = np.abs(search.median - np.median(values, axis=0))
    assert (error <= search.resolution * (1 + 1e-6) + 1e-9).all()


def test_median_of_two_far_halves():
    """The two middle values of an even count lie in bins far apart."""
    values = np.array([[0.0], [1.0], [9.0], [10.0]])
    histogram = stream(values, streaming.Histogram(values.min(axis=0), values.max(axis=0), 10), [])
    search = stream(values, streaming.MedianSearch(histogram, 100), [])
    assert abs(search.median[0] - 5.0) <= search.resolution[0] * (1 + 1e-9) < 0.0051


def test_passes_over_other_data_are_noticed():
    histogram = streaming.Histogram(np.zeros(1), np.ones(1), 4)
    histogram.update(np.array([[0.1], [0.6], [0.7]]))
    with pytest.raises(streaming.StreamingError, match="outside the range"):
        histogram.update(np.array([[2.0]]))
    search = streaming.MedianSearch(histogram)
    search.update(np.array([[0.1]]))
    with pytest.raises(streaming.StreamingError, match="other activations"):
        _ = search.median


def test_position_means_leave_uncounted_positions_out():
    values = np.array([[[1.0], [2.0], [np.inf]], [[3.0], [4.0], [5.0]]])
    counted = np.array([[True, False, False], [True, True, False]])
    means = streaming.PositionMeans(3, 1)
    means.update(values, counted)
    np.testing.assert_array_equal(means.means, [[2.0], [4.0], [np.nan]])
    np.testing.assert_array_equal(means.counts, [2, 1, 0])
