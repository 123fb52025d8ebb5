"""Prediction, suppression and partition neurons: counted, listed, with the tokens at either end."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from neuronlab.boosted_tokens import spell_tokens
from neuronlab.tables import read_table, write_table
from neuronlab.vocabulary_neurons import KINDS, VocabularyNeuronError, count_rows, count_vocabulary_neurons
from neuronlab.weights import measure_neurons
from scipy import stats

KURT, VAR = 2.9, 0.033  # thresholds that a tiny model's neurons lie on both sides of


def measured(model, folder, include_padded=False, provenance=None):
    """W/neurons.parquet of a tiny model."""
    measure_neurons(
        model=model.spec,
        null_space_k=[2],
        include_padded=include_padded,
        neurons_per_tile=64,
        seed=0,
        neurons=folder / "neurons.parquet",
        null_space=folder / "null_space.parquet",
        singular_values=folder / "singular_values.parquet",
        provenance=provenance,
    )
    return folder / "neurons.parquet"


def run(model, neurons, folder, **changes):
    options = {"vocab_kurt_min": KURT, "vocab_var_min": VAR, "strongest": 4, "level": 0.95} | changes
    paths = {name: folder / f"{name}.parquet" for name in ("vocabulary_counts", "vocabulary_neurons")}
    count_vocabulary_neurons(model=model.spec, neurons=neurons, **paths, **options)
    return [read_table(path, name) for name, path in paths.items()]


def cosines(model, layer):
    """Cosine profiles over real ids, plainly."""
    readout = model.readout()
    W = readout.W.double().numpy()[:, readout.real.numpy()]
    w = model.w_out(layer).double().numpy()
    return (w @ W) / np.linalg.norm(w, axis=1)[:, None] / np.linalg.norm(W, axis=0)


def kinds(profile):
    """Which neurons of a layer are of which kind, from scipy's moments."""
    kurt, skew = stats.kurtosis(profile, axis=1, fisher=False), stats.skew(profile, axis=1)
    return {
        "prediction": (kurt > KURT) & (skew > 0),
        "suppression": (kurt > KURT) & (skew < 0),
        "partition": profile.var(axis=1) > VAR,
    }


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_counts_and_strongest_from_profiles(architecture, tiny_model, tmp_path):
    """C defect 5 with it: the tiny models pad their vocabularies, and the padded columns must not count."""
    model = tiny_model(architecture)
    counts, listed = run(model, measured(model, tmp_path), tmp_path)
    strings = np.array(spell_tokens(model.tokenizer, model.d_vocab))[model.readout().real.numpy()]
    profiles = [cosines(model, layer) for layer in range(model.n_layers)]
    for layer, profile in enumerate(profiles):
        rows = counts.filter(pl.col("layer") == layer)
        assert rows["kind"].to_list() == list(KINDS)
        assert rows["n"].to_list() == [found.sum() for found in kinds(profile).values()]
        assert rows["n_neurons"].to_list() == [model.d_mlp] * 3
        assert rows["depth"].to_list() == [layer] * 3  # of two layers
    for kind in KINDS:
        measure = (lambda p: p.var(axis=1)) if kind == "partition" else (lambda p: stats.kurtosis(p, axis=1))
        found = [
            (value, layer, neuron)
            for layer, profile in enumerate(profiles)
            for neuron, (value, is_kind) in enumerate(zip(measure(profile), kinds(profile)[kind], strict=True))
            if is_kind
        ]
        assert len(found) > 4
        expected = [(layer, neuron) for _, layer, neuron in sorted(found, reverse=True)[:4]]
        rows = listed.filter(pl.col("kind") == kind)
        assert list(rows.select("layer", "neuron").iter_rows()) == expected
        assert rows["place"].to_list() == [0, 1, 2, 3]
        for (layer, neuron), top, bottom in zip(expected, rows["top_tokens"], rows["bottom_tokens"], strict=True):
            order = np.argsort(profiles[layer][neuron])
            assert json.loads(top) == strings[order[::-1][:4]].tolist()
            assert json.loads(bottom) == strings[order[:4]].tolist()


