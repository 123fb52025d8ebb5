"""Parquet files that others wrote: read with the checksums of their pages, where they have any."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from neuronlab.tables import refuse_missing_rows


class ParquetError(ValueError):
    """A damaged Parquet file; the message is one line and does not name it."""


def read_parquet(path: str | Path) -> pl.DataFrame:
    """All columns of a Parquet file.

    Without checksums a wrong bit is read as another number or letter; where a file has them, it is refused.

    Raises:
        ParquetError: the file is missing, truncated, not Parquet, has a page that does not fit its checksum, or text
            that is no UTF-8.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
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
