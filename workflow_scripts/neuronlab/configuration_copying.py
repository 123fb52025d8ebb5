"""Checks of study B's part of the configuration: knowledge bases, sets, prompts. See `configuration`."""

from __future__ import annotations

from pathlib import Path

from neuronlab.configuration import Config, ConfigError, base_model, find_entry
from neuronlab.copying_variants import check_replacements
from neuronlab.prompt_templates import check_conflict, check_template

CLEAN_SET = "clean"  # the set of no neurons
FACT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
# Sets that are chosen by effects on a text of study A, and the part of study A that their tables come from.
TEXT_SETS = {"token_frequency": "token_frequency", "induction_driven": "heads"}


def check_copying(config: Config) -> None:
    """Refuse what study B cannot run with.

    Raises:
        ConfigError: naming the key, what is wrong and what to do.
    """
    for name, entry in config["facts"].items():
        _check_facts(config, f"facts.{name}", entry)
    study = config["context_copying"]
    for group, key in (("models", "models"), ("facts", "facts")):
        for name in study[key]:
            _check_known(config, group, base_model(name) if group == "models" else name, f"context_copying.{key}")
    for name in study["templates"]:
        _check_known(config, "models", base_model(name), "context_copying.templates")
    checks = [(check_conflict, "conflict", study["conflict"]), (check_template, "template", study["template"])]
    checks += [(check_template, f"templates.{name}", text) for name, text in study["templates"].items()]
    try:
        for check, key, text in checks:
            check(f"context_copying.{key}", text)
        check_replacements(study["replacements"])
    except ValueError as error:
        raise ConfigError(f"configuration: {error}") from None
    if study["dose_response"]["points"] == 1:
        raise ConfigError("configuration: context_copying.dose_response.points: a curve needs two doses; or 0 for none")
    _check_selections(config, study)


def _check_known(config: Config, group: str, name: str, where: str) -> None:
    try:
        find_entry(config, group, name)
    except ConfigError as error:
        raise ConfigError(f"configuration: {where}: {error}") from None


def _check_facts(config: Config, where: str, entry: Config) -> None:
    source = entry["source"]
    if source == "demo" and ("path" in entry or "relations" in entry):
        raise ConfigError(f"configuration: {where}: path and relations have no meaning for source 'demo'; remove them")
    if source == "file" and "path" not in entry:
        raise ConfigError(f"configuration: {where}.path is missing: source 'file' needs it")
    if source == "pararel" and ("path" in entry) != ("relations" in entry):
        raise ConfigError(
            f"configuration: {where}: give both path (.csv) and relations (.xlsx) of a local copy, or neither to have "
            "them fetched"
        )
    for key in ("path", "relations"):
        if key not in entry:
            continue
        path = Path(entry[key])
        if not path.is_file():
            raise ConfigError(f"configuration: {where}.{key}: there is no file '{path}' (relative to {Path.cwd()})")
        if path.suffix not in FACT_SUFFIXES:
            raise ConfigError(f"configuration: {where}.{key}: '{path}' is none of {', '.join(FACT_SUFFIXES)}")
        if path.stat().st_size == 0:
            raise ConfigError(f"configuration: {where}.{key}: '{path}' is empty")
    if "text" in entry:
        _check_known(config, "texts", entry["text"], f"{where}.text")
    elif entry["statistics"] == "text":
        raise ConfigError(
            f"configuration: {where}.statistics: 'text' needs {where}.text; name a text, or say 'prompts'"
        )


def _check_selections(config: Config, study: Config) -> None:
    known = [*config["selections"], *TEXT_SETS]
    if CLEAN_SET in config["selections"]:
        raise ConfigError(f"configuration: selections.{CLEAN_SET}: the name is taken by the unchanged model; rename it")
    if "induction_driven" in study["selections"] and study["induction_driven"] is None:
        raise ConfigError(
            "configuration: context_copying.selections: 'induction_driven' has no size; set "
            "context_copying.induction_driven, or leave it out"
        )
    for name in study["selections"]:
        if name not in known:
            raise ConfigError(
                f"configuration: context_copying.selections: no selection '{name}'; there are {', '.join(known)}"
            )
        if name not in TEXT_SETS:
            continue
        if TEXT_SETS[name] not in config["confidence_regulation"]["parts"]:
            raise ConfigError(
                f"configuration: context_copying.selections: '{name}' needs '{TEXT_SETS[name]}' in "
                "confidence_regulation.parts"
            )
        for facts in study["facts"]:
            if "text" not in config["facts"][facts]:
                raise ConfigError(
                    f"configuration: context_copying.selections: '{name}' is chosen by effects on a text; name one in "
                    f"facts.{facts}.text"
                )
