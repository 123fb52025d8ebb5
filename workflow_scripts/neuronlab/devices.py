"""Where a job computes: `auto` becomes a device, and a GPU is claimed, so that no two local jobs share one.

Slurm gives a job its GPU; a local run gives none: every job sees all of the machine's, and would take the first. So a
process that puts a model on a GPU locks a file that stands for that GPU, and waits while all are taken. The lock is
exclusive also where there is one GPU only: jobs plan their memory for a GPU of their own, and `--cores` starts as many
as there are cores. It is held until the process ends, however it ends: the kernel lets go of it, after kill -9 too.

* Under Slurm, one device in CUDA_VISIBLE_DEVICES was given to this job: it is taken without a lock. Several are
  candidates for the lock: jobs of a local run inside one allocation share them out.
* A device is known by its UUID, so that processes with different CUDA_VISIBLE_DEVICES mean the same one.
* A model is never spread over devices: a job claims one.
* cpu and mps need no lock.

The files lie in a folder of the user's own below the temporary directory (TMPDIR). Locks of another user are not seen.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

POLL = 0.5  # seconds between looks at devices that are all taken; only the first of those that wait looks

# Locks of this process, by path. Never closed: the end of the process lets go of them.
_held: dict[Path, int] = {}


class DeviceError(ValueError):
    """A device that cannot be claimed; the message names the config key and the remedy."""


def resolve_device(device: str) -> torch.device:
    """The device that this process computes on; a GPU is this process's own from here to its end.

    Args:
        device: `auto` (cuda, mps or cpu, whichever is there first), or a device of torch. `cuda` is any free GPU,
            `cuda:1` that one.

    Raises:
        DeviceError: no such GPU, or locks cannot be had.
    """
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    wanted = torch.device(device)
    if wanted.type != "cuda" or not torch.cuda.is_available():
        return wanted  # without CUDA, putting the model there says what is wrong
    names = visible_gpus()
    if wanted.index is not None and wanted.index >= len(names):
        raise DeviceError(f"compute.device: there is no '{device}'; GPUs here are 0 to {len(names) - 1}")
    candidates = list(range(len(names))) if wanted.index is None else [wanted.index]
    given = given_by_slurm() == 1
    index = candidates[0 if given else claim([names[candidate] for candidate in candidates])]
    torch.cuda.set_device(index)  # what says `cuda` without a number means this one as well
    return torch.device("cuda", index)


def given_by_slurm() -> int:
    """How many GPUs Slurm gave to this job; 0 outside of Slurm, or where it manages none."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "") if "SLURM_JOB_ID" in os.environ else ""
    return len([part for part in devices.split(",") if part.strip()])


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process sees, in its order: UUIDs, which are the same for every process."""
    count = torch.cuda.device_count()
    found = [getattr(torch.cuda.get_device_properties(index), "uuid", None) for index in range(count)]
    if all(found):
        return [str(uuid) for uuid in found]
    # A driver without UUIDs: the numbers that CUDA_VISIBLE_DEVICES gives, or those of the machine.
    listed = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return listed if len(listed) == count else [str(index) for index in range(count)]


def claim(names: Sequence[str], folder: Path | None = None) -> int:
    """Index of a device that is this process's own until it ends; waits, first come first served, while all are taken.

    A process that holds one of them already keeps to it.

    Args:
        names: candidates, as `visible_gpus` names them.
        folder: of the lock files; by default the user's own.

    Raises:
        DeviceError: the folder belongs to somebody else, or its file system has no locks.
    """
    folder = _own_folder() if folder is None else folder
    paths = [folder / f"{_file_name(name)}.lock" for name in names]
    for index, path in enumerate(paths):
        if path in _held:
            return index
    started, told = time.monotonic(), False

    def tell() -> None:
        nonlocal told
        if not told:
            taken = ", ".join(f"{name} ({_holder(path)})" for name, path in zip(names, paths, strict=True))
            print(f"every GPU is taken by another job of yours, waiting: {taken}", file=sys.stderr, flush=True)
        told = True

    # Who waits first is served first: only the first in this queue looks for a free device.
    queue = folder / f"queue-{hashlib.sha256(' '.join(sorted(names)).encode()).hexdigest()[:16]}.lock"
    with _queue(queue, tell):
        while (index := _first_free(paths)) is None:
            tell()
            time.sleep(POLL)
    waited = f" after {time.monotonic() - started:.0f} s" if told else ""
    print(f"GPU {names[index]} claimed{waited}", file=sys.stderr, flush=True)
    return index


def _own_folder() -> Path:
    """The user's folder of lock files; a folder or link of that name that somebody else made is refused."""
    folder = Path(tempfile.gettempdir()) / f"neuronlab-gpus-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise DeviceError(
            f"compute.device: '{folder}', where local jobs lock their GPU, is not a folder of yours; remove it, or set "
            "TMPDIR to another folder"
        )
    return folder


def _file_name(name: str) -> str:
    return "gpu-" + "".join(character if character.isalnum() or character in "-." else "_" for character in name)


def _first_free(paths: Sequence[Path]) -> int | None:
    for index, path in enumerate(paths):
        lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is not None:
            os.ftruncate(lock, 0)
            os.write(lock, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            _held[path] = lock
            return index
    return None


@contextmanager
def _queue(path: Path, tell: Callable[[], None]) -> Iterator[None]:
    """Hold the queue's lock; `tell` is called before waiting for it."""
    lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        tell()
        lock = _lock(path, fcntl.LOCK_EX)
    assert lock is not None
    try:
        yield
    finally:
        os.close(lock)


def _lock(path: Path, how: int) -> int | None:
    """A locked file descriptor (closed in programs that this process starts), or None if another process has it.

    Raises:
        DeviceError: the file system knows no locks.
    """
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, how)
            same = path.exists() and os.path.samestat(os.fstat(lock), path.stat())
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as error:
            os.close(lock)
            raise DeviceError(
                f"compute.device: '{path}' cannot be locked ({error}), which keeps local jobs off each other's GPU; "
                "set TMPDIR to a folder on a local disk"
            ) from error
        except BaseException:
            os.close(lock)
            raise
        if same:
            return lock
        os.close(lock)  # a cleaner of temporary files removed it in between


def _holder(path: Path) -> str:
    """What the process that holds a lock wrote into its file."""
    try:
        return path.read_text(encoding="utf-8").strip() or "taken"
    except OSError:
        return "taken"
