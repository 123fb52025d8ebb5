"""The rules of the ablation end to end, on a tiny model: shards, effects, traces, synthetic controls, bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import ablation_shards
from neuronlab.ablation import AblationError
from neuronlab.ablation_shards import ablate_neurons, sum_columns
from neuronlab.activations import measure_activations
from neuronlab.effects import EffectsError, effects_frame, summarize_effects
from neuronlab.final_states import AblationInputs
from neuronlab.kernels import brute_force
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.replacements import ReplacementError
from neuronlab.synthetic import ablate_synthetic
from neuronlab.tables import TableError, read_table, write_table
from neuronlab.traces import trace_neurons
from polars.testing import assert_frame_equal
from text_files import POSITIONS, counts_frame, write_text


@dataclass(frozen=True)
class Run:
    """Inputs of the rules in a folder, with the activation statistics made."""

    folder: Path
    spec: ModelSpec

    def common(self) -> dict:
        return {
            "model": self.spec,
            "tokens": self.folder / "tokens.parquet",
            "counts": self.folder / "counts.parquet",
            "statistics": self.folder / "statistics.parquet",
        }

    def inputs(self, **options: object) -> AblationInputs:
        return AblationInputs(**self.common() | options)

    def shard(self, name: str, *, shard: int = 0, shards: int = 1, **options: object) -> pl.DataFrame:
        path = self.folder / f"{name}.parquet"
        ablate_neurons(inputs=self.inputs(**options), output=path, shard=shard, shards=shards)
        return read_table(path, "ablation_shard")


@pytest.fixture(scope="module")
def run(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    write_text(folder)
    run = Run(folder, ModelSpec("tiny", "directory", path=str(tiny_directories["gpt2"]), device="cpu"))
    measure_activations(**run.common(), baseline=folder / "baseline.parquet", layers=[-1, 0], batch_size=4)
    return run


def test_shards_add_up_whatever_their_number_and_chunks(run: Run) -> None:
    options = {"replacements": ["mean", "resample", "position_mean", "mean+3sd"], "seed": 3}
    keys = ["replacement", "document", "layer", "neuron"]
    whole = run.shard("whole", **options)
    parts = pl.concat(
        run.shard(f"part{i}", shard=i, shards=4, tokens_per_chunk=5, neurons_per_tile=20, batch_size=1, **options)
        for i in range(4)
    )
    parts = parts.group_by(keys, maintain_order=True).sum().sort(keys)
    whole = whole.sort(keys)
    assert parts.select(keys).equals(whole.select(keys))
    for name in sum_columns():
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_a_defect_15_no_more_than_a_chunk_of_a_tile_is_computed_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number per (token, neuron) of the whole text was held in memory."""
    sizes, compute = [], ablation_shards.effects_of_chunk

    def noted(last: object, chunk: object, clean: object, lines: object, tile: slice, *more: object, **options: object):
        found = compute(last, chunk, clean, lines, tile, *more, **options)
        sizes.append(found.loss.shape[1:])
        return found

    monkeypatch.setattr(ablation_shards, "effects_of_chunk", noted)
    shard = run.shard("small", replacements=["zero"], tokens_per_chunk=5, neurons_per_tile=20, batch_size=1)
    tokens, neurons = np.array(sizes).T
    assert (tokens.max(), neurons.max()) == (5, 20)
    assert (tokens * neurons).sum() == shard["n_tokens"].sum()  # all of them, each once


def test_an_empty_shard_is_valid(run: Run) -> None:
    assert len(run.shard("empty", shard=6, shards=7)) == 0
    assert len(run.shard("uncounted", shard=4, shards=6)) == 0


