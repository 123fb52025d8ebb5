"""Tables: the schema is enforced, writing is atomic, provenance travels, damage is named."""

from __future__ import annotations

import polars as pl
import pytest
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import TableError, atomic_path, check_frame, read_provenance, read_table, write_table


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


def test_a_truncated_file_is_named_with_the_remedy(tmp_path, counts):
    path = tmp_path / "counts.parquet"
    write_table(counts, path, "token_counts")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"counts\.parquet: not a readable Parquet file.*delete it"):
        read_table(path, "token_counts")


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
