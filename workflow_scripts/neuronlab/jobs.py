"""The frame around every rule's library call: log, threads, offline mode, provenance.

A script reads

    with job(snakemake) as run:
        measure_neurons(..., provenance=run.provenance)

and nothing else, so that each library function stays callable without Snakemake.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

# Parameters that say how a job is run rather than what it computes, or that may differ between machines.
NOT_PROVENANCE = ("code",)

STOPPING = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Job:
    """What a library call needs to know of the job around it."""

    provenance: dict[str, Any]


class _Log:
    """The log of a job. A full disk silences it: the error to be seen is that of the result, not of the log."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", buffering=1)
        self.error: OSError | None = None

    def write(self, text: str) -> None:
        try:
            self.file.write(text)
        except OSError as error:
            self.error = error

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close the log; raises nothing, although closing tries once more to write what found no room."""
        try:
            self.file.close()
        except OSError as error:
            self.error = error


class _Tee:
    """A stream that writes to the terminal and to the log. Progress bars redraw: the log keeps final lines only."""

    def __init__(self, terminal: TextIO, log: _Log) -> None:
        self.terminal, self.log = terminal, log
        self.encoding = terminal.encoding

    def write(self, text: str) -> int:
        self.terminal.write(text)
        self.log.write(text.replace("\r", "\n"))
        return len(text)

    def flush(self) -> None:
        self.terminal.flush()
        self.log.flush()

    def isatty(self) -> bool:
        return False


def _plain(value: Any) -> Any:
    """Snakemake's containers as plain lists and dicts, which JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return [_plain(item) for item in value]


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End the job the way an exception does, so that its temporary files go with it."""
    raise SystemExit(128 + number)


@contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """Run a rule's library call with its log opened and its threads fixed.

    The log receives all output, the host and the wall time; the terminal sees the same. An error that is
    about the user's input (a ValueError) or a full disk ends the job with its message; the traceback is in the
    log. SIGTERM, which is what a cluster sends to a job over its time, and SIGHUP, which a closed terminal sends,
    end it after its temporary files are gone.
    """
    parameters = {name: _plain(value) for name, value in snakemake.params.items()}
    provenance = {
        "code": parameters.get("code"),
        "rule": snakemake.rule,
        "parameters": {k: v for k, v in parameters.items() if k not in NOT_PROVENANCE},
        "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
    }
    # Offline from here on: what comes from a hub was fetched by rules of its own.
    if not parameters.get("network"):
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    log_path = Path(snakemake.log[0])
    started, stdout, stderr = time.time(), sys.stdout, sys.stderr
    log = _Log(log_path)
    # What is ignored (by nohup) stays so.
    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _stop) for number in heard}
    sys.stdout, sys.stderr = _Tee(stdout, log), _Tee(stderr, log)
    try:
        log.write(f"{snakemake.rule} on {platform.node()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        yield Job(provenance)
        # What was really loaded: the test of the code digest compares it with what the digest covers.
        log.write(f"modules: {' '.join(sorted(name for name in sys.modules if name.startswith('neuronlab')))}\n")
        log.write(f"done in {time.time() - started:.1f} s\n")
    except BaseException as error:
        log.write(traceback.format_exc())
        message = _message(error)
        if message is None:
            raise
        stderr.write(f"\n{snakemake.rule}: {message}\n(the traceback is in {log_path})\n")
        raise SystemExit(1) from error
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for number, handler in previous.items():
            signal.signal(number, handler)
        log.close()
        if log.error:
            stderr.write(f"({log_path} is incomplete: {log.error.strerror})\n")


def _message(error: BaseException) -> str | None:
    """What the user reads of an error that the traceback would not explain; None for a defect or a signal."""
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "a temporary file"
        return f"{where}: {error.strerror.lower()}. Make room and type the same command again; finished files are kept"
    return None
