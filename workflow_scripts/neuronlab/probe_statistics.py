"""How well a classifier does on test tokens: balanced accuracy and AUC, with intervals clustered by document.

Both measures do not depend on how rare the class is. Balanced accuracy is the mean of both classes' recalls, 0.5 for
any answer that ignores the token. The AUC is the share of (positive, negative) pairs of tokens in which the positive
one has the larger score, ties counting half. It is a sum over pairs of documents,

    AUC = sum_ab w_a w_b wins[a, b] / (sum_a w_a positives_a  sum_b w_b negatives_b),

where wins[a, b] counts the pairs won by positives of document a over negatives of b: counted once, it serves every
resample of the documents, whose multiplicities are w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from neuronlab.statistics import Interval, percentile_interval

Array = np.ndarray
DOCUMENTS_PER_TILE = 256  # of the negatives: counts of tile x tokens are held at a time


@dataclass(frozen=True)
class TestSet:
    """What the answers are compared with.

    Attributes:
        labels: whether a token is of the class.
        documents: its document, from 0.
        weights: how often each document occurs in each resample (`statistics.bootstrap_weights`).
        level: nominal coverage of the intervals.
    """

    __test__ = False  # no test of pytest's, whatever its name

    labels: Bool[Array, " tokens"]
    documents: Int[Array, " tokens"]
    weights: Float64[Array, "resamples documents"]
    level: float

    def count(self, which: Bool[Array, " tokens"]) -> Float64[Array, " documents"]:
        """Tokens per document among `which`."""
        return np.bincount(self.documents[which], minlength=self.weights.shape[1]).astype(np.float64)

    def balanced_accuracy(self, answers: Bool[Array, " tokens"]) -> Interval:
        """Mean of both classes' recalls, of one element; NaN where a class is missing."""
        recalls = []
        for label in (True, False):
            members = self.labels == label
            right, all_ = self.count(members & (answers == label)), self.count(members)
            recalls.append(_ratio(np.append(right.sum(), self.weights @ right), all_, self.weights))
        return self._interval((recalls[0] + recalls[1]) / 2)

    def auc(self, scores: Float[Array, " tokens"]) -> Interval:
        """Area under the ROC curve, of one element; NaN where a class is missing."""
        positives, negatives = self.count(self.labels), self.count(~self.labels)
        wins = pairs_won(self.labels, scores, self.documents, self.weights.shape[1])
        won = np.append(wins.sum(), ((self.weights @ wins) * self.weights).sum(axis=1))
        return self._interval(_ratio(_ratio(won, positives, self.weights), negatives, self.weights))

    def _interval(self, values: Float64[Array, " resamples_and_one"]) -> Interval:
        return percentile_interval(values[:1], values[1:, None], self.level, clusters=self.weights.shape[1])


def _ratio(
    values: Float64[Array, " resamples_and_one"],
    counts: Float64[Array, " documents"],
    weights: Float64[Array, "resamples documents"],
) -> Float64[Array, " resamples_and_one"]:
    """Values of the sample and of its resamples, divided by their counts; NaN where those are 0."""
    drawn = np.append(counts.sum(), weights @ counts)
    return values / np.where(drawn > 0, drawn, np.nan)


def pairs_won(
    labels: Bool[Array, " tokens"],
    scores: Float[Array, " tokens"],
    documents: Int[Array, " tokens"],
    n_documents: int,
) -> Float64[Array, "documents documents"]:
    """Pairs of tokens that positives of one document (rows) win over negatives of another (columns).

    A tie is half a pair won. Exact: halves and counts below 2^53.
    """
    _, rank = np.unique(scores, return_inverse=True)
    n_ranks = int(rank.max(initial=-1)) + 1
    order = np.argsort(documents[labels], kind="stable")
    positive_rank = rank[labels][order]
    owners, first = np.unique(documents[labels][order], return_index=True)
    wins = np.zeros((n_documents, n_documents))
    if not len(owners):
        return wins
    for start in range(0, n_documents, DOCUMENTS_PER_TILE):
        stop = min(start + DOCUMENTS_PER_TILE, n_documents)
        inside = ~labels & (documents >= start) & (documents < stop)
        cell = (documents[inside] - start) * n_ranks + rank[inside]
        here = np.bincount(cell, minlength=(stop - start) * n_ranks).reshape(stop - start, n_ranks)
        below = here.cumsum(axis=1) - here / 2
        wins[owners, start:stop] = np.add.reduceat(below[:, positive_rank], first, axis=1).T
    return wins
