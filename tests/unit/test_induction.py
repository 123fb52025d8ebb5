"""Profile and scores along repetitions, against loops over full forward passes, sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab.activations import measure_activations
from neuronlab.final_states import AblationInputs, Setup, last_layer
from neuronlab.induction import (
    InductionError,
    Measured,
    compared_places,
    continues_frame,
    measure,
    measure_induction,
    place_means,
    profile_frame,
    score_frame,
)
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.repeat_places import Repeats
from neuronlab.repeats import empty_table
from neuronlab.replacements import ActivationStatistics
from neuronlab.statistics import bootstrap_weights
from neuronlab.tables import read_table, write_table
from text_files import counts_frame, write_text

NEURONS = 48
TRACKED = (3, 11, 40)


def synthetic(n: int = 5, length: int = 7, copies: int = 2, seed: int = 0) -> Repeats:
    """BOS, the stretch, one separator, the stretch, ...; documents 0, 0, 1, 2, 2, ..."""
    stretches = np.random.default_rng(seed).integers(2, 196, (n, length))
    tokens, copy, offset = [np.zeros((n, 1), int)], [-1], [0]
    for number in range(copies):
        if number:
            tokens.append(np.full((n, 1), 9))
            copy.append(-1)
            offset.append(0)
        tokens.append(stretches)
        copy += [number] * length
        offset += range(length)
    documents = np.array([0, 0, 1, 2, 2, 3, 4, 4])[:n]
    return Repeats(
        tokens=np.concatenate(tokens, axis=1),
        document=documents,
        copy=np.tile(copy, (n, 1)),
        offset=np.tile(offset, (n, 1)),
        continues=np.ones(n, dtype=bool),
        sequence=np.arange(n),
    )


def natural(seed: int = 0) -> Repeats:
    """Prefixes of three tokens at different places; windows of different sizes, one to the end of its sequence."""
    length, prefix = 20, 3
    tokens = np.random.default_rng(seed).integers(2, 196, (4, length))
    copy, offset = np.full((4, length), -1), np.zeros((4, length), dtype=int)
    for row, (first, second, end) in enumerate([(1, 9, 3), (2, 8, 3), (4, 16, 1), (3, 15, 2)]):
        tokens[row, second : second + prefix] = tokens[row, first : first + prefix]
        for number, start in enumerate((first, second)):
            for place in range(-prefix, end):
                copy[row, start + prefix + place], offset[row, start + prefix + place] = number, place
    return Repeats(tokens, np.array([3, 5, 5, 9]), copy, offset, np.array([True, False, False, True]), np.arange(4))


def setup_of(model: Model) -> Setup:
    last = last_layer(model, counts_frame(), include_padded=False, kernel="torch")
    means = np.linspace(-1, 1, NEURONS)
    statistics = ActivationStatistics(*[means] * 6, position_means=np.zeros((NEURONS, 1)))
    return Setup(model, last, text=None, statistics=statistics, replacements=[], donors=None)


def by_forward_passes(model: Model, repeats: Repeats) -> list[list[dict[str, object]]]:
    """For every sequence and position the quantities, from the model's own logits, one sequence at a time."""
    rows = []
    for tokens in torch.from_numpy(repeats.tokens):
        logits = model.logits(tokens[None])[0].double().numpy()
        acts = model.activations(tokens[None], [model.n_layers - 1])[model.n_layers - 1][0].double().numpy()
        residual = model.run(tokens[None]).residual[0].double().numpy()
        row = []
        for t in range(len(tokens)):
            shifted = logits[t] - logits[t].max()
            p = np.exp(shifted) / np.exp(shifted).sum()
            x = residual[t] - (residual[t].mean() if model.norm_kind == "LN" else 0)
            found: dict[str, object] = {
                "activation": acts[t],
                "entropy": -sum(q * np.log(q) for q in p if q > 0),
                "norm_scale": float(np.sqrt((x**2).sum() / len(x) + model.eps)),
            }
            if t + 1 < len(tokens):
                found["loss"] = -np.log(p[tokens[t + 1]])
                found["correct"] = float(logits[t].argmax() == int(tokens[t + 1]))
            row.append(found)
        rows.append(row)
    return rows


