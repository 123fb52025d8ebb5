"""The rule `intervene_layers` by loops over changed Hugging Face models; its verification, costs and bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import depth_texts
import naive_layers
import numpy as np
import polars as pl
import pytest
import tiny_models
import torch
from neuronlab import interventions, layer_passes, layer_verification, precise_copies
from neuronlab.final_states import Text
from neuronlab.interventions import QUANTITIES, intervene_layers
from neuronlab.layer_means import MEAN_OUTPUTS
from neuronlab.layer_outcomes import OUTCOMES
from neuronlab.layer_passes import Intervention, InterventionError, LayerPasses
from neuronlab.layer_plan import depth_of, plan_interventions, swapped_pairs
from neuronlab.layer_verification import judge, report
from neuronlab.model_files import ModelSpec
from neuronlab.schemas_stages import INTERVENTIONS
from neuronlab.tables import read_table
from neuronlab.token_sample import spread_counted

TABLES = {
    "table": "interventions",
    "costs": "intervention_costs",
    "verification": "intervention_verification",
}
LAYOUTS = ("gpt2", "gpt_neox", "llama", "gemma2")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models of three layers, a text of six sequences, and a model of one layer."""
    root = tmp_path_factory.mktemp("three")
    found = {name: naive_layers.make_deeper(root / name, name, 3) for name in (*LAYOUTS, "phi")}
    found["one layer"] = naive_layers.make_deeper(root / "one", "gpt2", 1)
    found["text"] = depth_texts.write_depth_text(root / "tokens.parquet")
    return found


def run(
    directories: dict[str, Path], name: str, folder: Path, dtype: str = "float32", **options: object
) -> dict[str, pl.DataFrame]:
    """The rule's tables, by name."""
    paths = {key: folder / f"{table}.parquet" for key, table in TABLES.items()}
    spec = ModelSpec("tiny", "directory", path=str(directories[name]), device="cpu", dtype=dtype)
    given = {"kinds": list(INTERVENTIONS), "batch_size": 2, "tokens_per_chunk": 7, "resamples": 40, "seed": 3}
    intervene_layers(model=spec, tokens=directories["text"], **paths, **(given | options))
    return {table: read_table(paths[key], table) for key, table in TABLES.items()}


def naive_rows(directory: Path, text: Text, cases: list[tuple[str, int, int | None]]) -> Iterator[dict[str, object]]:
    """Means over counted tokens by their definitions, a whole pass for each intervention."""
    network = naive_layers.load(directory)
    means = naive_layers.mean_outputs(network, text.tokens, text.counted)
    clean = naive_layers.log_probabilities(network, text.tokens)
    for kind, layer, other in cases:
        lp = naive_layers.changed(network, kind, layer, other, text.tokens, means)
        tokens = []
        for s, t in zip(*np.nonzero(text.counted), strict=True):
            p, q, target = clean[s, t], lp[s, t], text.tokens[s, t + 1]
            rank = int((q > q[p.argmax()]).sum())
            change = -(np.exp(q) @ q) + np.exp(p) @ p
            one = [np.exp(p) @ (p - q), p[target] - q[target], change, -(np.exp(q) @ q), rank == 0, 1 / (1 + rank)]
            tokens.append(one)
        place = {"intervention": kind, "layer": layer, "other": other, "n_tokens": len(tokens)}
        yield place | dict(zip(QUANTITIES, np.mean(tokens, axis=0), strict=True))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_table_by_loops(name: str, directories: dict[str, Path], tmp_path: Path) -> None:
    """Every kind, every layer, every pair; counted tokens alone, whatever the batches and chunks."""
    found = run(directories, name, tmp_path, swaps="all", verification_tokens=0)["interventions"]
    text = Text.read(directories["text"])
    cases = [(kind, layer, None) for kind in INTERVENTIONS if kind != "swap" for layer in range(3)]
    cases += [("swap", 0, 1), ("swap", 0, 2), ("swap", 1, 2)]
    assert list(found.select("intervention", "layer", "other").iter_rows()) == cases
    documents = np.unique(text.documents[text.counted])
    for row, expected in zip(found.iter_rows(named=True), naive_rows(directories[name], text, cases), strict=True):
        assert row["n_tokens"] == expected["n_tokens"]
        assert row["n_documents"] == len(documents)
        for quantity in QUANTITIES:
            assert row[quantity] == pytest.approx(expected[quantity], rel=1e-3, abs=2e-5), (row, quantity)
            assert row[f"{quantity}_low"] <= row[quantity] <= row[f"{quantity}_high"]
    depths = found.filter(pl.col("intervention") == "swap")["depth"].to_list()
    assert depths == [0.25, 0.5, 0.75]
    assert found.filter(pl.col("intervention") == "mean")["depth"].to_list() == [0.0, 0.5, 1.0]


