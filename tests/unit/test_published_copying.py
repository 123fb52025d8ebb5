"""Shipped scores against METHODS B5 as printed; ours beside them; the figure."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from neuronlab import published_copying
from neuronlab.conversions import MEASURES
from neuronlab.figures import published_copying as figure
from neuronlab.figures import saving
from neuronlab.published_copying import PublishedCopyingError, compare_published_copying, published_scores
from neuronlab.published_models import COPYING_MODELS, VALUES, published_models
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame, read_table, write_table

# What study B printed (METHODS B5, B2), typed anew: (model, measure, replacement, value, mean of the control sets).
PRINTED = [
    ("gpt2", "gts", "mean+3sd", 7.8, None),
    ("gpt2", "gts", "mode", 93.8, None),
    ("gpt2", "ts_pk_nd", "mean", 6.2, 2.6),
    ("gpt2", "cr_ck", "mean", 3.15, 0.43),
    ("gpt2", "count_ck", "none", 9960, None),
    ("pythia-1.4b", "gts_percentile", "mean", 92.5, None),
    ("pythia-1.4b", "gts_percentile", "median", 74.5, None),
    ("pythia-1.4b", "cr_pk", "mean", 0.078, 0.024),
    ("pythia-1.4b", "ts_nd_ck", "mean", 2.0, 0.7),
    ("pythia-1.4b", "gts_control_max", "mean", 0.30, None),
    ("Mistral-7B-v0.1", "gts", "mean-3sd", 11.1, None),
    ("Mistral-7B-v0.1", "gts_percentile", "mode", 87, None),
    ("Mistral-7B-v0.1", "ts_pk_pk", "mean", 97.6, 99.4),
    ("Mistral-7B-v0.1", "share_ck", "none", 83, None),
    ("phi-1_5", "gts", "median", 1.1, None),
    ("phi-1_5", "ts_nd_nd", "mean", 96.4, 99.5),
    ("phi-1_5", "cr_ck", "mean", 1.25, 0.22),
    ("phi-1_5", "count_pk", "none", 1600, None),
    ("phi-1_5", "gts_control_max", "mean", 3.4, None),
    ("Meta-Llama-3-8B", "gts", "mean+3sd", 99.5, None),
    ("Meta-Llama-3-8B", "gts_percentile", "mode", 60.5, None),
    ("Meta-Llama-3-8B", "ts_nd_ck", "mean", 6.2, 0.2),
    ("Meta-Llama-3-8B", "cr_pk", "mean", 0.38, 0.03),
    ("Meta-Llama-3-8B", "count_pk", "none", 200, None),
]
OF_LAYER = {"gpt2": 3072, "pythia-1.4b": 8192, "phi-1_5": 8192, "Meta-Llama-3-8B": 14336, "Mistral-7B-v0.1": 14336}
FOLDERS = {"gpt2": "gpt2-small", "pythia-1.4b": "EleutherAI_pythia-1.4b", "phi-1_5": "Phi-1_5"}


@pytest.mark.parametrize(("model", "measure", "replacement", "value", "control"), PRINTED)
def test_shipped_values_are_the_printed_ones(model, measure, replacement, value, control) -> None:
    rows = published_scores(model).filter(measure=measure, replacement=replacement)
    assert value in rows["published"].to_list()
    assert control in rows["published_control"].to_list()


def test_both_readings_of_the_mean_score_are_there() -> None:
    exact = {"gpt2": (0.3, 0.262), "pythia-1.4b": (0.1, 0.104), "Mistral-7B-v0.1": (0.5, 0.545)}
    exact |= {"phi-1_5": (1.0, 1.04), "Meta-Llama-3-8B": (0.5, 0.49)}
    for model, (printed, read_off) in exact.items():
        rows = published_scores(model).filter(measure="gts", replacement="mean")
        assert rows.select("published", pl.col("source").str.contains("approximate")).rows() == [
            (printed, False),
            (read_off, True),
        ]


@pytest.mark.parametrize("model", COPYING_MODELS)
def test_shipped_table_is_whole(model: str) -> None:
    values = published_scores(model)
    assert model in published_models()
    assert values.select("measure", "replacement", "source").is_unique().all()
    count = values.group_by("measure").len()
    assert dict(count.iter_rows())["gts"] == 6
    cells = values.filter(pl.col("measure").str.starts_with("ts_"))
    assert len(cells) == 9
    assert set(cells["measure"]) | {"cr_ck", "cr_nd", "cr_pk", "gts"} <= set(MEASURES)
    # Rows of a transition matrix add up, but for the last printed digit of each.
    for label in ("ck", "nd", "pk"):
        rows = cells.filter(pl.col("measure").str.starts_with(f"ts_{label}_"))
        assert rows["published"].sum() == pytest.approx(100, abs=0.16)
        assert rows["published_control"].sum() == pytest.approx(100, abs=0.16)
    shares = values.filter(~pl.col("measure").str.contains("^(?:count|activation)"))
    assert shares["published"].is_between(0, 100).all()
    assert values.filter(pl.col("published").is_null())["measure"].str.starts_with("count_").all()
    assert values.filter(~pl.col("usable"))["note"].null_count() == 0


def test_values_that_a_defect_made_are_no_targets() -> None:
    """B defects 1 (conversion to ND), 2 (infinite deviations) and 3 (a mode that is NaN)."""
    for model in COPYING_MODELS:
        values = published_scores(model)
        assert not values.filter(pl.col("replacement").str.contains("3sd"))["usable"].any()
        conversions = {measure: values.filter(measure=measure) for measure in ("cr_nd", "cr_pk", "cr_ck")}
        bar = conversions["cr_nd"].filter(~pl.col("usable"))
        assert bar["published"].to_list() == conversions["cr_pk"]["published"].to_list()
        assert conversions["cr_nd"].filter("usable")["source"].str.contains("rebuilt").to_list() == [True]
        assert conversions["cr_ck"]["usable"].all()
        assert values.filter(pl.col("replacement").is_in(["mean", "median"]), measure="gts")["usable"].all()
        usable_mode = values.filter(measure="gts", replacement="mode")["usable"].to_list()
        assert usable_mode == [model != "gpt2"]
        assert not published_copying.published_constants(published_copying.published_activations(model))["usable"].any()
    # Numbers of infinite deviations: METHODS B defect 2.
    for model, among, in_layer in (
        ("gpt2", "5 of 6", "17 of 3072"),
        ("phi-1_5", "2 of 12", "7 of 8192"),
        ("pythia-1.4b", "6 of 9", "171 of 8192"),
        ("Meta-Llama-3-8B", "8 of 10", "677 of 14336"),
        ("Mistral-7B-v0.1", "12 of 14", "526 of 14336"),
    ):
        note = published_scores(model).filter(measure="gts", replacement="mean-3sd")["note"][0]
        assert among in note
        assert in_layer in note


def test_replaced_activations_as_printed() -> None:
    """METHODS B6."""
    means = {"gpt2": {584: 0.920, 1611: 1.501, 2123: 0.3245, 2378: 1.696, 2870: 0.1689, 2910: 2.924}}
    means["phi-1_5"] = {430: 0.743, 473: 0.531, 833: 0.323, 1121: 1.094, 1422: 0.144, 1509: 1.039}
    means["phi-1_5"] |= {2072: 0.581, 2333: 0.205, 3052: 0.487, 3601: 0.536, 7335: 0.117, 7489: 0.336}
    for model, printed in means.items():
        shipped = dict(published_copying.published_activations(model).select("neuron", "mean").iter_rows())
        assert shipped.keys() == printed.keys()
        for neuron, mean in printed.items():
            assert shipped[neuron] == pytest.approx(mean, abs=5.1e-4)
    held = published_copying.published_constants(published_copying.published_activations("gpt2"))
    found = {row["replacement"]: row for row in held.filter(measure="activation_2378").iter_rows(named=True)}
    assert found["max"]["published"] == pytest.approx(43.16, abs=0.01) == found["mean+3sd"]["published"]
    assert found["min"]["published"] == pytest.approx(-0.170, abs=1e-3) == found["mean-3sd"]["published"]
    assert found["mode"]["published"] is None
    assert found["mode"]["note"].endswith("; NaN")
    finite = {
        row["replacement"]: row["published"] for row in held.filter(measure="activation_2870").iter_rows(named=True)
    }
    assert finite["mean+3sd"] == pytest.approx(0.168945 + 3 * 0.495361, abs=1e-5)
    assert finite["mean-3sd"] == finite["min"]


def test_activations_are_those_of_the_published_neurons(shared: Path) -> None:
    for model in COPYING_MODELS:
        ours = published_copying.published_activations(model)
        published = pl.read_csv(VALUES).filter(model=model, study="context_copying")
        assert ours["neuron"].to_list() == sorted(published["neuron"])
        folder = shared / "published" / "activation_statistics" / FOLDERS.get(model, model)
        for column in published_copying.STATISTICS:
            name = "std" if column == "sd" else column
            theirs = np.load(folder / f"neurons_{name}_activations_last_layer.npy").astype(float)
            assert len(theirs) == OF_LAYER[model]
            np.testing.assert_allclose(ours[column], theirs[ours["neuron"].to_list()], rtol=1e-5)


class Tables:
    """Our tables of a run on GPT-2 with known scores, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.value = {
            (name, replacement, measure): rng.uniform(0, 1)
            for name in ("other", "entropy")
            for replacement in ("mean", "median")
            for measure in MEASURES
        }
        about = {"kind": "selection", "control_of": None, "n_prompts": 400, "n_facts": 150}
        scores = [
            {"set": name, "replacement": replacement, "measure": measure, "n_eligible": 300 + i, "n": 7, "value": value}
            | {"value_low": value / 2, "value_high": value + 0.01}
            | about
            for i, ((name, replacement, measure), value) in enumerate(self.value.items())
        ]
        tests = [
            {"set": name, "replacement": replacement, "measure": measure, "value": value, "controls": controls}
            | {"n_controls": 9, "control_mean": value / scale, "control_sd": 0.1, "control_max": value + 0.001 * scale}
            | {"p_value": 0.1, "percentile": 50 + 10 * scale + (measure == "invariance")}
            for (name, replacement, measure), value in self.value.items()
            for controls, scale in (("norm_matched", 3), ("uniform", 4))
        ]
        classes = [
            {"subset": subset, "label": label, "n_prompts": 400, "n_facts": 150, "n": n, "share": n / 400}
            | {"n_empty": 0, "share_low": n / 500, "share_high": None}
            for subset, numbers in (("all", (300, 60, 40)), ("part", (1, 2, 3)))
            for label, n in zip(("CK", "ND", "PK"), numbers, strict=True)
        ]
        n = 3072
        self.mean = rng.uniform(0, 1, n)
        plain = {"mean": self.mean, "sd": np.full(n, 0.5), "min": np.full(n, -0.17), "max": self.mean + 1}
        plain |= {"median": self.mean / 2, "mode": np.zeros(n), "skew": np.zeros(n), "kurtosis": np.full(n, 3.0)}
        plain |= {"layer": np.full(n, 11), "neuron": np.arange(n), "n_tokens": np.full(n, 10)}
        statistics = pl.DataFrame(plain).with_columns(histogram=[1, 2], position_means=pl.lit([0.0]))
        members = {
            "other": [1, 2, 584],
            "entropy": [584, 1611, 2123, 2378, 2870, 9],
            "wide": [584, 1611, 2123, 2378, 2870, 8, 7],
        }
        sets = [
            {"set": name, "kind": "selection", "control_of": None, "layer": 11, "neuron": neuron, "rank": rank}
            | {"norm": 1.0, "matched": None, "norm_ratio": None, "draw": None}
            for name, neurons in members.items()
            for rank, neuron in enumerate(neurons)
        ]
        frames = {
            "copying_scores": pl.DataFrame(scores),
            "control_tests": pl.DataFrame(tests),
            "class_counts": pl.DataFrame(classes),
            "activation_statistics": statistics,
            "copying_sets": pl.DataFrame(sets),
        }
        for name, frame in frames.items():
            schema = {column: spec.dtype for column, spec in SCHEMAS[name].items()}
            write_table(frame.select(list(schema)).cast(schema), self.path(name), name)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def empty(self, *names: str) -> None:
        for name in names:
            write_table(read_table(self.path(name), name).clear(), self.path(name), name)

    def compare(self, model: str | None = "gpt2") -> pl.DataFrame:
        compare_published_copying(
            model_name=model,
            scores=self.path("copying_scores"),
            control_tests=self.path("control_tests"),
            class_counts=self.path("class_counts"),
            statistics=self.path("activation_statistics"),
            sets=self.path("copying_sets"),
            published=self.path("published"),
        )
        return read_table(self.path("published"), "published_copying")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_ours_beside_the_published(tables: Tables) -> None:
    found = tables.compare()

    def row(measure: str, replacement: str = "mean") -> dict:
        return found.filter(measure=measure, replacement=replacement).row(0, named=True)

    # 'wide' shares as many neurons but holds more of others; 'other' shares one.
    assert (row("shared_neurons", "none")["set"], row("shared_neurons", "none")["published"]) == ("entropy", 6.0)
    assert row("shared_neurons", "none")["ours"] == 5.0
    for measure in ("gts", "ts_nd_ck", "ts_pk_pk", "cr_ck", "cr_pk"):
        mine, value = row(measure), tables.value["entropy", "mean", measure]
        assert mine["set"] == "entropy"
        assert mine["ours"] == pytest.approx(100 * value)
        assert mine["ours_low"] == pytest.approx(50 * value)
        assert mine["ours_high"] == pytest.approx(100 * value + 1)
        assert mine["ours_control"] == pytest.approx(25 * value)
        assert mine["n"] >= 300
    assert row("gts", "median")["ours"] == pytest.approx(100 * tables.value["entropy", "median", "gts"])
    assert row("gts", "median")["published"] == 0.2
    assert row("gts_control_max")["ours"] == pytest.approx(100 * tables.value["entropy", "mean", "gts"] + 0.4)
    assert row("gts_percentile")["ours"] == 91.0  # that of the labels that stay, among uniform sets
    for replacement in ("mode", "mean-3sd", "mean+3sd"):
        assert row("gts", replacement)["ours"] is None
        assert row("gts", replacement)["published"] is not None
    assert found.filter(measure="cr_nd")["ours"].n_unique() == 1
    assert found.filter(measure="cr_nd")["usable"].to_list() == [False, True]
    for label, n in (("ck", 300), ("nd", 60), ("pk", 40)):
        assert row(f"count_{label}", "none")["ours"] == n
    assert row("share_ck", "none")["ours"] == pytest.approx(75.0)
    assert (row("share_ck", "none")["ours_low"], row("share_ck", "none")["ours_high"]) == (pytest.approx(60.0), None)
    assert row("activation_2870")["ours"] == tables.mean[2870]
    assert row("activation_2870", "mean+3sd")["ours"] == pytest.approx(tables.mean[2870] + 1)
    assert row("activation_2870", "mean-3sd")["ours"] == pytest.approx(-0.17)
    assert row("activation_584", "median")["ours"] == tables.mean[584] / 2
    assert len(found) == 1 + len(published_scores("gpt2")) + 6 * 7


