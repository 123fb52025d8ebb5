"""Token counts, the unigram distribution made of them, and its direction in logit space (METHODS 0.6, A3).

P = (count + 1) / sum(count + 1) over the whole vocabulary: ids that only pad it stay in the model's softmax, so they
keep their pseudo-count, as in study A (counts padded with zeros). The log-unigram direction is log P minus its mean
over the real ids, scaled to length 1, zero on padded ids; `include_padded` treats those as real ones, as published.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from neuronlab.documents import TextSpec, read_documents
from neuronlab.model_files import ModelSpec
from neuronlab.parquet_files import read_parquet
from neuronlab.tables import Provenance, write_table
from neuronlab.texts import token_stream
from neuronlab.vocabulary import Vocabulary, load_vocabulary

ENOUGH_TOKENS_PER_ID = 20  # below 20 V tokens counts are mostly smoothing noise


class CountsError(ValueError):
    """Token counts that do not fit the model or make no distribution."""


@dataclass(frozen=True)
class Unigram:
    """The unigram distribution of a text.

    Attributes:
        p: smoothed probabilities, sum 1, none of them zero.
        direction: centred log-unigram direction of length 1; zero on padded ids.
        tokens_total: counted tokens.
    """

    p: Float[np.ndarray, " vocab"]
    direction: Float[np.ndarray, " vocab"]
    tokens_total: int


def count_tokens(
    *,
    documents: str | Path,
    counts: str | Path | None,
    output: str | Path,
    model: ModelSpec,
    text: TextSpec,
    provenance: Provenance | None = None,
) -> None:
    """Rule `count_tokens`: counts of a text, or published ones, as the table "token_counts".

    Args:
        documents: file of documents; all of them are counted, not only the sequences drawn.
        counts: a .npy file [vocab] or a .parquet table with columns token and count; None to count `documents`.
        model: whose tokenizer and vocabulary apply; its weights are not loaded.

    Raises:
        CountsError: counts of the wrong length or type.
        TextError, ModelError: unusable text or tokenizer.
    """
    write_table(counts_table(documents, counts, load_vocabulary(model), text), output, "token_counts", provenance)


def counts_table(
    documents: str | Path, counts: str | Path | None, vocabulary: Vocabulary, text: TextSpec
) -> pl.DataFrame:
    """The table "token_counts" of a text, or of published counts; see `count_tokens`."""
    if counts is None:
        stream, _ = token_stream(read_documents(documents, text), vocabulary, text)
        count = np.bincount(stream, minlength=vocabulary.d_vocab)
    else:
        count = read_counts(counts, vocabulary, text.where)
    warn_if_few(int(count.sum()), vocabulary.d_vocab_real, text.where)
    return pl.DataFrame(
        {
            "token": np.arange(vocabulary.d_vocab, dtype=np.int32),
            "count": count.astype(np.int64),
            "real": vocabulary.real,
        }
    )


def read_counts(path: str | Path, vocabulary: Vocabulary, where: str) -> Int[np.ndarray, " vocab"]:
    """Published or shipped counts, padded with zeros to the model's vocabulary.

    The file must cover every id that the tokenizer knows and none beyond the model's vocabulary: Pythia's counts have
    50277 entries, its vocabulary 50304.

    Raises:
        CountsError: naming both lengths, or what else is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise CountsError(f"{where}.counts: there is no file '{path}'; correct the path, or set it to `text`")
    try:
        count = _counts_of_table(path) if path.suffix == ".parquet" else np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, pl.exceptions.PolarsError) as error:
        raise CountsError(f"{where}.counts: '{path}' is no array of counts ({error}); give a .npy file") from error
    if count.ndim != 1 or count.dtype.kind not in "iuf":
        raise CountsError(
            f"{where}.counts: '{path}' holds {count.dtype} of shape {count.shape}; one number per id is asked"
        )
    needed = int(np.flatnonzero(vocabulary.real)[-1]) + 1
    if not needed <= len(count) <= vocabulary.d_vocab:
        raise CountsError(
            f"{where}.counts: '{path}' has {len(count)} entries, but the model's tokenizer has {needed} ids "
            f"(its vocabulary {vocabulary.d_vocab}); these counts belong to another tokenizer"
        )
    if not np.isfinite(count).all() or (count < 0).any() or (count != np.floor(count)).any():
        raise CountsError(f"{where}.counts: '{path}' holds values that are no counts (negative, broken or NaN)")
    padded = np.zeros(vocabulary.d_vocab, dtype=np.int64)
    padded[: len(count)] = count
    return padded


def _counts_of_table(path: Path) -> Int[np.ndarray, " ids"]:
    frame = read_parquet(path)
    key = next((name for name in ("token", "token_id") if name in frame.columns), None)
    if key is None or "count" not in frame.columns:
        raise ValueError(f"columns {frame.columns}, not token and count")
    frame = frame.sort(key)
    if frame[key].to_list() != list(range(len(frame))):
        raise ValueError("its token ids do not run from 0 without a gap")
    return frame["count"].to_numpy()


def warn_if_few(total: int, d_vocab_real: int, where: str) -> None:
    """Warn when counts are so few that the smoothing outweighs them (METHODS 0.6)."""
    needed = ENOUGH_TOKENS_PER_ID * d_vocab_real
    if total < needed:
        warnings.warn(
            f"{where}.counts: {total} tokens are few for {d_vocab_real} ids: below {needed} the unigram distribution "
            "is mostly smoothing. Name published or training-scale counts",
            stacklevel=2,
        )


def unigram(counts: pl.DataFrame, *, include_padded: bool = False) -> Unigram:
    """The unigram distribution of a table "token_counts".

    Args:
        include_padded: let ids that only pad the vocabulary take part in the direction, as in study A (A defect 8).

    Raises:
        CountsError: ids with gaps, or counts that are all equal and so have no direction.
    """
    counts = counts.sort("token")
    if counts["token"].to_list() != list(range(len(counts))):
        raise CountsError("token counts: the ids do not run from 0 without a gap; make the table again")
    count = counts["count"].to_numpy().astype(np.float64)
    real: Bool[np.ndarray, " vocab"] = counts["real"].to_numpy()
    p = (count + 1) / (count + 1).sum()
    taking_part = np.ones_like(real) if include_padded else real
    log_p = np.log(p)
    direction = np.where(taking_part, log_p - log_p[taking_part].mean(), 0.0)
    length = np.linalg.norm(direction)
    if not length > 1e-12 * len(p) ** 0.5:
        raise CountsError("token counts: all counts are equal, so there is no log-unigram direction; count more text")
    return Unigram(p=p, direction=direction / length, tokens_total=int(count.sum()))
