"""Token counts against Python's Counter, the unigram distribution against its definition, published files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from neuronlab.documents import TextError, TextSpec
from neuronlab.frequencies import CountsError, count_tokens, read_counts, unigram, warn_if_few
from neuronlab.frequency_cosine import FrequencyAxis, measure_frequency_cosine
from neuronlab.model_files import ModelSpec
from neuronlab.tables import read_table, write_table
from neuronlab.vocabulary import Vocabulary, load_vocabulary

REAL, VOCAB = 196, 200


@pytest.fixture
def model(tiny_directories):
    return ModelSpec("gpt2", "directory", path=str(tiny_directories["gpt2"]), device="cpu")


def table(count, real=None) -> pl.DataFrame:
    real = np.ones(len(count), dtype=bool) if real is None else real
    token = np.arange(len(count), dtype=np.int32)
    return pl.DataFrame({"token": token, "count": np.asarray(count, dtype=np.int64), "real": real})


def counted(model, tmp_path, counts, text="the hand") -> pl.DataFrame:
    (tmp_path / "a.txt").write_text(text)
    output = tmp_path / "counts.parquet"
    spec = TextSpec("mine", counts="text" if counts is None else str(counts))
    count_tokens(documents=tmp_path / "a.txt", counts=counts, output=output, model=model, text=spec)
    return read_table(output, "token_counts")


# ---- counting


def test_all_documents_are_counted_and_the_eos_between_them(model, tmp_path):
    texts = [f"the hand and the sand {n}" for n in range(700)]
    found = counted(model, tmp_path, None, text="\n\n".join(texts))
    tokenizer = load_vocabulary(model).tokenizer
    expected = Counter(token for text in texts for token in tokenizer.encode(text, add_special_tokens=False))
    expected[tokenizer.eos_token_id] += len(texts) - 1
    assert dict(found.filter(pl.col("count") > 0).select("token", "count").iter_rows()) == expected
    assert found["token"].to_list() == list(range(VOCAB))
    assert np.flatnonzero(~found["real"].to_numpy()).tolist() == [196, 197, 198, 199]


def test_few_tokens_give_a_warning(model, tmp_path):
    with pytest.warns(UserWarning, match=r"texts\.mine\.counts: \d tokens are few for 196 ids: below 3920"):
        counted(model, tmp_path, None)


@pytest.mark.filterwarnings("error")
def test_enough_tokens_give_none():
    warn_if_few(2000, 100, "texts.mine")
    with pytest.warns(UserWarning, match="1999 tokens are few"):
        warn_if_few(1999, 100, "texts.mine")


@pytest.mark.parametrize("length", [REAL, REAL + 2, VOCAB])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float64, np.uint64])
def test_published_counts_are_padded(model, tmp_path, length, dtype):
    """As long as the tokenizer's ids (Pythia's 50277), the model's vocabulary (50304), or between the two."""
    published = np.arange(1000, 1000 + length).astype(dtype)
    np.save(tmp_path / "counts.npy", published)
    found = counted(model, tmp_path, tmp_path / "counts.npy")
    assert found["count"].to_list() == list(range(1000, 1000 + length)) + [0] * (VOCAB - length)
    assert found["real"].sum() == REAL


@pytest.mark.parametrize("key", ["token", "token_id"])
def test_shipped_counts_are_a_table(model, tmp_path, key):
    order = np.random.default_rng(0).permutation(REAL)
    pl.DataFrame({key: order, "count": order * 1000}).write_parquet(tmp_path / "shipped.parquet")
    found = counted(model, tmp_path, tmp_path / "shipped.parquet")
    assert found["count"].to_list() == [1000 * token for token in range(REAL)] + [0] * 4


