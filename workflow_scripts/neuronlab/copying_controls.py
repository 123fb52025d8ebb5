"""Control sets of a selection in the last layer: as large, disjoint from every selection, different from one another.

Kinds (METHODS B3, B defect 10, 0.6):

* `uniform`: neurons drawn uniformly, without replacement within a set; sets may share neurons.
* `norm_matched`: for each selected neuron one of the `neighbours` nearest in log norm, drawn at random, none twice in a
  set. `norm_ratio` is the quality of the match: entropy neurons may be outliers in norm, and then nothing matches them.

Synthetic controls are not drawn here: they are the selection's own neurons with a number, from which random directions
are drawn when they are used.

Set i of a kind depends on the seed, the selection's name, the kind and i. Neurons are ranked before those are left out
that are in a selection: so one selection more, or more controls, changes only the sets that held its neurons.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

Array = np.ndarray
DRAWN = ("uniform", "norm_matched")
KEY = "context_copying.controls"
TRIES = 50  # draws of one set that may turn out equal to an earlier one
COUNTED = 100_000  # possible sets are counted up to this number


class CopyingSetError(ValueError):
    """Sets of neurons that cannot be had as they are configured."""


@dataclass(frozen=True)
class Layer:
    """Neurons of one layer, in order of index.

    Attributes:
        norm: |w_out|.
        available: whether a neuron may serve as a control: in no selection, and with a norm above zero.
    """

    norm: Float[Array, " neurons"]
    available: Bool[Array, " neurons"]


def generator(seed: int, name: str, kind: str, index: int) -> np.random.Generator:
    """The source of the draws of one control set."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(kind.encode()), index])


def draw_uniform(name: str, size: int, layer: Layer, *, n_sets: int, seed: int) -> list[Int[Array, " size"]]:
    """`n_sets` different sets of `size` available neurons.

    Raises:
        CopyingSetError: if there are not so many different sets.
    """
    there = int(layer.available.sum())
    _enough(
        name, "uniform", n_sets, math.comb(there, size), f"{there} neurons are in no selection and {size} make a set"
    )

    def draw(index: int, source: np.random.Generator) -> Int[Array, " size"]:
        order = source.permutation(len(layer.norm))
        return order[layer.available[order]][:size]

    def possible() -> Iterator[tuple[int, ...]]:
        return itertools.combinations(np.flatnonzero(layer.available).tolist(), size)

    return _different(name, "uniform", draw, possible, n_sets, seed)


def draw_norm_matched(
    name: str, chosen: Int[Array, " size"], layer: Layer, *, neighbours: int, n_sets: int, seed: int
) -> list[Int[Array, " size"]]:
    """`n_sets` different sets, the i-th neuron of each near `chosen[i]` in log norm.

    A selected neuron without norm writes nothing and has no match: `chosen` must not hold one. A set is filled in an
    order of its own, so that no selected neuron is always the one that takes what others have left.

    Raises:
        CopyingSetError: if there are not so many different sets.
    """
    pool = np.flatnonzero(layer.available)
    _enough(
        name,
        "norm_matched",
        n_sets,
        math.comb(len(pool), len(chosen)),
        f"{len(pool)} neurons are in no selection and {len(chosen)} make a set",
    )
    distance = np.abs(np.log(layer.norm[pool])[None, :] - np.log(layer.norm[chosen])[:, None])
    # Of any set, the others take at most len(chosen) - 1 neurons away: so many more neighbours are ever looked at.
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : neighbours + len(chosen) - 1]

    def draw(index: int, source: np.random.Generator) -> Int[Array, " size"]:
        found = np.full(len(chosen), -1)
        for place in source.permutation(len(chosen)):
            left = nearest[place][~np.isin(nearest[place], found)][:neighbours]
            found[place] = left[int(source.random() * len(left))]
        return pool[found]

    def possible() -> Iterator[tuple[int, ...]]:
        for order in itertools.permutations(range(len(chosen))):
            yield from _fillings(order, nearest, neighbours, pool, {})

    return _different(name, "norm_matched", draw, possible, n_sets, seed)


def _fillings(
    order: tuple[int, ...],
    nearest: Int[Array, "size near"],
    neighbours: int,
    pool: Int[Array, " pool"],
    found: dict[int, int],
) -> Iterator[tuple[int, ...]]:
    """Every set that filling the places in `order` can lead to."""
    if len(found) == len(order):
        yield tuple(int(pool[found[place]]) for place in range(len(order)))
        return
    place = order[len(found)]
    left = [near for near in nearest[place].tolist() if near not in found.values()][:neighbours]
    for near in left:
        yield from _fillings(order, nearest, neighbours, pool, found | {place: near})


def _different(
    name: str,
    kind: str,
    draw: Callable[[int, np.random.Generator], Int[Array, " size"]],
    possible: Callable[[], Iterator[tuple[int, ...]]],
    n_sets: int,
    seed: int,
) -> list[Int[Array, " size"]]:
    """Draw sets until all differ; where they have become scarce, take the rest from all that are possible.

    Raises:
        CopyingSetError: if there are fewer than `n_sets`.
    """
    found: list[Int[Array, " size"]] = []
    seen: set[frozenset[int]] = set()
    for index in range(n_sets):
        source = generator(seed, name, kind, index)
        for _ in range(TRIES):
            drawn = draw(index, source)
            if frozenset(drawn.tolist()) not in seen:
                break
        else:
            drawn = _scarce(name, kind, seen, possible(), n_sets, source)
        seen.add(frozenset(drawn.tolist()))
        found.append(drawn)
    return found


def _scarce(
    name: str,
    kind: str,
    seen: set[frozenset[int]],
    possible: Iterator[tuple[int, ...]],
    n_sets: int,
    source: np.random.Generator,
) -> Int[Array, " size"]:
    """One of the possible sets that are not among the `seen`, drawn at random."""
    rest: dict[frozenset[int], tuple[int, ...]] = {}
    for neurons in itertools.islice(possible, COUNTED):
        if frozenset(neurons) not in seen:
            rest.setdefault(frozenset(neurons), neurons)
    widen = f"; raise {KEY}.neighbours" if kind == "norm_matched" else ""
    _enough(name, kind, n_sets, len(seen) + len(rest), f"no more of them differ{widen}")
    kept = list(rest.values())
    return np.array(kept[int(source.random() * len(kept))]) if kept else np.empty(0, dtype=np.int64)


def _enough(name: str, kind: str, wanted: int, there: int, why: str) -> None:
    """Refuse more sets than there are.

    Raises:
        CopyingSetError: naming the key and the largest possible number.
    """
    if wanted > there:
        raise CopyingSetError(
            f"{KEY}.{kind}: {wanted} different sets for '{name}' cannot be had: {why}; lower it to {there} or less"
            + (", or select fewer neurons" if there == 0 else "")
        )
