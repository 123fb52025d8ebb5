"""Texts as the configuration names them, and their documents as they lie on disk.

A document is what the bootstrap clusters by: an article, a scene, a web page. In a .txt file documents are separated by
a string (a blank line by default; the empty string makes the file one document); in .jsonl and .parquet files each
row is one. A column `document` of integers, where there is one, numbers them; else they are numbered as they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from neuronlab.parquet_files import first_line, read_parquet

SUFFIXES = (".txt", ".jsonl", ".parquet")
JOINS = ("eos", "none")


class TextError(ValueError):
    """A text that cannot be used; the message names the config key or file, and the remedy."""


@dataclass(frozen=True)
class TextSpec:
    """A text as the configuration names it: plain values. `TextSpec(key, **config["texts"][key])` makes one.

    Attributes:
        key: its key under `texts` in the configuration, for messages.
        source: "demo", "file" or "hub".
        path: the file (source file).
        name, subset, revision: data set, its configuration and pinned revision on the hub (source hub).
        split: split of the data set, or of the demo world's documents.
        column: column with the text.
        separator: what separates documents in a .txt file.
        join: "eos" puts an EOS token between documents where the tokenizer has one; "none" joins them as they are,
            with the separator of a .txt file kept: the text reads as it did.
        max_documents: use only the first so many.
        sequence_length: tokens per sequence, BOS included.
        sequences: sequences drawn without replacement.
        bos: "auto" (BOS in front where the tokenizer has one), "always", "never".
        min_position: first position that counts.
        exclude_newline: leave out newline tokens and the tokens before them.
        exclude_eos: leave out the EOS between documents and the tokens before it; a BOS that opens a sequence is left
            out either way.
        counts: "text", "demo" or a path: where token counts come from.
        include_padded: let ids that only pad the vocabulary take part in the log-unigram direction.
    """

    key: str
    source: str = "file"
    path: str | None = None
    name: str | None = None
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    column: str = "text"
    separator: str = "\n\n"
    join: str = "eos"
    max_documents: int | None = None
    sequence_length: int = 256
    sequences: int = 100
    bos: str = "auto"
    min_position: int = 3
    exclude_newline: bool = False
    exclude_eos: bool = True
    counts: str = "text"
    include_padded: bool = False

    @property
    def where(self) -> str:
        """The config key, for messages."""
        return f"texts.{self.key}"


@dataclass(frozen=True)
class Documents:
    """Texts of documents and their numbers, in the order of the file."""

    numbers: list[int]
    texts: list[str]


def read_documents(path: str | Path, text: TextSpec) -> Documents:
    """Read the documents of a text; empty ones are left out.

    Raises:
        TextError: file missing, empty, of an unknown kind, unreadable, or without the column.
    """
    path = Path(path)
    if not path.is_file():
        raise TextError(f"{text.where}.path: there is no file '{path}'; correct the path")
    if path.suffix not in SUFFIXES:
        raise TextError(f"{text.where}.path: '{path}' must end in one of {', '.join(SUFFIXES)}")
    documents = _from_plain_text(path, text) if path.suffix == ".txt" else _from_table(path, text)
    if not documents.texts:
        raise TextError(
            f"{text.where}: '{path}' holds no text; give a file with at least one document that is not empty"
        )
    return documents


def _from_plain_text(path: Path, text: TextSpec) -> Documents:
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{text.where}.path: '{path}' is not UTF-8 ({error}); convert it, for example by iconv"
        ) from error
    if text.separator == "":
        blocks = [content]
    else:
        blocks = content.split(text.separator)
        if text.join == "none":
            blocks = [block + text.separator for block in blocks[:-1]] + blocks[-1:]
        else:  # line ends around a separator belong to no document
            blocks = [block.strip("\n") for block in blocks]
    kept = [block for block in blocks if block.strip()][: text.max_documents]
    return Documents(list(range(len(kept))), kept)


def _from_table(path: Path, text: TextSpec) -> Documents:
    if path.stat().st_size == 0 and path.suffix == ".jsonl":
        return Documents([], [])
    column = "text" if text.source in ("demo", "hub") else text.column
    try:
        tabular = path.suffix == ".parquet"
        frame = read_parquet(path, [column, "document", "split"]) if tabular else pl.read_ndjson(path)
    except Exception as error:  # readers raise many types for a damaged file
        remedy = "correct the file" if text.source == "file" else "delete it and run again"
        raise TextError(
            f"{text.where}: '{path}' cannot be read as {path.suffix[1:]} ({first_line(error)}); {remedy}"
        ) from error
    if column not in frame.columns or frame[column].dtype != pl.String:
        schema = pl.read_parquet_schema(path) if tabular else frame.schema
        strings = [name for name, dtype in schema.items() if dtype == pl.String]
        raise TextError(
            f"{text.where}.column: '{path}' has no column '{column}' of text; such columns are: {', '.join(strings)}"
        )
    if "document" not in frame.columns or not frame["document"].dtype.is_integer():
        frame = frame.drop("document", strict=False).with_row_index("document")
    if text.source == "demo" and "split" in frame.columns:
        frame = frame.filter(pl.col("split") == text.split)
    frame = frame.filter(pl.col(column).str.strip_chars().str.len_chars() > 0)
    if text.max_documents is not None:
        frame = frame.head(text.max_documents)
    return Documents(frame["document"].to_list(), frame[column].to_list())
