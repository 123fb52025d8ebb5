"""Optional sections of the neuron cards: numbers against naive computations, gaps shown as gaps, parts left out."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import fake_tables
import numpy as np
import polars as pl
import pytest
from neuronlab import cards_curves, cards_doses, cards_induction, cards_sections
from neuronlab.cards_studies import Studies, StudyTables
from neuronlab.cards_svg import MISSING
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import write_table
from scipy.stats import percentileofscore
from test_cards import outline, write

TITLES = {
    "token_frequency": "Token frequency",
    "temperature": "As a change of temperature",
    "dose_response": "Dose and response",
    "scores": "On repetitions",
    "head_neurons": "Heads that move it most",
}
LAYER, NEURONS, N_HEADS = 3, (2, 5, 9, 11), 4
FILL = {pl.String: "", pl.Boolean: False, pl.Float64: 0.5}


def table(name: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    """Rows as a table of the schema; columns that they lack get a constant."""
    full = [{column: FILL.get(spec.dtype, 7) for column, spec in SCHEMAS[name].items()} | row for row in rows]
    return pl.DataFrame(full, schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})


def made(layer: int = LAYER, neurons: tuple[int, ...] = NEURONS) -> dict[str, pl.DataFrame]:
    """Tables of every part about the same neurons; seeded."""
    rng = np.random.default_rng(5)

    def spread(name: str, value: float, width: float) -> dict[str, float]:
        return {name: value, f"{name}_low": value - width, f"{name}_high": value + width}

    scores = []
    for neuron in range(30):
        scores.append({"layer": layer, "neuron": neuron, "n_sequences": 16} | spread("score", rng.normal(), 0.1))
    heads = [
        {"layer": head // 2, "head": head % 2, "method": method, "neuron_layer": layer, "neuron": neuron}
        | {"n_sequences": 32}
        | spread("change", rng.normal() if head != 1 else 0.0, 0.3)
        for head, method, neuron in itertools.product(range(N_HEADS), ("mean", "bos"), neurons)
    ]
    doses = []
    for neuron in neurons:
        for value in rng.permutation(np.linspace(-1, 3, 6)):
            row = {"layer": layer, "neuron": neuron, "value": value, "n_tokens": 2000, "n_documents": 40}
            for outcome, slope in (("entropy", 0.02), ("loss", -0.004)):
                row |= spread(f"{outcome}_change", slope * value, 0.001)
                row |= spread(f"{outcome}_change_direct", 0.001 * value, 0.001)
            doses.append(row)
    frequency = [
        {"layer": layer, "neuron": neuron, "selected": neuron == neurons[0], "candidate": neuron in neurons[:2]}
        | {"p_value": 0.01 if neuron in neurons[:2] else None}
        | spread("m_freq_report", 0.25 + i / 100, 0.02)
        for i, neuron in enumerate(neurons)
    ]
    temperature = [
        {"set": f"{layer}.{neuron}", "kind": "single", "control_of": None, "replacement": "mean"}
        | spread("temperature", 1.01 + i / 1000, 0.0005)
        for i, neuron in enumerate(neurons)
    ]
    return {
        "scores": table("induction_scores", scores),
        "head_neurons": table("head_neurons", heads),
        "dose_response": table("dose_response", doses),
        "token_frequency": table("token_frequency", frequency),
        "temperature": table("temperature", temperature),
    }


def test_scores_have_their_place_by_the_signed_score() -> None:
    scores = made()["scores"]
    found = cards_induction.repetitions({"synthetic": scores, "natural": scores.head(4)}, LAYER, 9)
    assert [one.kind for one in found] == ["synthetic"]
    values = {row["neuron"]: row["score"] for row in scores.iter_rows(named=True)}
    others = [value for neuron, value in values.items() if neuron != 9]
    assert found[0].row["score"] == values[9]
    assert found[0].percentile == pytest.approx(percentileofscore(others, values[9], kind="mean"))
    unknown = scores.with_columns(score=pl.when(pl.col("neuron") == 9).then(None).otherwise("score"))
    assert cards_induction.repetitions({"natural": unknown}, LAYER, 9)[0].percentile is None


@pytest.mark.parametrize(("methods", "expected"), [(["bos", "mean"], "bos"), (["mean"], "mean")])
def test_the_heads_that_move_a_neuron_most(methods: list[str], expected: str) -> None:
    table = made()["head_neurons"].filter(pl.col("method").is_in(methods)).sample(fraction=1, shuffle=True, seed=3)
    found = cards_induction.driving_heads(table, LAYER, 5, sd=2.0)
    rows = [row for row in table.iter_rows(named=True) if row["neuron"] == 5 and row["method"] == expected]
    by_size = sorted(rows, key=lambda row: abs(row["change"]), reverse=True)
    assert found is not None
    assert found.method == expected
    assert [head.head for head in found.strongest] == [f"{row['layer']}.{row['head']}" for row in by_size[:3]]
    assert [head.in_sd for head in found.strongest] == [row["change"] / 2 for row in by_size[:3]]
    assert found.tested == N_HEADS
    assert found.clear == sum(row["change_low"] > 0 or row["change_high"] < 0 for row in rows)
    assert cards_induction.driving_heads(table, LAYER, 6, sd=2.0) is None
    # Neurons of no set are held against the best head alone, which ranks no heads.
    one = table.filter(pl.col("neuron") == 5).unique("method").with_columns(neuron=pl.lit(6, pl.Int32))
    assert cards_induction.driving_heads(pl.concat([table, one]), LAYER, 6, sd=2.0) is None
    assert cards_induction.driving_heads(pl.concat([table, one]), LAYER, 5, sd=2.0) == found
    assert cards_induction.driving_heads(table, LAYER - 1, 5, sd=2.0) is None


def test_heads_without_effect_are_told_as_such() -> None:
    table = made()["head_neurons"]
    wide = table.with_columns(change_low=pl.lit(-9.0), change_high=pl.lit(9.0))
    heads = cards_induction.driving_heads(wide, LAYER, 5, sd=None)
    assert "All intervals of the 4 heads include 0" in cards_sections.sections(Studies(heads=heads))
    still = table.with_columns(change=pl.lit(0.0), change_low=pl.lit(0.0), change_high=pl.lit(0.0))
    heads = cards_induction.driving_heads(still, LAYER, 5, sd=1.0)
    assert heads is not None
    assert heads.strongest == []
    assert "None of the 4 heads moves it" in cards_sections.sections(Studies(heads=heads))


def test_curves_are_the_table_by_value_and_the_mean_lies_on_them() -> None:
    table = made()["dose_response"]
    found = cards_doses.doses(table, LAYER, 5, mean=0.37)
    assert found is not None
    rows = sorted((row for row in table.iter_rows(named=True) if row["neuron"] == 5), key=lambda row: row["value"])
    assert found.values.tolist() == [row["value"] for row in rows]
    for curve, slope in zip(found.curves, (0.02, -0.004), strict=True):
        for part, column in (("total", ""), ("low", "_low"), ("high", "_high"), ("direct", "_direct")):
            assert getattr(curve, part).tolist() == [row[f"{curve.outcome}_change{column}"] for row in rows]
        assert curve.at_mean == pytest.approx(slope * 0.37)  # the made-up responses are straight
    outside = cards_doses.doses(table, LAYER, 5, mean=3.5)
    assert outside is not None
    assert [curve.at_mean for curve in outside.curves] == [None, None]
    assert cards_doses.doses(table, LAYER, 6, mean=0.0) is None


def polylines(drawing: str) -> list[np.ndarray]:
    found = re.findall(r'<polyline points="([^"]+)"', drawing)
    return [np.array([[float(v) for v in pair.split(",")] for pair in line.split()]) for line in found]


def test_the_plot_puts_every_value_where_the_axes_say() -> None:
    doses = cards_doses.doses(made()["dose_response"], LAYER, 5, mean=0.37)
    assert doses is not None
    drawing = cards_curves.dose_plot(doses)
    outline(drawing)
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)</text>', drawing)
    shown = [(float(x), float(y), anchor, text.replace("\N{MINUS SIGN}", "-")) for x, y, anchor, text in labels]
    right = [(y - 4, float(text)) for _, y, anchor, text in shown if anchor == "end"]
    under = [(x, float(text)) for x, _, anchor, text in shown if anchor == "middle" and text != "activation held at"]
    to_y = np.polyfit([value for _, value in right], [y for y, _ in right], 1)
    to_x = np.polyfit([value for _, value in under], [x for x, _ in under], 1)
    lines = polylines(drawing)
    assert len(lines) == 4
    expected = [part for curve in doses.curves for part in (curve.direct, curve.total)]
    for line, values in zip(lines, expected, strict=True):
        np.testing.assert_allclose(line[:, 0], np.polyval(to_x, doses.values), atol=0.2)
        np.testing.assert_allclose(line[:, 1], np.polyval(to_y, values * 1e3), atol=0.2)
    numbers = [float(v) for v in re.findall(r'(?:cy|y1|y2)="([-\d.]+)"', drawing)]
    assert min(numbers) >= 0
    assert max(numbers) <= 232


def test_gaps_break_the_lines_and_single_values_are_told_in_words() -> None:
    table = made()["dose_response"].filter(pl.col("neuron") == 5).sort("value")
    gap = table.with_columns(entropy_change=pl.when(pl.int_range(pl.len()) == 2).then(None).otherwise("entropy_change"))
    doses = cards_doses.doses(gap, LAYER, 5, mean=None)
    assert doses is not None
    drawing = cards_curves.dose_plot(doses)
    assert "nan" not in drawing
    assert sorted(len(line) for line in polylines(drawing)) == [2, 3, 6, 6, 6]
    assert "mean" not in drawing
    one = cards_sections.sections(Studies(doses=cards_doses.doses(table.head(1), LAYER, 5, mean=0.0)))
    assert "the only value" in one
    assert "<svg" not in one
    names = [f"{outcome}_change{end}" for outcome in ("entropy", "loss") for end in ("", "_low", "_high", "_direct")]
    unknown = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in names)
    assert "No change is known" in cards_sections.sections(Studies(doses=cards_doses.doses(unknown, LAYER, 5, None)))


@pytest.mark.parametrize(("low", "high"), [(-71.0, 165.0), (0.0, 1.0), (-3e-5, 2e-5), (1234.0, 1240.0)])
def test_ticks_are_round_inside_and_neither_few_nor_many(low: float, high: float) -> None:
    found = cards_curves.ticks(low, high)
    assert 3 <= len(found) <= 9
    assert min(found) >= low - 1e-9
    assert max(found) <= high + 1e-9
    steps = np.diff(found)
    assert np.ptp(steps) < 1e-9 * abs(high)
    assert f"{steps[0]:e}"[0] in "125" or f"{steps[0]:.0e}"[0] in "125"


def test_missing_values_show_as_missing_and_verdicts_follow_the_flags() -> None:
    tables = made()
    frequency = tables["token_frequency"].with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in ("m_freq_report", "m_freq_report_low", "m_freq_report_high")
    )
    studies = StudyTables(token_frequency=frequency, frequency_outcome="loss")
    pages = [cards_sections.sections(studies.of(LAYER, neuron, None)) for neuron in NEURONS[:3]]
    assert ["Selected" in page for page in pages] == [True, False, False]
    assert "not selected" in pages[1]
    assert "No candidate" in pages[2]
    assert pages[0].count(f"<td>{MISSING}</td>") == 2
    assert pages[2].count(f"<td>{MISSING}</td>") == 3
    assert "None" not in "".join(pages)
    assert not cards_sections.sections(studies.of(LAYER, 1000, None))


@pytest.mark.parametrize(
    ("low", "high", "word"), [(1.001, 1.02, "flattens"), (0.9, 0.99, "sharpens"), (0.9, 1.1, "includes 1")]
)
def test_the_temperature_is_the_neurons_own(low: float, high: float, word: str) -> None:
    table = made()["temperature"].with_columns(temperature_low=pl.lit(low), temperature_high=pl.lit(high))
    decoy = table.filter(pl.col("set") == f"{LAYER}.5").with_columns(kind=pl.lit("uniform"), temperature=pl.lit(9.0))
    studies = StudyTables(temperature=pl.concat([decoy, table])).of(LAYER, 5, None)
    assert studies.temperature is not None
    assert studies.temperature["temperature"] == pytest.approx(1.011)
    assert word in cards_sections.sections(studies)


@pytest.fixture(scope="module")
def world() -> fake_tables.World:
    return fake_tables.World(n_neurons=160, d_model=64)


@pytest.fixture(scope="module")
def paths(world: fake_tables.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fake_tables.write_fake_tables(tmp_path_factory.mktemp("tables"), world)


@pytest.fixture(scope="module")
def options(world: fake_tables.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Optional keywords of `write_cards`, for all selected neurons but the last."""
    folder, found = tmp_path_factory.mktemp("studies"), {}
    tables = made(world.last, (*world.entropy, *world.frequency)[:-1])
    for name, frame in tables.items():
        write_table(frame, folder / f"{name}.parquet", "induction_scores" if name == "scores" else name)
        found[name] = folder / f"{name}.parquet"
    return found | {"scores": {"<i>synthetic": found["scores"]}}


