"""A hub that is faked: the library's real exception classes, a tiny local directory in place of downloads."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.errors as hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"

HTTPX = importlib.import_module(hub.Response.__module__.split(".")[0])  # the client that this version of the hub uses


def http_error(kind: type[hub.HfHubHTTPError], status: int) -> hub.HfHubHTTPError:
    """A hub error as the library makes it, with a response."""
    request = HTTPX.Request("GET", "https://huggingface.co/owner/tiny")
    return kind("refused", response=HTTPX.Response(status, request=request))


FAULTS = {
    "gated": (lambda: http_error(hub.GatedRepoError, 403), r"\.name: '.*' is gated: accept its terms .* HF_TOKEN"),
    "unknown": (
        lambda: http_error(hub.RepositoryNotFoundError, 404),
        r"\.name: the hub knows no '.*', or it is private",
    ),
    "revision": (lambda: http_error(hub.RevisionNotFoundError, 404), r"\.revision: '.*' has no revision 'main'"),
    "server": (lambda: http_error(hub.HfHubHTTPError, 500), r"the hub refused"),
    "offline": (lambda: hub.OfflineModeIsEnabled("offline"), "the hub cannot be reached .* HF_HUB_OFFLINE"),
    "not cached": (lambda: hub.LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
    "no host": (lambda: HTTPX.ConnectError("Name or service not known"), "the hub cannot be reached"),
    "no network": (lambda: ConnectionError("Couldn't reach"), "the hub cannot be reached"),
    "name": (lambda: hub.HFValidationError("bad name"), r"\.name: '.*' is no name on the hub .* write owner/name"),
}


def git_id(file: Path) -> str:
    """What git says: of small files the id of their content, of large ones that of a pointer."""
    content = file.read_bytes() if file.suffix not in (".safetensors", ".bin") else b"pointer"
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class FakeHub:
    """Serves the files of a directory under every name but those of `faults`, and notes what is downloaded.

    Attributes:
        faults: what a call raises, or a call for one name (`auth_check owner/tiny`).
        damage: files that arrive truncated.
        break_at: the connection breaks in this file, which leaves its beginning where the real library leaves it.
        commit: what every revision stands for.
        parameters: what the hub says that the safetensors hold.
        dataset: files and sizes of every data set.
        asked: calls with their names.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults: dict[str, Exception] = {}
        self.downloads: list[str] = []
        self.damage: set[str] = set()
        self.break_at: str | None = None
        self.commit = COMMIT
        self.parameters: int | None = None
        self.dataset: dict[str, int] = {}
        self.asked: list[str] = []

    def _fail(self, call: str, name: str = "") -> None:
        self.asked.append(f"{call} {name}")
        for key in (call, f"{call} {name}"):
            if key in self.faults:
                raise self.faults[key]

    def auth_check(self, name, *, repo_type="model"):
        self._fail("auth_check", name)

    def model_info(self, name, *, revision, files_metadata):
        self._fail("model_info", name)
        files = [file for file in sorted(self.directory.rglob("*")) if file.is_file()]
        siblings = []
        for file in files:
            large = file.suffix in (".safetensors", ".bin")
            lfs = SimpleNamespace(sha256=hashlib.sha256(file.read_bytes()).hexdigest()) if large else None
            name, size = str(file.relative_to(self.directory)), file.stat().st_size if files_metadata else None
            siblings.append(SimpleNamespace(rfilename=name, lfs=lfs, size=size, blob_id=git_id(file)))
        counted = None if self.parameters is None else SimpleNamespace(total=self.parameters)
        return SimpleNamespace(sha=self.commit, siblings=siblings, safetensors=counted)

    def dataset_info(self, name, *, revision, files_metadata=False):
        self._fail("dataset_info", name)
        files = [SimpleNamespace(rfilename=name, size=size) for name, size in self.dataset.items()]
        return SimpleNamespace(sha=COMMIT, siblings=files if files_metadata else None)

    def snapshot_download(self, name, *, revision, allow_patterns, local_dir):
        self._fail("snapshot_download", name)
        assert revision == self.commit  # what was looked at is what is fetched, whatever `main` has become
        for file in sorted(self.directory.iterdir()):
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                self.downloads.append(file.name)
                if file.name == self.break_at:
                    beginning = local_dir / ".cache" / "huggingface" / "download" / "abc.123.incomplete"
                    beginning.parent.mkdir(parents=True, exist_ok=True)
                    beginning.write_bytes(file.read_bytes()[:9])
                    self.break_off()
                content = file.read_bytes()
                (local_dir / file.name).write_bytes(content[:-9] if file.name in self.damage else content)
        (local_dir / ".cache").mkdir(exist_ok=True)

    def break_off(self) -> None:
        raise HTTPX.RemoteProtocolError("peer closed connection without sending complete message body")
