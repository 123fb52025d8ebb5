"""Divergence from other distributions: direction, two tiny models against brute force, the bias, vocabularies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_models
import torch
from neuronlab.activations import measure_activations
from neuronlab.final_states import AblationInputs
from neuronlab.kernels.torch_kernel import log_sum_exp_change
from neuronlab.model_files import ModelError, ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.readout import fold
from neuronlab.reference_kl import (
    BiasReference,
    divergence,
    expectation,
    measure_reference_kl,
    shared_distribution,
)
from neuronlab.tables import read_table, write_table
from text_files import VOCAB, write_text

LAYER = 1
CHOSEN, CONTROL = (11, 4, 30), (7, 40, 2)
PADDED = 216


def write_selection(path: Path, layer: int = LAYER) -> Path:
    frame = pl.DataFrame(
        {
            "set": ["chosen"] * 3 + ["chosen/uniform_000"] * 3,
            "kind": ["selection"] * 3 + ["uniform"] * 3,
            "rule": ["explicit"] * 6,
            "control_of": [None] * 3 + ["chosen"] * 3,
            "layer": [layer] * 6,
            "neuron": [*CHOSEN, *CONTROL],
            "rank": [0, 1, 2] * 2,
            "matched": pl.Series([None] * 6, dtype=pl.Int32),
            "norm_ratio": pl.Series([None] * 6, dtype=pl.Float64),
        }
    )
    write_table(frame, path, "selection")
    return path


def directory_spec(path: Path, key: str = "tiny") -> ModelSpec:
    return ModelSpec(key, "directory", path=str(path), device="cpu")


def make_inputs(folder: Path, model: Path) -> AblationInputs:
    write_text(folder)
    write_selection(folder / "selection.parquet")
    inputs = AblationInputs(
        model=directory_spec(model),
        tokens=folder / "tokens.parquet",
        counts=folder / "counts.parquet",
        statistics=folder / "statistics.parquet",
        replacements=("mean", "zero"),
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


def measure(inputs: AblationInputs, references: dict[str, ModelSpec], **options: object) -> pl.DataFrame:
    folder = Path(inputs.tokens).parent
    given = {"selection": [folder / "selection.parquet"], "resamples": 50, **options}
    measure_reference_kl(inputs=inputs, references=references, reference_kl=folder / "kl.parquet", **given)
    return read_table(folder / "kl.parquet", "reference_kl")


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same tokenizer, and more ids that only pad its vocabulary."""
    path = tmp_path_factory.mktemp("larger")
    config = tiny_models.CONFIGS["gpt_neox"]()
    config.vocab_size = PADDED
    tiny_models.make_model("gpt_neox", seed=5, config=config).save_pretrained(path)
    tiny_models.make_tokenizer().save_pretrained(path)
    return path


def test_the_reference_comes_first() -> None:
    """KL(q || p), not KL(p || q); q as probabilities, p as log-probabilities (METHODS A defect 7)."""
    q, p = torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([[0.5, 0.25, 0.25]])
    forward = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.25)
    assert divergence(q, p.log()).item() == pytest.approx(forward, abs=1e-7)
    backward = 0.5 * np.log(0.5 / 0.9) + 0.25 * np.log(0.25 / 0.1)  # and infinite by the third id
    assert abs(forward - backward) > 0.3
    torch_own = torch.nn.functional.kl_div(p.double().log(), q.double(), reduction="batchmean")
    assert divergence(q, p.log()).item() == pytest.approx(torch_own.item(), abs=1e-7)


@pytest.mark.parametrize("size", [1e-4, 0.3, 15.0, 60.0])
def test_the_change_is_that_of_the_divergence(size: float) -> None:
    """For changes of any size, with one q for all tokens and with one each."""
    generator = torch.Generator().manual_seed(0)
    lp = torch.randn(5, 40, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1)
    D = torch.randn(5, 3, 40, generator=generator, dtype=torch.float64) * size
    D -= (lp.exp()[:, None] * D).sum(-1, keepdim=True)
    after = (lp[:, None] + D).log_softmax(-1)
    for rows in (1, 5):
        q = torch.randn(rows, 40, generator=generator, dtype=torch.float64).softmax(-1)
        found = log_sum_exp_change(lp.float(), lp.exp().float(), D.float()) - expectation(q, D.float())
        for s in range(3):
            exact = (q * (q.log() - after[:, s])).sum(-1) - (q * (q.log() - lp)).sum(-1)
            np.testing.assert_allclose(found[:, s], exact, rtol=1e-5, atol=1e-7)


