"""What a finished small run of study B leaves behind, and how it meets facts that it cannot use."""

from __future__ import annotations

import polars as pl
import pytest
from neuronlab.tables import read_table
from project import Project, small_config

pytestmark = pytest.mark.slow
KNOWLEDGE = "results/tiny/facts/people/knowledge"


def table(finished: Project, name: str, schema: str) -> pl.DataFrame:
    return read_table(finished.directory / KNOWLEDGE / f"{name}.parquet", schema)


def shards(finished: Project, name: str, schema: str) -> pl.DataFrame:
    return pl.concat([table(finished, f"shards/{shard}/{name}", schema) for shard in (0, 1)])


def test_every_prompt_meets_every_variant_once(finished):
    decoded, variants = shards(finished, "decoded", "decoded"), table(finished, "variants", "variants")
    prompts = table(finished, "conflicts", "conflicts")
    assert len(prompts) > 0
    assert len(decoded) == len(prompts) * len(variants)
    assert decoded.select("prompt", "variant").n_unique() == len(decoded)


def test_every_set_and_every_kind_of_control_is_decoded(finished):
    variants = table(finished, "variants", "variants")
    assert set(variants["kind"]) == {"clean", "selection", "uniform", "norm_matched", "synthetic"}
    selections = set(variants.filter(kind="selection")["set"])
    assert {"entropy", "induction_driven"} <= selections
    counts = variants.filter(pl.col("replacement") == "zero").group_by("set").len()
    assert (counts["len"] == 1).all()


def test_controls_share_no_neuron_with_any_selection(finished):
    sets = table(finished, "sets", "copying_sets")
    selected = set(sets.filter(kind="selection")["neuron"])
    assert not selected & set(sets.filter(pl.col("kind").is_in(["uniform", "norm_matched"]))["neuron"])


def test_the_proof_of_the_prefix_tree_is_in_the_run(finished):
    proof = table(finished, "decoding_verification", "decoding_verification")
    assert proof["passed"].all()
    assert set(proof["tier"]) == {"generation", "readout"}


def test_the_scores_are_those_of_the_labels(finished):
    """Counted anew from the shards, without the library's own counting."""
    decoded = shards(finished, "decoded", "decoded")
    labels = {(row["prompt"], row["variant"]): row["label"] for row in decoded.iter_rows(named=True)}
    prompts = table(finished, "conflicts", "conflicts")["prompt"].to_list()
    scores = table(finished, "scores", "copying_scores")
    variants = table(finished, "variants", "variants").filter(kind="selection", replacement="zero")
    for row in variants.iter_rows(named=True):
        changed = sum(labels[p, 0] != labels[p, row["variant"]] for p in prompts)
        measured = scores.filter(set=row["set"], replacement="zero", measure="gts").row(0, named=True)
        assert (measured["n"], measured["n_eligible"]) == (changed, len(prompts))


def test_the_funnel_ends_at_the_prompts(finished):
    funnel = table(finished, "funnel", "funnel")
    assert funnel["n_prompts"][-1] == len(table(finished, "conflicts", "conflicts"))
    assert funnel["n_facts"].is_sorted(descending=True)


def test_a_shard_without_prompts_is_valid(finished, tmp_path, tiny_directory):
    config = small_config(tiny_directory)
    prompts = len(table(finished, "conflicts", "conflicts"))
    config["context_copying"]["shards"] = prompts + 1
    other = Project(tmp_path, finished.code)
    other.configure(config)
    for name in ("words.txt", "facts.csv"):
        (tmp_path / name).write_bytes((finished.directory / name).read_bytes())
    assert other.planned(f"{KNOWLEDGE}/scores.parquet")["decode_conflicts"] == prompts + 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("subject,object\nshe,tin\n", "relation"),
        ("subject,relation,object\n", "no facts"),
        ("subject,relation,object\nshe,is in,\n", "row"),
    ],
)
def test_facts_that_cannot_be_used_are_refused_without_a_model(project, rows, message):
    (project.directory / "facts.csv").write_text(rows)
    output = project.run(f"{KNOWLEDGE}/answers.parquet", ok=False, warm=True)
    assert "facts.csv" in output
    assert message in output
    assert "done in" not in output.split("answer_queries")[-1]
    assert not (project.directory / KNOWLEDGE / "answers.parquet").exists()
