"""Rule `select_copying_sets`: which neurons are replaced in knowledge conflicts, by what, and under which number.

Decoding shares its forward passes between all variants, which holds for neurons of the last layer alone: of a selection
with neurons in several layers only those of the last one count, and one without any there is left out. Besides the
selections there is `induction_driven`: the last-layer neurons that the best induction head drives most.

Controls are drawn here and not taken over from the selections' tables: all of one selection's controls are disjoint
from every selection of the run, also from those that are not replaced themselves (METHODS B defect 10).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from neuronlab.copying_controls import CopyingSetError, Layer, draw_norm_matched, draw_uniform
from neuronlab.copying_variants import make_variants
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table

INDUCTION_DRIVEN = "induction_driven"
KEY = "context_copying.selections"
SETS, SELECTION = (
    {column: spec.dtype for column, spec in SCHEMAS[table].items()} for table in ("copying_sets", "selection")
)
CLEAN_SET = "clean"


def last_layer_selections(selection: pl.DataFrame, layer: int) -> tuple[dict[str, list[int]], list[str]]:
    """Neurons that each selection has in `layer`, by rank, in the table's order; and selections without any there."""
    chosen = selection.filter(pl.col("kind") == "selection")
    here = chosen.filter(pl.col("layer") == layer).sort("rank", maintain_order=True)
    found, elsewhere = {}, []
    for name in chosen["set"].unique(maintain_order=True).to_list():
        if neurons := here.filter(pl.col("set") == name)["neuron"].unique(maintain_order=True).to_list():
            found[name] = neurons
        else:
            elsewhere.append(name)
    return found, elsewhere


def driven_by_best_head(head_neurons: pl.DataFrame, heads: pl.DataFrame, layer: int, size: int) -> list[int]:
    """The `size` neurons of `layer` with the largest |change of the activation| |w_out| when the best head is ablated.

    The best head has the largest score on random tokens, as where heads are ablated (METHODS A6); its query attends to
    position 0 alone (method bos) where the table has that. Of neurons that the table does not hold nothing is known.

    Args:
        head_neurons, heads: tables "head_neurons" and "induction_heads".
    """
    scored = heads.filter(pl.col("score").is_not_null())
    random = scored.filter(pl.col("source") == "random")
    ranked = (random if len(random) else scored).sort("score", "rank", descending=[True, False], maintain_order=True)
    if ranked.is_empty():
        return []
    best = ranked.row(0, named=True)
    rows = head_neurons.filter(
        (pl.col("layer") == best["layer"])
        & (pl.col("head") == best["head"])
        & (pl.col("neuron_layer") == layer)
        & pl.col("change").is_not_null()
    )
    methods = rows["method"].unique().sort().to_list()
    if not methods:
        return []
    rows = rows.filter(pl.col("method") == ("bos" if "bos" in methods else methods[0]))
    rows = rows.with_columns(driven=pl.col("change").abs() * pl.col("norm"))
    return rows.sort("driven", "neuron", descending=[True, False])["neuron"].head(size).to_list()


def name_selections(
    found: Mapping[str, list[int]], elsewhere: Sequence[str], names: Sequence[str]
) -> dict[str, list[int]]:
    """The selections that are replaced: those named, in the order of the tables, or all where none is named.

    Raises:
        CopyingSetError: for a name that is none, or one without neurons in the last layer.
    """
    there = ", ".join(found) or "none"
    for name in names:
        if name in elsewhere:
            raise CopyingSetError(
                f"{KEY}: '{name}' has no neurons in the last layer, where alone sets can be decoded; there are: {there}"
            )
        if name not in found:
            needs = (
                "; it needs the part `heads` on the knowledge base's `text`, and context_copying.induction_driven"
                if name == INDUCTION_DRIVEN
                else ""
            )
            raise CopyingSetError(f"{KEY}: there is no selection '{name}'{needs}; there are: {there}")
    return {name: neurons for name, neurons in found.items() if not names or name in names}


def _rows(
    name: str, kind: str, control_of: str | None, layer: int, neurons: Sequence[int], norm: np.ndarray, **more: object
) -> pl.DataFrame:
    columns = {
        "set": name,
        "kind": kind,
        "control_of": control_of,
        "layer": layer,
        "neuron": list(neurons),
        "rank": list(range(len(neurons))),
        "norm": norm[list(neurons)],
        "matched": None,
        "norm_ratio": None,
        "draw": None,
    }
    return pl.DataFrame(columns | more).cast(SETS)


