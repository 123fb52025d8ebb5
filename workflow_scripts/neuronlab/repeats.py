"""Sequences with repeated tokens, made of a text's beginnings or of random tokens (METHODS A4).

Here and in `natural_repeats` they make the table "repeats", in which two lists say what stands at every position:
`copy`, which repetition it belongs to (0 the first, -1 none: BOS, separator, tokens between two occurrences), and
`offset`, its place in the copy. What is compared between copies is compared at equal offsets, so that no later step
counts positions of its own.

BOS s[0] ... s[L-1] [separator] s[0] ... s[L-1] ...      offset i at s[i], the same in every copy
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from neuronlab.model_files import ModelSpec
from neuronlab.repeat_length import repeat_length
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table
from neuronlab.texts import NO_DOCUMENT
from neuronlab.vocabulary import Vocabulary, load_vocabulary

Array = np.ndarray
SOURCES = ("text", "random")
OUTSIDE = -1  # the copy of a position that belongs to none


class RepeatError(ValueError):
    """Repeated sequences that cannot be made or looked for as configured; the message names the key and the remedy."""


def make_repeats(
    *,
    model: ModelSpec,
    tokens: str | Path,
    repeats: str | Path,
    source: str = "text",
    length: int | None = None,
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
        length: tokens of a copy; None for as many as fit, see `repeat_length`.
        repetitions: copies.
        separator: text between two copies.
        sequences: how many; of a text at most as many as it has.

    Raises:
        RepeatError: an unknown source, fewer than two copies, a sequence longer than the model's context, or a text
            whose sequences are shorter than a copy.
    """
    vocabulary = load_vocabulary(model)
    between = separator_tokens(vocabulary.tokenizer, separator)
    table = read_table(tokens, "tokens")
    length = repeat_length(
        length,
        n_ctx=vocabulary.n_ctx,
        repetitions=repetitions,
        between=len(between),
        available=table["tokens"].list.len().min() - 1 if source == "text" else None,
    )
    check_synthetic(vocabulary, model, length, repetitions, len(between))
    if source == "text":
        stretches, owners = text_stretches(table, tokens, length, sequences, seed)
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
