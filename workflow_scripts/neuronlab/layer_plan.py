"""Which layers are changed, and how: the interventions that a configuration asks for."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import combinations

from neuronlab.layer_passes import Intervention, InterventionError
from neuronlab.schemas_stages import INTERVENTIONS

KEY = "stages_of_inference"


def plan_interventions(
    kinds: Sequence[str], swaps: str | Sequence[str], n_layers: int, where: str
) -> list[Intervention]:
    """Every intervention, by kind in the order given, then by layer.

    Args:
        kinds: keys of `schemas_stages.INTERVENTIONS`.
        swaps: `adjacent`, `all`, or pairs such as "0-1".
        where: the model, for messages.

    Raises:
        InterventionError: for an unknown kind, a pair that is none, or a layer that the model does not have.
    """
    unknown = [kind for kind in kinds if kind not in INTERVENTIONS]
    if unknown:
        raise InterventionError(f"{KEY}.interventions: no '{unknown[0]}'; there are {', '.join(INTERVENTIONS)}")
    planned = []
    for kind in dict.fromkeys(kinds):
        if kind == "swap":
            planned += [Intervention(kind, *pair) for pair in swapped_pairs(swaps, n_layers, where)]
        else:
            planned += [Intervention(kind, layer) for layer in range(n_layers)]
    return planned


def swapped_pairs(swaps: str | Sequence[str], n_layers: int, where: str) -> list[tuple[int, int]]:
    """Pairs of layers that change places, the lower one first, in order, each once.

    A model of one layer has none, whatever is asked for: that is said on stderr.

    Raises:
        InterventionError: see `plan_interventions`.
    """
    if n_layers < 2:
        print(f"{where}: one layer has no other one to change places with: no swap is made", file=sys.stderr)
        return []
    if swaps == "adjacent":
        return [(layer, layer + 1) for layer in range(n_layers - 1)]
    if swaps == "all":
        return list(combinations(range(n_layers), 2))
    if isinstance(swaps, str):
        raise InterventionError(f"{KEY}.swaps is '{swaps}'; it is `adjacent`, `all`, or a list such as [0-1, 2-5]")
    pairs = set()
    for entry in swaps:
        if not (found := re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", str(entry))):
            raise InterventionError(f"{KEY}.swaps: '{entry}' is no pair of layers; write it as 2-5")
        first, second = sorted(map(int, found.groups()))
        if first == second:
            raise InterventionError(f"{KEY}.swaps: '{entry}' swaps a layer with itself; name two layers")
        if second >= n_layers:
            raise InterventionError(
                f"{KEY}.swaps: '{entry}' names layer {second}, but the layers of {where} are 0 to {n_layers - 1}; "
                "leave the pair out, or choose `adjacent` or `all`, which fit every model"
            )
        pairs.add((first, second))
    return sorted(pairs)


def depth_of(intervention: Intervention, n_layers: int) -> float:
    """Relative depth: layer / (layers - 1); of a swap, of the middle between the two."""
    other = intervention.layer if intervention.other is None else intervention.other
    return (intervention.layer + other) / 2 / max(n_layers - 1, 1)
