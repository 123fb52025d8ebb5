"""Clamped neurons: against hooked forward passes, against replacement by a constant, grids, samples, bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_models
import torch
from neuronlab.ablation_shards import ablate_neurons
from neuronlab.activations import measure_activations
from neuronlab.dose_response import DoseError, clamp_grid, clamp_neurons
from neuronlab.final_states import AblationInputs
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.replacements import ActivationStatistics
from neuronlab.tables import read_table, write_table
from neuronlab.token_sample import sample_counted
from text_files import write_text

LAYER = 1
SELECTED, CONTROLS = [11, 4], [30, 11, 8]
VALUES = (-1.5, 0.0, 0.4, 6.0)


def write_selection(path: Path, layer: int = LAYER) -> Path:
    """Two selected neurons and three controls, one of them selected itself; a neuron of another layer."""
    n = len(CONTROLS)
    frame = pl.DataFrame(
        {
            "set": ["chosen"] * 3 + ["chosen/uniform_000"] * n,
            "kind": ["selection"] * 3 + ["uniform"] * n,
            "rule": ["explicit"] * (3 + n),
            "control_of": [None] * 3 + ["chosen"] * n,
            "layer": [layer, layer, 0] + [layer] * n,
            "neuron": [*SELECTED, 9, *CONTROLS],
            "rank": [0, 1, 2, *range(n)],
            "matched": pl.Series([None] * (3 + n), dtype=pl.Int32),
            "norm_ratio": pl.Series([None] * (3 + n), dtype=pl.Float64),
        }
    )
    write_table(frame, path, "selection")
    return path


def make_inputs(folder: Path, model: Path) -> AblationInputs:
    """A tiny text with activation statistics for the model in a directory."""
    write_text(folder)
    write_selection(folder / "selection.parquet")
    inputs = AblationInputs(
        model=ModelSpec("tiny", "directory", path=str(model), device="cpu"),
        tokens=folder / "tokens.parquet",
        counts=folder / "counts.parquet",
        statistics=folder / "statistics.parquet",
        seed=3,
    )
    measure_activations(
        model=inputs.model,
        tokens=inputs.tokens,
        counts=inputs.counts,
        statistics=inputs.statistics,
        baseline=folder / "baseline.parquet",
        layers=[-1],
        batch_size=4,
    )
    return inputs


def clamp(inputs: AblationInputs, **options: object) -> pl.DataFrame:
    folder = Path(inputs.tokens).parent
    given = {"selection": [folder / "selection.parquet"], "resamples": 50, **options}
    clamp_neurons(inputs=inputs, dose_response=folder / "dose.parquet", **given)
    return read_table(folder / "dose.parquet", "dose_response")


@pytest.fixture(scope="module")
def gpt2(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AblationInputs:
    return make_inputs(tmp_path_factory.mktemp("gpt2"), tiny_directories["gpt2"])


def brute_force(
    model: Model, ids: torch.Tensor, counted: np.ndarray, neuron: int, value: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Means with a hook that sets the activation, and clean ones; the norm's scale and the direct effect by hand."""
    readout = model.readout(torch.float64)

    def measures(logits: torch.Tensor, residual: torch.Tensor) -> dict[str, float]:
        lp = logits.log_softmax(-1)[:, :-1]
        targets = ids[:, 1:, None]
        at_target = lp.gather(-1, targets)
        centred = residual - residual.mean(-1, keepdim=True) if model.norm_kind == "LN" else residual
        found = {
            "entropy": -(lp.exp() * lp).sum(-1),
            "loss": -at_target[..., 0],
            "norm_scale": (centred.square().mean(-1) + model.eps).sqrt()[:, :-1],
            "reciprocal_rank": 1 / (1.0 + (lp > at_target).sum(-1)),
        }
        return {name: float(array[counted[:, :-1]].mean()) for name, array in found.items()}

    state = model.run(ids)
    clean = measures(model.logits(ids), state.residual)
    moved = model.residual_after(ids, (LAYER, neuron, value))
    after = measures(model.logits(ids, (LAYER, neuron, value)), moved)
    frozen = measures(readout.logits(moved, readout.scale(state.residual)), moved)
    return clean, after | {"entropy_direct": frozen["entropy"], "loss_direct": frozen["loss"]}


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_clamping_is_what_a_hook_does(
    name: str, tiny_directories: dict[str, Path], tiny_model: Callable[..., Model], tmp_path: Path
) -> None:
    inputs = make_inputs(tmp_path, tiny_directories[name])
    found = clamp(replace(inputs, tokens_per_chunk=17, neurons_per_tile=3, batch_size=2), values=VALUES)
    assert found["neuron"].unique().to_list() == sorted({*SELECTED, *CONTROLS})
    assert len(found) == 4 * len(VALUES)
    model = tiny_model(name, "float64")
    text = read_table(inputs.tokens, "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), torch.tensor(text["counted"].to_list())
    for neuron in (11, 30):
        for value in VALUES:
            clean, after = brute_force(model, ids, counted, neuron, value)
            row = found.row(by_predicate=(pl.col("neuron") == neuron) & (pl.col("value") == value), named=True)
            for outcome in ("entropy", "loss", "norm_scale"):
                assert row[outcome] == pytest.approx(after[outcome], abs=3e-6), outcome
                change = after[outcome] - clean[outcome]
                assert row[f"{outcome}_change"] == pytest.approx(change, abs=3e-6), outcome
            # A rank is a count: where logits are nearly tied, float32 may see the other order.
            one_place = 1.01 / int(counted.sum())
            assert row["reciprocal_rank"] == pytest.approx(after["reciprocal_rank"], abs=one_place)
            change = after["reciprocal_rank"] - clean["reciprocal_rank"]
            assert row["reciprocal_rank_change"] == pytest.approx(change, abs=one_place)
            for outcome in ("entropy", "loss"):
                change = after[f"{outcome}_direct"] - clean[outcome]
                assert row[f"{outcome}_change_direct"] == pytest.approx(change, abs=3e-6), outcome


def test_a_clamped_value_is_a_constant_replacement(gpt2: AblationInputs) -> None:
    """The means of the rule that replaces activations by `constant:v`, for the same neurons and tokens."""
    found = clamp(gpt2, values=[-0.7, 0.25])
    folder = Path(gpt2.tokens).parent
    inputs = replace(gpt2, replacements=("constant:-0.7", "constant:0.25"))
    ablate_neurons(inputs=inputs, output=folder / "shard.parquet")
    shard = read_table(folder / "shard.parquet", "ablation_shard").group_by("replacement", "neuron").sum()
    for row in found.iter_rows(named=True):
        sums = shard.row(
            by_predicate=(pl.col("replacement") == f"constant:{row['value']}") & (pl.col("neuron") == row["neuron"]),
            named=True,
        )
        assert row["n_tokens"] == sums["n_tokens"]
        for ours, theirs in {
            "entropy_change": "entropy_total",
            "loss_change": "loss_total",
            "entropy_change_direct": "entropy_direct",
            "loss_change_direct": "loss_direct",
            "reciprocal_rank_change": "reciprocal_rank_total",
        }.items():
            assert row[ours] == pytest.approx(sums[theirs] / sums["n_tokens"], rel=1e-6, abs=1e-12), ours


def test_kernels_agree(gpt2: AblationInputs) -> None:
    """Numba against torch and against brute force, at values that lie far outside of the activations, too."""
    options = {"values": [-40.0, 0.3, 90.0], "tokens": 30}
    numba = clamp(gpt2, **options)
    for kernel in ("torch", "brute_force"):
        other = clamp(replace(gpt2, kernel=kernel), **options)
        for name, series in numba.to_dict(as_series=True).items():
            np.testing.assert_allclose(series, other[name], rtol=2e-5, atol=5e-6, err_msg=f"{kernel}: {name}")


def test_a_neuron_clamped_to_its_own_constant_changes_nothing(tmp_path: Path) -> None:
    """A neuron that no input moves: one value, no standard deviations, no change, intervals of no width."""
    network = tiny_models.make_model("gpt2")
    with torch.no_grad():
        network.transformer.h[LAYER].mlp.c_fc.weight[:, 4] = 0
    network.save_pretrained(tmp_path / "model")
    tiny_models.make_tokenizer().save_pretrained(tmp_path / "model")
    found = clamp(make_inputs(tmp_path, tmp_path / "model"), points=5)
    constant = found.filter(pl.col("neuron") == 4)
    assert len(constant) == 1
    assert constant["value_sd"].null_count() == 1
    for name in ("entropy", "loss", "norm_scale", "reciprocal_rank"):
        for column in (f"{name}_change", f"{name}_change_low", f"{name}_change_high"):
            assert constant[column].item() == pytest.approx(0, abs=1e-8), column
    others = found.filter(pl.col("neuron") != 4)
    assert others.group_by("neuron").len()["len"].to_list() == [5] * 3
    assert others["value_sd"].null_count() == 0


def test_grids(gpt2: AblationInputs) -> None:
    frame = read_table(gpt2.statistics, "activation_statistics").sort("neuron")
    statistics = ActivationStatistics.of_layer(frame, LAYER, 48)
    own = clamp_grid(statistics, [7, 3], (), 5)
    assert own.shape == (5, 2)
    for column, neuron in enumerate((7, 3)):
        low, high = frame["min"][neuron], frame["max"][neuron]
        np.testing.assert_allclose(own[:, column], [low + (high - low) * i / 4 for i in range(5)], rtol=1e-12)
    np.testing.assert_array_equal(clamp_grid(statistics, [7, 3], (0.0, 2.0), 5), [[0, 0], [2, 2]])
    found = clamp(gpt2, values=[0.0, 2.0])
    for row in found.iter_rows(named=True):
        mean, sd = frame["mean"][row["neuron"]], frame["sd"][row["neuron"]]
        assert row["value_sd"] == pytest.approx((row["value"] - mean) / sd, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": [1.0, 0.0]}, r"dose_response\.values: \[1\.0, 0\.0\] does not increase"),
        ({"values": [1.0, 1.0]}, "does not increase"),
        ({"values": [0.0, float("nan")]}, "not a finite number"),
        ({"points": 1}, r"dose_response\.points is 1"),
    ],
)
def test_grids_that_are_refused(gpt2: AblationInputs, options: dict, message: str) -> None:
    with pytest.raises(DoseError, match=message):
        clamp(gpt2, **options)


