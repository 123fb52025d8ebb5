"""Output against a neuron's clamped activation: entropy, loss, norm scale, reciprocal rank (METHODS D1).

One line per selected neuron with its interval, and one per control neuron. Solid lines are the total change, dashed
ones the change with the final norm's scale frozen: where a solid line rises and its dashed one does not, the neuron
moves the output through that scale. A diamond marks the neuron's mean activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.figures.points import Axis, label_layer, place_labels
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "Dose and response: neurons clamped to a value"
LIMIT, LABELS = 24, 10
WIDTH, HEIGHT = 400, 230
AXIS = {"minExtent": 46}  # so that the panels of a column stand below one another
CONTROLS = {"uniform": "random controls", "norm_matched": "norm-matched controls"}
CONTROL_COLOURS = {"random controls": "#b9c0c7", "norm-matched controls": "#76808a"}
PANELS = {
    "entropy_change": "change of entropy (nats)",
    "loss_change": "change of loss (nats)",
    "norm_scale_change": "change of the norm's scale",
    "reciprocal_rank_change": "change of the reciprocal rank",
}


def prepare(
    dose_response: pl.DataFrame, statistics: pl.DataFrame, selection: pl.DataFrame, *, sets: Sequence[str] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table with columns group, label, chosen; and a row per selected neuron at its mean activation.

    The second frame has, beside neuron, group and label, `mean` and for every panel the curve's value there, by linear
    interpolation between the values of the grid; neurons whose mean lies outside of their grid have no row.
    """
    layer = int(dose_response["layer"].max() or 0) if len(dose_response) else 0
    chosen = groups.group_neurons(selection, layer, sets).filter(pl.col("group") != groups.CONTROLS)
    controls = (
        selection.filter((pl.col("layer") == layer) & pl.col("kind").is_in(list(CONTROLS)))
        .filter(~pl.col("neuron").is_in(chosen["neuron"].to_list()))
        .unique("neuron", keep="first", maintain_order=True)
        .select("neuron", group=pl.col("kind").replace_strict(CONTROLS, return_dtype=pl.String))
    )
    members = pl.concat(
        [
            chosen.select("neuron", "group", "order", chosen=pl.lit(True)),
            controls.select("neuron", "group", order=pl.lit(None, pl.Int32), chosen=pl.lit(False)),
        ]
    )
    frame = dose_response.join(members, on="neuron", how="inner", maintain_order="left").with_columns(
        label=pl.format("{}.{}", "layer", "neuron")
    )
    means = dict(statistics.filter(pl.col("layer") == layer).select("neuron", "mean").iter_rows())
    marks = []
    for (neuron,), own in frame.filter("chosen").group_by("neuron", maintain_order=True):
        own, mean = own.sort("value"), means.get(neuron)
        if mean is not None and own["value"][0] <= mean <= own["value"][-1]:
            row = {
                name: float(np.interp(mean, own["value"], own[name])) for name in PANELS if own[name].null_count() == 0
            }
            marks.append({**own.select("neuron", "group", "label").row(0, named=True), "mean": mean, **row})
    empty = {"neuron": pl.Int32, "group": pl.String, "label": pl.String, "mean": pl.Float64}
    return frame, pl.DataFrame(marks, empty | dict.fromkeys(PANELS, pl.Float64))


def colours(frame: pl.DataFrame) -> tuple[list[str], list[str]]:
    """Groups in order of the legend, and their colours."""
    present = frame["group"].unique(maintain_order=True).to_list()
    domain, found = groups.colours([name for name in present if name not in CONTROL_COLOURS])
    controls = [name for name in CONTROL_COLOURS if name in present]
    return [*domain, *controls], [*found, *(CONTROL_COLOURS[name] for name in controls)]


