"""How time and memory grow: sequences, neurons, vocabulary, width and layers doubled in turn, and the plan for each.

    python benchmarks/scale.py [--quick] [--json FILE]

Random Llamas, one thread. From a base, one size at a time is doubled, twice (width and depth once; all once with
--quick). Stages, as the rules call them, on a loaded model:

* load: the model from its files;
* weights: norms, singular directions, vocabulary moments and null space of every neuron of every layer;
* passes: a forward pass over all sequences, last-layer states kept;
* ablation: effects of every last-layer neuron at every token, all four variants, one replacement;
* layers: every layer deleted, from cached residuals, with its read-out;
* decoding: greedy continuations under 48 variants, and every variant's entropy.

For every stage the table shows processor seconds, the largest resident memory above that of the process without a
model, each with what `neuronlab.resource_plan` expects, without margins and floors, divided by it. The run fails where
that ratio lies outside the bounds below. The exponent of a size is the slope of log(cost) from base to largest: 1 where
the cost doubles with it, less where other costs show beside.
"""

# ruff: noqa: E402 (threads are fixed before the libraries are loaded)

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import ctypes
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow_scripts"))

import numpy as np
import torch
from neuronlab.ablation_shards import shard_sums
from neuronlab.conflict_states import prompt_entropies
from neuronlab.decoding import decode_variants
from neuronlab.final_states import Setup, Text
from neuronlab.interventions import changes_of
from neuronlab.kernels.interface import Reference
from neuronlab.last_layers import last_layer_of
from neuronlab.layer_passes import LayerPasses
from neuronlab.layer_plan import plan_interventions
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.replacements import ActivationStatistics, parse_replacements
from neuronlab.resource_plan import PYTHON, SNAKEMAKE, Load, memory_terms, table_terms, time_terms
from neuronlab.variant_groups import VariantGroup
from neuronlab.weights import measure_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHUNK, TILE, BATCH, VARIANTS, NEW_TOKENS = 128, 4096, 16, 48, 10
# What is planned over what is measured: the plan's costs are those of a CPU half as fast as where this was written, and
# stages of hundredths of a second are mostly overhead.
TIME_BOUNDS, MEMORY_BOUNDS = (0.5, 6.0), (0.75, 3.0)
STAGES = ("load", "weights", "passes", "ablation", "layers", "decoding")


@dataclass(frozen=True)
class Case:
    """Sizes of one run; `doubled` says which of them differs from the base."""

    d: int
    layers: int
    neurons: int
    vocab: int
    sequences: int
    positions: int = 32
    doubled: str = "base"

    def load(self, parameters: int) -> Load:
        """The same for the plan."""
        return Load(
            parameters=parameters,
            d_model=self.d,
            n_layers=self.layers,
            d_mlp=self.neurons,
            d_vocab=self.vocab,
            bytes_per_weight=4,
            sequences=self.sequences,
            sequence_length=self.positions,
            shards=1,
            replacements=1,
            neurons_per_tile=TILE,
            tokens_per_chunk=CHUNK,
            batch_size=BATCH,
            gpus=0,
        )


BASE = Case(d=512, layers=2, neurons=2048, vocab=16384, sequences=8)
QUICK = Case(d=256, layers=2, neurons=1024, vocab=8192, sequences=4)


def cases(base: Case, doublings: int) -> list[Case]:
    """The base, and every size doubled in turn; width and depth once, as they make the model itself grow."""
    found = [base]
    for name in ("sequences", "neurons", "vocab", "d", "layers"):
        for power in range(1, (1 if name in ("d", "layers") else doublings) + 1):
            found.append(replace(base, **{name: getattr(base, name) * 2**power}, doubled=name))
    return found


