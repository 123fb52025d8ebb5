"""The passes of a run that ablates heads: every set at every position of the copies, every head against every neuron.

Sequences pass in batches; sets of one lowest layer share a pass as far as they fill a batch. Residuals of several sets
wait for the read-out, so that the clean distribution is computed once for them all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.attention import (
    CleanPass,
    Means,
    Method,
    ablated_pass,
    check_reproduced,
    clean_pass,
    mean_outputs,
)
from neuronlab.head_readouts import QUANTITIES, read
from neuronlab.head_sets import HeadSet
from neuronlab.models import Model
from neuronlab.readout import Readout
from neuronlab.repeat_places import Repeats

Array = np.ndarray
RESIDUAL_BYTES = 2**28  # residuals of ablated sets that wait for the read-out


@dataclass(frozen=True)
class Effects:
    """Readings in the clean run and what ablation changes; quantities first, then activations of the tracked neurons.

    Attributes:
        change: by (set, method).
    """

    clean: Float[Array, "sequences query quantity"]
    change: dict[tuple[HeadSet, Method], Float[Array, "sequences query quantity"]]


@dataclass(frozen=True)
class Work:
    """The passes of a run, batch by batch."""

    model: Model
    repetitions: Repeats
    positions: Int[Array, " query"]
    batch_size: int
    tokens_per_chunk: int

    @property
    def last_copy(self) -> Int[Array, " query"]:
        """Positions of the last copy."""
        copy = self.repetitions.copy[0]
        return np.flatnonzero(copy == copy.max())

    def batches(self) -> Iterator[tuple[slice, Int[Tensor, "batch position"]]]:
        """Sequences of a forward pass."""
        for start in range(0, len(self.repetitions), self.batch_size):
            part = slice(start, min(start + self.batch_size, len(self.repetitions)))
            yield part, torch.from_numpy(self.repetitions.tokens[part]).long()

    def means(self) -> Means:
        """Mean output of every head over the positions of the copies."""
        inside = torch.from_numpy(self.repetitions.copy >= 0)
        return mean_outputs(self.model, ((tokens, inside[part]) for part, tokens in self.batches()))

    def effects(
        self, sets: Sequence[HeadSet], methods: Sequence[Method], means: Means | None, neurons: Sequence[int]
    ) -> Effects:
        """All readings at all positions of the copies, for every set and method."""
        shape = (len(self.repetitions), len(self.positions), len(QUANTITIES) + len(neurons))
        clean_values = np.empty(shape)
        change = {(heads, method): np.empty(shape, dtype=np.float32) for heads in sets for method in methods}
        queries = torch.from_numpy(self.positions)
        readout = self.model.readout(self.model.dtype)
        progress = self._progress(len(sets) * len(methods), "sets of heads")
        for number, (part, tokens) in enumerate(self.batches()):
            clean = self._clean(tokens, sets, check=not number)
            targets = (
                torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1)[:, self.positions].flatten().to(self.model.device)
            )
            start = clean.states.residual[:, self.positions]
            rest = clean.states.activations[:, self.positions][..., neurons]
            n = start.shape[0] * start.shape[1]
            ahead = max(1, RESIDUAL_BYTES // (n * start.shape[-1] * start.element_size()))
            wanted = [(group, method) for group in self._groups(sets, len(tokens)) for method in methods]
            while wanted:
                keys: list[tuple[HeadSet, Method]] = []
                residuals = [start.flatten(0, 1)[None]]
                while wanted and (not keys or len(keys) + len(wanted[0][0]) <= ahead):
                    group, method = wanted.pop(0)
                    states = ablated_pass(self.model, clean, group, method, means=means, positions=queries)
                    keys += [(heads, method) for heads in group]
                    residuals.append(states.residual.flatten(1, 2))
                    for heads, activations in zip(group, states.activations[..., neurons], strict=True):
                        change[heads, method][part, :, len(QUANTITIES) :] = (activations - rest).cpu().numpy()
                    progress.update(len(group))
                values = self._read(readout, torch.cat(residuals), targets)
                values = values.reshape(len(values), *start.shape[:2], len(QUANTITIES))
                clean_values[part, :, : len(QUANTITIES)] = values[0]
                for key, value in zip(keys, values[1:], strict=True):
                    change[key][part, :, : len(QUANTITIES)] = value - values[0]
            clean_values[part, :, len(QUANTITIES) :] = rest.double().cpu().numpy()
        progress.close()
        return Effects(clean_values, change)

    def matrix(
        self, methods: Sequence[Method], means: Means | None, neurons: Sequence[int], heads: Sequence[HeadSet]
    ) -> Float[Array, "sequences method head neuron"]:
        """Mean change of each neuron's activation over the last copy, by head (each alone)."""
        found = np.zeros((len(self.repetitions), len(methods), len(heads), len(neurons)))
        if not neurons:
            return found
        queries = torch.from_numpy(self.last_copy)
        progress = self._progress(len(heads) * len(methods), "single heads")
        for part, tokens in self.batches():
            clean = self._clean(tokens, heads)
            before = clean.states.activations[:, self.last_copy][..., neurons]
            for group in self._groups(heads, len(tokens)):
                place = [heads.index(chosen) for chosen in group]
                for m, method in enumerate(methods):
                    states = ablated_pass(self.model, clean, group, method, means=means, positions=queries)
                    moved = (states.activations[..., neurons] - before).mean(2).cpu().numpy()
                    found[part, m, place] = moved.swapaxes(0, 1)
                    progress.update(len(group))
        progress.close()
        return found

    def _clean(
        self, tokens: Int[Tensor, "batch position"], sets: Sequence[HeadSet], *, check: bool = False
    ) -> CleanPass:
        clean = clean_pass(self.model, tokens, {layer for chosen in sets for layer, _ in chosen.heads})
        if check:
            check_reproduced(self.model, clean)
        return clean

    def _groups(self, sets: Sequence[HeadSet], batch: int) -> list[list[HeadSet]]:
        """Sets that share a pass: of one lowest layer, as many as fill a batch."""
        size = max(1, self.batch_size // batch)
        by_layer: dict[int, list[HeadSet]] = {}
        for chosen in sets:
            by_layer.setdefault(min(layer for layer, _ in chosen.heads), []).append(chosen)
        return [same[i : i + size] for _, same in sorted(by_layer.items()) for i in range(0, len(same), size)]

    def _read(
        self, readout: Readout, residuals: Float[Tensor, "runs rows d"], targets: Int[Tensor, " rows"]
    ) -> Float[Array, "runs rows quantity"]:
        """Quantities of the clean run (first) and of ablated ones, a few positions at a time."""
        found = np.empty((*residuals.shape[:2], len(QUANTITIES)))
        for start in range(0, len(targets), self.tokens_per_chunk):
            rows = slice(start, start + self.tokens_per_chunk)
            clean, reference = read(readout, residuals[0, rows], targets[rows])
            found[0, rows] = clean.movedim(0, -1).cpu().numpy()
            for run in range(1, len(residuals)):
                values, _ = read(readout, residuals[run, rows], targets[rows], reference)
                found[run, rows] = values.movedim(0, -1).cpu().numpy()
        return found

    def _progress(self, sets: int, label: str) -> tqdm:
        total = sets * -(-len(self.repetitions) // self.batch_size)
        return tqdm(total=total, desc=label, unit="set", file=sys.stderr, disable=None)
