"""Sequences with repeated tokens: made (METHODS A4) or found in a text (A5).

Both give the table "repeats", in which two lists say what stands at every position: `copy`, which repetition it belongs
to (0 the first, -1 none: BOS, separator, tokens between two occurrences), and `offset`, its place in the copy. What is
compared between copies is compared at equal offsets, so that no later step counts positions of its own.

Made:   BOS s[0] ... s[L-1] [separator] s[0] ... s[L-1] ...      offset i at s[i], the same in every copy
Found:  ... p[0] ... p[n-1] B ...       ... p[0] ... p[n-1] X ...  offset -n at p[0], -1 at p[n-1], 0 at B and at X

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
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table
from neuronlab.texts import NO_DOCUMENT, Sequences, cut_sequences, opening_token, token_stream
from neuronlab.vocabulary import Vocabulary, load_vocabulary

Array = np.ndarray
SOURCES = ("text", "random")
UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
OUTSIDE = -1  # the copy of a position that belongs to none


class RepeatError(ValueError):
    """Repeated sequences that cannot be made or looked for as configured; the message names the key and the remedy."""


@dataclass(frozen=True)
class Occurrences:
    """A stretch of n tokens that occurs twice in a sequence.

    Attributes:
        first, second: positions of the first token of each occurrence.
    """

    first: int
    second: int


def make_repeats(
    *,
    model: ModelSpec,
    tokens: str | Path,
    repeats: str | Path,
    source: str = "text",
    length: int = 100,
    repetitions: int = 2,
    separator: str = "",
    sequences: int = 1000,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Rule `make_repeats`: write repeats.parquet with a stretch of tokens repeated (METHODS A4).

    The repeated stretch starts after the BOS, which stands at position 0 where the tokenizer has one and is in no copy.

    Args:
        model: whose tokenizer and context apply; its weights are not loaded.
        tokens: table "tokens" of the text.
        source: "text" repeats the first `length` tokens of the text's sequences, their BOS not counted, drawn without
            replacement, in the order of the text; "random" repeats ids drawn uniformly, with replacement, from those
            that the tokenizer knows and that are no special tokens.
        length: tokens of a copy.
        repetitions: copies.
        separator: text between two copies.
        sequences: how many; of a text at most as many as it has.

    Raises:
        RepeatError: an unknown source, fewer than two copies, a sequence longer than the model's context, or a text
            whose sequences are shorter than a copy.
    """
    vocabulary = load_vocabulary(model)
    between = separator_tokens(vocabulary.tokenizer, separator)
    check_synthetic(vocabulary, model, length, repetitions, len(between))
    if source == "text":
        stretches, owners = text_stretches(read_table(tokens, "tokens"), tokens, length, sequences, seed)
    elif source == "random":
        ids = np.flatnonzero(ordinary_ids(vocabulary))
        stretches = np.random.default_rng(seed).choice(ids, size=(sequences, length))
        owners = np.arange(sequences)
    else:
        raise RepeatError(f"induction.synthetic.source is '{source}'; it must be one of {', '.join(SOURCES)}")
    rows, copy, offset = repeat(stretches, vocabulary.bos_token_id, between, repetitions)
    n = len(rows)
    frame = pl.DataFrame(
        {
            "sequence": np.arange(n, dtype=np.int32),
            "document": owners.astype(np.int32),
            "tokens": rows.tolist(),
            "copy": [copy.tolist()] * n,
            "offset": [offset.tolist()] * n,
            "continues": [True] * n,
        },
        schema=empty_table().schema,
    )
    write_table(frame, repeats, "repeats", provenance)


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
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Rule `find_repeats`: write repeats.parquet with stretches that a text repeats by itself (METHODS A5).

    All documents are tokenised and cut as in `texts.py`. In each sequence the earliest stretch that `repeated_stretch`
    finds is used. An occurrence's window holds its prefix, the token that follows and up to `after` more; both windows
    are cut alike where the first would run into the second occurrence, or the second over the end of the sequence.
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
    found = draw_repeated(cut, allowed, prefix=prefix, min_distance=min_distance, sequences=sequences, seed=seed)
    looked_at = f"{len(cut.tokens)} sequences of {text.where}"
    if len(found) < 2:
        warnings.warn(
            f"induction.natural: {len(found)} of {looked_at} repeat a stretch of {prefix} tokens; at least 2 are "
            "needed, so the table is empty and nothing is measured; lower prefix or min_distance, or use more text",
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


def empty_table() -> pl.DataFrame:
    """The table "repeats" without a row."""
    return pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["repeats"].items()})


def separator_tokens(tokenizer: PreTrainedTokenizerBase, separator: str) -> Int[Array, " tokens"]:
    """Token ids of the separator; none for the empty string."""
    ids = tokenizer(separator, add_special_tokens=False)["input_ids"] if separator else []
    return np.asarray(ids, dtype=np.int64)


