"""Tables: the schema is enforced, writing is atomic, provenance travels, damage is named."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import (
    TableError,
    atomic_path,
    check_frame,
    iterate_table,
    read_provenance,
    read_table,
    write_table,
)
from pyarrow import parquet


@pytest.fixture
def counts() -> pl.DataFrame:
    return pl.DataFrame({"token": [0, 1, 2], "count": [5, 0, 7], "real": [True, True, False]})


def test_round_trip_casts_to_the_schema(tmp_path, counts):
    path = tmp_path / "folder" / "counts.parquet"
    write_table(counts, path, "token_counts", {"code": "abc", "parameters": {"seed": 3}})
    read = read_table(path, "token_counts")
    assert read.schema == {name: column.dtype for name, column in SCHEMAS["token_counts"].items()}
    assert read.rows() == counts.rows()
    record = read_provenance(path)
    assert record["table"] == "token_counts"
    assert record["code"] == "abc"
    assert record["parameters"] == {"seed": 3}
    assert "polars" in record["versions"]


def test_same_frame_same_bytes(tmp_path, counts):
    for name in ("a", "b"):
        write_table(counts, tmp_path / f"{name}.parquet", "token_counts", {"code": "abc"})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("real"), "missing columns .'real'."),
        (lambda f: f.with_columns(extra=1), "surplus columns .'extra'."),
        (lambda f: f.with_columns(count=pl.lit("many")), "conversion|cast"),
        (lambda f: f.with_columns(count=pl.Series([1, None, 2])), "column 'count' has 1 missing"),
    ],
)
def test_deviations_are_refused_and_nothing_is_written(tmp_path, counts, change, message):
    with pytest.raises(TableError, match=message):
        write_table(change(counts), tmp_path / "counts.parquet", "token_counts")
    assert list(tmp_path.iterdir()) == []


def test_nan_is_refused_even_where_missing_values_are_allowed():
    frame = pl.DataFrame({"index": [0], "singular_value": [1.0], "ratio": [float("nan")]})
    frame = frame.with_columns(automatic=False, exact_null=False, automatic_p_value=0.5)
    with pytest.raises(TableError, match="column 'ratio' holds NaN"):
        check_frame(frame, "singular_values")
    assert check_frame(frame.with_columns(ratio=None), "singular_values")["ratio"].null_count() == 1


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["page.html"]


def test_a_table_of_another_schema_is_refused(tmp_path, counts):
    path = tmp_path / "counts.parquet"
    write_table(counts, path, "token_counts")
    with pytest.raises(TableError, match=r"counts\.parquet.*table 'documents'"):
        read_table(path, "documents")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TableError, match=r"absent\.parquet: no such table"):
        read_table(tmp_path / "absent.parquet", "documents")


def test_every_column_says_what_it_means():
    for table, schema in SCHEMAS.items():
        for name, column in schema.items():
            assert len(column.meaning) > 3, f"{table}.{name}"


def dead_writer(path) -> str:
    """The temporary file that a process killed while it was writing `path` leaves."""
    code = "import os, sys; from neuronlab.tables import atomic_path\nwith atomic_path(sys.argv[1]): os._exit(9)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=environment).returncode == 9
    (leftover,) = [child for child in path.parent.iterdir() if child.name.startswith(f".{path.stem}.")]
    return leftover.name


def test_leftovers_of_killed_writers_do_not_pile_up(tmp_path):
    path = tmp_path / "page.html"
    first, other = dead_writer(path), dead_writer(tmp_path / "other.html")
    second = dead_writer(path)
    assert {child.name for child in tmp_path.iterdir()} == {second, other} != {first, other}
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert {child.name for child in tmp_path.iterdir()} == {"page.html", other}


def test_two_live_writers_leave_each_other_alone(tmp_path):
    path = tmp_path / "page.html"
    with atomic_path(path) as slow:
        with atomic_path(path) as fast:
            fast.write_text("whole")
        assert slow.exists()
        slow.write_text("whole")
    assert [child.name for child in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path, number):
    path = tmp_path / "page.html"
    with pytest.raises(OSError, match=os.strerror(number)) as raised, atomic_path(path):
        raise OSError(number, "Error writing bytes to file")  # what Arrow raises: without a name
    assert raised.value.filename == str(path)
    assert raised.value.errno == number
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def many_counts(tmp_path):
    """A table of 3000 random counts; its path."""
    numbers = np.random.default_rng(0).integers(0, 1 << 40, 3000)
    frame = pl.DataFrame({"token": np.arange(3000), "count": numbers, "real": True})
    write_table(frame, tmp_path / "counts.parquet", "token_counts")
    return tmp_path / "counts.parquet"


@pytest.mark.parametrize("kept", [0, 4, 5000, -20])
def test_a_truncated_file_is_named_with_the_remedy(many_counts, kept):
    many_counts.write_bytes(many_counts.read_bytes()[:kept])
    with pytest.raises(TableError, match=r"counts\.parquet: not a readable Parquet file.*delete it and run"):
        read_table(many_counts, "token_counts")


def outcome(read, whole: pl.DataFrame) -> str:
    try:
        return "whole" if read().equals(whole) else "wrong"
    except (TableError, pl.exceptions.PolarsError):
        return "refused"


def test_one_wrong_bit_is_seen(many_counts):
    """Everywhere but in remarks of the file on itself, which change no number; the checksums are what tells."""
    content, whole = many_counts.read_bytes(), read_table(many_counts, "token_counts")
    all_rows = pl.col("count") >= 0
    ours, without = [], []
    for place in range(0, len(content), 307):
        flipped = bytearray(content)
        flipped[place] ^= 1
        many_counts.write_bytes(flipped)
        ours.append(outcome(lambda: read_table(many_counts, "token_counts"), whole))
        ours.append(outcome(lambda: read_table(many_counts, "token_counts", rows=all_rows), whole))
        ours.append(outcome(lambda: pl.concat(iterate_table(many_counts, "token_counts", 500)), whole))
        without.append(outcome(lambda: pl.read_parquet(many_counts), whole))
    assert "wrong" not in ours
    assert ours.count("refused") > 0.9 * len(ours)
    assert without.count("wrong") > 0.5 * len(without)


def test_one_wrong_bit_of_the_provenance_is_seen(tmp_path, counts):
    """Figures state what stands there. It is in the footer twice, as written and in base 64."""
    path = tmp_path / "counts.parquet"
    write_table(counts, path, "token_counts", {"sample": {"tokens": 50, "of_tokens": 95_000}, "seed": 7})
    content, whole = path.read_bytes(), read_provenance(path)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    same, refused = [], 0
    for bit in range(8 * footer, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            same.append(read_provenance(path) == whole)
        except TableError:
            refused += 1
    assert all(same)
    assert refused > 500


def test_a_sound_file_is_not_to_be_deleted(many_counts, monkeypatch):
    def fail(error):
        def read(*_, **__):
            raise error

        monkeypatch.setattr(parquet.ParquetFile, "read", read)

    fail(pa.lib.ArrowMemoryError("malloc of size 33201664 failed"))
    with pytest.raises(TableError, match=r"counts\.parquet: no memory to read it \(malloc.*give the job more"):
        read_table(many_counts, "token_counts")
    fail(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        read_table(many_counts, "token_counts")
    with pytest.raises(TableError, match="a folder where table 'token_counts' should be"):
        read_table(many_counts.parent, "token_counts")
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        read_table(many_counts, "token_counts", rows=pl.col("of_no_table") > 0)


def test_some_columns_and_rows_are_those_of_the_whole(many_counts):
    whole = read_table(many_counts, "token_counts")
    assert read_table(many_counts, "token_counts", ["count", "token"]).equals(whole.select("count", "token"))
    odd = pl.col("count") % 2 == 1
    # Many groups of rows: a table as large as ours are.
    parquet.write_table(whole.to_arrow(), many_counts, row_group_size=700, write_page_checksum=True)
    assert parquet.ParquetFile(many_counts).num_row_groups == 5
    for columns in (None, ["count", "real"]):
        found = read_table(many_counts, "token_counts", columns, rows=odd)
        expected = whole.filter(odd)
        assert found.equals(expected if columns is None else expected.select(columns))
    pieces = list(iterate_table(many_counts, "token_counts", 400))
    assert max(map(len, pieces)) <= 400
    assert pl.concat(pieces).equals(whole)
    write_table(whole.clear(), many_counts, "token_counts")
    assert len(read_table(many_counts, "token_counts", rows=odd)) == 0
    assert next(iterate_table(many_counts, "token_counts", 400)).is_empty()


def test_other_columns_are_refused_in_pieces_too(many_counts, tmp_path):
    odd = pl.col("count") % 2 == 1
    other = tmp_path / "other.parquet"
    parquet.write_table(read_table(many_counts, "token_counts").drop("count").to_arrow(), other)
    for read in (
        lambda path: read_table(path, "token_counts", rows=odd),
        lambda path: read_table(path, "token_counts", ["count"]),
        lambda path: list(iterate_table(path, "token_counts", 10)),
    ):
        with pytest.raises(TableError, match=r"other\.parquet: .*missing columns \['count'\].*another version"):
            read(other)
        with pytest.raises(TableError, match=r"none\.parquet: no such table \('token_counts'\)"):
            read(tmp_path / "none.parquet")
