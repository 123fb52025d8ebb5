"""Variants of a model in knowledge conflicts: every set with every replacement and dose, numbered; and their values.

Variant 0 is the clean model. Then come all sets with all replacements (selections before controls), then the doses: a
set clamped at points between each neuron's smallest (0) and largest (1) observed activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float64

from neuronlab.replacements import ActivationStatistics, ReplacementError, parse_replacement
from neuronlab.schemas import SCHEMAS
from neuronlab.variant_groups import CLEAN, VariantGroup

Array = np.ndarray
KEY = "context_copying.replacements"
LARGEST = 1e6  # of a constant, and of a number of standard deviations
DOSE, NONE = "dose", "none"
VARIANTS = {column: spec.dtype for column, spec in SCHEMAS["variants"].items()}


class VariantError(ValueError):
    """A replacement that variants cannot have, or tables of sets, variants and statistics that do not fit."""


def check_replacements(names: Sequence[str]) -> None:
    """Refuse what is no replacement, or none by a constant.

    Raises:
        VariantError: naming the key, the entry and what there is.
    """
    there = "mean, median, mode, min, max, zero, mean-3sd, mean+3sd (any multiple) and constant:1.5 (any number)"
    if not names:
        raise VariantError(f"{KEY} is empty; name at least one, such as mean")
    for i, name in enumerate(names):
        try:
            parsed = parse_replacement(name)
        except ReplacementError as error:
            raise VariantError(f"{KEY}: '{name}' is no replacement; there are {there}") from error
        if not abs(parsed.number) <= LARGEST:
            raise VariantError(
                f"{KEY}: '{name}' is beyond +-{LARGEST:g}, where a residual stream in float32 holds nothing else"
            )
        if parsed.kind in ("position_mean", "resample"):
            raise VariantError(
                f"{KEY}: '{name}' is no constant: generated tokens have no value of that kind; there are {there}"
            )
        if name in names[:i]:
            raise VariantError(f"{KEY}: {list(names)} names '{name}' twice")


def make_variants(sets: pl.DataFrame, replacements: Sequence[str], *, doses: int, dose_controls: int) -> pl.DataFrame:
    """variants.parquet.

    Args:
        sets: sets.parquet; the order of its sets, selections first, is the order of the variants.
        doses: points from 0 to 1 that sets are clamped at; 0 for none.
        dose_controls: of each selection's controls of each kind the first so many are clamped as well.

    Raises:
        VariantError: see `check_replacements`.
    """
    check_replacements(replacements)
    columns = ("set", "kind", "control_of", "n_neurons")
    each = sets.group_by("set", "kind", "control_of", maintain_order=True).agg(n_neurons=pl.len())
    each = each.sort(pl.col("kind") != "selection", maintain_order=True)

    def rows() -> Iterator[dict[str, object]]:
        yield dict(zip(columns, ("clean", "clean", None, 0), strict=True)) | {"replacement": NONE, "dose": None}
        for row in each.select(columns).iter_rows(named=True):
            for replacement in replacements:
                yield row | {"replacement": replacement, "dose": None}
        place = pl.int_range(pl.len()).over("control_of", "kind")
        clamped = each.filter((pl.col("kind") == "selection") | (place < dose_controls))
        for row in clamped.select(columns).iter_rows(named=True):
            for dose in np.linspace(0.0, 1.0, doses):
                yield row | {"replacement": DOSE, "dose": float(dose)}

    numbered = [{"variant": number} | row for number, row in enumerate(rows())]
    return pl.DataFrame(numbered, schema_overrides=VARIANTS).select(list(VARIANTS)).cast(VARIANTS)


def variant_values(
    replacement: str, dose: float | None, statistics: ActivationStatistics
) -> Float64[Array, " neurons"]:
    """What a variant holds every neuron of the layer at, in activation units; float64.

    `dose` d is min + d (max - min); mean-3sd and its like are clipped to the observed range (METHODS B3).

    Raises:
        VariantError: a dose that is missing, or a replacement that is not one by constants.
    """
    if replacement == DOSE:
        if dose is None:
            raise VariantError("variants: a clamped set without a dose; the table is damaged: delete it and run again")
        return statistics.min + dose * (statistics.max - statistics.min)
    check_replacements([replacement])
    return np.array(statistics.values(parse_replacement(replacement), np.zeros(1, dtype=np.int64))[0], dtype=np.float64)


def read_groups(sets: pl.DataFrame, variants: pl.DataFrame, statistics: ActivationStatistics) -> list[VariantGroup]:
    """The variants with their values, one group per set, in the order of the variants; the clean model is in none.

    Args:
        sets, variants: sets.parquet and variants.parquet of one run.
        statistics: of the last layer.

    Raises:
        VariantError: tables that do not belong together, or a value that is not finite (METHODS B defect 3).
    """
    wide = len(statistics.mean)
    rows = variants.filter(pl.col("variant") != CLEAN).sort("variant")
    if variants["variant"].sort().to_list() != list(range(len(variants))):
        raise VariantError("variants: their numbers have gaps or repetitions; delete the table and run again")
    members = {
        str(name): (tuple(part.sort("rank")["neuron"].to_list()), part["draw"][0])
        for (name,), part in sets.group_by("set", maintain_order=True)
    }
    layer_values: dict[tuple[str, float | None], Float64[Array, " neurons"]] = {}
    groups = []
    for (name,), part in rows.group_by("set", maintain_order=True):
        if name not in members or part["n_neurons"].unique().to_list() != [len(members[str(name)][0])]:
            raise VariantError(f"variants: set '{name}' is not the one in sets; delete both tables and run again")
        neurons, draw = members[str(name)]
        if max(neurons) >= wide:
            raise VariantError(f"sets: '{name}' holds neuron {max(neurons)}, the statistics' layer has {wide}")
        values = np.empty((len(part), len(neurons)))
        for i, (replacement, dose) in enumerate(part.select("replacement", "dose").iter_rows()):
            key = (replacement, dose)
            if key not in layer_values:
                layer_values[key] = variant_values(replacement, dose, statistics)
            values[i] = layer_values[key][list(neurons)]
            if not np.isfinite(values[i]).all():
                bad = [n for n, value in zip(neurons, values[i], strict=True) if not np.isfinite(value)]
                raise VariantError(
                    f"activation statistics: '{replacement}' of neurons {bad} (set '{name}') is not a number; measure "
                    "the activations again, in float64 (delete activation_statistics.parquet)"
                )
        groups.append(VariantGroup(neurons, part["variant"].to_numpy().astype(np.int64), values, draw))
    return groups
