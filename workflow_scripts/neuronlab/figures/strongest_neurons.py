"""The strongest prediction, suppression and partition neurons and their tokens, as a table (study C)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import overlays, saving, theme, token_text
from neuronlab.figures.layer_neuron_counts import KINDS
from neuronlab.tables import read_table

TITLE = "The strongest neurons of each kind and their tokens"
ROW, HEAD = 23, 22  # heights
NEURON, VARIANCE, SKEW, KURTOSIS, TOKENS, WIDTH = 0, 128, 186, 250, 270, 960  # where columns stand; numbers end there
GAP, SIZE = 5, 12.0
SIDES = {"prediction": ("top_tokens",), "suppression": ("bottom_tokens",), "partition": ("top_tokens", "bottom_tokens")}
HEADS = {
    "top_tokens": "promotes most, per unit of activation",
    "bottom_tokens": "suppresses most, per unit of activation",
}


def number(value: float, form: str) -> str:
    """A number with a proper minus sign."""
    return format(value, form).replace("-", theme.MINUS)


def chips(tokens: Sequence[str], left: float, right: float) -> list[dict[str, float | str]]:
    """Tokens side by side from `left`, as many as end before `right`: their text, start and end."""
    placed, at = [], left
    for token in tokens:
        shown = token_text.shown(token)
        end = at + token_text.width(shown, SIZE) + 9
        if end > right:
            break
        placed.append({"token": shown, "start": at, "end": end})
        at = end + GAP
    return placed


def rows_of(neurons: pl.DataFrame, kind: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cells of numbers (x, y, cell, align) and tokens (token, start, end, y, side) of one kind, strongest first."""
    cells, tokens = [], []
    sides = SIDES[kind]
    span = (WIDTH - TOKENS) / len(sides)
    for place, row in enumerate(neurons.filter(pl.col("kind") == kind).sort("place").iter_rows(named=True)):
        y = HEAD + (place + 0.5) * ROW
        cells.append({"x": NEURON, "y": y, "cell": f"{row['layer']}.{row['neuron']}", "align": "left"})
        numbers = ((VARIANCE, "vocab_var", "#.3g"), (SKEW, "vocab_skew", ".2f"), (KURTOSIS, "vocab_kurt", ".1f"))
        for x, name, form in numbers:
            cells.append({"x": x, "y": y, "cell": number(row[name], form), "align": "right"})
        for i, side in enumerate(sides):
            start = TOKENS + i * span
            for chip in chips(json.loads(row[side]), start, start + span - (14 if len(sides) > 1 else 0)):
                tokens.append(chip | {"y": y, "side": side})
    schema = {"token": pl.String, "start": pl.Float64, "end": pl.Float64, "y": pl.Float64, "side": pl.String}
    return pl.DataFrame(cells, schema_overrides={"x": pl.Float64}), pl.DataFrame(tokens, schema=schema)


def block(neurons: pl.DataFrame, kind: str) -> alt.LayerChart:
    """The table of one kind."""
    cells, tokens = rows_of(neurons, kind)
    places = neurons.filter(pl.col("kind") == kind)
    height = HEAD + ROW * len(places)
    across = {"scale": alt.Scale(domain=[0, WIDTH], nice=False), "axis": None}
    down = {"scale": alt.Scale(domain=[height, 0], nice=False), "axis": None}
    x, y = alt.X("x:Q", **across), alt.Y("y:Q", **down)
    sides = SIDES[kind]
    heads = [
        {"x": NEURON, "name": "layer.neuron", "align": "left"},
        {"x": VARIANCE, "name": "variance", "align": "right"},
        {"x": SKEW, "name": "skew", "align": "right"},
        {"x": KURTOSIS, "name": "kurtosis", "align": "right"},
        *(
            {"x": TOKENS + i * (WIDTH - TOKENS) / len(sides), "name": HEADS[side], "align": "left"}
            for i, side in enumerate(sides)
        ),
    ]
    head = pl.DataFrame(heads, schema_overrides={"x": pl.Float64}).with_columns(y=pl.lit(HEAD * 0.45))
    lines = pl.DataFrame({"y": [HEAD - 0.5 + ROW * row for row in range(len(places))]})
    words = {"fontSize": SIZE, "baseline": "middle"}
    layers = [
        alt.Chart(lines).mark_rule(color=theme.GRID, strokeWidth=1).encode(y=y),
        *(
            alt.Chart(head.filter(pl.col("align") == align))
            .mark_text(align=align, color=theme.FAINT, **words)
            .encode(x=x, y=y, text="name:N")
            for align in ("left", "right")
        ),
        alt.Chart(cells.filter(pl.col("align") == "left"))
        .mark_text(align="left", fontWeight="bold", color=theme.INK, **words)
        .encode(x=x, y=y, text="cell:N"),
        alt.Chart(cells.filter(pl.col("align") == "right"))
        .mark_text(align="right", color=theme.INK, **words)
        .encode(x=x, y=y, text="cell:N"),
    ]
    boxes = tokens.with_columns(y1=pl.col("y") - ROW / 2 + 2.5, y2=pl.col("y") + ROW / 2 - 2.5)
    start, end = alt.X("start:Q", **across), alt.X2("end:Q")
    layers += [
        alt.Chart(boxes)
        .mark_rect(cornerRadius=3, color="#eef1f4")
        .encode(x=start, x2=end, y=alt.Y("y1:Q", **down), y2="y2:Q"),
        alt.Chart(tokens)
        .mark_text(align="left", dx=4.5, color=theme.INK, limit=WIDTH, **words)
        .encode(x=start, y=y, text="token:N"),
    ]
    title = overlays.heading(f"{kind.capitalize()} neurons", None, KINDS[kind])
    return alt.layer(*layers).properties(width=WIDTH, height=height, title=title)


def chart(vocabulary_neurons: pl.DataFrame, *, model: str) -> alt.TopLevelMixin:
    """The figure, from the table `vocabulary_neurons`."""
    present = [kind for kind in KINDS if kind in vocabulary_neurons["kind"]]
    if not present:
        reason = "no neuron is of any kind: none has a kurtosis\nor a variance above its threshold"
        return theme.finish(theme.note_chart(reason), TITLE, [theme.about(model)])
    missing = [kind for kind in KINDS if kind not in present]
    subtitle = [
        theme.about(model),
        "moments of the cosines of w_out with the vocabulary's directions; strongest first: by kurtosis, "
        "partition by variance",
        f"tokens by cosine, as many as fit; {token_text.LEGEND}",
        f"no neuron of the model is a {' or '.join(missing)} neuron" if missing else None,
    ]
    body = alt.vconcat(*(block(vocabulary_neurons, kind) for kind in present), spacing=18)
    return theme.finish(body, TITLE, subtitle)


def draw(*, vocabulary_neurons: str | Path, figures: Sequence[str | Path], model: str) -> None:
    """Rule `draw_strongest_neurons`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(vocabulary_neurons, "vocabulary_neurons"), model=model), figures)
