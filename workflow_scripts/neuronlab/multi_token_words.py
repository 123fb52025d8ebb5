"""Words of several tokens in a text, each matched with a word of one token from the same stretch of the document.

A word is what stands between white space, less the punctuation behind it, if all that is left are letters: "house" in
"house,", and nothing in "don't", "(so" or "1602". Words with white space before them begin where tokenizers begin
words, so that a word of one token and one of several differ in their number of tokens and not in their surroundings.
A word counts if its tokens cover it and at most the space before it.

Only what is drawn is chosen; the text around it stays as it is, with punctuation, line ends and all (METHODS
C defect 7). What the model sees ends with the word and holds as many tokens of the same document before it as asked
for.

Matching. A word of k tokens with `context` tokens before it is compared with a word of one token with
`context` + k - 1 tokens before it: both are read at a sequence's last token, which in both has the same position and as
many keys. The one-token word is drawn at random among those of the document that stand at most `context` tokens away
and that no other pair uses. A word without such a partner is left out.

Drawing. The numbers of tokens take turns, so that each has its share of the words as far as the text has them. At each
turn a word is drawn at random among those of the documents that have given the fewest so far; no document gives the
same word twice.
"""

from __future__ import annotations

import heapq
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from neuronlab.documents import Documents

Array = np.ndarray
BATCH = 256  # documents encoded at once; reading stops after a batch that completes what is needed
BETWEEN_SPACES = re.compile(r"\S+")


class WordError(ValueError):
    """A tokenizer or a setting with which words cannot be found; the message names the config key."""


@dataclass(frozen=True)
class ReadDocument:
    """A document's tokens, and where its words are.

    Attributes:
        number: the document's, as in tokens.parquet.
        tokens: encoded whole and without special tokens, as in `texts.py`.
        forbidden: how many of the tokens before each position, and before the end, are no ordinary ones.
        last: position of each word's last token.
        pieces: tokens of each word.
        strings: each word.
    """

    number: int
    tokens: Int[Array, " tokens"]
    forbidden: Int[Array, " tokens+1"]
    last: Int[Array, " words"]
    pieces: Int[Array, " words"]
    strings: tuple[str, ...]

    def fits(self, last: Int[Array, " words"], length: int) -> Bool[Array, " words"]:
        """Whether the `length` tokens up to `last` exist and are all ordinary."""
        first = np.maximum(last - length + 1, 0)
        return (last >= length - 1) & (self.forbidden[last + 1] == self.forbidden[first])

    def before(self, last: int, length: int) -> tuple[int, ...]:
        """The `length` tokens that end at position `last`."""
        return tuple(self.tokens[last - length + 1 : last + 1].tolist())


@dataclass(frozen=True)
class Pair:
    """A word of several tokens and its one-token partner.

    Attributes:
        document: number of the document that both stand in.
        pieces: tokens of the word.
        word: `context` tokens of the document and the word's own.
        single: as many tokens, the last of which is the one-token word.
        strings: both words.
        positions: where both end in their document, in tokens.
    """

    document: int
    pieces: int
    word: tuple[int, ...]
    single: tuple[int, ...]
    strings: tuple[str, str]
    positions: tuple[int, int]


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """First character and end of every word of a text (see the module's head)."""
    for match in BETWEEN_SPACES.finditer(text):
        found = match.group()
        kinds = [unicodedata.category(character)[0] for character in found]
        end = len(found)
        while end and kinds[end - 1] in "PS":
            end -= 1
        # A letter first: a mark that combines would belong to the space before it.
        if end and kinds[0] == "L" and set(kinds[:end]) <= {"L", "M"}:
            yield match.start(), match.start() + end


def read_document(
    number: int,
    text: str,
    tokens: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    ordinary: Bool[Array, " vocab"],
) -> ReadDocument:
    """Find the words whose tokens hold nothing else.

    Args:
        offsets: first character and end of what every token stands for; a character that is spread over several
            tokens is named by each of them.
        ordinary: ids that mark nothing (`repeats.ordinary_ids`).
    """
    starts, ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    ids = np.asarray(tokens, dtype=np.int32)
    found = []
    for begin, end in word_spans(text):
        first = int(np.searchsorted(ends, begin, side="right"))
        after = int(np.searchsorted(starts, end, side="left"))
        # A token may hold the space before the word, and must hold nothing else beside it.
        if first < after and text[starts[first] : begin].strip() == "" and ends[after - 1] == end:
            found.append((after - 1, after - first, text[begin:end]))
    return ReadDocument(
        number=number,
        tokens=ids,
        forbidden=np.concatenate([[0], np.cumsum(~ordinary[ids])]).astype(np.int64),
        last=np.array([last for last, _, _ in found], dtype=np.int64),
        pieces=np.array([pieces for _, pieces, _ in found], dtype=np.int64),
        strings=tuple(string for _, _, string in found),
    )


