"""Figures of log-ratios: which rows enter, densities and intervals against independent computations, small classes."""

from __future__ import annotations

import dataclasses
import html
import importlib
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import fake_copying as fake
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.figures import copying_data, decision_boundaries, densities, log_ratio_changes, log_ratios, saving
from neuronlab.schemas_knowledge import LABELS, RATIOS
from neuronlab.tables import TableError, write_table
from scipy.stats import gaussian_kde

ROOT = Path(__file__).parents[2]
FIGURES = ("decision_boundaries", "log_ratio_changes")
SMALL = {"uniform": 2, "norm_matched": 1, "synthetic": 1, "doses": 2, "dose_controls": 1}


@pytest.fixture(scope="module")
def world() -> fake.World:
    return fake.World(n_facts=40, selections=("my_rule", "entropy"), **SMALL)


@pytest.fixture(scope="module")
def paths(world: fake.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return inputs(world, tmp_path_factory.mktemp("inputs"))


def inputs(world: fake.World, folder: Path) -> dict[str, object]:
    """Keywords of `draw` and of `log_ratios.read`."""
    found = fake.write_inputs(world, folder)
    return {name: found[name] for name in ("states", "decoded", "conflicts", "variants")}


def read(paths: dict[str, object], replacement: str = "mean") -> pl.DataFrame:
    return log_ratios.read(**paths, replacement=replacement)[0]


def made(name: str, paths: dict[str, object], replacement: str = "mean", **options: object) -> alt.TopLevelMixin:
    frame, chosen = log_ratios.read(**paths, replacement=replacement)
    module = importlib.import_module(f"neuronlab.figures.{name}")
    return module.chart(frame, model="demo", facts="pararel", replacement=replacement, chosen=chosen, **options)


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
def test_a_figure_names_what_it_shows_and_does_not_depend_on_the_shards(
    name: str, world: fake.World, paths: dict[str, object], tmp_path: Path
) -> None:
    module = importlib.import_module(f"neuronlab.figures.{name}")
    options = {"model": "demo", "facts": "pararel", "replacement": "zero"}
    options |= {"level": 0.9, "resamples": 50} if name == "log_ratio_changes" else {}
    other = inputs(dataclasses.replace(world, shards=3), tmp_path)
    for run, keywords in (("a", paths), ("b", other), ("c", {**paths, "states": paths["states"][::-1]})):
        module.draw(**keywords, figures=[tmp_path / f"{run}.svg"], **options)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text() == (tmp_path / "c.svg").read_text()
    assert len(drawn) < 500_000
    text = words(drawn)
    assert text.index("entropy neurons") < text.index("my rule neurons")  # the order of all figures
    whole = " ".join(text)
    for statement in ("model demo", "facts pararel", "120 prompts of 40 facts", "replaced by: zero", "(nats)"):
        assert statement in whole, statement
    labels = world.decoded.filter(pl.col("variant") == 0)["label"]
    for label, long in zip(LABELS, ("context (CK)", "neither (ND)", "parametric (PK)"), strict=True):
        assert f"{long}: {(labels == label).sum()} prompts" in whole
    change = "change of " if name == "log_ratio_changes" else ""
    for ratio in RATIOS.values():
        assert f"{change}{ratio} (nats)" in text
    assert "whole objects:" in whole
    if change:
        assert "90 % interval, bootstrap by fact" in whole
    assert len([line for line in text if line.startswith("cross 0: ")]) == (0 if change else 8)


def test_ratios_are_the_total_route_against_the_clean_run_row_by_row(
    world: fake.World, paths: dict[str, object]
) -> None:
    frame = read(paths, "median")
    states = {(r["prompt"], r["variant"], r["route"]): r for r in world.states.iter_rows(named=True)}
    variant = {
        r["set"]: r["variant"]
        for r in world.variants.iter_rows(named=True)
        if r["kind"] == "selection" and r["replacement"] == "median"
    }
    label = {r["prompt"]: r["label"] for r in world.decoded.iter_rows(named=True) if r["variant"] == 0}
    fact = dict(world.conflicts.select("prompt", "fact").iter_rows())
    assert len(frame) == 2 * 4 * world.n_prompts
    assert frame["set"].unique(maintain_order=True).to_list() == ["entropy", "my_rule"]
    for row in frame.iter_rows(named=True):
        clean, total = states[row["prompt"], 0, "clean"], states[row["prompt"], variant[row["set"]], "total"]
        prefix = "object_log_prob" if row["ratio"] == log_ratios.WHOLE else "log_prob"
        above, below = row["ratio"].removeprefix("object_").split("_")
        for when, state in (("before", clean), ("after", total)):
            expected = state[f"{prefix}_{above}"] - state[f"{prefix}_{below}"]
            assert row[when] == pytest.approx(expected, abs=1e-12)
        assert row["label"] == label[row["prompt"]]
        assert row["fact"] == fact[row["prompt"]]


def test_whole_objects_without_a_probability_leave_their_ratio_alone(world: fake.World, tmp_path: Path) -> None:
    keywords = inputs(world, tmp_path)
    for path in keywords["states"]:
        frame = pl.read_parquet(path)
        rare = pl.col("prompt") % 4 == 0
        missing = pl.when(rare).then(None).otherwise("object_log_prob_pk").alias("object_log_prob_pk")
        write_table(frame.with_columns(missing), path, "states")
    frame = read(keywords)
    counts = dict(frame.group_by("ratio").len().iter_rows())
    assert counts == dict.fromkeys(RATIOS, 240) | {log_ratios.WHOLE: 180}
    for path in keywords["states"]:
        frame = pl.read_parquet(path).with_columns(object_log_prob_pk=pl.lit(None, pl.Float64))
        write_table(frame, path, "states")
    for name in FIGURES:
        assert "whole objects" not in " ".join(words(svg(made(name, keywords), tmp_path)))


def test_a_replacement_that_was_not_decoded_is_refused(paths: dict[str, object]) -> None:
    with pytest.raises(copying_data.MissingReplacement, match=r"'mode'.*mean, median, zero.*context_copying"):
        read(paths, "mode")


def test_a_damaged_shard_is_named(paths: dict[str, object], tmp_path: Path) -> None:
    broken = tmp_path / "states.parquet"
    broken.write_bytes(b"PAR1 nothing")
    with pytest.raises(TableError, match=str(broken)):
        read({**paths, "states": [broken]})
    with pytest.raises(TableError, match="no such table"):
        read({**paths, "decoded": [tmp_path / "none.parquet"]})
    with pytest.raises(TableError, match="missing columns"):
        read({**paths, "decoded": paths["states"]})


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    ("sizes", "statement"),
    [
        ({"n_facts": 0}, "no conflict prompt was decoded"),
        ({"selections": ()}, "no set of last-layer neurons is ablated"),
    ],
)
def test_nothing_to_draw_is_said(name: str, sizes: dict, statement: str, tmp_path: Path) -> None:
    keywords = inputs(fake.World(**SMALL | sizes), tmp_path)
    drawn = svg(made(name, keywords), tmp_path)
    assert statement in drawn
    assert "model demo" in drawn
    assert "0 prompts" not in drawn  # how many there are is not known here


