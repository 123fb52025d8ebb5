"""Alignment of every neuron's effect on the logits with the log-unigram direction (METHODS A3), all layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float

from neuronlab.frequencies import CountsError, unigram
from neuronlab.models import ModelSpec, load_model
from neuronlab.tables import Provenance, read_table, write_table


def measure_frequency_cosine(
    *,
    model: ModelSpec,
    counts: str | Path,
    output: str | Path,
    include_padded: bool = False,
    provenance: Provenance | None = None,
) -> None:
    """Rule `measure_frequency_cosine`: alignment of every neuron with the log-unigram direction, all layers.

    Raises:
        ModelError, CountsError, TableError: unusable model or counts.
    """
    table = read_table(counts, "token_counts")
    direction = unigram(table, include_padded=include_padded).direction
    taking_part = np.ones(len(table), dtype=bool) if include_padded else table["real"].to_numpy()
    loaded = load_model(model)
    W = loaded.readout(torch.float64).W.cpu().numpy()
    if W.shape[1] != len(direction):
        raise CountsError(
            f"{counts}: counts of {len(direction)} ids, but {model.where} has {W.shape[1]}; make them again"
        )
    frames = []
    for layer in range(loaded.n_layers):
        cosine = frequency_cosine(loaded.w_out(layer).double().cpu().numpy(), W, direction, taking_part)
        neurons = np.arange(len(cosine), dtype=np.int32)
        frames.append(pl.DataFrame({"layer": np.full_like(neurons, layer), "neuron": neurons, "cosine": cosine}))
    write_table(pl.concat(frames), output, "frequency_cosine", provenance)


def frequency_cosine(
    w: Float[np.ndarray, "neurons d"],
    W: Float[np.ndarray, "d vocab"],
    direction: Float[np.ndarray, " vocab"],
    real: Bool[np.ndarray, " vocab"],
) -> Float[np.ndarray, " neurons"]:
    """cos(w W, direction) over the real ids, w W centred there; 0 for a neuron that changes no logit.

    |w W| comes from the d x d Gram matrix of W, so that no neurons x vocabulary array is made.
    """
    centred = W[:, real] - W[:, real].mean(1, keepdims=True)
    dot = w @ (centred @ direction[real])
    length = np.sqrt(np.maximum(np.einsum("nd,de,ne->n", w, centred @ centred.T, w, optimize=True), 0))
    return np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)
