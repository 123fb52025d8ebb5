"""The figure of token-frequency neurons: what is drawn and what is stated."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import fake_tables
import numpy as np
import polars as pl
import pytest
from neuronlab.figures import token_frequency
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import write_table
from neuronlab.traced_sample import TracedSample

WORLD = fake_tables.World(n_neurons=160, d_model=64)


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    """Traces and selections with controls of the token-frequency neurons, and their table."""
    made = fake_tables.fake_tables(WORLD)
    rng, n = np.random.default_rng(0), WORLD.n_neurons
    m, kl = rng.normal(0, 0.1, n), 0.01 * np.exp(rng.normal(0, 1, n))
    chosen = list(WORLD.frequency)
    m[chosen], kl[chosen] = 0.4, 0.2
    columns = {
        "layer": np.full(n, WORLD.last),
        "neuron": np.arange(n),
        "cosine": rng.uniform(-1, 1, n),
        "te_kl": kl,
        "m_freq": m,
        "candidate": kl > 0.02,
        "selected": np.isin(np.arange(n), chosen),
        "published": np.isin(np.arange(n), [chosen[0], 1]),
        "n_documents_selection": np.full(n, 21),
        "n_documents_report": np.full(n, 20),
    }
    columns |= {name: [None] * n for name in ("m_null", "p_value", "p_value_single", "p_value_report")}
    for name, values in (("te_kl_report", kl), ("m_freq_report", m)):
        columns |= {name: values, f"{name}_low": values - 0.1 * abs(values), f"{name}_high": values + 0.1 * abs(values)}
    controls = made["selection"].filter(pl.col("control_of") == "entropy")
    controls = controls.with_columns(
        pl.col("set").str.replace("entropy", "token_frequency"), control_of=pl.lit("token_frequency")
    )
    return {
        "token_frequency": pl.DataFrame(columns).select(list(SCHEMAS["token_frequency"])),
        "traces": made["traces"],
        "selection": pl.concat([made["selection"], controls]),
    }


def made(tables: dict[str, pl.DataFrame], **changed: pl.DataFrame) -> alt.TopLevelMixin:
    several = {**tables, **changed}
    return token_frequency.chart(
        several["token_frequency"], several["traces"], several["selection"], model="demo", text="evaluation", level=0.9
    )


def stated(chart: alt.TopLevelMixin) -> str:
    return " | ".join(chart.to_dict()["title"]["subtitle"])


def rows_with(chart: alt.TopLevelMixin, *columns: str) -> list[dict]:
    """All rows in the chart's data that have these columns."""
    data = chart.to_dict()["datasets"].values()
    return [row for rows in data for row in rows if set(columns) <= set(row)]


def test_neurons_intervals_and_rings(tables: dict[str, pl.DataFrame]) -> None:
    chart = made(tables)
    points = {row["neuron"]: row for row in rows_with(chart, "m", "kl", "group")}
    assert len(points) == WORLD.n_neurons
    assert {n for n, row in points.items() if row["group"] == "token-frequency neurons"} == set(WORLD.frequency)
    assert {n for n, row in points.items() if row["group"] == "entropy neurons"} == set(WORLD.entropy)
    first = WORLD.frequency[0]
    assert points[first]["m"] == pytest.approx(0.4)
    assert points[first]["kl"] == pytest.approx(0.2)
    assert {row["neuron"] for row in rows_with(chart, "ring")} == {first, 1}
    text = stated(chart)
    assert "20 documents that did not select" in text
    assert "90 % intervals" in text


def test_boxes_are_of_total_and_frozen_effects(tables: dict[str, pl.DataFrame]) -> None:
    boxes = rows_with(made(tables), "box", "effect", "median")
    assert {row["effect"] for row in boxes} == {"total", "unigram"}
    one = WORLD.frequency[0]
    changes = tables["traces"].filter(neuron=one)
    for effect in ("total", "unigram"):
        (row,) = [row for row in boxes if row["box"] == f"{WORLD.last}.{one}" and row["effect"] == effect]
        assert row["median"] == pytest.approx(np.median(np.abs(changes[f"loss_{effect}"])))
        assert row["n_tokens"] == len(changes)
    assert {row["box"].partition("|")[0] for row in boxes if row["group"] == "controls"} == {"random", "norm-"}


