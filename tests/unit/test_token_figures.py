"""Figures about single tokens: what is shown, what is left out, and by which rule tokens are sampled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import fake_tables
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.figures import example_passage, saving, theme, token_data, token_effects, unigram_kl
from neuronlab.statistics import bootstrap_weights
from neuronlab.tables import write_table
from scipy.stats import pearsonr, spearmanr

ROOT = Path(__file__).parents[2]
BASELINE = {
    "sequence": pl.Int32,
    "position": pl.Int32,
    "document": pl.Int32,
    "token": pl.Int32,
    "next_token": pl.Int32,
    "loss": pl.Float64,
    "entropy": pl.Float64,
    "kl": pl.Float64,
    "norm_scale": pl.Float64,
    "prediction": pl.Int32,
    "top_log_prob": pl.Float64,
    "rank": pl.Int32,
}


def fake_baseline(n: int = 3000, documents: int = 12, seed: int = 0, digits: int = 2) -> pl.DataFrame:
    """Tokens whose KL falls with the entropy; rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    document = np.sort(rng.integers(0, documents, n))
    entropy = np.abs(rng.gamma(2.0, 1.0, n) + 0.2 * rng.normal(size=documents)[document]).round(digits)
    kl = (9 * np.exp(-entropy / 2) + rng.gamma(2.0, 0.4, n)).round(digits)
    known = {"document": document, "entropy": entropy, "kl": kl, "loss": entropy}
    return pl.DataFrame({name: known.get(name, np.zeros(n)) for name in BASELINE}).cast(BASELINE)


@pytest.fixture(scope="module")
def world() -> fake_tables.World:
    return fake_tables.World(n_neurons=120, d_model=16, n_controls=4, n_sequences=20)


@pytest.fixture(scope="module")
def tables(world: fake_tables.World) -> dict[str, pl.DataFrame]:
    found = fake_tables.fake_tables(world)
    # Ranks after the replacement that differ from the clean ones.
    changed = pl.when(pl.col("neuron") % 2 == 0).then(pl.col("rank") + 1).otherwise(pl.col("rank"))
    found["traces"] = found["traces"].with_columns(rank_total=changed.cast(pl.Int32))
    return found


def spec(chart: alt.TopLevelMixin) -> dict:
    return chart.to_dict(context={"pre_transform": False})


def subtitle(chart: alt.TopLevelMixin) -> str:
    return " | ".join(spec(chart)["title"]["subtitle"])


def svg(chart: alt.TopLevelMixin, tmp_path: Path) -> str:
    """The picture; it must be well-formed and free of undefined numbers."""
    saving.save(chart, [tmp_path / "figure.svg"])
    text = (tmp_path / "figure.svg").read_text()
    ElementTree.fromstring(text)
    assert "NaN" not in text
    assert "undefined" not in text.replace("correlation undefined", "")
    return text


# unigram_kl


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=25).filter(
        lambda rows: len({x for x, _, w in rows if w}) > 1 and len({y for _, y, w in rows if w}) > 1
    )
)
def test_weighted_correlations_are_those_of_repeated_rows(rows: list[tuple[int, int, int]]) -> None:
    x, y, times = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    places = [np.unique(values, return_inverse=True)[1] for values in (x, y)]
    ranks = [unigram_kl.mid_ranks(place, times) for place in places]
    long_x, long_y = np.repeat(x, times.astype(int)), np.repeat(y, times.astype(int))
    assert unigram_kl.correlation(*ranks, times) == pytest.approx(spearmanr(long_x, long_y).statistic, abs=1e-12)
    assert unigram_kl.correlation(x, y, times) == pytest.approx(pearsonr(long_x, long_y).statistic, abs=1e-12)


