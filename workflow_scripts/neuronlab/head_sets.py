"""Attention heads that are ablated together: by name, and which sets a run ablates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

TRIES = 50  # draws per baseline: a small model has few different ones


class AttentionError(ValueError):
    """Heads that do not exist, sequences that do not fit, or attention that the one pass does not cover."""


@dataclass(frozen=True)
class HeadSet:
    """Heads that are ablated together, as (layer, head), in the order of their name."""

    heads: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """`layer.head` joined by +."""
        return "+".join(f"{layer}.{head}" for layer, head in self.heads)

    @classmethod
    def parse(cls, name: str, n_layers: int, n_heads: int, *, where: str) -> HeadSet:
        """A set by its name.

        Args:
            where: the configuration key that it stands under, for messages.

        Raises:
            AttentionError: for a name of another form, a head that the model does not have or that is named twice.
        """
        parts = name.split("+")
        if not all(re.fullmatch(r"\d+\.\d+", part) for part in parts):
            raise AttentionError(f"{where}: '{name}' is no set of heads; write layer.head joined by +, as in 5.1+6.9")
        heads = tuple((int(layer), int(head)) for layer, head in (part.split(".") for part in parts))
        for layer, head in heads:
            if layer >= n_layers or head >= n_heads:
                raise AttentionError(
                    f"{where}: '{name}' names head {layer}.{head}, but the model has layers 0 to {n_layers - 1} of "
                    f"heads 0 to {n_heads - 1}"
                )
        if len(set(heads)) < len(heads):
            raise AttentionError(f"{where}: '{name}' names a head twice")
        return cls(heads)


@dataclass(frozen=True)
class PlannedSet:
    """A set and why it is ablated.

    Attributes:
        role: "top", "single", "configured" or "baseline".
        control_of: name of the set that a baseline is compared with.
    """

    heads: HeadSet
    role: str
    control_of: str | None = None


def plan_sets(
    scores: pl.DataFrame, *, top: int, configured: Sequence[str], baselines: int, seed: int
) -> list[PlannedSet]:
    """The best 1, 2, ..., `top` induction heads together, each alone, the configured sets, and baselines for each.

    Heads below the threshold do not join the best; of a model without induction heads the best head stands alone.

    A set occurs once, under the first role that it has; a baseline once for each set that it is compared with.

    Args:
        scores: table "induction_heads"; its source "random" ranks the heads.
        baselines: sets of as many heads that are neither induction heads nor among the `top`, preferably from the same
            layers, drawn without repetition; fewer where the model has not enough of them.

    Raises:
        AttentionError: for a configured set that the model does not have, or a table without random scores.
    """
    ranked = scores.filter(pl.col("source") == "random").sort("rank")
    if not len(ranked):
        raise AttentionError("the table of heads has no scores on random tokens; delete it and run again")
    order = list(zip(ranked["layer"].to_list(), ranked["head"].to_list(), strict=True))
    n_layers, n_heads = (max(place[i] for place in order) + 1 for i in (0, 1))
    induction = set(ranked.filter("is_induction").select("layer", "head").iter_rows())
    best = order[: max(1, min(top, len(induction)))]
    found: dict[frozenset[tuple[int, int]], PlannedSet] = {}
    wanted = [PlannedSet(HeadSet(tuple(best[: i + 1])), "top") for i in range(len(best))]
    wanted += [PlannedSet(HeadSet((head,)), "single") for head in best]
    where = "induction.heads.sets"
    wanted += [PlannedSet(HeadSet.parse(name, n_layers, n_heads, where=where), "configured") for name in configured]
    for planned in wanted:
        found.setdefault(frozenset(planned.heads.heads), planned)
    pool = [head for head in sorted(order) if head not in induction | set(best)]
    plan = list(found.values())
    for i, planned in enumerate(found.values()):
        others = [head for head in pool if head not in planned.heads.heads]
        drawn = _draw_baselines(planned.heads, others, baselines, np.random.default_rng([seed, 0x4241, i]))
        plan += [PlannedSet(heads, "baseline", planned.heads.name) for heads in drawn]
    return plan


def _draw_baselines(
    heads: HeadSet, pool: Sequence[tuple[int, int]], wanted: int, generator: np.random.Generator
) -> list[HeadSet]:
    """Different sets of as many heads of `pool`: of the same layers first, then of any."""
    found: dict[HeadSet, None] = {}
    if len(pool) < len(heads.heads):
        return []
    for attempt in range(2 * TRIES * wanted):
        if len(found) == wanted:
            break
        left = [pool[i] for i in generator.permutation(len(pool))]
        chosen = []
        for layer, _ in heads.heads if attempt < TRIES * wanted else ():
            same = next((head for head in left if head[0] == layer), None)
            if same is not None:
                left.remove(same)
                chosen.append(same)
        chosen += left[: len(heads.heads) - len(chosen)]
        found.setdefault(HeadSet(tuple(sorted(chosen))))
    return list(found)
