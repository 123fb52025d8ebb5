"""Token-frequency neurons: the test against oracles and planted cases, and the rule end to end on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import published_models
from neuronlab.ablation import LastLayer, Tokens
from neuronlab.ablation_shards import ablate_neurons
from neuronlab.activations import measure_activations
from neuronlab.direction_test import p_values
from neuronlab.document_halves import HalvesError, documents_of, parts_of, read_sums, split_documents
from neuronlab.final_states import AblationInputs
from neuronlab.frequency_cosine import measure_frequency_cosine
from neuronlab.frozen_directions import Sample, draw_directions, draw_tokens, frozen_effects, gather
from neuronlab.kernels.interface import Reference
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.random_directions import RowSpace
from neuronlab.readout import fold
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import mediated_fraction
from neuronlab.tables import read_provenance, read_table, write_table
from neuronlab.token_frequency import (
    TokenFrequencyError,
    choose_candidates,
    mark_selected,
    select_token_frequency,
    selection_table,
)
from text_files import REAL, VOCAB, write_text


@dataclass(frozen=True)
class Run:
    """Inputs of the rule in a folder."""

    folder: Path
    inputs: AblationInputs

    def select(self, name: str, **options: object) -> dict[str, pl.DataFrame]:
        out = self.folder / name
        options = {"shards": [self.folder / "shard.parquet"]} | {"inputs": self.inputs} | options
        select_token_frequency(
            frequency_cosine=self.folder / "cosine.parquet",
            neurons=self.folder / "neurons.parquet",
            weights_selection=options.pop("weights_selection", self.folder / "weights.parquet"),
            token_frequency=out / "token_frequency.parquet",
            random_directions=out / "random_directions.parquet",
            selection=out / "selection.parquet",
            **{"candidates": 12, "directions": 19, "tokens": 20, "resamples": 50} | options,
        )
        return {table: read_table(out / f"{table}.parquet", table) for table in OUTPUTS}


OUTPUTS = ("token_frequency", "random_directions", "selection")


def weights_table(neurons: list[int]) -> pl.DataFrame:
    rows = {"set": "entropy", "kind": "selection", "rule": "explicit", "control_of": None, "layer": 1}
    frame = pl.DataFrame([rows | {"neuron": n, "rank": i} for i, n in enumerate(neurons)])
    return frame.with_columns(matched=pl.lit(None), norm_ratio=pl.lit(None))


def make_run(folder: Path, directory: Path) -> Run:
    """Tables of a tiny model: text, statistics, shard, cosines, norms, a selection by weights."""
    write_text(folder)
    spec = ModelSpec("tiny", "directory", path=str(directory), device="cpu")
    files = {"tokens": folder / "tokens.parquet", "counts": folder / "counts.parquet"}
    statistics = folder / "statistics.parquet"
    measure_activations(
        model=spec, **files, statistics=statistics, baseline=folder / "baseline.parquet", layers=[-1], batch_size=4
    )
    inputs = AblationInputs(spec, **files, statistics=statistics, replacements=("zero", "mean"), kernel="torch")
    ablate_neurons(inputs=inputs, output=folder / "shard.parquet")
    measure_frequency_cosine(model=spec, counts=files["counts"], output=folder / "cosine.parquet")
    norms = np.random.default_rng(0).uniform(1, 2, 96)
    columns = {name: np.zeros(96) for name in SCHEMAS["neurons"]} | {"norm": norms}
    columns |= {"layer": np.repeat([0, 1], 48), "neuron": np.tile(np.arange(48), 2)}
    write_table(pl.DataFrame(columns), folder / "neurons.parquet", "neurons")
    write_table(weights_table([3, 7]), folder / "weights.parquet", "selection")
    return Run(
        folder,
        AblationInputs(spec, statistics=statistics, replacements=("mean", "zero"), kernel="torch", **files, seed=5),
    )


@pytest.fixture(scope="module")
def run(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("token_frequency"), tiny_directories["gpt2"])


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_frozen_directions_by_whole_forward_passes(
    architecture: str,
    tiny_directories: dict[str, Path],
    tiny_model: Callable[..., Model],
    tmp_path: Path,
) -> None:
    """Variance, total and frozen effects of every neuron and direction from hooked passes and full softmaxes alone.

    Gemma-2 has a norm after the MLP and a softcap: projections there are those of the capped logits.
    """
    write_text(tmp_path)
    files = {"tokens": tmp_path / "tokens.parquet", "counts": tmp_path / "counts.parquet"}
    spec = ModelSpec("tiny", "directory", path=str(tiny_directories[architecture]), device="cpu")
    statistics = tmp_path / "statistics.parquet"
    measure_activations(
        model=spec, **files, statistics=statistics, baseline=tmp_path / "baseline.parquet", layers=[-1], batch_size=4
    )
    setup = AblationInputs(spec, statistics=statistics, **files).set_up()
    documents, neurons, n_random = np.array([0, 3]), [5, 40, 11], 3
    wanted = draw_tokens(setup.text, documents, 25, np.random.default_rng(0))
    assert wanted.sum() == 25
    assert set(setup.text.documents[wanted].tolist()) == {0, 3}
    assert setup.text.counted[wanted].all()
    (sample,) = gather(setup, [wanted], neurons, batch_size=2)
    space = RowSpace.of(setup.last.readout, setup.last.readout.real)
    frozen = draw_directions(setup.last, space, sample, n_random, np.random.default_rng(1), tokens_per_chunk=7)
    directions = frozen.directions.numpy()
    found = {
        outcome: frozen_effects(setup.last, neurons, sample, frozen.directions, outcome, tokens_per_chunk=7)
        for outcome in ("loss", "entropy", "kl")
    }

    model = tiny_model(architecture, "float64")
    ids = torch.from_numpy(setup.text.tokens)
    sequence, position = np.nonzero(wanted)
    targets = setup.text.tokens[sequence, position + 1]
    clean = model.logits(ids).double().numpy()[sequence, position]
    counts = pl.read_parquet(files["counts"])["count"].to_numpy() + 1.0
    q = counts / counts.sum()
    g = np.where(np.arange(VOCAB) < REAL, np.log(q) - np.log(q[:REAL]).mean(), 0)
    np.testing.assert_allclose(directions[0], g / np.linalg.norm(g), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose((clean @ directions.T).var(0), (clean @ directions[0]).var(), rtol=1e-4)
    np.testing.assert_allclose(frozen.variance, (clean @ directions.T).var(0), rtol=1e-4)
    np.testing.assert_allclose(frozen.cosine, directions @ directions[0], atol=1e-12)
    assert not directions[:, REAL:].any()

    def outcomes(logits: np.ndarray) -> dict[str, np.ndarray]:
        lp = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        lp -= logits.max(1, keepdims=True)
        return {
            "loss": -lp[np.arange(len(lp)), targets],
            "entropy": -(np.exp(lp) * lp).sum(1),
            "kl": (q * (np.log(q) - lp)).sum(1),
        }

    before = outcomes(clean)
    counted = torch.from_numpy(setup.text.counted)
    for j, neuron in enumerate(neurons):
        value = float(model.activations(ids, [1])[1][..., neuron][counted].mean())
        changed = model.logits(ids, (1, neuron, torch.full(ids.shape, value, dtype=torch.float64)))
        after = changed.double().numpy()[sequence, position]
        for outcome, (total, direct) in found.items():
            expected = np.abs(outcomes(after)[outcome] - before[outcome]).mean()
            assert total[j] == pytest.approx(expected, abs=2e-6)
            for i, r in enumerate(directions):
                back = after + np.outer((clean - after) @ r, r)
                expected = np.abs(outcomes(back)[outcome] - before[outcome]).mean()
                assert direct[i, j] == pytest.approx(expected, abs=2e-6)


D, V = 24, 80


def toy(rng: np.random.Generator, neurons: int, tokens: int = 48) -> tuple[LastLayer, Sample, RowSpace, np.ndarray]:
    """A read-out, states and neurons that write random directions; the unigram direction lies in the row space.

    The mean residual is zero, as the null distribution matches the variance of a projection and not its mean.
    """
    W = torch.from_numpy(rng.standard_normal((D, V)))
    readout = fold(W, None, torch.ones(D, dtype=torch.float64), None, eps=1e-5, kind="RMS", dtype=torch.float64)
    space = RowSpace.of(readout, readout.real)
    coordinates = rng.standard_normal(D)
    coordinates /= np.linalg.norm(coordinates)
    g = space.vectors(torch.from_numpy(coordinates)[None])[0]
    last = LastLayer(
        layer=0,
        readout=readout,
        w=torch.from_numpy(rng.standard_normal((neurons, D)) / D**0.5),
        raw=torch.zeros(neurons, D, dtype=torch.float64),
        reference=Reference(torch.softmax(30 * g, 0), g / g.norm()),
        kernel="torch",
        dtype=torch.float64,
    )
    half = rng.standard_normal((tokens // 2, D))
    residual = torch.from_numpy(np.concatenate([half, -half]))
    delta = torch.from_numpy(rng.standard_normal((tokens, neurons)))
    targets = torch.from_numpy(rng.integers(0, V, tokens))
    return last, Sample(Tokens(residual, delta, targets), delta), space, coordinates


def statistics_of(
    last: LastLayer, sample: Sample, space: RowSpace, n: int, rng: np.random.Generator, outcome: str = "loss"
) -> np.ndarray:
    frozen = draw_directions(last, space, sample, n, rng, tokens_per_chunk=16)
    neurons = list(range(last.neurons))
    total, direct = frozen_effects(last, neurons, sample, frozen.directions, outcome, tokens_per_chunk=16)
    return mediated_fraction(np.broadcast_to(total, direct.shape), direct, 1e-9)


@pytest.mark.parametrize("outcome", ["loss", "entropy", "kl"])
def test_a_planted_neuron_is_found_and_a_random_one_is_not(outcome: str) -> None:
    rng = np.random.default_rng(7)
    last, sample, space, coordinates = toy(rng, 12)
    # What W turns into g, and a neuron that writes nothing that the final norm or the logits see of another kind.
    planted = (space.factor @ torch.from_numpy(coordinates)) * last.w.norm(dim=1).mean()
    planted /= planted.norm() / last.w.norm(dim=1).mean()
    last = replace(last, w=torch.cat([planted[None], last.w[1:]]))
    m = statistics_of(last, sample, space, 39, rng, outcome)
    single, family = p_values(m)
    assert m[0, 0] > 0.5
    assert single[0] == family[0] == 1 / 40
    if outcome != "kl":  # that change runs along g by its definition, for every neuron
        assert (family[1:] > 0.1).all()


def test_p_values_of_random_neurons_are_about_uniform() -> None:
    singles, families = [], []
    for seed in range(40):
        rng = np.random.default_rng([1, seed])
        last, sample, space, _ = toy(rng, 10)
        single, family = p_values(statistics_of(last, sample, space, 19, rng))
        singles.append(single)
        families.append(family.min())
    pooled = np.concatenate(singles)
    assert 0.44 < pooled.mean() < 0.60  # (1 + b)/(1 + n) of a uniform rank has mean 0.525
    assert 0.05 < (pooled <= 0.1).mean() < 0.16
    assert 0.18 < (pooled <= 0.25).mean() < 0.34
    # One false alarm or more among ten neurons in about a tenth of the runs, at level 0.1.
    assert (np.array(families) <= 0.1).mean() < 0.25


def test_p_values_by_hand() -> None:
    m = np.array([[0.5, 0.2, np.nan, 0.1], [0.1, 0.3, np.nan, 0.0], [0.2, 0.1, np.nan, 0.5], [0.0, 0.0, np.nan, 0.1]])
    single, family = p_values(m)
    np.testing.assert_allclose(single, [1 / 4, 2 / 4, np.nan, 3 / 4])
    np.testing.assert_allclose(family, [2 / 4, 3 / 4, np.nan, 4 / 4])
    assert all(np.isnan(p).all() for p in p_values(np.full((4, 3), np.nan)))


def test_candidates_need_a_defined_ratio() -> None:
    te_kl, m = np.array([0.1, 0.5, 0.4, 0.5]), np.array([0.0, np.nan, 0.3, 0.1])
    assert choose_candidates(te_kl, m, 2).tolist() == [3, 2]
    assert choose_candidates(te_kl, m, 9).tolist() == [3, 2, 0]
    assert choose_candidates(te_kl, np.full(4, np.nan), 9).tolist() == []


def test_documents_are_halved_without_overlap() -> None:
    documents = np.arange(3, 24, 2)
    first, second = split_documents(documents, 0)
    assert sorted([*first, *second]) == documents.tolist()
    assert (len(first), len(second)) == (6, 5)
    assert not np.array_equal(first, split_documents(documents, 1)[0])
    assert np.array_equal(first, split_documents(documents[::-1], 0)[0])
    with pytest.raises(HalvesError, match="use more of it"):
        split_documents(documents[:1], 0)


def test_the_rule_end_to_end(run: Run) -> None:
    made = run.select("whole", level=1.0, published=[2, 9])
    frame, directions, selection = (made[name] for name in OUTPUTS)
    found = documents_of([run.folder / "shard.parquet"], "mean", 1)
    first, second = split_documents(found, run.inputs.seed)
    shard = read_table(run.folder / "shard.parquet", "ablation_shard").filter(pl.col("replacement") == "mean")
    for documents, kl, m in ((first, "te_kl", "m_freq"), (second, "te_kl_report", "m_freq_report")):
        half = (
            shard.filter(pl.col("document").is_in(documents.tolist()))
            .drop("replacement")
            .group_by("neuron")
            .sum()
            .sort("neuron")
        )
        np.testing.assert_allclose(frame[kl], half["kl_total_abs"] / half["n_tokens"], rtol=1e-12)
        np.testing.assert_allclose(frame[m], 1 - half["loss_unigram_abs"] / half["loss_total_abs"], rtol=1e-9)
    assert frame["n_documents_selection"].unique().to_list() == [len(first)]
    assert frame["n_documents_report"].unique().to_list() == [len(second)]
    assert (frame["te_kl_report_low"] <= frame["te_kl_report_high"]).all()
    candidates = frame.filter("candidate")
    assert len(candidates) == 12
    assert candidates["te_kl"].min() >= frame.filter(~pl.col("candidate"))["te_kl"].max()
    assert frame.filter("published")["neuron"].to_list() == [2, 9]
    for name in ("m_null", "p_value_single", "p_value", "p_value_report"):
        assert candidates[name].null_count() == 0
        assert frame.filter(~pl.col("candidate"))[name].null_count() == 36
    assert (candidates["p_value"] >= candidates["p_value_single"]).all()
    chosen = frame.filter("selected")
    assert len(chosen) > 0
    assert set(chosen["neuron"]) <= set(candidates["neuron"])

    assert directions["direction"].to_list() == [*range(-1, 19)] * 2
    for half in ("selection", "report"):
        rows = directions.filter(half=half)
        assert rows["n_tokens"].unique().to_list() == [20]
        np.testing.assert_allclose(rows["variance"], rows["variance"][0], rtol=1e-6)
        assert rows["cosine"][0] == pytest.approx(1)
        assert rows["cosine"][1:].abs().max() < 1e-9
        assert (rows["m_mean"] <= rows["m_max"]).all()

    named = selection.filter(kind="selection")
    assert named["neuron"].to_list() == chosen.sort("te_kl", descending=True)["neuron"].to_list()
    assert set(named["set"]) == set(named["rule"]) == {"token_frequency"}
    controls = selection.filter(pl.col("kind") != "selection")
    assert set(controls["control_of"]) == {"token_frequency"}
    assert set(controls["kind"]) == {"uniform", "norm_matched"}
    taken = {3, 7, *named["neuron"]}
    assert not taken & set(controls["neuron"])
    for kind in ("uniform", "norm_matched"):
        assert controls.filter(kind=kind)["neuron"].is_unique().all()
    assert read_provenance(run.folder / "whole" / "token_frequency.parquet")["outcome"] == "loss"


def several_shards(run: Run, folder: Path, rng: np.random.Generator) -> list[Path]:
    """The shard's rows with noise in three files, most documents in two of them; one file is empty."""
    shard = read_table(run.folder / "shard.parquet", "ablation_shard")
    paths = [folder / f"shard{i}.parquet" for i in range(4)]
    for i, path in enumerate(paths):
        part = shard.filter(pl.col("document") != i)
        part = part.with_columns(pl.col("^.*_abs$") * pl.Series(rng.uniform(0.5, 2, len(part))))
        write_table(part if i < 3 else part.clear(), path, "ablation_shard")
    return paths


