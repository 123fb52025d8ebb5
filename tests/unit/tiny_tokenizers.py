"""Small tokenizers of the kinds that models use, made by the tests themselves."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("Paris", "New", "York", "Rome", "lives", "in", "the", "Ann", "is")


def llama_like() -> PreTrainedTokenizerFast:
    """BPE with byte fallback as Llama's first two versions have it: a space put in front, "▁" for spaces, BOS first."""
    merges, pieces = [], ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    for word in WORDS:
        spelt = f"▁{word}"
        for end in range(2, len(spelt) + 1):
            merges.append((spelt[: end - 1], spelt[end - 1]))
            pieces.append(spelt[:end])
    pieces += list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:1")
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges)), byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram(prepend: str = "always") -> PreTrainedTokenizerFast:
    """A unigram model with "▁" for spaces, which it puts before the first word too ("always", "first") or not."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz."]
    pieces += list("PNYRA")
    scored = [(piece, -10.0 - (50.0 if len(piece) == 1 else 0.0)) for piece in dict.fromkeys(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=prepend)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2's: words with the space before them are tokens; no BOS is added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges, merged = [], []
    for word in WORDS:
        spelt = f"Ġ{word}"
        for end in range(2, len(spelt) + 1):
            merges.append((spelt[: end - 1], spelt[end - 1]))
            merged.append(spelt[:end])
    pieces = ["<|endoftext|>", *alphabet, *dict.fromkeys(merged)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )


def letters_only() -> PreTrainedTokenizerFast:
    """Byte-level, but for letters and spaces alone: of anything else it keeps nothing."""
    pieces = ["<s>", "Ġ", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


KINDS = {
    "llama_like": llama_like,
    "unigram_always": unigram,
    "unigram_first": lambda: unigram("first"),
    "byte_level": byte_level,
}