def panel(
    frame: pl.DataFrame, marks: pl.DataFrame, measure: str, x: Axis, colour: alt.Color, *, named: bool
) -> alt.LayerChart:
    """One panel; `named` puts a neuron's name at the end of its line."""
    direct = f"{measure}_direct" if f"{measure}_direct" in frame.columns else None
    inside = frame.filter(pl.col("value").is_between(*x.domain))
    chosen = frame.filter("chosen")
    columns = [measure, *([direct] if direct else [])]
    ends = [f"{measure}_low", f"{measure}_high"]
    domain = theme.linear_domain(
        *(inside[c] for c in columns[:1]), *(chosen[c] for c in [*columns, *ends]), include=[0.0]
    )
    y = Axis(measure, PANELS[measure], tuple(domain), pixels=HEIGHT)
    base = alt.Chart(chosen).encode(x=x.x(grid=False), color=colour, detail="neuron:N")
    zero = alt.Chart(pl.DataFrame({measure: [0.0]})).mark_rule(color="#9aa3ac", strokeWidth=1).encode(y=y.y(**AXIS))
    controls = (
        alt.Chart(frame.filter(~pl.col("chosen")))
        .mark_line(strokeWidth=0.9, opacity=0.75, clip=True)
        .encode(x=x.x(grid=False), y=y.y(**AXIS), color=colour, detail="neuron:N")
    )
    layers = [zero, controls]
    layers.append(
        base.mark_area(opacity=0.13, clip=True).encode(
            y=alt.Y(f"{measure}_low:Q", scale=y.scale(), axis=y.axis(**AXIS)), y2=f"{measure}_high:Q"
        )
    )
    if direct:
        layers.append(
            base.mark_line(strokeWidth=1.5, strokeDash=[4, 3], clip=True).encode(
                y=alt.Y(f"{direct}:Q", scale=y.scale(), axis=y.axis(**AXIS))
            )
        )
    tips = [
        alt.Tooltip("label:N", title="neuron"),
        alt.Tooltip("value:Q", format=".4g"),
        alt.Tooltip("value_sd:Q", title="in sd from the mean", format=".3g"),
        alt.Tooltip(f"{measure}:Q", title=PANELS[measure], format=".4g"),
    ]
    layers.append(base.mark_line(strokeWidth=2.2, clip=True, tooltip=True).encode(y=y.y(**AXIS), tooltip=tips))
    layers.append(
        alt.Chart(marks)
        .mark_point(shape="diamond", filled=True, size=70, opacity=1, stroke="white", strokeWidth=1)
        .encode(x=alt.X("mean:Q", scale=x.scale(), axis=x.axis(grid=False)), y=y.y(**AXIS), color=colour)
    )
    if named:
        last = chosen.sort("value").group_by("neuron", maintain_order=True).last()
        placed = place_labels(last, x, y, obstacles=chosen)
        layers += label_layer(placed, x, y, colour)
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def key(frame: pl.DataFrame, width: int) -> alt.LayerChart:
    """The legend as a row of its own."""
    domain, found = colours(frame)
    numbers = dict(frame.group_by("group").agg(pl.col("neuron").n_unique()).iter_rows())
    names = [f"{name} ({numbers[name]:,})" for name in domain]
    starts = np.cumsum([8.0, *(52 + 6.4 * len(name) for name in names[:-1])])
    rows = pl.DataFrame({"group": domain, "name": names, "at": starts, "to": starts + 22})
    scale = alt.Scale(domain=[0, width], nice=False, zero=False)
    colour = alt.Color("group:N", scale=alt.Scale(domain=domain, range=found), legend=None)
    base = alt.Chart(rows).encode(y=alt.value(8))
    lines = base.mark_rule(strokeWidth=3).encode(x=alt.X("at:Q", scale=scale, axis=None), x2="to:Q", color=colour)
    texts = base.mark_text(align="left", dx=7, baseline="middle", fontSize=13, color=theme.INK).encode(
        x=alt.X("to:Q", scale=scale, axis=None), text="name:N"
    )
    return alt.layer(lines, texts).properties(width=width, height=18)


def chart(
    dose_response: pl.DataFrame,
    statistics: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    sets: Sequence[str] | None = None,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables `dose_response`, `activation_statistics` and `selection`."""
    frame, marks = prepare(dose_response, statistics, selection, sets=sets)
    chosen = frame.filter("chosen")
    if not len(chosen):
        return theme.finish(
            theme.note_chart("no neuron is selected in the last layer"), TITLE, [theme.about(model, text)]
        )
    order = chosen.sort("order")["neuron"].unique(maintain_order=True).to_list()
    left_out = order[LIMIT:]
    frame = frame.filter(~pl.col("neuron").is_in(left_out))
    chosen, marks = frame.filter("chosen"), marks.filter(~pl.col("neuron").is_in(left_out))
    domain, found = colours(frame)
    colour = alt.Color("group:N", scale=alt.Scale(domain=domain, range=found), legend=None)
    named = len(order) <= LABELS
    limits = tuple(theme.linear_domain(chosen["value"], pad=0.09 if named else 0.04))
    if limits[0] == 0.0 and chosen["value"].min() == 0:
        limits = (-0.02 * limits[1], limits[1])
    x = Axis("value", "activation clamped to", limits, pixels=WIDTH)
    panels = [panel(frame, marks, measure, x, colour, named=named) for measure in PANELS]
    grid = alt.vconcat(
        alt.hconcat(*panels[:2], spacing=26), alt.hconcat(*panels[2:], spacing=26), key(frame, 2 * WIDTH), spacing=18
    )
    row = frame.row(0, named=True)
    clean = {name: row[name] - row[f"{name}_change"] for name in ("entropy", "loss", "norm_scale", "reciprocal_rank")}
    beyond = frame.filter(~pl.col("chosen") & ~pl.col("value").is_between(*limits))["neuron"].n_unique()
    subtitle = [
        theme.about(
            model,
            text,
            f"{theme.count(row['n_tokens'], 'token')} of {theme.count(row['n_documents'], 'document')} per value",
        ),
        f"bands: {100 * level:g} % intervals (bootstrap by document)",
        "dashed: norm's scale frozen",
        "diamond: mean activation",
        f"clean means: entropy {clean['entropy']:.3g} nats, loss {clean['loss']:.3g} nats, "
        f"norm scale {clean['norm_scale']:.3g}, reciprocal rank {clean['reciprocal_rank']:.3g}",
        f"{theme.count(beyond, 'control line')} cut off at the panels' sides" if beyond else None,
        f"{len(left_out)} more selected neurons not drawn" if left_out else None,
    ]
    return theme.finish(grid, TITLE, subtitle)


def draw(
    *,
    dose_response: str | Path,
    statistics: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    sets: Sequence[str] | None = None,
    level: float = 0.95,
) -> None:
    """Rule `draw_dose_response`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(dose_response, "dose_response"),
        read_table(statistics, "activation_statistics"),
        read_selections(selection),
        model=model,
        text=text,
        sets=sets,
        level=level,
    )
    saving.save(made, figures)