def test_some_neurons_at_a_time_give_the_same_bytes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("statistics", "document_halves"):
        monkeypatch.setattr(f"neuronlab.{module}.COLUMNS_PER_TILE", 8)
    shards = several_shards(run, tmp_path, np.random.default_rng(0))
    run.select("at_once", shards=shards)
    monkeypatch.setattr("neuronlab.document_halves.SUMS_AT_ONCE", 2 * 8 * 3 * 3 * 8)  # two tiles: 16 neurons
    assert parts_of(48, 3 * 3 * 8) == [slice(0, 16), slice(16, 32), slice(32, 48)]
    run.select("in_parts", shards=shards)
    for table in OUTPUTS:
        one, two = (run.folder / name / f"{table}.parquet" for name in ("at_once", "in_parts"))
        assert one.read_bytes() == two.read_bytes()


def test_sums_over_several_shards_by_hand(run: Run, tmp_path: Path) -> None:
    shards = several_shards(run, tmp_path, np.random.default_rng(1))
    documents = documents_of(shards, "zero", 1)
    assert documents.tolist() == [0, 1, 3]  # no token of document 2 counts
    rows: dict[tuple[int, int], list[float]] = {}
    tokens: dict[int, int] = {}
    for path in shards:
        for row in read_table(path, "ablation_shard").filter(replacement="zero").iter_rows(named=True):
            rows.setdefault((row["document"], row["neuron"]), []).append(row["entropy_unigram_abs"])
            if row["neuron"] == 0:
                tokens[row["document"]] = tokens.get(row["document"], 0) + row["n_tokens"]
    for part in (slice(None), slice(5, 20)):
        sums = read_sums(shards, "zero", 1, 48, documents, part=part, outcomes=["entropy"])
        assert set(sums.columns) == {"entropy_total_abs", "entropy_unigram_abs", "kl_total_abs"}
        assert sums.counts.tolist() == [tokens[d] for d in (0, 1, 3)]
        expected = [[math.fsum(rows[d, n]) for n in range(48)[part]] for d in (0, 1, 3)]
        np.testing.assert_allclose(sums.columns["entropy_unigram_abs"], expected, rtol=1e-14)
    # Rows in another order are the same sums.
    mixed = read_table(shards[0], "ablation_shard").sample(fraction=1, shuffle=True, seed=3)
    write_table(mixed, tmp_path / "mixed.parquet", "ablation_shard")
    again = read_sums([tmp_path / "mixed.parquet", *shards[1:]], "zero", 1, 48, documents, outcomes=["entropy"])
    np.testing.assert_array_equal(again.columns["kl_total_abs"][:, part], sums.columns["kl_total_abs"])


