"""A small made-up text for the tiny models: two documents in a sequence, marks between them, gaps in what counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from neuronlab.tables import write_table

SEQUENCES, LENGTH = 6, 20
EOS = 1


def depth_text(*, bos: bool = True, seed: int = 0) -> pl.DataFrame:
    """The table "tokens": six sequences of 20 tokens, the third of which counts nowhere.

    A document ends within every sequence, with an EOS, and goes on or another begins. A few positions early in a
    sequence count, some in the middle do not.
    """
    generator = np.random.default_rng(seed)
    tokens = generator.integers(2, 196, (SEQUENCES, LENGTH))
    documents = np.repeat(np.arange(SEQUENCES)[:, None], LENGTH, axis=1)
    counted = generator.random((SEQUENCES, LENGTH)) < 0.8
    for sequence, border in enumerate(generator.integers(6, 14, SEQUENCES)):
        documents[sequence, border + 1 :] += 1
        tokens[sequence, border] = EOS
        counted[sequence, border - 1 : border + 1] = False
    counted[:, 1] = True
    counted[:, -1] = False
    counted[2] = False
    if bos:
        tokens[:, 0], documents[:, 0], counted[:, 0] = 0, -1, False
    columns = {"tokens": tokens.tolist(), "documents": documents.tolist(), "counted": counted.tolist()}
    return pl.DataFrame({"sequence": range(SEQUENCES)} | columns)


def write_depth_text(path: Path, *, bos: bool = True, seed: int = 0) -> Path:
    """`depth_text` as a file."""
    write_table(depth_text(bos=bos, seed=seed), path, "tokens")
    return path
