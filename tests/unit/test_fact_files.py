"""Tables of facts in every format, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from neuronlab.fact_files import ROW, SUFFIXES, FactError, read_cells, refuse_empty_cells
from spreadsheets import write_xlsx

COLUMNS = ("subject", "relation", "object")
WHERE = "facts.mine.path"
HEADING = "subject,relation,object\n"


def written(folder: Path, suffix: str, rows: list[tuple[str | int | None, ...]]) -> Path:
    """The same rows in one of the formats."""
    path = folder / f"facts{suffix}"
    frame = pl.DataFrame(rows, schema=[*COLUMNS], orient="row", strict=False).with_columns(pl.all().cast(pl.String))
    if suffix == ".xlsx":
        write_xlsx(path, [COLUMNS, *rows])
    elif suffix == ".parquet":
        frame.write_parquet(path)
    elif suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_cells(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix, [(" Ada ", "born-in", "1815"), ("Zoë, the 2nd", "born-in", None)])
    cells = read_cells(path, WHERE, COLUMNS)
    assert cells.rows() == [(1, "Ada", "born-in", "1815"), (2, "Zoë, the 2nd", "born-in", None)]
    with pytest.raises(FactError, match=r"facts\.mine\.path: '.*', row 2 below the heading: 'object' is empty; fill"):
        refuse_empty_cells(cells, COLUMNS, path, WHERE)


def test_numbers_of_a_spreadsheet_are_read_as_they_look(tmp_path: Path) -> None:
    path = written(tmp_path, ".xlsx", [("Ada", "born-in", 1815), ("Pi", "is", 3.25)])
    assert read_cells(path, WHERE, COLUMNS)["object"].to_list() == ["1815", "3.25"]


def test_headings_may_differ_in_case_and_blank_rows_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("\ufeffSubject, RELATION ,Object,more\n\nA,r,b,\n\n,r,c,\n", encoding="utf-8")
    cells = read_cells(path, WHERE, COLUMNS)
    assert cells[ROW].to_list() == [2, 4]
    assert cells["subject"].to_list() == ["A", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", r"'.*empty\.csv' is empty; give a table with the columns subject, relation, object"),
        ("facts.txt", b"a", r"must end in one of \.csv, \.tsv, \.jsonl, \.parquet, \.xlsx"),
        ("missing.csv", b"subject,object\nA,b\n", r"lacks the column 'relation'; it has 'subject', 'object'"),
        ("semicolons.csv", b"subject;relation;object\nA;r;b\n", r"lacks the column .*'subject;relation;object'"),
        ("twice.csv", b"subject,Subject,relation,object\n", r"two columns named 'subject'; rename or remove one"),
        ("ragged.csv", HEADING.encode() + b"A,r,b,c\n", r"cannot be read as csv .*; save it as UTF-8"),
        ("latin.csv", HEADING.encode() + "Zürich,r,b\n".encode("latin-1"), r"cannot be read as csv .*UTF-8"),
        ("open.csv", HEADING.encode() + b'"A,r,b\n', r"cannot be read as csv .*quotes"),
        ("broken.jsonl", b'{"subject": "A"', r"cannot be read as jsonl .*one JSON object per line"),
        ("nested.jsonl", b'{"subject":"A","relation":"r","object":["b"]}\n', r"lists or records in 'object'"),
        ("facts.parquet", b"nonsense", r"cannot be read as parquet .*save it again"),
        ("facts.xlsx", b"nonsense", r"cannot be read as xlsx .*save it again"),
    ],
)
def test_files_that_cannot_be_used_are_named_with_a_remedy(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FactError, match=rf"facts\.mine\.path: .*{message}"):
        read_cells(tmp_path / name, WHERE, COLUMNS)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FactError, match=r"facts\.mine\.path: there is no file '.*absent\.csv'; correct the path"):
        read_cells(tmp_path / "absent.csv", WHERE, COLUMNS)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.parquet"
    pl.DataFrame({"subject": [b"a"], "relation": [b"b"], "object": [b"\xff"]}).write_parquet(path)
    with pytest.raises(FactError, match=r"facts\.parquet' holds cells that are no text"):
        read_cells(path, "facts.mine.path", ["subject"])


def test_one_column_hints_at_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("subject;relation;object\na;b;c\n")
    with pytest.raises(FactError, match="separated otherwise"):
        read_cells(path, "facts.mine.path", ["subject"])
