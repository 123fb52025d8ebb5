"""Models in bfloat16: weights and states come out as float32, and effects are those of the same weights in float32."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from neuronlab import readout as readouts
from neuronlab.ablation import Tokens, clean_of, directions_of, effects_of_chunk
from neuronlab.final_states import last_layer
from neuronlab.last_layers import last_layer_of
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.schemas import OUTCOMES
from text_files import counts_frame, token_ids
from transformers import AutoModelForCausalLM

FAMILIES = ("gpt2", "llama", "gemma2")  # LayerNorm, RMSNorm, a norm after the MLP with a softcap


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tiny_directories: dict[str, Path], tmp_path: Path) -> tuple[Model, Model]:
    """A model in bfloat16, and one in float32 that has exactly its weights."""
    path = tiny_directories[request.param]
    rounded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).float()
    upcast = tmp_path / "upcast"
    shutil.copytree(path, upcast, ignore=shutil.ignore_patterns("*.safetensors"))
    rounded.save_pretrained(upcast)
    half = load_model(ModelSpec("half", "directory", path=str(path), dtype="bfloat16", device="cpu"))
    single = load_model(ModelSpec("single", "directory", path=str(upcast), dtype="float32", device="cpu"))
    assert next(half.bridge.original_model.parameters()).dtype == torch.bfloat16
    return half, single


def test_weights_are_float32_and_lose_nothing_on_the_way(pair: tuple[Model, Model]) -> None:
    half, single = pair
    for dtype in (torch.float32, torch.float64):
        ours, theirs = half.readout(dtype), single.readout(dtype)
        assert ours.W.dtype == ours.b.dtype == dtype
        assert torch.equal(ours.W, theirs.W)
        assert torch.equal(ours.b, theirs.b)
    for layer in range(half.n_layers):
        for name in ("w_out", "w_in", "raw_w_out"):
            ours, theirs = getattr(half, name)(layer), getattr(single, name)(layer)
            assert ours.dtype == torch.float32
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("small", [True, False])
def test_effects_at_the_same_state_are_the_same(
    pair: tuple[Model, Model], small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the bfloat16 model's states, with a read-out kept in float64 (small) and in float32 (large)."""
    if not small:
        monkeypatch.setattr(readouts, "DOUBLE_READOUT_BYTES", 0)
    half, single = pair
    ids = torch.from_numpy(token_ids(sequences=1))
    state = half.run(ids)
    assert state.residual.dtype == state.activations.dtype == torch.float32
    mlp = None if state.mlp_out is None else state.mlp_out[0, :-1]
    tokens = Tokens(state.residual[0, :-1], state.activations[0, :-1], ids[0, 1:], mlp)
    neurons, found = [0, 3, 7], []
    for model in (half, single):
        last = last_layer(model, counts_frame(), include_padded=False, kernel="torch")
        assert last.readout.W.dtype == (torch.float64 if small else torch.float32)
        delta = -tokens.activations[:, neurons].double()
        lines = directions_of(last, neurons)
        assert lines.U.dtype == torch.float32
        found.append(effects_of_chunk(last, tokens, clean_of(last, tokens), lines, neurons, delta))
    for outcome in OUTCOMES:
        ours, theirs = (getattr(effects, outcome) for effects in found)
        assert ours.dtype == np.float64
        assert np.abs(ours).max() > 1e-4
        np.testing.assert_array_equal(ours, theirs)


def test_states_differ_from_float32_by_the_rounding_of_bfloat16(pair: tuple[Model, Model]) -> None:
    half, single = pair
    ids = torch.from_numpy(token_ids(sequences=2))
    for name in ("residual", "activations"):
        ours, theirs = getattr(half.run(ids), name), getattr(single.run(ids), name)
        error = float((ours - theirs).norm() / theirs.norm())
        assert 1e-5 < error < 0.05
    assert last_layer_of(half, kernel="torch").w.dtype == torch.float32
