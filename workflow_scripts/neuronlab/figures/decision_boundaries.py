"""Log-ratios of the objects' first tokens before and after a replacement, by clean label (study B).

A prompt near 0 is near a boundary between two answers: a small change of its log-ratio may turn it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import densities, effects_data, log_ratios, saving, theme
from neuronlab.schemas_knowledge import LABELS

TITLE = "Decision boundaries: log-ratios before and after"
HEIGHT, GRID = 130, 110
ROOM = 1.16  # of the highest density: what stands above it is said in words
BEFORE, AFTER = "before", "after"


def curves(rows: pl.DataFrame, domain: tuple[float, float]) -> pl.DataFrame:
    """Densities of one panel; values one by one where a label has too few.

    Before and after have one kernel width, that of before, so that a difference between them is one of the values.

    Returns:
        label, part (`before`, `after`; `tick before`, `tick after` for single values), x, density (missing for ticks).
    """
    grid = np.linspace(*domain, GRID)
    found: list[dict] = []
    for label in LABELS:
        own = rows.filter(pl.col("label") == label)
        width = densities.bandwidth(own[BEFORE].to_numpy()) or (domain[1] - domain[0]) / GRID
        for when in (BEFORE, AFTER):
            values = own[when].to_numpy()
            if len(values) < densities.FEW:
                found += [{"label": label, "part": f"tick {when}", "x": float(v), "density": None} for v in values]
                continue
            points = zip(grid, densities.density(values, grid, width), strict=True)
            found += [{"label": label, "part": when, "x": float(a), "density": float(b)} for a, b in points]
    schema = {"label": pl.String, "part": pl.String, "x": pl.Float64, "density": pl.Float64}
    return pl.DataFrame(found, schema=schema)


def crossings(rows: pl.DataFrame) -> str:
    """'cross 0: CK 3, ND 10, PK 5': prompts whose ratio changes its sign, by clean label."""
    turned = rows.filter((pl.col("before") > 0) != (pl.col("after") > 0))
    return "cross 0: " + ", ".join(f"{label} {turned.filter(pl.col('label') == label).height:,}" for label in LABELS)


def layers(ratio: str, domain: tuple[float, float], top: float, colour: alt.Color, width: int) -> list[alt.Chart]:
    """The layers of a panel, without data."""
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=list(domain), nice=False, zero=False),
        axis=alt.Axis(title=log_ratios.axis_title(ratio), tickCount=6),
    )
    y = alt.Y(
        "density:Q",
        scale=alt.Scale(domain=[0, top], nice=False),
        axis=alt.Axis(title="density", tickCount=3, minExtent=34, grid=False),
        stack=None,
    )
    base = alt.Chart().encode(color=colour)
    area = base.mark_area(opacity=0.3, clip=True).transform_filter(log_ratios.part(BEFORE))
    line = base.mark_line(strokeWidth=1.8, clip=True).transform_filter(log_ratios.part(AFTER))
    ticks = [
        base.mark_tick(orient="vertical", size=14, clip=True, opacity=opacity, thickness=thickness)
        .transform_filter(log_ratios.part(f"tick {when}"))
        .encode(x=x, y=alt.value(HEIGHT - 8))
        for when, opacity, thickness in ((BEFORE, 0.4, 5), (AFTER, 1, 1.6))
    ]
    said = alt.Chart().transform_filter(log_ratios.part("text"))  # one row per panel
    zero = said.mark_rule(color=theme.INK, strokeDash=[4, 3]).encode(x=alt.datum(0.0))
    text = said.mark_text(align="right", baseline="top", fontSize=11.5, color=theme.FAINT)
    text = text.encode(text="text:N", x=alt.value(width - 2), y=alt.value(0))
    return [area.encode(x=x, y=y), line.encode(x=x, y=y), zero, *ticks, text]


def chart(frame: pl.DataFrame, *, model: str, facts: str, replacement: str, chosen: bool = True) -> alt.TopLevelMixin:
    """The figure, from what `log_ratios.read` returns.

    Args:
        chosen: whether any selection is ablated at all; for what an empty figure says.
    """
    about = [*log_ratios.about(frame, model, facts), effects_data.replaced_by(replacement)]
    missing = log_ratios.nothing(frame, chosen)
    if missing:
        return theme.finish(theme.note_chart(missing), TITLE, about)
    sets = frame["set"].unique(maintain_order=True).to_list()
    shown, width = sets[: log_ratios.LIMIT], log_ratios.WIDTHS[min(len(sets), log_ratios.LIMIT)]
    counts = log_ratios.class_counts(frame)
    colour = log_ratios.colour(counts)
    rows, cut = [], 0
    for ratio in frame["ratio"].unique(maintain_order=True):
        here = frame.filter((pl.col("ratio") == ratio) & pl.col("set").is_in(shown))
        values = [p[when].to_numpy() for p in here.partition_by("set", "label") for when in (BEFORE, AFTER)]
        domain = log_ratios.span(values)
        cut += log_ratios.beyond(values, domain)
        parts = here.partition_by("set", maintain_order=True)
        drawn = [curves(p, domain).with_columns(set=pl.lit(p["set"][0])) for p in parts]
        said = [{"set": p["set"][0], "part": "text", "text": crossings(p)} for p in parts]
        data = pl.concat([*drawn, pl.DataFrame(said)], how="diagonal")
        made = layers(ratio, domain, ROOM * float(data["density"].max() or 1.0), colour, width)
        rows.append(log_ratios.row_of_panels(made, data, shown, width=width, height=HEIGHT, named=not rows))
    subtitle = [
        *about,
        "filled: clean model; line: activations replaced",
        "areas are 1 for each label",
        "ND: the clean model's best other token, the same before and after",
        log_ratios.few_note(counts),
        f"{theme.count(cut, 'value')} beyond the panels' ends" if cut else None,
        log_ratios.hidden_note(len(sets) - len(shown)),
    ]
    return theme.finish(alt.vconcat(*rows, spacing=14), TITLE, subtitle)


def draw(
    *,
    states: Sequence[str | Path],
    decoded: Sequence[str | Path],
    conflicts: str | Path,
    variants: str | Path,
    figures: Sequence[str | Path],
    model: str,
    facts: str,
    replacement: str,
) -> None:
    """Rule `draw_decision_boundaries`: read the tables, write the figure in the formats of `figures`' suffixes."""
    frame, chosen = log_ratios.read(states, decoded, conflicts, variants, replacement)
    made = chart(frame, model=model, facts=facts, replacement=replacement, chosen=chosen)
    saving.save(made, figures)
