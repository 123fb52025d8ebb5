"""Induction scores against naive loops over Hugging Face's own attention; regression tests of METHODS A defect 12."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab.head_sets import AttentionError
from neuronlab.induction_heads import (
    MEASURES,
    Scores,
    draw_random,
    measure_heads,
    score_heads,
    summarise,
    weights_of,
)
from neuronlab.models import Model, ModelSpec
from neuronlab.repeat_places import Repeats
from neuronlab.tables import read_table, write_table
from transformers import AutoModelForCausalLM

TINY = Callable[..., Model]
SPEC = {"source": "directory", "device": "cpu"}


def eager(directory: Path, tokens: np.ndarray) -> np.ndarray:
    """Attention of all layers by Hugging Face: [layer, sequence, head, query, key]."""
    network = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    with torch.no_grad():
        return torch.stack(network(torch.from_numpy(tokens), output_attentions=True).attentions).numpy()


def text_repeats(seed: int = 0) -> pl.DataFrame:
    """Three copies with a mark between them, at other places in every sequence; one token of the last copy differs."""
    generator, rows = np.random.default_rng(seed), []
    for sequence in range(5):
        stretch, lead = generator.integers(10, 190, 4), int(generator.integers(1, 4))
        tokens = [0, *generator.integers(10, 190, lead - 1), *stretch, 5, *stretch, 5, *stretch]
        copy = [-1] * lead + [0] * 4 + [-1] + [1] * 4 + [-1] + [2] * 4
        offset = [0] * lead + [-2, -1, 0, 1] + [0] + [-2, -1, 0, 1] + [0] + [-2, -1, 0, 1]
        tokens[-1] = 9
        pad = 18 - len(tokens)
        rows.append((sequence, sequence // 2, tokens + [7] * pad, copy + [-1] * pad, offset + [0] * pad, True))
    return pl.DataFrame(rows, schema=["sequence", "document", "tokens", "copy", "offset", "continues"], orient="row")


def test_random_scores_by_loops(tiny_model: TINY, tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    spec = ModelSpec("tiny", path=str(tiny_directories["llama"]), **SPEC)
    length, sequences = 7, 6
    score_heads(
        model=spec,
        repeats={},
        heads=tmp_path / "heads.parquet",
        length=length,
        sequences=sequences,
        threshold=0.1,
        batch_size=4,
        seed=3,
    )
    found = read_table(tmp_path / "heads.parquet", "induction_heads")
    tokens = draw_random(tiny_model("llama"), length, sequences, 3).tokens
    assert tokens.shape == (sequences, 1 + 2 * length)
    assert (tokens[:, 0] == 0).all()
    np.testing.assert_array_equal(tokens[:, 1 : 1 + length], tokens[:, 1 + length :])
    attention = eager(tiny_directories["llama"], tokens)
    scores = {}
    for row in found.iter_rows(named=True):
        own = attention[row["layer"], :, row["head"]]
        second = range(length + 1, 2 * length + 1)  # queries in the repeat, and none before it
        diagonal = [own[s, q, q - (length - 1)] for s in range(sequences) for q in second]
        assert row["score"] == pytest.approx(np.mean(diagonal), rel=1e-4)
        scores[row["layer"], row["head"]] = np.mean(diagonal)
        assert row["bos_second"] == pytest.approx(
            np.mean([own[s, q, 0] for s in range(sequences) for q in second]), rel=1e-4
        )
        first = range(1, length + 1)
        assert row["bos_first"] == pytest.approx(
            np.mean([own[s, q, 0] for s in range(sequences) for q in first]), rel=1e-4
        )
        previous = [own[s, q, q - 1] for s in range(sequences) for q in range(1, 2 * length + 1)]
        assert row["previous_token"] == pytest.approx(np.mean(previous), rel=1e-4)
        assert row["score_low"] <= row["score"] <= row["score_high"]
        assert row["n_sequences"] == sequences
    ranks = {(r["layer"], r["head"]): r["rank"] for r in found.iter_rows(named=True)}
    assert sorted(ranks, key=ranks.get) == sorted(scores, key=scores.get, reverse=True)
    assert set(found["source"]) == {"random"}
    np.testing.assert_array_equal(found["is_induction"], found["score"] > 0.1)


def test_scores_on_text_by_loops(tiny_model: TINY, tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    frame = text_repeats()
    path = tmp_path / "repeats.parquet"
    write_table(frame, path, "repeats")
    repetitions = Repeats.read(path)
    found = measure_heads(tiny_model("gpt2"), repetitions, batch_size=2)
    attention = eager(tiny_directories["gpt2"], repetitions.tokens)
    for s, row in enumerate(frame.iter_rows(named=True)):
        tokens, copy, offset = row["tokens"], row["copy"], row["offset"]
        for layer, head in np.ndindex(2, 4):
            own = attention[layer, s, head]
            score, first, second, previous = [], [], [], []
            for q in range(len(tokens)):
                if copy[q] >= 0:
                    previous.append(own[q, q - 1])
                if copy[q] == 0:
                    first.append(own[q, 0])
                if copy[q] == 2:
                    second.append(own[q, 0])
                    keys = [
                        k + 1
                        for k in range(q)
                        if copy[k] in (0, 1) and offset[k] == offset[q] and tokens[k] == tokens[q]
                    ]
                    if keys:  # the changed token of the last copy has no earlier occurrence
                        score.append(sum(own[q, k] for k in keys))
            assert len(score) == 3
            expected = [np.mean(x) for x in (score, previous, first, second)]
            np.testing.assert_allclose(found.values[:, s, layer, head], expected, rtol=1e-4)


def test_queries_before_the_repeat_do_not_count() -> None:
    """Attention on the diagonal by the two queries before the second copy leaves the score at 0 (A defect 12)."""
    length = 5
    tokens = np.array([[0, *range(10, 15), *range(10, 15)]])
    copy, offset = np.array([[-1, *[0] * 5, *[1] * 5]]), np.array([[0, *range(5), *range(5)]])
    score = weights_of(Repeats(tokens, np.array([0]), copy, offset, np.array([True]), np.array([0])))[
        MEASURES.index("score"), 0
    ]
    early = np.zeros((11, 11))
    for query in (length - 1, length):
        early[query, query - (length - 1)] = 1
    assert (score * early).sum() == 0
    on_diagonal = np.zeros((11, 11))
    for query in range(length + 1, 2 * length + 1):
        on_diagonal[query, query - (length - 1)] = 1
    assert (score * on_diagonal).sum() == pytest.approx(1)
    assert score.sum() == pytest.approx(1)


def test_threshold_applies_to_the_overall_mean() -> None:
    """A head at 0.6 on half the sequences and 0.9 on the others is an induction head: 0.75 > 0.7 (A defect 12)."""
    values = np.zeros((len(MEASURES), 64, 1, 3))
    values[0, :, 0, 0] = np.repeat([0.6, 0.9], 32)
    values[0, :, 0, 1] = np.repeat([0.45, 0.9], 32)
    values[0, :, 0, 2] = 0.69
    found = summarise(Scores(values, np.arange(64)), "random", 0.7, 200, 0.9, 0)
    assert found["is_induction"].to_list() == [True, False, False]
    assert found["rank"].to_list() == [0, 2, 1]


def test_intervals_resample_documents() -> None:
    """Equal sequences within each of two documents: every resample's mean is one of three values."""
    values = np.zeros((len(MEASURES), 40, 1, 1))
    values[0, :, 0, 0] = np.repeat([0.2, 0.8], 20)
    clustered = summarise(Scores(values, np.repeat([4, 9], 20)), "natural", 0.7, 500, 0.95, 0)
    free = summarise(Scores(values, np.arange(40)), "natural", 0.7, 500, 0.95, 0)
    assert (clustered["score_low"][0], clustered["score_high"][0]) == pytest.approx((0.2, 0.8))
    assert free["score_high"][0] - free["score_low"][0] < 0.25


