"""Configurations that build on another one: the key `extends`.

Study files differ in what they study, and share models, texts, selections and seeds. What is shared stands in one file,
so that two studies cannot ask for different contents of one path. The extending file's keys win; mappings are merged
key by key, lists and plain values are replaced. What the command line sets (`--config`) is part of the extending side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from neuronlab.configuration import ConfigError

KEY = "extends"


def extended(config: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """The configuration with all that it extends, and without the key `extends`.

    Args:
        config: as Snakemake read it.
        folders: where a relative path is looked for, in order: those of the configuration files, the working directory.

    Raises:
        ConfigError: the file is missing, is no mapping or no YAML, or extends itself.
    """
    return _extended(config, folders, ())


def _extended(config: Mapping[str, Any], folders: Sequence[Path], seen: tuple[Path, ...]) -> dict[str, Any]:
    own = {key: value for key, value in config.items() if key != KEY}
    if not config.get(KEY):
        return own
    path = _find(config[KEY], folders)
    if path in seen:
        chain = " -> ".join(f"'{file}'" for file in (*seen, path))
        raise ConfigError(f"configuration: {KEY}: {chain} go round in a circle; take one of these keys out")
    base = _extended(_read(path), [path.parent, *folders], (*seen, path))
    return merged(base, own)


def _find(name: Any, folders: Sequence[Path]) -> Path:
    if not isinstance(name, str):
        raise ConfigError(f"configuration: {KEY} must be the path of one configuration file, not {name!r}")
    found = next((path for folder in folders if (path := (folder / name)).is_file()), None)
    if found is None:
        looked = ", ".join(dict.fromkeys(f"'{folder.resolve()}'" for folder in folders))
        raise ConfigError(f"configuration: {KEY}: there is no file '{name}' in {looked}; correct the path")
    return found.resolve()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration: {KEY}: '{path}' is not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"configuration: {KEY}: '{path}' holds no configuration (keys and values)")
    return content


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings in one, key by key and at every depth; `own` wins."""
    result = {**base, **own}
    for key in base.keys() & own.keys():
        if isinstance(base[key], Mapping) and isinstance(own[key], Mapping):
            result[key] = merged(base[key], own[key])
    return result
