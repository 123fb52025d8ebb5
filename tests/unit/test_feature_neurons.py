"""Neurons of vocabulary features: every pair by scipy.stats, Holm over all of them, the best kept."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from neuronlab.boosted_tokens import spell_tokens
from neuronlab.feature_neurons import (
    BINS,
    EXAMPLES,
    HISTOGRAM_NEURONS,
    candidate_rows,
    score_features,
    special_ids,
    token_table,
)
from neuronlab.tables import read_table
from neuronlab.token_features import FEATURES
from scipy import stats
from test_vocabulary_neurons import KURT, VAR, cosines, frame_of, kinds, measured

TABLES = ("features", "feature_neurons", "feature_histograms")


def run(model, folder, **changes):
    options = {"vocab_kurt_min": KURT, "vocab_var_min": VAR, "min_tokens": 5, "top": 7} | changes
    paths = {name: folder / f"{name}.parquet" for name in TABLES}
    score_features(model=model.spec, neurons=measured(model, folder), **paths, **options)
    return [read_table(path, name) for name, path in paths.items()]


def brute_force(model, min_tokens):
    """Every candidate and feature, pair by pair, from the whole matrix of logit effects."""
    readout = model.readout()
    real = readout.real.numpy()
    strings = np.array(spell_tokens(model.tokenizer, model.d_vocab))[real]
    special = ("<bos>", "<eos>")
    members = {
        name: np.array([feature(token) and token not in special for token in strings])
        for name, feature in FEATURES.items()
    }
    rows = []
    for layer in range(model.n_layers):
        effects = model.w_out(layer).double().numpy() @ readout.W.double().numpy()[:, real]
        of_kind = kinds(cosines(model, layer))
        for neuron in np.flatnonzero(of_kind["prediction"] | of_kind["suppression"] | of_kind["partition"]):
            for name, member in members.items():
                if min(member.sum(), (~member).sum()) < min_tokens:
                    continue
                inside, outside = effects[neuron, member], effects[neuron, ~member]
                test = stats.ttest_ind(inside, outside, equal_var=False)
                rows.append(
                    {
                        "layer": layer,
                        "neuron": neuron,
                        "feature": name,
                        "mean_feature": inside.mean(),
                        "mean_rest": outside.mean(),
                        "difference": inside.mean() - outside.mean(),
                        "t": test.statistic,
                        "p_value": test.pvalue,
                        "n_feature": len(inside),
                    }
                )
    return pl.DataFrame(rows)


def naive_holm(p):
    """Holm's definition: the i-th smallest times the number of those not smaller, made monotone."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = highest
    return corrected


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_all_pairs_against_brute_force(architecture, tiny_model, tmp_path):
    model = tiny_model(architecture)
    features, found, _ = run(model, tmp_path)
    pairs = brute_force(model, 5)
    pairs = pairs.with_columns(pl.Series("p_value_holm", naive_holm(pairs["p_value"].to_list())))
    compared = pairs["feature"].unique().to_list()
    assert len(compared) > 5
    assert found["feature"].unique(maintain_order=True).to_list() == [name for name in FEATURES if name in compared]
    for name in compared:
        expected = pairs.filter(pl.col("feature") == name).sort(pl.col("difference").abs(), descending=True).head(7)
        rows = found.filter(pl.col("feature") == name)
        assert rows["place"].to_list() == list(range(7))
        assert rows["neuron"].to_list() == expected["neuron"].to_list()
        assert rows["layer"].to_list() == expected["layer"].to_list()
        for column in ("mean_feature", "mean_rest", "difference", "t", "p_value", "p_value_holm", "n_feature"):
            np.testing.assert_allclose(rows[column], expected[column], rtol=1e-8, atol=1e-12, err_msg=column)
    assert features["feature"].to_list() == list(FEATURES)
    expected_sizes = dict(pairs.select("feature", "n_feature").iter_rows())
    sizes = dict(features.select("feature", "n_tokens").iter_rows())
    assert {name: sizes[name] for name in compared} == expected_sizes


def test_top_is_taken_over_layers_and_holm_over_all_pairs(tiny_model, tmp_path):
    """Fewer rows kept must not change a single value of those that stay."""
    model = tiny_model("llama")
    (tmp_path / "wide").mkdir()
    _, wide, _ = run(model, tmp_path / "wide", top=1000)
    _, narrow, _ = run(model, tmp_path, top=2)
    assert set(wide["layer"]) == {0, 1}
    assert narrow.equals(wide.filter(pl.col("place") < 2))


