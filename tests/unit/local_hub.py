"""A hub on this machine, for the real library: as much of its HTTP interface as a download of a model asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Serves the files of a directory as the model owner/tiny.

    Attributes:
        sent: files that were asked for, in this order.
        held: a file of which only the first 1000 bytes are sent; the rest never comes.
        holding: set once that is so.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.sent = directory, []
        self.held: str | None = None
        self.holding, self.over = threading.Event(), threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, self.path.partition("?")[0])

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request: BaseHTTPRequestHandler, path: str) -> None:
        files = {file.name: facts(file) for file in sorted(self.directory.iterdir())}
        name = path.rpartition("/")[2]
        if "/resolve/" in path and name in files:
            self._send_file(request, self.directory / name, files[name])
        elif "/tree/" in path:
            send(request, [{"type": "file", "path": name, **entry} for name, entry in files.items()])
        elif "/revision/" in path:
            siblings = [{"rfilename": name, "blobId": entry["oid"], **entry} for name, entry in files.items()]
            for sibling in siblings:
                if "lfs" in sibling:
                    sibling["lfs"] = {**sibling["lfs"], "sha256": sibling["lfs"]["oid"]}
            send(request, {"id": "owner/tiny", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        else:
            send(request, {}, 200 if path.endswith("/auth-check") else 404)

    def _send_file(self, request: BaseHTTPRequestHandler, file: Path, entry: dict[str, Any]) -> None:
        tag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        request.send_response(200)
        for key, value in {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Content-Length": entry["size"]}.items():
            request.send_header(key, str(value))
        request.end_headers()
        if request.command == "HEAD":
            return
        self.sent.append(file.name)
        content = file.read_bytes()
        if file.name == self.held:
            request.wfile.write(content[:1000])
            request.wfile.flush()
            self.holding.set()
            self.over.wait()
        else:
            request.wfile.write(content)


def facts(file: Path) -> dict[str, Any]:
    """Size and hashes of a file, as the hub lists them; safetensors are what git does not hold itself."""
    content = file.read_bytes()
    entry: dict[str, Any] = {"size": len(content)}
    entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if file.suffix == ".safetensors":
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def send(request: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
    body = json.dumps(content).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
