"""Log-ratios of first tokens before and after a replacement, as two figures of knowledge conflicts read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import copying_data, densities, groups, theme
from neuronlab.figures.copying_labels import COLOURS, NAMES
from neuronlab.schemas_knowledge import LABELS, RATIOS
from neuronlab.tables import read_table

WHOLE = "object_ck_pk"
# Who gains above 0 and who below it, for the axes.
ENDS = {"ck_pk": ("PK", "CK"), "nd_ck": ("CK", "ND"), "nd_pk": ("PK", "ND"), WHOLE: ("PK", "CK")}
LIMIT = 4  # columns: selections
WIDTHS = {1: 520, 2: 360, 3: 270, 4: 220}
TAIL = 0.01  # of a class may lie beyond either end of an axis


def read(
    states: Sequence[str | Path],
    decoded: Sequence[str | Path],
    conflicts: str | Path,
    variants: str | Path,
    replacement: str,
) -> tuple[pl.DataFrame, bool]:
    """The shards of `states` and `decoded` joined (see `ratios`), and whether there is a selection at all."""
    chosen = shown_variants(read_table(variants, "variants"), replacement)
    prompts = read_table(conflicts, "conflicts").select("prompt", "fact")
    wanted = pl.col("variant").is_in([0, *chosen["variant"].to_list()]) & pl.col("route").is_in(["clean", "total"])
    # Most rows are those of control sets.
    kept = [read_table(path, "states", rows=wanted) for path in states]
    clean = pl.col("variant") == 0
    labels = [
        read_table(path, "decoded", ["prompt", "variant", "label"], rows=clean).drop("variant") for path in decoded
    ]
    return ratios(pl.concat(kept), pl.concat(labels), prompts, chosen), len(chosen) > 0


def shown_variants(variants: pl.DataFrame, replacement: str) -> pl.DataFrame:
    """variant and set of every selection under one replacement, in the order that all figures have.

    Raises:
        MissingReplacement: if there are selections, and none with this replacement.
    """
    found = copying_data.one_replacement(variants.filter(pl.col("kind") == "selection"), replacement)
    order = {name: place for place, name in enumerate(groups.highlighted_sets(found, None))}
    place = pl.col("set").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    return found.select("variant", "set").sort(place)


def ratios(states: pl.DataFrame, labels: pl.DataFrame, prompts: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """One row per selection, ratio and prompt: set, ratio, prompt, fact, label (clean), before, after (nats).

    The competitor of ND is the clean model's, before and after (METHODS B defect 7). Ratios of whole objects are left
    out where a log-probability is missing.

    Args:
        states: rows of the route `clean` (variant 0) and `total` (the variants of `chosen`).
        labels: prompt, label under the clean model.
        prompts: prompt, fact.
        chosen: variant, set.
    """
    log = {name: pl.col(f"log_prob_{name}") for name in ("ck", "nd", "pk")}
    values = {name: log[name.split("_")[0]] - log[name.split("_")[1]] for name in RATIOS}
    values[WHOLE] = pl.col("object_log_prob_ck") - pl.col("object_log_prob_pk")
    long = states.select("prompt", "variant", "route", **values).unpivot(
        list(values), index=["prompt", "variant", "route"], variable_name="ratio"
    )
    before = long.filter(pl.col("route") == "clean").select("prompt", "ratio", before="value")
    after = long.filter(pl.col("route") == "total").join(chosen, on="variant", how="inner")
    joined = (
        after.select("set", "ratio", "prompt", after="value")
        .join(before, on=["prompt", "ratio"], how="inner")
        .join(labels, on="prompt", how="inner")
        .join(prompts, on="prompt", how="inner")
        .drop_nulls(["before", "after"])
    )
    order = {name: place for place, name in enumerate(chosen["set"])}
    return joined.select("set", "ratio", "prompt", "fact", "label", "before", "after").sort(
        pl.col("set").replace_strict(order, default=len(order), return_dtype=pl.Int64),
        pl.col("ratio").replace_strict({name: i for i, name in enumerate(values)}, return_dtype=pl.Int64),
        "prompt",
    )


def class_counts(frame: pl.DataFrame) -> dict[str, int]:
    """Prompts per clean label, all labels named."""
    found = dict(frame.group_by("label").agg(pl.col("prompt").n_unique()).iter_rows())
    return {label: int(found.get(label, 0)) for label in LABELS}


def span(samples: Sequence[np.ndarray]) -> tuple[float, float]:
    """A domain that holds 0 and, of every sample, all but a share `TAIL` at either end; some margin."""
    ends = [np.quantile(v, [TAIL, 1 - TAIL]) for v in samples if len(v)]
    low, high = min([0.0, *(e[0] for e in ends)]), max([0.0, *(e[1] for e in ends)])
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def beyond(values: Sequence[np.ndarray], domain: tuple[float, float]) -> int:
    """How many of all values lie outside of `domain`."""
    return int(sum(((v < domain[0]) | (v > domain[1])).sum() for v in values))


def part(name: str) -> str:
    """The filter of a layer: the rows of the data whose column `part` holds `name`."""
    return f"datum.part == '{name}'"


def axis_title(ratio: str, change: bool = False) -> list[str]:
    """What the axis shows, and which label gains to either side."""
    below, above = ENDS[ratio]
    name = RATIOS[ratio.removeprefix("object_")]
    tokens = "whole objects" if ratio == WHOLE else "first tokens"
    sides = f"\N{LEFTWARDS ARROW} {below} | {above} \N{RIGHTWARDS ARROW}"
    return [f"change of {name} (nats)" if change else f"{name} (nats)", f"{tokens}:  {sides}"]


def colour(counts: dict[str, int], *, legend: bool = True) -> alt.Color:
    """Colour by label; the legend gives the number of prompts of each."""
    words = {label: f"{NAMES[label]}: {theme.count(counts[label], 'prompt')}" for label in LABELS}
    shown = alt.Legend(
        title="label under the clean model",
        labelExpr=f"({words})[datum.value]",
        orient="bottom",
        direction="horizontal",
        titleOrient="left",
        symbolType="square",
    )
    scale = alt.Scale(domain=list(LABELS), range=[COLOURS[label] for label in LABELS])
    return alt.Color("label:N", scale=scale, legend=shown if legend else None)


def about(frame: pl.DataFrame, model: str, facts: str) -> list[str]:
    """First line of the subtitle; without numbers where nothing is drawn."""
    prompts, known = frame["prompt"].n_unique(), frame["fact"].n_unique()
    numbers = f"{theme.count(prompts, 'prompt')} of {theme.count(known, 'fact')}" if len(frame) else ""
    return [theme.about(model, None, f"facts {facts}", numbers)]


def few_note(counts: dict[str, int]) -> str | None:
    """Said if a label has prompts, but too few of them for a curve."""
    few = any(0 < number < densities.FEW for number in counts.values())
    return f"ticks instead of curves for labels with fewer than {densities.FEW} prompts" if few else None


def hidden_note(hidden: int) -> str | None:
    """Said if there are more selections than columns."""
    return f"{theme.count(hidden, 'further selection')} in the table, not drawn" if hidden else None


def row_of_panels(
    layers: Sequence[alt.Chart], data: pl.DataFrame, sets: Sequence[str], *, width: int, height: int, named: bool
) -> alt.FacetChart:
    """One ratio: a panel per selection, side by side, from layers without data of their own.

    One facet in place of a chart per panel: the time that a figure takes is that of copying and checking its layers.
    """
    header = alt.Header(
        title=None,
        labels=named,
        labelExpr=f"({ {name: groups.set_label(name) for name in sets} })[datum.value]",
        labelFontSize=13.5,
        labelFontWeight="bold",
        labelAnchor="start",
        labelPadding=8,
    )
    made = alt.layer(*layers).properties(width=width, height=height)
    return made.facet(column=alt.Column("set:N", sort=list(sets), header=header), data=data, spacing=18)


def nothing(frame: pl.DataFrame, chosen: bool) -> str | None:
    """Why there is nothing to draw; None if there is."""
    if not chosen:
        return "no set of last-layer neurons is ablated"
    return None if len(frame) else "no conflict prompt was decoded"
