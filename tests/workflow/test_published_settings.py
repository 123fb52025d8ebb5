"""The published settings: all models, pinned; graphs built offline in seconds; three studies in one results folder."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from neuronlab.configuration_extends import extended
from neuronlab.published_models import VALUES, published_models, published_name
from project import ROOT, copy_code

PLACEHOLDERS = Path(__file__).parent / "placeholders.py"
CONFIG = ROOT / "config"
STUDIES = {
    "confidence_regulation": {"confidence_regulation", "token_frequency", "dose_response", "induction"},
    "context_copying": {"context_copying"},
    "stages_of_inference": {"stages_of_inference"},
}
# The models of the papers by their hub names (METHODS A0, B0, C).
PYTHIA = {f"EleutherAI/pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b")}
GPT2 = {f"openai-community/gpt2{size}" for size in ("", "-medium", "-large")}
PAPERS = {
    "confidence_regulation": PYTHIA
    | GPT2
    | {"stanford-crfm/alias-gpt2-small-x21", "facebook/opt-125m", "microsoft/phi-1", "microsoft/phi-2"}
    | {"google/gemma-2b", "meta-llama/Llama-2-7b-hf"},
    "context_copying": {"openai-community/gpt2", "EleutherAI/pythia-1.4b", "microsoft/phi-1_5"}
    | {"mistralai/Mistral-7B-v0.1", "meta-llama/Meta-Llama-3-8B"},
    "stages_of_inference": GPT2
    | {"openai-community/gpt2-xl", "microsoft/phi-1", "microsoft/phi-1_5", "microsoft/phi-2"}
    | {f"EleutherAI/pythia-{size}-deduped" for size in ("410m", "1.4b", "2.8b", "6.9b")},
}
# Study B's k and number of neurons (METHODS 0.3, 0.4), by hub name.
COPYING = {
    "openai-community/gpt2": (40, 6),
    "EleutherAI/pythia-1.4b": (48, 9),
    "microsoft/phi-1_5": (48, 12),
    "mistralai/Mistral-7B-v0.1": (96, 14),
    "meta-llama/Meta-Llama-3-8B": (96, 10),
}
NOT_VERIFIED = {"stanford-gpt2-small-a", "c4", "pile"}


def settings(study: str) -> dict:
    path = CONFIG / f"{study}.yaml"
    return extended(yaml.safe_load(path.read_text()), [path.parent])


MODELS = yaml.safe_load((CONFIG / "models.yaml").read_text())["models"]


def parameters(name: str, size: Mapping[str, int]) -> int:
    """Parameters of an architecture by its sizes: embeddings, layers, final norm; and what its family adds."""
    d, layers, mlp, vocab = (size[key] for key in ("d_model", "n_layers", "d_mlp", "d_vocab"))
    biased = layers * (4 * d * d + 2 * d * mlp + 9 * d + mlp) + 2 * d  # with biases, and two norms of gain and bias
    gated = layers * (3 * d * mlp + 2 * d) + d  # without the attention
    if "gpt2" in name:
        return vocab * d + 1024 * d + biased
    if "pythia" in name:
        return 2 * vocab * d + biased
    if "opt" in name:
        return vocab * d + 2050 * d + biased
    if "phi" in name:  # one norm per layer, a bias of the unembedding
        return 2 * vocab * d + vocab + biased - 2 * d * layers
    if "gemma" in name:  # 8 query heads of 256 and one key head; tied embeddings
        return vocab * d + layers * (2 * d * 2048 + 2 * d * 256) + gated
    heads = 1 if "Llama-2" in name else 1 / 4  # keys and values per query head
    return 2 * vocab * d + int(layers * d * d * (2 + 2 * heads)) + gated


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_the_architecture(name: str) -> None:
    size = MODELS[name]["size"]
    assert set(size) == {"parameters", "d_model", "n_layers", "d_mlp", "d_vocab"}
    assert size["parameters"] == parameters(MODELS[name]["name"], size)
    known = published_models().get(published_name(MODELS[name], name) or "")
    if known:
        assert (size["d_model"], size["n_layers"]) == (known.d_model, known.n_layers)


@pytest.mark.parametrize("study", STUDIES)
def test_every_model_of_the_papers_is_studied(study: str) -> None:
    config = settings(study)
    assert {config["models"][name]["name"] for name in config[study]["models"]} == PAPERS[study]


def test_every_configured_model_is_studied() -> None:
    used = {name for study in STUDIES for name in settings(study)[study]["models"]}
    assert used == set(MODELS)


def test_revisions_are_commits_or_said_not_to_be_verified() -> None:
    config = settings("confidence_regulation")
    fetched = {**config["models"], **config["texts"]}
    unpinned = {name for name, entry in fetched.items() if not re.fullmatch(r"[0-9a-f]{40}", entry["revision"])}
    assert unpinned == NOT_VERIFIED
    lines = (CONFIG / "models.yaml").read_text()
    for name in unpinned:
        block = re.search(rf"^  {re.escape(name)}:.*?(?=^  \S|^\S)", lines, re.MULTILINE | re.DOTALL)[0]
        assert "not verified" in block, f"models.yaml should say that the revision of {name} is not verified"


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_sets_nothing_that_another_one_reads(study: str) -> None:
    own = yaml.safe_load((CONFIG / f"{study}.yaml").read_text())
    assert own.pop("extends") == "models.yaml"
    assert set(own) <= STUDIES[study]
    assert settings(study)["seed"] == 42


def test_named_sets_are_the_published_ones() -> None:
    with VALUES.open(newline="") as file:
        published = [row for row in csv.DictReader(file) if row["list"] == "entropy"]
    selections = settings("context_copying")["selections"]
    named = [entry for entry in selections.values() if entry["rule"] == "explicit"]
    assert len(named) == 8
    for entry in named:
        (model,) = entry["models"]
        key = published_name(MODELS[model], model)
        rows = {
            f"{row['layer']}.{row['neuron']}"
            for row in published
            if row["model"] == key and row["study"] in ("confidence_regulation", "context_copying")
        }
        assert set(entry["neurons"]) == rows, model


def test_study_b_has_its_rule_its_k_and_its_own_sets() -> None:
    config = settings("context_copying")
    for name in config["context_copying"]["models"]:
        k, count = COPYING[MODELS[name]["name"]]
        assert k in MODELS[name]["null_space_k"]
        mine = {key: entry for key, entry in config["selections"].items() if entry.get("models") == [name]}
        (rule,) = (entry for entry in mine.values() if entry["rule"] == "rho_then_logit_var")
        assert (rule["k"], rule["count"]) == (k, count)
        (chosen,) = set(mine) & set(config["context_copying"]["selections"])
        assert len(mine[chosen]["neurons"]) == count
    assert MODELS["gpt2"]["null_space_k"][0] == 12  # study A's rules take the first
    assert config["context_copying"]["templates"] == {"gpt2": "plain"}
    assert config["context_copying"]["controls"]["uniform"] == 100


class Runner:
    """Snakemake with the published settings, from a copy of the code, in one results folder."""

    def __init__(self, code: Path, directory: Path) -> None:
        self.code, self.directory = code, directory

    def run(self, study: str, *arguments: str, program: tuple[str, ...] = ("-m", "snakemake")) -> tuple[str, float]:
        """Output, and processor seconds: wall-clock time is the machine's, and what else runs on it."""
        command = [sys.executable, *program, *arguments, "--snakefile", str(self.code / "Snakefile")]
        command += ["--directory", str(self.directory), "--cores", "1"]
        command += ["--configfile", str(self.code / "config" / f"{study}.yaml")]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-4000:]
        return output, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def planned(self, study: str) -> tuple[dict[str, int], float]:
        """How many jobs of every rule a dry run announces, and the processor seconds that it takes."""
        output, seconds = self.run(study, "--dry-run", "--quiet", "rules")
        counts = re.findall(r"^(\w+) +(\d+)$", output.split("\ntotal ", 1)[0], re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule != "all"}, seconds


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_code(tmp_path_factory.mktemp("published") / "code")


