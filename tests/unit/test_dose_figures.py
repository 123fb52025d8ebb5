"""Figures of clamped neurons and of divergences from references: what is drawn, what is said, empty tables."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import numpy as np
import polars as pl
import pytest
from neuronlab.figures import dose_response, reference_kl, saving
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame, write_table

LAYER, POINTS = 3, 5
SELECTED, UNIFORM, MATCHED = [5, 2], [7, 5], [9]


def selection_frame() -> pl.DataFrame:
    rows = [("entropy", "selection", None, SELECTED)]
    rows += [("entropy/uniform_000", "uniform", "entropy", UNIFORM)]
    rows += [("entropy/norm_matched_000", "norm_matched", "entropy", MATCHED)]
    frame = pl.DataFrame(
        [
            {"set": name, "kind": kind, "rule": "explicit", "control_of": owner, "layer": LAYER, "neuron": n, "rank": i}
            for name, kind, owner, neurons in rows
            for i, n in enumerate(neurons)
        ]
    )
    return check_frame(
        frame.with_columns(matched=pl.lit(None, pl.Int32), norm_ratio=pl.lit(None, pl.Float64)), "selection"
    )


def dose_frame() -> pl.DataFrame:
    """Every neuron's curves are straight lines: entropy rises by n/10 per unit, loss by n/100."""
    columns: dict[str, list] = {name: [] for name in SCHEMAS["dose_response"]}
    for neuron in sorted({*SELECTED, *UNIFORM, *MATCHED}):
        for value in np.linspace(-0.2, neuron, POINTS):
            row = {"layer": LAYER, "neuron": neuron, "value": value, "value_sd": value / 2}
            row |= {"n_tokens": 1234, "n_documents": 21}
            slopes = {"entropy_change": neuron / 10, "loss_change": neuron / 100, "norm_scale_change": 0.2}
            slopes |= {"reciprocal_rank_change": -0.01, "entropy_change_direct": 0.01, "loss_change_direct": 0.02}
            for name, slope in slopes.items():
                row |= {name: slope * value, f"{name}_low": slope * value - 0.1, f"{name}_high": slope * value + 0.1}
            for name, clean in {"entropy": 2.5, "loss": 3.5, "norm_scale": 8.0, "reciprocal_rank": 0.4}.items():
                row[name] = clean + row[f"{name}_change"]
            for name, found in columns.items():
                found.append(row[name])
    return check_frame(pl.DataFrame(columns), "dose_response")


def statistics_frame() -> pl.DataFrame:
    return pl.DataFrame({"layer": [LAYER] * 10, "neuron": range(10), "mean": [0.5] * 10})


def kl_frame() -> pl.DataFrame:
    sets = [("entropy", "selection", None, 2), ("entropy/uniform_000", "uniform", "entropy", 2)]
    sets += [("entropy/norm_matched_000", "norm_matched", "entropy", 2)]
    sets += [(f"{LAYER}.{n}", "single", None, 1) for n in range(reference_kl.SINGLES + 3)]
    rows = []
    for reference in ("bias", "model:large"):
        for i, (name, kind, owner, n) in enumerate(sets):
            row = {"set": name, "kind": kind, "control_of": owner, "n_neurons": n, "replacement": "mean"}
            row |= {"reference": reference, "n_tokens": 1234, "n_documents": 21}
            for measure, value in {"kl_clean": 1.5, "kl_total": i / 10, "kl_direct": 0.02, "kl_total_abs": 0.3}.items():
                row |= {measure: value, f"{measure}_low": value - 0.01, f"{measure}_high": value + 0.01}
            rows.append(row)
    return check_frame(pl.DataFrame(rows, infer_schema_length=None), "reference_kl")


def spec(chart: alt.TopLevelMixin) -> dict:
    return chart.to_dict(context={"pre_transform": False})


