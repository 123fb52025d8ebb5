"""Faults under Slurm: after each, the documented command finishes the work, byte for byte, and repeats nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from cluster_project import SHARDS, TEXT, ClusterProject, make_project, study
from one_node_slurm import Job, Recorder, list_jobs, node_state, output_of, running_jobs, wait_until
from project import ROOT

pytestmark = pytest.mark.cluster

STATISTICS = f"{TEXT}/activation_statistics.parquet"
EFFECTS = f"{TEXT}/ablation/effects.parquet"


def documented(heading: str) -> str:
    """The first command that docs/cluster.md gives below a heading."""
    section = (ROOT / "docs/cluster.md").read_text().split(f"## {heading}\n", 1)[1]
    return re.search(r"```bash\n(.*?)\n", section)[1]


def processes(job: Job) -> list[int]:
    """Processes of a job, the script's last; empty before it has some."""
    listed = subprocess.run(["scontrol", "listpids", job.number], capture_output=True, text=True, check=False).stdout
    return sorted(int(line.split()[0]) for line in listed.splitlines()[1:] if line.split()[0].isdigit())


def script_process(job: Job) -> int | None:
    """The process that runs the rule's script, once it is there."""
    for pid in processes(job):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(arguments) > 1 and re.search(rb"scripts/tmp\w*\.\w+\.py$", arguments[1]):
            return pid
    return None


def wait_for_script(rule: str, besides: tuple[str, ...] = ()) -> tuple[Job, int]:
    """A running job of a rule whose script is at work, none of those given."""
    found: list[tuple[Job, int]] = []

    def look() -> bool:
        for job in running_jobs(rule):
            pid = None if job.number in besides else script_process(job)
            if pid is not None:
                found.append((job, pid))
                return True
        return False

    wait_until(look, f"a job of {rule} at work")
    return found[0]


def shards_there(project: ClusterProject) -> list[Path]:
    return sorted((project.directory / TEXT / "ablation/shards").glob("[0-9]*.parquet"))


@pytest.fixture(scope="module")
def disturbed(cluster, slurm_run, tmp_path_factory) -> ClusterProject:
    """A project that all tests here disturb one after another; the last one finishes it."""
    project = make_project(tmp_path_factory.mktemp("disturbed"))
    project.take_over(slurm_run[0])
    return project


def test_interrupting_snakemake_cancels_its_jobs(disturbed):
    with disturbed.started(EFFECTS) as run:
        job, _ = wait_for_script("measure_activations")
        run.send_signal(signal.SIGINT)
        assert run.wait(60) != 0
    wait_until(lambda: not any(j.run == job.run for j in running_jobs()), "its jobs to end", 30)
    assert not (disturbed.directory / STATISTICS).exists()


def test_killing_snakemake_leaves_its_jobs_to_the_documented_command(disturbed):
    """kill -9 leaves jobs on the cluster and a lock: cancel, unlock, and what was finished stays finished.

    With fewer jobs at once than shards are ready, the plugin by itself would never submit them.
    """
    with disturbed.started(EFFECTS, "--jobs", "2") as run:
        job, _ = wait_for_script("ablate_neurons")
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert job.run == disturbed.run_name()
    assert any(j.run == job.run for j in running_jobs()), "the jobs should have survived snakemake"
    command = documented("Snakemake was killed")
    subprocess.run(["bash", "-c", command], cwd=disturbed.directory, check=True, timeout=60)
    wait_until(lambda: not any(j.run == job.run for j in running_jobs()), "its jobs to be cancelled", 30)
    assert (disturbed.directory / STATISTICS).exists()
    refused = subprocess.run(
        disturbed.slurm_command(EFFECTS), cwd=ROOT, env=disturbed.environment(), capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "--unlock" in refused.stderr + refused.stdout
    disturbed.run("--unlock")


def test_killed_hung_and_drained_jobs_are_made_again(disturbed, local_run):
    """Three shards: one is cancelled, one dies, one hangs beyond its time, and the node is drained meanwhile."""
    already = shards_there(disturbed)
    kept = disturbed.times()
    assert STATISTICS.removeprefix("results/") in kept
    with Recorder().recording() as recorder, disturbed.started(EFFECTS) as run:
        # A job that stops answering; its time, cut to the least that Slurm knows, ends it.
        hung, pid = wait_for_script("ablate_neurons")
        os.kill(pid, signal.SIGSTOP)
        output_of("scontrol", "update", f"JobId={hung.number}", "TimeLimit=1")
        # A job that is cancelled by hand, stopped first lest it be done before. The node takes no new ones from now on.
        cancelled, pid = wait_for_script("ablate_neurons", (hung.number,))
        os.kill(pid, signal.SIGSTOP)
        output_of("scontrol", "update", "NodeName=localhost", "State=DRAIN", "Reason=test")
        output_of("scancel", cancelled.name)
        wait_until(lambda: cancelled.number not in [job.number for job in running_jobs()], "the job to be cancelled")
        assert node_state() in ("draining", "drained")
        waiting = [job for job in list_jobs() if job.state == "PENDING"]
        assert waiting, "shards should wait for the node"
        output_of("scontrol", "update", "NodeName=localhost", "State=RESUME")
        # A job whose process is killed, as the kernel does when a node's memory runs out.
        killed, pid = wait_for_script("ablate_neurons", (hung.number, cancelled.number))
        os.kill(pid, signal.SIGKILL)
        disturbed.finish(run)
    jobs = recorder.jobs
    assert jobs[hung.number].state == "TIMEOUT"
    # Slurm calls a cancelled job failed when its shell was the first to end.
    assert jobs[cancelled.number].state in ("CANCELLED", "FAILED")
    assert jobs[killed.number].state == "FAILED"
    attempts = [job for job in recorder.of_run(disturbed.run_name()) if job.rule == "ablate_neurons"]
    assert len(attempts) == SHARDS - len(already) + 3
    assert sum(job.state == "COMPLETED" for job in attempts) == SHARDS - len(already)
    # Further attempts asked for more.
    further = [job for job in attempts if job.minutes > 20]
    assert len(further) == 3
    assert all(job.minutes >= 30 and job.memory_mb >= 2 * study()["compute"]["memory_mb"] for job in further)
    # What was finished before was left alone, and the rest equals an undisturbed run on one machine.
    assert {name: disturbed.times()[name] for name in kept} == kept
    ours, theirs = disturbed.results(), local_run.results()
    assert [path for path in ours if ours[path] != theirs[path]] == []
    assert EFFECTS.removeprefix("results/") in ours
    assert "Nothing to be done" in disturbed.run("--dry-run", EFFECTS)