def make_sets(
    norm: np.ndarray,
    layer: int,
    selections: Mapping[str, Sequence[int]],
    taken: Sequence[int],
    *,
    uniform: int,
    norm_matched: int,
    synthetic: int,
    neighbours: int,
    seed: int,
) -> pl.DataFrame:
    """sets.parquet: the selections, then the controls of each, by kind and number.

    Args:
        norm: |w_out| of the last layer's neurons, in order.
        layer: its index.
        selections: neurons by name.
        taken: neurons of any selection, also of those that are not replaced; no control holds one of them.

    Raises:
        CopyingSetError: too few neurons or too few different sets.
    """
    available = norm > 0
    available[list(taken)] = False
    pool = Layer(norm, available)
    frames = [_rows(name, "selection", None, layer, neurons, norm) for name, neurons in selections.items()]
    for name, neurons in selections.items():
        drawn = draw_uniform(name, len(neurons), pool, n_sets=uniform, seed=seed)
        for index, control in enumerate(drawn):
            frames.append(_rows(f"{name}/uniform_{index:03d}", "uniform", name, layer, control.tolist(), norm))
        writing = np.array([neuron for neuron in neurons if norm[neuron] > 0], dtype=np.int64)
        if len(writing) < len(neurons):  # an explicit list may hold such a neuron; there is no log of its norm
            print(f"'{name}' has neurons that write nothing; its norm-matched controls are smaller", file=sys.stderr)
        near = (
            draw_norm_matched(name, writing, pool, neighbours=neighbours, n_sets=norm_matched, seed=seed)
            if len(writing)
            else []
        )
        for index, control in enumerate(near):
            more = {"matched": writing, "norm_ratio": norm[control] / norm[writing]}
            frames.append(
                _rows(f"{name}/norm_matched_{index:03d}", "norm_matched", name, layer, control.tolist(), norm, **more)
            )
        for index in range(synthetic):
            draw = first_draw(name) + index
            frames.append(_rows(f"{name}/synthetic_{index:03d}", "synthetic", name, layer, neurons, norm, draw=draw))
    return pl.concat(frames) if frames else pl.DataFrame(schema=SETS)


def first_draw(name: str) -> int:
    """Number of a selection's first synthetic draw: selections of one size must not share their random directions."""
    return zlib.crc32(name.encode()) % 2**15 * 2**16


def select_copying_sets(
    *,
    selection: Sequence[str | Path],
    neurons: str | Path,
    head_neurons: Sequence[str | Path],
    heads: Sequence[str | Path],
    sets: str | Path,
    variants: str | Path,
    names: Sequence[str] = (),
    induction_driven: int | None = 6,
    replacements: Sequence[str] = ("mean",),
    doses: int = 9,
    dose_controls: int = 10,
    uniform: int = 100,
    norm_matched: int = 100,
    synthetic: int = 100,
    neighbours: int = 32,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write the sets and the numbered variants of a run; without selections in the last layer, the clean model alone.

    Args:
        selection: tables "selection"; their controls are not used.
        neurons: table "neurons"; its largest layer is the last.
        head_neurons, heads: one table of each ("head_neurons", "induction_heads"), or none.
        names: selections that are replaced; empty for all with neurons in the last layer.
        induction_driven: size of the set of that name, made where there are tables of heads; None for no such set.
        replacements: as in `ablation.replacements`, but for those that depend on the position.
        doses, dose_controls: see `make_variants`.
        uniform, norm_matched, synthetic: controls of each kind per selection.
        neighbours: norm-matched neurons are drawn among so many.

    Raises:
        CopyingSetError: a name that is no selection of the last layer, or controls that cannot be had.
        TableError: an unreadable table.
    """
    frame = read_table(neurons, "neurons")
    layer = int(frame["layer"].max())
    norm = frame.filter(pl.col("layer") == layer).sort("neuron")["norm"].to_numpy()
    chosen = pl.concat([pl.DataFrame(schema=SELECTION), *(read_table(path, "selection") for path in selection)])
    found, elsewhere = last_layer_selections(chosen, layer)
    if CLEAN_SET in found or CLEAN_SET in elsewhere:
        raise CopyingSetError(f"selections.{CLEAN_SET}: this name stands for the model as it is; rename the selection")
    if induction_driven is not None and heads and head_neurons and (not names or INDUCTION_DRIVEN in names):
        if INDUCTION_DRIVEN in found or INDUCTION_DRIVEN in elsewhere:
            raise CopyingSetError(
                f"selections.{INDUCTION_DRIVEN}: this name stands for the neurons that the best induction head drives; "
                "rename the selection, or set context_copying.induction_driven to null"
            )
        driven = driven_by_best_head(
            read_table(head_neurons[0], "head_neurons"),
            read_table(heads[0], "induction_heads"),
            layer,
            induction_driven,
        )
        if driven:
            found[INDUCTION_DRIVEN] = driven
        if len(driven) < induction_driven:
            print(
                f"{INDUCTION_DRIVEN}: {len(driven)} of {induction_driven} neurons; no more are known", file=sys.stderr
            )
    replaced = name_selections(found, elsewhere, names)
    for name in elsewhere:
        print(f"'{name}' has no neurons in the last layer and is not replaced", file=sys.stderr)
    if not replaced:
        print("no selection has neurons in the last layer: only the clean model is decoded", file=sys.stderr)
    taken = sorted({neuron for members in found.values() for neuron in members})
    if outside := [neuron for neuron in taken if neuron >= len(norm)]:
        raise CopyingSetError(
            f"{', '.join(map(str, selection))}: neurons {outside} are selected in layer {layer}, which has {len(norm)} "
            f"({neurons}): the tables stem from different models; delete them and run again"
        )
    table = make_sets(
        norm,
        layer,
        replaced,
        taken,
        uniform=uniform,
        norm_matched=norm_matched,
        synthetic=synthetic,
        neighbours=neighbours,
        seed=seed,
    )
    numbered = make_variants(table, replacements, doses=doses, dose_controls=dose_controls)
    write_table(table, sets, "copying_sets", provenance)
    write_table(numbered, variants, "variants", provenance)
