"""`snakemake preflight` as it is typed, without a network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from neuronlab.model_files import file_record
from project import ROOT, Project

PINNED = "0123456789abcdef0123456789abcdef01234567"


def test_the_demo_has_nothing_in_the_way(tmp_path: Path) -> None:
    """Also a second time: a preflight is never up to date."""
    project = Project(tmp_path)
    for _ in range(2):
        output = project.run("preflight", default_config=True)
        assert "Nothing is in the way." in output
        assert "localrule preflight" in output
    log = (tmp_path / "results" / "logs" / "preflight.log").read_text()
    assert "Nothing is in the way." in log
    assert re.search(r"^model +demo +step_001024 +- +- +ok$", log, re.MULTILINE)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["logs"]


def test_a_model_of_the_hub_without_a_network(project: Project) -> None:
    """One line for each problem, exit status 1, and nothing but the log is written."""
    config = project.config()
    config["models"]["far"] = {"source": "hub", "name": "owner/far", "revision": PINNED}
    config["models"]["unused"] = {"source": "hub", "name": "owner/unused", "revision": PINNED}
    config["confidence_regulation"]["models"].append("far")
    config["stages_of_inference"]["models"].append("far@step1")
    config["models"]["tiny"]["size"] = {"d_model": 33}
    project.configure(config)
    output = project.run("preflight", ok=False)
    assert "1. models.tiny.size.d_model is 33, but config.json says 32; correct it" in output
    assert (
        "2. the hub cannot be reached, and this is to be fetched: models.far, models.far@step1; connect this machine "
        "(and unset HF_HUB_OFFLINE)" in output
    )
    assert "no study or comparison names them: unused" in output
    assert "preflight: this is in the way:" in output
    assert list((project.directory / "results").rglob("*.json")) == []


def test_one_wrong_byte_of_a_fetched_model(project: Project, tiny_directory: Path) -> None:
    """Nothing but preflight looks at contents; the remedy that it names makes Snakemake fetch the model again."""
    fetched = project.directory / "results/inputs/models/fetched"
    shutil.copytree(tiny_directory, fetched)
    files = {path.name: file_record(path) for path in fetched.iterdir()}
    record = {"name": "owner/model", "revision": PINNED, "commit": PINNED, "files": files}
    (fetched / "manifest.json").write_text(json.dumps(record))
    config = project.config()
    config["models"]["fetched"] = {"source": "hub", "name": "owner/model", "revision": PINNED, "null_space_k": [4]}
    config["confidence_regulation"]["models"].append("fetched")
    project.configure(config)
    output = project.run("preflight")
    assert re.search(r"sha256: 100%", output)
    assert "Nothing is in the way." in output
    weights = fetched / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "fetch_model" not in project.planned("confidence_regulation")
    output = project.run("preflight", ok=False)
    problem = re.search(r"1\. models\.fetched: '(.*)' is not what was fetched .*`(--forcerun) (.*)` to your", output)
    assert problem, output
    assert problem[1] == "results/inputs/models/fetched/model.safetensors"
    assert project.planned("confidence_regulation", *problem.groups()[1:])["fetch_model"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["confidence_regulation", "context_copying", "stages_of_inference", "models"])
def test_published_settings_have_nothing_but_the_network_in_the_way(tmp_path: Path, name: str) -> None:
    """Sizes, texts and facts of the shipped configurations; what the hub says is not to be had here."""
    path = ROOT / "config" / f"{name}.yaml"
    if not path.is_file():
        pytest.skip(f"no {path}")
    output = Project(tmp_path).run("preflight", "--configfile", str(path), default_config=True, ok=False)
    problems = output.split("this is in the way:\n", 1)[1].split("(the traceback", 1)[0].splitlines()
    assert problems
    # And too small a disk, which is checked all the same, by the planned sizes.
    assert all("cannot be reached" in problem or "disk: about " in problem for problem in problems), output
    assert re.search(r"about \d+\.\d\d GB are to be fetched \(an estimate by models\.<name>\.size", output)
    assert "not counted" not in output
