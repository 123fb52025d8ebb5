"""The two drawings of a neuron card, as inline SVG: activation histogram, effects with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10

OUTCOME_NAMES = {"loss": "loss", "entropy": "entropy", "kl": "KL"}
MINUS, MISSING = "\N{MINUS SIGN}", "\N{EN DASH}"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, plain where short; a dash for a missing value."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e5:
        decimals = max(digits - 1 - floor(log10(size)), 0)
        text = f"{value:,.{decimals}f}"
    else:
        text = f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    return text.replace("-", MINUS)


def histogram(
    counts: Sequence[int], low: float, high: float, mean: float, *, width: int = 440, height: int = 130
) -> str:
    """Counts of activations in equal bins from `low` to `high`, on a logarithmic scale, with the mean marked."""
    if not counts or not sum(counts) or high <= low:
        return '<p class="note">The activation is constant: no histogram.</p>'
    left, foot, top = 8, 24, 18
    inner_width, inner_height = width - 2 * left, height - foot - top
    peak = log10(1 + max(counts))
    step = inner_width / len(counts)
    base, thick = top + inner_height, f"{max(step - 0.6, 0.8):.1f}"
    bars = []  # one path: a rectangle for each bin would be half of the page
    for i, value in enumerate(counts):
        if value:
            size = max(log10(1 + value) / peak * inner_height, 1.0)
            bars.append(f"M{left + i * step:.1f},{base}v-{size:.1f}h{thick}v{size:.1f}Z")

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * inner_width

    marks = [f'<line x1="{left}" x2="{width - left}" y1="{base}" y2="{base}" stroke="#9aa3ac"/>']
    for value, anchor in ((low, "start"), (high, "end")):
        x = left if anchor == "start" else width - left
        marks.append(f'<text x="{x}" y="{base + 16}" text-anchor="{anchor}">{number(value)}</text>')
    if low < 0 < high and 40 < at(0) - left < inner_width - 40:
        marks.append(f'<text x="{at(0):.1f}" y="{base + 16}" text-anchor="middle">0</text>')
    anchor = "start" if at(mean) < width * 0.7 else "end"
    shift = 5 if anchor == "start" else -5
    marks.append(
        f'<line x1="{at(mean):.1f}" x2="{at(mean):.1f}" y1="4" y2="{base}" stroke="#d55e00" stroke-width="2"/>'
        f'<text x="{at(mean) + shift:.1f}" y="13" text-anchor="{anchor}">mean {number(mean)}</text>'
    )
    label = f"Histogram of {sum(counts):,} activations from {number(low)} to {number(high)}, mean {number(mean)}"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f'<path fill="#8b97a3" d="{"".join(bars)}"/>{"".join(marks)}</svg>'
    )


def effect_plot(
    effects: Mapping[str, float | int | str | None],
    layer: Mapping[str, tuple[float, float]],
    *,
    width: int = 440,
    row: int = 40,
) -> str:
    """Total (filled) and direct (hollow) effect per outcome with intervals; the layer's median to 90 % as a band."""
    names = [outcome for outcome in OUTCOME_NAMES if effects.get(f"te_{outcome}") is not None]
    values = [
        effects.get(f"{kind}_{name}{end}") for name in names for kind in ("te", "de") for end in ("", "_low", "_high")
    ]
    values += [value for name in names for value in layer.get(f"te_{name}", ())]
    positive = [float(value) for value in values if isinstance(value, float) and value > 0]
    if not positive:
        return ""
    low, high = log10(min(positive)), log10(max(positive))
    low, high = low - 0.06 * (high - low + 0.5), high + 0.06 * (high - low + 0.5)
    left, foot = 62, 40
    height = row * len(names) + foot

    def at(value: float) -> float:
        return left + (log10(max(value, 10**low)) - low) / (high - low) * (width - left - 10)

    parts = []
    factors = (1, 2, 5) if high - low < 2 else (1,)
    ticks = [factor * 10.0**power for power in range(floor(low), ceil(high) + 1) for factor in factors]
    for tick in ticks:
        if not low <= log10(tick) <= high:
            continue
        x, text = at(tick), f"{tick * 1e3:.6g}".replace("e-0", f"e{MINUS}")
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - foot}" stroke="#e3e7ea"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - foot + 15}" text-anchor="middle">{text}</text>')
    for i, name in enumerate(names):
        middle = 4 + row * i + row / 2
        parts.append(f'<text x="0" y="{middle + 4:.1f}">{OUTCOME_NAMES[name]}</text>')
        if f"te_{name}" in layer:
            start, end = (at(value) for value in layer[f"te_{name}"])
            size = f'x="{start:.1f}" y="{middle - 13:.1f}" width="{max(end - start, 1):.1f}" height="26"'
            parts.append(f'<rect {size} fill="#e4e8eb"/>')
        for kind, offset, fill in (("te", -6, "#d55e00"), ("de", 6, "#ffffff")):
            value, least, most = (effects.get(f"{kind}_{name}{end}") for end in ("", "_low", "_high"))
            if not isinstance(value, float):
                continue
            y = middle + offset
            if isinstance(least, float) and isinstance(most, float):
                ends = f'x1="{at(least):.1f}" x2="{at(most):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
                parts.append(f'<line {ends} stroke="#d55e00" stroke-width="2"/>')
            parts.append(
                f'<circle cx="{at(value):.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="#d55e00" stroke-width="2"/>'
            )
    power = f'10<tspan dy="-4" font-size="9">{MINUS}3</tspan><tspan dy="4"> nats'
    parts.append(f'<text x="{left}" y="{height - 6}">mean |change| ({power}), logarithmic</tspan></text>')
    label = "Total and direct effects with intervals; the numbers are in the table"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )
