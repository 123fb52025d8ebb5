"""Rows with NaN for what is missing -> frames of a schema with nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from neuronlab.schemas import SCHEMAS


def frame_of(rows: Sequence[Mapping[str, Any]], name: str) -> pl.DataFrame:
    """A frame of schema `name`, with all its columns if there is no row as well; NaN becomes missing."""
    schema = {column: spec.dtype for column, spec in SCHEMAS[name].items()}
    return pl.DataFrame({column: [row[column] for row in rows] for column in schema}, schema=schema).with_columns(
        pl.col(pl.Float64).fill_nan(None)
    )
