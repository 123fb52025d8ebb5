"""What variants of a model do at the end of a conflict prompt: entropy for all, log-probabilities for selections.

Every variant's entropy follows from the clean pass at the prompt's end. Of the variants that matter most more is read
out, by three routes (METHODS A2): in whole, by the direction written alone, by the final norm's scale alone. There are
three tokens (METHODS B3): the first of the counter-object (CK), the first of the parametric answer (PK), and one
competitor (ND): the clean model's most likely token that is neither. All three are fixed before anything is replaced,
so that before and after are about the same tokens whatever the labels are (METHODS B defect 7).

Whole objects are read by teacher forcing: the object after the prompt, padded on the right, which no earlier position
of a causal model sees. As last-layer neurons act on their own position alone, one clean pass serves all variants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from neuronlab.ablation import LastLayer, Tokens, clean_of
from neuronlab.group_effects import GroupLines, blocks_of_groups, group_effects, group_entropies, lines_of_groups
from neuronlab.kernels.interface import Clean
from neuronlab.models import Model
from neuronlab.prompt_batches import LastState, by_length
from neuronlab.prompt_tokens import padded
from neuronlab.variant_groups import CLEAN, VariantGroup

Array = np.ndarray
ROUTES = ("total", "direct", "norm")
LINES_BUDGET = {"cpu": 256 * 2**20, "cuda": 4 * 2**30}  # bytes of directions' logits that are kept for several chunks


@dataclass(frozen=True)
class StateRows:
    """Columns of the table "states" but for the prompt's number; arrays over rows, prompts first.

    Attributes:
        prompt: place of the prompt among those given.
        object_log_probs: of the whole CK and PK object; NaN but for clean and total.
    """

    prompt: Int[Array, " rows"]
    variant: Int[Array, " rows"]
    route: Sequence[str]
    entropy: Float64[Array, " rows"]
    log_probs: Float64[Array, "rows 3"]
    nd_token: Int[Array, " rows"]
    object_log_probs: Float64[Array, "rows 2"]
    top_token: Int[Array, " rows"]


def prompt_entropies(
    last: LastLayer, root: LastState, groups: Sequence[VariantGroup], *, tokens_per_chunk: int, seed: int
) -> Float64[Array, "prompts variants"]:
    """Entropy (nats) at every prompt's end under every variant; column 0 is the clean model.

    Memory is bounded: groups come in blocks whose directions fit a budget, prompts in chunks.
    """
    variants = 1 + sum(len(group.variants) for group in groups)
    entropies = np.full((len(root.residual), variants), np.nan)
    budget = LINES_BUDGET.get(last.device.type, LINES_BUDGET["cpu"])
    for part, tokens in _chunks(last, root, tokens_per_chunk):
        entropies[part, CLEAN] = clean_of(last, tokens).entropy.cpu().numpy()
    for block in blocks_of_groups(last, groups, budget):
        lines = lines_of_groups(last, block, seed)
        for part, tokens in _chunks(last, root, tokens_per_chunk):
            clean = clean_of(last, tokens)
            for one in lines:
                entropies[part, one.group.variants] = group_entropies(last, tokens, clean, one)
    return entropies


def competitors(
    clean: Clean, counter: Int[Tensor, " tokens"], answer: Int[Tensor, " tokens"]
) -> Int[Tensor, " tokens"]:
    """The clean model's most likely token that is the first token of neither object."""
    lp = clean.lp.clone()
    for ids in (counter, answer):
        lp.scatter_(-1, ids[:, None], -torch.inf)
    return lp.argmax(-1)


