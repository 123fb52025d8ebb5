"""Neurons of the probes: differences by loops, the order, random others, tables of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from neuronlab import probe_ensembles
from neuronlab.feature_neurons import score_features, token_table
from neuronlab.models import Model
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
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import read_table, write_table
from neuronlab.token_features import FEATURES
from test_vocabulary_neurons import measured

TINY = Callable[..., Model]
NAMES = ["continues_word", "punctuation"]


def having(model: Model) -> np.ndarray:
    _, has = token_table(model)
    return has[:, [list(FEATURES).index(name) for name in NAMES]]


def listed_table(model: Model, folder: Path) -> Path:
    """feature_neurons.parquet of a tiny model, candidates of a few kinds only."""
    paths = {name: folder / f"{name}.parquet" for name in ("features", "feature_neurons", "feature_histograms")}
    options = {"vocab_kurt_min": 3.0, "vocab_var_min": 0.05, "min_tokens": 5, "top": 7}
    score_features(model=model.spec, neurons=measured(model, folder), **paths, **options)
    return paths["feature_neurons"]


def test_differences_by_loops(architecture: str, tiny_model: TINY, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_ensembles, "TOKENS_PER_TILE", 37)  # several tiles
    model = tiny_model(architecture)
    has, readout = having(model), model.readout()
    found = all_differences(model, [0, 1], has)
    assert found.shape == (2 * model.d_mlp, 2)
    for layer in range(2):
        effects = model.w_out(layer).double().numpy() @ readout.W[:, readout.real].double().numpy()
        for column in range(2):
            expected = effects[:, has[:, column]].mean(1) - effects[:, ~has[:, column]].mean(1)
            own = found[layer * model.d_mlp : (layer + 1) * model.d_mlp, column]
            np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-12)


def test_layers_that_are_not_read_have_no_difference(tiny_model: TINY) -> None:
    model = tiny_model("gpt2")
    found = all_differences(model, [1], having(model))
    assert np.isnan(found[: model.d_mlp]).all()
    assert np.isfinite(found[model.d_mlp :]).all()


def test_order_by_size_of_the_difference_then_by_number() -> None:
    difference = np.array([0.5, -3.0, 1.0, -1.0, np.nan, 2.0])
    usable = np.array([True, True, True, True, False, True])
    assert ranked(difference, usable).tolist() == [1, 5, 2, 3, 0]
    assert ranked(difference, usable & (np.arange(6) != 3)).tolist() == [1, 5, 2, 0]


def test_random_neurons_are_others_and_seeded() -> None:
    usable = np.arange(50) != 7
    random = random_orders(usable, 3, seed=1)
    assert [sorted(row) for row in random.tolist()] == [[n for n in range(50) if n != 7]] * 3
    assert len({tuple(row) for row in random.tolist()}) == 3
    np.testing.assert_array_equal(random, random_orders(usable, 3, seed=1))
    np.testing.assert_array_equal(random[:2], random_orders(usable, 2, seed=1))
    assert (random != random_orders(usable, 3, seed=2)).any()
    order = np.random.default_rng(0).permutation(np.flatnonzero(usable))
    found = draw_ensembles(order, random, 8)
    assert found.by_score.tolist() == order[:8].tolist()
    assert found.random.shape == (3, 8)
    assert not np.isin(found.random, found.by_score).any()
    assert all(len(set(row)) == 8 for row in found.random.tolist())
    assert found.neurons.tolist() == sorted(set(found.by_score) | set(found.random.ravel()))


def test_random_ensembles_are_shorter_where_too_few_neurons_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    random = random_orders(np.ones(10, bool), 2, seed=0)
    found = draw_ensembles(np.arange(10), random, 8)
    assert [sorted(row) for row in found.random.tolist()] == [[8, 9], [8, 9]]
    assert isinstance(found, Ensembles)
    assert check_sizes([8, 1, 8], 10, "models.tiny") == [1, 8]
    assert "larger ones are left out" in capsys.readouterr().err


def test_ensembles_larger_than_the_model_are_refused() -> None:
    with pytest.raises(ProbeError, match=r"stages_of_inference\.probes\.sizes.*models\.tiny has 10"):
        check_sizes([1, 11], 10, "models.tiny")


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_listed_neurons_come_by_place(architecture: str, tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    path = listed_table(model, tmp_path)
    listed = read_listed(path, model, NAMES, all_differences(model, [0, 1], having(model)))
    for name in NAMES:
        rows = read_table(path, "feature_neurons").filter(pl.col("feature") == name).sort("place")
        pairs = [divmod(int(number), model.d_mlp) for number in listed[name]]
        assert pairs == list(rows.select("layer", "neuron").iter_rows())
        assert len(pairs) == 7
    one = read_listed(path, model, NAMES, all_differences(model, [1], having(model)))
    assert [n for n in listed[NAMES[0]] if n >= model.d_mlp] == one[NAMES[0]].tolist()


def test_a_table_of_another_model_is_refused(tiny_model: TINY, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    path = listed_table(tiny_model("gpt_neox"), tmp_path)
    differences = all_differences(model, [0, 1], having(model))
    with pytest.raises(ProbeError, match=r"feature_neurons\.parquet: not the neurons of models\.gpt2; delete"):
        read_listed(path, model, NAMES, differences)
    frame = read_table(listed_table(model, tmp_path), "feature_neurons")
    write_table(frame.with_columns(pl.lit(model.d_mlp).alias("neuron")), path, "feature_neurons")
    with pytest.raises(ProbeError, match="delete the table"):
        read_listed(path, model, NAMES, differences)


def test_a_feature_without_listed_neurons_has_none(tiny_model: TINY, tmp_path: Path) -> None:
    model, path = tiny_model("gpt2"), tmp_path / "feature_neurons.parquet"
    schema = {column: spec.dtype for column, spec in SCHEMAS["feature_neurons"].items()}
    write_table(pl.DataFrame(schema=schema), path, "feature_neurons")
    listed = read_listed(path, model, NAMES, all_differences(model, [0, 1], having(model)))
    assert [len(listed[name]) for name in NAMES] == [0, 0]
