"""What emerges along training: loss, induction, both kinds of neurons, and how the later selected ones got there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.figures.checkpoints import Training, base_of, training
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLE = "What emerges along training"
WIDTH, HEIGHT, COLUMNS = 226, 158, 4
EXTENT = 34  # pixels that the labels of every y axis get, so that panels and titles line up
APART = {"color": "independent", "strokeDash": "independent"}
LINES = 12  # neurons of a set that get a line of their own
FLOOR = -0.5  # 1 - DE/TE has no lower bound; axes end here
MUTED = "#8a939c"


@dataclass(frozen=True)
class Curves:
    """A panel of quantities of the whole model: quantity, name in the key, colour."""

    title: str
    unit: str
    lines: tuple[tuple[str, str, str], ...]
    percent: bool = False


@dataclass(frozen=True)
class Paths:
    """A panel of one measure of every neuron."""

    title: str
    column: str
    unit: str
    log: bool = False
    absolute: bool = False
    floor: float | None = None


CURVES = (
    Curves("Loss and entropy", "nats", (("loss", "loss", theme.INK), ("entropy", "entropy", theme.PURPLE))),
    Curves("Best induction head", "mean attention", (("induction_head", "", theme.GREEN),)),
    Curves(
        "Share of the layer's neurons",
        "share",
        (
            ("entropy_neurons", "entropy", theme.VERMILION),
            ("frequency_neurons", "frequency", theme.BLUE),
            ("frequency_chance", "random", MUTED),
        ),
        percent=True,
    ),
    Curves("Sharpest drop in the tail of W_U", "ratio of singular values", (("null_space_ratio", "", theme.INK),)),
)
PATHS = (
    Paths("Share in the null space", "rho", "rho"),
    Paths("Gain of W_U along w_out", "unembed_gain", "1: average direction"),
    Paths("LogitVar", "logit_var", "LogitVar", log=True),
    Paths("Norm", "norm", "|w_out|"),
    Paths("Effect on the entropy", "te_entropy", "mean |change| (nats)", log=True),
    Paths("Through the norm's scale", "m_entropy", f"1 {theme.MINUS} DE/TE, entropy", floor=FLOOR),
    Paths("Along the unigram direction", "frequency_cosine", "|cos|", absolute=True),
    Paths("Through that direction", "m_freq_loss", f"1 {theme.MINUS} DE/TE, loss", floor=FLOOR),
)


def _panel(layers: list[alt.Chart], place: int, title: str, keys: Sequence[tuple[str, str]] = ()) -> alt.LayerChart:
    """The layers with a heading and, below it, a key; both are marks, so that they stand level in every column."""
    rise = -26 if place < COLUMNS else -10
    heading = alt.Chart(pl.DataFrame({"name": [f"({chr(97 + place)}) {title}"]}))
    texts = [_label(heading, 0, rise, fontSize=13, fontWeight="bold")]
    at = 5.0
    for name, paint in keys:
        mark = alt.Chart(pl.DataFrame({"name": [name]}))
        dot = mark.mark_circle(size=60, color=paint, opacity=1).encode(x=alt.value(at), y=alt.value(-10))
        texts += [dot, _label(mark, at + 8, -10, fontSize=theme.LABEL_SIZE)]
        at += 24 + 6.3 * len(name)
    return alt.layer(*layers, *texts).properties(width=WIDTH, height=HEIGHT)


def _label(chart: alt.Chart, x: float, y: float, **look: object) -> alt.Chart:
    mark = chart.mark_text(align="left", baseline="middle", color=theme.INK, **look)
    return mark.encode(x=alt.value(x), y=alt.value(y), text="name:N")


def prepare_curves(summary: pl.DataFrame, run: Training, curves: Curves) -> pl.DataFrame:
    """Rows of the summary for one panel: quantity, place, value, value_low, value_high."""
    names = [quantity for quantity, _, _ in curves.lines]
    return (
        summary.join(run.places.select("model", "place"), on="model")
        .filter(pl.col("quantity").is_in(names) & pl.col("value").is_not_null())
        .select("quantity", "place", "value", "value_low", "value_high")
        .sort("place", maintain_order=True)
    )


def curve_panel(summary: pl.DataFrame, run: Training, curves: Curves, place: int) -> alt.LayerChart:
    """Quantities with intervals along training."""
    frame = prepare_curves(summary, run, curves)
    shown = [line for line in curves.lines if line[0] in set(frame["quantity"])]
    colour = alt.Color(
        "quantity:N",
        scale=alt.Scale(domain=[line[0] for line in shown], range=[line[2] for line in shown]),
        legend=None,
    )
    ends = [frame["value_low"], frame["value_high"]]
    domain = tuple(theme.linear_domain(frame["value"], *ends, include=[0.0] if curves.percent else []))
    y = Axis("value", curves.unit, domain, pixels=HEIGHT, number_format="%" if curves.percent else None)
    x = run.x(WIDTH)
    base = alt.Chart(frame).encode(x=x, color=colour)
    low = alt.Y("value_low:Q", scale=y.scale(), axis=y.axis(minExtent=EXTENT))
    dashes = alt.StrokeDash(
        "quantity:N",
        scale=alt.Scale(
            domain=[line[0] for line in shown], range=[[4, 3] if "chance" in line[0] else [1, 0] for line in shown]
        ),
        legend=None,
    )
    layers = [
        base.transform_filter("isValid(datum.value_low)").mark_area(opacity=0.18).encode(y=low, y2="value_high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y.y(minExtent=EXTENT), strokeDash=dashes),
        base.mark_circle(size=26, opacity=1).encode(y=y.y(minExtent=EXTENT)),
    ]
    return _panel(layers, place, curves.title, [(name, paint) for _, name, paint in shown if name])


def prepare_paths(
    neurons: pl.DataFrame, run: Training, chosen: pl.DataFrame, paths: Paths
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """For one measure: the layer's band (low, middle, high), the chosen neurons, and the median of each set."""
    value = pl.col(paths.column).abs() if paths.absolute else pl.col(paths.column)
    frame = (
        neurons.join(run.places.select("model", "place"), on="model")
        .select("place", "neuron", value=value)
        .filter(pl.col("value").is_not_null() & ((pl.col("value") > 0) if paths.log else pl.lit(True)))
        .sort("place", "neuron")
    )
    band = frame.group_by("place", maintain_order=True).agg(
        low=pl.col("value").quantile(0.05, "linear"),
        middle=pl.col("value").median(),
        high=pl.col("value").quantile(0.95, "linear"),
    )
    lines = frame.join(chosen.select("neuron", "group", "label"), on="neuron").sort("place", "neuron").drop("neuron")
    medians = lines.group_by("group", "place", maintain_order=True).agg(pl.col("value").median())
    return band, lines, medians


