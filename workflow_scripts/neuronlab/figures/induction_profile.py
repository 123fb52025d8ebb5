"""Activations, entropy, loss and norm scale along a repetition (study A, figure 5a).

A row of entropy, loss and norm scale, then a panel per selected neuron, each with an axis of its own: activations of
different neurons have no common size. The copies stand side by side, and a line marks the first token of each further
copy; equal places of the copies hold equal tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import groups, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table

TITLES = {
    "synthetic": "Neurons, entropy and loss on repeated sequences",
    "natural": "Neurons, entropy and loss on stretches that the text repeats",
}
COPIES = {"synthetic": "{} copy", "natural": "{} occurrence"}
ORDINALS = ("1st", "2nd", "3rd")
QUANTITIES = {"entropy": "entropy (nats)", "loss": "loss (nats)", "norm_scale": "norm scale"}
XS = {"synthetic": "token of the copy", "natural": "place around the repeated tokens"}
INTERVAL = ("mean", "mean_low", "mean_high")
COLUMNS, LIMIT = 3, 12
WIDTH, HEIGHT = 310, 112
GAP = 1  # places left free between two occurrences: what lies between them differs by sequence
LABELS = {"synthetic": 11.0, "natural": 9.5}  # size of the places' names
AXIS_EXTENT = 34  # of all vertical axes, so that panels stand below one another


@dataclass(frozen=True)
class Places:
    """The horizontal axis: the places of all copies, side by side.

    Attributes:
        first: offset of a copy's first place.
        length: places of a copy.
        copies: how many.
        kind: "synthetic" or "natural".
    """

    first: int
    length: int
    copies: int
    kind: str

    @classmethod
    def of(cls, profile: pl.DataFrame, kind: str) -> Places:
        low, high = int(profile["offset"].min()), int(profile["offset"].max())
        return cls(low, high - low + 1, int(profile["copy"].max()) + 1, kind)

    @property
    def step(self) -> int:
        """Places from one copy's start to the next one's."""
        return self.length + (GAP if self.kind == "natural" else 0)

    @property
    def domain(self) -> tuple[float, float]:
        return -0.7, (self.copies - 1) * self.step + self.length - 0.3

    def at(self) -> pl.Expr:
        """Where on the axis a row's place is."""
        return pl.col("copy") * self.step + pl.col("offset") - self.first

    def starts(self) -> list[int]:
        """Where the copies start."""
        return [copy * self.step for copy in range(self.copies)]

    def label(self, copy: int, offset: int) -> str:
        """A place's name: natural A0, A1, ... for the prefix, then B (X in a later copy), +1, ...; else its number."""
        if self.kind == "synthetic":
            return str(offset)
        if offset < 0:
            return f"A{offset - self.first}"
        return f"+{offset}" if offset else ("B" if copy == 0 else "X")

    def ticks(self) -> dict[int, str]:
        """Labelled places, as many as fit; the continuation and the ends of a copy come first."""
        if self.kind == "synthetic":
            step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if self._pixels(s) >= 26)
            offsets = list(range(0, self.length, step))
        else:
            ends = [0, self.first, self.first + self.length - 1, -1]
            offsets = ends + [o for o in range(self.first, self.first + self.length) if o not in ends]
        found: dict[int, str] = {}
        for offset in offsets:
            for copy in range(self.copies):
                place, name = copy * self.step + offset - self.first, self.label(copy, offset)
                wide = [(len(name) + len(other)) / 2 * LABELS[self.kind] * 0.56 + 2 for other in found.values()]
                near = [self._pixels(abs(place - other)) for other in found]
                if all(distance >= width for distance, width in zip(near, wide, strict=True)):
                    found[place] = name
        return dict(sorted(found.items()))

    def _pixels(self, places: float) -> float:
        return places / (self.domain[1] - self.domain[0]) * WIDTH


def drawn_neurons(found: pl.DataFrame, limit: int = LIMIT) -> pl.DataFrame:
    """At most `limit` of the highlighted neurons, the first ones of every set, in order."""
    turn = pl.int_range(pl.len()).over("group")
    return found.with_columns(turn=turn).sort("turn", "order").head(limit).sort("order").drop("turn")


