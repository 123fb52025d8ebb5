"""Figures of context copying: what is drawn and said, and that empty classes, tables and missing values are notes."""

from __future__ import annotations

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
from neuronlab.figures import (
    class_counts,
    conversion_ratios,
    copying_bars,
    copying_data,
    copying_doses,
    copying_labels,
    copying_relations,
    flips,
    saving,
    transition_matrix,
    transition_scores,
)
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import write_table

ROOT = Path(__file__).parents[2]
# Figure: its tables by keyword of `draw`, in the order of `chart`'s arguments.
FIGURES = {
    "class_counts": {"class_counts": "class_counts", "funnel": "funnel"},
    "transition_scores": {"scores": "copying_scores", "control_tests": "control_tests"},
    "conversion_ratios": {"scores": "copying_scores", "control_tests": "control_tests"},
    "copying_bars": {"scores": "copying_scores", "control_tests": "control_tests"},
    "transition_matrix": {"transitions": "transitions"},
    "copying_doses": {"doses": "copying_doses"},
    "copying_relations": {"relations": "copying_relations"},
    "flips": {"flips": "flips", "flip_prediction": "flip_prediction"},
}
ONE_REPLACEMENT = ("transition_scores", "conversion_ratios", "transition_matrix", "copying_relations", "flips")
# One set, one replacement, one kind of control: worlds that are drawn quickly.
ONE = {
    "selections": ("entropy",),
    "replacements": ("mean",),
    "uniform": 2,
    "norm_matched": 0,
    "synthetic": 0,
    "doses": 2,
}
SETS = ("entropy", "token_frequency", "induction_driven")


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return fake.tables(fake.World(selections=SETS))


@pytest.fixture(scope="module")
def small() -> dict[str, pl.DataFrame]:
    """Fewer panels, for what does not depend on their number."""
    sizes = {"uniform": 5, "norm_matched": 4, "synthetic": 0, "doses": 3}
    return fake.tables(fake.World(selections=("entropy", "my_rule"), replacements=("mean", "zero"), **sizes))


def options(name: str, replacement: str = "mean") -> dict[str, object]:
    shown = {"replacement": replacement} if name in ONE_REPLACEMENT else {}
    return {"model": "demo", "facts": "pararel", "level": 0.9, **shown}


def made(name: str, tables: dict[str, pl.DataFrame], **changes: object) -> alt.TopLevelMixin:
    module = importlib.import_module(f"neuronlab.figures.{name}")
    return module.chart(*(tables[table] for table in FIGURES[name].values()), **options(name) | changes)


def subtitle(chart: alt.TopLevelMixin) -> str:
    return " | ".join(chart.title.subtitle)


def svg(chart: alt.TopLevelMixin, tmp_path: Path) -> str:
    """The picture; it must be well-formed, of finite size and free of undefined numbers."""
    saving.save(chart, [tmp_path / "figure.svg"])
    text = (tmp_path / "figure.svg").read_text()
    root = ElementTree.fromstring(text)
    assert max(float(root.attrib[side]) for side in ("width", "height")) < 2600
    assert "NaN" not in text
    assert "undefined," not in text
    assert "Infinity" not in text
    return text


