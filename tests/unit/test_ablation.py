"""Closed form against the whole model, seven architectures; replacements; synthetic controls; the rules end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab.ablation import (
    AblationError,
    LastLayer,
    Tokens,
    choose_kernel,
    clean_of,
    coefficients,
    directions_of,
    effects_of_chunk,
    run_kernel,
)
from neuronlab.ablation_shards import ablate_neurons, sum_columns
from neuronlab.activations import measure_activations
from neuronlab.effects import EffectsError, summarize_effects
from neuronlab.final_states import last_layer, set_up
from neuronlab.frequencies import CountsError
from neuronlab.kernels import brute_force
from neuronlab.kernels.interface import Effects, directions
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.replacements import (
    ActivationStatistics,
    ReplacementError,
    draw_donors,
    parse_replacement,
    parse_replacements,
)
from neuronlab.schemas import OUTCOMES, VARIANTS
from neuronlab.synthetic import ablate_synthetic, random_directions, synthetic_coefficients
from neuronlab.tables import TableError, read_table, write_table
from neuronlab.traces import trace_neurons
from text_files import POSITIONS, counts_frame, token_ids, write_text

NAMES = list(VARIANTS)
TinyModel = Callable[..., Model]


def some_tokens() -> torch.Tensor:
    return torch.from_numpy(token_ids(sequences=1))


@dataclass(frozen=True)
class State:
    """A model's last layer, with every position but the last of one sequence."""

    model: Model
    last: LastLayer
    ids: torch.Tensor
    tokens: Tokens


def state_of(model: Model, dtype: torch.dtype, kernel: str) -> State:
    last = last_layer(model, counts_frame(), include_padded=False, kernel=kernel)
    ids = some_tokens()
    final = model.run(ids)
    mlp = None if final.mlp_out is None else final.mlp_out[0, :-1]
    tokens = Tokens(final.residual[0, :-1], final.activations[0, :-1], ids[0, 1:], mlp)
    return State(model, replace(last, dtype=dtype), ids, tokens)


def closed_form(state: State, neurons: list[int], delta: torch.Tensor) -> Effects:
    last, tokens = state.last, state.tokens
    return effects_of_chunk(last, tokens, clean_of(last, tokens), directions_of(last, neurons), neurons, delta)


def check(value: np.ndarray, oracle: np.ndarray, scale: float = 1.0) -> None:
    error, tolerance = np.abs(value - oracle), scale * (1e-6 + 1e-5 * np.abs(oracle))
    assert (error <= tolerance).all(), f"{(error / tolerance).max()} of the tolerance"


@pytest.mark.parametrize(
    ("kernel", "dtype", "scale"),
    [("torch", torch.float64, 1e-5), ("torch", torch.float32, 1), ("auto", torch.float32, 1)],
)
def test_closed_form_equals_the_whole_model(
    tiny_model: TinyModel, architecture: str, kernel: str, dtype: torch.dtype, scale: float
) -> None:
    """Against hooked forward passes in float64: total effect and frozen projection, small and large replacements."""
    state = state_of(tiny_model(architecture, "float64"), dtype, kernel)
    layer, neurons = state.last.layer, [0, 7, 47]
    for value in (0.0, 30.0):
        got = closed_form(state, neurons, value - state.tokens.activations[:, neurons])
        for column, neuron in enumerate(neurons):
            values = torch.full((1, POSITIONS), value, dtype=torch.float64)
            oracle = brute_force.forward_effects(
                state.model, layer, neuron, state.ids, values, reference=state.last.reference
            )
            for row, name in enumerate(("total", "unigram")):
                for outcome in OUTCOMES:
                    check(
                        getattr(got, outcome)[NAMES.index(name), :, column], getattr(oracle, outcome)[row, :, 0], scale
                    )
            if dtype == torch.float64:
                assert np.array_equal(got.rank[0, :, column], oracle.rank[0, :, 0])
            assert np.array_equal(got.prediction[0, :, column], oracle.prediction[0, :, 0])
        assert np.abs(got.loss).max() > (1e-3 if value == 0 else 1e-1)


@pytest.mark.parametrize("freeze_post_norm", [False, True])
def test_all_variants_equal_the_readout_oracle(
    tiny_model: TinyModel, architecture: str, freeze_post_norm: bool
) -> None:
    state = state_of(tiny_model(architecture, "float64"), torch.float64, "torch")
    last, tokens = state.last, state.tokens
    neurons = list(range(10))
    delta = 3 - tokens.activations[:, neurons]
    factors = coefficients(
        last.readout,
        tokens.residual,
        last.w[neurons],
        delta,
        raw=last.raw[neurons],
        mlp=tokens.mlp,
        freeze_post_norm=freeze_post_norm,
    )
    got = run_kernel(last, clean_of(last, tokens), directions_of(last, neurons), factors)
    for t in range(0, len(tokens), 5):
        oracle = brute_force.pair_effects(
            last.readout,
            tokens.residual[t].expand(10, -1),
            last.raw[neurons],
            delta[t],
            tokens.targets[t].expand(10),
            reference=last.reference,
            mlp=None if tokens.mlp is None else tokens.mlp[t].expand(10, -1),
            freeze_post_norm=freeze_post_norm,
        )
        for outcome in OUTCOMES:
            check(getattr(got, outcome)[:, t], getattr(oracle, outcome)[..., 0], 1e-5)


