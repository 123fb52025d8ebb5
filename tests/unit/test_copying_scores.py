"""The rule as a whole on a made-up study: shares, relations, doses, examples, and studies with little in them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fake_copying import SCORES, World, score, tables, write_inputs
from neuronlab.copying_breakdowns import SubsetError, count_classes
from neuronlab.copying_examples import ExampleError, choose_examples
from neuronlab.copying_scores import ScoreError
from neuronlab.decoded_labels import Decoded
from neuronlab.fact_bootstrap import FactBootstrap
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import read_provenance, write_table

SMALL = World(n_facts=24, uniform=3, norm_matched=2, synthetic=2, doses=3, dose_controls=1, flip=0.4)


@pytest.fixture(scope="module")
def scored() -> dict[str, pl.DataFrame]:
    return tables(SMALL)


@pytest.fixture(scope="module")
def labels() -> dict[tuple[int, int], tuple[str, float]]:
    """(prompt, variant) -> label and entropy, one by one."""
    return {(p, v): (label, h) for p, v, _, label, h in SMALL.decoded.iter_rows()}


def test_class_counts_against_a_loop(scored: dict[str, pl.DataFrame], labels: dict) -> None:
    counts = scored["class_counts"]
    assert counts["subset"].unique(maintain_order=True).to_list() == ["all", "contradicted", "held_out"]
    for row in counts.iter_rows(named=True):
        own = SMALL.conflicts.filter((pl.col("subset") == row["subset"]) | (row["subset"] == "all"))
        prompts = own["prompt"].to_list() if row["subset"] != "all" else range(SMALL.n_prompts)
        n = sum(labels[p, 0][0] == row["label"] for p in prompts)
        assert (row["n"], row["n_prompts"]) == (n, len(prompts))
        assert row["n_facts"] * SMALL.counters == row["n_prompts"]
        assert row["share"] == pytest.approx(n / len(prompts))


def test_relations_against_a_loop(scored: dict[str, pl.DataFrame], labels: dict) -> None:
    relations = scored["copying_relations"]
    assert set(relations["replacement"]) == {"mean"}
    assert set(relations["set"]) == set(SMALL.selections)
    variants = {
        row["set"]: row["variant"] for row in SMALL.variants.iter_rows(named=True) if row["replacement"] == "mean"
    }
    for row in relations.iter_rows(named=True):
        prompts = SMALL.conflicts.filter(pl.col("relation") == row["relation"])["prompt"]
        before = [labels[p, 0][0] for p in prompts]
        after = [labels[p, variants[row["set"]]][0] for p in prompts]
        pairs = list(zip(before, after, strict=True))
        if row["measure"] == "gts":
            n, eligible = sum(b != a for b, a in pairs), len(pairs)
        elif row["measure"] == "cr_ck":
            n, eligible = sum(b != "CK" and a == "CK" for b, a in pairs), sum(b != "CK" for b in before)
        else:
            n, eligible = before.count(row["measure"].upper()), len(before)
        assert (row["n"], row["n_eligible"]) == (n, eligible)
        assert row["value"] == pytest.approx(n / eligible)
        assert row["n_facts"] == 6


def test_doses_against_a_loop(scored: dict[str, pl.DataFrame], labels: dict) -> None:
    doses = scored["copying_doses"]
    compared = SMALL.variants.filter((pl.col("replacement") == "dose") | (pl.col("kind") == "clean"))
    assert len(doses) == len(compared) == 1 + 3 * 2 * (1 + 3), "the clean model, and 3 doses of 2 x (1 + 3) sets"
    for row, variant in zip(doses.iter_rows(named=True), compared.iter_rows(named=True), strict=True):
        assert (row["set"], row["kind"], row["dose"]) == (variant["set"], variant["kind"], variant["dose"])
        here = [labels[p, variant["variant"]] for p in range(SMALL.n_prompts)]
        for label in LABELS:
            assert row[label.lower()] == pytest.approx(np.mean([own == label for own, _ in here]))
        changes = [h - labels[p, 0][1] for p, (_, h) in enumerate(here)]
        assert row["entropy_change"] == pytest.approx(np.mean(changes))
        assert (row["ck_low"] is None) == (row["kind"] not in ("clean", "selection"))


def test_clamped_sets_are_no_part_of_the_scores(scored: dict[str, pl.DataFrame]) -> None:
    for name in ("transitions", "copying_scores", "control_tests", "flips"):
        assert set(scored[name]["replacement"]) == set(SMALL.replacements)


def test_every_interval_lies_around_what_it_is_about(scored: dict[str, pl.DataFrame]) -> None:
    """B defect 11: no NaN, nothing outside [0, 1], no error of one set drawn for another."""
    seen = 0
    for name in SCORES.values():
        frame = scored[name]
        for low in [column for column in frame.columns if column.endswith("_low")]:
            value, high = low.removesuffix("_low"), low.replace("_low", "_high")
            some = frame.drop_nulls([low])
            seen += len(some)
            assert (some[low] <= some[high]).all()
            assert some[value].null_count() == 0
            if not value.endswith("_change"):
                assert ((some[low] >= 0) & (some[high] <= 1)).all()
    assert seen > 300


def test_facts_of_one_subject_and_relation_are_one_cluster(tmp_path: Path) -> None:
    world = World(n_facts=12, uniform=1, norm_matched=0, synthetic=0, doses=0)
    keywords = write_inputs(world, tmp_path)
    twins = world.facts.with_columns(
        subject=pl.format("Land{}", pl.col("fact") % 6), relation=pl.lit("capital"), object=pl.format("O{}", "fact")
    )
    write_table(twins, keywords["facts"], "facts")
    found = {}
    for name, path in (("twins", keywords["facts"]), ("own", tmp_path / "own.parquet")):
        write_table(twins if name == "twins" else world.facts, path, "facts")
        found[name] = score(world, tmp_path / name, facts=path)["class_counts"]["n_facts"][0]
    assert found == {"twins": 6, "own": 12}


@pytest.mark.parametrize(
    "world",
    [
        World(n_facts=0),
        World(n_facts=0, selections=()),
        World(n_facts=12, selections=()),
        World(n_facts=1),
        World(n_facts=12, shares=(1, 0, 0), flip=0),
        World(n_facts=12, shares=(0, 1, 0)),
        World(n_facts=3, shards=5),
        World(n_facts=12, uniform=1, norm_matched=0, synthetic=0, doses=0),
    ],
    ids=["no-prompt", "nothing", "no-set", "one-fact", "context-alone", "knows-nothing", "empty-shards", "one-control"],
)
def test_studies_with_little_in_them_are_scored(world: World) -> None:
    """B defect 12: empty classes and tables are no crash, and what is not measured is not 0."""
    found = tables(world)
    for name in ("class_counts", "copying_scores", "copying_doses"):
        frame = found[name]
        value = {"class_counts": "share", "copying_scores": "value", "copying_doses": "ck"}[name]
        eligible = frame["n_eligible"] if "n_eligible" in frame.columns else frame["n_prompts"]
        assert (frame[value].is_null() == (eligible == 0)).all()
    if world.n_facts < 2:
        for name in SCORES.values():
            for column in [column for column in found[name].columns if column.endswith(("_low", "_high"))]:
                assert found[name][column].null_count() == len(found[name]), "one cluster: nothing to resample"
    assert len(found["class_counts"]) >= 3


def test_failed_verification_is_not_scored(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.parquet"
    bad = SMALL.verification.with_columns(passed=pl.col("prompt") != 1, error=pl.lit(0.5))
    write_table(bad, wrong, "decoding_verification")
    with pytest.raises(ScoreError, match=rf"{wrong}: 2 checks failed, first tokens of prompt 1"):
        score(SMALL, tmp_path / "run", verification=wrong)
    assert not list((tmp_path / "run").glob("scores.parquet"))


def test_unknown_shown_replacement_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"no replacement 'mode'; .*replacements gave mean, median, zero"):
        score(SMALL, tmp_path, replacement="mode")


def test_prompts_that_are_not_numbered_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "gaps.parquet"
    write_table(SMALL.conflicts.with_columns(prompt=pl.col("prompt") + 1), path, "conflicts")
    with pytest.raises(ScoreError, match="'prompt' does not number the rows"):
        score(SMALL, tmp_path / "run", conflicts=path)


def test_conflicts_about_other_facts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.parquet"
    write_table(SMALL.facts.head(5), path, "facts")
    with pytest.raises(ScoreError, match=rf"{path}: conflict prompts about facts that are not in it"):
        score(SMALL, tmp_path / "run", facts=path)


def test_subset_called_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "subsets.parquet"
    write_table(SMALL.conflicts.with_columns(subset=pl.lit("all")), path, "conflicts")
    with pytest.raises(SubsetError, match="'all'"):
        score(SMALL, tmp_path / "run", conflicts=path)


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        score(SMALL, tmp_path / name, provenance={"seed": 1})
    for name in SCORES:
        assert (tmp_path / "a" / f"{name}.parquet").read_bytes() == (tmp_path / "b" / f"{name}.parquet").read_bytes()
    assert read_provenance(tmp_path / "a" / "scores.parquet")["seed"] == 1


def test_number_of_shards_changes_nothing(scored: dict[str, pl.DataFrame]) -> None:
    again = tables(replace(SMALL, shards=5))
    for name in SCORES.values():
        assert again[name].equals(scored[name]), name


def test_examples_are_flips_with_their_texts(scored: dict[str, pl.DataFrame], labels: dict) -> None:
    examples = scored["copying_examples"]
    assert set(examples["set"]) == set(SMALL.selections)
    assert examples.group_by("set").len()["len"].max() <= 6
    assert not examples.select("set", "prompt").is_duplicated().any()
    variants = {(r["set"], r["replacement"]): r["variant"] for r in SMALL.variants.iter_rows(named=True)}
    texts = {(r["prompt"], r["label"]): r["text"] for r in SMALL.continuations.iter_rows(named=True)}
    for row in examples.iter_rows(named=True):
        variant = variants[row["set"], row["replacement"]]
        assert (row["before"], row["entropy_before"]) == labels[row["prompt"], 0]
        assert (row["after"], row["entropy_after"]) == labels[row["prompt"], variant]
        assert row["before"] != row["after"]
        assert row["text_before"] == texts[row["prompt"], row["before"]]
        assert row["text_after"] == texts[row["prompt"], row["after"]]


def flipping(cells: list[tuple[int, int]], change: list[float]) -> Decoded:
    """Two variants of one selection, `mean` (1) with the given flips and `zero` (2), under which all is CK."""
    before, after = np.array(cells, np.int8).T
    found = np.stack([before, after, np.zeros_like(before)])
    entropy = np.stack([np.ones(len(cells)), 1 + np.array(change), np.full(len(cells), 2.0)])
    return Decoded(found, entropy, np.zeros(found.shape, np.int32))


TWO = pl.DataFrame({"variant": [1, 2], "set": ["s", "s"], "replacement": ["mean", "zero"]})


def test_examples_differ_in_transition_then_relation_then_size() -> None:
    found = flipping([(0, 2), (0, 2), (0, 2), (1, 0), (2, 2)], [0.1, -0.9, 0.5, 0.01, 3])
    chosen = choose_examples(found, TWO, ["a", "a", "b", "a", "a"], ["mean", "zero"], 3)
    # The largest flip; then the other transition; then CK->PK again, of the relation that is not there yet.
    assert [example.prompt for example in chosen] == [1, 3, 2]


def test_other_replacements_fill_up_the_examples() -> None:
    found = flipping([(1, 2), (1, 1), (2, 2)], [0.1, 0, 0])  # under `zero` all three flip
    chosen = choose_examples(found, TWO, ["a", "b", "c"], ["mean", "zero"], 9)
    assert [(example.replacement, example.prompt) for example in chosen] == [("mean", 0), ("zero", 1), ("zero", 2)]
    assert not choose_examples(found, TWO, ["a", "b", "c"], ["mean", "zero"], 0)


def test_continuations_of_another_run_are_refused(tmp_path: Path) -> None:
    keywords = write_inputs(SMALL, tmp_path)
    other = SMALL.continuations.with_columns(label=pl.lit("ND"))
    for path in keywords["continuations"]:
        write_table(other, path, "continuations")
    with pytest.raises(ExampleError, match="has no continuation"):
        score(SMALL, tmp_path / "run", continuations=keywords["continuations"])


def test_scoring_loads_no_torch() -> None:
    program = "import sys, neuronlab.copying_scores; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    root = Path(__file__).parents[2] / "workflow_scripts"
    assert subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(root)}, check=False).returncode == 0


def test_prompts_count_by_themselves_and_not_by_their_objects() -> None:
    """B defect 8: a dictionary by object kept the last of duplicates, and every fact was taken to have 3 counters."""
    fact = [0, 0, 0, 1, 2, 2]  # 3, 1 and 2 counter-objects
    same = {"counter": ["Rome"] * 6, "answer": ["Paris"] * 6, "subset": ["a", "a", "a", "a", None, None]}
    prompts = pl.DataFrame({"prompt": range(6), "fact": fact} | same)
    clean = np.array([0, 1, 2, 0, 0, 2], np.int8)
    empty = np.array([False, True, False, False, False, False])
    counts = count_classes(clean, empty, prompts, FactBootstrap.of(np.array(fact), 50, 0.95, 0))
    assert counts.filter(pl.col("n_empty") > 0).select("subset", "label", "n_empty").rows() == [
        ("all", "ND", 1),
        ("a", "ND", 1),
    ]
    found = counts.select("subset", "label", "n_prompts", "n_facts", "n").rows()
    assert found == [
        ("all", "CK", 6, 3, 3),
        ("all", "ND", 6, 3, 1),
        ("all", "PK", 6, 3, 2),
        ("a", "CK", 4, 2, 2),
        ("a", "ND", 4, 2, 1),
        ("a", "PK", 4, 2, 1),
    ]


def test_examples_of_the_same_objects_keep_their_own_texts(tmp_path: Path) -> None:
    """B defect 8: what two prompts share is no key."""
    same = tmp_path / "same.parquet"
    write_table(SMALL.conflicts.with_columns(counter=pl.lit("X"), answer=pl.lit("Y")), same, "conflicts")
    examples = score(SMALL, tmp_path / "run", conflicts=same)["copying_examples"]
    texts = {(p, label): text for p, _, _, text, _, label in SMALL.continuations.iter_rows()}
    assert len(examples) == 12
    for row in examples.iter_rows(named=True):
        assert row["text_after"] == texts[row["prompt"], row["after"]]
