"""Balanced accuracy and AUC of probes: pairs one by one, documents repeated by hand, scikit-learn's measures."""

from __future__ import annotations

import numpy as np
import pytest
from neuronlab import probe_statistics
from neuronlab.probe_statistics import TestSet, pairs_won
from neuronlab.statistics import bootstrap_weights
from sklearn.metrics import balanced_accuracy_score, roc_auc_score


def made_up(seed: int = 0, n: int = 120, documents: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, and documents in no order."""
    generator = np.random.default_rng(seed)
    labels = generator.random(n) < 0.3
    return labels, generator.integers(0, 12, n) / 4 + 0.5 * labels, generator.integers(0, documents, n)


def test_pairs_are_won_as_counted_one_by_one() -> None:
    labels, scores, documents = made_up()
    expected = np.zeros((7, 7))
    for i in np.flatnonzero(labels):
        for j in np.flatnonzero(~labels):
            won = 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
            expected[documents[i], documents[j]] += won
    np.testing.assert_array_equal(pairs_won(labels, scores, documents, 7), expected)


@pytest.mark.parametrize("tile", [1, 3, 7])
def test_tiles_of_documents_change_nothing(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, documents = made_up(1)
    whole = pairs_won(labels, scores, documents, 7)
    monkeypatch.setattr(probe_statistics, "DOCUMENTS_PER_TILE", tile)
    np.testing.assert_array_equal(pairs_won(labels, scores, documents, 7), whole)


def test_estimates_are_scikit_learns() -> None:
    labels, scores, documents = made_up(2)
    test = TestSet(labels, documents, bootstrap_weights(7, 20, 0), 0.95)
    assert test.auc(scores).estimate[0] == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    answers = scores > 1.5
    expected = balanced_accuracy_score(labels, answers)
    assert test.balanced_accuracy(answers).estimate[0] == pytest.approx(expected, abs=1e-14)


def test_intervals_are_quantiles_over_documents_drawn_by_hand() -> None:
    labels, scores, documents = made_up(3)
    answers, weights = scores > 1.5, bootstrap_weights(7, 200, 5)
    aucs, accuracies = [], []
    for row in weights.astype(int):
        drawn = np.concatenate([np.flatnonzero(documents == d) for d in range(7) for _ in range(row[d])])
        aucs.append(roc_auc_score(labels[drawn], scores[drawn]))
        accuracies.append(balanced_accuracy_score(labels[drawn], answers[drawn]))
    test = TestSet(labels, documents, weights, 0.9)
    for interval, values in ((test.auc(scores), aucs), (test.balanced_accuracy(answers), accuracies)):
        np.testing.assert_allclose([interval.low[0], interval.high[0]], np.quantile(values, [0.05, 0.95]), atol=1e-12)
        assert interval.low[0] < interval.estimate[0] < interval.high[0]


def test_right_answers_are_1_opposite_ones_0_and_one_answer_for_all_half() -> None:
    labels, _, documents = made_up(4)
    test = TestSet(labels, documents, bootstrap_weights(7, 50, 0), 0.95)
    for answers, expected in ((labels, 1.0), (~labels, 0.0), (np.ones_like(labels), 0.5), (np.zeros_like(labels), 0.5)):
        for interval in (test.balanced_accuracy(answers), test.auc(answers.astype(float))):
            assert (interval.estimate[0], interval.low[0], interval.high[0]) == (expected, expected, expected)


def test_a_class_with_one_member_has_an_estimate_and_no_interval() -> None:
    """A third of all resamples lack its document: the ends cannot be told."""
    labels, scores, documents = np.arange(40) == 3, np.arange(40.0), np.arange(40) % 8
    test = TestSet(labels, documents, bootstrap_weights(8, 300, 0), 0.95)
    auc, accuracy = test.auc(scores), test.balanced_accuracy(scores > 9)
    assert auc.estimate[0] == pytest.approx(3 / 39)  # three of the others score less
    assert accuracy.estimate[0] == pytest.approx((0 + 9 / 39) / 2)  # it is not found; nine others are told rightly
    assert np.isnan([auc.low[0], auc.high[0], accuracy.low[0], accuracy.high[0]]).all()


def test_a_class_without_members_has_no_measure() -> None:
    test = TestSet(np.zeros(10, bool), np.arange(10) % 2, bootstrap_weights(2, 10, 0), 0.95)
    for interval in (test.auc(np.arange(10.0)), test.balanced_accuracy(np.ones(10, bool))):
        assert np.isnan([interval.estimate[0], interval.low[0], interval.high[0]]).all()


def test_one_document_has_no_interval() -> None:
    labels, scores, _ = made_up(5)
    test = TestSet(labels, np.zeros(len(labels), int), bootstrap_weights(1, 10, 0), 0.95)
    assert test.auc(scores).estimate[0] == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(test.auc(scores).low[0])


def test_intervals_widen_with_the_likeness_of_a_documents_tokens() -> None:
    """All tokens of a document are right or wrong together: as wide as that of so many documents, not tokens."""
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(40), 50)
    labels = np.tile(np.arange(50) % 2 == 0, 40)
    right = np.repeat(generator.random(40) < 0.7, 50)
    together = TestSet(labels, documents, bootstrap_weights(40, 2000, 0), 0.95).balanced_accuracy(labels == right)
    apart = TestSet(labels, np.arange(2000), bootstrap_weights(2000, 500, 0), 0.95).balanced_accuracy(labels == right)
    width = 2 * 1.96 * np.sqrt(0.7 * 0.3 / 40)
    assert together.high[0] - together.low[0] == pytest.approx(width, rel=0.2)
    assert apart.high[0] - apart.low[0] == pytest.approx(width / np.sqrt(50), rel=0.2)
