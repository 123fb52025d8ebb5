"""Prediction, suppression and partition neurons, layer by layer (METHODS C2, D2).

The cosine profile of a neuron is cos(w_out, W_U column) over the real vocabulary; `weights` measured its moments. A
neuron with a heavy-tailed profile (kurtosis E[z^4] above a threshold) writes about a few tokens: with a positive skew
it promotes them, a prediction neuron, with a negative skew it suppresses them. One with a large variance splits the
vocabulary in two, a partition neuron. The rules are those of study D; a neuron may be of two kinds.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import torch

from neuronlab.boosted_tokens import boosted, spell_tokens
from neuronlab.model_families import family_of
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import wilson_interval
from neuronlab.tables import Provenance, read_provenance, read_table, write_table

PREDICTION, SUPPRESSION, PARTITION = KINDS = ("prediction", "suppression", "partition")


class VocabularyNeuronError(ValueError):
    """Moments that do not belong to the model."""


def kind_rule(kind: str, vocab_kurt_min: float, vocab_var_min: float) -> pl.Expr:
    """Whether a row of neurons.parquet is of the kind; null for a neuron that writes nothing."""
    heavy = pl.col("vocab_kurt") > vocab_kurt_min
    return {
        PREDICTION: heavy & (pl.col("vocab_skew") > 0),
        SUPPRESSION: heavy & (pl.col("vocab_skew") < 0),
        PARTITION: pl.col("vocab_var") > vocab_var_min,
    }[kind]


def read_moments(neurons: str | Path, model: Model) -> pl.DataFrame:
    """neurons.parquet, checked against the model; says so if padded ids took part in its moments (C defect 5).

    Raises:
        TableError: unusable table.
        VocabularyNeuronError: other layers or neurons than the model's.
    """
    frame = read_table(neurons, "neurons").sort("layer", "neuron")
    if not len(frame) or (frame["layer"].max(), frame["neuron"].max()) != (model.n_layers - 1, model.d_mlp - 1):
        raise VocabularyNeuronError(
            f"{neurons}: not the neurons of {model.spec.where}, which has {model.n_layers} layers of {model.d_mlp}; "
            "delete the table and run the workflow again"
        )
    padded = model.d_vocab - model.d_vocab_real
    if padded and read_provenance(neurons).get("parameters", {}).get("include_padded"):
        print(
            f"warning: {neurons}: its moments include {padded} ids that only pad the vocabulary "
            "(weights.include_padded), which moves kurtosis and skewness"
        )
    return frame


def count_rows(neurons: pl.DataFrame, vocab_kurt_min: float, vocab_var_min: float, level: float) -> pl.DataFrame:
    """Rows of vocabulary_counts.parquet: every layer and kind, layers without such a neuron among them."""
    last = int(neurons["layer"].max())  # type: ignore[arg-type]
    frames = []
    for kind in KINDS:
        # A sum leaves nulls out: a neuron that writes nothing is of no kind.
        counts = neurons.group_by("layer").agg(
            kind_rule(kind, vocab_kurt_min, vocab_var_min).sum().cast(pl.Int64).alias("n"),
            (pl.col("norm") > 0).sum().cast(pl.Int64).alias("n_neurons"),
        )
        interval = wilson_interval(counts["n"].to_numpy(), counts["n_neurons"].to_numpy(), level)
        frames.append(
            counts.with_columns(
                (pl.col("layer") / max(last, 1)).alias("depth"),
                pl.lit(kind).alias("kind"),
                pl.lit(float(vocab_var_min if kind == PARTITION else vocab_kurt_min)).alias("threshold"),
                pl.Series("share", interval.estimate).fill_nan(None),
                pl.Series("share_low", interval.low).fill_nan(None),
                pl.Series("share_high", interval.high).fill_nan(None),
            )
        )
    order = pl.col("kind").replace_strict(list(KINDS), range(len(KINDS)))
    return pl.concat(frames).sort("layer", order)


def strongest_neurons(
    neurons: pl.DataFrame, vocab_kurt_min: float, vocab_var_min: float, strongest: int
) -> pl.DataFrame:
    """The neurons of each kind with the largest kurtosis (partition: variance); ties by layer and neuron."""
    frames = []
    for kind in KINDS:
        measure = "vocab_var" if kind == PARTITION else "vocab_kurt"
        found = neurons.filter(kind_rule(kind, vocab_kurt_min, vocab_var_min))
        ranked = found.sort(measure, "layer", "neuron", descending=[True, False, False]).head(strongest)
        frames.append(ranked.with_row_index("place").with_columns(pl.lit(kind).alias("kind")))
        if not len(found):
            print(f"no {kind} neuron: none has {measure} above its threshold")
    return pl.concat(frames).select("layer", "neuron", "kind", "place", "vocab_var", "vocab_skew", "vocab_kurt")


def token_columns(model: Model, chosen: pl.DataFrame, count: int) -> pl.DataFrame:
    """`chosen` with the `count` real tokens at either end of each neuron's cosine profile, as JSON."""
    if not len(chosen):
        return pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["vocabulary_neurons"].items()})
    pairs = list(chosen.select("layer", "neuron").unique().sort("layer", "neuron").iter_rows())
    rows = {
        layer: model.w_out(layer)[[neuron for at, neuron in pairs if at == layer]] for layer in {at for at, _ in pairs}
    }
    # All of them in one go: the normalised W_U is as large as the vocabulary, and made anew by every call.
    tokens, _ = boosted(torch.cat([rows[layer] for layer in sorted(rows)]), model.readout(), count)
    strings = spell_tokens(model.tokenizer, model.d_vocab)
    ends = {}
    for pair, ids in zip(pairs, tokens.tolist(), strict=True):
        spelled = [strings[token] for token in ids]
        half = len(spelled) // 2
        ends[pair] = [json.dumps(part, ensure_ascii=False) for part in (spelled[:half], spelled[half:])]
    keys = list(zip(chosen["layer"], chosen["neuron"], strict=True))
    return chosen.with_columns(
        pl.Series("top_tokens", [ends[key][0] for key in keys]),
        pl.Series("bottom_tokens", [ends[key][1] for key in keys]),
    )


