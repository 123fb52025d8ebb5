"""Dose and response on a neuron card, as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor, log10

import numpy as np

from neuronlab.cards_cells import UNIT
from neuronlab.cards_doses import Curve, Doses
from neuronlab.cards_svg import MINUS, number

COLOURS = {"entropy": "#d55e00", "loss": "#0072b2"}  # Okabe-Ito; marks differ in shape too, for print without colour
FROZEN = "4 3"

Place = Callable[[float], float]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about so many, 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(log10(size / raw)))
    return [i * step for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", MINUS)


def _runs(known: Sequence[bool]) -> Iterator[range]:
    """Stretches without a gap."""
    start = None
    for i, present in enumerate([*known, False]):
        if present and start is None:
            start = i
        elif not present and start is not None:
            yield range(start, i)
            start = None


def _points(indices: Sequence[int], x: Sequence[float], y: Sequence[float]) -> str:
    return " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in indices)


def _mark(outcome: str, x: float, y: float) -> str:
    colour = COLOURS[outcome]
    if outcome == "entropy":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    return f'<rect x="{x - 2.7:.1f}" y="{y - 2.7:.1f}" width="5.4" height="5.4" fill="{colour}"/>'


def _curve(curve: Curve, x: list[float], at_y: Place, at_mean: float | None) -> tuple[str, str]:
    """Band and lines with marks: bands lie below the lines of both outcomes."""
    colour = COLOURS[curve.outcome]

    def heights(values: np.ndarray) -> list[float]:
        return [at_y(value / UNIT) if np.isfinite(value) else 0.0 for value in values]

    total, low, high, direct = (heights(v) for v in (curve.total, curve.low, curve.high, curve.direct))
    bands, lines = [], []
    for run in _runs(np.isfinite(curve.low) & np.isfinite(curve.high)):
        outline = f"{_points(run, x, high)} {_points(run[::-1], x, low)}"
        bands.append(f'<polygon points="{outline}" fill="{colour}" fill-opacity=".16"/>')
    for run in _runs(np.isfinite(curve.direct)):
        style = f'fill="none" stroke="{colour}" stroke-width="1.4" stroke-dasharray="{FROZEN}"'
        lines.append(f'<polyline points="{_points(run, x, direct)}" {style}/>')
    for run in _runs(np.isfinite(curve.total)):
        style = f'fill="none" stroke="{colour}" stroke-width="2"'
        lines.append(f'<polyline points="{_points(run, x, total)}" {style}/>')
        lines += [_mark(curve.outcome, x[i], total[i]) for i in run]
    if at_mean is not None and curve.at_mean is not None:
        y = at_y(curve.at_mean / UNIT)
        corners = (
            f"{at_mean:.1f},{y - 5:.1f} {at_mean + 5:.1f},{y:.1f} {at_mean:.1f},{y + 5:.1f} {at_mean - 5:.1f},{y:.1f}"
        )
        lines.append(f'<polygon points="{corners}" fill="#fff" stroke="{colour}" stroke-width="2"/>')
    return "".join(bands), "".join(lines)


def _legend(curves: Sequence[Curve], left: float) -> str:
    parts, x = [], left
    for curve in curves:
        line = (
            f'<line x1="{x:.0f}" x2="{x + 22:.0f}" y1="9" y2="9" stroke="{COLOURS[curve.outcome]}" stroke-width="2"/>'
        )
        parts.append(f'{line}{_mark(curve.outcome, x + 11, 9)}<text x="{x + 27:.0f}" y="13">{curve.outcome}</text>')
        x += 36 + 8 * len(curve.outcome)
    dashes = f'stroke="#3d4751" stroke-width="1.4" stroke-dasharray="{FROZEN}"'
    parts.append(f'<line x1="{x:.0f}" x2="{x + 22:.0f}" y1="9" y2="9" {dashes}/>')
    return f'{"".join(parts)}<text x="{x + 27:.0f}" y="13">with the norm frozen</text>'


def dose_plot(doses: Doses, *, width: int = 440, height: int = 232) -> str:
    """Change of entropy and loss against the clamped value, with interval bands; diamonds at the mean activation.

    Empty if there are fewer than two values or no change is known.
    """
    known = [v[np.isfinite(v)] for c in doses.curves for v in (c.total, c.low, c.high, c.direct)]
    if len(doses.values) < 2 or not any(map(len, known)):
        return ""
    first, last = float(doses.values[0]), float(doses.values[-1])
    extent = np.concatenate([np.zeros(1), *known]) / UNIT
    low, high = float(extent.min()), float(extent.max())
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin
    left, right, top, foot = 52, 12, 40, 38
    base = height - foot

    def at_x(value: float) -> float:
        return left + 6 + (value - first) / (last - first) * (width - left - right - 12)

    def at_y(value: float) -> float:
        return base - (value - low) / (high - low) * (base - top)

    parts = [_legend(doses.curves, left)]
    for tick in ticks(low, high):
        y, colour = at_y(tick), "#9aa3ac" if abs(tick) < 1e-12 else "#e3e7ea"
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick)}</text>')
    for tick in ticks(first, last):
        x = at_x(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}" stroke="#9aa3ac"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{_tick(tick)}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{height - 4}" text-anchor="middle">activation held at</text>')
    at_mean = None
    if doses.mean is not None and first <= doses.mean <= last:
        at_mean = at_x(doses.mean)
        shift, anchor = (5, "start") if at_mean < width * 0.7 else (-5, "end")
        ends = f'x1="{at_mean:.1f}" x2="{at_mean:.1f}" y1="{top - 14}" y2="{base}"'
        parts.append(f'<line {ends} stroke="#5b6670" stroke-width="1"/>')
        label = f'x="{at_mean + shift:.1f}" y="{top - 5}" text-anchor="{anchor}"'
        parts.append(f"<text {label}>mean {number(doses.mean)}</text>")
    x = [at_x(float(value)) for value in doses.values]
    drawn = [_curve(curve, x, at_y, at_mean) for curve in doses.curves]
    parts += [band for band, _ in drawn] + [lines for _, lines in drawn]
    label = (
        f"Change of {' and '.join(curve.outcome for curve in doses.curves)} with the activation held at "
        f"{len(doses.values)} values from {number(first)} to {number(last)}"
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )
