"""How much more a neuron says about tokens with a feature than about all others (METHODS C5, D2).

The logit effect of neuron n on token t is w_n . W_U[:, t], raw, per unit of activation: not divided by lengths, as a
cosine is. Every (neuron, feature) pair is a comparison of two groups of tokens, those with the feature and the rest.
Means, variances and higher moments of both groups follow from sums of powers of the effects over the tokens,

    S_k[n, f] = sum_t (effect[n, t] - mean_t effect[n, :])^k has[t, f],     k = 1 .. 4,

matrix products of the effects' powers with the matrix of features: all pairs at once, in float64, tile by tile. The
deviations are taken from each neuron's own mean, so that little is lost when they are moved to the group's: a variance
keeps a relative precision of 1e-16 times the squared distance of the group, in standard deviations of its own. That
mean depends on how the read-out is centred over the vocabulary; differences do not.

The p-values treat tokens as independent draws. A vocabulary is not a sample, and its tokens come in families: they
rank, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.special import stdtr
from torch import Tensor

Array = np.ndarray
NEURONS_PER_TILE, TOKENS_PER_TILE = 512, 4096  # of the effects: 16 MiB in float64
FLAT = 1e-12  # a variance below this share of the sum of squares it was subtracted from is rounding


class FeatureError(ValueError):
    """Groups of tokens that cannot be compared."""


@dataclass(frozen=True)
class PowerSums:
    """Sums over tokens of powers 1 to 4 of the deviations from each neuron's mean effect.

    Attributes:
        mean: mean effect over all tokens.
        every: sums over all tokens.
        having: sums over the tokens with each feature.
        n_tokens: tokens.
        n_having: tokens with each feature.
    """

    mean: Float64[Array, " neurons"]
    every: Float64[Array, "4 neurons"]
    having: Float64[Array, "4 neurons features"]
    n_tokens: int
    n_having: Int64[Array, " features"]


@dataclass(frozen=True)
class Scores:
    """Columns of feature_neurons.parquet for every pair; NaN where a group does not allow the measure."""

    mean_feature: Float64[Array, "neurons features"]
    mean_rest: Float64[Array, "neurons features"]
    difference: Float64[Array, "neurons features"]
    effect_size: Float64[Array, "neurons features"]
    t: Float64[Array, "neurons features"]
    p_value: Float64[Array, "neurons features"]
    variance_reduction: Float64[Array, "neurons features"]
    skew_reduction: Float64[Array, "neurons features"]
    kurtosis_reduction: Float64[Array, "neurons features"]


def precise_device(tensor: Tensor) -> torch.device:
    """Where float64 is to be computed: beside the tensor, or on the CPU if its device knows no float64."""
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device


def logit_effects(w: Float[Tensor, "neurons d"], W: Float[Tensor, "d tokens"]) -> Float64[Array, "neurons tokens"]:
    """w W in float64, columns tile by tile. For few neurons: the result is as long as the vocabulary."""
    device = precise_device(W)
    left = w.to(device).double()
    tiles = [left @ columns.to(device).double() for columns in W.split(TOKENS_PER_TILE, dim=1)]
    return torch.cat(tiles, dim=1).cpu().numpy()


def power_sums(
    w: Float[Tensor, "neurons d"],
    W: Float[Tensor, "d tokens"],
    has: Bool[Array, "tokens features"],
    neurons_per_tile: int = NEURONS_PER_TILE,
    tokens_per_tile: int = TOKENS_PER_TILE,
) -> PowerSums:
    """Sums of powers of the logit effects w W, never holding more than a tile of them.

    Args:
        w: output weights as the read-out sees them (`Model.w_out`).
        W: columns of the folded unembedding, real ids only.
        has: which tokens have which features.
    """
    device = precise_device(W)
    n_tokens, n_features = W.shape[1], has.shape[1]
    total = torch.stack([tile.to(device).double().sum(1) for tile in W.split(tokens_per_tile, dim=1)]).sum(0)
    # A last column that every token has: the sums over all come out of the same products.
    members = torch.from_numpy(np.hstack([has, np.ones((n_tokens, 1), bool)])).to(device)
    means, parts = [], []
    for rows in w.split(neurons_per_tile):
        left = rows.to(device).double()
        mean = left @ total / n_tokens
        sums = torch.zeros(4, len(left), n_features + 1, dtype=torch.float64, device=device)
        for start in range(0, n_tokens, tokens_per_tile):
            tile = slice(start, start + tokens_per_tile)
            deviation = left @ W[:, tile].to(device).double() - mean[:, None]
            group = members[tile].double()
            power = torch.ones_like(deviation)
            for k in range(4):
                power *= deviation
                sums[k] += power @ group
        means.append(mean)
        parts.append(sums)
    if not parts:
        parts, means = [torch.zeros(4, 0, n_features + 1, dtype=torch.float64)], [total[:0]]
    sums = torch.cat(parts, dim=1).cpu().numpy()
    return PowerSums(
        mean=torch.cat(means).cpu().numpy(),
        every=sums[:, :, -1],
        having=sums[:, :, :-1],
        n_tokens=n_tokens,
        n_having=has.sum(axis=0, dtype=np.int64),
    )


def central(sums: Float64[Array, "4 *groups"], n: Int64[Array, " features"] | int) -> Float64[Array, "3 *groups"]:
    """Sums of powers 2 to 4 of deviations from the group's own mean, from sums about another point.

    A sum of squares that is no more than the rounding of its terms is exactly 0.
    """
    first, second, third, fourth = sums
    mean = first / n
    square = second - mean * first
    square = np.where(square > FLAT * second, square, 0.0)
    cube = third - 3 * mean * second + 2 * n * mean**3
    return np.stack([square, cube, fourth - 4 * mean * third + 6 * mean**2 * second - 3 * n * mean**4])


def shape(
    central_sums: Float64[Array, "3 *groups"], n: Int64[Array, " features"] | int
) -> tuple[Float64[Array, "*groups"], Float64[Array, "*groups"]]:
    """Skewness E[z^3] and excess kurtosis E[z^4] - 3 of a group (population moments); NaN where it does not vary.

    z is the deviation over the standard deviation: (x - mean) / sd, not x - mean / sd.
    """
    square, cube, fourth = central_sums
    variance = np.where(square > 0, square, np.nan) / n
    return cube / n / variance**1.5, fourth / n / variance**2 - 3


def score(sums: PowerSums) -> Scores:
    """Every measure of every (neuron, feature) pair.

    `t` is Welch's, `p_value` its two-sided p-value with Welch and Satterthwaite's degrees of freedom (0 where it is
    below the smallest float); `effect_size` Cohen's d, by the pooled standard deviation. `kurtosis_reduction` is
    missing where the effects as a whole are no heavier-tailed than a Gaussian: there is nothing to reduce.

    Raises:
        FeatureError: for a feature that fewer than two tokens have, or all but one: no variance.
    """
    n, rest = sums.n_having, sums.n_tokens - sums.n_having
    if (n < 2).any() or (rest < 2).any():
        raise FeatureError(f"a comparison needs two tokens with the feature and two without; there are {n} and {rest}")
    others = sums.every[:, :, None] - sums.having
    inside, outside = central(sums.having, n), central(others, rest)
    mean, mean_rest = sums.having[0] / n, others[0] / rest
    difference = mean - mean_rest
    within = inside[0] + outside[0]
    error, error_rest = inside[0] / (n - 1) / n, outside[0] / (rest - 1) / rest
    squared = np.where(within > 0, error + error_rest, np.nan)
    t = difference / np.sqrt(squared)
    # Satterthwaite's formula with shares of the squared error: squares of small variances would underflow.
    degrees = 1 / ((error / squared) ** 2 / (n - 1) + (error_rest / squared) ** 2 / (rest - 1))
    whole = central(sums.every, sums.n_tokens)
    skew_all, excess_all = (values[:, None] for values in shape(whole, sums.n_tokens))
    skew, excess = shape(inside, n)
    return Scores(
        mean_feature=sums.mean[:, None] + mean,
        mean_rest=sums.mean[:, None] + mean_rest,
        difference=difference,
        effect_size=difference / np.sqrt(np.where(within > 0, within, np.nan) / (sums.n_tokens - 2)),
        t=t,
        p_value=2 * stdtr(degrees, -np.abs(t)),
        variance_reduction=1 - within / np.where(whole[0] > 0, whole[0], np.nan)[:, None],
        skew_reduction=1 - np.abs(skew) / np.where(skew_all != 0, np.abs(skew_all), np.nan),
        kurtosis_reduction=1 - excess / np.where(excess_all > 0, excess_all, np.nan),
    )
