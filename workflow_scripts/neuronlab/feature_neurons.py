"""Neurons whose effect on the logits follows a feature of the tokens (METHODS C5, D2).

Candidates are the neurons with a kurtosis or a variance of their cosine profile above the thresholds of `vocabulary_
neurons`. Each of them is compared with each feature of `token_features` by `feature_scores`; per feature, the neurons
with the largest |difference| of mean logit effects are kept. Holm's correction is over all comparisons made, not over
those kept. Ids that only pad the vocabulary take no part (C defect 5); special tokens such as BOS are no text: they
have no feature, and stand among the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from neuronlab.boosted_tokens import spell_tokens
from neuronlab.feature_scores import Scores, logit_effects, power_sums, score
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.paired_tests import holm
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, write_table
from neuronlab.token_features import FEATURES, feature_matrix
from neuronlab.vocabulary_neurons import KINDS, kind_rule, read_moments

EXAMPLES = 12  # tokens shown of a feature
HISTOGRAM_NEURONS, BINS = 3, 60  # histograms are made of the best neurons of each feature
MEASURES = tuple(field.name for field in fields(Scores))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that stand for no text: BOS, EOS, reserved ones, ..."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def token_table(model: Model) -> tuple[list[str], Bool[np.ndarray, "tokens features"]]:
    """The real tokens as text, and which of them have which features (columns in the order of `FEATURES`)."""
    ids = np.flatnonzero(model.vocabulary.real).tolist()
    spelled = spell_tokens(model.tokenizer, model.d_vocab)
    strings = [spelled[token] for token in ids]
    has = feature_matrix(strings)
    special = special_ids(model.tokenizer)
    has[[place for place, token in enumerate(ids) if token in special]] = False
    return strings, has


def feature_rows(strings: Sequence[str], has: Bool[np.ndarray, "tokens features"]) -> pl.DataFrame:
    """Rows of features.parquet: every feature, those that no token has among them."""
    examples = []
    for column in has.T:
        places = np.flatnonzero(column)
        # Spread over the vocabulary, whose first ids are often alike.
        chosen = places[np.unique(np.linspace(0, len(places) - 1, EXAMPLES).round().astype(int))] if len(places) else []
        examples.append(json.dumps([strings[place] for place in chosen], ensure_ascii=False))
    return pl.DataFrame({"feature": list(FEATURES), "n_tokens": has.sum(axis=0), "examples": examples})


def empty(name: str) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})


def candidate_rows(neurons: pl.DataFrame, vocab_kurt_min: float, vocab_var_min: float) -> pl.DataFrame:
    """Candidates with their kind; prediction or suppression where a neuron is of a second kind as well."""
    rules = [kind_rule(kind, vocab_kurt_min, vocab_var_min) for kind in KINDS]
    first = pl.coalesce([pl.when(rule).then(pl.lit(kind)) for kind, rule in zip(KINDS, rules, strict=True)])
    found = neurons.filter((pl.col("vocab_kurt") > vocab_kurt_min) | (pl.col("vocab_var") > vocab_var_min))
    return found.select("layer", "neuron", first.alias("kind")).sort("layer", "neuron")


def _best(scores: Scores, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Neurons and features of the `top` largest |difference| per feature."""
    order = np.argsort(-np.abs(scores.difference), axis=0, kind="stable")[:top]
    return order.T.ravel(), np.repeat(np.arange(order.shape[1]), len(order))


def score_rows(
    model: Model,
    W: Float[Tensor, "d tokens"],
    candidates: pl.DataFrame,
    names: Sequence[str],
    has: Bool[np.ndarray, "tokens features"],
    top: int,
) -> pl.DataFrame:
    """Rows of feature_neurons.parquet: the best `top` candidates of each feature.

    Args:
        W: the read-out's columns of the real tokens.
        candidates: rows `layer`, `neuron`, `kind`.
        names: the features compared, columns of `has`.
        has: which real tokens have them.
    """
    if not len(candidates) or not names:
        return empty("feature_neurons")
    p_values: list[Float64[np.ndarray, "neurons features"]] = []
    frames, before = [], 0
    groups = candidates.partition_by("layer", maintain_order=True)
    for group in tqdm(groups, desc="score_features", unit="layer"):
        scores = score(power_sums(model.w_out(int(group["layer"][0]))[group["neuron"].to_list()], W, has))
        p_values.append(scores.p_value)
        neuron, feature = _best(scores, top)
        measures = {name: getattr(scores, name)[neuron, feature] for name in MEASURES}
        # The best over all layers are among the best of each: no other row is kept.
        frames.append(
            group[neuron].with_columns(
                pl.Series("feature", np.array(names)[feature]),
                pl.Series("order", feature),
                pl.Series("test", (before + neuron) * len(names) + feature),
                pl.Series("n_feature", has.sum(axis=0)[feature]),
                *(pl.Series(name, values) for name, values in measures.items()),
            )
        )
        before += len(group)
    corrected = holm(np.concatenate(p_values).ravel())
    ranked = pl.concat(frames).sort(
        "order", pl.col("difference").abs(), "layer", "neuron", descending=[False, True, False, False]
    )
    place = pl.int_range(pl.len()).over("feature").alias("place")
    kept = ranked.with_columns(place).filter(pl.col("place") < top)
    kept = kept.with_columns(pl.Series("p_value_holm", corrected[kept["test"].to_numpy()]))
    return kept.drop("order", "test").with_columns(pl.col(pl.Float64).fill_nan(None))


