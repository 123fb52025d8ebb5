"""Subjoiner heads against naive loops over Hugging Face's own attention; regression tests of METHODS C defect 7."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_models
import torch
from neuronlab import subjoiners as module
from neuronlab.documents import TextSpec
from neuronlab.models import Model, ModelSpec
from neuronlab.multi_token_words import Pair
from neuronlab.subjoiner_statistics import (
    ALL,
    EVERY,
    REPORT,
    SELECTION,
    Attention,
    best_head,
    flip_p_values,
    halves_of,
    summarise,
)
from neuronlab.subjoiners import SubjoinerError, drawn_examples, find_pairs, measure, score_subjoiners
from neuronlab.tables import read_table
from neuronlab.vocabulary import load_vocabulary
from test_multi_token_words import write_text
from transformers import AutoModelForCausalLM

TINY = Callable[..., Model]
TEXT = TextSpec("essay")
SMALL = {"pieces": (2, 3, 5), "words": 14, "context": 20, "batch_size": 4, "resamples": 200}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "essay.txt"
    path.write_text("\n\n".join(write_text(60, seed).replace("\n", " ") for seed in range(9)), encoding="utf-8")
    return path


def specification(directory: Path) -> ModelSpec:
    return ModelSpec("tiny", "directory", path=str(directory), device="cpu")


def run(model: ModelSpec, documents: Path, folder: Path, **settings: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rule's two tables."""
    folder.mkdir(exist_ok=True)
    paths = folder / "subjoiners.parquet", folder / "subjoiner_examples.parquet"
    score_subjoiners(
        model=model,
        documents=documents,
        subjoiners=paths[0],
        subjoiner_examples=paths[1],
        **({"text": TEXT} | SMALL | settings),
    )
    return read_table(paths[0], "subjoiners"), read_table(paths[1], "subjoiner_examples")


