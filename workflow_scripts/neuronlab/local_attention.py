"""Rule `measure_local_attention`: how much each head attends to the tokens just before the query (METHODS C4).

Queries are the counted positions of tokens.parquet, the positions that all other outcomes are measured on. The key of
offset k is the token k places back (k = 0: the query itself) if it is of the query's document and neither BOS nor EOS:
those at the start of a sequence and between documents are sinks, and attention there says nothing about what stands
nearby. They are left out, and attention on a BOS at position 0 is reported apart, for all queries behind one. Queries
near the start of a document have fewer keys, so every offset has its own n; and where offsets are added up over a
window, of one head or of a layer's mean, the queries are those with all its keys, so that all terms have the same n
(METHODS C defect 6). Means over heads are made by document and resampled with it, like those of one head.
The first token is one like others where there is no BOS. Keys out of a sliding window's sight have attention 0, as in
the model.

A pattern is reduced as it passes: one layer's [batch, head, query, key] is in memory at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.attention_parts import head_count, pattern, visit_patterns
from neuronlab.final_states import Text
from neuronlab.model_families import family_of
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.sequence_sample import sample_sequences
from neuronlab.statistics import Interval, bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, write_table

Array = np.ndarray


class LocalAttentionError(ValueError):
    """A window that no query can see, or a model without attention patterns to read."""


@dataclass(frozen=True)
class Pairs:
    """(query, key) pairs of some sequences, each for one measure.

    The measures are the offsets 0 to `offsets`, the BOS, and the window (all its pairs, added up later).

    Attributes:
        row, query, key: where the pair stands; `row` is a place among the sequences.
        measure: which measure it belongs to, see `measures`.
    """

    row: Int[Array, " pairs"]
    query: Int[Array, " pairs"]
    key: Int[Array, " pairs"]
    measure: Int[Array, " pairs"]


@dataclass(frozen=True)
class Measured:
    """Attention by document, of all heads.

    Attributes:
        sums: attention added up over a document's pairs.
        counts: pairs of a document; of the window: queries.
    """

    sums: Float64[Array, "documents measures layer head"]
    counts: Int[Array, "documents measures"]


def measures(offsets: int) -> tuple[int, int]:
    """Places of the BOS and of the window among the measures; those before them are the offsets from 0."""
    return offsets + 1, offsets + 2


def measure_local_attention(
    *,
    model: ModelSpec,
    tokens: str | Path,
    local_attention: str | Path,
    attention_bos: str | Path,
    local_attention_layers: str | Path,
    offsets: int = 5,
    sequences: int = 64,
    batch_size: int = 16,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write local_attention, attention_bos and local_attention_layers.

    Args:
        offsets: how many tokens back attention is measured, and the width of the window of the third table.
        sequences: how many sequences are read.

    Raises:
        LocalAttentionError: `offsets` beyond every query's history, or a model without attention patterns.
        ModelError, TableError: whatever does not fit.
    """
    text = sample_sequences(Text.read(tokens), sequences, seed)
    loaded = load_model(model)
    check(loaded, text, offsets)
    found = measure(loaded, text, offsets, batch_size)
    weights = bootstrap_weights(len(found.counts), resamples, seed)
    layers = layers_frame(found, offsets, weights, level, family_of(model))
    tables = {
        "local_attention": (local_attention, heads_frame(found, offsets, weights, level)),
        "attention_bos": (attention_bos, bos_frame(found, offsets, weights, level)),
        "local_attention_layers": (local_attention_layers, layers),
    }
    if not len(tables["attention_bos"][1]):
        print(f"no BOS at position 0 of {tokens}: no attention on it", file=sys.stderr)
    for name, (path, frame) in tables.items():
        write_table(frame, path, name, provenance)


def check(model: Model, text: Text, offsets: int) -> None:
    """Refuse what cannot be measured, before any work is spent on it.

    Raises:
        LocalAttentionError: naming the config key.
    """
    missing = [name for name in map(pattern, range(model.n_layers)) if name not in model.bridge.hook_dict]
    if missing:
        raise LocalAttentionError(
            f"{model.spec.where}: {model.architecture} has no hook point {missing[0]}: its attention is not covered. "
            "Leave `attention` out of stages_of_inference.parts"
        )
    history = int(keys_before(text.documents, marks_of(text, model))[text.counted].max())
    if offsets > history:
        raise LocalAttentionError(
            f"stages_of_inference.offsets is {offsets}, but no counted position has more than {history} tokens of its "
            "document before it (BOS and EOS left out); lower it, or raise sequence_length of the text"
        )


