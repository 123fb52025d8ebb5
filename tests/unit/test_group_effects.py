"""Effects of variants by the kernels against hooked forward passes in float64, route by route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from conflict_files import drawn_prompts
from neuronlab.ablation import LastLayer, Tokens, clean_of
from neuronlab.bridge_parts import hooked_forward, norm_gain
from neuronlab.group_effects import (
    blocks_of_groups,
    deltas,
    group_coefficients,
    group_effects,
    group_entropies,
    lines_of_groups,
)
from neuronlab.kernels.entropy_kernel import entropies
from neuronlab.kernels.interface import KernelError
from neuronlab.last_layers import last_layer_of
from neuronlab.models import Model
from neuronlab.naive_decoding import variant_hooks
from neuronlab.prompt_batches import LastState, read_prompts
from neuronlab.synthetic_sets import SyntheticSetError
from neuronlab.variant_groups import VariantGroup
from torch import Tensor

ROUTES = ("total", "direct", "norm")
NEURONS = (3, 11, 40)
PROMPTS = drawn_prompts(5)
TARGETS = [40, 51, 62, 73, 84]


def group(model: Model, *, draw: int | None = None, scale: float = 1.0) -> VariantGroup:
    """Four variants of moderate and large constants."""
    values = np.random.default_rng(5).normal(0, scale, (4, len(NEURONS)))
    return VariantGroup(NEURONS, np.arange(1, 5), values, draw)


def tokens_of(last: LastLayer, state: LastState) -> Tokens:
    state = state.to(last.device)
    return Tokens(state.residual, state.activations, torch.tensor(TARGETS), state.mlp_out)


def head(model: Model, residual: Tensor, scaled_like: Tensor) -> Tensor:
    """Hugging Face's own final norm and unembedding of `residual`, with the scale that `scaled_like` has."""
    final = model.bridge.ln_final.original_component
    bias = getattr(final, "bias", None)

    def scale(x: Tensor) -> Tensor:
        centred = x if model.norm_kind == "RMS" else x - x.mean(-1, keepdim=True)
        return (centred.square().mean(-1, keepdim=True) + model.eps).sqrt()

    shift = 0 if bias is None else bias
    normed = (final(residual) - shift) * scale(residual) / scale(scaled_like) + shift
    logits = model.bridge.unembed.original_component(normed)
    cap = model.softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


def hooked(model: Model, last: LastLayer, one: VariantGroup, row: int, prompt: list[int]) -> Iterator[Tensor]:
    """Log-probabilities of a variant at the prompt's end by all routes, from residuals that hooks caught."""
    caught = []
    ids = torch.tensor([prompt])
    for hooks in ({}, variant_hooks(model, last, one, row)):
        seen: dict[str, Tensor] = {}
        name = "ln_final.hook_in"
        before = hooks.pop(name, None)

        def keep(tensor: Tensor, hook: object, before: object = before, seen: dict = seen) -> Tensor:
            moved = tensor if before is None else before(tensor, hook)
            seen["x"] = moved.detach()[0, -1]
            return moved

        logits = hooked_forward(model.bridge, ids, {**hooks, name: keep})[0, -1]
        caught.append((logits, seen["x"]))
    (_, clean), (total, ablated) = caught
    with torch.no_grad():
        yield total.log_softmax(-1)
        yield head(model, ablated, clean).log_softmax(-1)
        yield head(model, clean, ablated).log_softmax(-1)


