"""Numbers in tables for papers: what is missing never looks measured, what is not zero never reads as zero."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuronlab.table_cells import (
    MINUS,
    MISSING,
    Row,
    Table,
    TableColumn,
    count,
    fixed,
    label,
    level_words,
    mean_and_sd,
    p_value,
    percent,
    percent_interval,
    scientific,
)


def test_what_is_missing_is_a_dash() -> None:
    values = [count(None), percent(None), percent_interval(None, 0.1, 0.2), mean_and_sd([]), p_value(None)]
    assert {*values, fixed(None, 2), scientific(None)} == {MISSING} == {"\N{EN DASH}"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.0, "100.00"), (0.12345, "12.35"), (1e-5, "<0.01"), (1 - 1e-6, ">99.99"), (5e-5, "0.01")],
)
def test_shares_in_percent(value: float, text: str) -> None:
    assert percent(value) == text


@given(st.floats(0, 1), st.integers(0, 3))
def test_only_zero_reads_as_zero_and_the_rest_is_right_to_the_last_digit(value: float, digits: int) -> None:
    text = percent(value, digits)
    if text[0] not in "<>":
        assert abs(float(text) - 100 * value) <= 0.5 * 10.0**-digits + 1e-9
        assert (float(text) == 0) == (value == 0)
        assert (float(text) == 100) == (value == 1)


def test_intervals_are_shown_where_there_are_any() -> None:
    assert percent_interval(0.5, 0.25, 0.75) == "50.00 [25.00, 75.00]"
    assert percent_interval(0.5, None, None) == "50.00"
    assert percent_interval(0.0, 0.0, 0.00001) == "0.00 [0.00, <0.01]"


def test_mean_and_standard_deviation_are_those_of_the_control_sets() -> None:
    values = [0.1, 0.2, 0.4]
    assert mean_and_sd(values) == f"({100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f})"
    assert mean_and_sd([0.25]) == "(25.00)"  # one set has no spread


def test_other_numbers() -> None:
    assert [p_value(0.0001), p_value(0.0099), p_value(1.0)] == ["<0.001", "0.010", "1.000"]
    assert [count(0), count(1234567)] == ["0", "1,234,567"]
    assert fixed(-0.5, 2) == f"{MINUS}0.50"
    assert [scientific(2.456e-5), scientific(-3e12, 1), scientific(4.0)] == [
        "2.46 \xd7 10⁻⁵",
        f"{MINUS}3.0 \xd7 10¹²",
        "4.00",
    ]
    assert level_words(0.95) == "95\N{NO-BREAK SPACE}%"
    assert level_words(0.999) == "99.9\N{NO-BREAK SPACE}%"


@given(st.text(), st.text())
def test_labels_hold_plain_characters(model: str, facts: str) -> None:
    assert re.fullmatch(r"tab:[A-Za-z0-9-]*", label(model, facts))


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 2 cells for 3 columns"):
        Table((TableColumn("a"), TableColumn("b"), TableColumn("c")), ((Row(("1", "2")),),), "t", "c", "tab:x")