# Jobs of some rules in each study, which stand for all that is asked for.
EXPECTED = {
    "confidence_regulation": {
        "fetch_model": 16,
        "fetch_text": 1,
        "measure_neurons": 16,
        "ablate_neurons": 16 * 4,
        "verify_ablation": 16,
        "draw_overview": 16,
        "draw_published": 11,  # models with published neurons among them
        "draw_induction_ablation": 2 * 16,
        "draw_head_ablation": 16,
        "draw_dose_response": 16,
        "write_cards": 16,
    },
    "context_copying": {
        "fetch_model": 5,
        "fetch_facts": 1,
        "decode_conflicts": 5 * 8,
        "verify_decoding": 5,
        "draw_transition_matrix": 5,
        "draw_published_copying": 5,
        "write_copying_tables": 5,
        "compare_copying": 1,
    },
    "stages_of_inference": {
        "fetch_model": 11,
        "fetch_text": 1,
        "intervene_layers": 11,
        "draw_swap_matrix": 11,
        "draw_lens": 11,
        "draw_local_attention": 11,
        "draw_subjoiners": 11,
        "draw_feature_neurons": 11,
        "draw_probes": 11,
        "overlay_interventions": 1,
        "overlay_stages": 1,
    },
}


@pytest.mark.parametrize("study", STUDIES)
def test_graph_is_built_offline_in_seconds(study: str, code: Path, tmp_path: Path) -> None:
    planned, seconds = Runner(code, tmp_path).planned(study)
    print(f"{study}: {sum(planned.values())} jobs in {seconds:.1f} s of processor time")
    assert {rule: planned.get(rule, 0) for rule in EXPECTED[study]} == EXPECTED[study]
    assert seconds < 10


