"""Cells of a neuron card's tables: a number with its interval, a signed number, a place in the layer."""

from __future__ import annotations

from neuronlab.cards_ranks import Row
from neuronlab.cards_svg import MINUS, MISSING, number

# Effects of single neurons are mostly thousandths of a nat: one unit for all, so that cards can be compared.
UNIT, UNIT_NAME = 1e-3, f"10<sup>{MINUS}3</sup> nats"


def in_unit(value: float | None) -> str:
    """Nats in the cards' unit."""
    return number(None if value is None else value / UNIT)


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def interval(row: Row, name: str, unit: float = 1.0) -> str:
    """The value of a column over its interval, below it in small type; a dash if missing."""
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return MISSING
    span = ""
    if low is not None and high is not None:
        span = f'<br><span class="ci">{number(low / unit)} to {number(high / unit)}</span>'
    return f"{number(value / unit)}{span}"


def place(percentile: float | None) -> str:
    """A place in the layer as a strip and a number; empty if missing."""
    if percentile is None:
        return ""
    strip = f'<span class="strip"><i style="left:{percentile:.1f}%"></i></span>'
    return f'{strip}<span class="pct">{percentile:.1f} %</span>'