@pytest.mark.parametrize("name", FIGURES)
def test_empty_and_tiny_classes_have_no_curve_and_no_interval(name: str, tmp_path: Path) -> None:
    world = fake.World(n_facts=30, counters=2, shares=(0.97, 0.03, 0.0), selections=("entropy",), seed=2, **SMALL)
    labels = world.decoded.filter(pl.col("variant") == 0)["label"]
    numbers = {label: int((labels == label).sum()) for label in LABELS}
    assert numbers["PK"] == 0
    assert 0 < numbers["ND"] < densities.FEW
    keywords = inputs(world, tmp_path)
    chart = made(name, keywords)
    assert "ticks instead of curves for labels with fewer than 5 prompts" in said(chart)
    drawn = svg(chart, tmp_path)
    assert "parametric (PK): 0 prompts" in drawn
    if name == "log_ratio_changes":
        lines = [line for line in words(drawn) if line.startswith(("CK ", "ND ", "PK "))]
        assert [line for line in lines if line.startswith("PK")] == []
        assert all("[" in line for line in lines if line.startswith("CK"))
        assert not [line for line in lines if line.startswith("ND") and "[" in line]
    frame = read(keywords).filter(pl.col("ratio") == "ck_pk")
    curves = importlib.import_module(f"neuronlab.figures.{name}").curves(frame, (-3.0, 3.0))
    drawn_labels = {part: set(rows["label"]) for (part,), rows in curves.group_by("part")}
    assert all(found == ({"ND"} if "tick" in part else {"CK"}) for part, found in drawn_labels.items())


