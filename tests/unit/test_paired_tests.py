"""Paired t tests over documents, Holm's correction and ranks among controls, against plain loops and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuronlab.paired_tests import control_p, holm, paired_t
from scipy.stats import ttest_1samp


def test_t_is_that_of_the_documents_means() -> None:
    """A document's sequences count once, however many they are; a document without a sequence not at all."""
    rng = np.random.default_rng(0)
    documents = [rng.normal(0.3, 1, (n, 2)) for n in (1, 4, 2, 1, 9)]
    sums = np.stack([*(values.sum(0) for values in documents), np.zeros(2)])
    counts = np.array([*map(len, documents), 0])
    oracle = ttest_1samp(np.stack([values.mean(0) for values in documents]), 0, axis=0)
    found = paired_t(sums, counts)
    np.testing.assert_allclose(found.t, oracle.statistic, rtol=1e-12)
    np.testing.assert_allclose(found.p, oracle.pvalue, rtol=1e-10)
    copied = paired_t(np.concatenate([sums[:1] * 50, sums[1:]]), np.concatenate([counts[:1] * 50, counts[1:]]))
    np.testing.assert_allclose(copied.t, found.t)


def test_t_is_missing_without_a_second_document_or_variance() -> None:
    for sums, counts in (([[3.0]], [2]), ([[3.0], [0.0]], [2, 0]), ([[2.0], [4.0]], [1, 2]), ([[0.0], [0.0]], [1, 2])):
        found = paired_t(np.array(sums), np.array(counts))
        assert np.isnan(found.t).all()
        assert np.isnan(found.p).all()


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(values: list[float]) -> None:
    """Corrected p <= level exactly where the procedure, walked through step by step, rejects."""
    p = np.array(values)
    corrected = holm(p)
    assert (np.isnan(corrected) == np.isnan(p)).all()
    for level in (0.001, 0.05, 0.3, 0.99):
        rejected, left = set(), [i for i in range(len(p)) if not np.isnan(p[i])]
        while left:
            smallest = min(left, key=lambda i: p[i])
            if p[smallest] * len(left) > level:
                break
            rejected.add(smallest)
            left.remove(smallest)
        assert {i for i in range(len(p)) if corrected[i] <= level} == rejected


def test_rank_among_controls_is_by_size_not_by_sign() -> None:
    controls = np.array([-3.0, 0.5, 2.0, -0.1])
    assert control_p(-2.0, controls) == pytest.approx(3 / 5)
    assert control_p(9.0, controls) == pytest.approx(1 / 5)
    assert np.isnan(control_p(1.0, np.array([])))
