"""The frame around every rule's library call: log, threads, offline mode, provenance.

A script reads

    with job(snakemake) as run:
        measure_neurons(..., provenance=run.provenance)

and nothing else, so that each library function stays callable without Snakemake.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

# Parameters that say how a job is run rather than what it computes, or that may differ between machines.
NOT_PROVENANCE = ("code",)


@dataclass(frozen=True)
class Job:
    """What a library call needs to know of the job around it."""

    provenance: dict[str, Any]


class _Tee:
    """A stream that writes to the terminal and to the log. Progress bars redraw: the log keeps final lines only."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
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


@contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """Run a rule's library call with its log opened and its threads fixed.

    The log receives all output, the host and the wall time; the terminal sees the same. An error that is
    about the user's input (a ValueError) ends the job with its message; the traceback is in the log.
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
    log_path.parent.mkdir(parents=True, exist_ok=True)
    started, stdout, stderr = time.time(), sys.stdout, sys.stderr
    with log_path.open("w", buffering=1) as log:
        sys.stdout, sys.stderr = _Tee(stdout, log), _Tee(stderr, log)
        try:
            log.write(f"{snakemake.rule} on {platform.node()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            yield Job(provenance)
            # What was really loaded: the test of the code digest compares it with what the digest covers.
            log.write(f"modules: {' '.join(sorted(name for name in sys.modules if name.startswith('neuronlab')))}\n")
            log.write(f"done in {time.time() - started:.1f} s\n")
        except ValueError as error:
            log.write(traceback.format_exc())
            stderr.write(f"\n{snakemake.rule}: {error}\n(the traceback is in {log_path})\n")
            raise SystemExit(1) from error
        except BaseException:
            log.write(traceback.format_exc())
            raise
        finally:
            sys.stdout, sys.stderr = stdout, stderr
