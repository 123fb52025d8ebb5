"""A passage of the text around the token where replacing a neuron's activation changes the loss most (figure 4b).

The rule looks for an extreme, so what it finds illustrates what a neuron can do and is no evidence of what it does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, saving, theme, token_data
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table
from neuronlab.traced_sample import TracedSample, sample_of

TITLE = "What replacing a neuron's activation changes in one passage"
WINDOW = 13
WIDTHS = {1: 620, 2: 355}


def extreme_token(traces: pl.DataFrame, neuron: int, outcome: str = "loss_total") -> tuple[int, int]:
    """(sequence, position): of the sequence with the largest mean |change|, the token with the largest |change|.

    Sequences with fewer than half as many traced tokens as the fullest one do not take part. The first one wins a tie.
    """
    own = traces.filter(pl.col("neuron") == neuron).with_columns(size=pl.col(outcome).abs())
    means = own.group_by("sequence").agg(mean=pl.col("size").mean().round_sig_figs(12), tokens=pl.len())
    means = means.filter(pl.col("tokens") * 2 >= pl.col("tokens").max())
    sequence = means.sort(["mean", "sequence"], descending=[True, False])["sequence"][0]
    inside = own.filter(pl.col("sequence") == sequence)
    return int(sequence), int(inside.sort(["size", "position"], descending=[True, False])["position"][0])


def window(length: int, position: int, size: int = WINDOW) -> range:
    """`size` positions around `position`, moved inwards at the ends of a sequence of `length`."""
    start = max(0, min(position - size // 2, length - size))
    return range(start, min(start + size, length))


def prepare(
    traces: pl.DataFrame, tokens: pl.DataFrame, strings: pl.DataFrame, neuron: int
) -> tuple[pl.DataFrame, int, int]:
    """The passage of a neuron, its sequence, and the position of its extreme.

    Columns position, label (the token), document, activation, value, change (of the loss of the next token), rr and
    rr_after (its reciprocal rank, clean and after the replacement); the last five are missing where the position does
    not count, or its document is not traced.
    """
    sequence, peak = extreme_token(traces, neuron)
    row = tokens.filter(pl.col("sequence") == sequence).row(0, named=True)
    span = window(len(row["tokens"]), peak)
    spelling = dict(strings.select("token", "string").iter_rows())
    ids = [row["tokens"][i] for i in span]
    places = pl.DataFrame(
        {
            "position": list(span),
            "label": [token_data.spelled(spelling.get(token, f"<{token}>")) for token in ids],
            "document": [row["documents"][i] for i in span],
        },
        schema_overrides={"position": pl.Int32},
    )
    own = traces.filter((pl.col("neuron") == neuron) & (pl.col("sequence") == sequence))
    values = token_data.with_reciprocal_ranks(own).select(
        "position", "activation", "value", "rr", "rr_after", change="loss_total"
    )
    return places.join(values, on="position", how="left", maintain_order="left"), sequence, peak


def _x(frame: pl.DataFrame, *, labels: bool) -> alt.X:
    names = {str(position): label for position, label in frame.select("position", "label").iter_rows()}
    axis = alt.Axis(
        title="token (its loss is that of the token to its right)" if labels else None,
        labels=labels,
        ticks=labels,
        grid=False,
        labelExpr=f"({json.dumps(names)})[toString(datum.value)]",
        labelAngle=-50,
        labelAlign="right",
        labelBaseline="middle",
        labelOverlap=False,
        labelLimit=140,
    )
    return alt.X("position:O", sort=None, axis=axis, scale=alt.Scale(domain=frame["position"].to_list()))


def _mark_peak(peak: int, x: alt.X) -> alt.Chart:
    band = alt.Chart(pl.DataFrame({"position": [peak]}))
    return band.mark_rect(color="#fbeecb", opacity=1, width={"band": 1}).encode(x=x)


def _line_row(
    frame: pl.DataFrame,
    peak: int,
    lines: dict[str, tuple[str, list[int]]],
    title: list[str],
    domain: Sequence[float],
    *,
    width: int,
    height: int,
    labels: bool = False,
) -> alt.LayerChart:
    """Lines over the tokens, broken where a position does not count; `lines` gives each column's colour and dash."""
    x, layers = _x(frame, labels=labels), [_mark_peak(peak, _x(frame, labels=labels))]
    for column, (colour, dash) in lines.items():
        scale = alt.Scale(domain=list(domain), nice=False, zero=False)
        y = alt.Y(f"{column}:Q", scale=scale, axis=alt.Axis(title=title, tickCount=4, minExtent=38))
        base = alt.Chart(frame).encode(x=x, y=y)
        style = {"strokeWidth": 2.0, "color": colour, "invalid": "break-paths-show-domains"}
        layers.append(base.mark_line(**style, strokeDash=dash) if dash else base.mark_line(**style))
        if column != "value":
            hollow = {"fill": "white", "stroke": colour, "strokeWidth": 1.6} if dash else {"color": colour}
            layers.append(base.mark_point(filled=True, size=40, opacity=1, shape="circle", **hollow))
    return alt.layer(*layers).properties(width=width, height=height)


