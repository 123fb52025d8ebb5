"""Which models, texts and knowledge bases the studies and comparisons of a configuration name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuronlab.configuration import BIAS, base_model

Config = Mapping[str, Any]
STUDIES = ("confidence_regulation", "context_copying", "stages_of_inference")


def used_models(config: Config) -> list[str]:
    """Models that are studied, compared or compared with, revisions (`name@revision`) apart; in their order.

    Where nothing is studied (a file of models that other configurations extend), all that are configured.
    """
    named = [model for study in STUDIES for model in config[study]["models"]]
    named += [model for model in config["confidence_regulation"]["references"].values() if model != BIAS]
    named += [model for entry in config["comparisons"].values() for model in entry["models"]]
    return list(dict.fromkeys(named)) or list(config["models"])


def unused_models(config: Config) -> list[str]:
    """Configured models that `used_models` leaves out."""
    used = {base_model(model) for model in used_models(config)}
    return [name for name in config["models"] if name not in used]


def used_facts(config: Config) -> list[str]:
    """Knowledge bases of study B; all that are configured where nothing is studied."""
    return list(config["context_copying"]["facts"] if _studied(config) else config["facts"])


def used_texts(config: Config) -> list[str]:
    """Texts of studies, comparisons, knowledge bases and selections; where nothing is studied, all."""
    if not _studied(config):
        return list(config["texts"])
    named = [*config["confidence_regulation"]["texts"], *config["stages_of_inference"]["texts"]]
    named += [entry["text"] for entry in config["comparisons"].values()]
    named += [config["facts"][name]["text"] for name in used_facts(config) if "text" in config["facts"][name]]
    named += [entry["text"] for entry in config["selections"].values() if "text" in entry]
    return list(dict.fromkeys(named))


def _studied(config: Config) -> bool:
    return bool(config["comparisons"]) or any(config[study]["models"] for study in STUDIES)
