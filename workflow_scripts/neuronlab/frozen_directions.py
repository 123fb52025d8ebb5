"""Effects of a few neurons with the logits' projection on many directions frozen, on a sample of tokens (METHODS A3).

For every direction r the statistic is m = 1 - DE_r/TE of mean absolute effects over the sample, DE_r with the
projection of the logits on r put back to its clean value (after a softcap, where the model has one), TE without. It is
computed alike for the log-unigram direction and for random ones, on the same tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.ablation import (
    LastLayer,
    Tokens,
    clean_of,
    coefficients,
    directions_of,
    effects_of_chunk,
    run_kernel,
)
from neuronlab.final_states import Setup, Text
from neuronlab.kernels.interface import Clean, Coefficients, Directions, Effects, Reference, products
from neuronlab.random_directions import RowSpace, matched_directions

Array = np.ndarray


@dataclass(frozen=True)
class Sample:
    """Last-layer state of some tokens, and how far some neurons' activations are moved there.

    Attributes:
        tokens: activations are those of the neurons alone.
        delta: replacement minus activation, float64.
    """

    tokens: Tokens
    delta: Float[Tensor, "tokens neurons"]

    def __len__(self) -> int:
        return len(self.tokens)

    def chunks(self, size: int) -> Iterator[tuple[Tokens, Float[Tensor, "tokens neurons"]]]:
        """At most `size` tokens at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.tokens[part], self.delta[part]


def draw_tokens(
    text: Text, documents: Int[Array, " documents"], n: int, generator: np.random.Generator
) -> Bool[Array, "sequences position"]:
    """`n` counted positions of some documents, all if there are fewer, drawn uniformly without replacement."""
    places = np.flatnonzero(text.counted & np.isin(text.documents, documents))
    drawn = np.zeros(text.counted.size, dtype=bool)
    drawn[generator.permutation(places)[:n]] = True
    return drawn.reshape(text.counted.shape)


def gather(
    setup: Setup, wanted: Sequence[Bool[Array, "sequences position"]], neurons: Sequence[int], batch_size: int
) -> list[Sample]:
    """The states of several samples of counted positions, each in order of sequence and position, in one pass."""
    chosen, replacement = list(neurons), setup.replacements[0]
    sequences = np.flatnonzero(np.any([mask.any(1) for mask in wanted], axis=0)).tolist()
    found: list[list[tuple[Tokens, Tensor]]] = [[] for _ in wanted]
    for batch in setup.batches(sequences, batch_size, "states"):
        delta = setup.delta(batch, slice(None), chosen, replacement)
        for mask, parts in zip(wanted, found, strict=True):
            rows = torch.from_numpy(np.flatnonzero(mask[batch.sequence, batch.position])).to(delta.device)
            tokens = batch.tokens
            state = Tokens(
                residual=tokens.residual[rows],
                activations=tokens.activations[rows][:, chosen],
                targets=tokens.targets[rows],
                mlp=None if tokens.mlp is None else tokens.mlp[rows],
            )
            parts.append((state, delta[rows]))
    return [_joined(parts) for parts in found]


def _joined(parts: Sequence[tuple[Tokens, Tensor]]) -> Sample:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(tokens, name) for tokens, _ in parts])

    state = Tokens(
        residual=joined("residual"),
        activations=joined("activations"),
        targets=joined("targets"),
        mlp=None if parts[0][0].mlp is None else joined("mlp"),
    )
    return Sample(state, torch.cat([delta for _, delta in parts]))


@dataclass(frozen=True)
class Frozen:
    """Unit logit directions to be frozen, float64; the first is the log-unigram direction.

    Attributes:
        directions: one row each.
        variance: variance (ddof 0) over the sample of the clean logits' projection on each.
        cosine: with the first.
        orthogonal: whether the random ones are orthogonal to the first.
    """

    directions: Float[Tensor, "directions vocab"]
    variance: Float[Array, " directions"]
    cosine: Float[Array, " directions"]
    orthogonal: bool


def draw_directions(
    last: LastLayer, space: RowSpace, sample: Sample, n: int, generator: np.random.Generator, tokens_per_chunk: int
) -> Frozen:
    """The log-unigram direction and `n` random ones of the same variance over the sample's tokens."""
    assert last.reference is not None
    g = last.reference.direction.double()
    readout, h, along_g = last.readout, [], []
    for tokens, _ in sample.chunks(tokens_per_chunk):
        logits = readout.logits(tokens.residual.to(readout.W.dtype)).double()
        h.append(space.coordinates(logits).cpu().numpy())
        along_g.append((logits @ g).cpu().numpy())
    coordinates, target = np.concatenate(h), float(np.concatenate(along_g).var())
    avoid = space.coordinates(g[None])[0].cpu().numpy()
    drawn, orthogonal = matched_directions(coordinates, target, n, generator, avoid=avoid)
    random = space.vectors(torch.from_numpy(drawn).to(g.device))
    random = random / random.norm(dim=1, keepdim=True)
    variance = np.concatenate([[target], (coordinates @ drawn.T).var(0)])
    directions = torch.cat([g[None], random])
    return Frozen(directions, variance, (directions @ g).cpu().numpy(), orthogonal)


def frozen_effects(
    last: LastLayer,
    neurons: Sequence[int],
    sample: Sample,
    directions: Float[Tensor, "directions vocab"],
    outcome: str,
    *,
    tokens_per_chunk: int,
    label: str = "freeze",
) -> tuple[Float[Array, " neurons"], Float[Array, "directions neurons"]]:
    """Mean |change of `outcome`| (nats) over the sample: total, and with each direction frozen in turn.

    Args:
        neurons: those that the sample was gathered for.
        directions: unit vectors, centred over the ids where they are not zero.
    """
    assert last.reference is not None
    chosen, reference = list(neurons), last.reference
    total, frozen = np.zeros(len(chosen)), np.zeros((len(directions), len(chosen)))
    if not chosen:
        return total, frozen
    lines = directions_of(last, chosen)
    dots = torch.stack([products(lines.U, r) for r in directions])
    w, raw = last.w[chosen], last.raw[chosen]
    progress = tqdm(
        total=len(directions) * len(sample), desc=label, unit="token", file=sys.stderr, disable=None, mininterval=1
    )
    for tokens, delta in sample.chunks(tokens_per_chunk):
        clean = clean_of(last, tokens)
        factors = coefficients(last.readout, tokens.residual, w, delta, variants=("total",), raw=raw, mlp=tokens.mlp)
        change = _change(last, tokens, clean, lines, factors, chosen, delta, "total")
        total += np.abs(getattr(change, outcome)[0]).sum(0)
        for i, (r, dot) in enumerate(zip(directions, dots, strict=True)):
            here = replace(last, reference=Reference(reference.q, r))
            along = replace(lines, dot_g=dot)
            change = _change(here, tokens, clean, along, factors, chosen, delta, "unigram")
            frozen[i] += np.abs(getattr(change, outcome)[0]).sum(0)
            progress.update(len(tokens))
    progress.close()
    return total / len(sample), frozen / len(sample)


def _change(
    last: LastLayer,
    tokens: Tokens,
    clean: Clean,
    lines: Directions,
    factors: Coefficients,
    neurons: list[int],
    delta: Float[Tensor, "tokens neurons"],
    variant: str,
) -> Effects:
    """Effects of one variant, "total" or "unigram": the two share their factors, and so do all directions."""
    if last.kernel == "brute_force":
        return effects_of_chunk(last, tokens, clean, lines, neurons, delta, variants=(variant,), ranked=())
    return run_kernel(last, clean, lines, replace(factors, frozen=(variant == "unigram",)), ranked=())
