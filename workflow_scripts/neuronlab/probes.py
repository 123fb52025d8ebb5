"""Rule `train_probes`: can a feature of the next token be read from a few neurons' activations? (METHODS C5)

The study names the experiment in a paragraph and gives neither code nor settings; this is what is done
here. The question of a feature, for example `ends_ing`, is: has the NEXT token got it? A logistic regression on MLP
activations (`hook_post`) of neurons of all layers answers it: on the neurons that write most about the feature, one by
one and in ensembles of growing size, and on random ensembles of as many other neurons (`probe_ensembles`).

Beside them stand the model's own answers: whether its top prediction has the feature (`model`), and a probe on the
log odds that it gives to it (`mass`). A top prediction is made for being right most often, and neglects a rare class;
`mass` is weighed like the probes, so that it and no other row is the fair comparison for their balanced accuracy.

Tokens of one document are alike, so whole documents are for training or for testing. Activations are standardised by
the training tokens. Classes weigh the same in the fit, however rare, as they do in balanced accuracy. The penalty is
scikit-learn's default, |w|^2 / 2 against the sum of losses: nothing is tuned. The fit is deterministic, on one thread.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float64, Int
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from neuronlab.feature_neurons import empty, token_table
from neuronlab.final_states import Text
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.probe_ensembles import (
    Ensembles,
    ProbeError,
    all_differences,
    check_sizes,
    draw_ensembles,
    random_orders,
    ranked,
    read_listed,
)
from neuronlab.probe_inputs import ProbeInputs, next_tokens, read_inputs, split_documents
from neuronlab.probe_statistics import TestSet
from neuronlab.statistics import bootstrap_weights
from neuronlab.tables import Provenance, write_table
from neuronlab.token_features import FEATURES
from neuronlab.token_sample import sample_counted
from neuronlab.vocabulary_neurons import read_moments

Array = np.ndarray
TEST_SHARE = 0.25  # of the documents
SINGLES = 32  # neurons probed one by one, at most
ITERATIONS = 100  # of Newton's method, which takes about ten


@dataclass(frozen=True)
class Row:
    """One probe of a feature: the columns `order`, `size`, `draw`; and the neurons it reads."""

    order: str
    size: int
    draw: int
    neurons: Int[Array, " size"]


def train_probes(
    *,
    model: ModelSpec,
    tokens: str | Path,
    neurons: str | Path,
    feature_neurons: str | Path | None,
    probes: str | Path,
    features: Sequence[str],
    sizes: Sequence[int],
    draws: int,
    max_tokens: int,
    layers: Sequence[int] | None = None,
    batch_size: int = 16,
    tokens_per_chunk: int = 128,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write probes.

    Args:
        neurons: neurons.parquet, all layers: neurons that write nothing are left out.
        feature_neurons: the table of that name; its neurons come first. None: all by |difference|.
        features: names among `token_features.FEATURES`.
        sizes: of the ensembles; they grow by adding neurons.
        draws: random ensembles of each size.
        max_tokens: counted tokens used, whole sequences drawn by the seed.
        layers: whose neurons are read; all of them for None.

    Raises:
        ProbeError: unknown features or layers, ensembles larger than the model, tables of another model.
        ModelError, TableError: whatever does not fit.
    """
    names = check_features(features)
    text = Text.read(tokens)
    text = replace(text, counted=sample_counted(text.counted, max_tokens, seed))
    documents = text.documents[text.counted]
    test = split_documents(documents, TEST_SHARE, seed)
    print(f"{len(test)} tokens: {np.sum(~test)} to train on, {test.sum()} to test on", file=sys.stderr)
    loaded = load_model(model)
    moments = read_moments(neurons, loaded)
    read = check_layers(layers, loaded)
    usable = (moments["norm"].to_numpy() > 0) & np.isin(moments["layer"].to_numpy(), read)
    ascending = check_sizes(sizes, int(usable.sum()), loaded.spec.where)
    has = features_of_ids(loaded, names)
    labels = has[next_tokens(text)]
    kept = usable_features(names, has[loaded.vocabulary.real], labels, test)
    if not kept:
        write_table(empty("probes"), probes, "probes", provenance)
        return
    names, has, labels = [names[place] for place in kept], has[:, kept], labels[:, kept]
    ensembles = choose_ensembles(loaded, read, usable, feature_neurons, names, has, ascending[-1], draws, seed)
    needed = np.unique(np.concatenate([ensemble.neurons for ensemble in ensembles]))
    inputs = read_inputs(loaded, text, needed, has, batch_size=batch_size, tokens_per_chunk=tokens_per_chunk)
    owners, document = np.unique(documents[test], return_inverse=True)
    weights = bootstrap_weights(len(owners), resamples, seed)
    frames = []
    for column, (name, ensemble) in enumerate(zip(names, ensembles, strict=True)):
        places = replace(
            ensemble,
            by_score=np.searchsorted(needed, ensemble.by_score),
            random=np.searchsorted(needed, ensemble.random),
        )
        held_out = TestSet(labels[test, column], document, weights, level)
        rows = probe_feature(inputs, column, labels[:, column], test, held_out, places, ascending)
        frames.append(pl.DataFrame(rows).with_columns(pl.lit(name).alias("feature")))
    write_table(pl.concat(frames).fill_nan(None), probes, "probes", provenance)


