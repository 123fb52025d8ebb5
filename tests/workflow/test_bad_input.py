"""Bad input is refused while the workflow is parsed: a dry run already names the key or file and the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project


def refuse(project: Project, config: dict) -> str:
    project.configure(config)
    output = project.run("--dry-run", ok=False)
    assert "Job stats" not in output
    return output


def set_value(config: dict, path: str, value: object) -> dict:
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("ablation.replacement", ["mean"], "unknown key 'ablation.replacement'; did you mean 'replacements'?"),
        ("compute.shards", "two", "'two' is not of type 'integer'"),
        ("ablation.replacements", ["men"], "ablation.replacements: 'men' is no replacement; there are mean,"),
        ("selections.entropy", {"rule": "top_rho"}, "selections.entropy.count is missing: the rule 'top_rho' needs it"),
        ("models.inputs", {"source": "demo"}, "models.inputs: the name is reserved"),
        ("models.tiny.path", "nowhere", "models.tiny.path: there is no directory 'nowhere'"),
        ("models.tiny.null_space_k", [32], "models.tiny.null_space_k: 32 directions, but the model has d_model 32"),
        (
            "selections.mine",
            {"rule": "explicit", "neurons": ["2.0"]},
            "'2.0' is in layer 2, but models.tiny has layers 0 to 1",
        ),
        ("selections.mine", {"rule": "explicit", "neurons": ["1.48"]}, "models.tiny has no neuron '1.48'"),
        (
            "selections.entropy.count",
            40,
            "selections.entropy: 40 neurons and 2 disjoint control sets of as many do not fit",
        ),
        ("controls.sets", 16, "selections.entropy: 3 neurons and 16 disjoint control sets"),
        ("selections.entropy.k", 7, "selections.entropy.k: 7 is not measured; add it to models.tiny.null_space_k"),
        ("ablation.statistics_layers", [0], "ablation.statistics_layers: the last layer is missing; add -1"),
        ("ablation.statistics_layers", [-1, 9], "ablation.statistics_layers: models.tiny has no layer 9"),
        (
            "induction.synthetic.length",
            40,
            "induction.synthetic.length: 40 tokens after the BOS are repeated, but the sequences of texts.words",
        ),
        ("induction.heads.length", 200, "induction.heads.length: BOS and all copies are 401 tokens, but the"),
        ("induction.heads.sets", ["1.9"], "induction.heads.sets: '1.9': models.tiny has no head 1.9"),
        ("comparisons.both.text", "wrods", "comparisons.both.text: no text 'wrods' under texts; did you mean 'words'?"),
        ("comparisons.both.models", ["tiny", "twn"], "comparisons.both.models: no model 'twn' under models; did you"),
        ("comparisons.both.reference", "tin", "comparisons.both.reference: 'tin' is not one of its models; did you"),
        ("confidence_regulation.references", {"twin": "tiny"}, "references.twin: 'twin' is not studied"),
        ("confidence_regulation.parts", ["head"], "'head' is not one of"),
        ("induction.heads.sets", ["0.1+0.1"], "induction.heads.sets: '0.1+0.1' names a head twice"),
        ("induction.natural.prefix", 40, "induction.natural.prefix: two occurrences of 40 tokens, min_distance 2 and"),
        ("dose_response.values", [0, 1, 1], "dose_response.values: [0, 1, 1] does not increase"),
        (
            "selections.token_frequency",
            {"rule": "top_rho", "count": 2},
            "selections.token_frequency: the name is taken",
        ),
        ("texts.words.min_position", 31, "texts.words.min_position: 31 leaves no position that counts in sequences"),
        ("texts.words.sequence_length", 65, "texts.words.sequence_length: 65 tokens, but the context of models.tiny"),
        ("facts.people.path", "nowhere.csv", "facts.people.path: there is no file 'nowhere.csv'"),
        ("facts.people.path", "words.txt", "facts.people.path: 'words.txt' is none of .csv,"),
        ("facts.people", {"source": "file"}, "facts.people.path is missing: source 'file' needs it"),
        ("facts.people", {"source": "demo", "path": "facts.csv"}, "path and relations have no meaning for source"),
        ("facts.people", {"source": "pararel", "path": "facts.csv"}, "give both path (.csv) and relations (.xlsx)"),
        ("facts.people.text", "wrods", "facts.people.text: there is no 'wrods' under texts in the configuration; did"),
        (
            "facts.people",
            {"source": "file", "path": "facts.csv", "statistics": "text"},
            "facts.people.statistics: 'text' needs facts.people.text",
        ),
        ("context_copying.models", ["tny"], "context_copying.models: there is no 'tny' under models"),
        ("context_copying.facts", ["peple"], "context_copying.facts: there is no 'peple' under facts"),
        ("context_copying.selections", ["entropi"], "context_copying.selections: no selection 'entropi'; there are"),
        ("context_copying.template", "Say {what}: {query}", "context_copying.template"),
        ("context_copying.template", "Go on.", "context_copying.template"),
        ("context_copying.templates", {"tny": "none"}, "context_copying.templates: there is no 'tny' under models"),
        ("context_copying.conflict", "{query} {counter}.", "must end in {query}"),
        ("context_copying.replacements", ["resample"], "'resample' is no constant"),
        ("context_copying.replacements", ["constant:1e400"], "'constant:1e400' is beyond +-1e+06"),
        ("context_copying.replacements", ["constant:1e20"], "'constant:1e20' is beyond +-1e+06"),
        ("selections.clean", {"rule": "top_rho", "count": 2}, "selections.clean: the name is taken"),
        ("context_copying.dose_response.points", 1, "dose_response.points: a curve needs two doses"),
        ("context_copying.filters", ["ovrlap"], "'ovrlap' is not one of"),
        (
            "stages_of_inference.models",
            ["tny"],
            "stages_of_inference.models: no model 'tny' under models; did you mean",
        ),
        (
            "stages_of_inference.texts",
            ["wrods"],
            "stages_of_inference.texts: no text 'wrods' under texts; did you mean",
        ),
        ("stages_of_inference.parts", ["lenses"], "'lenses' is not one of"),
        ("stages_of_inference.swaps", "near", "stages_of_inference.swaps: 'near' is not `adjacent`, `all`, or a list"),
        ("stages_of_inference.swaps", ["1-1"], "stages_of_inference.swaps: '1-1' swaps a layer with itself"),
        ("stages_of_inference.swaps", ["0-9"], "'0-9' names layer 9, but the layers of models.tiny are 0 to 1"),
        (
            "stages_of_inference.swaps",
            [],
            "stages_of_inference.swaps is empty: name pairs of layers, choose `adjacent`",
        ),
        ("stages_of_inference.probes.features", ["ends_in"], "there is no feature 'ends_in'; did you mean 'ends_ing'?"),
        ("stages_of_inference.probes.features", [], "stages_of_inference.probes.features is empty: name a feature, or"),
        ("stages_of_inference.interventions", [], "stages_of_inference.interventions is empty: name what is done"),
        (
            "stages_of_inference.parts",
            [],
            "stages_of_inference.parts is empty, but stages_of_inference.models names tiny",
        ),
        (
            "stages_of_inference.offsets",
            31,
            "stages_of_inference.offsets: 31 tokens back, but no token that counts in texts.words has more than 30",
        ),
        (
            "stages_of_inference.subjoiners.context",
            62,
            "stages_of_inference.subjoiners.context: 62 tokens and a word of up to 3 are 65 tokens, but the context of",
        ),
        ("stages_of_inference.lens.tokens", 0, "0 is less than the minimum of 1"),
        ("ablation.traced_tokens", 0, "0 is less than the minimum of 1"),
        ("ablation.traced_tokens", 1.5, "1.5 is not of type 'integer'"),
        (
            "stages_of_inference.lens.passage",
            2,
            "unknown key 'stages_of_inference.lens.passage'; did you mean 'passages'?",
        ),
        ("models.stages", {"source": "demo"}, "models.stages: the name is reserved"),
        ("models.copying", {"source": "demo"}, "models.copying: the name is reserved"),
        ("texts.words.path", "nowhere.txt", "texts.words.path: there is no file 'nowhere.txt'"),
    ],
)
def test_the_configuration(project, path, value, message):
    assert message in refuse(project, set_value(project.config(), path, value))


@pytest.mark.parametrize(
    ("pattern", "message"), [("tokenizer*", "holds no tokenizer"), ("*.safetensors", "holds no weights")]
)
def test_an_incomplete_model_directory(project, tiny_directory, pattern, message):
    broken = project.directory / "model"
    shutil.copytree(tiny_directory, broken, ignore=shutil.ignore_patterns(pattern))
    output = refuse(project, set_value(project.config(), "models.tiny.path", str(broken)))
    assert "models.tiny" in output
    assert message in output


def test_an_unknown_revision_lists_the_known_ones(project, tiny_directory):
    config = project.config()
    config["confidence_regulation"] |= {"models": ["tiny@step_7"], "references": {}}
    output = refuse(project, config)
    assert "models.tiny@step_7" in output
    assert "step_7" in output


@pytest.mark.parametrize("example", sorted((ROOT / "config" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_planned_once_their_paths_are_filled_in(project, example):
    config, own = yaml.safe_load(example.read_text()), project.config()
    for name in ("models", "texts", "facts"):
        path = next(iter(own[name].values()))["path"]
        for entry in config.get(name, {}).values():
            if "path" in entry:
                entry["path"] = path
            if "sequence_length" in entry:
                entry["sequence_length"] = 32  # the tiny model's context is 64 tokens
    project.configure(config)
    planned = project.planned()
    studied = config.get("confidence_regulation", {}).get("models", [])
    compared = [model for entry in config.get("comparisons", {}).values() for model in entry["models"]]
    assert planned.get("draw_overview", 0) == len(studied)
    assert planned.get("survey_model", 0) == len(compared)
    assert planned.get("score_copying", 0) == len(config.get("context_copying", {}).get("models", []))


def test_a_dry_run_needs_no_network(project):
    """A hub model that nobody could fetch from here is planned all the same."""
    config = project.config()
    config["models"]["far"] = {"source": "hub", "name": "nobody/nothing", "revision": "0123abc"}
    config["confidence_regulation"]["models"].append("far")
    project.configure(config)
    assert project.planned()["fetch_model"] == 1


def test_a_reference_of_another_vocabulary_is_refused(project, tiny_directory, tmp_path):
    other = shutil.copytree(tiny_directory, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    pieces = tokenizer["model"]["vocab"]
    pieces["a"], pieces["b"] = pieces["b"], pieces["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = project.config()
    config["models"]["twin"]["path"] = str(other)
    output = refuse(project, config)
    assert "confidence_regulation.references.tiny: 'twin' has another vocabulary (piece 'a' has id" in output


def test_the_bias_alone_is_a_reference(project):
    """softmax(b_U) needs no larger model, and no model may be called what it is called."""
    config = project.config()
    config["confidence_regulation"]["references"] = {"tiny": "bias"}
    project.configure(config)
    assert project.planned()["measure_reference_kl"] == 1
    config["models"]["bias"] = config["models"]["twin"]
    assert "references.tiny: 'bias' means softmax(b_U); rename the model" in refuse(project, config)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "results/tniy/weights/figures/norm_logitvar.svg",
            "no 'tniy' under models in the configuration; did you mean 'tiny'",
        ),
        (
            "results/tiny/texts/wrods/tokens.parquet",
            "no 'wrods' under texts in the configuration; did you mean 'words'",
        ),
    ],
)
def test_a_mistyped_target(project, target, message):
    assert message in project.run("--dry-run", target, ok=False)


def test_the_default_configuration_is_planned(tmp_path: Path):
    output = Project(tmp_path).run("--dry-run", default_config=True)
    assert "make_demo_world" in output
    assert "train_demo_model" not in output
