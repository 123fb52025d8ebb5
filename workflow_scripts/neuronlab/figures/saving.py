"""Writing one chart in several formats, atomically, with the same bytes on every run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from neuronlab.figures.pdf import settled_pdf
from neuronlab.figures.svg import compact
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
    with alt.data_transformers.enable("default", max_rows=None):
        spec = chart.to_dict(context={"pre_transform": False})
    # Drawn once, and the other pictures made of that one: each drawing takes as long as starting a job.
    svg = _settled_svg(_drawn(spec)) if any(path.suffix in (".svg", ".png", ".pdf") for path in targets) else ""
    for path in targets:
        with atomic_path(path) as temporary:
            kind = path.suffix.lstrip(".")
            if kind == "svg":
                temporary.write_text(svg, encoding="utf-8")
            elif kind == "png":
                temporary.write_bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))
            elif kind == "pdf":
                temporary.write_bytes(settled_pdf(vl_convert.svg_to_pdf(svg)))
            elif kind == "html":
                chart.save(str(temporary), format="html", inline=True)
            else:
                temporary.write_text(json.dumps(spec), encoding="utf-8")


def _drawn(spec: dict[str, Any]) -> str:
    """The picture, small, with its title and subtitle as its label."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    title = spec.get("title", {})
    words = [title.get("text", ""), *title.get("subtitle", [])] if isinstance(title, dict) else [title]
    return compact(vl_convert.vegalite_to_svg(spec, vl_version=version), label=". ".join(filter(None, words)))


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
