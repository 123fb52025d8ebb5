"""Local attention against loops over Hugging Face's own attention; regression tests of METHODS C defects 4 and 6."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import depth_texts
import numpy as np
import polars as pl
import pytest
import tiny_models
import torch
from neuronlab import local_attention
from neuronlab.final_states import Text
from neuronlab.local_attention import (
    LocalAttentionError,
    Measured,
    bos_frame,
    heads_frame,
    layers_frame,
    measure,
    measure_local_attention,
    pairs_of,
)
from neuronlab.model_families import family_of
from neuronlab.models import Model, ModelSpec
from neuronlab.sequence_sample import sample_sequences
from neuronlab.statistics import bootstrap_weights
from neuronlab.tables import read_table, write_table
from transformers import AutoModelForCausalLM, GPT2Config

TINY = Callable[..., Model]
TABLES = ("local_attention", "attention_bos", "local_attention_layers")


def eager(directory: Path, tokens: np.ndarray) -> np.ndarray:
    """Attention of all layers by Hugging Face: [layer, sequence, head, query, key]."""
    network = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    with torch.no_grad():
        return torch.stack(network(torch.from_numpy(tokens), output_attentions=True).attentions).double().numpy()


def spec_of(directory: Path) -> ModelSpec:
    return ModelSpec("tiny", "directory", path=str(directory), device="cpu")


def run_rule(directory: Path, tokens: Path, folder: Path, **options: object) -> dict[str, pl.DataFrame]:
    """The rule's three tables, by name."""
    paths = {name: folder / f"{name}.parquet" for name in TABLES}
    arguments = {"offsets": 3, "resamples": 50, "batch_size": 4} | options
    measure_local_attention(model=spec_of(directory), tokens=tokens, **paths, **arguments)
    return {name: read_table(path, name) for name, path in paths.items()}


def nearby(row: dict[str, list[int]], query: int, key: int) -> bool:
    """Whether a key is a token of the query's document: ids 0 and 1 are BOS and EOS."""
    return row["tokens"][key] not in (0, depth_texts.EOS) and row["documents"][key] == row["documents"][query]


def near(text: Text, sequence: int, query: int, back: int) -> bool:
    """The same for a key so many tokens back, which may lie outside the sequence."""
    row = {"tokens": text.tokens[sequence], "documents": text.documents[sequence]}
    return back <= query and nearby(row, query, query - back)


def by_loops(
    attention: np.ndarray, frame: pl.DataFrame, offsets: int, bos: bool
) -> tuple[
    dict[tuple[int, int, int], list[float]], dict[tuple[int, int], list[float]], dict[tuple[int, int], list[float]]
]:
    """Attention that counts: per (layer, head, offset), on the BOS per (layer, head), and sums over the window."""
    single, sink, window = defaultdict(list), defaultdict(list), defaultdict(list)
    for s, row in enumerate(frame.iter_rows(named=True)):
        for q in range(len(row["tokens"])):
            if not row["counted"][q]:
                continue
            for layer, head in np.ndindex(attention.shape[0], attention.shape[2]):
                own = attention[layer, s, head, q]
                for back in range(offsets + 1):
                    if back <= q and nearby(row, q, q - back):
                        single[layer, head, back].append(own[q - back])
                if bos:
                    sink[layer, head].append(own[0])
            earlier = list(range(max(0, q - offsets), q))
            if len(earlier) == offsets and all(nearby(row, q, k) for k in earlier):
                for layer, head in np.ndindex(attention.shape[0], attention.shape[2]):
                    window[layer, head].append(sum(attention[layer, s, head, q, k] for k in earlier))
    return single, sink, window