def words(drawn: str) -> list[str]:
    """Every line of text in a picture."""
    texts = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    return [line for text in texts for line in text.itertext()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_model_facts_and_sets_and_its_bytes_repeat(
    name: str, small: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    paths = {key: tmp_path / f"{key}.parquet" for key in FIGURES[name]}
    for key, table in FIGURES[name].items():
        write_table(small[table], paths[key], table)
    module = importlib.import_module(f"neuronlab.figures.{name}")
    first, second = (tmp_path / f"{run}.svg" for run in ("a", "b"))
    for target in (first, second):
        module.draw(**paths, figures=[target], **options(name))
    drawn = first.read_text()
    assert drawn == second.read_text()
    for text in ("model demo", "facts pararel", "180 prompts"):
        assert text in drawn
    if name != "transition_matrix":  # its intervals are in the table
        assert "90 %" in drawn
    if name != "class_counts":
        assert "entropy neurons" in drawn
        assert "my rule neurons" in drawn


@pytest.mark.parametrize(
    "world",
    [
        fake.World(n_facts=0, **ONE),
        fake.World(**ONE | {"selections": ()}),
        fake.World(shares=(1, 0, 0), **ONE),
        pytest.param(fake.World(flip=0.0, **ONE), marks=pytest.mark.slow),
        pytest.param(fake.World(n_facts=1, **ONE), marks=pytest.mark.slow),
        pytest.param(fake.World(flip=0.9, **ONE | {"doses": 0}), marks=pytest.mark.slow),
    ],
    ids=["no prompt", "no set", "empty classes", "no flip", "one fact", "no dose"],
)
def test_worlds_that_lack_something_are_drawn(world: fake.World, tmp_path: Path) -> None:
    found = fake.tables(world)
    for name in FIGURES:
        drawn = svg(made(name, found), tmp_path)
        if name == "class_counts":
            assert ("no prompt is left" in drawn) == (world.n_facts == 0)
        elif not world.selections or (name == "copying_doses" and not world.doses):
            assert "no set" in drawn
        elif not world.n_facts:
            assert "no prompt is left" in drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_empty_tables_and_missing_values_give_notes(name: str, tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    empty = {table: frame.clear() for table, frame in tables.items()}
    assert "no " in svg(made(name, empty), tmp_path)
    missing = {}
    for table, frame in tables.items():
        numbers = [column for column, kind in frame.schema.items() if kind == pl.Float64 and column != "dose"]
        missing[table] = frame.with_columns(pl.lit(None, pl.Float64).alias(column) for column in numbers)
    svg(made(name, missing), tmp_path)
    ends = {
        table: frame.with_columns(
            pl.lit(None, pl.Float64).alias(column) for column in frame.columns if column.endswith(("_low", "_high"))
        )
        for table, frame in tables.items()
    }
    svg(made(name, ends), tmp_path)


@pytest.mark.parametrize("name", ONE_REPLACEMENT)
def test_a_replacement_that_was_not_run_is_refused(name: str, tables: dict[str, pl.DataFrame]) -> None:
    with pytest.raises(copying_data.MissingReplacement, match=r"'mode'.*mean.*context_copying\.replacements"):
        made(name, tables, replacement="mode")


def test_labels_have_the_same_colours_in_every_figure(small: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    for name in ("class_counts", "copying_doses", "copying_relations"):
        drawn = svg(made(name, small), tmp_path)
        assert all(copying_labels.NAMES[label] in words(drawn) for label in LABELS)
        assert all(copying_labels.COLOURS[label] in drawn for label in LABELS)


def test_an_empty_class_is_no_zero(tmp_path: Path) -> None:
    found = fake.tables(fake.World(shares=(1, 0, 0), **ONE))
    counts = dict(found["class_counts"].filter(pl.col("subset") == "all").select("label", "n").iter_rows())
    assert counts == {"CK": 180, "ND": 0, "PK": 0}
    matrix = words(svg(made("transition_matrix", found), tmp_path))
    assert matrix.count("no prompt") == 2 * 6  # two rows without prompts, of the selection and of its controls
    assert any("no answer of the clean model is neither (ND) or parametric (PK)" in text for text in matrix)
    bars = words(svg(made("copying_bars", found), tmp_path))
    assert "no prompt is left that does not follow the context" in bars
    ratios = words(svg(made("conversion_ratios", found), tmp_path))
    assert ratios.count("nothing to convert") == 1
    assert "of 0 prompts with another label" in ratios


def test_cells_are_counts_of_the_selection_and_means_of_controls(tables: dict[str, pl.DataFrame]) -> None:
    rows = tables["transitions"].filter(pl.col("replacement") == "median")
    for kind in ("selection", "synthetic"):
        cells = transition_matrix.cells_of(rows, "entropy", kind)
        assert len(cells) == 9
        for before in LABELS:
            for after in LABELS:
                name, other = copying_labels.NAMES[before], copying_labels.NAMES[after].split(" (")[0]
                cell = cells.filter((pl.col("before") == name) & (pl.col("after") == other)).row(0, named=True)
                of = [
                    row
                    for row in rows.filter(pl.col("kind") == kind).iter_rows(named=True)
                    if (row["before"], row["after"]) == (before, after) and "entropy" in (row["set"], row["control_of"])
                ]
                assert len(of) == (1 if kind == "selection" else 12)
                assert cell["share"] == pytest.approx(np.mean([row["n"] / row["n_before"] for row in of]))
                if kind == "selection":
                    assert cell["second"] == f"{of[0]['n']} of {of[0]['n_before']}"


def test_p_values_stand_beside_their_histograms(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    found = words(svg(made("transition_scores", tables), tmp_path))
    tests = tables["control_tests"].filter((pl.col("measure") == "gts") & (pl.col("replacement") == "mean"))
    assert len(tests) == 9
    for row in tests.iter_rows(named=True):
        name = copying_labels.CONTROLS[row["controls"]]
        assert f"12 {name}: p = {row['p_value']:.2g}" in found
    for name in SETS:
        own = tables["copying_scores"].filter(
            (pl.col("set") == name) & (pl.col("measure") == "gts") & (pl.col("replacement") == "mean")
        )
        assert any(f"({own['n'].item()} of 180)" in text for text in found)


@given(
    counts=st.lists(st.integers(0, 400), min_size=1, max_size=60),
    total=st.integers(400, 5000),
    root=st.booleans(),
)
def test_every_control_set_is_in_the_bin_of_its_score(counts: list[int], total: int, root: bool) -> None:
    bins = transition_scores.histogram(counts, total, max(counts) / total, root=root)
    assert bins["sets"].sum() == len(counts)
    for left, right, sets in bins.iter_rows():
        assert sets == sum(left <= count / total < right or count == left == 0 for count in counts)
    assert len(bins) <= transition_scores.BINS + 1


def test_a_selection_far_beyond_its_controls_gets_a_square_root_axis(tables: dict[str, pl.DataFrame]) -> None:
    gts = tables["copying_scores"].filter((pl.col("measure") == "gts") & (pl.col("replacement") == "mean"))
    far = gts.with_columns(value=pl.when(pl.col("kind") == "selection").then(0.94).otherwise(0.004))
    near = gts.with_columns(value=pl.when(pl.col("kind") == "selection").then(0.006).otherwise(0.004))
    assert transition_scores.shown_scale(far, 5000)[1]
    assert not transition_scores.shown_scale(near, 5000)[1]
    nothing = gts.with_columns(pl.lit(0.0).alias(name) for name in ("value", "value_high"))
    assert transition_scores.shown_scale(nothing, 180) == (6 / 180, False)


@settings(deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=40))
def test_ranges_are_quantiles_of_the_sets_with_a_value(values: list[float | None]) -> None:
    frame = pl.DataFrame({"kind": ["uniform"] * len(values), "value": pl.Series(values, dtype=pl.Float64)})
    row = copying_data.control_ranges(frame, ["kind"]).row(0, named=True)
    there = [value for value in values if value is not None]
    assert row["n_sets"] == len(there)
    if there:
        assert row["mean"] == pytest.approx(np.mean(there))
        assert [row["low"], row["high"]] == pytest.approx(np.quantile(there, [0.025, 0.975]), abs=1e-12)
    else:
        assert row["mean"] is row["low"] is row["high"] is None


@given(n=st.integers(1, 3000), total=st.integers(1, 3000))
def test_only_all_is_100_percent_and_only_none_is_0(n: int, total: int) -> None:
    share = min(n, total) / total
    text = copying_data.percent(share)
    assert (text == "100 %") == (share == 1)
    assert text != "0 %"
    number = float(text.removesuffix(" %").removeprefix("> "))
    assert number == pytest.approx(100 * share, rel=0.06)
    assert copying_data.percent(0.0) == "0 %"
    assert copying_data.percent(None) == "missing"


@settings(deadline=None)
@given(values=st.lists(st.floats(0, 1), max_size=500))
def test_dots_stay_in_their_row_and_keep_the_extremes(values: list[float]) -> None:
    dots = conversion_ratios.dots_of(pl.Series(values, dtype=pl.Float64), 100.0)
    assert len(dots) == min(len(values), conversion_ratios.DOTS)
    assert set(dots["value"]) <= set(values)
    if values:
        assert (dots["value"].min(), dots["value"].max()) == (min(values), max(values))
        assert dots["y"].is_between(100 - conversion_ratios.ROW / 2, 100 + conversion_ratios.ROW / 2).all()


def test_bars_are_the_tables_numbers(tables: dict[str, pl.DataFrame]) -> None:
    scores = tables["copying_scores"]
    for measure, before in (("ts_nd_ck", "ND"), ("ts_pk_ck", "PK")):
        bars = copying_bars.bars_of(scores, "token_frequency", measure, ["mean", "zero"])
        assert bars["kind"].to_list() == ["selection", "uniform", "norm_matched", "synthetic"] * 2
        assert (bars["top"].diff().drop_nulls() >= copying_bars.BAR).all()  # none covers another
        for row in bars.iter_rows(named=True):
            of = tables["transitions"].filter(
                (pl.col("before") == before)
                & (pl.col("after") == "CK")
                & (pl.col("replacement") == row["replacement"])
                & (pl.col("kind") == row["kind"])
                & (pl.coalesce("control_of", "set") == "token_frequency")
            )
            assert row["value"] == pytest.approx((of["n"] / of["n_before"]).mean())
            number = of["n"].item() if row["kind"] == "selection" else of["n"].mean()
            shown = float(row["text"].split("(")[1].removesuffix(")"))
            assert shown == pytest.approx(number, abs=0.051)


def test_doses_show_the_clean_model_and_every_label(small: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    shares = copying_doses.long_shares(small["copying_doses"])
    sums = shares.group_by("set", "dose").agg(pl.col("share").sum())
    assert sums["share"].to_numpy() == pytest.approx(1.0)
    assert "clean model" in words(svg(made("copying_doses", small), tmp_path))
    without = small | {"copying_doses": small["copying_doses"].filter(pl.col("kind") != "clean")}
    assert "clean model" not in words(svg(made("copying_doses", without), tmp_path))


def test_many_relations_are_cut_to_those_with_most_prompts(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    few = tables["copying_relations"]
    one = few.filter(pl.col("relation") == "capital")
    many = pl.concat(
        one.with_columns(
            relation=pl.lit(f"relation {i:02d}"), n_eligible=pl.when(pl.col("n_eligible") > 0).then(i + 3).otherwise(0)
        ).cast({"n_eligible": pl.Int64})
        for i in range(40)
    )
    sizes, number = copying_relations.shown_relations(many.filter(pl.col("replacement") == "mean"))
    assert number == 40
    assert sizes["relation"].to_list() == [f"relation {i:02d}" for i in range(39, 14, -1)]
    chart = made("copying_relations", {"copying_relations": many})
    assert "the 25 relations with most prompts; 15 more in the table" in subtitle(chart)
    drawn = words(svg(chart, tmp_path))
    assert "relation 15" in drawn
    assert "relation 14" not in drawn
    assert "more in the table" not in subtitle(made("copying_relations", tables))


def test_marks_of_a_relation_stay_in_its_row(tables: dict[str, pl.DataFrame]) -> None:
    rows = tables["copying_relations"].filter((pl.col("measure") == "gts") & (pl.col("replacement") == "mean"))
    order, height = sorted(set(rows["relation"])), 28.0
    found = copying_relations.places(rows, order, dict.fromkeys(SETS, "#000000"), height, by="set")
    assert len(found) == len(rows)
    for name, y in found.select("relation", "y").iter_rows():
        assert order.index(name) * height < y < (order.index(name) + 1) * height
    assert found.select("relation", "y").is_unique().all()


def test_flips_say_how_many_and_auc_with_interval(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    found = words(svg(made("flips", tables), tmp_path))
    prediction = tables["flip_prediction"].filter(pl.col("replacement") == "mean")
    assert len(prediction) == 18
    for row in prediction.iter_rows(named=True):
        assert f"{row['n_changed']} changed, {row['n_kept']} kept" in found
        assert f"{row['auc']:.2f} [{row['auc_low']:.2f}, {row['auc_high']:.2f}]" in found


def test_without_a_flip_the_auc_is_undefined_and_kept_prompts_stay(tmp_path: Path) -> None:
    found = fake.tables(fake.World(flip=0.0, **ONE))
    drawn = words(svg(made("flips", found), tmp_path))
    assert "no answer changes, 180 kept" in drawn
    assert drawn.count("undefined") == len(flips.ROUTES) * len(flips.PREDICTORS)


def test_subsets_are_all_first_then_by_size() -> None:
    rows = [("small", 6), ("all", 30), ("large", 24)]
    frame = pl.DataFrame(
        [
            {"subset": name, "label": label, "n_prompts": n, "n_facts": n // 3, "n": n // 3, "share": 1 / 3}
            for name, n in rows
            for label in LABELS
        ]
    )
    assert class_counts.shown_subsets(frame) == (["all", "large", "small"], None)
    single = frame.filter(pl.col("subset") != "small").with_columns(n_prompts=30)
    assert class_counts.shown_subsets(single) == (["all"], None)
    many = pl.concat(frame.with_columns(subset=pl.format("{} {}", "subset", pl.lit(i))) for i in range(4))
    names, note = class_counts.shown_subsets(pl.concat([frame, many]))
    assert (len(names), names[0], note) == (8, "all", "7 smaller subsets in the table, not drawn")


def test_more_selections_than_fit_are_said() -> None:
    names = [f"rule_{i}" for i in range(8)]
    frame = pl.DataFrame({"set": [*names, "rule_0_uniform_000"], "kind": ["selection"] * 8 + ["uniform"]})
    for table in (frame, frame.head(8).drop("kind")):
        assert copying_data.selections(table) == names[: copying_data.LIMIT]
        assert copying_data.left_out(table) == "2 further selections in the table, not drawn"
        assert copying_data.left_out(table.head(copying_data.LIMIT)) is None


@pytest.mark.parametrize("name", FIGURES)
def test_captions_render(name: str) -> None:
    jinja2 = pytest.importorskip("jinja2")
    docutils = pytest.importorskip("docutils.core")
    source = (ROOT / "rules" / "captions" / f"{name}.rst").read_text()
    known = {"wildcards": {"model": "pythia@step1000", "facts": "pararel"}, "params": {"level": 0.9}}
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=known)
    html = docutils.publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})["body"]
    assert "90 %" in text
    assert "pararel" in html
    assert "mailto" not in html  # '@' outside of a literal becomes a link


def test_the_class_counts_say_how_many_own_answers_are_right():
    answers = pl.DataFrame({"correct": [True, False, False]})
    assert class_counts.right_answers(answers).endswith("for 1 of 3 facts")
