"""Sets of neurons as the studies read them from selection tables."""

from __future__ import annotations

import polars as pl
import pytest
from neuronlab.neuron_sets import NeuronSet, read_selections, sets_of_layer, single_neurons
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import write_table

COLUMNS = {name: column.dtype for name, column in SCHEMAS["selection"].items()}


def rows(name: str, kind: str, control_of: str | None, layer: int, neurons: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"set": name, "kind": kind, "rule": "r", "control_of": control_of, "layer": layer, "neuron": n, "rank": i}
            for i, n in enumerate(neurons)
        ],
        schema={k: v for k, v in COLUMNS.items() if k not in ("matched", "norm_ratio")},
    ).with_columns(matched=pl.lit(None, pl.Int32), norm_ratio=pl.lit(None, pl.Float64))


@pytest.fixture
def selection() -> pl.DataFrame:
    return pl.concat(
        [
            rows("entropy", "selection", None, 1, [7, 3]),
            rows("entropy/uniform_000", "uniform", "entropy", 1, [5, 9]),
            rows("early", "selection", None, 0, [3]),
            rows("token_frequency", "selection", None, 1, [3, 4]),
            rows("token_frequency/uniform_000", "uniform", "token_frequency", 1, [9, 7]),
        ]
    )


def test_sets_keep_the_order_of_table_and_rank_and_leave_out_other_layers(selection):
    found = sets_of_layer(selection.sample(fraction=1, shuffle=True, seed=3).sort("set", maintain_order=True), 1)
    assert {s.name: s.neurons for s in found} == {
        "entropy": (7, 3),
        "entropy/uniform_000": (5, 9),
        "token_frequency": (3, 4),
        "token_frequency/uniform_000": (9, 7),
    }
    assert [s.name for s in sets_of_layer(selection, 0)] == ["early"]
    assert sets_of_layer(selection, 2) == []


def test_single_neurons_come_once_and_selected_ones_are_no_controls(selection):
    sets = sets_of_layer(selection, 1)
    assert [s.name for s in single_neurons(sets, 1)] == ["1.7", "1.3", "1.4"]
    everyone = single_neurons(sets, 1, controls=True)
    assert [(s.name, s.control_of) for s in everyone] == [
        ("1.7", None),
        ("1.3", None),
        ("1.4", None),
        ("1.5", "entropy"),
        ("1.9", "entropy"),
    ]
    assert all(s.kind == "single" and len(s.neurons) == 1 for s in everyone)


def test_several_tables_are_read_as_one(selection, tmp_path):
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_table(selection[:4], first, "selection")
    write_table(selection[4:], second, "selection")
    # The last set is a control that holds neuron 7 of `entropy`.
    disjoint = selection.filter(pl.col("set") != "token_frequency/uniform_000").select(list(COLUMNS))
    assert read_selections([first, second]).equals(disjoint)
    assert read_selections(first).equals(selection[:4].select(list(COLUMNS)))


def test_columns_of_a_set():
    assert NeuronSet("a", "uniform", "b", (1, 2)).columns() == {
        "set": "a",
        "kind": "uniform",
        "control_of": "b",
        "n_neurons": 2,
    }
