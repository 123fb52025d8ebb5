"""Repeated sequences: every position where the table says it is, and the finder against all pairs of stretches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from neuronlab.documents import TextSpec
from neuronlab.model_files import ModelSpec
from neuronlab.natural_repeats import (
    Occurrences,
    draw_repeated,
    find_repeats,
    natural_row,
    repeated_stretch,
    undecodable_ids,
)
from neuronlab.repeat_places import Repeats
from neuronlab.repeats import RepeatError, make_repeats, ordinary_ids, repeat
from neuronlab.tables import read_table, write_table
from neuronlab.texts import NO_DOCUMENT, Sequences
from neuronlab.vocabulary import load_vocabulary

N_CTX, BOS, EOS = 64, 0, 1


@pytest.fixture
def gpt2(tiny_directories: dict[str, Path]) -> ModelSpec:
    return ModelSpec("mine", "directory", path=str(tiny_directories["gpt2"]))


@pytest.fixture
def qwen2(tiny_directories: dict[str, Path]) -> ModelSpec:
    return ModelSpec("mine", "directory", path=str(tiny_directories["qwen2"]))


def text_table(path: Path, *, sequences: int = 12, length: int = 32, bos: bool = True) -> np.ndarray:
    """tokens.parquet of random ids; the first half of sequence i is of document i, the rest of i + 1."""
    ids = np.random.default_rng(1).integers(2, 196, (sequences, length))
    documents = np.repeat(np.arange(sequences)[:, None], length, axis=1)
    documents[:, length // 2 + 2 :] += 1
    if bos:
        ids[:, 0], documents[:, 0] = BOS, NO_DOCUMENT
    frame = pl.DataFrame(
        {
            "sequence": range(sequences),
            "tokens": ids.tolist(),
            "documents": documents.tolist(),
            "counted": [[False] * length] * sequences,
        }
    )
    write_table(frame, path, "tokens")
    return ids


def made(model: ModelSpec, folder: Path, **options: object) -> Repeats:
    path = folder / "repeats.parquet"
    make_repeats(model=model, tokens=folder / "tokens.parquet", repeats=path, **options)
    return Repeats.read(path)


def copies_by_hand(repeats: Repeats, row: int) -> dict[int, dict[int, int]]:
    """{copy: {offset: token}} of a sequence, position by position."""
    found: dict[int, dict[int, int]] = {}
    for token, copy, offset in zip(repeats.tokens[row], repeats.copy[row], repeats.offset[row], strict=True):
        if copy >= 0:
            assert offset not in found.setdefault(int(copy), {})
            found[int(copy)][int(offset)] = int(token)
    return found


@pytest.mark.parametrize("separator", ["", "and"])
@pytest.mark.parametrize("repetitions", [2, 3])
def test_copies_of_a_text_stand_where_the_table_says(
    gpt2: ModelSpec, tmp_path: Path, separator: str, repetitions: int
) -> None:
    """The whole stretch is repeated, not all but its first token (METHODS A defect 13: 199 tokens of 200)."""
    ids = text_table(tmp_path / "tokens.parquet")
    length = 15
    repeats = made(gpt2, tmp_path, length=length, repetitions=repetitions, separator=separator, sequences=12)
    between = load_vocabulary(gpt2).tokenizer(separator, add_special_tokens=False)["input_ids"] if separator else []
    assert repeats.tokens.shape == (12, 1 + repetitions * length + (repetitions - 1) * len(between))
    for row in range(12):
        stretch = ids[row, 1 : 1 + length].tolist()
        expected = [BOS, *stretch]
        starts = [1]
        for _ in range(1, repetitions):
            expected += between
            starts.append(len(expected))
            expected += stretch
        assert repeats.tokens[row].tolist() == expected
        copies = copies_by_hand(repeats, row)
        assert sorted(copies) == list(range(repetitions))
        for copy, start in enumerate(starts):
            assert copies[copy] == dict(enumerate(stretch))
            # Offset 0 is the first repeated token, and stands exactly where the copy starts.
            assert (repeats.copy[row, start], repeats.offset[row, start]) == (copy, 0)
            assert repeats.copy[row, start - 1] == (-1 if copy == 0 or between else copy - 1)
    assert repeats.continues.all()


def test_a_text_is_drawn_without_replacement_and_in_order(gpt2: ModelSpec, tmp_path: Path) -> None:
    """METHODS A defect 13: draws with replacement, and one past the end."""
    ids = text_table(tmp_path / "tokens.parquet", sequences=40)
    drawn = {}
    for seed in (0, 0, 1):
        repeats = made(gpt2, tmp_path, length=10, sequences=25, seed=seed)
        rows = [int(np.flatnonzero((ids[:, 1:11] == tokens[1:11]).all(1)).item()) for tokens in repeats.tokens]
        assert rows == sorted(set(rows))
        assert repeats.document.tolist() == rows  # the first ten tokens are all of document i
        assert drawn.setdefault(seed, rows) == rows
    assert drawn[0] != drawn[1]
    with pytest.warns(UserWarning, match=r"induction\.synthetic\.sequences is 1000.*40"):
        assert len(made(gpt2, tmp_path, length=10)) == 40


def test_the_document_is_the_one_that_most_of_a_stretch_is_of(gpt2: ModelSpec, tmp_path: Path) -> None:
    text_table(tmp_path / "tokens.parquet", sequences=4, length=60)
    assert made(gpt2, tmp_path, length=31, sequences=4).document.tolist() == [0, 1, 2, 3]
    frame = read_table(tmp_path / "tokens.parquet", "tokens")
    moved = [[NO_DOCUMENT, *[d] * 12, *[d + 7] * 47] for d in range(4)]
    write_table(
        frame.with_columns(documents=pl.Series(moved, dtype=pl.List(pl.Int32))), tmp_path / "tokens.parquet", "tokens"
    )
    assert made(gpt2, tmp_path, length=31, sequences=4).document.tolist() == [7, 8, 9, 10]


def test_without_bos_the_first_copy_starts_the_sequence(qwen2: ModelSpec, tmp_path: Path) -> None:
    ids = text_table(tmp_path / "tokens.parquet", bos=False)
    repeats = made(qwen2, tmp_path, length=8, sequences=12)
    assert (repeats.tokens == np.tile(ids[:, :8], 2)).all()
    assert repeats.copy[0].tolist() == [0] * 8 + [1] * 8


def test_random_tokens_are_ordinary_ones(gpt2: ModelSpec, tmp_path: Path) -> None:
    """METHODS A defect 12: random tokens include special ids. Neither they nor padded ids occur; all others can."""
    text_table(tmp_path / "tokens.parquet")
    repeats = made(gpt2, tmp_path, source="random", length=30, sequences=400)
    body = repeats.tokens[:, 1:]
    assert set(np.unique(body).tolist()) == set(range(2, 196))
    assert (body[:, :30] == body[:, 30:]).all()
    assert len(set(repeats.document.tolist())) == 400
    assert len(np.unique(body, axis=0)) == 400
    again = made(gpt2, tmp_path, source="random", length=30, sequences=400)
    assert (again.tokens == repeats.tokens).all()
    other = made(gpt2, tmp_path, source="random", length=30, sequences=400, seed=1)
    assert (other.tokens != repeats.tokens).any()


def test_reserved_special_tokens_are_not_ordinary(gpt2: ModelSpec) -> None:
    vocabulary = load_vocabulary(gpt2)
    assert np.flatnonzero(~ordinary_ids(vocabulary)).tolist() == [BOS, EOS, 196, 197, 198, 199]
    vocabulary.tokenizer.add_tokens("<kept>")
    vocabulary.tokenizer.add_tokens("<reserved>", special_tokens=True)
    vocabulary.real[196:198] = True
    assert np.flatnonzero(~ordinary_ids(vocabulary)).tolist() == [BOS, EOS, 197, 198, 199]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 32}, r"induction\.synthetic\.length is 32.*65 tokens.*models\.mine 64; set it to 31 or less"),
        ({"length": 20, "repetitions": 4}, r"length is 20.*81 tokens.*set it to 15 or less"),
        ({"length": 2, "repetitions": 70}, r"length is 2.*fewer repetitions"),
        ({"length": 30}, r"length is 30.*29 tokens after the BOS; set it to 29 or less, or raise the text's"),
        ({"length": 5, "repetitions": 1}, r"repetitions 1"),
        ({"length": 5, "source": "web"}, r"induction\.synthetic\.source is 'web'; it must be one of text, random"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(
    gpt2: ModelSpec, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    text_table(tmp_path / "tokens.parquet", length=30)
    with pytest.raises(RepeatError, match=message):
        made(gpt2, tmp_path, **options)
    assert not (tmp_path / "repeats.parquet").exists()


def test_a_sequence_may_fill_the_context(gpt2: ModelSpec, tmp_path: Path) -> None:
    text_table(tmp_path / "tokens.parquet", length=N_CTX)
    assert made(gpt2, tmp_path, length=31, sequences=2, separator="a").tokens.shape == (2, N_CTX)


def stretches_by_pairs(
    tokens: Sequence[int],
    allowed: Sequence[bool],
    prefix: int,
    min_distance: int,
    owners: Sequence[int] | None = None,
) -> Occurrences | None:
    """The earliest repeated stretch by comparing all pairs of places."""
    n = len(tokens)
    for first in range(n - prefix + 1):
        window = list(tokens[first : first + prefix])
        if not all(allowed[first : first + prefix]) or len(set(window)) != prefix:
            continue
        same = [at for at in range(n - prefix + 1) if list(tokens[at : at + prefix]) == window]
        if len(same) == 2 and same[0] == first:
            second = same[1]
            apart = second - (first + prefix - 1) - 1 >= min_distance and second + prefix <= n - 1
            if apart and (owners is None or len(set(owners[first : second + prefix + 1])) == 1):
                return Occurrences(first, second)
    return None


@given(
    tokens=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    forbidden=st.sets(st.integers(0, 6), max_size=2),
    prefix=st.integers(1, 4),
    min_distance=st.integers(1, 6),
    border=st.none() | st.integers(0, 40),
)
@example(tokens=[1, 2, 9, 1, 2, 9, 5], forbidden=set(), prefix=2, min_distance=1, border=None)
@example(tokens=[1, 2, 3, 4, 1, 2], forbidden=set(), prefix=2, min_distance=1, border=None)  # nothing follows
@example(tokens=[1, 2, 3, 1, 2, 3, 1, 2, 4], forbidden=set(), prefix=2, min_distance=1, border=None)  # three times
@example(tokens=[1, 1, 3, 1, 1, 3], forbidden=set(), prefix=2, min_distance=1, border=None)  # not all different
def test_the_finder_agrees_with_all_pairs(
    tokens: list[int], forbidden: set[int], prefix: int, min_distance: int, border: int | None
) -> None:
    allowed = [token not in forbidden for token in tokens]
    owners = None if border is None else [int(i >= border) for i in range(len(tokens))]
    found = repeated_stretch(
        tokens,
        np.array(allowed),
        None if owners is None else np.array(owners),
        prefix=prefix,
        min_distance=min_distance,
    )
    assert found == stretches_by_pairs(tokens, allowed, prefix, min_distance, owners)


@given(
    lead=st.integers(0, 5),
    distance=st.integers(1, 9),
    tail=st.integers(1, 8),
    prefix=st.integers(1, 4),
    after=st.integers(0, 6),
    continues=st.booleans(),
)
def test_windows_of_a_natural_repetition(
    lead: int, distance: int, tail: int, prefix: int, after: int, continues: bool
) -> None:
    """Built token by token, so that every place's position is known; all other tokens occur once."""
    fresh = iter(range(100, 1000))
    stretch = list(range(1, prefix + 1))
    between = [next(fresh) for _ in range(distance)]
    ending = [between[0] if continues else next(fresh), *(next(fresh) for _ in range(tail - 1))]
    tokens = [next(fresh) for _ in range(lead)] + stretch + between + stretch + ending
    cut = Sequences(np.array([tokens]), np.arange(len(tokens))[None] + 50)
    pair = repeated_stretch(tokens, np.array([t <= prefix for t in tokens]), prefix=prefix, min_distance=1)
    assert pair == Occurrences(lead, lead + prefix + distance)
    row = natural_row(cut, 0, pair, prefix=prefix, after=after)
    follows = [lead + prefix, lead + prefix + distance + prefix]
    assert row["document"] == follows[1] - 1 + 50
    assert row["continues"] is continues
    n_after = min(after, distance - 1, tail - 1)  # neither into the second occurrence nor over the end
    expected = {zero + o: (copy, o) for copy, zero in enumerate(follows) for o in range(-prefix, n_after + 1)}
    found = {i: p for i, p in enumerate(zip(row["copy"], row["offset"], strict=True)) if p[0] >= 0}
    assert found == expected
    for offset in range(-prefix, 0):
        assert tokens[follows[0] + offset] == tokens[follows[1] + offset]
    assert {p for i, p in enumerate(zip(row["copy"], row["offset"], strict=True)) if i not in expected} <= {(-1, 0)}


