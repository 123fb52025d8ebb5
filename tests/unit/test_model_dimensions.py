"""Dimensions, norm and activation function by config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from neuronlab.model_dimensions import Dimensions, config_dimensions, model_dimensions
from neuronlab.model_files import ModelError, ModelSpec

# As published on the hub, the keys that matter (METHODS B0 for sizes and activation functions).
GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_inner": None, "vocab_size": 50257}
GPT2 |= {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
PYTHIA = {"model_type": "gpt_neox", "num_hidden_layers": 24, "hidden_size": 2048, "intermediate_size": 8192}
PYTHIA |= {"vocab_size": 50304, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
PHI = {"model_type": "phi", "num_hidden_layers": 24, "hidden_size": 2048, "intermediate_size": 8192}
PHI |= {"vocab_size": 51200, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5}
LLAMA = {"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336}
LLAMA |= {"vocab_size": 128256, "hidden_act": "silu", "rms_norm_eps": 1e-5}
GEMMA = {"model_type": "gemma2", "num_hidden_layers": 26, "hidden_size": 2304, "intermediate_size": 9216}
GEMMA |= {"vocab_size": 256000, "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}
OPT = {"model_type": "opt", "num_hidden_layers": 12, "hidden_size": 768, "ffn_dim": 3072, "vocab_size": 50272}
OPT |= {"activation_function": "relu"}
GPT_NEO = {"model_type": "gpt_neo", "num_layers": 12, "hidden_size": 768, "intermediate_size": None}
GPT_NEO |= {"vocab_size": 50257, "activation_function": "gelu_new"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2, (12, 768, 3072, 50257, "LayerNorm", "GELU (tanh)")),
        (PYTHIA, (24, 2048, 8192, 50304, "LayerNorm", "GELU")),
        (PHI, (24, 2048, 8192, 51200, "LayerNorm", "GELU (tanh)")),
        (LLAMA, (32, 4096, 14336, 128256, "RMSNorm", "SwiGLU")),
        (GEMMA | {"rms_norm_eps": 1e-6}, (26, 2304, 9216, 256000, "RMSNorm", "GeGLU (tanh)")),
        ({"model_type": "gemma3", "text_config": GEMMA}, (26, 2304, 9216, 256000, "RMSNorm", "GeGLU (tanh)")),
        (OPT, (12, 768, 3072, 50272, "LayerNorm", "ReLU")),
        (GPT_NEO, (12, 768, 3072, 50257, "LayerNorm", "GELU (tanh)")),
        ({"model_type": "unheard_of", "hidden_size": 8}, (None, 8, None, None, None, None)),
    ],
)
def test_published_configurations(config: dict, expected: tuple) -> None:
    found = config_dimensions(config)
    assert (found.layers, found.d_model, found.d_mlp, found.vocabulary, found.norm, found.activation) == expected


def test_the_demo_model() -> None:
    found = model_dimensions(ModelSpec("demo", "demo"))
    assert found == Dimensions("gpt_neox", 2, 128, 1024, 1187, "LayerNorm", "GELU")


def test_tiny_models_have_the_dimensions_that_their_weights_have(
    architecture: str, tiny_directories, tiny_model
) -> None:
    model = tiny_model(architecture)
    found = model_dimensions(ModelSpec(architecture, "directory", path=str(tiny_directories[architecture])))
    sizes = (model.n_layers, model.d_model, model.d_mlp, model.d_vocab)
    assert (found.layers, found.d_model, found.d_mlp, found.vocabulary) == sizes
    assert found.norm == {"LN": "LayerNorm", "RMS": "RMSNorm"}[model.norm_kind]


def test_a_directory_without_a_configuration_is_named(tmp_path: Path) -> None:
    spec = ModelSpec("mine", "directory", path=str(tmp_path))
    with pytest.raises(ModelError, match=r"models\.mine: '.*' holds no config\.json"):
        model_dimensions(spec)
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    assert model_dimensions(spec).layers == 12
