"""Bad model directories: each is refused with a message that names key, path and remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from neuronlab.model_files import (
    DEMO_CHECKPOINTS,
    ModelError,
    ModelSpec,
    check_manifest,
    check_model_directory,
    file_record,
    model_directory,
    model_files,
    weight_files,
)
from neuronlab.models import load_model
from neuronlab.vocabulary import load_vocabulary
from safetensors.torch import load_file, save_file


@pytest.fixture
def copy(tiny_directories, tmp_path):
    """A copy of a tiny directory that a test may spoil: `copy(architecture="gpt2")`."""

    def make(architecture: str = "gpt2") -> Path:
        return Path(shutil.copytree(tiny_directories[architecture], tmp_path / architecture))

    return make


def spec_of(path: Path, **other) -> ModelSpec:
    return ModelSpec(**({"key": "mine", "source": "directory", "path": str(path), "device": "cpu"} | other))


def edit_config(path: Path, **changes) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def refused(path: Path, *expected: str) -> None:
    """Both the check of files and the loading refuse it, in the same words."""
    for attempt in (lambda: check_model_directory(path, "models.mine"), lambda: load_model(spec_of(path))):
        with pytest.raises(ModelError) as caught:
            attempt()
        for words in ("models.mine", str(path), *expected):
            assert words in str(caught.value)


def test_missing_directory_names_its_neighbours(copy):
    path = copy()
    refused(path.parent / "gpt-2", "there is no model directory", "folders there: gpt2")


def test_missing_config(copy):
    path = copy()
    (path / "config.json").unlink()
    refused(path, "holds no config.json")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_config(copy, content):
    path = copy()
    (path / "config.json").write_text(content)
    refused(path, "config.json")


def test_without_tokenizer(copy):
    path = copy()
    (path / "tokenizer.json").unlink()
    refused(path, "holds no tokenizer", "tokenizer.save_pretrained")


def test_without_weights(copy):
    path = copy()
    (path / "model.safetensors").unlink()
    refused(path, "holds no weights", "model.save_pretrained")


def test_sharded_weights_with_a_shard_missing(copy):
    path = copy()
    (path / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "model-00001-of-00002.safetensors").touch()
    refused(path, "lacks model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"num_local_experts": 8}, "mixture of 8 experts"),
        ({"n_routed_experts": 64}, "mixture of 64 experts"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_known_not_to_work(copy, changes, words):
    path = copy()
    edit_config(path, **changes)
    refused(path, words)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(copy, value):
    path = copy()
    weights = load_file(path / "model.safetensors")
    weights["transformer.h.1.mlp.c_proj.weight"][3, 5] = value
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"models\.mine: .*NaN or infinity in 'transformer\.h\.1\.mlp\.c_proj\.weight'"
    ):
        load_model(spec_of(path))


def test_weights_that_lack_a_tensor(copy):
    """Hugging Face would fill it at random and only warn."""
    path = copy("llama")
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the files lack model\.layers\.1\.mlp\.down_proj\.weight"):
        load_model(spec_of(path))


def test_weights_of_another_shape(copy):
    path = copy("llama")
    edit_config(path, intermediate_size=40)
    with pytest.raises(ModelError, match=r"models\.mine"):
        load_model(spec_of(path))


def test_truncated_weights(copy):
    path = copy()
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"models\.mine: the model in .* cannot be loaded"):
        load_model(spec_of(path))


def test_pytorch_bin_is_loaded_without_running_code(copy, tiny_model, tmp_path):
    path = copy()
    state = load_file(path / "model.safetensors")
    torch.save(state, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    tokens = torch.arange(20)[None]
    assert torch.equal(load_model(spec_of(path)).logits(tokens), tiny_model("gpt2").logits(tokens))
    marker = tmp_path / "ran"
    torch.save({"weight": _Malicious(str(marker))}, path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"models\.mine"):
        load_model(spec_of(path))
    assert not marker.exists()


class _Malicious:
    """Unpickling it creates a file."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def test_tokenizer_of_another_model(copy):
    path = copy()
    edit_config(path, vocab_size=150)
    with pytest.raises(ModelError, match="ids up to 195, but the model's vocabulary ends at 149"):
        load_vocabulary(spec_of(path))