def test_the_draw_is_seeded_and_takes_what_there_is() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.permuted(np.tile(np.arange(100), (30, 1)), axis=1)  # nothing occurs twice
    with_repeat = [2, 3, 5, 8, 13, 21, 29]
    for row in with_repeat:
        tokens[row, 60:64] = tokens[row, 10:14]
    cut, allowed = Sequences(tokens, tokens), np.ones(100, dtype=bool)
    draw = {"prefix": 4, "min_distance": 2, "across_documents": True}
    everything = draw_repeated(cut, allowed, sequences=1000, seed=0, **draw)
    assert list(everything) == with_repeat
    some = [list(draw_repeated(cut, allowed, sequences=3, seed=seed, **draw)) for seed in range(200)]
    assert some[0] == list(draw_repeated(cut, allowed, sequences=3, seed=0, **draw))
    assert all(chosen == sorted(set(chosen)) and len(chosen) == 3 for chosen in some)
    # Every sequence with a repeat is drawn as often as any other: 200 * 3/7 = 86 times, sd 7.
    times = [sum(row in chosen for chosen in some) for row in with_repeat]
    assert min(times) > 60
    assert max(times) < 112


def text_spec(**options: object) -> TextSpec:
    return TextSpec(**({"key": "mine", "sequence_length": 24, "separator": "\n---\n"} | options))


