"""Disturbed runs: after each fault the documented command finishes the work, recomputes nothing that was finished, and
gives the bytes of an undisturbed run. docs/faults.md tells users what these tests show.

Jobs are held at the moment before an output is put in place (faulty.py). The job that is disturbed is mostly the
cheapest one, `summarize_effects`: for Snakemake one job is like another.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import copy_of, files, places, start_and_hold, wait_for
from neuronlab.model_files import file_record
from project import Project, make_text, small_config
from warm_jobs import warm_python
from warm_snakemake import warm_snakemake

pytestmark = pytest.mark.slow

TEXT = "results/tiny/texts/words"
SHARDS = f"{TEXT}/ablation/shards"
EFFECTS = f"{TEXT}/ablation/effects.parquet"
FIGURE = f"{TEXT}/figures/verification"
LOCKED = "Directory cannot be locked"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path, code: Path) -> Project:
    """Effects of one model on one text, and a figure in two formats, from a run that nothing disturbed."""
    small = small_config(tiny_directory)
    wanted = ("texts", "confidence_regulation", "selections", "controls", "ablation", "token_frequency", "induction")
    config = {key: small[key] for key in wanted} | {
        "models": {"tiny": small["models"]["tiny"]},
        "confidence_regulation": {"models": ["tiny"], "texts": ["words"]},
        "figures": {"formats": ["svg", "json"]},
    }
    project = Project(tmp_path_factory.mktemp("undisturbed"), code)
    make_text(project.directory / "words.txt")
    project.configure(config)
    project.run(EFFECTS, f"{FIGURE}.svg", warm=True)
    return project


@pytest.fixture
def working(undisturbed: Project, tmp_path: Path) -> Project:
    """A copy of the undisturbed working directory, without the effects."""
    copy = copy_of(undisturbed, tmp_path / "working")
    unfinished(copy, EFFECTS)
    return copy


def unfinished(project: Project, *names: str) -> None:
    for name in names:
        (project.directory / name).unlink()


def leftovers(project: Project) -> list[Path]:
    """Temporary files of writers that were killed."""
    return sorted((project.directory / "results").rglob(".*.*"))


def again(project: Project, target: str = EFFECTS, *, ok: bool = True) -> str:
    """The same command again, by a Snakemake and jobs that have their imports behind them; its output."""
    command = project.command(target)[3:]
    snakemake = warm_snakemake(project.code)
    status, output = snakemake.run(
        command, directory=project.directory, environment=project.environment(), python=warm_python()
    )
    assert (status == 0) == ok, output
    return output


def jobs_of(output: str) -> list[str]:
    """The rules that a run started, one entry per job."""
    return sorted(line.removeprefix("localrule ").rstrip(":") for line in output.splitlines() if "localrule " in line)


def finish(project: Project, undisturbed: Project, *expected: str) -> None:
    """The same command again: it runs the expected jobs alone, touches nothing else, and all bytes are the same."""
    before = places(project)
    output = again(project)
    assert jobs_of(output) == sorted(expected)
    after, found, wanted = places(project), files(project), files(undisturbed)
    assert {name: place for name, place in before.items() if after.get(name) != place} == {}
    assert found == {name: wanted.get(name) for name in found}
    assert (project.directory / EFFECTS).exists()
    assert leftovers(project) == []


def test_two_at_once(working, undisturbed):
    run = start_and_hold(working, EFFECTS, EFFECTS)
    assert LOCKED in again(working, ok=False)
    assert run.process.poll() is None
    run.release()
    assert run.wait() == 0, run.output()
    assert (working.directory / EFFECTS).read_bytes() == (undisturbed.directory / EFFECTS).read_bytes()


def test_stopped_by_signals(working, undisturbed):
    """Ctrl-C, a shutdown, a closed terminal; after each, the same command goes on."""
    before = places(working)
    log = working.directory / "results/logs/tiny/texts/words/summarize_effects.log"
    for number, seen in (
        (signal.SIGINT, "KeyboardInterrupt"),
        (signal.SIGTERM, "SystemExit: 143"),
        (signal.SIGHUP, "SystemExit: 129"),
    ):
        run = start_and_hold(working, EFFECTS, EFFECTS)
        run.interrupt(number)
        assert run.wait() != 0
        assert jobs_of(run.output()) == ["summarize_effects"]
        wait_for(
            lambda seen=seen: seen in log.read_text() and not leftovers(working), f"the job ended otherwise: {seen}"
        )
        assert places(working) == before
    assert LOCKED in again(working, ok=False)
    working.run("--unlock")
    finish(working, undisturbed, "summarize_effects")


def test_snakemake_killed_between_two_outputs_of_a_job(working, undisturbed):
    unfinished(working, f"{FIGURE}.svg", f"{FIGURE}.json")
    run = start_and_hold(working, f"{FIGURE}.json", f"{FIGURE}.svg")
    run.interrupt(signal.SIGKILL)
    run.wait()
    svg, second = (working.directory / f"{FIGURE}.{suffix}" for suffix in ("svg", "json"))
    assert svg.exists()
    assert not second.exists()
    assert [path.suffix for path in leftovers(working)] == [".json"]

    svg.unlink()
    svg.write_text("never trusted: the job that was to make it did not end")
    os.utime(svg)
    working.run("--unlock")
    assert jobs_of(again(working, f"{FIGURE}.svg")) == ["draw_verification"]
    assert leftovers(working) == []
    assert files(working) == {
        name: content for name, content in files(undisturbed).items() if not EFFECTS.endswith(name)
    }


def test_snakemake_killed_alone_while_its_job_lives_on(working, undisturbed):
    orphaned = start_and_hold(working, EFFECTS, EFFECTS)
    job = orphaned.held
    orphaned.process.send_signal(signal.SIGKILL)
    orphaned.wait()
    assert LOCKED in again(working, ok=False)
    working.run("--unlock")

    # The new job writes beside the one that lives on, and does not take its file away.
    half_written = leftovers(working)
    assert jobs_of(again(working)) == ["summarize_effects"]
    assert leftovers(working) == half_written
    assert len(half_written) == 1
    whole = (undisturbed.directory / EFFECTS).read_bytes()
    assert (working.directory / EFFECTS).read_bytes() == whole

    orphaned.release()
    wait_for(lambda: not Path(f"/proc/{job}").exists(), "the job did not end")
    assert leftovers(working) == []
    assert (working.directory / EFFECTS).read_bytes() == whole


def test_a_killed_job_is_tried_again_if_asked(working, undisturbed):
    run = start_and_hold(working, EFFECTS, EFFECTS, "--retries", "1")
    first = run.held
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: run.mark.exists() and run.held != first, "the job was not tried again")
    os.kill(run.held, signal.SIGKILL)
    assert run.wait() == 1
    assert run.output().count("died with <Signals.SIGKILL: 9>") == 2
    assert len(leftovers(working)) == 1, "what the first attempt left was not removed by the second"
    finish(working, undisturbed, "summarize_effects")


@pytest.fixture
def small_disk(undisturbed: Project, tmp_path: Path) -> Iterator[Project]:
    """A working directory on a disk of its own that has room for everything but the missing second shard."""
    directory = tmp_path / "disk"
    directory.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(directory)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command 'mount'")
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        subprocess.run(["cp", "-a", f"{undisturbed.directory}/.", str(directory)], check=True)
        project = Project(directory, undisturbed.code)
        unfinished(project, EFFECTS, f"{SHARDS}/1.parquet")
        # A shard is 63 kB; Snakemake's own notes and the job's log take about half of this.
        resize(directory, shutil.disk_usage(directory).used + 48 * 1024)
        yield project
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_full_disk(small_disk, undisturbed):
    before = places(small_disk)
    output = again(small_disk, ok=False)
    assert f"ablate_neurons: {SHARDS}/1.parquet: no space left on device. Make room" in output
    assert "Traceback" not in output
    assert places(small_disk) == before
    assert leftovers(small_disk) == []

    resize(small_disk.directory, 100 << 20)
    finish(small_disk, undisturbed, "ablate_neurons", "summarize_effects")


def test_truncated_shard_and_a_gentle_stop(working, undisturbed):
    shard = working.directory / SHARDS / "1.parquet"
    shard.write_bytes(shard.read_bytes()[:-1000])
    output = again(working, ok=False)
    assert f"summarize_effects: {SHARDS}/1.parquet: not a readable Parquet file" in output
    assert "delete it and run the workflow again" in output
    assert "Traceback" not in output
    assert not (working.directory / EFFECTS).exists()

    # SIGTERM to Snakemake alone: the job that runs ends in peace and counts, and no other is begun.
    shard.unlink()
    run = start_and_hold(working, f"{SHARDS}/1.parquet", EFFECTS)
    run.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "Will exit after finishing currently running jobs" in run.output(), "the signal was not heard")
    run.release()
    assert run.wait() != 0
    assert jobs_of(run.output()) == ["ablate_neurons"]
    finish(working, undisturbed, "summarize_effects")


def test_damaged_download(project, tiny_directory):
    """A fetched model whose files are not those of its manifest is refused while the workflow is planned."""
    fetched = project.directory / "results/inputs/models/fetched"
    shutil.copytree(tiny_directory, fetched)
    manifest = fetched / "manifest.json"
    manifest.write_text(json.dumps({"files": {"config.json": file_record(fetched / "config.json")}}))
    config = project.config()
    config["models"]["fetched"] = {"source": "hub", "name": "some/model", "revision": "0" * 40, "null_space_k": [4]}
    config["confidence_regulation"]["models"].append("fetched")
    project.configure(config)
    target = EFFECTS.replace("/tiny/", "/fetched/")
    assert "fetch_model" not in project.planned(target)

    (fetched / "config.json").write_text('{"model_type": "gp')
    assert "fetched/config.json' is not what was fetched; delete" in project.run("--dry-run", target, ok=False)
    manifest.write_text("")
    assert "fetched/manifest.json' is damaged" in project.run("--dry-run", target, ok=False)
    manifest.unlink()
    assert project.planned(target)["fetch_model"] == 1
