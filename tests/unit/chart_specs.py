"""What is in a chart: for tests that ask what a figure draws."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt


def parts(spec: dict) -> Iterator[dict]:
    """All charts within a chart; those without data of their own have that of what they are in."""
    yield spec
    for key in ("layer", "hconcat", "vconcat", "concat"):
        for part in spec.get(key, []):
            yield from parts({"data": spec["data"], **part} if "data" in spec else part)


def rows(whole: dict, part: dict) -> list[dict]:
    """The rows that a chart draws, before its own filters."""
    return whole["datasets"][part["data"]["name"]]


def marks(whole: dict, kind: str) -> list[dict]:
    """Charts of one mark."""
    return [part for part in parts(whole) if isinstance(part.get("mark"), dict) and part["mark"]["type"] == kind]


def field(part: dict, channel: str) -> str | None:
    """The column that a channel shows."""
    return part.get("encoding", {}).get(channel, {}).get("field")


def titles(whole: dict) -> list[str]:
    """Of the figure, then of its panels."""
    return [part["title"]["text"] for part in parts(whole) if isinstance(part.get("title"), dict)]


def spec(chart: alt.TopLevelMixin) -> dict:
    """The chart as Vega-Lite; it is checked against the grammar where it is drawn."""
    return chart.to_dict(validate=False)


def subtitle(chart: alt.TopLevelMixin) -> str:
    """All lines in one."""
    return " | ".join(spec(chart)["title"]["subtitle"])
