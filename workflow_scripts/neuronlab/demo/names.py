"""Invents pronounceable words and names, and decides which of them are one token and which take several.

Words are strings of syllables. A word that is one token is in the tokenizer's vocabulary as a whole; any other is
spelled from a small stock of pieces, one to a syllable, so that subword prediction has something to learn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ONSETS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr", "th")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea")
CODAS = ("", "", "", "n", "r", "l", "s", "k")
# Names are softer than words, so that they read like names.
NAME_ONSETS = ("b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "br", "tr", "gr", "el", "al")
NAME_VOWELS = ("a", "e", "i", "o", "u")
NAME_ENDINGS = ("da", "la", "ra", "na", "lin", "ven", "rim", "dan", "rek", "las", "mir", "nor", "sa", "ton", "wen")
# English words of the relations' phrases, and words that an invented language had better not contain.
RESERVED = {"was", "born", "in", "speaks", "plays", "the", "prays", "to", "works", "for", "unknown"}
RESERVED |= {"anal", "anus", "dik", "fuk", "nazi", "rape", "kil", "kok", "suk", "sluk", "tit", "pis", "pus", "negro"}

OPENING_PIECES, INNER_PIECES, NAME_PIECES = 44, 56, 22
SURNAMES, TWO_WORD_SUBJECTS, SPELLED_SUBJECTS = 20, 45, 45
SPELLED_OBJECTS = 6  # of each relation's objects
NONSENSE = 4000  # strings of pieces, and single pieces, that occur in repeated spans alone


@dataclass(frozen=True)
class Lexicon:
    """``single_tokens`` holds whole words; ``pieces`` holds token strings, those that open a word marked with "▁"."""

    words: tuple[str, ...]
    subjects: tuple[str, ...]
    objects: tuple[tuple[str, ...], ...]
    nonsense: tuple[str, ...]
    single_tokens: frozenset[str]
    pieces: tuple[str, ...]


class _Inventor:
    """Draws syllables and never gives the same word twice."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.taken = set(RESERVED)

    def syllable(self, coda: bool = True) -> str:
        ending = self.rng.choice(CODAS) if coda else ""
        return str(self.rng.choice(ONSETS)) + str(self.rng.choice(VOWELS)) + str(ending)

    def name_syllable(self) -> str:
        return str(self.rng.choice(NAME_ONSETS)) + str(self.rng.choice(NAME_VOWELS))

    def syllables(self, count: int, make: Callable[[], str]) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            candidate = make()
            if candidate not in found and candidate not in RESERVED and len(candidate) > 1:
                found.append(candidate)
        return found

    def fresh(self, make: Callable[[], str]) -> str:
        while True:
            word = make()
            lowered = word.lower()
            if lowered not in self.taken and not any(bad in lowered for bad in RESERVED if len(bad) > 3):
                self.taken.add(lowered)
                return word


def invent_lexicon(
    rng: np.random.Generator, words: int, subjects: int, objects: int, endings: list[tuple[str, ...]]
) -> Lexicon:
    """``words`` words in order of falling frequency, ``subjects`` names, ``objects`` names for each set of endings."""
    inventor = _Inventor(rng)
    opening = inventor.syllables(OPENING_PIECES, inventor.syllable)
    inner = inventor.syllables(INNER_PIECES, inventor.syllable)
    capital = [p.capitalize() for p in inventor.syllables(NAME_PIECES, lambda: inventor.name_syllable() + "r")]
    single: set[str] = set()

    def spelled(first: list[str], count: int, ending: str = "") -> str:
        return inventor.fresh(
            lambda: str(rng.choice(first)) + "".join(str(s) for s in rng.choice(inner, size=count - 1)) + ending
        )

    def whole(make: Callable[[], str]) -> str:
        word = inventor.fresh(make)
        single.add(word)
        return word

    def whole_word(syllables: int) -> str:
        last = syllables - 1
        return whole(lambda: "".join(inventor.syllable(i == last or rng.random() < 0.3) for i in range(syllables)))

    def whole_name(syllables: int, endings: tuple[str, ...]) -> str:
        return whole(
            lambda: ("".join(inventor.name_syllable() for _ in range(syllables)) + rng.choice(endings)).capitalize()
        )

    vocabulary = []
    for rank in range(words):
        # Frequent words are short and whole; rare ones are long and, more and more often, spelled from pieces.
        if rng.random() < 0.65 * (rank - 90) / words:
            vocabulary.append(spelled(opening, int(rng.choice([2, 3, 4], p=[0.5, 0.3, 0.2]))))
        else:
            vocabulary.append(whole_word(1 if rank < 80 else 2 + int(rng.random() < 0.3)))
    surnames = [whole_name(1, ("k", "ns", "m", "rt")) for _ in range(SURNAMES)]
    people = [whole_name(1 + int(rng.random() < 0.4), NAME_ENDINGS) for _ in range(subjects - SPELLED_SUBJECTS)]
    people[:TWO_WORD_SUBJECTS] = [f"{name} {rng.choice(surnames)}" for name in people[:TWO_WORD_SUBJECTS]]
    people += [spelled(capital, int(rng.choice([2, 3]))) for _ in range(SPELLED_SUBJECTS)]
    families = []
    for ends in endings:
        family = [spelled(capital, int(rng.choice([1, 2])), str(rng.choice(ends))) for _ in range(SPELLED_OBJECTS)]
        family += [whole_name(1 + int(rng.random() < 0.5), ends) for _ in range(objects - len(family))]
        families.append(tuple(str(name) for name in rng.permutation(family)))
    nonsense = tuple(spelled(opening + capital, int(rng.choice([2, 3, 4]))) for _ in range(NONSENSE))
    nonsense += tuple(stem for stem in opening + capital if stem.lower() not in inventor.taken)
    pieces = [f"▁{piece}" for piece in opening + capital] + inner + [end for ends in endings for end in ends]
    return Lexicon(
        words=tuple(vocabulary),
        subjects=tuple(str(name) for name in rng.permutation(people)),
        objects=tuple(families),
        nonsense=nonsense,
        single_tokens=frozenset(single),
        pieces=tuple(dict.fromkeys(pieces)),
    )
