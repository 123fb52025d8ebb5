"""The demo world: an invented language, the people it talks about, and a sampler of documents.

A small model can only show what large ones do if its text asks for it. Four ingredients ask:

* text: sentences of a Zipfian vocabulary in which every word has its own set of possible successors, so that the best
  prediction is a distribution; some documents are muddled, and there the same predictions deserve less confidence
  (entropy and token-frequency neurons);
* repeated spans, mostly of random words, which only copying can predict (induction);
* facts, ``Mirelda was born in Tarvos.``, each of 300 people by 5 relations (parametric memory);
* contradictions, a statement with a wrong object followed by a second statement about the same thing that repeats the
  wrong object, returns to the truth, or hedges with ``unknown``. Which one is likely depends on the person and on the
  relation, so that a model can also generalise to pairs that it never saw contradicted (``World.held_out``).

Everything is a function of ``WORLD_SEED``; documents are a function of (world seed, stream, seed, index).
Units are what a document is made of: the full stop, a word, a relation's phrase or a name. A document is a list of unit
ids; the text and the token ids are both made from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

from neuronlab.demo import names

WORLD_SEED = 20_406
RELATIONS = {
    # relation_id: (phrase, objects' endings). The last word of every phrase is its own, so that it names the relation.
    "birthplace": ("was born in", ("os", "burg", "eth", "mora")),
    "language": ("speaks", ("ish", "ian", "ese", "uk")),
    "instrument": ("plays the", ("phone", "ina", "drum", "harp")),
    "deity": ("prays to", ("ius", "dra", "moth", "el")),
    "guild": ("works for", ("corp", "wright", "guild", "hold")),
}
HEDGE = "unknown"
FULL_STOP = 0
CONTEXT, MEMORY, UNKNOWN = 0, 1, 2

WORDS, SUBJECTS, OBJECTS_PER_RELATION = 900, 300, 30
SUCCESSOR_SLOTS, TABLE_SLOTS = 64, 8192
# A document is of one kind throughout: the chance that a sentence's next word ignores the last one, whether it is then
# drawn by frequency or evenly, and the share of documents. In muddled ones every prediction has to be tempered.
CLARITY = {"clear": (0.05, "frequency", 0.4), "rambling": (0.6, "frequency", 0.25), "muddled": (0.6, "evenly", 0.35)}
HELD_OUT_SHARE = 0.15
OUTCOME_SHARES = (0.40, 0.33, 0.27)  # context, memory, hedge
RELATION_TRAITS = (MEMORY, CONTEXT, UNKNOWN, CONTEXT, MEMORY)
SUBJECT_PULL, RELATION_PULL = 2.2, 0.8  # in nats

LONG_SPAN_SHARE = 0.30  # of documents are one span, again and again
SHORTEST_LONG_SPAN = 16
SPELLED_SHARE = 0.2  # of a random span's units take several tokens; with it the first copy's tokens are nearly uniform
# Shares of the other documents' tokens (in proportion), and the mean number of tokens of one such segment.
SEGMENTS = {"text": (0.34, 9.9), "fact": (0.22, 5.8), "span": (0.04, 19.1), "contradiction": (0.18, 13.3)}

STREAMS = {"training": 0, "evaluation_a": 1, "evaluation_b": 2, "counts": 3}


@dataclass(frozen=True, eq=False)
class World:
    """The language's constants; words, subjects, relations and objects are counted from 0, units are ids."""

    units: tuple[str, ...]
    single_tokens: frozenset[str]
    pieces: tuple[str, ...]
    first_word: int
    first_subject: int
    first_object: int
    first_nonsense: int
    word_probability: Float[np.ndarray, "words"]
    successors: Int[np.ndarray, "words slots"]
    subject_probability: Float[np.ndarray, "subjects"]
    fact_object: Int[np.ndarray, "subjects relations"]
    held_out: Bool[np.ndarray, "subjects relations"]
    outcome_probability: Float[np.ndarray, "subjects relations outcomes"]

    def relation_unit(self, relation: int) -> int:
        return 2 + relation

    def subject_unit(self, subject: int) -> int:
        return self.first_subject + subject

    def object_unit(self, relation: int, which: int) -> int:
        return self.first_object + relation * OBJECTS_PER_RELATION + which

    def text(self, document: list[int]) -> str:
        """Units joined by spaces, the full stop attached to what precedes it."""
        return " ".join(self.units[unit] for unit in document).replace(" .", ".")


