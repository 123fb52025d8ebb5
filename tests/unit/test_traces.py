"""Traces of a text with more counted tokens than are to be traced: whole sequences, drawn by the seed."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import fake_tables
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.activations import measure_activations
from neuronlab.cards import write_cards
from neuronlab.figures import example_passage
from neuronlab.final_states import AblationInputs, Text
from neuronlab.model_files import ModelSpec
from neuronlab.tables import read_provenance, read_table, write_table
from neuronlab.traced_sample import TracedSample, sample_of
from neuronlab.traces import TraceError, draw_sequences, trace_neurons
from polars.testing import assert_frame_equal
from text_files import counts_frame, token_ids

PLACE = ["neuron", "sequence", "position"]
NEURONS = (4, 11, 30)


@settings(max_examples=150, deadline=None)
@given(
    counted=st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=n, max_size=n)
    ),
    tokens=st.integers(1, 100),
    seed=st.integers(0, 5),
)
def test_drawn_sequences_are_whole_and_fill_the_limit(counted: list[list[bool]], tokens: int, seed: int) -> None:
    counts = np.array(counted)
    before = counts.copy()
    text = Text(np.zeros(counts.shape, dtype=int), np.zeros(counts.shape, dtype=int), counts)
    found = draw_sequences(text, tokens, seed)
    assert (counts == before).all()
    assert (draw_sequences(text, tokens, seed) == found).all()
    assert not (found & ~counts).any()
    sizes, taken = [sum(row) for row in counted], [int(row.sum()) for row in found]
    if sum(sizes) <= tokens:
        assert taken == sizes
        return
    cut = [i for i, n in enumerate(taken) if 0 < n < sizes[i]]
    if cut:  # not even one fits: the start of one
        assert sum(taken) == tokens == taken[cut[0]]
        assert found[cut[0]].tolist() == [
            c and sum(counted[cut[0]][:i]) < tokens for i, c in enumerate(counted[cut[0]])
        ]
    else:
        assert 0 < sum(taken) <= tokens
        assert sum(taken) + max(n for i, n in enumerate(sizes) if not taken[i]) > tokens


def test_every_sequence_has_the_same_chance_and_long_documents_their_share() -> None:
    """60 sequences, of which one document fills half, more than the limit; the rest are documents of a sequence."""
    documents = np.repeat(np.maximum(np.arange(60) - 30, 0), 8).reshape(60, 8)
    text = Text(np.zeros_like(documents), documents, np.ones_like(documents, dtype=bool))
    drawn = np.zeros(60)
    for seed in range(400):
        drawn += draw_sequences(text, 100, seed)[:, 0]  # 12 sequences of 8
    assert drawn.sum() == 400 * 12
    assert (np.abs(drawn - 80) < 5 * np.sqrt(400 * 0.2 * 0.8)).all()


@pytest.fixture(scope="module")
def inputs(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AblationInputs:
    folder = tmp_path_factory.mktemp("traces")
    ids = token_ids(5, 12)
    counted = np.zeros(ids.shape, dtype=bool)
    counted[:, 3:-1] = True
    documents = (np.arange(ids.size) // 31).reshape(ids.shape)  # most of them cross a sequence's end
    frame = pl.DataFrame(
        {
            "sequence": range(len(ids)),
            "tokens": ids.tolist(),
            "documents": documents.tolist(),
            "counted": counted.tolist(),
        }
    )
    write_table(frame, folder / "tokens.parquet", "tokens")
    write_table(counts_frame(), folder / "counts.parquet", "token_counts")
    files = {name: folder / f"{name}.parquet" for name in ("tokens", "counts", "statistics")}
    spec = ModelSpec("tiny", "directory", path=str(tiny_directories["gpt2"]), device="cpu")
    measure_activations(model=spec, **files, baseline=folder / "baseline.parquet", layers=[-1], batch_size=4)
    selection = pl.DataFrame(
        {"layer": 1, "neuron": NEURONS, "rank": range(3), "matched": None, "norm_ratio": None, "control_of": None}
    ).with_columns(set=pl.lit("chosen"), kind=pl.lit("selection"), rule=pl.lit("list"))
    write_table(selection, folder / "selection.parquet", "selection")
    return AblationInputs(model=spec, **files, replacements=("resample",), batch_size=3, tokens_per_chunk=10, seed=2)


def traced(inputs: AblationInputs, name: str, **options: int | None) -> Path:
    folder = Path(inputs.tokens).parent
    path = folder / f"{name}.parquet"
    trace_neurons(inputs=inputs, selection=folder / "selection.parquet", traces=path, **options)
    return path


def test_a_bounded_table_has_rows_of_the_whole_one(inputs: AblationInputs) -> None:
    """Also where the activation at another position, drawn over the whole text, takes its place."""
    whole = read_table(traced(inputs, "whole"), "traces")
    path = traced(inputs, "bounded", tokens=100)
    bounded = read_table(path, "traces")
    sequences = bounded["sequence"].unique().to_list()
    assert 1 < len(sequences) < whole["sequence"].n_unique()
    assert bounded.select(PLACE).equals(bounded.select(PLACE).sort(PLACE))
    expected = whole.filter(pl.col("sequence").is_in(sequences))
    assert len(expected) <= 100 * len(NEURONS)
    exact = [name for name, dtype in whole.schema.items() if dtype != pl.Float64]
    assert bounded.select(exact).equals(expected.select(exact))
    assert_frame_equal(bounded, expected, abs_tol=1e-6, rel_tol=1e-5)
    sample = sample_of(path)
    assert sample is not None
    assert (sample.tokens, sample.of_tokens) == (len(bounded) / 3, len(whole) / 3)
    assert (sample.sequences, sample.of_sequences) == (len(sequences), whole["sequence"].n_unique())
    assert str(sample).startswith(f"{len(bounded) // 3} of 240 counted tokens ({len(sequences)} of 12 sequences")


def test_a_text_below_the_limit_is_traced_as_ever(inputs: AblationInputs) -> None:
    unbounded, bounded = traced(inputs, "unbounded"), traced(inputs, "large", tokens=240)
    assert bounded.read_bytes() == unbounded.read_bytes()
    assert sample_of(bounded) is None
    assert "sample" not in read_provenance(bounded)


def test_neurons_in_tiles_give_the_same_order(inputs: AblationInputs) -> None:
    at_once = read_table(traced(inputs, "one", tokens=100), "traces")
    parts = read_table(traced(replace(inputs, neurons_per_tile=2), "two", tokens=100), "traces")
    assert parts.select(PLACE).equals(at_once.select(PLACE))
    assert_frame_equal(parts, at_once, abs_tol=1e-6, rel_tol=1e-5)


def test_another_seed_traces_other_sequences(inputs: AblationInputs) -> None:
    text = Text.read(inputs.tokens)
    drawn = {draw_sequences(text, 100, seed).tobytes() for seed in range(5)}
    assert len(drawn) > 1


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tables of a run whose traces hold every third sequence of the text, and say so."""
    folder = tmp_path_factory.mktemp("sampled")
    paths = fake_tables.write_fake_tables(folder, fake_tables.World(n_neurons=160, d_model=64))
    text = Text.read(paths["tokens"])
    traces = read_table(paths["traces"], "traces").filter(pl.col("sequence") % 3 == 1)
    sample = TracedSample.of(text.counted, text.counted & (np.arange(len(text.counted)) % 3 == 1)[:, None])
    assert sample is not None
    write_table(traces, paths["traces"], "traces", {"sample": sample.record()})
    return paths


