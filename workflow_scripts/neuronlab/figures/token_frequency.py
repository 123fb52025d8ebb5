"""Token-frequency neurons: M_freq against |change of KL|, total against frozen effect (study A, figures 3b and 3c).

Above, every last-layer neuron on the documents that did not select: how much of its effect goes when the logits'
projection on the log-unigram direction is frozen, against how far it moves the output from or to the unigram
distribution. Below, the same effects of the selected neurons, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, points, saving, theme, total_direct
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_provenance, read_table
from neuronlab.traced_sample import TracedSample, sample_of

TITLE = "Token-frequency neurons"
NAME = "token_frequency"
FLOOR = -1.0  # 1 - DE/TE has no lower bound; what lies below is drawn as triangles at the edge
BOXES = 8
LABELS = 20
EFFECTS = ("total", "unigram")
PUBLISHED = "named by the study"
WIDTH = 600


def prepare(token_frequency: pl.DataFrame, selection: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """One row per neuron with neuron, label, group, m and kl of the reporting half with their ends; how many lack m."""
    layer = int(token_frequency["layer"].max() or 0)
    found = groups.group_neurons(selection, layer, set_order(selection)).filter(pl.col("group") != groups.CONTROLS)
    frame = groups.attach_groups(token_frequency, found).select(
        "neuron",
        "group",
        "order",
        "published",
        "p_value",
        label=pl.format("{}.{}", "layer", "neuron"),
        m="m_freq_report",
        m_low="m_freq_report_low",
        m_high="m_freq_report_high",
        kl="te_kl_report",
        kl_low="te_kl_report_low",
        kl_high="te_kl_report_high",
    )
    kept = frame.filter(pl.col("m").is_not_null(), pl.col("kl") > 0)
    return kept, len(frame) - len(kept)


def set_order(selection: pl.DataFrame) -> list[str]:
    """The sets to colour: a neuron of several sets counts as a token-frequency neuron here."""
    return [NAME, *(name for name in groups.highlighted_sets(selection, None) if name != NAME)]


def scatter(frame: pl.DataFrame, outcome: str, *, height: int = 400) -> tuple[alt.LayerChart, list[str | None]]:
    """The scatter plot of what `prepare` returns, and what it must state."""
    inside, below = points.edge_clip(frame, "m", FLOOR)
    marks = frame.filter(pl.col("group") != groups.OTHERS)
    edge = [FLOOR] if len(below) else []
    x = Axis(
        "m",
        f"M_freq = 1 {theme.MINUS} DE_freq/TE, {outcome}",
        tuple(theme.linear_domain(inside["m"], marks["m_low"].clip(FLOOR), marks["m_high"], include=[*edge, 0.0])),
        pixels=WIDTH,
    )
    y = Axis(
        "kl",
        "mean |change of KL(P_freq || P_model)| (nats)",
        tuple(theme.log_domain(frame["kl"], marks["kl_low"], marks["kl_high"])),
        log=True,
        pixels=height,
    )
    present = frame["group"].unique(maintain_order=True).to_list()
    colour = groups.colour_encoding(
        present, groups.group_counts(frame), orient="bottom", direction="horizontal", columns=3
    )
    tips = points.tooltips(
        [("label", "neuron", ""), ("m", "M_freq", ".3f"), ("kl", "|dKL|", ".3g"), ("p_value", "p", ".3g")]
    )
    others = inside.filter(pl.col("group") == groups.OTHERS)
    shown = points.thin(others, x, y)
    chosen = inside.filter(pl.col("group") != groups.OTHERS)
    zero = alt.Chart(pl.DataFrame({"m": [0.0]})).mark_rule(color="#9aa3ac", strokeDash=[4, 3]).encode(x=x.x())
    back = alt.Chart(shown).mark_circle(size=26, opacity=0.8).encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    bars = marks.with_columns(pl.col("m_low").clip(x.domain[0]), pl.col("kl_low").clip(y.domain[0]))
    bars = bars.filter(pl.col("m") >= FLOOR).drop_nulls(["m_low", "m_high", "kl_low", "kl_high"])
    across = (
        alt.Chart(bars)
        .mark_rule(strokeWidth=1.4)
        .encode(x=alt.X("m_low:Q", scale=x.scale(), axis=x.axis()), x2="m_high:Q", y=y.y(), color=colour)
    )
    along = (
        alt.Chart(bars)
        .mark_rule(strokeWidth=1.4)
        .encode(y=alt.Y("kl_low:Q", scale=y.scale(), axis=y.axis()), y2="kl_high:Q", x=x.x(), color=colour)
    )
    front = (
        alt.Chart(chosen)
        .mark_circle(size=80, opacity=1, stroke="white", strokeWidth=0.8)
        .encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    )
    edge_marks = (
        alt.Chart(below)
        .mark_point(shape="triangle-left", filled=True, size=60, opacity=1)
        .encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    )
    layers = [zero, back, edge_marks, across, along, front]
    named = inside.filter("published").with_columns(ring=pl.lit(PUBLISHED))
    if len(named):
        ring = alt.Stroke(
            "ring:N",
            scale=alt.Scale(domain=[PUBLISHED], range=[theme.INK]),
            legend=alt.Legend(title=None, orient="bottom", symbolFillColor="transparent", symbolStrokeWidth=1.8),
        )
        layers.append(
            alt.Chart(named)
            .mark_point(size=190, filled=False, strokeWidth=1.8, opacity=1)
            .encode(x=x.x(), y=y.y(), stroke=ring)
        )
    to_label = pl.concat([chosen, named.drop("ring")]).unique("neuron").sort("order", "neuron", nulls_last=True)
    to_label, label_note = points.cap_labels(to_label, LABELS)
    placed = points.place_labels(to_label, x, y, obstacles=shown)
    other = pl.col("group") == groups.OTHERS  # their grey is too pale for letters
    layers += points.label_layer(placed.filter(~other), x, y, groups.text_colour(frame))
    if len(named):
        layers += points.label_layer(placed.filter(other), x, y, alt.value(theme.CONTROL_COLOUR))
    notes = [
        points.thinned_note(len(shown), len(others)),
        label_note,
        f"{theme.count(len(below), 'neuron')} below {FLOOR:g} at the left edge (triangles)" if len(below) else None,
    ]
    return alt.layer(*layers).properties(width=x.pixels, height=y.pixels), notes


def chart(
    token_frequency: pl.DataFrame,
    traces: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    level: float = 0.95,
    replacement: str | None = None,
    outcome: str = "loss",
    sample: TracedSample | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `token_frequency`, `traces` and `selection`.

    Args:
        level: of the intervals.
        outcome: what M_freq is about: loss, entropy or kl.
        sample: what the traces are a sample of; None for the whole text.
    """
    frame, missing = prepare(token_frequency, selection)
    if not len(frame):
        reason = "no neuron has a total effect above the floor"
        if not len(token_frequency):
            reason = "nothing was compared: half of the documents select,\nhalf report, but the text has one document"
        return theme.finish(theme.note_chart(reason), TITLE, [theme.about(model, text)])
    documents = int(token_frequency["n_documents_report"][0])
    layer, chosen = int(token_frequency["layer"][0]), token_frequency.filter("selected")
    upper, notes = scatter(frame, outcome)
    panels: list[alt.TopLevelMixin] = [upper]
    traced, replacement = effects_data.one_replacement(traces, replacement)
    traced = traced.filter(pl.col("layer") == layer)
    boxes, order, left_out = total_direct.prepare(
        traced, selection, sets=[NAME], outcomes=[outcome], limit=BOXES, effects=EFFECTS
    )
    if NAME not in groups.highlighted_sets(selection, None):
        notes.append("no candidate passes the test: no token-frequency neuron")
    elif order:
        step = WIDTH // len(order)
        whose = f"{sample.sequences:,} of {sample.of_sequences:,} sequences, drawn," if sample else "all documents"
        panels.append(
            total_direct.panel(boxes[outcome], outcome, order, step=min(step, 90), effects=EFFECTS, log=False)
        )
        notes += [
            f"boxes: {theme.count(int(traced.group_by('neuron').len()['len'].max()), 'token')} of {whose} per neuron; "
            "quartiles and median, whiskers 10 % and 90 %, diamond: mean",
            f"boxes for {BOXES} of {BOXES + left_out} selected neurons, largest |dKL| first" if left_out else None,
            "controls pooled (number in brackets)" if groups.CONTROLS in boxes[outcome]["group"] else None,
        ]
    both = chosen.join(_other_selections(selection, layer), on="neuron", how="semi")
    subtitle = [
        theme.about(
            model,
            text,
            f"layer {layer} (last)",
            theme.count(len(frame), "neuron"),
            f"{theme.count(documents, 'document')} that did not select",
        ),
        f"{effects_data.replaced_by(replacement)}; {100 * level:g} % intervals, bootstrap by document",
        f"{theme.count(missing, 'neuron')} left out: total effect below the floor" if missing else None,
        f"{theme.count(len(both), 'token-frequency neuron')} also in a selection by weights" if len(both) else None,
        *notes,
    ]
    return theme.finish(
        alt.vconcat(*panels, spacing=26).resolve_scale(color="independent", fill="independent", stroke="independent"),
        TITLE,
        subtitle,
    )


def _other_selections(selection: pl.DataFrame, layer: int) -> pl.DataFrame:
    rows = selection.filter(pl.col("kind") == "selection", pl.col("set") != NAME, pl.col("layer") == layer)
    return rows.select("neuron").unique()


def draw(
    *,
    token_frequency: str | Path,
    traces: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    level: float = 0.95,
    replacement: str | None = None,
) -> None:
    """Rule `draw_token_frequency`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(token_frequency, "token_frequency"),
        read_table(traces, "traces"),
        read_selections(selection),
        model=model,
        text=text,
        level=level,
        replacement=replacement,
        sample=sample_of(traces),
        outcome=read_provenance(token_frequency).get("outcome", "loss"),
    )
    saving.save(made, figures)
