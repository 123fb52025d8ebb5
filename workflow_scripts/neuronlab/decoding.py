"""Greedy decoding under many variants of the last layer, all of a prompt's variants along one tree of prefixes.

What a variant replaces, last-layer activations, is read by nothing but the final norm and the unembedding: neither keys
and values nor the residual before the last MLP depend on it. So every distinct prefix (a prompt and what was generated)
passes through the clean model once, whatever number of variants have come to it, and `decoding_choice` tells from its
last state where each of them goes on. Nodes of one depth share forward passes; branches wait as rows of their parents'
kept keys, deepest first, so that at most `new_tokens` passes are held in memory, whatever number of branches there is.

Exact where replacements are constants in the last layer's MLP and nothing reads them but what `models.load_model` has
checked (a model whose last MLP is read elsewhere, or that keeps no keys of its own, is refused).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Int32
from tqdm import tqdm

from neuronlab.ablation import LastLayer
from neuronlab.decoding_choice import choose
from neuronlab.greedy_decoding import Finished, ended
from neuronlab.models import Model
from neuronlab.prompt_batches import DecodingError, LastState, Prefixes, by_length, check_prompts, extend, read_prompts
from neuronlab.variant_groups import VariantGroup
from neuronlab.variant_table import VariantTable, tabulate

ROWS_PER_PROMPT = 4  # rows of one token that share a pass, for each prompt that does


@dataclass
class Costs:
    """What decoding took.

    Attributes:
        prefixes: distinct prefixes that the model was run on, prompts included.
        passes: batched forward passes.
        naive_prefixes: prefixes that one generation for each prompt and variant would run on.
        near_ties: (prefix, variant) pairs whose two best logits differ by less than the tolerance.
    """

    prefixes: int = 0
    passes: int = 0
    naive_prefixes: int = 0
    near_ties: int = 0


@dataclass(frozen=True)
class Decoded:
    """Continuations of prompts under variants.

    Attributes:
        continuations: for each prompt the distinct ones, in the order of the lowest variant that takes them: the clean
            model's first. An EOS that ended one is its last id.
        chosen: which of them each variant takes.
        root: state at each prompt's last position.
    """

    continuations: list[list[tuple[int, ...]]]
    chosen: Int32[np.ndarray, "prompts variants"]
    costs: Costs
    root: LastState


@dataclass(frozen=True)
class Node:
    """A prefix: a prompt's number, what was generated, and the variants that generate it."""

    prompt: int
    generated: tuple[int, ...]
    variants: Int[np.ndarray, " variants"]


@dataclass(frozen=True)
class Waiting:
    """Nodes that continue rows of a pass by one token."""

    before: Prefixes
    rows: list[int]
    nodes: list[Node]


def decode_variants(
    model: Model,
    last: LastLayer,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[VariantGroup],
    *,
    new_tokens: int,
    finished: Finished,
    batch_size: int,
    tie: float,
    seed: int,
) -> Decoded:
    """Greedy continuations of every prompt under the clean model and every variant.

    Args:
        groups: variants, numbered from 1 without gaps; none for the clean model alone.
        new_tokens: at most so many tokens.
        finished: told the ids generated so far, whether they are all that is wanted; an EOS ends a continuation too.
        batch_size: prompts of a forward pass; behind them pass up to `ROWS_PER_PROMPT` times as many rows of a single
            token. Changes no choice but those that rounding decides.
        tie: two best logits closer than this are counted as a near tie.
        seed: of synthetic directions.

    Raises:
        DecodingError: see `prompt_batches.check_prompts`, `prompt_batches.by_length` and `variant_table.tabulate`; or a
            `last` that is not the model's last layer.
        SyntheticSetError: for synthetic groups where there is a norm after the MLP.
    """
    check_prompts(model, prompts, new_tokens)
    if last.layer != model.n_layers - 1 or last.neurons != model.d_mlp:
        raise DecodingError(
            f"layer {last.layer} is not the last one of {model.spec.where} ({model.n_layers - 1}): variants of an "
            "earlier layer share no keys and values"
        )
    tree = _Tree(model, last, tabulate(last, groups, seed), new_tokens, finished, batch_size, tie)
    roots = [tree.decode(prompts, numbers) for numbers in _shown(prompts, batch_size)]
    order = np.argsort([number for numbers in by_length(prompts, batch_size) for number in numbers], kind="stable")
    continuations, chosen = _distinct(tree.found, len(prompts), len(tree.table))
    return Decoded(continuations, chosen, tree.costs, _joined(last, roots, order))