def test_histograms_hold_every_token_of_both_groups(tiny_model, tmp_path):
    model = tiny_model("gpt2")
    _, found, histograms = run(model, tmp_path)
    best = found.filter(pl.col("place") < HISTOGRAM_NEURONS).select("layer", "neuron", "feature", "n_feature")
    assert len(histograms) == len(best) * 2 * BINS
    real = model.readout().real.numpy()
    strings, has = token_table(model)
    for layer, neuron, feature, n_feature in best.iter_rows():
        rows = histograms.filter(
            (pl.col("layer") == layer) & (pl.col("neuron") == neuron) & (pl.col("feature") == feature)
        )
        effects = model.w_out(layer)[neuron].double().numpy() @ model.readout().W.double().numpy()[:, real]
        member = has[:, list(FEATURES).index(feature)]
        for group, members in (("feature", member), ("rest", ~member)):
            part = rows.filter(pl.col("group") == group)
            assert part["n"].sum() == (n_feature if group == "feature" else len(strings) - n_feature)
            # A value at an edge to rounding may fall on either side of it.
            for end, until in zip(part["bin_end"], part["n"].cum_sum(), strict=True):
                assert (effects[members] < end - 1e-12).sum() <= until <= (effects[members] <= end + 1e-12).sum()
            assert part["bin_start"][0] == pytest.approx(effects.min(), rel=1e-9)
            assert part["bin_end"][-1] == pytest.approx(effects.max(), rel=1e-9)


def test_c_defect_5_padded_and_special_ids(tiny_model):
    """Ids that pad the vocabulary are no tokens; BOS and EOS are, but have no feature."""
    model = tiny_model("gpt2")
    strings, has = token_table(model)
    assert len(strings) == model.d_vocab_real == model.d_vocab - 4
    assert not any(string.startswith("<padding") for string in strings)
    assert special_ids(model.tokenizer) == {0, 1}
    assert strings[:2] == ["<bos>", "<eos>"]
    assert not has[:2].any()
    assert has[strings.index(" the"), list(FEATURES).index("leading_space")]


def test_examples_of_features_have_them(tiny_model, tmp_path):
    features, _, _ = run(tiny_model("gpt2"), tmp_path)
    for name, n_tokens, examples in features.iter_rows():
        shown = json.loads(examples)
        assert len(shown) == min(n_tokens, EXAMPLES)
        assert len(set(shown)) == len(shown) or "\ufffd" in shown
        assert all(FEATURES[name](token) for token in shown)


def test_no_candidates_empty_tables(tiny_model, tmp_path, capsys):
    features, found, histograms = run(tiny_model("gpt2"), tmp_path, vocab_kurt_min=1e6, vocab_var_min=1.0)
    assert len(features) == len(FEATURES)
    assert len(found) == len(histograms) == 0
    assert "0 candidate neurons" in capsys.readouterr().out


def test_no_feature_with_enough_tokens_empty_tables(tiny_model, tmp_path, capsys):
    _, found, histograms = run(tiny_model("gpt2"), tmp_path, min_tokens=150)
    assert len(found) == len(histograms) == 0
    assert "features.min_tokens" in capsys.readouterr().out


def test_kinds_of_candidates():
    """A heavy tail names the kind, unless it leans to neither side; at a threshold is not above it."""
    frame = frame_of(
        [
            (0, 1.0, 0.006, 1.0, 11.0),
            (0, 1.0, 0.006, 0.0, 11.0),
            (0, 1.0, 0.001, 0.0, 11.0),
            (0, 1.0, 0.001, -2.0, 11.0),
            (0, 1.0, 0.005, -2.0, 10.0),
            (0, 0.0, None, None, None),
        ]
    )
    rows = candidate_rows(frame, 10.0, 0.005)
    assert rows["neuron"].to_list() == [0, 1, 2, 3]
    assert rows["kind"].to_list() == ["prediction", "partition", None, "suppression"]


def test_two_runs_write_the_same_bytes(tiny_model, tmp_path):
    model = tiny_model("qwen2")
    contents = []
    for _ in range(2):
        run(model, tmp_path)
        contents.append([(tmp_path / f"{name}.parquet").read_bytes() for name in TABLES])
    assert contents[0] == contents[1]
