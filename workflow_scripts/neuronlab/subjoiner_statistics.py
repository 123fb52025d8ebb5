"""Which heads join the tokens of a word: means over pairs of a word and its one-token partner (METHODS C5).

The score of a head is the mean over pairs of the word's attention minus its partner's. Heads that always attend to the
previous tokens score near 0.

The best heads of hundreds are best by chance as well: a score that chose a head says too much about it. So documents
are halved (METHODS 0.6): heads are chosen by the words of one half, and what is shown of them is of the other half.

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
from jaxtyping import Bool, Float, Int

from neuronlab.document_halves import split_documents
from neuronlab.multi_token_words import Pair
from neuronlab.paired_tests import holm
from neuronlab.statistics import bootstrap_weights, clustered_interval

Array = np.ndarray
ALL = 0  # `pieces` of the rows over all words
EVERY, SELECTION, REPORT = HALVES = ("all", "selection", "report")
FLIPS_PER_HEAD, MOST_FLIPS = 100, 200_000  # the smallest p, times the heads, is 0.01 (up to 2,000 heads)
FLIPS_AT_ONCE = 4096


@dataclass(frozen=True)
class Attention:
    """Attention of the last token to the k - 1 before it, added up, of all heads; pairs as they were given."""

    word: Float[Array, "pairs layer head"]
    single: Float[Array, "pairs layer head"]


def halves_of(pairs: Sequence[Pair], seed: int) -> dict[str, Bool[Array, " pairs"]]:
    """Which pairs belong to each half of the documents; those of a single document have no halves."""
    documents = np.array([pair.document for pair in pairs])
    found = {EVERY: np.ones(len(pairs), dtype=bool)}
    if len(unique := np.unique(documents)) > 1:
        for half, own in zip((SELECTION, REPORT), split_documents(unique, seed), strict=True):
            found[half] = np.isin(documents, own)
    return found


def summarise(attention: Attention, pairs: Sequence[Pair], resamples: int, level: float, seed: int) -> pl.DataFrame:
    """The table "subjoiners": all heads, for all words together and for each number of tokens, by half."""
    pieces = np.array([pair.pieces for pair in pairs])
    documents = np.array([pair.document for pair in pairs])
    frames = []
    for half, own in halves_of(pairs, seed).items():
        for k in (ALL, *np.unique(pieces[own]).tolist()):
            some = np.flatnonzero(own & ((pieces == k) | (k == ALL)))
            frame = summarise_words(attention, some, documents[some], k, resamples, level, seed)
            frames.append(frame.with_columns(half=pl.lit(half)))
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
    """Layer and head of the highest score over the words of the half that chooses; the first of equals."""
    half = SELECTION if SELECTION in frame["half"] else EVERY
    rows = frame.filter(pl.col("pieces") == ALL, pl.col("half") == half)
    rows = rows.sort("score", descending=True, maintain_order=True)
    return int(rows["layer"][0]), int(rows["head"][0])
