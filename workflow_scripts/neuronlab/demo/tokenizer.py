"""The demo language's tokenizer: whole words and pieces, a leading space belonging to the word that follows it.

A unigram model over a fixed vocabulary, without normalisation: a word that is in the vocabulary is one token, any other
is cut into as few pieces as possible. The same rules, in the same file format, as SentencePiece models use. A space
before the first word is implied, so that a name is the same token at the start of a prompt and within it. Nothing is
added to the encoded text: whoever feeds the model puts ``<|bos|>`` at position 0.
"""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neuronlab.demo.language import Sampler, build_world

BOS, UNKNOWN_TOKEN = "<|bos|>", "<|unk|>"
BOS_ID = 0


@cache
def build_tokenizer() -> Tokenizer:
    """Token 0 is ``<|bos|>``, 1 stands for characters that the language lacks; the rest is the vocabulary."""
    world = build_world()
    whole = [f"▁{word}" for word in sorted(world.single_tokens - {"."})]
    candidates = list(dict.fromkeys([".", *whole, *world.pieces]))
    first = _unigram(candidates)
    # Pieces that no word happens to use would be tokens that training never sees: leave them out.
    used = {".", *(token for unit in world.units[1:] for token in first.encode(unit).tokens)}
    return _unigram([token for token in candidates if token in used])


def _unigram(vocabulary: list[str]) -> Tokenizer:
    # Every token costs the same, so that the fewest tokens win; the tiny slope makes the best cut unique.
    scored = [(BOS, 0.0), (UNKNOWN_TOKEN, -100.0)]
    scored += [(token, -10.0 - 1e-4 * rank) for rank, token in enumerate(vocabulary)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=1, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.add_special_tokens([BOS, UNKNOWN_TOKEN])
    return tokenizer


def hugging_face_tokenizer() -> PreTrainedTokenizerFast:
    """The same tokenizer as transformers wraps it; ``save_pretrained`` writes what ``AutoTokenizer`` reads."""
    return PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(),
        bos_token=BOS,
        eos_token=BOS,
        unk_token=UNKNOWN_TOKEN,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


@cache
def unit_tokens() -> tuple[list[int], ...]:
    """Token ids of every unit of the world: what the sampler's documents are put together from."""
    tokenizer, world = build_tokenizer(), build_world()
    return ([tokenizer.token_to_id(".")], *(tokenizer.encode(unit).ids for unit in world.units[1:]))


@cache
def build_sampler() -> Sampler:
    return Sampler(build_world(), [len(ids) for ids in unit_tokens()])


def document_tokens(document: list[int]) -> list[int]:
    """Token ids of a document, ``<|bos|>`` first."""
    units = unit_tokens()
    return [BOS_ID, *(token for unit in document for token in units[unit])]


def encode(text: str) -> list[int]:
    """Token ids of a text, ``<|bos|>`` first."""
    return [BOS_ID, *build_tokenizer().encode(text).ids]
