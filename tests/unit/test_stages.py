"""Borders of the four stages: synthetic curves with known change points, missing and contradicting ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fake_stages as fake
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.change_points import Curve, bend_costs, common_bend, half_fall
from neuronlab.stages import (
    MIN_LAYERS,
    Border,
    StagesError,
    bend_border,
    borders_of,
    curves_of,
    estimate_stages,
    in_order,
    layers_of,
    stages_frame,
)
from neuronlab.tables import TableError, read_table, write_table

ROOT = Path(__file__).parents[2]
INPUTS = ("interventions", "lens", "vocabulary_counts", "local_attention_layers")
OPTIONS = {"resamples": 200, "level": 0.95, "seed": 0}


def inputs(world: fake.World) -> dict[str, pl.DataFrame]:
    made = {"interventions": fake.interventions(world), "lens": fake.lens(world)}
    made |= fake.vocabulary(world) | fake.attention(world)
    return {name: made[name] for name in INPUTS}


def curve(y: list[float] | np.ndarray, sd: float = 0.01, start: float = 0.0) -> Curve:
    y = np.asarray(y, dtype=float)
    return Curve(np.arange(len(y)) + start, y, y - 1.96 * sd, y + 1.96 * sd)


def bend(curves: dict[str, Curve], n_layers: int, **options: object) -> Border:
    settings_ = {"resamples": 200, "level": 0.95} | options
    return bend_border(curves, n_layers, generator=np.random.default_rng(0), **settings_)


# --- half of the fall ---


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_step_is_found_between_its_layers(step: int) -> None:
    x = np.arange(12.0)
    y = np.where(x < step, 0.6, 0.2)
    assert half_fall(x, y, 12) == pytest.approx(step - 0.5)


def test_the_crossing_is_interpolated() -> None:
    # Falls from 1.0 at layer 1 by 0.2 a layer to 0 at layer 6, and stays: half is 0.5, between layers 3 and 4.
    x = np.arange(18.0)
    assert half_fall(x, np.clip(1.2 - 0.2 * x, 0, 1), 18) == pytest.approx(3.5)


def test_one_odd_layer_makes_no_border() -> None:
    x = np.arange(24.0)
    y = np.where(x < 7, 0.6, 0.2)
    odd = y.copy()
    odd[3] = 0.37  # below half of the way, but alone
    assert half_fall(x, y, 24) == pytest.approx(6.5)
    assert half_fall(x, odd, 24) == pytest.approx(6.5, abs=0.3)
    assert x[odd < 0.4][0] == 3  # the first crossing of the raw curve


def test_a_curve_that_never_falls_has_no_crossing() -> None:
    assert np.isnan(half_fall(np.arange(12.0), np.arange(12.0), 12))


@given(st.lists(st.integers(0, 40), min_size=12, max_size=24), st.integers(-8, 8))
@settings(max_examples=60, deadline=None)
def test_half_of_the_fall_does_not_depend_on_the_unit(values: list[int], power: int) -> None:
    y, x = np.array(values, dtype=float), np.arange(len(values), dtype=float)
    first = half_fall(x, y, len(y))
    np.testing.assert_equal(half_fall(x, y * 2.0**power, len(y)), first)
    assert np.isnan(first) or 0 <= first <= 2 / 3 * (len(y) - 1)


# --- bends ---


def brute_force_bend(x: np.ndarray, y: np.ndarray, bends: np.ndarray) -> list[float]:
    """Unexplained share per bend by scipy-free least squares on the rising limb."""
    top = int(np.argmax(y))
    x, y = x[: top + 1], y[: top + 1]
    shares = []
    for place in bends:
        design = np.column_stack([np.ones_like(x), np.maximum(0, x - place)])
        solution, *_ = np.linalg.lstsq(design, y, rcond=None)
        left = ((y - design @ solution) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        shares.append(left if solution[1] > 1e-12 else 1.0)
    return shares


def test_costs_are_those_of_least_squares() -> None:
    generator = np.random.default_rng(3)
    bends = np.arange(1, 10.1, 0.25)
    y = np.maximum(0, np.arange(12) - 5.0) + generator.normal(0, 0.8, (20, 12))
    found = bend_costs(np.arange(12.0), y, bends)
    expected = [brute_force_bend(np.arange(12.0), row, bends) for row in y]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("place", "start"), [(3.0, 0.0), (5.5, 0.0), (7.25, -0.5), (9.0, 0.0)])
def test_an_exact_bend_is_found(place: float, start: float) -> None:
    x = np.arange(16) + start
    found = bend({"prediction": curve(0.02 + 0.1 * np.maximum(0, x - place), 1e-6, start)}, 16)
    assert found.layer == place
    assert (found.low, found.high) == (place, place)


def test_what_follows_the_maximum_does_not_count() -> None:
    y = np.array([0.0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.15, 0.1, 0.05])
    assert bend({"prediction": curve(y)}, 12).layer == 4.0


def test_a_common_bend_minimises_the_mean_cost() -> None:
    x, bends = np.arange(12.0), np.arange(1, 10.1, 0.25)
    y = np.stack([np.maximum(0, x - 4), np.maximum(0, x - 7)])
    costs = np.stack([bend_costs(x, row[None], bends) for row in y])
    best, cost = common_bend(costs)
    assert 4 < bends[best[0]] < 7
    assert cost[0] == pytest.approx(min(np.mean([costs[0, 0], costs[1, 0]], axis=0)))


def test_a_straight_rise_and_a_flat_curve_have_no_bend() -> None:
    straight = bend({"prediction": curve(np.linspace(0, 1, 12))}, 12)
    assert straight.layer is None
    assert "first layers" in str(straight.reason)
    flat = bend({"suppression": curve(np.full(12, 0.3), 0.02)}, 12)
    assert flat.layer is None
    assert "no rise beyond the intervals" in str(flat.reason)


def test_noise_within_the_intervals_is_no_rise() -> None:
    generator = np.random.default_rng(1)
    found = [bend({"prediction": curve(0.1 + 0.01 * generator.standard_normal(12))}, 12).layer for _ in range(40)]
    assert sum(layer is not None for layer in found) <= 3


def test_the_interval_holds_the_bend_as_often_as_it_says() -> None:
    generator, x, sd = np.random.default_rng(5), np.arange(16.0), 0.06
    truth = 0.1 + 0.1 * np.maximum(0, x - 8.0)
    inside = 0
    for _ in range(60):
        y = truth + sd * generator.standard_normal(16)
        found = bend({"prediction": curve(y, sd)}, 16)
        inside += found.low is not None and found.low <= 8.0 <= found.high
    assert inside >= 52  # 95 % of 60 is 57; fewer than 52 come with a probability of 0.3 %


def test_an_interval_grows_with_the_noise() -> None:
    y = np.maximum(0, np.arange(16) - 8.0) / 10
    widths = []
    for sd in (0.01, 0.03, 0.08):
        found = bend({"prediction": curve(y, sd)}, 16)
        widths.append(found.high - found.low)
    assert widths[0] < widths[1] < widths[2]


def test_a_curve_without_intervals_gives_an_estimate_without_one() -> None:
    y = np.maximum(0, np.arange(12) - 5.0)
    missing = np.full(12, np.nan)
    found = bend({"prediction": Curve(np.arange(12.0), y, missing, missing)}, 12)
    assert (found.layer, found.low, found.high) == (5.0, None, None)


# --- all borders ---


@pytest.mark.parametrize("n_layers", [8, 12, 24, 32, 48])
@pytest.mark.parametrize("seed", [0, 1])
def test_known_borders_are_found(n_layers: int, seed: int) -> None:
    world = fake.World(n_layers=n_layers, seed=seed)
    found, layers = borders_of(inputs(world), **OPTIONS)
    assert layers == n_layers
    truth = np.array(world.borders) * (n_layers - 1)
    # The curves of the third border do not bend in one place: deletion rises from 0.75 on, suppression from 0.85.
    for border, place, tolerance in zip(found, truth, (0.04, 0.04, 0.11), strict=True):
        assert border.reason is None
        assert border.layer == pytest.approx(place, abs=max(0.6, tolerance * n_layers))
        assert border.low <= border.layer <= border.high


@pytest.mark.parametrize("borders", [(0.15, 0.4, 0.75), (0.3, 0.6, 0.8)])
def test_borders_move_with_the_curves(borders: tuple[float, float, float]) -> None:
    world = fake.World(n_layers=32, borders=borders, interventions=("mean",))  # no deletion: suppression decides
    found, _ = borders_of(inputs(world), **OPTIONS)
    assert [border.layer for border in found] == pytest.approx([31 * depth for depth in borders], abs=1.0)


@pytest.mark.parametrize("n_layers", [1, 2, 4, MIN_LAYERS - 1])
def test_not_estimated_below_eight_layers(n_layers: int) -> None:
    found, layers = borders_of(inputs(fake.World(n_layers=n_layers)), **OPTIONS)
    frame = stages_frame(found, layers)
    assert frame["reason"].to_list() == ["not estimated below 8 layers"] * 3
    assert frame.select("layer", "layer_low", "layer_high", "depth").null_count().row(0) == (3, 3, 3, 3)
    assert frame["rule"].str.len_chars().min() > 20


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("local_attention_layers", {0: "nothing measured in local_attention_layers"}),
        ("interventions", {}),
        ("lens", {}),
        ("vocabulary_counts", {}),
    ],
)
def test_a_missing_table_is_said_or_left_to_the_other_curve(left_out: str, missing: dict[int, str]) -> None:
    tables = inputs(fake.World()) | {left_out: None}
    found, _ = borders_of(tables, **OPTIONS)
    assert {i: border.reason for i, border in enumerate(found) if border.layer is None} == missing
    rules = [border.rule for border in found]
    assert ("lens agreement" in rules[1]) == (left_out != "lens")
    assert ("prediction" in rules[1]) == (left_out != "vocabulary_counts")
    assert ("deletion" in rules[2]) == (left_out != "interventions")


def test_nothing_measured_at_all() -> None:
    found, layers = borders_of(dict.fromkeys(INPUTS), **OPTIONS)
    assert layers is None
    assert [border.reason for border in found] == [
        "nothing measured in local_attention_layers",
        "nothing measured in vocabulary_counts and lens",
        "nothing measured in vocabulary_counts and interventions",
    ]
    assert stages_frame(found, layers)["depth"].null_count() == 3


def test_borders_in_the_wrong_order_are_not_kept() -> None:
    kept = in_order([Border("a", 2.0), Border("b", 6.0), Border("c", 9.0)])
    assert [border.layer for border in kept] == [2.0, 6.0, 9.0]
    crossed = in_order([Border("a", 2.0, 1.0, 3.0), Border("b", 9.5), Border("c", 8.0)])
    assert [border.layer for border in crossed] == [2.0, None, None]
    assert crossed[1].reason == crossed[2].reason == "out of order: border 1 at layer 9.50, border 2 at layer 8.00"
    assert crossed[1].rule == "b"
    around = in_order([Border("a", 5.0), Border("b", reason="flat"), Border("c", 4.0)])
    assert [border.layer for border in around] == [None, None, None]
    assert around[1].reason == "flat"


def test_early_layers_do_not_make_the_last_border() -> None:
    """Deleting layer 0 changes most; only the second half of the layers counts."""
    found = curves_of(inputs(fake.World()))["deletion"]
    assert found.x.min() == 6
    assert found.x.max() == 11


def test_the_lens_lies_between_layers_without_the_models_own_output() -> None:
    """Logit lens p is what block p - 1 wrote and block p reads; the last one agrees with itself."""
    world = fake.World()
    found = curves_of(inputs(world))["agreement"]
    np.testing.assert_array_equal(found.x, np.arange(12) - 0.5)
    assert found.y.max() < 1


def test_a_flat_local_attention_is_not_estimated() -> None:
    tables = inputs(fake.World())
    flat = pl.lit(0.4)
    tables["local_attention_layers"] = tables["local_attention_layers"].with_columns(
        attention=flat, attention_low=flat - 0.01, attention_high=flat + 0.01
    )
    found, _ = borders_of(tables, **OPTIONS)
    assert found[0].layer is None
    assert "does not fall" in str(found[0].reason)
    assert found[1].layer is not None


@pytest.mark.parametrize(("kind", "border"), [("prediction", 1), ("suppression", 2)])
def test_a_stage_without_the_neurons_that_it_is_known_by_is_not_estimated(kind: str, border: int) -> None:
    """A narrow model has none with a heavy tail: the lens' agreement or deletion's effect alone is no such stage."""
    tables = inputs(fake.World())
    none = pl.col("kind") == kind
    shares = {"share": 0.0, "share_low": 0.0, "share_high": 0.01}
    tables["vocabulary_counts"] = tables["vocabulary_counts"].with_columns(
        pl.when(none).then(0).otherwise("n").alias("n"),
        *(pl.when(none).then(value).otherwise(name).alias(name) for name, value in shares.items()),
    )
    found, _ = borders_of(tables, **OPTIONS)
    assert found[border].layer is None
    assert found[border].reason == f"no rise beyond the intervals: share of {kind} neurons"
    assert all(found[other].layer is not None for other in range(3) if other != border)
    without, _ = borders_of(tables | {"vocabulary_counts": None}, **OPTIONS)
    assert without[border].layer is not None  # not counted: the other curve decides, and the rule says so
    assert "neurons" not in without[border].rule


def test_layers_without_a_neuron_are_left_out() -> None:
    """A layer whose neurons write nothing has no share."""
    tables = inputs(fake.World(n_layers=24))
    dead = pl.when(pl.col("layer") == 3).then(None)
    shares = [dead.otherwise(pl.col(name)).alias(name) for name in ("share", "share_low", "share_high")]
    tables["vocabulary_counts"] = tables["vocabulary_counts"].with_columns(shares)
    found, _ = borders_of(tables, **OPTIONS)
    assert found[1].layer == pytest.approx(11.5, abs=0.75)


def test_layers_are_counted_without_swaps_and_must_agree() -> None:
    tables = inputs(fake.World())
    few = tables["interventions"].filter(pl.col("intervention") == "swap").head(1)
    assert layers_of(tables | {"interventions": few}) == 12
    with pytest.raises(StagesError, match=r"different numbers of layers.*lens 8"):
        layers_of(tables | {"lens": fake.lens(fake.World(n_layers=8))})


def test_the_rule_writes_a_table_with_the_same_bytes(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.parquet" for name in INPUTS}
    for name, frame in inputs(fake.World()).items():
        write_table(frame, paths[name], name)
    outputs = [tmp_path / f"stages{i}.parquet" for i in range(2)]
    for output in outputs:
        estimate_stages(**paths, stages=output, **OPTIONS, provenance={"rule": "estimate_stages"})
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    found = read_table(outputs[0], "stages")
    assert found["before"].to_list() == ["detokenization", "feature engineering", "prediction ensembling"]
    assert found["after"].to_list() == ["feature engineering", "prediction ensembling", "residual sharpening"]
    np.testing.assert_allclose(found["depth"], found["layer"] / 11)
    estimate_stages(**(paths | {"lens": None}), stages=outputs[1], **OPTIONS)
    assert "lens" not in read_table(outputs[1], "stages")["rule"][1]
    with pytest.raises(TableError, match="no such table"):
        estimate_stages(**(paths | {"lens": tmp_path / "none.parquet"}), stages=outputs[1], **OPTIONS)


def test_one_document_gives_estimates_without_intervals() -> None:
    tables = inputs(fake.World())
    for name, columns in (
        ("local_attention_layers", ["attention"]),
        ("lens", ["agreement"]),
        ("interventions", ["kl"]),
    ):
        ends = [f"{column}_{end}" for column in columns for end in ("low", "high")]
        tables[name] = tables[name].with_columns(pl.lit(None, pl.Float64).alias(end) for end in ends)
    found, _ = borders_of(tables, **OPTIONS)
    assert all(border.layer is not None and border.low is None and border.high is None for border in found)


def test_torch_is_not_needed() -> None:
    code = "import sys, neuronlab.stages; sys.exit('torch' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow_scripts", check=False)
    assert made.returncode == 0
