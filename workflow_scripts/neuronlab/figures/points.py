"""Scatter plots: thinning dense clouds, placing labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float

from neuronlab.figures import theme


@dataclass(frozen=True)
class Axis:
    """A quantitative axis: column, title, domain, logarithmic or not, and its length in pixels."""

    column: str
    title: str
    domain: tuple[float, float]
    log: bool = False
    pixels: int = 420
    number_format: str | None = None

    def place(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Pixels from the low end of the axis."""
        low, high = self.domain
        if self.log:
            values, low, high = np.log(np.maximum(values, 1e-300)), np.log(low), np.log(high)
        return (values - low) / (high - low) * self.pixels

    def value(self, pixels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The inverse of `place`."""
        low, high = self.domain
        if self.log:
            return np.exp(np.log(low) + pixels / self.pixels * (np.log(high) - np.log(low)))
        return low + pixels / self.pixels * (high - low)

    def scale(self) -> alt.Scale:
        return alt.Scale(domain=list(self.domain), type="log" if self.log else "linear", nice=False, zero=False)

    def axis(self, **options: object) -> alt.Axis:
        if self.log:
            ticks = theme.log_ticks(self.domain)
            options = {"values": ticks, "labelExpr": theme.log_labels(ticks), **options}
        elif self.number_format:
            options = {"format": self.number_format, **options}
        return alt.Axis(**{"title": self.title, "tickCount": 6, **options})

    def x(self, **options: object) -> alt.X:
        return alt.X(f"{self.column}:Q", scale=self.scale(), axis=self.axis(**options))

    def y(self, **options: object) -> alt.Y:
        return alt.Y(f"{self.column}:Q", scale=self.scale(), axis=self.axis(**options))


def thin(frame: pl.DataFrame, x: Axis, y: Axis, limit: int = theme.POINT_LIMIT, seed: int = 0) -> pl.DataFrame:
    """At most `limit` rows, dropped where points overlap most: a lone point always stays.

    Points are put into cells of 6 x 6 pixels and shuffled with `seed`; every cell keeps its first point before
    any keeps a second, and so on.
    """
    if len(frame) <= limit:
        return frame
    order = np.random.default_rng(seed).permutation(len(frame))
    shuffled = frame[order]
    cell_x = (x.place(shuffled[x.column].to_numpy()) // 6).astype(np.int64)
    cell_y = (y.place(shuffled[y.column].to_numpy()) // 6).astype(np.int64)
    places = pl.DataFrame({"cell": cell_x * 100_000 + cell_y, "row": order})
    kept = places.with_columns(turn=pl.int_range(pl.len()).over("cell")).sort("turn", maintain_order=True).head(limit)
    return frame[np.sort(kept["row"].to_numpy())]


def thinned_note(shown: int, total: int, noun: str = "other neurons") -> str | None:
    """The statement that a figure which thinned its points owes its reader."""
    return None if shown == total else f"{shown:,} of {total:,} {noun} drawn: thinned where points overlap"


_OFFSETS = [
    (distance * np.cos(angle), distance * np.sin(angle))
    for distance in (0, 8, 18, 30, 45, 62, 80, 100)
    for angle in np.deg2rad([0, 180, 35, -35, 145, -145, 90, -90, 65, -65, 115, -115])
]


def place_labels(
    frame: pl.DataFrame,
    x: Axis,
    y: Axis,
    *,
    obstacles: pl.DataFrame | None = None,
    size: int = theme.LABEL_SIZE,
    rounds: int = 0,
) -> pl.DataFrame:
    """`frame` with where its labels go: columns label_x, label_y (data units) and leader.

    Greedy: labels from the crowded middle outwards take the first spot that hits no other label and no
    highlighted point, lies within the panel and covers fewest of the `obstacles`. In each further one of `rounds` every
    label may move again, all others in place, and spots whose leader runs through another label or point cost as well.
    """
    px, py = x.place(frame[x.column].to_numpy()), y.place(frame[y.column].to_numpy())
    if not len(frame):
        return frame.with_columns(label_x=pl.lit(0.0), label_y=pl.lit(0.0), leader=pl.lit(False))
    crowd = np.empty((0, 2))
    if obstacles is not None and len(obstacles):
        crowd = np.column_stack([x.place(obstacles[x.column].to_numpy()), y.place(obstacles[y.column].to_numpy())])
    widths = np.array([len(label) * size * 0.56 for label in frame["label"]])
    centres, boxes = np.zeros((len(frame), 2)), np.zeros((len(frame), 4))
    near = np.abs(px[:, None] - px) + np.abs(py[:, None] - py)
    order = np.argsort(near.mean(axis=1), kind="stable")
    placed: list[int] = []
    for turn in range(1 + rounds):
        for i in order:
            others = boxes[[j for j in placed if j != i]]
            best_cost = np.inf
            for step, (dx, dy) in enumerate(_OFFSETS):
                gap = 7 + widths[i] / 2
                cx = px[i] + dx + np.sign(np.round(dx, 6) or (1 if step == 0 else 0)) * gap * (abs(dx) >= abs(dy) * 0.3)
                cy = py[i] + dy + np.sign(np.round(dy, 6)) * 9 * (abs(dx) < abs(dy) * 3)
                if step < 2:
                    cx = px[i] + (1 if step == 0 else -1) * gap
                box = np.array([cx - widths[i] / 2 - 1, cy - size * 0.55, cx + widths[i] / 2 + 1, cy + size * 0.55])
                outside = box[0] < 2 or box[2] > x.pixels - 2 or box[1] < 2 or box[3] > y.pixels - 2
                hit_point = _within(px, py, box, 4)
                covered = _within(crowd[:, 0], crowd[:, 1], box, 0)
                cost = 1000 * outside + 400 * _overlaps(box, others) + 150 * hit_point + 2 * min(covered, 12)
                cost += np.hypot(dx, dy) * 0.8
                if turn:
                    along = np.linspace(0, 1, 12)[1:, None] * np.array([cx - px[i], cy - py[i]]) + [px[i], py[i]]
                    cost += 200 * sum(_within(along[:, 0], along[:, 1], other, 1) > 0 for other in others)
                    passed = (np.hypot(along[:, :1] - px, along[:, 1:] - py) < 6).any(axis=0)
                    cost += 60 * np.delete(passed, i).sum()
                if cost < best_cost:
                    best_cost, centres[i], best_box = cost, (cx, cy), box
            boxes[i] = best_box
            placed = placed if turn else [*placed, i]
    centre_x, centre_y = centres.T
    return frame.with_columns(
        pl.Series("label_x", x.value(centre_x)),
        pl.Series("label_y", y.value(centre_y)),
        pl.Series("leader", np.hypot(np.maximum(np.abs(centre_x - px) - widths / 2, 0), centre_y - py) > 16),
    )


def _overlaps(box: Float[np.ndarray, "4"], others: Float[np.ndarray, "others 4"]) -> int:
    """How many of the `others` a box (left, low, right, high) overlaps."""
    apart = (box[0] >= others[:, 2]) | (others[:, 0] >= box[2]) | (box[1] >= others[:, 3]) | (others[:, 1] >= box[3])
    return int((~apart).sum())


def _within(
    px: Float[np.ndarray, " n"], py: Float[np.ndarray, " n"], box: Float[np.ndarray, "4"], margin: float
) -> int:
    """How many points lie in a box, widened by `margin` on all sides."""
    inside = (px > box[0] - margin) & (px < box[2] + margin) & (py > box[1] - margin) & (py < box[3] + margin)
    return int(inside.sum())


def label_layer(placed: pl.DataFrame, x: Axis, y: Axis, colour: alt.Color | alt.Value) -> list[alt.Chart]:
    """Leader lines and texts for `place_labels`' result."""
    leaders = (
        alt.Chart(placed.filter(pl.col("leader")))
        .mark_rule(strokeWidth=0.8, color="#8a939c")
        .encode(x=x.x(), y=y.y(), x2="label_x:Q", y2="label_y:Q")
    )
    halo = {"fontSize": theme.LABEL_SIZE, "fontWeight": "bold", "baseline": "middle", "align": "center"}
    at_x = alt.X("label_x:Q", scale=x.scale(), axis=x.axis())
    at_y = alt.Y("label_y:Q", scale=y.scale(), axis=y.axis())
    base = alt.Chart(placed).encode(x=at_x, y=at_y, text="label:N")
    return [
        leaders,
        base.mark_text(**halo, stroke="white", strokeWidth=3.5, strokeOpacity=0.85, strokeJoin="round"),
        base.mark_text(**halo).encode(color=colour),
    ]


def cap_labels(frame: pl.DataFrame, limit: int = 16) -> tuple[pl.DataFrame, str | None]:
    """The rows to label, and the statement if that is not all of them."""
    if len(frame) <= limit:
        return frame, None
    return frame.sort("order").head(limit), f"labels for the first {limit} of {len(frame)} highlighted neurons"


def edge_clip(frame: pl.DataFrame, column: str, floor: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows at or above `floor`, and the rows below it moved to it: drawn apart, never left out silently."""
    below = frame.filter(pl.col(column) < floor).with_columns(
        pl.col(column).alias(f"{column}_true"), pl.lit(floor).alias(column)
    )
    return frame.filter(pl.col(column) >= floor), below


def tooltips(columns: Sequence[tuple[str, str, str]]) -> list[alt.Tooltip]:
    """(column, title, format) triples as tooltips, for the HTML format."""
    return [
        alt.Tooltip(f"{column}:{'Q' if form else 'N'}", title=title, format=form) for column, title, form in columns
    ]
