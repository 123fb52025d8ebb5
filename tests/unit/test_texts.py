"""Documents, sequences, and which positions count, against naive loops."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from neuronlab.documents import Documents, TextError, TextSpec, read_documents
from neuronlab.model_files import ModelSpec
from neuronlab.tables import read_table
from neuronlab.texts import (
    NO_DOCUMENT,
    Sequences,
    counted_positions,
    cut_sequences,
    encode_documents,
    sample_sequences,
    token_stream,
    tokenize_text,
)
from neuronlab.vocabulary import load_vocabulary

WORDS = "the hand in the sand and then nothing"
BOS, EOS = 0, 1


@pytest.fixture
def gpt2(tiny_directories):
    return ModelSpec("gpt2", "directory", path=str(tiny_directories["gpt2"]))


@pytest.fixture
def qwen2(tiny_directories):
    return ModelSpec("qwen2", "directory", path=str(tiny_directories["qwen2"]))


def make(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def spec(**other) -> TextSpec:
    return TextSpec(**({"key": "mine", "sequence_length": 16, "sequences": 5} | other))


# ---- which positions count


def counted_naively(tokens, marks, min_position):
    """METHODS A0, read aloud: a loop over rows."""
    counted = []
    for sequence in tokens:
        row = []
        for position, token in enumerate(sequence):
            has_next = position < len(sequence) - 1
            clean = token not in marks and has_next and sequence[position + 1] not in marks
            row.append(clean and position >= min_position)
        counted.append(row)
    return counted


@given(
    tokens=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 6)),
    bos=st.none() | st.integers(0, 6),
    eos=st.none() | st.integers(0, 6),
    newlines=st.sets(st.integers(0, 6), max_size=2),
    exclude_newline=st.booleans(),
    min_position=st.integers(0, 14),
)
def test_counted_positions_equal_a_naive_loop(tokens, bos, eos, newlines, exclude_newline, min_position):
    marks = {mark for mark in (bos, eos) if mark is not None} | (newlines if exclude_newline else set())
    counted = counted_positions(
        tokens, bos=bos, eos=eos, newline_ids=newlines, exclude_newline=exclude_newline, min_position=min_position
    )
    assert counted.tolist() == counted_naively(tokens.tolist(), marks, min_position)


@given(
    tokens=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4)),
    bos=st.none() | st.integers(0, 4),
    eos=st.none() | st.integers(0, 4),
    min_position=st.integers(0, 3),
)
def test_ends_of_documents_count_where_asked_d_defect(tokens, bos, eos, min_position):
    """D removed every 50256, so ends of documents went with the BOS: told apart by position, by a naive loop."""
    counted = counted_positions(tokens, bos=bos, eos=eos, exclude_eos=False, min_position=min_position)
    for sequence, row in zip(tokens.tolist(), counted.tolist(), strict=True):
        for t in range(len(sequence)):
            marks = [at in (t, t + 1) and token == bos and (at == 0 or bos != eos) for at, token in enumerate(sequence)]
            assert row[t] == (min_position <= t < len(sequence) - 1 and not any(marks)), (sequence, t)


def test_ends_of_documents_go_by_default_with_the_tokens_before_them_d_defect():
    """GPT-2's 50256 is BOS and EOS: positions 4 (the EOS is its target) and 5 (EOS), and nothing else, differ."""
    tokens = np.array([[50256, 11, 12, 13, 14, 50256, 15, 16, 17]])
    left_out, kept = (
        np.flatnonzero(counted_positions(tokens, bos=50256, eos=50256, exclude_eos=switch, min_position=0)[0])
        for switch in (True, False)
    )
    assert left_out.tolist() == [1, 2, 3, 6, 7]
    assert kept.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_clean_sequence_of_256_gives_252_rows():
    """The published count: positions 3 to 254."""
    counted = counted_positions(np.full((1, 256), 9), bos=BOS, eos=EOS)
    assert np.flatnonzero(counted[0]).tolist() == list(range(3, 255))


