"""A download that outlives its interruption: what has arrived is kept, checked, and not asked for again.

Files of a model arrive in `.NAME.partial/COMMIT`, beside the folder NAME that it becomes when all is whole. It stays
where a download fails or is killed; the next one takes up its files that are what the hub says, by size and hash. A
lock in `.NAME.partial` keeps a second writer out; the system lets go of it when its holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from neuronlab.model_files import ModelError, file_record

LOCK = "lock"
REPLACED = "replaced"  # what had the target's name before
HUB_NOTES = ".cache"  # the hub's own; after a kill with the beginning of a file, which it does not take up again


class BusyError(ValueError):
    """Another process fetches the same model into the same place."""


@dataclass(frozen=True)
class Published:
    """What the hub says of a file; None where it does not say.

    Attributes:
        size: bytes.
        sha256: of large files, which git does not hold itself.
        blob: of small files, the id by which git knows their content.
    """

    size: int | None
    sha256: str | None
    blob: str | None

    @property
    def hashed(self) -> bool:
        """Whether content can be told from any other."""
        return bool(self.sha256 or self.blob)


def published_files(siblings: Iterable[Any], names: Iterable[str]) -> dict[str, Published]:
    """What the hub says of the files `names`, by the `siblings` of its `model_info` with `files_metadata`."""
    listed, found = {sibling.rfilename: sibling for sibling in siblings}, {}
    for name in names:
        large = getattr(listed[name], "lfs", None)
        blob = None if large else getattr(listed[name], "blob_id", None)  # of a large file that of its pointer
        found[name] = Published(getattr(listed[name], "size", None), large.sha256 if large else None, blob)
    return found


def examine(file: Path, published: Published) -> tuple[dict[str, Any], str | None]:
    """Size and sha256 of a file, and in what it differs from the hub's; the sizes first, which cost nothing."""
    if published.size is not None and file.stat().st_size != published.size:
        return {}, f"{file.stat().st_size} bytes, the hub's has {published.size}"
    record = file_record(file)
    if published.sha256 and record["sha256"] != published.sha256:
        return record, f"sha256 differs from the hub's {published.sha256}"
    if published.blob and git_blob(file) != published.blob:
        return record, f"content differs from the hub's {published.blob}"
    return record, None


def git_blob(file: Path) -> str:
    """The id by which git knows a (small) file's content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def take_up(partial: Path, target: Path, published: Mapping[str, Published]) -> dict[str, dict[str, Any]]:
    """Records of the files that need not be fetched: whole ones in `partial`, and in `target`, which are linked there.

    Files in `partial` that are damaged, or not wanted, are removed; those of `target` stay until it is replaced.
    """
    for path in list(partial.iterdir()):
        if path.name not in published:
            _remove(path)
    records = {}
    for name, expected in tqdm(published.items(), desc="sha256 of what is there", file=sys.stderr):
        for folder in (partial, target):
            file = folder / name
            if not file.is_file():
                continue
            record, difference = examine(file, expected) if expected.hashed else ({}, None)
            if record and difference is None:
                if folder is target:
                    _link(file, partial / name)
                records[name] = record
                break
            if difference:
                print(f"{file}: {difference} (damaged, or of another revision); fetched again")
            if folder is partial:
                file.unlink()
    return records


def bytes_there(target: Path, commit: str, sizes: Mapping[str, int | None]) -> int:
    """Bytes of the files that an interrupted download has brought, as far as sizes tell; none of them is read."""
    files = {name: _partial(target) / commit / name for name in sizes}
    return sum(
        size
        for name, size in sizes.items()
        if size is not None and files[name].is_file() and files[name].stat().st_size == size
    )


@contextmanager
def partial_download(target: Path, commit: str, where: str) -> Iterator[Path]:
    """The folder to download a commit into; takes the name `target` when the block ends, and is kept if it fails.

    Removed are the partial downloads of other commits, and what versions of this program before this one left there
    when they were killed. A model that turns out unfit is not kept either.

    Args:
        where: the model's config key, for messages.

    Raises:
        BusyError: another process holds the lock.
    """
    partial = _partial(target)
    with _locked(partial, where):
        _remove_obsolete(target, partial, commit)
        files = partial / commit
        files.mkdir(exist_ok=True)
        try:
            yield files
        except BaseException as error:
            shutil.rmtree(files / HUB_NOTES, ignore_errors=True)
            if isinstance(error, ModelError) or not any(files.iterdir()):
                shutil.rmtree(partial, ignore_errors=True)
            else:
                print(f"{where}: what has arrived is kept in '{files}'; the same command fetches what is missing")
            raise
        shutil.rmtree(files / HUB_NOTES, ignore_errors=True)
        if target.exists():
            target.rename(partial / REPLACED)
        files.rename(target)
        shutil.rmtree(partial)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


@contextmanager
def _locked(partial: Path, where: str) -> Iterator[None]:
    """Hold the lock in a folder, which is made if need be."""
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        try:
            stream = (partial / LOCK).open("a+")
        except FileNotFoundError:  # its holder was done and has removed the folder just now
            continue
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                stream.seek(0)
                raise BusyError(
                    f"{where}: {stream.read().strip() or 'another process'} is fetching it into '{partial}'; "
                    "let it end, or end it, then type the same command again"
                ) from None
            except OSError as error:
                print(
                    f"{partial}: no locks on this file system ({error.strerror}); take care that no other run fetches"
                )
            if not _is(stream.fileno(), partial / LOCK):
                continue
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {platform.node()}\n")
            stream.flush()
            yield
            return


def _is(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name: its folder may have been removed between opening and locking."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _remove_obsolete(target: Path, partial: Path, commit: str) -> None:
    for path in list(partial.iterdir()):
        if path.name not in (LOCK, commit):
            _remove(path)
    shutil.rmtree(partial / commit / HUB_NOTES, ignore_errors=True)
    former = re.compile(rf"\.{re.escape(target.name)}\.(old\.)?[a-z0-9_]{{8}}")  # as tempfile.mkdtemp names folders
    for path in list(target.parent.iterdir()):
        if former.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _link(source: Path, destination: Path) -> None:
    """A second name of a file, or a copy where the file system has no links."""
    try:
        destination.hardlink_to(source)
    except OSError:
        shutil.copy2(source, destination)
