"""Figures: what is drawn, what is stated, and that the same tables give the same bytes."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import altair as alt
import fake_tables
import numpy as np
import polars as pl
import pytest
import vl_convert
from altair.utils import schemapi
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.figures import (
    effects_data,
    groups,
    pdf,
    points,
    saving,
    singular_values,
    theme,
    total_direct,
    verification,
)

ROOT = Path(__file__).parents[2]
FIGURES = {
    "norm_logitvar": ("neurons", "selection"),
    "singular_values": ("singular_values", "alignment", "null_space", "selection"),
    "total_direct": ("traces", "selection"),
    "rho_mediation": ("effects", "null_space", "selection"),
    "entropy_prediction": ("effects", "selection"),
    "synthetic_controls": ("effects", "synthetic", "selection"),
    "published": ("published",),
    "verification": ("verification",),
    "overview": ("neurons", "singular_values", "alignment", "null_space", "selection", "traces", "effects"),
}
NO_TEXT = ("norm_logitvar", "singular_values", "published")
HIGHLIGHTS = ("norm_logitvar", "total_direct", "rho_mediation", "entropy_prediction", "synthetic_controls", "overview")


@pytest.fixture(scope="module")
def world() -> fake_tables.World:
    return fake_tables.World(n_neurons=160, d_model=64)


@pytest.fixture(scope="module")
def tables(world: fake_tables.World) -> dict[str, pl.DataFrame]:
    return fake_tables.fake_tables(world)


@pytest.fixture(scope="module")
def paths(world: fake_tables.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fake_tables.write_fake_tables(tmp_path_factory.mktemp("tables"), world)


def module(name: str) -> ModuleType:
    return importlib.import_module(f"neuronlab.figures.{name}")


def made(name: str, tables: dict[str, pl.DataFrame], **options: object) -> alt.TopLevelMixin:
    text = {} if name in NO_TEXT else {"text": "evaluation"}
    return module(name).chart(*(tables[table] for table in FIGURES[name]), model="demo", **text, **options)


def subtitle(chart: alt.TopLevelMixin) -> str:
    return " | ".join(chart.to_dict(context={"pre_transform": False})["title"]["subtitle"])


def draw(name: str, paths: dict[str, Path], figures: list[Path]) -> None:
    text = {} if name in NO_TEXT else {"text": "evaluation"}
    module(name).draw(**{table: paths[table] for table in FIGURES[name]}, figures=figures, model="demo", **text)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_model_counts_and_neurons_and_its_bytes_repeat(
    name: str, paths: dict[str, Path], world: fake_tables.World, tmp_path: Path
) -> None:
    first, second = ([tmp_path / f"{run}.{suffix}" for suffix in ("svg", "json")] for run in ("a", "b"))
    draw(name, paths, first)
    draw(name, paths, second)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg = first[0].read_text()
    assert "model demo" in svg
    assert any(unit in svg for unit in ("neuron", "token", "effect"))
    if name not in NO_TEXT:
        assert "text evaluation" in svg
        assert "nats" in svg
    if name in HIGHLIGHTS:
        assert not [neuron for neuron in world.entropy if f">{world.last}.{neuron}<" not in svg]
    assert json.loads(first[1].read_text())["$schema"].startswith("https://vega.github.io/schema/vega-lite")


@pytest.fixture
def every_picture_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not remembered from an equal chart."""
    for name in ("vegalite_to_svg", "svg_to_png"):
        monkeypatch.setattr(vl_convert, name, getattr(vl_convert, name).__wrapped__)


@pytest.mark.usefixtures("every_picture_drawn")
def test_all_formats_are_written_and_html_works_offline(paths: dict[str, Path], tmp_path: Path) -> None:
    targets = [tmp_path / f"figure.{suffix}" for suffix in saving.FORMATS]
    draw("verification", paths, targets)
    again = [tmp_path / f"again.{suffix}" for suffix in saving.FORMATS]
    draw("verification", paths, again)
    assert [path.read_bytes() for path in targets] == [path.read_bytes() for path in again]
    html = (tmp_path / "figure.html").read_text()
    assert "<script src=" not in html
    assert "cdn.jsdelivr" not in html
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in [*targets, *again])


