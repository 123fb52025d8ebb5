"""Plans grow with every size, cover what real jobs took, and lie where sums by hand put them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.resource_memory import table_terms
from neuronlab.resource_plan import COPYING, KINDS, SAFETY, Load, Plan, memory_terms, plan, time_terms, together
from neuronlab.resource_table import planning_tables

DEMO = Load(
    parameters=1_600_000,
    d_model=128,
    n_layers=2,
    d_mlp=1024,
    d_vocab=1187,
    bytes_per_weight=4,
    sequences=160,
    sequence_length=128,
    shards=2,
    replacements=2,
    neurons_per_tile=4096,
    tokens_per_chunk=128,
    batch_size=16,
    gpus=0,
)
GPT2 = replace(DEMO, parameters=124_439_808, d_model=768, n_layers=12, d_mlp=3072, d_vocab=50257, sequence_length=256)
LLAMA_8B = replace(
    GPT2, parameters=8_030_261_248, d_model=4096, n_layers=32, d_mlp=14336, d_vocab=128256, bytes_per_weight=2, gpus=1
)
LLAMA_70B = replace(LLAMA_8B, parameters=70_553_706_496, d_model=8192, n_layers=80, d_mlp=28672)
GIB = 2**30

SIZES = st.builds(
    Load,
    parameters=st.integers(10**6, 10**11),
    d_model=st.integers(64, 8192),
    n_layers=st.integers(1, 100),
    d_mlp=st.integers(64, 30000),
    d_vocab=st.integers(100, 260000),
    bytes_per_weight=st.sampled_from([2, 4]),
    sequences=st.integers(1, 10000),
    sequence_length=st.integers(8, 4096),
    shards=st.integers(1, 64),
    replacements=st.integers(1, 1000),
    neurons_per_tile=st.integers(64, 8192),
    tokens_per_chunk=st.integers(1, 512),
    batch_size=st.integers(1, 64),
    gpus=st.integers(0, 1),
    most_tokens=st.one_of(st.none(), st.integers(1, 10**6)),
)
GROWING = (
    "parameters",
    "d_model",
    "n_layers",
    "d_mlp",
    "d_vocab",
    "sequences",
    "sequence_length",
    "replacements",
    "batch_size",
)


def numbers(found: Plan) -> tuple[int, int, int]:
    return found.memory_mb, found.gpu_memory_mb, found.minutes


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(load=SIZES, name=st.sampled_from(GROWING), factor=st.integers(2, 5))
def test_no_size_makes_a_plan_smaller(kind: str, load: Load, name: str, factor: int) -> None:
    """But for two that save work: larger batches make U anew less often, and wider models need fewer random spectra."""
    larger = plan(kind, replace(load, **{name: factor * getattr(load, name)}))
    smaller = plan(kind, load)
    assert larger.memory_mb >= smaller.memory_mb
    assert larger.gpu_memory_mb >= smaller.gpu_memory_mb
    if name not in ("batch_size", "d_model"):
        assert larger.minutes >= smaller.minutes


@settings(max_examples=60, deadline=None)
@given(load=SIZES, factor=st.integers(2, 5))
def test_shards_and_threads_divide_the_work(load: Load, factor: int) -> None:
    more = plan("ablation", replace(load, shards=factor * load.shards))
    assert all(a <= b for a, b in zip(numbers(more), numbers(plan("ablation", load)), strict=True))
    faster = plan("ablation", replace(load, threads=factor, gpus=0))
    assert faster.minutes <= plan("ablation", replace(load, gpus=0)).minutes


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(load=SIZES)
def test_plans_are_rounded_up_and_terms_are_not_negative(kind: str, load: Load) -> None:
    found = plan(kind, load)
    assert found.memory_mb % 100 == found.gpu_memory_mb % 100 == found.minutes % 5 == 0
    assert found.memory_mb > 0
    assert found.minutes > 0
    assert (found.gpu_memory_mb > 0) == (load.gpus > 0 and kind not in ("tables", "traces"))
    assert all(term >= 0 for term in (*memory_terms(kind, load).values(), *time_terms(kind, load).values()))


# Largest resident memory (MB) and wall seconds of jobs of the demo, as their benchmark files have them, on two busy
# cores. Snakemake looks at a process now and then: the largest of two runs is taken.
MEASURED = {
    "measure_neurons": ("weights", 593, 9),
    "measure_frequency_cosine": ("weights", 451, 23),
    "measure_activations": ("forward", 777, 31),
    "answer_queries": ("answers", 619, 6),
    "measure_induction": ("forward", 774, 21),
    "ablate_neurons": ("ablation", 973, 69),
    "survey_model": ("ablation", 866, 46),
    "trace_neurons": ("chosen", 2358, 42),
    "ablate_sets": ("sets", 906, 57),
    "clamp_neurons": ("chosen", 810, 33),
    "select_token_frequency": ("frequency", 1104, 41),
    "ablate_induction": ("chosen", 1029, 88),
    "decode_conflicts": ("decoding", 771, 29),
    "ablate_heads": ("heads", 796, 22),
    "verify_ablation": ("float64", 707, 28),
    "verify_decoding": ("float64", 662, 49),
    "summarize_effects": ("tables", 1184, 22),
    "draw_total_direct": ("traces", 1577, 12),
}


@pytest.mark.parametrize("rule", MEASURED)
def test_plans_cover_what_jobs_of_the_demo_took(rule: str) -> None:
    kind, memory_mb, seconds = MEASURED[rule]
    found = plan(kind, replace(DEMO, replacements=200) if kind == "decoding" else DEMO)
    assert memory_mb <= found.memory_mb <= 6 * memory_mb
    assert seconds / 60 <= found.minutes <= 15


def test_an_ablation_of_gpt2_by_hand() -> None:
    """Weights 0.5 GB, read-out 0.3, U 3072 x 50257 x 4 = 0.6, chunk 128 x 50257 x 76 = 0.5 and effects 0.2, sums."""
    found = plan("ablation", replace(GPT2, sequences=100, replacements=1))
    assert 2.5 * 1024 < found.memory_mb < 7 * 1024
    # 50 x 256 tokens x 3072 neurons x 50257 ids at 0.6 to 1.2 ns: 20 to 40 minutes, and the margin.
    assert 20 <= found.minutes <= 60


def test_a_shard_of_an_8b_model_on_a_gpu_by_hand() -> None:
    """Weights 16.1 GB, read-out 2.1, U of a tile 4096 x 128256 x 4 = 2.1, kernel 4.3, last layer 1.4, chunk 1.3."""
    memory = memory_terms("ablation", LLAMA_8B)
    assert memory["weights"] == 2 * LLAMA_8B.parameters
    assert 4096 * 128256 * 4 < memory["U"] < 3 * GIB
    found = plan("ablation", LLAMA_8B)
    assert 28 * 1024 < found.gpu_memory_mb < 45 * 1024  # one card of 48 or 80 GB
    # The host holds the weights while they are loaded.
    assert 16 * 1024 < found.memory_mb < 30 * 1024
    seconds = time_terms("ablation", LLAMA_8B)
    # 80 x 256 tokens x 14336 neurons x 128256 ids x 700 bytes, twice, at 1 TB/s.
    assert seconds["kernel"] == pytest.approx(2 * 20480 * 14336 * 128256 * 700 / 1e12)
    # A pass is 2 x 8e9 x 20480 operations: seconds; U, five times over, minutes at most.
    assert seconds["passes"] < 60
    assert seconds["U"] < 0.1 * seconds["kernel"]


def test_a_model_of_70b_fits_no_single_card() -> None:
    assert plan("forward", LLAMA_70B).gpu_memory_mb > 141 * 1024
    # U in tiles: 2 GB instead of 28672 x 128256 x 4 = 14.7 GB.
    assert memory_terms("ablation", LLAMA_70B)["U"] < 4 * GIB
    whole = memory_terms("ablation", replace(LLAMA_70B, neurons_per_tile=28672))
    assert whole["U"] > 28672 * 128256 * 4


@pytest.mark.parametrize("kind", COPYING)
def test_a_float64_copy_is_planned_where_it_fits_alone(kind: str) -> None:
    both = GPT2.parameters * 12 / 2**20
    with_copy, without = plan(kind, GPT2), plan(kind, GPT2, float64_limit_mb=both - 1)
    assert plan(kind, GPT2, float64_limit_mb=both + 1) == with_copy
    assert with_copy.memory_mb - without.memory_mb >= SAFETY * GPT2.parameters * 8 / 2**20 - 100


def test_a_float64_copy_passes_through_the_host_on_its_way_to_a_gpu() -> None:
    load = replace(GPT2, gpus=1)
    with_copy, without = plan("heads", load), plan("heads", load, float64_limit_mb=0)
    assert with_copy.memory_mb - without.memory_mb >= SAFETY * load.parameters * 4 / 2**20 - 100


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(COPYING)))
def test_no_copy_is_planned_for_jobs_that_make_none(kind: str) -> None:
    assert plan(kind, GPT2) == plan(kind, GPT2, float64_limit_mb=0)


def test_two_models_in_one_job_add_up() -> None:
    one, other = (plan("forward", replace(load, gpus=1)) for load in (GPT2, LLAMA_8B))
    both = together([one, other])
    assert together([one]) == one
    assert max(one.memory_mb, other.memory_mb) < both.memory_mb < one.memory_mb + other.memory_mb
    # Both models' weights, and the libraries once.
    weights = sum(load.parameters * load.bytes_per_weight for load in (GPT2, LLAMA_8B)) / 2**20
    assert weights + 1300 < both.memory_mb
    assert other.gpu_memory_mb < both.gpu_memory_mb == one.gpu_memory_mb + other.gpu_memory_mb - 1024
    assert both.minutes == one.minutes + other.minutes


def test_cheap_jobs_are_planned_as_such() -> None:
    """One answer to a fact, not three prompts under hundreds of variants; one pass, not one for every change."""
    facts = replace(GPT2, sequences=5000, sequence_length=32, shards=1)
    conflicts = replace(facts, sequences=15_000, replacements=500)
    # Prompts of 32 tokens and ten new ones, against ten continuations of ten.
    ratio = time_terms("answers", facts)["passes"] / time_terms("decoding", conflicts)["passes"]
    assert ratio == pytest.approx(5000 * (32 + 10) / (15_000 * (32 + 100)))
    assert plan("answers", facts).minutes < plan("decoding", conflicts).minutes / 5
    changed = replace(GPT2, shards=1, replacements=36)
    lens, layers = time_terms("lens", changed), time_terms("layers", changed)
    assert layers["passes"] == pytest.approx(20 * lens["passes"])
    assert layers["read-out"] == pytest.approx(37 / 13 * lens["read-out"])
    # Every head of GPT-2, both methods, on 32 sequences: half of the layers each, so 144 passes over them.
    heads = time_terms("heads", replace(GPT2, shards=1, sequences=32, replacements=40))
    assert heads["passes"] == pytest.approx(42 / 144 * heads["every head"])


def test_traces_of_a_long_text_are_planned_as_bounded() -> None:
    """50,000 tokens x 120 neurons x 240 bytes, three copies: 4.3 GB; a million of them would take 86."""
    long = replace(GPT2, sequences=1000, sequence_length=1024)
    bounded = replace(long, most_tokens=50_000)
    for kind in ("traces", "chosen"):
        assert table_terms(kind, long)["traces"] == 3 * 240 * 120 * 1_024_000
        assert table_terms(kind, bounded)["traces"] == 3 * 240 * 120 * 50_000
    assert plan("traces", bounded).memory_mb < 1.3 * (4.4 * 1000 + 900)
    assert time_terms("traces", bounded)["reading"] == pytest.approx(time_terms("traces", long)["reading"] * 50 / 1024)
    short = replace(GPT2, sequences=100)
    assert all(plan(kind, replace(short, most_tokens=50_000)) == plan(kind, short) for kind in KINDS)
    # Residuals of GPT-2's 768 numbers, for a sample of the tokens or for all.
    states = memory_terms("sets", long)["states"]
    assert 4 * 768 * 1_024_000 < states < 12 * 1_024_000 * 768
    assert memory_terms("sets", bounded)["states"] == states * 50_000 // 1_024_000


def test_the_choice_of_token_frequency_neurons_by_hand() -> None:
    """64 shards of 1,024 documents, N 28,672: three sums of all are 0.7 GB, held twice; a shard, 29 MB, twice."""
    load = replace(LLAMA_70B, sequences=1024, sequence_length=199, shards=64, replacements=1)
    found = table_terms("frequency", load)
    assert found["sums"] == 2 * 1024 * 28672 * 3 * 8
    assert found["shard"] == 2 * 16 * 28672 * 64
    twice = table_terms("frequency", replace(load, sequences=10 * 1024))["sums"]
    assert twice == 2 * 2 * GIB  # some neurons at a time
    # A tile of the bootstrap is the least.
    assert table_terms("frequency", replace(load, sequences=1000 * 1024))["sums"] == 2 * 1024_000 * 4096 * 3 * 8
    # The model's part does not depend on the shards, and reads the whole text.
    assert memory_terms("frequency", load) == memory_terms("frequency", replace(load, shards=1))
    # Two halves of 1,024 tokens, 128 candidates, 99 directions and the log-unigram one.
    seconds = time_terms("frequency", replace(load, pairs=2 * 1024 * 128 * 100, gpus=0))
    assert seconds["kernel"] == pytest.approx(2 * 1024 * 128 * 100 * 128256 * 1.2e-9)
    assert seconds["passes"] == time_terms("lens", replace(load, shards=1, gpus=0))["passes"]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no jobs of kind 'dreams'"):
        plan("dreams", DEMO)


def test_the_document_has_the_tables_as_they_are() -> None:
    document = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = document.split("<!-- tables: begin -->\n")[1].split("<!-- tables: end -->")[0]
    assert shown == planning_tables(), "run `python -m neuronlab.resource_plan` and put its output into docs/scale.md"


def test_the_program_prints_them() -> None:
    scripts = Path(__file__).parents[2] / "workflow_scripts"
    command = [sys.executable, "-m", "neuronlab.resource_plan"]
    printed = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True).stdout
    assert printed == planning_tables()
