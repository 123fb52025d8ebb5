"""Sets of neurons: selections by the rules of `selection_rules`, and controls to compare them with.

Controls are neurons of the selected neurons' own layers that no selection holds and that write something. Every
selection gets `control_sets` uniform and as many norm-matched sets, each as large as the selection:

* `<set>/uniform_000`, ...: drawn uniformly, layer by layer as many as the selection has there;
* `<set>/norm_matched_000`, ...: for every selected neuron the one nearest in log norm. All sets of a selection are
  matched at once, minimising the sum of |log norm ratio|, and a neuron's partners are dealt to the sets at random, so
  that no set is the best one. `norm_ratio` is the quality of the match: entropy neurons may be outliers in norm, and
  then nothing matches them (METHODS 0.6).

The sets of one selection and kind share no neuron; their union (`control_pool`) serves as a pool of single controls.
Draws depend on the seed, the set's name and the kind, so another control kind or set changes none of them but through
the neurons that it takes away.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import linear_sum_assignment

from neuronlab.null_space_size import resolve_k
from neuronlab.schemas import SCHEMAS
from neuronlab.selection_rules import PLACE, RULES, Parameters, SelectionError, choose
from neuronlab.tables import Provenance, read_table, write_table

KINDS = ("uniform", "norm_matched")
SELECTION = {column: spec.dtype for column, spec in SCHEMAS["selection"].items()}


def resolve_selection_k(
    name: str, selection: Parameters, null_space: pl.DataFrame, null_space_k: Sequence[float], d: int
):
    """Which of the measured sizes a selection's `k` means: (k, k_rule). Default: the first configured one.

    Args:
        null_space: null_space.parquet.
        null_space_k: the sizes as configured, whole numbers or shares of d.
        d: width of the model.

    Raises:
        NullSpaceError: for a size that cannot be, such as one larger than d.
        SelectionError: for one that was not measured.
    """
    where, k = f"selections.{name}.k", selection.get("k", null_space_k[0])
    measured = null_space.select("k", "k_rule").unique().sort("k_rule", "k", descending=[True, False])
    if isinstance(k, str):
        if k != "automatic":
            raise SelectionError(f"{where} is '{k}'; it is a number or 'automatic'")
        return int(measured.filter(k_rule="automatic")["k"][0]), "automatic"
    size = resolve_k(k, d, where)
    configured = measured.filter(k_rule="configured")["k"].to_list()
    if size not in configured:
        raise SelectionError(f"{where} = {k} was not measured; add it to weights.null_space_k (measured: {configured})")
    return size, "configured"


def selection_frame(
    neurons: pl.DataFrame, shares: pl.DataFrame | None = None, statistics: pl.DataFrame | None = None
) -> pl.DataFrame:
    """What rules see: neurons with `rho` (of one k) and, where there are statistics, the activation's `kurtosis`."""
    frame = neurons
    if shares is not None:
        frame = frame.join(shares.select(*PLACE, "rho"), on=PLACE, how="left")
    if statistics is not None:
        frame = frame.join(statistics.select(*PLACE, "kurtosis"), on=PLACE, how="left")
    return frame.sort(*PLACE)


def _generator(seed: int, name: str, kind: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), KINDS.index(kind)])


def draw_controls(
    name: str, kind: str, chosen: pl.DataFrame, available: pl.DataFrame, n_sets: int, seed: int
) -> pl.DataFrame:
    """`n_sets` control sets of one kind for the selection `name`, in the columns of selection.parquet.

    Args:
        chosen: the selection's rows, in order, with layer, neuron and norm.
        available: neurons that may serve: in no selection, with a norm above zero.

    Raises:
        SelectionError: if a layer has too few of them.
    """
    generator = _generator(seed, name, kind)
    chosen = chosen.with_row_index("rank")
    if kind == "norm_matched":
        chosen = chosen.filter(pl.col("norm") > 0)  # an explicit list may hold a neuron that writes nothing
    rows = []
    for (layer,), here in sorted(chosen.group_by("layer", maintain_order=True), key=lambda group: group[0]):
        pool = available.filter(layer=layer).sort("neuron")
        wanted = n_sets * len(here)
        if wanted > len(pool):
            raise SelectionError(
                f"controls.sets: {n_sets} {kind} sets for the {len(here)} neurons that selections.{name} has in layer "
                f"{layer} need {wanted} neurons, but only {len(pool)} are in no selection; "
                f"lower controls.sets to {len(pool) // len(here)} or select fewer"
            )
        # partners[i, s]: row of the pool that stands for the i-th selected neuron in control set s.
        if kind == "uniform":
            partners = generator.permutation(len(pool))[:wanted].reshape(len(here), n_sets)
        else:
            ratio = np.log(pool["norm"].to_numpy()) - np.log(here["norm"].to_numpy())[:, None]
            assigned = linear_sum_assignment(np.repeat(np.abs(ratio), n_sets, axis=0))[1]
            partners = generator.permuted(assigned.reshape(len(here), n_sets), axis=1)
        for control_set in range(n_sets):
            found = pool[partners[:, control_set]]
            rows.append(
                pl.DataFrame(
                    {
                        "set": f"{name}/{kind}_{control_set:03d}",
                        "kind": kind,
                        "rule": kind,
                        "control_of": name,
                        "layer": found["layer"],
                        "neuron": found["neuron"],
                        "rank": here["rank"],
                        "matched": here["neuron"] if kind == "norm_matched" else None,
                        "norm_ratio": found["norm"] / here["norm"] if kind == "norm_matched" else None,
                    }
                ).cast(SELECTION)
            )
    return pl.concat(rows).sort("set", "rank") if rows else pl.DataFrame(schema=SELECTION)


