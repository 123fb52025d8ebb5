"""Closed form against the whole model, seven architectures, and synthetic controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from neuronlab import ablation
from neuronlab.ablation import (
    AblationError,
    LastLayer,
    Tokens,
    choose_kernel,
    clean_of,
    coefficients,
    directions_of,
    effects_of_chunk,
    run_kernel,
)
from neuronlab.final_states import last_layer
from neuronlab.kernels import brute_force
from neuronlab.kernels.interface import Effects, directions
from neuronlab.models import Model
from neuronlab.schemas import OUTCOMES, VARIANTS
from neuronlab.synthetic import random_directions, synthetic_coefficients
from text_files import POSITIONS, counts_frame, token_ids

NAMES = list(VARIANTS)
TinyModel = Callable[..., Model]


def some_tokens() -> torch.Tensor:
    return torch.from_numpy(token_ids(sequences=1))


@dataclass(frozen=True)
class State:
    """A model's last layer, with every position but the last of one sequence."""

    model: Model
    last: LastLayer
    ids: torch.Tensor
    tokens: Tokens


def state_of(model: Model, dtype: torch.dtype, kernel: str) -> State:
    last = last_layer(model, counts_frame(), include_padded=False, kernel=kernel)
    ids = some_tokens()
    final = model.run(ids)
    mlp = None if final.mlp_out is None else final.mlp_out[0, :-1]
    tokens = Tokens(final.residual[0, :-1], final.activations[0, :-1], ids[0, 1:], mlp)
    return State(model, replace(last, dtype=dtype), ids, tokens)


def closed_form(state: State, neurons: list[int], delta: torch.Tensor) -> Effects:
    last, tokens = state.last, state.tokens
    return effects_of_chunk(last, tokens, clean_of(last, tokens), directions_of(last, neurons), neurons, delta)


def check(value: np.ndarray, oracle: np.ndarray, scale: float = 1.0) -> None:
    error, tolerance = np.abs(value - oracle), scale * (1e-6 + 1e-5 * np.abs(oracle))
    assert (error <= tolerance).all(), f"{(error / tolerance).max()} of the tolerance"


@pytest.mark.parametrize(
    ("kernel", "dtype", "scale"),
    [("torch", torch.float64, 1e-5), ("torch", torch.float32, 1), ("auto", torch.float32, 1)],
)
def test_closed_form_equals_the_whole_model(
    tiny_model: TinyModel, architecture: str, kernel: str, dtype: torch.dtype, scale: float
) -> None:
    """Against hooked forward passes in float64: total effect and frozen projection, small and large replacements."""
    state = state_of(tiny_model(architecture, "float64"), dtype, kernel)
    layer, neurons = state.last.layer, [0, 7, 47]
    for value in (0.0, 30.0):
        got = closed_form(state, neurons, value - state.tokens.activations[:, neurons])
        for column, neuron in enumerate(neurons):
            values = torch.full((1, POSITIONS), value, dtype=torch.float64)
            oracle = brute_force.forward_effects(
                state.model, layer, neuron, state.ids, values, reference=state.last.reference
            )
            for row, name in enumerate(("total", "unigram")):
                for outcome in OUTCOMES:
                    check(
                        getattr(got, outcome)[NAMES.index(name), :, column], getattr(oracle, outcome)[row, :, 0], scale
                    )
            if dtype == torch.float64:
                assert np.array_equal(got.rank[0, :, column], oracle.rank[0, :, 0])
            assert np.array_equal(got.prediction[0, :, column], oracle.prediction[0, :, 0])
        assert np.abs(got.loss).max() > (1e-3 if value == 0 else 1e-1)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "phi"])
