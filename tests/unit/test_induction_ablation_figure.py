"""Figure of the ablation along a repetition, from made-up tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from neuronlab.figures import saving, theme
from neuronlab.figures.induction_ablation import chart, draw, p_value, signed
from neuronlab.figures.repetition_panels import FAR, MANY, control_band, shades, vertical, wide
from neuronlab.tables import check_frame, write_table

MEASURES = ("entropy_ratio", "loss_ratio", "entropy_change", "loss_change")


def world(
    kind: str = "synthetic", selections: dict[str, int] | None = None, controls: int = 4, documents: int = 20
) -> dict[str, pl.DataFrame]:
    """Tables "induction_ablation", "induction_tests" and "selection" of selections of so many neurons each."""
    rng = np.random.default_rng(0)
    offsets = range(12) if kind == "synthetic" else range(-4, 3)
    places = [(copy, o) for copy in (0, 1) for o in offsets if (copy, o) != (1, 11)]
    sets, chosen, neuron = [], [], 0
    for name, number in (selections or {"entropy": 5, "token_frequency": 2}).items():
        groups = {name: ("selection", None)} | {f"{name}/uniform_{i:03d}": ("uniform", name) for i in range(controls)}
        for group, (what, control_of) in groups.items():
            members = range(neuron, neuron := neuron + number)
            sets.append({"set": group, "kind": what, "control_of": control_of, "n_neurons": number})
            for rank, member in enumerate(members):
                sets.append({"set": f"1.{member}", "kind": "single", "control_of": control_of, "n_neurons": 1})
                chosen.append({"set": group, "kind": what, "control_of": control_of, "neuron": member, "rank": rank})
    ablation, tests = [], []
    for row in sets:
        size = rng.normal() * row["n_neurons"] / 10
        n = {"n_sequences": documents}
        for variant in ("total", "direct"):
            for copy, offset in places:
                values = {name: size + (0.0 if name.endswith("change") else 1.0) for name in MEASURES}
                ends = {
                    f"{name}_{end}": values[name] + s
                    for name in MEASURES
                    for end, s in (("low", -0.05), ("high", 0.05))
                }
                ablation.append(row | n | {"variant": variant, "copy": copy, "offset": offset} | values | ends)
            for outcome in ("loss", "entropy"):
                for copy in (0, 1):
                    mean = {"mean_change": size, "mean_change_low": size - 0.1, "mean_change_high": size + 0.1}
                    p = 0.5 if row["control_of"] else 0.012
                    tests.append(
                        row | n | mean | {"variant": variant, "outcome": outcome, "copy": copy}
                        | {"n_documents": documents, "t": 1.0, "p_value": p}
                        | {"p_value_holm": None if row["control_of"] else p}
                        | {"n_controls": controls, "p_value_controls": None if row["control_of"] else 0.2}
                    )  # fmt: skip
    none = {"matched": pl.lit(None, pl.Int32), "norm_ratio": pl.lit(None, pl.Float64)}
    selection = pl.DataFrame(chosen, infer_schema_length=None).with_columns(rule=pl.lit("-"), layer=pl.lit(1), **none)
    return {
        "ablation": check_frame(pl.DataFrame(ablation, infer_schema_length=None), "induction_ablation"),
        "tests": check_frame(pl.DataFrame(tests, infer_schema_length=None), "induction_tests"),
        "selection": check_frame(selection, "selection"),
    }


def made(tables: dict[str, pl.DataFrame], kind: str, path: Path, **options: object) -> str:
    saving.save(chart(**tables, model="demo", text="evaluation", kind=kind, **options), [path])
    return path.read_text()


@pytest.mark.parametrize("kind", ["synthetic", "natural"])
def test_a_figure_names_what_was_ablated_and_its_bytes_repeat(kind: str, tmp_path: Path) -> None:
    tables = world(kind)
    names = {"ablation": "induction_ablation", "tests": "induction_tests", "selection": "selection"}
    paths = {name: tmp_path / f"{name}.parquet" for name in names}
    for name, schema in names.items():
        write_table(tables[name], paths[name], schema)
    files = [tmp_path / f"{run}.svg" for run in ("ab" if kind == "natural" else "a")]
    for file in files:
        draw(**paths, figures=[file], model="demo", text="evaluation", kind=kind, level=0.9)
    svg = files[0].read_text()
    assert svg == files[-1].read_text()
    for said in ("model demo", "text evaluation", "20 sequences", "20 documents", "90 % intervals", "nats"):
        assert said in svg
    for said in ("entropy neurons, all 5 jointly", "range of 4 control sets", "5 to 95 % of 20 control neurons"):
        assert said in svg
    assert "token-frequency neurons, all 2 jointly" in svg
    assert "range of 8 control neurons" in svg
    assert "t test p = 0.012, among 4 controls p = 0.2" in svg
    assert ("2nd copy" if kind == "synthetic" else "2nd occurrence") in svg
    assert (">X<" in svg) == (kind == "natural")
    change = tables["tests"].filter((pl.col("kind") == "single") & pl.col("control_of").is_null())
    change = change.filter(pl.col("set").is_in([f"1.{n}" for n in range(5)])).unique("set", maintain_order=True)
    strong = change.sort(pl.col("mean_change").abs(), descending=True)["set"].to_list()
    assert all((f">{name} " in svg) == (name in strong[:3]) for name in strong)
    assert svg.count("NaN") == 0


def test_a_place_that_the_last_copy_lacks_is_not_drawn() -> None:
    tables = world()
    spoilt = pl.when((pl.col("copy") == 0) & (pl.col("offset") == 11)).then(1e6).otherwise("loss_change")
    drawn = chart(**tables, model="demo", text="evaluation", kind="synthetic").to_dict()
    tables["ablation"] = tables["ablation"].with_columns(loss_change=spoilt)
    assert chart(**tables, model="demo", text="evaluation", kind="synthetic").to_dict() == drawn


def test_without_ablation_a_note_says_so(tmp_path: Path) -> None:
    tables = {name: frame.head(0) for name, frame in world().items()}
    assert "no natural repetition" in made(tables, "natural", tmp_path / "none.svg")
    tables["ablation"] = world()["ablation"]  # copies that share no place
    assert "nothing was compared" in made(tables, "synthetic", tmp_path / "none.svg")


def test_what_is_left_out_is_said_and_missing_values_are_drawn_around(tmp_path: Path) -> None:
    tables = world(selections={"a": 1, "b": 2, "c": 2, "d": 1, "e": 1}, controls=0)
    tables["tests"] = tables["tests"].with_columns(
        pl.lit(None, pl.Float64).alias(name)
        for name in ("t", "p_value", "p_value_holm", "p_value_controls", "mean_change_low", "mean_change_high")
    )
    tables["ablation"] = tables["ablation"].with_columns(
        entropy_ratio=pl.when(pl.col("offset") == 3).then(None).otherwise("entropy_ratio"),
        loss_change_low=pl.lit(None, pl.Float64),
        loss_change_high=pl.lit(None, pl.Float64),
    )
    svg = made(tables, "synthetic", tmp_path / "many.svg")
    assert "1 more selection not drawn" in svg
    assert "a neurons, a single one; grey: no controls" in svg
    assert ">e neurons" not in svg
    assert "NaN" not in svg
    one = chart(**tables, model="demo", text="evaluation", kind="synthetic", sets=["e"]).to_json()
    assert "e neurons, a single one" in one
    assert "d neurons" not in one


def test_the_band_is_the_range_of_few_controls_and_percentiles_of_many() -> None:
    for number, low, high in ((4, 0.0, 3.0), (MANY + 1, 1.0, 19.0)):
        rows = pl.DataFrame({"set": [str(i) for i in range(number)], "copy": 0, "at": 5, "x": np.arange(number) * 1.0})
        assert control_band(rows, "x").row(0) == (0, 5, low, high)
    empty = control_band(pl.DataFrame(schema={"set": str, "copy": int, "at": int, "x": float}), "x")
    assert len(empty) == 0


def test_far_controls_do_not_flatten_the_selection() -> None:
    grey = pl.DataFrame({"low": [0.9], "high": [50.0]})
    low, high = vertical(pl.Series([1.1, 1.2]), grey, 1.0)
    assert low < 0.9
    assert 1.4 <= high < 1.5


def test_ratios_far_apart_have_a_logarithmic_axis(tmp_path: Path) -> None:
    """One place of tiny clean entropy had flattened all others: 500 beside ratios of 1 to 3."""
    assert not wide(pl.Series([1.0, FAR - 1.0]))
    assert wide(pl.Series([1.0, None, FAR + 1.0]))
    assert not wide(pl.Series([0.0, 100.0]))
    assert not wide(pl.Series([None], dtype=pl.Float64))
    tables = world()
    far = (pl.col("set") == "token_frequency") & (pl.col("offset") == 3)
    tables["ablation"] = tables["ablation"].with_columns(
        entropy_ratio_high=pl.when(far).then(500.0).otherwise("entropy_ratio_high")
    )
    svg = made(tables, "synthetic", tmp_path / "far.svg")
    assert svg.count(">(logarithmic)<") == 1  # of four panels of ratios
    assert "NaN" not in svg
    assert "(logarithmic)" not in made(world(), "synthetic", tmp_path / "near.svg")


def test_numbers_are_short() -> None:
    minus = theme.MINUS
    assert [signed(v) for v in (0.1234, -0.02, 0.00012)] == ["+0.123", f"{minus}0.020", f"+1.2e{minus}04"]
    assert [p_value(p) for p in (0.0123, 1e-30)] == ["p = 0.012", "p < 0.0001"]
    assert shades("#d55e00", 3) == ["#d55e00", "#6a2f00", "#e8a673"]


def test_the_figure_needs_no_torch() -> None:
    code = "import sys, neuronlab.figures.induction_ablation; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