def control_pool(selection: pl.DataFrame, name: str, kind: str) -> pl.DataFrame:
    """Layer and neuron of all controls of one kind of the selection `name`, each once: a pool of single controls."""
    rows = selection.filter((pl.col("control_of") == name) & (pl.col("kind") == kind))
    return rows.select(*PLACE).unique().sort(*PLACE)


def make_selection(
    neurons: pl.DataFrame,
    null_space: pl.DataFrame,
    selections: Mapping[str, Parameters],
    *,
    null_space_k: Sequence[float],
    d: int,
    control_sets: int,
    seed: int,
    statistics: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """selection.parquet: every selection in the order of the configuration, each followed by its controls.

    Raises:
        SelectionError: see `selection_rules.choose`, `resolve_selection_k`, `draw_controls`.
    """
    chosen: dict[str, pl.DataFrame] = {}
    for name, selection in selections.items():
        rule = RULES.get(str(selection.get("rule")))
        shares = None
        if rule is not None and rule.uses_rho:  # an unknown rule is refused by `choose`
            k, k_rule = resolve_selection_k(name, selection, null_space, null_space_k, d)
            shares = null_space.filter(k=k, k_rule=k_rule)
        chosen[name] = choose(name, selection, selection_frame(neurons, shares, statistics))
    if not chosen:
        return pl.DataFrame(schema=SELECTION)
    taken = pl.concat([frame.select(*PLACE) for frame in chosen.values()])
    available = neurons.filter(pl.col("norm") > 0).join(taken, on=PLACE, how="anti")
    tables = []
    for name, frame in chosen.items():
        tables.append(
            frame.select(*PLACE)
            .with_row_index("rank")
            .with_columns(
                pl.lit(name).alias("set"),
                pl.lit("selection").alias("kind"),
                pl.lit(selections[name]["rule"]).alias("rule"),
                *(pl.lit(None).alias(column) for column in ("control_of", "matched", "norm_ratio")),
            )
            .select(list(SELECTION))
            .cast(SELECTION)
        )
        tables += [draw_controls(name, kind, frame, available, control_sets, seed) for kind in KINDS]
    return pl.concat(tables)


def select_neurons(
    *,
    neurons: str | Path,
    null_space: str | Path,
    singular_values: str | Path,
    selections: Mapping[str, Mapping[str, Any]],
    control_sets: int,
    null_space_k: Sequence[float],
    seed: int,
    selection: str | Path,
    activation_statistics: str | Path | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Rule `select_neurons`: the configured selections and their controls.

    Args:
        neurons, null_space, singular_values: tables of `measure_neurons`.
        selections: the configuration's `selections`, for this model.
        control_sets: uniform and norm-matched sets per selection.
        null_space_k: the sizes that were configured; a selection without `k` takes the first.
        selection: path of the table written.
        activation_statistics: only for rules that limit an activation's kurtosis.
    """
    frame = make_selection(
        read_table(neurons, "neurons"),
        read_table(null_space, "null_space"),
        selections,
        null_space_k=null_space_k,
        d=len(read_table(singular_values, "singular_values")),
        control_sets=control_sets,
        seed=seed,
        statistics=None
        if activation_statistics is None
        else read_table(activation_statistics, "activation_statistics"),
    )
    write_table(frame, selection, "selection", provenance)
