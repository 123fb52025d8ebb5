"""Rule `clamp_neurons`: what the output does while one neuron's activation is held at a value (METHODS D1).

Every selected last-layer neuron and every neuron of a control set is clamped at all tokens to each value of a grid.
Clamping is a replacement by a constant, so the closed form of `ablation` gives every change; the values of a grid
enter the kernel together, as variants of one call, and share the clean read-out, the neurons' logits, the passage of
a block of the vocabulary through the cache and the order of ids that ranks need. A value therefore costs no more than
a replacement does in `ablate_neurons`, and less.

The final norm's scale after clamping is sigma' = 1 / (alpha + dalpha), from the same coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from neuronlab.ablation import LastLayer, Tokens, clean_of, coefficients, directions_of, effects_of_chunk, run_kernel
from neuronlab.final_states import AblationInputs, Setup
from neuronlab.kernels.interface import Clean, Coefficients, Directions
from neuronlab.neuron_sets import read_selections, sets_of_layer, single_neurons
from neuronlab.replacements import ActivationStatistics
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, write_table
from neuronlab.token_sample import with_sample

Array = np.ndarray
CLAMPED = ("total", "direct")  # variants of every value, in this order
LEVELS = ("entropy", "loss", "norm_scale", "reciprocal_rank")
CHANGES = (*(f"{name}_change" for name in LEVELS), "entropy_change_direct", "loss_change_direct")
TRIPLES = 2**21  # (variant, token, neuron) per call of the kernel: some 15 arrays of that many numbers are alive


class DoseError(ValueError):
    """A grid of values that neurons cannot be clamped to."""


def clamp_neurons(
    *,
    inputs: AblationInputs,
    selection: Sequence[str | Path],
    dose_response: str | Path,
    values: Sequence[float] = (),
    points: int = 9,
    tokens: int | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    provenance: Provenance | None = None,
) -> None:
    """Write dose_response.parquet: a row per neuron and value, in order of neuron, then value.

    Args:
        selection: selection tables; their last-layer neurons and those of their control sets are clamped, each once.
        values: what to clamp to, increasing; where there are none, `points` values for each neuron, equally spaced
            from its smallest to its largest activation.
        tokens: counted tokens used, drawn by the seed in whole sequences as far as possible; all for None.

    Raises:
        DoseError: for a grid that is no grid.
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    check_grid(values, points)
    chosen = read_selections(selection)
    setup = with_sample(inputs.set_up(("mean",)), tokens, inputs.seed)
    sets = sets_of_layer(chosen, setup.last.layer)
    neurons = sorted(single.neurons[0] for single in single_neurons(sets, setup.last.layer, controls=True))
    grid = clamp_grid(setup.statistics, neurons, values, points)
    sums = ClampSums(setup, len(grid), len(neurons))
    for start in range(0, len(neurons), inputs.neurons_per_tile):
        tile = slice(start, start + inputs.neurons_per_tile)
        for documents, part, clean, changes in iterate_clamped(
            setup, neurons[tile], grid[:, tile], inputs.batch_size, inputs.tokens_per_chunk
        ):
            sums.add(documents, part, tile, changes)
            if start == 0:
                sums.add_clean(clean)
    frame = clamp_frame(setup, neurons, grid, sums, resamples=resamples, level=level, seed=inputs.seed)
    write_table(frame, dose_response, "dose_response", {**(provenance or {}), "kernel": setup.last.kernel})


