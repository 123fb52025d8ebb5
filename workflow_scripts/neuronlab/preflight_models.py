"""What can be said of a model before its weights are there: access, commit, bytes, architecture, sizes.

Of a model on the hub nothing but config.json is downloaded.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from huggingface_hub import get_token

from neuronlab.fetching import HubUnreachable, download, look_up_model, wanted_files
from neuronlab.model_dimensions import config_dimensions
from neuronlab.model_files import (
    MANIFEST,
    TESTED_ARCHITECTURES,
    ModelError,
    ModelSpec,
    check_manifest,
    check_model_config,
    model_directory,
    model_files,
)
from neuronlab.model_sizes import Sizes, estimated_parameters
from neuronlab.partial_downloads import bytes_there

PARAMETERS_TOLERANCE = 0.3  # files of older models hold buffers besides: GPT-2's by 10 %, Pythia's by 25 %
# Names of families whose weights are stored with four bytes per parameter; nearly all others have two.
FULL_PRECISION = ("gpt2", "gpt-neo-")
# Keys of `models.<name>.size`, and what `model_dimensions` calls them.
SIZES = {"d_model": "d_model", "n_layers": "layers", "d_mlp": "d_mlp", "d_vocab": "vocabulary"}


@dataclass
class Finding:
    """What was found out about one model, text or knowledge base.

    Attributes:
        kind: "model", "text" or "facts".
        fetch: bytes still to be fetched; None where that is unknown.
        estimated: whether `fetch` is an estimate by what was planned.
        fetched: of what is here, the file that its rule stands for in other rules' inputs; its manifest is beside it.
        verdict: in a few words; problems go before it.
        problems: what would stop the workflow, each with key and remedy.
        notes: what deserves a look.
        d_mlp: neurons per layer, if known.
    """

    kind: str
    name: str
    revision: str | None = None
    commit: str | None = None
    fetch: int | None = 0
    estimated: bool = False
    fetched: Path | None = None
    verdict: str = "ok"
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    d_mlp: int | None = None

    def check(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What `call` returns; an error about the user's input becomes a problem, and None comes back."""
        try:
            return call(*arguments, **options)
        except HubUnreachable:
            raise
        except (ValueError, OSError) as error:
            self.problems.append(str(error).removeprefix("configuration: "))
            return None