def test_curves_marks_and_controls() -> None:
    frame, marks = dose_response.prepare(dose_frame(), statistics_frame(), selection_frame())
    groups = dict(frame.select("neuron", "group").unique().iter_rows())
    # Neuron 5 is selected, and drawn as a control of itself no more.
    assert groups == {
        5: "entropy neurons",
        2: "entropy neurons",
        7: "random controls",
        9: "norm-matched controls",
    }
    assert marks["neuron"].to_list() == [2, 5]
    np.testing.assert_allclose(marks["entropy_change"], [0.5 * 0.2, 0.5 * 0.5], rtol=1e-12)
    np.testing.assert_allclose(marks["loss_change"], [0.5 * 0.02, 0.5 * 0.05], rtol=1e-12)
    outside = statistics_frame().with_columns(mean=pl.lit(-3.0))
    assert not len(dose_response.prepare(dose_frame(), outside, selection_frame())[1])


def test_the_dose_figure_says_what_it_shows(tmp_path: Path) -> None:
    made = dose_response.chart(
        dose_frame(), statistics_frame(), selection_frame(), model="demo", text="evaluation", level=0.9
    )
    said = " | ".join(spec(made)["title"]["subtitle"])
    for statement in ("1,234 tokens of 21 documents", "90 % intervals", "dashed", "entropy 2.5 nats", "loss 3.5 nats"):
        assert statement in said, statement
    assert "2 control lines cut off" in said  # the controls reach to 7 and 9, the selected neurons to 5
    saving.save(made, [tmp_path / "a.svg"])
    svg = (tmp_path / "a.svg").read_text()
    for words in ("change of entropy (nats)", "change of loss (nats)", "scale", "reciprocal rank", ">3.5<", ">3.2<"):
        assert words in svg, words


def test_many_selected_neurons_are_counted() -> None:
    dose, chosen = dose_frame(), selection_frame()
    number = dose_response.LIMIT + 2
    one = dose.filter(pl.col("neuron") == 5)
    dose = pl.concat([one.with_columns(neuron=pl.lit(n, pl.Int32)) for n in range(number)])
    rows = chosen.filter(pl.col("kind") == "selection").head(1)
    chosen = pl.concat([rows.with_columns(neuron=pl.lit(n, pl.Int32), rank=pl.lit(n, pl.Int32)) for n in range(number)])
    made = dose_response.chart(dose, statistics_frame(), chosen, model="demo")
    assert "2 more selected neurons not drawn" in " | ".join(spec(made)["title"]["subtitle"])


def test_rows_of_the_divergence_figure() -> None:
    frame, order, left_out = reference_kl.prepare(kl_frame())
    assert order[0] == "entropy neurons, jointly"
    assert len(order) == 1 + reference_kl.SINGLES
    assert left_out == 3
    own = frame.filter((pl.col("label") == order[0]) & (pl.col("reference") == "bias"))
    assert dict(own.select("source", "value").iter_rows()) == {
        reference_kl.TOTAL: 0.0,
        reference_kl.DIRECT: 0.02,
        reference_kl.RANDOM: 0.1,
        reference_kl.MATCHED: 0.2,
    }
    assert own.filter(pl.col("source") != reference_kl.TOTAL)["low"].null_count() == 3


@pytest.mark.parametrize("name", ["dose_response", "reference_kl"])
def test_bytes_repeat_and_empty_tables_are_drawn(name: str, tmp_path: Path) -> None:
    for table, frame in {"dose_response": dose_frame(), "reference_kl": kl_frame()}.items():
        write_table(frame, tmp_path / f"{table}.parquet", table)
        write_table(frame.clear(), tmp_path / f"{table}_empty.parquet", table)
    write_table(selection_frame(), tmp_path / "selection.parquet", "selection")
    statistics = {column: pl.Series([], dtype=c.dtype) for column, c in SCHEMAS["activation_statistics"].items()}
    write_table(pl.DataFrame(statistics), tmp_path / "statistics.parquet", "activation_statistics")
    others = (
        {"statistics": tmp_path / "statistics.parquet", "selection": [tmp_path / "selection.parquet"]}
        if name == "dose_response"
        else {}
    )
    module = {"dose_response": dose_response, "reference_kl": reference_kl}[name]

    def draw(table: str, figure: str) -> bytes:
        paths = {name: tmp_path / f"{table}.parquet", **others}
        module.draw(**paths, figures=[tmp_path / figure], model="demo", text="evaluation", level=0.95)
        return (tmp_path / figure).read_bytes()

    assert draw(name, "a.svg") == draw(name, "b.svg")
    empty = draw(f"{name}_empty", "empty.svg").decode()
    assert "selected in the last layer" in empty
    assert "model demo" in empty
