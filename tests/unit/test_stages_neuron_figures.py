"""Figures of neurons and heads by depth: all are drawn; and what those of vocabulary neurons show."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import fake_stages
import polars as pl
import pytest
from chart_specs import field, marks, rows, spec, subtitle, titles
from fake_stages import World
from neuronlab.figures import (
    feature_neurons,
    layer_neuron_counts,
    local_attention,
    overlays,
    probes,
    strongest_neurons,
    subjoiner_examples,
    subjoiners,
    theme,
    token_text,
)
from neuronlab.tables import write_table

ROOT = Path(__file__).parents[2]
Tables = dict[str, pl.DataFrame]
DRAWS = {
    "layer_neuron_counts": (layer_neuron_counts, ["vocabulary_counts"], {"level"}),
    "strongest_neurons": (strongest_neurons, ["vocabulary_neurons"], set()),
    "local_attention": (
        local_attention,
        ["local_attention", "local_attention_layers", "attention_bos"],
        {"text", "level"},
    ),
    "subjoiners": (subjoiners, ["subjoiners"], {"text", "level"}),
    "subjoiner_examples": (subjoiner_examples, ["subjoiner_examples"], {"text"}),
    "feature_neurons": (feature_neurons, ["feature_neurons", "feature_histograms"], {"level"}),
    "probes": (probes, ["probes"], {"text", "level"}),
}


@pytest.fixture(scope="module")
def tables() -> Tables:
    return fake_stages.tables()


@pytest.fixture(scope="module")
def single() -> Tables:
    return fake_stages.tables(World(n_layers=1, n_heads=1, pieces=(2,), examples=1, features=("ends_ing",), sizes=(1,)))


def draw(name: str, made: Tables, folder: Path, formats: tuple[str, ...] = ("svg",)) -> list[Path]:
    """The figure through its rule's function, from files."""
    module, needed, keywords = DRAWS[name]
    paths = {}
    for table in needed:
        paths[table] = folder / f"{table}.parquet"
        write_table(made[table], paths[table], table)
    given = {"text": "evaluation", "level": 0.9}
    figures = [folder / f"{name}.{suffix}" for suffix in formats]
    values = {"model": "tiny@step10", **{key: given[key] for key in keywords}}
    module.draw(**paths, figures=figures, **values)
    return figures


@pytest.mark.parametrize("name", DRAWS)
def test_every_figure_is_drawn_the_same_twice(name: str, tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    (svg,), (again,) = draw(name, tables, tmp_path), draw(name, tables, tmp_path / "again")
    assert svg.read_bytes() == again.read_bytes()
    assert "tiny@step10" in svg.read_text()


@pytest.mark.parametrize("name", DRAWS)
def test_one_layer_and_one_head_are_drawn(name: str, single: Tables, tmp_path: Path) -> None:
    (svg,) = draw(name, single, tmp_path)
    shown = svg.read_text()
    assert "NaN" not in shown
    assert "undefined" not in shown


@pytest.mark.parametrize("name", DRAWS)
def test_empty_tables_give_a_note(name: str, tables: Tables, tmp_path: Path) -> None:
    empty = {table: frame.head(0) for table, frame in tables.items()}
    (svg,) = draw(name, empty, tmp_path)
    said = {
        "layer_neuron_counts": "no neuron was counted",
        "strongest_neurons": "no neuron is of any kind",
        "local_attention": "nothing was measured",
        "subjoiners": "nothing was measured",
        "subjoiner_examples": "no example",
        "feature_neurons": "no neuron to compare",
        "probes": "no probe was trained",
    }
    assert said[name] in svg.read_text()


@pytest.mark.parametrize("name", DRAWS)
def test_captions_render(name: str) -> None:
    jinja2 = pytest.importorskip("jinja2")
    docutils = pytest.importorskip("docutils.core")
    source = (ROOT / "rules" / "captions" / f"{name}.rst").read_text()
    known = {"wildcards": {"model": "pythia@step1000", "text": "evaluation"}, "params": {"level": 0.9}}
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=known)
    html = docutils.publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})["body"]
    assert "pythia@step1000" in text
    assert ("90 %" in text) == ("level" in DRAWS[name][2])
    assert "Study C" in html


# Overlays