def found(model: ModelSpec, folder: Path, text: TextSpec, documents: list[str], **options: object) -> pl.DataFrame:
    (folder / "text.txt").write_text(text.separator.join(documents), encoding="utf-8")
    path = folder / "natural.parquet"
    options = {"prefix": 3, "min_distance": 1} | options
    find_repeats(model=model, text=text, documents=folder / "text.txt", repeats=path, **options)
    return read_table(path, "repeats")


# 22 tokens each, 23 with EOS or in the last document: one sequence per document after BOS.
DOCUMENTS = [
    "xyzAkl--xyzBmn.0123456",
    "0123456789+*/=-?ABCDEF",
    "uvwCd!uvwCe#$%&(){}[];",
    "abcdefghijklmopqrstuvwx",
]


def test_repetitions_of_a_text(gpt2: ModelSpec, tmp_path: Path) -> None:
    """Cut as `texts.py` cuts: BOS, then 23 characters of the documents joined by EOS."""
    frame = found(gpt2, tmp_path, text_spec(), DOCUMENTS)
    tokenizer = load_vocabulary(gpt2).tokenizer
    repeats = Repeats.read(tmp_path / "natural.parquet")
    seen = []
    for row in range(len(repeats)):
        assert repeats.tokens[row, 0] == BOS
        copies = copies_by_hand(repeats, row)
        seen.append([tokenizer.decode([copies[c][o] for o in sorted(copies[c])]) for c in (0, 1)])
        assert sorted(copies[0]) == sorted(copies[1])
    assert seen[0] == ["xyzAkl--", "xyzBmn.0"]
    assert seen[1] == ["uvwCd!", "uvwCe#"]
    assert frame["continues"].to_list() == [False, True]
    assert frame["document"].to_list() == [0, 2]
    assert frame["sequence"].to_list() == [0, 1]
    short = found(gpt2, tmp_path, text_spec(), DOCUMENTS, after=1)
    assert [sum(c == 0 for c in row) for row in short["copy"].to_list()] == [5, 5]
    apart = found(gpt2, tmp_path, text_spec(), [*DOCUMENTS[:1] * 2, *DOCUMENTS[2:]], min_distance=5)
    assert apart["document"].to_list() == [0, 1]  # three tokens lie between the occurrences in the third


