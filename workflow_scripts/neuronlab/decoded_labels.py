"""Labels and entropies of every prompt under every variant, gathered from the shards of the decoding.

There are prompts x variants of them, millions: they are read in batches into two matrices, labels as small integers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64, Int8, Int32
from tqdm import tqdm

from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import iterate_table

Array = np.ndarray
ROWS_PER_BATCH = 1 << 19  # rows of a shard that are held as a frame at a time
NOT_YET = -1  # label of a (prompt, variant) pair that no shard has named so far


class DecodedError(ValueError):
    """Shards that do not hold every conflict prompt once under every variant."""


@dataclass(frozen=True)
class Decoded:
    """What the decoding found; variants first, so that one variant's prompts lie side by side.

    Attributes:
        labels: places in `LABELS`.
        entropy: at the prompt's end (nats).
        continuation: number of the prompt's continuation.
    """

    labels: Int8[Array, "variants prompts"]
    entropy: Float64[Array, "variants prompts"]
    continuation: Int32[Array, "variants prompts"]


def read_decoded(paths: Sequence[str | Path], n_prompts: int, n_variants: int) -> Decoded:
    """Gather all shards.

    Args:
        paths: tables "decoded"; shard i of n holds prompts i, i + n, ...

    Raises:
        DecodedError: a prompt, variant or label that does not exist; a pair that is missing or there twice.
        TableError: a table that is not what it should be.
    """
    shape = (n_variants, n_prompts)
    found = Decoded(np.full(shape, NOT_YET, np.int8), np.zeros(shape), np.zeros(shape, np.int32))
    code = {label: place for place, label in enumerate(LABELS)}
    rows = 0
    for path in tqdm(paths, desc="decoded", unit="shard", file=sys.stderr):
        for batch in iterate_table(path, "decoded", ROWS_PER_BATCH):
            prompt, variant = batch["prompt"].to_numpy(), batch["variant"].to_numpy()
            for name, numbers, end in (("prompt", prompt, n_prompts), ("variant", variant, n_variants)):
                unknown = numbers[(numbers < 0) | (numbers >= end)]
                if len(unknown):
                    raise DecodedError(f"{path}: no {name} {unknown[0]} (there are {end}); {_AGAIN}")
            label = batch["label"].replace_strict(code, default=None, return_dtype=pl.Int8)
            if label.null_count():
                wrong = batch["label"].filter(label.is_null())[0]
                raise DecodedError(f"{path}: label '{wrong}' is none of {', '.join(LABELS)}; {_AGAIN}")
            place = variant.astype(np.int64) * n_prompts + prompt
            found.labels.reshape(-1)[place] = label.to_numpy()
            found.entropy.reshape(-1)[place] = batch["entropy"].to_numpy()
            found.continuation.reshape(-1)[place] = batch["continuation"].to_numpy()
            rows += len(batch)
        if np.count_nonzero(found.labels != NOT_YET) < rows:
            raise DecodedError(f"{path}: prompts that are there twice, here or in a shard before; {_AGAIN}")
    missing = np.argwhere(found.labels.T == NOT_YET)
    if len(missing):
        prompt, variant = missing[0]
        where = paths[prompt % len(paths)] if paths else "no shard"
        raise DecodedError(
            f"{where}: prompt {prompt} lacks variant {variant}, and {len(missing) - 1} more pairs are missing; {_AGAIN}"
        )
    return found


_AGAIN = (
    "conflicts, variants and shards belong to different runs: delete the shards, and decode_conflicts makes them anew"
)