def test_c_defect_5_padded_columns_would_change_the_counts(tiny_model, tmp_path, capsys):
    """With the padded ids in, moments differ: the rule says that it was told so by the table."""
    model = tiny_model("gpt_neox")
    (tmp_path / "real").mkdir()
    real, _ = run(model, measured(model, tmp_path / "real"), tmp_path)
    assert "padded" not in capsys.readouterr().out
    record = {"parameters": {"include_padded": True}}
    padded, _ = run(model, measured(model, tmp_path, include_padded=True, provenance=record), tmp_path)
    assert "only pad the vocabulary" in capsys.readouterr().out
    assert real["n"].to_list() != padded["n"].to_list()


def frame_of(rows):
    """A neurons table from (layer, norm, var, skew, kurt) rows."""
    table = pl.DataFrame(
        rows, schema=["layer", "norm", "vocab_var", "vocab_skew", "vocab_kurt"], orient="row", infer_schema_length=None
    )
    zeros = {name: pl.lit(0.0) for name in ("norm_in", "logit_var", "vocab_mean", "unembed_gain")}
    return table.with_columns(neuron=pl.int_range(pl.len()).over("layer"), **zeros)


def test_thresholds_are_strict_and_kinds_may_overlap():
    frame = frame_of(
        [
            (0, 1.0, 0.01, 1.0, 10.0),  # at the threshold of kurtosis; partition
            (0, 1.0, 0.005, -1.0, 10.1),  # suppression; at the threshold of variance
            (0, 1.0, 0.006, 1.0, 11.0),  # prediction and partition
            (0, 1.0, 0.001, 0.0, 30.0),  # heavy-tailed, no skew: of no kind
            (0, 0.0, None, None, None),  # writes nothing
            (1, 0.0, None, None, None),
        ]
    )
    counts = count_rows(frame, 10.0, 0.005, 0.95)
    assert counts["n"].to_list() == [1, 1, 2, 0, 0, 0]
    assert counts["n_neurons"].to_list() == [4, 4, 4, 0, 0, 0]
    assert counts["threshold"].to_list() == [10.0, 10.0, 0.005] * 2
    assert counts["share"].to_list() == [0.25, 0.25, 0.5, None, None, None]
    assert counts["share_low"].null_count() == counts["share_high"].null_count() == 3
    # Wilson's score interval of 1 in 4 at 95 per cent, from the quadratic that defines it.
    z = stats.norm.ppf(0.975)
    low, high = sorted(np.roots([1 + z**2 / 4, -(2 * 0.25 + z**2 / 4), 0.25**2]))
    assert counts["share_low"][0] == pytest.approx(low)
    assert counts["share_high"][0] == pytest.approx(high)


def test_a_model_of_one_layer_has_depth_zero():
    counts = count_rows(frame_of([(0, 1.0, 0.01, 1.0, 12.0)]), 10.0, 0.005, 0.95)
    assert counts["depth"].to_list() == [0.0, 0.0, 0.0]


def test_no_such_neuron_gives_an_empty_list_and_a_line(tiny_model, tmp_path, capsys):
    model = tiny_model("gpt2")
    counts, listed = run(model, measured(model, tmp_path), tmp_path, vocab_kurt_min=1e6, vocab_var_min=1.0)
    assert counts["n"].to_list() == [0] * 6
    assert counts["share"].to_list() == [0.0] * 6
    assert len(listed) == 0
    assert capsys.readouterr().out.count("no ") == 3


def test_a_threshold_that_random_directions_pass_is_named(tiny_model, tmp_path, capsys):
    model = tiny_model("gpt2")
    neurons = measured(model, tmp_path)
    run(model, neurons, tmp_path, vocab_var_min=0.005)
    assert "random direction in 32 dimensions" in capsys.readouterr().out
    run(model, neurons, tmp_path, vocab_var_min=0.04)
    assert "random direction" not in capsys.readouterr().out


def test_more_tokens_asked_for_than_there_are(tiny_model, tmp_path):
    model = tiny_model("gpt2")
    _, listed = run(model, measured(model, tmp_path), tmp_path, strongest=300)
    assert {len(json.loads(tokens)) for tokens in listed["top_tokens"]} == {model.d_vocab_real}
    assert {len(json.loads(tokens)) for tokens in listed["bottom_tokens"]} == {model.d_vocab_real}


def test_moments_of_another_model_are_refused(tiny_model, tmp_path):
    model = tiny_model("gpt2")
    neurons = measured(model, tmp_path)
    write_table(read_table(neurons, "neurons").filter(pl.col("layer") == 0), neurons, "neurons")
    with pytest.raises(VocabularyNeuronError, match=r"neurons\.parquet.*2 layers of 48"):
        run(model, neurons, tmp_path)