def save_model(folder: Path, case: Case) -> None:
    """A random Llama of some size, with a tokenizer of as many words."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocab,
        hidden_size=case.d,
        intermediate_size=case.neurons,
        num_hidden_layers=case.layers,
        num_attention_heads=max(1, case.d // 64),
        num_key_value_heads=max(1, case.d // 64),
        max_position_embeddings=128,
        initializer_range=1 / case.d**0.5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(case.vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w1").save_pretrained(folder)


def make_text(case: Case) -> Text:
    """Random tokens, one document for each sequence; all positions count but the first and the last."""
    generator = np.random.default_rng(0)
    shape = (case.sequences, case.positions)
    counted = np.ones(shape, dtype=bool)
    counted[:, [0, -1]] = False
    documents = np.broadcast_to(np.arange(case.sequences)[:, None], shape)
    return Text(generator.integers(2, case.vocab, shape), documents, counted)


def make_setup(model: Model, case: Case) -> Setup:
    """What a shard's rule sets up, with statistics that are zero."""
    q = torch.full((case.vocab,), 1 / case.vocab, dtype=torch.float64)
    g = torch.randn(case.vocab, dtype=torch.float64)
    g = (g - g.mean()) / (g - g.mean()).norm()
    zero = np.zeros(case.neurons)
    return Setup(
        model=model,
        last=last_layer_of(model, kernel="auto", reference=Reference(q, g)),
        text=make_text(case),
        statistics=ActivationStatistics(zero, zero, zero, zero, zero, zero, np.zeros((case.neurons, case.positions))),
        replacements=parse_replacements(["mean"]),
        donors=None,
    )


def run_weights(model: Model, case: Case) -> None:
    measure_model(model, [16], include_padded=False, neurons_per_tile=TILE, seed=0)


def run_passes(model: Model, case: Case) -> None:
    text = make_text(case)
    for start in range(0, case.sequences, BATCH):
        model.run(torch.from_numpy(text.tokens[start : start + BATCH]))


def run_ablation(model: Model, case: Case) -> None:
    setup = make_setup(model, case)
    shard_sums(setup, range(case.sequences), batch_size=BATCH, tokens_per_chunk=CHUNK, neurons_per_tile=TILE)


def run_layers(model: Model, case: Case) -> None:
    text, passes, readout = make_text(case), LayerPasses(model), model.readout()
    planned = plan_interventions(["delete"], "adjacent", case.layers, "random")
    for start in range(0, case.sequences, BATCH):
        rows = np.arange(start, min(start + BATCH, case.sequences))
        changes_of(passes, readout, text, rows, planned, CHUNK)