def test_tables_are_told_by_model_whichever_way_they_are_given(tables: Tables, tmp_path: Path) -> None:
    paths = []
    for i, layers in enumerate((3, 5)):
        paths.append(tmp_path / f"{i}.parquet")
        write_table(tables["vocabulary_counts"].filter(pl.col("layer") < layers), paths[-1], "vocabulary_counts")
    ways = [
        overlays.read(paths, "vocabulary_counts", ["b", "a"]),
        overlays.read({"b": paths[0], "a": paths[1]}, "vocabulary_counts", None),
    ]
    for found in ways:
        assert {model: frame["layer"].n_unique() for model, frame in found.items()} == {"b": 3, "a": 5}
        assert list(found) == ["b", "a"]
    assert list(overlays.read(paths[0], "vocabulary_counts", "b")) == ["b"]


@pytest.mark.parametrize("models", [None, "one", ["one"], ["one", "one"], ["one", "two", "three"]])
def test_tables_that_belong_to_nobody_are_refused(models: object) -> None:
    with pytest.raises(overlays.OverlayError, match=r"a\.parquet, b\.parquet"):
        overlays.read(["a.parquet", "b.parquet"], "vocabulary_counts", models)
    with pytest.raises(overlays.OverlayError, match="at least one model"):
        overlays.read({}, "vocabulary_counts", None)


def test_layers_of_one_model_are_named_and_stand_at_their_relative_depth(tables: Tables) -> None:
    frame = overlays.stack({"m": tables["vocabulary_counts"]})
    axis = overlays.depth_x(frame).to_dict()["axis"]
    assert axis["values"] == pytest.approx([layer / 11 for layer in range(12)])
    assert axis["labelExpr"].count("?") == 12
    assert axis["labelExpr"].endswith("< 1e-9 ? '11' : ''")
    both = overlays.stack({"m": tables["vocabulary_counts"], "n": tables["vocabulary_counts"]})
    assert overlays.depth_x(both).to_dict()["axis"]["values"] == [0, 0.25, 0.5, 0.75, 1]
    deep = pl.DataFrame({"layer": range(48), "depth": [i / 47 for i in range(48)], "model": ["m"] * 48})
    assert len(overlays.depth_x(deep).to_dict()["axis"]["values"]) <= overlays.LABELLED


@pytest.mark.parametrize(
    ("top", "whole", "expected"),
    [
        (0.123, False, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (1.04, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1.0, False, [0, 0.2, 0.4, 0.6, 0.8]),  # a label at the very top sticks out
        (3.4, True, [0, 1, 2, 3]),
        (0.6, True, [0]),
    ],
)
def test_ticks(top: float, whole: bool, expected: list[float]) -> None:
    assert overlays.ticks(top, whole=whole) == pytest.approx(expected)


# Neurons by layer


def test_shares_and_intervals_are_those_of_the_table(tables: Tables) -> None:
    counts = tables["vocabulary_counts"]
    whole = spec(layer_neuron_counts.chart({"gpt2": counts}))
    bands, lines = marks(whole, "area"), marks(whole, "line")
    assert (len(bands), len(lines)) == (2, 2)  # prediction and suppression in one panel, partition in another
    found = {(row["kind"], row["layer"]): row for part in lines for row in rows(whole, part)}
    assert len(found) == 3 * 12
    for row in counts.iter_rows(named=True):
        drawn = found[row["kind"], row["layer"]]
        assert (drawn["share"], drawn["share_low"], drawn["share_high"], drawn["depth"]) == (
            row["share"],
            row["share_low"],
            row["share_high"],
            row["depth"],
        )
    for band in bands:
        assert (field(band, "y"), band["encoding"]["y2"]["field"]) == ("share_low", "share_high")
    totals = dict(counts.group_by("kind").agg(pl.col("n").sum()).iter_rows())
    for kind, total in totals.items():
        assert f"{kind} ({total:,} of {12 * 512:,})" in json.dumps(whole)


def test_the_axis_of_neurons_fits_that_of_shares(tables: Tables) -> None:
    whole = spec(layer_neuron_counts.chart({"gpt2": tables["vocabulary_counts"]}))
    ghosts = [part for part in marks(whole, "point") if field(part, "y") == "n"]
    lines = marks(whole, "line")
    for line, ghost in zip(lines, ghosts, strict=True):
        shares, numbers = (part["encoding"]["y"]["scale"]["domain"] for part in (line, ghost))
        assert numbers == pytest.approx([512 * end for end in shares])
    uneven = tables["vocabulary_counts"].with_columns(n_neurons=pl.col("n_neurons") + pl.col("layer"))
    whole = spec(layer_neuron_counts.chart({"gpt2": uneven}))
    assert not [part for part in marks(whole, "point") if field(part, "y") == "n"]


def test_a_threshold_that_singles_nothing_out_is_said(tables: Tables) -> None:
    counts = tables["vocabulary_counts"]
    assert "singles nothing out" not in subtitle(layer_neuron_counts.chart({"m": counts}))
    many = counts.with_columns(share=pl.when(pl.col("kind") == "partition").then(0.97).otherwise("share"))
    said = subtitle(layer_neuron_counts.chart({"m": many}))
    assert "most neurons of a layer count as partition: the threshold singles nothing out" in said


def test_several_models_have_a_colour_each(tables: Tables) -> None:
    small = fake_stages.tables(World(n_layers=6))
    given = {"gpt2": tables["vocabulary_counts"], "six": small["vocabulary_counts"]}
    whole = spec(layer_neuron_counts.chart(given))
    assert titles(whole)[1:] == ["Prediction neurons", "Suppression neurons", "Partition neurons"]
    for line in marks(whole, "line"):
        assert {row["model"] for row in rows(whole, line)} == {"gpt2", "six"}
        assert line["encoding"]["color"]["scale"]["domain"] == ["gpt2", "six"]
    prediction, suppression = (line["encoding"]["y"]["scale"]["domain"] for line in marks(whole, "line")[:2])
    assert prediction == suppression
    assert "gpt2" not in subtitle(layer_neuron_counts.chart(given))


def test_a_layer_without_neurons_leaves_a_gap(tables: Tables) -> None:
    null = pl.when(pl.col("layer") != 3)
    ends = {name: null.then(name) for name in ("share", "share_low", "share_high")}
    whole = spec(layer_neuron_counts.chart({"m": tables["vocabulary_counts"].with_columns(**ends)}))
    for line in marks(whole, "line"):
        assert 3 not in {row["layer"] for row in rows(whole, line)}


# The strongest neurons


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" the", "\N{MIDDLE DOT}the"),
        ("  ", "\N{MIDDLE DOT}\N{MIDDLE DOT}"),
        ("\n\n", "\\n\\n"),
        ("\tx", "\\tx"),
        ("\\n", "\\\\n"),  # two characters, and no line end
        ("\x00", "\\x00"),
        ("\u202e", "\\u202e"),  # turns the direction of what follows
        ("\u0301", "\\u0301"),  # would sit on the character before it
        ("\ufffd", "\ufffd"),
        ("", "\N{EMPTY SET}"),
        ("日本", "日本"),
        ("misunderstanding", "misunderstanding"),
        (" misunderstanding", "\N{MIDDLE DOT}misunderstandi\N{HORIZONTAL ELLIPSIS}"),
    ],
)
def test_tokens_are_spelled_so_that_all_of_them_shows(token: str, expected: str) -> None:
    assert token_text.shown(token) == expected