@pytest.mark.parametrize("name", FIGURES)
def test_a_replacement_without_effect_is_drawn(name: str, tmp_path: Path) -> None:
    """All changes are 0: no kernel width can be had from them."""
    world = fake.World(n_facts=20, selections=("entropy",), **SMALL)
    keywords = inputs(world, tmp_path)
    clean = world.states.filter(pl.col("route") == "clean")
    values = [column for column in clean.columns if column.startswith(("log_prob", "object", "entropy"))]
    same = world.states.drop(values).join(clean.select("prompt", *values), on="prompt").select(world.states.columns)
    write_table(same, keywords["states"][0], "states")
    drawn = svg(made(name, {**keywords, "states": keywords["states"][:1]}), tmp_path)
    text = " ".join(words(drawn))
    if name == "log_ratio_changes":
        assert "CK +0 [+0, +0]" in text
    else:
        assert text.count("cross 0: CK 0, ND 0, PK 0") == 4


def test_crossings_are_counted_by_clean_label() -> None:
    rows = [("CK", 1.0, -0.1), ("CK", 1.0, 0.1), ("ND", -0.5, 0.5), ("ND", 0.5, -0.5), ("PK", -1.0, -2.0)]
    frame = pl.DataFrame(rows, schema=["label", "before", "after"], orient="row")
    assert decision_boundaries.crossings(frame) == "cross 0: CK 1, ND 2, PK 0"


def test_only_the_first_selections_have_a_column(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e", "f")
    sizes = {"uniform": 1, "norm_matched": 0, "synthetic": 0, "doses": 0, "dose_controls": 0}
    keywords = inputs(fake.World(n_facts=8, selections=names, replacements=("mean",), **sizes), tmp_path)
    for figure in FIGURES:
        chart = made(figure, keywords)
        assert "2 further selections in the table, not drawn" in said(chart)
        text = words(svg(chart, tmp_path))
        assert [name for name in names if f"{name} neurons" in text] == list("abcd")


# Densities


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(5, 400))
def test_a_density_is_scipys_and_its_area_is_one(seed: int, size: int) -> None:
    values = np.random.default_rng(seed).normal(1.0, 2.0, size)
    width = densities.bandwidth(values)
    spread = min(values.std(ddof=1), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.349)
    assert width == pytest.approx(0.9 * spread * size**-0.2)
    grid = np.linspace(values.min() - 6 * width, values.max() + 6 * width, 3001)
    found = densities.density(values, grid, width)
    expected = gaussian_kde(values, bw_method=width / values.std(ddof=1))(grid)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.trapezoid(found, grid) == pytest.approx(1.0, abs=1e-3)


def test_a_density_does_not_depend_on_the_size_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values, grid = np.random.default_rng(0).normal(size=1000), np.linspace(-4, 4, 50)
    whole = densities.density(values, grid, 0.2)
    monkeypatch.setattr(densities, "BLOCK", 7)
    np.testing.assert_allclose(densities.density(values, grid, 0.2), whole, rtol=1e-12)


def test_values_that_are_all_the_same_have_no_kernel() -> None:
    assert densities.bandwidth(np.full(9, 0.3)) == 0.0
    assert densities.bandwidth(np.array([1.0])) == 0.0
    # More than half of them the same: the quartiles agree, the standard deviation does not.
    assert densities.bandwidth(np.array([0.0] * 9 + [1.0])) > 0
    for values, width in (([], 1.0), ([1.0], 0.0), ([1.0], -1.0), ([1.0], float("nan"))):
        with pytest.raises(ValueError, match="does not exist"):
            densities.density(np.array(values), np.zeros(3), width)


def test_the_domain_holds_the_bulk_of_every_class_and_zero() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.normal(0, 1, 5000), rng.normal(9, 0.1, 30)  # 30 of 5,030 would vanish among pooled values
    low, high = log_ratios.span([large, small, np.array([])])
    assert ((small > low) & (small < high)).mean() > 0.96
    assert ((large > low) & (large < high)).mean() >= 0.98
    assert (
        log_ratios.beyond([large, small], (low, high))
        == ((large < low) | (large > high)).sum() + ((small < low) | (small > high)).sum()
    )
    assert log_ratios.span([np.array([3.0, 4.0])])[0] < 0
    assert log_ratios.span([]) == (-0.5, 0.5)


# Means and intervals