def test_intervals_are_clustered_by_document_c_defect_4(directories: dict[str, Path], tmp_path: Path) -> None:
    """Means per token weigh documents by their tokens; resamples draw documents."""
    found = run(directories, "gpt2", tmp_path, kinds=["delete"], resamples=2000)["interventions"].row(1, named=True)
    text = Text.read(directories["text"])
    network = naive_layers.load(directories["gpt2"])
    clean = naive_layers.log_probabilities(network, text.tokens)
    lp = naive_layers.changed(network, "delete", 1, None, text.tokens, [])
    kl = (np.exp(clean) * (clean - lp)).sum(-1)[text.counted]
    of = text.documents[text.counted]
    documents = np.unique(of)
    assert len({int((of == d).sum()) for d in documents}) > 1
    generator, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        chosen = generator.choice(documents, len(documents))
        drawn.append(np.concatenate([kl[of == d] for d in chosen]).mean())
    assert found["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    width = np.quantile(drawn, 0.975) - np.quantile(drawn, 0.025)
    assert found["kl_low"] == pytest.approx(np.quantile(drawn, 0.025), abs=0.1 * width)
    assert found["kl_high"] == pytest.approx(np.quantile(drawn, 0.975), abs=0.1 * width)


def test_batches_chunks_and_memory_change_rounding_at_most(
    directories: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(directories, "llama", tmp_path)["interventions"]
    others: list[dict[str, object]] = [{"batch_size": 16, "tokens_per_chunk": 1000}, {"residuals_mb": 0.005}]
    for options in others:
        again = run(directories, "llama", tmp_path, verification_tokens=0, **options)["interventions"]
        numbers = found.select(pl.selectors.float()).to_numpy(), again.select(pl.selectors.float()).to_numpy()
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-6)
    assert "1 sequences per pass instead of 2" in capsys.readouterr().err


def test_the_same_bytes_again(directories: dict[str, Path], tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        run(directories, "gpt_neox", folder, sequences=3)
    for table in TABLES.values():
        one, two = ((folder / f"{table}.parquet").read_bytes() for folder in folders)
        assert one == two


def test_deletion_shortens_the_stream_and_means_do_not_c_defect_8(directories: dict[str, Path], tmp_path: Path) -> None:
    """Beside every deletion there is the mean ablation of the same output, which changes the prediction differently."""
    found = run(directories, "gpt2", tmp_path)["interventions"]
    for part in ("", "_attention", "_mlp"):
        zero, mean = (found.filter(pl.col("intervention") == f"{kind}{part}") for kind in ("delete", "mean"))
        assert zero["layer"].to_list() == mean["layer"].to_list() == [0, 1, 2]
        assert ((zero["kl"] - mean["kl"]).abs() > 1e-3).all()


def test_costs_are_counted_and_the_model_is_loaded_once_c_defect_4(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: dict[str, int] = {"float32": 0, "float64": 0}
    original = interventions.load_model

    def counting(spec: ModelSpec) -> object:
        loads[spec.dtype] += 1
        return original(spec)

    for module in (interventions, precise_copies):
        monkeypatch.setattr(module, "load_model", counting)
    row = run(directories, "gpt2", tmp_path, kinds=["delete", "swap"])["intervention_costs"].row(0, named=True)
    assert loads == {"float32": 1, "float64": 1}  # float64: the verification's own
    # One clean run of 3 blocks, deletions of 2 + 1 + 0, swaps of 3 + 2; naively two runs of 3 for 5 interventions.
    assert row == {
        "interventions": 5,
        "n_layers": 3,
        "block_evaluations": 3 + 3 + 5,
        "naive_block_evaluations": 30,
        "model_loads": 1,
    }
    row = run(directories, "gpt2", tmp_path, kinds=["mean", "mean_mlp"])["intervention_costs"].row(0, named=True)
    assert row["block_evaluations"] == 2 * 3 + 3 + 6  # another clean run for the means


def test_verification_of_this_run(directories: dict[str, Path], tmp_path: Path) -> None:
    """A row per intervention and quantity, far within the tolerance; a float64 model is its own copy."""
    for dtype in ("float32", "float64"):
        found = run(directories, "gemma2", tmp_path, dtype)["intervention_verification"]
        assert len(found) == (5 + 3) * (6 * 3 + 2) + 2 * 3
        assert found["quantity"].unique(maintain_order=True).to_list() == [
            "kl",
            "loss_change",
            "entropy",
            "agreement",
            "reciprocal_rank",
            "run_kl",
            "run_loss_change",
            "run_entropy",
            *MEAN_OUTPUTS,
        ]
        assert found["passed"].all()
        means = found.filter(pl.col("quantity").is_in(MEAN_OUTPUTS))
        assert means["layer"].to_list() == [0, 0, 1, 1, 2, 2]
        assert (means["error"] < 0.1 * means["tolerance"]).all()
        assert (means["fast"].abs() > 0).all()
        own = found.filter(pl.col("quantity").str.starts_with("run_"))
        assert (own["error"] < 0.5 * own["tolerance"]).all()
        assert own["tolerance"].max() < 1e-2
        found = found.filter(pl.col("quantity").is_in(layer_verification.QUANTITIES))
        assert found["error"].max() < 1e-9
        assert found.filter(pl.col("quantity") == "reciprocal_rank")["fast"].n_unique() > 2
        assert (found.filter(pl.col("quantity") == "kl")["brute_force"] > 1e-3).all()


def test_verified_tokens_are_of_several_sequences() -> None:
    """Their number as asked for, all counted, of eight sequences or more; all where there are no more."""
    counted = np.random.default_rng(0).random((20, 30)) < 0.7
    for tokens, sequences in ((32, 8), (5, 5), (96, 8), (100, 9), (counted.sum() + 1, 20)):
        sample = spread_counted(counted, tokens, 8, seed=3)
        assert sample.sum() == min(tokens, counted.sum())
        assert not (sample & ~counted).any()
        assert sample.any(axis=1).sum() == sequences
        np.testing.assert_array_equal(sample, spread_counted(counted, tokens, 8, seed=3))
    assert (spread_counted(counted, 32, 8, seed=4) != spread_counted(counted, 32, 8, seed=3)).any()
    counted[:, 2:] = False  # two at most of each
    sample = spread_counted(counted, 32, 8, seed=3)
    assert sample.sum() == min(32, counted.sum())
    assert sample.any(axis=1).sum() >= 16
    assert not spread_counted(counted, 0, 8, seed=3).any()


def test_tokens_of_several_sequences_in_a_pass_are_verified(directories: dict[str, Path], tmp_path: Path) -> None:
    """Rows of a pass that are mixed up, in the verification's own passes."""
    found = run(directories, "gemma2", tmp_path, batch_size=16)["intervention_verification"]
    assert found["passed"].all()
    text = Text.read(directories["text"])
    assert layer_verification.verified_tokens(text, 32, 3).any(axis=1).sum() == text.counted.any(axis=1).sum() > 1


@pytest.mark.parametrize("batch_size", [1, 16])
def test_wrong_values_of_the_run_itself_stop_it(
    batch_size: int, directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-outs in another order than the tokens, where the run alone does so: its averages would be the same."""
    right = interventions.outcomes

    def moved(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.roll(values, 1, axis=-1) for values in right(*arguments))

    monkeypatch.setattr(interventions, "outcomes", moved)
    with pytest.raises(InterventionError, match=r"worst: run_\w+ of"):
        run(directories, "llama", tmp_path, kinds=["delete"], batch_size=batch_size)
    assert not list(tmp_path.iterdir())


@contextmanager
def nothing_exchanged(*_: object) -> Iterator[None]:
    yield


def test_a_wrong_pass_stops_the_run(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap that swaps nothing, and a deletion that starts a block late: nothing is written."""
    monkeypatch.setattr(layer_passes, "exchanged_weights", nothing_exchanged)
    with pytest.raises(InterventionError, match=r"'swap' at layer . and .*cannot be trusted"):
        run(directories, "llama", tmp_path)
    monkeypatch.undo()
    changed = LayerPasses.changed

    def late(self: LayerPasses, residuals: list, intervention: Intervention) -> object:
        if intervention.kind == "delete":
            return self.resume(residuals[intervention.layer], min(intervention.layer + 2, 3))
        return changed(self, residuals, intervention)

    monkeypatch.setattr(LayerPasses, "changed", late)
    with pytest.raises(InterventionError, match="'delete' at layer"):
        run(directories, "llama", tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_ranks_stop_the_run(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank off, which neither KL, nor loss, nor entropy shows."""
    right = layer_verification.outcomes

    def wrong(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
        before, after = right(*arguments)
        places = [OUTCOMES.index(name) for name in ("agreement", "reciprocal_rank")]
        rank = 1 / after[:, places[1]]
        after[:, places[0]], after[:, places[1]] = 0.0, 1 / (rank + 1)
        return before, after

    monkeypatch.setattr(layer_verification, "outcomes", wrong)
    with pytest.raises(InterventionError, match=r"worst: (agreement|reciprocal_rank) of"):
        run(directories, "llama", tmp_path, kinds=["delete"])


def test_ranks_among_equal_logits_may_come_in_either_order(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says the same of all tokens: every rank is right, and the run goes on."""
    network = tiny_models.make_model("gpt2", config=naive_layers.deeper("gpt2", 2))
    with torch.no_grad():
        network.lm_head.weight.copy_(network.lm_head.weight[:1].expand_as(network.lm_head.weight).clone())
    network.save_pretrained(tmp_path / "flat")
    tiny_models.make_tokenizer().save_pretrained(tmp_path / "flat")
    given = directories | {"flat": tmp_path / "flat"}
    out = tmp_path / "out"
    out.mkdir()
    found = run(given, "flat", out, kinds=["delete"])["intervention_verification"]
    assert found["passed"].all()


def test_means_over_the_wrong_positions_stop_the_run(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides of the other comparisons put the same means in place: these have a check of their own."""
    right = LayerPasses.mean_outputs

    def all_positions(self: LayerPasses, batches: Iterator[tuple]) -> object:
        return right(self, ((tokens, torch.ones_like(counted)) for tokens, counted in batches))

    monkeypatch.setattr(LayerPasses, "mean_outputs", all_positions)
    with pytest.raises(InterventionError, match=r"worst: mean_(attention|mlp)_output of 'mean' at layer"):
        run(directories, "gpt2", tmp_path, kinds=["mean_mlp"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*LAYOUTS, "phi"])
def test_means_of_the_wrong_part_stop_the_run(
    name: str, directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interchanged means add up to the same, and no whole pass tells them apart; nor do those of another layer."""
    right = LayerPasses.mean_outputs
    for wrong in ((lambda means: means.flip(1)), (lambda means: means.roll(1, 0))):
        monkeypatch.setattr(LayerPasses, "mean_outputs", lambda *given, wrong=wrong: wrong(right(*given)))
        with pytest.raises(InterventionError, match=r"in 6 of .*worst: mean_(attention|mlp)_output of 'mean' at layer"):
            run(directories, name, tmp_path, kinds=["mean", "mean_attention"])
        assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    found = run(directories, name, tmp_path, kinds=["mean", "mean_attention"])["intervention_verification"]
    assert found["passed"].all()


def test_means_are_checked_even_where_no_float64_copy_fits(directories: dict[str, Path], tmp_path: Path) -> None:
    found = run(directories, "gpt_neox", tmp_path, kinds=["mean", "swap"], float64_mb=0.01)["intervention_verification"]
    assert found["quantity"].to_list() == [*MEAN_OUTPUTS] * 3
    assert found["passed"].all()


def test_verification_left_out_is_said(
    directories: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(directories, "gpt2", tmp_path, float64_mb=0.01)
    assert "WARNING: changed layers are not verified" in (said := capsys.readouterr().err)
    assert "compute.float64_mb" in said
    assert set(found["intervention_verification"]["quantity"]) == set(MEAN_OUTPUTS)
    assert len(found["interventions"]) == 6 * 3 + 2
    run(directories, "gpt2", tmp_path, verification_tokens=0)
    assert "no token is to be compared" in capsys.readouterr().err


def test_judge_and_report() -> None:
    frame = pl.DataFrame(
        {
            "intervention": "mean",
            "layer": 4,
            "other": pl.Series([None, None, None, None], dtype=pl.Int32),
            "quantity": "kl",
            "fast": [1.0, 1.0, 2.0, float("nan")],
            "brute_force": [1.0 + 1e-6, 1.1, 2.0, 0.0],
        }
    )
    judged = judge(frame, 1e-6, 1e-6)
    assert judged["passed"].to_list() == [True, False, True, False]
    with pytest.raises(InterventionError, match=r"in 2 of 4 comparisons; worst: kl of 'mean' at layer 4"):
        report(judged)
    report(judged.filter(pl.col("passed")))


def test_one_layer(directories: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Deletion works, nothing can change places, and the log says so."""
    for swaps in ("adjacent", "all", ["0-1"]):
        found = run(directories, "one layer", tmp_path, swaps=swaps)
        assert "no swap is made" in capsys.readouterr().err
        assert found["interventions"]["intervention"].to_list() == [kind for kind in INTERVENTIONS if kind != "swap"]
        assert found["interventions"]["depth"].to_list() == [0.0] * 6
        assert (found["interventions"]["kl"] > 0).all()
        assert found["intervention_verification"]["passed"].all()
    found = run(directories, "one layer", tmp_path, kinds=["swap"])
    assert [len(found[table]) for table in TABLES.values()] == [0, 1, 0]
    assert found["intervention_costs"]["interventions"].item() == 0


def test_pairs_of_layers() -> None:
    assert swapped_pairs("adjacent", 4, "m") == [(0, 1), (1, 2), (2, 3)]
    assert swapped_pairs("all", 3, "m") == [(0, 1), (0, 2), (1, 2)]
    assert swapped_pairs(["2-0", " 1 - 3", "0-2"], 4, "m") == [(0, 2), (1, 3)]
    assert depth_of(Intervention("swap", 0, 3), 4) == 0.5
    assert depth_of(Intervention("delete", 0), 1) == 0.0


@pytest.mark.parametrize(
    ("kinds", "swaps", "message"),
    [
        (["delete", "remove"], "all", r"stages_of_inference\.interventions: no 'remove'"),
        (["swap"], "neighbours", r"stages_of_inference\.swaps is 'neighbours'"),
        (["swap"], ["0-x"], r"swaps: '0-x' is no pair"),
        (["swap"], ["1-1"], r"swaps: '1-1' swaps a layer with itself"),
        (["swap"], ["0-3"], r"swaps: '0-3' names layer 3, but the layers of models\.m are 0 to 2"),
    ],
)
def test_impossible_interventions_are_refused(kinds: list[str], swaps: str | list[str], message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        plan_interventions(kinds, swaps, 3, "models.m")


def test_residuals_that_overflow_are_refused(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = LayerPasses.changed
    monkeypatch.setattr(LayerPasses, "changed", lambda *a: changed(*a) * float("inf"))
    with pytest.raises(InterventionError, match=r"NaN or infinity.*delete 0.*choose bfloat16"):
        run(directories, "gpt2", tmp_path)


def test_the_brute_force_of_the_verification_shares_no_start(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong copies on the slow side are found as well: the two sides do not go wrong together."""
    monkeypatch.setattr(layer_verification, "_copied", nothing_exchanged)
    with pytest.raises(InterventionError, match="'swap'"):
        run(directories, "gpt_neox", tmp_path, kinds=["swap"])
