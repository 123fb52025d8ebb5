"""Does a flip follow the change of the entropy? Changes at the prompt's end, by the route of the ablation.

A route (total, direct: the final norm's scale frozen, norm: the scale alone) changes the entropy and the log-ratios of
the first tokens of the three answers. The competitor for ND is one token, the same before and after (METHODS
B defect 7). Prompts are grouped by their decoded labels; a change is after minus before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int8
from tqdm import tqdm

from neuronlab.conversions import CELLS
from neuronlab.copying_frames import frame_of
from neuronlab.fact_bootstrap import FactBootstrap, at, divide
from neuronlab.schemas_knowledge import LABELS, RATIOS, ROUTES
from neuronlab.statistics import percentile_interval
from neuronlab.tables import read_table
from neuronlab.transitions import cells
from neuronlab.variant_groups import CLEAN

Array = np.ndarray
CHANGES = ("entropy", *RATIOS)
# The log-ratios that a label is part of: the two boundaries that a prompt with this label can cross.
BOUNDARIES = {"CK": ("ck_pk", "nd_ck"), "ND": ("nd_ck", "nd_pk"), "PK": ("ck_pk", "nd_pk")}
RESAMPLES_PER_TILE = 64  # bootstrap of the AUC: memory is prompts x tile


class StateError(ValueError):
    """States that do not belong to the conflict prompts, or that compare different competitors."""


@dataclass(frozen=True)
class RouteChange:
    """What one variant of a selection changes by one route.

    Attributes:
        changes: of the quantities in `CHANGES` (nats).
        top: whether the most likely next token is another one.
    """

    variant: int
    set: str
    replacement: str
    route: str
    changes: Float64[Array, "prompts quantities"]
    top: Bool[Array, " prompts"]


def read_changes(paths: Sequence[str | Path], n_prompts: int, selected: pl.DataFrame) -> list[RouteChange]:
    """Changes of every selection's variants by every route, in the order of the variants and of `ROUTES`.

    Args:
        paths: tables "states".
        selected: variants of selections, clamped ones left out.

    Raises:
        StateError: a prompt that is missing or there twice, or another competitor than under the clean model.
    """
    wanted = [CLEAN, *selected["variant"]]
    frames = [
        quantities(read_table(path, "states").filter(pl.col("variant").is_in(wanted)))
        for path in tqdm(paths, desc="states", unit="shard", file=sys.stderr)
    ]
    if not frames or not n_prompts:
        return []
    states = pl.concat(frames).sort("prompt")
    parts = states.partition_by("variant", "route", as_dict=True)
    clean = parts.get((CLEAN, "clean"), states.clear())
    check_prompts(clean, "the clean model", n_prompts)
    found = []
    for variant, name, replacement in selected.select("variant", "set", "replacement").iter_rows():
        for route in ROUTES:
            after = parts.get((variant, route))
            if after is None:
                continue
            check_prompts(after, f"variant {variant}, route {route}", n_prompts)
            if not (after["nd_token"] == clean["nd_token"]).all():
                raise StateError(f"states: the competitor of variant {variant} is not the clean one; {_AGAIN}")
            change = after.select(CHANGES).to_numpy() - clean.select(CHANGES).to_numpy()
            top = (after["top_token"] != clean["top_token"]).to_numpy()
            found.append(RouteChange(variant, name, replacement, route, change, top))
    return found


_AGAIN = "the shards belong to different runs: delete them, and decode_conflicts makes them anew"


def quantities(states: pl.DataFrame) -> pl.DataFrame:
    """The quantities in `CHANGES` instead of log-probabilities; what they are ratios of stands in `RATIOS`."""
    of = {name: pl.col(f"log_prob_{name}") for name in ("ck", "nd", "pk")}
    ratios = {f"{top}_{below}": of[top] - of[below] for top, below in (name.split("_") for name in RATIOS)}
    return states.select("prompt", "variant", "route", "entropy", "nd_token", "top_token", **ratios)


def check_prompts(states: pl.DataFrame, which: str, n_prompts: int) -> None:
    """Every prompt is there once, in order.

    Raises:
        StateError: if not.
    """
    if not np.array_equal(states["prompt"].to_numpy(), np.arange(n_prompts)):
        raise StateError(f"states: {which} does not have each of the {n_prompts} prompts once; {_AGAIN}")


def groups_of(labels: Int8[Array, "variants prompts"], variant: int) -> Iterator[tuple[str, Bool[Array, " prompts"]]]:
    """Changed, kept (both of them, whoever is in them), and every transition that a prompt makes."""
    cell = cells(labels, variant)
    changed = labels[CLEAN] != labels[variant]
    yield "changed", changed
    yield "kept", ~changed
    for place in np.unique(cell):
        yield "->".join(CELLS[place]), cell == place


def summarize_flips(
    changes: Sequence[RouteChange], labels: Int8[Array, "variants prompts"], bootstrap: FactBootstrap
) -> pl.DataFrame:
    """Table "flips": mean changes per group of prompts."""
    rows = []
    for change in changes:
        for group, member in groups_of(labels, change.variant):
            part = bootstrap.within(member)
            mean = part.mean(change.changes[member])
            row = {"set": change.set, "replacement": change.replacement, "route": change.route, "group": group}
            row |= {"n_prompts": int(member.sum()), "n_facts": part.n_facts, "n_top": int(change.top[member].sum())}
            for place, name in enumerate(CHANGES):
                row |= at(f"{name}_change", mean, place)
            rows.append(row)
    return frame_of(rows, "flips")


def margin(changes: Float64[Array, "prompts quantities"], clean: Int8[Array, " prompts"]) -> Float64[Array, " prompts"]:
    """The largest |change| of the two log-ratios that the clean label is part of."""
    places = np.array([[CHANGES.index(name) for name in BOUNDARIES[label]] for label in LABELS])
    return np.abs(np.take_along_axis(changes, places[clean], axis=1)).max(axis=1)


def predict_flips(
    changes: Sequence[RouteChange], labels: Int8[Array, "variants prompts"], bootstrap: FactBootstrap
) -> pl.DataFrame:
    """Table "flip_prediction": how well |change of the entropy| and the margin's change tell changed from kept."""
    rows = []
    for change in changes:
        changed = labels[CLEAN] != labels[change.variant]
        for quantity, values in (
            ("entropy", np.abs(change.changes[:, 0])),
            ("margin", margin(change.changes, labels[CLEAN])),
        ):
            own = {"set": change.set, "replacement": change.replacement, "route": change.route, "quantity": quantity}
            own |= {"n_changed": int(changed.sum()), "n_kept": int((~changed).sum())}
            resampled = resampled_auc(values, changed, bootstrap)
            found = percentile_interval(resampled[:1], resampled[1:, None], bootstrap.level, clusters=bootstrap.n_facts)
            rows.append(own | at("auc", found, 0))
    return frame_of(rows, "flip_prediction")


