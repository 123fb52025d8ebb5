"""Checks of the configuration beyond its JSON schema, made before anything is scheduled.

The schema knows types and names; what it cannot say well is said here: the nearest valid name of a
misspelt key, which keys belong to which source, and whether names that refer to one another exist.
Errors name the key by its path, such as `models.gpt2.revision`, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

RESERVED = frozenset({"inputs", "retrained", "comparison", "copying", "stages", "logs", "benchmarks"})
BIAS = "bias"  # in confidence_regulation.references: softmax(b_U) alone
# Sets that the workflow chooses by their effects (`token_frequency.NAME`): no selection may take their names.
EFFECT_SETS = frozenset({"token_frequency", "induction_driven"})
REQUIRED_KEYS = {
    "models": {"demo": (), "directory": ("path",), "hub": ("name", "revision")},
    "texts": {"demo": (), "file": ("path",), "hub": ("name", "revision")},
}
FOREIGN_KEYS = {
    "models": {"demo": ("path", "name", "revision"), "directory": ("name", "revision"), "hub": ("path",)},
    "texts": {
        "demo": ("path", "name", "revision", "subset", "column"),
        "file": ("name", "revision", "subset"),
        "hub": ("path",),
    },
}
DEMO_SPLITS = ("evaluation_a", "evaluation_b")
TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")

Config = Mapping[str, Any]


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and the remedy."""


def base_model(model: str) -> str:
    """The configured name of `model`, without its `@revision`."""
    return model.split("@", 1)[0]


def _nearest(name: str, known: Iterator[str] | list[str]) -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def find_entry(config: Config, group: str, name: str) -> Config:
    """Entry `name` of `models` or `texts`.

    Raises:
        ConfigError: with the nearest name, if there is none.
    """
    if name not in config[group]:
        raise ConfigError(
            f"there is no '{name}' under {group} in the configuration{_nearest(name, list(config[group]))}"
        )
    return config[group][name]


def check_keys(config: Any, schema: Config, path: str = "") -> None:
    """Refuse keys that the schema does not know, with the nearest one that it does."""
    if not isinstance(config, Mapping):
        return
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", False)
    for key, value in config.items():
        where = f"{path}.{key}" if path else str(key)
        if key in properties:
            check_keys(value, properties[key], where)
        elif isinstance(others, Mapping):
            check_keys(value, others, where)
        elif properties or schema.get("type") == "object":
            raise ConfigError(
                f"configuration: unknown key '{where}'{_nearest(str(key), properties)} "
                f"(known here: {', '.join(sorted(properties))}; see config/README.md)"
            )


def _check_sources(config: Config, group: str) -> None:
    """Keys that an entry's source needs, or cannot use."""
    for name, entry in config[group].items():
        where, source = f"{group}.{name}", entry["source"]
        for key in REQUIRED_KEYS[group][source]:
            if not entry.get(key):
                remedy = " (a commit hash, so that a rerun sees the same files)" if key == "revision" else ""
                raise ConfigError(f"configuration: {where}.{key} is missing: source '{source}' needs it{remedy}")
        # A text's `column` and `split` carry defaults, so only what has none can be told to be surplus.
        for key in FOREIGN_KEYS[group][source]:
            if key in entry and key != "column":
                raise ConfigError(f"configuration: {where}.{key} has no meaning for source '{source}'; remove it")


def _check_models(config: Config) -> None:
    for name, entry in config["models"].items():
        if name in RESERVED:
            raise ConfigError(f"configuration: models.{name}: the name is reserved for a folder of results; rename it")
        if "@" in name:
            raise ConfigError(f"configuration: models.{name}: '@' separates a revision; leave it out of names")
        if entry["source"] == "directory" and not Path(entry["path"]).is_dir():
            raise ConfigError(
                f"configuration: models.{name}.path: there is no directory '{entry['path']}' "
                f"(relative to {Path.cwd()}); give the folder that holds config.json and the weights"
            )


def _check_texts(config: Config) -> None:
    for name, entry in config["texts"].items():
        where = f"texts.{name}"
        if entry["source"] == "file":
            path = Path(entry["path"])
            if not path.is_file():
                raise ConfigError(f"configuration: {where}.path: there is no file '{path}' (relative to {Path.cwd()})")
            if path.suffix not in TEXT_SUFFIXES:
                raise ConfigError(f"configuration: {where}.path: '{path}' is none of {', '.join(TEXT_SUFFIXES)}")
            if path.stat().st_size == 0:
                raise ConfigError(f"configuration: {where}.path: '{path}' is empty")
        if entry["source"] == "demo" and entry.get("split") not in DEMO_SPLITS:
            raise ConfigError(f"configuration: {where}.split must be one of {', '.join(DEMO_SPLITS)} for the demo")
        counts = entry.get("counts", "text")
        if counts not in ("text", "demo") and not Path(counts).is_file():
            raise ConfigError(
                f"configuration: {where}.counts: there is no file '{counts}'; give `text`, `demo` or a .npy file"
            )


