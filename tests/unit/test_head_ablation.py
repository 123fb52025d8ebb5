"""The rule `ablate_heads` against naive loops of hooked forward passes, its sets, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import head_verification
from neuronlab.attention import States, forward_at
from neuronlab.attention_parts import head_output
from neuronlab.bridge_parts import hooked_forward
from neuronlab.final_states import AblationInputs
from neuronlab.head_ablation import ablate_heads, drawn, neurons_of
from neuronlab.head_sets import AttentionError, HeadSet, plan_sets
from neuronlab.head_verification import HeadVerificationError
from neuronlab.models import Model, ModelSpec
from neuronlab.neuron_sets import NeuronSet
from neuronlab.repeat_places import Repeats
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import read_table, write_table

TINY = Callable[..., Model]
N_SEQUENCES, COPY = 5, 6
TOTAL = 1 + 2 * COPY + 1  # BOS, two copies, and a mark between them
SELECTED, CONTROLS = (7, 30, 2), (11, 40, 5)


def scores_frame(
    n_layers: int = 2, n_heads: int = 4, induction: tuple[tuple[int, int], ...] = ((1, 2), (0, 1), (1, 0))
) -> pl.DataFrame:
    """Random-token scores that rank 1.2, 0.1, 1.0 first; and text scores that rank otherwise."""
    order = [(1, 2), (0, 1), (1, 0)]
    order += [(layer, head) for layer in range(n_layers) for head in range(n_heads) if (layer, head) not in order]
    rows = []
    for source, heads in (("synthetic", order[::-1]), ("random", order)):
        for rank, (layer, head) in enumerate(heads):
            score = 0.9 - 0.05 * rank
            rows.append((source, layer, head, 0.1, 0.1, 0.1, (layer, head) in induction, rank, 9, score, score, score))
    return pl.DataFrame(rows, schema=list(SCHEMAS["induction_heads"]), orient="row")


def repeats_frame() -> pl.DataFrame:
    generator, rows = np.random.default_rng(4), []
    copy = [-1, *[0] * COPY, -1, *[1] * COPY]
    offset = [0, *range(COPY), 0, *range(COPY)]
    for sequence in range(N_SEQUENCES):
        stretch = generator.integers(10, 190, COPY).tolist()
        rows.append((sequence, 3 * sequence, [0, *stretch, 5, *stretch], copy, offset, True))
    return pl.DataFrame(rows, schema=list(SCHEMAS["repeats"]), orient="row")


def selection_frame() -> pl.DataFrame:
    names = [("chosen", "selection", None, SELECTED), ("chosen/uniform_000", "uniform", "chosen", CONTROLS)]
    rows = [
        (name, kind, "top_rho", control_of, 1, neuron, rank, None, None)
        for name, kind, control_of, neurons in names
        for rank, neuron in enumerate(neurons)
    ]
    return pl.DataFrame(
        rows,
        schema={name: column.dtype for name, column in SCHEMAS["selection"].items()},
        orient="row",
    )


@dataclass(frozen=True)
class Run:
    """Inputs in a folder."""

    folder: Path
    spec: ModelSpec

    def __call__(self, name: str, **options: object) -> dict[str, pl.DataFrame]:
        outputs = {table: self.folder / f"{name}_{table}.parquet" for table in TABLES}
        ablate_heads(
            inputs=AblationInputs(
                model=self.spec, tokens="", counts="", statistics="", batch_size=3, tokens_per_chunk=7
            ),
            **{
                "selection": [self.folder / "selection.parquet"],
                "repeats": self.folder / "repeats.parquet",
                "heads": self.folder / "heads.parquet",
                "top": 2,
                "baselines": 1,
                "sequences": 4,
                "verification_positions": 3,
                "resamples": 50,
                **outputs,
                **options,
            },
        )
        return {table: read_table(path, table) for table, path in outputs.items()}


TABLES = ("head_ablation", "head_neurons", "head_verification")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def run(
    request: pytest.FixtureRequest, tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("heads")
    write_table(scores_frame(), folder / "heads.parquet", "induction_heads")
    write_table(repeats_frame(), folder / "repeats.parquet", "repeats")
    write_table(selection_frame(), folder / "selection.parquet", "selection")
    return Run(folder, ModelSpec(request.param, "directory", path=str(tiny_directories[request.param]), device="cpu"))


def naive_means(model: Model, tokens: torch.Tensor, inside: np.ndarray) -> torch.Tensor:
    kept: dict[int, torch.Tensor] = {}
    hooks = {head_output(i): lambda z, hook, i=i: kept.__setitem__(i, z.detach().double()) for i in range(2)}
    hooked_forward(model.bridge, tokens, hooks)
    return torch.stack([kept[i][:, inside].mean((0, 1)) for i in range(2)])


def naive_readings(model: Model, states: States, target: int | None, clean: np.ndarray | None) -> dict[str, object]:
    """Quantities of one position by the model's own norm and unembedding, in numpy."""
    final = model.bridge.original_model
    norm = model.bridge.ln_final.original_component
    logits = (norm(states.residual) @ final.get_output_embeddings().weight.T)[0].double().numpy()
    logits = logits - logits.mean()
    logp = logits - np.log(np.exp(logits).sum())
    x = states.residual[0].double().numpy()
    x = x - x.mean() if model.norm_kind == "LN" else x
    return {
        "entropy": -(np.exp(logp) * logp).sum(),
        "loss": None if target is None else -logp[target],
        "norm_scale": np.sqrt((x**2).mean() + model.eps),
        "residual_norm": np.sqrt((x**2).sum()),
        "top_logit": logits.max(),
        "kl": 0.0 if clean is None else (np.exp(clean) * (clean - logp)).sum(),
        "activation": states.activations[0].double().numpy(),
        "logp": logp,
    }