def test_boxes_of_a_sample_say_of_how_many_sequences(tables: dict[str, pl.DataFrame]) -> None:
    assert "tokens of all documents per neuron" in stated(made(tables))
    part = tables["traces"].filter(pl.col("document") < 3)
    per_neuron = part.filter(neuron=WORLD.frequency[0]).height
    sample = TracedSample(tokens=per_neuron, of_tokens=9999, sequences=3, of_sequences=4000)
    chart = token_frequency.chart(
        tables["token_frequency"], part, tables["selection"], model="demo", text="evaluation", sample=sample
    )
    assert f"boxes: {per_neuron} tokens of 3 of 4,000 sequences, drawn, per neuron" in stated(chart)
    assert {row["n_tokens"] for row in rows_with(chart, "box", "median") if row["group"] != "controls"} == {per_neuron}


def test_many_selected_neurons_share_the_panel(tables: dict[str, pl.DataFrame]) -> None:
    traced = [*WORLD.frequency, *WORLD.entropy, *WORLD.uniform, *WORLD.matched]
    rows = tables["selection"].filter(pl.col("set") == "token_frequency").head(1)
    many = pl.concat(
        [rows.with_columns(neuron=pl.lit(n, pl.Int32), rank=pl.lit(i, pl.Int32)) for i, n in enumerate(traced)]
    )
    chart = made(tables, selection=many)
    boxes = {row["box"] for row in rows_with(chart, "box", "effect", "median")}
    assert boxes == {f"{WORLD.last}.{n}" for n in traced[: token_frequency.BOXES]}
    assert f"boxes for {token_frequency.BOXES} of {len(set(traced))} selected neurons" in stated(chart)


def test_nothing_selected_is_stated(tables: dict[str, pl.DataFrame]) -> None:
    without = tables["selection"].filter(pl.col("set") == "entropy")
    frame = tables["token_frequency"].with_columns(selected=pl.lit(False), published=pl.lit(False))
    chart = made(tables, selection=without, token_frequency=frame)
    assert "no candidate passes the test" in stated(chart)
    assert not rows_with(chart, "box")
    assert made(tables, selection=without.clear(), token_frequency=frame, traces=tables["traces"].clear()).to_dict()


def test_missing_ratios_are_counted_and_low_ones_at_the_edge(tables: dict[str, pl.DataFrame]) -> None:
    m = pl.col("m_freq_report")
    frame = tables["token_frequency"].with_columns(
        m_freq_report=pl.when(pl.col("neuron") < 2).then(None).when(pl.col("neuron") == 2).then(-7.0).otherwise(m)
    )
    text = stated(made(tables, token_frequency=frame))
    assert "2 neurons left out: total effect below the floor" in text
    assert "1 neuron below -1 at the left edge" in text
    nothing = tables["token_frequency"].with_columns(m_freq_report=pl.lit(None, pl.Float64))
    assert "no neuron has a total effect" in str(made(tables, token_frequency=nothing).to_dict())


def test_same_tables_same_bytes_and_the_outcome_of_the_table(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    for name, frame in tables.items():
        provenance = {"outcome": "entropy"} if name == "token_frequency" else None
        write_table(frame, tmp_path / f"{name}.parquet", name, provenance)
    paths = {name: tmp_path / f"{name}.parquet" for name in tables}
    for name in ("one.svg", "two.svg"):
        token_frequency.draw(**paths, figures=[tmp_path / name], model="demo", text="evaluation")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "DE_freq/TE, entropy" in (tmp_path / "one.svg").read_text()


def test_a_table_without_rows_names_its_reason(tables: dict[str, pl.DataFrame]) -> None:
    """A text of one document has no two halves."""
    drawn = made(tables, token_frequency=tables["token_frequency"].clear())
    assert "the text has one document" in drawn.to_json()