def test_occurrences_in_different_documents_count_on_request_alone(gpt2: ModelSpec, tmp_path: Path) -> None:
    short = ["abcd", "abce", "ghkl", "mnop", "qrst"]  # several documents to a sequence
    assert len(found(gpt2, tmp_path, text_spec(), short * 2)) == 0
    assert len(found(gpt2, tmp_path, text_spec(), short * 2, across_documents=True)) == 2


@pytest.mark.parametrize(
    ("excluded", "ordinary"),
    [
        ("ab\nc+ab\nc-", "abxc+abxc-"),
        ("ab<eos>c+ab<eos>c-", "abxc+abxc-"),
        ("abab?abab!", "abcd?abcd!"),
        ("\u00e4bc+\u00e4bc-", "yzbc+yzbc-"),  # a-umlaut is two tokens, neither of them a character
        ("abcd?abcd!abcd", "abcd?abcd!abce"),
        ("abcdabcd!", "abcd?abcd!"),
    ],
    ids=["newline", "mark", "same token twice", "piece of a character", "three times", "too near"],
)
def test_what_may_not_be_repeated(gpt2: ModelSpec, tmp_path: Path, excluded: str, ordinary: str) -> None:
    """Two documents of the pattern, each filled up to be a sequence; a like pattern without the flaw is found."""
    tokenizer = load_vocabulary(gpt2).tokenizer

    def pair(pattern: str) -> list[str]:
        n = len(tokenizer(pattern, add_special_tokens=False)["input_ids"])
        return [pattern + "0123456789ABCDEF"[: 22 - n], pattern + "0123456789ABCDEF"[: 23 - n]]

    assert len(found(gpt2, tmp_path, text_spec(), pair(ordinary), prefix=4)) == 2
    with pytest.warns(UserWarning, match=r"induction\.natural: 0 of 2 .* lower prefix or min_distance"):
        assert len(found(gpt2, tmp_path, text_spec(), pair(excluded), prefix=4)) == 0


