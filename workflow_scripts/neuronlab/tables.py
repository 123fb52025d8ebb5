"""Reading and writing tables: schema checked, written atomically, provenance in the file's metadata.

A table is a Parquet file whose columns are those of `schemas.SCHEMAS[name]`, in that order. Its metadata
holds, as JSON under `neuronlab`, what would be needed to make it again: the table's name, the digest of
the code, the rule's parameters, library versions, seed, dtype, configured device and threads. Times, host
and commit go to the log instead, so that the same configuration gives the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from neuronlab.schemas import SCHEMAS

METADATA_KEY, DIGEST_KEY = b"neuronlab", b"neuronlab_sha256"  # the provenance, and the digest of its bytes
LIBRARIES = (
    "numpy",
    "polars",
    "pyarrow",
    "torch",
    "transformers",
    "transformer-lens",
    "numba",
    "scikit-learn",
    "rapidfuzz",
    "triton",
)

DAMAGE = (Exception, pl.exceptions.PanicException)  # pyarrow raises many types for a damaged file, polars may panic
FULL = (errno.ENOSPC, errno.EDQUOT)

Provenance = Mapping[str, Any]


class TableError(ValueError):
    """A table that is missing, unreadable, or not what its schema promises."""


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a number; a library that is not installed is left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends, and vanishes if the block fails.

    The suffix is kept, because writers such as Altair's choose the format by it. A killed process leaves its
    temporary file behind; whoever writes `path` next removes it. A lock tells a dead writer's file from that of a
    live one, such as a job that outlived its killed Snakemake.

    Raises:
        OSError: naming `path`, when the disk or the quota is full; the temporary file is gone then.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        temporary = Path(name)
        try:
            with suppress(OSError):  # a file system without locks: leftovers stay there
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield temporary
            # mkstemp makes files private; a result is as readable as the user's umask lets any file be.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        with suppress(OSError), leftover.open("r+b") as file:  # locked by its writer, or gone meanwhile
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def check_frame(frame: pl.DataFrame, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return `frame` with the columns of schema `name`, or with some of them, in order and in type.

    Raises:
        TableError: for a missing or surplus column, a type that does not cast without loss, a missing value
            in a column that may not hold any, or a NaN or infinity in a column of floats (missing values
            are nulls here: a NaN is a defect that got out).
    """
    schema = SCHEMAS[name] if columns is None else {column: SCHEMAS[name][column] for column in columns}
    missing, surplus = schema.keys() - set(frame.columns), set(frame.columns) - schema.keys()
    if missing or surplus:
        raise TableError(f"table '{name}': missing columns {sorted(missing)}, surplus columns {sorted(surplus)}")
    try:
        frame = frame.select(pl.col(column).cast(spec.dtype) for column, spec in schema.items())
    except pl.exceptions.PolarsError as error:
        raise TableError(f"table '{name}': {error}") from error
    for column, spec in schema.items():
        series = frame[column]
        if series.null_count() and not spec.nullable:
            raise TableError(f"table '{name}': column '{column}' has {series.null_count()} missing values")
        if spec.dtype == pl.Float64 and not series.drop_nulls().is_finite().all():
            raise TableError(f"table '{name}': column '{column}' holds NaN or infinity")
    return frame


