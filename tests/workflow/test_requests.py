"""What jobs ask the scheduler for makes no result stale; what they compute with does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import Project

PLACEHOLDERS = Path(__file__).parent / "placeholders.py"


@pytest.fixture
def done(project: Project) -> Project:
    """A working directory with placeholders for all results of the small configuration, and Snakemake's records."""
    command = [sys.executable, str(PLACEHOLDERS), *project.command("--quiet", "all")[3:]]
    made = subprocess.run(
        command,
        cwd=project.directory,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-4000:]
    return project


def test_requests_make_nothing_stale(done: Project) -> None:
    config = done.config()
    assert done.planned() == {}
    requests = {"memory_mb": 9999, "runtime_minutes": 777, "gpus_per_job": 1, "gpu_request": "gres"}
    done.configure(config | {"compute": requests})
    assert done.planned() == {}
    # The limit on proofs is no request. Rules that have it and depend on these two are made again with them.
    done.configure(config | {"compute": {"float64_mb": 9999}})
    changed = re.search(r"params have changed since last execution:\n +(.+)\n", done.run("--dry-run"))
    assert changed
    assert set(changed[1].split(", ")) == {"verify_ablation", "intervene_layers"}
