"""Rule `compare_published_copying`: study B's published scores of a model beside ours (METHODS B5, B6).

Unlike rho and LogitVar, scores are not expected to agree to many digits: prompts depend on templates and filters, and
the published ones on defects (METHODS B defects). Values that a defect made are kept, with `usable` false and the
reason; values that were read off a figure say so in `source`. Shares are in percent, as published.

Ours is the selection that shares most neurons with the published set; how many it shares stands in the table, because
scores of other neurons are no replication.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from neuronlab.copying_variants import variant_values
from neuronlab.published_models import COPYING_ACTIVATIONS, COPYING_MODELS, COPYING_VALUES
from neuronlab.replacements import ActivationStatistics
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table

VALUES = {"model": pl.String, "measure": pl.String, "replacement": pl.String} | {
    "published": pl.Float64,
    "published_control": pl.Float64,
    "control_3se": pl.Float64,
    "source": pl.String,
    "usable": pl.Boolean,
    "note": pl.String,
}
STATISTICS = ("mean", "median", "mode", "sd", "min", "max")
ACTIVATIONS = {"model": pl.String, "neuron": pl.Int32} | dict.fromkeys(STATISTICS, pl.Float64)
HELD = ("mean", "median", "mode", "mean-3sd", "mean+3sd", "min", "max")
COLUMNS = {column: spec.dtype for column, spec in SCHEMAS["published_copying"].items()}
CONTROLS = "uniform"  # the published kind
POPULATION = "taken over padding and BOS positions as well"  # B defect 4

Ours = dict[str, Any]  # the columns set, n, ours, ours_low, ours_high, ours_control


class PublishedCopyingError(ValueError):
    """A comparison for a model of which study B published no scores."""


def published_scores(model: str) -> pl.DataFrame:
    """The published values of a model: columns measure to note of `VALUES`, in the order of the shipped table.

    Raises:
        PublishedCopyingError: for any model but study B's.
    """
    if model not in COPYING_MODELS:
        raise PublishedCopyingError(
            f"no scores of context copying are published for '{model}'; known are {', '.join(COPYING_MODELS)}"
        )
    return pl.read_csv(COPYING_VALUES, schema=VALUES).filter(pl.col("model") == model).drop("model")


def published_activations(model: str) -> pl.DataFrame:
    """What was published of the activations of a model's entropy neurons: neuron and `STATISTICS`.

    As shipped: float16, where the sd of some neurons is infinite (B defect 2) and a mode NaN (B defect 3).
    """
    return pl.read_csv(COPYING_ACTIVATIONS, schema=ACTIVATIONS).filter(pl.col("model") == model).drop("model")


def published_constants(activations: pl.DataFrame) -> pl.DataFrame:
    """What the published neurons were held at, by the published statistics: the columns of `published_scores`.

    None of these is usable as a target: they were taken over another population of positions.
    """
    rows = []
    for row in activations.iter_rows(named=True):
        overflowed, no_mode = np.isinf(row["sd"]), np.isnan(row["mode"])
        held = {name: row[name] for name in ("mean", "median", "mode", "min", "max")}
        held["mean-3sd"] = max(row["mean"] - 3 * row["sd"], row["min"])
        held["mean+3sd"] = min(row["mean"] + 3 * row["sd"], row["max"])
        for name in HELD:
            note = POPULATION
            if name in ("mean-3sd", "mean+3sd") and overflowed:
                note += f"; sd overflowed in float16: held at the {'smallest' if '-' in name else 'largest'} activation"
            if name == "mode" and no_mode:
                note += "; NaN"
            rows.append(
                {
                    "measure": f"activation_{row['neuron']}",
                    "replacement": name,
                    "published": None if np.isnan(held[name]) else held[name],
                    "source": "shipped arrays (float16)",
                    "usable": False,
                    "note": note,
                }
            )
    return pl.DataFrame(rows, schema=VALUES).drop("model")


def nearest_selection(sets: pl.DataFrame, neurons: Sequence[int]) -> tuple[str | None, int]:
    """The selection that shares most of `neurons`, and how many; the first one where none shares any.

    Of selections that share equally many, the smallest; None and 0 where there is no selection.
    """
    selections = sets.filter(pl.col("kind") == "selection").group_by("set", maintain_order=True)
    members = {str(name): set(part["neuron"].to_list()) for (name,), part in selections}
    if not members:
        return None, 0
    shared = {name: len(members[name] & set(neurons)) for name in members}
    best = max(members, key=lambda name: (shared[name], -len(members[name]) if shared[name] else 0))
    return best, shared[best]


def _only(frame: pl.DataFrame, **values: str) -> Mapping[str, Any] | None:
    """The one row with these values, if there is one."""
    rows = frame.filter(*(pl.col(column) == value for column, value in values.items()))
    return rows.row(0, named=True) if len(rows) else None


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def our_score(measure: str, replacement: str, selection: str, scores: pl.DataFrame, tests: pl.DataFrame) -> Ours:
    """Ours for a score of the selection under a replacement, in percent; empty where it was not measured.

    The published percentile is 100 minus that of the share of labels that stay, by scipy's `percentileofscore` with
    kind "rank", which counts of t equal controls (t + 1)/2 where ours counts t/2 (METHODS B4): with ties ours lies
    50/n percentage points above the published one for the same n controls.
    """
    share = measure.removesuffix("_percentile").removesuffix("_control_max")
    tested = "invariance" if measure == "gts_percentile" else share
    test = _only(tests, set=selection, replacement=replacement, measure=tested, controls=CONTROLS)
    score = _only(scores, set=selection, replacement=replacement, measure=share)
    if measure == "gts_percentile":
        return {"ours": test["percentile"]} if test else {}
    if measure == "gts_control_max":
        return {"ours": _percent(test["control_max"])} if test else {}
    if score is None:
        return {}
    return {
        "n": score["n_eligible"],
        "ours": _percent(score["value"]),
        "ours_low": _percent(score["value_low"]),
        "ours_high": _percent(score["value_high"]),
        "ours_control": _percent(test["control_mean"]) if test else None,
    }


def our_class(measure: str, class_counts: pl.DataFrame) -> Ours:
    """Ours for `count_ck` (prompts) or `share_ck` (percent) and their like, over all facts."""
    kind, label = measure.split("_")
    row = _only(class_counts, subset="all", label=label.upper())
    if row is None:
        return {}
    if kind == "count":
        return {"n": row["n_prompts"], "ours": float(row["n"])}
    return {"n": row["n_prompts"]} | {f"ours{end}": _percent(row[f"share{end}"]) for end in ("", "_low", "_high")}


def our_activation(measure: str, replacement: str, statistics: ActivationStatistics) -> Ours:
    """Ours for `activation_<neuron>`, or the layer's largest or smallest (`activation_max`, `activation_min`)."""
    neuron = measure.removeprefix("activation_")
    values = variant_values(replacement, None, statistics)
    if not neuron.isdecimal():
        return {"ours": float(values.max() if neuron == "max" else values.min())}
    return {"ours": float(values[int(neuron)])} if int(neuron) < len(values) else {}


