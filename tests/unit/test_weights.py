"""Weight measures against their definitions written out in float64, and against TransformerLens' folded weights."""

import numpy as np
import polars as pl
import pytest
import scipy.stats
import torch
from neuronlab import weights
from neuronlab.models import ModelSpec
from neuronlab.null_space import NullSpaceError, automatic_k, spectrum
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame, read_table, write_table

SIZES = [3, 0.25]


def definition(w: torch.Tensor, W: torch.Tensor) -> dict[str, np.ndarray]:
    """METHODS 0.2, word for word."""
    w, W = w.double().numpy(), W.double().numpy()
    c = (w @ W) / np.linalg.norm(w, axis=1)[:, None] / np.linalg.norm(W, axis=0)
    return {
        "norm": np.linalg.norm(w, axis=1),
        "logit_var": c.var(axis=1, ddof=1),
        "vocab_mean": c.mean(axis=1),
        "vocab_var": c.var(axis=1),
        "vocab_skew": scipy.stats.skew(c, axis=1),
        "vocab_kurt": scipy.stats.kurtosis(c, axis=1, fisher=False),
    }


def rho(w: torch.Tensor, W: torch.Tensor, k: int) -> np.ndarray:
    w, W = w.double(), W.double()
    V0 = torch.linalg.svd(W, full_matrices=False)[0][:, W.shape[0] - k :]
    return ((w @ V0).norm(dim=1) / w.norm(dim=1)).numpy()


