"""Writing one chart in several formats, atomically, with the same bytes on every run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import altair as alt

from neuronlab.figures.pdf import settled_pdf
from neuronlab.tables import atomic_path

FORMATS = ("svg", "png", "pdf", "html", "json")
PNG_SCALE = 2.0


class FigureError(ValueError):
    """A figure that cannot be written as asked."""


def save(chart: alt.TopLevelMixin, paths: Sequence[str | Path]) -> None:
    """Write `chart` to every path, in the format that its suffix names.

    HTML carries its scripts within it (about 1 MB) and works offline. All formats are rendered to temporary
    files first and put in place one by one.

    Raises:
        FigureError: for no path, or a suffix that is not one of `FORMATS`; nothing is written then.
    """
    targets = [Path(path) for path in paths]
    if not targets:
        raise FigureError("no path to save the figure to: name at least one format in the config key figures.formats")
    for path in targets:
        if path.suffix.lstrip(".") not in FORMATS:
            raise FigureError(f"{path}: cannot write '{path.suffix}'; figures.formats takes {', '.join(FORMATS)}")
    for path in targets:
        with atomic_path(path) as temporary:
            kind = path.suffix.lstrip(".")
            if kind == "html":
                chart.save(str(temporary), format="html", inline=True)
            elif kind == "png":
                chart.save(str(temporary), format="png", scale_factor=PNG_SCALE)
            else:
                chart.save(str(temporary), format=kind)
            if kind == "svg":
                temporary.write_text(_settled_svg(temporary.read_text(encoding="utf-8")), encoding="utf-8")
            elif kind == "pdf":
                temporary.write_bytes(settled_pdf(temporary.read_bytes()))


def _settled_svg(svg: str) -> str:
    """The picture with ids counted from 0, and able to shrink to the page that it is shown on.

    The renderer numbers gradients and clips over the life of the process, so the same chart would differ by
    what was drawn before it.
    """
    for kind in ("gradient", "clip"):
        numbers: dict[str, int] = {}
        svg = re.sub(
            rf"\b({kind}_?)(\d+)\b",
            lambda found, seen=numbers: f"{found[1]}{seen.setdefault(found[2], len(seen))}",
            svg,
        )
    return svg.replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)
