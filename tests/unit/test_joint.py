"""Joint ablation by the rank-k update against the residual changed by brute force, on seven architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from neuronlab.ablation import (
    AblationError,
    LastLayer,
    Tokens,
    clean_of,
    directions_of,
    effects_of_chunk,
)
from neuronlab.final_states import last_layer
from neuronlab.joint import ablated_log_probs, joint_effects, lines_of_sets
from neuronlab.kernels import brute_force
from neuronlab.models import Model
from neuronlab.schemas import OUTCOMES, VARIANTS
from text_files import POSITIONS, counts_frame, token_ids

TinyModel = Callable[..., Model]
NAMES = list(VARIANTS)
SETS = [(0, 7, 47), (3,), (5, 1, 9, 30, 12, 40, 2), (47, 0)]


def state(
    model: Model, dtype: torch.dtype = torch.float32, kernel: str = "auto"
) -> tuple[LastLayer, Tokens, torch.Tensor]:
    last = replace(last_layer(model, counts_frame(), include_padded=False, kernel=kernel), dtype=dtype)
    ids = torch.from_numpy(token_ids(sequences=1))
    final = model.run(ids)
    mlp = None if final.mlp_out is None else final.mlp_out[0, :-1]
    return last, Tokens(final.residual[0, :-1], final.activations[0, :-1], ids[0, 1:], mlp), ids


def deltas_to(tokens: Tokens, value: float) -> list[torch.Tensor]:
    return [value - tokens.activations[:, list(chosen)].double() for chosen in SETS]


def check(value: np.ndarray, oracle: np.ndarray, scale: float = 1.0) -> None:
    error, tolerance = np.abs(value - oracle), scale * (1e-6 + 1e-5 * np.abs(oracle))
    assert (error <= tolerance).all(), f"{(error / tolerance).max()} of the tolerance"


@pytest.mark.parametrize(
    ("kernel", "dtype", "scale"),
    [("torch", torch.float64, 1e-5), ("torch", torch.float32, 1), ("auto", torch.float32, 1)],
)
def test_all_variants_equal_the_changed_residual(
    tiny_model: TinyModel, architecture: str, kernel: str, dtype: torch.dtype, scale: float
) -> None:
    """Against the float64 oracle, which sees only the vector that the set adds to the MLP's output."""
    last, tokens, _ = state(tiny_model(architecture, "float64"), dtype, kernel)
    for value in (0.0, 8.0):
        deltas = deltas_to(tokens, value)
        got = joint_effects(last, tokens, clean_of(last, tokens), SETS, deltas)
        for s, chosen in enumerate(SETS):
            oracle = brute_force.pair_effects(
                last.readout.to(dtype=torch.float64),
                tokens.residual,
                deltas[s] @ last.raw[list(chosen)].double(),
                torch.ones(len(tokens), dtype=torch.float64),
                tokens.targets,
                reference=last.reference,
                mlp=tokens.mlp,
            )
            for outcome in OUTCOMES:
                check(getattr(got, outcome)[:, :, s], getattr(oracle, outcome)[..., 0], scale)
            assert np.array_equal(got.prediction[:, :, s], oracle.prediction[:2, :, 0])
            if dtype == torch.float64:
                assert np.array_equal(got.rank[:, :, s], oracle.rank[:2, :, 0])
        assert np.abs(got.loss[0]).max() > 0.1


def test_equals_the_whole_model(tiny_model: TinyModel, architecture: str) -> None:
    """Against a forward pass in which all activations of the set are replaced."""
    model = tiny_model(architecture, "float64")
    last, tokens, ids = state(model, torch.float64, "torch")
    value = 3.0
    clean, deltas = clean_of(last, tokens), deltas_to(tokens, value)
    got = joint_effects(last, tokens, clean, SETS, deltas)
    logs = [*ablated_log_probs(last, tokens, clean, SETS, deltas)]
    ablated = torch.cat([log_probs for _, log_probs in logs])
    for s, chosen in enumerate(SETS):
        values = torch.full((1, POSITIONS, len(chosen)), value, dtype=torch.float64)
        oracle = brute_force.forward_effects(model, last.layer, list(chosen), ids, values, reference=last.reference)
        for row, name in enumerate(("total", "unigram")):
            for outcome in OUTCOMES:
                check(getattr(got, outcome)[NAMES.index(name), :, s], getattr(oracle, outcome)[row, :, 0], 1e-5)
        whole = model.logits(ids, (last.layer, list(chosen), values)).log_softmax(-1)[0, :-1]
        assert torch.allclose(ablated[:, s], whole, atol=1e-10)


