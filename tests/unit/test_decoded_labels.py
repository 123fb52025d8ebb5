"""Gathering shards: matrices as decoded, and errors that name the shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fake_copying import World
from neuronlab import decoded_labels
from neuronlab.decoded_labels import DecodedError, read_decoded
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import TableError, write_table

WORLD = World(n_facts=5, uniform=2, norm_matched=0, synthetic=0, doses=0, shards=3)
SIZES = WORLD.n_prompts, len(WORLD.variants)


def write(folder: Path, frames: list[pl.DataFrame]) -> list[Path]:
    paths = [folder / f"{place}.parquet" for place in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        write_table(frame, path, "decoded")
    return paths


def shards() -> list[pl.DataFrame]:
    return [WORLD.decoded.filter(pl.col("prompt") % 3 == shard) for shard in range(3)]


def test_matrices_hold_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_labels, "ROWS_PER_BATCH", 7)  # pieces that do not end where prompts do
    shuffled = [frame.sample(fraction=1, shuffle=True, seed=1) for frame in shards()]
    found = read_decoded(write(tmp_path, shuffled), *SIZES)
    for row in WORLD.decoded.iter_rows(named=True):
        place = row["variant"], row["prompt"]
        assert LABELS[found.labels[place]] == row["label"]
        assert found.entropy[place] == row["entropy"]
        assert found.continuation[place] == row["continuation"]


def test_shards_without_prompts(tmp_path: Path) -> None:
    found = read_decoded(write(tmp_path, [*shards(), WORLD.decoded.clear()]), *SIZES)
    assert found.labels.min() >= 0
    nothing = read_decoded(write(tmp_path, [WORLD.decoded.clear()]), 0, 4)
    assert nothing.labels.shape == (4, 0)


def test_missing_prompt_names_its_shard(tmp_path: Path) -> None:
    frames = shards()
    frames[1] = frames[1].filter(pl.col("prompt") != 4)
    paths = write(tmp_path, frames)
    with pytest.raises(DecodedError, match=rf"{paths[1]}: prompt 4 lacks variant 0.*decode_conflicts"):
        read_decoded(paths, *SIZES)


@pytest.mark.parametrize("again", [0, 2])
def test_prompt_that_is_there_twice_names_the_shard(tmp_path: Path, again: int) -> None:
    frames = shards()
    frames[2] = pl.concat([frames[2], frames[again].head(1)])
    paths = write(tmp_path, frames)
    with pytest.raises(DecodedError, match=rf"{paths[2]}: prompts that are there twice"):
        read_decoded(paths, *SIZES)


def test_row_that_takes_the_place_of_another_is_found(tmp_path: Path) -> None:
    """As many rows as there should be, but one prompt twice and another never."""
    frames = shards()
    frames[0] = pl.concat([frames[0].head(len(frames[0]) - 1), frames[0].head(1)])
    paths = write(tmp_path, frames)
    with pytest.raises(DecodedError, match=str(paths[0])):
        read_decoded(paths, *SIZES)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("prompt", 99, "no prompt 99"),
        ("variant", -1, "no variant -1"),
        ("variant", 500, "no variant 500"),
        ("label", "XX", "label 'XX'"),
    ],
)
def test_foreign_rows_are_refused(tmp_path: Path, column: str, value: object, message: str) -> None:
    frames = shards()
    frames[2] = frames[2].with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(value)).otherwise(column).alias(column)
    )
    paths = write(tmp_path, frames)
    with pytest.raises(DecodedError, match=rf"{paths[2]}: {message}"):
        read_decoded(paths, *SIZES)


def test_missing_and_damaged_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.parquet: no such table"):
        read_decoded([tmp_path / "none.parquet"], *SIZES)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(write(tmp_path, shards())[0].read_bytes()[:-40])
    with pytest.raises(TableError, match=r"torn\.parquet"):
        read_decoded([torn], *SIZES)
    other = tmp_path / "other.parquet"
    write_table(WORLD.variants, other, "variants")
    with pytest.raises(TableError, match=r"table 'decoded'"):
        read_decoded([other], *SIZES)


def test_entropies_keep_their_precision(tmp_path: Path) -> None:
    frames = [WORLD.decoded.with_columns(entropy=pl.col("entropy") + 1e-12)]
    found = read_decoded(write(tmp_path, frames), *SIZES)
    assert found.entropy.dtype == np.float64
    assert found.entropy[0, 0] == frames[0]["entropy"][0]