def run_decoding(model: Model, case: Case) -> None:
    generator = np.random.default_rng(0)
    last = last_layer_of(model, kernel="numba")
    groups = [
        VariantGroup(
            tuple(sorted(generator.choice(case.neurons, 8, replace=False).tolist())),
            np.array([2 * i + 1, 2 * i + 2]),
            generator.normal(size=(2, 8)),
        )
        for i in range(VARIANTS // 2)
    ]
    found = decode_variants(
        model,
        last,
        make_text(case).tokens.tolist(),
        groups,
        new_tokens=NEW_TOKENS,
        finished=lambda ids: False,
        batch_size=BATCH,
        tie=1e-4,
        seed=0,
    )
    prompt_entropies(last, found.root, groups, tokens_per_chunk=CHUNK, seed=0)


RUNS: dict[str, Callable[[Model, Case], None]] = {
    "weights": run_weights,
    "passes": run_passes,
    "ablation": run_ablation,
    "layers": run_layers,
    "decoding": run_decoding,
}


def expected(stage: str, load: Load, layers: int) -> tuple[float, float]:
    """Seconds and MiB that the plan has for a stage, without margins and floors."""
    kind = {"load": "weights", "passes": "forward"}.get(stage, stage)
    if stage in ("layers", "decoding"):
        load = replace(load, replacements=layers if stage == "layers" else VARIANTS)
    seconds, memory = time_terms(kind, load), memory_terms(kind, load) | table_terms(kind, load)
    model = memory["weights"] + memory["modules"]
    if stage == "load":  # checked against its read-out; the pages of its files stay in memory as long as there is room
        return seconds["load"], (2 * model + memory["read-out"] / 2) / 2**20
    if stage == "passes":
        return seconds["passes"] / 3, (model + memory["pass"]) / 2**20
    return sum(seconds.values()) - seconds["start"] - seconds["load"], (
        sum(memory.values()) - PYTHON - SNAKEMAKE
    ) / 2**20


def resident() -> float:
    """MiB that the process holds, after everything that is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak(function: Callable[[], object]) -> tuple[object, float, float]:
    """What a function returns, the processor seconds that it takes, and the largest resident memory (MiB) meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest so far
    start = time.process_time()
    found = function()
    seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text().splitlines()
    return found, seconds, int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


@dataclass(frozen=True)
class Row:
    """One stage of one case: measured, and what the plan has for it."""

    doubled: str
    size: int
    stage: str
    seconds: float
    mib: float
    planned_seconds: float
    planned_mib: float


def measure(case: Case, folder: Path) -> list[Row]:
    """All stages of one case."""
    save_model(folder, case)
    before = resident()
    spec = ModelSpec("random", "directory", path=str(folder), device="cpu")
    model, seconds, most = peak(lambda: load_model(spec))
    assert isinstance(model, Model)
    load = case.load(sum(p.numel() for p in model.bridge.original_model.parameters()))
    size = 0 if case.doubled == "base" else getattr(case, case.doubled)
    rows = []
    for stage in STAGES:
        if stage != "load":
            resident()
            _, seconds, most = peak(lambda run=RUNS[stage]: run(model, case))
        rows.append(Row(case.doubled, size, stage, seconds, most - before, *expected(stage, load, case.layers)))
    return rows


def report(rows: list[Row], base: Case) -> None:
    """The growth table, and how far the plan is from what was measured."""
    print(f"base: {base}")
    heads = f"{'seconds':>8} {'planned/measured':>17} {'MiB':>8} {'planned/measured':>17}"
    print(f"{'size':10} {'value':>6}  {'stage':9} {heads}")
    for row in rows:
        print(
            f"{row.doubled:10} {row.size or '':>6}  {row.stage:9} "
            f"{row.seconds:8.2f} {row.planned_seconds / row.seconds:17.2f} "
            f"{row.mib:8.0f} {row.planned_mib / row.mib:17.2f}"
        )
    print("\nexponents, time / memory")
    print(f"{'size':10}" + "".join(f"{stage:>14}" for stage in STAGES))
    for name in dict.fromkeys(row.doubled for row in rows if row.doubled != "base"):
        cells = []
        for stage in STAGES:
            first = next(row for row in rows if row.doubled == "base" and row.stage == stage)
            largest = max((r for r in rows if r.doubled == name and r.stage == stage), key=lambda r: r.size)
            growth = math.log2(largest.size / getattr(base, name))
            time_slope = math.log2(largest.seconds / first.seconds) / growth
            cells.append(f"{time_slope:6.2f} /{math.log2(largest.mib / first.mib) / growth:6.2f}")
        print(f"{name:10}" + "".join(f"{cell:>14}" for cell in cells))


def outside(rows: list[Row]) -> int:
    """How many rows the plan misses by more than the bounds allow; prints the range."""
    found = 0
    for name, bounds, ratios in (
        ("time", TIME_BOUNDS, [row.planned_seconds / row.seconds for row in rows]),
        ("memory", MEMORY_BOUNDS, [row.planned_mib / row.mib for row in rows]),
    ):
        found += sum(not bounds[0] <= ratio <= bounds[1] for ratio in ratios)
        print(f"planned/measured {name}: {min(ratios):.2f} to {max(ratios):.2f}, allowed {bounds[0]} to {bounds[1]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller, and every size doubled once")
    parser.add_argument("--json", type=Path, help="write all rows there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = QUICK if arguments.quick else BASE
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        # Compilation, caches and libraries: before anything is measured.
        measure(replace(QUICK, neurons=64, vocab=512, sequences=2), Path(scratch) / "first")
        for number, case in enumerate(cases(base, 1 if arguments.quick else 2)):
            rows += measure(case, Path(scratch) / str(number))
            print(f"{case.doubled} {rows[-1].size}", file=sys.stderr)
    report(rows, base)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(outside(rows) > 0)


if __name__ == "__main__":
    sys.exit(main())