def resampled_auc(
    values: Float64[Array, " prompts"], changed: Bool[Array, " prompts"], bootstrap: FactBootstrap
) -> Float64[Array, " one_and_resamples"]:
    """Probability that a changed prompt has the larger value than a kept one, ties half: of all, then per resample.

    NaN where a class is empty. Every changed prompt meets the weight of the kept ones below it, and half of those that
    tie: sums of weights over the kept ones in ascending order.
    """
    kept = np.flatnonzero(~changed)
    kept = kept[np.argsort(values[kept], kind="stable")]
    below, up_to = (np.searchsorted(values[kept], values[changed], side) for side in ("left", "right"))
    fact, moved = bootstrap.fact[kept], bootstrap.fact[changed]
    weights = np.concatenate([np.ones((1, bootstrap.n_facts)), bootstrap.weights])
    found = np.empty(len(weights))
    for start in range(0, len(weights), RESAMPLES_PER_TILE):
        each = np.ascontiguousarray(weights[start : start + RESAMPLES_PER_TILE].T)
        so_far = np.zeros((len(kept) + 1, each.shape[1]))
        np.cumsum(each[fact], axis=0, out=so_far[1:])
        pairs = (each[moved] * (so_far[below] + so_far[up_to]) / 2).sum(axis=0)
        found[start : start + each.shape[1]] = divide(pairs, each[moved].sum(axis=0) * so_far[-1])
    return found