def read_states(
    model: Model,
    last: LastLayer,
    root: LastState,
    prompts: Sequence[Sequence[int]],
    counters: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    groups: Sequence[VariantGroup],
    *,
    batch_size: int,
    tokens_per_chunk: int,
    seed: int,
) -> StateRows:
    """States of the clean model and of every variant of `groups`, by all routes.

    Args:
        root: clean state at the prompts' ends.
        counters, answers: tokens of the objects as they would follow the prompts; at least one each.
    """
    lines = lines_of_groups(last, groups, seed)
    numbers = [int(v) for group in groups for v in group.variants]
    P, n = len(prompts), len(numbers)
    first = torch.tensor([[c[0], a[0]] for c, a in zip(counters, answers, strict=True)], dtype=torch.long).view(P, 2)
    entropy, top = np.zeros((P, 1 + 3 * n)), np.zeros((P, 1 + 3 * n), dtype=np.int64)
    log_probs, nd = np.zeros((P, 1 + 3 * n, 3)), np.zeros(P, dtype=np.int64)
    for part, tokens in _chunks(last, root, max(1, tokens_per_chunk // 3)):
        ids = first[part].to(last.device)
        rival = competitors(clean_of(last, tokens), ids[:, 0], ids[:, 1])
        nd[part] = rival.cpu().numpy()
        targets = torch.stack([ids[:, 0], ids[:, 1], rival], 1)
        clean, found = _thrice(last, tokens, targets, lines)
        size = len(rival)
        entropy[part, 0] = clean.entropy.cpu().numpy()[:size]
        top[part, 0] = clean.prediction.cpu().numpy()[:size]
        log_probs[part, 0] = -clean.loss.cpu().numpy().reshape(3, size).T
        entropy[part, 1:] = entropy[part, :1] + found.entropy[:size]
        top[part, 1:] = found.top[:size]
        log_probs[part, 1:] = log_probs[part, :1] - found.loss.reshape(3, size, 3 * n).transpose(1, 2, 0)
    objects = np.full((P, 1 + 3 * n, 2), np.nan)
    held = [0, *range(1, 1 + n)]  # the clean model and the route total, which comes first
    objects[:, held] = log_probs[:, held, :2] + later_tokens(
        model, last, prompts, (counters, answers), lines, batch_size=batch_size, tokens_per_chunk=tokens_per_chunk
    )
    width = 1 + 3 * n
    return StateRows(
        prompt=np.repeat(np.arange(P), width),
        variant=np.tile([CLEAN, *numbers * 3], P),
        route=["clean", *(route for route in ROUTES for _ in numbers)] * P,
        entropy=entropy.ravel(),
        log_probs=log_probs.reshape(-1, 3),
        nd_token=np.repeat(nd, width),
        object_log_probs=objects.reshape(-1, 2),
        top_token=top.ravel(),
    )


@dataclass(frozen=True)
class _Found:
    """Changes by route and variant, routes first: arrays [tokens, routes * variants]."""

    loss: Float64[Array, "tokens changes"]
    entropy: Float64[Array, "tokens changes"]
    top: Int[Array, "tokens changes"]


def _thrice(
    last: LastLayer, tokens: Tokens, targets: Int[Tensor, "tokens 3"], lines: Sequence[GroupLines]
) -> tuple[Clean, _Found]:
    """Effects on three tokens at each place: the places come three times, one target after the other."""
    thrice = Tokens(
        tokens.residual.repeat(3, 1),
        tokens.activations.repeat(3, 1),
        targets.T.flatten(),
        None if tokens.mlp is None else tokens.mlp.repeat(3, 1),
    )
    clean = clean_of(last, thrice)
    ranked = tuple(range(len(ROUTES)))
    effects = [group_effects(last, thrice, clean, one, routes=ROUTES, ranked=ranked) for one in lines]

    def flat(name: str) -> Array:
        parts = [getattr(effect, name) for effect in effects]
        together = np.concatenate(parts, axis=2) if parts else np.zeros((len(ROUTES), len(thrice), 0))
        return together.transpose(1, 0, 2).reshape(len(thrice), len(ROUTES) * together.shape[2])

    return clean, _Found(flat("loss"), flat("entropy"), flat("prediction"))


def later_tokens(
    model: Model,
    last: LastLayer,
    prompts: Sequence[Sequence[int]],
    objects: Sequence[Sequence[Sequence[int]]],
    lines: Sequence[GroupLines],
    *,
    batch_size: int,
    tokens_per_chunk: int,
) -> Float64[Array, "prompts variants kinds"]:
    """Summed log-probability of each object's tokens after its first: the clean model, then every variant.

    Args:
        objects: for each kind of object, its tokens for each prompt.
    """
    n = sum(len(one.group.variants) for one in lines)
    sums = np.zeros((len(prompts), 1 + n, len(objects)))
    owners = [(p, kind) for kind, each in enumerate(objects) for p, ids in enumerate(each) if len(ids) > 1]
    # The last token is only looked for, never read.
    texts = [[*prompts[p], *objects[kind][p][:-1]] for p, kind in owners]
    for numbers in by_length(texts, batch_size):
        tokens_of_batch, _ = padded([texts[i] for i in numbers])
        state = model.run(tokens_of_batch)
        places = [
            (row, len(prompts[p]) - 1 + j, objects[kind][p][j], p, kind)
            for row, (p, kind) in enumerate(owners[i] for i in numbers)
            for j in range(1, len(objects[kind][p]))
        ]
        row, position, target, owner, kinds = (np.array(column) for column in zip(*places, strict=True))
        where = (torch.from_numpy(row), torch.from_numpy(position))
        tokens = Tokens(
            state.residual[where].to(last.device),
            state.activations[where].to(last.device),
            torch.from_numpy(target).long().to(last.device),
            None if state.mlp_out is None else state.mlp_out[where].to(last.device),
        )
        for part in _slices(len(tokens), tokens_per_chunk):
            chunk = tokens[part]
            clean = clean_of(last, chunk)
            before = -clean.loss.cpu().numpy()[:, None]
            after = [before - group_effects(last, chunk, clean, one).loss[0] for one in lines]
            np.add.at(sums, (owner[part], slice(None), kinds[part]), np.concatenate([before, *after], axis=1))
    return sums


def _chunks(last: LastLayer, root: LastState, size: int) -> Iterator[tuple[slice, Tokens]]:
    """The prompts' ends, `size` at a time, without targets of their own."""
    for part in _slices(len(root.residual), size):
        residual = root.residual[part].to(last.device)
        mlp = None if root.mlp_out is None else root.mlp_out[part].to(last.device)
        targets = torch.zeros(len(residual), dtype=torch.long, device=last.device)
        yield part, Tokens(residual, root.activations[part].to(last.device), targets, mlp)


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