def test_all_tables_by_loops(architecture: str, tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    bos = architecture not in tiny_models.WITHOUT_BOS
    frame = depth_texts.depth_text(bos=bos)
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet", bos=bos)
    found = run_rule(tiny_directories[architecture], path, tmp_path)
    attention = eager(tiny_directories[architecture], np.array(frame["tokens"].to_list()))
    single, sink, window = by_loops(attention, frame, 3, bos)
    assert len(found["local_attention"]) == 2 * 4 * (4 + 1)
    for row in found["local_attention"].iter_rows(named=True):
        at = row["layer"], row["head"]
        expected = window[at] if row["measure"] == "window" else single[(*at, row["offset"])]
        assert row["n"] == len(expected)
        assert row["attention"] == pytest.approx(np.mean(expected), rel=1e-5, abs=1e-9)
        assert row["attention_low"] <= row["attention"] <= row["attention_high"]
    text = Text.of_frame(frame, "made up")
    documents = len(set(text.documents[text.counted].tolist()))
    assert len(found["attention_bos"]) == (2 * 4 if bos else 0)
    for row in found["attention_bos"].iter_rows(named=True):
        expected = sink[row["layer"], row["head"]]
        assert (row["n"], row["n_documents"]) == (len(expected), documents)
        assert row["attention"] == pytest.approx(np.mean(expected), rel=1e-5, abs=1e-9)
    layers = found["local_attention_layers"]
    assert layers["family"].unique().to_list() == [family_of(spec_of(tiny_directories[architecture]))]
    assert len(layers) == 2 * (1 + 4 + bos)
    for row in layers.iter_rows(named=True):
        heads = [(row["layer"], head) for head in range(4)]
        expected = {
            "window": [window[at] for at in heads],
            "offset": [single[(*at, row["offset"])] for at in heads],
            "bos": [sink[at] for at in heads],
        }[row["measure"]]
        assert row["n_documents"] == documents
        assert (row["window"], row["n"], row["depth"]) == (3, len(expected[0]), row["layer"])
        assert row["attention"] == pytest.approx(np.mean(expected), rel=1e-5, abs=1e-9)
        assert row["attention_low"] <= row["attention"] <= row["attention_high"]


def all_on_key_zero(length: int, bos: bool, offsets: int) -> Measured:
    """What is measured of one head that attends to key 0 from everywhere, all positions but 0 queries."""
    counted = np.ones((1, length), dtype=bool)
    counted[0, 0] = False
    documents, marks = np.zeros((1, length), dtype=np.int64), np.zeros((1, length), dtype=bool)
    if bos:
        documents[0, 0], marks[0, 0] = -1, True
    pairs = pairs_of(counted, documents, marks, np.array([bos]), offsets)
    sums, counts = np.zeros((1, offsets + 3, 1, 1)), np.zeros((1, offsets + 3), dtype=np.int64)
    np.add.at(sums, (0, pairs.measure, 0, 0), (pairs.key == 0).astype(float))
    np.add.at(counts, (0, pairs.measure), 1)
    counts[:, -1] //= offsets
    return Measured(sums, counts)


def test_attention_on_the_bos_is_not_local_c_defect_6() -> None:
    """A pure sink has no local attention: position 0 is no key where it holds a BOS, and is one where it does not."""
    weights, offsets = np.ones((1, 1)), 5
    sink = all_on_key_zero(9, True, offsets)
    assert heads_frame(sink, offsets, weights, 0.95)["attention"].to_list() == [0.0] * 7
    layers = layers_frame(sink, offsets, weights, 0.95, "GPT-2")
    assert dict(layers.group_by("measure").agg(pl.col("attention").sum()).iter_rows()) == {
        "window": 0.0,
        "offset": 0.0,
        "bos": 1.0,
    }
    assert bos_frame(sink, offsets, weights, 0.95)["attention"].to_list() == [1.0]
    text = all_on_key_zero(9, False, offsets)
    local = heads_frame(text, offsets, weights, 0.95)
    found = local.filter(pl.col("measure") == "offset")["attention"].to_list()
    assert found == [0.0, 1 / 8, 1 / 7, 1 / 6, 1 / 5, 1 / 4]  # one query each, of those with a key so far back
    assert bos_frame(text, offsets, weights, 0.95).is_empty()
    # Of the four queries with five keys before them one has key 0 among these; the offsets' means add up to more.
    assert local.filter(pl.col("measure") == "window")["attention"].item() == 1 / 4
    assert sum(found[1:]) > 0.8
    assert "bos" not in layers_frame(text, offsets, weights, 0.95, "GPT-2")["measure"].to_list()


@pytest.mark.parametrize("bos", [True, False])
def test_keys_of_another_document_and_marks_are_not_local(bos: bool) -> None:
    """BOS a a EOS b b b: pairs stay within a document and off the marks; by hand."""
    documents = np.array([[-1 if bos else 3, 3, 3, 3, 4, 4, 4]])
    marks = np.array([[bos, False, False, True, False, False, False]])
    counted = np.array([[False, True, True, True, True, True, True]])
    found = pairs_of(counted, documents, marks, np.array([bos]), 2)
    at = list(zip(found.measure.tolist(), found.query.tolist(), found.key.tolist(), strict=True))
    pairs = {measure: {(q, k) for m, q, k in at if m == measure} for measure in range(5)}
    assert sum(map(len, pairs.values())) == len(at)
    start = set() if bos else {(1, 0)}
    assert pairs[0] == {(q, q) for q in (1, 2, 4, 5, 6)}
    assert pairs[1] == start | {(2, 1), (3, 2), (5, 4), (6, 5)}
    assert pairs[2] == (set() if bos else {(2, 0)}) | {(3, 1), (6, 4)}
    assert pairs[3] == ({(q, 0) for q in range(1, 7)} if bos else set())
    assert pairs[4] == {(3, 2), (3, 1), (6, 5), (6, 4)} | (set() if bos else {(2, 1), (2, 0)})


def test_documents_joined_without_a_mark_are_told_apart(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    """A document that ends without an EOS, and a BOS within a sequence: as by loops; n of each measure says so."""
    frame = depth_texts.depth_text()
    tokens, documents = frame["tokens"].to_list(), frame["documents"].to_list()
    for row, owners in zip(tokens, documents, strict=True):
        row[row.index(depth_texts.EOS)] = 77
        row[owners.index(owners[-1]) + 2] = 0
    frame = frame.with_columns(tokens=pl.Series(tokens), documents=pl.Series(documents))
    write_table(frame, tmp_path / "tokens.parquet", "tokens")
    found = run_rule(tiny_directories["gpt2"], tmp_path / "tokens.parquet", tmp_path)
    attention = eager(tiny_directories["gpt2"], np.array(tokens))
    single, _, window = by_loops(attention, frame, 3, True)
    for row in found["local_attention"].iter_rows(named=True):
        at = row["layer"], row["head"]
        expected = window[at] if row["measure"] == "window" else single[(*at, row["offset"])]
        assert row["n"] == len(expected) > 0
        assert row["attention"] == pytest.approx(np.mean(expected), rel=1e-5, abs=1e-9)
    rows = found["local_attention"].select("measure", "offset", "n").unique().iter_rows()
    by_measure = {-1 if measure == "window" else offset: n for measure, offset, n in rows}
    assert by_measure[-1] < by_measure[3] < by_measure[1] < by_measure[0] < frame["counted"].explode().sum()


def test_early_rows_have_fewer_keys_c_defect_6() -> None:
    """n shrinks by one per offset and sequence; the window takes the queries that have all its keys."""
    found = all_on_key_zero(9, True, 3)
    assert heads_frame(found, 3, np.ones((1, 1)), 0.95)["n"].to_list() == [8, 7, 6, 5, 5]
    layers = layers_frame(found, 3, np.ones((1, 1)), 0.95, "GPT-2")
    assert layers.select("measure", "offset", "n").rows() == [
        ("window", None, 5),
        *(("offset", offset, 8 - offset) for offset in range(4)),
        ("bos", None, 8),
    ]


def test_documents_without_a_pair_are_not_counted_c_defect_6() -> None:
    """A document whose only query is position 1 behind a BOS has a key at offset 0, and none further back."""
    sums = np.zeros((2, 4, 1, 1))
    sums[:, :, 0, 0] = [[0.5, 0.0, 0.2, 0.0], [0.7, 0.3, 0.1, 0.3]]
    counts = np.array([[1, 0, 1, 0], [1, 1, 1, 1]])
    weights = bootstrap_weights(2, 200, 0)
    frame = heads_frame(Measured(sums, counts), 1, weights, 0.9)
    assert frame["n_documents"].to_list() == [2, 1, 1]
    assert frame["attention"].to_list() == pytest.approx([0.6, 0.3, 0.3])
    assert layers_frame(Measured(sums, counts), 1, weights, 0.9, "GPT-2")["n"].to_list() == [1, 2, 1, 2]


def test_intervals_resample_documents_with_all_their_tokens_c_defect_4(
    tiny_model: TINY, tiny_directories: dict[str, Path], tmp_path: Path
) -> None:
    """Ends of an interval by a loop over resamples of documents; the mean weights tokens, not documents."""
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    found = run_rule(tiny_directories["llama"], path, tmp_path, resamples=80, level=0.8, seed=5)["local_attention"]
    text = Text.read(path)
    attention = eager(tiny_directories["llama"], text.tokens)
    groups = defaultdict(list)
    for s, q in zip(*np.nonzero(text.counted), strict=True):
        groups[text.documents[s, q]] += [attention[1, s, 2, q, q - 1]] if near(text, s, q, 1) else []
    documents = [groups[document] for document in sorted(groups)]
    means = []
    for times in bootstrap_weights(len(documents), 80, 5).astype(int):
        drawn = [value for values, n in zip(documents, times, strict=True) for value in values * n]
        means.append(np.mean(drawn))
    row = found.filter(layer=1, head=2, offset=1).row(0, named=True)
    assert (row["attention_low"], row["attention_high"]) == pytest.approx(np.quantile(means, [0.1, 0.9]), rel=1e-5)
    by_token = np.mean([value for values in documents for value in values])
    assert row["attention"] == pytest.approx(by_token, rel=1e-5)
    assert abs(by_token - np.mean([np.mean(values) for values in documents if values])) > 1e-4


def test_means_over_heads_resample_documents_c_defect_4(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    """Lines of an offset and of the BOS, too: ends of their intervals by a loop over resamples of documents."""
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    found = run_rule(tiny_directories["gpt2"], path, tmp_path, resamples=60, level=0.8, seed=3)
    text = Text.read(path)
    attention = eager(tiny_directories["gpt2"], text.tokens)[1].mean(axis=1)  # layer 1: [sequence, query, key]
    for name, offset in (("offset", 2), ("bos", None), ("window", None)):
        groups: dict[int, list[float]] = defaultdict(list)
        for s, q in zip(*np.nonzero(text.counted), strict=True):
            own = attention[s, q]
            values = {
                "offset": [own[q - 2]] if near(text, s, q, 2) else [],
                "bos": [own[0]],
                "window": [own[q - 3 : q].sum()] if all(near(text, s, q, k) for k in (1, 2, 3)) else [],
            }[name]
            groups[text.documents[s, q]] += values
        documents = [groups[document] for document in sorted(groups)]
        means = []
        for times in bootstrap_weights(len(documents), 60, 3).astype(int):
            drawn = [value for values, n in zip(documents, times, strict=True) for value in values * n]
            means.append(np.mean(drawn))
        rows = found["local_attention_layers"].filter(pl.col("measure") == name, pl.col("layer") == 1)
        row = rows.filter(pl.col("offset").eq_missing(pl.lit(offset, pl.Int32))).row(0, named=True)
        ends = (row["attention_low"], row["attention_high"])
        assert ends == pytest.approx(np.quantile(means, [0.1, 0.9]), rel=1e-5), name


def test_batches_do_not_matter(tiny_model: TINY) -> None:
    text = Text.of_frame(depth_texts.depth_text(), "made up")
    one, many = (measure(tiny_model("gemma2"), text, 4, size) for size in (1, 5))
    np.testing.assert_array_equal(one.counts, many.counts)
    np.testing.assert_allclose(one.sums, many.sums, rtol=1e-4, atol=1e-6)


def test_one_layers_pattern_at_a_time(tiny_model: TINY, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a layer's pattern arrives, that of the layer before it is gone."""
    before: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    visit_patterns = local_attention.visit_patterns

    def watching(bridge: object, tokens: torch.Tensor, visit: Callable[[int, torch.Tensor], None]) -> None:
        def watch(layer: int, pattern: torch.Tensor) -> None:
            alive.extend(found() is not None for found in before)
            before.append(weakref.ref(pattern))
            visit(layer, pattern)

        visit_patterns(bridge, tokens, watch)

    monkeypatch.setattr(local_attention, "visit_patterns", watching)
    measure(tiny_model("gpt2"), Text.of_frame(depth_texts.depth_text(), "made up"), 2, 8)
    assert alive == [False]


def test_a_sample_of_sequences_is_read(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    found = run_rule(tiny_directories["gpt2"], path, tmp_path, sequences=2, seed=1)
    sampled = sample_sequences(Text.read(path), 2, 1).counted
    assert sampled.any(axis=1).sum() == 2
    assert found["attention_bos"]["n"].unique().to_list() == [sampled.sum()]


def test_same_bytes_again(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        run_rule(tiny_directories["gpt_neox"], path, tmp_path / folder)
    for name in TABLES:
        files = [tmp_path / folder / f"{name}.parquet" for folder in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_window_beyond_every_history_is_refused(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    """What a query can see are the tokens of its document before it, without BOS and EOS."""
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    text, longest = Text.read(path), 0
    for s, q in zip(*np.nonzero(text.counted), strict=True):
        longest = max(longest, next(k for k in range(1, 20) if not near(text, s, q, k)) - 1)
    found = run_rule(tiny_directories["gpt2"], path, tmp_path, offsets=longest)
    assert found["local_attention"]["n"].min() > 0
    with pytest.raises(
        LocalAttentionError, match=rf"stages_of_inference\.offsets is {longest + 1}.*more than {longest} tok"
    ):
        run_rule(tiny_directories["gpt2"], path, tmp_path, offsets=longest + 1)


def test_one_layer_and_one_document(tmp_path: Path) -> None:
    """Depth is 0 and intervals are missing: nothing to resample."""
    config = GPT2Config(
        vocab_size=200, n_embd=32, n_inner=48, n_layer=1, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1
    )
    tiny_models.make_model("gpt2", config=config).save_pretrained(tmp_path / "model")
    tiny_models.make_tokenizer().save_pretrained(tmp_path / "model")
    frame = depth_texts.depth_text().head(1)
    frame = frame.with_columns(documents=pl.Series([[-1] + [7] * 19]))
    write_table(frame, tmp_path / "tokens.parquet", "tokens")
    found = run_rule(tmp_path / "model", tmp_path / "tokens.parquet", tmp_path)
    assert set(found["local_attention_layers"]["depth"]) == {0.0}
    for table in found.values():
        assert table["attention"].null_count() == 0
        assert table["attention_low"].null_count() == len(table)
    assert set(found["local_attention"]["n_documents"]) == {1}
