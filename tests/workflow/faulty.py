"""Runs that are disturbed at a chosen moment: a job is held just before it puts an output in place.

A `sitecustomize` module on the jobs' path wraps `os.replace`: where the target's path ends in HOLD_AT, the process
leaves its id in HOLD_MARK and waits until that file is gone. Nothing of the product knows of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from project import Project

HOOK = """
import os
import time

if os.environ.get("HOLD_AT"):
    replace = os.replace

    def held(source, target):
        mark = os.environ["HOLD_MARK"]
        if str(target).endswith(os.environ["HOLD_AT"]):
            with open(mark + ".new", "w") as file:
                file.write(str(os.getpid()))
            replace(mark + ".new", mark)
            end = time.monotonic() + 300  # whatever becomes of the test
            while os.path.exists(mark) and time.monotonic() < end:
                time.sleep(0.02)
        replace(source, target)

    os.replace = held
"""


def wait_for(what: Callable[[], object], message: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


@dataclass
class DisturbedRun:
    """A Snakemake at work in its own process group, as a shell's job is, one of its jobs held."""

    process: subprocess.Popen
    mark: Path
    log: Path

    @property
    def held(self) -> int:
        """Process id of the job that waits."""
        return int(self.mark.read_text())

    def output(self) -> str:
        return self.log.read_text()

    def release(self) -> None:
        self.mark.unlink()

    def interrupt(self, number: signal.Signals) -> None:
        """Send a signal to Snakemake and all its jobs, as a terminal does, or to a whole Slurm job."""
        os.killpg(self.process.pid, number)

    def wait(self, seconds: float = 300) -> int:
        return self.process.wait(seconds)


def start_and_hold(project: Project, hold_at: str, *arguments: str) -> DisturbedRun:
    """Start a run and return when its job is about to put `hold_at` in place: written whole, not yet in its place."""
    hook = project.directory / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    mark, log = hook / "mark", hook / "output.txt"
    mark.unlink(missing_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            project.command(*arguments),
            cwd=project.directory,
            env=project.environment() | {"HOLD_AT": hold_at, "HOLD_MARK": str(mark), "PYTHONPATH": str(hook)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    run = DisturbedRun(process, mark, log)
    wait_for(lambda: mark.exists() or process.poll() is not None, f"'{hold_at}' was never about to be written")
    assert process.poll() is None, run.output()
    return run


def copy_of(project: Project, directory: Path) -> Project:
    """A copy of a working directory, modification times included: what was finished there is finished here."""
    shutil.copytree(project.directory, directory, symlinks=True)
    return Project(directory, project.code)


def files(project: Project) -> dict[str, bytes]:
    """Content of every result by its path; logs and benchmarks hold times, and what a killed writer left is none."""
    root = project.directory / "results"
    kept = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    names = {path.relative_to(root).as_posix(): path for path in kept}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(("logs/", "benchmarks/"))}


def places(project: Project) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every result: what is not touched keeps both."""
    return {
        name: ((stat := (project.directory / "results" / name).stat()).st_ino, stat.st_mtime_ns)
        for name in files(project)
    }
