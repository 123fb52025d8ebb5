"""Alignment of every neuron's effect on the logits with the log-unigram direction (METHODS A3), all layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from neuronlab.frequencies import CountsError, unigram
from neuronlab.models import ModelSpec, load_model
from neuronlab.readout import COLUMNS, readout_dtype
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
    on_mps = loaded.device.type == "mps"  # which knows no float64
    W = loaded.readout(torch.float32 if on_mps else readout_dtype(loaded.d_model, loaded.d_vocab)).W
    if W.shape[1] != len(direction):
        raise CountsError(
            f"{counts}: counts of {len(direction)} ids, but {model.where} has {W.shape[1]}; make them again"
        )
    axis = FrequencyAxis.of(W.cpu() if on_mps else W, direction, taking_part)
    frames = []
    for layer in range(loaded.n_layers):
        cosine = axis.cosines(loaded.w_out(layer))
        neurons = np.arange(len(cosine), dtype=np.int32)
        frames.append(pl.DataFrame({"layer": np.full_like(neurons, layer), "neuron": neurons, "cosine": cosine}))
    write_table(pl.concat(frames), output, "frequency_cosine", provenance)


@dataclass(frozen=True)
class FrequencyAxis:
    """What cosines with a direction need of the unembedding, computed once for all layers.

    Attributes:
        along: W times the direction, W centred over the ids that take part.
        gram: W W^T of the same.
    """

    along: Float64[Tensor, " d"]
    gram: Float64[Tensor, "d d"]

    @classmethod
    def of(
        cls, W: Float[Tensor, "d vocab"], direction: Float[np.ndarray, " vocab"], real: Bool[np.ndarray, " vocab"]
    ) -> FrequencyAxis:
        """Summed over blocks of columns, so that no copy of W is made."""
        part = torch.from_numpy(np.asarray(real, dtype=np.float64)).to(W.device)
        direction_there = torch.from_numpy(np.asarray(direction, dtype=np.float64)).to(W.device) * part
        blocks = [slice(start, start + COLUMNS) for start in range(0, W.shape[1], COLUMNS)]
        mean = sum(W[:, block].double() @ part[block] for block in blocks) / part.sum()
        along = torch.zeros(len(W), dtype=torch.float64, device=W.device)
        gram = torch.zeros(len(W), len(W), dtype=torch.float64, device=W.device)
        for block in blocks:
            centred = (W[:, block].double() - mean[:, None]) * part[block]
            along += centred @ direction_there[block]
            gram += centred @ centred.T
        return cls(along, gram)

    def cosines(self, w: Float[Tensor, "neurons d"]) -> Float[np.ndarray, " neurons"]:
        """cos(w W, direction); 0 for a neuron that changes no logit.

        |w W| comes from the Gram matrix, so that no neurons x vocabulary array is made.
        """
        w = w.to(self.gram.device).double()
        dot = (w @ self.along).cpu().numpy()
        length = ((w @ self.gram) * w).sum(1).clamp_min(0).sqrt().cpu().numpy()
        return np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)
