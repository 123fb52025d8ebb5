"""Writing tables for papers: each as LaTeX and as HTML, atomically, in the format that the path names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from neuronlab.html_tables import html_page
from neuronlab.latex_tables import latex_floats
from neuronlab.table_cells import Table
from neuronlab.tables import atomic_path

WRITERS = {".tex": latex_floats, ".html": html_page}


class PaperTableError(ValueError):
    """A table for papers that cannot be written as asked."""


def write_paper_tables(tables: Mapping[str, list[Table]], paths: Sequence[str | Path]) -> None:
    """Write to every path the tables that its name calls for: `scores.tex` gets `tables["scores"]` as LaTeX.

    Raises:
        PaperTableError: an unknown name or format; nothing is written then.
    """
    targets = [Path(path) for path in paths]
    for path in targets:
        if path.stem not in tables or path.suffix not in WRITERS:
            raise PaperTableError(
                f"{path}: no such table for papers; there are {', '.join(sorted(tables))}, each as "
                f"{' and '.join(WRITERS)}"
            )
    for path in targets:
        text = WRITERS[path.suffix](tables[path.stem])
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