def changes(prompts_of_fact: int, copies: int = 1, seed: int = 0) -> pl.DataFrame:
    """Changes of 20 facts; every prompt `copies` times."""
    rng = np.random.default_rng(seed)
    rows = []
    for fact in range(20):
        own = rng.normal(0.3, 1.0)
        for _ in range(prompts_of_fact):
            label, change = LABELS[rng.integers(3)], own + rng.normal(0, 0.1)
            rows += [("s", "ck_pk", len(rows) + i, fact, label, 1.0, 1.0 + change) for i in range(copies)]
    names = ["set", "ratio", "prompt", "fact", "label", "before", "after"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_means_and_intervals_are_those_of_a_bootstrap_by_hand() -> None:
    frame = changes(3)
    found = log_ratio_changes.means(frame, level=0.9, resamples=300, seed=7)
    # The same draws, in a loop over resamples and prompts.
    draws = np.random.default_rng(7).multinomial(20, np.full(20, 1 / 20), size=300)
    for row in found.iter_rows(named=True):
        own = frame.filter(pl.col("label") == row["label"])
        values = [(fact, after - before) for fact, before, after in own.select("fact", "before", "after").iter_rows()]
        assert row["n"] == len(values)
        assert row["mean"] == pytest.approx(np.mean([v for _, v in values]))
        resampled = []
        for draw in draws:
            bag = [v for fact, v in values for _ in range(draw[fact])]
            resampled.append(np.mean(bag) if bag else np.nan)
        assert not np.isnan(resampled).any()
        expected = np.quantile(resampled, [0.05, 0.95])
        np.testing.assert_allclose([row["low"], row["high"]], expected, rtol=1e-9)
    assert set(found["label"]) == set(LABELS)


def test_an_interval_does_not_shrink_because_a_prompt_is_asked_twice() -> None:
    once, twice = (log_ratio_changes.means(changes(3, c), level=0.9, resamples=200, seed=1) for c in (1, 2))
    np.testing.assert_allclose(once["high"] - once["low"], twice["high"] - twice["low"], rtol=1e-9)
    assert (twice["n"] == 2 * once["n"]).all()


def test_an_interval_is_missing_where_nothing_can_be_resampled() -> None:
    one = changes(4).filter(pl.col("fact") == 3).with_columns(label=pl.lit("CK"))
    found = log_ratio_changes.means(one, level=0.9, resamples=100, seed=1)
    assert found.select("n", "low", "high").row(0) == (4, None, None)
    frame = changes(1).with_columns(label=pl.when(pl.col("fact") == 5).then(pl.lit("PK")).otherwise(pl.lit("CK")))
    rows = {
        row["label"]: row
        for row in log_ratio_changes.means(frame, level=0.9, resamples=200, seed=1).iter_rows(named=True)
    }
    assert rows["PK"]["low"] is None  # a single prompt: a third of the draws lack it
    assert rows["CK"]["low"] < rows["CK"]["mean"] < rows["CK"]["high"]
    assert len(log_ratio_changes.means(frame.clear(), level=0.9, resamples=9, seed=1)) == 0


@pytest.mark.parametrize(
    ("mean", "low", "high", "expected"),
    [
        (0.0576, 0.0494, 0.0660, "PK +0.0576 [+0.0494, +0.0660]"),
        (-1.234, -1.5, -1.0, "PK -1.23 [-1.50, -1.00]"),
        (-0.0001, -0.02, 0.02, "PK +0.000 [-0.020, +0.020]"),
        (12.3, 2.0, 25.0, "PK +12 [+2, +25]"),
        (0.5, None, None, "PK +0.5"),
        (0.0, 0.0, 0.0, "PK +0 [+0, +0]"),
    ],
)
def test_digits_follow_the_interval(mean: float, low: float | None, high: float | None, expected: str) -> None:
    row = {"label": "PK", "mean": mean, "low": low, "high": high}
    assert log_ratio_changes.statement(row) == expected.replace("-", "\N{MINUS SIGN}")


@pytest.mark.parametrize("name", [*FIGURES, "activation_densities", "selected_neurons", "norm_distributions"])
def test_captions_render(name: str) -> None:
    jinja2 = pytest.importorskip("jinja2")
    docutils = pytest.importorskip("docutils.core")
    source = (ROOT / "rules" / "captions" / f"{name}.rst").read_text()
    known = {
        "wildcards": {"model": "pythia@step1000", "facts": "pararel"},
        "params": {"level": 0.9, "replacement": "mean-3sd"},
    }
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=known)
    parts = docutils.publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})
    body = html.unescape(parts["body"])
    assert "pythia@step1000" in body
    assert "mailto" not in body  # '@' outside of a literal becomes a link
    if name in FIGURES:
        assert "mean-3sd" in body
        assert "pararel" in body
