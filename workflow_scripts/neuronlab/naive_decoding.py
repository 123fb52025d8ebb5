"""Greedy generation under one variant by hooks, one prompt at a time: the oracle of `decoding`, and its competitor.

Nothing is shared with the prefix tree but a synthetic control's definition (`synthetic_sets`, which has an oracle of
its own): no padding, no folded weights, the model's own logits. Activations are replaced in the forward pass, at all
positions and every step; a synthetic control moves the input of the final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from neuronlab.ablation import LastLayer
from neuronlab.bridge_parts import FINAL_RESIDUAL, Hook, hooked_forward, post_activation
from neuronlab.models import Model
from neuronlab.prompt_batches import check_prompts, pad_left
from neuronlab.synthetic_sets import synthetic_directions, synthetic_move
from neuronlab.variant_groups import VariantGroup


@torch.no_grad()
def generate(
    model: Model,
    last: LastLayer,
    prompt: Sequence[int],
    group: VariantGroup | None,
    row: int,
    *,
    new_tokens: int,
    finished: Callable[[Sequence[int]], bool],
    seed: int = 0,
    cache: bool = False,
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Greedy continuation of one prompt under one variant.

    Args:
        group: whose activations are replaced; None for the clean model.
        row: by which of the group's values.
        seed: of synthetic directions.
        cache: keep keys and values between steps; without it every step runs on the whole prefix.

    Returns:
        Generated ids, an EOS that ended them the last, and at each the difference of the two best logits.

    Raises:
        DecodingError, SyntheticSetError: prompts or groups that cannot be decoded.
    """
    check_prompts(model, [prompt], new_tokens)
    hooks = variant_hooks(model, last, group, row, seed=seed)
    kept = DynamicCache() if cache else None
    found: list[int] = []
    gaps: list[float] = []
    while len(found) < new_tokens:
        prefix = found[-1:] if kept is not None and found else [*prompt, *found]
        tokens = torch.tensor([prefix], device=model.device)
        options = {} if kept is None else {"past_key_values": kept}
        logits = hooked_forward(model.bridge, tokens, hooks, logits_to_keep=1, **options)[0, -1]
        best = logits.topk(2).values
        found.append(int(logits.argmax()))
        gaps.append(float(best[0] - best[1]))
        if found[-1] == model.eos_token_id or finished(found):
            break
    return tuple(found), tuple(gaps)


@torch.no_grad()
def generate_batch(
    model: Model,
    last: LastLayer,
    prompts: Sequence[Sequence[int]],
    group: VariantGroup | None,
    row: int,
    *,
    new_tokens: int,
    seed: int = 0,
) -> list[tuple[int, ...]]:
    """The same for several prompts at a time, left-padded, with kept keys and no end but the length: the competitor.

    It is what a careful script does for one variant after the other; `benchmarks/decoding_speed.py` times it.
    """
    hooks = variant_hooks(model, last, group, row, seed=seed)
    tokens, real = pad_left(prompts)
    tokens, real = tokens.to(model.device), real.to(model.device)
    kept, found = DynamicCache(), []
    for _ in range(new_tokens):
        positions = (real.long().cumsum(-1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
        logits = hooked_forward(
            model.bridge,
            tokens,
            hooks,
            attention_mask=real.long(),
            position_ids=positions,
            past_key_values=kept,
            logits_to_keep=1,
        )
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
        found.append(tokens)
    return [tuple(chosen) for chosen in torch.cat(found, 1).tolist()]


def variant_hooks(
    model: Model, last: LastLayer, group: VariantGroup | None, row: int, *, seed: int = 0
) -> dict[str, Hook]:
    """Hooks that make a model the variant."""
    if group is None or not group.neurons:
        return {}
    neurons = list(group.neurons)
    values = torch.from_numpy(group.values[row])
    name = post_activation(model.n_layers - 1)
    if group.draw is None:

        def put(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.clone()
            tensor[..., neurons] = values.to(tensor.dtype).to(tensor.device)
            return tensor

        return {name: put}
    w = last.w[neurons]
    r = synthetic_directions(last.readout, w, group.draw, seed)
    caught: list[Float[Tensor, "batch position k"]] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        caught[:] = [tensor[..., neurons].detach().to(w.device)]

    def move(tensor: Tensor, hook: Any) -> Tensor:
        delta = (values.to(w.device) - caught.pop().double()).flatten(0, 1)
        residual = tensor.detach().to(w.device).double()
        moved = synthetic_move(last.readout, residual.flatten(0, 1), w, r, delta)
        return (residual + moved.unflatten(0, tensor.shape[:2])).to(tensor.dtype).to(tensor.device)

    return {name: keep, FINAL_RESIDUAL: move}
