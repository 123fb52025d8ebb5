"""What a model brings along is not run, and access tokens stay in the environment."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from fake_hub import FakeHub
from neuronlab import fetching
from neuronlab.configuration import ConfigError, check_keys
from neuronlab.fetching import fetch_model
from neuronlab.jobs import job
from neuronlab.model_files import ModelError, ModelSpec
from neuronlab.models import load_model
from neuronlab.vocabulary import load_vocabulary

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "x" * 34

CONFIG_CODE = """
from pathlib import Path
from transformers import GPT2Config
Path({marker!r}).touch()
class Mine(GPT2Config):
    model_type = {model_type!r}
"""
MODEL_CODE = """
from pathlib import Path
from transformers import GPT2LMHeadModel
Path({marker!r}).touch()
class Mine(GPT2LMHeadModel):
    pass
"""
TOKENIZER_CODE = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast
Path({marker!r}).touch()
class Mine(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def copy(tiny_directories, tmp_path, monkeypatch):
    """A copy of a tiny GPT-2 that a test may spoil."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return Path(shutil.copytree(tiny_directories["gpt2"], tmp_path / "gpt2"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def add_code(directory: Path, marker: Path, model_type: str) -> None:
    """Code for configuration, model and tokenizer, all of which leave a mark when imported."""
    values = {"marker": str(marker), "model_type": model_type}
    (directory / "of_config.py").write_text(CONFIG_CODE.format(**values))
    (directory / "of_model.py").write_text(MODEL_CODE.format(**values))
    (directory / "of_tokenizer.py").write_text(TOKENIZER_CODE.format(**values))
    classes = {"AutoConfig": "of_config.Mine", "AutoModelForCausalLM": "of_model.Mine"}
    edit(directory / "config.json", model_type=model_type, auto_map=classes)
    edit(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "of_tokenizer.Mine"]})


def spec_of(path: Path, **other: object) -> ModelSpec:
    return ModelSpec("mine", "directory", path=str(path), device="cpu", **other)


# ---- code and pickles


def test_code_of_a_known_architecture_is_not_run(copy, tmp_path, tiny_model):
    """It would be asked for by config.json; the library's own classes serve as well."""
    add_code(copy, tmp_path / "ran", "gpt2")
    tokens = torch.arange(12)[None]
    assert torch.equal(load_model(spec_of(copy)).logits(tokens), tiny_model("gpt2").logits(tokens))
    assert not (tmp_path / "ran").exists()


def test_code_of_an_unknown_architecture_is_refused(copy, tmp_path):
    add_code(copy, tmp_path / "ran", "nobody_knows")
    for load in (load_model, load_vocabulary):
        with pytest.raises(ModelError, match=r"(?s)^models\.mine: .*trust_remote_code"):
            load(spec_of(copy))
    assert not (tmp_path / "ran").exists()


def test_code_is_run_where_the_configuration_trusts_it(copy, tmp_path):
    """Else the tests above would prove nothing."""
    add_code(copy, tmp_path / "ran", "nobody_knows")
    load_vocabulary(spec_of(copy, trust_remote_code=True))
    assert (tmp_path / "ran").exists()


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_beside_safetensors_is_not_opened(copy, tmp_path):
    torch.save({"weight": Malicious(tmp_path / "ran")}, copy / "pytorch_model.bin")
    load_model(spec_of(copy))
    assert not (tmp_path / "ran").exists()


def test_trust_is_off_by_default():
    schema = yaml.safe_load((ROOT / "config" / "schema.yaml").read_text())
    entry = schema["properties"]["models"]["additionalProperties"]["properties"]["trust_remote_code"]
    assert entry["default"] is False
    assert ModelSpec("mine", "hub").trust_remote_code is False
    for path in (ROOT / "config").rglob("*.yaml"):
        assert not re.search(r"trust_remote_code: *(true|yes|on)\b", path.read_text(), re.IGNORECASE), path


def test_nothing_but_weights_is_unpickled():
    """Neither torch.load without weights_only, nor NumPy's pickles, nor YAML that builds objects, nor eval."""
    forbidden = re.compile(
        r"torch\.load\((?!.*weights_only=True)|allow_pickle=True|\bpickle\b|joblib|yaml\.(unsafe_)?load\(|(?<![.\w])eval\("
    )
    sources = [*(ROOT / "workflow_scripts").rglob("*.py"), *(ROOT / "rules").glob("*.smk"), ROOT / "Snakefile"]
    assert len(sources) > 100
    for source in sources:
        for number, line in enumerate(source.read_text().splitlines(), 1):
            assert not forbidden.search(line.split("#")[0]), f"{source}:{number}: {line}"


# ---- tokens


@pytest.mark.parametrize("key", ["token", "hf_token", "use_auth_token", "password"])
def test_the_configuration_has_no_place_for_a_token(key):
    schema = yaml.safe_load((ROOT / "config" / "schema.yaml").read_text())
    for config in ({key: TOKEN}, {"models": {"mine": {"source": "hub", key: TOKEN}}}, {"compute": {key: TOKEN}}):
        with pytest.raises(ConfigError, match=rf"unknown key '.*{key}'") as caught:
            check_keys(config, schema)
        assert TOKEN not in str(caught.value)


def test_logs_provenance_and_manifests_hold_no_token(tiny_directories, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served = FakeHub(Path(shutil.copytree(tiny_directories["gpt2"], tmp_path / "served")))
    monkeypatch.setattr(fetching, "HfApi", lambda: served)
    monkeypatch.setattr(fetching, "snapshot_download", served.snapshot_download)
    params = {"code": "0", "network": True}
    snakemake = SimpleNamespace(rule="fetch_model", params=params, log=[str(tmp_path / "out" / "log")])
    with job(snakemake) as run:
        spec = ModelSpec("mine", "hub", name="owner/tiny", revision="main")
        fetch_model(model=spec, manifest=tmp_path / "out" / "model" / "manifest.json")
    captured = capsys.readouterr()
    written = "".join(path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "owner/tiny" in written
    for text in (written, captured.out, captured.err, repr(run.provenance)):
        assert TOKEN not in text


def test_a_job_that_fails_shows_no_token(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    snakemake = SimpleNamespace(rule="r", params={"network": True}, log=[str(tmp_path / "log")])
    with pytest.raises(SystemExit), job(snakemake):
        raise ValueError("no access")
    captured = capsys.readouterr()
    assert "no access" in captured.err
    assert TOKEN not in captured.out + captured.err + (tmp_path / "log").read_text()


def test_no_file_of_the_repository_holds_or_passes_a_token():
    """Tokens are found by the hub's own library, in the environment; no code of ours touches them."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    secret = re.compile(
        rb"hf_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    )
    passed = re.compile(rb"\btoken=(?!None)|environ(\.get)?[\[(]['\"]HF_TOKEN")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file():  # removed and not yet committed
            continue
        content = path.read_bytes()
        assert not secret.search(content), name
        if name.startswith(("workflow_scripts/", "rules/")) and name.endswith((".py", ".smk")):
            assert not passed.search(content), name