def panel(
    frame: pl.DataFrame,
    places: Places,
    title: str,
    *,
    colour: str,
    name: str | None = None,
    copies: bool = False,
    below: str | None = None,
) -> alt.LayerChart:
    """One quantity over the places: mean, band of the interval, a line where each further copy starts.

    Args:
        frame: rows of the profile with a column `at`.
        title: of the vertical axis.
        name: stands above the panel.
        copies: name the copies above the panel.
        below: title of the horizontal axis.
    """
    y = Axis("mean", title, tuple(theme.linear_domain(frame["mean"], frame["mean_low"], frame["mean_high"], pad=0.06)))
    ticks = places.ticks()
    labels = " : ".join([*(f"datum.value == {at} ? '{text}'" for at, text in ticks.items()), "''"])
    axis = alt.Axis(
        title=below,
        titleFontSize=12,
        values=list(ticks),
        labelExpr=labels,
        grid=False,
        labelFontSize=LABELS[places.kind],
        labelOverlap=False,
    )
    scale = alt.Scale(domain=list(places.domain), nice=False, zero=False)
    x = alt.X("at:Q", scale=scale, axis=axis)
    vertical = alt.Axis(title=title, tickCount=4, minExtent=AXIS_EXTENT, maxExtent=AXIS_EXTENT)
    across = alt.Y("mean:Q", scale=y.scale(), axis=vertical)
    starts = pl.DataFrame({"at": places.starts()})
    base = alt.Chart(frame).encode(x=x, detail="copy:N")
    band = base.mark_area(opacity=0.22, color=colour, line=False).encode(
        y=alt.Y("mean_low:Q", scale=y.scale(), axis=vertical), y2="mean_high:Q"
    )
    tips = [alt.Tooltip("copy:Q"), alt.Tooltip("offset:Q"), *(alt.Tooltip(f"{c}:Q", format=".3g") for c in INTERVAL)]
    dots = places.kind == "natural"
    line = base.mark_line(strokeWidth=1.7, color=colour, point={"size": 22, "color": colour} if dots else False)
    layers: list[alt.Chart] = [
        alt.Chart(starts[1:]).mark_rule(strokeDash=[4, 3], color=theme.FAINT, strokeWidth=1.2).encode(x=x),
        band,
        line.encode(y=across, tooltip=tips),
    ]
    if copies:
        names = [COPIES[places.kind].format(nth) for nth in _ordinals(places.copies)]
        starts = starts.with_columns(name=pl.Series(names))
        text = {"align": "left", "fontSize": 11.5, "color": theme.FAINT, "baseline": "bottom", "dx": 2}
        layers.append(alt.Chart(starts).mark_text(**text).encode(x=x, y=alt.value(-4), text="name:N"))
    made = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    if name is None:
        return made
    return made.properties(title=alt.Title(name, fontSize=12.5, color=colour, anchor="start", frame="group", offset=4))


def _ordinals(number: int) -> list[str]:
    return [ORDINALS[i] if i < len(ORDINALS) else f"{i + 1}th" for i in range(number)]


def without_jump(profile: pl.DataFrame, places: Places) -> tuple[pl.DataFrame, str | None]:
    """The profile without the loss at the seam of two copies, and what that loss is.

    The token after a made copy is no continuation of it; its loss, far above all others, would set the axis alone.
    """
    seam = (pl.col("quantity") == "loss") & (pl.col("offset") == places.length - 1)
    rows = profile.filter(seam)
    if places.kind == "natural" or not len(rows):
        return profile, None
    values = " and ".join(f"{value:.1f}" for value in rows.sort("copy")["mean"].to_list())
    return profile.filter(~seam), f"not drawn: loss of the token after a copy, {values} nats"


def on_top(profile: pl.DataFrame, places: Places) -> str | None:
    """How often the next token is the top prediction, in the first and in the last copy, where it can be copied."""
    predictable = pl.col("offset") == -1 if places.kind == "natural" else pl.col("offset") < places.length - 1
    rows = profile.filter((pl.col("quantity") == "correct") & predictable)
    first, last = (rows.filter(pl.col("copy") == copy)["mean"].mean() for copy in (0, places.copies - 1))
    if first is None or last is None:
        return None
    where = f" after A{-places.first - 1}" if places.kind == "natural" else ""
    shares = f"next token on top{where}: {100 * first:.0f} % in the first {{}}, {100 * last:.0f} % in the last"
    goes_on = profile.filter(pl.col("quantity") == "continues")
    more = f"; X is B in {100 * goes_on['mean'].item():.0f} %" if len(goes_on) == 1 else ""
    return shares.format(COPIES[places.kind].format("").strip()) + more