def test_both_direct_effects_of_a_post_norm_differ(tiny_model: TinyModel) -> None:
    state = state_of(tiny_model("gemma2", "float64"), torch.float64, "torch")
    delta = 3 - state.tokens.activations[:, :5]
    one, both = (
        coefficients(
            state.last.readout,
            state.tokens.residual,
            state.last.w[:5],
            delta,
            raw=state.last.raw[:5],
            mlp=state.tokens.mlp,
            freeze_post_norm=freeze,
        )
        for freeze in (False, True)
    )
    assert (one.B[1] - both.B[1]).abs().max() > 1e-3
    assert torch.equal(one.B[0], both.B[0])


def test_brute_force_is_a_kernel_too(tiny_model: TinyModel, architecture: str) -> None:
    state = state_of(tiny_model(architecture, "float64"), torch.float64, "torch")
    delta = 2 - state.tokens.activations[:, :4]
    fast = closed_form(state, [0, 1, 2, 3], delta)
    slow = closed_form(replace(state, last=replace(state.last, kernel="brute_force")), [0, 1, 2, 3], delta)
    for name in ("loss", "entropy", "kl"):
        check(getattr(fast, name), getattr(slow, name), 1e-5)
    assert np.array_equal(fast.rank, slow.rank)
    assert np.array_equal(fast.prediction, slow.prediction)


def test_kernel_choice(tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    plain, capped = tiny_model("gpt2").readout(), tiny_model("gemma2").readout()
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    capsys.readouterr()
    assert choose_kernel("auto", plain, cpu) == "numba"
    assert not capsys.readouterr().err
    assert choose_kernel("auto", plain, cuda) == "torch"
    assert choose_kernel("auto", capped, cpu) == "torch"
    assert "softcap" in capsys.readouterr().err
    assert choose_kernel("numba", plain, cuda) == "torch"
    assert "device cuda" in capsys.readouterr().err
    with pytest.raises(AblationError, match=r"compute\.kernel is 'fast'"):
        choose_kernel("fast", plain, cpu)


# Replacements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("mean", "mean", 0), ("zero", "constant", 0), ("median", "median", 0), ("mode", "mode", 0), ("min", "min", 0),
        ("max", "max", 0), ("mean-3sd", "deviations", -3), ("mean+0.5sd", "deviations", 0.5),
        ("constant:1.5", "constant", 1.5), ("constant:-2e-3", "constant", -2e-3), ("position_mean", "position_mean", 0),
        ("resample", "resample", 0),
    ],
)  # fmt: skip
def test_parsing(name: str, kind: str, number: float) -> None:
    parsed = parse_replacement(name)
    assert (parsed.name, parsed.kind, parsed.number) == (name, kind, number)


@pytest.mark.parametrize(
    "name", ["", "Mean", "mean 3sd", "mean-sd", "mean*2sd", "constant", "constant:x", "constant:nan"]
)
def test_what_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(ReplacementError, match=r"ablation\.replacements"):
        parse_replacement(name)


def test_lists_of_replacements() -> None:
    with pytest.raises(ReplacementError, match="empty"):
        parse_replacements([])
    with pytest.raises(ReplacementError, match="twice"):
        parse_replacements(["mean", "mean"])


def test_values() -> None:
    statistics = ActivationStatistics(
        mean=np.array([1.0, 2.0]), sd=np.array([1.0, 0.1]), median=np.array([0.5, 2.0]), mode=np.array([0.0, 2.1]),
        min=np.array([-1.0, 1.8]), max=np.array([5.0, 2.2]), position_means=np.array([[np.nan, 3.0], [np.nan, 4.0]]),
    )  # fmt: skip

    def values(name: str, donated: np.ndarray | None = None) -> list:
        return statistics.values(parse_replacement(name), np.array([1]), donated)[0].tolist()

    assert values("mean") == [1, 2]
    assert values("zero") == [0, 0]
    assert values("mode") == [0, 2.1]
    assert values("mean-3sd") == [-1, 1.8]  # both clipped to the observed range
    assert values("mean+2sd") == pytest.approx([3, 2.2])
    assert values("constant:7") == [7, 7]  # a constant is what it says, observed or not
    assert values("position_mean") == [3, 4]
    assert values("resample", np.array([[8.0, 9.0]])) == [8, 9]
    with pytest.raises(ReplacementError, match="position has no mean"):
        statistics.values(parse_replacement("position_mean"), np.array([0]))
    with pytest.raises(ReplacementError, match="donor"):
        values("resample")