@pytest.mark.parametrize("include_padded", [False, True])
def test_measures_equal_their_definitions(tiny_model, architecture, include_padded):
    model = tiny_model(architecture)
    neurons, null_space, singular_values = weights.measure_model(
        model, SIZES, include_padded=include_padded, neurons_per_tile=17, seed=0
    )
    readout = model.readout(torch.float64)
    W = readout.W if include_padded else readout.W[:, readout.real]
    for layer in range(model.n_layers):
        w = model.w_out(layer)
        rows = neurons.filter(layer=layer)
        assert rows["neuron"].to_list() == list(range(model.d_mlp))
        for name, expected in definition(w, W).items():
            np.testing.assert_allclose(rows[name], expected, rtol=2e-5, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(rows["norm_in"], model.w_in(layer).double().norm(dim=1).numpy(), rtol=1e-6)
        gain = (w.double() @ readout.W).norm(dim=1) / w.double().norm(dim=1) / readout.W.norm() * model.d_model**0.5
        np.testing.assert_allclose(rows["unembed_gain"], gain.numpy(), rtol=1e-5)
        for k in (3, 8):
            shares = null_space.filter(layer=layer, k=k, k_rule="configured")
            np.testing.assert_allclose(shares["rho"], rho(w, readout.W, k), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        singular_values["singular_value"], torch.linalg.svdvals(readout.W).numpy(), rtol=1e-4, atol=1e-4
    )
    assert singular_values["exact_null"].sum() == (model.norm_kind == "LN")
    for name, frame in (("neurons", neurons), ("null_space", null_space), ("singular_values", singular_values)):
        check_frame(frame, name)


def test_padded_ids_change_the_profile(tiny_model):
    model = tiny_model("gpt_neox")
    assert model.d_vocab_real < model.d_vocab
    with_padded, without = (
        weights.measure_model(model, [3], include_padded=switch, neurons_per_tile=64, seed=0)[0]
        for switch in (True, False)
    )
    assert (with_padded["logit_var"] != without["logit_var"]).all()
    assert (with_padded["norm"] == without["norm"]).all()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mistral", "phi", "qwen2"])
def test_measures_equal_those_of_transformer_lens_folded_weights(tiny_model, tiny_directories, name):
    """The published values were taken from weights that TransformerLens folded and centred (METHODS 0.1)."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(tiny_directories[name]), device="cpu")
    bridge.enable_compatibility_mode()
    model = tiny_model(name)
    last = model.n_layers - 1
    W_U, w = bridge.W_U.detach(), bridge.W_out[last].detach()
    neurons, null_space, _ = weights.measure_model(model, [5], include_padded=True, neurons_per_tile=4096, seed=0)
    rows = neurons.filter(layer=last)
    expected = definition(w, W_U)
    for measure in ("norm", "logit_var"):
        np.testing.assert_allclose(rows[measure], expected[measure], rtol=1e-4)
    shares = null_space.filter(layer=last, k=5, k_rule="configured")
    np.testing.assert_allclose(shares["rho"], rho(w, W_U, 5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows["norm_in"], bridge.W_in[last].detach().norm(dim=0).numpy(), rtol=1e-4)


def test_tiles_do_not_change_the_moments():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(700, 16, generator=generator)
    columns = torch.nn.functional.normalize(torch.randn(16, 5000, generator=generator), dim=0)
    whole, tiled = weights.profile_moments(w, columns), weights.profile_moments(w, columns, neurons_per_tile=33)
    for name in ("mean", "var", "skew", "kurt"):
        np.testing.assert_allclose(getattr(whole, name), getattr(tiled, name), rtol=1e-6, atol=1e-7)
    assert whole.n_tokens == 5000


def test_a_small_variance_around_a_large_mean_is_exact():
    """Entropy neurons' profiles vary by 5e-3; a common mean must not drown that."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(16, 5000, generator=generator, dtype=torch.float64) * 1e-3
    columns[0] += 1.0
    columns = torch.nn.functional.normalize(columns, dim=0)
    w = torch.zeros(1, 16)
    w[0, 0], w[0, 1] = 1.0, 0.5
    profile = weights.profile_moments(w, columns.float())
    expected = scipy.stats.describe((w.double() @ columns).numpy()[0] / w.norm().item(), ddof=1)
    np.testing.assert_allclose(profile.logit_var[0], expected.variance, rtol=1e-4)
    np.testing.assert_allclose(profile.mean[0], expected.mean, rtol=1e-7)


def test_a_silent_neuron_has_no_measures():
    columns = torch.nn.functional.normalize(torch.randn(8, 50, generator=torch.Generator().manual_seed(0)), dim=0)
    w = torch.eye(8)[:2] * torch.tensor([[0.0], [1.0]])
    rows = weights.neuron_rows(0, w, w, columns, (columns @ columns.T).double())
    for measure in weights.MEASURES:
        assert rows[measure].is_null().to_list() == [True, False]
    assert rows["norm"].to_list() == [0.0, 1.0]
    check_frame(rows, "neurons")


def test_a_zero_column_has_cosine_zero(tiny_model):
    readout = tiny_model("llama").readout()
    readout.W[:, 5] = 0
    columns = weights.unit_columns(readout)
    assert (columns[:, 5] == 0).all()
    assert torch.isfinite(columns).all()


def test_sizes_are_configured_once_and_the_automatic_one_is_added(tiny_model):
    assert weights.configured_sizes([4, 0.125, 0.5], 32, "here") == [4, 16]
    with pytest.raises(NullSpaceError, match=r"here: k = 33 is larger than the model's width d = 32"):
        weights.configured_sizes([33], 32, "here")
    model = tiny_model("llama")
    _, null_space, singular_values = weights.measure_model(
        model, [4, 0.125], include_padded=False, neurons_per_tile=64, seed=0
    )
    automatic = automatic_k(spectrum(model.readout()))
    assert set(null_space.select("k", "k_rule").rows()) == {(4, "configured"), (automatic, "automatic")}
    assert len(null_space) == 2 * 2 * 48
    assert singular_values["automatic"].sum() == automatic
    ratios = singular_values["singular_value"][:-1] / singular_values["singular_value"][1:]
    np.testing.assert_allclose(singular_values["ratio"][:-1], ratios)
    assert singular_values["ratio"].null_count() == 1


def test_rules_write_their_tables(tiny_directories, tmp_path):
    spec = ModelSpec("tiny", "directory", path=str(tiny_directories["gpt2"]), device="cpu")
    paths = {name: tmp_path / f"{name}.parquet" for name in ("neurons", "null_space", "singular_values")}
    weights.measure_neurons(
        model=spec, null_space_k=[4], include_padded=False, neurons_per_tile=64, seed=1, provenance={"seed": 1}, **paths
    )
    neurons = read_table(paths["neurons"], "neurons")
    assert len(neurons) == 2 * 48
    first = paths["neurons"].read_bytes()
    weights.measure_neurons(
        model=spec, null_space_k=[4], include_padded=False, neurons_per_tile=64, seed=1, provenance={"seed": 1}, **paths
    )
    assert paths["neurons"].read_bytes() == first

    columns = {name: column.dtype for name, column in SCHEMAS["selection"].items()}
    rows = [
        ("chosen", "selection", "explicit", None, 1, 7, 0, None, None),
        ("chosen", "selection", "explicit", None, 0, 3, 1, None, None),
        ("chosen/uniform_000", "uniform", "uniform", "chosen", 1, 9, 0, None, None),
        ("chosen/uniform_001", "uniform", "uniform", "chosen", 1, 11, 0, None, None),
    ]
    write_table(pl.DataFrame(rows, schema=columns, orient="row"), tmp_path / "selection.parquet", "selection")
    weights.align_neurons(
        model=spec, selection=tmp_path / "selection.parquet", alignment=tmp_path / "alignment.parquet"
    )
    alignment = read_table(tmp_path / "alignment.parquet", "alignment")
    assert set(alignment["set"]) == {"chosen", "chosen/uniform_000"}
    energy = alignment.group_by("set", "layer", "neuron").agg(pl.col("cosine").pow(2).sum())
    np.testing.assert_allclose(energy["cosine"], 1.0)
    # The bottom k cosines make up rho.
    share = read_table(paths["null_space"], "null_space").filter(layer=1, neuron=7, k=4, k_rule="configured")["rho"][0]
    bottom = alignment.filter(pl.col("neuron") == 7, pl.col("index") >= 28)["cosine"]
    np.testing.assert_allclose(share**2, (bottom**2).sum(), rtol=1e-12)


def test_alignment_without_a_selection(tiny_directories, tmp_path):
    """No selection that applies to the model: an empty table, from which the figures are drawn without lines."""
    spec = ModelSpec("tiny", "directory", path=str(tiny_directories["phi"]), device="cpu")
    selection = pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["selection"].items()})
    write_table(selection, tmp_path / "selection.parquet", "selection")
    weights.align_neurons(
        model=spec, selection=tmp_path / "selection.parquet", alignment=tmp_path / "alignment.parquet"
    )
    assert read_table(tmp_path / "alignment.parquet", "alignment").is_empty()