@pytest.mark.parametrize("kind", ["synthetic", "natural"])
def test_profile_and_scores_of_every_architecture(
    architecture: str, kind: str, tiny_model: Callable[..., Model]
) -> None:
    model = tiny_model(architecture, "float64")
    repeats = synthetic() if kind == "synthetic" else natural()
    setup = setup_of(model)
    measured = measure(setup, repeats, compared_places(repeats, kind), TRACKED, batch_size=2, tokens_per_chunk=5)
    clusters = repeats.clusters()
    weights = bootstrap_weights(int(clusters.max()) + 1, 50, 0)
    profile = profile_frame(measured, setup.last.layer, clusters, weights, 0.95)
    naive = by_forward_passes(model, repeats)

    expected: dict[tuple[str, int | None, int, int], list[float]] = {}
    for row, values in enumerate(naive):
        for t, found in enumerate(values):
            place = int(repeats.copy[row, t]), int(repeats.offset[row, t])
            if place[0] < 0:
                continue
            for name, value in found.items():
                if name == "activation":
                    for neuron in TRACKED:
                        expected.setdefault((name, neuron, *place), []).append(float(value[neuron]))
                else:
                    expected.setdefault((name, None, *place), []).append(float(value))
    keys = list(profile.select("quantity", "neuron", "copy", "offset").iter_rows())
    assert sorted(keys, key=str) == sorted(expected, key=str)  # no place missing, none invented
    for key, row in zip(keys, profile.iter_rows(named=True), strict=True):
        assert row["n_sequences"] == len(expected[key])
        assert row["mean"] == pytest.approx(np.mean(expected[key]), rel=1e-5, abs=1e-6), key
        assert row["layer"] == (model.n_layers - 1 if row["quantity"] == "activation" else None)

    scores = score_frame(setup, measured, clusters, weights, 0.95, 0.1)
    norm = model.w_out(model.n_layers - 1).double().norm(dim=-1).numpy()
    compared = range(7 - 1) if kind == "synthetic" else [-1]
    for neuron in range(NEURONS):
        means = []
        for copy in (0, 1):
            here = [
                found["activation"][neuron]
                for row, values in enumerate(naive)
                for t, found in enumerate(values)
                if repeats.copy[row, t] == copy and repeats.offset[row, t] in compared
            ]
            assert len(here) == len(repeats) * len(compared)
            means.append(np.mean(here))
        row = scores.row(neuron, named=True)
        score = (means[1] - means[0]) * norm[neuron]
        assert row["neuron"] == neuron
        assert row["mean_first"] == pytest.approx(means[0], rel=1e-7, abs=1e-9)
        assert row["mean_second"] == pytest.approx(means[1], rel=1e-7, abs=1e-9)
        assert row["score"] == pytest.approx(score, rel=1e-7, abs=1e-9)
        assert row["norm"] == pytest.approx(norm[neuron])
        assert (row["direction"], row["moves"]) == (1 if score >= 0 else -1, abs(score) > 0.1)
        assert row["mean_text"] == pytest.approx(-1 + 2 * neuron / (NEURONS - 1))


def test_the_last_position_has_neither_loss_nor_a_correct_prediction(tiny_model: Callable[..., Model]) -> None:
    """METHODS A defect 5: it entered the averages with a loss of zero and rank zero, a false 'correct'."""
    repeats = synthetic(length=4)
    setup = setup_of(tiny_model("gpt2"))
    compared = compared_places(repeats, "synthetic")
    measured = measure(setup, repeats, compared, TRACKED, batch_size=16, tokens_per_chunk=128)
    last = [place.tolist() for place in measured.places].index([1, 3])
    for name, values in measured.quantities.items():
        assert np.isnan(values[:, last]).all() == (name in ("loss", "correct"))
        assert not np.isnan(np.delete(values, last, axis=1)).any()
    profile = profile_frame(measured, 1, repeats.clusters(), bootstrap_weights(3, 10, 0), 0.95)
    there = profile.filter((pl.col("copy") == 1) & (pl.col("offset") == 3))
    assert set(there["quantity"]) == {"entropy", "norm_scale", "activation"}
    # In the first copy the same place has a next token, the separator.
    assert set(profile.filter((pl.col("copy") == 0) & (pl.col("offset") == 3))["quantity"]) >= {"loss", "correct"}


