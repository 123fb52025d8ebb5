"""The rule of the probes by scikit-learn's own pipeline; what it leaves out and what it refuses."""

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
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.probe_ensembles import ProbeError
from neuronlab.probe_inputs import next_tokens, read_inputs, split_documents
from neuronlab.probes import SINGLES, TEST_SHARE, decisions, features_of_ids, train_probes
from neuronlab.tables import read_table, write_table
from neuronlab.token_features import FEATURES
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_probe_ensembles import listed_table
from test_probe_inputs import NAMES, text_frame
from test_vocabulary_neurons import measured
from transformers import GPT2Config

TINY = Callable[..., Model]
OPTIONS = {"features": NAMES, "sizes": [1, 3], "draws": 2, "max_tokens": 10_000, "resamples": 40, "batch_size": 5}


def run(model: Model, folder: Path, frame: pl.DataFrame | None = None, **changes: object) -> pl.DataFrame:
    """The rule's table."""
    tokens = folder / "tokens.parquet"
    if frame is None:
        frame = text_frame(bos=model.bos_token_id is not None)
    write_table(frame, tokens, "tokens")
    options = {"feature_neurons": None} | OPTIONS | changes
    path = folder / "probes.parquet"
    train_probes(model=model.spec, tokens=tokens, neurons=measured(model, folder), probes=path, **options)
    return read_table(path, "probes")


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_the_table_by_scikit_learns_pipeline(architecture: str, tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    found = run(model, tmp_path, sizes=[3, 1, 3])
    assert found["feature"].unique(maintain_order=True).to_list() == NAMES
    text = Text.read(tmp_path / "tokens.parquet")
    tokens = torch.from_numpy(text.tokens).long()
    acts = model.activations(tokens, [0, 1])
    x = torch.cat([acts[0], acts[1]], dim=-1).double().numpy()[text.counted]
    p = model.logits(tokens).double().softmax(-1).numpy()[text.counted]
    documents = text.documents[text.counted]
    test = split_documents(documents, TEST_SHARE, 0)
    strings, readout = spell_tokens(model.tokenizer, model.d_vocab), model.readout()
    real = readout.real.numpy()
    w = torch.cat([model.w_out(0), model.w_out(1)]).double().numpy()
    effects = w @ readout.W.double().numpy()
    for name in NAMES:
        has = np.array([FEATURES[name](s) and s not in ("<bos>", "<eos>") for s in strings]) & real
        difference = effects[:, has].mean(1) - effects[:, real & ~has].mean(1)
        order = np.argsort(-np.abs(difference))
        labels = has[text.tokens[:, 1:][text.counted[:, :-1]]]
        rows = found.filter(pl.col("feature") == name)
        counts = rows.select("n_train", "n_test", "n_positive").unique().rows()
        assert counts == [(np.sum(~test), test.sum(), labels[test].sum())]

        def scores(inputs: np.ndarray, labels: np.ndarray = labels) -> np.ndarray:
            pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", tol=1e-8))
            return pipeline.fit(inputs[~test], labels[~test]).decision_function(inputs[test])

        mass = p[:, has].sum(1)
        expected = {("model", 0, -1): (has[p.argmax(1)][test], mass[test])}
        for size in (1, 3):
            expected["score", size, -1] = (None, scores(x[:, order[:size]]))
        for place in range(3):
            expected["single", 1, place] = (None, scores(x[:, [order[place]]]))
        expected["mass", 0, -1] = (None, scores(np.log(mass / (1 - mass))[:, None]))
        for key, (answers, values) in expected.items():
            row = rows.filter((pl.col("order") == key[0]) & (pl.col("size") == key[1]) & (pl.col("draw") == key[2]))
            answers = values > 0 if answers is None else answers
            assert row["accuracy"].to_list() == [pytest.approx(balanced_accuracy_score(labels[test], answers))], key
            assert row["auc"].to_list() == [pytest.approx(roc_auc_score(labels[test], values), abs=2e-3)], key
        keys = rows.select("order", "size", "draw").rows()
        random = [("random", size, draw) for size in (1, 3) for draw in (0, 1)]
        singles = [("single", 1, place) for place in range(3)]
        whole = [("score", 1, -1), ("score", 3, -1), *singles, *random, ("model", 0, -1), ("mass", 0, -1)]
        assert keys == whole
        one, best = (rows.filter(pl.col("order") == order)[0] for order in ("score", "single"))
        assert one["accuracy"].equals(best["accuracy"])
        for measure in ("accuracy", "auc"):
            inside = rows.filter(pl.col(f"{measure}_low").is_not_null())
            assert len(inside)
            assert inside[f"{measure}_low"].le(inside[f"{measure}_high"]).all()


def test_the_neurons_that_write_most_about_a_feature_are_probed_first(tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    path = listed_table(model, tmp_path)
    listed, plain = run(model, tmp_path, feature_neurons=path), run(model, tmp_path)
    has, readout = features_of_ids(model, NAMES), model.readout()
    W = readout.W[:, readout.real].double().numpy()
    mean = [W[:, has[model.vocabulary.real, 0] == value].mean(axis=1) for value in (True, False)]
    w = np.concatenate([model.w_out(layer).double().numpy() for layer in range(model.n_layers)])
    largest = np.argsort(-np.abs(w @ (mean[0] - mean[1])))[:3]
    text = Text.read(tmp_path / "tokens.parquet")
    x = read_inputs(model, text, np.sort(largest), has, batch_size=5, tokens_per_chunk=128).activations
    test = split_documents(text.documents[text.counted], TEST_SHARE, 0)
    labels = has[next_tokens(text)][:, 0]
    expected = roc_auc_score(labels[test], decisions(x, labels, test))
    is_ensemble = (pl.col("order") == "score") & (pl.col("size") == 3) & (pl.col("feature") == NAMES[0])
    assert plain.filter(is_ensemble)["auc"].to_list() == [pytest.approx(expected, abs=1e-9)]
    assert listed.equals(plain)  # whether a neuron is a vocabulary neuron does not matter


def test_same_bytes_twice_and_no_batch_matters(tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model("gpt_neox")
    first = run(model, tmp_path)
    written = (tmp_path / "probes.parquet").read_bytes()
    run(model, tmp_path)
    assert (tmp_path / "probes.parquet").read_bytes() == written
    other = run(model, tmp_path, batch_size=24, tokens_per_chunk=1000)
    difference = (first["auc"] - other["auc"]).abs().max()
    assert difference < 5e-3  # a tie in the scores that rounding decides
    assert not run(model, tmp_path, seed=1)["auc"].equals(first["auc"])


def test_other_features_asked_for_change_no_row(tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model("llama")
    both = run(model, tmp_path)
    alone = run(model, tmp_path, features=NAMES[1:])
    assert both.filter(pl.col("feature") == NAMES[1]).equals(alone)


def test_at_most_max_tokens(tiny_model: TINY, tmp_path: Path) -> None:
    found = run(tiny_model("gpt2"), tmp_path, max_tokens=250)
    assert (found["n_train"] + found["n_test"]).unique().to_list() == [250]


def one_member(frame: pl.DataFrame) -> pl.DataFrame:
    """The text with a single lower-case letter ('q') in it, in the place of all others."""
    tokens = np.array(frame["tokens"].to_list())
    tokens[tokens >= 36] = 30
    tokens[3, 7] = 2 + 2 + ord("q") - 33
    return text_frame(tokens=tokens)


def test_features_without_both_classes_are_left_out_and_named(
    tiny_model: TINY, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("gpt2")
    frame = one_member(text_frame())
    strings = spell_tokens(model.tokenizer, model.d_vocab)
    text = Text.of_frame(frame, "text")
    assert sum(FEATURES["continues_word"](strings[token]) for token in next_tokens(text)) == 1
    found = run(model, tmp_path, frame, features=["continues_word", "punctuation", "month"])
    assert found["feature"].unique().to_list() == ["punctuation"]
    log = capsys.readouterr().err
    assert "no probes for the feature month: 0 of 196 tokens of the vocabulary have it" in log
    assert "no probes for the feature continues_word: next tokens with and without it are" in log


def test_no_feature_left_gives_an_empty_table(
    tiny_model: TINY, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One document cannot be split; nor has a text of one class a probe."""
    model = tiny_model("gpt2")
    assert not len(run(model, tmp_path, text_frame(documents=1)))
    assert "no probes for the feature punctuation" in capsys.readouterr().err
    assert not len(run(model, tmp_path, features=["month"]))


def test_a_class_with_one_member_on_either_side_has_probes(tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    tokens = np.array(one_member(text_frame())["tokens"].to_list())
    text = Text.of_frame(text_frame(tokens=tokens.copy()), "text")
    test = split_documents(np.arange(12), TEST_SHARE, 0)
    letter, places = tokens[3, 7], np.argwhere(text.counted[:, 5:6])[:, 0]
    tokens[3, 7] = 30
    for part in (test, ~test):
        tokens[next(s for s in places if part[s % 12]), 6] = letter
    found = run(model, tmp_path, text_frame(tokens=tokens), features=["continues_word"])
    assert found["n_positive"].unique().to_list() == [1]
    assert found["accuracy"].null_count() == found["auc"].null_count() == 0


def test_a_model_of_one_layer_with_few_neurons(tmp_path: Path) -> None:
    """Ensembles of two thirds of its neurons: no random ensemble of that size stands beside them."""
    config = GPT2Config(
        vocab_size=tiny_models.D_VOCAB, n_embd=32, n_inner=48, n_layer=1, n_head=4, n_positions=64, bos_token_id=0
    )
    network = tiny_models.make_model("gpt2", config=config)
    network.transformer.h[0].mlp.c_proj.weight.data[5] = 0  # writes nothing
    network.save_pretrained(tmp_path / "model")
    tiny_models.make_tokenizer().save_pretrained(tmp_path / "model")
    model = load_model(ModelSpec("one", "directory", path=str(tmp_path / "model"), device="cpu"))
    found = run(model, tmp_path, sizes=[2, 40])
    sizes = found.filter(pl.col("feature") == NAMES[0]).group_by("order").agg(pl.col("size").unique().sort())
    assert dict(sizes.iter_rows()) == {"score": [2, 40], "single": [1], "random": [2], "model": [0], "mass": [0]}
    assert found.filter(pl.col("order") == "single")["draw"].max() == SINGLES - 1
    with pytest.raises(ProbeError, match="has 47 that write something"):
        run(model, tmp_path, sizes=[48])


def test_layers_asked_for(tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    found = run(model, tmp_path, layers=[1], sizes=[24])
    assert set(found["size"]) == {0, 1, 24}
    with pytest.raises(ProbeError, match="layers 0 to 1"):
        run(model, tmp_path, layers=[2])


def test_an_unknown_feature_is_named_with_what_is_close(tiny_model: TINY, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"stages_of_inference\.probes\.features names 'end_ing'.*ends_ing"):
        run(tiny_model("gpt2"), tmp_path, features=["end_ing"])
