"""Rule `ablate_sets` end to end on tiny models: five tables against brute force, bad kernels, nothing selected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import joint, set_verification
from neuronlab.activations import measure_activations
from neuronlab.final_states import AblationInputs
from neuronlab.kernels.interface import Effects
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.schemas import SCHEMAS
from neuronlab.set_ablation import ablate_sets
from neuronlab.tables import read_table, write_table
from neuronlab.verification import VerificationError
from text_files import POSITIONS, write_text

TABLES = ("set_effects", "set_verification", "temperature", "calibration", "reliability")
CHOSEN = {"entropy": ("selection", None, (3, 11, 40)), "entropy/uniform_000": ("uniform", "entropy", (0, 25, 7))}


def selection_frame(sets: dict[str, tuple[str, str | None, tuple[int, ...]]], layer: int = 1) -> pl.DataFrame:
    rows = [
        {"set": name, "kind": kind, "rule": "test", "control_of": of, "layer": layer, "neuron": n, "rank": rank}
        for name, (kind, of, neurons) in sets.items()
        for rank, n in enumerate(neurons)
    ]
    schema = {name: column.dtype for name, column in SCHEMAS["selection"].items()}
    return pl.DataFrame(rows, schema={k: v for k, v in schema.items() if k not in ("matched", "norm_ratio")}).select(
        pl.col(name) if name not in ("matched", "norm_ratio") else pl.lit(None, dtype).alias(name)
        for name, dtype in schema.items()
    )


@dataclass(frozen=True)
class Run:
    folder: Path
    inputs: AblationInputs

    def __call__(self, name: str, sets: dict = CHOSEN, **options: object) -> dict[str, pl.DataFrame]:
        folder = self.folder / name
        folder.mkdir()
        write_table(selection_frame(sets), folder / "selection.parquet", "selection")
        paths = {table: folder / f"{table}.parquet" for table in TABLES}
        options = {"resamples": 100, "bins": 4, "verification_pairs": 16, **options}
        ablate_sets(inputs=self.inputs, selection=[folder / "selection.parquet"], **paths, **options)
        return {table: read_table(path, table) for table, path in paths.items()}


def made(folder: Path, directory: Path) -> Run:
    write_text(folder)
    spec = ModelSpec("tiny", "directory", path=str(directory), device="cpu")
    common = {
        "model": spec,
        "tokens": folder / "tokens.parquet",
        "counts": folder / "counts.parquet",
        "statistics": folder / "statistics.parquet",
    }
    measure_activations(**common, baseline=folder / "baseline.parquet", layers=[-1], batch_size=4)
    return Run(folder, AblationInputs(**common, replacements=("mean", "zero"), batch_size=2, tokens_per_chunk=17))


@pytest.fixture(scope="module")
def run(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("sets"), tiny_directories["gpt2"])


@pytest.fixture(scope="module")
def tables(run: Run) -> dict[str, pl.DataFrame]:
    return run("first")


def test_numbers_from_forward_passes_alone(
    run: Run, tables: dict[str, pl.DataFrame], tiny_model: Callable[..., Model]
) -> None:
    """Effects, KL and scores of a jointly ablated set, with the clean model, token by token from whole passes."""
    model = tiny_model("gpt2", "float64")
    text = read_table(run.folder / "tokens.parquet", "tokens")
    ids, counted = torch.tensor(text["tokens"].to_list()), np.array(text["counted"].to_list())
    neurons = list(CHOSEN["entropy"][2])
    means = model.activations(ids, [1])[1][torch.from_numpy(counted)][:, neurons].mean(0)
    values = means.expand(len(ids), POSITIONS, 3)
    where = torch.from_numpy(counted[:, :-1])
    clean = model.logits(ids).log_softmax(-1)[:, :-1][where]
    after = model.logits(ids, (1, neurons, values)).log_softmax(-1)[:, :-1][where]
    targets = ids[:, 1:][where]
    rows = torch.arange(len(targets))
    loss = -(after - clean)[rows, targets].numpy()

    keys = {"set": "entropy", "replacement": "mean"}
    effect = tables["set_effects"].row(by_predicate=_all(keys), named=True)
    assert effect["n_tokens"] == counted.sum()
    assert effect["n_neurons"] == 3
    assert effect["te_loss"] == pytest.approx(np.abs(loss).mean(), abs=2e-6)
    assert effect["total_loss"] == pytest.approx(loss.mean(), abs=2e-6)
    assert effect["prediction_change"] == pytest.approx((clean.argmax(-1) != after.argmax(-1)).double().mean().item())

    heat = tables["temperature"].row(by_predicate=_all(keys), named=True)
    assert heat["kl_change"] == pytest.approx((clean.exp() * (clean - after)).sum(-1).mean().item(), rel=1e-4)
    tempered = (clean / heat["temperature"]).log_softmax(-1)
    left = (tempered.exp() * (tempered - after)).sum(-1).mean().item()
    assert heat["kl_left"] == pytest.approx(left, rel=1e-4)
    assert heat["kl_left"] < heat["kl_change"]

    for lp, keys in (
        (clean, {"set": "none", "condition": "clean"}),
        (after, {"set": "entropy", "condition": "ablated"}),
    ):
        row = tables["calibration"].row(by_predicate=_all(keys), named=True)
        p, right = lp.exp(), torch.nn.functional.one_hot(targets, lp.shape[1])
        assert row["nll"] == pytest.approx(-lp[rows, targets].mean().item(), rel=1e-6)
        assert row["brier"] == pytest.approx((p - right).square().sum(-1).mean().item(), rel=1e-6)
        assert row["confidence"] == pytest.approx(p.amax(-1).mean().item(), rel=1e-6)
        assert row["accuracy"] == pytest.approx((p.argmax(-1) == targets).double().mean().item())


def _all(keys: dict[str, str]) -> pl.Expr:
    return pl.all_horizontal(*(pl.col(name) == value for name, value in keys.items()))


def test_tables_hold_every_set_and_the_verification_passed(tables: dict[str, pl.DataFrame]) -> None:
    names = ["entropy", "entropy/uniform_000", "1.3", "1.11", "1.40"]
    assert tables["set_effects"]["set"].to_list() == names * 2
    assert tables["temperature"]["set"].to_list() == names
    assert tables["temperature"]["replacement"].unique().to_list() == ["mean"]
    assert tables["calibration"]["set"].unique(maintain_order=True).to_list() == ["none", *names[:2]]
    assert tables["calibration"]["condition"].to_list() == ["clean", "clean_refit", *["ablated", "ablated_refit"] * 2]
    assert tables["reliability"]["n_tokens"].sum() == 6 * tables["calibration"]["n_tokens"][0]
    assert tables["set_verification"]["passed"].all()
    assert set(tables["set_verification"]["tier"]) == {"readout", "forward"}
    assert set(tables["set_verification"].filter(pl.col("tier") == "readout")["variant"]) == {
        "total",
        "direct",
        "norm",
        "unigram",
    }


def test_a_set_of_one_is_its_neuron(run: Run, tables: dict[str, pl.DataFrame]) -> None:
    alone = run("alone", {"one": ("selection", None, (11,))})["set_effects"]
    both = alone.filter(pl.col("set") == "one"), tables["set_effects"].filter(pl.col("set") == "1.11")
    for name in ("te_loss", "de_kl", "m_entropy", "total_entropy"):
        np.testing.assert_allclose(both[0][name], both[1][name], rtol=1e-4)


def test_a_sample_is_seeded_and_reruns_give_the_same_bytes(run: Run) -> None:
    first, second = run("sample", tokens=40), run("sample_again", tokens=40)
    for name in TABLES:
        assert first[name].equals(second[name])
        one, other = (run.folder / folder / f"{name}.parquet" for folder in ("sample", "sample_again"))
        assert one.read_bytes() == other.read_bytes()
    assert set(first["temperature"]["n_tokens"]) == {40}


def test_nothing_is_selected(run: Run) -> None:
    found = run("nothing", {})
    assert [len(found[name]) for name in TABLES] == [0, 0, 0, 2, 8]


def test_a_wrong_closed_form_stops_the_rule(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object, **options: object) -> Effects:
        found = joint.joint_effects(*arguments, **options)
        return Effects(found.loss + 1e-4, found.entropy, found.kl, found.rank, found.prediction)

    monkeypatch.setattr(set_verification, "joint_effects", wrong)
    with pytest.raises(VerificationError, match=r"joint ablation by kernel 'numba'.*effect on loss of set"):
        run("wrong")
    assert not list((run.folder / "wrong").glob("set_*")) + list((run.folder / "wrong").glob("temp*"))


def test_a_norm_after_the_mlp_and_a_softcap(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    found = made(tmp_path, tiny_directories["gemma2"])("gemma")
    assert found["set_verification"]["passed"].all()
    assert found["temperature"]["explained"].is_between(0, 1).all()
