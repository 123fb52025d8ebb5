"""Choices of single states against the read-out of the moved residual; variants that cannot be decoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from decoding_cases import D_MLP, SEED, SETS, decode, random_groups, random_prompts
from neuronlab.ablation import LastLayer
from neuronlab.decoding_choice import choose
from neuronlab.last_layers import last_layer_of
from neuronlab.prompt_batches import DecodingError, LastState
from neuronlab.readout import fold
from neuronlab.synthetic_sets import SyntheticSetError, synthetic_directions, synthetic_move
from neuronlab.variant_groups import VariantGroup
from neuronlab.variant_table import tabulate


@pytest.mark.parametrize("kernel", ["torch", "numba", "brute_force"])
@pytest.mark.parametrize("kind", ["LN", "RMS"])
@pytest.mark.parametrize("vocab", [40, 1500])
def test_choices_equal_the_readout_of_the_moved_residual(kind, vocab, kernel):
    """No model: states with large biases, sets large and small, and controls so strong that they turn x around."""
    generator, d, neurons, nodes = torch.Generator().manual_seed(0), 16, D_MLP, 5

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    bias = draw(d) if kind == "LN" else None
    readout = fold(draw(d, vocab), draw(vocab), 1 + 0.2 * draw(d), bias, eps=1e-2, kind=kind, dtype=torch.float64)
    w = readout.centre(draw(neurons, d))
    last = LastLayer(layer=0, readout=readout, w=w, raw=w, reference=None, kernel=kernel)
    state = LastState(3 * draw(nodes, d) + 1, draw(nodes, neurons))
    groups = random_groups(True, sets=(*SETS, (17, 30.0, None), (6, 300.0, 2), (30, 0.01, 3)))
    table = tabulate(last, groups, SEED)
    node, variant = (
        part.flatten() for part in torch.meshgrid(torch.arange(nodes), torch.arange(len(table)), indexing="ij")
    )
    shuffled = torch.randperm(len(node), generator=generator)
    node, variant = node[shuffled], variant[shuffled]
    token, near = choose(last, table, state, node, variant, tie=0.05)
    expected = torch.empty(nodes, len(table), vocab, dtype=torch.float64)
    expected[:, 0] = readout.logits(state.residual)
    for group in groups:
        chosen = list(group.neurons)
        for row, number in enumerate(group.variants):
            delta = torch.from_numpy(group.values[row]) - state.activations[:, chosen]
            moved = delta @ w[chosen]
            if group.draw is not None:
                r = synthetic_directions(readout, w[chosen], group.draw, SEED)
                moved = synthetic_move(readout, state.residual, w[chosen], r, delta)
            expected[:, int(number)] = readout.logits(state.residual + moved)
    logits = expected[node, variant]
    torch.testing.assert_close(token, logits.argmax(1))
    best = logits.topk(2).values
    torch.testing.assert_close(near, best[:, 0] - best[:, 1] < 0.05)
    assert 0 < int(near.sum()) < len(near)


def test_values_that_are_not_numbers_are_refused_and_never_decoded(tiny_model):
    model = tiny_model("gpt2", "float64")
    last = last_layer_of(model, kernel="torch")
    for bad in (np.nan, np.inf):
        group = VariantGroup((5, 9), np.array([1, 2]), np.array([[0.0, 1.0], [0.0, bad]]))
        with pytest.raises(DecodingError, match=r"neurons \[9\] are replaced by NaN or infinity"):
            decode(model, last, random_prompts(), [group])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([VariantGroup((48,), np.array([1]), np.zeros((1, 1)))], "must be different neurons of the last layer"),
        ([VariantGroup((3, 3), np.array([1]), np.zeros((1, 2)))], "must be different neurons"),
        ([VariantGroup((3,), np.array([1]), np.zeros((1, 2)))], "values of shape"),
        ([VariantGroup((3,), np.array([0]), np.zeros((1, 1)))], "numbered from 1 without gaps"),
        ([VariantGroup((3,), np.array([1, 3]), np.zeros((2, 1)))], "numbered from 1 without gaps"),
        ([VariantGroup((3,), np.array([1]), np.zeros((1, 1)))] * 2, "each in one group"),
    ],
)
def test_variants_that_do_not_fit_are_refused(tiny_model, groups, message):
    model = tiny_model("gpt2", "float64")
    with pytest.raises(DecodingError, match=message):
        decode(model, last_layer_of(model, kernel="torch"), random_prompts(), groups)


def test_a_layer_before_the_last_is_refused(tiny_model):
    model = tiny_model("gpt2", "float64")
    last = replace(last_layer_of(model, kernel="torch"), layer=0)
    with pytest.raises(DecodingError, match="layer 0 is not the last one"):
        decode(model, last, random_prompts(), [])


def test_synthetic_groups_are_refused_behind_a_norm_after_the_mlp(tiny_model):
    model = tiny_model("gemma2", "float64")
    with pytest.raises(SyntheticSetError, match="norm after the MLP"):
        decode(model, last_layer_of(model, kernel="torch"), random_prompts(), random_groups(True))