def check_grid(values: Sequence[float], points: int) -> None:
    """Refuse grids that are none.

    Raises:
        DoseError: values that are not finite or not increasing; fewer than 2 points where there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise DoseError(f"dose_response.values: {list(values)} holds a value that is not a finite number; remove it")
    if (np.diff(array) <= 0).any():
        raise DoseError(
            f"dose_response.values: {list(values)} does not increase; list every value once, the smallest first"
        )
    if not len(array) and points < 2:
        raise DoseError(f"dose_response.points is {points}; a grid has at least 2 points, or name the values")


def clamp_grid(
    statistics: ActivationStatistics, neurons: Sequence[int], values: Sequence[float], points: int
) -> Float[Array, "values neurons"]:
    """What each neuron is clamped to: the same values for all, or from its own smallest to its largest activation."""
    if len(values):
        return np.tile(np.asarray(values, dtype=np.float64)[:, None], (1, len(neurons)))
    chosen = list(neurons)
    return np.linspace(statistics.min[chosen], statistics.max[chosen], points)


class ClampSums:
    """Sums over tokens: of every change per (document, value, neuron), and of the clean numbers."""

    def __init__(self, setup: Setup, values: int, neurons: int) -> None:
        text = setup.text
        self.documents, counts = np.unique(text.documents[text.counted], return_counts=True)
        self.counts: Int[Array, " documents"] = counts
        self.changes: dict[str, Float[Array, "documents values neurons"]] = {
            name: np.zeros((len(counts), values, neurons)) for name in CHANGES
        }
        self.clean = dict.fromkeys(LEVELS, 0.0)

    def add(
        self,
        documents: Int[Array, " tokens"],
        values: slice,
        neurons: slice,
        changes: dict[str, Float[Array, "values tokens neurons"]],
    ) -> None:
        """Add one chunk's changes."""
        here, row = np.unique(documents, return_inverse=True)
        belongs = (row == np.arange(len(here))[:, None]).astype(np.float64)
        rows = np.searchsorted(self.documents, here)
        for name, array in changes.items():
            self.changes[name][rows, values, neurons] += np.tensordot(belongs, array, axes=(1, 1))

    def add_clean(self, clean: dict[str, Float[Array, " tokens"]]) -> None:
        """Add one chunk's clean numbers."""
        for name, array in clean.items():
            self.clean[name] += float(array.sum())


