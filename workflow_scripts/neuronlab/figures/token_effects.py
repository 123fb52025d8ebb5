"""Effects of single neurons at single tokens (study A, figures 4a and 4c).

Entropy neurons: change of the loss against the clean loss. Token-frequency neurons: change of the entropy against
the change of the distance from the unigram distribution, where the model's top prediction is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import effects_data, groups, saving, theme, token_data
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table
from neuronlab.traced_sample import TracedSample, sample_of

TITLE = "Effects of single neurons at single tokens"
NEURONS = 3
LIMIT = 800
EXTREMES = 25  # rows with the largest change that every panel draws, so that a sample hides none
FEW = 50
WIDTHS = {1: 400, 2: 300, 3: 205}


@dataclass(frozen=True)
class View:
    """What a row of panels shows of a neuron's tokens: columns of the table and their names."""

    x: str
    y: str
    colour: str
    x_title: str
    y_title: str
    colour_title: list[str]
    on_top: bool  # only tokens whose next token the clean model has on top


BY_WEIGHTS = View(
    "loss",
    "loss_total",
    "rr",
    "clean loss (nats)",
    "change of loss (nats)",
    ["1/(rank + 1) of the", "next token, clean"],
    on_top=False,
)
BY_FREQUENCY = View(
    "kl_total",
    "entropy_total",
    "loss_total",
    "change of KL from P_freq (nats)",
    "change of entropy (nats)",
    ["change of", "loss (nats)"],
    on_top=True,
)


def rows_of(traces: pl.DataFrame, neuron: int, view: View) -> pl.DataFrame:
    """The tokens of a neuron that the panel is about: activation above its mean over the traced tokens.

    Columns sequence, position, x, y, colour, in order of the text. With `view.on_top` only where the next token is
    on top in the clean run (reciprocal rank 1).
    """
    own = token_data.with_reciprocal_ranks(traces.filter(pl.col("neuron") == neuron))
    kept = own.filter(pl.col("activation") > pl.col("activation").mean())
    if view.on_top:
        kept = kept.filter(pl.col("rank") == 0)
    return kept.sort("sequence", "position").select("sequence", "position", x=view.x, y=view.y, colour=view.colour)


def sample(frame: pl.DataFrame, *, seed: int, limit: int = LIMIT, extremes: int = EXTREMES) -> pl.DataFrame:
    """At most `limit` rows: the `extremes` with the largest |y|, and others at random; in the frame's order."""
    if len(frame) <= limit:
        return frame
    order = np.argsort(-frame["y"].abs().to_numpy(), kind="stable")
    rest = np.random.default_rng(seed).permutation(order[extremes:])[: limit - extremes]
    return frame[np.sort(np.concatenate([order[:extremes], rest]))]


def _colour(view: View, bound: float) -> alt.Color:
    if view.colour == "rr":
        scale = alt.Scale(domain=[0, 1], scheme=theme.SEQUENTIAL)
        values = [0, 0.5, 1]
    else:
        scale = alt.Scale(domain=[-bound, 0, bound], range=_diverging(), clamp=True, interpolate="lab")
        values = [-bound, -bound / 2, 0, bound / 2, bound]
    title = view.colour_title if view.colour == "rr" else [*view.colour_title, f"(ends at ±{bound:g})"]
    legend = alt.Legend(title=title, gradientLength=130, values=values, format="~g")
    return alt.Color("colour:Q", scale=scale, legend=legend)


def _diverging() -> list[str]:
    return [theme.DIVERGING[0], "#c4c9ce", theme.DIVERGING[-1]]


def _panel(
    shown: pl.DataFrame, view: View, heading: alt.Title, colour: alt.Color, width: int, height: int, first: bool
) -> alt.LayerChart:
    x = Axis("x", view.x_title, tuple(theme.linear_domain(shown["x"], include=[0.0])), pixels=width)
    y = Axis(
        "y",
        view.y_title if first else "",
        tuple(theme.linear_domain(shown["y"], include=[0.0])),
        pixels=height,
    )
    x_axis = alt.Axis(title=view.x_title, tickCount=4)
    base = pl.DataFrame({"zero": [0.0]})
    rules = [
        alt.Chart(base)
        .mark_rule(color="#9aa3ac", strokeDash=[4, 3])
        .encode(y=alt.Y("zero:Q", scale=y.scale(), axis=y.axis(minExtent=40)))
    ]
    if view.on_top:
        rules.append(
            alt.Chart(base)
            .mark_rule(color="#9aa3ac", strokeDash=[4, 3])
            .encode(x=alt.X("zero:Q", scale=x.scale(), axis=x_axis))
        )
    dots = (
        alt.Chart(shown)
        .mark_circle(size=16, opacity=0.75)
        .encode(x=alt.X("x:Q", scale=x.scale(), axis=x_axis), y=y.y(minExtent=40), color=colour)
    )
    return alt.layer(*rules, dots).properties(width=width, height=height, title=heading)