def eager(network: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    """Attention of one sequence by Hugging Face: [layer, head, query, key]."""
    with torch.no_grad():
        return torch.cat(network(torch.tensor([tokens]), output_attentions=True).attentions).numpy()


def test_tables_by_loops(architecture: str, tiny_directories: dict[str, Path], documents: Path, tmp_path: Path) -> None:
    """All seven architectures; the windows of Mistral and Gemma-2 (16) are shorter than the sequences (22 to 26)."""
    directory = tiny_directories[architecture]
    model = specification(directory)
    frame, examples = run(model, documents, tmp_path, examples=2)
    bos = [] if architecture in tiny_models.WITHOUT_BOS else [0]
    pairs, opening = find_pairs(
        load_vocabulary(model), model, TEXT, documents, SMALL["pieces"], SMALL["words"], SMALL["context"], 0
    )
    assert list(opening) == bos
    sums: dict[tuple[str, int, int, int], list[tuple[float, float]]] = {}
    attention = {}
    halves = halves_of(pairs, 0)
    network = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    for i, pair in enumerate(pairs):
        of_word, of_single = (eager(network, bos + list(ids)) for ids in (pair.word, pair.single))
        attention[i] = of_word
        for layer, head in np.ndindex(2, 4):
            word = single = 0.0
            for back in range(1, pair.pieces):
                last = len(bos) + SMALL["context"] + pair.pieces - 1
                word += float(of_word[layer, head, last, last - back])
                single += float(of_single[layer, head, last, last - back])
            for half, k in product(halves, (0, pair.pieces)):
                if halves[half][i]:
                    sums.setdefault((half, layer, head, k), []).append((word, single))
    assert len(pairs) == SMALL["words"]
    assert len(frame) == len(sums)
    assert len(frame.filter(pl.col("half") == EVERY)) == 2 * 4 * 4
    for row in frame.iter_rows(named=True):
        values = sums[row["half"], row["layer"], row["head"], row["pieces"]]
        assert row["n_words"] == row["n_single"] == len(values)
        word, single = (sum(column) / len(values) for column in zip(*values, strict=True))
        assert row["attention_word"] == pytest.approx(word, rel=1e-4, abs=1e-7)
        assert row["attention_single"] == pytest.approx(single, rel=1e-4, abs=1e-7)
        assert row["score"] == pytest.approx(word - single, rel=1e-4, abs=1e-6)
        own = halves[row["half"]]
        if (
            len({p.document for p, kept in zip(pairs, own, strict=True) if kept and row["pieces"] in (ALL, p.pieces)})
            < 2
        ):
            assert row["score_low"] is row["p_value"] is row["p_value_holm"] is None
            continue
        assert row["score_low"] <= row["score"] <= row["score_high"]
        assert 0 < row["p_value"] <= row["p_value_holm"] <= 1
    layer, head = best_head(frame)
    chosen = [key for key in sums if key[0] == SELECTION and key[3] == ALL]
    top = max(chosen, key=lambda key: np.mean([w - s for w, s in sums[key]]))
    assert (layer, head) == top[1:3]
    check_examples(examples, pairs, attention, bos, layer, head)


def check_examples(
    examples: pl.DataFrame, pairs: list[Pair], attention: dict[int, np.ndarray], bos: list[int], layer: int, head: int
) -> None:
    """Every query and key of the words drawn, but for the BOS."""
    for number, i in enumerate(drawn_examples(pairs, 2, 0)):
        assert halves_of(pairs, 0)[REPORT][i]
        pair, rows = pairs[i], examples.filter(pl.col("example") == number)
        length = SMALL["context"] + pair.pieces
        assert len(rows) == length * (length + 1) // 2
        for row in rows.iter_rows(named=True):
            assert (row["layer"], row["head"]) == (layer, head)
            expected = attention[i][layer, head, row["query"] + len(bos), row["key"] + len(bos)]
            assert row["attention"] == pytest.approx(float(expected), rel=1e-4, abs=1e-7)
            assert row["in_word"] == (min(row["query"], row["key"]) >= SMALL["context"])


@pytest.mark.parametrize("architecture", ["gpt2", "mistral"])
def test_batches_change_nothing(architecture: str, tiny_model: TINY, documents: Path) -> None:
    model = tiny_model(architecture)
    pairs, opening = find_pairs(model.vocabulary, model.spec, TEXT, documents, (2, 3, 5), 10, 12, 0)
    one, many = (measure(model, pairs, opening, size) for size in (1, 64))
    np.testing.assert_allclose(one.word, many.word, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(one.single, many.single, rtol=1e-5, atol=1e-8)


def test_examples_not_filtered_by_their_own_attention(
    tiny_directories: dict[str, Path], documents: Path, tmp_path: Path
) -> None:
    """C defect 7: another model with the same tokenizer attends otherwise and shows the same words."""
    other = tiny_models.make_directory(tmp_path / "other", "gpt2", seed=7)
    shown = [
        run(specification(directory), documents, tmp_path / name, examples=5)[1]
        for name, directory in (("first", tiny_directories["gpt2"]), ("second", other))
    ]
    what = ["example", "query", "key", "query_string", "key_string", "in_word"]
    assert shown[0].select(what).equals(shown[1].select(what))
    assert not np.allclose(shown[0]["attention"], shown[1]["attention"])
    pairs, _ = planted([2] * 40, list(range(40)))
    drawn = np.array([drawn_examples(pairs, 4, seed) for seed in range(500)])
    counts = np.bincount(drawn.ravel(), minlength=40)
    assert 25 < counts.min() <= counts.max() < 80  # 50 expected: every word has the same chance


def test_seed_set_before_sampling(tiny_directories: dict[str, Path], documents: Path, tmp_path: Path) -> None:
    """C defect 7: same seed, same bytes, whatever state the global generators are in."""
    model = specification(tiny_directories["gpt2"])
    run(model, documents, tmp_path / "first")
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    run(model, documents, tmp_path / "again")
    for name in ("subjoiners.parquet", "subjoiner_examples.parquet"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    other = run(model, documents, tmp_path / "other", seed=1)[1]
    first = read_table(tmp_path / "first" / "subjoiner_examples.parquet", "subjoiner_examples")
    assert other["query_string"].to_list() != first["query_string"].to_list()


def test_examples_are_real_text_with_punctuation(
    tiny_directories: dict[str, Path], documents: Path, tmp_path: Path
) -> None:
    """C defect 7: put together, an example's tokens are a stretch of the text as it stands in the file."""
    examples = run(specification(tiny_directories["llama"]), documents, tmp_path, examples=6)[1]
    text = documents.read_text(encoding="utf-8")
    strings = [
        "".join(rows.filter(pl.col("query") == pl.col("key")).sort("query")["query_string"])
        for _, rows in examples.group_by("example", maintain_order=True)
    ]
    assert len(strings) == 6
    assert all(string in text for string in strings)
    assert any(mark in string for string in strings for mark in ".,;")
    for string, (_, rows) in zip(strings, examples.group_by("example", maintain_order=True), strict=True):
        word = rows.filter(pl.col("in_word") & (pl.col("query") == pl.col("key"))).sort("query")["query_string"]
        assert string.endswith("".join(word))
        assert "".join(word).strip().isalpha()


def planted(pieces: list[int], document: list[int]) -> tuple[list[Pair], Attention]:
    """Pairs, and heads of which 1.0 joins, 0.1 attends to previous tokens whatever they are, others do nothing."""
    n = len(pieces)
    noise = np.random.default_rng(0).uniform(0, 0.02, (2, n, 2, 3))
    noise[0, :, 1, 0] += 0.5
    noise[:, :, 0, 1] += 0.9
    pairs = [Pair(d, k, (), (), ("", ""), (0, 0)) for d, k in zip(document, pieces, strict=True)]
    return pairs, Attention(noise[0], noise[1])


def test_heads_that_join_stand_out_and_previous_token_heads_do_not() -> None:
    pairs, attention = planted([2, 3] * 20, list(range(40)))
    frame = summarise(attention, pairs, 500, 0.95, 0)
    assert best_head(frame) == (1, 0)
    assert frame["pieces"].unique(maintain_order=True).to_list() == [ALL, 2, 3]
    every = frame.filter(pl.col("half") == EVERY)
    rows = {(row["layer"], row["head"]): row for row in every.filter(pl.col("pieces") == ALL).iter_rows(named=True)}
    assert rows[1, 0]["score"] == pytest.approx(0.5, abs=0.01)
    assert rows[1, 0]["p_value_holm"] < 0.02
    assert rows[0, 1]["attention_word"] > 0.9
    assert rows[0, 1]["p_value"] > 0.02
    assert every.filter(pl.col("pieces") == 2)["n_words"].unique().to_list() == [20]


def test_halves_share_no_document_and_hold_every_word() -> None:
    pairs, attention = planted([2, 3, 2] * 11, [i // 3 for i in range(33)])
    halves = halves_of(pairs, 5)
    documents = np.array([pair.document for pair in pairs])
    assert (halves[SELECTION] ^ halves[REPORT]).all()
    assert not set(documents[halves[SELECTION]]) & set(documents[halves[REPORT]])
    assert [len(set(documents[halves[half]])) for half in (SELECTION, REPORT)] == [6, 5]
    assert any((halves_of(pairs, seed)[REPORT] != halves[REPORT]).any() for seed in range(3))
    frame = summarise(attention, pairs, 50, 0.95, 5)
    for half, own in halves.items():
        words = frame.filter(pl.col("half") == half, pl.col("pieces") == ALL)["n_words"]
        assert set(words) == {own.sum()}


def test_a_head_that_is_best_by_chance_is_not_shown_as_such() -> None:
    """Of 200 heads that do nothing the best one's own score is far from 0; in the half that did not choose it is 0."""
    generator, chosen, shown = np.random.default_rng(1), [], []
    for seed in range(12):
        word, single = generator.normal(0.5, 0.2, (2, 40, 10, 20))
        pairs = [Pair(i, 2, (), (), ("", ""), (0, 0)) for i in range(40)]
        frame = summarise(Attention(word, single), pairs, 2, 0.95, seed).filter(pl.col("pieces") == ALL)
        layer, head = best_head(frame)
        own = frame.filter(pl.col("layer") == layer, pl.col("head") == head)
        scores = dict(own.select("half", "score").iter_rows())
        chosen.append(scores[SELECTION])
        shown.append(scores[REPORT])
    error = 0.2 * np.sqrt(2 / 20 / 12)
    assert np.mean(chosen) > 0.15
    assert abs(np.mean(shown)) < 4 * error


def test_intervals_and_permutations_take_documents_as_one() -> None:
    """Forty equal pairs of two documents: as much evidence as two pairs."""
    pairs, attention = planted([2] * 40, [4] * 20 + [9] * 20)
    attention.word[:20, 0, 0], attention.word[20:, 0, 0] = 0.2, 0.8
    attention.single[:, 0, 0] = 0.1
    row = summarise(attention, pairs, 1000, 0.95, 0).row(0, named=True)
    assert (row["score_low"], row["score_high"]) == pytest.approx((0.1, 0.7))
    assert row["p_value"] == pytest.approx(0.5, abs=0.05)  # of four flips of two signs, two are as extreme


def test_one_document_has_neither_interval_nor_p_value() -> None:
    pairs, attention = planted([2, 2, 3], [5, 5, 5])
    frame = summarise(attention, pairs, 100, 0.95, 0)
    assert set(frame["half"]) == {EVERY}  # nothing to halve: chosen and shown by the same words
    assert drawn_examples(pairs, 3, 0) in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    assert best_head(frame) == (1, 0)
    assert frame["score"].null_count() == 0
    for column in ("score_low", "attention_word_high", "p_value", "p_value_holm"):
        assert frame[column].null_count() == len(frame)


def test_flips_by_exhaustion() -> None:
    sums = np.random.default_rng(1).normal(0.3, 1, (9, 5))
    sums[:, 4] = 0.0
    found = flip_p_values(sums, 40_000, 0)
    for head in range(5):
        observed = abs(sums[:, head].sum())
        totals = [
            abs(sum(s * v for s, v in zip(signs, sums[:, head], strict=True))) for signs in product((-1, 1), repeat=9)
        ]
        exact = np.mean([total >= observed - 1e-9 for total in totals])
        assert found[head] == pytest.approx(exact, abs=0.012)
    assert found[4] == 1.0
    assert flip_p_values(np.ones((60, 1)), 999, 0)[0] == pytest.approx(1 / 1000)


def test_flips_are_enough_for_holm_over_many_heads() -> None:
    """A head that joins in every document is found among two hundred, with the default number of resamples."""
    generator = np.random.default_rng(0)
    word, single = generator.uniform(0, 0.1, (2, 40, 10, 20))
    word[:, 3, 7] += 0.5
    pairs = [Pair(i, 2, (), (), ("", ""), (0, 0)) for i in range(40)]
    frame = summarise(Attention(word, single), pairs, 100, 0.95, 0).filter(pl.col("pieces") == ALL)
    # Among all words, and in each half.
    assert frame.filter(pl.col("p_value_holm") < 0.05).select("layer", "head").rows() == [(3, 7)] * 3


def test_a_text_without_such_words_gives_empty_tables_loudly(
    tiny_directories: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "load_model", lambda spec: pytest.fail("weights are not needed"))
    text = tmp_path / "plain.txt"
    text.write_text(" and the" * 100, encoding="utf-8")
    model = specification(tiny_directories["gpt2"])
    for frame in run(model, text, tmp_path / "none"):
        assert frame.is_empty()
    assert "WARNING: texts.essay has no word of 2, 3, 5 tokens" in capsys.readouterr().err
    text.write_text("a house, the tree", encoding="utf-8")  # shorter than the context
    assert run(model, text, tmp_path / "short")[0].is_empty()
    assert "with 20 tokens of its document before it" in capsys.readouterr().err


def test_numbers_of_tokens_without_words_have_no_rows(
    tiny_directories: dict[str, Path], documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, examples = run(specification(tiny_directories["gpt2"]), documents, tmp_path, pieces=[7, 3], examples=0)
    assert set(frame["pieces"]) == {ALL, 3}
    assert examples.is_empty()
    assert "no usable word of 7 tokens" in capsys.readouterr().err


def test_settings_that_cannot_be(tiny_directories: dict[str, Path], documents: Path, tmp_path: Path) -> None:
    model = specification(tiny_directories["gpt2"])  # 64 tokens of context
    for settings, message in (
        ({"context": 60}, r"subjoiners\.context is 60: .* 5 tokens .* 66 tokens, but .* models\.tiny is 64; .* by 2"),
        ({"pieces": [1, 2]}, r"subjoiners\.pieces is \[1, 2\]"),
        ({"pieces": []}, r"subjoiners\.pieces is \[\]"),
        ({"words": 0}, r"subjoiners\.words is 0"),
        ({"context": 0}, r"subjoiners\.context is 0"),
        ({"batch_size": 0}, r"compute\.batch_size is 0"),
    ):
        with pytest.raises(SubjoinerError, match=message):
            run(model, documents, tmp_path, **settings)
    run(model, documents, tmp_path, context=58, words=2)  # 64 tokens fit


def test_bos_policy(tiny_directories: dict[str, Path], documents: Path) -> None:
    model = specification(tiny_directories["gpt2"])
    vocabulary = load_vocabulary(model)
    for policy, expected in (("auto", (0,)), ("always", (0,)), ("never", ())):
        text = TextSpec("essay", bos=policy)
        assert find_pairs(vocabulary, model, text, documents, (2,), 3, 8, 0)[1] == expected


def test_attention_that_is_not_finite_is_refused(
    tiny_model: TINY, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2")
    pairs, opening = find_pairs(model.vocabulary, model.spec, TEXT, documents, (2,), 3, 8, 0)

    def broken(bridge: object, tokens: torch.Tensor, visit: Callable[[int, torch.Tensor], None]) -> None:
        for layer in range(2):
            visit(layer, torch.full((len(tokens), 4, tokens.shape[1], tokens.shape[1]), float("nan")))

    monkeypatch.setattr(module, "visit_patterns", broken)
    with pytest.raises(SubjoinerError, match=r"models\.gpt2: NaN or infinity in its attention"):
        measure(model, pairs, opening, 4)


def test_attention_without_a_hook_point_is_refused(tiny_model: TINY, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pattern", lambda layer: f"blocks.{layer}.attn.nowhere")
    with pytest.raises(SubjoinerError, match=r"blocks\.0\.attn\.nowhere.*stages_of_inference\.parts"):
        module.check_hooks(tiny_model("llama"))