def test_a_defect_3_a_frozen_norm_keeps_its_gain_and_bias(tiny_model: TinyModel, name: str) -> None:
    """Direct effects by the model's own norm and unembedding, unfolded, its scale alone held at the clean value."""
    state = state_of(tiny_model(name, "float64"), torch.float64, "torch")
    model, clean, neurons = state.model, state.tokens.residual, [0, 7, 47]
    got = closed_form(state, neurons, 3 - state.tokens.activations[:, neurons])
    norm, head = model.bridge.ln_final.original_component, model.bridge.original_model.get_output_embeddings()
    assert (norm.weight - 1).abs().max() > 0.01
    centred = clean - clean.mean(-1, keepdim=True) if model.norm_kind == "LN" else clean
    scale = (centred.square().mean(-1, keepdim=True) + model.eps).sqrt()

    def log_probs(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True) if model.norm_kind == "LN" else x
        x = x / scale * norm.weight + (norm.bias if model.norm_kind == "LN" else 0)
        return head(x).log_softmax(-1)

    torch.testing.assert_close(log_probs(clean), head(norm(clean)).log_softmax(-1))
    rows, targets = torch.arange(len(clean)), state.tokens.targets
    for column, neuron in enumerate(neurons):
        delta = 3 - state.tokens.activations[:, neuron, None]
        after, before = log_probs(clean + delta * state.last.raw[neuron]), log_probs(clean)
        loss = (before - after)[rows, targets]
        entropy = (before.exp() * before - after.exp() * after).sum(-1)
        assert loss.abs().max() > 1e-2
        for outcome, expected in (("loss", loss), ("entropy", entropy)):
            check(getattr(got, outcome)[NAMES.index("direct"), :, column], expected.detach().numpy())


@pytest.mark.parametrize("freeze_post_norm", [False, True])
def test_all_variants_equal_the_readout_oracle(
    tiny_model: TinyModel, architecture: str, freeze_post_norm: bool
) -> None:
    state = state_of(tiny_model(architecture, "float64"), torch.float64, "torch")
    last, tokens = state.last, state.tokens
    neurons = list(range(10))
    delta = 3 - tokens.activations[:, neurons]
    factors = coefficients(
        last.readout,
        tokens.residual,
        last.w[neurons],
        delta,
        raw=last.raw[neurons],
        mlp=tokens.mlp,
        freeze_post_norm=freeze_post_norm,
    )
    got = run_kernel(last, clean_of(last, tokens), directions_of(last, neurons), factors)
    for t in range(0, len(tokens), 5):
        oracle = brute_force.pair_effects(
            last.readout,
            tokens.residual[t].expand(10, -1),
            last.raw[neurons],
            delta[t],
            tokens.targets[t].expand(10),
            reference=last.reference,
            mlp=None if tokens.mlp is None else tokens.mlp[t].expand(10, -1),
            freeze_post_norm=freeze_post_norm,
        )
        for outcome in OUTCOMES:
            check(getattr(got, outcome)[:, t], getattr(oracle, outcome)[..., 0], 1e-5)


def test_both_direct_effects_of_a_post_norm_differ(tiny_model: TinyModel) -> None:
    state = state_of(tiny_model("gemma2", "float64"), torch.float64, "torch")
    delta = 3 - state.tokens.activations[:, :5]
    one, both = (
        coefficients(
            state.last.readout,
            state.tokens.residual,
            state.last.w[:5],
            delta,
            raw=state.last.raw[:5],
            mlp=state.tokens.mlp,
            freeze_post_norm=freeze,
        )
        for freeze in (False, True)
    )
    assert (one.B[1] - both.B[1]).abs().max() > 1e-3
    assert torch.equal(one.B[0], both.B[0])


def test_brute_force_is_a_kernel_too(tiny_model: TinyModel, architecture: str) -> None:
    state = state_of(tiny_model(architecture, "float64"), torch.float64, "torch")
    delta = 2 - state.tokens.activations[:, :4]
    fast = closed_form(state, [0, 1, 2, 3], delta)
    slow = closed_form(replace(state, last=replace(state.last, kernel="brute_force")), [0, 1, 2, 3], delta)
    for name in ("loss", "entropy", "kl"):
        check(getattr(fast, name), getattr(slow, name), 1e-5)
    assert np.array_equal(fast.rank, slow.rank)
    assert np.array_equal(fast.prediction, slow.prediction)