def test_tables_by_loops(run: Run, tiny_model: TINY) -> None:
    with torch.no_grad():
        check_tables(run, tiny_model(run.spec.key))


def check_tables(run: Run, model: Model) -> None:
    tables = run("loops", sets=["1.2+1.3"], sequences=N_SEQUENCES)
    found = tables["head_ablation"]
    tokens = torch.tensor(repeats_frame()["tokens"].to_list())
    positions = [p for p in range(TOTAL) if p not in (0, 1 + COPY)]
    means = naive_means(model, tokens, np.isin(np.arange(TOTAL), positions))
    for name in ("1.2+0.1", "1.2+1.3", "0.1"):
        heads = HeadSet.parse(name, 2, 4, where="test")
        for method in ("bos", "mean"):
            rows = found.filter((pl.col("set") == name) & (pl.col("method") == method))
            assert set(rows["quantity"]) == {
                "entropy", "loss", "norm_scale", "residual_norm", "top_logit", "kl", "activation"
            }  # fmt: skip
            for p in (1, 4, TOTAL - 2, TOTAL - 1):
                clean, ablated = [], []
                for s in range(N_SEQUENCES):
                    target = int(tokens[s, p + 1]) if p + 1 < TOTAL else None
                    at, row = torch.tensor([p]), tokens[s : s + 1]
                    clean.append(naive_readings(model, forward_at(model, row, HeadSet(()), "bos", at), target, None))
                    states = forward_at(model, row, heads, method, at, means=means)
                    ablated.append(naive_readings(model, states, target, clean[-1]["logp"]))
                copy, offset = (0, p - 1) if p <= COPY else (1, p - COPY - 2)
                here = rows.filter((pl.col("copy") == copy) & (pl.col("offset") == offset))
                assert len(here) == 6 + len(SELECTED) + len(CONTROLS) - (p == TOTAL - 1)
                for row in here.iter_rows(named=True):
                    quantity, neuron = row["quantity"], row["neuron"]
                    assert row["layer"] == (None if neuron is None else 1)
                    pick = (lambda x, n=neuron: x[n]) if quantity == "activation" else float
                    before = np.mean([pick(x[quantity]) for x in clean])
                    change = np.mean(
                        [pick(b[quantity]) - pick(a[quantity]) for a, b in zip(clean, ablated, strict=True)]
                    )
                    assert row["clean"] == pytest.approx(before, rel=1e-4, abs=1e-5)
                    assert row["change"] == pytest.approx(change, rel=1e-3, abs=2e-5), (name, method, p, quantity)
                    assert row["change_low"] <= row["change"] + 1e-12
                    assert row["change"] <= row["change_high"] + 1e-12
    check_matrix(tables["head_neurons"], model, tokens, means)
    checked = tables["head_verification"]
    assert checked["passed"].all()
    assert checked["error"].max() < 1e-10
    assert set(checked["quantity"]) == {"activation", "entropy", "loss", "norm_scale", "kl"}
    per_set = checked.group_by("set", "method", "quantity").len()["len"].unique().to_list()
    assert per_set == [3]


