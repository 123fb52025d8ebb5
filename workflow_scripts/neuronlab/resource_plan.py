"""Memory and time of a model job, planned from the sizes of its model and text: arithmetic alone, no torch.

`plan` adds up what a job of some kind holds at its peak (`resource_memory`) and what it computes (`resource_time`);
every term says what it is. Costs per unit of work come from `benchmarks/scale.py` on one CPU thread, where they were
measured, and from memory bandwidth and arithmetic throughput for GPUs, where they are estimates; both are multiplied by
`SAFETY`. With GPUs the weights and all blocks that effects are computed on are there; the host holds the weights while
they are loaded, and the tables.

The plan is what a job needs, not what it gets: the configuration's floors come on top (`compute.memory_mb`,
`compute.runtime_minutes`), and both grow with each attempt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from neuronlab.resource_load import COPYING, FLOAT64, KINDS, WITHOUT_MODEL, Load
from neuronlab.resource_memory import CUDA_CONTEXT, MIB, PYTHON, SNAKEMAKE, memory_terms, table_terms
from neuronlab.resource_time import time_terms

SAFETY = 1.3  # on memory and time, for what the terms leave out: allocators, fragmentation, machines unlike ours


@dataclass(frozen=True)
class Plan:
    """What a job asks for, rounded up.

    Attributes:
        memory_mb: of the host.
        gpu_memory_mb: of its GPU; 0 without one.
        minutes: wall time.
    """

    memory_mb: int
    gpu_memory_mb: int
    minutes: int


def plan(kind: str, load: Load, *, float64_limit_mb: float = math.inf) -> Plan:
    """Memory and time of a job of some kind, without the configuration's floors.

    Args:
        kind: a key of `KINDS`.
        float64_limit_mb: what the job may take for the model and its float64 copy together (`compute.float64_mb`):
            beyond it there is no copy (see `precise_copies.fits_twice`), and none is planned.

    Raises:
        ValueError: for a kind that does not exist.
    """
    if kind not in KINDS:
        raise ValueError(f"no jobs of kind '{kind}'; there are {', '.join(KINDS)}")
    on_gpu = load.gpus > 0 and kind not in WITHOUT_MODEL
    copied = kind in COPYING and load.parameters * (load.bytes_per_weight + FLOAT64) <= float64_limit_mb * MIB
    device = sum(memory_terms(kind, load, copied).values())
    # On their way to a GPU, weights are on the host: the model's, later its copy's.
    loading = load.parameters * (FLOAT64 if copied else load.bytes_per_weight)
    host = sum(table_terms(kind, load).values()) + (loading if on_gpu else device)
    return Plan(
        memory_mb=_rounded(SAFETY * host / MIB, 100),
        gpu_memory_mb=_rounded((CUDA_CONTEXT + SAFETY * device) / MIB, 100) if on_gpu else 0,
        minutes=_rounded(SAFETY * sum(time_terms(kind, load, copied).values()) / 60, 5),
    )


def _rounded(value: float, step: int) -> int:
    return step * math.ceil(value / step)


def together(plans: Sequence[Plan]) -> Plan:
    """A job that does the work of several: what they hold adds up but for the libraries, and so does their time."""
    more = len(plans) - 1
    on_gpu = sum(each.gpu_memory_mb > 0 for each in plans)
    return Plan(
        memory_mb=sum(each.memory_mb for each in plans) - more * int(SAFETY * (PYTHON + SNAKEMAKE) / MIB),
        gpu_memory_mb=sum(each.gpu_memory_mb for each in plans) - max(0, on_gpu - 1) * CUDA_CONTEXT // MIB,
        minutes=sum(each.minutes for each in plans),
    )


if __name__ == "__main__":
    from neuronlab.resource_table import planning_tables

    print(planning_tables(), end="")