def test_same_seed_same_bytes_another_seed_other_halves(run: Run) -> None:
    for name in ("first", "second"):
        run.select(name, level=1.0, count=1)
    for table in OUTPUTS:
        one, two = (run.folder / name / f"{table}.parquet" for name in ("first", "second"))
        assert one.read_bytes() == two.read_bytes()
    first = read_table(run.folder / "first" / "token_frequency.parquet", "token_frequency")
    assert first["selected"].sum() <= 1
    other = run.select("third", inputs=replace(run.inputs, seed=6))["token_frequency"]
    assert not other["m_null"].equals(first["m_null"])


def test_nothing_selected_is_an_empty_table_and_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    made = run.select("none", level=0.01, outcome="kl", replacement="zero")
    assert not made["token_frequency"]["selected"].any()
    assert len(made["selection"]) == 0
    assert "no token-frequency neuron" in capsys.readouterr().err


def test_neurons_without_effects_leave_no_candidate(run: Run) -> None:
    made = run.select("floor", te_floor=1e3)
    frame = made["token_frequency"]
    assert not frame["candidate"].any()
    assert frame["m_freq"].null_count() == frame["m_freq_report"].null_count() == 48
    assert made["random_directions"]["m_max"].null_count() == 40
    assert len(made["selection"]) == 0


