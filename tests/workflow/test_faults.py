"""kill -9 in mid-run, then a rerun: the same bytes as an undisturbed run, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.slow


TARGET = "results/tiny/texts/words/ablation/effects.parquet"


def table_bytes(project: Project) -> dict[str, bytes]:
    """Content of every table by its path; leftovers of a killed write are no tables."""
    results = project.directory / "results"
    tables = [path for path in results.rglob("*.parquet") if not path.name.startswith(".")]
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in tables}


def kill_during(project: Project, rule: str, log: Path) -> None:
    """Start a run and kill it and all its children, uncatchably, while `rule` is at work."""
    run = subprocess.Popen(
        project.command(TARGET),
        cwd=project.directory,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    # The log is opened when the job's modules are loaded, and says so at its end.
    while not (log.exists() and "done in" not in log.read_text()):
        assert time.monotonic() < deadline, f"{rule} never started"
        assert run.poll() is None, f"the run ended before {rule} was seen at work"
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def test_killed_and_rerun_gives_the_same_bytes(project, finished):
    kill_during(project, "ablate_neurons", project.directory / "results/logs/tiny/texts/words/ablate_neurons/0.log")
    assert not (project.directory / "results/tiny/texts/words/ablation/shards/0.parquet").exists()
    project.run("--unlock")
    project.run(TARGET)
    killed, undisturbed = table_bytes(project), table_bytes(finished)
    assert {path.removeprefix("tiny/texts/words/ablation/") for path in killed} >= {
        "shards/0.parquet",
        "shards/1.parquet",
        "verification.parquet",
        "effects.parquet",
    }
    assert [path for path in killed if killed[path] != undisturbed[path]] == []