def _check_references(config: Config) -> None:
    models, texts, selections = config["models"], config["texts"], config.get("selections", {})
    study = config.get("confidence_regulation", {})
    named = [("confidence_regulation.models", name) for name in study.get("models", [])]
    named += [(f"selections.{s}.models", name) for s, entry in selections.items() for name in entry.get("models", [])]
    stages = config.get("stages_of_inference", {})
    named += [("stages_of_inference.models", name) for name in stages.get("models", [])]
    for small, large in study.get("references", {}).items():
        named += [("confidence_regulation.references", name) for name in (small, large) if name != BIAS]
        if large == BIAS and BIAS in models:
            raise ConfigError(
                f"configuration: confidence_regulation.references.{small}: '{BIAS}' means softmax(b_U); "
                "rename the model"
            )
        if small not in study.get("models", []):
            raise ConfigError(
                f"configuration: confidence_regulation.references.{small}: '{small}' is not studied; "
                "add it to confidence_regulation.models"
            )
    for name, entry in config.get("comparisons", {}).items():
        named += [(f"comparisons.{name}.models", model) for model in entry["models"]]
    for where, name in named:
        if base_model(name) not in models:
            raise ConfigError(f"configuration: {where}: no model '{name}' under models{_nearest(name, list(models))}")
    for name, entry in config.get("comparisons", {}).items():
        _check_comparison(f"comparisons.{name}", entry, texts)
    for key, part in (("confidence_regulation", study), ("stages_of_inference", stages)):
        for name in part.get("texts", []):
            if name not in texts:
                raise ConfigError(
                    f"configuration: {key}.texts: no text '{name}' under texts{_nearest(name, list(texts))}"
                )
    for name, entry in selections.items():
        if ("activation_kurt_max" in entry) != ("text" in entry):
            raise ConfigError(f"configuration: selections.{name}: activation_kurt_max and text need one another")
        if "text" in entry and entry["text"] not in texts:
            hint = _nearest(entry["text"], list(texts))
            raise ConfigError(f"configuration: selections.{name}.text: no text '{entry['text']}' under texts{hint}")
    if len({entry["text"] for entry in selections.values() if "text" in entry}) > 1:
        raise ConfigError("configuration: selections: all that limit activation_kurt_max must name the same text")
    for name in config.get("ablation", {}).get("trace", []):
        if name not in selections:
            raise ConfigError(
                f"configuration: ablation.trace: no selection '{name}'{_nearest(name, list(selections))}; "
                "define it under selections"
            )
    for name, entry in texts.items():
        if entry.get("counts") == "demo" and entry["source"] != "demo":
            raise ConfigError(f"configuration: texts.{name}.counts: the demo's counts fit the demo's texts only")


def _check_values(config: Config) -> None:
    """Values that the schema cannot compare: with one another, or with names that the workflow gives itself."""
    for name in EFFECT_SETS & set(config.get("selections", {})):
        raise ConfigError(
            f"configuration: selections.{name}: the name is taken by the set that is chosen by its effects; rename it"
        )
    for name, entry in config["texts"].items():
        length, first = entry.get("sequence_length"), entry.get("min_position")
        if length is not None and first is not None and first > length - 2:
            raise ConfigError(
                f"configuration: texts.{name}.min_position: {first} leaves no position that counts in sequences of "
                f"{length} tokens; set it to {length - 2} or less, or raise texts.{name}.sequence_length"
            )
    values = config.get("dose_response", {}).get("values", [])
    if not all(map(isfinite, values)) or any(b <= a for a, b in pairwise(values)):
        raise ConfigError(
            f"configuration: dose_response.values: {list(values)} does not increase; list finite values, every one "
            "once, the smallest first"
        )
    compute = config.get("compute", {})
    if compute.get("kernel") == "triton" and compute.get("device") in ("cpu", "mps"):
        raise ConfigError(
            f"configuration: compute.kernel: triton needs a CUDA device, but compute.device is {compute['device']}; "
            "set that to auto or cuda, or compute.kernel to auto"
        )
    induction = config.get("induction", {})
    for heads in induction.get("heads", {}).get("sets", []):
        named = heads.split("+")
        if len(set(named)) < len(named):
            raise ConfigError(f"configuration: induction.heads.sets: '{heads}' names a head twice; list it once")
    _check_natural(config, induction.get("natural", {}))


def _check_natural(config: Config, natural: Config) -> None:
    """Two occurrences of the repeated stretch and a token after them must fit into the sequences that are studied."""
    study = config.get("confidence_regulation", {})
    if not natural or "induction" not in study.get("parts", ["induction"]):
        return
    needed = 2 * natural.get("prefix", 0) + natural.get("min_distance", 0) + 1
    for text in study.get("texts", []):
        length = config["texts"][text].get("sequence_length", needed)
        if needed > length:
            raise ConfigError(
                f"configuration: induction.natural.prefix: two occurrences of {natural.get('prefix')} tokens, "
                f"min_distance {natural.get('min_distance')} and a token after them are {needed} tokens, but the "
                f"sequences of texts.{text} have {length}; lower prefix or min_distance, or raise "
                f"texts.{text}.sequence_length"
            )


def _check_comparison(where: str, entry: Config, texts: Config) -> None:
    if entry["text"] not in texts:
        hint = _nearest(entry["text"], list(texts))
        raise ConfigError(f"configuration: {where}.text: no text '{entry['text']}' under texts{hint}")
    if entry.get("reference", entry["models"][-1]) not in entry["models"]:
        raise ConfigError(
            f"configuration: {where}.reference: '{entry['reference']}' is not one of its models"
            f"{_nearest(entry['reference'], list(entry['models']))}"
        )


def check_config(config: Config) -> None:
    """Checks that come after the schema's: sources, files, names that refer to one another.

    Raises:
        ConfigError: naming the key, what is wrong and what to do.
    """
    for group in ("models", "texts"):
        _check_sources(config, group)
    _check_models(config)
    _check_texts(config)
    _check_references(config)
    _check_values(config)
