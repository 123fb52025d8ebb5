"""Changes by route per group of prompts, and how well they tell flips: against loops over prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fake_copying import World
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from neuronlab import copying_flips
from neuronlab.copying_flips import (
    CHANGES,
    StateError,
    margin,
    predict_flips,
    read_changes,
    resampled_auc,
    summarize_flips,
)
from neuronlab.fact_bootstrap import FactBootstrap
from neuronlab.tables import check_frame, write_table

WORLD = World(n_facts=8, uniform=1, norm_matched=0, synthetic=0, doses=2, replacements=("mean", "zero"), flip=0.4)
SELECTED = WORLD.variants.filter(pl.col("kind") == "selection", pl.col("replacement") != "dose")


def write(folder: Path, states: pl.DataFrame, shards: int = 2) -> list[Path]:
    paths = [folder / f"{shard}.parquet" for shard in range(shards)]
    for shard, path in enumerate(paths):
        write_table(states.filter(pl.col("prompt") % shards == shard), path, "states")
    return paths


def bootstrap(resamples: int = 40) -> FactBootstrap:
    return FactBootstrap.of(np.arange(WORLD.n_prompts) // WORLD.counters, resamples, 0.95, 0)


def state(variant: int, route: str, prompt: int) -> dict:
    found = WORLD.states.filter(pl.col("variant") == variant, pl.col("route") == route, pl.col("prompt") == prompt)
    return found.row(0, named=True)


def ratios(row: dict) -> dict[str, float]:
    return {
        "entropy": row["entropy"],
        "ck_pk": row["log_prob_ck"] - row["log_prob_pk"],
        "nd_ck": row["log_prob_nd"] - row["log_prob_ck"],
        "nd_pk": row["log_prob_nd"] - row["log_prob_pk"],
    }


def test_group_means_against_a_loop(tmp_path: Path) -> None:
    labels = WORLD.simulated[0]
    names = np.array(["CK", "ND", "PK"])
    changes = read_changes(write(tmp_path, WORLD.states), WORLD.n_prompts, SELECTED)
    table = check_frame(summarize_flips(changes, labels, bootstrap()), "flips")
    rows = {(r["set"], r["replacement"], r["route"], r["group"]): r for r in table.iter_rows(named=True)}
    assert len(rows) == len(table)
    for variant, name, replacement in SELECTED.select("variant", "set", "replacement").iter_rows():
        before, after = names[labels[0]], names[labels[variant]]
        groups = {"changed": before != after, "kept": before == after}
        groups |= {f"{b}->{a}": (before == b) & (after == a) for b, a in set(zip(before, after, strict=True))}
        found = {group for *key, group in rows if key == [name, replacement, "total"]}
        assert found == set(groups)
        for route in ("total", "direct", "norm"):
            for group, member in groups.items():
                row = rows[name, replacement, route, group]
                members = np.flatnonzero(member)
                assert row["n_prompts"] == len(members)
                assert row["n_facts"] == len({int(p) // WORLD.counters for p in members})
                pairs = [(state(0, "clean", int(p)), state(variant, route, int(p))) for p in members]
                assert row["n_top"] == sum(a["top_token"] != b["top_token"] for a, b in pairs)
                for quantity in CHANGES:
                    mean = np.mean([ratios(b)[quantity] - ratios(a)[quantity] for a, b in pairs])
                    assert row[f"{quantity}_change"] == pytest.approx(mean, abs=1e-12)


def test_groups_without_prompts_are_missing_and_no_zero(tmp_path: Path) -> None:
    """B defect 12."""
    labels = np.zeros_like(WORLD.simulated[0])
    changes = read_changes(write(tmp_path, WORLD.states), WORLD.n_prompts, SELECTED)
    flips = check_frame(summarize_flips(changes, labels, bootstrap()), "flips")
    assert set(flips["group"]) == {"changed", "kept", "CK->CK"}
    nobody = flips.filter(pl.col("group") == "changed")
    assert (nobody["n_prompts"] == 0).all()
    assert nobody["entropy_change"].null_count() == len(nobody)
    prediction = check_frame(predict_flips(changes, labels, bootstrap()), "flip_prediction")
    assert (prediction["n_changed"] == 0).all()
    assert prediction["auc"].null_count() == prediction["auc_low"].null_count() == len(prediction)


def test_another_competitor_after_than_before_is_refused(tmp_path: Path) -> None:
    """B defect 7: the ND token was the runner-up before and after, maybe two different tokens."""
    variant = SELECTED["variant"][0]
    states = WORLD.states.with_columns(
        nd_token=pl.when((pl.col("variant") == variant) & (pl.col("prompt") == 3)).then(99).otherwise("nd_token")
    )
    with pytest.raises(StateError, match=f"competitor of variant {variant}"):
        read_changes(write(tmp_path, states), WORLD.n_prompts, SELECTED)


@pytest.mark.parametrize("variant", [0, int(SELECTED["variant"][1])])
@pytest.mark.parametrize("twice", [False, True])
def test_incomplete_states_are_refused(tmp_path: Path, variant: int, twice: bool) -> None:
    here = (pl.col("variant") == variant) & (pl.col("prompt") == 5)
    states = pl.concat([WORLD.states, WORLD.states.filter(here)]) if twice else WORLD.states.filter(~here)
    with pytest.raises(
        StateError, match="the clean model does not" if variant == 0 else f"variant {variant}, route total"
    ):
        read_changes(write(tmp_path, states), WORLD.n_prompts, SELECTED)


@pytest.mark.parametrize(
    ("ck_pk", "nd_ck", "nd_pk", "expected"), [(1.0, -2.0, 0.5, [2, 2, 1]), (-3.0, 0.5, 2.0, [3, 2, 3])]
)
def test_margin_takes_the_boundaries_of_the_clean_label(
    ck_pk: float, nd_ck: float, nd_pk: float, expected: list[float]
) -> None:
    changes = np.array([[9.0, ck_pk, nd_ck, nd_pk]] * 3)  # the entropy first
    np.testing.assert_array_equal(margin(changes, np.array([0, 1, 2], np.int8)), expected)


def auc_by_hand(values: np.ndarray, changed: np.ndarray) -> float:
    pairs = [(a > b) + (a == b) / 2 for a in values[changed] for b in values[~changed]]
    return float(np.mean(pairs)) if pairs else np.nan


@settings(deadline=None, max_examples=40)
@given(
    arrays.arrays(np.float64, 14, elements=st.sampled_from((0.0, 0.25, 1.0, 3.0))),
    arrays.arrays(bool, 14),
    arrays.arrays(np.int64, 14, elements=st.integers(0, 4)),
)
def test_auc_of_all_and_of_every_resample_against_pairs(
    values: np.ndarray, changed: np.ndarray, clusters: np.ndarray
) -> None:
    own = FactBootstrap.of(clusters, 20, 0.95, 1)
    found = resampled_auc(values, changed, own)
    expected = [auc_by_hand(values, changed)]
    for weights in own.weights:
        rows = np.repeat(np.arange(14), weights[own.fact].astype(int))
        expected.append(auc_by_hand(values[rows], changed[rows]))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_auc_does_not_depend_on_how_resamples_are_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values, changed = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    own = FactBootstrap.of(np.arange(60) // 3, 150, 0.95, 1)
    whole = resampled_auc(values, changed, own)
    monkeypatch.setattr(copying_flips, "RESAMPLES_PER_TILE", 7)
    np.testing.assert_array_equal(resampled_auc(values, changed, own), whole)


def test_prediction_uses_sizes_not_signs(tmp_path: Path) -> None:
    """Whether the entropy rises or falls, a large change tells the flip."""
    labels = WORLD.simulated[0].copy()
    variant = SELECTED["variant"][0]
    changed = np.arange(WORLD.n_prompts) % 2 == 0
    labels[variant] = np.where(changed, (labels[0] + 1) % 3, labels[0])
    sign = np.where(np.arange(WORLD.n_prompts) % 4 == 0, 1.0, -1.0)
    clean = WORLD.states.filter(pl.col("variant") == 0).sort("prompt")["entropy"].to_numpy()
    moved = pl.DataFrame({"prompt": np.arange(WORLD.n_prompts), "moved": clean + sign * np.where(changed, 0.5, 0.1)})
    states = (
        WORLD.states.join(moved, on="prompt")
        .with_columns(entropy=pl.when(pl.col("variant") == variant).then("moved").otherwise("entropy"))
        .drop("moved")
    )
    changes = read_changes(
        write(tmp_path, states.with_columns(pl.col("prompt").cast(pl.Int32))), WORLD.n_prompts, SELECTED.head(1)
    )
    found = predict_flips(changes, labels, bootstrap()).filter(pl.col("quantity") == "entropy")
    assert found["auc"].to_list() == [1.0, 1.0, 1.0]
    assert set(found["n_changed"]) == {int(changed.sum())}
