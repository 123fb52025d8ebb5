"""Figures of the study of stages: what is drawn and said, for models of one layer to thirty-two."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import fake_stages as fake
import numpy as np
import polars as pl
import pytest
from neuronlab.figures import depth_lines, interventions, lens, lens_tokens, saving, stage_strip, stages, swap_matrix
from neuronlab.schemas_stages import STAGES
from neuronlab.tables import write_table

ROOT = Path(__file__).parents[2]
NAMES = ("interventions", "swap_matrix", "lens", "lens_tokens", "stages")
TABLES = ("interventions", "lens", "vocabulary_counts", "local_attention_layers", "stages")
LN2 = float(np.log(2))


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return fake.tables(fake.World())


def made(name: str, tables: dict[str, pl.DataFrame], **options: object) -> alt.TopLevelMixin:
    about = {"text": "evaluation", **options}
    if name == "interventions":
        return interventions.chart({"demo": tables["interventions"]}, level=0.9, **about)
    if name == "stages":
        return stages.chart({"demo": {table: tables.get(table) for table in TABLES}}, level=0.9, **about)
    if name == "swap_matrix":
        return swap_matrix.chart(tables["interventions"], model="demo", level=0.9, **about)
    if name == "lens":
        return lens.chart(tables["lens"], tables["lens_documents"], model="demo", level=0.9, **about)
    return lens_tokens.chart(tables["lens_tokens"], model="demo", **about)


def subtitle(chart: alt.TopLevelMixin) -> str:
    return " | ".join(chart.title.subtitle)


def svg(chart: alt.TopLevelMixin, folder: Path) -> ElementTree.Element:
    path = folder / "figure.svg"
    saving.save(chart, [path])
    text = path.read_text()
    assert not re.search(r"NaN|Infinity|undefined", text)
    return ElementTree.fromstring(text)


def words(root: ElementTree.Element) -> list[str]:
    return [line for element in root.iter("{http://www.w3.org/2000/svg}text") for line in element.itertext()]


def styled(
    element: ElementTree.Element, tag: str, style: str, inherited: str = ""
) -> Iterator[tuple[ElementTree.Element, str]]:
    """Every element of a kind, with a style of its own or of the nearest group around it."""
    own = element.get(style, inherited)
    if element.tag == f"{{http://www.w3.org/2000/svg}}{tag}":
        yield element, own
    for child in element:
        yield from styled(child, tag, style, own)


def fills(root: ElementTree.Element, colour: str) -> int:
    """How many drawn paths have this fill."""
    return sum(fill.lower() == colour for _, fill in styled(root, "path", "fill"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_layers", [1, 8])
def test_figures_are_drawn_for_shallow_and_deep_models(name: str, n_layers: int, tmp_path: Path) -> None:
    found = fake.tables(fake.World(n_layers=n_layers, passage_tokens=3, documents=2, interventions=("delete", "swap")))
    chart = made(name, found)
    drawn = words(svg(chart, tmp_path))
    assert chart.title.text in drawn
    assert any("demo" in line and "evaluation" in line for line in drawn)


@pytest.mark.parametrize("name", NAMES)
def test_empty_tables_are_a_note(name: str, tables: dict[str, pl.DataFrame]) -> None:
    empty = {table: frame.clear() for table, frame in tables.items()}
    text = json.dumps(made(name, empty).to_dict())
    notes = {
        "interventions": "no intervention was made",
        "swap_matrix": "no layers were swapped",
        "lens": "no layer was read",
        "lens_tokens": "no passage was read",
        "stages": "nothing was measured by layer",
    }
    assert notes[name] in text


# --- interventions ---


def test_interventions_say_what_was_counted(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    chart = made("interventions", tables)
    assert "7,900 tokens" in subtitle(chart)
    assert "8 documents" in subtitle(chart)
    assert "90 % interval, bootstrap by document" in subtitle(chart)
    drawn = words(svg(chart, tmp_path))
    assert {look.name for look in interventions.LOOKS.values()} <= set(drawn)


def test_far_swaps_are_left_to_the_matrix() -> None:
    table = fake.interventions(fake.World(n_layers=6, swaps="all", interventions=("delete", "swap")))
    rows = interventions.prepare(table, "kl", pl.col("intervention"))
    assert rows.filter(pl.col("series") == "swap")["x"].to_list() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert rows.filter(pl.col("series") == "swap")["said"][0] == "layers 0 and 1"
    assert "not neighbours are in the matrix" in subtitle(interventions.chart({"m": table}, text="t"))


def test_several_models_are_overlaid_and_what_is_not_drawn_is_said(tmp_path: Path) -> None:
    found = {f"model-{n}": fake.interventions(fake.World(n_layers=n)) for n in (2, 3)}
    chart = interventions.chart(found, text="evaluation")
    assert "not drawn: attention deleted" in subtitle(chart)
    assert "2 models" in subtitle(chart)
    drawn = words(svg(chart, tmp_path))
    assert {"model-2", "model-3", "block deleted", "swapped with the next"} <= set(drawn)
    assert "MLP deleted" not in drawn


def test_a_model_of_one_layer_has_nothing_to_swap() -> None:
    found = fake.tables(fake.World(n_layers=1))
    assert "one layer: nothing to swap" in subtitle(made("interventions", found))
    assert "one layer: nothing to swap" in json.dumps(made("swap_matrix", found).to_dict())


def test_the_clean_entropy_is_that_of_the_table(tables: dict[str, pl.DataFrame]) -> None:
    text = json.dumps(interventions.one_model(tables["interventions"]).to_dict())
    clean = (tables["interventions"]["entropy"] - tables["interventions"]["entropy_change"]).mean()
    found = [float(value) for value in re.findall(r'\[\{"value": ([0-9.]+)\}\]', text)]
    assert any(value == pytest.approx(clean) for value in found)


# --- axes ---


def rows(values: list[float], low: list[float] | None = None) -> pl.DataFrame:
    return pl.DataFrame({"value": values, "low": low or values, "high": values})


def test_a_logarithmic_axis_is_not_stretched_by_intervals_that_reach_zero() -> None:
    axis = depth_lines.vertical(rows([0.1, 1.0, 5.0], [1e-12, 0.9, 4.0]), kind="log")
    assert axis.scale.type == "log"
    assert 0.01 < axis.floor < 0.1
    assert {0.1, 1.0} <= set(axis.axis["values"])
    linear = depth_lines.vertical(rows([0.0, 1.0, 5.0]), kind="log")
    assert "type" not in linear.scale.to_dict()


def test_a_signed_axis_is_compressed_only_where_sizes_differ_much() -> None:
    axis = depth_lines.vertical(rows([-0.05, 0.1, 0.1, 8.0]), kind="signed", include=[0.0])
    assert (axis.scale.type, axis.unit) == ("symlog", 0.1)
    assert 0.0 in axis.axis["values"]
    assert len(axis.axis["values"]) >= 4
    low, high = axis.scale.domain
    assert -0.2 < low < -0.05
    assert 8.0 < high < 12.0
    even = depth_lines.vertical(rows([-0.05, 0.1, 0.3]), kind="signed", include=[0.0])
    assert even.unit is None


def test_shares_stay_within_their_range() -> None:
    low, high = depth_lines.vertical(rows([0.0, 0.5, 1.0]), kind="share").scale.domain
    assert low == 0.0
    assert 1.0 < high <= 1.06


def test_models_beyond_the_colours_get_dashes() -> None:
    looks = depth_lines.model_looks([f"m{i}" for i in range(14)])
    assert len({(look.colour, tuple(look.dash)) for look in looks}) == 14


# --- swaps ---


def test_the_matrix_holds_every_pair_twice(tmp_path: Path) -> None:
    table = fake.interventions(fake.World(n_layers=5, swaps="all"))
    cells = swap_matrix.prepare(table)
    assert len(cells) == 20
    values = {(row, column): value for row, column, value in cells.select("row", "column", "agreement").iter_rows()}
    for row in table.filter(pl.col("intervention") == "swap").iter_rows(named=True):
        pair = (row["layer"], row["other"])
        assert values[pair] == values[pair[::-1]] == row["agreement"]
    chart = swap_matrix.chart(table, model="demo", text="t")
    assert "10 of 10 pairs tested; grey" in subtitle(chart)
    drawn = words(svg(chart, tmp_path))
    for value in values.values():
        assert str(round(100 * value)) in drawn


def test_untested_pairs_stay_pale(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    chart = made("swap_matrix", tables)
    assert "11 of 66 pairs tested (neighbours)" in subtitle(chart)
    assert "pale: not tested" in subtitle(chart)
    root = svg(chart, tmp_path)
    assert fills(root, swap_matrix.UNTESTED) == 12 * 11
    assert fills(root, swap_matrix.DIAGONAL) == 12


def test_layers_are_known_from_one_pair(tables: dict[str, pl.DataFrame]) -> None:
    swaps = tables["interventions"].filter(pl.col("intervention") == "swap")
    for i in range(len(swaps)):
        assert swap_matrix.layers_of(swaps[i : i + 1]) == 12


# --- lens ---


def test_bits_are_nats_over_the_logarithm_of_two(tables: dict[str, pl.DataFrame]) -> None:
    panel = lens.panel(tables["lens"], tables["lens_documents"], "entropy", foot=False).to_dict()
    domains = [layer["encoding"]["y"]["scale"]["domain"] for layer in _leaves(panel) if "y" in layer["encoding"]]
    nats, bits = domains[0], domains[-1]
    assert bits == pytest.approx([end / LN2 for end in nats])
    assert nats[0] == 0.0


def _leaves(spec: dict) -> list[dict]:
    return [leaf for layer in spec["layer"] for leaf in _leaves(layer)] if "layer" in spec else [spec]


def test_single_documents_are_the_longest_ones() -> None:
    frame = fake.lens_documents(fake.World(n_layers=1, documents=60))  # document i has 200 + 100 i tokens
    shown = lens.long_documents(frame)
    assert shown["document"].unique().sort().to_list() == list(range(20, 60))
    table = fake.lens(fake.World(n_layers=1, documents=60))
    assert "40 of 60 documents drawn, the longest" in subtitle(lens.chart(table, frame, model="m", text="t"))
    short = frame.with_columns(n_tokens=pl.col("document").cast(pl.Int64))
    assert lens.long_documents(short)["document"].min() == lens.TOKENS
    none = lens.chart(table, short.filter(pl.col("document") < lens.TOKENS), model="m", text="t")
    assert "thin" not in subtitle(none)


def test_one_document_has_no_interval(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    ends = [column for column in tables["lens"].columns if column.endswith(("_low", "_high"))]
    alone = tables["lens"].with_columns(*(pl.lit(None, pl.Float64).alias(end) for end in ends), n_documents=pl.lit(1))
    chart = lens.chart(alone, tables["lens_documents"].filter(pl.col("document") == 0), model="m", text="t")
    assert "one document: no interval" in subtitle(chart)
    assert lens.TITLE in words(svg(chart, tmp_path))


# --- passage ---


@pytest.mark.parametrize(("number", "sizes"), [(5, [5]), (14, [14]), (15, [8, 7]), (24, [12, 12]), (28, [14, 14])])
def test_a_passage_is_cut_into_even_strips(number: int, sizes: list[int]) -> None:
    parts = lens_tokens.strips(list(range(1, number + 1)))
    assert [len(part) for part in parts] == sizes
    assert [position for part in parts for position in part] == list(range(1, number + 1))


def test_cells_name_the_top_token_and_bold_is_the_final_one(tmp_path: Path) -> None:
    table = fake.lens_tokens(fake.World(n_layers=3, passage_tokens=4))
    cells = lens_tokens.prepare(table)
    assert len(cells) == 16
    root = svg(made("lens_tokens", {"lens_tokens": table}), tmp_path)
    bold = [element.text for element, weight in styled(root, "text", "font-weight") if weight == "bold"]
    labels = cells.filter(pl.col("layer") == 0)["label"].to_list()
    expected = cells.filter("final")["said"].to_list() + labels + [lens_tokens.TITLE]
    assert sorted(bold) == sorted(expected)
    assert set(cells["said"]) <= set(words(root))


def test_one_passage_is_drawn_and_the_others_are_said_to_be_there() -> None:
    table = fake.lens_tokens(fake.World(n_layers=2, passage_tokens=30, passages=3))
    assert lens_tokens.prepare(table)["sequence"].unique().to_list() == [3]
    said = subtitle(made("lens_tokens", {"lens_tokens": table}))
    assert "passage 1 of 3; all are in the table" in said
    assert "its first 28 of 30 tokens" in said
    assert "sequence 1" in subtitle(made("lens_tokens", {"lens_tokens": table}, passage=2))
    alone = fake.lens_tokens(fake.World(n_layers=2, passage_tokens=8, passages=1))
    assert "passage" not in subtitle(made("lens_tokens", {"lens_tokens": alone})).replace("below: the passage", "")


def test_every_quantity_of_the_lens_has_its_documents(tables: dict[str, pl.DataFrame]) -> None:
    assert set(lens.QUANTITIES) <= set(tables["lens_documents"].columns)
    text = json.dumps(made("lens", tables).to_dict())
    for title, words_of, _, _ in lens.QUANTITIES.values():
        assert json.dumps(title) in text
        assert json.dumps(words_of) in text


def test_long_and_unprintable_tokens_fit_their_cells() -> None:
    assert lens_tokens.shortened(" misunderstanding") == "\N{MIDDLE DOT}misunde\N{HORIZONTAL ELLIPSIS}"
    assert lens_tokens.shortened("\n") == "\\n"
    assert lens_tokens.shortened(" king") == "\N{MIDDLE DOT}king"


def test_quotes_and_backslashes_in_tokens_are_drawn_as_they_are(tmp_path: Path) -> None:
    tokens = ('"', "'", "\\", " </script>", "{a}", "é", "日本", " x")
    table = fake.lens_tokens(fake.World(n_layers=1, passage_tokens=8, vocabulary=tokens))
    drawn = words(svg(made("lens_tokens", {"lens_tokens": table}), tmp_path))
    for token in ('"', "'", "{a}", "é", "日本"):
        assert token in drawn


# --- stages ---


def test_the_strip_of_estimated_borders(tables: dict[str, pl.DataFrame]) -> None:
    found = stage_strip.segments_of(tables, "demo")
    assert found["stage"].to_list() == list(STAGES)
    layers = tables["stages"]["layer"].to_list()
    inner = [(layer + 0.5) / 12 for layer in layers]
    np.testing.assert_allclose(found["start"], [0.0, *inner])
    np.testing.assert_allclose(found["end"], [*inner, 1.0])


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([0], [None, "prediction ensembling", "residual sharpening"]),
        ([1], ["detokenization", None, "residual sharpening"]),
        ([0, 2], [None, None]),
        ([0, 1, 2], [None]),
    ],
)
def test_stages_next_to_an_unknown_border_are_unknown(
    missing: list[int], expected: list[str | None], tables: dict[str, pl.DataFrame]
) -> None:
    unknown = pl.col("border").is_in(missing)
    columns = ["layer", "layer_low", "layer_high", "depth"]
    changed = tables["stages"].with_columns(
        *(pl.when(~unknown).then(column).alias(column) for column in columns),
        reason=pl.when(unknown).then(pl.lit("flat")),
    )
    found = stage_strip.segments_of(tables | {"stages": changed}, "demo")
    assert found["stage"].to_list() == expected
    said = subtitle(made("stages", tables | {"stages": changed}))
    assert "flat" in said
    assert ("borders: flat" in said) == (len(missing) == 3)


def test_a_border_means_the_same_for_layers_and_for_the_lens(tables: dict[str, pl.DataFrame]) -> None:
    """Lens p lies halfway between layers p - 1 and p."""
    layers = stages.prepare(tables, "deletion", "m")["x"].to_numpy()
    points = stages.prepare(tables, "lens entropy", "m")["x"].to_numpy()
    np.testing.assert_allclose(points[1:-1], (layers[1:] + layers[:-1]) / 2)
    assert (points[0], points[-1]) == (0.0, 1.0)


def test_too_few_layers_are_said(tmp_path: Path) -> None:
    chart = made("stages", fake.tables(fake.World(n_layers=2)))
    assert "borders: not estimated below 8 layers" in subtitle(chart)
    assert "not estimated: 2 layers" in words(svg(chart, tmp_path))


def test_parts_that_are_switched_off_leave_no_panel(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    chart = made("stages", {"stages": tables["stages"], "lens": tables["lens"]})
    drawn = words(svg(chart, tmp_path))
    assert "lens: entropy" in drawn
    assert "attention just" not in drawn
    assert "prediction neurons" not in drawn
    half = tables["vocabulary_counts"].filter(pl.col("kind") != "prediction")
    assert "suppression" in words(svg(made("stages", {"vocabulary_counts": half}), tmp_path))


def test_several_models_have_a_strip_each(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    shallow = fake.tables(fake.World(n_layers=2))
    chart = stages.chart({"gpt2": tables, "demo": shallow}, text="evaluation")
    assert "grey: borders not estimated (1 of 2 models" in subtitle(chart)
    root = svg(chart, tmp_path)
    assert words(root).count("gpt2") == words(root).count("demo") == 2  # strip and key
    assert "not estimated: 2 layers" in words(root)
    for colour in stage_strip.STAGE_COLOURS.values():
        assert fills(root, colour) == 2  # strip and key


# --- rules ---


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_reads_its_tables_and_writes_the_figure(
    name: str, tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    paths = {table: tmp_path / f"{table}.parquet" for table in (*TABLES, "lens_documents", "lens_tokens")}
    for table, path in paths.items():
        write_table(tables[table], path, table)
    needed = {
        "interventions": ("interventions",),
        "swap_matrix": ("interventions",),
        "lens": ("lens", "lens_documents"),
        "lens_tokens": ("lens_tokens",),
        "stages": TABLES,
    }[name]
    module = importlib.import_module(f"neuronlab.figures.{name}")
    options = {} if name == "lens_tokens" else {"level": 0.95}
    given = {table: paths[table] for table in needed}
    figure = tmp_path / "figure.json"
    module.draw(**given, figures=[figure], model="demo", text="evaluation", **options)
    said = json.loads(figure.read_text())["title"]
    assert said["text"] == module.TITLE
    assert said["subtitle"][0].startswith("model demo  \N{MIDDLE DOT}  text evaluation")


def test_rules_take_a_table_per_model_and_parts_that_are_not_made(tmp_path: Path) -> None:
    paths: dict[str, list[Path]] = {table: [] for table in TABLES}
    for model, n_layers in (("a", 2), ("b", 9)):
        found = fake.tables(fake.World(n_layers=n_layers))
        for table in TABLES:
            paths[table].append(tmp_path / f"{model}_{table}.parquet")
            write_table(found[table], paths[table][-1], table)
    figure = tmp_path / "figure.json"
    stages.draw(**paths | {"lens": [], "interventions": None}, figures=[figure], model=["a", "b"], text="t")
    assert "2 models" in figure.read_text()
    interventions.draw(interventions=paths["interventions"], figures=[figure], model=["a", "b"], text="t")
    assert "2 models" in figure.read_text()
    with pytest.raises(ValueError, match="zip"):
        interventions.draw(interventions=paths["interventions"], figures=[figure], model=["a"], text="t")


@pytest.mark.parametrize(
    ("name", "overlay"), [*((name, False) for name in NAMES), ("interventions", True), ("stages", True)]
)
def test_captions_render(name: str, overlay: bool) -> None:
    jinja2 = pytest.importorskip("jinja2")
    docutils = pytest.importorskip("docutils.core")
    source = (ROOT / "rules" / "captions" / f"{name}.rst").read_text()
    wildcards = {"text": "evaluation"} | ({} if overlay else {"model": "pythia@step1000"})
    known = {"wildcards": wildcards, "params": {"level": 0.9}}
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=known)
    html = docutils.publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})["body"]
    assert "evaluation" in html
    assert ("all studied models" in html) == overlay
    assert ("pythia" in html) != overlay
    assert "mailto" not in html


def test_figures_do_without_torch() -> None:
    modules = ", ".join(f"neuronlab.figures.{name}" for name in NAMES)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow_scripts", check=False).returncode == 0
