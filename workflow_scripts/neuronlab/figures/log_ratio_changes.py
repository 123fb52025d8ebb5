"""How a replacement changes the log-ratios of the objects' first tokens, by clean label (study B's noise).

A mean away from 0 moves a class of prompts towards one answer; a wide density moves prompts both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import densities, effects_data, log_ratios, saving, theme
from neuronlab.schemas_knowledge import LABELS
from neuronlab.statistics import bootstrap_weights, clustered_interval

TITLE = "Changes of the log-ratios"
HEIGHT, GRID = 170, 110
LINE, WORDS = 16, 58  # pixels of a line of text, and of the upper part of a panel that is kept free for it


def means(frame: pl.DataFrame, *, level: float, resamples: int, seed: int) -> pl.DataFrame:
    """Mean change by selection, ratio and clean label, with its interval: set, ratio, label, n, mean, low, high.

    The bootstrap draws facts, whose prompts belong together; all labels and ratios share its draws. An interval is
    missing where there is one fact only, or where a label is so rare that many draws do not hold it.
    """
    facts = frame["fact"].unique().sort()
    schema = {"set": pl.String, "ratio": pl.String, "label": pl.String, "n": pl.Int64}
    schema |= {"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    if not len(facts):
        return pl.DataFrame(schema=schema)
    weights = bootstrap_weights(len(facts), resamples, seed)
    place = frame.with_columns(
        change=pl.col("after") - pl.col("before"),
        cluster=pl.col("fact").replace_strict(facts, pl.int_range(len(facts), eager=True)),
    )
    rows = []
    for (name, ratio, label), own in place.group_by("set", "ratio", "label", maintain_order=True):
        cluster, change = own["cluster"].to_numpy(), own["change"].to_numpy()
        sums = np.bincount(cluster, weights=change, minlength=len(facts))
        counts = np.bincount(cluster, minlength=len(facts))
        found = clustered_interval(sums, counts, weights, level)
        rows.append((name, ratio, label, len(own), *(float(v) for v in (found.estimate, found.low, found.high))))
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("low", "high").fill_nan(None))


def curves(rows: pl.DataFrame, domain: tuple[float, float]) -> pl.DataFrame:
    """Densities of one panel, the highest point at 1; values one by one where a label has too few.

    Returns:
        label, part (`curve` or `tick`), x, density (missing for ticks).
    """
    grid = np.linspace(*domain, GRID)
    found: list[dict] = []
    for label in LABELS:
        own = rows.filter(pl.col("label") == label)
        values = (own["after"] - own["before"]).to_numpy()
        if len(values) < densities.FEW:
            found += [{"label": label, "part": "tick", "x": float(v), "density": None} for v in values]
            continue
        # A kernel narrower than the grid would fall between its points.
        width = max(densities.bandwidth(values), (domain[1] - domain[0]) / GRID)
        y = densities.density(values, grid, width)
        points = zip(grid, y, strict=True)
        found += [{"label": label, "part": "curve", "x": float(a), "density": float(b)} for a, b in points]
    schema = {"label": pl.String, "part": pl.String, "x": pl.Float64, "density": pl.Float64}
    frame = pl.DataFrame(found, schema=schema)
    return frame.with_columns(pl.col("density") / pl.col("density").max())


def statement(row: dict) -> str:
    """'CK −0.0123 [−0.0151, −0.0094]', two digits of the interval's half; without brackets where there is none."""
    names = ("mean", "low", "high")
    half = 0.0 if row["low"] is None else (row["high"] - row["low"]) / 2
    if half > 0:
        places = int(np.clip(1 - np.floor(np.log10(half)), 0, 6))
        mean, low, high = (f"{round(row[name], places) + 0.0:+.{places}f}" for name in names)
    else:
        mean, low, high = ("" if row[name] is None else f"{row[name]:+.2g}" for name in names)
    text = f"{row['label']} {mean} [{low}, {high}]" if low else f"{row['label']} {mean}"
    return text.replace("-", theme.MINUS)


