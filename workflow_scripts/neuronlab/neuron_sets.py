"""Sets of neurons as the studies use them: selections and controls of one layer, from one or several tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from neuronlab.tables import read_table


@dataclass(frozen=True)
class NeuronSet:
    """Neurons of one layer that are looked at together.

    Attributes:
        name: the set's name; `layer.neuron` for a single neuron.
        kind: "selection", "uniform", "norm_matched" or "single".
        control_of: the selection that it is a control of.
        neurons: their indices, in order of rank.
    """

    name: str
    kind: str
    control_of: str | None
    neurons: tuple[int, ...]

    def columns(self) -> dict[str, str | int | None]:
        """What the tables say of a set: `schemas_sets.SET`."""
        return {"set": self.name, "kind": self.kind, "control_of": self.control_of, "n_neurons": len(self.neurons)}


def read_selections(paths: str | Path | Sequence[str | Path]) -> pl.DataFrame:
    """One selection table as it is, or several as one, without control sets that hold a neuron selected in another.

    Controls by weights are drawn before a selection by effects is known, and may hold neurons that it takes: such a set
    is left out, so that controls are disjoint from all selections, as they are within one table.
    """
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    table = pl.concat([read_table(path, "selection") for path in several])
    if len(several) == 1:
        return table
    selected = table.filter(pl.col("kind") == "selection").select("layer", "neuron").unique()
    controls = table.filter(pl.col("kind") != "selection")
    spoiled = controls.join(selected, on=["layer", "neuron"], how="semi")["set"].unique().to_list()
    return table.filter(~pl.col("set").is_in(spoiled))


def sets_of_layer(selection: pl.DataFrame, layer: int) -> list[NeuronSet]:
    """Selections and controls with neurons in `layer`, in the order of the table."""
    found = []
    here = selection.filter(pl.col("layer") == layer).sort("rank", maintain_order=True)
    for name in selection["set"].unique(maintain_order=True).to_list():
        rows = here.filter(pl.col("set") == name)
        if len(rows):
            kind, control_of = rows.row(0, named=True)["kind"], rows.row(0, named=True)["control_of"]
            found.append(NeuronSet(name, kind, control_of, tuple(rows["neuron"].to_list())))
    return found


def single_neurons(sets: Sequence[NeuronSet], layer: int, *, controls: bool = False) -> list[NeuronSet]:
    """Every selected neuron as a set of its own, each once; with `controls` the controls' neurons as well.

    A control neuron's `control_of` names its selection; a neuron both selected and control counts as selected.
    """
    found: dict[int, NeuronSet] = {}
    for chosen in [s for s in sets if s.kind == "selection"] + [s for s in sets if s.kind != "selection" and controls]:
        for neuron in chosen.neurons:
            found.setdefault(neuron, NeuronSet(f"{layer}.{neuron}", "single", chosen.control_of, (neuron,)))
    return list(found.values())
