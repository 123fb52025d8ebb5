"""The four stages of each model as a strip over depth, with their borders; what is unknown stays grey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import altair as alt
import polars as pl

from neuronlab.figures import theme
from neuronlab.schemas_stages import STAGES, STAGES_TABLES

TABLES = ("interventions", "lens", "vocabulary_counts", "local_attention_layers", "stages")
MIN_LAYERS = 8  # `stages` estimates nothing below
WIDTH, BAR = 660, 20  # of the figure, and the height of a strip
STAGE_COLOURS = dict(zip(STAGES, ("#86b7dc", "#8ccfb4", "#f2c76e", "#e39a70"), strict=True))
UNKNOWN = "#dfe3e7"
Tables = Mapping[str, pl.DataFrame | None]


def layers_of(tables: Tables) -> int:
    """How many layers the model has, by whichever table says; 1 if none does."""
    for name in TABLES[:-1]:
        frame = tables.get(name)
        if frame is not None and name == "interventions":
            frame = frame.filter(pl.col("intervention") != "swap")
        if frame is not None and len(frame):
            return int(frame["layer"].max()) + (name != "lens")
    return 1


def place_of(n_layers: int) -> Callable[[pl.Expr], pl.Expr]:
    """From the axis of layers to that of depth, 0 the embedding and 1 the output: a layer is the middle of its part."""
    return lambda layer: (layer + 0.5) / n_layers


def borders_of(tables: Tables, model: str) -> pl.DataFrame:
    """The borders that are estimated: model, border, depth and its interval, said."""
    place = place_of(layers_of(tables))
    stages = tables.get("stages")
    if stages is None:
        stages = pl.DataFrame(schema={name: column.dtype for name, column in STAGES_TABLES["stages"].items()})
    return (
        stages.drop_nulls("layer")
        .sort("border")
        .select(
            pl.lit(model).alias("model"),
            "border",
            depth=place(pl.col("layer")),
            low=place(pl.col("layer_low")),
            high=place(pl.col("layer_high")),
            said=pl.format("{} | {}: layer {}", "before", "after", pl.col("layer").round(2)),
        )
    )


def segments_of(tables: Tables, model: str) -> pl.DataFrame:
    """The strip of one model: start, end, stage (null where it may be several), said.

    Between two estimated borders that are not neighbours lie several stages: which one, is not known.
    """
    n_layers, known = layers_of(tables), borders_of(tables, model)
    ends = [0.0, *known["depth"], 1.0]
    numbers = [-1, *known["border"], len(STAGES) - 1]
    rows = []
    for i in range(len(ends) - 1):
        within = STAGES[numbers[i] + 1 : numbers[i + 1] + 1]
        said = within[0] if len(within) == 1 else "not estimated"
        if len(within) == len(STAGES) and n_layers < MIN_LAYERS:
            said = f"not estimated: {theme.count(n_layers, 'layer')}"
        stage = within[0] if len(within) == 1 else None
        rows.append({"model": model, "start": ends[i], "end": ends[i + 1], "stage": stage, "said": said})
    return pl.DataFrame(rows, schema_overrides={"stage": pl.String})


def strip(
    segments: pl.DataFrame, borders: pl.DataFrame, models: Sequence[str], domain: Sequence[float]
) -> alt.LayerChart:
    """A bar per model, coloured by stage; grey where no border is estimated. Black: borders and their intervals."""
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    names = len(models) > 1
    axis = alt.Axis(title=None, ticks=False, domain=False, labels=names, labelLimit=130, labelPadding=6, grid=False)
    y = alt.Y("model:N", sort=list(models), scale=alt.Scale(domain=list(models), padding=0.12), axis=axis)
    place = alt.X("start:Q", scale=scale, axis=None)
    drawn: list[alt.Chart] = []
    for stage, colour in [*STAGE_COLOURS.items(), (None, UNKNOWN)]:
        own = segments.filter(pl.col("stage").is_null() if stage is None else pl.col("stage") == stage)
        if len(own):
            bars = alt.Chart(own).mark_bar(color=colour, stroke="white", strokeWidth=1)
            drawn.append(bars.encode(x=place, x2="end:Q", y=y, tooltip=["model:N", "said:N"]))
        if len(own) and stage is None:
            middle = own.with_columns(start=(pl.col("start") + pl.col("end")) / 2)
            words = alt.Chart(middle).mark_text(fontSize=11.5, color=theme.INK, baseline="middle")
            drawn.append(words.encode(x=place, y=y, text="said:N"))
    if len(borders):
        base = alt.Chart(borders.with_columns(start="depth")).encode(y=y, tooltip=["model:N", "said:N"])
        lines = base.transform_filter("isValid(datum.low)").mark_rule(color=theme.INK, strokeWidth=2)
        drawn.append(lines.encode(x=alt.X("low:Q", scale=scale, axis=None), x2="high:Q"))
        drawn.append(base.mark_tick(color=theme.INK, thickness=2, size=0.72 * BAR, opacity=1).encode(x=place))
    return alt.layer(*drawn).properties(width=WIDTH, height=BAR * len(models))


def key() -> alt.LayerChart:
    """The colours of the stages, as a row of its own."""
    shown = list(STAGE_COLOURS.items())
    starts = [0.0]
    for stage, _ in shown[:-1]:
        starts.append(starts[-1] + 40 + 6.4 * len(stage))
    frame = pl.DataFrame({"name": [stage for stage, _ in shown], "at": starts, "end": [start + 14 for start in starts]})
    scale = alt.Scale(domain=[0, WIDTH], nice=False, zero=False)
    drawn: list[alt.Chart] = []
    for (_, colour), row in zip(shown, frame.iter_slices(1), strict=True):
        box = alt.Chart(row).mark_rect(color=colour)
        drawn.append(box.encode(x=alt.X("at:Q", scale=scale, axis=None), x2="end:Q", y=alt.value(2), y2=alt.value(16)))
    words = alt.Chart(frame).mark_text(align="left", dx=6, baseline="middle", fontSize=12.5, color=theme.INK)
    drawn.append(words.encode(x=alt.X("end:Q", scale=scale, axis=None), y=alt.value(9.5), text="name:N"))
    return alt.layer(*drawn).properties(width=WIDTH, height=18)


def unknown(models: Mapping[str, Tables]) -> list[str]:
    """Which borders are not estimated, and why; of several models only how many."""
    missing = [
        (model, row)
        for model, tables in models.items()
        if tables.get("stages") is not None
        for row in tables["stages"].filter(pl.col("layer").is_null()).sort("border").iter_rows(named=True)
    ]
    if len(models) > 1:
        number = len({model for model, _ in missing})
        said = f"grey: borders not estimated ({number} of {len(models)} models; why is in stages.parquet)"
        return [said] if missing else []
    reasons: dict[str, list[str]] = {}
    for _, row in missing:
        reasons.setdefault(row["reason"], []).append(f"{row['before']} | {row['after']}")
    if len(reasons) == 1 and len(missing) == len(STAGES) - 1:
        return [f"borders: {next(iter(reasons))}"]
    return [f"{' and '.join(borders)}: {reason}" for reason, borders in reasons.items()]