def test_a_softcap_and_a_norm_after_the_mlp(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    made = make_run(tmp_path, tiny_directories["gemma2"]).select("gemma", level=1.0)
    directions = made["random_directions"]
    for half in ("selection", "report"):
        variance = directions.filter(half=half)["variance"]
        np.testing.assert_allclose(variance, variance[0], rtol=1e-6)
    assert made["token_frequency"].filter("candidate")["p_value"].null_count() == 0


def test_bad_input_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TokenFrequencyError, match=r"token_frequency\.outcome is 'rank'"):
        run.select("bad", outcome="rank")
    taken = tmp_path / "taken.parquet"
    write_table(weights_table([1]).with_columns(set=pl.lit("token_frequency")), taken, "selection")
    with pytest.raises(TokenFrequencyError, match=r"selections\.token_frequency: the name is taken"):
        run.select("bad", weights_selection=taken)
    with pytest.raises(HalvesError, match="replacement 'median'"):
        run.select("bad", replacement="median")
    shard = read_table(run.folder / "shard.parquet", "ablation_shard")
    partial = tmp_path / "partial.parquet"
    write_table(shard.filter((pl.col("document") != 1) | (pl.col("neuron") < 9)), partial, "ablation_shard")
    with pytest.raises(HalvesError, match="every document: delete them"):
        run.select("bad", shards=[partial])