def comparison(
    model: str,
    *,
    scores: pl.DataFrame,
    control_tests: pl.DataFrame,
    class_counts: pl.DataFrame,
    statistics: ActivationStatistics,
    sets: pl.DataFrame,
) -> pl.DataFrame:
    """published.parquet of a model: a row for every published value, with ours where it was measured.

    Args:
        model: key of the published model.
        statistics: of the last layer.
        sets: table "copying_sets".

    Raises:
        PublishedCopyingError: see `published_scores`.
    """
    values, activations = published_scores(model), published_activations(model)
    selection, shared = nearest_selection(sets, activations["neuron"].to_list())
    set_row = {
        "measure": "shared_neurons",
        "replacement": "none",
        "published": float(len(activations)),
        "source": "shipped list of entropy neurons",
        "usable": True,
        "note": "of the published neurons, how many our selection holds; scores compare only if it holds all",
    }
    rows = [set_row | {"set": selection, "ours": None if selection is None else float(shared)}]
    for row in pl.concat([values, published_constants(activations)]).iter_rows(named=True):
        measure, replacement = row["measure"], row["replacement"]
        if measure.startswith(("count_", "share_")):
            rows.append(row | our_class(measure, class_counts))
        elif measure.startswith("activation_"):
            rows.append(row | our_activation(measure, replacement, statistics))
        elif selection is not None:
            ours = our_score(measure, replacement, selection, scores, control_tests)
            rows.append(row | {"set": selection} | ours)
        else:
            rows.append(row)
    return pl.DataFrame(rows, schema=COLUMNS)


def compare_published_copying(
    *,
    model_name: str | None,
    scores: str | Path,
    control_tests: str | Path,
    class_counts: str | Path,
    statistics: str | Path,
    sets: str | Path,
    published: str | Path,
    provenance: Provenance | None = None,
) -> None:
    """Write published.parquet of a model that study B published scores of.

    Args:
        model_name: key of the published model, as `published_models.published_name` gives it.
        statistics: table "activation_statistics"; its largest layer is the last.

    Raises:
        PublishedCopyingError: for any other model.
        TableError, ReplacementError: tables that cannot be read or are not of one model.
    """
    if model_name is None:
        raise PublishedCopyingError(
            "nothing is published of context copying in this model: it is none of " + ", ".join(COPYING_MODELS)
        )
    activations = read_table(statistics, "activation_statistics")
    layer = int(activations["layer"].max())
    neurons = len(activations.filter(pl.col("layer") == layer))
    frame = comparison(
        model_name,
        scores=read_table(scores, "copying_scores"),
        control_tests=read_table(control_tests, "control_tests"),
        class_counts=read_table(class_counts, "class_counts"),
        statistics=ActivationStatistics.of_layer(activations, layer, neurons),
        sets=read_table(sets, "copying_sets"),
    )
    write_table(frame, published, "published_copying", provenance)
