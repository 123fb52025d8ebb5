"""Documents into sequences of tokens, and the one rule for which positions count (METHODS A0, 0.6).

Documents are tokenised whole, joined with EOS, and the stream is cut into pieces of T - 1 tokens with BOS in front of
each (T where there is no BOS); what is left over at the end is dropped. TransformerLens cuts the text into twenty
chunks of characters and tokenises those in parallel: a token that crosses a chunk's border is torn, and where borders
fall depends on how much text there is. Here a document's tokens depend on the document alone, and the document of
every token is known.

Where BOS and EOS are one id (GPT-2's 50256), removing that id from the results removes the ends of documents with the
BOS (METHODS D defect 2). Study A's filter does so, and is what counts by default; `exclude_eos: false` tells the two
apart by position: the BOS that opens a sequence never counts, an EOS between documents does, with the token before it,
whose target it is. Either way both stay in the sequence: what a position sees does not depend on what counts.

Texts go in without special tokens. A mark that is spelt out in a text becomes that mark, as in any Hugging Face
tokenizer, and is then left out by the rule below.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from neuronlab.documents import JOINS, Documents, TextError, TextSpec, read_documents
from neuronlab.model_files import ModelSpec
from neuronlab.tables import Provenance, write_table
from neuronlab.vocabulary import Vocabulary, load_vocabulary

BATCH = 256  # documents encoded at once: bounds the memory, does not change a token
NO_DOCUMENT = -1  # the document of a BOS put in front


@dataclass(frozen=True)
class Sequences:
    """Fixed-length sequences.

    Attributes:
        tokens: token ids.
        documents: document of every token, `NO_DOCUMENT` for a BOS put in front; an EOS belongs to what it ends.
    """

    tokens: Int[np.ndarray, "sequences position"]
    documents: Int[np.ndarray, "sequences position"]


def tokenize_text(
    *,
    documents: str | Path,
    output: str | Path,
    model: ModelSpec,
    text: TextSpec,
    seed: int,
    provenance: Provenance | None = None,
) -> None:
    """Rule `tokenize_text`: documents to the table "tokens".

    Args:
        documents: file of documents (see `documents.read_documents`).
        model: whose tokenizer and context length apply; its weights are not loaded.
        seed: of the drawing of sequences.

    Raises:
        TextError: nothing to read, too little of it, or a sequence longer than the model's context.
        ModelError: no usable tokenizer.
    """
    write_table(tokens_table(documents, load_vocabulary(model), model, text, seed), output, "tokens", provenance)


def tokens_table(
    documents: str | Path, vocabulary: Vocabulary, model: ModelSpec, text: TextSpec, seed: int
) -> pl.DataFrame:
    """The table "tokens" of a text; see `tokenize_text`."""
    bos = opening_token(vocabulary, text, model)
    if vocabulary.n_ctx is not None and text.sequence_length > vocabulary.n_ctx:
        raise TextError(
            f"{text.where}.sequence_length is {text.sequence_length}, but the context of {model.where} is "
            f"{vocabulary.n_ctx} tokens; set it to {vocabulary.n_ctx} or less"
        )
    stream, owners = token_stream(read_documents(documents, text), vocabulary, text)
    body = text.sequence_length - (bos is not None)
    if len(stream) < body:
        raise TextError(
            f"{text.where}: '{documents}' gives {len(stream)} tokens, and one sequence of sequence_length "
            f"{text.sequence_length} needs {body}; use more text or shorten the sequences"
        )
    sequences = sample_sequences(cut_sequences(stream, owners, text.sequence_length, bos), text, seed)
    counted = counted_positions(
        sequences.tokens,
        bos=vocabulary.bos_token_id,
        eos=vocabulary.eos_token_id,
        newline_ids=vocabulary.newline_token_ids,
        exclude_newline=text.exclude_newline,
        exclude_eos=text.exclude_eos,
        min_position=text.min_position,
    )
    if not counted.any():
        raise TextError(
            f"{text.where}: no position counts: min_position is {text.min_position} in sequences of "
            f"{text.sequence_length} tokens; lower it"
        )
    return pl.DataFrame(
        {
            "sequence": np.arange(len(sequences.tokens), dtype=np.int32),
            "tokens": pl.Series(sequences.tokens.tolist(), dtype=pl.List(pl.Int32)),
            "documents": pl.Series(sequences.documents.tolist(), dtype=pl.List(pl.Int32)),
            "counted": pl.Series(counted.tolist(), dtype=pl.List(pl.Boolean)),
        }
    )


def counted_positions(
    tokens: Int[np.ndarray, "sequences position"],
    *,
    bos: int | None,
    eos: int | None,
    newline_ids: Collection[int] = (),
    exclude_newline: bool = False,
    exclude_eos: bool = True,
    min_position: int = 3,
) -> Bool[np.ndarray, "sequences position"]:
    """Which positions count, for activation statistics and effects alike (METHODS A0).

    A position t counts if min_position <= t < T - 1 and neither its token nor the next one is BOS, with `exclude_eos`
    EOS or, with `exclude_newline`, a newline. The last position has no next token and never counts. Without
    `exclude_eos` an id that is both BOS and EOS is a BOS where it opens a sequence, and an EOS elsewhere.
    """
    everywhere = set(newline_ids) if exclude_newline else set()
    everywhere |= {bos, eos} if exclude_eos else {bos} - {eos}
    excluded = np.isin(tokens, np.asarray(sorted(everywhere - {None}), dtype=np.int64))
    if bos is not None:
        excluded[:, :1] |= tokens[:, :1] == bos
    counted = np.zeros(tokens.shape, dtype=bool)
    counted[:, :-1] = ~excluded[:, :-1] & ~excluded[:, 1:]
    counted[:, : max(min_position, 0)] = False
    return counted


def opening_token(vocabulary: Vocabulary, text: TextSpec, model: ModelSpec) -> int | None:
    """The BOS that opens every sequence, by the policy `bos`, or None.

    Raises:
        TextError: an unknown policy, or "always" for a tokenizer without BOS.
    """
    if text.bos not in ("auto", "always", "never"):
        raise TextError(f"{text.where}.bos is '{text.bos}'; it must be auto, always or never")
    if text.bos == "always" and vocabulary.bos_token_id is None:
        raise TextError(
            f"{text.where}.bos is 'always', but the tokenizer of {model.where} has no BOS; use auto or never"
        )
    return None if text.bos == "never" else vocabulary.bos_token_id


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterator[list[int]]:
    """Token ids of every document, encoded whole and without special tokens."""
    for start in tqdm(range(0, len(texts), BATCH), desc="tokenize", unit="batch", file=sys.stderr, disable=None):
        # verbose=False: documents are longer than the context on purpose, they are cut afterwards.
        encoded = tokenizer(texts[start : start + BATCH], add_special_tokens=False, verbose=False)
        yield from encoded["input_ids"]


def token_stream(
    documents: Documents, vocabulary: Vocabulary, text: TextSpec
) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
    """All documents as one stream of tokens, EOS between them (`join`), and the document of every token."""
    if text.join not in JOINS:
        raise TextError(f"{text.where}.join is '{text.join}'; it must be one of {', '.join(JOINS)}")
    joint = [] if text.join == "none" or vocabulary.eos_token_id is None else [vocabulary.eos_token_id]
    pieces, lengths = [], []
    encoded = encode_documents(vocabulary.tokenizer, documents.texts)
    for index, tokens in enumerate(encoded, start=1):
        piece = tokens + (joint if index < len(documents.texts) else [])
        pieces.append(np.asarray(piece, dtype=np.int32))
        lengths.append(len(piece))
    owners = np.repeat(np.asarray(documents.numbers, dtype=np.int32), lengths)
    return np.concatenate(pieces), owners


def cut_sequences(
    stream: Int[np.ndarray, " tokens"], owners: Int[np.ndarray, " tokens"], length: int, bos: int | None
) -> Sequences:
    """Cut a stream into sequences of `length` tokens, `bos` included; the remainder is dropped."""
    body = length - (bos is not None)
    if body < 1:
        raise TextError(f"texts.<text>.sequence_length of {length} leaves no room for text; raise it")
    n = len(stream) // body
    tokens, documents = (array[: n * body].reshape(n, body) for array in (stream, owners))
    if bos is not None:
        tokens = np.concatenate([np.full((n, 1), bos, dtype=tokens.dtype), tokens], axis=1)
        documents = np.concatenate([np.full((n, 1), NO_DOCUMENT, dtype=documents.dtype), documents], axis=1)
    return Sequences(tokens, documents)


def sample_sequences(sequences: Sequences, text: TextSpec, seed: int) -> Sequences:
    """Draw `text.sequences` without replacement, in the order of the text; all of them, with a warning, if fewer."""
    n = len(sequences.tokens)
    if text.sequences > n:
        warnings.warn(
            f"{text.where}.sequences is {text.sequences}, but the text gives {n} of {text.sequence_length} tokens; "
            "all of them are used",
            stacklevel=2,
        )
        return sequences
    chosen = np.sort(np.random.default_rng(seed).choice(n, size=text.sequences, replace=False))
    return Sequences(sequences.tokens[chosen], sequences.documents[chosen])