def count_vocabulary_neurons(
    *,
    model: ModelSpec,
    neurons: str | Path,
    vocabulary_counts: str | Path,
    vocabulary_neurons: str | Path,
    vocab_kurt_min: float,
    vocab_var_min: float,
    strongest: int,
    level: float,
    provenance: Provenance | None = None,
) -> None:
    """Rule `count_vocabulary_neurons`: neurons of each kind per layer, and the strongest with their tokens.

    Args:
        model: the model that the moments are of.
        neurons: neurons.parquet, all layers.
        vocabulary_counts, vocabulary_neurons: paths of the tables written.
        vocab_kurt_min: prediction and suppression neurons have a kurtosis above it.
        vocab_var_min: partition neurons have a variance above it.
        strongest: neurons listed of each kind, and tokens at either end of each.
        level: of the Wilson intervals.

    Raises:
        ModelError, TableError: unusable model or table.
        VocabularyNeuronError: the table is of another model.
    """
    loaded = load_model(model)
    frame = read_moments(neurons, loaded)
    if vocab_var_min <= 1 / loaded.d_model:
        print(
            f"warning: vocab_var_min is {vocab_var_min:g}, but the cosine profile of a random direction in "
            f"{loaded.d_model} dimensions has a variance of {1 / loaded.d_model:.2g} already: "
            "partition neurons by this threshold are no special kind"
        )
    counts = count_rows(frame, vocab_kurt_min, vocab_var_min, level).with_columns(family=pl.lit(family_of(model)))
    chosen = strongest_neurons(frame, vocab_kurt_min, vocab_var_min, strongest)
    write_table(counts, vocabulary_counts, "vocabulary_counts", provenance)
    write_table(token_columns(loaded, chosen, strongest), vocabulary_neurons, "vocabulary_neurons", provenance)