def check_matrix(found: pl.DataFrame, model: Model, tokens: torch.Tensor, means: torch.Tensor) -> None:
    """Every head alone against every neuron of a set, and the best one, 1.2, against all of the layer."""
    held, every = len(SELECTED) + len(CONTROLS), len(model.w_out(1))
    assert len(found) == 2 * (8 * held + every - held)
    assert sorted(found.filter(layer=1, head=2, method="bos")["neuron"]) == list(range(every))
    assert set(found.filter(layer=0, head=1)["neuron"]) == {*SELECTED, *CONTROLS}
    last = range(2 + COPY, TOTAL)
    norms = model.w_out(1).norm(dim=-1)
    for (layer, head, method), rows in found.group_by("layer", "head", "method"):
        changes = []
        for p in last:
            at = torch.full((N_SEQUENCES,), p)
            clean = forward_at(model, tokens, HeadSet(()), "bos", at).activations
            changes.append(
                forward_at(model, tokens, HeadSet(((layer, head),)), method, at, means=means).activations - clean
            )
        expected = torch.stack(changes).mean((0, 1))
        for row in rows.iter_rows(named=True):
            assert row["neuron_layer"] == 1
            assert row["change"] == pytest.approx(float(expected[row["neuron"]]), rel=1e-3, abs=2e-5)
            assert row["norm"] == pytest.approx(float(norms[row["neuron"]]), rel=1e-5)


def test_chunks_and_batches_change_nothing(run: Run) -> None:
    whole = run("whole", methods=["mean"], sequences=5)
    other = ablate_with(run, "other", batch_size=16, tokens_per_chunk=1000, methods=["mean"], sequences=5)
    for table in ("head_ablation", "head_neurons"):
        keys = [c for c in whole[table].columns if whole[table][c].dtype != pl.Float64]
        assert whole[table].select(keys).equals(other[table].select(keys))
        for column in ("change", "change_low", "change_high"):
            np.testing.assert_allclose(whole[table][column], other[table][column], rtol=1e-3, atol=2e-5)


def test_sequences_are_drawn_from_all_of_the_text() -> None:
    """They stand in the order of the text: the first ones alone would be those of its first documents."""
    n = 40
    inside = np.zeros(3, dtype=np.int64)
    every = Repeats.of_stretches(np.arange(3 * n).reshape(n, 3), inside, inside)
    chosen = [tuple(drawn(every, 10, seed).document) for seed in range(50)]
    for rows in chosen:
        assert len(set(rows)) == 10
        assert list(rows) == sorted(rows)
    assert len(set(chosen)) == 50
    assert set(np.concatenate(chosen)) == set(range(n))
    part = drawn(every, 10, 0)
    assert tuple(part.document) == chosen[0]
    np.testing.assert_array_equal(part.tokens, every.tokens[part.document])
    for enough in (n, n + 1):
        assert drawn(every, enough, 0) is every


