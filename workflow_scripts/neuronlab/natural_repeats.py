"""Sequences in which a text repeats a stretch of tokens by itself (METHODS A5): the table "repeats", as in `repeats`.

... p[0] ... p[n-1] B ...       ... p[0] ... p[n-1] X ...      offset -n at p[0], -1 at p[n-1], 0 at B and at X

A model that copies predicts B at the end of the second prefix, offset -1; whether it is B that follows is `continues`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from neuronlab.documents import TextSpec, read_documents
from neuronlab.model_files import ModelSpec
from neuronlab.repeats import OUTSIDE, RepeatError, empty_table, ordinary_ids
from neuronlab.tables import Provenance, write_table
from neuronlab.texts import Sequences, cut_sequences, opening_token, token_stream
from neuronlab.vocabulary import load_vocabulary

Array = np.ndarray
UNDECODABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Occurrences:
    """A stretch of n tokens that occurs twice in a sequence.

    Attributes:
        first, second: positions of the first token of each occurrence.
    """

    first: int
    second: int


def find_repeats(
    *,
    model: ModelSpec,
    text: TextSpec,
    documents: str | Path,
    repeats: str | Path,
    prefix: int = 6,
    min_distance: int = 2,
    after: int = 4,
    sequences: int = 1000,
    across_documents: bool = False,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Rule `find_repeats`: write repeats.parquet with stretches that a text repeats by itself (METHODS A5).

    All documents are tokenised and cut as in `texts.py`. In each sequence the earliest stretch that `repeated_stretch`
    finds is used; both occurrences lie in one document, unless `across_documents` (study A drops sequences that hold
    more than one document). An occurrence's window holds its prefix, the token that follows and up to `after` more;
    both windows are cut alike where the first would run into the second occurrence, or the second over the end of the
    sequence.
    A row's `document` is that of the second prefix's last token, where the continuation is predicted.

    Args:
        documents: file of the text's documents.
        prefix: tokens of the repeated stretch.
        min_distance: smallest number of tokens between the end of the first and the start of the second occurrence.
        after: places after the continuation.
        sequences: how many at most, drawn by the seed among those with a repeated stretch, in the order of the text.

    With fewer than two such sequences the table is empty, and a warning says so.

    Raises:
        RepeatError: if two occurrences do not fit into a sequence.
        TextError: see `texts.tokenize_text`.
    """
    vocabulary = load_vocabulary(model)
    bos = opening_token(vocabulary, text, model)
    room, needed = text.sequence_length - (bos is not None), 2 * prefix + min_distance + 1
    if needed > room:
        raise RepeatError(
            f"induction.natural.prefix is {prefix}: two occurrences with min_distance {min_distance} and a token after "
            f"them need {needed} tokens, but {text.where}.sequence_length {text.sequence_length} leaves room for "
            f"{room}; lower prefix or min_distance, or lengthen the sequences"
        )
    stream, owners = token_stream(read_documents(documents, text), vocabulary, text)
    cut = cut_sequences(stream, owners, text.sequence_length, bos)
    allowed = ordinary_ids(vocabulary)
    allowed[list(vocabulary.newline_token_ids)] = False
    allowed[undecodable_ids(vocabulary.tokenizer, np.unique(stream))] = False
    found = draw_repeated(
        cut,
        allowed,
        prefix=prefix,
        min_distance=min_distance,
        sequences=sequences,
        across_documents=across_documents,
        seed=seed,
    )
    looked_at = f"{len(cut.tokens)} sequences of {text.where}"
    if len(found) < 2:
        warnings.warn(
            f"induction.natural: {len(found)} of {looked_at} repeat a stretch of {prefix} tokens; at least 2 are "
            "needed, so the table is empty and nothing is measured; lower prefix or min_distance, use more text, or "
            "let repetitions span documents (across_documents)",
            stacklevel=2,
        )
        found = {}
    rows = [natural_row(cut, s, pair, prefix=prefix, after=after) for s, pair in found.items()]
    frame = pl.DataFrame(
        [{"sequence": i, **row} for i, row in enumerate(rows)], schema=empty_table().schema, orient="row"
    )
    continuing = int(frame["continues"].sum())
    print(
        f"find_repeats: {len(rows)} sequences (at most {sequences}) with a repeated stretch of {prefix} tokens, of "
        f"{looked_at}; in {continuing} of them the second occurrence goes on as the first",
        file=sys.stderr,
    )
    write_table(frame, repeats, "repeats", provenance)