def test_a_settled_pdf_has_the_objects_it_had(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    made("verification", tables).save(str(tmp_path / "raw.pdf"), format="pdf")
    raw = (tmp_path / "raw.pdf").read_bytes()
    settled = pdf.settled_pdf(raw)
    assert pdf.settled_pdf(settled) == settled
    start = int(re.search(rb"startxref\n(\d+)", settled)[1])
    places = [int(line[:10]) for line in settled[start:].split(b"\n") if line.endswith(b" n ")]
    assert [settled[place:].split(b" ", 1)[0] for place in places] == [b"%d" % (i + 1) for i in range(len(places))]
    # Streams (drawing, fonts, colours) are the same ones, whatever their order.
    streams = [sorted(re.findall(rb"stream\n.*?\nendstream", text, re.DOTALL)) for text in (raw, settled)]
    assert streams[0] == streams[1]
    assert len(streams[0]) > 3
    with pytest.raises(ValueError, match="cross-reference"):
        pdf.settled_pdf(b"%PDF-1.7 nothing")


@pytest.mark.usefixtures("every_picture_drawn")
def test_ids_in_a_picture_do_not_depend_on_what_was_drawn_before(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    chart = made("rho_mediation", tables)
    saving.save(chart, [tmp_path / "first.svg"])
    saving.save(chart, [tmp_path / "second.svg"])
    svg = (tmp_path / "first.svg").read_text()
    assert svg == (tmp_path / "second.svg").read_text()
    used, defined = set(re.findall(r"url\(#(.*?)\)", svg)), set(re.findall(r' id="(.*?)"', svg))
    assert used
    assert used <= defined


@pytest.mark.parametrize("name", ["overview", "singular_values"])
def test_quick_copies_of_charts_are_those_of_altair(
    name: str, tables: dict[str, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests' own short cut (quick_charts.py)."""
    quick = made(name, tables).to_json()
    monkeypatch.setattr(schemapi, "_deep_copy", schemapi._deep_copy.__wrapped__)
    assert made(name, tables).to_json() == quick


def test_an_unknown_format_is_refused_before_anything_is_written(paths: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(saving.FigureError, match=r"\.gif.*figures\.formats"):
        draw("verification", paths, [tmp_path / "figure.svg", tmp_path / "figure.gif"])
    with pytest.raises(saving.FigureError, match="at least one format"):
        draw("verification", paths, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in FIGURES if "selection" in FIGURES[name]])
def test_an_empty_selection_gives_a_figure_with_a_note(
    name: str, tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    empty = tables | {table: tables[table].clear() for table in ("selection", "alignment", "traces", "synthetic")}
    target = tmp_path / "figure.svg"
    saving.save(made(name, empty), [target])
    svg = target.read_text()
    width, height = (float(re.search(rf'<svg[^>]* {side}="([^"]+)"', svg).group(1)) for side in ("width", "height"))
    assert max(width, height) < 5000  # a legend without an entry made them infinite: a blank figure
    if name in ("rho_mediation", "entropy_prediction"):
        assert "entropy neurons" not in svg  # the layer's neurons are all there is to show
    else:
        assert "no neuron" in svg


@pytest.mark.parametrize(("name", "table"), [("verification", "verification"), ("published", "published")])
def test_an_empty_table_gives_a_figure_with_a_note(
    name: str, table: str, tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    saving.save(made(name, tables | {table: tables[table].clear()}), [tmp_path / "figure.svg"])
    assert "no published value" in (svg := (tmp_path / "figure.svg").read_text()) or "nothing was verified" in svg


def test_figures_and_cards_load_no_model_library() -> None:
    names = [
        path.stem for path in (ROOT / "workflow_scripts/neuronlab/figures").glob("*.py") if path.stem != "__init__"
    ]
    assert set(FIGURES) < set(names)
    code = "; ".join(
        [
            "import sys",
            *(f"import neuronlab.figures.{name}" for name in names),
            "import neuronlab.cards",
            "print([name for name in ('torch', 'transformers', 'transformer_lens', 'numba') if name in sys.modules])",
        ]
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "workflow_scripts", capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_box_numbers_are_those_of_all_tokens(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    members = total_direct.members_of(tables["traces"], tables["selection"], None)
    boxes = total_direct.box_numbers(tables["traces"], members, "entropy")
    rows = {(row["box"], row["effect"]): row for row in boxes.iter_rows(named=True)}
    pools = {f"{world.last}.{world.entropy[0]}": [world.entropy[0]], "random": world.uniform}
    for box, neurons in pools.items():
        traces = tables["traces"].filter(pl.col("neuron").is_in(neurons))
        for effect in ("total", "direct"):
            values = np.abs(traces[f"entropy_{effect}"].to_numpy())
            expected = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])
            row = rows[box, effect]
            assert [row[name] for name in ("low", "q1", "median", "q3", "high")] == pytest.approx(expected, rel=1e-12)
            assert row["mean"] == pytest.approx(values.mean(), rel=1e-12)
            assert (row["n_tokens"], row["n_neurons"]) == (len(values), len(neurons))


def test_a_control_of_two_kinds_is_in_both_boxes(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    both = world.uniform[3]
    again = tables["selection"].filter(pl.col("neuron") == both).with_columns(kind=pl.lit("norm_matched"))
    chosen = (
        tables["selection"].filter(pl.col("neuron") == both).with_columns(neuron=pl.lit(world.entropy[0], pl.Int32))
    )
    members = total_direct.members_of(tables["traces"], pl.concat([tables["selection"], again, chosen]), None)
    boxes = members.filter(pl.col("group") == groups.CONTROLS)
    assert sorted(boxes.filter(pl.col("box") == "random")["neuron"]) == sorted(world.uniform)
    assert sorted(boxes.filter(pl.col("box") != "random")["neuron"]) == sorted([*world.matched, both])
    assert members.filter(pl.col("neuron") == world.entropy[0])["group"].to_list() == ["entropy neurons"]


@pytest.mark.parametrize("bins", [7, 64])
def test_binned_cosines_keep_the_largest_and_the_mean_square(
    bins: int, tables: dict[str, pl.DataFrame], world: fake_tables.World
) -> None:
    profiles = singular_values.prepare(tables["alignment"], tables["selection"])
    found = singular_values.bin_profile(profiles, 0, world.d_model, bins)
    means = singular_values.group_rms(profiles, 0, world.d_model, bins)
    width = -(-world.d_model // bins)
    first = world.entropy[0]
    own = profiles.filter(pl.col("neuron") == first).sort("index")["cosine"].abs().to_numpy()
    largest = [own[start : start + width].max() for start in range(0, world.d_model, width)]
    assert found.filter(pl.col("neuron") == first)["cosine"].to_list() == pytest.approx(largest)
    group = profiles.filter(pl.col("set") == "entropy neurons").sort("neuron", "index")["cosine"].to_numpy()
    squares = group.reshape(len(world.entropy), world.d_model) ** 2
    expected = [squares[:, start : start + width].mean() ** 0.5 for start in range(0, world.d_model, width)]
    assert means.filter(pl.col("set") == "entropy neurons")["cosine"].to_list() == pytest.approx(expected)
    assert found["index"].is_between(0, world.d_model - 1).all()


def test_the_exactly_null_direction_is_off_the_logarithmic_axis(tables: dict[str, pl.DataFrame]) -> None:
    chart = made("singular_values", tables)
    assert "all-ones direction" in subtitle(chart)
    spec = chart.to_dict(context={"pre_transform": False})
    domains = [
        scale["domain"] for scale in _find(spec, "scale") if isinstance(scale, dict) and scale.get("type") == "log"
    ]
    smallest = tables["singular_values"].filter(~pl.col("exact_null"))["singular_value"].min()
    assert domains
    assert all(0.5 * smallest < domain[0] < smallest for domain in domains)


def _find(node: object, key: str) -> list:
    """All values of `key` anywhere in a specification."""
    if isinstance(node, dict):
        return [value for name, value in node.items() if name == key] + [
            found for value in node.values() for found in _find(value, key)
        ]
    return [found for value in node for found in _find(value, key)] if isinstance(node, list) else []


def test_what_is_left_out_or_moved_is_said(tables: dict[str, pl.DataFrame]) -> None:
    effects = tables["effects"]
    said = subtitle(made("rho_mediation", tables))
    gone, below = effects["m_loss"].null_count(), (effects["m_loss"] < -1).sum()
    assert gone == 2
    assert below >= 1
    assert f"{gone} neurons left out" in said
    assert f"{theme.count(below, 'neuron')} below -1" in said
    assert f"{gone} neurons hollow" in subtitle(made("entropy_prediction", tables))
    assert "6 errors of exactly zero" in subtitle(made("verification", tables))
    assert "1 value left out" in subtitle(made("published", tables))
    assert "no token removed" in subtitle(made("total_direct", tables))


def test_verification_states_the_largest_ratio(tables: dict[str, pl.DataFrame]) -> None:
    table = tables["verification"]
    ratios = [error / tolerance for error, tolerance in table.select("error", "tolerance").iter_rows()]
    assert verification.worst(table) == max(ratios)
    said = subtitle(made("verification", tables))
    assert f"{max(ratios):.2g} of the tolerance" in said
    assert f"{len(ratios):,} checked effects" in said
    assert "all passed" in said
    bad = table.with_columns(passed=pl.int_range(pl.len()) >= 3)
    assert "3 above it" in subtitle(made("verification", {"verification": bad}))


def test_large_layers_are_thinned_and_say_so() -> None:
    tables = fake_tables.fake_tables(fake_tables.World(n_neurons=9000, d_model=64, n_sequences=6))
    for name in ("norm_logitvar", "rho_mediation", "entropy_prediction"):
        chart = made(name, tables)
        assert f"{theme.POINT_LIMIT:,} of " in subtitle(chart)
        sizes = [len(rows) for rows in chart.to_dict(context={"pre_transform": False})["datasets"].values()]
        assert max(sizes) == theme.POINT_LIMIT


AXES = points.Axis("x", "x", (0.0, 10.0), pixels=600), points.Axis("y", "y", (0.1, 1000.0), log=True, pixels=600)


def test_thinning_keeps_lone_points_and_is_repeatable() -> None:
    rng = np.random.default_rng(3)
    crowd = pl.DataFrame({"x": rng.normal(5, 0.02, 5000), "y": np.exp(rng.normal(2, 0.02, 5000))})
    lone = pl.DataFrame({"x": [0.5, 9.5, 1.0], "y": [0.2, 900.0, 500.0]})
    both = pl.concat([crowd, lone])
    kept = points.thin(both, *AXES, limit=60, seed=1)
    assert len(kept) == 60
    assert len(kept.join(lone, on=["x", "y"], how="semi")) == 3
    assert kept.equals(points.thin(both, *AXES, limit=60, seed=1))
    assert points.thin(lone, *AXES, limit=60).equals(lone)
    assert kept.join(both, on=["x", "y"], how="anti").is_empty()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 9.5), st.floats(0.2, 900.0)), min_size=1, max_size=9, unique=True))
def test_labels_stay_in_the_panel_and_off_one_another(places: list[tuple[float, float]]) -> None:
    x, y = AXES
    frame = pl.DataFrame(
        {
            "x": [p[0] for p in places],
            "y": [p[1] for p in places],
            "label": [f"11.{2000 + i}" for i in range(len(places))],
        }
    )
    placed = points.place_labels(frame, x, y)
    centre_x, centre_y = x.place(placed["label_x"].to_numpy()), y.place(placed["label_y"].to_numpy())
    half = 7 * theme.LABEL_SIZE * 0.56 / 2
    assert (centre_x - half > 0).all()
    assert (centre_x + half < x.pixels).all()
    assert (centre_y > 0).all()
    assert (centre_y < y.pixels).all()
    apart_x = np.abs(centre_x[:, None] - centre_x) >= 2 * half
    apart_y = np.abs(centre_y[:, None] - centre_y) >= theme.LABEL_SIZE
    assert (apart_x | apart_y | np.eye(len(places), dtype=bool)).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_domains_hold_every_value(values: list[float]) -> None:
    series = pl.Series(values)
    low, high = theme.linear_domain(series)
    assert low <= min(values)
    assert max(values) <= high
    assert low < high
    positive = [value for value in values if value > 1e-290]
    if positive:
        low, high = theme.log_domain(series)
        assert 0 < low < min(positive)
        assert max(positive) < high


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ((0.9, 11.0), [1.0, 2.0, 5.0, 10.0]),
        ((1e-9, 1.1e-2), [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
        ((3e-4, 9e-4), [3e-4, 5e-4, 7e-4]),
    ],
)
def test_logarithmic_ticks(domain: tuple[float, float], expected: list[float]) -> None:
    assert theme.log_ticks(domain) == pytest.approx(expected)


def test_groups_follow_precedence_and_selection_beats_control() -> None:
    rows = [
        ("other_rule", "selection", None, 3, 0),
        ("other_rule", "selection", None, 4, 1),
        ("entropy", "selection", None, 4, 0),
        ("entropy_000", "uniform", "entropy", 3, 0),
        ("entropy_000", "uniform", "entropy", 5, 1),
        ("unused_000", "uniform", "unused", 6, 0),
    ]
    selection = pl.DataFrame(
        [(*row[:2], "rule", row[2], 1, *row[3:], None, None) for row in rows],
        schema={name: spec.dtype for name, spec in fake_tables.SCHEMAS["selection"].items()},
        orient="row",
    )
    found = dict(groups.group_neurons(selection, 1).select("neuron", "group").iter_rows())
    assert found == {4: "entropy neurons", 3: "other rule neurons", 5: groups.CONTROLS}
    asked = dict(groups.group_neurons(selection, 1, ["other_rule"]).select("neuron", "group").iter_rows())
    assert asked[4] == "other rule neurons"
    assert groups.group_neurons(selection, 0).is_empty()


def test_a_kind_keeps_its_colour_whatever_else_is_there() -> None:
    domain, found = groups.colours([groups.OTHERS, "entropy neurons", "my rule neurons"])
    assert domain == ["entropy neurons", "my rule neurons", groups.OTHERS]
    assert found[0] == groups.colours(["entropy neurons"])[1][0] == theme.VERMILION
    assert len(set(found)) == 3


def test_a_replacement_that_was_not_run_is_refused(tables: dict[str, pl.DataFrame]) -> None:
    with pytest.raises(effects_data.MissingReplacement, match=r"'zero'.*mean.*ablation\.replacements"):
        made("rho_mediation", tables, replacement="zero")
    with pytest.raises(ValueError, match=r"k = 99.*4, 8"):
        made("rho_mediation", tables, k=99)


@pytest.mark.parametrize("name", [*FIGURES, "cards", "workflow"])
def test_every_figure_has_a_caption_that_renders(name: str) -> None:
    jinja2 = pytest.importorskip("jinja2")
    docutils = pytest.importorskip("docutils.core")
    source = (ROOT / "rules" / "captions" / f"{name}.rst").read_text()
    wildcards = {"model": "pythia@step1000", "text": "evaluation"}
    known = {"wildcards": wildcards, "params": {"level": 0.9}, "config": {"ablation": {"level": 0.9}}}
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=known)
    if name in ("workflow", "rho_mediation", "synthetic_controls"):
        assert "90 %" in text
    html = docutils.publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})[
        "body"
    ].replace("&#64;", "@")
    if name != "workflow":
        assert "pythia@step1000" in html
        assert "mailto" not in html  # '@' outside of a literal becomes a link
    assert ("evaluation" in html) == (name not in (*NO_TEXT, "workflow"))
