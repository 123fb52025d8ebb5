"""Which family a model belongs to, by the architecture that its config.json names.

Figures of several models put those of a family together: sizes of one architecture are compared with one another before
they are compared with another one.
"""

from __future__ import annotations

import json

from neuronlab.model_files import ModelError, ModelSpec, model_directory

FAMILIES = {
    "bloom": "BLOOM",
    "codegen": "CodeGen",
    "falcon": "Falcon",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "gemma3_text": "Gemma 3",
    "gpt2": "GPT-2",
    "gpt_bigcode": "GPT-BigCode",
    "gpt_neo": "GPT-Neo",
    "gpt_neox": "GPT-NeoX",  # Pythia
    "gptj": "GPT-J",
    "llama": "Llama",
    "mistral": "Mistral",
    "olmo": "OLMo",
    "olmo2": "OLMo 2",
    "opt": "OPT",
    "phi": "Phi",
    "phi3": "Phi-3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "stablelm": "StableLM",
}
UNKNOWN = "unknown family"
HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # what classes are called beyond the architecture


def family_of(model: ModelSpec) -> str:
    """The family's name: by `model_type`, else by the class; one that is not listed goes by its own name.

    Raises:
        ModelError: no readable config.json.
    """
    file = model_directory(model) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{model.where}: '{file}' cannot be read ({error})") from error
    kind = config.get("model_type")
    if kind:
        return FAMILIES.get(kind, str(kind))
    name = next(iter(config.get("architectures") or []), "")
    for head in HEADS:
        name = name.removesuffix(head)
    return name or UNKNOWN