def test_tokens_stand_side_by_side_and_end_before_the_column() -> None:
    placed = strongest_neurons.chips([" king", "日本語", "\n"] * 20, 270, 960)
    assert 10 < len(placed) < 60
    assert placed[0]["start"] == 270
    assert placed[-1]["end"] <= 960
    for before, after in pairwise(placed):
        assert after["start"] == before["end"] + strongest_neurons.GAP


def test_each_kind_shows_the_end_of_its_heavy_tail(tables: Tables) -> None:
    frame = tables["vocabulary_neurons"]
    sides = {"prediction": {"top_tokens"}, "suppression": {"bottom_tokens"}}
    sides["partition"] = {"top_tokens", "bottom_tokens"}
    for kind, expected in sides.items():
        shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
        cells, tokens = strongest_neurons.rows_of(shuffled, kind)
        assert set(tokens["side"]) == expected
        own = frame.filter(pl.col("kind") == kind).sort("place")
        names = cells.filter(pl.col("x") == strongest_neurons.NEURON)["cell"].to_list()
        assert names == [f"{layer}.{neuron}" for layer, neuron in own.select("layer", "neuron").iter_rows()]
        first = tokens.filter(pl.col("y") == tokens["y"].min())
        for side in expected:
            given = [token_text.shown(token) for token in json.loads(own[side][0])]
            assert first.filter(pl.col("side") == side)["token"].to_list() == given
    skew = strongest_neurons.rows_of(frame, "suppression")[0].filter(pl.col("x") == strongest_neurons.SKEW)["cell"][0]
    assert skew == f"{theme.MINUS}3.00"


def test_missing_kinds_are_said(tables: Tables) -> None:
    chart = strongest_neurons.chart(tables["vocabulary_neurons"].filter(pl.col("kind") == "partition"), model="m")
    assert "no neuron of the model is a prediction or suppression neuron" in subtitle(chart)
    assert titles(spec(chart))[1:] == ["Partition neurons"]