def read_words(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    ordinary: Bool[Array, " vocab"],
    *,
    pieces: Sequence[int],
    words: int,
    context: int,
    seed: int,
) -> list[ReadDocument]:
    """Documents with words of `pieces` tokens, read in an order drawn by the seed.

    Reading stops once every number of tokens has `words` documents to draw from: the rest of a large text is spared.

    Raises:
        WordError: for a tokenizer that does not say which characters a token stands for.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise WordError(
            f"stages_of_inference.parts: {type(tokenizer).__name__} does not tell which characters a token stands for "
            "(a slow tokenizer); leave out `subjoiners`, or use a model with a tokenizer.json"
        )
    order = np.random.default_rng([seed, 0x524541]).permutation(len(documents.texts)).tolist()
    kept: list[ReadDocument] = []
    having: Counter[int] = Counter()
    for start in tqdm(range(0, len(order), BATCH), desc="words", unit="batch", file=sys.stderr, disable=None):
        chosen = order[start : start + BATCH]
        encoded = tokenizer(
            [documents.texts[i] for i in chosen],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,  # documents are longer than the model's context on purpose
        )
        for i, tokens, offsets in zip(chosen, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if not len(tokens):
                continue
            document = read_document(documents.numbers[i], documents.texts[i], tokens, offsets, ordinary)
            there = [k for k in pieces if len(candidates(document, k, context))]
            if there:
                kept.append(document)
                having.update(there)
        if all(having[k] >= words for k in pieces):
            break
    return kept


def candidates(document: ReadDocument, pieces: int, context: int) -> Int[Array, " words"]:
    """Words of `pieces` tokens that have `context` ordinary tokens before them, as numbers of the document's words."""
    return np.flatnonzero((document.pieces == pieces) & document.fits(document.last, context + pieces))


def draw_pairs(
    documents: Sequence[ReadDocument], *, pieces: Sequence[int], words: int, context: int, seed: int
) -> list[Pair]:
    """At most `words` pairs, by the rules in the module's head; ordered by number of tokens, document and position."""
    generator = np.random.default_rng([seed, 0x445241])
    given = np.zeros(len(documents), dtype=np.int64)
    used: set[tuple[int, int]] = set()  # one-token words, as (document, word)
    said: set[tuple[int, str]] = set()  # words that a document has given
    heaps = {}
    for k in pieces:
        of_documents = [candidates(document, k, context).tolist() for document in documents]
        places = [(d, word) for d, found in enumerate(of_documents) for word in found]
        chance = generator.random(len(places)).tolist()
        heaps[k] = [(0, drawn, d, word) for drawn, (d, word) in zip(chance, places, strict=True)]
        heapq.heapify(heaps[k])
    pairs: list[Pair] = []
    while len(pairs) < words and any(heaps.values()):
        for k in pieces:
            if len(pairs) < words:
                pairs += _draw_one(documents, heaps[k], k, context, given, used, said, generator)
    return sorted(pairs, key=lambda pair: (pair.pieces, pair.document, pair.positions))


def _draw_one(
    documents: Sequence[ReadDocument],
    heap: list[tuple[int, float, int, int]],
    pieces: int,
    context: int,
    given: Int[Array, " documents"],
    used: set[tuple[int, int]],
    said: set[tuple[int, str]],
    generator: np.random.Generator,
) -> list[Pair]:
    """The next pair of one number of tokens, or none; what was drawn is marked in `given`, `used` and `said`."""
    while heap:
        count, chance, d, word = heapq.heappop(heap)
        if count < given[d]:  # the document has given a word since: back in line
            heapq.heappush(heap, (int(given[d]), chance, d, word))
            continue
        document = documents[d]
        if (d, document.strings[word]) in said:
            continue
        near = partners(document, word, context)
        free = [int(other) for other in near if (d, int(other)) not in used]
        if not free:
            continue
        other = free[int(generator.integers(len(free)))]
        given[d] += 1
        used.add((d, other))
        said.add((d, document.strings[word]))
        length, ends = context + pieces, (int(document.last[word]), int(document.last[other]))
        return [
            Pair(
                document=document.number,
                pieces=pieces,
                word=document.before(ends[0], length),
                single=document.before(ends[1], length),
                strings=(document.strings[word], document.strings[other]),
                positions=ends,
            )
        ]
    return []


def partners(document: ReadDocument, word: int, context: int) -> Int[Array, " words"]:
    """One-token words at most `context` tokens from where a word ends, with as many tokens before them."""
    near = np.abs(document.last - document.last[word]) <= context
    enough = document.fits(document.last, context + int(document.pieces[word]))
    return np.flatnonzero((document.pieces == 1) & near & enough)
