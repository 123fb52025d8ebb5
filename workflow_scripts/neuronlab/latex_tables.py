r"""Tables for papers as LaTeX: `table` environments with booktabs, caption and label, to be taken in by \input.

Every character is either one that pdflatex prints with T1 fonts, or spelt in commands, or, as a last resort, its code
point in brackets. A table wider than the line is scaled down to it; one longer than a page goes on in a further float.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from math import ceil

from neuronlab.table_cells import Row, Table, TableColumn

PREAMBLE = r"""% Needs in the preamble, for pdflatex and UTF-8:
%   \usepackage[T1]{fontenc}
%   \usepackage{array,booktabs,graphicx}
"""
LINES_PER_FLOAT = 46  # of a page, at \footnotesize
CHARACTERS_PER_LINE = 100  # of the line, at \footnotesize: estimates how wrapped text breaks

COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    # After the end of a row these two would be read as its options.
    "[": "{[}",
    "*": "{*}",
    "\n": r"$\hookleftarrow$ ",
    "\t": " ",
    "\r": "",
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "{--}",
    "\N{EM DASH}": "{---}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{LEFTWARDS ARROW}": r"$\leftarrow$",
    "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}": r"$\hookleftarrow$",
    "\N{RETURN SYMBOL}": r"$\hookleftarrow$",
    "\N{GREEK SMALL LETTER RHO}": r"$\rho$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{DEGREE SIGN}": r"\textdegree{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": "{`}",
    "\N{RIGHT SINGLE QUOTATION MARK}": "{'}",
    "\N{LEFT DOUBLE QUOTATION MARK}": "{``}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "{''}",
    "\N{SOFT HYPHEN}": r"\-",
    "\N{ACUTE ACCENT}": r"\textasciiacute{}",
    "\N{CEDILLA}": r"\c{}",
    **{digit: f"$^{{{plain}}}$" for digit, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True)},
}
# Characters that T1 fonts of pdflatex have as they stand.
NATIVE = frozenset(
    "¡¢£¥§©ª«¬®¯±²³¶·¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ"
    "ĂăĄąĆćČčĎďĐđĘęĚěĞğİıĹĺĽľŁłŃńŇňŊŋŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž€"
)
ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING MACRON}": "=",
    "\N{COMBINING DOT ABOVE}": ".",
    "\N{COMBINING BREVE}": "u",
    "\N{COMBINING CARON}": "v",
    "\N{COMBINING RING ABOVE}": "r",
    "\N{COMBINING DOT BELOW}": "d",
    "\N{COMBINING CEDILLA}": "c",
    "\N{COMBINING MACRON BELOW}": "b",
}
# Pairs that fonts set as one character, such as -- and ``; an empty group keeps them apart.
LIGATURES = re.compile(r"(?<=[-`',!?])(?=[-`',])")
EDGES = re.compile(r"^ | $")


def latex_text(text: str) -> str:
    """`text` as LaTeX: printed as it stands, whatever its characters."""
    parts = []
    for piece in LIGATURES.split(unicodedata.normalize("NFC", text)):
        parts.append("".join(_character(character) for character in piece))
    return "{}".join(parts)


def _character(character: str) -> str:
    if character in COMMANDS:
        return COMMANDS[character]
    if (character.isascii() and character.isprintable()) or character in NATIVE:
        return character
    base, *marks = unicodedata.normalize("NFD", character)
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in ACCENTS:
        return rf"\{ACCENTS[marks[0]]}{{{base}}}"
    if unicodedata.category(character) in ("Zs", "Zl", "Zp"):
        return " "
    return rf"{{[}}U+{ord(character):04X}]\allowbreak{{}}"


def latex_floats(tables: list[Table]) -> str:
    """Tables as the text of a .tex file: a comment on packages, then one float or more for each table."""
    floats = [_float(table, sections, part) for table in tables for part, sections in enumerate(_pages(table))]
    return PREAMBLE + "\n" + "\n".join(floats)


def _pages(table: Table) -> Iterator[list[tuple[Row, ...]]]:
    """Sections by float, none of them torn."""
    page: list[tuple[Row, ...]] = []
    used = 0
    for section in table.sections:
        lines = sum(_lines(row, table) for row in section)
        if page and used + lines > LINES_PER_FLOAT:
            yield page
            page, used = [], 0
        page.append(section)
        used += lines
    yield page


def _lines(row: Row, table: Table) -> int:
    """Lines that a row takes, about."""
    if row.heading:
        return 1
    return max(
        ceil(len(cell) / (CHARACTERS_PER_LINE * column.width)) if column.text and cell else 1
        for cell, column in zip(row.cells, table.columns, strict=True)
    )


def _float(table: Table, sections: list[tuple[Row, ...]], part: int) -> str:
    caption, name = latex_text(table.caption), table.label
    if part:
        caption, name = f"{latex_text(table.title)} (continued).", f"{name}-{part + 1}"
    body = _body(table, sections)
    specification = "@{}" + "".join(_alignment(column) for column in table.columns) + "@{}"
    # A table wider than the line is scaled down to it.
    width = r"\ifdim\width>\linewidth\linewidth\else\width\fi"
    return (
        "\\begin{table}[htbp]\n\\centering\n"
        f"\\caption{{{caption}}}\n\\label{{{name}}}\n\\vspace{{4pt}}\n"
        "\\footnotesize\n\\setlength{\\tabcolsep}{4pt}\n"
        f"\\resizebox{{{width}}}{{!}}{{%\n\\begin{{tabular}}{{{specification}}}\n\\toprule\n{body}\\bottomrule\n"
        "\\end{tabular}}\n"
        "\\end{table}\n"
    )


def _alignment(column: TableColumn) -> str:
    if column.text:
        # Without the space in front, TeX would not hyphenate a cell's first word.
        return rf">{{\raggedright\arraybackslash\hspace{{0pt}}}}p{{{column.width:.3f}\linewidth}}"
    return "l" if column.left else "r"


def _body(table: Table, sections: list[tuple[Row, ...]]) -> str:
    lines = [*_headings(table), r"\midrule"]
    if not any(sections):
        lines.append(rf"\multicolumn{{{len(table.columns)}}}{{@{{}}l@{{}}}}{{{latex_text(table.empty)}}} \\")
    gap = "\n\\addlinespace[2pt]\n" if any(column.text for column in table.columns) else "\n"  # after wrapped text
    blocks = [gap.join(_row(row, table) for row in section) for section in sections if section]
    lines += ["\n\\addlinespace\n".join(blocks)] if blocks else []
    return "\n".join(lines) + "\n"


def _row(row: Row, table: Table) -> str:
    if row.heading:
        return rf"\multicolumn{{{len(table.columns)}}}{{@{{}}l@{{}}}}{{\emph{{{latex_text(row.cells[0])}}}}} \\"
    return " & ".join(latex_text(cell) for cell in row.cells) + r" \\"


def _headings(table: Table) -> Iterator[str]:
    """One line of headings, or two where columns share one."""
    if any(column.group for column in table.columns):
        cells, rules, start = [], [], 1
        for group, columns in groupby(table.columns, key=lambda column: column.group):
            width = len(list(columns))
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_text(group)}}}" if group else "&".join([" "] * width))
            if group:
                rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
            start += width
        yield " & ".join(cells) + r" \\"
        yield " ".join(rules)
    yield " & ".join(latex_text(column.name) for column in table.columns) + r" \\"