@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_a_set_of_one_equals_the_kernel(tiny_model: TinyModel, architecture: str, kernel: str) -> None:
    last, tokens, _ = state(tiny_model(architecture), kernel=kernel)
    neurons = [4, 0, 33]
    delta = 2 - tokens.activations[:, neurons].double()
    clean = clean_of(last, tokens)
    alone = effects_of_chunk(last, tokens, clean, directions_of(last, neurons), neurons, delta)
    sets = [(n,) for n in neurons]
    joint = joint_effects(last, tokens, clean, sets, [delta[:, i : i + 1] for i in range(3)])
    for outcome in OUTCOMES:
        check(getattr(joint, outcome), getattr(alone, outcome))
    assert np.array_equal(joint.prediction, alone.prediction)


def test_effects_do_not_add_up_but_logits_do(tiny_model: TinyModel) -> None:
    """With the norm frozen the change of the logits is a sum over neurons; the loss is not, least with the norm."""
    last, tokens, _ = state(tiny_model("gpt_neox", "float64"), torch.float64, "torch")
    sets = [(0, 7, 47), (0,), (7,), (47,)]
    deltas = [4 - tokens.activations[:, list(chosen)] for chosen in sets]
    clean = clean_of(last, tokens)
    effects = joint_effects(last, tokens, clean, sets, deltas)
    gap = effects.loss[:, :, 0] - effects.loss[:, :, 1:].sum(-1)
    assert np.abs(gap[NAMES.index("total")]).mean() > 0.01
    frozen = torch.cat([lp for _, lp in ablated_log_probs(last, tokens, clean, sets, deltas, variant="direct")])
    changes = frozen - clean.lp[:, None]
    rest = changes[:, 0] - changes[:, 1:].sum(1)
    assert torch.allclose(rest, rest[:, :1].expand_as(rest), atol=1e-10)


def test_parts_and_variants_change_nothing(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    last, tokens, _ = state(tiny_model("llama"))
    clean, deltas, lines = clean_of(last, tokens), deltas_to(tokens, 1.0), lines_of_sets(last, SETS)
    whole = joint_effects(last, tokens, clean, SETS, deltas)
    monkeypatch.setattr("neuronlab.joint.BUDGET", {"cpu": 5 * len(SETS) * 200 * 8})
    parts = joint_effects(last, tokens, clean, SETS, deltas, variants=("unigram", "direct"), lines=lines)
    assert np.array_equal(parts.loss, whole.loss[[NAMES.index("unigram"), NAMES.index("direct")]])
    assert np.array_equal(parts.rank, whole.rank[[1]])


def test_threads_change_no_bit(tiny_model: TinyModel) -> None:
    last, tokens, _ = state(tiny_model("gpt_neox"))
    assert last.kernel == "numba"
    clean, deltas = clean_of(last, tokens), deltas_to(tokens, 5.0)
    one, three = (joint_effects(replace(last, threads=n), tokens, clean, SETS, deltas) for n in (1, 3))
    for name in ("loss", "entropy", "kl", "rank", "prediction"):
        assert np.array_equal(getattr(one, name), getattr(three, name))


def test_brute_force_kernel(tiny_model: TinyModel) -> None:
    model = tiny_model("gemma2")
    last, tokens, _ = state(model)
    clean, deltas = clean_of(last, tokens), deltas_to(tokens, 1.0)
    slow = joint_effects(replace(last, kernel="brute_force"), tokens, clean, SETS, deltas)
    fast = joint_effects(last, tokens, clean, SETS, deltas)
    check(fast.entropy, slow.entropy)
    assert np.array_equal(fast.prediction, slow.prediction)


def test_sets_that_do_not_fit(tiny_model: TinyModel) -> None:
    last, tokens, _ = state(tiny_model("gpt2"))
    clean = clean_of(last, tokens)
    for chosen in ((), (1, 1), (48,)):
        with pytest.raises(AblationError, match="different neurons"):
            joint_effects(last, tokens, clean, [chosen], [torch.zeros(len(tokens), len(chosen))])
    with pytest.raises(AblationError, match="shapes"):
        joint_effects(last, tokens, clean, [(1, 2)], [torch.zeros(len(tokens), 3)])
    with pytest.raises(AblationError, match="other sets"):
        joint_effects(last, tokens, clean, [(1,)], [torch.zeros(len(tokens), 1)], lines=lines_of_sets(last, [(2,)]))
