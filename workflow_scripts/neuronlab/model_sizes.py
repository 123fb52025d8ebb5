"""Sizes of a model by its config.json, and what a configuration may ask of a model of that size.

Read while the workflow is parsed, so that a null space larger than the model, a neuron that it does not have, or more
controls than neurons are refused before anything runs. Hub models are checked the same way once they were fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronlab.configuration import ConfigError


@dataclass(frozen=True)
class Sizes:
    """Width, layers and neurons per layer of a model; None where config.json does not say."""

    d_model: int | None
    n_layers: int | None
    d_mlp: int | None


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)


def read_sizes(directory: Path) -> Sizes:
    """Sizes from the `config.json` of a directory; a nested `text_config` counts as the model's own."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config = {**config, **(config.get("text_config") or {})}
    d_model = _first(config, "hidden_size", "n_embd", "d_model")
    d_mlp = _first(config, "intermediate_size", "n_inner", "ffn_dim")
    if d_mlp is None and "n_embd" in config and d_model is not None:
        d_mlp = 4 * d_model  # GPT-2 leaves n_inner empty
    return Sizes(d_model, _first(config, "num_hidden_layers", "n_layer"), d_mlp)


def check_null_space_k(sizes: Sizes, null_space_k: Sequence[float], where: str) -> None:
    """Sizes of the null space must leave something that is not null.

    Raises:
        ConfigError: for a k that is not a whole number of directions or not below d_model.
    """
    for k in null_space_k:
        if k >= 1 and k != int(k):
            raise ConfigError(f"configuration: {where}.null_space_k: {k} is neither a whole number nor a share below 1")
        if sizes.d_model is not None and k >= sizes.d_model:
            raise ConfigError(
                f"configuration: {where}.null_space_k: {k} directions, but the model has d_model {sizes.d_model}; "
                "give fewer (published studies take 1 to 5 % of d_model)"
            )


def check_selections(sizes: Sizes, selections: Mapping[str, Mapping[str, Any]], control_sets: int, where: str) -> None:
    """Explicit neurons must exist, and controls must find neurons enough beside the selection.

    Raises:
        ConfigError: naming the selection's key.
    """
    for name, entry in selections.items():
        key = f"selections.{name}"
        for neuron in entry.get("neurons", []):
            layer, index = map(int, neuron.split("."))
            if sizes.n_layers is not None and layer >= sizes.n_layers:
                raise ConfigError(
                    f"configuration: {key}.neurons: '{neuron}' is in layer {layer}, but {where} has layers 0 to "
                    f"{sizes.n_layers - 1}"
                )
            if sizes.d_mlp is not None and index >= sizes.d_mlp:
                raise ConfigError(
                    f"configuration: {key}.neurons: {where} has no neuron '{neuron}': its layers have {sizes.d_mlp} "
                    "neurons, counted from 0"
                )
        wanted = int(entry.get("count", len(entry.get("neurons", []))))
        if sizes.d_mlp is not None and control_sets and wanted * 2 > sizes.d_mlp:
            raise ConfigError(
                f"configuration: {key}.count: {wanted} neurons and as many controls in a layer of {sizes.d_mlp} "
                f"({where}); select fewer, or set controls.sets to 0"
            )
