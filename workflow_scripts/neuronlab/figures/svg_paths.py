"""Numbers and paths of pictures, short: hundredths of a pixel, steps from point to point instead of places."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONG = re.compile(r"-?\d*\.\d{3,}(?:e-?\d+)?|-?\d+(?:\.\d+)?e-?\d+")
# Paths that consist of moves and straight lines, as lines and areas do; others keep their form.
STRAIGHT = re.compile(r"(?:[ML]-?[\d.]+,-?[\d.]+|[hvHV]-?[\d.]+|Z)+")
STEP = re.compile(r"([MLhvHVZ])(?:(-?[\d.]+)(?:,(-?[\d.]+))?)?")


def rounded(text: str) -> str:
    """`text` with its numbers to two decimals."""
    return LONG.sub(lambda found: _number(round(float(found[0]) * 100)), text)


def line_path(start: tuple[str, str], step: tuple[str, str]) -> str:
    """A line from `start` by `step`."""
    (x, y), (dx, dy) = ((_hundredths(a), _hundredths(b)) for a, b in (start, step))
    return f"M{_pair(x, y)}{_move(dx, dy)}"


def dot_path(places: Sequence[tuple[float, float]]) -> str:
    """Lines of no length: dots, if their ends are round."""
    return "".join(f"M{_pair(round(x * 100), round(y * 100))}h0" for x, y in places)


def apart(places: Sequence[tuple[float, float]], distance: float) -> list[list[tuple[float, float]]]:
    """The places in as many lists as it takes that no two of a list are nearer than `distance`."""
    layers: list[list[tuple[float, float]]] = []
    grids: list[dict[tuple[int, int], list[tuple[float, float]]]] = []  # of each layer: its places by cell
    for x, y in places:
        column, row = int(x // distance), int(y // distance)
        around = [(column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        number = next((i for i, grid in enumerate(grids) if _free(grid, around, (x, y), distance)), len(grids))
        if number == len(grids):
            layers.append([])
            grids.append({})
        layers[number].append((x, y))
        grids[number].setdefault((column, row), []).append((x, y))
    return layers


def _free(
    grid: dict[tuple[int, int], list[tuple[float, float]]],
    around: Sequence[tuple[int, int]],
    place: tuple[float, float],
    distance: float,
) -> bool:
    near = (other for cell in around for other in grid.get(cell, ()))
    return all((place[0] - x) ** 2 + (place[1] - y) ** 2 >= distance**2 for x, y in near)


def relative(d: str) -> str:
    """A path with its lines as steps, where it has nothing but moves and lines; rounding does not add up."""
    d = rounded(d)
    if not STRAIGHT.fullmatch(d):
        return d
    x = y = first_x = first_y = 0
    parts: list[str] = []
    for command, a, b in STEP.findall(d):
        if command == "Z":
            x, y = first_x, first_y
            parts.append("Z")
            continue
        old_x, old_y = x, y
        if command in "ML":
            x, y = _hundredths(a), _hundredths(b)
        elif command in "hH":
            x = _hundredths(a) + (x if command == "h" else 0)
        else:
            y = _hundredths(a) + (y if command == "v" else 0)
        if command == "M":
            first_x, first_y = x, y
            parts.append(f"M{_pair(x, y)}")
            continue
        step = _move(x - old_x, y - old_y)
        # "l1,2l3,4" is "l1,2 3,4", and a minus needs no blank.
        repeated = step[0] == "l" and parts and parts[-1][0] in "l -"
        parts.append((step[1:] if step[1] == "-" else f" {step[1:]}") if repeated else step)
    return "".join(parts)


def _move(dx: int, dy: int) -> str:
    if not dy:
        return f"h{_number(dx)}"
    return f"l{_pair(dx, dy)}" if dx else f"v{_number(dy)}"


def _pair(x: int, y: int) -> str:
    return f"{_number(x)}{'' if y < 0 else ','}{_number(y)}"


def _hundredths(number: str) -> int:
    return round(float(number) * 100)


def _number(hundredths: int) -> str:
    """A number of hundredths as a decimal, without zeros that say nothing: 5 is .05."""
    whole, rest = divmod(abs(hundredths), 100)
    decimals = f".{rest:02d}".rstrip("0") if rest else ""
    return f"{'-' if hundredths < 0 else ''}{whole if whole or not rest else ''}{decimals}"
