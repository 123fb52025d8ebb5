"""A model's tokenizer and what the texts need to know of it, without the model's weights.

Marks: `bos` opens a sequence where the tokenizer has such a token (GPT-2 and GPT-NeoX use one token as BOS and EOS;
Qwen2 has none); `eos` joins documents. Real ids are those that the tokenizer knows: others only pad the
vocabulary to a round number (Pythia: 50277 of 50304; Phi-1.5: 50295 of 51200).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from neuronlab.model_files import ModelError, ModelSpec, check_model_directory, model_directory

# Names that configurations give the longest sequence, in order of preference.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
# Spellings of line ends in vocabularies: byte-level BPE writes "Ċ", byte fallback of SentencePiece "<0x0A>".
NEWLINE_CHARACTERS = frozenset("Ċ\n")
NEWLINE_PIECES = frozenset({"<0x0A>"})


@dataclass(frozen=True)
class Vocabulary:
    """Tokenizer, marks, and sizes.

    Attributes:
        tokenizer: the Hugging Face tokenizer; encode with `add_special_tokens=False`.
        d_vocab: ids in the model's vocabulary, padding included.
        real: which ids the tokenizer knows.
        n_ctx: longest sequence in tokens; None if config.json names none.
        bos_token_id, eos_token_id: None where the tokenizer has none.
        newline_token_ids: tokens that are line feeds and nothing else.
    """

    tokenizer: PreTrainedTokenizerBase
    d_vocab: int
    real: Bool[np.ndarray, " vocab"]
    n_ctx: int | None
    bos_token_id: int | None
    eos_token_id: int | None
    newline_token_ids: tuple[int, ...]

    @property
    def d_vocab_real(self) -> int:
        """Number of ids that the tokenizer knows."""
        return int(self.real.sum())


def load_vocabulary(spec: ModelSpec) -> Vocabulary:
    """Load tokenizer and sizes of a model from its directory, offline.

    Raises:
        ModelError: directory or tokenizer unusable, or a tokenizer with ids beyond the model's vocabulary.
    """
    path = model_directory(spec)
    check_model_directory(path, spec.where)
    options = {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:  # damaged JSON, an unknown model type, code that is not trusted: each its own type
        raise ModelError(f"{spec.where}: configuration or tokenizer in '{path}' cannot be loaded: {error}") from error
    return describe_vocabulary(tokenizer, config, spec.where)


def describe_vocabulary(tokenizer: PreTrainedTokenizerBase, config: Any, where: str) -> Vocabulary:
    """Marks and sizes from a tokenizer and a Hugging Face configuration."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    d_vocab = int(text.vocab_size)
    pieces = tokenizer.get_vocab()
    if not pieces or max(pieces.values()) >= d_vocab:
        raise ModelError(
            f"{where}: its tokenizer has ids up to {max(pieces.values(), default=-1)}, but the model's vocabulary ends "
            f"at {d_vocab - 1}; it belongs to another model: put the right tokenizer files in the directory"
        )
    real = np.zeros(d_vocab, dtype=bool)
    real[list(pieces.values())] = True
    newline = sorted(
        index
        for piece, index in pieces.items()
        if piece in NEWLINE_PIECES or (piece and set(piece) <= NEWLINE_CHARACTERS)
    )
    return Vocabulary(
        tokenizer=tokenizer,
        d_vocab=d_vocab,
        real=real,
        n_ctx=next((int(n) for key in CONTEXT_KEYS if (n := getattr(text, key, None))), None),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        newline_token_ids=tuple(newline),
    )
