"""Preflight against a faked hub: every problem is found, all are listed, nothing is downloaded but config.json."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections import namedtuple
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fake_hub import COMMIT, FAULTS, FakeHub
from neuronlab import fetching, preflight_contents, preflight_models, preflight_texts
from neuronlab import preflight as module
from neuronlab.documents import TextSpec
from neuronlab.fact_files import FactError
from neuronlab.fetching import FetchError, fetch_model
from neuronlab.model_files import ModelSpec
from neuronlab.preflight import ANSWER_BYTES, PreflightError, preflight, results_bytes
from neuronlab.preflight_contents import check_contents
from neuronlab.preflight_models import Finding
from neuronlab.used_inputs import unused_models, used_facts, used_models, used_texts
from snakemake.utils import validate

SCHEMA = Path(module.__file__).parents[2] / "config" / "schema.yaml"
PINNED = "f" * 40
HUB = {"source": "hub", "name": "owner/tiny", "revision": PINNED}
PROSE = {"source": "hub", "name": "owner/words", "revision": PINNED}


def complete(config: dict) -> dict:
    """A configuration with the schema's defaults filled in."""
    config = deepcopy(config)
    for entry in config.get("texts", {}).values():
        entry.setdefault("sequence_length", 64)  # the context of the model that is served
    validate(config, SCHEMA)
    return config