def test_nothing_of_ours(tables: Tables, tmp_path: Path) -> None:
    tables.empty("copying_scores", "control_tests", "class_counts", "copying_sets")
    found = tables.compare("Mistral-7B-v0.1")
    scored = found.filter(~pl.col("measure").str.starts_with("activation"))
    assert scored["ours"].null_count() == len(scored)
    assert scored["set"].null_count() == len(scored)
    path = tmp_path / "figure.svg"
    saving.save(figure.chart(found, model="mistral", facts="pararel"), [path])
    assert "nothing of ours" in path.read_text()


@pytest.mark.parametrize("model", ["demo", "gpt3", "pythia-410m", None])
def test_other_models_have_no_published_scores(tables: Tables, model: str | None) -> None:
    with pytest.raises(PublishedCopyingError, match=r"none of|known are gpt2, pythia-1.4b"):
        tables.compare(model)
    assert not tables.path("published").exists()


def test_first_selection_where_none_shares_a_neuron() -> None:
    rows = [("a", 1), ("a", 2), ("b", 3)]
    sets = pl.DataFrame(rows, schema=["set", "neuron"], orient="row").with_columns(kind=pl.lit("selection"))
    assert published_copying.nearest_selection(sets, [9]) == ("a", 0)
    assert published_copying.nearest_selection(sets, [3]) == ("b", 1)
    assert published_copying.nearest_selection(sets.with_columns(kind=pl.lit("uniform")), [3]) == (None, 0)


