"""Which files a model on disk consists of: found, and missed, without loading anything.

Rules list these files as their inputs, one by one, because Snakemake does not notice a replaced file inside a
directory. The check runs while the workflow is parsed, so it must stay light: no torch, no network.
"""

from __future__ import annotations

from pathlib import Path

DEMO_CHECKPOINTS = Path(__file__).resolve().parent / "demo" / "checkpoints"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
COMPANIONS = ("*.json", "tokenizer.model", "merges.txt", "vocab.txt", "spiece.model", "*.jinja")


class ModelFilesError(ValueError):
    """A model directory that lacks something; the message names the key, the folder and the remedy."""


def model_directory(key: str, source: str, path: str | None, revision: str | None) -> Path:
    """The folder of a demo or directory model; a revision is a folder below it.

    Raises:
        ModelFilesError: if the folder does not exist; for a revision, the message lists those that do.
    """
    base = DEMO_CHECKPOINTS if source == "demo" else Path(path or "")
    folder = base / (revision or "final") if source == "demo" else (base / revision if revision else base)
    if not folder.is_dir():
        if revision and base.is_dir():
            known = ", ".join(sorted(child.name for child in base.iterdir() if (child / "config.json").is_file()))
            raise ModelFilesError(f"models.{key}: no revision '{revision}' in {base}; there are: {known or 'none'}")
        raise ModelFilesError(f"models.{key}.path: there is no directory '{folder}'")
    return folder


def list_model_files(key: str, source: str, path: str | None, revision: str | None) -> list[str]:
    """Files of a demo or directory model that a result depends on, sorted.

    Raises:
        ModelFilesError: without config.json, a tokenizer, or weights (safetensors, or a PyTorch .bin).
    """
    folder = model_directory(key, source, path, revision)
    where = f"models.{key}: '{folder}'"
    if not (folder / "config.json").is_file():
        raise ModelFilesError(f"{where} has no config.json; give a folder written by save_pretrained")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelFilesError(
            f"{where} has no tokenizer ({', '.join(TOKENIZERS)}); save it there with tokenizer.save_pretrained"
        )
    weights = sorted(folder.glob(WEIGHTS[0])) or sorted(folder.glob(WEIGHTS[1]))
    if not weights:
        raise ModelFilesError(f"{where} has no weights ({' or '.join(WEIGHTS)}); save them with model.save_pretrained")
    companions = {file for pattern in COMPANIONS for file in folder.glob(pattern)}
    return [str(file) for file in sorted({*companions, *weights})]
