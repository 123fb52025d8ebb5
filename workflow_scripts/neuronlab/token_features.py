"""Features of tokens: yes-or-no questions about a token's text (METHODS C5, D2).

A token is given as the text that it adds within a sequence (`boosted_tokens.spell_tokens`): " the" with its space,
whether the tokenizer is a byte-level BPE or of SentencePiece's kind. A token that is but a part of a character is
spelled U+FFFD: not ASCII, and neither a character nor a symbol.

`FEATURES` is the table of all features, in the order of the reports: name, question, predicate. The questions are about
spelling, not about meaning or morphology: " king" ends in -ing and " under" begins with un-. The *word* of a token is
its text without spaces around it; where nothing else is said, upper and lower case do not matter, a word consists of
letters alone, and a piece of a word ("ing", "tion") is a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

Predicate = Callable[[str], bool]

LONG = 8  # letters
PART = "\ufffd"  # what bytes that are no whole character decode to
OPENING, CLOSING = frozenset("([{<"), frozenset(")]}>")
QUOTES = frozenset("\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb")
APOSTROPHES = frozenset("'\u2019")
DASHES = frozenset("-\u2010\u2011\u2012\u2013\u2014\u2212")
PRONOUNS = {
    "first": "i me my mine myself we us our ours ourselves",
    "second": "you your yours yourself yourselves",
    "masculine": "he him his himself",
    "feminine": "she her hers herself",
    "neuter": "it its itself",
    "plural": "they them their theirs themselves",
}
MONTHS = "january february march april may june july august september october november december"
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday"
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion"
)
ARTICLES = "a an the"
PREPOSITIONS = (
    "about above across after against along among around at before behind below beneath beside between beyond by "
    "despite down during except for from in inside into near of off on onto out outside over past since through "
    "throughout to toward towards under until up upon via with within without"
)
CONJUNCTIONS = "and or but nor yet so if because although though while whereas unless that than as"
AUXILIARIES = (
    "am is are was were be been being do does did have has had can could will would shall should may might must"
)
QUESTIONS = "who whom whose what which when where why how"
NEGATIONS = "no not never none nothing nobody nowhere neither nor cannot without"


@dataclass(frozen=True)
class Feature:
    """One feature: call it with a token's text.

    Attributes:
        name: as tables and configuration spell it.
        question: what is asked of the token.
        predicate: the answer.
    """

    name: str
    question: str
    predicate: Predicate

    def __call__(self, token: str) -> bool:
        """Whether a token, given as text with its leading space, has the feature."""
        return self.predicate(token)


def word(token: str) -> str:
    """The token without white space around it."""
    return token.strip()


def _ends(*endings: str) -> Predicate:
    return lambda token: word(token).isalpha() and word(token).lower().endswith(endings)


def _begins(beginning: str) -> Predicate:
    return lambda token: word(token).isalpha() and word(token).lower().startswith(beginning)


def _one_of(words: str) -> Predicate:
    known = frozenset(words.split())
    return lambda token: word(token).lower() in known


def _name_of(names: str, shortest: int = 3) -> Predicate:
    """A name with a capital, or written in capitals, or its first letters: " May", "MAY", "Sept", but not " may"."""
    full = names.split()
    known = frozenset(full) | {name[:shortest] for name in full}
    return lambda token: word(token)[:1].isupper() and word(token).lower() in known


def _digits(length: int | None = None) -> Predicate:
    def predicate(token: str) -> bool:
        digits = word(token)
        return digits.isascii() and digits.isdigit() and length in (None, len(digits))

    return predicate


def _all_in(characters: frozenset[str]) -> Predicate:
    return lambda token: bool(word(token)) and characters.issuperset(word(token))


def _is_category(character: str, *categories: str) -> bool:
    """Whether the Unicode category of a character begins with one of `categories`: L a letter, P punctuation, ..."""
    return unicodedata.category(character).startswith(categories)


def _all_of_category(*categories: str) -> Predicate:
    return lambda token: bool(word(token)) and all(_is_category(character, *categories) for character in word(token))


def _year(token: str) -> bool:
    return _digits(4)(token) and 1500 <= int(word(token)) <= 2099


def _capitalised(token: str) -> bool:
    text = word(token)
    return text.isalpha() and text[0].isupper() and (len(text) == 1 or text[1:].islower())


def _contraction(token: str) -> bool:
    text = word(token)
    return len(text) > 1 and any(mark in text for mark in APOSTROPHES) and text[-1].isalpha()


def _starts_word(token: str) -> bool:
    return len(token) > 1 and token[0].isspace() and token[1].isalpha()


def _one_character(token: str) -> bool:
    return PART not in token and (len(token) == 1 or (len(token) == 2 and token[0] == " "))


def _symbols(token: str) -> bool:
    return PART not in token and _all_of_category("S")(token)


_TABLE: tuple[tuple[str, str, Predicate], ...] = (
    # Endings
    ("ends_ing", "a word that ends in -ing", _ends("ing")),
    ("ends_ed", "a word that ends in -ed", _ends("ed")),
    ("ends_ly", "a word that ends in -ly", _ends("ly")),
    ("ends_s", "a word that ends in -s", _ends("s")),
    ("ends_er", "a word that ends in -er", _ends("er")),
    ("ends_est", "a word that ends in -est", _ends("est")),
    ("ends_tion", "a word that ends in -tion or -sion", _ends("tion", "sion")),
    ("ends_ment", "a word that ends in -ment", _ends("ment")),
    ("ends_ness", "a word that ends in -ness", _ends("ness")),
    ("ends_able", "a word that ends in -able or -ible", _ends("able", "ible")),
    ("ends_ity", "a word that ends in -ity", _ends("ity")),
    ("ends_al", "a word that ends in -al", _ends("al")),
    ("ends_ive", "a word that ends in -ive", _ends("ive")),
    ("ends_ous", "a word that ends in -ous", _ends("ous")),
    # Beginnings
    ("begins_un", "a word that begins with un-", _begins("un")),
    ("begins_re", "a word that begins with re-", _begins("re")),
    ("begins_pre", "a word that begins with pre-", _begins("pre")),
    ("begins_dis", "a word that begins with dis-", _begins("dis")),
    ("begins_over", "a word that begins with over-", _begins("over")),
    ("begins_vowel", "a word that begins with a, e, i, o or u", lambda token: any(_begins(v)(token) for v in "aeiou")),
    # Where it stands, and how it is written
    ("leading_space", "begins with a space", lambda token: token.startswith(" ")),
    ("starts_word", "white space, then a letter: the first piece of a word", _starts_word),
    ("continues_word", "begins with a lower-case letter, no space before it", lambda token: token[:1].islower()),
    ("letters", "a word of letters alone", lambda token: word(token).isalpha()),
    ("lower_case", "a word in lower case", lambda token: word(token).isalpha() and word(token).islower()),
    ("capitalised", "a capital, then lower-case letters or nothing", _capitalised),
    (
        "upper_case",
        "two capitals or more and nothing else",
        lambda token: len(word(token)) > 1 and word(token).isalpha() and word(token).isupper(),
    ),
    ("one_character", "one character, a leading space not counted", _one_character),
    (
        "long_word",
        f"a word of {LONG} letters or more",
        lambda token: word(token).isalpha() and len(word(token)) >= LONG,
    ),
    ("newline", "holds a line feed", lambda token: "\n" in token),
    ("white_space", "white space and nothing else", lambda token: bool(token) and token.isspace()),
    ("non_ascii", "holds a character beyond ASCII", lambda token: not token.isascii()),
    # Numbers
    ("digits", "digits and nothing else", _digits()),
    ("one_digit", "a single digit", _digits(1)),
    ("two_digits", "two digits", _digits(2)),
    ("three_digits", "three digits", _digits(3)),
    ("year", "a number from 1500 to 2099", _year),
    ("number_word", "a number as a word: one, twenty, million", _one_of(NUMBERS)),
    # Punctuation
    ("punctuation", "punctuation marks and nothing else", _all_of_category("P")),
    ("symbol", "symbols (currency, arithmetic, ...) and nothing else", _symbols),
    ("sentence_end", "full stop, exclamation mark, question mark", _all_in(frozenset(".!?"))),
    ("comma", "commas", _all_in(frozenset(","))),
    ("colon", "colon or semicolon", _all_in(frozenset(":;"))),
    ("dash", "hyphens and dashes", _all_in(DASHES)),
    ("open_bracket", "opening brackets: ( [ { <", _all_in(OPENING)),
    ("close_bracket", "closing brackets: ) ] } >", _all_in(CLOSING)),
    ("quote", "quotation marks, apostrophes among them", _all_in(QUOTES)),
    ("contraction", "apostrophe and letters: 's, n't, I'm", _contraction),
    # Words of closed classes
    ("pronoun_first", "I, me, my, we, us, our, ...", _one_of(PRONOUNS["first"])),
    ("pronoun_second", "you, your, ...", _one_of(PRONOUNS["second"])),
    ("pronoun_masculine", "he, him, his, himself", _one_of(PRONOUNS["masculine"])),
    ("pronoun_feminine", "she, her, hers, herself", _one_of(PRONOUNS["feminine"])),
    ("pronoun_neuter", "it, its, itself", _one_of(PRONOUNS["neuter"])),
    ("pronoun_plural", "they, them, their, ...", _one_of(PRONOUNS["plural"])),
    ("article", "a, an, the", _one_of(ARTICLES)),
    ("preposition", "of, in, to, with, ...", _one_of(PREPOSITIONS)),
    ("conjunction", "and, or, but, because, ...", _one_of(CONJUNCTIONS)),
    ("auxiliary", "forms of be, do, have; can, will, must, ...", _one_of(AUXILIARIES)),
    ("question_word", "who, what, which, when, ...", _one_of(QUESTIONS)),
    ("negation", "no, not, never, nothing, ...", _one_of(NEGATIONS)),
    ("month", "a month with a capital, or its first three letters", _name_of(MONTHS)),
    ("weekday", "a weekday with a capital, or its first three letters", _name_of(WEEKDAYS)),
)
FEATURES: dict[str, Feature] = {name: Feature(name, question, predicate) for name, question, predicate in _TABLE}


def feature_matrix(strings: Sequence[str]) -> Bool[np.ndarray, "tokens features"]:
    """Which tokens have which features; columns in the order of `FEATURES`.

    Args:
        strings: tokens as text, each with its leading space where it has one.
    """
    rows = [[feature(token) for feature in FEATURES.values()] for token in strings]
    return np.array(rows, dtype=bool).reshape(len(strings), len(FEATURES))
