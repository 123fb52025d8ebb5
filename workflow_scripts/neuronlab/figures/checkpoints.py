"""Training checkpoints on an axis: which models of a comparison are one training run, and where each stands.

The axis is logarithmic in the training step. Two kinds of checkpoint have no place on it and get one beside it: step 0,
left of the first step, and the end of training, whose step the model's name does not say, right of the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import numpy as np
import polars as pl

FINAL = "final"
LABEL_GAP = 40  # pixels between the middles of neighbouring labels


def base_of(model: str) -> str:
    """The model that a revision belongs to."""
    return model.partition("@")[0]


def short_step(step: int) -> str:
    """A training step as a tick's label: 64, 1,024, 143k, 1.2M."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if step >= 10 * size or (step >= size and unit == "M"):
            return f"{step / size:.3g}{unit}"
    return f"{step:,}"


@dataclass(frozen=True)
class Training:
    """One training run.

    Attributes:
        base: the model, without revision.
        places: one row per checkpoint in order: model, step (null at the end of training), place, label.
        others: models of the comparison that are not part of it.
    """

    base: str
    places: pl.DataFrame
    others: tuple[str, ...]

    def domain(self) -> list[float]:
        """Of the axis, with a margin."""
        place = self.places["place"]
        margin = 0.05 * (place.max() - place.min())
        return [place.min() - margin, place.max() + margin]

    def x(self, pixels: int, *, labels: bool = True) -> alt.X:
        """The axis, with as many labels as fit: the ends first, then from the left."""
        low, high = self.domain()
        place, label = self.places["place"].to_numpy(), self.places["label"].to_list()
        at = (place - low) / (high - low) * pixels
        shown: list[int] = []
        for i in [0, len(at) - 1, *range(1, len(at) - 1)]:
            if all(abs(at[i] - at[j]) >= LABEL_GAP for j in shown):
                shown.append(i)
        cases = [f"abs(datum.value - {float(place[i])!r}) < 1e-9 ? '{label[i]}' : " for i in sorted(shown)]
        axis = alt.Axis(
            title="training step (log scale)" if labels else None,
            values=[float(p) for p in place],
            labelExpr="".join(cases) + "''",
            labelOverlap=False,
            grid=False,
            labels=labels,
        )
        return alt.X("place:Q", scale=alt.Scale(domain=[low, high], nice=False, zero=False), axis=axis)


def training(models: pl.DataFrame, reference: str | None = None) -> Training | None:
    """The training run to draw: the reference's, if it has two checkpoints with steps, else the first that has.

    Args:
        models: columns model and step, in the order of the comparison; a model may have several rows.

    Returns:
        None where no model has two checkpoints with steps.
    """
    distinct = models.select("model", "step").unique(maintain_order=True)
    distinct = distinct.with_columns(base=pl.col("model").str.split("@").list.first())
    steps = distinct.group_by("base", maintain_order=True).agg(
        pl.col("step").n_unique() - pl.col("step").is_null().any()
    )
    able = steps.filter(pl.col("step") >= 2)["base"].to_list()
    if not able:
        return None
    base = base_of(reference) if reference and base_of(reference) in able else able[0]
    own = distinct.filter(pl.col("base") == base).sort("step", nulls_last=True, maintain_order=True)
    step = own["step"].to_list()
    logs = [np.log2(s) for s in step if s]
    gap = max(1.0, 0.1 * (max(logs) - min(logs)))
    place, label, beyond = [], [], 0
    for model, s in zip(own["model"], step, strict=True):
        if s is None:
            beyond += 1
            place.append(max(logs) + beyond * gap)
            label.append(model.partition("@")[2] or FINAL)
        else:
            place.append(float(np.log2(s)) if s else min(logs) - gap)
            label.append(short_step(s))
    places = own.select("model", "step").with_columns(
        pl.Series("place", place, dtype=pl.Float64), pl.Series("label", label, dtype=pl.String)
    )
    return Training(base, places, tuple(distinct.filter(pl.col("base") != base)["model"]))
