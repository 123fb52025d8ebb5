"""A real small run: its results, what a second run does, single figures, faults in mid-run."""

from __future__ import annotations

import re
import shutil
import time

import polars as pl
import pytest
from neuronlab.results_reference import OTHERS, TABLES
from neuronlab.tables import read_provenance, read_table
from project import Project

TEXT = "results/tiny/texts/words"
ABLATION = f"{TEXT}/ablation"

pytestmark = pytest.mark.slow


def copy_project(finished: Project, target) -> Project:
    """A copy of a finished working directory, with its times, so that nothing in it is stale."""
    shutil.copytree(finished.directory, target, copy_function=shutil.copy2)
    copied = Project(target)
    copied.run("--touch")
    return copied


def test_the_tables_hold_what_their_schemas_promise(finished):
    tables = {
        "results/tiny/weights/neurons.parquet": "neurons",
        "results/tiny/weights/null_space.parquet": "null_space",
        "results/tiny/weights/singular_values.parquet": "singular_values",
        "results/tiny/weights/selection.parquet": "selection",
        f"{TEXT}/tokens.parquet": "tokens",
        f"{TEXT}/activation_statistics.parquet": "activation_statistics",
        f"{TEXT}/baseline.parquet": "baseline",
        f"{ABLATION}/shards/0.parquet": "ablation_shard",
        f"{ABLATION}/effects.parquet": "effects",
        f"{ABLATION}/synthetic.parquet": "synthetic",
        f"{ABLATION}/traces.parquet": "traces",
        f"{ABLATION}/verification.parquet": "verification",
    }
    for path, name in tables.items():
        assert len(read_table(finished.directory / path, name)) > 0, path
        record = read_provenance(finished.directory / path)
        assert record["table"] == name
        assert record["code"], path
        assert record["versions"]["torch"], path


def test_every_counted_token_is_in_the_shards_once(finished):
    tokens = read_table(finished.directory / f"{TEXT}/tokens.parquet", "tokens")
    counted = int(tokens["counted"].list.sum().sum())
    shards = [read_table(finished.directory / f"{ABLATION}/shards/{i}.parquet", "ablation_shard") for i in range(2)]
    per_neuron = pl.concat(shards).group_by("neuron").agg(pl.col("n_tokens").sum())
    assert per_neuron["n_tokens"].unique().to_list() == [counted]
    effects = read_table(finished.directory / f"{ABLATION}/effects.parquet", "effects")
    assert effects["n_tokens"].unique().to_list() == [counted]


def test_effects_are_the_means_of_the_traces(finished):
    """Two rules compute the same neurons on their own: per-document sums, and rows per token."""
    traces = read_table(finished.directory / f"{ABLATION}/traces.parquet", "traces")
    means = traces.group_by("replacement", "layer", "neuron").agg(
        pl.col("loss_total").abs().mean().alias("te"), pl.col("entropy_direct").mean().alias("direct")
    )
    effects = read_table(finished.directory / f"{ABLATION}/effects.parquet", "effects")
    both = means.join(effects, on=["replacement", "layer", "neuron"])
    assert len(both) == len(means) > 0
    assert (both["te"] - both["te_loss"]).abs().max() < 1e-9
    assert (both["direct"] - both["direct_entropy"]).abs().max() < 1e-9


def test_the_proof_is_in_the_run(finished):
    proof = read_table(finished.directory / f"{ABLATION}/verification.parquet", "verification")
    assert proof["passed"].all()
    assert set(proof["tier"]) == {"readout", "forward"}
    assert set(proof["variant"]) >= {"total", "direct"}


def test_a_second_run_does_nothing_and_quickly(finished):
    started = time.monotonic()
    assert "Nothing to be done" in finished.run()
    assert time.monotonic() - started < 10


def test_one_figure_needs_no_more_than_it_shows(project):
    figure = "results/tiny/weights/figures/norm_logitvar.svg"
    project.run(figure)
    assert (project.directory / figure).stat().st_size > 1000
    assert not (project.directory / TEXT).exists()


def test_batches_add_up(project):
    config = project.config()
    config["confidence_regulation"]["texts"] = []
    project.configure(config)
    figures = project.directory / "results/tiny/weights/figures"
    project.run("all", "--batch", "all=1/2")
    first = {path.name for path in figures.iterdir()}
    project.run("all", "--batch", "all=2/2")
    assert first < {path.name for path in figures.iterdir()} == {"norm_logitvar.svg", "singular_values.svg"}
    assert project.planned() == {}


def test_a_truncated_shard_is_named(finished, tmp_path):
    project = copy_project(finished, tmp_path / "copy")
    shard = project.directory / ABLATION / "shards" / "1.parquet"
    shard.write_bytes(shard.read_bytes()[:-50])
    output = project.run(f"{ABLATION}/effects.parquet", ok=False)
    assert f"{ABLATION}/shards/1.parquet: not a readable Parquet file" in output
    assert "delete it" in output
    shard.unlink()
    project.run(f"{ABLATION}/effects.parquet")
    original = finished.directory / ABLATION / "effects.parquet"
    assert (project.directory / ABLATION / "effects.parquet").read_bytes() == original.read_bytes()


def test_the_reference_lists_every_artefact_and_nothing_else(finished):
    """What a run leaves behind, against results/README.md's list."""
    patterns = [
        (rule, re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)).replace(r"\.svg", r"\.\w+") + "$"))
        for path, rule, _ in [*TABLES, *OTHERS]
    ]
    results = finished.directory / "results"
    made = [path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()]
    made = [path for path in made if not path.startswith(("logs/", "benchmarks/"))]
    assert [path for path in made if not any(pattern.match(path) for _, pattern in patterns)] == []
    not_in_this_run = {"fetch_text", "fetch_model", "make_demo_world", "train_demo_model", "compare_published"}
    unmade = {rule for rule, pattern in patterns if not any(pattern.match(path) for path in made)}
    assert unmade - {"every rule"} == not_in_this_run