def _bar_row(frame: pl.DataFrame, peak: int, colour: str, *, width: int, height: int) -> alt.LayerChart:
    """The change of the loss as bars from zero."""
    x = _x(frame, labels=False)
    scale = alt.Scale(domain=theme.linear_domain(frame["change"], include=[0.0], pad=0.1), nice=False, zero=False)
    axis = alt.Axis(title=["change of", "loss (nats)"], tickCount=4, minExtent=38)
    bars = (
        alt.Chart(frame)
        .mark_bar(color=colour, width={"band": 0.6})
        .encode(x=x, y=alt.Y("change:Q", scale=scale, axis=axis))
    )
    zero = (
        alt.Chart(pl.DataFrame({"zero": [0.0]}))
        .mark_rule(color=theme.FAINT)
        .encode(y=alt.Y("zero:Q", scale=scale, axis=axis))
    )
    return alt.layer(_mark_peak(peak, x), zero, bars).properties(width=width, height=height)


def passage(
    frame: pl.DataFrame, peak: int, heading: alt.Title, colour: str, *, width: int, height: int = 105
) -> list[alt.LayerChart]:
    """Activation, change of the loss, and reciprocal rank over the tokens of one passage, from above."""
    activation = theme.linear_domain(frame["activation"], frame["value"], pad=0.1)
    size = {"width": width, "height": height}
    lines = {"value": (theme.FAINT, [4, 3]), "activation": (colour, [])}
    ranks = {"rr": (theme.INK, []), "rr_after": (colour, [5, 3])}
    return [
        _line_row(frame, peak, lines, ["activation"], activation, **size).properties(title=heading),
        _bar_row(frame, peak, colour, **size),
        _line_row(frame, peak, ranks, ["reciprocal", "rank"], [-0.05, 1.05], labels=True, **size),
    ]


def _searched(sample: TracedSample | None) -> str | None:
    return f"searched: {sample}; no values in other sequences" if sample else None


def chart(
    traces: pl.DataFrame,
    tokens: pl.DataFrame,
    strings: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    replacement: str | None = None,
    sample: TracedSample | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `traces`, `tokens`, `token_strings` and `selection`: one passage per set.

    Args:
        sample: what the traces are a sample of; None for the whole text.
    """
    traces, replacement = effects_data.one_replacement(traces, replacement)
    sets = token_data.shown_sets(traces, selection)
    if not sets:
        reason = "no passage to show: no selected neuron of the last layer was traced"
        return theme.finish(theme.note_chart(reason), TITLE, [theme.about(model, text)])
    layer, passages = traces["layer"].max(), []
    for name, members in sets.items():
        neuron = token_data.largest(traces, members, "loss_total", 1)[0]
        frame, sequence, peak = prepare(traces, tokens, strings, neuron)
        colour = groups.colours([groups.set_label(name)])[1][0]
        found = traces.filter(
            (pl.col("neuron") == neuron) & (pl.col("sequence") == sequence) & (pl.col("position") == peak)
        )
        heading = alt.Title(
            f"{layer}.{neuron}: the largest effect of {theme.count(len(members), groups.set_label(name)[:-1])}",
            subtitle=f"sequence {sequence}, position {peak}, document {found['document'][0]}",
            color=colour,
            fontSize=13,
            subtitleFontSize=12,
            anchor="start",
            frame="group",
            offset=6,
        )
        passages.append(passage(frame, peak, heading, colour, width=WIDTHS[len(sets)]))
    # One grid, so that the rows of both passages are flush.
    cells = [cell for row in zip(*passages, strict=True) for cell in row]
    body = alt.concat(*cells, columns=len(passages), spacing={"row": 8, "column": 30})
    subtitle = [
        theme.about(model, text, effects_data.replaced_by(replacement)),
        "chosen for their extreme effect: an illustration, not evidence",
        "sequence with the largest mean |change of loss|, around its largest (shaded)",
        "reciprocal rank of the next token: solid clean, dashed with the activation replaced",
        "activation: dashed is the value put in its place",
        _searched(sample),
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    traces: str | Path,
    tokens: str | Path,
    strings: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    replacement: str | None = None,
) -> None:
    """Rule `draw_example_passage`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(traces, "traces"),
        read_table(tokens, "tokens"),
        read_table(strings, "token_strings"),
        read_selections(selection),
        model=model,
        text=text,
        replacement=replacement,
        sample=sample_of(traces),
    )
    saving.save(made, figures)