def test_random_ids_are_real_and_mark_nothing(tiny_model: TINY) -> None:
    model = tiny_model("gpt2")
    drawn = draw_random(model, 30, 400, 0).tokens[:, 1:]
    assert set(np.unique(drawn)) == set(range(2, 196))  # 0, 1 are BOS and EOS; 196 to 199 pad the vocabulary
    np.testing.assert_array_equal(drawn, draw_random(model, 30, 400, 0).tokens[:, 1:])
    assert (drawn != draw_random(model, 30, 400, 1).tokens[:, 1:]).any()


def test_without_a_bos_the_stretch_begins_at_once(tiny_model: TINY) -> None:
    found = draw_random(tiny_model("qwen2"), 6, 3, 0)
    assert found.tokens.shape == (3, 12)
    assert found.copy[0].tolist() == [0] * 6 + [1] * 6


def test_a_stretch_beyond_the_context_is_refused(tiny_model: TINY) -> None:
    draw_random(tiny_model("gpt2"), 31, 2, 0)  # 63 of 64 tokens
    with pytest.raises(AttentionError, match=r"induction\.heads\.length is 32.*65 tokens.*at most 31"):
        draw_random(tiny_model("gpt2"), 32, 2, 0)


def test_no_repetition_is_no_error(
    tiny_directories: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(text_repeats().clear(), tmp_path / "none.parquet", "repeats")
    write_table(text_repeats(), tmp_path / "some.parquet", "repeats")
    score_heads(
        model=ModelSpec("tiny", path=str(tiny_directories["gpt2"]), **SPEC),
        repeats={"natural": tmp_path / "none.parquet", "synthetic": tmp_path / "some.parquet"},
        heads=tmp_path / "heads.parquet",
        length=5,
        sequences=3,
    )
    found = read_table(tmp_path / "heads.parquet", "induction_heads")
    assert set(found["source"]) == {"random", "synthetic"}
    assert "no natural repetition" in capsys.readouterr().err