@pytest.mark.parametrize("off", [None, *TITLES])
def test_a_part_that_was_not_made_leaves_no_trace(
    off: str | None, paths: dict[str, Path], options: dict[str, object], tmp_path: Path, world: fake_tables.World
) -> None:
    given = {name: value for name, value in options.items() if name != off}
    page = write(paths, tmp_path / "cards.html", **given)
    outline(page)
    assert "<i>synthetic" not in page
    shown = {name: page.count(f"<h3>{title}</h3>") for name, title in TITLES.items()}
    described = len(world.entropy) + len(world.frequency) - 1
    assert {name for name, count in shown.items() if count == 0} == ({off} - {None})
    by_neuron = {name: count for name, count in shown.items() if name not in ("scores", off)}
    assert set(by_neuron.values()) == {described}
    assert f"{off}.parquet" not in page
    if off is None:
        assert write(paths, tmp_path / "again.html", **given) == page


def test_without_any_part_the_page_is_as_before(paths: dict[str, Path], tmp_path: Path) -> None:
    page = write(paths, tmp_path / "cards.html", token_frequency=None, scores={})
    assert not any(f"<h3>{title}</h3>" in page for title in TITLES.values())
    assert 'class="stack"' not in page


def test_a_temperature_of_another_replacement_is_not_shown(
    paths: dict[str, Path], options: dict[str, object], tmp_path: Path
) -> None:
    frame = pl.read_parquet(options["temperature"]).with_columns(replacement=pl.lit("zero"))
    write_table(frame, tmp_path / "temperature.parquet", "temperature")
    page = write(paths, tmp_path / "cards.html", temperature=tmp_path / "temperature.parquet")
    assert f"<h3>{TITLES['temperature']}</h3>" not in page
