"""The configuration's checks: each message names the key, what is wrong and what to do."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from neuronlab import copying_sets, token_frequency
from neuronlab.config_reference import render
from neuronlab.configuration import EFFECT_SETS, ConfigError, check_config, check_keys

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = yaml.safe_load((ROOT / "config" / "schema.yaml").read_text())
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


def with_value(path: str, value: object) -> dict:
    config = copy.deepcopy(DEFAULT)
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return config


def test_the_default_configuration_passes():
    check_keys(DEFAULT, SCHEMA)
    check_config(DEFAULT)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("model", "models"),
        ("texts.evaluation.sequense_length", "sequence_length"),
        ("ablation.verification.pair", "pairs"),
        ("selections.entropy.rho_minimum", "rho_min"),
        ("compute.thread", "threads"),
    ],
)
def test_a_misspelt_key_is_refused_with_its_nearest_name(path, nearest):
    with pytest.raises(ConfigError, match=f"unknown key '{path}'; did you mean '{nearest}'"):
        check_keys(with_value(path, 1), SCHEMA)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("models.logs", {"source": "demo"}, "models.logs: the name is reserved"),
        ("models.mine", {"source": "directory"}, "models.mine.path is missing"),
        ("models.mine", {"source": "directory", "path": "no/way"}, "models.mine.path: there is no directory 'no/way'"),
        ("models.gpt2", {"source": "hub", "name": "gpt2"}, "models.gpt2.revision is missing.*commit hash"),
        ("models.demo.path", "x", "models.demo.path has no meaning for source 'demo'"),
        ("texts.mine", {"source": "file", "path": "no.txt"}, "texts.mine.path: there is no file 'no.txt'"),
        ("texts.evaluation.split", "train", "texts.evaluation.split must be one of evaluation_a"),
        ("texts.evaluation.counts", "no.npy", "texts.evaluation.counts: there is no file 'no.npy'"),
        ("confidence_regulation.models", ["dmeo"], "no model 'dmeo' under models; did you mean 'demo'"),
        ("confidence_regulation.texts", ["evaluatoin"], "no text 'evaluatoin' under texts; did you mean 'evaluation'"),
        ("dose_response.values", [1.0, -1.0], "dose_response.values: .* does not increase"),
        ("dose_response.values", [0.0, float("nan")], "dose_response.values: .* list finite values"),
        ("induction.heads.sets", ["0.1", "1.0+1.0"], r"induction.heads.sets: '1\.0\+1\.0' names a head twice"),
        ("induction.natural", {"prefix": 500, "min_distance": 2}, "induction.natural.prefix: two occurrences of 500"),
        (
            "selections.token_frequency",
            {"rule": "top_rho", "count": 1},
            "selections.token_frequency: the name is taken",
        ),
        ("compute", {"kernel": "triton", "device": "cpu"}, "compute.kernel: triton needs a CUDA device, but .* is cpu"),
        ("ablation.trace", ["entropi"], "ablation.trace: no selection 'entropi'; did you mean 'entropy'"),
    ],
)
def test_what_the_schema_cannot_say(path, value, message):
    with pytest.raises(ConfigError, match=message):
        check_config(with_value(path, value))


def test_an_empty_text_and_an_unknown_suffix_are_refused(tmp_path):
    empty, other = tmp_path / "empty.txt", tmp_path / "text.docx"
    empty.touch()
    other.write_text("words")
    with pytest.raises(ConfigError, match=r"texts\.mine\.path: .*empty\.txt' is empty"):
        check_config(with_value("texts.mine", {"source": "file", "path": str(empty)}))
    with pytest.raises(ConfigError, match=r"text\.docx' is none of \.txt"):
        check_config(with_value("texts.mine", {"source": "file", "path": str(other)}))


def test_sequences_without_a_position_that_counts_are_refused():
    config = with_value("texts.evaluation.sequence_length", 16)
    config["texts"]["evaluation"]["min_position"] = 15
    with pytest.raises(ConfigError, match=r"texts\.evaluation\.min_position: 15 leaves no position .*; set it to 14"):
        check_config(config)
    config["texts"]["evaluation"]["min_position"] = 14
    check_config(config)


def test_a_repeated_stretch_that_just_fits():
    config = with_value("induction.natural", {"prefix": 6, "min_distance": 3})
    config["texts"]["evaluation"]["sequence_length"] = 16
    check_config(config)
    config["induction"]["natural"]["min_distance"] = 4
    with pytest.raises(ConfigError, match=r"17 tokens, but the sequences of texts\.evaluation have 16"):
        check_config(config)


def test_the_reserved_set_names_are_those_that_the_workflow_gives():
    assert {token_frequency.NAME, copying_sets.INDUCTION_DRIVEN} == EFFECT_SETS


def test_the_reference_names_every_key_of_the_schema():
    """A key whose values are free, such as `references`, is a row as well."""
    text = render(SCHEMA)
    for group, node in SCHEMA["properties"].items():
        for key in node.get("properties", {}):
            assert f"`{group}.{key}" in text


def test_a_revision_refers_to_its_model():
    check_config(with_value("confidence_regulation.models", ["demo@step_000512"]))


def leaves(node, path=""):
    for key, child in node.get("properties", {}).items():
        yield f"{path}{key}", child
        yield from leaves(child, f"{path}{key}.")
    if isinstance(node.get("additionalProperties"), dict):
        yield from leaves(node["additionalProperties"], f"{path}<name>.")


def test_every_key_is_described_and_every_object_is_closed():
    for path, node in leaves(SCHEMA):
        assert node.get("description"), f"{path} has no description"
        if node.get("type") == "object":
            assert "additionalProperties" in node, f"{path} takes unknown keys"


def test_the_reference_is_in_step_with_the_schema():
    assert (ROOT / "config" / "README.md").read_text() == render(SCHEMA), (
        "run python workflow_scripts/neuronlab/config_reference.py"
    )


def test_pip_and_conda_environments_are_in_step():
    def pins(text):
        return {line.strip().removeprefix("- ") for line in text.splitlines() if "==" in line}

    requirements = (ROOT / "envs" / "requirements.txt").read_text()
    assert pins(requirements) == pins((ROOT / "envs" / "environment.yaml").read_text())
    assert len(pins(requirements)) > 10
