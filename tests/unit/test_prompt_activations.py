"""Activation statistics over prompts against plain numpy on unpadded passes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab.prompt_activations import describe_prompts
from neuronlab.prompt_tokens import PromptError
from neuronlab.replacements import ActivationStatistics
from neuronlab.streaming import StreamingError
from neuronlab.tables import check_frame
from scipy import stats

BINS = 16
NAMES = ("mean", "sd", "min", "max", "median", "mode", "skew", "kurtosis")


def prompts_of(model: object, *lengths: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    bos = [] if model.bos_token_id is None else [model.bos_token_id]
    return [[*bos, *generator.integers(2, model.d_vocab_real, length).tolist()] for length in lengths]


def fake_model(values: list[np.ndarray]) -> SimpleNamespace:
    """Prompt i is BOS, then tokens of which each names a row of `values`; float16, as study B kept them."""
    table = torch.tensor(np.concatenate([np.full((1, values[0].shape[1]), 3e4), *values]), dtype=torch.float16)

    def activations(tokens: torch.Tensor, layers: list[int]) -> dict[int, torch.Tensor]:
        return {layers[0]: table[tokens]}

    return SimpleNamespace(bos_token_id=0, n_layers=3, d_mlp=table.shape[1], activations=activations)


def test_statistics_equal_numpy_on_unpadded_prompts(architecture: str, tiny_model: Callable) -> None:
    model = tiny_model(architecture, "float64")
    prompts = prompts_of(model, 3, 30, 11, 12, 1)
    frame = check_frame(
        describe_prompts(model, prompts, histogram_bins=BINS, batch_size=2), "activation_statistics"
    ).sort("neuron")
    layer, skipped = model.n_layers - 1, int(model.bos_token_id is not None)
    each = [model.activations(torch.tensor([prompt]), [layer])[layer][0].numpy() for prompt in prompts]
    values = np.concatenate([found[skipped:] for found in each])
    assert frame["layer"].unique().to_list() == [layer]
    assert frame["n_tokens"].unique().to_list() == [len(values)] == [3 + 30 + 11 + 12 + 1]
    expected = {
        "mean": values.mean(0), "sd": values.std(0), "min": values.min(0), "max": values.max(0),
        "skew": stats.skew(values), "kurtosis": stats.kurtosis(values, fisher=False),
    }  # fmt: skip
    for name, array in expected.items():
        np.testing.assert_allclose(frame[name], array, rtol=1e-9, atol=1e-11, err_msg=name)
    width = np.ptp(values, axis=0)
    assert (np.abs(frame["median"].to_numpy() - np.median(values, 0)) <= width / (2 * BINS * 256) + 1e-12).all()
    means = np.array(frame["position_means"].to_list())
    assert means.shape == (model.d_mlp, 30 + skipped)
    assert np.isnan(means[:, :skipped]).all()
    for place in (skipped, skipped + 10, skipped + 29):
        there = np.array([found[place] for found in each if len(found) > place])
        np.testing.assert_allclose(means[:, place], there.mean(0), rtol=0, atol=1e-11)


def test_batch_size_and_memory_change_nothing(tiny_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neox", "float64")
    prompts = prompts_of(model, 20, 4, 4, 9, 33)
    frames = [describe_prompts(model, prompts, histogram_bins=BINS, batch_size=n) for n in (1, 2, 5)]
    shuffled = [prompts[i] for i in (3, 0, 4, 1, 2)]
    frames.append(describe_prompts(model, shuffled, histogram_bins=BINS, batch_size=2))
    monkeypatch.setattr("neuronlab.prompt_activations.KEPT_BYTES", 0)
    frames.append(describe_prompts(model, prompts, histogram_bins=BINS, batch_size=2))
    for frame in frames[1:]:
        for name in NAMES:
            np.testing.assert_allclose(frame[name], frames[0][name], rtol=1e-9, atol=1e-11, err_msg=name)
    assert frames[-1].equals(frames[1])


def test_b_defect_2_deviations_of_float16_activations_are_finite_and_exact() -> None:
    values = [np.random.default_rng(1).normal(5.0, 40.0, (300, 6)) for _ in range(10)]
    model = fake_model(values)
    prompts = [[0, *range(1 + 300 * i, 301 + 300 * i)] for i in range(10)]
    frame = check_frame(describe_prompts(model, prompts, histogram_bins=BINS, batch_size=3), "activation_statistics")
    half = np.concatenate(values).astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(half.std(0)).all()  # the published computation
    np.testing.assert_allclose(frame["sd"], half.astype(np.float64).std(0), rtol=1e-12)
    found = ActivationStatistics.of_layer(frame, 2, 6)
    assert (found.mean + 0.5 * found.sd < found.max).all()


def test_b_defect_3_the_mode_is_a_number_within_the_range() -> None:
    generator = np.random.default_rng(2)
    values = generator.normal(size=(400, 4))
    values[:, 0] = 1.25  # never varies
    values[:, 1] = np.where(generator.random(400) < 0.9, 0.0, 2.0)  # nearly always the same
    frame = describe_prompts(fake_model([values]), [[0, *range(1, 401)]], histogram_bins=BINS, batch_size=1)
    mode = frame["mode"].to_numpy()
    assert np.isfinite(mode).all()
    assert mode[0] == 1.25
    assert abs(mode[1]) <= 2.0 / BINS
    assert ((mode >= frame["min"].to_numpy()) & (mode <= frame["max"].to_numpy())).all()
    assert frame["skew"].null_count() == 1  # of the constant: missing, not a number that looks measured


def test_b_defect_4_neither_bos_nor_pads_count() -> None:
    """The stand-in's BOS and pads (token 0) have activations of 30000."""
    generator = np.random.default_rng(3)
    values = [generator.uniform(0, 1, (length, 3)) for length in (5, 1, 9)]
    prompts = [[0, *range(1, 6)], [0, 6], [0, *range(7, 16)]]
    for batch_size in (1, 3):
        frame = describe_prompts(fake_model(values), prompts, histogram_bins=BINS, batch_size=batch_size)
        assert frame["n_tokens"].to_list() == [15] * 3
        assert frame["max"].max() <= 1
        half = np.concatenate(values).astype(np.float16).astype(np.float64)
        np.testing.assert_allclose(frame["mean"], half.mean(0), rtol=1e-12)
        assert np.nanmax(np.array(frame["position_means"].to_list())) <= 1


def test_nothing_to_describe_is_refused(tiny_model: Callable) -> None:
    model = tiny_model("gpt2")
    for prompts in ([], [[model.bos_token_id]]):
        with pytest.raises(PromptError, match="no token but BOS"):
            describe_prompts(model, prompts, histogram_bins=BINS, batch_size=2)


def test_activations_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StreamingError, match="NaN or infinity"):
        describe_prompts(fake_model([np.full((2, 2), 1e6)]), [[0, 1, 2]], histogram_bins=BINS, batch_size=1)


def test_rows_are_those_of_every_other_description(tiny_model: Callable) -> None:
    frame = describe_prompts(tiny_model("phi"), prompts_of(tiny_model("phi"), 8), histogram_bins=BINS, batch_size=1)
    assert frame["histogram"].list.sum().unique().to_list() == [8]
    assert frame.select(pl.col("neuron").is_sorted()).item()
