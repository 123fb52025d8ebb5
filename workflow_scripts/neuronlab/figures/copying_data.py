"""What several figures of context copying need of the tables: selections, one replacement, ranges of controls."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from neuronlab.figures import groups, theme
from neuronlab.figures.copying_labels import present_controls

LIMIT = 6  # selections drawn; more would not fit the page
RANGE = (0.025, 0.975)  # of control sets
RANGE_WORDS = "2.5 to 97.5 % of the control sets"


class MissingReplacement(ValueError):
    """A figure asks for a replacement that the tables do not hold."""


def one_replacement(frame: pl.DataFrame, replacement: str) -> pl.DataFrame:
    """The rows of one replacement; all of an empty table.

    Raises:
        MissingReplacement: if there are others only; the message lists them.
    """
    present = replacements(frame)
    if present and replacement not in present:
        raise MissingReplacement(
            f"no scores of replacement '{replacement}': the table holds {', '.join(present)}; "
            "name one of them, or add it to the config key context_copying.replacements"
        )
    return frame.filter(pl.col("replacement") == replacement)


def replacements(frame: pl.DataFrame) -> list[str]:
    """What activations are replaced by, in the order of the table; without doses and the clean model."""
    return [name for name in frame["replacement"].unique(maintain_order=True).to_list() if name not in ("dose", "none")]


def selections(frame: pl.DataFrame) -> list[str]:
    """The selections to draw, in the order that all figures have."""
    if "kind" in frame.columns:
        return groups.highlighted_sets(frame, None)[:LIMIT]
    return groups.highlighted_sets(frame.with_columns(kind=pl.lit("selection")), None)[:LIMIT]


def left_out(frame: pl.DataFrame) -> str | None:
    """The statement about selections that are not drawn."""
    own = frame.filter(pl.col("kind") == "selection") if "kind" in frame.columns else frame
    number = own["set"].n_unique() - LIMIT
    return f"{theme.count(number, 'further selection')} in the table, not drawn" if number > 0 else None


def set_colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of each selection, as in all figures."""
    labels = [groups.set_label(name) for name in names]
    found = dict(zip(*groups.colours(labels), strict=True))
    return {name: found[label] for name, label in zip(names, labels, strict=True)}


def control_kinds(frame: pl.DataFrame) -> list[str]:
    """Kinds of control sets that a table holds, in the order that all figures have."""
    column = "kind" if "kind" in frame.columns else "controls"
    return present_controls(frame[column].unique().to_list())


def control_ranges(frame: pl.DataFrame, by: Sequence[str], value: str = "value") -> pl.DataFrame:
    """Mean and `RANGE` of `value` over control sets, for each of `by`.

    Columns: those of `by`, mean, low, high, n_sets; sets where the value is missing do not count, and where none is
    left mean, low and high are missing.
    """
    quantiles = {name: pl.col(value).quantile(at, "linear") for name, at in zip(("low", "high"), RANGE, strict=True)}
    return (
        frame.group_by(list(by), maintain_order=True)
        .agg(mean=pl.col(value).mean(), n_sets=pl.col(value).count(), **quantiles)
        .sort(list(by), maintain_order=True)
    )


def percent(value: float | None) -> str:
    """0.0312 is '3.1 %', 0.9996 is '> 99.9 %', since only all is '100 %'; 'missing' if it is."""
    if value is None:
        return "missing"
    shown = 100 * value
    text = f"{shown:.{2 if shown < 10 else 3}g}"
    return "> 99.9 %" if text == "100" and value < 1 else f"{text} %"


def probability(value: float | None) -> str:
    """'p = 0.0099'; 'no p' if missing."""
    return "no p value" if value is None else f"p = {value:.2g}"


def sample(frame: pl.DataFrame) -> str | None:
    """'4,326 prompts of 1,452 facts', from a table with their numbers."""
    if not len(frame):
        return None
    prompts, facts = frame["n_prompts"].max(), frame["n_facts"].max()
    return f"{theme.count(int(prompts), 'prompt')} of {theme.count(int(facts), 'fact')}"


def share_ticks(end: float, number: int = 5) -> list[float]:
    """Round shares from 0 to `end` (but not above 1), about `number` of them."""
    end = min(end, 1.0)
    step = theme.round_up(end / (number + 1))
    return [float(f"{i * step:.6g}") for i in range(int(end / step + 1e-9) + 1)]


def ticks(end: float, *, root: bool) -> list[float]:
    """As `share_ticks`; on a square-root axis about equally far from one another as drawn."""
    if not root:
        return share_ticks(end, 4)
    found = [theme.round_up(end * (i / 4) ** 2 * 0.7) for i in range(1, 5)]
    return [0.0, *dict.fromkeys(tick for tick in found if tick <= end)]


def percent_axis(title: str | None, **options: object) -> alt.Axis:
    """An axis of shares, labelled in percent."""
    count = {} if "values" in options else {"tickCount": 5}  # a count would thin out given values on a symlog scale
    return alt.Axis(title=title, labelExpr="format(100 * datum.value, '~g')", **count, **options)