@pytest.mark.parametrize(
    ("figure", "tables"),
    [
        ("total_direct", {}),
        ("token_effects", {}),
        ("example_passage", {"tokens": "tokens", "strings": "token_strings"}),
        ("overview", {name: name for name in ("neurons", "singular_values", "alignment", "null_space", "effects")}),
    ],
)
def test_figures_tell_that_tokens_are_a_sample(
    sampled: dict[str, Path], tmp_path: Path, figure: str, tables: dict[str, str]
) -> None:
    sample = sample_of(sampled["traces"])
    assert sample is not None
    importlib.import_module(f"neuronlab.figures.{figure}").draw(
        **{name: sampled[table] for name, table in tables.items()},
        traces=sampled["traces"],
        selection=sampled["selection"],
        figures=[tmp_path / "made.json"],
        model="demo",
        text="evaluation",
    )
    said = " ".join(json.loads((tmp_path / "made.json").read_text())["title"]["subtitle"])
    assert str(sample) in said
    traced = read_table(sampled["traces"], "traces")
    per_neuron = len(traced) // traced["neuron"].n_unique()
    assert f"{per_neuron:,} of {sample.of_tokens:,} counted tokens" in said
    assert f"({traced['sequence'].n_unique()} of {sample.of_sequences:,} sequences" in said


def test_a_passage_and_cards_show_traced_tokens_alone(sampled: dict[str, Path], tmp_path: Path) -> None:
    traces, tokens = read_table(sampled["traces"], "traces"), read_table(sampled["tokens"], "tokens")
    strings = read_table(sampled["token_strings"], "token_strings")
    places = set(traces.select("sequence", "position").unique().iter_rows())
    for neuron in traces["neuron"].unique().to_list():
        frame, sequence, peak = example_passage.prepare(traces, tokens, strings, neuron)
        assert (sequence, peak) in places
        for position, change in frame.select("position", "change").iter_rows():
            assert (change is not None) == ((sequence, position) in places)
    write_cards(
        **{name: sampled[name] for name in ("neurons", "null_space", "selection", "tokens", "effects", "traces")},
        boosted=sampled["boosted_tokens"],
        strings=sampled["token_strings"],
        statistics=sampled["activation_statistics"],
        cards=tmp_path / "cards.html",
        model="demo",
        text="evaluation",
    )
    page = (tmp_path / "cards.html").read_text(encoding="utf-8")
    assert f"excerpts and their colours from a sample: {sample_of(sampled['traces'])}" in page
    shown = re.findall(r"sequence (\d+), position (\d+)", page)
    assert len(shown) > 50
    assert {(int(sequence), int(position)) for sequence, position in shown} <= places


@pytest.mark.parametrize("tokens", [0, -5])
def test_nothing_to_trace_is_refused(inputs: AblationInputs, tokens: int) -> None:
    with pytest.raises(TraceError, match=rf"ablation\.traced_tokens is {tokens}; .*1 or more"):
        traced(inputs, "none", tokens=tokens)
