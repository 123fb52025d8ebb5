"""Figures of attention heads: what is shown, what is left out, and that tables of any size are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import fake_induction_tables as fake
import numpy as np
import polars as pl
import pytest
import vl_convert
from neuronlab.figures import groups, head_ablation, head_neurons, induction_heads, saving, theme
from neuronlab.tables import write_table


@pytest.fixture(scope="module")
def world() -> fake.World:
    return fake.World()


@pytest.fixture(scope="module")
def heads(world: fake.World) -> pl.DataFrame:
    return fake.fake_heads(world)


@pytest.fixture(scope="module")
def ablation(world: fake.World) -> pl.DataFrame:
    return fake.fake_head_ablation(world)


@pytest.fixture(scope="module")
def neurons(world: fake.World) -> pl.DataFrame:
    return fake.fake_head_neurons(world)


@pytest.fixture(scope="module")
def selection(world: fake.World) -> pl.DataFrame:
    return fake.fake_selection(world)


def subtitle(chart: alt.TopLevelMixin) -> str:
    return " | ".join(chart.to_dict(context={"pre_transform": False})["title"]["subtitle"])


def svg(chart: alt.TopLevelMixin, tmp_path: Path) -> str:
    """The picture; it must be well-formed and free of undefined numbers."""
    saving.save(chart, [tmp_path / "figure.svg"])
    text = (tmp_path / "figure.svg").read_text()
    ElementTree.fromstring(text)
    assert "NaN" not in text
    assert "undefined" not in text
    return text


# induction_heads


def test_best_heads_are_ranked_on_the_heat_maps_source(heads: pl.DataFrame, world: fake.World) -> None:
    assert induction_heads.map_source(heads) == "random"
    assert induction_heads.map_source(heads.filter(pl.col("source") != "random")) == "synthetic"
    best = induction_heads.best_heads(heads, "random", 5)
    scores = {
        f"{row['layer']}.{row['head']}": row["score"]
        for row in heads.filter(pl.col("source") == "random").iter_rows(named=True)
    }
    expected = sorted(scores, key=lambda name: -scores[name])[:5]
    assert best["name"].unique(maintain_order=True).to_list() == expected
    assert expected[:3] == [world.name(head) for head in world.induction]
    assert best.filter(pl.col("name") == expected[0])["source"].to_list() == ["random", "synthetic", "natural"]
    for row in best.iter_rows(named=True):
        own = heads.filter(
            (pl.col("source") == row["source"]) & (pl.col("layer") == row["layer"]) & (pl.col("head") == row["head"])
        )
        assert row["score"] == own["score"].item()
    unscored = heads.with_columns(score=pl.when(pl.col("rank") == 0).then(None).otherwise("score"))
    left = induction_heads.best_heads(unscored, "random", 5)["name"].unique(maintain_order=True).to_list()
    assert left[:4] == expected[1:]


def test_every_head_has_a_cell_and_induction_heads_an_outline(
    heads: pl.DataFrame, world: fake.World, tmp_path: Path
) -> None:
    chart = induction_heads.chart(heads, model="demo", text="evaluation", threshold=0.7, level=0.9)
    said = subtitle(chart)
    scores = heads.filter(pl.col("source") == "random")["score"].to_numpy()
    assert f"{(scores > 0.7).sum()} of {len(world.heads)} heads above the threshold of 0.7 on random tokens" in said
    assert "90 % intervals" in said
    assert "random 32, synthetic 32, natural 32" in said
    drawn = svg(chart, tmp_path)
    # Text within cells: one score of two digits each.
    for score in scores:
        assert f">{score:.2f}<" in drawn
    # As the renderer writes it: the file draws outlines that touch each other as one path.
    outlines = vl_convert.vegalite_to_svg(chart.to_dict())
    assert outlines.count(f'stroke="{theme.VERMILION}" stroke-width="2.4"') == (scores > 0.7).sum()


@pytest.mark.parametrize(("n_layers", "n_heads"), [(1, 1), (2, 4), (48, 25), (80, 64)])
def test_heat_maps_of_any_size_fit_the_page(n_layers: int, n_heads: int, tmp_path: Path) -> None:
    world = fake.World(n_layers=n_layers, n_heads=n_heads, n_induction=min(3, n_layers * n_heads))
    drawn = svg(induction_heads.chart(fake.fake_heads(world), model="demo", text="evaluation"), tmp_path)
    width, height = (float(ElementTree.fromstring(drawn).attrib[name]) for name in ("width", "height"))
    assert width < 960
    assert height < 720


def test_heads_without_scores_or_sources_are_drawn(heads: pl.DataFrame, tmp_path: Path) -> None:
    columns = ["score", "score_low", "score_high"]
    some = heads.with_columns(pl.when(pl.col("layer") == 0).then(None).otherwise(pl.col(columns)).name.keep())
    assert "6 heads without a score" in subtitle(induction_heads.chart(some, model="demo"))
    svg(induction_heads.chart(some, model="demo"), tmp_path)
    none = heads.with_columns(pl.lit(None, pl.Float64).alias(name) for name in columns)
    svg(induction_heads.chart(none, model="demo"), tmp_path)
    no_interval = heads.with_columns(pl.lit(None, pl.Float64).alias(name) for name in columns[1:])
    svg(induction_heads.chart(no_interval, model="demo"), tmp_path)
    natural = heads.filter(pl.col("source") == "natural")
    assert "on natural tokens" in subtitle(induction_heads.chart(natural, model="demo"))
    assert "no head was scored" in svg(induction_heads.chart(heads.clear(), model="demo"), tmp_path)


# head_ablation


def test_lines_are_top_sets_by_size(ablation: pl.DataFrame, world: fake.World) -> None:
    names = [world.name(*world.induction[: i + 1]) for i in range(3)]
    assert head_ablation.shown_sets(ablation) == names
    assert head_ablation.main_set(ablation) == names[-1]
    assert head_ablation.set_colours(ablation)[names[-1]] == theme.VERMILION
    configured = ablation.filter(pl.col("set") == names[0]).with_columns(
        role=pl.lit("configured"), set=pl.lit("0.0+0.1+0.2+0.3")
    )
    more = pl.concat([ablation, configured])
    assert head_ablation.shown_sets(more) == [*names, "0.0+0.1+0.2+0.3"]
    assert head_ablation.main_set(more) == names[-1]
    assert len(set(head_ablation.set_colours(more).values())) == 4
    assert head_ablation.main_set(configured) == "0.0+0.1+0.2+0.3"
    single = ablation.filter(pl.col("role") == "single")
    assert head_ablation.shown_sets(single) == single["set"].unique(maintain_order=True).to_list()
    baseline = ablation.filter(pl.col("role") == "baseline")
    assert head_ablation.shown_sets(baseline) == []
    # A set that is configured and a top set at once has one line and one colour.
    twice = pl.concat([ablation, ablation.filter(pl.col("role") == "top").with_columns(role=pl.lit("configured"))])
    assert head_ablation.set_colours(twice) == head_ablation.set_colours(ablation)


def test_neurons_are_those_that_move_most(ablation: pl.DataFrame, selection: pl.DataFrame, world: fake.World) -> None:
    main, sums = world.name(*world.induction), {}
    for row in ablation.iter_rows(named=True):
        if (row["set"], row["method"], row["quantity"], row["copy"]) == (main, "bos", "activation", 1):
            sums.setdefault(row["neuron"], []).append(row["change"])
    sizes = {neuron: abs(np.mean(sums[neuron])) for neuron in world.entropy}
    expected = sorted(sizes, key=lambda neuron: -sizes[neuron])[:3]
    found = head_ablation.moved_neurons(ablation, selection)
    assert found == [(world.n_layers - 1, neuron, "entropy") for neuron in expected]
    only = selection.filter(pl.col("set") == "token_frequency")
    assert {neuron for _, neuron, _ in head_ablation.moved_neurons(ablation, only)} == set(world.others)
    assert head_ablation.moved_neurons(ablation, selection.clear()) == []
    elsewhere = selection.with_columns(layer=pl.lit(0, pl.Int32))
    assert head_ablation.moved_neurons(ablation, elsewhere) == []


def test_lines_are_levels_of_activations_and_changes_of_all_else(ablation: pl.DataFrame, world: fake.World) -> None:
    table, main = head_ablation.with_position(ablation), world.name(*world.induction)
    neuron = (world.n_layers - 1, world.entropy[0])
    rows = [
        row
        for row in ablation.iter_rows(named=True)
        if row["method"] == "mean" and row["quantity"] == "activation" and row["neuron"] == neuron[1]
    ]
    found = head_ablation.lines(table, "mean", "activation", neuron)
    at = {(row["series"], row["position"]): row for row in found.iter_rows(named=True)}
    expected = 0
    for row in rows:
        position = 1 + row["copy"] * world.length + row["offset"]
        if row["role"] == "top":
            own = at[row["set"], position]
            assert own["y"] == pytest.approx(row["clean"] + row["change"])
            assert own["low"] == pytest.approx(row["clean"] + row["change_low"])
            assert own["high"] == pytest.approx(row["clean"] + row["change_high"])
            assert at["clean", position]["y"] == row["clean"]
            expected += 1
        elif row["role"] == "baseline" and row["control_of"] == main:
            assert at[f"baseline {row['set']}", position]["y"] == pytest.approx(row["clean"] + row["change"])
            expected += 1
    assert len(found) == expected + 2 * world.length
    entropy = head_ablation.lines(table, "bos", "entropy", None)
    assert "clean" not in entropy["series"]
    whole = ablation.filter((pl.col("method") == "bos") & (pl.col("quantity") == "entropy") & (pl.col("set") == main))
    assert entropy.filter(pl.col("series") == main)["y"].to_list() == whole.sort("copy", "offset")["change"].to_list()


def test_positions_follow_one_another_over_copies() -> None:
    table = pl.DataFrame({"copy": [0, 0, 1, 2], "offset": [-3, 1, -3, 0]})
    assert head_ablation.with_position(table)["position"].to_list() == [1, 5, 6, 14]


def test_ablation_of_any_table_is_drawn(
    ablation: pl.DataFrame, selection: pl.DataFrame, world: fake.World, tmp_path: Path
) -> None:
    chart = head_ablation.chart(ablation, selection, model="demo", text="evaluation", level=0.9)
    said, drawn = subtitle(chart), svg(chart, tmp_path)
    assert "32 synthetic sequences" in said
    assert "90 % interval" in said
    assert "2 heads ablated alone: in the table, not drawn" in said
    assert "3 sets of 3 other heads" in drawn
    assert f"of {world.n_layers - 1}.{world.entropy[0]}" in drawn
    assert "position 0 alone" in drawn
    assert "output is their mean" in drawn
    assert float(ElementTree.fromstring(drawn).attrib["width"]) < 960
    # Fewer panels are sooner drawn.
    ablation, selection = ablation.filter(pl.col("quantity").is_in(["activation", "entropy"])), selection.head(1)
    one = ablation.filter((pl.col("method") == "mean") & (pl.col("role") == "top"))
    drawn = svg(head_ablation.chart(one, selection, model="demo"), tmp_path)
    assert "position 0 alone" not in drawn
    assert "other heads" not in drawn
    ablation = ablation.filter(pl.col("method") == "bos")
    gaps = ablation.with_columns(
        pl.when(pl.col("offset") % 3 == 0).then(None).otherwise(pl.col(name)).alias(name)
        for name in ("change", "change_low", "change_high")
    )
    svg(head_ablation.chart(gaps, selection, model="demo"), tmp_path)
    huge = ablation.with_columns(pl.col("change", "change_low", "change_high") * 1e9)
    svg(head_ablation.chart(huge, selection, model="demo"), tmp_path)
    assert "activation" not in svg(head_ablation.chart(ablation, selection.clear(), model="demo"), tmp_path)
    for empty in (ablation.clear(), ablation.filter(pl.col("role") == "baseline")):
        assert "no set of heads" in svg(head_ablation.chart(empty, selection, model="demo"), tmp_path)


# head_neurons


def test_cells_are_changes_times_norms(neurons: pl.DataFrame, selection: pl.DataFrame, world: fake.World) -> None:
    frame, left_out = head_neurons.prepare(neurons, selection)
    assert left_out == {"heads": 0, "neurons": 0, "others": 0}
    assert len(frame) == len(neurons)
    rows = {(row["method"], row["name"], row["label"]): row for row in frame.iter_rows(named=True)}
    for row in neurons.iter_rows(named=True):
        found = rows[row["method"], f"{row['layer']}.{row['head']}", f"{row['neuron_layer']}.{row['neuron']}"]
        assert found["value"] == pytest.approx(row["change"] * row["norm"])
        assert found["certain"] == (not row["change_low"] <= 0 <= row["change_high"])
        expected = "entropy neurons" if row["neuron"] in world.entropy else "token-frequency neurons"
        assert found["group"] == expected
    assert frame["certain"].sum() not in (0, len(frame))
    order = [f"{world.n_layers - 1}.{neuron}" for neuron in (*world.entropy, *world.others)]
    assert frame["label"].unique(maintain_order=True).to_list() == order
    columns = head_neurons._columns(frame)
    assert [name for name in columns if name.strip()] == order
    assert not columns[len(world.entropy)].strip()
    assert len(columns) == len(order) + 1
    # A neuron that only the best head was held against would be a column of holes.
    one = neurons.unique("method", maintain_order=True).with_columns(neuron=pl.lit(999, neurons["neuron"].dtype))
    assert head_neurons.prepare(pl.concat([neurons, one]), selection)[0].equals(frame)


def test_controls_are_not_chosen_by_their_values(neurons: pl.DataFrame, world: fake.World) -> None:
    layer = world.n_layers - 1
    rows = [("entropy", "selection", None, neuron, rank) for rank, neuron in enumerate(world.entropy)]
    rows += [("entropy/uniform_000", "uniform", "entropy", neuron, rank) for rank, neuron in enumerate(world.others)]
    selection = pl.DataFrame(
        [(name, kind, "rule", of, layer, neuron, rank, None, None) for name, kind, of, neuron, rank in rows],
        schema={name: column.dtype for name, column in fake.SCHEMAS["selection"].items()},
        orient="row",
    )
    loud = neurons.with_columns(change=pl.when(pl.col("neuron") == world.others[1]).then(9.0).otherwise("change"))
    frame, left_out = head_neurons.prepare(loud, selection, heads=2, neurons=3, others=1)
    assert left_out == {"heads": len(world.heads) - 2, "neurons": 1, "others": 1}
    shown = [f"{layer}.{neuron}" for neuron in (*world.entropy[:3], world.others[0])]
    assert frame["label"].unique(maintain_order=True).to_list() == shown
    # Heads are the ones that move the shown selected neurons most.
    own = neurons.filter(pl.col("neuron").is_in(list(world.entropy[:3])))
    sizes = dict.fromkeys(world.heads, 0.0)
    for row in own.iter_rows(named=True):
        place = (row["layer"], row["head"])
        sizes[place] = max(sizes[place], abs(row["change"] * row["norm"]))
    assert set(frame["name"]) == {world.name(head) for head in sorted(sizes, key=lambda head: -sizes[head])[:2]}
    assert set(frame["group"]) == {"entropy neurons", groups.CONTROLS}


def test_matrices_of_any_table_are_drawn(
    neurons: pl.DataFrame, selection: pl.DataFrame, world: fake.World, tmp_path: Path
) -> None:
    drawn = svg(head_neurons.chart(neurons, selection, model="demo", text="evaluation", level=0.9), tmp_path)
    assert "90 % interval" in drawn
    assert "position 0 alone" in drawn
    for neuron in (*world.entropy, *world.others):
        assert drawn.count(f">{world.n_layers - 1}.{neuron}<") == 2
    many = fake.World(n_layers=24, n_heads=16, entropy=tuple(range(30)), others=tuple(range(40, 60)), methods=("bos",))
    chart = head_neurons.chart(fake.fake_head_neurons(many), fake.fake_selection(many), model="demo")
    said, drawn = subtitle(chart), svg(chart, tmp_path)
    assert f"{24 * 16 - head_neurons.HEADS} heads with smaller changes not drawn" in said
    assert f"{50 - head_neurons.NEURONS} more highlighted neurons not drawn" in said
    assert "output is their mean" not in drawn
    assert float(ElementTree.fromstring(drawn).attrib["width"]) < 960
    columns = ["change", "change_low", "change_high"]
    none = neurons.with_columns(pl.lit(None, pl.Float64).alias(name) for name in columns)
    svg(head_neurons.chart(none, selection, model="demo"), tmp_path)
    zero = neurons.with_columns(pl.lit(0.0).alias(name) for name in columns)
    svg(head_neurons.chart(zero, selection, model="demo"), tmp_path)
    one = neurons.filter((pl.col("neuron") == world.entropy[0]) & (pl.col("layer") == 0) & (pl.col("head") == 0))
    svg(head_neurons.chart(one, selection.clear(), model="demo"), tmp_path)
    assert "no head was ablated" in svg(head_neurons.chart(neurons.clear(), selection, model="demo"), tmp_path)


# all three


def test_draw_reads_tables_and_repeats_its_bytes(
    heads: pl.DataFrame, ablation: pl.DataFrame, neurons: pl.DataFrame, selection: pl.DataFrame, tmp_path: Path
) -> None:
    ablation = ablation.filter(pl.col("quantity") == "entropy")
    frames = {"induction_heads": heads, "head_ablation": ablation, "head_neurons": neurons, "selection": selection}
    paths = {name: tmp_path / f"{name}.parquet" for name in frames}
    for name, frame in frames.items():
        write_table(frame, paths[name], name)
    known = {"model": "demo", "text": "evaluation", "level": 0.95}
    for run in ("a", "b"):
        figures = {name: [tmp_path / f"{name}_{run}.json"] for name in frames}
        induction_heads.draw(heads=paths["induction_heads"], figures=figures["induction_heads"], threshold=0.7, **known)
        for module, name in ((head_ablation, "head_ablation"), (head_neurons, "head_neurons")):
            module.draw(**{name: paths[name]}, selection=[paths["selection"]], figures=figures[name], **known)
    for name in ("induction_heads", "head_ablation", "head_neurons"):
        first, second = (tmp_path / f"{name}_{run}.json" for run in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
        said = json.loads(first.read_text())["title"]["subtitle"]
        assert "model demo" in said[0]
        assert "text evaluation" in said[0]