class _Tree:
    """Prefixes of some prompts, and where each variant has ended."""

    def __init__(
        self,
        model: Model,
        last: LastLayer,
        table: VariantTable,
        new_tokens: int,
        finished: Finished,
        batch_size: int,
        tie: float,
    ) -> None:
        self.model, self.last, self.table = model, last, table
        self.new_tokens, self.finished, self.batch_size, self.tie = new_tokens, finished, batch_size, tie
        self.costs = Costs()
        self.over: dict[tuple[int, ...], bool] = {}  # the same answers end in many prompts
        self.found: dict[int, list[Node]] = {}  # leaves of each prompt

    def decode(self, prompts: Sequence[Sequence[int]], numbers: Sequence[int]) -> LastState:
        """Follow all variants from a batch of prompts to their ends; the prompts' states."""
        everyone = np.arange(len(self.table))
        root = read_prompts(self.model, [prompts[i] for i in numbers])
        stack = self.grow(root, [Node(i, (), everyone) for i in numbers])
        while stack:
            one = stack.pop()
            tokens = [node.generated[-1] for node in one.nodes]
            stack += self.grow(extend(self.model, one.before, one.rows, tokens), one.nodes)
        return root.state.to(self.last.device)

    def ended(self, generated: tuple[int, ...]) -> bool:
        """Whether a continuation is over; asked once for all prompts and variants."""
        if generated not in self.over:
            self.over[generated] = len(generated) == self.new_tokens or ended(self.model, generated, self.finished)
        return self.over[generated]

    def grow(self, prefixes: Prefixes, nodes: Sequence[Node]) -> list[Waiting]:
        """Choose every variant's next token; what is to be run next."""
        self.costs.passes += 1
        self.costs.prefixes += len(nodes)
        device, vocab = self.last.device, self.last.readout.vocab
        variants = np.concatenate([node.variants for node in nodes])
        row = np.repeat(np.arange(len(nodes)), [len(node.variants) for node in nodes])
        token, near = choose(
            self.last,
            self.table,
            prefixes.state.to(device),
            torch.from_numpy(row).to(device),
            torch.from_numpy(variants).to(device),
            tie=self.tie,
        )
        self.costs.naive_prefixes += len(variants)
        self.costs.near_ties += int(near.sum())
        # Variants that go on alike stay together: one child for each (row, token).
        key = row * vocab + token.cpu().numpy()
        found, counts = np.unique(key, return_counts=True)
        alike = np.split(variants[np.argsort(key, kind="stable")], np.cumsum(counts)[:-1])
        rows: list[int] = []
        children: list[Node] = []
        for one, together in zip(found.tolist(), alike, strict=True):
            parent = nodes[one // vocab]
            child = Node(parent.prompt, (*parent.generated, one % vocab), together)
            if self.ended(child.generated):
                self.found.setdefault(child.prompt, []).append(child)
            else:
                rows.append(one // vocab)
                children.append(child)
        size = ROWS_PER_PROMPT * self.batch_size
        return [Waiting(prefixes, rows[i : i + size], children[i : i + size]) for i in range(0, len(rows), size)]


def _shown(prompts: Sequence[Sequence[int]], batch_size: int) -> tqdm:
    batches = list(by_length(prompts, batch_size))
    return tqdm(batches, desc="decoding", unit="batch", file=sys.stderr, disable=None)


def _distinct(
    found: dict[int, list[Node]], prompts: int, variants: int
) -> tuple[list[list[tuple[int, ...]]], Int32[np.ndarray, "prompts variants"]]:
    """Continuations of each prompt and which one each variant takes, from the leaves of the trees."""
    chosen = np.full((prompts, variants), -1, np.int32)
    continuations = []
    for prompt in range(prompts):
        leaves = sorted(found[prompt], key=lambda node: int(node.variants.min()))
        for i, leaf in enumerate(leaves):
            chosen[prompt, leaf.variants] = i
        continuations.append([leaf.generated for leaf in leaves])
    return continuations, chosen


def _joined(last: LastLayer, roots: Sequence[LastState], order: Int[np.ndarray, " prompts"]) -> LastState:
    """States of batches in the order of the prompts."""
    index = torch.from_numpy(order).to(last.device)
    if not roots:
        zero = last.w[:0]
        mlp = None if last.readout.post_gain is None else zero
        return LastState(zero, zero.new_zeros(0, last.neurons), mlp)
    mlps = [root.mlp_out for root in roots if root.mlp_out is not None]
    return LastState(
        torch.cat([root.residual for root in roots])[index],
        torch.cat([root.activations for root in roots])[index],
        torch.cat(mlps)[index] if mlps else None,
    )