def test_intervals_hold_the_means_and_samples_are_seeded(gpt2: AblationInputs) -> None:
    first = clamp(gpt2, tokens=40, points=3)
    bytes_first = (Path(gpt2.tokens).parent / "dose.parquet").read_bytes()
    assert set(first["n_tokens"]) == {40}
    for name in ("entropy_change", "loss_change", "norm_scale_change", "entropy_change_direct", "loss_change_direct"):
        assert (first[f"{name}_low"] <= first[name]).all()
        assert (first[name] <= first[f"{name}_high"]).all()
    clamp(gpt2, tokens=40, points=3)
    assert (Path(gpt2.tokens).parent / "dose.parquet").read_bytes() == bytes_first
    other = clamp(replace(gpt2, seed=4), tokens=40, points=3)
    assert not other["entropy_change"].equals(first["entropy_change"])


def test_no_neuron_in_the_last_layer(gpt2: AblationInputs, tmp_path: Path) -> None:
    found = clamp(gpt2, selection=[write_selection(tmp_path / "other.parquet", layer=0)])
    assert found.is_empty()


def test_samples_are_whole_sequences_but_for_one() -> None:
    counted = np.random.default_rng(0).random((20, 30)) < 0.7
    chosen = sample_counted(counted, 100, seed=1)
    assert chosen.sum() == 100
    assert not (chosen & ~counted).any()
    partly = [s for s in range(20) if chosen[s].any() and not np.array_equal(chosen[s], counted[s])]
    assert len(partly) <= 1
    assert np.array_equal(chosen, sample_counted(counted, 100, seed=1))
    assert not np.array_equal(chosen, sample_counted(counted, 100, seed=2))
    for everything in (None, int(counted.sum()), 10**6):
        assert np.array_equal(sample_counted(counted, everything, seed=1), counted)
