"""Scores of 3x3 tables against loops over single prompts, and places among controls."""

from __future__ import annotations

from itertools import product
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuronlab.conversions import CELLS, MEASURES, STAYING, place_among, score_counts
from neuronlab.schemas_knowledge import LABELS
from scipy.stats import percentileofscore

PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), max_size=30)


def by_definition(pairs: list[tuple[str, str]], measure: str) -> tuple[int, int]:
    """(counted, eligible) prompt by prompt, from the definitions."""
    name, *labels = measure.split("_")
    labels = [label.upper() for label in labels]
    counted = eligible = 0
    for before, after in pairs:
        if name in ("gts", "invariance"):
            eligible += 1
            counted += (before != after) if name == "gts" else (before == after)
        elif name == "cr":
            if before != labels[0]:
                eligible += 1
                counted += after == labels[0]
        elif before == labels[0]:
            eligible += 1
            counted += after == labels[1]
    return counted, eligible


def table(pairs: list[tuple[str, str]]) -> np.ndarray:
    return np.array([pairs.count(cell) for cell in CELLS])


@given(PAIRS)
def test_scores_count_what_their_definitions_say(pairs: list[tuple[str, str]]) -> None:
    counted, eligible = score_counts(table(pairs))
    for place, measure in enumerate(MEASURES):
        assert (counted[place], eligible[place]) == by_definition(pairs, measure), measure


@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_tables_are_scored_together_as_they_are_one_by_one(many: list[list[tuple[str, str]]]) -> None:
    together = score_counts(np.array([[table(pairs)] for pairs in many]))
    for place, pairs in enumerate(many):
        for stacked, alone in zip(together, score_counts(table(pairs)), strict=True):
            np.testing.assert_array_equal(stacked[place, 0], alone)


@pytest.mark.parametrize("label", LABELS)
def test_each_conversion_ratio_has_its_own_formula(label: str) -> None:
    """B defect 1: the ND ratio was computed with PK's function; only prompts that get this label may count."""
    others = [other for other in LABELS if other != label]
    pairs = [(others[0], label)] * 3 + [(others[1], others[1])] * 2 + [(label, others[0])]
    ratios = dict(zip(MEASURES, zip(*score_counts(table(pairs)), strict=True), strict=True))
    assert ratios[f"cr_{label}".lower()] == (3, 5)
    values = {other: ratios[f"cr_{other}".lower()] for other in LABELS}
    assert len(set(values.values())) == 3, "three different ratios"


def test_nd_conversions_do_not_move_the_pk_ratio() -> None:
    """B defect 1, as printed: the ND bars equalled the PK bars in all models."""
    names = [MEASURES.index(name) for name in ("cr_nd", "cr_pk")]
    before, after = (score_counts(table(pairs))[0][names] for pairs in ([("CK", "CK")], [("CK", "ND")]))
    np.testing.assert_array_equal(after - before, [1, 0])


def test_empty_class_has_nothing_eligible() -> None:
    """B defect 12: a division by an empty class; what is not eligible must be seen to be nothing."""
    counted, eligible = score_counts(table([("CK", "CK"), ("CK", "ND")]))
    for before, after in product(("nd", "pk"), ("ck", "nd", "pk")):
        place = MEASURES.index(f"ts_{before}_{after}")
        assert (counted[place], eligible[place]) == (0, 0)
    place = MEASURES.index("cr_ck")
    assert (counted[place], eligible[place]) == (0, 0)


SHARE = st.integers(0, 6).map(lambda n: n / 6)


@given(SHARE, st.lists(SHARE, min_size=1, max_size=12), st.sampled_from(("gts", "invariance", "ts_nd_nd", "cr_nd")))
def test_place_among_controls_against_a_loop(value: float, controls: list[float], measure: str) -> None:
    stays = measure in ("invariance", "ts_nd_nd")
    place = place_among(value, np.array(controls), measure)
    extreme = sum(c <= value if stays else c >= value for c in controls)
    assert place.p_value == (1 + extreme) / (1 + len(controls))
    below, tied = sum(c < value for c in controls), sum(c == value for c in controls)
    rank = 100 * (below + (below + tied)) / 2 / len(controls)  # a tie stands halfway between one below and one above
    assert place.percentile == pytest.approx(100 - rank if stays else rank)
    assert place.control_max == max(controls)
    assert place.control_mean == pytest.approx(np.mean(controls))
    if len(controls) == 1:
        assert place.control_sd is None
    else:
        assert place.control_sd == pytest.approx(stdev(controls), abs=1e-12)


def test_p_value_is_never_zero_and_no_percentile() -> None:
    """A selection beyond n controls: p = 1/(n+1), though the published percentile says 100."""
    place = place_among(1.0, np.zeros(99), "gts")
    assert (place.p_value, place.percentile) == (0.01, 100)
    assert place_among(0.0, np.ones(99), "invariance").p_value == 0.01
    tied = place_among(0.0, np.zeros(99), "gts")
    assert tied.p_value == 1
    assert tied.percentile == 50


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(0, 7))
def test_complements_mirror_each_other_with_ties(controls: list[int], value: int) -> None:
    """GTS and the share of labels that stay are one number told twice: same p, same percentile, ties or not."""
    measures = [MEASURES.index(name) for name in ("gts", "invariance")]
    pairs = [[("CK", "ND")] * moved + [("CK", "CK")] * (7 - moved) for moved in (value, *controls)]
    counted, eligible = (values[:, measures] for values in score_counts(np.array([table(one) for one in pairs])))
    (gts, *others), (invariance, *opposite) = (counted / eligible).T
    found = place_among(gts, np.array(others), "gts")
    assert (found.p_value, found.percentile) == place_among(invariance, np.array(opposite), "invariance")[4:]
    # Turned round, what was below is above: mid-ranks add up to 100.
    turned = place_among(-gts, -np.array(others), "gts")
    assert found.percentile + turned.percentile == pytest.approx(100)
    assert found.percentile == pytest.approx(percentileofscore(controls, value, kind="mean"))


def test_more_change_than_all_controls_is_extreme_for_every_measure() -> None:
    """What stays falls when more changes: its test looks the other way."""
    assert {"invariance", "ts_ck_ck", "ts_nd_nd", "ts_pk_pk"} == STAYING
    for measure in MEASURES:
        value, controls = (0.0, np.ones(9)) if measure in STAYING else (1.0, np.zeros(9))
        place = place_among(value, controls, measure)
        assert (place.p_value, place.percentile) == (0.1, 100)


def test_undefined_places_are_missing() -> None:
    nothing = place_among(0.5, np.array([np.nan]), "gts")
    assert nothing == (0, None, None, None, None, None)
    unknown = place_among(np.nan, np.array([0.25, np.nan, 0.75]), "gts")
    assert (unknown.n_controls, unknown.control_mean, unknown.p_value, unknown.percentile) == (2, 0.5, None, None)
    assert place_among(0.5, np.array([0.25, np.nan, 0.75]), "gts").p_value == 2 / 3
