"""What probes learn from: planted and random labels, leakage, the fit by another optimiser, the model's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_models
import torch
from neuronlab.boosted_tokens import spell_tokens
from neuronlab.final_states import Text
from neuronlab.models import Model
from neuronlab.probe_ensembles import ProbeError
from neuronlab.probe_inputs import next_tokens, read_inputs, split_documents
from neuronlab.probes import decisions, features_of_ids
from neuronlab.token_features import FEATURES
from scipy.optimize import minimize
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

TINY = Callable[..., Model]
NAMES = ["continues_word", "punctuation"]
SEQUENCES, LENGTH = 24, 20


def text_frame(*, bos: bool = True, documents: int = 12, tokens: np.ndarray | None = None) -> pl.DataFrame:
    """24 sequences of 20 random tokens, each of one document; a few positions do not count."""
    generator = np.random.default_rng(0)
    if tokens is None:
        tokens = generator.integers(2, 196, (SEQUENCES, LENGTH))
    owners = np.repeat(np.arange(SEQUENCES)[:, None] % documents, LENGTH, axis=1)
    counted = generator.random((SEQUENCES, LENGTH)) < 0.9
    counted[:, -1] = False
    if bos:
        tokens[:, 0], owners[:, 0], counted[:, 0] = 0, -1, False
    columns = {"tokens": tokens.tolist(), "documents": owners.tolist(), "counted": counted.tolist()}
    return pl.DataFrame({"sequence": range(SEQUENCES)} | columns)


def test_a_neuron_that_is_the_feature_is_always_right() -> None:
    generator = np.random.default_rng(0)
    labels, test = generator.random(400) < 0.03, np.arange(400) >= 300
    for value in (1.0, -1.0, 1e-4, 300.0):
        x = np.where(labels, value, 0.0).astype(np.float32)[:, None]
        np.testing.assert_array_equal(decisions(x, labels, test) > 0, labels[test])
        beside_noise = np.hstack([x, generator.standard_normal((400, 5)).astype(np.float32)])
        np.testing.assert_array_equal(decisions(beside_noise, labels, test) > 0, labels[test])


def test_random_labels_are_told_as_by_a_coin() -> None:
    generator = np.random.default_rng(1)
    labels, test = generator.random(8000) < 0.1, np.arange(8000) >= 4000
    scores = decisions(generator.standard_normal((8000, 16)).astype(np.float32), labels, test)
    n = labels[test].sum()
    assert abs(roc_auc_score(labels[test], scores) - 0.5) < 3 / np.sqrt(12 * n)
    assert abs(balanced_accuracy_score(labels[test], scores > 0) - 0.5) < 3 / np.sqrt(16 * n)


def test_no_document_is_in_both_parts() -> None:
    generator = np.random.default_rng(2)
    documents = generator.integers(0, 41, 3000)
    test = split_documents(documents, 0.25, seed=0)
    assert not set(documents[test]) & set(documents[~test])
    assert len(set(documents[test])) == 10
    np.testing.assert_array_equal(test, split_documents(documents, 0.25, seed=0))
    assert (test != split_documents(documents, 0.25, seed=1)).any()


@pytest.mark.parametrize("documents", [2, 3, 4])
def test_few_documents_are_split_all_the_same(documents: int) -> None:
    owners = np.arange(30) % documents
    for share in (0.01, 0.25, 0.99):
        assert 1 <= len(set(owners[split_documents(owners, share, 0)])) < documents
    assert not split_documents(np.zeros(30, int), 0.25, 0).any()


def test_what_marks_a_document_does_not_help_on_others() -> None:
    """Each document has its own input and its own label: learnt by heart in training, of no use in the test."""
    generator = np.random.default_rng(3)
    documents = np.repeat(np.arange(80), 25)
    labels = (generator.random(80) < 0.5)[documents]
    marks = np.eye(80, dtype=np.float32)[documents]
    by_token = generator.random(len(documents)) < 0.25
    assert balanced_accuracy_score(labels[by_token], decisions(marks, labels, by_token) > 0) == 1.0
    test = split_documents(documents, 0.25, seed=0)
    assert balanced_accuracy_score(labels[test], decisions(marks, labels, test) > 0) == 0.5


def test_test_tokens_have_no_say_in_the_fit() -> None:
    generator = np.random.default_rng(4)
    x = generator.standard_normal((300, 4)).astype(np.float32)
    labels, test = x[:, 0] + generator.standard_normal(300) > 1, np.arange(300) % 3 == 0
    other, others = x.copy(), labels.copy()
    rest = np.flatnonzero(test)[1:]
    other[rest], others[rest] = 1000 * other[rest] + 7, ~others[rest]
    assert decisions(other, others, test)[0] == decisions(x, labels, test)[0]


def test_the_fit_is_the_minimum_of_the_penalised_balanced_loss() -> None:
    generator = np.random.default_rng(5)
    x = (generator.standard_normal((500, 3)) * [1, 20, 0.1] + [0, 5, -3]).astype(np.float32)
    labels, test = x[:, 0] + generator.standard_normal(500) > 1.2, np.arange(500) >= 400
    known, y = x[~test].astype(float), labels[~test]
    z = (x.astype(float) - known.mean(0)) / known.std(0)
    weight = np.where(y, 0.5 / y.mean(), 0.5 / (~y).mean())  # each class weighs as much as half the tokens

    def objective(parameters: np.ndarray) -> float:
        margin = np.where(y, 1, -1) * (z[~test] @ parameters[:3] + parameters[3])
        return float(weight @ np.logaddexp(0, -margin) + parameters[:3] @ parameters[:3] / 2)

    best = minimize(objective, np.zeros(4), method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(decisions(x, labels, test), z[test] @ best[:3] + best[3], atol=2e-4)


def test_inputs_constant_in_training_have_no_say() -> None:
    generator = np.random.default_rng(6)
    x = generator.standard_normal((200, 2)).astype(np.float32)
    labels, test = x[:, 0] > 0.3, np.arange(200) >= 150
    dead = x.copy()
    dead[:, 1] = 0.1  # not a short binary fraction: its standard deviation by rounding is not 0
    dead[150:, 1] = generator.standard_normal(50)
    np.testing.assert_allclose(decisions(dead, labels, test), decisions(x[:, :1], labels, test), atol=1e-9)


def test_inputs_are_the_models_own(architecture: str, tiny_model: TINY) -> None:
    """Activations, probability mass and top predictions at the counted positions, against plain forward passes."""
    model = tiny_model(architecture)
    text = Text.of_frame(text_frame(bos=model.bos_token_id is not None), "text")
    neurons = np.array([0, 3, model.d_mlp - 1, model.d_mlp, 2 * model.d_mlp - 1])
    has = features_of_ids(model, NAMES)
    found = read_inputs(model, text, neurons, has, batch_size=5, tokens_per_chunk=7)
    tokens = torch.from_numpy(text.tokens).long()
    activations = model.activations(tokens, [0, 1])
    flat = torch.cat([activations[0], activations[1]], dim=-1).numpy()[text.counted][:, neurons]
    np.testing.assert_allclose(found.activations, flat, atol=1e-5)
    p = model.logits(tokens).double().softmax(-1).numpy()[text.counted]
    mass = np.stack([p[:, column].sum(1) for column in has.T], axis=1)
    np.testing.assert_allclose(found.log_odds, np.log(mass) - np.log1p(-mass), atol=2e-4)
    np.testing.assert_array_equal(found.top, has[p.argmax(1)])
    assert found.top.any()
    assert (~found.top).any()


def test_neurons_of_one_layer_alone(tiny_model: TINY) -> None:
    model = tiny_model("llama")
    text = Text.of_frame(text_frame(), "text")
    has = features_of_ids(model, NAMES)
    both = read_inputs(
        model, text, np.array([2, model.d_mlp + 4]), has, batch_size=24, tokens_per_chunk=512
    ).activations
    alone = read_inputs(model, text, np.array([model.d_mlp + 4]), has, batch_size=24, tokens_per_chunk=512).activations
    np.testing.assert_array_equal(alone[:, 0], both[:, 1])


def test_labels_are_about_the_next_token_c_defect_1_and_never_padding_c_defect_5(tiny_model: TINY) -> None:
    model = tiny_model("gpt2")
    text = Text.of_frame(text_frame(), "text")
    strings, has = spell_tokens(model.tokenizer, model.d_vocab), features_of_ids(model, NAMES)
    labels, at = has[next_tokens(text)], 0
    for sequence, position in zip(*np.nonzero(text.counted), strict=True):
        following = strings[text.tokens[sequence, position + 1]]
        assert labels[at].tolist() == [FEATURES[name](following) for name in NAMES]
        at += 1
    assert at == len(labels)
    # Special tokens and padding have no feature, whatever is true of their names.
    everything = features_of_ids(model, list(FEATURES))
    assert not everything[[0, 1, *range(tiny_models.D_VOCAB_TOKENIZER, tiny_models.D_VOCAB)]].any()
    assert everything[2 : tiny_models.D_VOCAB_TOKENIZER].any(axis=1).mean() > 0.5


def test_activations_that_are_no_numbers_are_refused(
    tiny_model: TINY, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    real = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: real(tensor) / 0)
    text = Text.of_frame(text_frame(), "text")
    with pytest.raises(ProbeError, match=r"models\.gpt2: NaN or infinity.*bfloat16"):
        read_inputs(model, text, np.array([1]), features_of_ids(model, NAMES), batch_size=8, tokens_per_chunk=64)
