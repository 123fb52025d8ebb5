"""Every snakemake command of the documentation, typed as it stands there, with `--dry-run` behind it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from project import ROOT, Project, copy_code, make_facts, make_text
from warm_snakemake import warm_snakemake

pytestmark = pytest.mark.slow

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SETTINGS = sorted([*(ROOT / "config").glob("*.yaml"), *(ROOT / "config/examples").glob("*.yaml")])
# Files that the documentation speaks of as the reader's own, by what the tests put there.
MODELS = ("models/my-gpt2", "models/my-model")
TEXTS = ("texts/prose.txt", "texts/my-text.txt")


def blocks(page: Path) -> list[str]:
    """Contents of the page's fenced blocks."""
    return re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """(where it stands, command), once for each command."""
    lines = [(page.name, line) for page in PAGES for block in blocks(page) for line in joined(block)]
    lines += [
        (path.name, line.lstrip("# "))
        for path in SETTINGS
        for line in path.read_text().splitlines()
        if line.startswith("#   ")
    ]
    pages = [*PAGES, ROOT / "config/README.md", ROOT / "workflow_scripts/neuronlab/demo/README.md"]
    lines += [(page.name, line) for page in pages for line in re.findall(r"`(snakemake -?[^`\n]*)`", page.read_text())]
    found: dict[str, str] = {}
    for name, line in lines:
        typed = line.split(" && ")[-1].split("  #")[0].strip()
        if typed.startswith("snakemake "):
            found.setdefault(re.sub(" +", " ", typed), name)
    return [(name, typed) for typed, name in found.items()]


def joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", "", block).splitlines()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Project:
    """What a reader has: the project's files, `mine.yaml` as README gives it, a model, a text and facts."""
    root = copy_code(tmp_path_factory.mktemp("reader") / "clone")
    shutil.copy2(ROOT / "slurm", root / "slurm", follow_symlinks=False)
    (root / "mine.yaml").write_text(snippet("# mine.yaml") + snippet("facts:"))
    (root / "that.yaml").write_text("extends: config/examples/directory_model.yaml\n")
    for name in MODELS:
        shutil.copytree(tiny_directory, root / name)
        config = json.loads((root / name / "config.json").read_text())
        (root / name / "config.json").write_text(
            json.dumps(config | {"n_positions": 512, "n_inner": 512})
        )  # a reader's size
    for name in TEXTS:
        (root / name).parent.mkdir(exist_ok=True)
        make_text(root / name, documents=40, words=200)
    (root / "facts").mkdir()
    make_facts(root / "facts/capitals.csv")
    return Project(root, code=root)


def snippet(beginning: str) -> str:
    return next(block for block in blocks(ROOT / "README.md") if block.startswith(beginning))


def test_the_documentation_has_commands_to_test():
    names = {name for name, _ in commands()}
    assert names >= {"README.md", "cluster.md", "published_settings.md", "results.md", "directory_model.yaml"}


@pytest.mark.parametrize(("page", "typed"), commands(), ids=lambda value: str(value))
def test_as_typed(reader: Project, page: str, typed: str) -> None:
    arguments = planning(typed)
    status, output = warm_snakemake(reader.code).run(
        arguments, directory=reader.directory, environment=reader.environment()
    )
    if re.search(r"--batch all=(\d)/\1", typed):  # the last of several
        assert "not all previous batches have been completed" in output
        return
    assert status == 0, f"{page}: {typed}\n{output[-3000:]}"
    if "--unlock" not in arguments:
        assert "This was a dry-run" in output or "Nothing to be done" in output


def planning(typed: str) -> list[str]:
    """Arguments that plan what the command does. A report is left out: it takes finished results (test_batches)."""
    typed = re.sub(r" --report \S+( --report-after-run)?", "", typed.replace("gpu=N", "gpu=2"))
    arguments = shlex.split(typed)[1:]
    return arguments if "--unlock" in arguments else ["--dry-run", *arguments]