def ablate_with(run: Run, name: str, batch_size: int, tokens_per_chunk: int, **options: object) -> dict:
    outputs = {table: run.folder / f"{name}_{table}.parquet" for table in TABLES}
    ablate_heads(
        inputs=AblationInputs(
            model=run.spec,
            tokens="",
            counts="",
            statistics="",
            batch_size=batch_size,
            tokens_per_chunk=tokens_per_chunk,
        ),
        selection=run.folder / "selection.parquet",
        repeats=run.folder / "repeats.parquet",
        heads=run.folder / "heads.parquet",
        top=2,
        baselines=1,
        verification_positions=3,
        resamples=50,
        **outputs,
        **options,
    )
    return {table: read_table(path, table) for table, path in outputs.items()}


def test_disagreement_with_brute_force_writes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong one pass (or oracle) is found in the very run."""

    def wrong(*args: object, **options: object) -> States:
        states = forward_at(*args, **options)
        return States(states.residual * 1.001, states.activations)

    monkeypatch.setattr(head_verification, "forward_at", wrong)
    with pytest.raises(HeadVerificationError, match="cannot be trusted"):
        run("wrong")
    assert not list(run.folder.glob("wrong_*"))


def test_verification_names_the_sequences_of_the_table_and_not_of_the_draw(
    run: Run, tiny_model: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is found again at the sequence of repeats.parquet that it names, and nowhere else."""
    monkeypatch.setattr(head_verification, "MAX_SEQUENCES", 3)
    options = {"sequences": 3, "verification_positions": 9, "methods": ["bos"]}
    kept = drawn(Repeats.read(run.folder / "repeats.parquet"), 3, seed=0).sequence.tolist()
    assert kept != list(range(3)), "not the first ones"
    checked = run("named", **options)["head_verification"].filter(quantity="entropy")
    assert set(checked["sequence"]) == set(kept)
    model, tokens = tiny_model(run.spec.key), torch.tensor(repeats_frame()["tokens"].to_list())
    for row in checked.iter_rows(named=True):
        heads, at = HeadSet.parse(row["set"], 2, 4, where="test"), torch.tensor([row["position"]])
        with torch.no_grad():
            found = [
                naive_readings(model, forward_at(model, tokens[s : s + 1], heads, "bos", at), None, None)["entropy"]
                for s in range(N_SEQUENCES)
            ]
        assert np.abs(np.array(found) - row["brute_force"]).argmin() == row["sequence"]

    def wrong(*args: object, **more: object) -> States:
        states = forward_at(*args, **more)
        states.residual[-1] *= 1.001  # the last pair alone, of the last sequence drawn
        return states

    monkeypatch.setattr(head_verification, "forward_at", wrong)
    with pytest.raises(HeadVerificationError, match=f"sequence {kept[-1]} of repeats.parquet"):
        run("misnamed", **options)