def expected(model: Model, one: VariantGroup) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entropy, log-probability of the target and top token, [routes, prompts, variants]."""
    last = last_layer_of(model, kernel="torch")
    shape = (len(ROUTES), len(PROMPTS), len(one.variants))
    entropy, log_prob, top = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=int)
    for p, prompt in enumerate(PROMPTS):
        for row in range(len(one.variants)):
            for route, lp in enumerate(hooked(model, last, one, row, prompt)):
                entropy[route, p, row] = -(lp.exp() * lp).sum()
                log_prob[route, p, row] = lp[TARGETS[p]]
                top[route, p, row] = lp.argmax()
    return entropy, log_prob, top


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["moderate", "huge"])
@pytest.mark.parametrize("draw", [None, 7], ids=["own", "synthetic"])
def test_all_routes_are_those_of_hooked_forward_passes(
    architecture: str, draw: int | None, scale: float, tiny_model: Callable[..., Model]
) -> None:
    model = tiny_model(architecture, "float64")
    one = group(model, draw=draw, scale=scale)
    if draw is not None and model.has_post_mlp_norm:
        with pytest.raises(SyntheticSetError, match="norm after the MLP"):
            lines_of_groups(last_layer_of(model, kernel="torch"), [one], 0)
        return
    entropy, log_prob, top = expected(model, one)
    assert np.abs(entropy[0] - entropy[0, :, :1]).max() > 1e-2  # the variants differ
    last = last_layer_of(model, kernel="torch")
    tokens = tokens_of(last, read_prompts(model, PROMPTS).state)
    for kernel in ("torch", "brute_force"):
        there = replace(last, kernel=kernel)
        clean = clean_of(there, tokens)
        found = group_effects(
            there, tokens, clean, lines_of_groups(there, [one], 0)[0], routes=ROUTES, ranked=(0, 1, 2)
        )
        close = {"rtol": 2e-6, "atol": 2e-6} if kernel == "torch" else {"rtol": 1e-9, "atol": 1e-9}
        np.testing.assert_allclose(found.entropy + clean.entropy.numpy()[:, None], entropy, **close)
        np.testing.assert_allclose(-found.loss - clean.loss.numpy()[:, None], log_prob, **close)
        np.testing.assert_array_equal(found.prediction, top)
        np.testing.assert_allclose(
            group_entropies(there, tokens, clean, lines_of_groups(there, [one], 0)[0]), entropy[0], **close
        )
    assert norm_gain(model.bridge.ln_final).std() > 0.1  # a forgotten gain would have shown


def test_numba_agrees_with_torch(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("gpt_neox")
    found = {}
    for kernel in ("torch", "numba"):
        last = last_layer_of(model, kernel=kernel)
        assert last.kernel == kernel
        tokens = tokens_of(last, read_prompts(model, PROMPTS).state)
        for draw in (None, 7):
            lines = lines_of_groups(last, [group(model, draw=draw)], 0)[0]
            found[kernel, draw] = group_effects(last, tokens, clean_of(last, tokens), lines, routes=ROUTES)
    for draw in (None, 7):
        for name in ("entropy", "loss"):
            ours, theirs = (getattr(found[kernel, draw], name) for kernel in ("torch", "numba"))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


def test_synthetic_control_behind_a_norm_after_the_mlp_is_refused(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("gemma2")
    with pytest.raises(SyntheticSetError, match="norm after the MLP"):
        lines_of_groups(last_layer_of(model, kernel="torch"), [group(model, draw=0)], 0)


@pytest.mark.parametrize("draw", [None, 7], ids=["own", "synthetic"])
def test_a_variant_that_replaces_activations_by_themselves_changes_nothing(
    draw: int | None, tiny_model: Callable[..., Model]
) -> None:
    model = tiny_model("gpt2", "float64")
    last = last_layer_of(model, kernel="torch")
    tokens = tokens_of(last, read_prompts(model, PROMPTS[:1]).state)
    tokens = replace(tokens, targets=tokens.targets[:1])
    same = VariantGroup(NEURONS, np.array([1]), tokens.activations[:, list(NEURONS)].numpy(), draw)
    lines = lines_of_groups(last, [same], 0)[0]
    clean = clean_of(last, tokens)
    found = group_effects(last, tokens, clean, lines, routes=ROUTES)
    np.testing.assert_array_equal(found.entropy, 0)
    np.testing.assert_array_equal(found.loss, 0)
    np.testing.assert_allclose(group_entropies(last, tokens, clean, lines), clean.entropy.numpy()[:, None], rtol=1e-6)


def test_a_synthetic_control_moves_the_scale_as_its_set_does(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("llama", "float64")
    last = last_layer_of(model, kernel="torch")
    tokens = tokens_of(last, read_prompts(model, PROMPTS).state)
    norm, direct = (
        [
            group_effects(last, tokens, clean_of(last, tokens), lines, routes=[route]).entropy
            for lines in lines_of_groups(last, [group(model), group(model, draw=7)], 0)
        ]
        for route in ("norm", "direct")
    )
    np.testing.assert_allclose(norm[0], norm[1], rtol=1e-5, atol=1e-9)
    assert np.abs(direct[0] - direct[1]).min() > 1e-5


def test_entropies_of_near_certain_tokens_keep_their_digits(tiny_model: Callable[..., Model]) -> None:
    """Float32 near an entropy of zero and float64 where logits grow: within the tolerance of the verification."""
    model = tiny_model("gpt2")
    last = last_layer_of(model, kernel="torch")
    state = read_prompts(model, PROMPTS).state
    for sharper in (0.3, 3.0, 8.0):
        there = replace(last, readout=replace(last.readout, W=last.readout.W * sharper))
        tokens = tokens_of(there, state)
        clean, lines = clean_of(there, tokens), lines_of_groups(there, [group(model, scale=3.0)], 0)[0]
        exact = replace(there, kernel="brute_force")
        wanted = group_effects(exact, tokens, clean, lines).entropy[0] + clean.entropy.numpy()[:, None]
        np.testing.assert_allclose(group_entropies(there, tokens, clean, lines), wanted, rtol=1e-5, atol=1e-6)


def test_groups_come_in_blocks_that_fit(tiny_model: Callable[..., Model]) -> None:
    last = last_layer_of(tiny_model("gpt2"), kernel="torch")
    one = np.array([1])

    def made(*neurons: int, draw: int | None = None) -> VariantGroup:
        return VariantGroup(neurons, one, np.zeros((1, len(neurons))), draw)

    groups = [made(1, 2), made(2, 3), made(1, 2, draw=0), made(1), made(4, 5, 6, 7, 8, 9, 10), made(1)]
    line = last.readout.vocab * 4
    assert [len(block) for block in blocks_of_groups(last, groups, 5 * line)] == [3 + 1, 1, 1]  # 3 + 2 rows, 7, 1
    assert [len(block) for block in blocks_of_groups(last, groups, 1)] == [1] * 6
    assert list(blocks_of_groups(last, [], 1)) == []


def test_entropy_kernel_refuses_what_it_does_not_know(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("gemma2")
    last = last_layer_of(model, kernel="torch")
    tokens = tokens_of(last, read_prompts(model, PROMPTS).state)
    lines = lines_of_groups(last, [group(model)], 0)[0]
    delta = deltas(last, tokens, lines.group)
    factors = group_coefficients(last, tokens, lines, delta, ["total"])
    with pytest.raises(KernelError, match="softcap"):
        entropies(clean_of(last, tokens), delta, lines.U, factors)
