"""Tables that the ablation rules read, for tiny models: a text of random tokens and its counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from neuronlab.tables import write_table

POSITIONS, SEQUENCES, VOCAB, REAL = 24, 6, 200, 196


def counts_frame(vocab: int = VOCAB, real: int = REAL) -> pl.DataFrame:
    """Zipfian counts; the last ids only pad the vocabulary."""
    count = np.random.default_rng(0).zipf(1.5, vocab) * 50
    count[real:] = 0
    return pl.DataFrame({"token": np.arange(vocab), "count": count, "real": np.arange(vocab) < real})


def token_ids(seed: int = 0, sequences: int = SEQUENCES) -> np.ndarray:
    """Random ids [sequences, positions], none of them BOS or EOS."""
    return np.random.default_rng(seed).integers(2, REAL, (sequences, POSITIONS))


def write_text(folder: Path) -> None:
    """tokens.parquet and counts.parquet: a sequence without a counted position, a document over two sequences."""
    ids = token_ids(3)
    counted = np.zeros(ids.shape, dtype=bool)
    counted[:, 3:-1] = True
    counted[4] = False
    counted[2, 10] = False
    documents = np.repeat([[0], [0], [1], [1], [2], [3]], POSITIONS, axis=1)
    documents[1, 12:] = 1
    frame = pl.DataFrame(
        {
            "sequence": range(SEQUENCES),
            "tokens": ids.tolist(),
            "documents": documents.tolist(),
            "counted": counted.tolist(),
        }
    )
    write_table(frame, folder / "tokens.parquet", "tokens")
    write_table(counts_frame(), folder / "counts.parquet", "token_counts")
