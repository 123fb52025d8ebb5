"""Tables for papers as one HTML page: everything inline, nothing fetched, every cell escaped."""

from __future__ import annotations

import re
from html import escape
from itertools import groupby

from neuronlab.table_cells import Row, Table, TableColumn

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
STYLE = """
:root{--ink:#1f2429;--faint:#5b6670;--line:#dfe3e7}
*{box-sizing:border-box}
body{margin:0;color:var(--ink);background:#fff;font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
  "Liberation Sans",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 24px 40px}
h1{font-size:22px;line-height:1.25;margin:0 0 6px}
p{margin:0 0 16px;color:var(--faint);max-width:84ch}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;border-top:2px solid var(--ink);
  border-bottom:2px solid var(--ink);margin-bottom:8px}
th,td{padding:4px 12px;text-align:right;white-space:nowrap;vertical-align:top}
thead th{font-weight:600;font-size:13.5px;vertical-align:bottom}
thead tr:last-child th{border-bottom:1px solid var(--ink)}
th.group{text-align:center;border-bottom:1px solid var(--line)}
.left,.text{text-align:left}.text{white-space:normal;min-width:11em}
tbody+tbody tr:first-child td{border-top:1px solid var(--line)}
.heading td{font-weight:600}
.minor td{color:var(--faint);font-size:13.5px;padding-top:0}
tr>:first-child{padding-left:4px}tr>:last-child{padding-right:4px}
.mark{color:var(--faint)}
@media print{main{max-width:none;padding:0}}
"""


def html_text(text: str) -> str:
    """`text` as HTML; line ends as marks that can be seen."""
    plain = CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text).replace("\r", "").replace("\t", " ")
    return escape(plain).replace("\n", '<span class="mark">\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}</span> ')


def html_page(tables: list[Table]) -> str:
    """Tables as the text of a page that works offline."""
    title = html_text(tables[0].title)
    sections = "\n".join(_section(table, first=number == 0) for number, table in enumerate(tables))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{sections}\n</main>\n</body>\n</html>\n"
    )


def _section(table: Table, *, first: bool) -> str:
    heading = "h1" if first else "h2"
    rows = "\n".join(
        "<tbody>\n" + "\n".join(_row(row, table) for row in section) + "\n</tbody>"
        for section in table.sections
        if section
    )
    empty = f'<tbody><tr><td class="left" colspan="{len(table.columns)}">{html_text(table.empty)}</td></tr></tbody>'
    return (
        f"<{heading}>{html_text(table.title)}</{heading}>\n<p>{html_text(table.caption)}</p>\n"
        f'<div class="scroll"><table>\n<thead>\n{_headings(table)}\n</thead>\n{rows or empty}\n</table></div>'
    )


def _class(column: TableColumn) -> str:
    return ' class="text"' if column.text else ' class="left"' if column.left else ""


def _headings(table: Table) -> str:
    names = "".join(f'<th scope="col"{_class(column)}>{html_text(column.name)}</th>' for column in table.columns)
    if not any(column.group for column in table.columns):
        return f"<tr>{names}</tr>"
    groups = ""
    for group, columns in groupby(table.columns, key=lambda column: column.group):
        width = len(list(columns))
        kind = f' class="group" scope="colgroup">{html_text(group)}</th>' if group else "></th>"
        groups += f'<th colspan="{width}"{kind}'
    return f"<tr>{groups}</tr>\n<tr>{names}</tr>"


def _row(row: Row, table: Table) -> str:
    if row.heading:
        return (
            f'<tr class="heading"><td class="left" colspan="{len(table.columns)}">{html_text(row.cells[0])}</td></tr>'
        )
    cells = "".join(
        f"<td{_class(column)}>{html_text(cell)}</td>" for cell, column in zip(row.cells, table.columns, strict=True)
    )
    kind = ' class="minor"' if row.minor else ""
    return f"<tr{kind}>{cells}</tr>"