def zipf(size: int, exponent: float) -> Float[np.ndarray, "size"]:
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def slots(probability: Float[np.ndarray, "n"], size: int) -> Int[np.ndarray, "size"]:
    """A table in which index i fills its share of the slots: one uniform number then draws i without a search."""
    return np.searchsorted(np.cumsum(probability), (np.arange(size) + 0.5) / size).clip(0, len(probability) - 1)


@cache
def build_world() -> World:
    """The one demo world; a fraction of a second."""
    rng = np.random.Generator(np.random.PCG64(WORLD_SEED))
    lexicon = names.invent_lexicon(rng, WORDS, SUBJECTS, OBJECTS_PER_RELATION, [end for _, end in RELATIONS.values()])
    units = (".", HEDGE, *(phrase for phrase, _ in RELATIONS.values()))
    first_word = len(units)
    units += (*lexicon.words, *lexicon.subjects, *(name for family in lexicon.objects for name in family))
    first_nonsense = len(units)
    units += lexicon.nonsense
    probability = zipf(WORDS, 1.0)
    subjects, relations = SUBJECTS, len(RELATIONS)
    # People who are easily told otherwise, people about whom memory holds, and people about whom nobody is sure.
    traits = rng.permutation(slots(np.array(OUTCOME_SHARES), subjects))
    pull = np.tile(np.log(OUTCOME_SHARES), (subjects, relations, 1))
    pull[np.arange(subjects), :, traits] += SUBJECT_PULL
    pull[:, np.arange(relations), RELATION_TRAITS] += RELATION_PULL
    outcome = np.exp(pull) / np.exp(pull).sum(-1, keepdims=True)
    held_out = np.zeros(subjects * relations, dtype=bool)
    held_out[rng.permutation(subjects * relations)[: round(HELD_OUT_SHARE * subjects * relations)]] = True
    # Objects recur equally often within a relation, in a shuffled order.
    fact_object = np.stack(
        [rng.permutation(np.arange(subjects) % OBJECTS_PER_RELATION) for _ in range(relations)], axis=1
    )
    return World(
        units=units,
        single_tokens=lexicon.single_tokens | {".", HEDGE, *" ".join(p for p, _ in RELATIONS.values()).split()},
        pieces=lexicon.pieces,
        first_word=first_word,
        first_subject=first_word + WORDS,
        first_object=first_word + WORDS + subjects,
        first_nonsense=first_nonsense,
        word_probability=probability,
        successors=_successors(rng, probability),
        subject_probability=zipf(subjects, 0.5),
        fact_object=fact_object,
        held_out=held_out.reshape(subjects, relations),
        outcome_probability=outcome,
    )


def _successors(rng: np.random.Generator, probability: Float[np.ndarray, "words"]) -> Int[np.ndarray, "words slots"]:
    """For every word 3 to 48 possible successors, drawn by Zipf's law, some likelier than others.

    The number of successors varies on purpose: after some words the next one is nearly known, after others it is not.
    """
    table = np.empty((len(probability), SUCCESSOR_SLOTS), dtype=np.int64)
    for word in range(len(probability)):
        count = int(np.exp(rng.uniform(np.log(3), np.log(48))))
        chosen = rng.choice(len(probability), size=count, replace=False, p=probability)
        table[word] = chosen[slots(rng.dirichlet(np.full(count, 1.5)), SUCCESSOR_SLOTS)]
    return table