def test_correlation_intervals_resample_whole_documents() -> None:
    baseline = fake_baseline(n=600, documents=7)
    found = unigram_kl.correlations(baseline, level=0.9, resamples=60, seed=5)
    parts = [part.select("entropy", "kl").to_numpy() for part in baseline.partition_by("document", maintain_order=True)]
    assert len(parts) == 7
    drawn = []
    for row in bootstrap_weights(len(parts), 60, 5):
        rows = np.concatenate([part for part, times in zip(parts, row, strict=True) for _ in range(int(times))])
        drawn.append((spearmanr(rows[:, 0], rows[:, 1]).statistic, pearsonr(rows[:, 0], rows[:, 1]).statistic))
    whole = np.concatenate(parts)
    for i, (kind, oracle) in enumerate((("Spearman", spearmanr), ("Pearson", pearsonr))):
        assert float(found[kind].estimate) == pytest.approx(oracle(whole[:, 0], whole[:, 1]).statistic, abs=1e-12)
        ends = np.quantile(np.array(drawn)[:, i], [0.05, 0.95])
        assert [float(found[kind].low), float(found[kind].high)] == pytest.approx(ends, abs=1e-12)
    said = subtitle(unigram_kl.chart(baseline, model="demo", text="evaluation", level=0.9, resamples=60, seed=5))
    assert "600 tokens of 7 documents" in said
    assert "90 % intervals" in said
    value = float(found["Spearman"].estimate)
    assert f"Spearman's correlation {value:.3f}".replace("-", theme.MINUS) in said


def test_one_document_has_no_interval_and_a_constant_no_correlation() -> None:
    one = fake_baseline(n=50, documents=1)
    found = unigram_kl.correlations(one, resamples=10)
    assert not np.isnan(found["Spearman"].estimate)
    assert np.isnan([found[kind].low for kind in found]).all()
    assert "no intervals: one document" in subtitle(unigram_kl.chart(one, model="demo"))
    constant = fake_baseline(n=50).with_columns(kl=pl.lit(2.0))
    assert np.isnan([found.estimate for found in unigram_kl.correlations(constant, resamples=10).values()]).all()
    assert "Pearson's correlation undefined" in subtitle(unigram_kl.chart(constant, model="demo", resamples=10))


def test_density_counts_every_token_once() -> None:
    baseline = fake_baseline(n=2000)
    cells = unigram_kl.density(baseline, (7, 5))
    assert cells["tokens"].sum() == 2000
    assert len(cells) <= 35
    x, y = baseline["entropy"].to_numpy(), baseline["kl"].to_numpy()
    top = (cells["entropy_high"].max(), cells["kl_high"].max())
    for left, right, low, high, tokens in cells.iter_rows():
        in_x = (x >= left) & ((x < right) | (right == top[0]))
        in_y = (y >= low) & ((y < high) | (high == top[1]))
        assert tokens == (in_x & in_y).sum()
    ratios = (cells["kl_high"] / cells["kl"]).to_numpy()
    assert ratios == pytest.approx(np.full(len(ratios), ratios[0]))


def test_bands_are_equally_full_and_hold_quartiles() -> None:
    baseline = fake_baseline(n=240)
    found = unigram_kl.middle(baseline, 4)
    ordered = sorted(zip(baseline["entropy"], baseline["kl"], strict=True))
    for i, row in enumerate(found.iter_rows(named=True)):
        part = np.array(ordered[60 * i : 60 * (i + 1)])
        assert row["entropy"] == pytest.approx(np.median(part[:, 0]))
        assert [row["q1"], row["median"], row["q3"]] == pytest.approx(np.quantile(part[:, 1], [0.25, 0.5, 0.75]))


@pytest.mark.parametrize("n", [0, 1, 40_000])
def test_the_density_has_few_marks_however_many_tokens(n: int, tmp_path: Path) -> None:
    text = svg(unigram_kl.chart(fake_baseline(n=n, digits=6), model="demo", resamples=20), tmp_path)
    assert text.count("<path") < 2200
    assert ("no counted token" in text) == (n == 0)


def test_a_divergence_that_rounding_made_negative_is_drawn(tmp_path: Path) -> None:
    baseline = fake_baseline(n=80).with_columns(kl=pl.when(pl.int_range(pl.len()) < 3).then(-1e-9).otherwise("kl"))
    assert unigram_kl.density(baseline)["tokens"].sum() == 80
    svg(unigram_kl.chart(baseline, model="demo", resamples=20), tmp_path)


# whose tokens


