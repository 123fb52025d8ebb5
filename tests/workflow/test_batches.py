"""Work in batches, results of a model taken away and put back, and a report of several models."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from project import Project

TARGETS = ("all", "confidence_regulation", "context_copying", "stages_of_inference", "comparison")
Files = dict[str, tuple[bytes, int]]

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished working directory, with its times and its records, to be changed."""
    shutil.copytree(finished.directory, tmp_path / "copy", copy_function=shutil.copy2)
    return Project(tmp_path / "copy", finished.code)


def outputs(project: Project, *arguments: str) -> set[str]:
    """The files that a dry run announces."""
    said = project.run("--dry-run", *arguments)
    return {path for line in re.findall(r"^    output: (.*)$", said, re.MULTILINE) for path in line.split(", ")}


def files(folder: Path) -> Files:
    """Content and time of every file but logs and benchmarks, which tell of runs, not of results."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in ("logs", "benchmarks")
    }


def of_model(model: str, found: Files) -> Files:
    return {path: content for path, content in found.items() if path.startswith(f"{model}/")}


def test_the_batches_of_every_study_are_all_of_its_work(copied: Project) -> None:
    """Of what another seed makes stale; nothing is missing in this folder, so that last batches are planned as well."""
    copied.configure(copied.config() | {"seed": 1})
    for target in TARGETS:
        whole = outputs(copied, target)
        assert len(whole) > 5
        for n in (2, 3):
            batches = [outputs(copied, target, "--batch", f"{target}={i}/{n}") for i in range(1, n + 1)]
            assert set().union(*batches) == whole
            assert all(batch < whole for batch in batches)


def test_batches_make_the_files_of_one_run(copied: Project) -> None:
    """Figures and tables at the ends of the studies are made again, in three batches; what they need is there."""
    results = copied.directory / "results"
    before = files(results)
    ends = [path for path in before if re.search(r"(/figures/.*\.svg|/tables/.*|cards\.html)$", path)]
    # A share of them: each is a job, and every study and both models should be among them.
    removed = sorted(ends)[::8]
    for path in removed:
        (results / path).unlink()
    made: list[set[str]] = []
    for i in (1, 2, 3):
        there = {path for path in removed if (results / path).exists()}
        copied.run("all", "--batch", f"all={i}/3", warm=True)
        made.append({path for path in removed if (results / path).exists()} - there)
    after = files(results)
    assert {path: content for path, (content, _) in after.items()} == {p: content for p, (content, _) in before.items()}
    assert all(made)
    # In the order of their names, so that what belongs to one model comes together; and nothing is made twice.
    assert [max(made[0]) < min(made[1]), max(made[1]) < min(made[2])] == [True, True]
    assert {path for path in before if after[path][1] != before[path][1]} <= set(removed) | siblings(removed)
    assert copied.planned() == {}


def siblings(paths: list[str]) -> set[str]:
    """Files that the same job writes: the tables of a folder are one."""
    return {f"{Path(path).parent}/{other}" for path in paths if "/tables/" in path for other in TABLE_FILES}


TABLE_FILES = [
    f"{name}.{suffix}"
    for name in ("transitions", "transition_counts", "global_scores", "selected_neurons", "examples", "models")
    for suffix in ("tex", "html")
]


def test_more_batches_than_files_are_refused(finished: Project) -> None:
    assert "less input files than batches" in finished.run(
        "comparison", "--dry-run", "--batch", "comparison=1/99", ok=False
    )


def test_the_last_batch_waits_for_the_others(copied: Project) -> None:
    for figure in (copied.directory / "results/comparison").rglob("*.svg"):
        figure.unlink()
    assert "not all previous batches" in copied.run("comparison", "--batch", "comparison=2/2", ok=False)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_results_of_a_model_are_archived_and_come_back(copied: Project, form: str) -> None:
    results = copied.directory / "results"
    before = files(results)
    packed = ["tar", f"--format={form}", "-cf", "twin.tar", "results/twin"]
    subprocess.run(packed, cwd=copied.directory, check=True)
    shutil.rmtree(results / "twin")
    # Away: of the other model's own files nothing is to be done, only what needs this one.
    away = outputs(copied)
    assert away
    assert not {path for path in away if path.startswith("results/tiny/") and "reference_kl" not in path}
    assert files(results) == {path: content for path, content in before.items() if not path.startswith("twin/")}
    # Back: as if it had never been away.
    subprocess.run(["tar", "-xf", "twin.tar"], cwd=copied.directory, check=True)
    after = files(results)
    assert {path: content for path, (content, _) in after.items()} == {p: content for p, (content, _) in before.items()}
    if form == "posix":  # the other form drops fractions of seconds
        assert after == before
    assert copied.planned() == {}


def test_a_removed_model_leaves_the_others_as_they_are(copied: Project) -> None:
    results = copied.directory / "results"
    before = files(results)
    config = copied.config()
    config["stages_of_inference"]["models"] = ["tiny"]
    config["comparisons"] = {}
    copied.configure(config)
    shutil.rmtree(results / "twin")
    shutil.rmtree(results / "comparison")
    # The figure of all models of study C is about one model less; nothing else.
    assert {Path(path).parts[1] for path in outputs(copied)} <= {"stages"}
    copied.run(warm=True)
    assert of_model("tiny", files(results)) == of_model("tiny", before)
    assert copied.planned() == {}


def test_a_model_made_again_has_the_bytes_it_had(copied: Project) -> None:
    results = copied.directory / "results"
    before = files(results)
    shutil.rmtree(results / "twin" / "weights")
    copied.run("results/twin/weights/neurons.parquet")
    after = files(results)
    assert after["twin/weights/neurons.parquet"][0] == before["twin/weights/neurons.parquet"][0]
    assert of_model("tiny", after) == of_model("tiny", before)


def test_a_report_of_two_models_is_small_and_holds_their_figures(copied: Project) -> None:
    """50 MB is the limit for ten models; what a model adds to a page is little more than its files in base 64."""
    report = copied.directory / "report.html"
    copied.run("--report", str(report))
    page, root = report.read_bytes(), copied.directory / "results"
    pictures = [path for path in root.rglob("*") if path.suffix in (".svg", ".html")]
    for model in ("tiny", "twin"):
        assert any(f"{model}/texts" in path.as_posix() for path in pictures), model
        assert page.count(f"results/{model}/".encode()) > 10, model
    added = 1.4 * sum(path.stat().st_size for path in pictures)
    assert len(page) < 5e6 + added
    assert 5 * len(page) < 50e6
