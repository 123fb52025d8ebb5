"""Decoding along one prefix tree against one generation with hooks for each variant, token for token in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from neuronlab.ablation import LastLayer
from neuronlab.decoding import Decoded, decode_variants
from neuronlab.decoding_choice import choose
from neuronlab.last_layers import last_layer_of
from neuronlab.models import Model
from neuronlab.naive_decoding import generate, generate_batch
from neuronlab.prompt_batches import DecodingError, LastState
from neuronlab.readout import fold
from neuronlab.synthetic_sets import SyntheticSetError, synthetic_directions, synthetic_move
from neuronlab.variant_groups import VariantGroup
from neuronlab.variant_table import tabulate

SEED, TIE = 3, 1e-6
D_MLP = 48
# (neurons, standard deviation of the values, draw of a synthetic control): weak, and strong enough to change any token.
SETS = ((1, 1.0, None), (3, 3.0, None), (3, 0.3, None), (20, 2.0, None), (0, 1.0, None), (2, 4.0, 0), (20, 1.0, 1))


def random_prompts(lengths: Sequence[int] = (1, 7, 21), seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 190, (n,), generator=generator).tolist() for n in lengths]


def random_groups(synthetic: bool, values: int = 3, sets: Sequence[tuple] = SETS) -> list[VariantGroup]:
    rng, groups, first = np.random.default_rng(0), [], 1
    for size, scale, draw in sets:
        chosen = tuple(rng.permutation(D_MLP)[:size].tolist())
        held = scale * rng.standard_normal((values, size))
        if draw is None or synthetic:
            groups.append(VariantGroup(chosen, np.arange(first, first + values), held, draw))
            first += values
    return groups


def never(generated: Sequence[int]) -> bool:
    return False


def sometimes(generated: Sequence[int]) -> bool:
    """Ends continuations at different lengths."""
    return generated[-1] % 5 == 0


def decode(
    model: Model,
    last: LastLayer,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[VariantGroup],
    *,
    new_tokens: int = 4,
    finished: Callable[[Sequence[int]], bool] = sometimes,
    batch_size: int = 2,
    tie: float = TIE,
) -> Decoded:
    return decode_variants(
        model,
        last,
        prompts,
        groups,
        new_tokens=new_tokens,
        finished=finished,
        batch_size=batch_size,
        tie=tie,
        seed=SEED,
    )


def taken(decoded: Decoded, prompt: int, variant: int) -> tuple[int, ...]:
    return decoded.continuations[prompt][decoded.chosen[prompt, variant]]


def every_variant(groups: Sequence[VariantGroup]) -> list[tuple[int, VariantGroup | None, int]]:
    rows = [(int(v), group, row) for group in groups for row, v in enumerate(group.variants)]
    return [(0, None, 0), *rows]


@pytest.mark.parametrize("kernel", ["torch", "auto"])  # auto: numba wherever it covers the read-out
def test_equals_generation_with_hooks_token_for_token(tiny_model, architecture, kernel):
    model = tiny_model(architecture, "float64")
    last = last_layer_of(model, kernel=kernel)
    prompts, groups = random_prompts(), random_groups(architecture != "gemma2")
    decoded = decode(model, last, prompts, groups)
    spent = 0
    for i, prompt in enumerate(prompts):
        for variant, group, row in every_variant(groups):
            tokens, gaps = generate(
                model, last, prompt, group, row, new_tokens=4, finished=sometimes, seed=SEED, cache=variant % 3 == 0
            )
            assert taken(decoded, i, variant) == tokens, (i, variant, gaps)
            spent += len(tokens)
    assert decoded.costs.naive_prefixes == spent
    # The case is not empty: variants part from the clean model, after different lengths, and share what they have.
    assert (decoded.chosen != 0).mean() > 0.1
    assert len({len(tokens) for found in decoded.continuations for tokens in found}) > 1
    assert decoded.costs.prefixes < spent


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma2"])
def test_batch_size_and_kernel_change_nothing(tiny_model, name):
    model, prompts, groups = tiny_model(name, "float64"), random_prompts((1, 3, 20, 20, 9)), random_groups(False)
    last = last_layer_of(model, kernel="torch")
    found = decode(model, last, prompts, groups, batch_size=1)
    for other, size in ((last, 3), (last, 50), (replace(last, kernel="brute_force"), 50)):
        again = decode(model, other, prompts, groups, batch_size=size)
        assert again.continuations == found.continuations
        np.testing.assert_array_equal(again.chosen, found.chosen)
        torch.testing.assert_close(again.root.residual, found.root.residual, rtol=0, atol=1e-12)
        counted = (again.costs.prefixes, again.costs.naive_prefixes, again.costs.near_ties)
        assert counted == (found.costs.prefixes, found.costs.naive_prefixes, found.costs.near_ties)


def test_padding_does_not_change_what_a_prompt_is_answered(tiny_model, architecture):
    model, prompts, groups = tiny_model(architecture, "float64"), random_prompts((2, 30, 12)), random_groups(False)
    last = last_layer_of(model, kernel="torch")
    together = decode(model, last, prompts, groups, batch_size=3)
    for i, prompt in enumerate(prompts):
        alone = decode(model, last, [prompt], groups)
        assert [taken(alone, 0, v) for v in range(alone.chosen.shape[1])] == [
            taken(together, i, v) for v in range(together.chosen.shape[1])
        ]


def test_root_is_the_state_at_each_prompts_last_token_in_the_order_of_the_prompts(tiny_model, architecture):
    model, prompts = tiny_model(architecture, "float64"), random_prompts((5, 1, 9))
    root = decode(model, last_layer_of(model, kernel="torch"), prompts, []).root
    for i, prompt in enumerate(prompts):
        alone = model.run(torch.tensor([prompt]))
        torch.testing.assert_close(root.residual[i], alone.residual[0, -1], rtol=0, atol=1e-12)
        torch.testing.assert_close(root.activations[i], alone.activations[0, -1], rtol=0, atol=1e-12)
        assert (root.mlp_out is None) == (alone.mlp_out is None)


def test_continuations_are_distinct_the_clean_one_first_then_by_lowest_variant(tiny_model):
    model, prompts, groups = tiny_model("llama", "float64"), random_prompts(), random_groups(True)
    decoded = decode(model, last_layer_of(model, kernel="torch"), prompts, groups)
    for found, chosen in zip(decoded.continuations, decoded.chosen, strict=True):
        assert len(set(found)) == len(found) > 1
        firsts = [int(np.flatnonzero(chosen == i)[0]) for i in range(len(found))]
        assert firsts == sorted(firsts)
        assert chosen[0] == 0


def test_order_of_groups_and_variants_does_not_matter(tiny_model):
    model, prompts, groups = tiny_model("gpt2", "float64"), random_prompts(), random_groups(True)
    last = last_layer_of(model, kernel="torch")
    turned = [
        VariantGroup(group.neurons[::-1], group.variants[::-1].copy(), group.values[::-1, ::-1].copy())
        for group in reversed(groups)
        if group.draw is None  # a synthetic control's directions belong to neurons in their order
    ] + [group for group in groups if group.draw is not None]
    one, other = decode(model, last, prompts, groups), decode(model, last, prompts, turned)
    assert one.continuations == other.continuations
    np.testing.assert_array_equal(one.chosen, other.chosen)


def test_no_groups_and_groups_without_neurons_or_variants_are_the_clean_model(tiny_model):
    model, prompts = tiny_model("gpt_neox", "float64"), random_prompts()
    last = last_layer_of(model, kernel="torch")
    clean = [generate(model, last, p, None, 0, new_tokens=4, finished=sometimes)[0] for p in prompts]
    nothing = VariantGroup((), np.array([1, 2]), np.zeros((2, 0)))
    unused = VariantGroup((3, 4), np.array([], dtype=np.int64), np.zeros((0, 2)))
    for groups, variants in (([], 1), ([unused, nothing], 3)):
        decoded = decode(model, last, prompts, groups)
        assert decoded.chosen.tolist() == [[0] * variants] * 3
        assert [found[0] for found in decoded.continuations] == clean


def test_no_prompts_are_no_answers(tiny_model):
    model = tiny_model("gemma2", "float64")
    decoded = decode(model, last_layer_of(model, kernel="torch"), [], random_groups(False))
    assert decoded.continuations == []
    assert decoded.chosen.shape == (0, 16)
    assert (decoded.costs.prefixes, decoded.costs.passes) == (0, 0)
    assert decoded.root.residual.shape == (0, 32)
    assert decoded.root.mlp_out is not None


def test_eos_ends_a_continuation_and_is_its_last_token(tiny_model, monkeypatch):
    model, prompts, groups = tiny_model("mistral", "float64"), random_prompts(), random_groups(True)
    last = last_layer_of(model, kernel="torch")
    monkeypatch.setattr(model, "eos_token_id", None)
    free = decode(model, last, prompts, groups, finished=never)
    eos = free.continuations[1][0][1]
    assert free.continuations[1][0][0] != eos
    monkeypatch.setattr(model, "eos_token_id", eos)
    decoded = decode(model, last, prompts, groups, finished=never)
    assert taken(decoded, 1, 0) == free.continuations[1][0][:2]
    for i in range(len(prompts)):
        for variant in range(decoded.chosen.shape[1]):
            whole = taken(free, i, variant)
            end = whole.index(eos) + 1 if eos in whole else len(whole)
            assert taken(decoded, i, variant) == whole[:end]
    assert generate(model, last, prompts[1], None, 0, new_tokens=4, finished=never)[0] == taken(decoded, 1, 0)


def test_length_ends_what_nothing_else_does_and_one_token_runs_prompts_alone(tiny_model):
    model, prompts, groups = tiny_model("qwen2", "float64"), random_prompts(), random_groups(True)
    last = last_layer_of(model, kernel="torch")
    decoded = decode(model, last, prompts, groups, new_tokens=1, finished=never, batch_size=3)
    assert {len(tokens) for found in decoded.continuations for tokens in found} == {1}
    assert (decoded.costs.prefixes, decoded.costs.passes) == (3, 1)
    assert decoded.costs.naive_prefixes == decoded.chosen.size


def test_prefixes_are_those_that_some_variant_generated(tiny_model):
    model, prompts, groups = tiny_model("phi", "float64"), random_prompts(), random_groups(True)
    decoded = decode(model, last_layer_of(model, kernel="torch"), prompts, groups)
    run = {
        (i, tokens[:end])
        for i, found in enumerate(decoded.continuations)
        for tokens in found
        for end in range(len(tokens))
    }
    assert decoded.costs.prefixes == len(run)


def test_near_ties_are_counted_as_the_hooks_see_them(tiny_model, architecture):
    model, prompts = tiny_model(architecture, "float64"), random_prompts((4, 9))
    last, groups = last_layer_of(model, kernel="torch"), random_groups(architecture != "gemma2")
    runs = [
        generate(model, last, prompt, group, row, new_tokens=3, finished=never, seed=SEED)[1]
        for prompt in prompts
        for _, group, row in every_variant(groups)
    ]
    gaps = np.concatenate(runs)
    tie = float(np.quantile(gaps, 0.4)) * 1.0001
    decoded = decode(model, last, prompts, groups, new_tokens=3, finished=never, tie=tie)
    assert decoded.costs.near_ties == (gaps < tie).sum() > 0


def test_generation_in_padded_batches_is_a_fair_competitor(tiny_model, architecture):
    model, prompts = tiny_model(architecture, "float64"), random_prompts()
    last, group = last_layer_of(model, kernel="torch"), random_groups(False)[1]
    batch = generate_batch(model, last, prompts, group, 2, new_tokens=4)
    alone = [generate(model, last, prompt, group, 2, new_tokens=4, finished=never)[0] for prompt in prompts]
    assert [tokens[: len(one)] for tokens, one in zip(batch, alone, strict=True)] == alone


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
