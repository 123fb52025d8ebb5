"""Fetching ParaRel from a local server that serves other content under the same addresses."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from neuronlab import fetching_facts
from neuronlab.fact_files import FactError
from neuronlab.fetching_facts import FACTS, RELATIONS, Source, bytes_to_fetch, fetch_facts, url

CONTENTS = {"facts.csv": b"subject,relation,object\n", "relations.xlsx": b"PK something"}


class Server:
    """Serves `files` by the last part of the address, and notes what was asked for."""

    def __init__(self) -> None:
        self.files = dict(CONTENTS)
        self.status = 200
        self.cut = False
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                content = outer.files.get(Path(self.path).name)
                self.send_response(outer.status if content is not None else 404)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write((content or b"")[: 3 if outer.cut else None])

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    names = {"FACTS": "facts.csv", "RELATIONS": "relations.xlsx"}
    for constant, name in names.items():
        monkeypatch.setattr(fetching_facts, constant, Source(name, hashlib.sha256(CONTENTS[name]).hexdigest()))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def fetch(folder: Path, host: str) -> None:
    fetch_facts(
        key="mine",
        facts=folder / "in" / "pararel.csv",
        relations=folder / "in" / "pararel.xlsx",
        manifest=folder / "in" / "manifest.json",
        host=host,
    )


def test_both_files_arrive_with_a_manifest(tmp_path: Path, server: Server) -> None:
    fetch(tmp_path, server.address)
    assert (tmp_path / "in/pararel.csv").read_bytes() == CONTENTS["facts.csv"]
    assert (tmp_path / "in/pararel.xlsx").read_bytes() == CONTENTS["relations.xlsx"]
    record = json.loads((tmp_path / "in/manifest.json").read_text())
    assert record["commit"] == fetching_facts.COMMIT
    assert record["files"]["pararel.csv"] == {
        "url": url(fetching_facts.FACTS),
        "bytes": len(CONTENTS["facts.csv"]),
        "sha256": hashlib.sha256(CONTENTS["facts.csv"]).hexdigest(),
    }
    assert server.asked == [url(source, "") for source in (fetching_facts.FACTS, fetching_facts.RELATIONS)]


def test_whole_files_are_not_fetched_again_and_damaged_ones_are(tmp_path: Path, server: Server) -> None:
    fetch(tmp_path, server.address)
    server.asked.clear()
    (tmp_path / "in/pararel.xlsx").write_bytes(b"damaged")
    fetch(tmp_path, server.address)
    assert [Path(path).name for path in server.asked] == ["relations.xlsx"]
    assert (tmp_path / "in/pararel.xlsx").read_bytes() == CONTENTS["relations.xlsx"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "checksum",
            r"'http.*relations\.xlsx' arrived damaged or was replaced: 7 bytes with sha256 .* Nothing was written",
        ),
        ("gone", r"'http.*relations\.xlsx' cannot be fetched: there is no such file any more"),
        ("server", r"'http.*facts\.csv' cannot be fetched: the server answers 503; try later"),
        ("cut", r"'http.*facts\.csv' cannot be reached .*; connect this machine"),
        ("network", r"'http.*facts\.csv' cannot be reached .*; connect this machine"),
    ],
)
def test_a_failed_download_says_what_to_do_and_writes_nothing(
    tmp_path: Path, server: Server, fault: str, message: str
) -> None:
    address = server.address
    if fault == "checksum":
        server.files["relations.xlsx"] = b"changed"
    elif fault == "gone":
        del server.files["relations.xlsx"]
    elif fault == "server":
        server.status = 503
    elif fault == "cut":
        server.cut = True
    else:
        with socket.socket() as free:  # a port that nobody listens on
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(FactError, match=rf"facts\.mine: {message}") as error:
        fetch(tmp_path, address)
    assert "let facts.mine.path and facts.mine.relations point to copies" in str(error.value)
    assert not list(tmp_path.rglob("*.*"))


def test_the_pinned_checksums_are_those_of_study_b_edition(shared: Path) -> None:
    for source, name in ((FACTS, "pararel.csv"), (RELATIONS, "pararel_relations.xlsx")):
        path = shared / "facts" / name
        if not path.is_file():
            pytest.skip(f"no {path}")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256


def test_bytes_to_fetch_are_asked_for_without_a_download(tmp_path: Path, server: Server) -> None:
    paths = tmp_path / "in" / "pararel.csv", tmp_path / "in" / "pararel.xlsx"
    sizes = [len(CONTENTS[name]) for name in ("facts.csv", "relations.xlsx")]
    assert bytes_to_fetch("mine", *paths, host=server.address) == sum(sizes)
    assert len(server.asked) == 2
    assert not paths[0].parent.exists()
    paths[0].parent.mkdir()
    paths[0].write_bytes(CONTENTS["facts.csv"])
    assert bytes_to_fetch("mine", *paths, host=server.address) == sizes[1]
    paths[1].write_bytes(b"another edition")
    assert bytes_to_fetch("mine", *paths, host=server.address) == sizes[1]
    fetch(tmp_path, server.address)
    server.http.shutdown()
    server.http.server_close()
    assert bytes_to_fetch("mine", *paths, host=server.address) == 0  # all there: nobody is asked


def test_bytes_to_fetch_of_a_file_that_is_gone(tmp_path: Path, server: Server) -> None:
    server.status = 403
    with pytest.raises(FactError, match=r"^facts\.mine: 'http://.*' cannot be fetched: the server answers 403"):
        bytes_to_fetch("mine", tmp_path / "a", tmp_path / "b", host=server.address)
    server.files.clear()
    with pytest.raises(FactError, match="there is no such file any more"):
        bytes_to_fetch("mine", tmp_path / "a", tmp_path / "b", host=server.address)