def test_without_room_for_float64_it_is_verified_in_the_model_s_precision(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = run("small", float64_mb=1e-6, methods=["bos"])["head_verification"]
    assert "does not fit twice" in capsys.readouterr().err
    assert checked["passed"].all()
    assert 0 < checked["error"].max() < 1e-3


def test_no_repetition_gives_empty_tables(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(repeats_frame().clear(), run.folder / "none.parquet", "repeats")
    assert all(not len(table) for table in run("none", repeats=run.folder / "none.parquet").values())
    assert "no repetition" in capsys.readouterr().err


def test_no_neurons_give_quantities_alone(run: Run) -> None:
    write_table(selection_frame().clear(), run.folder / "nothing.parquet", "selection")
    tables = run("nothing", selection=run.folder / "nothing.parquet", methods=["bos"])
    assert set(tables["head_neurons"].select("layer", "head").iter_rows()) == {(1, 2)}
    assert "activation" not in set(tables["head_ablation"]["quantity"])


def test_unknown_heads_and_other_layouts_are_refused(run: Run) -> None:
    with pytest.raises(AttentionError, match=r"induction\.heads\.sets: '1\.9'.*heads 0 to 3"):
        run("unknown", sets=["1.9"])
    rows = repeats_frame().to_dicts()
    rows[1]["copy"] = [-1, -1, *rows[1]["copy"][1:-1]]
    shifted = pl.DataFrame(rows, schema={name: column.dtype for name, column in SCHEMAS["repeats"].items()})
    write_table(shifted, run.folder / "shifted.parquet", "repeats")
    with pytest.raises(AttentionError, match="same positions"):
        run("shifted", repeats=run.folder / "shifted.parquet")


def test_sets_are_the_best_heads_together_and_alone_and_baselines_of_others() -> None:
    plan = plan_sets(scores_frame(), top=3, configured=["0.0", "0.1+1.2"], baselines=2, seed=0)
    named = [(planned.heads.name, planned.role) for planned in plan if planned.role != "baseline"]
    assert named == [
        ("1.2", "top"),
        ("1.2+0.1", "top"),
        ("1.2+0.1+1.0", "top"),
        ("0.1", "single"),
        ("1.0", "single"),
        ("0.0", "configured"),
    ]  # 0.1+1.2 is the best two again
    baselines = [planned for planned in plan if planned.role == "baseline"]
    sizes = {planned.heads.name: len(planned.heads.heads) for planned in plan}
    for planned in baselines:
        assert len(planned.heads.heads) == sizes[planned.control_of]
        assert not {(1, 2), (0, 1), (1, 0)} & set(planned.heads.heads)
    # As many heads of each layer: 1.1 and 1.3 of layer 1, and one of layer 0 are left.
    three = [planned.heads.heads for planned in baselines if planned.control_of == "1.2+0.1+1.0"]
    assert len(three) == len(set(three)) == 2
    assert all(heads[1:] == ((1, 1), (1, 3)) and heads[0][0] == 0 for heads in three)
    assert {len([b for b in baselines if b.control_of == name]) for name, _ in named} == {2}
    assert (0, 0) not in [b.heads.heads[0] for b in baselines if b.control_of == "0.0"]
    assert plan == plan_sets(scores_frame(), top=3, configured=["0.0", "0.1+1.2"], baselines=2, seed=0)
    assert plan != plan_sets(scores_frame(), top=3, configured=["0.0", "0.1+1.2"], baselines=2, seed=1)


def test_induction_heads_are_no_baselines_and_few_heads_give_few_baselines() -> None:
    every = tuple((layer, head) for layer in range(2) for head in range(4))
    plan = plan_sets(scores_frame(induction=every[:6]), top=2, configured=[], baselines=5, seed=0)
    names = {planned.heads.name for planned in plan if planned.control_of == "1.2+0.1"}
    assert names == set()  # 1.3 alone is left
    assert {planned.heads.name for planned in plan if planned.control_of == "1.2"} == {"1.3"}
    plan = plan_sets(scores_frame(induction=every), top=9, configured=[], baselines=2, seed=0)
    assert all(planned.role != "baseline" for planned in plan)


@pytest.mark.parametrize("induction", [((1, 2),), ()])
def test_heads_below_the_threshold_do_not_join_the_best(induction: tuple[tuple[int, int], ...]) -> None:
    plan = plan_sets(scores_frame(induction=induction), top=3, configured=[], baselines=0, seed=0)
    assert [(planned.heads.name, planned.role) for planned in plan] == [("1.2", "top")]


def test_baselines_come_from_the_same_layer_first_and_never_twice() -> None:
    plan = plan_sets(scores_frame(induction=((1, 2),)), top=1, configured=[], baselines=5, seed=0)
    drawn = [planned.heads.name for planned in plan if planned.role == "baseline"]
    assert set(drawn[:3]) == {"1.0", "1.1", "1.3"}
    assert len(set(drawn)) == 5
    assert all(name.startswith("0.") for name in drawn[3:])


def test_neurons_are_taken_from_all_sets_in_turn() -> None:
    sets = [
        NeuronSet("a", "selection", None, (1, 2, 3)),
        NeuronSet("b", "selection", None, (9, 2)),
        NeuronSet("a/uniform_000", "uniform", "a", (2, 20)),
        NeuronSet("b/uniform_000", "uniform", "b", (30, 31)),
    ]
    assert neurons_of(sets, 10, 10) == [1, 9, 2, 3, 30, 20, 31]
    assert neurons_of(sets, 3, 1) == [1, 9, 2, 30]
    assert neurons_of([], 3, 1) == []
