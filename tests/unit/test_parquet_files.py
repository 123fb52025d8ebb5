"""Damaged Parquet files: a wrong bit is never read as data, and the message names file and cause in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fake_copying
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from neuronlab.decoded_labels import read_decoded
from neuronlab.documents import TextError, TextSpec, read_documents
from neuronlab.fact_files import FactError, read_cells
from neuronlab.figures import log_ratios
from neuronlab.frequencies import CountsError, read_counts
from neuronlab.parquet_files import ParquetError, read_parquet
from neuronlab.tables import TableError

WORDS = np.array(["the", "confidence", "of", "a", "language", "model", "is", "read", "off", "its", "last", "layer"])
IDS = 3000
VOCABULARY = SimpleNamespace(d_vocab=IDS, real=np.ones(IDS, dtype=bool))


def sentences(n: int, words: int) -> list[str]:
    rng = np.random.default_rng(words)
    return [" ".join(rng.choice(WORDS, words)) for _ in range(n)]


FILES: dict[str, tuple[dict[str, object], type[ValueError], str, Callable[[Path], object]]] = {
    "documents": (
        {"document": np.arange(300), "text": sentences(300, 12)},
        TextError,
        r"^texts\.mine: '.*documents\.parquet' cannot be read as parquet \(.+\); correct the file$",
        lambda path: read_documents(path, TextSpec("mine", path=str(path))),
    ),
    "facts": (
        {"subject": sentences(200, 2), "relation": sentences(200, 3), "object": sentences(200, 1)},
        FactError,
        r"^facts\.mine\.path: '.*facts\.parquet' cannot be read as parquet \(.+\); it may be damaged",
        lambda path: read_cells(path, "facts.mine.path", ["subject", "relation", "object"]).rows(),
    ),
    "counts": (
        {"token": np.arange(IDS), "count": np.random.default_rng(0).integers(0, 1 << 40, IDS)},
        CountsError,
        r"^texts\.mine\.counts: '.*counts\.parquet' is no array of counts \(.+\); give",
        lambda path: read_counts(path, VOCABULARY, "texts.mine").tolist(),
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_users_file_with_checksums_is_read_right_or_not_at_all(kind: str, tmp_path: Path) -> None:
    columns, refusal, message, read = FILES[kind]
    path = tmp_path / f"{kind}.parquet"
    pq.write_table(pa.table(columns), path, write_page_checksum=True)
    content, whole = path.read_bytes(), read(path)
    refused = []
    places = range(5, len(content), len(content) // 150)
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert read(path) == whole, place
        except refusal as error:
            refused.append(str(error))
    path.write_bytes(content[:-100])
    with pytest.raises(refusal, match=message):
        read(path)
    assert len(refused) > 0.5 * len(places)
    assert not any("\n" in said for said in refused)
    checked = [said for said in refused if "CRC" in said]
    assert len(checked) > 0.5 * len(refused)
    with pytest.raises(refusal, match=message):
        raise refusal(checked[0])


def test_files_without_checksums_are_read_as_they_are(tmp_path: Path) -> None:
    """Of several writers, with the types that texts and facts come in."""
    frame = pl.DataFrame({"text": ["one", "zwei", None, ""], "n": [1, 2, 3, 4], "list": [[1], [], [2, 3], None]})
    path = tmp_path / "file.parquet"
    frame.write_parquet(path)
    assert read_parquet(path).equals(pl.read_parquet(path))
    for options in ({"compression": "gzip"}, {"use_dictionary": False}, {"data_page_version": "2.0"}):
        pq.write_table(frame.to_arrow(), path, **options)
        assert read_parquet(path).equals(frame)
    pq.write_table(frame.to_arrow().slice(0, 0), path)
    assert read_parquet(path).equals(frame.clear())


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"text": wrong}), tmp_path / "latin.parquet")
    with pytest.raises(ParquetError, match=r"(?i)utf-?8"):
        read_parquet(tmp_path / "latin.parquet")


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    world = fake_copying.World(n_facts=40, selections=("my_rule",), uniform=1, norm_matched=1, synthetic=1)
    found = fake_copying.write_inputs(world, tmp_path_factory.mktemp("inputs"))
    return {name: found[name] for name in ("states", "decoded", "conflicts", "variants")}


@pytest.mark.parametrize("name", ["states", "decoded"])
def test_a_shard_of_the_decoding_is_read_right_or_named(decoded: dict[str, object], name: str) -> None:
    prompts, variants = (len(pl.read_parquet(decoded[table])) for table in ("conflicts", "variants"))

    def read() -> list[object]:
        frame, _ = log_ratios.read(**decoded, replacement="mean")
        if name == "states":
            return [frame.rows()]
        found = read_decoded(decoded["decoded"], prompts, variants)
        return [frame.rows(), found.labels.tolist(), found.entropy.tolist()]

    path = Path(decoded[name][-1])
    content, whole = path.read_bytes(), read()
    refused = []
    try:
        for place in range(5, len(content), len(content) // 25):
            flipped = bytearray(content)
            flipped[place] ^= 1
            path.write_bytes(flipped)
            try:
                assert read() == whole, place
            except TableError as error:
                refused.append(str(error))
    finally:
        path.write_bytes(content)
    assert len(refused) > 15
    kinds = ("not a readable Parquet file", "its provenance is missing or damaged", "no memory to read it")
    assert all(said.startswith(tuple(f"{path}: {kind}" for kind in kinds)) for said in refused), refused
    assert all("delete it" in said for said in refused)
