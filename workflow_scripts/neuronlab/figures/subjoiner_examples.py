"""Attention within words of several tokens, example by example, in the best subjoiner head (study C).

The head was chosen by the words of one half of the documents; the examples were drawn at random among those of the
other half, before any attention was looked at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import overlays, saving, theme, token_text
from neuronlab.tables import read_table

TITLE = "Attention within a word: examples drawn at random"
COLUMNS, SIZE, LARGEST = 2, 400, 24  # panels of a row; pixels of a panel, at most; pixels of a cell, at most
RAMP = ["#ffffff", "#d6e4ef", "#9cc3de", "#5b9bc8", "#21689e", "#083b66"]


def labels_of(example: pl.DataFrame) -> dict[int, str]:
    """How the tokens of an example are spelled, by place."""
    queries = example.select(place="query", string="query_string")
    keys = example.select(place="key", string="key_string")
    found = pl.concat([queries, keys]).unique("place", keep="first", maintain_order=True).sort("place")
    return {place: token_text.shown(string) for place, string in found.iter_rows()}


def word_of(example: pl.DataFrame) -> list[int]:
    """Places of the word's tokens."""
    inside = example.filter(pl.col("in_word"))
    return sorted(set(inside["query"]) | set(inside["key"]))


def joined(example: pl.DataFrame) -> float | None:
    """Attention of the word's last token to its earlier tokens; missing in an example without a word."""
    word = word_of(example)
    if not word:
        return None
    inside = (pl.col("query") == word[-1]) & pl.col("key").is_in(word[:-1])
    return float(example.filter(inside)["attention"].sum())


def panel(example: pl.DataFrame, top: float, *, first: bool) -> alt.LayerChart:
    """One example: queries downwards, keys to the right; the word's tokens bold and framed.

    Args:
        top: end of the colour scale.
        first: draw the colour scale.
    """
    labels, word = labels_of(example), word_of(example)
    places = list(labels)
    cell = min(LARGEST, SIZE / len(places))
    scale = alt.Scale(domain=places, paddingInner=0.04, paddingOuter=0.02)
    inside = f"indexof({json.dumps(word)}, datum.value) >= 0"
    look = {
        "labelExpr": f"({json.dumps({str(place): label for place, label in labels.items()})})[toString(datum.value)]",
        "labelFontWeight": alt.condition(inside, alt.value("bold"), alt.value("normal")),
        "labelColor": alt.condition(inside, alt.value(theme.VERMILION), alt.value(theme.INK)),
        "labelFontSize": min(12.0, cell * 0.72),
        "labelLimit": 140,
        "labelOverlap": False,
        "ticks": False,
        "domain": False,
        "grid": False,
        "titleFontSize": 12,
    }
    x = alt.X("key:O", scale=scale, axis=alt.Axis(title="attended to", labelAngle=-60, labelAlign="right", **look))
    y = alt.Y("query:O", scale=scale, axis=alt.Axis(title="attending", **look))
    legend = alt.Legend(
        title="attention", gradientLength=160, gradientThickness=10, values=[0, top / 2, top], format=".2~g"
    )
    colour = alt.Scale(domain=[0, top], range=RAMP, interpolate="lab", clamp=True)
    tips = [alt.Tooltip("query_string:N"), alt.Tooltip("key_string:N"), alt.Tooltip("attention:Q", format=".3f")]
    base = alt.Chart(example).encode(x=x, y=y)
    fill = alt.Fill("attention:Q", scale=colour, legend=legend if first else None)
    layers = [base.mark_rect(stroke="#e3e7ea", strokeWidth=0.6).encode(fill=fill, tooltip=tips)]
    if word:
        # The pairs of the last token with the earlier ones, which the score adds up.
        row = example.filter((pl.col("query") == word[-1]) & pl.col("key").is_in(word[:-1]))
        frame = alt.Chart(row).mark_rect(filled=False, stroke=theme.VERMILION, strokeWidth=2)
        layers.append(frame.encode(x=x, y=y))
    share = joined(example)
    title = "".join(labels[place] for place in word)
    pieces = theme.count(len(word), "token")
    detail = f"{pieces}; the last attends {share:.2f} to the earlier ones" if share is not None else None
    heading = overlays.heading(title or "no word", detail)
    return alt.layer(*layers).properties(width=cell * len(places), height=cell * len(places), title=heading)


def chart(subjoiner_examples: pl.DataFrame, *, model: str, text: str | None = None) -> alt.TopLevelMixin:
    """The figure, from the table `subjoiner_examples`."""
    if not len(subjoiner_examples):
        note = "no example: no word of several tokens was found, or none was asked for"
        return theme.finish(theme.note_chart(note, width=520), TITLE, [theme.about(model, text)])
    examples = subjoiner_examples.sort("example", "query", "key").partition_by("example", maintain_order=True)
    top = min(1.0, theme.round_up(float(subjoiner_examples["attention"].max())))
    panels = [panel(example, top, first=i == 0) for i, example in enumerate(examples)]
    body = alt.concat(*panels, columns=min(COLUMNS, len(panels)), spacing={"row": 26, "column": 30})
    layer, head = subjoiner_examples.select("layer", "head").row(0)
    subtitle = [
        theme.about(model, text, f"head {layer}.{head}, of the highest score", theme.count(len(panels), "example")),
        "head chosen by one half of the documents; examples drawn by the seed, unseen, from the other half",
        "word in colour; framed: what the score adds up",
        f"a BOS in front is not shown and may take the rest of a row's attention; {token_text.DOT} stands for a space",
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(*, subjoiner_examples: str | Path, figures: Sequence[str | Path], model: str, text: str) -> None:
    """Rule `draw_subjoiner_examples`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(subjoiner_examples, "subjoiner_examples"), model=model, text=text), figures)
