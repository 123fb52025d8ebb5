"""Tiny random Hugging Face directories of seven architectures, made by the tests themselves.

Weights are larger than the usual initialisation, gains and biases are random instead of ones and zeros, and grouped
queries, post norms, softcaps and partly rotary positions are switched on where the architecture has them: whatever
a wrong sign or a forgotten gain would hide behind is in the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

D_VOCAB_TOKENIZER = 196
D_VOCAB = 200
D_MODEL, D_MLP, N_CTX = 32, 48, 64
EPS = 1e-3  # no default of any configuration
BOS, EOS = "<bos>", "<eos>"

# Architectures whose tokenizers have no BOS: Qwen2's does not, GPT-2's and GPT-NeoX' do.
WITHOUT_BOS = frozenset({"qwen2"})


def _common(**other: object) -> dict[str, object]:
    """Sizes that most configurations name alike. `other` overrides."""
    return {
        "vocab_size": D_VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": N_CTX,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    } | other


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(
        vocab_size=D_VOCAB,
        n_embd=D_MODEL,
        n_inner=D_MLP,
        n_layer=2,
        n_head=4,
        n_positions=N_CTX,
        layer_norm_epsilon=EPS,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_common(rotary_pct=0.25, layer_norm_eps=EPS)),
    "llama": lambda: LlamaConfig(**_common(num_key_value_heads=2, rms_norm_eps=EPS)),
    "mistral": lambda: MistralConfig(**_common(num_key_value_heads=2, sliding_window=16, rms_norm_eps=EPS)),
    "phi": lambda: PhiConfig(**_common(partial_rotary_factor=0.5, layer_norm_eps=EPS)),
    "qwen2": lambda: Qwen2Config(**_common(num_key_value_heads=2, rms_norm_eps=EPS, bos_token_id=None)),
    "gemma2": lambda: Gemma2Config(
        **_common(
            num_key_value_heads=2,
            rms_norm_eps=EPS,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=16,
            final_logit_softcapping=8.0,
            attn_logit_softcapping=10.0,
            tie_word_embeddings=True,
        )
    ),
}


def make_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: two marks, single bytes (all of ASCII among them), a few merges.

    Like Llama's, it puts BOS in front when special tokens are asked for: a caller who forgets
    `add_special_tokens=False` gets it.
    """
    merges = [("Ċ", "Ċ"), ("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("i", "n"), ("in", "g"), ("a", "n"), ("an", "d")]
    merged = [first + second for first, second in merges]
    # Byte-level spelling of space and line feed, printable ASCII, then other bytes to fill up.
    bytes_ = ["Ġ", "Ċ", *(chr(c) for c in range(33, 127))]
    bytes_ += sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(bytes_))
    pieces = [BOS, EOS, *bytes_[: D_VOCAB_TOKENIZER - 2 - len(merged)], *merged]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS if bos else None, eos_token=EOS)


def make_model(architecture: str, *, seed: int = 0, config: PreTrainedConfig | None = None) -> torch.nn.Module:
    """A random float32 model with weights of order 1/sqrt(d), gains near 1 and biases of order 0.3.

    Args:
        config: a variant of the architecture's configuration in `CONFIGS`.
    """
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config or CONFIGS[architecture](), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * 1.2 / D_MODEL**0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            else:  # a norm's gain: Gemma stores it minus one
                parameter.copy_(0.3 * noise + (0.0 if architecture == "gemma2" else 1.0))
    return model.eval()


def make_directory(path: Path, architecture: str, *, seed: int = 0) -> Path:
    """Write model and tokenizer of `architecture` to `path`, as `save_pretrained` does, and return `path`."""
    make_model(architecture, seed=seed).save_pretrained(path)
    make_tokenizer(bos=architecture not in WITHOUT_BOS).save_pretrained(path)
    return path