def histogram_rows(
    model: Model,
    W: Float[Tensor, "d tokens"],
    best: pl.DataFrame,
    names: Sequence[str],
    has: Bool[np.ndarray, "tokens features"],
) -> pl.DataFrame:
    """Rows of feature_histograms.parquet: logit effects of each feature's best neurons, with it and without it.

    Both groups of a neuron share their bins, which cut the range of all its effects evenly.
    """
    chosen = best.filter(pl.col("place") < HISTOGRAM_NEURONS)
    if not len(chosen):
        return empty("feature_histograms")
    pairs = list(chosen.select("layer", "neuron").unique().sort("layer", "neuron").iter_rows())
    layers = sorted({layer for layer, _ in pairs})
    w = torch.cat([model.w_out(layer)[[neuron for at, neuron in pairs if at == layer]] for layer in layers])
    effects = dict(zip(pairs, logit_effects(w, W), strict=True))
    columns = dict(zip(names, has.T, strict=True))
    frames = []
    for layer, neuron, feature in chosen.select("layer", "neuron", "feature").iter_rows():
        values = effects[layer, neuron]
        edges = np.histogram_bin_edges(values, BINS)
        for group, members in (("feature", columns[feature]), ("rest", ~columns[feature])):
            counts, _ = np.histogram(values[members], edges)
            frames.append(
                pl.DataFrame({"bin_start": edges[:-1], "bin_end": edges[1:], "n": counts}).with_columns(
                    layer=pl.lit(layer), neuron=pl.lit(neuron), feature=pl.lit(feature), group=pl.lit(group)
                )
            )
    return pl.concat(frames)


def score_features(
    *,
    model: ModelSpec,
    neurons: str | Path,
    features: str | Path,
    feature_neurons: str | Path,
    feature_histograms: str | Path,
    vocab_kurt_min: float,
    vocab_var_min: float,
    min_tokens: int,
    top: int,
    provenance: Provenance | None = None,
) -> None:
    """Rule `score_features`: every candidate neuron against every feature of the vocabulary.

    Args:
        model: the model that the moments are of.
        neurons: neurons.parquet, all layers.
        features, feature_neurons, feature_histograms: paths of the tables written.
        vocab_kurt_min, vocab_var_min: a candidate has a kurtosis or a variance above these.
        min_tokens: features that fewer real tokens have, or lack, are described, but not compared.
        top: neurons kept per feature.

    Raises:
        ModelError, TableError: unusable model or table.
        VocabularyNeuronError: the table is of another model.
    """
    loaded = load_model(model)
    frame = read_moments(neurons, loaded)
    strings, has = token_table(loaded)
    n_having = has.sum(axis=0)
    usable = np.minimum(n_having, len(strings) - n_having) >= max(min_tokens, 2)
    names = [name for name, use in zip(FEATURES, usable, strict=True) if use]
    left_out = [f"{name} ({n})" for name, n, use in zip(FEATURES, n_having, usable, strict=True) if not use]
    if left_out:
        print(
            f"features that too few tokens have, or lack, to be compared (features.min_tokens): {', '.join(left_out)}"
        )
    candidates = candidate_rows(frame, vocab_kurt_min, vocab_var_min)
    print(f"{len(candidates)} candidate neurons, {len(names)} features, {len(strings)} tokens")
    readout = loaded.readout()
    W = readout.W[:, readout.real]
    best = score_rows(loaded, W, candidates, names, has[:, usable], top)
    write_table(feature_rows(strings, has), features, "features", provenance)
    write_table(best, feature_neurons, "feature_neurons", provenance)
    histograms = histogram_rows(loaded, W, best, names, has[:, usable])
    write_table(histograms, feature_histograms, "feature_histograms", provenance)
