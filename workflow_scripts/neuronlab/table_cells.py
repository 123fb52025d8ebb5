"""Tables for papers: what stands in their cells, before `latex_tables` or `html_tables` writes them.

Cells are plain Unicode text; escaping is left to the writers. What is missing is an en dash, never a zero, and a share
that is not zero never reads as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MISSING = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
MINUS = "\N{MINUS SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class TableColumn:
    """A column: its heading, the heading above it that it shares with its neighbours, and how it is set.

    Attributes:
        name: heading; may be empty.
        group: heading shared with the columns beside it that have the same one.
        text: set as wrapped text; else as one line, right-aligned.
        left: one line, left-aligned.
        width: of wrapped text, as a share of the line.
    """

    name: str
    group: str = ""
    text: bool = False
    left: bool = False
    width: float = 0.2


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        cells: one for each column; a heading has one cell, which goes over all columns.
        minor: says more about the row above; set fainter where that is possible.
    """

    cells: tuple[str, ...]
    minor: bool = False

    @property
    def heading(self) -> bool:
        """Whether the row is a heading of those below it."""
        return len(self.cells) == 1


@dataclass(frozen=True)
class Table:
    """A table for a paper.

    Attributes:
        columns: its columns.
        sections: rows that belong together, with a thin line between sections.
        title: what the page is called.
        caption: what the numbers are.
        label: LaTeX label, unique in a paper: see `label`.
        empty: what stands in a table without rows.
    """

    columns: tuple[TableColumn, ...]
    sections: tuple[tuple[Row, ...], ...]
    title: str
    caption: str
    label: str
    empty: str = "No rows."

    def __post_init__(self) -> None:
        for section in self.sections:
            for row in section:
                if not row.heading and len(row.cells) != len(self.columns):
                    raise ValueError(f"{self.label}: a row of {len(row.cells)} cells for {len(self.columns)} columns")


def label(*parts: str) -> str:
    """A LaTeX label of plain characters: `label("pythia@step1", "scores")` is `tab:pythia-step1-scores`."""
    plain = "-".join(parts)
    return "tab:" + "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in plain)


def count(value: int | None) -> str:
    """A number of things, thousands apart."""
    return MISSING if value is None else f"{value:,}"


def percent(value: float | None, digits: int = 2) -> str:
    """A share in percent, without the sign; what would round to 0 or 100 without being that is said to be beyond."""
    if value is None:
        return MISSING
    step = 10.0**-digits
    if 0 < 100 * value < step / 2:
        return f"<{step:.{digits}f}"
    if 100 - step / 2 <= 100 * value < 100:
        return f">{100 - step:.{digits}f}"
    return f"{100 * value:.{digits}f}"


def percent_interval(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """A share and its interval in percent; the share alone where there is no interval."""
    if value is None or low is None or high is None:
        return percent(value, digits)
    return f"{percent(value, digits)} [{percent(low, digits)}, {percent(high, digits)}]"


def mean_and_sd(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation (ddof 1) of shares, in percent and brackets; a dash without values."""
    if not values:
        return MISSING
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"({percent(mean, digits)})"
    sd = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"({percent(mean, digits)} {PLUS_MINUS} {percent(sd, digits)})"


def level_words(level: float) -> str:
    """The level of intervals, for captions: 0.95 is '95 %'."""
    return f"{100 * level:g}\N{NO-BREAK SPACE}%"


def p_value(value: float | None) -> str:
    """A p-value to three decimals."""
    if value is None:
        return MISSING
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def fixed(value: float | None, digits: int) -> str:
    """A number with so many decimals and a true minus sign."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def scientific(value: float | None, digits: int = 2) -> str:
    """A number as 2.46 x 10^-5, with superscripts."""
    if value is None:
        return MISSING
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    if int(exponent) == 0:
        return mantissa.replace("-", MINUS)
    power = str(int(exponent)).translate(SUPERSCRIPTS)
    return f"{mantissa.replace('-', MINUS)} \N{MULTIPLICATION SIGN} 10{power}"
