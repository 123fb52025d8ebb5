"""Figures of weights and activations as study B shows them: what is drawn and said; labels, thinning, empty tables."""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import fake_tables
import numpy as np
import polars as pl
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.figures import (
    activation_densities,
    dots,
    groups,
    layer_trends,
    norm_distributions,
    norm_logitvar_layers,
    points,
    saving,
    selected_neurons,
    theme,
)
from neuronlab.figures.points import Axis
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame, write_table

FIGURES = {
    "selected_neurons": ("neurons", "null_space", "selection"),
    "norm_logitvar_layers": ("neurons", "selection"),
    "layer_trends": ("neurons", "null_space", "selection"),
    "norm_distributions": ("neurons", "selection"),
}
REPLACEMENTS = ["mean", "median", "mode", "mean-3sd", "mean+3sd", "zero"]


@pytest.fixture(scope="module")
def world() -> fake_tables.World:
    return fake_tables.World(n_layers=3, n_neurons=160, d_model=64)


@pytest.fixture(scope="module")
def tables(world: fake_tables.World) -> dict[str, pl.DataFrame]:
    return fake_tables.fake_tables(world)


def made(name: str, tables: dict[str, pl.DataFrame], **options: object) -> alt.TopLevelMixin:
    module = importlib.import_module(f"neuronlab.figures.{name}")
    return module.chart(*(tables[table] for table in FIGURES[name]), model="demo", **options)


def said(chart: alt.TopLevelMixin) -> str:
    return " | ".join(chart.title.subtitle)


def svg(chart: alt.TopLevelMixin, tmp_path: Path) -> str:
    """The picture; it must be well-formed, of finite size and free of undefined numbers."""
    saving.save(chart, [tmp_path / "figure.svg"])
    text = (tmp_path / "figure.svg").read_text()
    root = ElementTree.fromstring(text)
    assert max(float(root.attrib[side]) for side in ("width", "height")) < 2600
    assert "NaN" not in text
    assert "Infinity" not in text
    return text


