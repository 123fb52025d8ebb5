"""Mean outputs of layers, checked part by part against what the residual stream gains.

Fast path and brute force of the verification put the same means in place, so these are checked on their own, over all
counted positions of the run. The means come from hooks on what a block's attention and MLP put out, in a pass of their
own. Against them stand the clean passes of the interventions: attention's mean is what the stream gains from the
block's input to its middle, the MLP's what it gains from there on. Where blocks are parallel (Pythia, Phi) the stream
has no middle: the MLP's mean is then that of W_out's own output, and attention's what else the block adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuronlab.bridge_parts import Hook
from neuronlab.layer_passes import PARTS, Means
from neuronlab.model_checks import TOLERANCE
from neuronlab.models import Model
from neuronlab.schemas_stages import STAGES_TABLES

MEAN_OUTPUTS = tuple(f"mean_{part}_output" for part in PARTS)


class StreamChanges:
    """What every block's two parts add to the residual stream, on average over the counted positions of clean passes.

    Attributes:
        total: changes of the stream added up, [layer, (attention, MLP), d].
        largest: largest size of the stream before and after each block, by dimension.
        count: positions so far.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.total = torch.zeros(model.n_layers, 2, model.d_model, dtype=torch.float64)
        self.largest = torch.zeros(model.n_layers, model.d_model, dtype=torch.float64)
        self.count = 0

    def hooks(self, counted: Bool[Tensor, "batch position"]) -> dict[str, Hook]:
        """To be put into the clean pass whose streams are given to `add`: they see where a block's MLP begins."""
        counted = counted.to(self.model.device)
        attention, mlp = range(2)

        def middle(layer: int) -> Hook:
            def move(tensor: Tensor, hook: Any) -> None:
                after_attention = tensor[counted].cpu().double().sum(0)
                self.total[layer, attention] += after_attention
                self.total[layer, mlp] -= after_attention

            return move

        def written(layer: int) -> Hook:
            def move(tensor: Tensor, hook: Any) -> None:
                own = tensor[counted].cpu().double().sum(0)
                self.total[layer, attention] -= own
                self.total[layer, mlp] += own

            return move

        found: dict[str, Hook] = {}
        for layer in range(self.model.n_layers):
            if self._has_middle(layer):
                found[f"blocks.{layer}.hook_resid_mid"] = middle(layer)
            else:
                found[f"blocks.{layer}.mlp.out.hook_out"] = written(layer)
        return found

    def add(self, residuals: Sequence[Float[Tensor, "tokens d"]]) -> None:
        """The L + 1 streams of some positions: what enters each block, and what leaves the last."""
        before = residuals[0].cpu().double()
        for layer, after in enumerate(residuals[1:]):
            after = after.cpu().double()
            if self._has_middle(layer):
                self.total[layer, 0] -= before.sum(0)
                self.total[layer, 1] += after.sum(0)
            else:
                self.total[layer, 0] += (after - before).sum(0)
            sizes = torch.maximum(before.abs().amax(0), after.abs().amax(0))
            self.largest[layer] = torch.maximum(self.largest[layer], sizes)
            before = after
        self.count += len(before)

    def _has_middle(self, layer: int) -> bool:
        """Whether the MLP reads what attention has written."""
        return f"blocks.{layer}.hook_resid_mid" in self.model.bridge.hook_dict


def verify_means(means: Means, changes: StreamChanges, dtype: str) -> pl.DataFrame:
    """Rows `MEAN_OUTPUTS` of the table "intervention_verification", two per layer, each at its worst dimension."""
    schema = {name: column.dtype for name, column in STAGES_TABLES["intervention_verification"].items()}
    ours, theirs = means.cpu().double(), changes.total / changes.count
    tolerance = TOLERANCE[dtype] * (1 + changes.largest)
    rows = []
    for layer in range(len(ours)):
        for part, quantity in enumerate(MEAN_OUTPUTS):
            fast, brute = ours[layer, part], theirs[layer, part]
            excess = ((fast - brute).abs() / tolerance[layer]).nan_to_num(nan=float("inf"))
            at = int(excess.argmax())
            row = {"intervention": "mean", "layer": layer, "other": None, "quantity": quantity}
            row |= {"fast": float(fast[at]), "brute_force": float(brute[at])}
            rows.append(row | {"tolerance": float(tolerance[layer, at])})
    frame = pl.DataFrame(rows, schema={name: schema[name] for name in rows[0]})
    error = (pl.col("fast") - pl.col("brute_force")).abs()
    frame = frame.with_columns(error=error).with_columns(
        passed=((pl.col("error") <= pl.col("tolerance")) & pl.col("error").is_finite()).fill_null(False)
    )
    return frame.select(*schema)
