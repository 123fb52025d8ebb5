"""How members of a job array are handed to Slurm: at once, and only with members that ask for the same."""

from __future__ import annotations

import base64
import json
import zlib
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from neuronlab.slurm_arrays import TESTED, by_request, member_command, mend_arrays


def job(name: str, threads: int = 1, **resources: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, threads=threads, resources=resources)


def command(name: str) -> str:
    """As long, and as hard to compress, as Snakemake's in a deep folder: some 1.9 kB in the plugin's argument."""
    noise = "".join(sha256(f"{name}{i}".encode()).hexdigest() for i in range(15))
    return f"python -m snakemake --target-jobs ablate_neurons:model={name} {noise} --mode remote"


def names(groups: list[list[SimpleNamespace]]) -> list[list[str]]:
    return [[member.name for member in group] for group in groups]


def fake_plugin() -> SimpleNamespace:
    """The parts of the plugin that matter, with a record of what was submitted."""

    class Executor:
        def __init__(self, members: int = 1000, script: bool = False):
            self.arrays, self.singles = [], []
            self.max_array_size = members
            self.workflow = SimpleNamespace(executor_settings=SimpleNamespace(pass_command_as_script=script))

        def format_job_exec(self, single):
            return command(single.name)

        def _submit_array_jobs(self, jobs):
            self.arrays.append([member.name for member in jobs])

        def _submit_job(self, single):
            self.singles.append(single.name)

    return SimpleNamespace(Executor=Executor, pending_jobs_for_rule=lambda dag, rule: 7)


def test_members_share_what_they_ask_for():
    jobs = [job("a", mem_mb=10), job("b", mem_mb=20), job("c", mem_mb=10), job("d", 2, mem_mb=10)]
    assert names(by_request(jobs)) == [["a", "c"], ["b"], ["d"]]


def test_what_slurm_is_not_asked_for_sets_no_jobs_apart():
    jobs = [job("a", mem_mb=10, disk_mb=1, tmpdir="/x"), job("b", mem_mb=10, disk_mb=2, tmpdir="/y")]
    assert names(by_request(jobs)) == [["a", "b"]]


def test_unequal_members_are_submitted_apart_and_single_ones_as_plain_jobs():
    plugin = fake_plugin()
    mend_arrays(plugin)
    executor = plugin.Executor()
    executor._submit_array_jobs([job("a", mem_mb=10), job("b", mem_mb=20), job("c", mem_mb=10)])
    assert (executor.arrays, executor.singles) == ([["a", "c"]], ["b"])


def test_the_commands_of_an_array_fit_into_an_argument():
    """Beyond 128 KiB the plugin falls back to a script, in which every member runs the first one's command."""
    plugin = fake_plugin()
    mend_arrays(plugin)
    executor = plugin.Executor()
    members = [f"model{i}" for i in range(300)]
    executor._submit_array_jobs([job(name) for name in members])
    assert [name for array in executor.arrays for name in array] == members
    sizes = [
        len(array_payload({str(i): command(name) for i, name in enumerate(array[1:], 2)})) for array in executor.arrays
    ]
    assert max(sizes) + 2 * len(command(members[0])) < 128 * 2**10 - 10_000
    assert len(array_payload({str(i): command(name) for i, name in enumerate(members[:80])})) > 128 * 2**10
    assert min(sizes[:-1]) > 80_000  # no shorter than need be


def test_arrays_have_no_more_members_than_the_cluster_allows():
    plugin = fake_plugin()
    mend_arrays(plugin)
    executor = plugin.Executor(members=3)
    executor._submit_array_jobs([job(name) for name in "abcdefg"])
    assert executor.arrays == [["a", "b", "c"], ["d", "e", "f"]]
    assert executor.singles == ["g"]


def test_where_commands_go_as_scripts_there_are_no_arrays():
    plugin = fake_plugin()
    mend_arrays(plugin)
    executor = plugin.Executor(script=True)
    executor._submit_array_jobs([job("a"), job("b")])
    assert (executor.arrays, executor.singles) == ([], ["a", "b"])


def test_nothing_is_held_back_for_members_that_come_later():
    plugin = fake_plugin()
    mend_arrays(plugin)
    assert plugin.pending_jobs_for_rule(None, "ablate_neurons") == 0


def test_mending_twice_changes_nothing_more():
    plugin = fake_plugin()
    mend_arrays(plugin)
    once = plugin.Executor._submit_array_jobs
    mend_arrays(plugin)
    assert plugin.Executor._submit_array_jobs is once


@pytest.mark.parametrize("lacking", ["_submit_array_jobs", "_submit_job", "pending_jobs_for_rule", "Executor"])
def test_another_version_of_the_plugin_is_left_alone_loudly(lacking, capsys):
    other = fake_plugin()
    delattr(other if hasattr(other, lacking) else other.Executor, lacking)
    before = dict(vars(other)), dict(vars(getattr(other, "Executor", object)))
    mend_arrays(other)
    assert (dict(vars(other)), dict(vars(getattr(other, "Executor", object)))) == before
    said = capsys.readouterr().err
    assert "WARNING: job arrays are untested with this version" in said
    assert "--slurm-array-jobs ''" in said


def test_nothing_is_said_without_the_plugin_or_with_the_tested_one(capsys):
    mend_arrays(None)
    plugin = fake_plugin()
    mend_arrays(plugin)
    mend_arrays(plugin)
    assert capsys.readouterr().err == ""


def test_the_tested_version_is_the_pinned_one():
    requirements = (Path(__file__).parents[2] / "envs" / "requirements.txt").read_text()
    assert f"snakemake-executor-plugin-slurm=={TESTED}\n" in requirements


def array_payload(commands: dict[str, str]) -> str:
    """The later members' commands as the plugin packs them."""
    packed = {index: zlib.compress(command.encode(), level=9).hex() for index, command in commands.items()}
    return base64.b64encode(json.dumps(packed).encode()).decode()


@pytest.mark.parametrize("form", ["{option}={payload}", "{option} {payload}", "{option}='{payload}'"])
def test_a_member_of_an_array_runs_its_own_command(form):
    payload = array_payload({"2": "snakemake second", "3": "snakemake third"})
    arguments = [
        "snakemake",
        "--jobs",
        "1",
        *form.format(option="--slurm-jobstep-array-execs", payload=payload).split(),
    ]
    assert member_command(arguments, {"SLURM_ARRAY_TASK_ID": "3"}) == "snakemake third"


def test_the_first_member_and_jobs_outside_of_arrays_stay_what_they_are():
    arguments = ["snakemake", "--slurm-jobstep-array-execs=" + array_payload({"2": "snakemake second"})]
    assert member_command(arguments, {"SLURM_ARRAY_TASK_ID": "1"}) is None
    assert member_command(arguments, {}) is None
    assert member_command(["snakemake", "--jobs", "1"], {"SLURM_ARRAY_TASK_ID": "2"}) is None