def test_kernel_choice(tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    plain, capped = tiny_model("gpt2").readout(), tiny_model("gemma2").readout()
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    capsys.readouterr()
    assert choose_kernel("auto", plain, cpu) == "numba"
    assert not capsys.readouterr().err
    assert choose_kernel("auto", plain, cuda) == "torch"
    assert choose_kernel("auto", capped, cpu) == "torch"
    assert "softcap" in capsys.readouterr().err
    assert choose_kernel("numba", plain, cuda) == "torch"
    assert "device cuda" in capsys.readouterr().err
    with pytest.raises(AblationError, match=r"compute\.kernel is 'fast'"):
        choose_kernel("fast", plain, cpu)


def test_triton_is_refused_where_it_cannot_run(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, capped = tiny_model("gpt2").readout(), tiny_model("gemma2").readout()
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(ablation, "find_spec", lambda name: None)
    with pytest.raises(AblationError, match=r"compute\.kernel is 'triton', but Python finds no package triton"):
        choose_kernel("triton", plain, cuda)
    monkeypatch.setattr(ablation, "find_spec", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for readout in (plain, capped):
        with pytest.raises(AblationError, match=r"needs a CUDA device.* on cpu here: set compute\.device to cuda"):
            choose_kernel("triton", readout, cpu)
    capsys.readouterr()
    assert choose_kernel("triton", plain, cuda) == "triton"
    assert not capsys.readouterr().err
    assert choose_kernel("triton", capped, cuda) == "torch"
    assert "kernel 'torch' instead of triton, because of a softcap" in capsys.readouterr().err
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_kernel("triton", plain, cpu) == "triton"


# Not Gemma-2: a norm after the MLP moves there as for the neuron's own direction, so there is no residual to build.
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "mistral", "phi", "qwen2"])
def test_synthetic_directions(tiny_model: TinyModel, architecture: str) -> None:
    """Built explicitly: same norm, same product with the residual, same norm effect; effects as by brute force."""
    state = state_of(tiny_model(architecture, "float64"), torch.float64, "torch")
    last, tokens = state.last, state.tokens
    neurons, draws = [2, 5], 3
    repeated = [n for n in neurons for _ in range(draws)]
    r = random_directions(last.readout, neurons, draws, seed=1)
    delta = 2.5 - tokens.activations[:, repeated]
    own = coefficients(last.readout, tokens.residual, last.w[repeated], delta)
    factors = synthetic_coefficients(last.readout, tokens.residual, last.w[repeated], r, own)
    lines = directions(last.readout, r, reference=last.reference, dtype=torch.float64)
    got = run_kernel(last, clean_of(last, tokens), lines, factors)
    neuron_own = closed_form(state, repeated, delta)

    x, w = last.readout.centre(tokens.residual), last.w[repeated]
    for t in range(0, len(tokens), 6):
        unit = x[t] / x[t].norm()
        part = r - (r @ unit)[:, None] * unit
        along = (w @ unit)[:, None] * unit
        made = along + part / part.norm(dim=-1, keepdim=True) * (w - along).norm(dim=-1, keepdim=True)
        torch.testing.assert_close(made.norm(dim=-1), w.norm(dim=-1))
        torch.testing.assert_close(made @ x[t], w @ x[t])
        oracle = brute_force.pair_effects(
            last.readout,
            tokens.residual[t].expand(6, -1),
            made,
            delta[t],
            tokens.targets[t].expand(6),
            reference=last.reference,
        )
        for outcome in OUTCOMES:
            check(getattr(got, outcome)[:, t], getattr(oracle, outcome)[..., 0], 1e-5)
    np.testing.assert_allclose(got.entropy[NAMES.index("norm")], neuron_own.entropy[NAMES.index("norm")], atol=1e-12)
    assert not np.allclose(got.entropy[NAMES.index("direct")], neuron_own.entropy[NAMES.index("direct")], atol=1e-6)