def path_panel(neurons: pl.DataFrame, run: Training, chosen: pl.DataFrame, paths: Paths, place: int) -> alt.LayerChart:
    """One measure of the layer's neurons along training, the chosen ones in their sets' colours."""
    band, lines, medians = prepare_paths(neurons, run, chosen, paths)
    series = [band["low"], band["high"], lines["value"]]
    if paths.floor is not None:
        series = [s.clip(lower_bound=paths.floor) for s in series]
    domain = tuple(theme.log_domain(*series) if paths.log else theme.linear_domain(*series))
    y = Axis("value", paths.unit, domain, paths.log, HEIGHT)
    x = run.x(WIDTH)

    def at(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", scale=y.scale(), axis=y.axis(minExtent=EXTENT))

    colour = groups.colour_encoding(chosen["group"].unique(maintain_order=True).to_list(), show=False)
    clip = paths.floor is not None
    base = alt.Chart(band).encode(x=x)
    layers = [
        base.mark_area(color=theme.OTHER_COLOUR, opacity=0.45, clip=clip).encode(y=at("low"), y2="high:Q"),
        base.mark_line(color=MUTED, strokeWidth=1.6, strokeDash=[5, 3], clip=clip).encode(y=at("middle")),
    ]
    if not len(band):
        note = alt.Chart(pl.DataFrame({"name": ["missing for every neuron"]})).mark_text(color=theme.FAINT, fontSize=12)
        layers.append(note.encode(x=alt.value(WIDTH / 2), y=alt.value(HEIGHT / 2), text="name:N"))
    if len(lines):
        first = chosen.group_by("group", maintain_order=True).head(LINES)
        thin = alt.Chart(lines.filter(pl.col("label").is_in(first["label"].to_list()))).mark_line(
            strokeWidth=0.9, opacity=0.4, clip=clip
        )
        layers.append(thin.encode(x=x, y=at("value"), color=colour, detail="label:N"))
        bold = alt.Chart(medians).encode(x=x, y=at("value"), color=colour)
        layers += [bold.mark_line(strokeWidth=2.2, clip=clip), bold.mark_circle(size=26, opacity=1, clip=clip)]
    return _panel(layers, place, paths.title)


def chosen_neurons(
    neurons: pl.DataFrame, selection: pl.DataFrame | None, run: Training, reference: str | None
) -> pl.DataFrame:
    """The reference's selected neurons in the layer surveyed, one row each: neuron, group, label.

    None of them where the reference is a model of another training: its neurons are other neurons.
    """
    if selection is None or not len(neurons) or (reference is not None and base_of(reference) != run.base):
        return pl.DataFrame(schema={"neuron": pl.Int32, "group": pl.String, "label": pl.String})
    found = groups.group_neurons(selection, int(neurons["layer"].max()))
    return found.filter(~pl.col("group").is_in([groups.CONTROLS, groups.OTHERS]))


def statements(run: Training, chosen: pl.DataFrame, reference: str, level: float) -> list[str | None]:
    """What the figure says of itself below its title, after model, text and comparison."""
    steps = run.places["step"]
    if len(chosen):
        crowded = max(groups.group_counts(chosen).values()) > LINES
        which = f"thin (a set's first {LINES})" if crowded else "thin"
        followed = f"coloured: neurons selected in {reference}, {which}; bold: median of the set"
    else:
        followed = "no selected neurons to follow"
    return [
        f"(a)-(c): {100 * level:g} % intervals",
        "(c): entropy: rho above chance and most of the effect on the entropy through the norm's scale; "
        "frequency: |cos| > 0.3, random: directions drawn at random",
        "(e)-(l): every neuron of the last layer; dashed: median, grey: from the 5th to the 95th percentile",
        followed,
        "final: end of training, beside the axis" if steps.null_count() else None,
        "step 0 beside the axis" if 0 in steps.to_list() else None,
        f"(j), (l): below {FLOOR:g} cut off".replace("-0", f"{theme.MINUS}0"),
        f"not drawn, another training: {', '.join(run.others)}" if run.others else None,
    ]


def chart(
    neurons: pl.DataFrame,
    summary: pl.DataFrame,
    selection: pl.DataFrame | None,
    *,
    comparison: str,
    text: str,
    reference: str | None = None,
    level: float = 0.95,
) -> alt.TopLevelMixin:
    """The figure, from the tables "comparison_neurons", "comparison_summary" and the reference's selections.

    Args:
        reference: model whose selected neurons are followed; only through its own training run.
    """
    run = training(summary, reference)
    if run is None:
        message = "no model has two checkpoints here that name a training step\n(model@step_001000, for example)"
        return theme.finish(theme.note_chart(message), TITLE, [f"comparison {comparison}  ·  text {text}"])
    own, ours = (frame.join(run.places.select("model"), on="model", how="semi") for frame in (neurons, summary))
    chosen = chosen_neurons(own, selection, run, reference)
    panels = [curve_panel(ours, run, curves, i) for i, curves in enumerate(CURVES)]
    panels += [path_panel(own, run, chosen, paths, len(CURVES) + i) for i, paths in enumerate(PATHS)]
    rows = [
        alt.hconcat(*panels[i : i + COLUMNS], spacing=22).resolve_scale(**APART) for i in range(0, len(panels), COLUMNS)
    ]
    if len(chosen):
        present = chosen["group"].unique(maintain_order=True).to_list()
        rows.insert(1, groups.key(present, groups.group_counts(chosen), COLUMNS * (WIDTH + 70)))
    about = theme.about(
        run.base,
        text,
        f"comparison {comparison}",
        theme.count(len(run.places), "checkpoint"),
        theme.count(int(ours.filter(pl.col("quantity") == "loss")["n"].max() or 0), "token"),
        theme.count(int(own.group_by("model").len()["len"].max() or 0), "last-layer neuron"),
    )
    stated = statements(run, chosen, reference or run.base, level)
    return theme.finish(alt.vconcat(*rows, spacing=18).resolve_scale(**APART), TITLE, [about, *stated])


def draw(
    *,
    neurons: str | Path,
    summary: str | Path,
    selections: Sequence[str | Path],
    figures: Sequence[str | Path],
    comparison: str,
    text: str,
    reference: str | None = None,
    level: float = 0.95,
) -> None:
    """Rule `draw_emergence`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(neurons, "comparison_neurons"),
        read_table(summary, "comparison_summary"),
        read_selections(selections) if selections else None,
        comparison=comparison,
        text=text,
        reference=reference,
        level=level,
    )
    saving.save(made, figures)