@pytest.mark.parametrize("length", [REAL - 1, VOCAB + 1])
def test_counts_of_the_wrong_length_name_both(model, tmp_path, length):
    np.save(tmp_path / "counts.npy", np.ones(length, dtype=np.int64))
    with pytest.raises(CountsError, match=rf"texts\.mine\.counts: .*{length} entries, but .*{REAL} ids .*{VOCAB}\)"):
        counted(model, tmp_path, tmp_path / "counts.npy")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((REAL, 2)), "of shape"),
        (np.array(["a"] * REAL), "one number per id"),
        (np.array([{}] * REAL), "is no array of counts"),
        (np.full(REAL, -1), "values that are no counts"),
        (np.full(REAL, 0.5), "values that are no counts"),
        (np.full(REAL, np.nan), "values that are no counts"),
    ],
)
def test_damaged_counts(model, tmp_path, array, words):
    np.save(tmp_path / "counts.npy", array)
    with pytest.raises(CountsError, match=r"texts\.mine\.counts") as caught:
        counted(model, tmp_path, tmp_path / "counts.npy")
    assert words in str(caught.value)


def test_counts_that_are_not_there_or_no_counts(model, tmp_path):
    with pytest.raises(CountsError, match="there is no file"):
        counted(model, tmp_path, tmp_path / "nothing.npy")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CountsError, match="is no array of counts"):
        counted(model, tmp_path, tmp_path / "broken.npy")
    pl.DataFrame({"word": ["a"]}).write_parquet(tmp_path / "odd.parquet")
    with pytest.raises(CountsError, match="not token and count"):
        counted(model, tmp_path, tmp_path / "odd.parquet")
    pl.DataFrame({"token": [0, 2], "count": [1, 1]}).write_parquet(tmp_path / "gap.parquet")
    with pytest.raises(CountsError, match="without a gap"):
        counted(model, tmp_path, tmp_path / "gap.parquet")


def test_an_empty_text_cannot_be_counted(model, tmp_path):
    with pytest.raises(TextError, match="holds no text"):
        counted(model, tmp_path, None, text="\n\n")


# ---- the distribution


@given(
    count=hnp.arrays(np.int64, st.integers(3, 30), elements=st.integers(0, 10**12)).filter(lambda c: len(set(c)) > 1),
    padded=st.integers(0, 4),
)
def test_unigram_by_its_definition(count, padded):
    real = np.array([True] * len(count) + [False] * padded)
    found = unigram(table(np.concatenate([count, np.zeros(padded)]), real))
    total = sum(int(c) + 1 for c in count) + padded
    p = [(int(c) + 1) / total for c in count] + [1 / total] * padded
    assert np.allclose(found.p, p, rtol=1e-12)
    assert found.p.sum() == pytest.approx(1)
    assert found.tokens_total == sum(int(c) for c in count)
    logs = np.log(p[: len(count)])
    centred = logs - logs.mean()
    assert np.allclose(found.direction[: len(count)], centred / np.sqrt((centred**2).sum()), atol=1e-9)
    assert (found.direction[len(count) :] == 0).all()
    assert np.linalg.norm(found.direction) == pytest.approx(1)
    assert abs(found.direction.sum()) < 1e-9


def test_padded_ids_can_take_part_as_published():
    count, real = np.array([50, 10, 3, 0, 0]), np.array([True, True, True, False, False])
    found, without = unigram(table(count, real), include_padded=True), unigram(table(count, real))
    logs = np.log(count + 1.0)
    centred = logs - logs.mean()
    assert np.allclose(found.direction, centred / np.linalg.norm(centred))
    assert np.array_equal(found.p, without.p)
    assert (without.direction[3:] == 0).all()
    assert (found.direction[3:] < 0).all()


def test_rows_may_come_in_any_order():
    frame = table([5, 1, 9, 0])
    assert np.array_equal(unigram(frame.reverse()).p, unigram(frame).p)


def test_counts_without_a_direction():
    with pytest.raises(CountsError, match="all counts are equal"):
        unigram(table([7, 7, 7]))
    with pytest.raises(CountsError, match="without a gap"):
        unigram(table([7, 8, 9]).filter(pl.col("token") != 1))


