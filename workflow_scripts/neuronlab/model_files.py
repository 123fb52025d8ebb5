"""Which model is meant and where its files lie; checks that need nothing but the file system.

A model is a directory in the Hugging Face format: `config.json`, tokenizer files, weights (safetensors, or
`pytorch_model.bin`). Three sources lead to one:

* `demo`: shipped with this package, `demo/checkpoints/final`; a revision names another shipped checkpoint;
* `directory`: any directory; a revision names a folder inside it;
* `hub`: the directory that the rule `fetch_model` downloaded to. Nothing here touches the network.

Imports neither torch nor transformers, so that a workflow can check its models while it is parsed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = ("demo", "directory", "hub")
DTYPES = ("float32", "bfloat16", "float16", "float64")
MANIFEST = "manifest.json"  # of a fetched model: its commit, and size and sha256 of every file
DEMO_CHECKPOINTS = Path(__file__).parent / "demo" / "checkpoints"

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Architectures that the tests run. Others are tried, with the checks of `model_checks`.
TESTED_ARCHITECTURES = (
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Gemma2ForCausalLM",
)
# Keys of config.json that give a number of experts, by family (Mixtral, Qwen MoE and OLMoE, DeepSeek, ...).
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


class ModelError(ValueError):
    """A model that cannot be used; the message names the config key, the path, and the remedy."""


@dataclass(frozen=True)
class ModelSpec:
    """A model as the configuration names it: plain values, hashable, JSON-able.

    Attributes:
        key: its key under `models` in the configuration, for messages.
        source: "demo", "directory" or "hub".
        path: the directory (source directory), or where `fetch_model` put it (source hub); unused for the demo.
        name: name on the hub.
        revision: hub revision (already in `path`), sub-folder of a directory, or shipped checkpoint of the demo.
        dtype: of the forward passes: float32, bfloat16, float16 or float64.
        device: "auto" (cuda, then mps, then cpu; resolved where the job runs) or a device of torch.
        trust_remote_code: run code that comes with the model.
    """

    key: str
    source: str
    path: str | None = None
    name: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    trust_remote_code: bool = False

    @property
    def where(self) -> str:
        """The config key, for messages."""
        return f"models.{self.key}"


def model_directory(spec: ModelSpec) -> Path:
    """The directory of a model's files. Its existence is not checked here.

    Raises:
        ModelError: unknown source, or no path where the source needs one.
    """
    if spec.source not in SOURCES:
        raise ModelError(f"{spec.where}.source is '{spec.source}'; it must be one of {', '.join(SOURCES)}")
    if spec.source == "demo":
        return DEMO_CHECKPOINTS / (spec.revision or "final")
    if not spec.path:
        remedy = "give the model's directory" if spec.source == "directory" else "fetch the model first"
        raise ModelError(f"{spec.where}.path is missing: source '{spec.source}' needs it; {remedy}")
    path = Path(spec.path)
    return path / spec.revision if spec.source == "directory" and spec.revision else path


def model_files(spec: ModelSpec) -> list[str]:
    """Every file of a model that its results depend on, sorted: what a rule lists as its input.

    A directory as an input of Snakemake misses replaced files inside it, so the files are listed one by one.
    """
    directory = model_directory(spec)
    check_model_directory(directory, spec.where)
    names = {path.name for path in directory.iterdir() if path.is_file()}
    wanted = {name for name in names if name.endswith((".json", ".model", ".py", ".txt", ".jinja"))}
    wanted |= set(weight_files(directory))
    return [str(directory / name) for name in sorted(wanted)]


def weight_files(directory: Path) -> list[str]:
    """Names of the weight files that will be loaded, safetensors before .bin, shards by their index."""
    for name in WEIGHT_FILES:
        if not (directory / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return [name]
        index = json.loads((directory / name).read_text(encoding="utf-8"))
        return [name, *sorted(set(index["weight_map"].values()))]
    return []


def check_model_directory(path: str | Path, where: str = "model") -> None:
    """Check that a directory holds a model that this library can use, as far as files tell.

    Args:
        where: the config key, such as `models.gpt2`, for messages.

    Raises:
        ModelError: directory, config.json, tokenizer or weights missing or unreadable; an encoder-decoder,
            a mixture of experts, or a quantised model.
    """
    path = Path(path)
    if not path.is_dir():
        around = path.parent
        beside = sorted(p.name for p in around.iterdir() if p.is_dir()) if around.is_dir() else []
        hint = f"; folders there: {', '.join(beside[:12])}" if beside else ""
        raise ModelError(f"{where}: there is no model directory '{path}'; correct its path or revision{hint}")
    check_model_config(path, where)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{where}: '{path}' holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}); "
            "save one there with tokenizer.save_pretrained"
        )
    try:
        weights = weight_files(path)
    except (ValueError, KeyError) as error:
        raise ModelError(f"{where}: the index of the weights in '{path}' is damaged ({error})") from error
    if not weights:
        raise ModelError(
            f"{where}: '{path}' holds no weights (none of {', '.join(WEIGHT_FILES)}); "
            "save them there with model.save_pretrained"
        )
    absent = [name for name in weights if not (path / name).is_file()]
    if absent:
        raise ModelError(f"{where}: '{path}' lacks {', '.join(absent)}, which its index names; copy the whole model")
    if (path / MANIFEST).is_file():
        check_manifest(path, where)


def check_model_config(path: Path, where: str) -> None:
    """Refuse what config.json alone shows not to work: encoder-decoders, mixtures of experts, quantised weights.

    Raises:
        ModelError: also for a config.json that is missing or damaged.
    """
    config = _read_config(path, where)
    name = (config.get("architectures") or [config.get("model_type", "unknown")])[0]
    if config.get("is_encoder_decoder"):
        raise ModelError(f"{where}: '{path}' is an encoder-decoder ({name}); only decoders that predict the next token")
    for key in EXPERT_KEYS:
        count = config.get(key)
        if isinstance(count, int) and count > 1:
            raise ModelError(
                f"{where}: '{path}' is a mixture of {count} experts ({name}); its neurons have no one direction each, "
                "which the ablation needs. Choose a dense model"
            )
    if config.get("quantization_config"):
        raise ModelError(f"{where}: '{path}' is quantised; give the original weights and choose `dtype` instead")


def check_manifest(path: Path, where: str, *, hashes: bool = False) -> None:
    """Compare a fetched model's files with its manifest: sizes, and with `hashes` (seconds per GB) sha256 too.

    Raises:
        ModelError: naming the file that is missing or differs, or a manifest that cannot be read.
    """
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("files", {})
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{where}: '{path / MANIFEST}' is damaged ({error}); delete it and run again") from error
    for name, expected in files.items():
        file = path / name
        whole = file.is_file() and file.stat().st_size == expected["bytes"]
        if whole and hashes:
            whole = file_record(file)["sha256"] == expected["sha256"]
        if not whole:
            raise ModelError(f"{where}: '{file}' is not what was fetched; delete '{path / MANIFEST}' and run again")


def file_record(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _read_config(path: Path, where: str) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(f"{where}: '{path}' holds no config.json; give the folder that model.save_pretrained wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{where}: '{file}' is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{where}: '{file}' does not describe a model")
    return config