def test_effects_by_hand(run: Run, tiny_model: Callable[..., Model]) -> None:
    """Means in effects.parquet from hooked forward passes alone, for one neuron."""
    run.shard("a", shard=0, shards=2, replacements=["mean"])
    run.shard("b", shard=1, shards=2, replacements=["mean"])
    path = run.folder / "effects.parquet"
    summarize_effects(shards=[run.folder / "a.parquet", run.folder / "b.parquet"], effects=path, resamples=200)
    effects = read_table(path, "effects")
    assert len(effects) == 48
    model = tiny_model("gpt2", "float64")
    text = read_table(run.folder / "tokens.parquet", "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), np.array(text["counted"].to_list())
    neuron = 11
    own = model.activations(ids, [1])[1][..., neuron]
    value = float(own[torch.from_numpy(counted)].mean())
    changes = {"loss": [], "entropy": [], "prediction": []}
    for sequence in np.flatnonzero(counted.any(1)):
        oracle = brute_force.forward_effects(
            model, 1, neuron, ids[sequence : sequence + 1], torch.full((1, POSITIONS), value, dtype=torch.float64)
        )
        where = counted[sequence, :-1]
        changes["loss"].append(oracle.loss[0, where, 0])
        changes["entropy"].append(oracle.entropy[0, where, 0])
        clean = model.logits(ids[sequence : sequence + 1])[0, :-1].argmax(-1).numpy()
        changes["prediction"].append((oracle.prediction[0, :, 0] != clean)[where])
    row = effects.filter(pl.col("neuron") == neuron).row(0, named=True)
    assert row["n_tokens"] == counted.sum()
    assert row["n_documents"] == 3
    for outcome in ("loss", "entropy"):
        change = np.concatenate(changes[outcome])
        assert row[f"te_{outcome}"] == pytest.approx(np.abs(change).mean(), abs=2e-6)
        assert row[f"total_{outcome}"] == pytest.approx(change.mean(), abs=2e-6)
        assert row[f"m_{outcome}"] == pytest.approx(1 - row[f"de_{outcome}"] / row[f"te_{outcome}"], rel=1e-9)
        parts = row[f"direct_{outcome}"] + row[f"indirect_{outcome}"] + row[f"interaction_{outcome}"]
        assert row[f"total_{outcome}"] == pytest.approx(parts, abs=1e-12)
        assert row[f"te_{outcome}_low"] <= row[f"te_{outcome}"] <= row[f"te_{outcome}_high"]
    assert row["prediction_change"] == pytest.approx(np.concatenate(changes["prediction"]).mean())


def test_a_defect_6_columns_are_taken_by_name_whatever_their_order(run: Run) -> None:
    """They were aggregated by place in the frame."""
    sums = run.shard("ordered", replacements=["mean"])
    options = {"resamples": 50, "level": 0.9, "te_floor": 1e-6, "seed": 0}
    turned = effects_frame(sums.select(sums.columns[::-1]), **options)
    assert_frame_equal(turned, effects_frame(sums, **options), check_exact=True)


def test_effects_of_a_part_of_the_neurons_at_a_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [run.folder / f"{name}.parquet" for name in ("a", "b")]
    for number, path in enumerate(shards):
        run.shard(path.stem, shard=number, shards=2, replacements=["mean", "zero"])
    found = {}
    for name, at_once in (("whole", 2**32), ("parts", sum(path.stat().st_size for path in shards) / 4)):
        monkeypatch.setattr("neuronlab.effects.SUMS_AT_ONCE", at_once)
        summarize_effects(shards=shards, effects=run.folder / f"{name}.parquet", resamples=50)
        found[name] = read_table(run.folder / f"{name}.parquet", "effects")
    assert_frame_equal(found["parts"], found["whole"], rel_tol=1e-12)


def test_reruns_give_the_same_bytes(run: Run) -> None:
    for name in ("first", "second"):
        run.shard(name, replacements=["resample"], seed=1)
    assert (run.folder / "first.parquet").read_bytes() == (run.folder / "second.parquet").read_bytes()


def test_a_truncated_shard_is_named(run: Run) -> None:
    run.shard("good", replacements=["zero"])
    broken = run.folder / "broken.parquet"
    broken.write_bytes((run.folder / "good.parquet").read_bytes()[:-200])
    with pytest.raises(TableError, match=r"broken\.parquet.*delete it"):
        summarize_effects(shards=[run.folder / "good.parquet", broken], effects=run.folder / "no.parquet")
    assert not (run.folder / "no.parquet").exists()


def test_shards_that_hold_nothing(run: Run) -> None:
    run.shard("nothing", shard=6, shards=7)
    with pytest.raises(EffectsError, match="no shard holds a counted token"):
        summarize_effects(shards=[run.folder / "nothing.parquet"], effects=run.folder / "no.parquet")


def selection_table(folder: Path) -> Path:
    frame = pl.DataFrame(
        {
            "set": ["chosen", "chosen", "chosen", "chosen/uniform_000", "other"],
            "kind": ["selection", "selection", "selection", "uniform", "selection"],
            "rule": ["list"] * 5,
            "control_of": [None, None, None, "chosen", None],
            "layer": [1, 1, 0, 1, 1],
            "neuron": [11, 4, 9, 30, 31],
            "rank": [0, 1, 2, 0, 0],
            "matched": pl.Series([None] * 5, dtype=pl.Int32),
            "norm_ratio": pl.Series([None] * 5, dtype=pl.Float64),
        }
    )
    write_table(frame, folder / "selection.parquet", "selection")
    return folder / "selection.parquet"


def test_traces_agree_with_shards(run: Run) -> None:
    path = run.folder / "traces.parquet"
    inputs = run.inputs(replacements=["zero", "mean"], tokens_per_chunk=7)
    trace_neurons(inputs=inputs, selection=selection_table(run.folder), traces=path, sets=["chosen"])
    traces, shard = read_table(path, "traces"), run.shard("zero", replacements=["zero"])
    assert traces["neuron"].unique().sort().to_list() == [4, 11, 30]
    assert traces["replacement"].unique().to_list() == ["zero"]
    assert (traces["value"] == 0).all()
    summed = traces.group_by("document", "neuron").agg(pl.col("entropy_norm").sum(), n=pl.len())
    joined = summed.join(shard, on=["document", "neuron"], suffix="_shard")
    assert len(joined) == len(summed)
    np.testing.assert_allclose(joined["entropy_norm"], joined["entropy_norm_shard"], atol=1e-6)
    assert (joined["n"] == joined["n_tokens"]).all()
    baseline = read_table(run.folder / "baseline.parquet", "baseline")
    one = traces.filter(pl.col("neuron") == 4).join(baseline, on=["sequence", "position"], suffix="_baseline")
    for name in ("loss", "entropy", "rank", "prediction"):
        np.testing.assert_allclose(one[name], one[f"{name}_baseline"], atol=1e-9)


def test_synthetic_table(run: Run) -> None:
    path = run.folder / "synthetic.parquet"
    selection = selection_table(run.folder)
    for width in (2, 4096):
        inputs = run.inputs(neurons_per_tile=width)
        ablate_synthetic(inputs=inputs, selection=selection, synthetic=path, draws=2, resamples=100)
        frame = read_table(path, "synthetic")
        assert frame.select("neuron", "draw").rows() == [(n, d) for n in (4, 11, 31) for d in (0, 1)]
    shard = run.shard("own", replacements=["mean"]).filter(pl.col("neuron") == 11)
    own = shard["entropy_norm"].sum() / shard["n_tokens"].sum()
    found = frame.filter(pl.col("neuron") == 11)
    np.testing.assert_allclose(found["indirect_entropy"], own, atol=1e-6)
    assert (found["te_entropy"] > 0).all()
    ablate_synthetic(inputs=run.inputs(), selection=selection, synthetic=path, draws=0)
    assert len(read_table(path, "synthetic")) == 0


def test_counts_of_another_vocabulary_are_refused(run: Run, tmp_path: Path) -> None:
    write_table(counts_frame(150, 150), tmp_path / "counts.parquet", "token_counts")
    with pytest.raises(AblationError, match="another model"):
        run.inputs(counts=tmp_path / "counts.parquet").set_up()


def test_a_mistaken_replacement_costs_no_model_time(run: Run) -> None:
    inputs = run.inputs(model=replace(run.spec, path="/nowhere"), replacements=["average"])
    with pytest.raises(ReplacementError, match="'average' is no replacement"):
        inputs.set_up()
