"""Tables of transitions and scores against loops over prompts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from fake_copying import World
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from neuronlab.conversions import MEASURES
from neuronlab.fact_bootstrap import FactBootstrap
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import check_frame
from neuronlab.transitions import rank_among_controls, score_variants

SMALL = World(n_facts=4, uniform=2, norm_matched=1, synthetic=1, doses=0, replacements=("mean", "zero"))
N = SMALL.n_prompts
SCORED = SMALL.variants.filter(pl.col("variant") > 0)


def scored(labels: np.ndarray, entropy: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame]:
    bootstrap = FactBootstrap.of(np.arange(N) // SMALL.counters, 50, 0.95, 0)
    transitions, scores = score_variants(labels, entropy, SCORED, bootstrap)
    return check_frame(transitions, "transitions"), check_frame(scores, "copying_scores")


@settings(deadline=None, max_examples=25)
@given(
    arrays.arrays(np.int8, (len(SMALL.variants), N), elements=st.integers(0, 2)),
    arrays.arrays(np.float64, (len(SMALL.variants), N), elements=st.floats(0, 5, width=16)),
)
def test_every_cell_of_every_variant_against_a_loop(labels: np.ndarray, entropy: np.ndarray) -> None:
    transitions, scores = scored(labels, entropy)
    at = {
        (row["set"], row["replacement"], row["before"], row["after"]): row for row in transitions.iter_rows(named=True)
    }
    assert len(at) == len(transitions) == 9 * len(SCORED)
    values = {(row["set"], row["replacement"], row["measure"]): row for row in scores.iter_rows(named=True)}
    for variant, name, replacement in SCORED.select("variant", "set", "replacement").iter_rows():
        for b, before in enumerate(LABELS):
            for a, after in enumerate(LABELS):
                row = at[name, replacement, before, after]
                here = [p for p in range(N) if labels[0, p] == b and labels[variant, p] == a]
                n_before = sum(labels[0, p] == b for p in range(N))
                assert (row["n_before"], row["n"]) == (n_before, len(here))
                assert row["share"] == (len(here) / n_before if n_before else None)
                changes = [entropy[variant, p] - entropy[0, p] for p in here]
                assert row["entropy_change"] == (pytest.approx(np.mean(changes), abs=1e-12) if here else None)
                score = values[name, replacement, f"ts_{before}_{after}".lower()]
                assert (score["n"], score["n_eligible"], score["value"]) == (row["n"], row["n_before"], row["share"])
        moved = sum(labels[0] != labels[variant])
        assert values[name, replacement, "gts"]["value"] == pytest.approx(moved / N)
        assert values[name, replacement, "invariance"]["value"] == pytest.approx(1 - moved / N)


def test_only_selections_have_intervals() -> None:
    labels, entropy = SMALL.simulated
    for table in scored(labels, entropy):
        ends = [name for name in table.columns if name.endswith(("_low", "_high"))]
        controls = table.filter(pl.col("kind") != "selection")
        assert len(controls)
        assert all(controls[name].null_count() == len(controls) for name in ends)
    gts = scored(labels, entropy)[1].filter(pl.col("measure") == "gts", pl.col("kind") == "selection")
    assert gts["value_low"].null_count() == 0


def test_empty_class_is_missing_and_no_zero() -> None:
    """B defect 12: rows of an empty class were NaN; here they are null with n = 0, and nothing warns."""
    labels = np.zeros((len(SMALL.variants), N), np.int8)
    transitions, scores = scored(labels, np.ones(labels.shape))
    nobody = transitions.filter(pl.col("before") != "CK")
    assert nobody["n_before"].to_list() == [0] * len(nobody)
    for column in ("share", "share_low", "share_high", "entropy_change"):
        assert nobody[column].null_count() == len(nobody)
    assert scores.filter(pl.col("measure") == "cr_ck")["value"].null_count() == len(SCORED), "all are CK: none can turn"
    assert (scores.filter(pl.col("measure") == "cr_nd")["value"] == 0).all(), "none turned: that is measured"
    tests = check_frame(rank_among_controls(scores), "control_tests")
    undefined = tests.filter(pl.col("measure") == "cr_ck")
    assert (undefined["n_controls"] == 0).all()
    assert undefined["p_value"].null_count() == undefined["percentile"].null_count() == len(undefined)


def test_every_cell_and_score_reports_its_n() -> None:
    """B defect 15: a class of a few prompts looked like any other."""
    transitions, scores = scored(*SMALL.simulated)
    sums = transitions.group_by("set", "replacement", "before").agg(pl.col("n").sum(), pl.col("n_before").first())
    assert (sums["n"] == sums["n_before"]).all()
    assert (scores["n"] <= scores["n_eligible"]).all()
    assert (scores.filter(pl.col("measure") == "gts")["n_eligible"] == N).all()


def test_controls_are_those_of_the_same_selection_kind_and_replacement() -> None:
    _, scores = scored(*SMALL.simulated)
    tests = rank_among_controls(scores)
    assert len(tests) == len(SMALL.selections) * 2 * len(MEASURES) * 3
    for row in tests.iter_rows(named=True):
        controls = scores.filter(
            pl.col("control_of") == row["set"],
            pl.col("kind") == row["controls"],
            pl.col("replacement") == row["replacement"],
            pl.col("measure") == row["measure"],
        )["value"].drop_nulls()
        assert row["n_controls"] == len(controls)
        assert row["control_mean"] == pytest.approx(controls.mean()) if len(controls) else row["control_mean"] is None
        assert row["control_sd"] == (pytest.approx(controls.std(ddof=1)) if len(controls) > 1 else None)


def test_intervals_are_those_of_facts_drawn_anew() -> None:
    """Every resample scored from its prompts, laid side by side."""
    world = World(n_facts=60, uniform=0, norm_matched=0, synthetic=0, doses=0, flip=0.5, selections=("entropy",))
    labels, entropy = world.simulated
    bootstrap = FactBootstrap.of(np.arange(world.n_prompts) // world.counters, 200, 0.9, 5)
    variants = world.variants.filter(pl.col("variant") == 1)
    transitions, scores = score_variants(labels, entropy, variants, bootstrap)
    ck, change = [], []
    for weights in bootstrap.weights:
        rows = np.concatenate([np.arange(3) + 3 * fact for fact in np.repeat(np.arange(60), weights.astype(int))])
        before, after = labels[0, rows], labels[1, rows]
        ck.append((after[before != 0] == 0).mean())
        cell = (before == 1) & (after == 0)
        change.append((entropy[1, rows] - entropy[0, rows])[cell].mean() if cell.any() else np.nan)
    row = scores.row(by_predicate=pl.col("measure") == "cr_ck", named=True)
    assert [row["value_low"], row["value_high"]] == pytest.approx(np.quantile(ck, [0.05, 0.95]))
    row = transitions.row(by_predicate=(pl.col("before") == "ND") & (pl.col("after") == "CK"), named=True)
    assert row["entropy_change"] < 0
    assert np.isnan(change).mean() < 0.05
    assert [row["entropy_change_low"], row["entropy_change_high"]] == pytest.approx(
        np.nanquantile(change, [0.05, 0.95])
    )
