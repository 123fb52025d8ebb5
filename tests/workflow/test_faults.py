"""kill -9 in mid-run, then a rerun: the same bytes as an undisturbed run, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from project import Project, make_text, small_config

pytestmark = pytest.mark.slow


def table_bytes(project: Project) -> dict[str, bytes]:
    results = project.directory / "results"
    return {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*.parquet")}


def kill_during(project: Project, rule: str, log: Path) -> None:
    """Start a run and kill it and all its children, uncatchably, while `rule` is at work."""
    run = subprocess.Popen(
        project.command(),
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


def test_killed_and_rerun_gives_the_same_bytes(tmp_path, tiny_directory):
    text = make_text(tmp_path / "words.txt")
    runs = []
    for name in ("undisturbed", "killed"):
        directory = tmp_path / name
        directory.mkdir()
        project = Project(directory)
        project.configure(small_config(tiny_directory, text))
        runs.append(project)
    undisturbed, killed = runs
    target = "results/tiny/texts/words/ablation/effects.parquet"
    undisturbed.run(target)

    kill_during(killed, "ablate_neurons", killed.directory / "results/logs/tiny/texts/words/ablate_neurons/0.log")
    shard = killed.directory / "results/tiny/texts/words/ablation/shards/0.parquet"
    assert not shard.exists()
    killed.run("--unlock")
    killed.run(target)
    assert table_bytes(killed) == table_bytes(undisturbed)
    leftovers = [path for path in killed.directory.joinpath("results").rglob(".*") if path.suffix == ".parquet"]
    assert len(leftovers) <= 1  # at most the temporary file of the killed write
