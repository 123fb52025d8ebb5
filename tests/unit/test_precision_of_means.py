"""Means are made of float64 numbers: against brute force in float64, where float16 fails (METHODS D defect 1).

The reference code of study D keeps loss, entropy and scale of every token as float16 before it averages them: a loss of
5 is then rounded to 1/256, and a sum of 65,520 nats is infinite. Each test shows that our mean is that of float64
numbers and that float16 would have lost it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import depth_texts
import naive_layers
import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import interventions, logit_lens
from neuronlab.final_states import Text
from neuronlab.layer_outcomes import OUTCOMES
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.statistics import bootstrap_weights
from neuronlab.tables import read_table
from scipy.special import log_softmax
from test_dose_response import clamp, make_inputs
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("precise")
    naive_layers.make_deeper(root / "model", "gpt2", 3)
    depth_texts.write_depth_text(root / "tokens.parquet")
    return root


def spec(folder: Path) -> ModelSpec:
    return ModelSpec("tiny", "directory", path=str(folder / "model"), device="cpu", dtype="float64")


def log_probabilities(folder: Path, text: Text) -> np.ndarray:
    """Of the next token at every position, by Hugging Face in float64."""
    network = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64).eval()
    with torch.no_grad():
        return log_softmax(network(torch.from_numpy(text.tokens)).logits.numpy(), axis=-1)


def halved(values: np.ndarray) -> float:
    """The mean of numbers saved as float16, as study D takes it, but summed in float64."""
    return float(values.astype(np.float16).astype(np.float64).mean())


def test_losses_and_entropies_of_the_lens_d_defect(folder: Path, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.parquet" for name in ("lens", "lens_documents", "lens_tokens")}
    logit_lens.measure_lens(model=spec(folder), tokens=folder / "tokens.parquet", **paths, resamples=20)
    row = read_table(paths["lens"], "lens").row(-1, named=True)
    text = Text.read(folder / "tokens.parquet")
    at = np.nonzero(text.counted)
    lp = log_probabilities(folder, text)[at]
    values = {
        "loss": -lp[np.arange(len(lp)), text.tokens[at[0], at[1] + 1]],
        "entropy": -(np.exp(lp) * lp).sum(-1),
    }
    for name, brute in values.items():
        assert row[name] == pytest.approx(brute.mean(), abs=1e-12), name
        assert abs(halved(brute) - brute.mean()) > 1e-7, name


def test_small_changes_of_the_loss_by_a_layer_d_defect(folder: Path, tmp_path: Path) -> None:
    """A mean of changes is the difference of two means: float16 losses leave an error as large as small effects."""
    paths = {name: tmp_path / f"{name}.parquet" for name in ("table", "costs", "verification")}
    interventions.intervene_layers(
        model=spec(folder),
        tokens=folder / "tokens.parquet",
        **paths,
        kinds=["delete_attention"],
        verification_tokens=0,
        resamples=20,
    )
    found = read_table(paths["table"], "interventions")
    text = Text.read(folder / "tokens.parquet")
    network = naive_layers.load(folder / "model")
    clean = naive_layers.log_probabilities(network, text.tokens)
    rows, positions = np.nonzero(text.counted)
    targets = text.tokens[rows, positions + 1]
    means = naive_layers.mean_outputs(network, text.tokens, text.counted)
    for row in found.iter_rows(named=True):
        lp = naive_layers.changed(network, "delete_attention", row["layer"], None, text.tokens, means)
        before, after = (-values[rows, positions, targets] for values in (clean, lp))
        change = (after - before).mean()
        assert row["loss_change"] == pytest.approx(change, abs=1e-6)
        assert abs(halved(after) - halved(before) - change) > 10 * abs(row["loss_change"] - change)


@pytest.mark.parametrize("module", [logit_lens, interventions])
def test_sums_beyond_the_range_of_float16_d_defect(module: object) -> None:
    """300,000 tokens of 12 nats, less than 2**-9 apart: sums are finite, and the difference is in the mean."""
    losses = 12.0 + np.random.default_rng(0).uniform(0, 2**-9, 300_000)
    half = losses.astype(np.float16)
    assert len(np.unique(half)) == 1
    with np.errstate(over="ignore"):
        assert np.isinf(half.sum(dtype=np.float16))
    document = np.arange(len(losses)) % 7
    counts = np.bincount(document)
    if module is logit_lens:
        sums = np.zeros((7, 2, len(OUTCOMES)))
        np.add.at(sums, document, np.broadcast_to(losses[:, None, None], (len(losses), 2, len(OUTCOMES))))
        frame = logit_lens.means_frame(sums, counts, bootstrap_weights(7, 20, 0), 0.95)
        found = frame["loss"][1]
    else:
        planned = [interventions.Intervention("delete", 0)]
        sums = np.zeros((7, 1, len(interventions.QUANTITIES)))
        np.add.at(sums, document, np.broadcast_to(losses[:, None, None], (len(losses), 1, sums.shape[2])))
        options = {"resamples": 20, "level": 0.95, "seed": 0}
        found = interventions.interventions_frame(planned, 1, "GPT-2", sums, counts, **options)["loss_change"][0]
    assert found == pytest.approx(losses.mean(), abs=1e-9)
    assert abs(float(half[0]) - losses.mean()) > 1e-4


def test_entropy_loss_and_scale_of_clamped_neurons_d_defect(
    tiny_directories: dict[str, Path], tiny_model: Callable[..., Model], tmp_path: Path
) -> None:
    """D's own experiment, activations fixed at values: changes of the means, against float64 passes with a hook."""
    inputs = make_inputs(tmp_path, tiny_directories["gpt2"])
    found = clamp(inputs, values=[0.4]).row(by_predicate=pl.col("neuron") == 11, named=True)
    model, text = tiny_model("gpt2", "float64"), read_table(inputs.tokens, "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), np.array(text["counted"].to_list())[:, :-1]

    def values(clamped: tuple[int, int, float] | None) -> dict[str, np.ndarray]:
        lp = model.logits(ids, clamped).log_softmax(-1)[:, :-1]
        residual = model.run(ids).residual if clamped is None else model.residual_after(ids, clamped)
        scale = (residual.var(-1, unbiased=False) + model.eps).sqrt()[:, :-1]
        loss = -lp.gather(-1, ids[:, 1:, None])[..., 0]
        measured = {"loss": loss, "entropy": -(lp.exp() * lp).sum(-1), "norm_scale": scale}
        return {name: tensor.numpy()[counted] for name, tensor in measured.items()}

    before, after = values(None), values((1, 11, 0.4))
    for name in before:
        change = after[name].mean() - before[name].mean()
        assert found[f"{name}_change"] == pytest.approx(change, abs=1e-7), name
        assert abs(halved(after[name]) - halved(before[name]) - change) > 1e-6, name
