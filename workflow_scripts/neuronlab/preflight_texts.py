"""What can be said of a text or a knowledge base before it is fetched or read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuronlab.documents import TextError, TextSpec
from neuronlab.fetching import look_up_text
from neuronlab.fetching_facts import COMMIT, FACTS, RELATIONS, bytes_to_fetch
from neuronlab.model_files import MANIFEST, file_record
from neuronlab.preflight_models import Finding, Hub, fetch_again, read_manifest, token_hint

DOCUMENTS = "documents.parquet"


def check_text(spec: TextSpec, folder: Path, hub: Hub) -> Finding:
    """Look at one text.

    Args:
        folder: where the rule `fetch_text` puts it.

    Raises:
        HubUnreachable: it is to be fetched, and there is no network.
    """
    found = Finding("text", spec.key, spec.revision)
    if spec.counts not in ("text", "demo"):
        found.check(_check_file, spec.counts, f"{spec.where}.counts")
    if spec.source == "file":
        found.check(_check_file, spec.path, f"{spec.where}.path")
    if spec.source != "hub":
        return found
    found.commit = found.check(_fetched_commit, spec, folder)
    if found.problems:
        found.fetch = None
        return found
    if found.commit:
        found.verdict, found.fetched = "is here", folder / DOCUMENTS
        return found
    found.fetch, found.verdict = None, "can be fetched"
    info = found.check(hub.ask, look_up_text, spec, files=spec.max_documents is None)
    if info is None:
        found.problems[-1] += token_hint(found.problems[-1])
        return found
    found.commit = info.sha
    if not re.fullmatch(r"[0-9a-f]{40}", spec.revision or ""):
        found.notes.append(
            f"{spec.where}.revision: '{spec.revision}' may move; it stands for {info.sha} now: write that to pin it"
        )
    if spec.max_documents is None:
        most = sum(
            getattr(file, "size", None) or 0 for file in info.siblings or [] if _may_belong(file.rfilename, spec)
        )
        found.fetch = most
        found.notes.append(
            f"{spec.where}: at most {most / 1e9:.2f} GB of '{spec.name}' are fetched into the hub's cache (HF_HOME); "
            f"with {spec.where}.max_documents it is streamed instead"
        )
    return found


def check_facts(key: str, entry: Mapping[str, Any], files: Sequence[str]) -> Finding:
    """Look at one knowledge base.

    Args:
        entry: its configuration.
        files: the files that it is read from, fetched or one's own; for the demo what a rule makes.
    """
    found = Finding("facts", key)
    if entry["source"] == "pararel" and "path" not in entry:
        found.commit, found.verdict = COMMIT, "can be fetched"
        for source, file in zip((FACTS, RELATIONS), map(Path, files), strict=True):
            if file.is_file() and file_record(file)["sha256"] != source.sha256:
                found.problems.append(f"facts.{key}: '{file}' is not what was fetched; {fetch_again(file)}")
        found.fetch = found.check(bytes_to_fetch, key, *files)
        if found.fetch == 0:
            found.verdict = "is here"
    elif entry["source"] != "demo":
        for part, file in zip(("path", "relations"), files, strict=False):
            found.check(_check_file, file, f"facts.{key}.{part}")
    return found


def _check_file(path: str | None, where: str) -> None:
    try:
        with Path(path or "").open("rb") as stream:
            if not stream.read(1):
                raise TextError(f"{where}: '{path}' is empty")
    except OSError as error:
        raise TextError(f"{where}: '{path}' cannot be read ({error.strerror}); correct the path") from error


def _fetched_commit(spec: TextSpec, folder: Path) -> str | None:
    """Commit of a text that `fetch_text` has fetched, at what the configuration asks for; None without one.

    Raises:
        TextError: a manifest that is damaged.
    """
    if not (folder / MANIFEST).is_file() or not (folder / DOCUMENTS).is_file():
        return None
    try:
        record = read_manifest(folder / MANIFEST)
        wanted = {"name": spec.name, "revision": spec.revision, "text": _part(asdict(spec))}
        return record["commit"] if {key: record[key] for key in wanted} == wanted else None
    except (ValueError, LookupError) as error:
        raise TextError(
            f"{spec.where}: '{folder / MANIFEST}' is damaged ({error}); {fetch_again(folder / DOCUMENTS)}"
        ) from error


def _part(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("subset", "split", "column")}


def _may_belong(file: str, spec: TextSpec) -> bool:
    """Whether a file may be of the subset: data sets with subsets have a folder or a prefix for each, as a rule."""
    return spec.subset is None or spec.subset in re.split(r"[/.]", file) or file.startswith(spec.subset)