# ---- documents on disk


def test_documents_of_plain_text_stand_between_blank_lines(tmp_path):
    path = make(tmp_path / "a.txt", "one\nmore\n\n\n\ntwo\n\n  \n\nthree\n")
    assert read_documents(path, spec()) == Documents([0, 1, 2], ["one\nmore", "two", "three"])
    assert read_documents(path, spec(max_documents=2)).texts == ["one\nmore", "two"]
    assert read_documents(path, spec(separator="")).texts == [path.read_text()]
    assert read_documents(path, spec(separator="more")).texts == ["one", "two\n\n  \n\nthree"]
    joined = read_documents(make(tmp_path / "b.txt", "one\n\ntwo\n\nthree"), spec(join="none"))
    assert "".join(joined.texts) == "one\n\ntwo\n\nthree"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_documents_of_tables_are_rows(tmp_path, suffix):
    frame = pl.DataFrame({"body": ["one", "", None, "two", "three"], "n": [1, 2, 3, 4, 5]})
    path = tmp_path / f"a.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ndjson(path)
    assert read_documents(path, spec(column="body")) == Documents([0, 3, 4], ["one", "two", "three"])
    assert read_documents(path, spec(column="body", max_documents=1)).texts == ["one"]
    with pytest.raises(TextError, match=r"texts\.mine\.column: .*no column 'text' of text; such columns are: body"):
        read_documents(path, spec())
    with pytest.raises(TextError, match="no column 'n' of text"):
        read_documents(path, spec(column="n"))