def write_table(frame: pl.DataFrame, path: str | Path, name: str, provenance: Provenance | None = None) -> None:
    """Check `frame` against schema `name` and write it to `path` atomically, with provenance.

    Args:
        provenance: what made it (see `jobs.Job.provenance`); versions and the schema's name are added here.

    Raises:
        TableError: see `check_frame`; nothing is written then.
    """
    table = check_frame(frame, name).to_arrow()
    record = {"table": name, "versions": library_versions(), **(provenance or {})}
    written = json.dumps(record, sort_keys=True, default=str).encode()
    metadata = {METADATA_KEY: written, DIGEST_KEY: hashlib.sha256(written).hexdigest().encode()}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd", write_page_checksum=True)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """What a damaged file raises while it is read becomes a `TableError` that names it and the remedy."""
    try:
        yield
    except TableError:
        raise
    except DAMAGE as error:
        if is_not_the_file(error):
            raise
        raise _unreadable(path, error) from error


def read_table(
    path: str | Path, name: str, columns: Sequence[str] | None = None, *, rows: pl.Expr | None = None
) -> pl.DataFrame:
    """Read a table and check that it is one of schema `name`.

    Args:
        columns: read these alone, in this order.
        rows: keep those alone for which it is true; the others are in memory one group of rows at a time.

    Raises:
        TableError: if the file is missing, truncated, not Parquet, or has other columns; the message says
            which file and what to do.
    """
    path = Path(path)
    with _damage_told(path), _opened(path, name) as file:
        frame = _read(file, name, columns, rows)
    return _checked(frame, path, name, columns)


def iterate_table(path: str | Path, name: str, size: int) -> Iterator[pl.DataFrame]:
    """A table of schema `name` in checked pieces of at most `size` rows; at least one, which may be empty.

    Raises:
        TableError: as `read_table`; of a damaged page, when its piece comes.
    """
    path = Path(path)
    with _damage_told(path), _opened(path, name) as file:
        yield _checked(_frame(file.schema_arrow.empty_table()), path, name)
        found = 0
        for batch in file.iter_batches(batch_size=size):
            found += len(batch)
            yield _checked(_frame(batch), path, name)
        refuse_missing_rows(file, found)


def _opened(path: Path, name: str) -> pq.ParquetFile:
    """The file of a table. `pq.read_table` would import pandas, which takes longer than the reading; without the
    pages' checksums most wrong bits would be read as numbers."""
    if not path.exists():
        raise TableError(f"{path}: no such table ('{name}'); run the workflow to make it")
    if path.is_dir():
        raise TableError(f"{path}: a folder where table '{name}' should be; move it away")
    return pq.ParquetFile(path, page_checksum_verification=True)


def _read(file: pq.ParquetFile, name: str, columns: Sequence[str] | None, rows: pl.Expr | None) -> pl.DataFrame:
    """Some columns and rows of a table; all rows of one that lacks columns, which `check_frame` refuses."""
    names = None if columns is None else list(columns)
    whole = set(names or SCHEMAS[name]) <= set(file.schema_arrow.names)
    if rows is None or not whole or not file.num_row_groups:
        found = _frame(file.read(columns=names if whole else None))
        refuse_missing_rows(file, len(found))
        return found
    n, kept = 0, []
    for i in range(file.num_row_groups):
        group = _frame(file.read_row_group(i, columns=names))
        n += len(group)
        kept.append(group.filter(rows))
    refuse_missing_rows(file, n)
    return pl.concat(kept)


def refuse_missing_rows(file: pq.ParquetFile, found: int) -> None:
    """Refuse a file whose table of contents leads to fewer rows than it counts: no checksum is on that.

    Raises:
        ValueError: with both numbers.
    """
    if found != file.metadata.num_rows:
        raise ValueError(f"it has {file.metadata.num_rows} rows, and {found} can be read")


def _frame(found: pa.Table | pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(found.replace_schema_metadata(None))  # remarks that no number depends on
    assert isinstance(frame, pl.DataFrame)
    return frame


def _checked(frame: pl.DataFrame, path: Path, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    try:
        return check_frame(frame, name, columns)
    except TableError as error:
        raise TableError(f"{path}: {error}; it may stem from another version: delete it and run again") from error


def is_not_the_file(error: BaseException) -> bool:
    """Errors of the system or of the caller, with which the file has nothing to do. Damaged files raise OSError, too,
    but pyarrow's own, without the system's number."""
    system = isinstance(error, OSError) and error.errno is not None
    return system or isinstance(error, pl.exceptions.ColumnNotFoundError)


def _unreadable(path: Path, error: BaseException) -> TableError:
    if isinstance(error, MemoryError):  # of a sound file, or of one that a wrong bit makes look huge
        return TableError(f"{path}: no memory to read it ({error}); give the job more, or delete it if it is damaged")
    return TableError(f"{path}: not a readable Parquet file ({error}); delete it and run the workflow again")


def _record(path: Path, metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The provenance record among a file's remarks on itself, which fits its digest."""
    found = (metadata or {}).get(METADATA_KEY, b"")
    if (metadata or {}).get(DIGEST_KEY) != hashlib.sha256(found).hexdigest().encode():
        raise TableError(f"{path}: its provenance is missing or damaged; delete it and run the workflow again")
    return json.loads(found)


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance record of a table.

    Raises:
        TableError: the file's remarks on itself are damaged, or another program wrote it.
    """
    path = Path(path)
    with _damage_told(path):
        return _record(path, pq.read_schema(path).metadata)