def opened_by_bos(text: Text, bos_token_id: int | None) -> Bool[Array, " sequences"]:
    """Which sequences hold a BOS at position 0."""
    if bos_token_id is None:
        return np.zeros(len(text.tokens), dtype=bool)
    return text.tokens[:, 0] == bos_token_id


def marks_of(text: Text, model: Model) -> Bool[Array, "sequences position"]:
    """Where a BOS or an EOS stands."""
    return np.isin(text.tokens, [mark for mark in (model.bos_token_id, model.eos_token_id) if mark is not None])


def keys_before(
    documents: Int[Array, "sequences position"], marks: Bool[Array, "sequences position"]
) -> Int[Array, "sequences position"]:
    """How many tokens stand just before each one that are of its document and no marks."""
    found = np.zeros(documents.shape, dtype=np.int64)
    for position in range(1, documents.shape[1]):
        before = position - 1
        usable = ~marks[:, before] & (documents[:, before] == documents[:, position])
        found[:, position] = np.where(usable, found[:, before] + 1, 0)
    return found


def pairs_of(
    counted: Bool[Array, "sequences position"],
    documents: Int[Array, "sequences position"],
    marks: Bool[Array, "sequences position"],
    bos: Bool[Array, " sequences"],
    offsets: int,
) -> Pairs:
    """All (query, key) pairs that are measured.

    Args:
        counted: positions that are queries.
        documents: keys of an offset are of the query's.
        marks: positions that are no keys of an offset.
        bos: sequences whose position 0 is the key of the BOS.
    """
    row, query = np.nonzero(counted)
    at_bos, at_window = measures(offsets)
    parts = []
    for k in range(offsets + 1):
        key = query - k
        usable = (key >= 0) & (documents[row, key] == documents[row, query]) & ~marks[row, key]
        parts.append((row, query, key, k, usable))
    parts.append((row, query, np.zeros_like(query), at_bos, bos[row]))
    whole = keys_before(documents, marks)[row, query] >= offsets
    parts += [(row, query, query - k, at_window, whole) for k in range(1, offsets + 1)]
    columns = [(r[kept], q[kept], key[kept], np.full(kept.sum(), m)) for r, q, key, m, kept in parts]
    return Pairs(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def measure(model: Model, text: Text, offsets: int, batch_size: int) -> Measured:
    """Attention of all heads, by the document of the query, from one clean pass."""
    bos, marks = opened_by_bos(text, model.bos_token_id), marks_of(text, model)
    documents = np.unique(text.documents[text.counted])
    n_measures = offsets + 3
    sums = np.zeros((len(documents) * n_measures, model.n_layers, head_count(model.bridge)))
    counts = np.zeros(len(documents) * n_measures, dtype=np.int64)
    for rows in batches(text, batch_size):
        pairs = pairs_of(text.counted[rows], text.documents[rows], marks[rows], bos[rows], offsets)
        document = np.searchsorted(documents, text.documents[rows][pairs.row, pairs.query])
        group = document * n_measures + pairs.measure
        counts += np.bincount(group, minlength=len(counts))
        places = [torch.from_numpy(place).to(model.device) for place in (pairs.row, pairs.query, pairs.key)]
        into = torch.from_numpy(group)

        def reduce(layer: int, attention: Tensor, places: list[Tensor] = places, into: Tensor = into) -> None:
            row, query, key = places
            values = (
                attention[row, :, query, key].cpu().double()
            )  # mps has no float64; index_add_ on CUDA no fixed order
            total = torch.zeros(sums.shape[0], sums.shape[2], dtype=torch.float64).index_add_(0, into, values)
            sums[:, layer] += total.numpy()

        visit_patterns(model.bridge, torch.from_numpy(text.tokens[rows]).long().to(model.device), reduce)
    counts = counts.reshape(len(documents), n_measures)
    counts[:, -1] //= offsets  # pairs of the window become queries
    return Measured(sums.reshape(len(documents), n_measures, *sums.shape[1:]), counts)


def batches(text: Text, batch_size: int) -> Iterator[Int[Array, " sequences"]]:
    """Places of sequences with counted positions, `batch_size` at a time."""
    wanted = np.flatnonzero(text.counted.any(axis=1))
    for start in tqdm(
        range(0, len(wanted), batch_size), desc="local attention", unit="batch", file=sys.stderr, disable=None
    ):
        yield wanted[start : start + batch_size]


def heads_frame(
    found: Measured, offsets: int, weights: Float64[Array, "resamples documents"], level: float
) -> pl.DataFrame:
    """The table "local_attention"."""
    columns = head_columns(found)
    frames = []
    for place, measure, offset in _places(offsets):
        if measure == "bos":
            continue
        count = found.counts[:, place]
        extra = {"measure": measure, "n": int(count.sum()), "n_documents": int((count > 0).sum())}
        interval = _interval(found.sums[:, place], count, weights, level)
        frame = pl.DataFrame(columns | _ends(interval)).with_columns(**{k: pl.lit(v) for k, v in extra.items()})
        frames.append(frame.with_columns(offset=pl.lit(offset, pl.Int32)))
    return pl.concat(frames).sort("layer", "head", "offset", nulls_last=True).fill_nan(None)


def bos_frame(
    found: Measured, offsets: int, weights: Float64[Array, "resamples documents"], level: float
) -> pl.DataFrame:
    """The table "attention_bos"; empty without a BOS at position 0."""
    place, _ = measures(offsets)
    count = found.counts[:, place]
    frame = pl.DataFrame(head_columns(found) | _ends(_interval(found.sums[:, place], count, weights, level)))
    frame = frame.with_columns(n=pl.lit(int(count.sum())), n_documents=pl.lit(int((count > 0).sum()))).fill_nan(None)
    return frame if count.sum() else frame.clear()


def layers_frame(
    found: Measured, offsets: int, weights: Float64[Array, "resamples documents"], level: float, family: str
) -> pl.DataFrame:
    """The table "local_attention_layers": every measure averaged over heads, by layer; no rows of a BOS without one."""
    n_layers = found.sums.shape[2]
    layer = np.arange(n_layers)
    frames = []
    for place, measure, offset in _places(offsets):
        count = found.counts[:, place]
        if measure == "bos" and not count.any():
            continue
        interval = _interval(found.sums[:, place].mean(axis=-1), count, weights, level)
        columns = {"layer": layer, "depth": layer / max(n_layers - 1, 1)} | _ends(interval)
        extra = {"family": family, "measure": measure, "window": offsets, "n": int(count.sum())}
        extra |= {"n_documents": int((count > 0).sum())}
        frame = pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in extra.items()})
        frames.append(frame.with_columns(offset=pl.lit(offset, pl.Int32)))
    order = pl.col("measure").replace_strict({"window": 0, "offset": 1, "bos": 2})
    return pl.concat(frames).sort(order, "offset", "layer", maintain_order=True).fill_nan(None)


def _places(offsets: int) -> Iterator[tuple[int, str, int | None]]:
    """Place, name and offset of every measure."""
    at_bos, at_window = measures(offsets)
    yield from ((offset, "offset", offset) for offset in range(offsets + 1))
    yield at_bos, "bos", None
    yield at_window, "window", None


def head_columns(found: Measured) -> dict[str, Int[Array, " heads"]]:
    """Layer and head of every head, layers first."""
    n_layers, n_heads = found.sums.shape[2:]
    layer, head = np.divmod(np.arange(n_layers * n_heads), n_heads)
    return {"layer": layer, "head": head}


def _interval(
    sums: Float64[Array, "documents ..."],
    count: Int[Array, " documents"],
    weights: Float64[Array, "resamples documents"],
    level: float,
) -> Interval:
    """Mean with its interval, flat; missing without a pair."""
    flat = sums.reshape(len(count), -1)
    if count.sum():
        return clustered_interval(flat, count, weights, level)
    missing = np.full(flat.shape[1], np.nan)
    return Interval(missing, missing, missing)


def _ends(interval: Interval) -> dict[str, Sequence[float]]:
    return {"attention": interval.estimate, "attention_low": interval.low, "attention_high": interval.high}
