"""Total and direct effect of every highlighted neuron, as box plots over tokens (study A, figure 2c).

The direct effect freezes the final norm's scale. Where it is much smaller than the total effect, the neuron
acts through that scale; for controls the two are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table
from neuronlab.traced_sample import TracedSample, sample_of

TITLE = "Total and direct effect per token"
LIMIT = 24
EFFECTS = ("total", "direct")
EFFECT_NAMES = {
    "total": "total effect",
    "direct": "direct effect (final norm frozen)",
    "unigram": "projection on the log-unigram direction frozen",
}
WHISKERS = (0.1, 0.9)
CONTROL_LABELS = {"uniform": "random", "norm_matched": "norm-|matched"}


def box_numbers(
    traces: pl.DataFrame, members: pl.DataFrame, outcome: str, effects: Sequence[str] = EFFECTS
) -> pl.DataFrame:
    """The box plot's numbers of |change of `outcome`|, nothing removed: one row per box and effect.

    Args:
        traces: table `traces`, one replacement.
        members: columns neuron, box (label of the box it is pooled into), group.
        effects: two of `schemas.VARIANTS`.

    Returns:
        Columns box, group, effect, low and high (10 % and 90 % quantiles), q1, median, q3, mean, n_tokens, n_neurons.
    """
    joined = traces.join(members.select("neuron", "box", "group"), on="neuron", how="inner")
    frames = []
    for effect in effects:
        size = pl.col(f"{outcome}_{effect}").abs()
        frames.append(
            joined.group_by("box", "group", maintain_order=True)
            .agg(
                low=size.quantile(WHISKERS[0], "linear"),
                q1=size.quantile(0.25, "linear"),
                median=size.quantile(0.5, "linear"),
                q3=size.quantile(0.75, "linear"),
                high=size.quantile(WHISKERS[1], "linear"),
                mean=size.mean(),
                n_tokens=pl.len().cast(pl.Int64),
                n_neurons=pl.col("neuron").n_unique().cast(pl.Int64),
            )
            .with_columns(effect=pl.lit(effect))
        )
    return pl.concat(frames)


def members_of(traces: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None) -> pl.DataFrame:
    """Which traced neuron goes into which box: each highlighted one into its own, controls pooled by kind."""
    layer = int(traces["layer"].max()) if len(traces) else 0
    traced = pl.col("neuron").is_in(traces["neuron"].unique().to_list())
    found = groups.group_neurons(selection, layer, sets).filter(traced)
    chosen = found.filter(pl.col("group") != groups.CONTROLS).select("neuron", "group", box="label")
    # A neuron may be a control of both kinds: it belongs into both boxes.
    names = groups.highlighted_sets(selection, sets)
    controls = (
        selection.filter(traced & (pl.col("layer") == layer) & pl.col("control_of").is_in(names))
        .filter(~pl.col("neuron").is_in(chosen["neuron"].to_list()))
        .select(
            "neuron",
            group=pl.lit(groups.CONTROLS),
            box=pl.col("kind").replace_strict(CONTROL_LABELS, default="controls", return_dtype=pl.String),
        )
        .unique(maintain_order=True)
    )
    return pl.concat([chosen, controls])


def prepare(
    traces: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    sets: Sequence[str] | None,
    outcomes: Sequence[str],
    limit: int = LIMIT,
    effects: Sequence[str] = EFFECTS,
) -> tuple[dict[str, pl.DataFrame], list[str], int]:
    """Per outcome what `box_numbers` returns; the boxes in order; how many highlighted neurons have none.

    The name of a pooled box ends in how many neurons are in it; '|' stands for a line break.
    """
    members = members_of(traces, selection, sets)
    control = pl.col("group") == groups.CONTROLS
    chosen = members.filter(~control)
    members = pl.concat([chosen.head(limit), members.filter(control)])
    sizes = members.filter(control).group_by("box").len()
    pooled = {box: f"{box}|({number})" for box, number in sizes.iter_rows()}
    members = members.with_columns(pl.col("box").replace(pooled))
    boxes = {outcome: box_numbers(traces, members, outcome, effects) for outcome in outcomes}
    order = members.filter(~control)["box"].unique(maintain_order=True).to_list()
    order += [pooled[box] for box in CONTROL_LABELS.values() if box in pooled]
    order += [box for box in members["box"].unique(maintain_order=True) if box not in order]
    return boxes, order, max(len(chosen) - limit, 0)


def panel(
    boxes: pl.DataFrame,
    outcome: str,
    order: Sequence[str],
    *,
    step: int = 54,
    height: int = 230,
    legend: bool = True,
    effects: Sequence[str] = EFFECTS,
    log: bool = True,
) -> alt.LayerChart:
    """One panel of boxes, filled = total, hollow = direct (the first and second of `effects`).

    Args:
        log: logarithmic axis; a linear one starts at zero.
    """
    numbers = ["low", "q1", "median", "q3", "high", "mean"]
    values = [boxes[name] for name in numbers]
    domain = theme.log_domain(*values) if log else theme.linear_domain(*values, include=[0.0])
    # A logarithm has no zero: a quantile that is exactly zero is drawn at the foot of the axis, and said so.
    boxes = boxes.with_columns(pl.col(name).clip(lower_bound=domain[0]) for name in numbers)
    title = {"loss": "|change of loss|", "entropy": "|change of entropy|", "kl": "|change of KL|"}[outcome]
    y = Axis("median", f"{title} (nats)", tuple(domain), log, height)
    # Boxes of pooled controls have names of several lines.
    axis = alt.Axis(labelAngle=0, grid=False, labelExpr="split(datum.label, '|')", labelLimit=step * 2, labelPadding=6)
    x = alt.X("box:N", sort=list(order), title=None, axis=axis, scale=alt.Scale(paddingInner=0.24))
    offset = alt.XOffset("effect:N", sort=list(effects), scale=alt.Scale(paddingInner=0.18))
    colour = groups.colour_encoding(
        boxes["group"].unique(maintain_order=True).to_list(), show=legend, orient="bottom", direction="horizontal"
    )
    base = alt.Chart(boxes).encode(x=x, xOffset=offset)
    whisker = base.mark_rule(strokeWidth=1.3).encode(
        y=alt.Y("low:Q", scale=y.scale(), axis=y.axis()), y2="high:Q", color=colour
    )
    tips = [alt.Tooltip("effect:N"), *(alt.Tooltip(f"{name}:Q", format=".3g") for name in numbers)]
    fill = alt.Fill(
        "effect:N",
        sort=list(effects),
        scale=alt.Scale(domain=list(effects), range=["#8f979f", "#ffffff"]),
        legend=alt.Legend(
            title=None,
            orient="bottom",
            direction="horizontal",
            symbolType="square",
            symbolStrokeColor=theme.CONTROL_COLOUR,
            labelExpr=f"datum.value === {effects[0]!r} ? {EFFECT_NAMES[effects[0]]!r} : {EFFECT_NAMES[effects[1]]!r}",
        )
        if legend
        else None,
    )
    bar = {"width": {"band": 0.86}}
    white = base.mark_bar(**bar, opacity=1).encode(
        y=alt.Y("q1:Q", scale=y.scale(), axis=y.axis()), y2="q3:Q", fill=fill, tooltip=tips
    )
    tint = (
        base.transform_filter(f"datum.effect === {effects[0]!r}")
        .mark_bar(**bar, opacity=1)
        .encode(y=alt.Y("q1:Q", scale=y.scale()), y2="q3:Q", color=colour)
    )
    outline = base.mark_bar(**bar, filled=False, strokeWidth=1.6, opacity=1).encode(
        y=alt.Y("q1:Q", scale=y.scale()), y2="q3:Q", color=colour
    )
    middle = base.mark_tick(thickness=2.4, bandSize=0, opacity=1, width={"band": 0.86}).encode(
        y=alt.Y("median:Q", scale=y.scale()),
        color=alt.condition(f"datum.effect === {effects[0]!r}", alt.value("white"), alt.value(theme.INK)),
    )
    mean = base.mark_point(
        shape="diamond", filled=True, size=44, opacity=1, stroke=theme.INK, strokeWidth=1, color="white"
    ).encode(y=alt.Y("mean:Q", scale=y.scale()))
    return alt.layer(whisker, white, tint, outline, middle, mean).properties(
        width=max(300, step * len(order)), height=height
    )


def chart(
    traces: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    outcomes: Sequence[str] = ("loss", "entropy"),
    sample: TracedSample | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `traces` and `selection`: one panel per outcome.

    Args:
        sample: what the traces are a sample of; None for the whole text.
    """
    traces, replacement = effects_data.one_replacement(traces, replacement)
    boxes, order, left_out = prepare(traces, selection, sets=sets, outcomes=outcomes)
    if not order:
        return theme.finish(
            theme.note_chart("no neuron was traced: no set is selected,\nor its neurons lie in other layers"),
            TITLE,
            [theme.about(model, text)],
        )
    pooled = groups.CONTROLS in boxes[outcomes[0]]["group"]
    per_neuron = int(traces.group_by("neuron").len()["len"].max())
    documents = traces["document"].n_unique()
    zeros = any(frame["low"].min() == 0 for frame in boxes.values())
    body = alt.vconcat(*(panel(frame, outcome, order) for outcome, frame in boxes.items()), spacing=22)
    subtitle = [
        theme.about(
            model,
            text,
            f"{theme.count(per_neuron, 'token')} of {theme.count(documents, 'document')} per neuron",
            effects_data.replaced_by(replacement),
        ),
        effects_data.traced_part(sample),
        "box: quartiles and median; whiskers: 10 % and 90 % quantiles; diamond: mean; no token removed",
        "controls are pooled over neurons (their number in brackets)" if pooled else "no controls traced",
        "quantiles of exactly zero are drawn at the foot of the axis" if zeros else None,
        f"{left_out} more highlighted neurons not drawn" if left_out else None,
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    traces: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
) -> None:
    """Rule `draw_total_direct`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(traces, "traces"),
        read_selections(selection),
        model=model,
        text=text,
        sets=sets,
        replacement=replacement,
        sample=sample_of(traces),
    )
    saving.save(made, figures)