def check_synthetic(vocabulary: Vocabulary, model: ModelSpec, length: int, repetitions: int, between: int) -> None:
    """Refuse repetitions that do not repeat, or that the model has no room for.

    Args:
        between: tokens of the separator.

    Raises:
        RepeatError: naming the longest `length` that fits.
    """
    if repetitions < 2 or length < 1:
        raise RepeatError(
            f"induction.synthetic: length {length} and repetitions {repetitions}; a repetition needs at least one "
            "token and two copies"
        )
    fixed = (vocabulary.bos_token_id is not None) + (repetitions - 1) * between
    needed = fixed + repetitions * length
    if vocabulary.n_ctx is None or needed <= vocabulary.n_ctx:
        return
    longest = (vocabulary.n_ctx - fixed) // repetitions
    remedy = f"set it to {longest} or less" if longest > 0 else "take fewer repetitions or a shorter separator"
    raise RepeatError(
        f"induction.synthetic.length is {length}: {repetitions} copies with BOS and separators have {needed} tokens, "
        f"the context of {model.where} {vocabulary.n_ctx}; {remedy}"
    )


def text_stretches(
    text: pl.DataFrame, path: str | Path, length: int, sequences: int, seed: int
) -> tuple[Int[Array, "sequences length"], Int[Array, " sequences"]]:
    """The first tokens of a text's sequences, a BOS in front not counted, and the document that most of them are of.

    Raises:
        RepeatError: if the sequences are shorter than `length`.
    """
    text = text.sort("sequence")
    tokens, documents = (np.array(text[name].to_list()) for name in ("tokens", "documents"))
    start = int((documents[:, 0] == NO_DOCUMENT).all())
    if tokens.shape[1] - start < length:
        raise RepeatError(
            f"induction.synthetic.length is {length}, but the sequences of '{path}' have {tokens.shape[1] - start} "
            f"tokens after the BOS; set it to {tokens.shape[1] - start} or less, or raise the text's sequence_length"
        )
    if sequences > len(tokens):
        warnings.warn(
            f"induction.synthetic.sequences is {sequences}, but the text has {len(tokens)} sequences; all are used",
            stacklevel=3,
        )
    chosen = np.random.default_rng(seed).choice(len(tokens), size=min(sequences, len(tokens)), replace=False)
    chosen.sort()
    body = slice(start, start + length)
    return tokens[chosen, body], np.array([_most_frequent(row) for row in documents[chosen, body]], dtype=np.int64)


def _most_frequent(values: Int[Array, " values"]) -> int:
    """The most frequent value, the smallest of several."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def repeat(
    stretches: Int[Array, "sequences length"], bos: int | None, separator: Int[Array, " tokens"], repetitions: int
) -> tuple[Int[Array, "sequences position"], Int[Array, " position"], Int[Array, " position"]]:
    """Sequences of repeated stretches, and copy and offset of every position (the same in all sequences)."""
    n, length = stretches.shape
    tokens, copy, offset = [], [], []

    def put(ids: Int[Array, "sequences some"], number: int, places: Int[Array, " some"]) -> None:
        tokens.append(ids)
        copy.append(np.full(ids.shape[1], number))
        offset.append(places)

    def put_outside(ids: Int[Array, " some"]) -> None:
        put(np.broadcast_to(ids, (n, len(ids))), OUTSIDE, np.zeros(len(ids), dtype=np.int64))

    if bos is not None:
        put_outside(np.array([bos]))
    for number in range(repetitions):
        if number and len(separator):
            put_outside(separator)
        put(stretches, number, np.arange(length))
    return np.concatenate(tokens, axis=1), np.concatenate(copy), np.concatenate(offset)


def ordinary_ids(vocabulary: Vocabulary) -> Bool[Array, " vocab"]:
    """Ids that the tokenizer knows and that are no special tokens, reserved ones included."""
    ordinary, tokenizer = vocabulary.real.copy(), vocabulary.tokenizer
    special = {*tokenizer.all_special_ids, vocabulary.bos_token_id, vocabulary.eos_token_id} - {None}
    special |= {index for index, added in tokenizer.added_tokens_decoder.items() if added.special}
    ordinary[list(special)] = False
    return ordinary


def undecodable_ids(tokenizer: PreTrainedTokenizerBase, ids: Int[Array, " ids"]) -> list[int]:
    """Those ids that decode to a string with U+FFFD: pieces of characters."""
    strings = tokenizer.batch_decode([[int(i)] for i in ids])
    return [int(i) for i, string in zip(ids, strings, strict=True) if UNDECODABLE in string]


def draw_repeated(
    cut: Sequences, allowed: Bool[Array, " vocab"], *, prefix: int, min_distance: int, sequences: int, seed: int
) -> dict[int, Occurrences]:
    """At most `sequences` sequences with a repeated stretch, uniform among all of them, in the order of the text.

    Sequences are looked at in an order drawn by the seed until enough are found: the rest of a large text is spared.
    """
    found: dict[int, Occurrences] = {}
    for s in np.random.default_rng(seed).permutation(len(cut.tokens)).tolist():
        if len(found) == sequences:
            break
        row = cut.tokens[s]
        pair = repeated_stretch(row.tolist(), allowed[row], prefix=prefix, min_distance=min_distance)
        if pair is not None:
            found[s] = pair
    return dict(sorted(found.items()))


def repeated_stretch(
    tokens: Collection[int], allowed: Bool[Array, " position"], *, prefix: int, min_distance: int
) -> Occurrences | None:
    """The earliest stretch of `prefix` tokens that a sequence repeats, or None.

    Its tokens are all allowed and all different; it occurs exactly twice in the sequence; at least `min_distance`
    tokens lie between the end of the first and the start of the second occurrence; a token follows the second.

    Args:
        allowed: which tokens may be part of it.
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
        if second - (first + prefix) >= min_distance and second + prefix < len(tokens):
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