def words(said: pl.DataFrame) -> pl.DataFrame:
    """What each panel says, one line for each label that has prompts: set, label, part, density (its height), text."""
    top = HEIGHT / (HEIGHT - WORDS)
    rows = [
        {
            "set": row["set"],
            "label": row["label"],
            "part": "text",
            "density": top * (1 - (LINE * LABELS.index(row["label"]) + 8) / HEIGHT),
            "text": statement(row),
        }
        for row in said.iter_rows(named=True)
    ]
    names = ("set", "label", "part", "text")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String) | {"density": pl.Float64})


def layers(ratio: str, domain: tuple[float, float], colour: alt.Color) -> list[alt.Chart]:
    """The layers of a panel, without data."""
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=list(domain), nice=False, zero=False),
        axis=alt.Axis(title=log_ratios.axis_title(ratio, change=True), tickCount=6),
    )
    y = alt.Y(
        "density:Q",
        scale=alt.Scale(domain=[0, HEIGHT / (HEIGHT - WORDS)], nice=False),
        axis=alt.Axis(title="density, relative", values=[0, 0.5, 1], grid=False),
        stack=None,
    )
    base = alt.Chart().encode(color=colour)
    curve = base.mark_area(fillOpacity=0.2, line={"strokeWidth": 1.8}, clip=True)
    tick = base.mark_tick(orient="vertical", size=14, thickness=2, clip=True, opacity=1)
    said = alt.Chart().transform_filter(log_ratios.part("text"))
    text = said.mark_text(align="left", baseline="middle", fontSize=12, color=theme.INK)
    square = said.mark_square(size=80, opacity=1)
    zero = said.mark_rule(color=theme.INK, strokeDash=[4, 3])
    return [
        curve.transform_filter(log_ratios.part("curve")).encode(x=x, y=y),
        tick.transform_filter(log_ratios.part("tick")).encode(x=x, y=alt.value(HEIGHT - 8)),
        zero.encode(x=alt.datum(0.0), y=alt.value(WORDS), y2=alt.value(HEIGHT)),
        square.encode(x=alt.value(10), y=y, color=colour),
        text.encode(x=alt.value(20), y=y, text="text:N"),
    ]


def chart(
    frame: pl.DataFrame,
    *,
    model: str,
    facts: str,
    replacement: str,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    chosen: bool = True,
) -> alt.TopLevelMixin:
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
    frame = frame.filter(pl.col("set").is_in(shown))
    said = means(frame, level=level, resamples=resamples, seed=seed)
    counts = log_ratios.class_counts(frame)
    colour = log_ratios.colour(counts)
    rows, cut = [], 0
    for ratio in frame["ratio"].unique(maintain_order=True):
        here = frame.filter(pl.col("ratio") == ratio)
        parts = here.partition_by("set", maintain_order=True)
        changes = [(p["after"] - p["before"]).to_numpy() for p in here.partition_by("set", "label")]
        domain = log_ratios.span(changes)
        cut += log_ratios.beyond(changes, domain)
        drawn = [curves(p, domain).with_columns(set=pl.lit(p["set"][0])) for p in parts]
        data = pl.concat([*drawn, words(said.filter(pl.col("ratio") == ratio))], how="diagonal")
        made = layers(ratio, domain, colour)
        rows.append(log_ratios.row_of_panels(made, data, shown, width=width, height=HEIGHT, named=not rows))
    subtitle = [
        *about,
        f"numbers: mean change (nats) with {100 * level:g} % interval, bootstrap by fact",
        "ND: the clean model's best other token, the same before and after",
        "density: the highest of a panel is 1",
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
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Rule `draw_log_ratio_changes`: read the tables, write the figure in the formats of `figures`' suffixes."""
    frame, chosen = log_ratios.read(states, decoded, conflicts, variants, replacement)
    options = {"level": level, "resamples": resamples, "seed": seed, "chosen": chosen}
    made = chart(frame, model=model, facts=facts, replacement=replacement, **options)
    saving.save(made, figures)
