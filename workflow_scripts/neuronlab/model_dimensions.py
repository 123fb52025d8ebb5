"""Dimensions of a model as its config.json gives them, for tables about models; no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuronlab.model_files import ModelSpec, check_model_config, model_directory

# Keys of config.json by family, the first one that is there counts.
KEYS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "d_mlp": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "vocabulary": ("vocab_size",),
}
ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "activation")
RMS_KEYS = ("rms_norm_eps", "rms_norm_epsilon")
# Families without gates in their MLPs, and such as have RMSNorm without a key that says so.
PLAIN = frozenset(
    {"bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "nemotron"}
)
PLAIN |= {"opt", "persimmon", "phi", "starcoder2"}
RMS = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3"})
# What config.json calls an activation function, and its name in papers, plain and gated.
NAMES = {
    "gelu": ("GELU", "GeGLU"),
    "gelu_new": ("GELU (tanh)", "GeGLU (tanh)"),
    "gelu_fast": ("GELU (tanh)", "GeGLU (tanh)"),
    "gelu_pytorch_tanh": ("GELU (tanh)", "GeGLU (tanh)"),
    "silu": ("SiLU", "SwiGLU"),
    "swish": ("SiLU", "SwiGLU"),
    "relu": ("ReLU", "ReGLU"),
    "relu2": ("squared ReLU", "squared ReGLU"),
}


@dataclass(frozen=True)
class Dimensions:
    """Sizes, norm and activation function of a model; None where config.json does not say.

    Attributes:
        family: model type, such as gpt_neox.
        vocabulary: rows of the unembedding, padding included.
        norm: LayerNorm or RMSNorm.
        activation: the MLP's, SwiGLU and the like where it has gates.
    """

    family: str | None
    layers: int | None
    d_model: int | None
    d_mlp: int | None
    vocabulary: int | None
    norm: str | None
    activation: str | None


def model_dimensions(spec: ModelSpec) -> Dimensions:
    """Dimensions of a model.

    Raises:
        ModelError: config.json is missing or damaged.
    """
    directory = model_directory(spec)
    check_model_config(directory, spec.where)
    return config_dimensions(json.loads((directory / "config.json").read_text(encoding="utf-8")))


def config_dimensions(config: Mapping[str, Any]) -> Dimensions:
    """Dimensions by the content of config.json; a nested `text_config` counts as the model's own."""
    config = {**config, **(config.get("text_config") or {})}
    sizes = {name: _number(config, keys) for name, keys in KEYS.items()}
    family = config.get("model_type")
    if sizes["d_mlp"] is None and sizes["d_model"] is not None and family in PLAIN:
        sizes["d_mlp"] = 4 * sizes["d_model"]  # GPT-2, GPT-J, GPT-Neo, Bloom and Falcon leave it out
    return Dimensions(family, norm=_norm(config, family), activation=_activation(config, family), **sizes)


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)


def _norm(config: Mapping[str, Any], family: str | None) -> str | None:
    if any(key in config for key in RMS_KEYS) or family in RMS:
        return "RMSNorm"
    known = family in PLAIN or any("norm" in key and "eps" in key for key in config)
    return "LayerNorm" if known else None


def _activation(config: Mapping[str, Any], family: str | None) -> str | None:
    name = next((config[key] for key in ACTIVATIONS if isinstance(config.get(key), str)), None)
    if name is None and family in ("bloom", "falcon", "mpt"):
        name = "gelu"  # fixed in the code of these families
    if name is None:
        return None
    plain, gated = NAMES.get(name, (name, f"gated {name}"))
    return plain if family in PLAIN else gated
