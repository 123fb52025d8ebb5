"""Heads that join the tokens of a word: every head's score, and the best heads by number of tokens (study C).

The best heads are chosen by the words of one half of the documents; what is shown of them is of the other half.

The score is the attention of a word's last token to its earlier tokens, minus that of a one-token word to as many
tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import overlays, saving, theme
from neuronlab.figures.head_maps import head_map
from neuronlab.tables import read_table

TITLE = "Subjoiner heads: attention within words of several tokens"
ALL = 0  # `pieces` of the rows over all words
EVERY, SELECTION, REPORT = "all", "selection", "report"  # halves of the documents
BEST, COLUMNS = 6, 3
WIDTH, HEIGHT = 168, 128
WORDS = {"word": ("word of several tokens", theme.VERMILION), "single": ("one-token word", theme.FAINT)}


def significant(level: float) -> pl.Expr:
    """Whether a head's score differs from 0 after Holm's correction; false where there is no test."""
    return (pl.col("p_value_holm") <= 1 - level).fill_null(value=False)


def of_half(subjoiners: pl.DataFrame, half: str) -> pl.DataFrame:
    """Rows of a half of the documents; of all of them where there are no halves."""
    return subjoiners.filter(pl.col("half") == (half if half in subjoiners["half"] else EVERY))


def best_heads(subjoiners: pl.DataFrame, count: int = BEST) -> pl.DataFrame:
    """The heads with the highest score in one half, with their score and p-value in the other.

    Heads that attend less within words than elsewhere join nothing: they are shown only if there are no others.
    Columns layer, head, place, score, score_low, score_high, p_value_holm.
    """
    chosen, shown = (of_half(subjoiners, half).filter(pl.col("pieces") == ALL) for half in (SELECTION, REPORT))
    joining = chosen.filter(pl.col("score") > 0)
    chosen = chosen if joining.is_empty() else joining
    ranked = chosen.sort("score", descending=True, maintain_order=True).head(count).with_row_index("place")
    columns = ["layer", "head", "score", "score_low", "score_high", "p_value_holm"]
    return ranked.select("layer", "head", "place").join(
        shown.select(columns), on=["layer", "head"], maintain_order="left"
    )


def by_pieces(subjoiners: pl.DataFrame, best: pl.DataFrame) -> pl.DataFrame:
    """The best heads' attention by number of tokens in the half that reports.

    Columns place, pieces, n_words, kind, attention and its ends.
    """
    shown = of_half(subjoiners, REPORT).filter(pl.col("pieces") != ALL)
    rows = shown.join(best.select("layer", "head", "place"), on=["layer", "head"])
    frames = []
    for i, kind in enumerate(WORDS):
        ends = {f"attention{end}": f"attention_{kind}{end}" for end in ("", "_low", "_high")}
        # A little beside one another: their intervals may overlap.
        columns = ["place", "pieces", "n_words", *(pl.col(old).alias(new) for new, old in ends.items())]
        at = pl.col("pieces") + (-0.08 if i == 0 else 0.08)
        frames.append(rows.select(*columns, kind=pl.lit(WORDS[kind][0]), at=at))
    return pl.concat(frames).sort("place", "kind", "pieces")


def _colour() -> alt.Color:
    domain, colours = zip(*WORDS.values(), strict=True)
    legend = alt.Legend(title=None, orient="top", direction="horizontal", symbolType="circle")
    return alt.Color("kind:N", scale=alt.Scale(domain=list(domain), range=list(colours)), legend=legend)


def head_panel(frame: pl.DataFrame, title: alt.Title, top: float, *, first: bool, foot: bool) -> alt.LayerChart:
    """One head: attention by number of tokens, with intervals.

    Args:
        frame: rows of `by_pieces` of one head.
        top: end of the vertical axis.
        first: name the vertical axis.
        foot: name the horizontal axis.
    """
    sizes = dict(frame.select("pieces", "n_words").unique().sort("pieces").iter_rows())
    labels = " : ".join([*(f"datum.value == {k} ? ['{k}', '{n:,}']" for k, n in sizes.items()), "''"])
    axis = alt.Axis(
        title=["tokens of the word", "(below: words)"] if foot else None,
        values=list(sizes),
        labelExpr=labels if foot else "datum.label",
        format="d",
        grid=False,
        titleFontSize=12,
    )
    domain = [min(sizes) - 0.5, max(sizes) + 0.5]
    x = alt.X("at:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=axis)
    scale = alt.Scale(domain=[0, top], nice=False)
    vertical = alt.Axis(
        title="attention" if first else None, values=overlays.ticks(top), labels=first, ticks=first, minExtent=30
    )
    y = alt.Y("attention:Q", scale=scale, axis=vertical)
    base = alt.Chart(frame).encode(x=x, color=_colour())
    low = alt.Y("attention_low:Q", scale=scale, axis=vertical)
    tips = [alt.Tooltip("pieces:Q"), alt.Tooltip("kind:N"), alt.Tooltip("n_words:Q")]
    tips += [alt.Tooltip(f"attention{end}:Q", format=".3f") for end in ("", "_low", "_high")]
    return alt.layer(
        base.transform_filter("isValid(datum.attention_low)")
        .mark_rule(strokeWidth=1.8)
        .encode(y=low, y2="attention_high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y),
        base.mark_circle(size=40, opacity=1).encode(y=y, tooltip=tips),
    ).properties(width=WIDTH, height=HEIGHT, title=title)


def heads_grid(subjoiners: pl.DataFrame, best: pl.DataFrame, level: float) -> alt.ConcatChart:
    """A panel for each of the best heads, in order of their score."""
    frame = by_pieces(subjoiners, best)
    top = min(theme.linear_domain(frame["attention"], frame["attention_high"], include=[0.0])[1], 1.04)
    marks = best.with_columns(marked=significant(level))
    panels = []
    for row in marks.iter_rows(named=True):
        own = frame.filter(pl.col("place") == row["place"])
        score = f"score {row['score']:.2f}"
        if row["score_low"] is not None:
            score += f" [{row['score_low']:.2f}, {row['score_high']:.2f}]"
        score = score.replace("-", theme.MINUS) + (" *" if row["marked"] else "")
        title = overlays.heading(f"{row['layer']}.{row['head']}", score)
        foot = row["place"] + COLUMNS >= len(best)
        panels.append(head_panel(own, title, top, first=row["place"] % COLUMNS == 0, foot=foot))
    return alt.concat(*panels, columns=COLUMNS, spacing={"row": 18, "column": 14})


def chosen_by(subjoiners: pl.DataFrame) -> str:
    """Which words chose the best heads, and which show them."""
    if REPORT not in subjoiners["half"]:
        return "words of one document: the best heads are chosen and shown by the same words"
    chose, shows = (
        int(of_half(subjoiners, half).filter(pl.col("pieces") == ALL)["n_words"].max()) for half in (SELECTION, REPORT)
    )
    return (
        f"best heads: chosen by {theme.count(chose, 'word')} of one half of the documents, shown by "
        f"{theme.count(shows, 'word')} of the other half"
    )


def chart(subjoiners: pl.DataFrame, *, model: str, text: str | None = None, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the table `subjoiners`."""
    shown = subjoiners.filter(pl.col("pieces") == ALL, pl.col("half") == EVERY)
    if not len(shown):
        note = "no word of several tokens with enough text before it:\nnothing was measured (log of score_subjoiners)"
        return theme.finish(theme.note_chart(note), TITLE, [theme.about(model, text)])
    shown = shown.with_columns(marked=significant(level))
    best = best_heads(subjoiners)
    tested, marked = int(shown["p_value_holm"].count()), int(shown["marked"].sum())
    most = theme.round_up(float(shown["score"].abs().max()))
    words = int(shown["n_words"].max())
    outlined = f"outlined: significant ({marked:,} of {len(shown):,})" if tested else "no test: words of one document"
    left = head_map(shown, "score", "attention: word \N{MINUS SIGN} one-token word", [-most, most], marked="marked")
    left = left.properties(title=overlays.heading("Score of every head", outlined))
    subtitle = [
        theme.about(model, text, theme.count(words, "word"), "as many one-token words in like places"),
        "attention of the word's last token to its earlier tokens; one-token words: to as many tokens before them",
        f"bars: {100 * level:g} % intervals, bootstrap by document",
        f"significant (*): p \N{LESS-THAN OR EQUAL TO} {1 - level:.2g}, Holm over {len(shown):,} heads"
        if tested
        else None,
        chosen_by(subjoiners),
    ]
    number = len(best)
    of = f"The {number} best of {theme.count(len(shown), 'head')}" if number < len(shown) else "All heads, best first"
    right = heads_grid(subjoiners, best, level).properties(title=overlays.heading(of))
    body = alt.hconcat(left, right, spacing=34).resolve_scale(color="independent", fill="independent")
    return theme.finish(body, TITLE, subtitle)


def draw(*, subjoiners: str | Path, figures: Sequence[str | Path], model: str, text: str, level: float = 0.95) -> None:
    """Rule `draw_subjoiners`: read the table, write the figure in the formats of `figures`' suffixes."""
    saving.save(chart(read_table(subjoiners, "subjoiners"), model=model, text=text, level=level), figures)
