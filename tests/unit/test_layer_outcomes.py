"""Outcomes of changed streams against their definitions, token by token; ties, padding, softcap, rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from neuronlab.layer_outcomes import OUTCOMES, outcomes
from neuronlab.models import Model
from neuronlab.readout import Readout, fold
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy
from transformers import AutoModelForCausalLM

D, VOCAB, N = 12, 40, 9


def readout_of(softcap: float | None = None, kind: str = "LN", seed: int = 0) -> Readout:
    generator = torch.Generator().manual_seed(seed)
    return fold(
        torch.randn(D, VOCAB, generator=generator, dtype=torch.float64),
        torch.randn(VOCAB, generator=generator, dtype=torch.float64),
        1 + 0.2 * torch.randn(D, generator=generator, dtype=torch.float64),
        0.1 * torch.randn(D, generator=generator, dtype=torch.float64) if kind == "LN" else None,
        eps=1e-5,
        kind=kind,
        softcap=softcap,
        dtype=torch.float64,
    )


def states_of(n: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(N, D, generator=generator, dtype=torch.float64) for _ in range(n)]


TARGETS = torch.from_numpy(np.random.default_rng(2).integers(0, VOCAB, N))


@pytest.mark.parametrize(("kind", "softcap"), [("LN", None), ("RMS", None), ("RMS", 2.0)])
def test_outcomes_by_their_definitions(kind: str, softcap: float | None) -> None:
    readout, (clean, *states) = readout_of(softcap, kind), states_of(4)
    before, after = outcomes(readout, clean, states, TARGETS, 4)
    p = log_softmax(readout.logits(clean).numpy(), axis=-1)
    for state, found in zip(states, after, strict=True):
        q = log_softmax(readout.logits(state).numpy(), axis=-1)
        for t in range(N):
            top = p[t].argmax()
            rank = list(np.argsort(-q[t])).index(top)
            expected = {
                "kl": rel_entr(np.exp(p[t]), np.exp(q[t])).sum(),
                "loss": -q[t, TARGETS[t]],
                "entropy": entropy(np.exp(q[t])),
                "agreement": float(q[t].argmax() == top),
                "reciprocal_rank": 1 / (rank + 1),
            }
            for name, value in expected.items():
                assert found[OUTCOMES.index(name), t] == pytest.approx(value, rel=1e-12, abs=1e-12)
            assert before[0, t] == pytest.approx(-p[t, TARGETS[t]], rel=1e-12)
            assert before[1, t] == pytest.approx(entropy(np.exp(p[t])), rel=1e-12)


def test_the_clean_state_changes_nothing() -> None:
    """KL is 0, never negative by rounding; the loss and entropy are the clean ones."""
    readout, (clean,) = readout_of(), states_of(1)
    before, (same, again) = outcomes(readout, clean, [clean, clean * 1.0], TARGETS)
    kl, loss, entropy_, agreement, reciprocal_rank = same
    assert (kl >= 0).all()
    assert kl.max() < 1e-13
    np.testing.assert_allclose([loss, entropy_], before, rtol=1e-13)
    assert (agreement == 1).all()
    assert (reciprocal_rank == 1).all()
    np.testing.assert_array_equal(same, again)


def test_chunks_and_groups_change_nothing() -> None:
    readout, (clean, *states) = readout_of(), states_of(4)
    whole = outcomes(readout, clean, states, TARGETS, 128)[1]
    for size in (1, 2, 9):
        np.testing.assert_allclose(outcomes(readout, clean, states, TARGETS, size)[1], whole, rtol=1e-12, atol=1e-13)
    alone = np.stack([outcomes(readout, clean, [state], TARGETS)[1][0] for state in states])
    np.testing.assert_allclose(alone, whole, rtol=1e-12, atol=1e-13)
    assert outcomes(readout, clean, [], TARGETS)[1].shape == (0, len(OUTCOMES), N)


def test_probabilities_below_the_published_clamp_count_c_defect_3() -> None:
    """A far token of probability below 1e-9 has its share of the entropy and of the loss."""
    W_U = torch.zeros(D, 3, dtype=torch.float64)
    W_U[0] = torch.tensor([10.0, 0.0, -25.0])
    readout = fold(W_U, None, torch.ones(D), None, eps=0.0, kind="RMS", dtype=torch.float64)
    state = torch.zeros(1, D, dtype=torch.float64)
    state[0, 0] = 1.0  # normed: sqrt(D)
    lp = log_softmax(np.array([10.0, 0.0, -25.0]) * np.sqrt(D))
    _, ((_, loss, entropy_, _, _),) = outcomes(readout, state, [state], torch.tensor([2]))
    assert lp[2] < np.log(1e-9)
    assert loss[0] == pytest.approx(-lp[2])
    assert entropy_[0] == pytest.approx(-(np.exp(lp) * lp).sum(), rel=1e-6)


def test_equal_logits_do_not_lower_the_rank() -> None:
    """Two tokens with one unembedding column are on top together, before and after."""
    readout, (clean,) = readout_of(), states_of(1)
    W, b = readout.W.clone(), readout.b.clone()
    top = readout.logits(clean).argmax(-1)[0]
    W[:, -1], b[-1] = W[:, top], b[top]
    twin = Readout(W, b, readout.eps, "LN", None, True, readout.real)
    _, (found,) = outcomes(twin, clean[:1], [clean[:1]], TARGETS[:1])
    assert found[OUTCOMES.index("agreement")] == 1
    assert found[OUTCOMES.index("reciprocal_rank")] == 1


def test_a_row_speaks_of_one_position_c_defect_1(
    tiny_directories: dict[str, Path], tiny_model: Callable[..., Model]
) -> None:
    """KL, entropy and top prediction are of the very distribution that the next token's loss is taken from."""
    model, t = tiny_model("gpt_neox"), 7
    network = AutoModelForCausalLM.from_pretrained(tiny_directories["gpt_neox"]).eval()
    tokens = torch.from_numpy(np.random.default_rng(3).integers(2, 190, (1, 16)))
    residual = model.run(tokens).residual
    clean, target = residual[0, t : t + 1], tokens[0, t + 1 : t + 2]
    before, (found,) = outcomes(model.readout(), clean, [clean], target)
    labels = torch.full_like(tokens, -100)
    labels[0, t + 1] = tokens[0, t + 1]
    with torch.no_grad():
        output = network(tokens, labels=labels)
    at_t = torch.distributions.Categorical(logits=output.logits[0, t])
    assert before[0, 0] == pytest.approx(float(output.loss), rel=1e-5)
    assert found[OUTCOMES.index("entropy"), 0] == pytest.approx(float(at_t.entropy()), rel=1e-5)
    beside = torch.distributions.Categorical(logits=output.logits[0, t + 1])
    assert abs(float(beside.entropy()) - found[OUTCOMES.index("entropy"), 0]) > 1e-2


def test_padded_ids_stay_in_the_softmax_c_defect_5(
    tiny_directories: dict[str, Path], tiny_model: Callable[..., Model]
) -> None:
    """The tiny models' vocabulary is padded from 196 to 200 ids: losses are those of the model, over all of them."""
    model = tiny_model("gpt2")
    assert model.d_vocab > model.d_vocab_real
    network = AutoModelForCausalLM.from_pretrained(tiny_directories["gpt2"]).eval()
    tokens = torch.from_numpy(np.random.default_rng(4).integers(2, 190, (2, 12)))
    residual = model.run(tokens).residual[:, :-1].flatten(0, 1)
    before, _ = outcomes(model.readout(), residual, [], tokens[:, 1:].flatten())
    with torch.no_grad():
        logits = network(tokens).logits[:, :-1].flatten(0, 1).double()
    whole = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
    real = torch.nn.functional.cross_entropy(logits[:, :196], tokens[:, 1:].flatten(), reduction="none")
    np.testing.assert_allclose(before[0], whole, rtol=1e-5)
    assert (whole - real).min() > 1e-4