def check_features(features: Sequence[str]) -> list[str]:
    """The names, each once.

    Raises:
        ProbeError: for a name that is no feature's.
    """
    names = list(dict.fromkeys(features))
    for name in names:
        if name not in FEATURES:
            close = difflib.get_close_matches(name, FEATURES) or sorted(FEATURES)
            raise ProbeError(
                f"stages_of_inference.probes.features names '{name}', which is no feature; there is {', '.join(close)}"
            )
    return names


def check_layers(layers: Sequence[int] | None, model: Model) -> list[int]:
    """The layers whose neurons are read, ascending.

    Raises:
        ProbeError: for a layer that the model does not have.
    """
    chosen = sorted(set(range(model.n_layers) if layers is None else layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= model.n_layers:
        raise ProbeError(f"layers are {chosen}; {model.spec.where} has layers 0 to {model.n_layers - 1}")
    return chosen


def features_of_ids(model: Model, names: Sequence[str]) -> Bool[Array, "vocab features"]:
    """Which ids have which features; special tokens and ids that only pad the vocabulary have none."""
    _, real = token_table(model)
    has = np.zeros((model.d_vocab, len(names)), dtype=bool)
    known = list(FEATURES)
    has[np.flatnonzero(model.vocabulary.real)] = real[:, [known.index(name) for name in names]]
    return has


def usable_features(
    names: Sequence[str],
    has: Bool[Array, "ids features"],
    labels: Bool[Array, "tokens features"],
    test: Bool[Array, " tokens"],
) -> list[int]:
    """Places of the features that some ids have and some lack, and both classes of which are in both parts.

    The others are named in the log.
    """
    kept = []
    for place, name in enumerate(names):
        n, column = int(has[:, place].sum()), labels[:, place]
        counts = [int(np.sum(column[part] == label)) for part in (~test, test) for label in (True, False)]
        if n in (0, len(has)):
            reason = f"{n} of {len(has)} tokens of the vocabulary have it"
        elif min(counts) == 0:
            reason = (
                f"next tokens with and without it are {counts[0]} and {counts[1]} in the documents to train on, "
                f"{counts[2]} and {counts[3]} in those to test on"
            )
        else:
            kept.append(place)
            continue
        print(f"no probes for the feature {name}: {reason}", file=sys.stderr)
    return kept


def choose_ensembles(
    model: Model,
    layers: Sequence[int],
    usable: Bool[Array, " neurons"],
    feature_neurons: str | Path | None,
    names: Sequence[str],
    has: Bool[Array, "vocab features"],
    size: int,
    draws: int,
    seed: int,
) -> list[Ensembles]:
    """Neurons of each feature's probes, the largest ensembles of `size`."""
    differences = all_differences(model, layers, has[model.vocabulary.real])
    nothing = np.empty(0, dtype=np.int64)
    listed = read_listed(feature_neurons, model, names, differences) if feature_neurons is not None else {}
    random, found = random_orders(usable, draws, seed), []
    for column, name in enumerate(names):
        ensembles = draw_ensembles(ranked(differences[:, column], usable), random, size)
        known = int(np.isin(ensembles.by_score, listed.get(name, nothing)).sum())
        print(f"{name}: {known} of the {size} best neurons are vocabulary neurons", file=sys.stderr)
        found.append(ensembles)
    return found


def planned(ensembles: Ensembles, sizes: Sequence[int]) -> Iterator[Row]:
    """All probes on activations of a feature, in the order of the table."""
    for size in sizes:
        yield Row("score", size, -1, ensembles.by_score[:size])
    for place, neuron in enumerate(ensembles.by_score[:SINGLES]):
        yield Row("single", 1, place, np.array([neuron]))
    for size in sizes:
        if size <= ensembles.random.shape[1]:
            for draw, neurons in enumerate(ensembles.random):
                yield Row("random", size, draw, neurons[:size])


def probe_feature(
    inputs: ProbeInputs,
    column: int,
    labels: Bool[Array, " tokens"],
    test: Bool[Array, " tokens"],
    held_out: TestSet,
    ensembles: Ensembles,
    sizes: Sequence[int],
) -> list[dict[str, str | int | float]]:
    """Rows of one feature, its name left out.

    Args:
        column: the feature's place in `inputs`.
        labels: whether the next token has it.
        test: which tokens are for testing.
        held_out: these, to measure on.
        ensembles: columns of `inputs.activations`.
    """
    counts = {"n_train": int(np.sum(~test)), "n_test": int(test.sum()), "n_positive": int(held_out.labels.sum())}
    rows = []

    def add(row: Row, answers: Bool[Array, " tokens"], scores: Float[Array, " tokens"]) -> None:
        measured = {"order": row.order, "size": row.size, "draw": row.draw} | counts
        for name, interval in (("accuracy", held_out.balanced_accuracy(answers)), ("auc", held_out.auc(scores))):
            measured |= {name: interval.estimate[0], f"{name}_low": interval.low[0], f"{name}_high": interval.high[0]}
        rows.append(measured)

    with threadpool_limits(1):
        for row in planned(ensembles, sizes):
            scores = decisions(inputs.activations[:, row.neurons], labels, test)
            add(row, scores > 0, scores)
        nothing = np.empty(0, dtype=np.int64)
        add(Row("model", 0, -1, nothing), inputs.top[test, column], inputs.log_odds[test, column])
        scores = decisions(inputs.log_odds[:, [column]], labels, test)
        add(Row("mass", 0, -1, nothing), scores > 0, scores)
    return rows


def decisions(
    x: Float[Array, "tokens inputs"], labels: Bool[Array, " tokens"], test: Bool[Array, " tokens"]
) -> Float64[Array, " test"]:
    """Log odds that a probe, fitted on the other tokens, gives to the test tokens; positive: it says yes.

    Inputs are standardised by the training tokens; one that is constant there has no say.
    """
    known, asked = x[~test].astype(np.float64), x[test].astype(np.float64)
    varies = np.ptp(known, axis=0) > 0
    mean, sd = known.mean(axis=0), np.where(varies, known.std(axis=0), np.inf)
    probe = LogisticRegression(solver="newton-cholesky", class_weight="balanced", max_iter=ITERATIONS)
    probe.fit((known - mean) / sd, labels[~test])
    if probe.n_iter_.max() >= ITERATIONS:
        print(f"a probe on {x.shape[1]} inputs has not converged in {ITERATIONS} steps", file=sys.stderr)
    return probe.decision_function((asked - mean) / sd)
