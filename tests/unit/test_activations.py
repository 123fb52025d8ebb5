"""Activation statistics and baseline against plain numpy and full forward passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import activations
from neuronlab.ablation import AblationError
from neuronlab.activations import measure_activations, resolve_layers
from neuronlab.frequencies import unigram
from neuronlab.model_files import ModelSpec
from neuronlab.tables import read_table
from scipy import stats
from text_files import counts_frame, write_text


def measure(folder: Path, directory: Path, **options: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    write_text(folder)
    statistics, baseline = folder / "statistics.parquet", folder / "baseline.parquet"
    measure_activations(
        model=ModelSpec("tiny", "directory", path=str(directory), device="cpu"),
        tokens=folder / "tokens.parquet",
        counts=folder / "counts.parquet",
        statistics=statistics,
        baseline=baseline,
        **{"layers": [-1, 0], "batch_size": 4, "histogram_bins": 32} | options,
    )
    return read_table(statistics, "activation_statistics"), read_table(baseline, "baseline")


def test_statistics(tiny_directories: dict, tiny_model, tmp_path: Path) -> None:
    statistics, _ = measure(tmp_path, tiny_directories["llama"])
    text = read_table(tmp_path / "tokens.parquet", "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), np.array(text["counted"].to_list())
    found = tiny_model("llama").activations(ids, [0, 1])
    assert statistics["layer"].unique().sort().to_list() == [0, 1]
    for layer in (0, 1):
        whole = found[layer].numpy().astype(np.float64)
        values = whole[counted]
        rows = statistics.filter(layer=layer).sort("neuron")
        assert (rows["n_tokens"] == counted.sum()).all()
        expected = {
            "mean": values.mean(0), "sd": values.std(0), "min": values.min(0), "max": values.max(0),
            "skew": stats.skew(values), "kurtosis": stats.kurtosis(values, fisher=False),
        }  # fmt: skip
        for name, array in expected.items():
            np.testing.assert_allclose(rows[name], array, rtol=1e-6, atol=1e-6, err_msg=name)
        width = values.max(0) - values.min(0)
        assert (np.abs(rows["median"].to_numpy() - np.median(values, 0)) <= width / (2 * 32 * 256) + 1e-9).all()
        histogram = np.array(rows["histogram"].to_list())
        assert (histogram.sum(1) == counted.sum()).all()
        fullest = histogram.argmax(1)
        np.testing.assert_allclose(rows["mode"], values.min(0) + width * (fullest + 0.5) / 32, rtol=1e-6, atol=1e-6)
        means = np.array(rows["position_means"].to_list())
        assert np.isnan(means[:, :3]).all()
        np.testing.assert_allclose(means[:, 10], whole[counted[:, 10], 10].mean(0), atol=1e-6)


def test_baseline(tiny_directories: dict, tiny_model, tmp_path: Path, architecture: str) -> None:
    """Against the model's own logits, softcap and padded ids included."""
    _, baseline = measure(tmp_path, tiny_directories[architecture])
    text = read_table(tmp_path / "tokens.parquet", "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), np.array(text["counted"].to_list())
    row, position = np.nonzero(counted)
    assert baseline["sequence"].to_list() == row.tolist()
    assert baseline["position"].to_list() == position.tolist()
    assert baseline["next_token"].to_list() == ids.numpy()[row, position + 1].tolist()
    lp = tiny_model(architecture, "float64").logits(ids).log_softmax(-1).numpy()[row, position]
    p = unigram(counts_frame()).p
    target = baseline["next_token"].to_numpy()
    own = np.take_along_axis(lp, target[:, None], 1)
    expected = {
        "loss": -own[:, 0],
        "entropy": -(np.exp(lp) * lp).sum(1),
        "kl": (p * (np.log(p) - lp)).sum(1),
        "top_log_prob": lp.max(1),
    }
    for name, array in expected.items():
        np.testing.assert_allclose(baseline[name], array, atol=2e-5, err_msg=name)
    assert (baseline["prediction"].to_numpy() == lp.argmax(1)).all()
    assert (baseline["rank"].to_numpy() == (lp > own).sum(1)).all()


def test_activations_that_do_not_fit_are_computed_again(
    tiny_directories: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = measure(tmp_path, tiny_directories["gpt2"])
    monkeypatch.setattr(activations, "KEPT_BYTES", 0)
    again, _ = measure(tmp_path, tiny_directories["gpt2"])
    assert kept.equals(again, null_equal=True)


def test_layers() -> None:
    assert resolve_layers([-1, 0, 3], 4) == [0, 3]
    with pytest.raises(AblationError, match=r"statistics_layers: there is no layer 4; the model's are 0 to 3"):
        resolve_layers([4], 4)
