"""Shipped values against those of METHODS B1; recognition of models; a comparison on a model with known answers."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import published, published_models
from neuronlab.models import ModelSpec
from neuronlab.published_models import PublishedModel, published_name
from neuronlab.tables import check_frame, read_table

# What study B ships (METHODS B1), rounded: (model, k, layer, neuron, rho, LogitVar, norm).
PRINTED = [
    ("gpt2", 40, 11, 584, 0.9921, 2.456e-5, 10.940),
    ("gpt2", 40, 11, 2378, 0.9731, 1.2256e-4, 12.951),
    ("gpt2", 40, 11, 2910, 0.9606, 1.0181e-4, 5.490),
    ("pythia-1.4b", 48, 23, 5104, 0.9894, 1.570e-4, 2.821),
    ("pythia-1.4b", 48, 23, 7756, 0.8757, 1.710e-4, 1.261),
    ("phi-1_5", 48, 23, 1121, 0.9925, 1.640e-5, 3.751),
    ("phi-1_5", 48, 23, 7335, 0.9861, 1.371e-4, 5.804),
    ("Meta-Llama-3-8B", 96, 31, 2564, 0.9627, 4.623e-5, 0.559),
    ("Meta-Llama-3-8B", 96, 31, 12514, 0.9125, 7.440e-5, 0.619),
    ("Mistral-7B-v0.1", 96, 31, 3686, 0.9820, 1.754e-5, 0.184),
    ("Mistral-7B-v0.1", 96, 31, 9943, 0.9719, 2.125e-5, 0.311),
]
STUDY_B = {"gpt2": 6, "pythia-1.4b": 9, "phi-1_5": 12, "Meta-Llama-3-8B": 10, "Mistral-7B-v0.1": 14}


@pytest.mark.parametrize(("model", "k", "layer", "neuron", "rho", "logit_var", "norm"), PRINTED)
def test_shipped_values_are_the_printed_ones(model, k, layer, neuron, rho, logit_var, norm):
    row = published.published_values(model).filter(study="context_copying", layer=layer, neuron=neuron, k=k)
    assert len(row) == 1
    assert row["rho"][0] == pytest.approx(rho, abs=5.1e-5)
    assert row["logit_var"][0] == pytest.approx(logit_var, rel=5e-4)
    assert row["norm"][0] == pytest.approx(norm, abs=5.1e-4)


def test_shipped_values_are_complete():
    for model, count in STUDY_B.items():
        values = published.published_values(model).filter(study="context_copying")
        assert len(values) == count
        assert values.select("rho", "logit_var", "norm", "k").null_count().row(0) == (0, 0, 0, 0)
        assert values["rho"].is_between(0.86, 1.0).all()
    gpt2 = published.published_values("gpt2")
    for study, k in (("context_copying", 40), ("confidence_regulation", 12)):
        rows = gpt2.filter(study=study)
        assert sorted(rows["neuron"]) == [584, 1611, 2123, 2378, 2870, 2910]
        assert set(rows["k"]) == {k}


def test_every_model_with_values_is_known_and_the_other_way_round():
    keys = [row["model"] for row in csv.DictReader(published_models.VALUES.open())]
    assert set(keys) == set(published_models.published_models())
    for model in published_models.MODELS:
        values = published.published_values(model.key)
        assert (values["layer"] < model.n_layers).all()
        assert values.select("study", "list", "layer", "neuron").is_unique().all()
    with pytest.raises(published.PublishedError, match="known are gpt2"):
        published.published_values("gpt3")


def test_values_equal_the_files_of_study_b(shared):
    for path in sorted((shared / "published" / "selected_entropy_neurons").glob("*.csv")):
        key = re.sub(r"^EleutherAI_", "", path.name.removesuffix("_selected_entropy_neurons.csv"))
        key = {"gpt2-small": "gpt2", "Phi-1_5": "phi-1_5"}.get(key, key)
        ours = published.published_values(key).filter(study="context_copying").sort("neuron")
        theirs = pl.read_csv(path).sort("neuron_index")
        assert ours["neuron"].to_list() == theirs["neuron_index"].to_list()
        for name, column in (("rho", "rho"), ("logit_var", "logitvar"), ("norm", "norm")):
            np.testing.assert_allclose(ours[name], theirs[column], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("openai-community/gpt2", "gpt2"),
        ("gpt2", "gpt2"),
        ("EleutherAI/pythia-1.4b", "pythia-1.4b"),
        ("EleutherAI/pythia-410m", "pythia-410m"),
        ("microsoft/phi-1_5", "phi-1_5"),
        ("meta-llama/Meta-Llama-3-8B", "Meta-Llama-3-8B"),
        ("mistralai/Mistral-7B-v0.1", "Mistral-7B-v0.1"),
        ("stanford-crfm/alias-gpt2-small-x21", "stanford-gpt2-small-a"),
        ("EleutherAI/pythia-1.4b-deduped", None),
        ("openai-community/gpt2-medium", None),
        ("meta-llama/Meta-Llama-3-8B-Instruct", None),
    ],
)
def test_hub_names(name, key):
    assert published_name({"source": "hub", "name": name, "revision": "0" * 40}, "mine") == key


@pytest.mark.parametrize(
    ("revision", "known"),
    [("main", True), ("step143000", True), ("step1000", False), ("step0", False), ("a" * 40, True)],
)
def test_training_checkpoints_are_other_models(revision, known):
    entry = {"source": "hub", "name": "EleutherAI/pythia-1.4b", "revision": "main"}
    assert (published_name(entry, f"pythia@{revision}") is not None) == known
    assert (published_name(entry | {"revision": revision}, "pythia") is not None) == known


def test_directories(tmp_path, tiny_directories):
    def directory(path: Path, **config: int) -> dict[str, str]:
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        return {"source": "directory", "path": str(path)}

    entry = directory(tmp_path / "gpt2", n_embd=768, n_layer=12)
    assert published_name(entry, "mine") == "gpt2"
    assert published_name(entry, "mine@half-trained") is None
    assert published_name(directory(tmp_path / "small" / "gpt2", n_embd=192, n_layer=4), "mine") is None
    assert published_name(directory(tmp_path / "gpt2-mine", n_embd=768, n_layer=12), "mine") is None
    cache = tmp_path / "models--EleutherAI--pythia-1.4b" / "snapshots" / ("b" * 40)
    assert published_name(directory(cache, hidden_size=2048, num_hidden_layers=24), "mine") == "pythia-1.4b"
    assert published_name({"source": "directory", "path": str(tmp_path / "nowhere" / "gpt2")}, "mine") is None
    assert published_name({"source": "demo"}, "demo") is None


def test_names_need_no_torch():
    code = "import sys, neuronlab.published_models; sys.exit('torch' in sys.modules or 'polars' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(published_models.VALUES.parents[2])}
        ).returncode
        == 0
    )


@pytest.fixture
def values() -> pl.DataFrame:
    """Two neurons with values and k, one with a k alone, one with neither, in two layers."""
    rows = [
        ("b", "entropy", 1, 7, 5, 0.5, 1e-2, 2.0),
        ("b", "entropy", 1, 3, 5, 0.5, 1e-2, 2.0),
        ("a", "unsure", 1, 7, 9, None, None, None),
        ("d", "entropy", 0, 1, None, None, None, None),
    ]
    return pl.DataFrame(rows, schema={k: v for k, v in published.COLUMNS.items() if k != "model"}, orient="row")


@pytest.mark.parametrize("include_padded", [False, True])
def test_comparison_measures_what_was_published(tiny_model, values, include_padded):
    model = tiny_model("gpt_neox")
    size = PublishedModel("tiny", ("tiny",), 32, 2, include_padded)
    frame = check_frame(published.comparison(model, size, values), "published")
    assert frame.group_by("measure").len().sort("measure").rows() == [("logit_var", 4), ("norm", 4), ("rho", 3)]
    readout = model.readout(torch.float64)
    W = readout.W if include_padded else readout.W[:, readout.real]
    U = torch.linalg.svd(readout.W, full_matrices=False)[0]
    for row in frame.iter_rows(named=True):
        w = model.w_out(row["layer"])[row["neuron"]].double()
        if row["measure"] == "norm":
            expected = w.norm()
        elif row["measure"] == "logit_var":
            expected = (w @ W / w.norm() / W.norm(dim=0)).var()
        else:
            expected = (w @ U[:, 32 - row["k"] :]).norm() / w.norm()
        assert row["ours"] == pytest.approx(float(expected), rel=1e-4)
        if row["study"] == "b":
            assert row["relative_error"] == pytest.approx(row["ours"] / row["published"] - 1)
        else:
            assert row["published"] is None
            assert row["relative_error"] is None
    assert set(frame["study"]) == {"b", "a: unsure", "d"}
    assert set(frame.filter(measure="rho")["k"]) == {5, 9}


def test_another_size_is_refused(tiny_model, values):
    size = PublishedModel("tiny", ("tiny",), 768, 12)
    with pytest.raises(published.PublishedError, match=r"models\.gpt2: 'tiny' has d = 768 .* this model has d = 32"):
        published.comparison(tiny_model("gpt2"), size, values)


def test_rule(tiny_directories, tmp_path, monkeypatch, values):
    spec = ModelSpec("mine", "directory", path=str(tiny_directories["gpt2"]), device="cpu")
    with pytest.raises(published.PublishedError, match=r"models\.mine: nothing is published"):
        published.compare_published(model=spec, published=tmp_path / "published.parquet")
    assert not (tmp_path / "published.parquet").exists()
    # The directory is called gpt2: with the tiny model's size it counts as that model.
    monkeypatch.setattr(published_models, "MODELS", (PublishedModel("gpt2", ("gpt2",), 32, 2),))
    monkeypatch.setattr(published, "published_values", lambda key: values if key == "gpt2" else None)
    published.compare_published(model=spec, published=tmp_path / "published.parquet", provenance={"seed": 1})
    assert len(read_table(tmp_path / "published.parquet", "published")) == 11
