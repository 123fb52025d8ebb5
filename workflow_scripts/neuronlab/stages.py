"""The borders of the four stages of inference, estimated from what was measured by layer (METHODS C).

Study C tells four stages apart and draws their borders by eye. Here each border has a rule. All curves share one axis,
the layer: what concerns a layer lies at its index, what concerns the residual after p blocks (the lens) between two
layers, at p - 1/2. A border at 4.3 says: layers up to 4 belong to the stage before, from 5 on to the stage after.

0. Detokenization ends where attention on the tokens just before falls below half of the way from its maximum in the
   first third of the layers to its median in the middle third. The curve is first made monotone from that maximum to
   the end of the middle third (isotonic least squares), so that one odd layer makes no border; within a pair of layers
   the crossing is interpolated. The fall has to be at least a tenth of the maximum.
1. Prediction ensembling starts at the bend of two segments, a level and a straight rise (continuous, least squares),
   fitted to the share of prediction neurons and to the lens' agreement with the final prediction. Both curves have one
   bend in common, each its own level and slope; each counts by its own variance.
2. Residual sharpening starts at the bend of the same fit to the share of suppression neurons and to the logarithm of
   the KL divergence after deletion of a layer, the latter in the second half of the layers: the first layers matter for
   other reasons.

Of a rising curve only what lies before its maximum is fitted (prediction neurons become fewer again). Bends are sought
in quarters of a layer, from layer 1 to the last but one. A curve takes part only if it changes beyond its intervals:
the lower end at its maximum lies above the median upper end of the points compared with. Where one of two curves is
missing, or the lens or deletion takes no part, the other one decides, and the table's column `rule` says so; but where
the neurons that the stage is known by were counted and do not become more, there is no border to estimate. A bend has
to explain half of the curves' variance, and to lie within the range sought: a straight rise from the first layer on has
none. Borders in the wrong order contradict the idea of stages: neither of the two is kept. Below eight layers nothing
is estimated.

Intervals are parametric: every point of a curve is drawn anew from a normal distribution with two widths that has the
point's interval at the given level, and the rule is applied to each such curve. Points are drawn independently. That
speaks of the noise of measurement alone: how sharp a border is, and whether there are four stages, no interval says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64

from neuronlab.change_points import Curve, bend_costs, common_bend, half_fall, thirds
from neuronlab.schemas_stages import STAGES
from neuronlab.statistics import percentile_interval
from neuronlab.tables import Provenance, read_table, write_table

log = logging.getLogger(__name__)

Array = np.ndarray
MIN_LAYERS = 8
MIN_FALL = 0.1  # border 0: of the early maximum
MIN_EXPLAINED = 0.5  # borders 1 and 2: of the curves' variance
STEP = 0.25  # of a layer: where bends are sought
KL_FLOOR = 1e-9  # nats; smaller divergences have no useful logarithm

FALL = "half of the fall from the early maximum to the mid-depth median: {}"
BEND = "bend of level and straight rise, least squares: {}"
NO_RISE = "no rise beyond the intervals: {}"
NAMES = {
    "local": "local attention (isotonic)",
    "prediction": "share of prediction neurons",
    "agreement": "lens agreement",
    "suppression": "share of suppression neurons",
    "deletion": "log KL of deletion in the second half",
}
CURVES = (("local",), ("prediction", "agreement"), ("suppression", "deletion"))
KNOWN_BY = ("prediction", "suppression")  # neurons without which a stage is not what it is called
SOURCES = {
    "local": "local_attention_layers",
    "prediction": "vocabulary_counts",
    "agreement": "lens",
    "suppression": "vocabulary_counts",
    "deletion": "interventions",
}


class StagesError(ValueError):
    """Tables that do not belong together."""


@dataclass(frozen=True)
class Border:
    """One border: where it is and by which rule, or why it is not estimated."""

    rule: str
    layer: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def curves_of(tables: Mapping[str, pl.DataFrame | None]) -> dict[str, Curve]:
    """The curves that the given tables hold, by the names of `NAMES`; a curve without points is left out.

    The lens' last point is left out: it is the model's own output, which agrees with itself.
    """
    found: dict[str, Curve] = {}

    def add(name: str, frame: pl.DataFrame | None, column: str, shift: float = 0.0) -> None:
        if frame is None:
            return
        rows = frame.drop_nulls(column).sort("layer")
        if len(rows):
            x = rows["layer"].to_numpy().astype(np.float64) - shift
            ends = [column, f"{column}_low", f"{column}_high"]
            found[name] = Curve(x, *(rows[end].cast(pl.Float64).fill_null(np.nan).to_numpy() for end in ends))

    if (attention := tables.get("local_attention_layers")) is not None:
        add("local", attention.filter(pl.col("measure") == "window"), "attention")
    if (lens := tables.get("lens")) is not None:
        add("agreement", lens.filter(pl.col("layer") < pl.col("layer").max()), "agreement", 0.5)
    if (counts := tables.get("vocabulary_counts")) is not None:
        for kind in ("prediction", "suppression"):
            add(kind, counts.filter(pl.col("kind") == kind), "share")
    if (changed := tables.get("interventions")) is not None:
        last = changed["layer"].max() if len(changed) else 0
        add("deletion", changed.filter((pl.col("intervention") == "delete") & (2 * pl.col("layer") >= last)), "kl")
        if "deletion" in found:
            found["deletion"] = _logarithm(found["deletion"])
    return found


def _logarithm(curve: Curve) -> Curve:
    return Curve(curve.x, *(np.log(np.maximum(values, KL_FLOOR)) for values in (curve.y, curve.low, curve.high)))


def layers_of(tables: Mapping[str, pl.DataFrame | None]) -> int | None:
    """How many layers the model has; None without a row in any table.

    Raises:
        StagesError: if the tables disagree.
    """
    found: dict[str, int] = {}
    for name in dict.fromkeys(SOURCES.values()):
        frame = tables.get(name)
        if frame is not None and name == "interventions":
            frame = frame.filter(pl.col("intervention") != "swap")  # not every layer need be swapped
        if frame is not None and len(frame):
            found[name] = int(frame["layer"].max()) + (name != "lens")
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in found.items())
        raise StagesError(f"these tables are of models with different numbers of layers: {listed}; make them again")
    return next(iter(found.values()), None)


def fall_border(curve: Curve, n_layers: int, *, resamples: int, level: float, generator: np.random.Generator) -> Border:
    """Border 0 from local attention, with its interval."""
    rule = FALL.format(NAMES["local"])
    early, middle = thirds(curve.x, n_layers)
    if not early.any() or not middle.any():
        return Border(rule, reason="local attention is missing in the first or in the middle third of the layers")
    start = int(np.flatnonzero(early)[np.argmax(curve.y[early])])
    fall = curve.y[start] - np.median(curve.y[middle])
    if fall < MIN_FALL * curve.y[start] or not curve.exceeds(start, middle):
        return Border(rule, reason="local attention does not fall from the first to the middle third of the layers")
    estimate = half_fall(curve.x, curve.y, n_layers)
    if np.isnan(estimate):
        return Border(rule, reason="local attention does not stay low in the middle third of the layers")
    if not curve.has_intervals:
        return Border(rule, estimate)
    drawn = curve.draw(resamples, level, generator)
    return _with_interval(rule, estimate, np.array([half_fall(curve.x, y, n_layers) for y in drawn]), level)


def bend_border(
    curves: Mapping[str, Curve], n_layers: int, *, resamples: int, level: float, generator: np.random.Generator
) -> Border:
    """Border 1 or 2: the bend that the given curves have in common, with its interval."""
    rising = {}
    for name, curve in curves.items():
        top = int(np.argmax(curve.y))
        if top >= 2 and curve.exceeds(top, np.arange(top)):
            rising[name] = curve
    if not rising:
        which = " and ".join(NAMES[name] for name in curves)
        return Border(BEND.format(which), reason=NO_RISE.format(which))
    absent = [NAMES[name] for name in KNOWN_BY if name in curves and name not in rising]
    if absent:
        return Border(BEND.format(" and ".join(NAMES[name] for name in curves)), reason=NO_RISE.format(absent[0]))
    rule = BEND.format(" and ".join(NAMES[name] for name in rising))
    bends = np.arange(1.0, n_layers - 2 + STEP / 2, STEP)
    best, cost = common_bend(np.stack([bend_costs(curve.x, curve.y[None], bends) for curve in rising.values()]))
    if cost[0] > 1 - MIN_EXPLAINED:
        return Border(rule, reason=f"no bend: it would explain {100 * (1 - cost[0]):.0f} % of the variance")
    if best[0] == 0:
        return Border(rule, reason="no bend: the rise starts in the first layers")
    if not all(curve.has_intervals for curve in rising.values()):
        return Border(rule, float(bends[best[0]]))
    drawn = [bend_costs(c.x, c.draw(resamples, level, generator), bends) for c in rising.values()]
    return _with_interval(rule, float(bends[best[0]]), bends[common_bend(np.stack(drawn))[0]], level)


def _with_interval(rule: str, estimate: float, resampled: Float64[Array, " resamples"], level: float) -> Border:
    """The estimate with the percentiles of the resamples, widened to hold it: a rule is no mean, and may be biased."""
    found = percentile_interval(np.array([estimate]), resampled[:, None], level, clusters=2)
    if np.isnan(found.low[0]):
        return Border(rule, estimate)
    return Border(rule, estimate, min(float(found.low[0]), estimate), max(float(found.high[0]), estimate))


def in_order(borders: list[Border]) -> list[Border]:
    """The borders without those that contradict one another: of two in the wrong order neither is kept."""
    wrong: dict[int, str] = {}
    for i, first in enumerate(borders):
        for j, second in enumerate(borders[i + 1 :], start=i + 1):
            if first.layer is not None and second.layer is not None and first.layer >= second.layer:
                said = f"out of order: border {i} at layer {first.layer:.2f}, border {j} at layer {second.layer:.2f}"
                wrong |= {place: said for place in (i, j) if place not in wrong}
    return [Border(b.rule, reason=wrong[i]) if i in wrong else b for i, b in enumerate(borders)]


def borders_of(
    tables: Mapping[str, pl.DataFrame | None], *, resamples: int, level: float, seed: int
) -> tuple[list[Border], int | None]:
    """The three borders, and how many layers the model has (None if no table says).

    Args:
        tables: any of `interventions`, `lens`, `vocabulary_counts`, `local_attention_layers`; None for a missing one.

    Raises:
        StagesError: see `layers_of`.
    """
    n_layers, curves = layers_of(tables), curves_of(tables)
    found: list[Border] = []
    for number, names in enumerate(CURVES):
        kind = FALL if number == 0 else BEND
        here = {name: curves[name] for name in names if name in curves}
        rule = kind.format(" and ".join(NAMES[name] for name in names))
        generator = np.random.default_rng([seed, number])
        if n_layers is not None and n_layers < MIN_LAYERS:
            found.append(Border(rule, reason=f"not estimated below {MIN_LAYERS} layers"))
        elif n_layers is None or not here:
            missing = " and ".join(dict.fromkeys(SOURCES[name] for name in names))
            found.append(Border(rule, reason=f"nothing measured in {missing}"))
        elif number == 0:
            found.append(fall_border(here["local"], n_layers, resamples=resamples, level=level, generator=generator))
        else:
            found.append(bend_border(here, n_layers, resamples=resamples, level=level, generator=generator))
    return in_order(found), n_layers


def stages_frame(borders: list[Border], n_layers: int | None) -> pl.DataFrame:
    """The table `stages`: a row per border."""
    rows = [
        {
            "border": number,
            "before": STAGES[number],
            "after": STAGES[number + 1],
            "rule": border.rule,
            "layer": border.layer,
            "layer_low": border.low,
            "layer_high": border.high,
            "depth": None if border.layer is None or n_layers is None else border.layer / (n_layers - 1),
            "reason": border.reason,
        }
        for number, border in enumerate(borders)
    ]
    floats = dict.fromkeys(("layer", "layer_low", "layer_high", "depth"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides={**floats, "reason": pl.String})


def estimate_stages(
    *,
    interventions: str | Path | None,
    lens: str | Path | None,
    vocabulary_counts: str | Path | None,
    local_attention_layers: str | Path | None,
    stages: str | Path,
    resamples: int,
    level: float,
    seed: int,
    provenance: Provenance | None = None,
) -> None:
    """Rule `estimate_stages`: the borders of the four stages, written to `stages`.

    Args:
        interventions, lens, vocabulary_counts, local_attention_layers: tables; None for a part that is not made.
        resamples: drawn curves for the intervals.
        level: of the intervals, in the tables read and in the one written.

    Raises:
        StagesError: if the tables are of models with different numbers of layers.
        TableError: for a table that is missing or damaged.
    """
    paths = {
        "interventions": interventions,
        "lens": lens,
        "vocabulary_counts": vocabulary_counts,
        "local_attention_layers": local_attention_layers,
    }
    tables = {name: None if path is None else read_table(path, name) for name, path in paths.items()}
    borders, n_layers = borders_of(tables, resamples=resamples, level=level, seed=seed)
    for number, border in enumerate(borders):
        where = f"layer {border.layer:.2f}" if border.layer is not None else f"not estimated: {border.reason}"
        log.info("border %d, %s | %s: %s", number, STAGES[number], STAGES[number + 1], where)
    write_table(stages_frame(borders, n_layers), stages, "stages", provenance)
