"""rho against 1 - DE/TE for every last-layer neuron, coloured by |dH| (study A, figure 2e).

Neurons whose weights lie in the null space of W_U (high rho) act through the final norm's scale (1 - DE/TE
near one); for the others the direct effect is as large as the total, or larger (1 - DE/TE near or below zero).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, groups, points, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Weights in the null space against mediation by the final norm"
FLOOR = -1.0  # 1 - DE/TE has no lower bound; what lies below is drawn as triangles at the edge


def prepare(
    effects: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    k: int,
    sets: Sequence[str] | None,
    outcome: str = "loss",
) -> tuple[pl.DataFrame, int]:
    """One row per neuron with neuron, label, group, rho, m, m_low, m_high, dh; and how many lack m or rho."""
    frame, _ = effects_data.with_groups(effects, selection, sets)
    frame = effects_data.join_rho(frame, null_space, k).select(
        "neuron",
        "group",
        "order",
        label=pl.format("{}.{}", "layer", "neuron"),
        rho="rho",
        m=f"m_{outcome}",
        m_low=f"m_{outcome}_low",
        m_high=f"m_{outcome}_high",
        dh="te_entropy",
    )
    kept = frame.drop_nulls(["m", "dh", "rho"])
    return kept, len(frame) - len(kept)


def panel(
    frame: pl.DataFrame,
    *,
    k: int,
    expected: float | None = None,
    outcome: str = "loss",
    width: int = 520,
    height: int = 400,
    legend: bool = True,
    labels: int = 16,
) -> tuple[alt.LayerChart, list[str | None]]:
    """The scatter plot of what `prepare` returns, and what it must state."""
    marks = frame.filter(~pl.col("group").is_in([groups.OTHERS, groups.CONTROLS]))
    inside, below = points.edge_clip(frame, "m", FLOOR)
    x = Axis(
        "rho",
        f"rho: share of |w_out| in the null space of W_U (k = {k})",
        tuple(theme.linear_domain(frame["rho"], pad=0.05)),
        pixels=width,
    )
    ends = [marks["m_low"].clip(lower_bound=FLOOR), marks["m_high"]]
    edge = [FLOOR] if len(below) else []
    y = Axis(
        "m",
        f"1 {theme.MINUS} DE/TE, {outcome}",
        tuple(theme.linear_domain(inside["m"], *ends, include=[*edge, 0.0])),
        pixels=height,
    )
    clean = frame.filter(pl.col("dh") > 0)["dh"]
    domain = theme.log_domain(clean, pad=0.0)
    ticks = theme.log_ticks(domain)
    shade = alt.Scale(type="log", scheme=theme.SEQUENTIAL, domain=domain, clamp=True)
    colour = alt.Color(
        "dh:Q",
        scale=shade,
        legend=alt.Legend(
            title=["mean |change of", "entropy| (nats)"],
            values=ticks,
            labelExpr=theme.log_labels(ticks),
            gradientLength=180,
        ),
    )
    tips = points.tooltips(
        [("label", "neuron", ""), ("rho", "rho", ".3f"), ("m", "1 - DE/TE", ".3f"), ("dh", "mean |dH|", ".2e")]
    )
    back_rows = inside.join(marks.select("neuron"), on="neuron", how="anti")
    shown = points.thin(back_rows, x, y)
    back = alt.Chart(shown).mark_circle(size=30, opacity=0.85).encode(x=x.x(), y=y.y(), color=colour, tooltip=tips)
    zero = alt.Chart(pl.DataFrame({"m": [0.0]})).mark_rule(color="#9aa3ac", strokeDash=[4, 3]).encode(y=y.y())
    ring = groups.colours(marks["group"].unique(maintain_order=True).to_list())
    stroke = alt.Stroke(
        "group:N",
        scale=alt.Scale(domain=ring[0], range=ring[1]),
        legend=alt.Legend(title=None, symbolFillColor="white", symbolStrokeWidth=2.4) if legend and ring[0] else None,
    )
    bars = (
        alt.Chart(marks.with_columns(pl.col("m_low").clip(lower_bound=y.domain[0])).drop_nulls(["m_low", "m_high"]))
        .mark_rule(strokeWidth=1.6)
        .encode(x=x.x(), y=alt.Y("m_low:Q", scale=y.scale(), axis=y.axis()), y2="m_high:Q", stroke=stroke)
    )
    chosen = inside.join(marks.select("neuron"), on="neuron", how="semi")
    front = (
        alt.Chart(chosen)
        .mark_point(filled=True, size=95, opacity=1, strokeWidth=2.2)
        .encode(x=x.x(), y=y.y(), fill=alt.Fill("dh:Q", scale=shade, legend=None), stroke=stroke, tooltip=tips)
    )
    edge_marks = (
        alt.Chart(below)
        .mark_point(shape="triangle-down", filled=True, size=60, opacity=1)
        .encode(
            x=x.x(),
            y=y.y(),
            color=alt.Color("dh:Q", scale=shade, legend=None),
            tooltip=points.tooltips([("label", "neuron", ""), ("m_true", "1 - DE/TE", ".3g")]),
        )
    )
    to_label, label_note = points.cap_labels(chosen, labels)
    placed = points.place_labels(to_label, x, y, obstacles=shown)
    layers = [zero, back, edge_marks, bars, front, *points.label_layer(placed, x, y, groups.text_colour(marks))]
    if expected is not None:
        at = pl.DataFrame({"rho": [expected], "name": [f"random direction: {expected:.2f}"]})
        layers.insert(0, alt.Chart(at).mark_rule(color="#9aa3ac", strokeDash=[4, 3]).encode(x=x.x()))
        layers.append(
            alt.Chart(at)
            .mark_text(align="left", dx=5, fontSize=12, color=theme.FAINT)
            .encode(x=x.x(), y=alt.value(9), text="name:N")
        )
    notes = [
        points.thinned_note(len(shown), len(back_rows)),
        label_note,
        f"{theme.count(len(below), 'neuron')} below {FLOOR:g} at the lower edge (triangles)" if len(below) else None,
    ]
    made = alt.layer(*layers).resolve_scale(color="independent", stroke="shared", fill="independent")
    return made.properties(width=width, height=height), notes


def chart(
    effects: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    level: float = 0.95,
    k: int | None = None,
    outcome: str = "loss",
) -> alt.TopLevelMixin:
    """The figure, from the tables `effects`, `null_space` and `selection`.

    Args:
        k: which rho; the first configured k if not given.
    """
    effects, replacement = effects_data.one_replacement(effects, replacement)
    k = effects_data.chosen_k(null_space, k)
    frame, missing = prepare(effects, null_space, selection, k=k, sets=sets, outcome=outcome)
    about = [
        theme.about(model, text, theme.count(len(frame), "neuron"), effects_data.sample_size(effects)),
        f"last layer; {effects_data.replaced_by(replacement)}; {100 * level:g} % intervals, bootstrap by document",
        f"{theme.count(missing, 'neuron')} left out: total effect below the floor" if missing else None,
    ]
    if not len(frame):
        return theme.finish(theme.note_chart("no neuron has a total effect above the floor"), TITLE, about)
    # rho_excess is rho - sqrt(k/d): their difference is what a random direction would have.
    first = null_space.filter(pl.col("k") == k).drop_nulls(["rho", "rho_excess"]).head(1)
    expected = float((first["rho"] - first["rho_excess"]).item())
    made, notes = panel(frame, k=k, expected=expected, outcome=outcome)
    return theme.finish(made, TITLE, [*about, *notes])


def draw(
    *,
    effects: str | Path,
    null_space: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    level: float = 0.95,
    k: int | None = None,
) -> None:
    """Rule `draw_rho_mediation`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(effects, "effects"),
        read_table(null_space, "null_space"),
        read_selections(selection),
        model=model,
        text=text,
        sets=sets,
        replacement=replacement,
        level=level,
        k=k,
    )
    saving.save(made, figures)