@pytest.mark.parametrize("sequences", [1, 2, 7])
def test_donors_are_other_counted_positions(sequences: int) -> None:
    counted = np.random.default_rng(1).random((sequences, 30)) < 0.5
    if sequences == 7:
        counted[3] = False
    donors = draw_donors(counted, seed=5)
    for s, t in zip(*np.nonzero(counted), strict=True):
        other = donors.sequence[s], donors.position[s, t]
        assert counted[other]
        assert other != (s, t)
    again = draw_donors(counted, seed=5)
    assert np.array_equal(again.position, donors.position)
    assert not np.array_equal(draw_donors(counted, seed=6).position, donors.position)


# Synthetic controls -------------------------------------------------------------------------------------------------


def test_synthetic_directions(tiny_model: TinyModel, architecture: str) -> None:
    """Built explicitly: same norm, same product with the residual, same norm effect; effects as by brute force."""
    state = state_of(tiny_model(architecture, "float64"), torch.float64, "torch")
    last, tokens = state.last, state.tokens
    if tokens.mlp is not None:
        pytest.skip("a norm after the MLP moves as for the neuron's own direction: there is no residual to build")
    neurons, draws = [2, 5], 3
    repeated = [n for n in neurons for _ in range(draws)]
    r = random_directions(last.readout, neurons, draws, seed=1)
    delta = 2.5 - tokens.activations[:, repeated]
    own = coefficients(last.readout, tokens.residual, last.w[repeated], delta)
    factors = synthetic_coefficients(last.readout, tokens.residual, last.w[repeated], r, own)
    lines = directions(last.readout, r, reference=last.reference, dtype=torch.float64)
    got = run_kernel(last, clean_of(last, tokens), lines, factors)
    neuron_own = closed_form(state, repeated, delta)

    x, w = last.readout.centre(tokens.residual), last.w[repeated]
    for t in range(0, len(tokens), 6):
        unit = x[t] / x[t].norm()
        part = r - (r @ unit)[:, None] * unit
        along = (w @ unit)[:, None] * unit
        made = along + part / part.norm(dim=-1, keepdim=True) * (w - along).norm(dim=-1, keepdim=True)
        torch.testing.assert_close(made.norm(dim=-1), w.norm(dim=-1))
        torch.testing.assert_close(made @ x[t], w @ x[t])
        oracle = brute_force.pair_effects(
            last.readout,
            tokens.residual[t].expand(6, -1),
            made,
            delta[t],
            tokens.targets[t].expand(6),
            reference=last.reference,
        )
        for outcome in OUTCOMES:
            check(getattr(got, outcome)[:, t], getattr(oracle, outcome)[..., 0], 1e-5)
    np.testing.assert_allclose(got.entropy[NAMES.index("norm")], neuron_own.entropy[NAMES.index("norm")], atol=1e-12)
    assert not np.allclose(got.entropy[NAMES.index("direct")], neuron_own.entropy[NAMES.index("direct")], atol=1e-6)


# The rules end to end -----------------------------------------------------------------------------------------------


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

    def shard(self, name: str, **options: object) -> pl.DataFrame:
        path = self.folder / f"{name}.parquet"
        ablate_neurons(**self.common(), output=path, **options)
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


def test_an_empty_shard_is_valid(run: Run) -> None:
    assert len(run.shard("empty", shard=6, shards=7)) == 0
    assert len(run.shard("uncounted", shard=4, shards=6)) == 0


def test_effects_by_hand(run: Run, tiny_model: TinyModel) -> None:
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
    trace_neurons(
        **run.common(), selection=selection_table(run.folder), traces=path, replacements=["zero", "mean"],
        sets=["chosen"], tokens_per_chunk=7,
    )  # fmt: skip
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
        ablate_synthetic(
            **run.common(), selection=selection, synthetic=path, draws=2, resamples=100, neurons_per_tile=width
        )
        frame = read_table(path, "synthetic")
        assert frame.select("neuron", "draw").rows() == [(n, d) for n in (4, 11, 31) for d in (0, 1)]
    shard = run.shard("own", replacements=["mean"]).filter(pl.col("neuron") == 11)
    own = shard["entropy_norm"].sum() / shard["n_tokens"].sum()
    found = frame.filter(pl.col("neuron") == 11)
    np.testing.assert_allclose(found["indirect_entropy"], own, atol=1e-6)
    assert (found["te_entropy"] > 0).all()
    ablate_synthetic(**run.common(), selection=selection, synthetic=path, draws=0)
    assert len(read_table(path, "synthetic")) == 0


def test_counts_of_another_vocabulary_are_refused(run: Run, tmp_path: Path) -> None:
    write_table(counts_frame(150, 150), tmp_path / "counts.parquet", "token_counts")
    arguments = run.common() | {"counts": tmp_path / "counts.parquet"}
    with pytest.raises((AblationError, CountsError), match="another model"):
        set_up(**arguments, include_padded=False, kernel="auto", replacements=["mean"], seed=0)


def test_a_mistaken_replacement_costs_no_model_time(run: Run) -> None:
    arguments = run.common() | {"model": replace(run.spec, path="/nowhere")}
    with pytest.raises(ReplacementError, match="'average' is no replacement"):
        set_up(**arguments, include_padded=False, kernel="auto", replacements=["average"], seed=0)