def chart(
    profile: pl.DataFrame,
    selection: pl.DataFrame,
    *,
    model: str,
    text: str,
    kind: str,
    level: float = 0.95,
    sets: Sequence[str] | None = None,
) -> alt.TopLevelMixin:
    """The figure, from the tables `induction_profile` and `selection`.

    Args:
        kind: "synthetic" or "natural".
        level: of the intervals in the table.
        sets: names of the sets to highlight; all selections if not given.
    """
    if not len(profile):
        note = f"no {kind} repetition in this text:\nnothing was measured (see the log of find_repeats)"
        return theme.finish(theme.note_chart(note), TITLES[kind], [theme.about(model, text)])
    places = Places.of(profile, kind)
    profile = profile.with_columns(at=places.at())
    activations = profile.filter(pl.col("quantity") == "activation")
    layer = int(activations["layer"].max()) if len(activations) else 0
    found = groups.group_neurons(selection, layer, sets).filter(
        (pl.col("group") != groups.CONTROLS) & pl.col("neuron").is_in(activations["neuron"].unique().to_list())
    )
    shown = drawn_neurons(found)
    domain, colour_range = groups.colours(shown["group"].unique(maintain_order=True).to_list())
    colour = dict(zip(domain, colour_range, strict=True))
    drawn, jump = without_jump(profile, places)
    top = [
        panel(
            drawn.filter(pl.col("quantity") == quantity),
            places,
            title,
            colour=theme.INK,
            copies=True,
            below=None if len(shown) else XS[kind],
        )
        for quantity, title in QUANTITIES.items()
    ]
    last_row = (len(shown) - 1) // COLUMNS
    neurons = [
        panel(
            activations.filter(pl.col("neuron") == row["neuron"]),
            places,
            "activation",
            colour=colour[row["group"]],
            name=row["label"],
            below=XS[kind] if i // COLUMNS == last_row else None,
        )
        for i, row in enumerate(shown.iter_rows(named=True))
    ]
    panels = top + neurons
    rows = [alt.hconcat(*panels[i : i + COLUMNS], spacing=22) for i in range(0, len(panels), COLUMNS)]
    if len(shown):
        numbers = dict(found.group_by("group").len().iter_rows())
        rows.insert(1, groups.key(domain, numbers, COLUMNS * WIDTH))
    n = profile.filter(pl.col("quantity") != "continues")["n_sequences"]
    sequences = f"{n.min()} to {n.max()} sequences by place" if n.min() < n.max() else theme.count(n.max(), "sequence")
    names = {
        "synthetic": f"a copy has {places.length} tokens",
        "natural": f"A0 to A{-places.first - 1}: repeated tokens; B, X: the tokens after them",
    }
    left_out = len(found) - len(shown)
    subtitle = [
        theme.about(model, text, f"layer {layer} (last)" if len(found) else "no neuron selected", sequences),
        f"mean over sequences with {100 * level:g} % interval, bootstrap by document",
        f"dashed: first token of {COPIES[kind].format('the 2nd' if places.copies == 2 else 'a further')}",
        names[kind],
        on_top(profile, places),
        jump,
        f"{theme.count(left_out, 'more highlighted neuron')} not drawn" if left_out else None,
    ]
    return theme.finish(alt.vconcat(*rows, spacing=16), TITLES[kind], subtitle)


def draw(
    *,
    profile: str | Path,
    selection: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str,
    text: str,
    kind: str,
    level: float = 0.95,
    sets: Sequence[str] | None = None,
) -> None:
    """Rule `draw_induction_profile`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(profile, "induction_profile"),
        read_selections(selection),
        model=model,
        text=text,
        kind=kind,
        level=level,
        sets=sets,
    )
    saving.save(made, figures)