def fetched_sizes(directory: Path) -> None:
    """The config.json that `fetch_model` would leave: what a workflow reads of fetched models while it is parsed."""
    for name, entry in MODELS.items():
        size, path = entry["size"], directory / "results" / "inputs" / "models" / name / "config.json"
        path.parent.mkdir(parents=True)
        content = {"hidden_size": size["d_model"], "num_hidden_layers": size["n_layers"], "vocab_size": size["d_vocab"]}
        content |= {"intermediate_size": size["d_mlp"], "num_attention_heads": 8, "max_position_embeddings": 1024}
        path.write_text(json.dumps(content))


@pytest.mark.slow
def test_three_studies_share_a_results_folder_and_nothing_is_stale(code: Path, tmp_path: Path) -> None:
    fetched_sizes(tmp_path)
    runner = Runner(code, tmp_path)
    made = {}
    for study in STUDIES:
        made[study], _ = runner.planned(study)
        runner.run(study, "--quiet", "all", program=(str(PLACEHOLDERS),))
    # What an earlier study made is taken over: only its own models are new to a later one.
    assert made["context_copying"]["fetch_model"] == 3  # gpt2 and pythia-1.4b are there
    assert made["context_copying"]["select_neurons"] == 3
    assert made["stages_of_inference"]["measure_neurons"] == 5  # the deduplicated Pythias and gpt2-xl
    total = 0.0
    for study in STUDIES:
        output, seconds = runner.run(study, "--dry-run")
        assert "Nothing to be done" in output, output[-3000:]
        total += seconds
    print(f"nothing to be done in all three: {total:.1f} s of processor time")
    assert total < 20
    # The same records show a difference where there is one.
    output, _ = runner.run("context_copying", "--dry-run", "--config", "seed=7")
    assert "Nothing to be done" not in output
    assert "params have changed" in output
