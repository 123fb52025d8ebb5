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
ABLATION, INDUCTION = f"{TEXT}/ablation", f"{TEXT}/induction"

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
        f"{ABLATION}/token_frequency.parquet": "token_frequency",
        f"{ABLATION}/random_directions.parquet": "random_directions",
        f"{ABLATION}/set_effects.parquet": "set_effects",
        f"{ABLATION}/set_verification.parquet": "set_verification",
        f"{ABLATION}/temperature.parquet": "temperature",
        f"{ABLATION}/calibration.parquet": "calibration",
        f"{ABLATION}/reliability.parquet": "reliability",
        f"{ABLATION}/dose_response.parquet": "dose_response",
        f"{ABLATION}/reference_kl.parquet": "reference_kl",
        f"{INDUCTION}/synthetic/repeats.parquet": "repeats",
        f"{INDUCTION}/natural/repeats.parquet": "repeats",
        f"{INDUCTION}/synthetic/profile.parquet": "induction_profile",
        f"{INDUCTION}/natural/scores.parquet": "induction_scores",
        f"{INDUCTION}/synthetic/ablation.parquet": "induction_ablation",
        f"{INDUCTION}/natural/tests.parquet": "induction_tests",
        f"{INDUCTION}/heads.parquet": "induction_heads",
        f"{INDUCTION}/head_ablation.parquet": "head_ablation",
        f"{INDUCTION}/head_neurons.parquet": "head_neurons",
        f"{INDUCTION}/head_verification.parquet": "head_verification",
        f"{TEXT}/survey/both/neurons.parquet": "survey_neurons",
        f"{TEXT}/layers/interventions.parquet": "interventions",
        f"{TEXT}/layers/intervention_verification.parquet": "intervention_verification",
        f"{TEXT}/layers/lens.parquet": "lens",
        f"{TEXT}/layers/local_attention.parquet": "local_attention",
        f"{TEXT}/layers/stages.parquet": "stages",
        "results/tiny/weights/vocabulary_counts.parquet": "vocabulary_counts",
        "results/comparison/both/summary.parquet": "comparison_summary",
        "results/comparison/both/spectra.parquet": "comparison_spectra",
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


def test_the_proofs_of_joint_ablation_and_of_heads_are_in_the_run(finished):
    sets = read_table(finished.directory / f"{ABLATION}/set_verification.parquet", "set_verification")
    assert sets["passed"].all()
    assert set(sets["tier"]) == {"readout", "forward"}
    heads = read_table(finished.directory / f"{INDUCTION}/head_verification.parquet", "head_verification")
    assert heads["passed"].all()
    assert set(heads["method"]) == {"bos", "mean"}


def test_the_lens_of_the_last_layer_is_the_model_and_a_deleted_last_block_is_the_lens_before_it(finished):
    lens = read_table(finished.directory / f"{TEXT}/layers/lens.parquet", "lens").sort("layer")
    changed = read_table(finished.directory / f"{TEXT}/layers/interventions.parquet", "interventions")
    deleted = changed.filter(intervention="delete").sort("layer")
    assert lens["kl"][-1] == pytest.approx(0, abs=1e-6)
    assert deleted["kl"][-1] == pytest.approx(lens["kl"][-2], rel=1e-4)
    assert deleted["n_tokens"][0] == lens["n_tokens"][0]


def test_the_proof_of_changed_layers_is_in_the_run(finished):
    proof = read_table(
        finished.directory / f"{TEXT}/layers/intervention_verification.parquet", "intervention_verification"
    )
    assert proof["passed"].all()
    assert set(proof["intervention"]) >= {"delete", "mean", "swap"}


def test_a_set_of_one_has_the_effects_of_its_neuron(finished):
    """The joint rule and the single-neuron rule meet where a set holds one neuron."""
    sets = read_table(finished.directory / f"{ABLATION}/set_effects.parquet", "set_effects").filter(kind="single")
    effects = read_table(finished.directory / f"{ABLATION}/effects.parquet", "effects")
    both = sets.with_columns(neuron=pl.col("set").str.split(".").list.last().cast(pl.Int32)).join(
        effects, on=["replacement", "neuron"], suffix="_alone"
    )
    assert len(both) == len(sets) > 0
    for name in ("te_loss", "de_entropy", "indirect_kl", "prediction_change"):
        assert (both[name] - both[f"{name}_alone"]).abs().max() < 1e-7


def test_a_model_compared_with_itself_differs_in_nothing(finished):
    neurons = read_table(finished.directory / "results/comparison/both/neurons.parquet", "comparison_neurons")
    tiny, twin = (neurons.filter(model=name).drop("model") for name in ("tiny", "twin"))
    assert len(tiny) > 0
    assert tiny.equals(twin)


def test_a_second_run_does_nothing_and_quickly(finished):
    started = time.monotonic()
    assert "Nothing to be done" in finished.run(cold=True)
    assert time.monotonic() - started < 10


def test_one_figure_needs_no_more_than_it_shows(project):
    figure = "results/tiny/weights/figures/norm_logitvar.svg"
    project.run(figure, cold=True)
    assert (project.directory / figure).stat().st_size > 1000
    assert not (project.directory / TEXT).exists()


def test_batches_add_up(project):
    config = project.config()
    config["confidence_regulation"]["texts"] = []
    config["comparisons"] = {}
    for study in ("context_copying", "stages_of_inference"):
        config[study]["models"] = []
    project.configure(config)
    figures = project.directory / "results/tiny/weights/figures"
    project.run("all", "--batch", "all=1/2", warm=True)
    first = {path.name for path in figures.iterdir()}
    project.run("all", "--batch", "all=2/2", warm=True)
    assert first < {path.name for path in figures.iterdir()} == {"norm_logitvar.svg", "singular_values.svg"}
    assert project.planned() == {}


def test_a_truncated_shard_is_named(finished, tmp_path):
    project = copy_project(finished, tmp_path / "copy")
    shard = project.directory / ABLATION / "shards" / "1.parquet"
    shard.write_bytes(shard.read_bytes()[:-50])
    output = project.run(f"{ABLATION}/effects.parquet", ok=False, warm=True)
    assert f"{ABLATION}/shards/1.parquet: not a readable Parquet file" in output
    assert "delete it" in output
    shard.unlink()
    project.run(f"{ABLATION}/effects.parquet", warm=True)
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
    not_in_this_run |= {"fetch_facts", "compare_published_copying"}
    unmade = {rule for rule, pattern in patterns if not any(pattern.match(path) for path in made)}
    assert unmade - {"every rule"} == not_in_this_run
