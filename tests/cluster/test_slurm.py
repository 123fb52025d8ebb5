"""A study through `--profile slurm` on a real one-node Slurm: requests, devices, arrays, memory, results."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from cluster_project import GPU_JOBS, LOCAL_JOBS, OTHER_JOBS, TEXT, ClusterProject, make_project, study
from one_node_slurm import GPUS, Recorder

pytestmark = pytest.mark.cluster

ARRAYS = ("ablate_neurons", "decode_conflicts")
HUNGRY = Path(__file__).parent / "hungry"


def jobs_of(run):
    project, recorder = run
    return recorder.of_run(project.run_name())


def test_every_job_that_is_not_a_figure_ran_on_slurm_once(slurm_run):
    jobs = jobs_of(slurm_run)
    assert Counter(job.rule for job in jobs) == GPU_JOBS | OTHER_JOBS
    assert {job.state for job in jobs} == {"COMPLETED"}


def test_figures_ran_beside_snakemake(slurm_run):
    project, _ = slurm_run
    assert not {job.rule for job in jobs_of(slurm_run)} & set(LOCAL_JOBS)
    assert (project.directory / TEXT / "figures/verification.svg").exists()


def test_model_jobs_ask_for_their_gpu_and_memory_and_others_for_no_gpu(slurm_run):
    jobs = jobs_of(slurm_run)
    assert {job.rule: job.gpu_request for job in jobs} == dict.fromkeys(GPU_JOBS, "gpus") | dict.fromkeys(
        OTHER_JOBS, ""
    )
    compute = study()["compute"]
    for job in jobs:
        if job.rule in GPU_JOBS:
            # The plugin adds some megabytes to an array for the commands of its members.
            assert compute["memory_mb"] <= job.memory_mb <= compute["memory_mb"] + 16, job.fields
            assert job.minutes == compute["runtime_minutes"], job.fields
            assert job.gpus in ("0", "1"), job.fields


def test_every_job_was_sent_to_the_partition_that_it_fits_into(slurm_run):
    partitions = {job.rule: job.fields["Partition"] for job in jobs_of(slurm_run)}
    assert partitions == dict.fromkeys(GPU_JOBS, "gpu") | dict.fromkeys(OTHER_JOBS, "cpu")


def test_two_gpu_jobs_ran_side_by_side_on_different_devices_and_never_three(slurm_run):
    _, recorder = slurm_run
    assert max(map(len, recorder.together)) == GPUS
    pairs = [pair for moment in recorder.together for pair in combinations(moment, 2)]
    assert all(one.gpus != other.gpus for one, other in pairs)


def test_shards_of_a_rule_were_one_job_array(slurm_run):
    jobs = jobs_of(slurm_run)
    arrays = {rule: {job.fields["ArrayJobId"] for job in jobs if job.rule == rule} for rule in ARRAYS}
    assert {rule: len(found) for rule, found in arrays.items()} == dict.fromkeys(ARRAYS, 1)
    assert not any("ArrayJobId" in job.fields for job in jobs if job.rule not in ARRAYS)


def test_results_equal_a_local_run(slurm_run, local_run):
    on_slurm, here = slurm_run[0].results(), local_run.results()
    assert set(on_slurm) == set(here)
    assert [path for path in here if on_slurm[path] != here[path]] == []


def test_a_job_out_of_memory_gets_more(cluster, slurm_run, tmp_path):
    """A job that needs more than was planned for it; and GPUs asked for the other way."""
    finished = slurm_run[0]
    rule, target = "measure_activations", f"{TEXT}/activation_statistics.parquet"
    planned = next(job.memory_mb for job in jobs_of(slurm_run) if job.rule == rule)
    project = make_project(tmp_path, gpu_request="gres")
    project.variables = {"PYTHONPATH": str(HUNGRY), "HUNGRY_RULE": rule, "HUNGRY_MB": str(planned)}
    project.take_over(finished)
    with Recorder().recording() as recorder:
        project.run_on_slurm(target)
    attempts = sorted(recorder.of_run(project.run_name()), key=lambda job: int(job.number))
    assert [(job.rule, job.memory_mb) for job in attempts] == [(rule, planned), (rule, 2 * planned)]
    assert "exceeded memory limit" in slurm_output(project, rule)
    assert attempts[0].state != "COMPLETED"
    assert attempts[1].state == "COMPLETED"
    assert {job.gpu_request for job in attempts} == {"gres"}
    assert all(job.gpus in ("0", "1") for job in attempts)
    assert (project.directory / target).read_bytes() == (finished.directory / target).read_bytes()


def slurm_output(project: ClusterProject, rule: str) -> str:
    """What Slurm kept of the output of a rule's failed jobs."""
    logs = (project.directory / ".snakemake/slurm_logs" / f"rule_{rule}").rglob("*.log")
    return "".join(path.read_text(errors="replace") for path in logs)