class Hub:
    """The hub, asked by several threads until it proves unreachable: every further question might wait for seconds."""

    def __init__(self) -> None:
        self.reached = False
        self.unreachable = False
        self._first = Lock()

    def ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What `call` returns. One question at a time until the first is answered.

        Raises:
            HubUnreachable: by this call, or since an earlier one.
            FetchError: what else the hub has against it.
        """
        with nullcontext() if self.reached else self._first:
            if self.unreachable:
                raise HubUnreachable("the hub cannot be reached")
            try:
                return call(*arguments, **options)
            except HubUnreachable:
                self.unreachable = True
                raise
            finally:
                self.reached = not self.unreachable


def check_model(spec: ModelSpec, planned: Mapping[str, int], fits: Callable[[Path], None], hub: Hub) -> Finding:
    """Look at one model, wherever it is.

    Args:
        planned: `models.<name>.size` of the configuration.
        fits: raises a ValueError if a model with the config.json of a directory cannot do what is asked of it.

    Raises:
        HubUnreachable: it is to be fetched, and there is no network.
    """
    found = Finding("model", spec.key, spec.revision)
    if spec.trust_remote_code:
        found.notes.append(f"{spec.where}.trust_remote_code is on: code that comes with '{spec.name}' will be run")
    if spec.source == "hub":
        _check_hub_model(found, spec, planned, fits, hub)
    elif found.check(model_files, spec) is not None:
        _check_config(found, spec, model_directory(spec), planned, None, fits)
    return found


def fetch_again(output: Path) -> str:
    """The remedy for something fetched whose content is wrong: results may have been made from it."""
    return f"add `--forcerun {output}` to your command: it is fetched again, and what was made from it made anew"


def fetched_commit(spec: ModelSpec) -> str | None:
    """Commit of a model that `fetch_model` has fetched, at the name and revision asked for; None without one.

    Raises:
        ModelError: a manifest that is damaged, or files whose sizes are not those in it: no other rule takes them.
    """
    path = model_directory(spec)
    if not (path / MANIFEST).is_file():
        return None
    try:
        record = read_manifest(path / MANIFEST)
    except ValueError as error:
        raise ModelError(f"{spec.where}: '{path / MANIFEST}' is damaged ({error}); delete it and run again") from error
    check_manifest(path, spec.where)
    return record["commit"] if (record["name"], record["revision"]) == (spec.name, spec.revision) else None


def read_manifest(file: Path) -> dict[str, Any]:
    """A manifest that says what was fetched from where, and size and sha256 of its files.

    Raises:
        ValueError: it does not.
    """
    record = json.loads(file.read_text(encoding="utf-8"))
    try:
        told = [record[key] for key in ("name", "revision", "commit")]
        told += [entry[key] for entry in record["files"].values() for key in ("bytes", "sha256")]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if len(told) == 3:
        raise ValueError("no files")
    return record


def estimate_fetch(found: Finding, planned: Mapping[str, int]) -> None:
    """Bytes of a model that the hub said nothing of, by `models.<name>.size`: parameters in the usual stored dtype."""
    sizes = replace(Sizes(None, None, None), **planned)
    parameters = sizes.parameters or estimated_parameters(sizes)
    found.d_mlp = found.d_mlp or sizes.d_mlp
    if found.fetch is None and parameters:
        full = any(part in found.name.lower() for part in FULL_PRECISION)
        found.fetch, found.estimated = parameters * (4 if full else 2), True


def _check_hub_model(
    found: Finding, spec: ModelSpec, planned: Mapping[str, int], fits: Callable[[Path], None], hub: Hub
) -> None:
    found.commit = found.check(fetched_commit, spec)
    if found.problems:
        found.fetch = None
        return
    if found.commit:
        found.verdict, found.fetched = "is here", model_directory(spec) / MANIFEST
        _check_config(found, spec, model_directory(spec), planned, None, fits)
        return
    found.fetch, found.verdict = None, "can be fetched"
    info = found.check(hub.ask, look_up_model, spec)
    if info is None:
        found.problems[-1] += token_hint(found.problems[-1])
        return
    found.commit = info.sha
    if not re.fullmatch(r"[0-9a-f]{40}", spec.revision or ""):
        found.notes.append(
            f"{spec.where}.revision: '{spec.revision}' may move; it stands for {info.sha} now: write that to pin it"
        )
    sizes = {sibling.rfilename: getattr(sibling, "size", None) for sibling in info.siblings or []}
    names = found.check(wanted_files, list(sizes), spec)
    if names is not None:
        there = bytes_there(model_directory(spec), info.sha, {name: sizes[name] for name in names})
        found.fetch = sum(sizes[name] or 0 for name in names) - there
        found.verdict = "partly here" if there else found.verdict
        if not any(name.endswith(".safetensors") for name in names):
            found.notes.append(f"{spec.where}: '{spec.name}' has no safetensors; its .bin file is read by weights_only")
    if "config.json" in sizes:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            found.check(hub.ask, download, spec, str(spec.name), info.sha, ["config.json"], directory)
            if (directory / "config.json").is_file():
                total = getattr(getattr(info, "safetensors", None), "total", None)
                _check_config(found, spec, directory, planned, total, fits)


def token_hint(problem: str) -> str:
    """Whether a token is set, for a problem that one may solve; the token itself is never shown."""
    if "HF_TOKEN" not in problem:
        return ""
    return " (no token is set here)" if get_token() is None else " (the token that is set here has no access)"


def _check_config(
    found: Finding,
    spec: ModelSpec,
    directory: Path,
    planned: Mapping[str, int],
    parameters: int | None,
    fits: Callable[[Path], None],
) -> None:
    """What config.json tells: a kind of model that is supported, the sizes that were planned with."""
    before = len(found.problems)
    found.check(check_model_config, directory, spec.where)
    if len(found.problems) > before:
        return
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    found.check(_check_architecture, found, config, spec)
    sizes = config_dimensions(config)
    found.d_mlp = sizes.d_mlp
    for key, name in SIZES.items():
        real = getattr(sizes, name)
        if key in planned and real is not None and planned[key] != real:
            found.problems.append(
                f"models.{spec.key.split('@')[0]}.size.{key} is {planned[key]}, but config.json says {real}; correct it"
            )
    wrong = parameters and abs(planned.get("parameters", parameters) / parameters - 1) > PARAMETERS_TOLERANCE
    if wrong:
        found.problems.append(
            f"models.{spec.key.split('@')[0]}.size.parameters is {planned['parameters']}, but the files of "
            f"'{spec.name}' hold {parameters}; correct it"
        )
    found.check(fits, directory)


def _check_architecture(found: Finding, config: Mapping[str, Any], spec: ModelSpec) -> None:
    names = config.get("architectures") or []
    if not names or names[0] in TESTED_ARCHITECTURES:
        return
    from neuronlab.models import is_supported  # seconds to import, wanted for few models

    tested = f"tested are {', '.join(TESTED_ARCHITECTURES)}"
    if not is_supported(names[0]):
        raise ModelError(f"{spec.where}: TransformerLens does not support {names[0]}; {tested}")
    found.notes.append(f"{spec.where}: {names[0]} is not among the tested architectures ({tested})")
