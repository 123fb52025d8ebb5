"""Which neurons a probe reads: those that write most about a feature, and random others (METHODS C5).

A neuron's score is |difference|: how much more it adds to the logits of the feature's tokens than to those of all
others, on average and per unit of activation, as in feature_neurons.parquet. As the mean over tokens commutes with the
read-out, all neurons of a layer take one product,

    difference[n, f] = w_n . (mean of W over tokens with f - mean of W over the others).

All neurons of the layers that are read compete by this score alone, vocabulary neurons or not. feature_neurons.parquet,
which lists vocabulary neurons (prediction, suppression, partition), has the same differences for them: that is checked.
Neurons have one number here, layer x neurons per layer + neuron.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from neuronlab.feature_scores import TOKENS_PER_TILE, precise_device
from neuronlab.models import Model
from neuronlab.tables import read_table

Array = np.ndarray
AGREEMENT = 1e-6  # of the largest difference: two orders of adding up in float64, and no more


class ProbeError(ValueError):
    """Probes that cannot be trained as configured, or a table of another model."""


@dataclass(frozen=True)
class Ensembles:
    """Neurons of one feature's probes; an ensemble of size k is the first k of a row.

    Attributes:
        by_score: the neurons of the largest scores, the best first.
        random: a row for each draw, none of them among `by_score`; shorter where the model has no more neurons.
    """

    by_score: Int[Array, " size"]
    random: Int[Array, "draws size"]

    @property
    def neurons(self) -> Int[Array, " neurons"]:
        """All neurons that are read, ascending."""
        return np.unique(np.append(self.by_score, self.random))


def mean_differences(
    w: Float[Tensor, "neurons d"], W: Float[Tensor, "d tokens"], has: Bool[Array, "tokens features"]
) -> Float64[Array, "neurons features"]:
    """Mean logit effect on the tokens with each feature minus that on the others; float64.

    Args:
        w: output weights as the read-out sees them (`Model.w_out`).
        W: columns of the folded unembedding, real ids only.
        has: which tokens have which features; some and not all.
    """
    device = precise_device(W)
    n = has.sum(axis=0)
    contrast = torch.from_numpy(np.where(has, 1 / n, -1 / (len(has) - n))).to(device)
    direction = torch.zeros(W.shape[0], has.shape[1], dtype=torch.float64, device=device)
    for start in range(0, len(has), TOKENS_PER_TILE):
        tile = slice(start, start + TOKENS_PER_TILE)
        direction += W[:, tile].to(device).double() @ contrast[tile]
    return (w.to(device).double() @ direction).cpu().numpy()


def all_differences(
    model: Model, layers: Sequence[int], has: Bool[Array, "tokens features"]
) -> Float64[Array, "neurons features"]:
    """`mean_differences` of the neurons of all layers, by number; NaN in layers that are not among `layers`."""
    readout = model.readout()
    W = readout.W[:, readout.real]
    found = np.full((model.n_layers, model.d_mlp, has.shape[1]), np.nan)
    for layer in layers:
        found[layer] = mean_differences(model.w_out(layer), W, has)
    return found.reshape(-1, has.shape[1])


def read_listed(
    path: str | Path, model: Model, names: Sequence[str], differences: Float64[Array, "neurons features"]
) -> dict[str, Int[Array, " listed"]]:
    """Neurons that feature_neurons.parquet lists for each feature, in the order of their places.

    Raises:
        TableError: unusable table.
        ProbeError: the table is of another model: neurons that are not there, or other differences.
    """
    frame = read_table(path, "feature_neurons").filter(pl.col("feature").is_in(list(names)))
    frame = frame.with_columns((pl.col("layer").cast(pl.Int64) * model.d_mlp + pl.col("neuron")).alias("number"))
    remedy = f"{path}: not the neurons of {model.spec.where}; delete the table and run the workflow again"
    if not frame.filter((pl.col("layer") >= model.n_layers) | (pl.col("neuron") >= model.d_mlp)).is_empty():
        raise ProbeError(remedy)
    listed = {}
    for column, name in enumerate(names):
        rows = frame.filter(pl.col("feature") == name).sort("place")
        numbers, own = rows["number"].to_numpy(), differences[:, column]
        inside = ~np.isnan(own[numbers])  # of a layer that is read
        error = np.abs(own[numbers] - rows["difference"].to_numpy())[inside]
        if len(error) and not error.max() <= AGREEMENT * np.nanmax(np.abs(own)):
            raise ProbeError(f"{remedy} (differences of '{name}' are off by up to {error.max():.1e})")
        listed[name] = numbers[inside]
    return listed


def ranked(difference: Float64[Array, " neurons"], usable: Bool[Array, " neurons"]) -> Int[Array, " usable"]:
    """Usable neurons by |difference|, the largest first; equal ones by number."""
    order = np.argsort(-np.abs(np.where(usable, difference, 0.0)), kind="stable")
    return order[usable[order]]


def random_orders(usable: Bool[Array, " neurons"], draws: int, seed: int) -> Int[Array, "draws usable"]:
    """Usable neurons in random orders, one for each draw. All features share them: fewer neurons have to be read."""
    numbers = np.flatnonzero(usable)
    return np.stack([np.random.default_rng([seed, 0x7270, draw]).permutation(numbers) for draw in range(draws)])


def draw_ensembles(order: Int[Array, " usable"], random: Int[Array, "draws usable"], size: int) -> Ensembles:
    """The `size` best neurons of a feature, and as many others from each random order, if there are so many.

    Args:
        order: from `ranked`.
        random: from `random_orders`.
    """
    best = order[:size]
    others = [row[~np.isin(row, best)][:size] for row in random]
    return Ensembles(best, np.stack(others))


def check_sizes(sizes: Sequence[int], n_usable: int, where: str) -> list[int]:
    """Sizes in ascending order, each once.

    Raises:
        ProbeError: for ensembles of more neurons than there are.
    """
    ascending = sorted(set(sizes))
    if ascending[-1] > n_usable:
        raise ProbeError(
            f"stages_of_inference.probes.sizes asks for ensembles of {ascending[-1]} neurons, but {where} has "
            f"{n_usable} that write something; leave that size out"
        )
    if 2 * ascending[-1] > n_usable:
        print(
            f"random ensembles take the {n_usable - ascending[-1]} neurons beside the {ascending[-1]} best: "
            "larger ones are left out",
            file=sys.stderr,
        )
    return ascending
