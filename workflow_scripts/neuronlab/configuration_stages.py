"""Checks of study C's part of the configuration: parts with nothing to do, features, layers, windows, contexts."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

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
    _check_parts(study)
    for name in study["probes"]["features"]:
        if name not in FEATURES:
            near = get_close_matches(name, list(FEATURES), n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{KEY}.probes.features: there is no feature '{name}'{hint}")
    if "attention" in study["parts"] and study["models"]:
        _check_offsets(config)
    swaps = study["swaps"]
    if isinstance(swaps, str):
        if swaps not in ("adjacent", "all"):
            raise ConfigError(f"{KEY}.swaps: '{swaps}' is not `adjacent`, `all`, or a list such as [0-1, 2-5]")
        return
    for pair in swaps:
        first, second = pair.split("-")
        if int(first) == int(second):
            raise ConfigError(f"{KEY}.swaps: '{pair}' swaps a layer with itself; name two layers")


def _check_parts(study: dict[str, Any]) -> None:
    """Refuse parts that are asked for and have nothing to do."""
    if study["models"] and not study["parts"]:
        raise ConfigError(
            f"{KEY}.parts is empty, but stages_of_inference.models names {', '.join(study['models'])}: nothing would "
            "be made; name a part, or leave the models out"
        )
    empty = {
        "interventions": ("interventions", study["interventions"], "name what is done to layers"),
        "probes": ("probes.features", study["probes"]["features"], "name a feature"),
    }
    for part, (key, values, remedy) in empty.items():
        if part in study["parts"] and not values:
            raise ConfigError(f"{KEY}.{key} is empty: {remedy}, or leave `{part}` out of stages_of_inference.parts")
    if "interventions" in study["parts"] and "swap" in study["interventions"] and not study["swaps"]:
        raise ConfigError(
            f"{KEY}.swaps is empty: name pairs of layers, choose `adjacent` or `all`, or leave `swap` out of "
            "stages_of_inference.interventions"
        )


def _check_offsets(config: Config) -> None:
    """Refuse a window of local attention that no token of a text has before it.

    The last token has no next one and does not count; with `bos: always` position 0 is no key of a window.
    """
    study = config["stages_of_inference"]
    for name in study["texts"]:
        text = config["texts"][name]
        most = text["sequence_length"] - 2 - (text["bos"] == "always")
        if study["offsets"] > most:
            raise ConfigError(
                f"{KEY}.offsets: {study['offsets']} tokens back, but no token that counts in texts.{name} has more "
                f"than {max(most, 0)} before it (sequence_length {text['sequence_length']}); lower it, or raise "
                f"texts.{name}.sequence_length"
            )


def check_stages_sizes(sizes: Sizes, config: Config, where: str) -> None:
    """Refuse what a model of these sizes cannot do: swaps of layers that it lacks, words beyond its context.

    Args:
        where: the model's key, for messages.

    Raises:
        ConfigError: naming the key.
    """
    study = config["stages_of_inference"]
    if sizes.n_layers is not None and "interventions" in study["parts"] and "swap" in study["interventions"]:
        _check_swaps(sizes.n_layers, study, where)
    words = study["subjoiners"]
    longest = words["context"] + max(words["pieces"])
    if "subjoiners" in study["parts"] and sizes.n_ctx is not None and longest > sizes.n_ctx:
        raise ConfigError(
            f"{KEY}.subjoiners.context: {words['context']} tokens and a word of up to {max(words['pieces'])} are "
            f"{longest} tokens, but the context of {where} is {sizes.n_ctx}; lower it to "
            f"{sizes.n_ctx - max(words['pieces']) - 1} or less, which leaves room for a BOS"
        )


def _check_swaps(n_layers: int, study: dict[str, Any], where: str) -> None:
    if n_layers == 1 and study["interventions"] == ["swap"]:
        raise ConfigError(
            f"{KEY}.interventions: `swap` alone, but {where} has one layer, which has no other to change places with; "
            "add `delete` or another intervention, or leave the model out"
        )
    if isinstance(study["swaps"], str) or n_layers == 1:  # a model of one layer is said to have no swap where it runs
        return
    for pair in study["swaps"]:
        if (last := max(map(int, pair.split("-")))) >= n_layers:
            raise ConfigError(
                f"{KEY}.swaps: '{pair}' names layer {last}, but the layers of {where} are 0 to {n_layers - 1}; "
                "leave the pair out, or choose `adjacent` or `all`, which fit every model"
            )