def test_a_text_of_one_document_gives_empty_tables(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = read_table(run.folder / "shard.parquet", "ablation_shard")
    write_table(shard.filter(document=0), tmp_path / "one.parquet", "ablation_shard")
    made = run.select("one", shards=[tmp_path / "one.parquet"])
    assert [len(table) for table in made.values()] == [0, 0, 0]
    assert "use a text of several documents" in capsys.readouterr().err


def chosen_frame(selected: list[int], n: int = 10) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "layer": np.zeros(n, dtype=np.int32),
            "neuron": np.arange(n, dtype=np.int32),
            "te_kl": np.arange(n, dtype=float),
        }
    )
    return frame.with_columns(selected=pl.col("neuron").is_in(selected))


def test_fewer_control_sets_where_the_layer_is_small() -> None:
    weights = pl.DataFrame({"layer": np.zeros(10, dtype=np.int32), "neuron": np.arange(10, dtype=np.int32)})
    weights = weights.with_columns(norm=pl.when(pl.col("neuron") == 9).then(0.0).otherwise(1.0))
    by_weights = weights_table([0, 1]).with_columns(layer=pl.lit(0)).cast({"layer": pl.Int32, "neuron": pl.Int32})
    table, notes = selection_table(chosen_frame([2, 3]), weights, by_weights, 0, 5, seed=0)
    # 10 neurons without 2 + 2 selected ones and a silent one: 5, which makes 2 sets of 2.
    assert sorted(table["set"].unique()) == [
        "token_frequency",
        *(f"token_frequency/{kind}_00{i}" for kind in ("norm_matched", "uniform") for i in (0, 1)),
    ]
    assert table.filter(kind="selection")["neuron"].to_list() == [3, 2]
    assert set(table.filter(pl.col("kind") != "selection")["neuron"]) <= {4, 5, 6, 7, 8}
    assert "2 control sets of each kind instead of 5" in notes[0]
    table, notes = selection_table(chosen_frame([2, 3, 4, 5, 6, 7]), weights, by_weights, 0, 5, seed=0)
    assert set(table["kind"]) == {"selection"}
    assert "0 control sets" in notes[0]


