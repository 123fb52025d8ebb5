"""Changed layers by brute force: a copy of Hugging Face's model with blocks really exchanged, outputs really replaced.

Nothing of the library takes part: modules are found by Hugging Face's names, every pass is a whole one.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import tiny_models
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

LAYERS = 4
PARTS = ("attention", "mlp")


def deeper(architecture: str, layers: int = LAYERS, **other: object) -> PreTrainedConfig:
    """The configuration of a tiny model with another number of layers."""
    config = tiny_models.CONFIGS[architecture]()
    values = config.to_dict() | other
    values.pop("layer_types", None)  # alternates anew
    values["n_layer" if architecture == "gpt2" else "num_hidden_layers"] = layers
    return type(config)(**values)


def make_deeper(path: Path, architecture: str, layers: int = LAYERS, **other: object) -> Path:
    """Directory of such a model."""
    tiny_models.make_model(architecture, config=deeper(architecture, layers, **other)).save_pretrained(path)
    tiny_models.make_tokenizer(bos=architecture not in tiny_models.WITHOUT_BOS).save_pretrained(path)
    return path


def load(directory: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()


def blocks_of(network: nn.Module) -> nn.ModuleList:
    body = network.base_model
    return body.h if hasattr(body, "h") else body.layers


def outputs_of(block: nn.Module) -> dict[str, nn.Module]:
    """The modules whose outputs a block adds to the stream."""
    if hasattr(block, "post_feedforward_layernorm"):  # Gemma-2
        return {"attention": block.post_attention_layernorm, "mlp": block.post_feedforward_layernorm}
    (attention,) = [getattr(block, name) for name in ("attn", "attention", "self_attn") if hasattr(block, name)]
    return {"attention": attention, "mlp": block.mlp}


def log_probabilities(network: nn.Module, tokens: np.ndarray) -> np.ndarray:
    """[batch, position, vocab], in nats."""
    with torch.no_grad():
        return network(torch.from_numpy(tokens), use_cache=False).logits.double().log_softmax(-1).numpy()


def with_outputs(
    network: nn.Module, layer: int, values: dict[str, torch.Tensor | float], tokens: np.ndarray
) -> np.ndarray:
    """Log-probabilities with what the named parts of a block put out replaced by a vector, or a number."""
    network = deepcopy(network)

    def replacing(value: torch.Tensor | float) -> Callable:
        def hook(module: nn.Module, arguments: object, output: object) -> object:
            first = output[0] if isinstance(output, tuple) else output
            new = torch.zeros_like(first) + value
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    modules = outputs_of(blocks_of(network)[layer])
    for part, value in values.items():
        modules[part].register_forward_hook(replacing(value))
    return log_probabilities(network, tokens)


def mean_outputs(network: nn.Module, tokens: np.ndarray, counted: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """By layer and part, the mean output over the counted positions."""
    network, kept = deepcopy(network), {}

    def keeping(place: tuple[int, str]) -> Callable:
        def hook(module: nn.Module, arguments: object, output: object) -> None:
            kept[place] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    blocks = blocks_of(network)
    for layer, block in enumerate(blocks):
        for part, module in outputs_of(block).items():
            module.register_forward_hook(keeping((layer, part)))
    log_probabilities(network, tokens)
    return [{part: kept[layer, part][counted].mean(0) for part in PARTS} for layer in range(len(blocks))]


def with_modules_exchanged(network: nn.Module, first: int, second: int, tokens: np.ndarray) -> np.ndarray:
    """Log-probabilities with two blocks in each other's place, whatever depends on their index included.

    That is what a block knows itself, and the kind of attention that the model chooses for it by its place.
    """
    network = deepcopy(network)
    blocks = blocks_of(network)
    blocks[first], blocks[second] = blocks[second], blocks[first]
    if (kinds := getattr(network.config, "layer_types", None)) is not None:
        kinds[first], kinds[second] = kinds[second], kinds[first]
    return log_probabilities(network, tokens)


def with_weights_exchanged(network: nn.Module, first: int, second: int, tokens: np.ndarray) -> np.ndarray:
    """Log-probabilities with the state dicts of two blocks exchanged: what is no weight stays where it was."""
    network = deepcopy(network)
    blocks = blocks_of(network)
    one, two = (deepcopy(blocks[layer].state_dict()) for layer in (first, second))
    blocks[first].load_state_dict(two)
    blocks[second].load_state_dict(one)
    return log_probabilities(network, tokens)


def changed(
    network: nn.Module,
    kind: str,
    layer: int,
    other: int | None,
    tokens: np.ndarray,
    means: list[dict[str, torch.Tensor]],
) -> np.ndarray:
    """Log-probabilities under any intervention."""
    if kind == "swap":
        return with_weights_exchanged(network, layer, other, tokens)
    what, _, part = kind.partition("_")
    parts = [part] if part else PARTS
    return with_outputs(network, layer, {p: 0.0 if what == "delete" else means[layer][p] for p in parts}, tokens)
