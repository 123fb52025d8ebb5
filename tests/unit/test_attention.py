"""Heads ablated at every query position in one pass, against one hooked forward pass for each position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from neuronlab import attention_parts
from neuronlab.attention import (
    ablated_pass,
    all_heads,
    check_attention,
    check_reproduced,
    clean_pass,
    forward_at,
    mean_outputs,
    patterns,
)
from neuronlab.attention_parts import head_output, pattern, residual_before, skipped_blocks
from neuronlab.bridge_parts import HookError, hooked_forward, post_activation
from neuronlab.head_sets import AttentionError, HeadSet
from neuronlab.models import Model
from transformers import AutoModelForCausalLM

TINY = Callable[..., Model]
LENGTH, BATCH = 14, 2
# Single heads of both layers, two of one layer (sharing a key under grouped queries), and heads of both layers.
SETS = [HeadSet(heads) for heads in (((0, 1),), ((1, 2),), ((1, 0), (1, 1)), ((1, 3), (0, 2), (0, 0)))]
EXACT = {"rtol": 1e-11, "atol": 1e-11}


def draw(seed: int = 0, batch: int = BATCH, length: int = LENGTH) -> torch.Tensor:
    tokens = torch.randint(2, 190, (batch, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


def draw_means(model: Model) -> torch.Tensor:
    shape = model.n_layers, len(all_heads(model)) // model.n_layers, model.bridge.cfg.d_head
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["bos", "mean"])
def test_one_pass_is_one_forward_per_position(tiny_model: TINY, architecture: str, method: str) -> None:
    model = tiny_model(architecture, dtype="float64")
    tokens, means = draw(), draw_means(model)
    found = ablated_pass(model, clean_pass(model, tokens, [0, 1]), SETS, method, means=means)
    for s, heads in enumerate(SETS):
        for b in range(BATCH):
            # A row for each position: each row is ablated at one position only.
            rows = tokens[b].expand(LENGTH, -1)
            brute = forward_at(model, rows, heads, method, torch.arange(LENGTH), means=means)
            torch.testing.assert_close(found.residual[s, b], brute.residual, **EXACT)
            torch.testing.assert_close(found.activations[s, b], brute.activations, **EXACT)
    moved = (found.residual - clean_pass(model, tokens, []).states.residual).abs().amax((0, 1, 3))
    assert (moved[1:] > 1e-3).all()  # the ablation does something at every position but the first
    assert (moved[0] < 1e-11) == (method == "bos")  # position 0 attends to itself in any case


def test_brute_force_changes_one_row_of_attention_alone(tiny_model: TINY, architecture: str) -> None:
    """Row p is one-hot on key 0 (not row 0, not a whole column: METHODS A defect 10), so its output is v_0."""
    model, position, heads = tiny_model(architecture, dtype="float64"), 5, HeadSet(((0, 1), (0, 3)))
    tokens = draw(batch=1)
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda tensor, hook: caught.__setitem__(name, tensor.detach().clone())

    names = pattern(0), head_output(0), "blocks.0.attn.hook_v"
    hooked_forward(model.bridge, tokens, {name: keep(name) for name in names})
    before = dict(caught)
    seen: list[torch.Tensor] = []
    point = model.bridge.blocks[0].attn.o.hook_in
    handle = point.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    forward_at(model, tokens, heads, "bos", torch.tensor([position]))
    handle.remove()
    z = seen[0].reshape(before[head_output(0)].shape)
    others = [p for p in range(LENGTH) if p != position]
    torch.testing.assert_close(z[:, others], before[head_output(0)][:, others], **EXACT)
    torch.testing.assert_close(z[:, :, [0, 2]], before[head_output(0)][:, :, [0, 2]], **EXACT)
    values = before["blocks.0.attn.hook_v"][0, 0]  # [key head, d_head]
    values = values.repeat_interleave(z.shape[2] // len(values), dim=0)
    torch.testing.assert_close(z[0, position, [1, 3]], values[[1, 3]], **EXACT)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
def test_chosen_positions_sets_and_starts_change_nothing(tiny_model: TINY, name: str) -> None:
    model, positions = tiny_model(name, dtype="float64"), torch.tensor([0, 3, 4, 13])
    means = draw_means(model)
    clean = clean_pass(model, draw(), [0, 1])
    upper = SETS[1:3]  # heads of layer 1 alone
    for method in ("bos", "mean"):
        whole = ablated_pass(model, clean, upper, method, means=means, first=0)
        later = ablated_pass(model, clean, upper, method, means=means, positions=positions)
        torch.testing.assert_close(later.residual, whole.residual[:, :, positions], **EXACT)
        for s, heads in enumerate(upper):
            alone = ablated_pass(model, clean, [heads], method, means=means)
            torch.testing.assert_close(alone.activations[0], whole.activations[s], **EXACT)


def test_without_heads_the_clean_run_comes_back(tiny_model: TINY, architecture: str) -> None:
    model = tiny_model(architecture)
    clean = clean_pass(model, draw(), [0, 1])
    check_reproduced(model, clean)
    check_reproduced(model, clean_pass(model, draw(), [1]))
    state = model.run(draw())
    torch.testing.assert_close(clean.states.residual, state.residual)
    torch.testing.assert_close(clean.states.activations, state.activations)


def test_a_model_whose_attention_is_something_else_is_refused(
    tiny_model: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    clean = clean_pass(model, draw(), [0])

    def all_seen(positions: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(1, 1, len(positions), length + len(positions), dtype=dtype)

    monkeypatch.setattr(attention_parts, "earlier_and_own", all_seen)
    with pytest.raises(AttentionError, match="not covered"):
        check_reproduced(model, clean)


def test_blocks_below_the_first_ablated_layer_do_not_run(tiny_model: TINY) -> None:
    model = tiny_model("gpt2")
    residual = clean_pass(model, draw(), [1]).residuals[1]
    silent = {post_activation(0): lambda tensor, hook: None}
    with skipped_blocks(model.bridge, 1), pytest.raises(HookError, match=r"blocks\.0"):
        hooked_forward(model.bridge, residual, silent, start_at_layer=1)
    hooked_forward(model.bridge, draw(), silent)  # and run again afterwards


def test_layers_that_share_keys_are_refused(tiny_model: TINY, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: object, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *args: object) -> tuple:
        if layer_idx == 0:
            self.kept[0] = key, value
        return key, value

    monkeypatch.setattr(attention_parts.KeptKeys, "update", forgetful)
    with pytest.raises(AttentionError, match="keys and values of its own"):
        clean_pass(tiny_model("llama"), draw(), [0])


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_windows_that_hide_position_0_are_refused(tiny_model: TINY, name: str) -> None:
    model = tiny_model(name, dtype="float64")  # a window of 16
    with pytest.raises(AttentionError, match="16 tokens back"):
        clean_pass(model, draw(length=17), [0])
    tokens = draw(length=16, batch=1)
    found = ablated_pass(model, clean_pass(model, tokens, [0]), SETS[-1:], "bos")
    brute = forward_at(model, tokens.expand(16, -1), SETS[-1], "bos", torch.arange(16))
    torch.testing.assert_close(found.residual[0, 0], brute.residual, **EXACT)


def test_sequences_longer_than_the_context_are_refused(tiny_model: TINY) -> None:
    with pytest.raises(AttentionError, match="context is 64"):
        check_attention(tiny_model("gpt2"), 65)


def test_starts_that_do_not_fit_and_missing_means_are_refused(tiny_model: TINY) -> None:
    model = tiny_model("gpt2")
    clean = clean_pass(model, draw(), [1])
    with pytest.raises(AttentionError, match="cannot start"):
        ablated_pass(model, clean, SETS[:1], "bos")
    with pytest.raises(AttentionError, match="cannot start"):
        ablated_pass(model, clean, SETS[:1], "bos", first=1)
    with pytest.raises(AttentionError, match="mean outputs"):
        ablated_pass(model, clean, SETS[1:2], "mean")


def test_patterns_are_hugging_face_s(tiny_model: TINY, tiny_directories: dict[str, Path], architecture: str) -> None:
    found: dict[int, torch.Tensor] = {}
    patterns(tiny_model(architecture), draw(), lambda layer, attention: found.__setitem__(layer, attention.clone()))
    network = AutoModelForCausalLM.from_pretrained(tiny_directories[architecture], attn_implementation="eager").eval()
    with torch.no_grad():
        expected = network(draw(), output_attentions=True).attentions
    assert sorted(found) == list(range(len(expected)))
    for layer, attention in found.items():
        torch.testing.assert_close(attention, expected[layer], rtol=1e-4, atol=1e-5)


def test_float64_patterns_are_the_softmax_of_their_scores(tiny_model: TINY, architecture: str) -> None:
    model, caught = tiny_model(architecture, dtype="float64"), {}
    names = "blocks.1.attn.hook_attn_scores", pattern(1)
    hooked_forward(
        model.bridge, draw(), {name: lambda t, hook, name=name: caught.__setitem__(name, t.detach()) for name in names}
    )
    torch.testing.assert_close(caught[names[1]], caught[names[0]].softmax(-1), rtol=1e-13, atol=1e-15)


def test_mean_outputs_by_loop(tiny_model: TINY) -> None:
    model = tiny_model("llama")
    tokens = draw(batch=5)
    counted = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    found = mean_outputs(model, ((tokens[i : i + 2], counted[i : i + 2]) for i in (0, 2, 4)))
    rows = []
    for b in range(5):
        for p in range(LENGTH):
            if counted[b, p]:
                kept: dict[int, torch.Tensor] = {}
                hooks = {
                    head_output(layer): lambda z, hook, layer=layer, kept=kept: kept.__setitem__(layer, z[0, -1])
                    for layer in range(2)
                }
                hooked_forward(model.bridge, tokens[b : b + 1, : p + 1], hooks)
                rows.append(torch.stack([kept[0], kept[1]]).double())
    torch.testing.assert_close(found, torch.stack(rows).mean(0), rtol=1e-5, atol=1e-6)
    with pytest.raises(AttentionError, match="no position"):
        mean_outputs(model, [(tokens, torch.zeros_like(counted))])


def test_residuals_kept_are_those_that_enter_the_layers(tiny_model: TINY, architecture: str) -> None:
    model, caught = tiny_model(architecture), {}
    hooks = {residual_before(1): lambda x, hook: caught.__setitem__(1, x.detach())}
    hooked_forward(model.bridge, draw(), hooks)
    torch.testing.assert_close(clean_pass(model, draw(), [1]).residuals[1], caught[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("1", "layer.head"),
        ("1.2+", "layer.head"),
        ("2.0", "2.0.*layers 0 to 1"),
        ("0.1+1.4", "1.4.*heads 0 to 3"),
        ("0.1+0.1", "twice"),
    ],
)
def test_heads_that_do_not_exist_are_refused(name: str, message: str) -> None:
    with pytest.raises(AttentionError, match=f"induction.heads.sets.*{message}"):
        HeadSet.parse(name, 2, 4, where="induction.heads.sets")


def test_names_of_sets_are_read_back() -> None:
    assert HeadSet.parse("1.0+0.3", 2, 4, where="x").heads == ((1, 0), (0, 3))
    assert HeadSet.parse("1.0+0.3", 2, 4, where="x").name == "1.0+0.3"