def test_scores_compare_the_first_copy_with_the_last(tiny_model: Callable[..., Model]) -> None:
    repeats = synthetic(copies=3, length=5)
    compared = compared_places(repeats, "synthetic")
    # BOS, five tokens, separator, five, separator, five: offsets 0 to 3 of copies 0 and 2.
    assert np.flatnonzero(compared[0]).tolist() == [1, 2, 3, 4, 13, 14, 15, 16]
    setup = setup_of(tiny_model("llama"))
    measured = measure(setup, repeats, compared, (), batch_size=3, tokens_per_chunk=4)
    assert measured.activations.shape == (0, 5, 15)
    acts = setup.model.activations(torch.from_numpy(repeats.tokens), [1])[1].double().numpy()
    np.testing.assert_allclose(measured.first, acts[:, 1:5].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(measured.second, acts[:, 13:17].mean(1), rtol=1e-5, atol=1e-6)


def test_results_do_not_depend_on_batches_and_chunks(tiny_model: Callable[..., Model]) -> None:
    repeats, setup = natural(), setup_of(tiny_model("gpt_neox", "float64"))
    compared = compared_places(repeats, "natural")
    a = measure(setup, repeats, compared, TRACKED, batch_size=1, tokens_per_chunk=1)
    b = measure(setup, repeats, compared, TRACKED, batch_size=4, tokens_per_chunk=1000)
    for name in a.quantities:
        np.testing.assert_allclose(a.quantities[name], b.quantities[name], rtol=1e-9)
    np.testing.assert_allclose(a.activations, b.activations, rtol=1e-6)
    np.testing.assert_allclose(a.second, b.second, rtol=1e-9, atol=1e-12)


def test_intervals_resample_documents() -> None:
    """Against a loop over resamples; a place that some sequences lack has its own n."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(9, 3))
    values[[1, 4, 8], 1] = np.nan
    values[:, 2] = np.nan
    clusters = np.array([0, 0, 1, 1, 1, 2, 3, 4, 4])
    weights = bootstrap_weights(5, 400, 7)
    places = np.array([[0, -1], [0, 0], [1, 0]])
    frame = place_means(values, places, clusters, weights, 0.9)
    assert frame.select("copy", "offset").rows() == [(0, -1), (0, 0)]  # a place without a value has no row
    assert frame["n_sequences"].to_list() == [9, 6]
    for column in range(2):
        means = []
        for weight in weights:
            drawn = [
                value
                for value, cluster in zip(values[:, column], clusters, strict=True)
                for _ in range(int(weight[cluster]))
                if not np.isnan(value)
            ]
            means.append(np.mean(drawn) if drawn else np.nan)
        low, high = np.nanquantile(means, [0.05, 0.95])
        assert frame["mean"][column] == pytest.approx(np.nanmean(values[:, column]))
        assert frame["mean_low"][column] == pytest.approx(low)
        assert frame["mean_high"][column] == pytest.approx(high)


def test_score_intervals_resample_documents(tiny_model: Callable[..., Model]) -> None:
    setup = setup_of(tiny_model("gpt2"))
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 6, NEURONS))
    second += 1
    measured = Measured(np.zeros((0, 2), int), (), np.zeros((0, 6, 0)), {}, first, second)
    clusters = np.array([0, 1, 1, 2, 2, 2])
    weights = bootstrap_weights(3, 200, 0)
    scores = score_frame(setup, measured, clusters, weights, 0.95, 1.0)
    norm = setup.last.w.double().norm(dim=-1).numpy()
    for neuron in (0, 17):
        change = (second - first)[:, neuron] * norm[neuron]
        means = [np.average(change, weights=weight[clusters]) for weight in weights]
        assert scores["score"][neuron] == pytest.approx(change.mean())
        assert scores["score_low"][neuron] == pytest.approx(np.quantile(means, 0.025))
        assert scores["score_high"][neuron] == pytest.approx(np.quantile(means, 0.975))
    assert scores["moves"].to_list() == (scores["score"].abs() > 1.0).to_list()


def test_the_share_of_continuations() -> None:
    repeats = natural()
    row = continues_frame(repeats, repeats.clusters(), bootstrap_weights(3, 20, 0), 0.95).row(0, named=True)
    assert (row["quantity"], row["copy"], row["offset"], row["n_sequences"]) == ("continues", 1, -1, 4)
    assert row["mean"] == 0.5


def write_repeats(repeats: Repeats, path: Path) -> Path:
    lists = {name: getattr(repeats, name).tolist() for name in ("tokens", "copy", "offset")}
    frame = pl.DataFrame(
        {"sequence": range(len(repeats)), "document": repeats.document, "continues": repeats.continues, **lists}
    )
    write_table(frame, path, "repeats")
    return path


@pytest.fixture(scope="module")
def inputs(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AblationInputs:
    folder = tmp_path_factory.mktemp("induction")
    write_text(folder)
    common = {
        "model": ModelSpec("tiny", "directory", path=str(tiny_directories["gpt2"]), device="cpu"),
        "tokens": folder / "tokens.parquet",
        "counts": folder / "counts.parquet",
        "statistics": folder / "statistics.parquet",
    }
    measure_activations(**common, baseline=folder / "baseline.parquet", layers=[-1], batch_size=4)
    return AblationInputs(**common, batch_size=2, tokens_per_chunk=7)


def selection_table(path: Path, neurons: dict[str, list[int]]) -> Path:
    frame = pl.DataFrame(
        [
            {
                "set": name,
                "kind": "uniform" if "/" in name else "selection",
                "rule": "explicit",
                "control_of": name.split("/")[0] if "/" in name else None,
                "layer": 0 if name == "elsewhere" else 1,
                "neuron": neuron,
                "rank": rank,
                "matched": None,
                "norm_ratio": None,
            }
            for name, members in neurons.items()
            for rank, neuron in enumerate(members)
        ],
        infer_schema_length=None,
    )
    write_table(frame, path, "selection")
    return path


def test_the_rule_writes_both_tables(inputs: AblationInputs, tmp_path: Path) -> None:
    sets = {"entropy": [5, 2], "entropy/uniform_000": [7, 2], "elsewhere": [30]}
    paths = {
        "selection": [selection_table(tmp_path / "selection.parquet", sets)],
        "profile": tmp_path / "profile.parquet",
        "scores": tmp_path / "scores.parquet",
    }
    repeats = write_repeats(natural(), tmp_path / "repeats.parquet")
    before: list[bytes] = []
    for _ in range(2):
        measure_induction(inputs=inputs, repeats=repeats, kind="natural", resamples=30, **paths)
        written = [paths[name].read_bytes() for name in ("profile", "scores")]
        assert before in ([], written)  # the same inputs give the same bytes
        before = written
    profile = read_table(paths["profile"], "induction_profile")
    assert set(profile["quantity"]) == {"activation", "entropy", "loss", "norm_scale", "correct", "continues"}
    assert profile["neuron"].drop_nulls().unique().sort().to_list() == [2, 5, 7]
    scores = read_table(paths["scores"], "induction_scores")
    statistics = read_table(inputs.statistics, "activation_statistics").sort("neuron")
    assert scores["neuron"].to_list() == list(range(NEURONS))
    np.testing.assert_allclose(scores["mean_text"], statistics["mean"])
    # One document: means without an interval.
    alone = replace(natural(), document=np.full(4, 6))
    repeats = write_repeats(alone, tmp_path / "alone.parquet")
    measure_induction(inputs=inputs, repeats=repeats, kind="natural", resamples=30, **paths)
    alone_scores = read_table(paths["scores"], "induction_scores")
    np.testing.assert_allclose(alone_scores["score"], scores["score"], rtol=1e-9)
    assert alone_scores["score_low"].null_count() == NEURONS


def test_no_repetition_gives_empty_tables(
    inputs: AblationInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(empty_table(), tmp_path / "repeats.parquet", "repeats")
    paths = {name: tmp_path / f"{name}.parquet" for name in ("profile", "scores")}
    # Not even the model is loaded.
    nowhere = replace(inputs, model=ModelSpec("gone", "directory", path=str(tmp_path / "gone")))
    measure_induction(inputs=nowhere, selection=[], repeats=tmp_path / "repeats.parquet", kind="natural", **paths)
    assert len(read_table(paths["profile"], "induction_profile")) == 0
    assert len(read_table(paths["scores"], "induction_scores")) == 0
    assert "holds no sequence" in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused(inputs: AblationInputs, tmp_path: Path) -> None:
    with pytest.raises(InductionError, match="no kind of repetition 'made'; it must be one of synthetic, natural"):
        measure_induction(inputs=inputs, selection=[], repeats="", kind="made", profile="", scores="")
    once = replace(synthetic(), copy=np.where(synthetic().copy == 1, -1, synthetic().copy))
    with pytest.raises(InductionError, match="make them again"):
        compared_places(once, "synthetic")
    with pytest.raises(InductionError, match="make them again"):
        compared_places(synthetic(), "natural")