def test_unknown_architecture(copy):
    path = copy()
    edit_config(path, model_type="perceptron", architectures=["PerceptronForCausalLM"])
    with pytest.raises(ModelError, match=r"models\.mine: .*perceptron"):
        load_model(spec_of(path))


@pytest.mark.parametrize(
    ("family", "scale", "words"),
    [
        ("Cohere", {"logit_scale": 0.5}, "log-probabilities from its final residual"),
        ("Granite", {"logits_scaling": 4.0}, "log-probabilities from its final residual"),
        ("Granite", {"residual_multiplier": 0.5}, "its final residual after a change of an activation"),
    ],
)
def test_an_architecture_that_the_closed_form_does_not_describe_is_refused(tmp_path, family, scale, words):
    """Scales that would make every effect silently wrong are noticed when the model is loaded."""
    import tiny_models
    import transformers

    def make(**options):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**tiny_models._common(num_key_value_heads=2, **options))
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tiny_models.make_tokenizer().save_pretrained(tmp_path)
        return spec_of(tmp_path)

    neutral = dict.fromkeys(scale, 1.0)
    load_model(make(**neutral))  # the scale alone is what is wrong with it
    with pytest.raises(ModelError, match=rf"models\.mine: {words}"):
        load_model(make(**scale))


def test_an_encoder_is_refused(tmp_path):
    import tiny_models
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    BertForMaskedLM(BertConfig(vocab_size=200, **sizes)).save_pretrained(tmp_path)
    tiny_models.make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"models\.mine"):
        load_model(spec_of(tmp_path))


def test_unknown_dtype_and_source(copy):
    path = copy()
    with pytest.raises(ModelError, match=r"models\.mine\.dtype is 'int8'"):
        load_model(spec_of(path, dtype="int8"))
    with pytest.raises(ModelError, match=r"models\.mine\.source is 'cloud'"):
        load_model(spec_of(path, source="cloud"))
    with pytest.raises(ModelError, match=r"models\.mine\.path is missing"):
        load_model(replace(spec_of(path), path=None))


def test_where_the_sources_lead():
    demo = ModelSpec("demo", "demo")
    assert model_directory(demo) == DEMO_CHECKPOINTS / "final"
    assert model_directory(replace(demo, revision="step_00512")) == DEMO_CHECKPOINTS / "step_00512"
    assert model_directory(spec_of(Path("a"), revision="b")) == Path("a/b")
    assert model_directory(spec_of(Path("a"), source="hub", name="o/n", revision="b")) == Path("a")


def test_files_of_a_model_are_those_its_results_depend_on(copy):
    path = copy()
    (path / "README.md").touch()
    (path / "model.safetensors.bak").touch()
    torch.save({}, path / "pytorch_model.bin")  # not loaded: safetensors come first
    names = [Path(file).name for file in model_files(spec_of(path))]
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert weight_files(path) == ["model.safetensors"]


def test_manifest_tells_a_changed_file(copy):
    path = copy()
    files = {name: file_record(path / name) for name in ("config.json", "model.safetensors")}
    (path / "manifest.json").write_text(json.dumps({"files": files}))
    check_model_directory(path, "models.mine")
    check_manifest(path, "models.mine", hashes=True)
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)
    check_manifest(path, "models.mine")  # same size: seen only by its hash
    with pytest.raises(ModelError, match=r"model\.safetensors' is not what was fetched"):
        check_manifest(path, "models.mine", hashes=True)
    (path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors' is not what was fetched"):
        check_model_directory(path, "models.mine")


@pytest.mark.parametrize("content", ["", '{"files": {', "[]"])
def test_a_damaged_manifest_is_named_with_the_remedy(copy, content):
    path = copy()
    (path / "manifest.json").write_text(content)
    with pytest.raises(ModelError, match=r"models\.mine: '.*manifest\.json' is damaged .*; delete it and run again"):
        check_model_directory(path, "models.mine")


def test_checks_of_files_import_neither_torch_nor_transformers():
    code = "import sys, neuronlab.model_files; print({'torch', 'transformers', 'polars'} & set(sys.modules))"
    path = Path(__file__).parents[2] / "workflow_scripts"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(path)}, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
