"""Folding against torch's own norms and a plain matrix product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.readout import ReadoutError, fold

D, V = 12, 30


def weights(seed: int, *, bias: bool) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "W_U": draw(D, V),
        "b_U": draw(V) if bias else None,
        "gain": 1 + 0.3 * draw(D),
        "bias": draw(D) if bias else None,
        "x": 3 * draw(5, D) + 1,
    }


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), bias=st.booleans())
def test_layer_norm_log_probabilities_are_unchanged(seed: int, bias: bool) -> None:
    w = weights(seed, bias=bias)
    readout = fold(w["W_U"], w["b_U"], w["gain"], w["bias"], eps=1e-5, kind="LN", dtype=torch.float64)
    normed = torch.nn.functional.layer_norm(w["x"], (D,), w["gain"], w["bias"], 1e-5)
    expected = normed @ w["W_U"] + (0 if w["b_U"] is None else w["b_U"])
    torch.testing.assert_close(readout.logits(w["x"]).log_softmax(-1), expected.log_softmax(-1), atol=1e-12, rtol=0)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_rms_norm_log_probabilities_are_unchanged(seed: int) -> None:
    w = weights(seed, bias=False)
    readout = fold(w["W_U"], None, w["gain"], None, eps=1e-6, kind="RMS", dtype=torch.float64)
    expected = torch.nn.functional.rms_norm(w["x"], (D,), w["gain"], 1e-6) @ w["W_U"]
    torch.testing.assert_close(readout.logits(w["x"]).log_softmax(-1), expected.log_softmax(-1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    w = weights(3, bias=kind == "LN")
    arguments = (w["W_U"], w["b_U"], w["gain"], w["bias"])
    whole = fold(*arguments, eps=1e-5, kind=kind, dtype=torch.float64)
    monkeypatch.setattr("neuronlab.readout.COLUMNS", 7)
    blocks = fold(*arguments, eps=1e-5, kind=kind, dtype=torch.float64)
    torch.testing.assert_close(blocks.W, whole.W, atol=1e-14, rtol=0)
    torch.testing.assert_close(blocks.b, whole.b, atol=1e-14, rtol=0)
    assert float(blocks.W.mean(1).abs().max()) < 1e-15


def test_softcap_keeps_the_logits_themselves() -> None:
    w = weights(3, bias=False)
    readout = fold(w["W_U"], None, w["gain"], None, eps=1e-6, kind="RMS", softcap=5.0, dtype=torch.float64)
    plain = torch.nn.functional.rms_norm(w["x"], (D,), w["gain"], 1e-6) @ w["W_U"]
    assert not readout.vocabulary_centred
    torch.testing.assert_close(readout.logits(w["x"]), 5 * torch.tanh(plain / 5), atol=1e-12, rtol=0)
    # Centring under a cap would change the probabilities: the reason for not doing it.
    centred = 5 * torch.tanh((plain - plain.mean(-1, keepdim=True)) / 5)
    assert (centred.log_softmax(-1) - readout.logits(w["x"]).log_softmax(-1)).abs().max() > 1e-3


def test_all_ones_is_exactly_null_for_layer_norm_only() -> None:
    w = weights(4, bias=True)
    layer_norm = fold(w["W_U"], w["b_U"], w["gain"], w["bias"], eps=1e-5, kind="LN", dtype=torch.float64)
    rms = fold(w["W_U"], w["b_U"], w["gain"], None, eps=1e-5, kind="RMS", dtype=torch.float64)
    assert (torch.ones(D, dtype=torch.float64) @ layer_norm.W).abs().max() < 1e-12
    assert torch.linalg.svdvals(layer_norm.W)[-1] < 1e-12
    assert (torch.ones(D, dtype=torch.float64) @ rms.W).abs().max() > 1e-2
    for readout in (layer_norm, rms):
        assert readout.W.mean(1).abs().max() < 1e-12
        assert readout.b.mean().abs() < 1e-12


def test_frozen_scale_of_the_clean_residual_changes_nothing() -> None:
    w = weights(5, bias=True)
    readout = fold(w["W_U"], w["b_U"], w["gain"], w["bias"], eps=1e-5, kind="LN", dtype=torch.float64)
    assert torch.equal(readout.logits(w["x"], readout.scale(w["x"])), readout.logits(w["x"]))
    doubled = readout.logits(w["x"], 2 * readout.scale(w["x"])) - readout.b
    torch.testing.assert_close(2 * doubled, readout.logits(w["x"]) - readout.b, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "batch"}, "known are"),
        ({"kind": "RMS"}, "RMS norm with a bias"),
        ({"gain": torch.ones(D + 1)}, "gain has shape"),
        ({"real": torch.ones(V + 1, dtype=torch.bool)}, "real has shape"),
        ({"b_U": torch.full((V,), float("nan"))}, "b_U holds NaN"),
        ({"post_eps": 1e-6}, "post_gain and post_eps"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    w = weights(6, bias=True)
    arguments = {"W_U": w["W_U"], "b_U": w["b_U"], "gain": w["gain"], "bias": w["bias"], "eps": 1e-5, "kind": "LN"}
    arguments |= change
    with pytest.raises(ReadoutError, match=message):
        fold(**arguments)