def words(drawn: str) -> list[str]:
    texts = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    return [line for text in texts for line in text.itertext()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_model_numbers_and_sets_and_its_bytes_repeat(
    name: str, tables: dict[str, pl.DataFrame], world: fake_tables.World, tmp_path: Path
) -> None:
    paths = {table: tmp_path / f"{table}.parquet" for table in FIGURES[name]}
    for table, path in paths.items():
        write_table(tables[table], path, table)
    module = importlib.import_module(f"neuronlab.figures.{name}")
    for run in ("a", "b"):
        module.draw(**paths, figures=[tmp_path / f"{run}.svg"], model="demo")
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    text = " ".join(words(drawn))
    assert "model demo" in text
    assert ("480 neurons" if "layer_" in name or "layers" in name else "160 neurons") in text
    assert "entropy neurons (6)" in text
    assert "token-frequency neurons (5)" in text
    if "null_space" in FIGURES[name]:
        assert f"k = {world.k}" in text
    if name in ("selected_neurons", "norm_distributions"):
        assert not [neuron for neuron in world.entropy if f"{world.last}.{neuron}" not in words(drawn)]


@pytest.mark.parametrize("name", FIGURES)
def test_no_selection_no_writing_neuron_and_no_neuron_are_said(
    name: str, tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    nobody = tables | {"selection": tables["selection"].clear()}
    drawn = svg(made(name, nobody), tmp_path)
    assert "no neuron selected" in drawn
    assert "entropy neurons" not in drawn
    silent = nobody | {
        "neurons": nobody["neurons"].with_columns(logit_var=pl.lit(None, pl.Float64), norm=pl.lit(0.0)),
        "null_space": nobody["null_space"].with_columns(
            rho=pl.lit(None, pl.Float64), rho_excess=pl.lit(None, pl.Float64)
        ),
    }
    text = " ".join(words(svg(made(name, silent), tmp_path)))
    assert "output weights are zero" in text or name == "norm_distributions"
    empty = {table: tables[table].clear() for table in FIGURES[name]}
    text = " ".join(words(svg(made(name, empty), tmp_path)))
    assert "no neuron" in text
    assert "model demo" in text


def test_controls_and_other_values_of_k_do_not_enter(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    frame, silent = selected_neurons.prepare(
        tables["neurons"], tables["null_space"], tables["selection"], k=world.k // 2
    )
    assert silent == 0
    assert len(frame) == world.n_neurons
    rho = {
        row["neuron"]: row["rho"]
        for row in tables["null_space"].iter_rows(named=True)
        if row["layer"] == world.last and row["k"] == world.k // 2
    }
    assert dict(frame.select("neuron", "rho").iter_rows()) == rho
    found = {group: set(rows["neuron"]) for (group,), rows in frame.group_by("group")}
    assert found == {
        "entropy neurons": set(world.entropy),
        "token-frequency neurons": set(world.frequency),
        groups.OTHERS: set(range(world.n_neurons)) - {*world.entropy, *world.frequency},
    }
    chance = selected_neurons.chance(tables["null_space"], world.k)
    assert chance == pytest.approx(np.sqrt(world.k / world.d_model), abs=1e-12)
    assert f"rho of a random direction, {chance:.2f}" in said(made("selected_neurons", tables))
    with pytest.raises(ValueError, match=r"no rho for k = 99.*4, 8"):
        made("selected_neurons", tables, k=99)


def test_small_values_of_rho_fill_the_panel_and_large_ones_share_an_axis() -> None:
    none = pl.Series([None], dtype=pl.Float64)
    assert selected_neurons.rho_domain(pl.Series([0.9, None]), none) == (0.0, 1.0)
    assert selected_neurons.rho_domain(pl.Series([0.1]), pl.Series([0.2])) == (0.0, pytest.approx(0.23))
    assert selected_neurons.rho_domain(pl.Series([0.0])) == (0.0, 0.05)
    assert selected_neurons.rho_domain(none) == (0.0, 1.0)


def test_only_the_sets_asked_for_are_marked(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    for name in FIGURES:
        drawn = svg(made(name, tables, sets=["token_frequency"]), tmp_path)
        assert "token-frequency neurons" in drawn
        assert "entropy neurons" not in drawn


def test_neurons_that_write_nothing_are_counted(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    silent = pl.col("neuron") < 7
    none = pl.lit(None, pl.Float64)
    changed = tables | {
        "neurons": tables["neurons"].with_columns(logit_var=pl.when(silent).then(none).otherwise("logit_var")),
        "null_space": tables["null_space"].with_columns(rho=pl.when(silent).then(none).otherwise("rho")),
    }
    assert "7 neurons left out: output weights are zero" in said(made("selected_neurons", changed))
    assert "21 neurons left out: output weights are zero" in said(made("norm_logitvar_layers", changed))
    assert "21 neurons without LogitVar and rho" in said(made("layer_trends", changed))
    bands, _ = layer_trends.prepare(changed["neurons"], changed["null_space"], changed["selection"], k=world.k)
    kept = changed["neurons"].filter((pl.col("layer") == 1) & ~silent)["logit_var"]
    own = bands.filter((pl.col("measure") == "logit_var") & (pl.col("layer") == 1))
    assert own["p05"].item() == pytest.approx(np.quantile(kept.to_numpy(), 0.05))


def boxes(placed: pl.DataFrame, x: Axis, y: Axis) -> np.ndarray:
    """Left, low, right, high of every label in pixels, from what is drawn: centred text of 12 pixels."""
    at_x, at_y = x.place(placed["label_x"].to_numpy()), y.place(placed["label_y"].to_numpy())
    half = np.array([len(label) for label in placed["label"]]) * theme.LABEL_SIZE * 0.56 / 2
    return np.column_stack([at_x - half, at_y - theme.LABEL_SIZE / 2, at_x + half, at_y + theme.LABEL_SIZE / 2])


def overlaps(found: np.ndarray) -> int:
    pairs = itertools.combinations(found, 2)
    return sum(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in pairs)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 14))
def test_labels_of_a_crowd_do_not_overlap(seed: int, count: int) -> None:
    """As many neurons as published sets have, within a tenth of the panel."""
    rng = np.random.default_rng(seed)
    x, y = Axis("a", "a", (0.0, 1.0), pixels=540), Axis("b", "b", (0.0, 1.0), pixels=420)
    frame = pl.DataFrame(
        {
            "a": 0.3 + 0.1 * rng.random(count),
            "b": 0.8 + 0.1 * rng.random(count),
            "label": [f"31.{n}" for n in rng.integers(0, 14336, count)],
        }
    )
    placed = points.place_labels(frame, x, y, rounds=selected_neurons.ROUNDS)
    found = boxes(placed, x, y)
    assert overlaps(found) == 0
    assert (found[:, 0] > 0).all()
    assert (found[:, 2] < 540).all()
    assert (found[:, 3] < 420).all()
    again = points.place_labels(frame, x, y, rounds=selected_neurons.ROUNDS)
    assert placed.equals(again)


def test_a_cloud_is_one_path_with_every_point_where_it_belongs() -> None:
    rng = np.random.default_rng(0)
    x, y = Axis("a", "a", (-4.0, 4.0), pixels=300), Axis("b", "b", (0.01, 100.0), log=True, pixels=200)
    frame = pl.DataFrame({"a": rng.normal(0, 1, 70), "b": np.exp(rng.normal(0, 1, 70))})
    chart = dots.dots(frame, x, y, alt.value("#123456")).properties(width=300, height=200).configure_axis(grid=False)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())  # as the renderer writes it: absolute coordinates
    paths = [path for path in ElementTree.fromstring(drawn).iter() if path.attrib.get("stroke") == "#123456"]
    assert len(paths) == 1
    starts = re.findall(r"M(-?[\d.]+),(-?[\d.]+)L(-?[\d.]+),(-?[\d.]+)", paths[0].attrib["d"])
    assert paths[0].attrib["d"].count("L") == len(starts) == 70
    found = np.array(starts, dtype=float)
    np.testing.assert_allclose(found[:, 0], x.place(frame["a"].to_numpy()), atol=2e-3)
    np.testing.assert_allclose(found[:, 1], 200 - y.place(frame["b"].to_numpy()), atol=2e-3)
    np.testing.assert_allclose(found[:, 2] - found[:, 0], dots.STROKE, atol=2e-3)
    assert paths[0].attrib["stroke-linecap"] == "round"


def test_strokes_of_nothing_and_with_further_columns() -> None:
    x, y = Axis("a", "a", (0.0, 1.0)), Axis("b", "b", (0.0, 1.0))
    frame = pl.DataFrame({"a": [0.5, 0.25], "b": [0.1, 0.9], "layer": [3, 7]})
    rows = dots.strokes(frame, x, y, ["layer"])
    assert rows["layer"].to_list() == [3, 3, 3, 7, 7, 7]
    assert rows["a"].is_null().to_list() == [False, False, True] * 2
    assert len(dots.strokes(frame.clear(), x, y, ["layer"])) == 0


@given(panels=st.integers(1, 200))
def test_the_grid_is_a_page_wide(panels: int) -> None:
    columns = norm_logitvar_layers.grid_columns(panels)
    assert columns <= 10
    assert columns == panels if panels <= 4 else columns >= 3


@pytest.mark.parametrize("layers", [2, 3, 4, 6, 12, 16, 24, 32, 36, 40, 48, 80])
def test_common_depths_fill_their_last_row(layers: int) -> None:
    assert layers % norm_logitvar_layers.grid_columns(layers) == 0


def test_many_neurons_are_thinned_and_selected_ones_never(tmp_path: Path) -> None:
    world = fake_tables.World(n_layers=80, n_neurons=300, d_model=64)
    rng = np.random.default_rng(0)
    neurons = check_frame(fake_tables._completed(fake_tables._neurons(world, rng), "neurons"), "neurons")
    selection = check_frame(fake_tables._selection(world), "selection")
    chart = norm_logitvar_layers.chart(neurons, selection, model="deep")
    drawn = svg(chart, tmp_path)
    shown, total = re.search(r"([\d,]+) of ([\d,]+) other neurons drawn", said(chart)).groups()
    assert int(total.replace(",", "")) == 80 * 300 - 11
    assert int(shown.replace(",", "")) <= norm_logitvar_layers.POINTS
    assert len(drawn) < 500_000
    assert drawn.count(theme.VERMILION) == 6 + 1  # the neurons, and the legend
    assert words(drawn).count("layer 79") == 1


def test_bands_of_a_layer_are_quantiles_of_its_neurons(
    tables: dict[str, pl.DataFrame], world: fake_tables.World
) -> None:
    bands, marked = layer_trends.prepare(tables["neurons"], tables["null_space"], tables["selection"], k=world.k)
    rho = tables["null_space"].filter(pl.col("k") == world.k)
    for measure, frame in {"norm": tables["neurons"], "logit_var": tables["neurons"], "rho": rho}.items():
        for layer in range(world.n_layers):
            values = frame.filter(pl.col("layer") == layer)[measure].to_numpy()
            own = bands.filter((pl.col("measure") == measure) & (pl.col("layer") == layer))
            expected = np.quantile(values, list(layer_trends.QUANTILES.values()))
            np.testing.assert_allclose(own.select(list(layer_trends.QUANTILES)).row(0), expected, rtol=1e-12)
    np.testing.assert_allclose(bands["chance"], np.sqrt(world.k / world.d_model), rtol=1e-12)
    norms = {row["neuron"]: row["norm"] for row in tables["neurons"].iter_rows(named=True) if row["layer"] == 2}
    own = marked.filter((pl.col("measure") == "norm") & (pl.col("group") == "entropy neurons"))
    assert dict(own.select("neuron", "value").iter_rows()) == {n: norms[n] for n in world.entropy}
    assert set(own["layer"]) == {world.last}


def test_the_histogram_of_norms_holds_all_others_and_the_median_is_placed(
    tables: dict[str, pl.DataFrame], world: fake_tables.World
) -> None:
    frame = norm_distributions.prepare(tables["neurons"], tables["selection"])
    others = frame.filter(pl.col("group") == groups.OTHERS)
    x = Axis("norm", "norm", tuple(theme.linear_domain(frame["norm"])))
    assert norm_distributions.histogram(others["norm"], x)["neurons"].sum() == len(others) == 149
    rows = pl.DataFrame({"norm": [1.0, 3.0, 5.0]})
    rest = pl.DataFrame({"norm": [0.5, 1.0, 2.0, 4.0]})
    assert norm_distributions.summary(rows, "x", rest) == "x (3): median norm 3, above 75 % of the others"
    assert norm_distributions.summary(rows.clear(), "x", rest) == "x: none"
    assert norm_distributions.summary(rows, "x") == "x (3): median norm 3"
    assert "100 %" in norm_distributions.summary(rows, "x", pl.DataFrame({"norm": [0.1]}))


@settings(max_examples=50, deadline=None)
@given(norms=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=30))
def test_names_on_a_line_of_norms_do_not_overlap(norms: list[float]) -> None:
    x = Axis("norm", "norm", (0.0, 10.0), pixels=norm_distributions.WIDTH)
    rows = pl.DataFrame({"norm": norms, "label": [f"11.{i}" for i in range(len(norms))]})
    tiers = norm_distributions._tiers(rows, x)
    assert 1 <= len(tiers) <= len(rows)
    for tier in (0, 1):
        own = tiers.filter(pl.col("tier") == tier).sort("norm")
        half = own["label"].str.len_chars().to_numpy() * theme.LABEL_SIZE * 0.28
        at = x.place(own["norm"].to_numpy())
        assert (at[1:] - half[1:] > at[:-1] + half[:-1]).all()


def test_neurons_of_one_norm_are_drawn(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    flat = tables | {"neurons": tables["neurons"].with_columns(norm=pl.lit(1.5), logit_var=pl.lit(0.01))}
    for name in FIGURES:
        assert "entropy neurons (6)" in svg(made(name, flat), tmp_path)


# Activations


def copying_sets(world: fake_tables.World, **sizes: int) -> pl.DataFrame:
    rows = [("entropy", "selection", None, world.entropy), ("mine", "selection", None, world.frequency)]
    rows += [("entropy/uniform_000", "uniform", "entropy", world.uniform)]
    # A set that shares neurons with the other selection must not make them random controls.
    rows += [("entropy/uniform_001", "uniform", "entropy", world.frequency)]
    rows += [("entropy/synthetic_000", "synthetic", "entropy", world.entropy)]
    frame = pl.DataFrame(
        [
            {"set": name, "kind": kind, "control_of": of, "layer": world.last, "neuron": n, "rank": i, "norm": 1.0}
            for name, kind, of, neurons in rows
            for i, n in enumerate(neurons)
        ]
    )
    missing = {"matched": pl.Int32, "norm_ratio": pl.Float64, "draw": pl.Int32}
    return check_frame(frame.with_columns(pl.lit(None, t).alias(c) for c, t in missing.items()), "copying_sets")


def test_activations_of_selected_and_of_as_many_random_neurons(
    tables: dict[str, pl.DataFrame], world: fake_tables.World, tmp_path: Path
) -> None:
    statistics, sets = tables["activation_statistics"], copying_sets(world)
    found = activation_densities.blocks(sets)
    assert [block.name for block in found] == [
        "entropy neurons",
        "mine neurons",
        activation_densities.RANDOM,
    ]
    assert [len(block.neurons) for block in found] == [6, 5, 6]
    assert set(found[2].neurons) <= set(world.uniform)
    assert not set(found[2].neurons) & {*world.entropy, *world.frequency}
    assert activation_densities.blocks(sets, seed=1)[2].neurons != found[2].neurons
    write_table(statistics, tmp_path / "statistics.parquet", "activation_statistics")
    write_table(sets, tmp_path / "sets.parquet", "copying_sets")
    for run in ("a", "b"):
        activation_densities.draw(
            statistics=tmp_path / "statistics.parquet",
            sets=tmp_path / "sets.parquet",
            figures=[tmp_path / f"{run}.svg"],
            model="demo",
            facts="pararel",
            replacements=REPLACEMENTS,
        )
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    assert len(drawn) < 500_000
    text = words(drawn)
    for name in REPLACEMENTS:
        assert text.count(name) == 3, name  # once for each row of panels
    for neuron in [*world.entropy, *world.frequency, *found[2].neurons]:
        assert f"{world.last}.{neuron}" in text
    whole = " ".join(text)
    assert "facts pararel" in whole
    assert "entropy neurons (6)" in whole
    assert f"random control neurons (6 of {len(world.uniform)})" in whole
    assert "tokens of conflict prompts" in whole


def test_a_large_set_alone_shows_twelve(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    one = copying_sets(world).filter(pl.col("set") == "entropy").head(1)
    big = pl.concat([one.with_columns(neuron=pl.lit(n, pl.Int32), rank=pl.lit(n, pl.Int32)) for n in range(14)])
    (block,) = activation_densities.blocks(big)
    assert (block.total, len(block.neurons)) == (14, 12)
    made = activation_densities.chart(
        tables["activation_statistics"], big, model="demo", facts="pararel", replacements=["mean"]
    )
    assert made.to_dict(context={"pre_transform": False})["vconcat"][0]["title"]["text"] == "entropy neurons (12 of 14)"


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=300), low=st.floats(-3, 3), width=st.floats(0.1, 5))
def test_merged_bins_hold_every_token_once(counts: list[int], low: float, width: float) -> None:
    edges, shares = activation_densities.merged_bins(counts, low, low + width)
    assert len(shares) == len(edges) - 1 <= activation_densities.BINS
    assert edges[0] == pytest.approx(low)
    assert edges[-1] == pytest.approx(low + width)
    fine = low + width * (np.arange(len(counts)) + 0.5) / len(counts)
    expected = np.histogram(fine, edges, weights=counts)[0] / max(sum(counts), 1)
    np.testing.assert_allclose(shares, expected, atol=1e-12)


def test_a_constant_activation_has_one_bin_around_it(
    tables: dict[str, pl.DataFrame], world: fake_tables.World, tmp_path: Path
) -> None:
    edges, shares = activation_densities.merged_bins([0, 0, 9], 0.25, 0.25)
    assert edges.tolist() == [-0.25, 0.75]
    assert shares.tolist() == [1.0]
    dead = tables["activation_statistics"].with_columns(
        mean=pl.lit(0.0), sd=pl.lit(0.0), min=pl.lit(0.0), max=pl.lit(0.0), median=pl.lit(0.0), mode=pl.lit(0.0)
    )
    options = {"model": "demo", "facts": "pararel", "replacements": REPLACEMENTS}
    assert "entropy neurons (6)" in svg(activation_densities.chart(dead, copying_sets(world), **options), tmp_path)


def test_marked_values_are_what_an_ablation_would_put_there(tables: dict[str, pl.DataFrame]) -> None:
    rows = tables["activation_statistics"].head(9)
    found = activation_densities.replaced(rows, [*REPLACEMENTS, "constant:1.5"])
    for i, row in enumerate(rows.iter_rows(named=True)):
        assert found["mean"][i] == row["mean"]
        assert found["mode"][i] == row["mode"]
        assert found["mean-3sd"][i] == max(row["mean"] - 3 * row["sd"], row["min"]) == row["min"]
        assert found["mean+3sd"][i] == min(row["mean"] + 3 * row["sd"], row["max"])
        assert (found["zero"][i], found["constant:1.5"][i]) == (0.0, 1.5)


def test_activations_of_nobody_and_unmeasured_ones_are_said(
    tables: dict[str, pl.DataFrame], world: fake_tables.World, tmp_path: Path
) -> None:
    statistics, sets = tables["activation_statistics"], copying_sets(world)
    options = {"model": "demo", "facts": "pararel", "replacements": REPLACEMENTS}
    empty = pl.DataFrame(schema={name: spec.dtype for name, spec in SCHEMAS["copying_sets"].items()})
    assert "no neuron is selected" in svg(activation_densities.chart(statistics, empty, **options), tmp_path)
    chart = activation_densities.chart(statistics.clear(), sets, **options)
    assert "no activation was measured" in svg(chart, tmp_path)
    alone = sets.filter(pl.col("kind") != "uniform")
    assert activation_densities.RANDOM not in svg(activation_densities.chart(statistics, alone, **options), tmp_path)
