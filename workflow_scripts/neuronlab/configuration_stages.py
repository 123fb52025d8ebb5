"""Checks of study C's part of the configuration: features that probes ask for, layers that change places."""

from __future__ import annotations

from difflib import get_close_matches

from neuronlab.configuration import Config, ConfigError
from neuronlab.model_sizes import Sizes
from neuronlab.token_features import FEATURES

KEY = "configuration: stages_of_inference"


def check_stages(config: Config) -> None:
    """Refuse what no model can do.

    Raises:
        ConfigError: naming the key, what is wrong and what to do.
    """
    study = config["stages_of_inference"]
    for name in study["probes"]["features"]:
        if name not in FEATURES:
            near = get_close_matches(name, list(FEATURES), n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{KEY}.probes.features: there is no feature '{name}'{hint}")
    swaps = study["swaps"]
    if isinstance(swaps, str):
        if swaps not in ("adjacent", "all"):
            raise ConfigError(f"{KEY}.swaps: '{swaps}' is not `adjacent`, `all`, or a list such as [0-1, 2-5]")
        return
    for pair in swaps:
        first, second = pair.split("-")
        if int(first) == int(second):
            raise ConfigError(f"{KEY}.swaps: '{pair}' swaps a layer with itself; name two layers")


def check_swaps(sizes: Sizes, config: Config, where: str) -> None:
    """Refuse swaps of layers that a model does not have.

    Raises:
        ConfigError: naming the pair.
    """
    study = config["stages_of_inference"]
    if sizes.n_layers is None or isinstance(study["swaps"], str) or "interventions" not in study["parts"]:
        return
    for pair in study["swaps"]:
        if (last := max(map(int, pair.split("-")))) >= sizes.n_layers:
            raise ConfigError(
                f"{KEY}.swaps: '{pair}' names layer {last}, but the layers of {where} are 0 to {sizes.n_layers - 1}; "
                "leave the pair out, or choose `adjacent` or `all`, which fit every model"
            )
