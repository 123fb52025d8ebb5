"""Parquet files that others wrote: read with the checksums of their pages, where they have any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from neuronlab.tables import refuse_missing_rows


class ParquetError(ValueError):
    """A damaged Parquet file; the message is one line and does not name it."""


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Columns of a Parquet file; all by default.

    Without checksums a wrong bit is read as another number or letter; where a file has them, it is refused.

    Args:
        columns: read these alone, those of them that the file has.

    Raises:
        ParquetError: the file is missing, truncated, not Parquet, has a page that does not fit its checksum, or text
            that is no UTF-8; or there is too little memory to read it.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            there = file.schema_arrow.names
            table = file.read(columns=None if columns is None else [name for name in columns if name in there])
            refuse_missing_rows(file, len(table))
        table.validate(full=True)
        frame = pl.from_arrow(table.replace_schema_metadata(None))
    except (Exception, pl.exceptions.PanicException) as error:  # pyarrow raises many types for a damaged file
        raise ParquetError(first_line(error)) from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