def test_the_demo_world_is_read_by_split_with_its_own_numbers(tmp_path):
    path = tmp_path / "documents.parquet"
    splits = ["evaluation_a", "evaluation_b", "evaluation_a"]
    pl.DataFrame({"document": [7, 8, 9], "split": splits, "text": ["a", "b", "c"]}).write_parquet(path)
    assert read_documents(path, spec(source="demo", split="evaluation_a")) == Documents([7, 9], ["a", "c"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "holds no text"),
        ("a.txt", "\n\n \n\n", "holds no text"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8"),
        ("a.jsonl", "", "holds no text"),
        ("a.jsonl", "{broken", "cannot be read as jsonl"),
        ("a.jsonl", json.dumps({"text": " "}), "holds no text"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
        ("a.csv", "text\nhello", "must end in one of"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path, name, content, words):
    path = make(tmp_path / name, content)
    with pytest.raises(TextError, match=r"texts\.mine") as caught:
        read_documents(path, spec())
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_text(tmp_path):
    with pytest.raises(TextError, match=r"texts\.mine\.path: there is no file"):
        read_documents(tmp_path / "nothing.txt", spec())


# ---- tokens


def test_documents_are_encoded_whole_and_without_marks(gpt2):
    """Batching changes nothing; the tokenizer's own BOS is not added; joining gives the text back."""
    tokenizer = load_vocabulary(gpt2).tokenizer
    texts = [f"{WORDS} {n}" for n in range(600)]  # three batches
    encoded = list(encode_documents(tokenizer, texts))
    assert encoded == [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert tokenizer.encode(WORDS)[0] == BOS  # what a forgotten add_special_tokens=False would do
    assert not any(BOS in tokens for tokens in encoded)
    assert [tokenizer.decode(tokens) for tokens in encoded] == texts


def test_stream_and_owners(gpt2):
    vocabulary = load_vocabulary(gpt2)
    encode = [vocabulary.tokenizer.encode(text, add_special_tokens=False) for text in ("hand", "in", "sand")]
    stream, owners = token_stream(Documents([4, 6, 9], ["hand", "in", "sand"]), vocabulary, spec())
    assert stream.tolist() == [*encode[0], EOS, *encode[1], EOS, *encode[2]]
    assert owners.tolist() == [4] * (len(encode[0]) + 1) + [6] * (len(encode[1]) + 1) + [9] * len(encode[2])
    stream, owners = token_stream(Documents([4, 6], ["hand", "in"]), vocabulary, spec(join="none"))
    assert stream.tolist() == encode[0] + encode[1]
    with pytest.raises(TextError, match=r"texts\.mine\.join is 'glue'"):
        token_stream(Documents([0], ["a"]), vocabulary, spec(join="glue"))


@given(n=st.integers(0, 60), length=st.integers(2, 9), bos=st.none() | st.just(BOS))
def test_cutting_against_a_naive_loop(n, length, bos):
    stream, owners = np.arange(100, 100 + n), np.arange(n) // 7
    cut = cut_sequences(stream, owners, length, bos)
    tokens, documents = [], []
    body = length if bos is None else length - 1
    for start in range(0, n - body + 1, body):
        tokens.append(([] if bos is None else [bos]) + stream[start : start + body].tolist())
        documents.append(([] if bos is None else [NO_DOCUMENT]) + owners[start : start + body].tolist())
    assert cut.tokens.tolist() == tokens
    assert cut.documents.tolist() == documents


def test_sampling_is_seeded_without_replacement_and_in_order():
    sequences = Sequences(np.arange(40).reshape(20, 2), np.arange(40).reshape(20, 2))
    first = sample_sequences(sequences, spec(sequences=8), seed=3)
    again = sample_sequences(sequences, spec(sequences=8), seed=3)
    other = sample_sequences(sequences, spec(sequences=8), seed=4)
    assert first.tokens.tolist() == again.tokens.tolist() != other.tokens.tolist()
    assert np.all(np.diff(first.tokens[:, 0]) > 0)
    assert (first.tokens == first.documents).all()
    with pytest.warns(UserWarning, match=r"texts\.mine\.sequences is 21, but the text gives 20"):
        everything = sample_sequences(sequences, spec(sequences=21), seed=3)
    assert everything.tokens.tolist() == sequences.tokens.tolist()


# ---- the rule


def test_tokenize_text_writes_sequences(gpt2, tmp_path):
    path = make(tmp_path / "a.txt", "\n\n".join(f"{WORDS} {n}" for n in range(40)))
    for name in ("first", "second"):
        tokenize_text(documents=path, output=tmp_path / f"{name}.parquet", model=gpt2, text=spec(), seed=1)
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    table = read_table(tmp_path / "first.parquet", "tokens")
    tokens, owners, counted = (np.array(table[name].to_list()) for name in ("tokens", "documents", "counted"))
    assert tokens.shape == owners.shape == counted.shape == (5, 16)
    assert (tokens[:, 0] == BOS).all()
    assert (owners[:, 0] == NO_DOCUMENT).all()
    assert counted.tolist() == counted_naively(tokens.tolist(), {BOS, EOS}, 3)
    # Every token is where its document says: the documents' own tokens hold each run in order.
    vocabulary = load_vocabulary(gpt2)
    for row, owner in zip(tokens, owners, strict=True):
        for document in set(owner.tolist()) - {NO_DOCUMENT}:
            run = [int(token) for token in row[owner == document] if token != EOS]
            whole = vocabulary.tokenizer.encode(f"{WORDS} {document}", add_special_tokens=False)
            assert any(whole[i : i + len(run)] == run for i in range(len(whole)))


def test_no_bos_where_the_tokenizer_has_none(qwen2, gpt2, tmp_path):
    path = make(tmp_path / "a.txt", "\n\n".join(f"{WORDS} {n}" for n in range(40)))
    tokenize_text(documents=path, output=tmp_path / "q.parquet", model=qwen2, text=spec(), seed=1)
    table = read_table(tmp_path / "q.parquet", "tokens")
    assert table["tokens"].list.len().unique().to_list() == [16]
    assert table["documents"].list.min().min() >= 0
    with pytest.raises(TextError, match=r"texts\.mine\.bos is 'always', but the tokenizer of models\.qwen2 has no BOS"):
        tokenize_text(documents=path, output=tmp_path / "x.parquet", model=qwen2, text=spec(bos="always"), seed=1)
    tokenize_text(documents=path, output=tmp_path / "n.parquet", model=gpt2, text=spec(bos="never"), seed=1)
    assert BOS not in np.array(read_table(tmp_path / "n.parquet", "tokens")["tokens"].to_list())


def test_what_a_position_sees_does_not_depend_on_what_counts_d_defect(gpt2, tmp_path):
    """EOS tokens stay in the sequences either way; the table of the rule follows the switch."""
    path = make(tmp_path / "a.txt", "\n\n".join(f"{WORDS} {n}" for n in range(40)))
    tables = {}
    for switch in (True, False):
        text = spec(exclude_eos=switch)
        tokenize_text(documents=path, output=tmp_path / "t.parquet", model=gpt2, text=text, seed=1)
        tables[switch] = read_table(tmp_path / "t.parquet", "tokens")
    assert tables[True].drop("counted").equals(tables[False].drop("counted"))
    tokens = tables[True]["tokens"].to_list()
    assert any(EOS in row for row in tokens)
    assert tables[True]["counted"].to_list() == counted_naively(tokens, {BOS, EOS}, 3)
    assert tables[False]["counted"].to_list() == counted_naively(tokens, {BOS}, 3)  # the tiny tokenizer has two marks


def test_newlines_are_left_out_where_asked(gpt2, tmp_path):
    path = make(tmp_path / "a.txt", "\n".join(WORDS for _ in range(60)))
    for exclude in (False, True):
        tokenize_text(
            documents=path, output=tmp_path / "t.parquet", model=gpt2, text=spec(exclude_newline=exclude), seed=1
        )
        table = read_table(tmp_path / "t.parquet", "tokens")
        marks = {BOS, EOS} | (set(load_vocabulary(gpt2).newline_token_ids) if exclude else set())
        assert table["counted"].to_list() == counted_naively(table["tokens"].to_list(), marks, 3)
        assert any(
            token in load_vocabulary(gpt2).newline_token_ids for row in table["tokens"].to_list() for token in row
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sequence_length": 65}, r"texts\.mine\.sequence_length is 65, but the context of models\.gpt2 is 64"),
        ({"sequence_length": 60}, r"gives \d+ tokens, and one sequence of sequence_length 60 needs 59"),
        ({"min_position": 15, "sequences": 1}, r"no position counts: min_position is 15"),
        ({"bos": "sometimes"}, r"texts\.mine\.bos is 'sometimes'"),
    ],
)
def test_texts_that_do_not_fit(gpt2, tmp_path, options, words):
    path = make(tmp_path / "a.txt", WORDS)
    with pytest.raises(TextError, match=words):
        tokenize_text(documents=path, output=tmp_path / "t.parquet", model=gpt2, text=spec(**options), seed=1)
    assert not (tmp_path / "t.parquet").exists()


def test_a_real_tokenizer_and_text(shared, tmp_path):
    """The text comes back from its sequences, and tokens are those of one call on the whole file."""
    directory, file = shared / "models" / "shakespeare-gpt2", shared / "texts" / "shakespeare_heldout.txt"
    if not (directory.is_dir() and file.is_file()):
        pytest.skip(f"no {directory} or {file}")
    model = ModelSpec("shakespeare", "directory", path=str(directory))
    text = spec(sequence_length=128, sequences=10_000, separator="")
    with pytest.warns(UserWarning, match="all of them are used"):
        tokenize_text(documents=file, output=tmp_path / "t.parquet", model=model, text=text, seed=0)
    rows = read_table(tmp_path / "t.parquet", "tokens")["tokens"].to_list()
    tokenizer = load_vocabulary(model).tokenizer
    body = [token for row in rows for token in row[1:]]
    whole = tokenizer.encode(file.read_text(), add_special_tokens=False)
    assert body == whole[: len(body)]
    assert len(whole) - len(body) < 127
    assert file.read_text().startswith(tokenizer.decode(body)[:5000])