def iterate_clamped(
    setup: Setup, neurons: Sequence[int], grid: Float[Array, "values neurons"], batch_size: int, tokens_per_chunk: int
) -> Iterator[
    tuple[
        Int[Array, " tokens"],
        slice,
        dict[str, Float[Array, " tokens"]],
        dict[str, Float[Array, "values tokens neurons"]],
    ]
]:
    """Chunk by chunk: owning documents, part of the grid, clean numbers (once per chunk, else empty) and changes."""
    text = setup.text
    last = replace(setup.last, reference=None)  # divergences from the unigram distribution are not asked for
    neurons, lines = list(neurons), directions_of(last, list(neurons))
    for batch in setup.batches(range(len(text.tokens)), batch_size, "clamp"):
        for part in batch.chunks(tokens_per_chunk):
            chunk, clean = batch.tokens[part], clean_of(last, batch.tokens[part])
            documents = text.documents[batch.sequence[part], batch.position[part]]
            numbers = clean_numbers(last, chunk, clean)
            together = max(1, TRIPLES // (len(CLAMPED) * len(chunk) * max(len(neurons), 1)))
            for start in range(0, len(grid), together):
                values = slice(start, min(start + together, len(grid)))
                yield documents, values, numbers, clamped(last, chunk, clean, lines, neurons, grid[values])
                numbers = {}


def clean_numbers(last: LastLayer, chunk: Tokens, clean: Clean) -> dict[str, Float[Array, " tokens"]]:
    """What is clamped away from, per token: one array for each of `LEVELS`."""
    return {
        "entropy": clean.entropy.cpu().numpy(),
        "loss": clean.loss.cpu().numpy(),
        "norm_scale": last.readout.scale(chunk.residual.double())[:, 0].cpu().numpy(),
        "reciprocal_rank": 1 / (clean.rank.cpu().numpy() + 1.0),
    }


def clamped(
    last: LastLayer,
    chunk: Tokens,
    clean: Clean,
    lines: Directions,
    neurons: Sequence[int],
    values: Float[Array, "values neurons"],
) -> dict[str, Float[Array, "values tokens neurons"]]:
    """Changes by clamping each neuron to each of its values, for all tokens of a chunk: `CHANGES`.

    Args:
        clean, lines: from `clean_of` and `directions_of`, for the same tokens and neurons.
    """
    levels = torch.from_numpy(np.ascontiguousarray(values)).to(last.device)
    deltas = list(levels[:, None] - chunk.activations[:, neurons].double())
    w, raw = last.w[neurons], last.raw[neurons]
    factors = [
        coefficients(last.readout, chunk.residual, w, delta, variants=CLAMPED, raw=raw, mlp=chunk.mlp)
        for delta in deltas
    ]
    alpha = 1 / last.readout.scale(chunk.residual.double())
    moved = torch.stack([1 / (alpha + found.A[0]) - 1 / alpha for found in factors])
    if last.kernel == "brute_force":
        each = [
            effects_of_chunk(last, chunk, clean, lines, neurons, delta, variants=CLAMPED, ranked=(0,))
            for delta in deltas
        ]
        entropy, loss = (np.stack([getattr(one, name) for one in each], axis=1) for name in ("entropy", "loss"))
        rank = np.stack([one.rank[0] for one in each])
    else:
        step = len(CLAMPED)
        found = run_kernel(last, clean, lines, _joined(factors), ranked=tuple(range(0, step * len(factors), step)))
        entropy, loss = ([getattr(found, name)[i::step] for i in range(step)] for name in ("entropy", "loss"))
        rank = found.rank
    assert rank is not None
    return {
        "entropy_change": entropy[0],
        "loss_change": loss[0],
        "norm_scale_change": moved.cpu().numpy(),
        "reciprocal_rank_change": 1 / (rank + 1.0) - 1 / (clean.rank.cpu().numpy()[:, None] + 1.0),
        "entropy_change_direct": entropy[1],
        "loss_change_direct": loss[1],
    }


def _joined(factors: Sequence[Coefficients]) -> Coefficients:
    """The variants of all values as those of one call: total and direct of the first value, of the second, ..."""
    third = [f.C for f in factors if f.C is not None]
    return Coefficients(
        torch.cat([f.A for f in factors]),
        torch.cat([f.B for f in factors]),
        tuple(flag for f in factors for flag in f.frozen),
        torch.cat(third) if third else None,
    )


def clamp_frame(
    setup: Setup,
    neurons: Sequence[int],
    grid: Float[Array, "values neurons"],
    sums: ClampSums,
    *,
    resamples: int,
    level: float,
    seed: int,
) -> pl.DataFrame:
    """The table "dose_response"; a value that a grid holds twice (a neuron that never moves) has one row."""
    n_neurons = grid.shape[1]
    chosen, shape = list(neurons), grid.shape
    mean, sd = setup.statistics.mean[chosen], setup.statistics.sd[chosen]
    moves = (setup.statistics.max[chosen] > setup.statistics.min[chosen]) & (sd > 0)
    value_sd = np.where(moves, (grid - mean) / np.where(moves, sd, 1), np.nan)
    total = int(sums.counts.sum())
    columns: dict[str, Array] = {
        "layer": np.full(shape, setup.last.layer),
        "neuron": np.broadcast_to(np.array(chosen, dtype=np.int64), shape),
        "value": grid,
        "value_sd": value_sd,
        "n_tokens": np.full(shape, total),
        "n_documents": np.full(shape, len(sums.counts)),
    }
    if n_neurons:
        weights = bootstrap_weights(len(sums.counts), resamples, seed)
        for name, array in sums.changes.items():
            found = clustered_interval(array, sums.counts, weights, level)
            columns |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
            if name.removesuffix("_change") in LEVELS:
                kind = name.removesuffix("_change")
                columns[kind] = sums.clean[kind] / total + found.estimate
    names = list(SCHEMAS["dose_response"])
    frame = pl.DataFrame({name: columns.get(name, np.zeros(shape)).T.ravel() for name in names})
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None)).unique(
        ["neuron", "value"], keep="first", maintain_order=True
    )