def test_figure_draws_every_value_once(tables: Tables) -> None:
    found = tables.compare()
    frame, reasons = figure.prepare(found)
    assert frame.filter(series="published")["value"].len() == 11 + 1 + 6 + 4 + 2 + 1
    assert frame.filter(series="ours").select("panel", "label").is_unique().all()
    hollow = frame.filter(~pl.col("usable"))
    assert set(hollow["series"]) == {"published"}
    assert len(hollow) == 7
    assert {reasons[note] for note in hollow["note"]} == {int(number) for number in hollow["number"]} == {1, 2, 3, 4}
    assert frame.filter(pl.col("usable"))["number"].null_count() == len(frame) - len(hollow)
    controls = frame.filter(panel="cells", series="published controls, mean")
    assert controls.filter(label="parametric → context").select("low", "high").row(0) == pytest.approx((0.6, 1.8))
    assert (controls["low"].drop_nulls() >= 0).all()


def test_figure_is_written(tables: Tables, tmp_path: Path) -> None:
    tables.compare()
    paths = [tmp_path / "figure.svg"]
    figure.draw(published=tables.path("published"), figures=paths, model="gpt2", facts="pararel", level=0.9)
    text = paths[0].read_text()
    for said in (
        "holds 5 of the 6 published neurons",
        "400 prompts of ours",
        "mode of neuron 2378 is NaN",
        "90 %",
        "2910",
    ):
        assert said in text
    assert "NaN" not in text.replace("is NaN", "").replace("are NaN", "")
    nobody = read_table(tables.path("published"), "published_copying").with_columns(
        ours=pl.when(pl.col("measure") == "count_nd").then(0.0).otherwise("ours")
    )
    saving.save(figure.chart(nobody, model="gpt2", facts="pararel"), [paths[0]])
    assert "NaN" not in paths[0].read_text().replace("is NaN", "").replace("are NaN", "")
    assert "Infinity" not in paths[0].read_text()
    empty = check_frame(read_table(tables.path("published"), "published_copying").clear(), "published_copying")
    saving.save(figure.chart(empty, model="gpt2", facts="pararel"), [paths[0]])
    assert "no published score" in paths[0].read_text()


@pytest.mark.parametrize("module", ["published_copying", "figures.published_copying"])
def test_no_torch(module: str) -> None:
    code = f"import sys, neuronlab.{module}; sys.exit('torch' in sys.modules)"
    scripts = Path(__file__).parents[2] / "workflow_scripts"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(scripts)}, check=False).returncode == 0