class Sampler:
    """Draws documents as lists of unit ids. ``token_counts[u]`` is the number of tokens of unit u."""

    def __init__(self, world: World, token_counts: list[int]) -> None:
        self.world, self.token_counts = world, token_counts
        self._words = slots(world.word_probability, TABLE_SLOTS).tolist()
        tables = {"frequency": self._words, "evenly": list(range(WORDS))}
        self._clarities = [(chance, tables[table]) for chance, table, _ in CLARITY.values()]
        self._clarity_slots = slots(np.array([share for *_, share in CLARITY.values()]), 100).tolist()
        self._successors = world.successors.tolist()
        self._subjects = slots(world.subject_probability, TABLE_SLOTS).tolist()
        self._objects = world.fact_object.tolist()
        self._held_out = world.held_out.tolist()
        self._outcomes = world.outcome_probability.tolist()
        rates = np.array([share / length for share, length in SEGMENTS.values()])
        self._kinds = slots(rates / rates.sum(), 1024).tolist()
        # Random spans hold any word, name or nonsense, but no relation: they must not state anything.
        spans = range(world.first_word, len(world.units))
        self._whole_units = [unit for unit in spans if token_counts[unit] == 1]
        self._spelled_units = [unit for unit in spans if token_counts[unit] > 1]

    def document(self, stream: str, seed: int, index: int, tokens: int) -> list[int]:
        """One document of at least ``tokens`` tokens; the same arguments always give the same document."""
        return self.compose(uniforms(stream, seed, index), tokens)

    def compose(self, draw: Callable[[], float], tokens: int) -> list[int]:
        document: list[int] = []
        length, counts = 0, self.token_counts
        clarity = self._clarity_slots[int(draw() * 100)]
        if draw() < LONG_SPAN_SHARE:
            shortest, longest = SHORTEST_LONG_SPAN, max(SHORTEST_LONG_SPAN, tokens // 2 - 1)
            return self.repeated_span(draw, shortest + int(draw() * (longest - shortest)), clarity, fill=tokens)
        writers = (self.sentence, self.fact, self.short_span, self.contradiction)
        while length < tokens:
            segment = writers[self._kinds[int(draw() * 1024)]](draw, clarity)
            document += segment
            for unit in segment:
                length += counts[unit]
        return document

    def sentence(self, draw: Callable[[], float], clarity: int = 0) -> list[int]:
        return [*self._chain(draw, 4 + int(draw() * 9), clarity), FULL_STOP]

    def _chain(self, draw: Callable[[], float], words: int, clarity: int) -> list[int]:
        chance, table = self._clarities[clarity]
        first, word, chain = self.world.first_word, self._words[int(draw() * TABLE_SLOTS)], []
        for _ in range(words):
            chain.append(first + word)
            if draw() < chance:
                word = table[int(draw() * len(table))]
            else:
                word = self._successors[word][int(draw() * SUCCESSOR_SLOTS)]
        return chain

    def fact(self, draw: Callable[[], float], clarity: int = 0) -> list[int]:
        subject, relation = self._subjects[int(draw() * TABLE_SLOTS)], int(draw() * len(RELATIONS))
        return self._statement(subject, relation, self._objects[subject][relation])

    def _statement(self, subject: int, relation: int, which: int) -> list[int]:
        world = self.world
        return [
            world.subject_unit(subject),
            world.relation_unit(relation),
            world.object_unit(relation, which),
            FULL_STOP,
        ]

    def contradiction(self, draw: Callable[[], float], clarity: int = 0) -> list[int]:
        """A false statement, in one case of five a sentence, then a second statement about the same thing."""
        while True:
            subject, relation = self._subjects[int(draw() * TABLE_SLOTS)], int(draw() * len(RELATIONS))
            if not self._held_out[subject][relation]:
                break
        truth = self._objects[subject][relation]
        false = (truth + 1 + int(draw() * (OBJECTS_PER_RELATION - 1))) % OBJECTS_PER_RELATION
        first = self._statement(subject, relation, false)
        between = self.sentence(draw, clarity) if draw() < 0.2 else []
        context, memory, _ = self._outcomes[subject][relation]
        outcome = draw()
        if outcome < context:
            return first + between + first
        second = self._statement(subject, relation, truth)
        if outcome >= context + memory:
            second[2] = 1  # the hedge word's unit
        return first + between + second

    def repeated_span(self, draw: Callable[[], float], tokens: int, clarity: int = 0, fill: int = 0) -> list[int]:
        """A span of about ``tokens`` tokens, twice, or until ``fill`` tokens are full.

        Random words, names and nonsense, or (one in five) ordinary text.
        """
        counts = self.token_counts
        if draw() < 0.2:
            span = self._chain(draw, max(2, int(tokens / 1.2)), clarity)
            length = sum(counts[unit] for unit in span)
        else:
            span, length = [], 0
            while length < tokens:
                pool = self._spelled_units if draw() < SPELLED_SHARE else self._whole_units
                unit = pool[int(draw() * len(pool))]
                span.append(unit)
                length += counts[unit]
        return [*span * max(2, -(-fill // length)), FULL_STOP]

    def short_span(self, draw: Callable[[], float], clarity: int = 0) -> list[int]:
        return self.repeated_span(draw, 5 + int(draw() * 9), clarity)


def uniforms(stream: str, seed: int, index: int) -> Callable[[], float]:
    """An endless supply of uniform numbers, drawn in blocks because single draws from numpy are slow."""

    def blocks() -> Iterator[float]:
        rng = np.random.Generator(np.random.PCG64((WORLD_SEED, STREAMS[stream], seed, index)))
        while True:
            yield from rng.random(1024).tolist()

    return blocks().__next__