def _row(
    traces: pl.DataFrame, name: str, neurons: list[int], view: View, *, columns: int, seed: int, height: int
) -> tuple[alt.HConcatChart | None, list[str]]:
    """One row of panels; and what must be said of neurons without or with few tokens."""
    layer = traces["layer"].max()
    found = {neuron: rows_of(traces, neuron, view) for neuron in neurons}
    notes = []
    for neuron, frame in found.items():
        if len(frame) < FEW:
            are = "no token is" if not len(frame) else f"only {theme.count(len(frame), 'token')}"
            notes.append(f"{layer}.{neuron}: {are} left")
    found = {neuron: frame for neuron, frame in found.items() if len(frame)}
    if not found:
        return None, notes
    drawn = {neuron: sample(frame, seed=seed) for neuron, frame in found.items()}
    sizes = pl.concat([frame["colour"] for frame in drawn.values()]).abs()
    colour = _colour(view, theme.round_up(float(sizes.quantile(0.98, "linear"))))
    panels = []
    for i, (neuron, shown) in enumerate(drawn.items()):
        total = traces.filter(pl.col("neuron") == neuron).height
        heading = alt.Title(
            f"{layer}.{neuron}",
            subtitle=f"{len(found[neuron]):,} of {theme.count(total, 'token')}",
            fontSize=13,
            color=groups.colours([groups.set_label(name)])[1][0],
            subtitleFontSize=12,
            anchor="start",
            frame="group",
            offset=6,
        )
        panels.append(_panel(shown, view, heading, colour, WIDTHS[columns], height, first=i == 0))
    return alt.hconcat(*panels, spacing=24).resolve_scale(color="shared"), notes


def chart(
    traces: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    replacement: str | None = None,
    seed: int = 0,
    sample: TracedSample | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `traces` and `selection`: a row of panels per set.

    Args:
        seed: of the tokens that are drawn.
        sample: what the traces are a sample of; None for the whole text.
    """
    traces, replacement = effects_data.one_replacement(traces, replacement)
    sets = token_data.shown_sets(traces, selection)
    views = {name: BY_FREQUENCY if name == token_data.FREQUENCY else BY_WEIGHTS for name in sets}
    shown = {
        name: token_data.largest(traces, members, views[name].x if views[name].on_top else views[name].y, NEURONS)
        for name, members in sets.items()
    }
    columns = max((len(neurons) for neurons in shown.values()), default=1)
    rows, notes, few = [], [], []
    for name, neurons in shown.items():
        view = views[name]
        made, said = _row(traces, name, neurons, view, columns=columns, seed=seed, height=210)
        few += said
        if made is not None:
            rows.append(made)
            which = f"{groups.set_label(name)}: "
            largest_by = "|change of KL|" if view.on_top else "|change of loss|"
            which += f"the {len(neurons)} of {len(sets[name])} with the largest mean {largest_by}"
            notes.append(which)
    about = theme.about(model, text, effects_data.replaced_by(replacement)) if rows else theme.about(model, text)
    if not rows:
        reason = "no tokens to show: no selected neuron of the last layer was traced"
        if any(shown.values()):
            reason = "no tokens to show: none meets the conditions (activation above the mean; next token on top)"
        return theme.finish(theme.note_chart(reason), TITLE, [about, *few])
    right = "those with the next token on top (reciprocal rank 1)"
    also = f"; {'below, ' if len(shown) > 1 else ''}of these {right}" if token_data.FREQUENCY in shown else ""
    subtitle = [
        about,
        effects_data.traced_part(sample),
        f"tokens with an activation above the neuron's mean{also}",
        f"at most {LIMIT:,} drawn per panel: the {EXTREMES} largest changes, others at random",
        *notes,
        *few,
    ]
    body = alt.vconcat(*rows, spacing=24).resolve_scale(color="independent")
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    traces: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    replacement: str | None = None,
    seed: int = 0,
) -> None:
    """Rule `draw_token_effects`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(traces, "traces"),
        read_selections(selection),
        model=model,
        text=text,
        replacement=replacement,
        seed=seed,
        sample=sample_of(traces),
    )
    saving.save(made, figures)
