"""Models with published neurons: is one of them in this run, and which values belong to it.

Standard library only, so that a workflow can ask while it is parsed. The values are in `VALUES`: neurons of study B's
five models with rho, LogitVar and norm (METHODS B1), of study A's models (A1: ids alone, except where B measured the
same neurons), and of "Universal neurons" (D1: ids alone). Study A's token-frequency neurons (A3: ids alone) are in
`FREQUENCY_NEURONS`: "main" ones are named in its figures, a "candidate" is on a longer list of the same study. Study
B's scores (B5) of `COPYING_MODELS` are in `COPYING_VALUES`, what activations of its entropy neurons were replaced by
(B6) in `COPYING_ACTIVATIONS`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VALUES = Path(__file__).parent / "published_data" / "entropy_neurons.csv"
FREQUENCY_NEURONS = Path(__file__).parent / "published_data" / "token_frequency_neurons.csv"
COPYING_VALUES = Path(__file__).parent / "published_data" / "context_copying.csv"
COPYING_ACTIVATIONS = Path(__file__).parent / "published_data" / "context_copying_activations.csv"
COPYING_MODELS = ("gpt2", "pythia-1.4b", "phi-1_5", "Meta-Llama-3-8B", "Mistral-7B-v0.1")


@dataclass(frozen=True)
class PublishedModel:
    """A model as the studies used it.

    Attributes:
        key: its name in `VALUES`.
        names: on the hub, the current one first.
        d_model, n_layers: its size, to recognise a directory by.
        include_padded: whether the published LogitVar took in the ids that only pad the vocabulary (METHODS 0.6).
        last_step: last training step of models with published checkpoints; an earlier one is another model.
    """

    key: str
    names: tuple[str, ...]
    d_model: int
    n_layers: int
    include_padded: bool = False
    last_step: int | None = None


def _pythia(size: str, d_model: int, n_layers: int) -> PublishedModel:
    return PublishedModel(f"pythia-{size}", (f"EleutherAI/pythia-{size}",), d_model, n_layers, True, 143_000)


MODELS = (
    PublishedModel("gpt2", ("openai-community/gpt2", "gpt2"), 768, 12),
    PublishedModel("stanford-gpt2-small-a", ("stanford-crfm/alias-gpt2-small-x21",), 768, 12, last_step=400_000),
    PublishedModel("stanford-gpt2-medium-a", ("stanford-crfm/arwen-gpt2-medium-x21",), 1024, 24, last_step=400_000),
    _pythia("160m", 768, 12),
    _pythia("410m", 1024, 24),
    _pythia("1b", 2048, 16),
    _pythia("1.4b", 2048, 24),
    _pythia("2.8b", 2560, 32),
    PublishedModel("phi-1", ("microsoft/phi-1",), 2048, 24, True),
    PublishedModel("phi-1_5", ("microsoft/phi-1_5",), 2048, 24, True),
    PublishedModel("phi-2", ("microsoft/phi-2",), 2560, 32, True),
    PublishedModel("opt-125m", ("facebook/opt-125m",), 768, 12, True),
    PublishedModel("Llama-2-7b", ("meta-llama/Llama-2-7b-hf",), 4096, 32),
    PublishedModel("Meta-Llama-3-8B", ("meta-llama/Meta-Llama-3-8B",), 4096, 32),
    PublishedModel("Mistral-7B-v0.1", ("mistralai/Mistral-7B-v0.1",), 4096, 32),
)


def published_model(name: str) -> PublishedModel | None:
    """The published model of a hub name (upper and lower case alike), if there is one."""
    for model in MODELS:
        if name.lower() in (known.lower() for known in model.names):
            return model
    return None


def published_models() -> dict[str, PublishedModel]:
    """All of them by their keys in `VALUES`."""
    return {model.key: model for model in MODELS}


def frequency_neurons(key: str, roles: Sequence[str] = ("main",)) -> list[int]:
    """Last-layer neurons that study A calls token-frequency neurons of the model `key`; none for any other model.

    Args:
        roles: "main", "candidate" or both.
    """
    with FREQUENCY_NEURONS.open(newline="") as file:
        return sorted(
            int(row["neuron"]) for row in csv.DictReader(file) if row["model"] == key and row["role"] in roles
        )


def published_name(entry: Mapping[str, object], model: str) -> str | None:
    """Key of the published model that a configured one is, or None.

    A hub model is recognised by its name, at any revision that is not an earlier training checkpoint. A directory is
    by its own name (or that of the hub's cache, `models--org--name/snapshots/...`), if its config.json agrees in size;
    a directory called `gpt2` with other weights of the same size would be compared in vain, but not unnoticed.

    Args:
        entry: the model's entry in the configuration.
        model: its name there, perhaps with `@revision`.
    """
    revision = model.partition("@")[2] or entry.get("revision")
    if entry.get("source") == "hub":
        found = published_model(str(entry.get("name")))
        return found.key if found and not _is_earlier(found, revision) else None
    if entry.get("source") == "directory" and entry.get("path") and not revision:
        return _name_of_directory(Path(str(entry["path"])))
    return None


def _is_earlier(model: PublishedModel, revision: object) -> bool:
    """Whether a revision names a training checkpoint before the last: `step1000`, `checkpoint-400`."""
    step = re.fullmatch(r"(?:step|checkpoint)[-_]?(\d+)", str(revision or ""))
    return step is not None and int(step[1]) != model.last_step


def _name_of_directory(path: Path) -> str | None:
    resolved = path.resolve()
    cached = [part.removeprefix("models--").replace("--", "/") for part in resolved.parts if part[:8] == "models--"]
    for model in MODELS:
        known = {name.lower() for name in model.names} | {name.rpartition("/")[2].lower() for name in model.names}
        if {resolved.name.lower(), *(name.lower() for name in cached)} & known and _size(path) == (
            model.d_model,
            model.n_layers,
        ):
            return model.key
    return None


def _size(path: Path) -> tuple[object, object]:
    """(d_model, n_layers) by config.json; (None, None) where that cannot be read."""
    try:
        config = json.loads((path / "config.json").read_text())
        return config.get("hidden_size", config.get("n_embd")), config.get("num_hidden_layers", config.get("n_layer"))
    except (OSError, ValueError, AttributeError):
        return None, None