def test_selected_by_level_direction_and_count() -> None:
    frame = (
        chosen_frame([], 5)
        .drop("selected")
        .with_columns(
            candidate=pl.Series([True, True, True, True, False]),
            p_value=pl.Series([0.05, 0.05, 0.06, 0.01, None]),
            m_null=pl.Series([0.0, 0.0, 0.0, 0.2, None]),
        )
    )
    m = pl.Series([0.3, 0.3, 0.3, 0.1, None])
    assert mark_selected(frame, m, 0.05, None).filter("selected")["neuron"].to_list() == [0, 1]
    assert mark_selected(frame, m, 0.05, 1).filter("selected")["neuron"].to_list() == [1]
    assert mark_selected(frame, m, 0.001, 1)["selected"].sum() == 0


def test_published_neurons() -> None:
    assert published_models.frequency_neurons("pythia-410m") == [87, 417, 730, 2017, 2952, 3412]
    assert published_models.frequency_neurons("gpt2") == [2, 2214, 2361, 2362, 2408, 3033]
    assert published_models.frequency_neurons("demo") == []
    both = published_models.frequency_neurons("pythia-410m", ("main", "candidate"))
    assert len(both) == len(set(both)) == 21
    rows = pl.read_csv(published_models.FREQUENCY_NEURONS)
    known = published_models.published_models()
    assert set(rows["model"]) <= set(known)
    assert all(row["layer"] == known[row["model"]].n_layers - 1 for row in rows.iter_rows(named=True))
    assert rows["role"].is_in(["main", "candidate"]).all()
    assert rows.select("model", "layer", "neuron").is_unique().all()