def undecodable_ids(tokenizer: PreTrainedTokenizerBase, ids: Int[Array, " ids"]) -> list[int]:
    """Those ids that decode to a string with U+FFFD: pieces of characters."""
    strings = tokenizer.batch_decode([[int(i)] for i in ids])
    return [int(i) for i, string in zip(ids, strings, strict=True) if UNDECODABLE in string]


def draw_repeated(
    cut: Sequences,
    allowed: Bool[Array, " vocab"],
    *,
    prefix: int,
    min_distance: int,
    sequences: int,
    across_documents: bool,
    seed: int,
) -> dict[int, Occurrences]:
    """At most `sequences` sequences with a repeated stretch, uniform among all of them, in the order of the text.

    Sequences are looked at in an order drawn by the seed until enough are found: the rest of a large text is spared.
    """
    found: dict[int, Occurrences] = {}
    for s in np.random.default_rng(seed).permutation(len(cut.tokens)).tolist():
        if len(found) == sequences:
            break
        row = cut.tokens[s]
        owners = None if across_documents else cut.documents[s]
        pair = repeated_stretch(row.tolist(), allowed[row], owners, prefix=prefix, min_distance=min_distance)
        if pair is not None:
            found[s] = pair
    return dict(sorted(found.items()))


def repeated_stretch(
    tokens: Collection[int],
    allowed: Bool[Array, " position"],
    owners: Int[Array, " position"] | None = None,
    *,
    prefix: int,
    min_distance: int,
) -> Occurrences | None:
    """The earliest stretch of `prefix` tokens that a sequence repeats, or None.

    Its tokens are all allowed and all different; it occurs exactly twice in the sequence; at least `min_distance`
    tokens lie between the end of the first and the start of the second occurrence; a token follows the second.

    Args:
        allowed: which tokens may be part of it.
        owners: documents of the tokens; both occurrences and the token that follows them must lie in one.
    """
    tokens = list(tokens)
    n_forbidden = np.concatenate([[0], np.cumsum(~allowed)])
    places: dict[tuple[int, ...], list[int]] = {}
    for start in np.flatnonzero(n_forbidden[prefix:] == n_forbidden[:-prefix]).tolist():
        places.setdefault(tuple(tokens[start : start + prefix]), []).append(start)
    for stretch, starts in places.items():  # in order of first occurrence
        if len(starts) != 2 or len(set(stretch)) < prefix:
            continue
        first, second = starts
        if second - (first + prefix) < min_distance or second + prefix >= len(tokens):
            continue
        if owners is None or owners[first] == owners[second + prefix]:
            return Occurrences(first, second)
    return None


def natural_row(cut: Sequences, sequence: int, pair: Occurrences, *, prefix: int, after: int) -> dict[str, object]:
    """A row of "repeats" (but for its number): the sequence with copy and offset of every position."""
    row = cut.tokens[sequence]
    follows = pair.first + prefix, pair.second + prefix
    # The windows end together: the first before the second occurrence begins, the second within the sequence.
    end = min(after + 1, pair.second - follows[0], len(row) - follows[1])
    places = np.arange(-prefix, end)
    copy, offset = np.full(len(row), OUTSIDE), np.zeros(len(row), dtype=np.int64)
    for number, zero in enumerate(follows):
        copy[zero + places], offset[zero + places] = number, places
    return {
        "document": int(cut.documents[sequence, follows[1] - 1]),
        "tokens": row.tolist(),
        "copy": copy.tolist(),
        "offset": offset.tolist(),
        "continues": bool(row[follows[1]] == row[follows[0]]),
    }