@pytest.fixture
def fake(tiny_directories, tmp_path, monkeypatch):
    """A hub that serves a tiny GPT-2 under every name."""
    served = FakeHub(Path(shutil.copytree(tiny_directories["gpt2"], tmp_path / "served")))
    monkeypatch.setattr(fetching, "HfApi", lambda: served)
    monkeypatch.setattr(fetching, "snapshot_download", served.snapshot_download)
    monkeypatch.setattr(preflight_models, "get_token", lambda: None)
    monkeypatch.setattr(preflight_texts, "bytes_to_fetch", lambda key, *files: 5_000_000_000)
    return served


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """`check(config)` is what preflight prints, and its problems; in a fresh working directory."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)

    def run(config: dict) -> tuple[str, list[str]]:
        config = complete(config)
        models, demands = [], {}
        for name in used_models(config):
            base, _, revision = name.partition("@")
            entry = config["models"][base]
            path = f"results/inputs/models/{name}" if entry["source"] == "hub" else entry.get("path")
            named = revision or entry.get("revision")
            code = entry["trust_remote_code"]
            models.append(ModelSpec(name, entry["source"], path, entry.get("name"), named, trust_remote_code=code))
            ks = entry.get("null_space_k", [4])
            demands[name] = {"model": name, "null_space_k": ks, "k_key": "K", "selections": {}, "texts": []}
            demands[name]["texts"] = used_texts(config)
        problems: list[str] = []
        try:
            preflight(
                models=models,
                demands=demands,
                texts=[TextSpec(name, **config["texts"][name]) for name in used_texts(config)],
                facts={name: files_of(config["facts"][name]) for name in used_facts(config)},
                config=config,
                inputs="results/inputs",
            )
        except PreflightError as error:
            lines = str(error).splitlines()
            assert lines[0] == "this is in the way:"
            problems = [line.partition(". ")[2] for line in lines[1:]]
        return capsys.readouterr().out, problems

    return run


def files_of(entry: dict) -> list[str]:
    return [entry[key] for key in ("path", "relations") if key in entry] or ["facts.csv", "relations.xlsx"]


def study(models: dict, **more: dict) -> dict:
    return {"models": models, "confidence_regulation": {"models": list(models), "texts": []}, **more}


def row(printed: str, name: str) -> list[str]:
    """Cells of the line about a model, text or knowledge base."""
    (line,) = (line for line in printed.splitlines() if line.split()[1:2] == [name])
    return line.split(maxsplit=5)


# ---- what is looked at


def test_what_the_studies_name_is_used():
    config = complete(
        {
            "models": dict.fromkeys(("a", "b", "c", "d", "e", "spare"), HUB),
            "texts": dict.fromkeys(("one", "two", "three", "four", "spare"), PROSE),
            "facts": {"known": {"source": "demo", "text": "four"}, "spare": {"source": "demo", "text": "spare"}},
            "confidence_regulation": {"models": ["a"], "texts": ["one"], "references": {"a": "b"}},
            "context_copying": {"models": ["c"], "facts": ["known"]},
            "stages_of_inference": {"models": ["a", "a@x"], "texts": ["two"]},
            "comparisons": {"both": {"models": ["d@1", "d@2"], "text": "one"}},
            "selections": {"s": {"rule": "top_rho", "count": 1, "activation_kurt_max": 3, "text": "three"}},
        }
    )
    assert used_models(config) == ["a", "c", "a@x", "b", "d@1", "d@2"]
    assert unused_models(config) == ["e", "spare"]
    assert sorted(used_texts(config)) == ["four", "one", "three", "two"]
    assert used_facts(config) == ["known"]


def test_the_bias_is_no_model():
    config = complete({"models": {"a": HUB}, "confidence_regulation": {"models": ["a"], "references": {"a": "bias"}}})
    assert used_models(config) == ["a"]


def test_a_file_of_models_alone_is_looked_at_whole(fake, check):
    """Configurations share a file of models; nothing in it is studied."""
    fake.dataset = {"data.parquet": 1}
    printed, problems = check(
        {"models": {"a": HUB, "b": HUB}, "texts": {"t": PROSE}, "facts": {"f": {"source": "demo"}}}
    )
    assert not problems
    assert [line.split()[:2] for line in printed.splitlines()[1:5]] == [
        ["model", "a"],
        ["model", "b"],
        ["text", "t"],
        ["facts", "f"],
    ]


def test_unused_models_are_named_and_not_asked_for(fake, check):
    config = study({"mine": HUB})
    config["models"]["spare"] = HUB | {"name": "owner/gated"}
    printed, problems = check(config)
    assert not problems
    assert "no study or comparison names them: spare" in printed
    assert not any("owner/gated" in call for call in fake.asked)


# ---- models


def test_a_model_that_can_be_fetched(fake, check):
    fake.parameters = 50_000
    (fake.directory / "tf_model.h5").write_bytes(bytes(10**6))  # never fetched, never counted
    weights = fake.directory / "model.safetensors"
    weights.write_bytes(bytes(2_340_000_000 // 100))  # only its size is asked for
    size = {"parameters": 60_000, "d_model": 32, "n_layers": 2, "d_mlp": 48}
    printed, problems = check(study({"mine": HUB | {"size": size}}))
    assert not problems
    assert row(printed, "mine") == ["model", "mine", PINNED[:16], COMMIT[:12], "0.02", "can be fetched"]
    assert fake.downloads == ["config.json"]
    assert "Note" not in printed
    assert "Disk: 0.02 GB are to be fetched and results may take 0.02 GB" in printed
    assert not Path("results").exists()


@pytest.mark.parametrize("call", ["auth_check", "model_info", "snapshot_download"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_hub(fake, check, fault, call):
    """Whatever the hub says of one model, the others are still looked at, unless nothing of it can be reached."""
    make, words = FAULTS[fault]
    fake.faults[f"{call} owner/bad"] = make()
    printed, problems = check(
        study({"first": HUB, "bad": HUB | {"name": "owner/bad", "revision": "main"}, "last": HUB})
    )
    (problem,) = problems
    if fault in ("offline", "not cached", "no host", "no network"):
        # Threads ask at a time of their own: models beside it may or may not have been looked at before.
        assert re.match(r"the hub cannot be reached, and this is to be fetched: .*models\.bad[,;]", problem)
        assert row(printed, "bad")[-1] == "hub unreachable"
    else:
        assert re.match(r"models\.bad.*'owner/bad'", problem)
        assert re.search(words, problem)
        assert row(printed, "bad")[-1] == "1 in the way"
        assert row(printed, "first")[-1] == row(printed, "last")[-1] == "can be fetched"
    assert set(fake.downloads) <= {"config.json"}


@pytest.mark.parametrize(("token", "words"), [(None, "no token is set here"), ("hf_secret", "has no access")])
def test_a_gated_model_says_whether_a_token_is_set_and_never_shows_it(fake, check, monkeypatch, token, words):
    fake.faults["auth_check"] = FAULTS["gated"][0]()
    monkeypatch.setattr(preflight_models, "get_token", lambda: token)
    printed, problems = check(study({"mine": HUB}))
    (problem,) = problems
    assert "accept its terms at https://huggingface.co/owner/tiny and set HF_TOKEN" in problem
    assert words in problem
    assert "hf_secret" not in printed + problem


def test_all_problems_are_listed(fake, check):
    fake.faults = {
        "auth_check owner/gated": FAULTS["gated"][0](),
        "model_info owner/moved": FAULTS["revision"][0](),
        "auth_check owner/unknown": FAULTS["unknown"][0](),
    }
    models = {
        "gated": HUB | {"name": "owner/gated"},
        "moved": HUB | {"name": "owner/moved"},
        "planned": HUB | {"size": {"d_model": 64, "n_layers": 3, "d_mlp": 48}},
        "empty": {"source": "directory", "path": "empty"},
        "demo": {"source": "demo"},
    }
    Path("empty").mkdir()
    config = study(
        models, texts={"lost": {"source": "file", "path": "lost.txt"}, "far": PROSE | {"name": "owner/unknown"}}
    )
    config["confidence_regulation"]["models"] += ["demo@never"]
    config["confidence_regulation"]["texts"] = ["lost", "far"]
    config["facts"] = {"own": {"source": "file", "path": "facts.csv"}}
    config["context_copying"] = {"models": ["demo"], "facts": ["own"]}
    printed, problems = check(config)
    beginnings = [
        "models.gated.name: 'owner/gated' is gated",
        "models.moved.revision: 'owner/moved' has no revision",
        "models.planned.size.d_model is 64, but config.json says 32; correct it",
        "models.planned.size.n_layers is 3, but config.json says 2; correct it",
        "models.empty: 'empty' holds no config.json",
        "models.demo@never: there is no model directory",
        "texts.lost.path: 'lost.txt' cannot be read (No such file or directory); correct the path",
        "texts.far.name: the hub knows no 'owner/unknown', or it is private",
        "facts.own.path: 'facts.csv' cannot be read",
    ]
    assert len(problems) == len(beginnings)
    for problem, beginning in zip(problems, beginnings, strict=True):
        assert problem.startswith(beginning)
    assert row(printed, "planned")[-1] == "2 in the way"
    assert "Nothing is in the way" not in printed


def test_without_a_network_one_problem_names_all_that_were_not_looked_at(fake, check):
    fake.faults["auth_check"] = FAULTS["no host"][0]()
    models = dict.fromkeys(("a", "b", "c"), HUB) | {"demo": {"source": "demo"}}
    config = study(models, texts={"t": PROSE})
    config["confidence_regulation"]["texts"] = ["t"]
    printed, problems = check(config)
    (problem,) = problems
    assert problem.startswith(
        "the hub cannot be reached, and this is to be fetched: models.a, models.b, models.c, texts.t; connect this"
    )
    assert fake.asked == ["auth_check owner/tiny"]  # each question might wait for seconds
    assert row(printed, "b")[-2:] == ["?", "hub unreachable"]
    assert row(printed, "demo")[-1] == "ok"


def test_a_model_that_is_here_needs_no_network(fake, check):
    config = study({"mine": HUB})
    manifest = Path("results/inputs/models/mine/manifest.json")
    fetch_model(model=ModelSpec("mine", "hub", name="owner/tiny", revision=PINNED), manifest=manifest)
    fake.faults["auth_check"] = FAULTS["offline"][0]()
    printed, problems = check(config)
    assert not problems
    assert row(printed, "mine") == ["model", "mine", PINNED[:16], COMMIT[:12], "-", "is here"]
    # Sizes are compared with the files that are here.
    _, problems = check(study({"mine": HUB | {"size": {"d_vocab": 7}}}))
    assert problems[0].startswith("models.mine.size.d_vocab is 7, but config.json says ")
    # Another revision is another model.
    _, problems = check(study({"mine": HUB | {"revision": "e" * 40}}))
    assert "cannot be reached" in problems[0]


def fetched() -> Path:
    """The manifest of a model that is fetched here."""
    manifest = Path("results/inputs/models/mine/manifest.json")
    fetch_model(model=ModelSpec("mine", "hub", name="owner/tiny", revision=PINNED), manifest=manifest)
    return manifest


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"truncated"), "model.safetensors' is not what was"),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "tokenizer.json' is not what was fetched; delete '.*json'",
        ),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json' is damaged .*; delete it and run"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json' is damaged .*; delete it and run"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json' is damaged .*; delete it and run"),
    ],
)
def test_a_model_that_is_not_whole_is_in_the_way_until_its_manifest_is_deleted(fake, check, damage, words):
    """As planning the workflow has it: with this manifest no job would be run."""
    manifest = fetched()
    damage(manifest.parent)
    printed, problems = check(study({"mine": HUB}))
    (problem,) = problems
    assert re.match(rf"models\.mine: 'results/inputs/models/mine/{words}", problem)
    assert row(printed, "mine")[-1] == "1 in the way"
    manifest.unlink()
    printed, problems = check(study({"mine": HUB}))
    assert not problems
    assert row(printed, "mine")[-1] == "can be fetched"


def test_one_wrong_byte_of_a_model_is_found(fake, check):
    """Of unchanged size, which nothing else looks at; all that is damaged is named."""
    manifest = fetched()
    for name in ("model.safetensors", "tokenizer.json"):
        content = bytearray((manifest.parent / name).read_bytes())
        content[len(content) // 2] ^= 1
        (manifest.parent / name).write_bytes(content)
    printed, problems = check(study({"mine": HUB}))
    assert problems == [
        f"models.mine: 'results/inputs/models/mine/{name}' is not what was fetched (its content differs from the "
        f"manifest's sha256); add `--forcerun {manifest}` to your command: it is fetched again, and what was made from "
        "it made anew"
        for name in ("model.safetensors", "tokenizer.json")
    ]
    assert row(printed, "mine")[-1] == "2 in the way"
    fake.downloads.clear()
    manifest.unlink()  # as Snakemake does before it runs a rule again
    fetched()
    assert sorted(fake.downloads) == ["model.safetensors", "tokenizer.json"]
    assert not check(study({"mine": HUB}))[1]


def test_the_comparison_of_contents_shows_its_progress(fake, tmp_path, monkeypatch, capsys):
    """In bytes of all files, on stderr."""
    monkeypatch.chdir(tmp_path)
    (fake.directory / "model.safetensors").write_bytes(bytes(30_000_000))
    manifest = fetched()
    capsys.readouterr()
    check_contents([Finding("model", "mine", fetched=manifest)])
    assert re.search(r"sha256: 100%.* 30\.\d+M/30\.\d+M", capsys.readouterr().err)


def test_a_file_that_cannot_be_read_is_named(fake, check, monkeypatch):
    fetched()

    def fail(*_: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(preflight_contents, "_sha256", fail)
    problems = check(study({"mine": HUB}))[1]
    assert problems[0].startswith("models.mine: 'results/inputs/models/mine/config.json' cannot be read (Input/output")


def test_an_interrupted_download_counts_for_what_is_there(fake, check):
    weights = fake.directory / "model.safetensors"
    weights.write_bytes(bytes(20_000_000))
    size = sum(path.stat().st_size for path in fake.directory.iterdir())
    fake.break_at = "tokenizer.json"  # after the weights
    with pytest.raises(FetchError):
        fetched()
    fake.break_at = None
    printed, problems = check(study({"mine": HUB}))
    assert not problems
    assert size > 20_000_000
    assert row(printed, "mine")[-2:] == ["0.00", "partly here"]


def test_revisions_are_models_of_their_own(fake, check):
    config = study({"mine": HUB})
    config["comparisons"] = {"steps": {"models": ["mine@step1", "mine"], "text": "demo"}}
    config["texts"] = {"demo": {"source": "demo", "split": "evaluation_a"}}
    printed, problems = check(config)
    assert not problems
    assert fake.asked.count("model_info owner/tiny") == 2
    assert f"models.mine@step1.revision: 'step1' may move; it stands for {COMMIT} now" in printed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["T5Model"], "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"num_local_experts": 8}, "mixture of 8 experts"),
        ({"quantization_config": {"bits": 4}}, "is quantised"),
        (
            {"architectures": ["NobodyForCausalLM"]},
            "TransformerLens does not support NobodyForCausalLM; tested are GPT2",
        ),
        ({"n_embd": 4}, "K: 4 directions, but the model has d_model 4"),
        ({"n_positions": 16}, "texts.t.sequence_length: 64 tokens, but the context of models.mine is 16"),
    ],
)
def test_an_unfit_model_is_seen_by_its_config(fake, check, change, words):
    path = fake.directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    fake.dataset = {"data.parquet": 1}
    config = study({"mine": HUB}, texts={"t": PROSE})
    config["confidence_regulation"]["texts"] = ["t"]
    _, problems = check(config)
    assert any(words in problem for problem in problems)
    assert set(fake.downloads) == {"config.json"}


def test_an_architecture_that_is_supported_but_not_tested_is_noted(fake, check):
    path = fake.directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["OPTForCausalLM"]}))
    printed, problems = check(study({"mine": HUB}))
    assert not problems
    assert "Note: models.mine: OPTForCausalLM is not among the tested architectures" in printed


def test_planned_parameters_may_be_off_by_buffers_and_no_more(fake, check):
    fake.parameters = 506_000_000  # Pythia 410M with its buffers
    assert not check(study({"mine": HUB | {"size": {"parameters": 405_000_000}}}))[1]
    _, problems = check(study({"mine": HUB | {"size": {"parameters": 1_400_000_000}}}))
    assert problems == [
        "models.mine.size.parameters is 1400000000, but the files of 'owner/tiny' hold 506000000; correct it"
    ]


def test_code_and_pickles_are_noted(fake, check):
    (fake.directory / "model.safetensors").rename(fake.directory / "pytorch_model.bin")
    printed, problems = check(study({"mine": HUB | {"trust_remote_code": True}}))
    assert not problems
    assert "Note: models.mine.trust_remote_code is on: code that comes with 'owner/tiny' will be run" in printed
    assert "Note: models.mine: 'owner/tiny' has no safetensors; its .bin file is read by weights_only" in printed


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_repository_without_a_model(fake, check, file):
    (fake.directory / file).unlink()
    _, problems = check(study({"mine": HUB}))
    assert len(problems) == 1
    assert problems[0].startswith("models.mine.name: 'owner/tiny' on the hub holds no ")


# ---- texts, facts, disk


def test_a_text_of_the_hub(fake, check):
    fake.dataset = {"README.md": 10, "en/a.parquet": 3 * 10**9, "de/a.parquet": 7 * 10**9, "en-b.parquet": 10**9}
    texts = {
        "whole": PROSE,
        "part": PROSE | {"subset": "en"},
        "first": PROSE | {"max_documents": 5, "revision": "main"},
    }
    config = study({"demo": {"source": "demo"}}, texts=texts)
    config["confidence_regulation"]["texts"] = list(texts)
    printed, problems = check(config)
    assert not problems
    assert row(printed, "whole")[3:] == [COMMIT[:12], "11.00", "can be fetched"]
    assert row(printed, "part")[4:] == ["4.00", "can be fetched"]
    assert row(printed, "first")[4:] == ["?", "can be fetched"]
    assert "texts.part: at most 4.00 GB of 'owner/words' are fetched into the hub's cache (HF_HOME)" in printed
    assert f"texts.first.revision: 'main' may move; it stands for {COMMIT} now" in printed
    assert "Disk: 0.00 GB are to be fetched" in printed


def test_a_text_that_is_here(fake, check):
    folder = Path("results/inputs/texts/prose")
    folder.mkdir(parents=True)
    (folder / "documents.parquet").write_bytes(b"12345")
    entry = {"bytes": 5, "sha256": hashlib.sha256(b"12345").hexdigest()}
    record = {"name": "owner/words", "revision": PINNED, "commit": COMMIT, "files": {"documents.parquet": entry}}
    record["text"] = {"subset": None, "split": "train", "column": "text"}
    (folder / "manifest.json").write_text(json.dumps(record))
    fake.faults["auth_check"] = FAULTS["offline"][0]()
    config = study({"demo": {"source": "demo"}}, texts={"prose": PROSE})
    config["confidence_regulation"]["texts"] = ["prose"]
    printed, problems = check(config)
    assert not problems
    assert row(printed, "prose")[3:] == [COMMIT[:12], "-", "is here"]
    for change in ({"split": "test"}, {"name": "owner/others"}, {"subset": "en"}, {"revision": "e" * 40}):
        changed = study({"demo": {"source": "demo"}}, texts={"prose": PROSE | change})
        changed["confidence_regulation"]["texts"] = ["prose"]
        assert "cannot be reached" in check(changed)[1][0]
    remedy = f"add `--forcerun {folder}/documents.parquet` to your command"  # nothing asks for a text's manifest
    (folder / "documents.parquet").write_bytes(b"12346")
    (problem,) = check(config)[1]
    assert problem.startswith(f"texts.prose: '{folder}/documents.parquet' is not what was fetched (its content differs")
    assert remedy in problem
    (folder / "manifest.json").write_text("{}")
    (problem,) = check(config)[1]
    assert problem.startswith(f"texts.prose: '{folder}/manifest.json' is damaged (")
    assert remedy in problem
    (folder / "documents.parquet").unlink()
    assert "cannot be reached" in check(config)[1][0]


def test_a_file_of_ones_own(check):
    Path("prose.txt").write_text("words")
    Path("facts.csv").touch()
    texts = {"prose": {"source": "file", "path": "prose.txt", "counts": "counts.npy"}}
    config = study({"demo": {"source": "demo"}}, texts=texts)
    config["confidence_regulation"]["texts"] = ["prose"]
    config["facts"] = {"own": {"source": "file", "path": "facts.csv"}}
    config["context_copying"] = {"models": ["demo"], "facts": ["own"]}
    _, problems = check(config)
    assert problems == [
        "texts.prose.counts: 'counts.npy' cannot be read (No such file or directory); correct the path",
        "facts.own.path: 'facts.csv' is empty",
    ]


def test_facts_that_a_rule_fetches(fake, check, monkeypatch):
    config = study({"demo": {"source": "demo"}}, facts={"known": {"source": "pararel"}})
    config["context_copying"] = {"models": ["demo"], "facts": ["known"]}
    printed, problems = check(config)
    assert not problems
    assert row(printed, "known")[4:] == ["5.00", "can be fetched"]
    assert "Disk: 5.00 GB are to be fetched" in printed

    def fail(key: str, *files: str) -> int:
        raise FactError(f"facts.{key}: unreachable")

    monkeypatch.setattr(preflight_texts, "bytes_to_fetch", fail)
    assert check(config)[1] == ["facts.known: unreachable"]
    monkeypatch.setattr(preflight_texts, "bytes_to_fetch", lambda key, *files: 0)
    assert row(check(config)[0], "known")[4:] == ["-", "is here"]
    Path("facts.csv").write_bytes(b"of another edition")
    assert check(config)[1] == [
        "facts.known: 'facts.csv' is not what was fetched; add `--forcerun facts.csv` to your command: it is fetched "
        "again, and what was made from it made anew"
    ]


def test_without_a_network_the_disk_is_checked_by_what_was_planned(fake, check, monkeypatch):
    """Two bytes per parameter, of GPT-2 four; by the other sizes where parameters are not given."""
    fake.faults["auth_check"] = FAULTS["no host"][0]()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10, 10, 10**12))
    sizes = {"d_model": 4096, "n_layers": 32, "d_mlp": 14336, "d_vocab": 32000}
    models = {
        "gpt2-xl": HUB | {"size": {"parameters": 1_500_000_000}},
        "mistral": HUB | {"size": {"parameters": 7_000_000_000}},
        "another": HUB | {"size": sizes},
        "unknown": HUB,
    }
    blocks, embeddings = 32 * (4 * 4096**2 + 3 * 4096 * 14336), 2 * 32000 * 4096
    total = 6 + 14 + 2 * (blocks + embeddings) / 1e9
    printed, problems = check(study(models))
    assert [problem.partition(",")[0] for problem in problems] == ["the hub cannot be reached"]
    assert row(printed, "gpt2-xl")[-2:] == ["~6.00", "hub unreachable"]
    assert row(printed, "mistral")[-2:] == ["~14.00", "hub unreachable"]
    assert row(printed, "unknown")[-2:] == ["?", "hub unreachable"]
    assert (
        f"Disk: about {total:.2f} GB are to be fetched (an estimate by models.<name>.size, as the hub did not say), "
        "models.unknown not counted, and results may take "
    ) in printed
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10, 10, 10**10))
    _, problems = check(study(models))
    assert len(problems) == 2
    assert problems[1].startswith(f"disk: about {total:.2f} GB are to be fetched (an estimate")


def test_what_the_hub_says_is_no_estimate(fake, check):
    printed, problems = check(study({"mine": HUB | {"size": {"parameters": 10**12}}}))
    assert not problems
    assert row(printed, "mine")[-2:] == ["0.00", "can be fetched"]
    assert "estimate" not in printed


def test_too_little_disk(fake, check, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10, 10, 10**9))
    config = study({"demo": {"source": "demo"}}, facts={"known": {"source": "pararel"}})
    config["context_copying"] = {"models": ["demo"], "facts": ["known"]}
    _, problems = check(config)
    (problem,) = problems
    assert problem.startswith("disk: 5.00 GB are to be fetched and results may take 0.18 GB; ")
    assert problem.endswith("has 1.00 GB free: make room, or run the workflow on another disk (--directory)")


def test_a_folder_that_cannot_be_written_to(check, monkeypatch):
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    _, problems = check(study({"demo": {"source": "demo"}}))
    assert problems == [
        f"'{Path.cwd()}' cannot be written to (Permission denied); run the workflow in a folder of yours"
    ]


def test_results_of_the_default_run_are_estimated_within_a_factor_of_two():
    """487 MB, measured."""
    config = complete(yaml.safe_load((SCHEMA.parent / "config.yaml").read_text()))
    found = [Finding("model", name, d_mlp=1024) for name in used_models(config)]
    assert 487e6 / 2 < results_bytes(found, config) < 487e6 * 2


def test_answers_under_ablation_are_estimated():
    """Of 300 facts and 3 counter-objects; one set and 9 controls, at two values, and the clean answer;
    the set and two controls of each kind at five doses."""
    config = complete(
        {
            "models": {"one": {"source": "demo"}},
            "facts": {"known": {"source": "demo", "max_facts": 300}},
            "selections": {"s": {"rule": "top_rho", "count": 1}, "other": {"rule": "top_rho", "count": 2}},
            "context_copying": {
                "models": ["one"],
                "facts": ["known"],
                "selections": ["s"],
                "replacements": ["mean", "zero"],
                "controls": {"uniform": 2, "norm_matched": 3, "synthetic": 4},
                "dose_response": {"points": 5, "controls": 2},
            },
        }
    )
    without = results_bytes([], config | {"context_copying": config["context_copying"] | {"models": []}})
    assert results_bytes([], config) - without == 300 * 3 * (21 + 5 * 7) * ANSWER_BYTES
    config["selections"]["s"]["models"] = ["another"]
    assert results_bytes([], config) - without == 300 * 3 * 1 * ANSWER_BYTES


def test_the_same_problem_of_two_revisions_is_listed_once(fake, check):
    config = study({"mine": HUB | {"size": {"d_model": 64}}})
    config["confidence_regulation"]["models"] += [f"mine@{'e' * 40}"]
    assert len(check(config)[1]) == 1


def test_the_script_takes_what_snakemake_hands_over(monkeypatch, tmp_path):
    """Parameters arrive in Snakemake's containers; the rule's own test runs it in earnest."""
    called = {}
    monkeypatch.setattr(module, "preflight", lambda **values: called.update(values))
    params = SimpleNamespace(
        models=[{"key": "m", "source": "demo"}], demands={"m": {}}, texts=[{"key": "t"}], facts={}, inputs="in"
    )
    params.items = lambda: {"network": True}.items()
    handed = SimpleNamespace(params=params, config={"seed": 1}, rule="preflight", log=[str(tmp_path / "log")])
    script = SCHEMA.parents[1] / "workflow_scripts" / "preflight.py"
    exec(compile(script.read_text(), script, "exec"), {"snakemake": handed})
    assert called["models"] == [ModelSpec("m", "demo")]
    assert called["texts"] == [TextSpec("t")]
    assert called["config"] == {"seed": 1}
