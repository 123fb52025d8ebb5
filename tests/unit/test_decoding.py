"""Decoding along one prefix tree against one generation with hooks for each variant, token for token in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from decoding_cases import SEED, decode, every_variant, never, random_groups, random_prompts, sometimes, taken
from neuronlab.last_layers import last_layer_of
from neuronlab.naive_decoding import generate, generate_batch
from neuronlab.variant_groups import VariantGroup


@pytest.fixture(scope="module")
def with_hooks(tiny_model):
    """`with_hooks(architecture)`: tokens of every prompt and variant, each generated on its own, and the gaps."""

    @cache
    def made(name):
        model = tiny_model(name, "float64")
        last = last_layer_of(model, kernel="torch")
        return {
            (i, variant): generate(
                model, last, prompt, group, row, new_tokens=4, finished=sometimes, seed=SEED, cache=variant % 3 == 0
            )
            for i, prompt in enumerate(random_prompts())
            for variant, group, row in every_variant(random_groups(name != "gemma2"))
        }

    return made


@pytest.mark.parametrize("kernel", ["torch", "auto"])  # auto: numba wherever it covers the read-out
def test_equals_generation_with_hooks_token_for_token(tiny_model, with_hooks, architecture, kernel):
    model = tiny_model(architecture, "float64")
    last = last_layer_of(model, kernel=kernel)
    decoded = decode(model, last, random_prompts(), random_groups(architecture != "gemma2"))
    generated = with_hooks(architecture)
    spent = 0
    for (i, variant), (tokens, gaps) in generated.items():
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
    assert decoded.chosen.shape == (0, 11)
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
    batch = generate_batch(model, last, prompts, group, 1, new_tokens=4)
    alone = [generate(model, last, prompt, group, 1, new_tokens=4, finished=never)[0] for prompt in prompts]
    assert [tokens[: len(one)] for tokens, one in zip(batch, alone, strict=True)] == alone
