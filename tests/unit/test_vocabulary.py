"""What texts need to know of a tokenizer: marks, line ends, real and padded ids."""

from __future__ import annotations

import pytest
from neuronlab.model_files import ModelError, ModelSpec
from neuronlab.vocabulary import describe_vocabulary, load_vocabulary
from transformers import AutoTokenizer, GPT2Config, GPTNeoXConfig


@pytest.fixture
def gpt2_tokenizer(shared):
    directory = shared / "tokenizers" / "gpt2"
    if not directory.is_dir():
        pytest.skip(f"no {directory}")
    return AutoTokenizer.from_pretrained(directory, config=GPT2Config(), local_files_only=True)


def test_gpt2(gpt2_tokenizer):
    found = describe_vocabulary(gpt2_tokenizer, GPT2Config(), "models.gpt2")
    assert (found.d_vocab, found.d_vocab_real, found.n_ctx) == (50257, 50257, 1024)
    assert (found.bos_token_id, found.eos_token_id) == (50256, 50256)
    assert [gpt2_tokenizer.decode([token]) for token in found.newline_token_ids] == ["\n", "\n\n"]


def test_ids_beyond_the_tokenizer_pad_the_vocabulary(gpt2_tokenizer):
    config = GPTNeoXConfig(vocab_size=50304, max_position_embeddings=2048)
    found = describe_vocabulary(gpt2_tokenizer, config, "models.pythia")
    assert (found.d_vocab, found.d_vocab_real, found.n_ctx) == (50304, 50257, 2048)
    assert found.real[:50257].all()
    assert not found.real[50257:].any()
    with pytest.raises(ModelError, match=r"models\.pythia: its tokenizer has ids up to 50256, .* ends at 49999"):
        describe_vocabulary(gpt2_tokenizer, GPTNeoXConfig(vocab_size=50000), "models.pythia")


def test_tiny_vocabularies(tiny_directories, architecture):
    found = load_vocabulary(ModelSpec("tiny", "directory", path=str(tiny_directories[architecture])))
    assert found.d_vocab == 200
    assert found.bos_token_id == (None if architecture == "qwen2" else 0)
    assert found.eos_token_id == 1
    assert [found.tokenizer.decode([token]) for token in found.newline_token_ids] == ["\n", "\n\n"]
