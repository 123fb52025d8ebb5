"""How models look in figures of several: a colour per family, and within a family a shade per model.

Where all are of one family, each model has a colour of its own: there is nothing else to tell apart. Models stay in the
order of the configuration, within their family; those named later are darker, as a family is mostly named by size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from neuronlab.figures import depth_lines, theme
from neuronlab.figures.depth_lines import DASHES, MODEL_COLOURS, Look

Families = Mapping[str, str]  # family by model
SHADES = 4  # of a colour, at most; beyond them a family's lines are dashed
PALEST, DARKEST = 0.5, 0.4  # shares of white and of black in the ends of a family's shades


def families_of(tables: Mapping[str, Sequence[pl.DataFrame | None]]) -> dict[str, str]:
    """Family by model, from whichever table says; a model with empty tables has none, and is left alone.

    Args:
        tables: tables by model, with a column `family` or without.
    """
    found = {}
    for model, frames in tables.items():
        said = [
            frame["family"][0] for frame in frames if frame is not None and "family" in frame.columns and len(frame)
        ]
        found[model] = said[0] if said else ""
    return found


def grouped(families: Families) -> dict[str, list[str]]:
    """Models by family, both in the order of their first appearance."""
    groups: dict[str, list[str]] = {}
    for model, family in families.items():
        groups.setdefault(family, []).append(model)
    return groups


def looks_of(families: Families) -> list[Look]:
    """A look for each model, families together."""
    groups = grouped(families)
    if len(groups) < 2:
        return depth_lines.model_looks(list(families))
    looks = []
    for number, models in enumerate(groups.values()):
        turn, place = divmod(number, len(MODEL_COLOURS))
        shades = min(len(models), SHADES)
        for i, model in enumerate(models):
            dash = DASHES[(turn + i // SHADES) % len(DASHES)]
            looks.append(Look(model, shade(MODEL_COLOURS[place], i % SHADES, shades), dash))
    return looks


def shade(colour: str, place: int, shades: int) -> str:
    """Shade `place` of a colour: from pale to dark, the colour itself where there is one."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    at = 0.0 if shades == 1 else PALEST - (PALEST + DARKEST) * place / (shades - 1)
    mixed = [part + at * (255 - part) if at > 0 else part * (1 + at) for part in parts]
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def encodings(families: Families) -> dict[str, alt.Color | alt.StrokeDash]:
    """Colour and dash of the column `model`, without a legend: `key` says what they mean."""
    looks = looks_of(families)
    names = [look.name for look in looks]
    colour = alt.Scale(domain=names, range=[look.colour for look in looks])
    dash = alt.Scale(domain=names, range=[list(look.dash) for look in looks])
    return {
        "color": alt.Color("model:N", scale=colour, sort=names, legend=None),
        "strokeDash": alt.StrokeDash("model:N", scale=dash, sort=names, legend=None),
    }


def key(families: Families, width: int) -> alt.VConcatChart:
    """What the lines mean: a row for each family, its name in front; rows without names for a single family."""
    looks, groups = looks_of(families), grouped(families)
    if len(groups) < 2:
        return alt.vconcat(depth_lines.key(looks, looks, width))
    room = int(max(60, 7.4 * max(map(len, groups)) + 14))
    rows = []
    for family, models in groups.items():
        names = pl.DataFrame({"family": [family]})
        head = alt.Chart(names).mark_text(
            align="left", baseline="middle", fontSize=12.5, fontWeight="bold", color=theme.INK
        )
        head = head.encode(x=alt.value(0), y=alt.value(9), text="family:N").properties(width=room, height=18)
        own = [look for look in looks if look.name in models]
        rows.append(alt.hconcat(head, depth_lines.key(looks, own, width - room), spacing=0))
    return alt.vconcat(*rows, spacing=2)