def test_pieces_of_characters_are_undecodable(gpt2: ModelSpec) -> None:
    tokenizer = load_vocabulary(gpt2).tokenizer
    pieces = tokenizer("a\u00e4", add_special_tokens=False)["input_ids"]
    assert undecodable_ids(tokenizer, np.array(pieces)) == pieces[1:]
    assert len(pieces) == 3


def test_fewer_than_two_repetitions_make_an_empty_table(
    gpt2: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match=r"induction\.natural: 1 of 3 sequences of texts\.mine"):
        frame = found(gpt2, tmp_path, text_spec(), [*DOCUMENTS[:2], DOCUMENTS[3]])
    assert len(frame) == 0
    assert "0 sequences" in capsys.readouterr().err
    empty = Repeats.read(tmp_path / "natural.parquet")
    assert len(empty) == 0
    assert empty.last_copy == -1
    assert len(empty.places()[0]) == 0


def test_prefixes_longer_than_the_sequences_are_refused(gpt2: ModelSpec, tmp_path: Path) -> None:
    message = (
        r"induction\.natural\.prefix is 11.*need 24 tokens, but texts\.mine\.sequence_length 24 leaves room for 23"
    )
    with pytest.raises(RepeatError, match=message):
        found(gpt2, tmp_path, text_spec(), DOCUMENTS, prefix=11, min_distance=1)
    repeated = ["abcdefghijk+abcdefghijk-"] * 2  # fills two sequences to the last token
    assert len(found(gpt2, tmp_path, text_spec(bos="never", join="none", separator=""), repeated, prefix=11)) == 2


def test_places_number_the_positions(gpt2: ModelSpec, tmp_path: Path) -> None:
    text_table(tmp_path / "tokens.parquet")
    repeats = made(gpt2, tmp_path, length=4, sequences=3, separator="!")
    places, index = repeats.places()
    assert places.tolist() == [[copy, offset] for copy in (0, 1) for offset in range(4)]
    assert index[0].tolist() == [-1, 0, 1, 2, 3, -1, 4, 5, 6, 7]
    assert repeats.last_copy == 1
    assert repeats.clusters().tolist() == [0, 1, 2]


@given(n=st.integers(1, 3), length=st.integers(1, 5), between=st.integers(0, 3), copies=st.integers(2, 4))
def test_equal_offsets_hold_equal_tokens(n: int, length: int, between: int, copies: int) -> None:
    stretches = np.arange(n * length).reshape(n, length) + 100
    tokens, copy, offset = repeat(stretches, 7, np.arange(between), copies)
    assert tokens.shape == (n, 1 + copies * length + (copies - 1) * between)
    for number in range(copies):
        here = np.flatnonzero(copy == number)
        assert offset[here].tolist() == list(range(length))
        assert (tokens[:, here] == stretches).all()
        assert here[0] == 1 + number * (length + between)
        assert here.tolist() == list(range(here[0], here[0] + length))
