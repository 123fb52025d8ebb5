"""Tables of facts as people keep them: .csv, .tsv, .jsonl, .parquet, .xlsx, every cell as text.

Names of columns are compared without case and outer white space, and cells lose theirs; a cell without text is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from neuronlab.parquet_files import first_line, read_parquet

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
ROW = " row"  # number of a row below the heading, from 1; no column of a file is called so, with a space in front
TEXT_REMEDY = "save it as UTF-8 with one heading, as many cells in every row, and quotes doubled within quoted cells"
REMEDIES = {
    ".csv": TEXT_REMEDY,
    ".tsv": TEXT_REMEDY,
    ".jsonl": "give one JSON object per line, with one text per name",
    ".parquet": "it may be damaged or something else: save it again",
    ".xlsx": "it may be damaged or something else: save it again",
}


class FactError(ValueError):
    """Facts that cannot be used; the message names the config key or file, what is wrong, and the remedy."""


def read_cells(path: str | Path, where: str, required: Sequence[str]) -> pl.DataFrame:
    """All cells of a table as text, white space around them removed, empty ones missing.

    Args:
        path: the file; for .xlsx, its first sheet.
        where: the config key that names it, for messages.
        required: columns that must be there.

    Returns:
        The table with lower-case names of columns, in the order of the file, and each row's number in the column
        `ROW`; rows without any text are left out.

    Raises:
        FactError: file missing, empty, of another kind, damaged, not UTF-8, with lists or records in its cells, two
            columns of one name, or a column missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FactError(f"{where}: there is no file '{path}'; correct the path")
    if path.suffix not in SUFFIXES:
        raise FactError(f"{where}: '{path}' must end in one of {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise FactError(f"{where}: '{path}' is empty; give a table with the columns {', '.join(required)}")
    try:
        frame = _read(path)
    except Exception as error:  # every reader raises types of its own for damaged files
        raise FactError(
            f"{where}: '{path}' cannot be read as {path.suffix[1:]} ({first_line(error)}); {REMEDIES[path.suffix]}"
        ) from error
    names = [name.strip().removeprefix("\ufeff").casefold() for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FactError(f"{where}: '{path}' has two columns named {_list(twice)}; rename or remove one")
    frame.columns = names
    if missing := [name for name in required if name not in names]:
        hint = "; are the cells separated otherwise, or is the file not UTF-8?" if len(names) == 1 else ""
        raise FactError(f"{where}: '{path}' lacks the column {_list(missing)}; it has {_list(names)}{hint}")
    if nested := [name for name, dtype in frame.schema.items() if dtype.is_nested()]:
        raise FactError(f"{where}: '{path}' holds lists or records in {_list(nested)}; give one text per cell")
    try:
        text = frame.select(pl.all().cast(pl.String).str.strip_chars())
    except pl.exceptions.PolarsError as error:  # bytes that are no UTF-8
        raise FactError(
            f"{where}: '{path}' holds cells that are no text ({first_line(error)}); write them as text"
        ) from error
    filled = text.select(pl.when(pl.all().str.len_chars() > 0).then(pl.all()))
    blank = pl.all_horizontal(pl.all().exclude(ROW).is_null())
    return filled.with_row_index(ROW, offset=1).filter(~blank)


def refuse_empty_cells(frame: pl.DataFrame, columns: Sequence[str], path: str | Path, where: str) -> None:
    """Refuse the first cell without text in any of the columns.

    Raises:
        FactError: naming file, row and column.
    """
    for column in columns:
        rows = frame[column].is_null().arg_true()
        if len(rows):
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            raise FactError(
                f"{where}: '{path}', row {frame[ROW][rows[0]]} below the heading{more}: '{column}' is empty; fill "
                "it in or delete the row"
            )


def _read(path: Path) -> pl.DataFrame:
    match path.suffix:
        case ".jsonl":
            return pl.read_ndjson(path, infer_schema_length=None)
        case ".parquet":
            return read_parquet(path)
        case ".xlsx":
            # Without inference, years and codes stay as they are written.
            return pl.read_excel(path, engine="calamine", infer_schema_length=0)
        case suffix:
            return pl.read_csv(path, separator="\t" if suffix == ".tsv" else ",", infer_schema=False)


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