def test_sets_shown_are_entropy_and_token_frequency(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    traces, selection = tables["traces"], tables["selection"]
    both = token_data.shown_sets(traces, selection)
    assert both == {"entropy": world.entropy, "token_frequency": world.frequency}
    renamed = selection.with_columns(pl.col("set").replace("entropy", "my_rule"))
    assert list(token_data.shown_sets(traces, renamed)) == ["my_rule", "token_frequency"]
    untraced = traces.filter(pl.col("neuron").is_in([*world.frequency, world.entropy[2]]))
    assert token_data.shown_sets(untraced, selection)["entropy"] == [world.entropy[2]]
    assert list(token_data.shown_sets(traces.filter(pl.col("neuron").is_in(world.frequency)), selection)) == [
        "token_frequency"
    ]
    assert token_data.shown_sets(traces.clear(), selection) == {}
    again = selection.filter(pl.col("set") == "entropy").with_columns(set=pl.lit("token_frequency"))
    assert list(token_data.shown_sets(traces, pl.concat([selection, again]))["token_frequency"]) == world.frequency


def test_largest_effects_come_first(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    traces = tables["traces"]
    means = {
        neuron: np.abs(traces.filter(pl.col("neuron") == neuron)["loss_total"].to_numpy()).mean()
        for neuron in world.entropy
    }
    expected = sorted(means, key=lambda neuron: -means[neuron])
    assert token_data.largest(traces, world.entropy, "loss_total", 4) == expected[:4]
    tied = traces.with_columns(loss_total=pl.lit(0.1))
    assert token_data.largest(tied, world.entropy, "loss_total", 2) == world.entropy[:2]


@pytest.mark.parametrize(
    ("string", "expected"),
    [
        (" word", "·word"),
        ("otherapy", "otherapy"),
        ("\n", "\\n"),
        ("\x00", "\\x00"),
        ("  ", "· "),
        ("", ""),
        ("a" * 20, "a" * 13 + "…"),
    ],
)
def test_tokens_are_spelt_for_an_axis(string: str, expected: str) -> None:
    assert token_data.spelled(string) == expected


# token_effects


@pytest.mark.parametrize("view", [token_effects.BY_WEIGHTS, token_effects.BY_FREQUENCY])
def test_rows_are_those_above_the_mean_and_right(
    view: token_effects.View, tables: dict[str, pl.DataFrame], world: fake_tables.World
) -> None:
    neuron = world.entropy[1]
    own = [row for row in tables["traces"].iter_rows(named=True) if row["neuron"] == neuron]
    mean = sum(row["activation"] for row in own) / len(own)
    expected = []
    for row in sorted(own, key=lambda row: (row["sequence"], row["position"])):
        row["rr"] = 1 / (row["rank"] + 1)
        if row["activation"] > mean and (not view.on_top or row["rr"] == 1):
            expected.append((row["sequence"], row["position"], row[view.x], row[view.y], row[view.colour]))
    assert expected
    assert token_effects.rows_of(tables["traces"], neuron, view).rows() == expected


def test_a_sample_keeps_the_extremes_and_is_repeatable() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=5000)
    frame = pl.DataFrame({"x": np.arange(5000), "y": y, "colour": y})
    kept = token_effects.sample(frame, seed=3, limit=300, extremes=20)
    assert len(kept) == 300
    assert kept.equals(token_effects.sample(frame, seed=3, limit=300, extremes=20))
    assert not kept.equals(token_effects.sample(frame, seed=4, limit=300, extremes=20))
    assert kept["x"].is_sorted()
    assert kept["x"].n_unique() == 300
    assert set(np.argsort(-np.abs(y))[:20]) <= set(kept["x"])
    # The rest is a fair draw: its mean size is that of all other rows, not of the largest.
    rest = np.abs(np.delete(y, np.argsort(-np.abs(y))[:20]))
    drawn = np.sort(np.abs(kept["y"].to_numpy()))[:280]
    assert abs(drawn.mean() - rest.mean()) < 4 * rest.std() / np.sqrt(280)
    assert token_effects.sample(frame.head(300), seed=3, limit=300).equals(frame.head(300))


def test_panels_state_their_tokens(tables: dict[str, pl.DataFrame], world: fake_tables.World, tmp_path: Path) -> None:
    traces, selection = tables["traces"], tables["selection"]
    chart = token_effects.chart(traces, selection, model="demo", text="evaluation")
    said, drawn = subtitle(chart), svg(chart, tmp_path)
    assert "entropy neurons: the 3 of 6" in said
    assert "token-frequency neurons: the 3 of 5" in said
    total = traces.filter(pl.col("neuron") == world.entropy[0]).height
    for name, neurons, view, column in (
        ("entropy", world.entropy, token_effects.BY_WEIGHTS, "loss_total"),
        ("token_frequency", world.frequency, token_effects.BY_FREQUENCY, "kl_total"),
    ):
        for neuron in token_data.largest(traces, neurons, column, 3):
            kept = len(token_effects.rows_of(traces, neuron, view))
            assert f"{kept:,} of {total:,} tokens" in drawn, name
            # One in twenty of the fake ranks is 0: few tokens are left of a token-frequency neuron, which is said.
            assert (f"{world.last}.{neuron}: only {kept} tokens left" in said) == (kept < token_effects.FEW)


def test_a_set_that_is_not_there_leaves_its_row_out(
    tables: dict[str, pl.DataFrame], world: fake_tables.World, tmp_path: Path
) -> None:
    traces, selection = tables["traces"], tables["selection"]
    weights = selection.filter(pl.col("set") != "token_frequency")
    drawn = svg(token_effects.chart(traces, weights, model="demo"), tmp_path)
    assert "clean loss" in drawn
    assert "change of KL" not in drawn
    only = selection.filter(pl.col("set") == "token_frequency")
    assert "clean loss" not in svg(token_effects.chart(traces, only, model="demo"), tmp_path)
    nothing = svg(token_effects.chart(traces, selection.clear(), model="demo"), tmp_path)
    assert "no tokens to show" in nothing
    wrong = traces.with_columns(rank=pl.lit(5, pl.Int32))
    said = subtitle(token_effects.chart(wrong, only, model="demo"))
    best = token_data.largest(wrong, world.frequency, "kl_total", 1)[0]
    assert f"{world.last}.{best}: no token is left" in said


def test_extreme_effects_are_drawn(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    traces = tables["traces"]
    changes = [name for name in traces.columns if name.endswith("_total") and traces[name].dtype == pl.Float64]
    for factor in (0.0, 1e12):
        scaled = traces.with_columns(pl.col(changes) * factor)
        svg(token_effects.chart(scaled, tables["selection"], model="demo"), tmp_path)


# example_passage


def test_the_passage_lies_around_the_extreme(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    neuron = world.frequency[0]
    sizes: dict[int, dict[int, float]] = {}
    for row in tables["traces"].filter(pl.col("neuron") == neuron).iter_rows(named=True):
        sizes.setdefault(row["sequence"], {})[row["position"]] = abs(row["loss_total"])
    sequence = max(sizes, key=lambda s: (sum(sizes[s].values()) / len(sizes[s]), -s))
    position = max(sizes[sequence], key=lambda p: (sizes[sequence][p], -p))
    assert example_passage.extreme_token(tables["traces"], neuron) == (sequence, position)
    frame, found, peak = example_passage.prepare(tables["traces"], tables["tokens"], tables["token_strings"], neuron)
    assert (found, peak) == (sequence, position)
    assert len(frame) == example_passage.WINDOW
    assert peak in frame["position"]
    ids = tables["tokens"].filter(pl.col("sequence") == sequence)["tokens"][0]
    strings = dict(tables["token_strings"].iter_rows())
    own = tables["traces"].filter((pl.col("neuron") == neuron) & (pl.col("sequence") == sequence))
    rows = {row["position"]: row for row in own.iter_rows(named=True)}
    for row in frame.iter_rows(named=True):
        assert row["label"] == token_data.spelled(strings[ids[row["position"]]])
        of = rows.get(row["position"])
        if of is None:
            assert row["activation"] is None
            assert row["rr"] is None
        else:
            assert row["change"] == of["loss_total"]
            assert row["activation"] == of["activation"]
            assert (row["rr"], row["rr_after"]) == (1 / (of["rank"] + 1), 1 / (of["rank_total"] + 1))


def test_a_sequence_with_few_counted_tokens_is_no_passage(tables: dict[str, pl.DataFrame]) -> None:
    traces = tables["traces"]
    neuron = int(traces["neuron"][0])
    lone = (pl.col("sequence") == 5) & (pl.col("position") == 9)
    loud = traces.with_columns(loss_total=pl.when(lone).then(50.0).otherwise("loss_total"))
    assert example_passage.extreme_token(loud, neuron) == (5, 9)
    few = loud.filter((pl.col("sequence") != 5) | lone)
    assert example_passage.extreme_token(few, neuron)[0] != 5


@pytest.mark.parametrize(
    ("length", "position", "expected"), [(40, 20, (14, 27)), (40, 2, (0, 13)), (40, 39, (27, 40)), (8, 3, (0, 8))]
)
def test_windows_stay_within_the_sequence(length: int, position: int, expected: tuple[int, int]) -> None:
    found = example_passage.window(length, position)
    assert (found.start, found.stop) == expected


def test_a_passage_is_an_illustration_and_any_token_can_be_drawn(
    tables: dict[str, pl.DataFrame], world: fake_tables.World, tmp_path: Path
) -> None:
    odd = ["\x00", '"', "'", "\\", "\n", "</text>", "\u202e", "\ud7ff", "日本", "  ", "", "x" * 40]
    strings = pl.DataFrame(
        {"token": range(len(fake_tables.WORDS) + 1), "string": (odd * 3)[: len(fake_tables.WORDS) + 1]},
        schema_overrides={"token": pl.Int32},
    )
    chart = example_passage.chart(
        tables["traces"], tables["tokens"], strings, tables["selection"], model="demo", text="evaluation"
    )
    assert "illustration, not evidence" in subtitle(chart)
    drawn = svg(chart, tmp_path)
    assert "the largest effect of 6 entropy neurons" in drawn
    assert "the largest effect of 5 token-frequency neurons" in drawn
    only = tables["selection"].filter(pl.col("set") == "token_frequency")
    one = example_passage.chart(tables["traces"], tables["tokens"], strings, only, model="demo")
    assert "entropy neurons" not in svg(one, tmp_path)
    none = example_passage.chart(tables["traces"].clear(), tables["tokens"], strings, tables["selection"], model="demo")
    assert "no passage to show" in svg(none, tmp_path)


# all three


def test_draw_reads_tables_and_repeats_its_bytes(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.parquet" for name in ("traces", "tokens", "token_strings", "selection")}
    for name, path in paths.items():
        write_table(tables[name], path, name)
    write_table(fake_baseline(), tmp_path / "baseline.parquet", "baseline")
    known = {"model": "demo", "text": "evaluation"}
    several = {"selection": [paths["selection"]], "replacement": "mean", **known}
    for run in ("a", "b"):
        kinds = ("svg", "json") if run == "a" else ("json",)
        figures = {name: [tmp_path / f"{name}_{run}.{kind}" for kind in kinds] for name in ("kl", "te", "ep")}
        unigram_kl.draw(
            baseline=tmp_path / "baseline.parquet", figures=figures["kl"], level=0.95, seed=1, resamples=50, **known
        )
        token_effects.draw(traces=paths["traces"], figures=figures["te"], seed=1, **several)
        example_passage.draw(
            traces=paths["traces"],
            tokens=paths["tokens"],
            strings=paths["token_strings"],
            figures=figures["ep"],
            **several,
        )
    for name in ("kl", "te", "ep"):
        first, second = (tmp_path / f"{name}_{run}.json" for run in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
        assert (tmp_path / f"{name}_a.svg").stat().st_size > 10_000
        said = json.loads((tmp_path / f"{name}_a.json").read_text())["title"]["subtitle"]
        assert "model demo" in said[0]
        assert "text evaluation" in said[0]


def test_these_figures_load_no_model_library() -> None:
    names = ("unigram_kl", "token_effects", "example_passage", "induction_heads", "head_ablation", "head_neurons")
    code = "; ".join(
        [
            "import sys",
            *(f"import neuronlab.figures.{name}" for name in names),
            "print([name for name in ('torch', 'transformers', 'transformer_lens', 'numba') if name in sys.modules])",
        ]
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "workflow_scripts", capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name", ["unigram_kl", "token_effects", "example_passage", "induction_heads", "head_ablation", "head_neurons"]
)
def test_captions_render(name: str) -> None:
    jinja2 = pytest.importorskip("jinja2")
    docutils = pytest.importorskip("docutils.core")
    source = (ROOT / "rules" / "captions" / f"{name}.rst").read_text()
    known = {
        "wildcards": {"model": "pythia@step1000", "text": "evaluation"},
        "params": {"level": 0.9, "threshold": 0.65},
    }
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=known)
    assert ("90 %" in text) == (name not in ("token_effects", "example_passage"))
    assert ("0.65" in text) == (name == "induction_heads")
    html = docutils.publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})["body"]
    assert "mailto" not in html
    assert "evaluation" in html
