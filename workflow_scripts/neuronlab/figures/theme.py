"""The look that all figures share: type, colours, number formats, axis domains, titles.

Colours are Okabe and Ito's (distinguishable with every common colour blindness), and one kind of neuron has
one colour in every figure. Liberation Sans is built into the renderer, so that a figure has the same bytes
on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, FAINT, GRID = "#1f2429", "#5a6470", "#e8ebee"

VERMILION, BLUE, GREEN, ORANGE, SKY, PURPLE = "#d55e00", "#0072b2", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
OTHER_COLOUR, CONTROL_COLOUR = "#c3c9cf", "#4d5660"

# Sequential scale with monotone lightness, and a diverging one for signed shares; both colour-blind safe.
SEQUENTIAL = "viridis"
DIVERGING = ["#0072b2", "#9fc5dd", "#e9e9e9", "#f0b58a", "#d55e00"]

# Vega-Lite draws one element per point: beyond this, figures thin or bin, and say so.
POINT_LIMIT = 4000
LABEL_SIZE = 12
MINUS = "\N{MINUS SIGN}"


def finish(
    chart: alt.TopLevelMixin, title: str, subtitle: Sequence[str | None], *, padding: int = 14
) -> alt.TopLevelMixin:
    """The chart with title, subtitle lines and the shared look; the last step of every figure."""
    titled = chart.properties(
        title=alt.Title(title, subtitle=pack(subtitle), anchor="start", offset=14), background="white", padding=padding
    )
    # One call: every call copies the whole chart.
    return titled.configure(
        font=FONT,
        view={"stroke": None},
        title={
            "fontSize": 17,
            "fontWeight": "bold",
            "color": INK,
            "subtitleFontSize": 12.5,
            "subtitleColor": FAINT,
            "subtitleLineHeight": 17,
            "subtitlePadding": 5,
        },
        axis={
            "labelFontSize": LABEL_SIZE,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
            "titleColor": INK,
            "labelColor": INK,
            "gridColor": GRID,
            "domainColor": "#9aa3ac",
            "tickColor": "#9aa3ac",
            "titlePadding": 8,
            "labelFlush": False,
        },
        legend={
            "labelFontSize": LABEL_SIZE,
            "titleFontSize": LABEL_SIZE,
            "titleFontWeight": "normal",
            "titleColor": INK,
            "labelColor": INK,
            "symbolSize": 90,
            "symbolOpacity": 1,
            "labelLimit": 320,
            "titleLimit": 320,
        },
        header={"labelFontSize": 13, "titleFontSize": 13, "labelColor": INK, "titleColor": INK},
    )


def pack(statements: Sequence[str | None], width: int = 98) -> list[str]:
    """The first statement on a line of its own, the others filled into lines of about `width` characters."""
    first, *rest = [statement for statement in statements if statement] or [""]
    lines = [first]
    for statement in rest:
        joined = f"{lines[-1]}; {statement}"
        if len(lines) > 1 and len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(statement)
    return lines


def about(model: str, text: str | None = None, *facts: str) -> str:
    """First line of a subtitle: which model, which text, and what was counted."""
    return "  ·  ".join([f"model {model}", *([f"text {text}"] if text else []), *(fact for fact in facts if fact)])


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`count(1, "token")` is '1 token', `count(24310, "token")` is '24,310 tokens'."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def linear_domain(*values: pl.Series, include: Sequence[float] = (), pad: float = 0.04) -> list[float]:
    """A domain that holds every value (missing ones aside), with a margin; [0, 1] if there are none."""
    found = np.array([*(v for series in values for v in series.drop_nulls()), *include], dtype=float)
    if not len(found):
        return [0.0, 1.0]
    low, high = float(found.min()), float(found.max())
    margin = (high - low) * pad or abs(high) * pad or 0.5
    # A domain that starts at zero by nature (norms, effects) stays there instead of showing negative numbers.
    return [0.0 if low >= 0 and low - margin < 0 else low - margin, high + margin]


def log_domain(*values: pl.Series, include: Sequence[float] = (), pad: float = 0.04) -> list[float]:
    """A positive domain for a logarithmic axis, with a margin; [0.1, 1] if no value is positive.

    Values below 1e-290, too small to take a logarithm of, count as zero.
    """
    found = np.array([*(v for series in values for v in series.drop_nulls()), *include], dtype=float)
    found = found[found > 1e-290]
    if not len(found):
        return [0.1, 1.0]
    low, high = np.log10(found.min()), np.log10(found.max())
    margin = max((high - low) * pad, 0.03)
    return [float(10 ** (low - margin)), float(10 ** (high + margin))]


def log_ticks(domain: Sequence[float]) -> list[float]:
    """Ticks for a logarithmic axis: powers of ten, with 2 and 5 between them where the domain is narrow."""
    low, high = np.log10(domain[0]), np.log10(domain[1])
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    span = high - low
    factors = (1, 2, 3, 5, 7) if span < 0.7 else (1, 2, 5) if span < 2 else (1,)
    step = max(1, int(np.ceil(span / 8)))
    ticks = [factor * 10.0**power for power in powers if step == 1 or power % step == 0 for factor in factors]
    return [float(f"{tick:.3g}") for tick in ticks if domain[0] <= tick <= domain[1]]


def log_labels(ticks: Sequence[float]) -> str:
    """Label expression for `ticks`: plain decimals where they are short, else as 5e−6.

    Vega's own choice mixes "1m" and "0.0001" on one axis.
    """
    cases = [f"abs(datum.value / {tick!r} - 1) < 1e-6 ? '{_decimal(tick)}'" for tick in ticks]
    return " : ".join([*cases, "''"])


def _decimal(value: float) -> str:
    power = int(np.floor(np.log10(value) + 1e-9))
    if -4 <= power <= 3:
        return f"{value:.10f}".rstrip("0").rstrip(".")
    return f"{value / 10.0**power:.3g}e{power}".replace("-", MINUS)


def round_up(value: float) -> float:
    """The next of 1, 2 or 5 times a power of ten: where a colour scale ends; 1 for zero."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(f"{next((factor * power for factor in (1, 2, 5) if factor * power >= value * 0.999), 10 * power):.3g}")


def note_chart(message: str, width: int = 480, height: int = 120) -> alt.Chart:
    """What stands in place of a figure that has nothing to show: the reason."""
    return (
        alt.Chart(pl.DataFrame({"message": [message]}))
        .mark_text(fontSize=14, color=FAINT, align="center", lineBreak="\n", lineHeight=20)
        .encode(text="message:N", x=alt.value(width / 2), y=alt.value(height / 2))
        .properties(width=width, height=height)
    )
