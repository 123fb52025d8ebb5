"""Features of tokens, example by example."""

from __future__ import annotations

import numpy as np
import pytest
from neuronlab.token_features import FEATURES, feature_matrix

# Feature: tokens that have it, tokens that do not.
EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "ends_ing": ([" running", "ing", " King", "SING"], [" runs", "ing.", " ingot", ""]),
    "ends_ed": ([" walked", "ed"], [" edit", "ed,"]),
    "ends_ly": ([" quickly"], [" lyric", "ly-"]),
    "ends_s": ([" cats", "s", " US"], ["'s", " cat", "s1"]),
    "ends_er": ([" bigger", " Water"], [" error"]),
    "ends_est": ([" biggest"], [" ester"]),
    "ends_tion": ([" nation", "sion", "tion"], [" iontophoresis"]),
    "ends_ment": ([" moment"], [" mental"]),
    "ends_ness": ([" kindness"], [" nest"]),
    "ends_able": ([" able", " visible"], [" ably"]),
    "ends_ity": ([" city"], [" item"]),
    "ends_al": ([" legal"], [" also"]),
    "ends_ive": ([" live"], [" liver"]),
    "ends_ous": ([" famous"], [" outs"]),
    "begins_un": ([" under", "un", " UNDO"], [" fun", "un-", " 1un"]),
    "begins_re": ([" rerun", "re"], [" are", "re's"]),
    "begins_pre": ([" prefix"], [" spread"]),
    "begins_dis": ([" disco"], [" radish"]),
    "begins_over": ([" overt"], [" cover"]),
    "begins_vowel": ([" apple", "Under", "i"], [" tree", " 8", "", ".a", "\u00e9t\u00e9"]),
    "leading_space": ([" the", " ", "  x"], ["the", "\n", "\tx", ""]),
    "starts_word": ([" the", "\tif", " \u00e9t\u00e9"], ["the", " ", "  x", " 1", ""]),
    "continues_word": (["ing", "s1", "\u00e9"], [" ing", "Ing", "1s", ""]),
    "letters": ([" the", "Word", "\u00e9t\u00e9"], [" a1", "", " ", "don't", "\ufffd"]),
    "lower_case": ([" the", "ing"], [" The", " a1", "", "."]),
    "capitalised": ([" The", "I", "\u00c9t\u00e9"], [" the", " USA", "McA", "", "T1"]),
    "upper_case": ([" USA", "ID"], [" I", " Usa", "U2", ".."]),
    "one_character": (["a", " a", ".", "\n", " 7", "\u3084", " "], ["", " ab", "..", "\ufffd", " \ufffd"]),
    "long_word": ([" building", "CHARACTER"], [" seven", " 12345678", " it's-long"]),
    "newline": (["\n", "\n\n", "a\n"], ["\t", " ", "\r", ""]),
    "white_space": ([" ", "\n", "\t  "], ["", " a"]),
    "non_ascii": (["\u00e9", " caf\u00e9", "\ufffd", "\u201c"], ["e", "", "~"]),
    "digits": ([" 1", "007", "2024"], [" 1.", "", "a1", "\u0663", "\u00b2"]),
    "one_digit": (["1", " 9"], ["10", "a", ""]),
    "two_digits": (["10", " 99"], ["1", "100", "1a"]),
    "three_digits": (["100", " 007"], ["10", "1000"]),
    "year": ([" 1500", "2099", "1984"], ["1499", "2100", "198", "1984.", "01984", "nineteen"]),
    "number_word": ([" One", "twenty", "million"], ["1", " once"]),
    "punctuation": ([".", " (", "...", "\u2014", '."'], ["", " ", "$", "a.", "\n"]),
    "symbol": (["$", " +", "\u20ac", "=="], [".", "$1", "", "\ufffd"]),
    "sentence_end": ([".", " ?", "!!", "..."], [",", "", ".)"]),
    "comma": ([",", " ,,"], [".", "", ",a"]),
    "colon": ([":", " ;"], [",", "", ":a"]),
    "dash": (["-", " \u2014", "--"], ["_", "a-b", ""]),
    "open_bracket": (["(", " [", "{{", "<"], [")", "()", "", "(a"]),
    "close_bracket": ([")", " ]", "))", ">"], ["(", "()", "", ");"]),
    "quote": (['"', " '", "\u201c", "''"], ["'s", "", "."]),
    "contraction": (["'s", "n't", " I'm", "\u2019ll"], ["'", "its", " s'", "''"]),
    "pronoun_first": ([" I", "we", " My"], [" in", " you"]),
    "pronoun_second": ([" you", "Your"], [" young"]),
    "pronoun_masculine": ([" he", "Him"], [" the", " her"]),
    "pronoun_feminine": ([" she", "Her"], [" here", " his"]),
    "pronoun_neuter": ([" it", "Itself"], [" item", " they"]),
    "pronoun_plural": ([" they", "Them"], [" there", " it"]),
    "article": ([" the", "An", " a"], [" than", "."]),
    "preposition": ([" of", "With"], [" often"]),
    "conjunction": ([" and", "But"], [" band"]),
    "auxiliary": ([" is", "Would"], [" island"]),
    "question_word": ([" who", "Which"], [" whole"]),
    "negation": ([" not", "Never"], [" note"]),
    "month": ([" May", "March", " DEC", "Sep"], [" may", " march", " Mayor", " De"]),
    "weekday": ([" Monday", "Fri"], [" sun", " Sunny"]),
}


def test_every_feature_has_examples():
    assert list(EXAMPLES) == list(FEATURES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    have, have_not = EXAMPLES[name]
    assert [token for token in have if not FEATURES[name](token)] == []
    assert [token for token in have_not if FEATURES[name](token)] == []


def test_answers_are_plain_booleans_for_any_text():
    for token in ("", " ", "\ufffd", "\u0301", "<|endoftext|>", "\U0001f600", "\x00", "\u01c5"):
        assert all(type(feature(token)) is bool for feature in FEATURES.values())


def test_names_and_questions():
    assert all(feature.name == name and feature.question for name, feature in FEATURES.items())
    assert len({feature.question for feature in FEATURES.values()}) == len(FEATURES)


def test_the_matrix_is_the_table_of_answers():
    strings = [" running", "1984", ".", "\n"]
    matrix = feature_matrix(strings)
    assert matrix.dtype == bool
    assert matrix.shape == (4, len(FEATURES))
    names = np.array(list(FEATURES))
    assert set(names[matrix[1]]) == {"digits", "year"}
    assert set(names[matrix[3]]) == {"newline", "white_space", "one_character"}
    assert feature_matrix([]).shape == (0, len(FEATURES))
