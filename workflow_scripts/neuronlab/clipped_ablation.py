"""Effects of clipping activations at every place of a repetition, summed within documents (METHODS A4).

A neuron whose activation rises on the repetition is held down, one whose activation falls is held up:

    rises  a <- min(a, mu)        falls  a <- max(a, mu)        mu: mean on the first copy, or on the text

so that only what the repetition adds is taken away. In a set every neuron is clipped by its own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from neuronlab.ablation import (
    AblationError,
    LastLayer,
    Tokens,
    clean_of,
    directions_of,
    effects_of_chunk,
)
from neuronlab.final_states import Setup
from neuronlab.joint import joint_effects, lines_of_sets
from neuronlab.kernels.interface import Clean
from neuronlab.neuron_sets import NeuronSet
from neuronlab.repetition import Repetition

Array = np.ndarray
VARIANTS = ("total", "direct")
OUTCOMES = ("loss", "entropy")
FLOOR = 1e-6  # nats: no ratio is taken where the clean entropy, or the mean clean loss, is below it


@dataclass(frozen=True)
class Clip:
    """What every last-layer neuron is clipped to, and from which side.

    Attributes:
        bound: mu.
        rises: whether the activation is held down to mu; it is held up otherwise.
    """

    bound: Float64[Tensor, " neurons"]
    rises: Bool[Tensor, " neurons"]

    @classmethod
    def of_scores(
        cls, scores: pl.DataFrame, last: LastLayer, bound: Float64[Array, " neurons"] | None, where: str
    ) -> Clip:
        """Directions, and unless `bound` is given the means on the first copy, of a table "induction_scores".

        Raises:
            AblationError: if the table `where` lacks a neuron of the last layer.
        """
        rows = scores.filter(pl.col("layer") == last.layer).sort("neuron")
        if rows["neuron"].to_list() != list(range(last.neurons)):
            raise AblationError(
                f"{where}: {len(rows)} of the {last.neurons} neurons of layer {last.layer}; "
                "the table belongs to another model: delete it and run again"
            )
        chosen = rows["mean_first"].to_numpy() if bound is None else bound
        values = torch.from_numpy(np.array(chosen, dtype=np.float64)).to(last.device)
        return cls(values, torch.from_numpy(rows["direction"].to_numpy() > 0).to(last.device))

    def delta(
        self, activations: Float64[Tensor, "tokens neurons"], neurons: Sequence[int]
    ) -> Float64[Tensor, "tokens neurons"]:
        """Clipped minus own activation; zero wherever the activation lies on the other side of mu."""
        way = self.bound[neurons] - activations
        return torch.where(self.rises[neurons], way.clamp(max=0), way.clamp(min=0))


@dataclass(frozen=True)
class Sums:
    """Sums over the sequences of every document at every place; arrays end in the axis of sets.

    Attributes:
        n, usable: sequences; and those whose clean entropy is at least `FLOOR`.
        loss: clean loss.
        ratio: entropy after / before, over the usable sequences.
        entropy_change, loss_change: after minus before.
        changes: mean change of every sequence over the compared places of the first and of the last copy; zero where
            it has none.
    """

    n: Float64[Array, "documents places"]
    usable: Float64[Array, "documents places"]
    loss: Float64[Array, "documents places"]
    ratio: Float64[Array, "variants documents places sets"]
    entropy_change: Float64[Array, "variants documents places sets"]
    loss_change: Float64[Array, "variants documents places sets"]
    changes: Float64[Array, "outcomes variants copies sequences sets"]


def measure(
    setup: Setup, repetition: Repetition, clip: Clip, sets: Sequence[NeuronSet], batch_size: int, tokens_per_chunk: int
) -> Sums:
    """Clip every set at every place, in one pass over the sequences.

    Args:
        setup: with the repetition's text.
    """
    cells, S = (repetition.documents, len(repetition.places)), len(sets)
    n, usable, loss = (np.zeros(cells) for _ in range(3))
    ratio, entropy_change, loss_change = (np.zeros((len(VARIANTS), *cells, S)) for _ in range(3))
    compared = repetition.compared()
    changes = np.zeros((len(OUTCOMES), len(VARIANTS), *compared.shape[:2], S))
    clipper = Clipper(setup.last, sets, clip)
    for batch in setup.batches(range(len(repetition.document)), batch_size, "clip"):
        for part in batch.chunks(tokens_per_chunk):
            chunk = batch.tokens[part]
            clean = clean_of(setup.last, chunk)
            before, clean_loss = clean.entropy.cpu().numpy(), clean.loss.cpu().numpy()
            effects = clipper.effects(chunk, clean)
            for sequence in np.unique(batch.sequence[part]):
                rows = np.flatnonzero(batch.sequence[part] == sequence)
                position = batch.position[part][rows]
                place = repetition.place[sequence, position]
                document = repetition.document[sequence]
                large = before[rows] >= FLOOR
                n[document, place] += 1
                usable[document, place] += large
                loss[document, place] += clean_loss[rows]
                loss_here, entropy_here = effects[0][:, rows], effects[1][:, rows]
                loss_change[:, document, place] += loss_here
                entropy_change[:, document, place] += entropy_here
                grown = 1 + entropy_here / np.where(large, before[rows], 1.0)[:, None]
                ratio[:, document, place] += grown * large[:, None]
                for end, here in enumerate(compared[:, sequence, position]):
                    changes[:, :, end, sequence] += effects[:, :, rows[here]].sum(axis=2)
    changes /= np.maximum(compared.sum(axis=2), 1)[..., None]
    return Sums(n, usable, loss, ratio, entropy_change, loss_change, changes)


class Clipper:
    """Clips some sets, those of one neuron by the kernel for single neurons, the others jointly."""

    def __init__(self, last: LastLayer, sets: Sequence[NeuronSet], clip: Clip) -> None:
        self.last, self.clip, self.n_sets = last, clip, len(sets)
        self.neurons = sorted({neuron for chosen in sets for neuron in chosen.neurons})
        column = {neuron: i for i, neuron in enumerate(self.neurons)}
        self.columns = [[column[neuron] for neuron in chosen.neurons] for chosen in sets]
        self.single = [i for i, chosen in enumerate(sets) if len(chosen.neurons) == 1]
        self.joint = [i for i, chosen in enumerate(sets) if len(chosen.neurons) > 1]
        self.singles = [sets[i].neurons[0] for i in self.single]
        self.groups = [sets[i].neurons for i in self.joint]
        self.lines = directions_of(last, self.singles)
        self.set_lines = lines_of_sets(last, self.groups) if self.joint else None

    def effects(self, tokens: Tokens, clean: Clean) -> Float64[Array, "outcomes variants tokens sets"]:
        """Changes of loss and entropy by clipping every set, at every token."""
        delta = self.clip.delta(tokens.activations[:, self.neurons].double(), self.neurons)
        changes = np.zeros((len(OUTCOMES), len(VARIANTS), len(tokens), self.n_sets))
        if self.single:
            own = delta[:, [self.columns[i][0] for i in self.single]]
            found = effects_of_chunk(
                self.last, tokens, clean, self.lines, self.singles, own, variants=VARIANTS, ranked=()
            )
            changes[..., self.single] = np.stack([found.loss, found.entropy])
        if self.joint:
            deltas = [delta[:, self.columns[i]] for i in self.joint]
            found = joint_effects(
                self.last, tokens, clean, self.groups, deltas, variants=VARIANTS, lines=self.set_lines
            )
            changes[..., self.joint] = np.stack([found.loss, found.entropy])
        return changes
