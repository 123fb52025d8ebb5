"""Rule `fetch_facts`: study B's edition of ParaRel, two files of its repository at one commit, checked by sha256."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from neuronlab.fact_files import FactError
from neuronlab.tables import atomic_path

HOST = "https://raw.githubusercontent.com"
REPOSITORY = "Zineddine-Tighidet/Context-Copying-Modulation"
COMMIT = "e2c7940545395babfb3ad0c7490a623a71f9e7a2"
FOLDER = "input_data/knowledge-probing-data"
TIMEOUT = 60.0  # seconds without an answer


@dataclass(frozen=True)
class Source:
    """One file of the repository and what it must hash to."""

    name: str
    sha256: str


FACTS = Source(
    "raw_pararel_with_correctly_reformatted_statements.csv",
    "5d16f8ae464000f46af6bb55c22d6c87aaed2fcd20347f2761b9e21ca6bef66b",
)
RELATIONS = Source(
    "relation_groups_by_row_with_rel_gen_desc.xlsx",
    "0e094930c06da69fcb90cb2ae271e20b6a70d43bb5e926ba96da3faa73d44102",
)


def fetch_facts(*, key: str, facts: str | Path, relations: str | Path, manifest: str | Path, host: str = HOST) -> None:
    """Download ParaRel's facts and relations, with a manifest of where they came from.

    A file that is there already and whole is used. Nothing is written before both files are checked.

    Args:
        key: the knowledge base's key under `facts` in the configuration, for messages.
        facts: path of the .csv.
        relations: path of the .xlsx.
        manifest: path of the manifest.
        host: scheme and host that serve the repository.

    Raises:
        FactError: no network, no such file, or a file with another checksum.
    """
    targets = {FACTS: Path(facts), RELATIONS: Path(relations)}
    contents = {source: _content(source, path, host, f"facts.{key}") for source, path in targets.items()}
    for source, path in targets.items():
        with atomic_path(path) as temporary:
            temporary.write_bytes(contents[source])
    files = {
        path.name: {"url": url(source), "bytes": len(contents[source]), "sha256": source.sha256}
        for source, path in targets.items()
    }
    record = {"repository": REPOSITORY, "commit": COMMIT, "files": files}
    with atomic_path(manifest) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def url(source: Source, host: str = HOST) -> str:
    """Address of a file at the pinned commit."""
    return f"{host}/{REPOSITORY}/{COMMIT}/{FOLDER}/{source.name}"


def _content(source: Source, path: Path, host: str, where: str) -> bytes:
    """A file's checked content: what lies at `path`, if that is it, else a download."""
    if _is_whole(path, source):
        return path.read_bytes()
    content, _ = _ask(url(source, host), where)
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise FactError(
            f"{where}: '{url(source, host)}' arrived damaged or was replaced: {len(content)} bytes with sha256 "
            f"{found}, not {source.sha256}. Nothing was written; run the workflow again, {_otherwise(where)}"
        )
    return content


def bytes_to_fetch(key: str, facts: str | Path, relations: str | Path, host: str = HOST) -> int:
    """Bytes of the files that are not there yet, as the server announces them; nothing is downloaded.

    Raises:
        FactError: no network, or no such file.
    """
    total = 0
    for source, path in ((FACTS, Path(facts)), (RELATIONS, Path(relations))):
        if not _is_whole(path, source):
            total += int(_ask(url(source, host), f"facts.{key}", "HEAD")[1].get("Content-Length") or 0)
    return total


def _is_whole(path: Path, source: Source) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256


def _ask(address: str, where: str, method: str = "GET") -> tuple[bytes, Message]:
    """Content and headers of a server's answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=TIMEOUT) as answer:
            return answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        reason = "there is no such file any more" if error.code == 404 else f"the server answers {error.code}"
        raise FactError(f"{where}: '{address}' cannot be fetched: {reason}; try later, {_otherwise(where)}") from error
    except (OSError, http.client.HTTPException) as error:  # no route, refused, timed out, broken off
        reason = getattr(error, "reason", None) or error
        raise FactError(
            f"{where}: '{address}' cannot be reached ({reason}); connect this machine, {_otherwise(where)}"
        ) from error


def _otherwise(where: str) -> str:
    return f"or let {where}.path and {where}.relations point to copies of '{FACTS.name}' and '{RELATIONS.name}'"