def brute_force(model: Model, q: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor, neurons: tuple[int, ...]):
    """Clean divergence and its changes per counted token, through hooks; q [batch, position, vocab]."""
    readout = model.readout(torch.float64)

    def kl(logits: torch.Tensor) -> torch.Tensor:
        lp = logits.log_softmax(-1)
        return (q * (q.log() - lp)).sum(-1)[counted]

    state = model.run(ids)
    own = state.activations[..., list(neurons)]
    mean = own[counted].mean(0)
    hook = (LAYER, list(neurons), mean.expand_as(own))
    clean = kl(model.logits(ids))
    frozen = readout.logits(model.residual_after(ids, hook), readout.scale(state.residual))
    return clean, kl(model.logits(ids, hook)) - clean, kl(frozen) - clean


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_two_models_against_brute_force(
    name: str, tiny_directories: dict[str, Path], larger: Path, tiny_model: Callable[..., Model], tmp_path: Path
) -> None:
    inputs = replace(make_inputs(tmp_path, tiny_directories[name]), tokens_per_chunk=17, batch_size=2)
    found = measure(inputs, {"larger": directory_spec(larger, "larger")}).filter(pl.col("reference") == "model:larger")
    assert found["set"].to_list() == ["chosen", "chosen/uniform_000", "1.11", "1.4", "1.30"]
    assert set(found["replacement"]) == {"mean"}
    model = tiny_model(name, "float64")
    reference = load_model(replace(directory_spec(larger), dtype="float64"))
    text = read_table(inputs.tokens, "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), torch.tensor(text["counted"].to_list())
    assert reference.d_vocab == PADDED
    q = reference.logits(ids)[..., :VOCAB].softmax(-1)
    for row, neurons in ((0, CHOSEN), (1, CONTROL), (3, (4,))):
        clean, total, direct = brute_force(model, q, ids, counted, neurons)
        got = found.row(row, named=True)
        assert got["n_tokens"] == len(clean)
        assert got["n_neurons"] == len(neurons)
        assert got["kl_clean"] == pytest.approx(float(clean.mean()), abs=1e-5)
        assert got["kl_total"] == pytest.approx(float(total.mean()), abs=3e-6)
        assert got["kl_direct"] == pytest.approx(float(direct.mean()), abs=3e-6)
        assert got["kl_total_abs"] == pytest.approx(float(total.abs().mean()), abs=3e-6)
        for measure_ in ("kl_clean", "kl_total", "kl_direct", "kl_total_abs"):
            assert got[f"{measure_}_low"] <= got[measure_] <= got[f"{measure_}_high"]


def test_the_bias_is_what_the_norm_leaves(
    tiny_directories: dict[str, Path], tiny_model: Callable[..., Model], tmp_path: Path
) -> None:
    """softmax(beta W_U) from the parameters themselves; the last layer's own sets against brute force."""
    inputs = make_inputs(tmp_path, tiny_directories["gpt2"])
    found = measure(inputs, {})
    assert set(found["reference"]) == {"bias"}
    model = tiny_model("gpt2", "float64")
    network = model.bridge.original_model
    parameters = dict(network.named_parameters())
    beta = next(value for key, value in parameters.items() if "ln_f" in key and key.endswith("bias"))
    W = next(value for key, value in parameters.items() if "wte" in key or "lm_head" in key)
    q = (W.detach() @ beta.detach()).softmax(-1)
    text = read_table(inputs.tokens, "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), torch.tensor(text["counted"].to_list())
    clean, total, direct = brute_force(model, q.expand(*ids.shape, VOCAB), ids, counted, CHOSEN)
    got = found.row(0, named=True)
    assert got["kl_clean"] == pytest.approx(float(clean.mean()), abs=1e-5)
    assert got["kl_total"] == pytest.approx(float(total.mean()), abs=3e-6)
    assert got["kl_direct"] == pytest.approx(float(direct.mean()), abs=3e-6)


def test_no_bias_and_no_reference_is_an_empty_table(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, tiny_directories["llama"])
    assert measure(inputs, {}).is_empty()
    elsewhere = [write_selection(tmp_path / "elsewhere.parquet", layer=0)]
    assert measure(inputs, {"itself": inputs.model}, selection=elsewhere).is_empty()


def test_a_model_is_its_own_reference(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    """No divergence before, none below zero after; sampled tokens; the same bytes again."""
    inputs = make_inputs(tmp_path, tiny_directories["llama"])
    found = measure(inputs, {"itself": inputs.model}, tokens=37)
    first = (tmp_path / "kl.parquet").read_bytes()
    assert set(found["n_tokens"]) == {37}
    assert found["kl_clean"].max() < 1e-6
    assert (found["kl_total"] > 0).all()
    np.testing.assert_allclose(found["kl_total"], found["kl_total_abs"], atol=1e-6)
    measure(inputs, {"itself": inputs.model}, tokens=37)
    assert (tmp_path / "kl.parquet").read_bytes() == first


def test_constant_biases_say_nothing() -> None:
    W, gain = torch.randn(8, 12), torch.ones(8)
    for bias, expected in ((None, None), (torch.full((12,), 3.0), None), (torch.arange(12.0), BiasReference)):
        readout = fold(W, bias, gain, None, eps=1e-5, kind="RMS", dtype=torch.float64)
        found = BiasReference.of(readout)
        assert (found is None) == (expected is None)
    np.testing.assert_allclose(found.q[0], torch.arange(12.0, dtype=torch.float64).softmax(-1), rtol=1e-12)


def test_a_reference_lives_on_the_ids_that_both_have() -> None:
    logits = torch.randn(3, VOCAB)
    for vocab in (VOCAB - 8, VOCAB, VOCAB + 5):
        shared = min(vocab, VOCAB)
        q = shared_distribution(logits, vocab)
        assert q.shape == (3, vocab)
        np.testing.assert_allclose(q[:, :shared], logits[:, :shared].double().softmax(-1), rtol=1e-12)
        assert (q[:, shared:] == 0).all()


def test_another_vocabulary_is_refused(tiny_directories: dict[str, Path], larger: Path, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, tiny_directories["gpt2"])
    other = tmp_path / "other"
    tiny_models.make_model("gpt2").save_pretrained(other)
    tokenizer = tiny_models.make_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(other)
    references = {"fine": directory_spec(larger), "other": directory_spec(other, "other")}
    with pytest.raises(ModelError, match=r"references: tiny and other .*196 and 197 pieces; 1 differ, such as 'zebra'"):
        measure(inputs, references)