@pytest.mark.parametrize(
    ("file", "d_vocab", "total", "zeros"),
    [
        ("pythia-unigrams.npy", 50304, 300_039_168_000, 214),
        ("gpt2-small-unigrams_openwebtext-2M_rows_500000.npy", 50257, 563_152_038, 166),
        ("phi-2-unigrams_c4_en_validation.npy", 51200, 173_655_748, 347),
    ],
)
def test_published_files(shared, file, d_vocab, total, zeros):
    """Length, total and number of ids that never occur, as METHODS A3 states them."""
    path = shared / "counts" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    n = len(np.load(path))
    real = np.arange(d_vocab) < n
    vocabulary = Vocabulary(None, d_vocab, real, None, None, None, ())  # type: ignore[arg-type]
    count = read_counts(path, vocabulary, "texts.mine")
    assert (len(count), int(count.sum()), int((count[:n] == 0).sum())) == (d_vocab, total, zeros)
    found = unigram(table(count, real))
    assert found.p.min() > 0
    assert (found.direction[n:] == 0).all()
    with pytest.raises(CountsError, match=f"has {n} entries"):
        read_counts(path, Vocabulary(None, n + 9, np.ones(n + 9, bool), None, None, None, ()), "texts.mine")  # type: ignore[arg-type]


# ---- alignment of neurons


def test_frequency_cosine_against_full_logits():
    rng = np.random.default_rng(0)
    w, W, real = rng.normal(size=(7, 5)), rng.normal(size=(5, 40)), np.arange(40) < 33
    w[2] = 0
    direction = unigram(table(rng.integers(0, 1000, 40) * real, real)).direction
    found = FrequencyAxis.of(torch.from_numpy(W), direction, real).cosines(torch.from_numpy(w))
    for neuron in range(7):
        logits = w[neuron] @ W[:, real]
        logits = logits - logits.mean()
        length = np.linalg.norm(logits)
        expected = logits @ direction[real] / length if length else 0.0
        assert found[neuron] == pytest.approx(expected, abs=1e-12)


def test_a_neuron_that_writes_the_direction_has_cosine_one():
    rng = np.random.default_rng(0)
    real = np.arange(12) < 10
    direction = unigram(table(rng.integers(0, 1000, 12) * real, real)).direction
    W = np.vstack([direction, rng.normal(size=(2, 12))])
    writing = torch.tensor([[3.0, 0, 0], [-2.0, 0, 0]])
    assert FrequencyAxis.of(torch.from_numpy(W), direction, real).cosines(writing) == pytest.approx([1, -1])


def test_measure_frequency_cosine_of_every_layer(tiny_model, tiny_directories, tmp_path, architecture):
    path = tiny_directories[architecture]
    spec = ModelSpec(architecture, "directory", path=str(path), device="cpu")
    vocabulary = load_vocabulary(spec)
    rng = np.random.default_rng(1)
    frame = table(rng.zipf(1.3, VOCAB).clip(0, 10**9) * vocabulary.real, vocabulary.real)
    write_table(frame, tmp_path / "counts.parquet", "token_counts")
    measure_frequency_cosine(model=spec, counts=tmp_path / "counts.parquet", output=tmp_path / "cosine.parquet")
    found = read_table(tmp_path / "cosine.parquet", "frequency_cosine")
    model = tiny_model(architecture)
    assert found.select("layer", "neuron").rows() == [(layer, n) for layer in range(2) for n in range(model.d_mlp)]
    direction, W = unigram(frame).direction, model.readout().W.numpy().astype(np.float64)
    logits = model.w_out(1).numpy().astype(np.float64) @ W[:, vocabulary.real]
    logits -= logits.mean(1, keepdims=True)
    expected = logits @ direction[vocabulary.real] / np.linalg.norm(logits, axis=1)
    assert np.allclose(found.filter(layer=1)["cosine"], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1


def test_counts_of_another_vocabulary(model, tmp_path):
    write_table(table([5, 1, 2]), tmp_path / "counts.parquet", "token_counts")
    with pytest.raises(CountsError, match=r"counts of 3 ids, but models\.gpt2 has 200"):
        measure_frequency_cosine(model=model, counts=tmp_path / "counts.parquet", output=Path(tmp_path / "out.parquet"))
