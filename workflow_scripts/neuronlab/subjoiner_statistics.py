"""Which heads join the tokens of a word: means over pairs of a word and its one-token partner (METHODS C5).

The score of a head is the mean over pairs of the word's attention minus its partner's. Heads that always attend to the
previous tokens score near 0.

Intervals resample documents. The p-value exchanges word and partner within pairs: the sign of a difference flips, of
all pairs of a document together, since these are not independent of one another. It is two-sided, and there are enough
flips for Holm's correction over all heads of a large model to leave something to find. With one document there is
nothing to resample or to flip, and both are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from neuronlab.multi_token_words import Pair
from neuronlab.paired_tests import holm
from neuronlab.statistics import bootstrap_weights, clustered_interval

Array = np.ndarray
ALL = 0  # `pieces` of the rows over all words
FLIPS_PER_HEAD, MOST_FLIPS = 100, 200_000  # the smallest p, times the heads, is 0.01 (up to 2,000 heads)
FLIPS_AT_ONCE = 4096


@dataclass(frozen=True)
class Attention:
    """Attention of the last token to the k - 1 before it, added up, of all heads; pairs as they were given."""

    word: Float[Array, "pairs layer head"]
    single: Float[Array, "pairs layer head"]


def summarise(attention: Attention, pairs: Sequence[Pair], resamples: int, level: float, seed: int) -> pl.DataFrame:
    """The table "subjoiners": all heads, for all words together and for each number of tokens."""
    pieces = np.array([pair.pieces for pair in pairs])
    documents = np.array([pair.document for pair in pairs])
    frames = []
    for k in (ALL, *np.unique(pieces).tolist()):
        some = np.flatnonzero((pieces == k) | (k == ALL))
        frames.append(summarise_words(attention, some, documents[some], k, resamples, level, seed))
    return pl.concat(frames)


def summarise_words(
    attention: Attention,
    some: Int[Array, " words"],
    documents: Int[Array, " words"],
    pieces: int,
    resamples: int,
    level: float,
    seed: int,
) -> pl.DataFrame:
    """The rows of one number of tokens; every word weighs the same."""
    n_layers, n_heads = attention.word.shape[1:]
    unique, which = np.unique(documents, return_inverse=True)
    word, single = (
        sums_by(which, len(unique), values[some].reshape(len(some), -1))
        for values in (attention.word, attention.single)
    )
    weights, counts = bootstrap_weights(len(unique), resamples, seed), np.bincount(which)
    layer, head = np.divmod(np.arange(n_layers * n_heads), n_heads)
    columns = {}
    for name, sums in (("attention_word", word), ("attention_single", single), ("score", word - single)):
        interval = clustered_interval(sums, counts, weights, level)
        columns |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    p_values = flip_p_values(word - single, max(resamples, FLIPS_PER_HEAD * len(layer)), seed)
    return pl.DataFrame(
        {
            "layer": layer,
            "head": head,
            "pieces": np.full(len(layer), pieces),
            "n_words": np.full(len(layer), len(some)),
            "n_single": np.full(len(layer), len(some)),
            **columns,
            "p_value": p_values,
            "p_value_holm": holm(p_values),
        },
        nan_to_null=True,
    )


def sums_by(
    which: Int[Array, " rows"], documents: int, values: Float[Array, "rows columns"]
) -> Float[Array, "documents columns"]:
    """Sums over the rows of every document, float64."""
    sums = np.zeros((documents, values.shape[1]))
    np.add.at(sums, which, values)
    return sums


def flip_p_values(sums: Float[Array, "documents heads"], flips: int, seed: int) -> Float[Array, " heads"]:
    """Two-sided p = (1+b)/(1+n): b of n flips of the documents' signs have a |total| at least as large.

    Args:
        sums: a document's sum of the differences within its pairs.
        flips: how many, at most `MOST_FLIPS`; the same for all heads.

    Returns:
        Missing for a single document.
    """
    n, flips = len(sums), min(flips, MOST_FLIPS)
    if n < 2:
        return np.full(sums.shape[1], np.nan)
    generator = np.random.default_rng([seed, 0x464C49])
    # The flip that changes nothing gives the observed total but for rounding, and counts.
    observed = np.abs(sums.sum(0)) - 1e-12 * np.abs(sums).sum(0)
    extreme = np.zeros(sums.shape[1], dtype=np.int64)
    for start in range(0, flips, FLIPS_AT_ONCE):
        signs = 2.0 * generator.integers(0, 2, (min(FLIPS_AT_ONCE, flips - start), n)) - 1
        extreme += (np.abs(signs @ sums) >= observed).sum(0)
    return (1 + extreme) / (1 + flips)


def best_head(frame: pl.DataFrame) -> tuple[int, int]:
    """Layer and head of the highest score over all words; the first of equals."""
    rows = frame.filter(pl.col("pieces") == ALL).sort("score", descending=True, maintain_order=True)
    return int(rows["layer"][0]), int(rows["head"][0])
