"""Rule `score_heads`: which heads are induction heads, on random tokens and on repetitions of text (METHODS A6).

Random sequences are [BOS, r, r] with r drawn uniformly from the ids that the tokenizer knows and that mark nothing. The
score of a head is its mean attention from the repetition to the token after the same token's earlier occurrence: key =
query - (length - 1), for every query of the second copy and none before it (the published diagonal began two queries
early), averaged over all sequences before the threshold is applied (METHODS A defect 12). On repetitions of text the
same is measured where the earlier copies hold the same token; with several of them, attention to any counts.

Patterns are reduced layer by layer as they pass, so that one layer's are in memory at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.attention import patterns
from neuronlab.attention_parts import head_count
from neuronlab.head_sets import AttentionError
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.repeat_length import repeat_length
from neuronlab.repeat_places import Repeats
from neuronlab.repeats import ordinary_ids, repeat
from neuronlab.statistics import bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, write_table

Array = np.ndarray
MEASURES = ("score", "previous_token", "bos_first", "bos_second")


@dataclass(frozen=True)
class Scores:
    """Attention per sequence, of all heads.

    Attributes:
        values: in the order of `MEASURES`.
        clusters: what the bootstrap resamples, by sequence.
    """

    values: Float[Array, "measures sequences layer head"]
    clusters: Int[Array, " sequences"]


def score_heads(
    *,
    model: ModelSpec,
    repeats: Mapping[str, str | Path],
    heads: str | Path,
    length: int | None = None,
    sequences: int = 256,
    threshold: float = 0.7,
    batch_size: int = 16,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write induction_heads for the source "random" and for every table of `repeats` that holds a repetition.

    Args:
        repeats: tables "repeats" by source; may be empty.
        length: tokens of the random stretch; None for 100, or as many as the context allows.
        threshold: a head is an induction head if its mean score is above this.

    Raises:
        AttentionError: sequences longer than the context, or too few ids to draw from.
        ModelError, TableError: whatever does not fit.
    """
    read = {source: Repeats.read(path) for source, path in repeats.items()}
    loaded = load_model(model)
    sources = {"random": draw_random(loaded, length, sequences, seed)} | read
    frames = []
    for source, repetitions in sources.items():
        scores = measure_heads(loaded, repetitions, batch_size, label=f"heads, {source}")
        if not len(scores.clusters):
            print(f"no {source} repetition: no scores of heads on it", file=sys.stderr)
            continue
        frames.append(summarise(scores, source, threshold, resamples, level, seed))
    write_table(pl.concat(frames), heads, "induction_heads", provenance)


def draw_random(model: Model, length: int | None, sequences: int, seed: int) -> Repeats:
    """[BOS, r, r] with r uniform over ordinary ids; without a BOS token in the vocabulary [r, r].

    Args:
        length: of r; None for 100, or as many as the context allows.

    Raises:
        AttentionError: if that is longer than the model's context, or nothing can be drawn.
    """
    length, front = repeat_length(length, n_ctx=model.n_ctx), int(model.bos_token_id is not None)
    total = front + 2 * length
    if total > (model.n_ctx or total):
        raise AttentionError(
            f"induction.heads.length is {length}: BOS and two copies are {total} tokens, but the context of "
            f"{model.spec.where} is {model.n_ctx}; lower it to at most {(model.n_ctx - front) // 2}"
        )
    ids = np.flatnonzero(ordinary_ids(model.vocabulary))
    if len(ids) < 2:
        raise AttentionError(f"{model.spec.where}: its tokenizer has {len(ids)} ids that mark nothing: none to draw")
    stretches = np.random.default_rng([seed, 0x4845]).choice(ids, (sequences, length))
    return Repeats.of_stretches(*repeat(stretches, model.bos_token_id, np.array([], dtype=np.int64), 2))


def weights_of(repetitions: Repeats) -> Float[Array, "measures sequences query key"]:
    """For every measure the weight of each (query, key): attention times weight, summed, is the measure.

    A measure without a query in a sequence has NaN there.
    """
    n, total = repetitions.tokens.shape
    found = np.zeros((len(MEASURES), n, total, total), dtype=np.float32)
    for s in range(n):
        score, previous, first, second = found[:, s]
        copy, offset, tokens = repetitions.copy[s], repetitions.offset[s], repetitions.tokens[s]
        last = copy.max()
        for query in np.flatnonzero((copy == last) & (last > 0)):
            earlier = np.flatnonzero(
                (copy >= 0) & (copy < last) & (offset == offset[query]) & (tokens == tokens[query])
            )
            score[query, earlier + 1] = 1
        inside = np.flatnonzero(copy >= 0)
        inside = inside[inside > 0]  # position 0 attends to itself alone
        previous[inside, inside - 1] = 1
        first[inside[copy[inside] == 0], 0] = 1
        second[inside[(copy[inside] == last) & (last > 0)], 0] = 1
    queries = (found != 0).any(-1).sum(-1)[..., None, None]
    return np.divide(found, queries, out=np.full_like(found, np.nan), where=queries > 0)


def measure_heads(model: Model, repetitions: Repeats, batch_size: int, label: str = "heads") -> Scores:
    """All measures of all heads from one clean pass, of the sequences that repeat something."""
    n = len(repetitions)
    values = np.full((len(MEASURES), n, model.n_layers, head_count(model.bridge)), np.nan)
    for start in tqdm(range(0, n, batch_size), desc=label, unit="batch", file=sys.stderr, disable=None):
        part = slice(start, min(start + batch_size, n))
        chosen = repetitions.part(part)
        weights = torch.from_numpy(weights_of(chosen)).to(model.device)

        def reduce(layer: int, pattern: Tensor, weights: Tensor = weights, part: slice = part) -> None:
            weighted = torch.einsum("bhqk,mbqk->mbh", pattern.to(weights.dtype), weights)
            values[:, part, layer] = weighted.double().cpu().numpy()

        patterns(model, torch.from_numpy(chosen.tokens).long(), reduce)
    usable = ~np.isnan(values[0]).any((-2, -1))
    return Scores(values[:, usable], repetitions.document[usable])


def summarise(scores: Scores, source: str, threshold: float, resamples: int, level: float, seed: int) -> pl.DataFrame:
    """Means over sequences with an interval for the score; the threshold applies to the overall mean."""
    values, clusters = scores.values, scores.clusters
    _, n_layers, n_heads = values.shape[1:]
    unique, which = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(unique), n_layers * n_heads))
    np.add.at(sums, which, values[0].reshape(len(which), -1))
    weights = bootstrap_weights(len(unique), resamples, seed)
    interval = clustered_interval(sums, np.bincount(which), weights, level)
    layer, head = np.divmod(np.arange(n_layers * n_heads), n_heads)
    rank = np.empty(len(layer), dtype=np.int64)
    rank[np.argsort(-interval.estimate, kind="stable")] = np.arange(len(layer))
    others = {name: values[m].mean(axis=0).ravel() for m, name in enumerate(MEASURES) if name != "score"}
    return pl.DataFrame(
        {
            "source": [source] * len(layer),
            "layer": layer,
            "head": head,
            **others,
            "is_induction": interval.estimate > threshold,
            "rank": rank,
            "n_sequences": np.full(len(layer), len(which)),
            "score": interval.estimate,
            "score_low": interval.low,
            "score_high": interval.high,
        },
        nan_to_null=True,
    )
