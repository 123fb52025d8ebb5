"""Heat maps of layers by heads, such as of attention or of scores."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from neuronlab.figures import theme

WIDTH, HEIGHT = 330, 330
WRITTEN = 64  # cells that have their number written into them, at most
MARK = theme.INK


def head_map(
    frame: pl.DataFrame,
    column: str,
    name: str,
    domain: Sequence[float],
    *,
    marked: str | None = None,
    layer_title: bool = True,
) -> alt.LayerChart:
    """Layers (downwards) by heads, coloured by `column`; missing cells are grey.

    Args:
        frame: columns layer, head and `column`, a row per head.
        name: of the colour scale.
        domain: ends of the colour scale. One that holds negative numbers is drawn with diverging colours around 0.
        marked: a column of truth values; heads of which it is true are outlined.
    """
    n_layers, n_heads = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1
    width, height = min(52.0, WIDTH / n_heads), min(40.0, HEIGHT / n_layers)
    steps = [max(1, -(-n * 17 // pixels)) for n, pixels in ((n_heads, WIDTH), (n_layers, HEIGHT))]
    look = {"labelAngle": 0, "ticks": False, "domain": False}
    bands = {"paddingInner": 0.06, "paddingOuter": 0.03}
    x = alt.X(
        "head:O",
        scale=alt.Scale(domain=list(range(n_heads)), **bands),
        axis=alt.Axis(title="head", orient="bottom", values=list(range(0, n_heads, steps[0])), **look),
    )
    y = alt.Y(
        "layer:O",
        scale=alt.Scale(domain=list(range(n_layers)), **bands),
        axis=alt.Axis(title="layer" if layer_title else None, values=list(range(0, n_layers, steps[1])), **look),
    )
    low, high = domain
    signed = low < 0
    colours = {"range": theme.DIVERGING} if signed else {"scheme": theme.SEQUENTIAL}
    ends = [low, 0, high] if signed else [low, (low + high) / 2, high]
    legend = alt.Legend(
        title=name,
        orient="bottom",
        direction="horizontal",
        gradientLength=int(min(220, max(width * n_heads, 140))),
        gradientThickness=10,
        values=ends,
        format=".3~g",
    )
    middle = {"domainMid": 0} if signed else {}
    scale = alt.Scale(domain=[low, high], clamp=True, **middle, **colours)
    base = alt.Chart(frame).encode(x=x, y=y)
    there = base.transform_filter(f"isValid(datum.{column})")
    tips = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip(f"{column}:Q", format=".3f")]
    layers = [
        base.transform_filter(f"!isValid(datum.{column})").mark_rect(color=theme.GRID),
        there.mark_rect().encode(fill=alt.Fill(f"{column}:Q", scale=scale, legend=legend), tooltip=tips),
    ]
    if marked:
        edge = {"filled": False, "stroke": MARK, "strokeWidth": 2.2 if min(width, height) > 14 else 1.4}
        layers.append(base.transform_filter(f"datum.{marked}").mark_rect(**edge))
    if len(frame) <= WRITTEN and width >= 34:
        # White on the dark ends: of viridis the low one, of the diverging colours both.
        dark = f"abs(datum.{column}) > {0.6 * high}" if signed else f"datum.{column} < {low + 0.55 * (high - low)}"
        ink = alt.condition(dark, alt.value("white"), alt.value(theme.INK))
        text = alt.Text(f"{column}:Q", format=".2f")
        layers.append(there.mark_text(fontSize=11).encode(text=text, color=ink))
    return alt.layer(*layers).properties(width=width * n_heads, height=height * n_layers)
