"""Intervals of shares and means over conflict prompts, clustered by fact.

Several prompts ask for the same (subject, relation) pair, so facts are resampled, not prompts, and everything in a
run by the same weights (METHODS 0.6, B defect 11). A missing value is NaN here; tables turn it into a null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Num

from neuronlab.statistics import Interval, bootstrap_weights, percentile_interval, wilson_interval

Array = np.ndarray
FEW = 10  # facts: with fewer that differ from the rest, percentiles of resamples say too little about a share


def divide(top: Num[Array, "..."], below: Num[Array, "..."]) -> Float64[Array, "..."]:
    """top / below, NaN where nothing is below: an empty class has no share (METHODS B defect 12)."""
    below = np.asarray(below, np.float64)
    some = below > 0
    return np.where(some, top / np.where(some, below, 1.0), np.nan)


@dataclass(frozen=True)
class FactBootstrap:
    """How prompts are resampled: by their fact.

    Attributes:
        fact: the cluster of each prompt, from 0 without gaps.
        weights: how often each cluster occurs in each resample; the same for whatever is resampled together.
        level: nominal coverage of the intervals.
    """

    fact: Int[Array, " prompts"]
    weights: Float64[Array, "resamples facts"]
    level: float

    @classmethod
    def of(cls, clusters: Int[Array, " prompts"], resamples: int, level: float, seed: int) -> FactBootstrap:
        """From any numbers of the prompts' clusters; without a prompt there is nothing to resample."""
        unique, fact = np.unique(clusters, return_inverse=True)
        weights = bootstrap_weights(len(unique), resamples, seed) if len(unique) else np.zeros((resamples, 0))
        return cls(fact, weights, level)

    @property
    def n_facts(self) -> int:
        """Number of clusters."""
        return self.weights.shape[1]

    def within(self, member: Bool[Array, " prompts"]) -> FactBootstrap:
        """The same resamples, seen by the members alone: how many facts of theirs a resample holds varies."""
        kept, fact = np.unique(self.fact[member], return_inverse=True)
        return FactBootstrap(fact, self.weights[:, kept], self.level)

    def sums(self, values: Num[Array, "prompts columns"]) -> Float64[Array, "facts columns"]:
        """Sum within each fact."""
        values = np.asarray(values, np.float64)
        columns = [np.bincount(self.fact, column, minlength=self.n_facts) for column in values.T]
        return np.stack(columns, axis=1) if columns else np.zeros((self.n_facts, 0))

    def interval(
        self,
        statistic: Callable[[Float64[Array, "rows sums"]], Float64[Array, "rows columns"]],
        sums: Float64[Array, "facts sums"],
    ) -> Interval:
        """Percentile interval of a function of summed values, computed anew for every resample."""
        estimate = statistic(sums.sum(axis=0, keepdims=True))[0]
        return percentile_interval(estimate, statistic(self.weights @ sums), self.level, clusters=self.n_facts)

    def shares(
        self,
        parts: Callable[[Float64[Array, "rows sums"]], tuple[Float64[Array, "rows columns"], ...]],
        sums: Float64[Array, "facts sums"],
    ) -> Interval:
        """Intervals of shares, within [0, 1]: percentiles, but where few facts differ from the rest.

        A share of 0 stays 0 in every resample, and one of a few prompts is not resampled much better: made-up studies
        at a share of 1 % show 28 to 87 % coverage at a level of 95 %. So while fewer than `FEW` facts hold a prompt
        that counts, or fewer than `FEW` one that does not, `clustered_wilson` stands in (92 to 97 % there). Missing
        where a single fact is eligible.

        Args:
            parts: from sums to (counted, eligible), linear in them.
        """
        found = self.interval(lambda rows: divide(*parts(rows)), sums)
        counted, eligible = parts(sums)
        few = np.minimum((counted > 0).sum(axis=0), (eligible > counted).sum(axis=0)) < FEW
        wilson = clustered_wilson(counted, eligible, self.level)
        return Interval(found.estimate, np.where(few, wilson.low, found.low), np.where(few, wilson.high, found.high))

    def share(self, counted: Num[Array, "prompts columns"], eligible: Num[Array, "prompts columns"]) -> Interval:
        """Shares of the eligible prompts that are counted, one per column."""
        n = counted.shape[1]
        both = np.concatenate([np.asarray(counted, np.float64) * eligible, eligible], axis=1)
        return self.shares(lambda rows: (rows[:, :n], rows[:, n:]), self.sums(both))

    def mean(self, values: Float64[Array, "prompts columns"]) -> Interval:
        """Means of the columns over all prompts."""
        n = values.shape[1]
        sums = self.sums(np.concatenate([values, np.ones((len(values), 1))], axis=1))
        return self.interval(lambda rows: divide(rows[:, :n], rows[:, n:]), sums)


def clustered_wilson(
    counted: Float64[Array, "facts columns"], eligible: Float64[Array, "facts columns"], level: float
) -> Interval:
    """Wilson's interval of shares over clusters, with as many trials as the prompts are worth.

    Trials = prompts / design effect, the variance of the share over facts against that of independent prompts (as in
    surveys: Rao and Scott, 1992), between one trial per fact and one per prompt. A share of 0 or 1 shows no variance:
    one trial per fact there, because prompts of one fact may all agree. Missing with fewer than two eligible facts.
    """
    n, facts = eligible.sum(axis=0), (eligible > 0).sum(axis=0)
    some = facts > 1
    share = divide(counted.sum(axis=0), n)
    residual = counted - np.nan_to_num(share) * eligible
    between = (residual**2).sum(axis=0) * divide(facts, np.maximum(facts - 1, 0))
    effect = divide(between, n * share * (1 - share))
    largest = divide(n, facts)
    trials = np.where(some, n / np.clip(np.where(np.isnan(effect), largest, effect), 1, largest), 0)
    ends = wilson_interval(np.where(some, np.nan_to_num(share) * trials, 0), trials, level)
    return Interval(share, ends.low, ends.high)


def without_ends(estimate: Float64[Array, "..."]) -> Interval:
    """An estimate with missing ends, to be filled in or left so."""
    return Interval(estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan))


def columns_of(name: str, interval: Interval) -> dict[str, Array]:
    """An interval as the three columns of a table."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def at(name: str, interval: Interval, place: int) -> dict[str, float]:
    """One place of an interval, as entries of a row."""
    return {column: values[place] for column, values in columns_of(name, interval).items()}
