"""Random logit directions of a given variance: what the log-unigram direction is compared with (METHODS A3).

Freezing the logits' projection on *any* direction takes away part of an effect, the more so the more the logits vary
along it. So the centred unit log-unigram direction g is compared with random unit directions r whose projection of the
clean logits has the same variance over the same tokens.

Almost all of a random direction of the whole V-space would be orthogonal to everything that the model can write. So r
lies in the row space of the folded unembedding W (ids that g leaves out are zero in it, and it is centred over the
others, as g is). An orthonormal basis of that space, of at most d directions, gives every direction coordinates: a
unit vector b. With C the covariance over tokens of the clean logits' coordinates h, the variance along it is b C b. A
draw is

    a    uniform on the unit sphere of coordinates                      variance about trace(C)/d
    c    C^s n, n standard normal, s = 1/2 (or -1/2 if a lies above)    directions of much (or little) variance
    b    in the plane of a and c, the one of the target variance that takes the smallest turn from a

Planes that miss the target are drawn again with a larger |s|. Draws are orthogonal to g, unless the target cannot be
reached there: then they are not, and the caller is told. Only the variance is matched, not the projection's mean, which
is large along g if the model's average output resembles the unigram distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuronlab.kernels.interface import COLUMNS, precise_product
from neuronlab.readout import Readout

Array = np.ndarray
NULL = 1e-10  # of the largest squared singular value: below it, a direction of W is null
ROUNDS = 12  # of draws, each with a power half as large again


@dataclass(frozen=True)
class RowSpace:
    """The row space of an unembedding on the ids that take part, with an orthonormal basis of `size` directions.

    Attributes:
        W: folded unembedding.
        part: ids that take part; directions are zero elsewhere.
        mean: mean of W's columns over those ids.
        factor: basis = factor^T (W - mean), on those ids.
    """

    W: Float[Tensor, "d vocab"]
    part: Bool[Tensor, " vocab"]
    mean: Float[Tensor, " d"]
    factor: Float[Tensor, "d size"]

    @property
    def size(self) -> int:
        return self.factor.shape[1]

    @classmethod
    def of(cls, readout: Readout, part: Bool[Tensor, " vocab"]) -> RowSpace:
        """The row space of a read-out, in float64."""
        W = readout.W
        blocks = [slice(start, start + COLUMNS) for start in range(0, W.shape[1], COLUMNS)]
        mean = sum(W[:, block].double() @ part[block].double() for block in blocks) / part.sum()
        gram = torch.zeros(len(W), len(W), dtype=torch.float64, device=W.device)
        for block in blocks:
            centred = (W[:, block].double() - mean[:, None]) * part[block]
            gram += centred @ centred.T
        squares, axes = torch.linalg.eigh(gram)
        kept = squares > NULL * squares[-1]
        return cls(W, part, mean, axes[:, kept] / squares[kept].sqrt())

    def coordinates(self, vectors: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows size"]:
        """Coordinates of the vectors' projections on the space; float64."""
        vectors = vectors.double() * self.part
        products = torch.zeros(len(vectors), len(self.W), dtype=torch.float64, device=vectors.device)
        for start in range(0, self.W.shape[1], COLUMNS):
            block = slice(start, start + COLUMNS)
            products += vectors[:, block] @ self.W[:, block].double().T
        return (products - vectors.sum(-1, keepdim=True) * self.mean) @ self.factor

    def vectors(self, coordinates: Float[Tensor, "rows size"]) -> Float[Tensor, "rows vocab"]:
        """Vectors of the space from coordinates; float64."""
        weights = coordinates @ self.factor.T
        return (precise_product(weights, self.W) - (weights @ self.mean)[:, None]) * self.part


def matched_directions(
    h: Float[Array, "tokens size"],
    target: float,
    n: int,
    generator: np.random.Generator,
    *,
    avoid: Float[Array, " size"] | None = None,
) -> tuple[Float[Array, "n size"], bool]:
    """`n` random unit vectors along which `h` has the variance `target` (ddof 0), see the module's head.

    Args:
        avoid: coordinates of a direction that draws are to be orthogonal to.

    Returns:
        The vectors; and whether they are orthogonal to `avoid`, which is given up if the target lies outside the
        variances that occur there. A target outside all variances is replaced by the nearest of them.
    """
    centred = h - h.mean(0)
    covariance = centred.T @ centred / len(h)
    size = len(covariance)
    if avoid is not None and size > 2 and np.linalg.norm(avoid) > 0:
        q = avoid / np.linalg.norm(avoid)
        # Basis of the complement: all columns but the first of the reflection that takes q to an axis.
        reflector = q.copy()
        reflector[0] += np.copysign(1.0, q[0])
        complement = (np.eye(size) - 2 * np.outer(reflector, reflector) / (reflector @ reflector))[:, 1:]
        found = _matched(complement.T @ covariance @ complement, target, n, generator)
        if found is not None:
            return found @ complement.T, True
    values = np.linalg.eigvalsh(covariance)
    found = _matched(covariance, float(np.clip(target, values[0], values[-1])), n, generator)
    assert found is not None
    return found, False


def _matched(
    covariance: Float[Array, "size size"], target: float, n: int, generator: np.random.Generator
) -> Float[Array, "n size"] | None:
    """`n` unit vectors b with b covariance b = target; None if there are none."""
    values, axes = np.linalg.eigh(covariance)
    slack = 1e-9 * max(float(values[-1]), 0.0)
    if not values[0] - slack <= target <= values[-1] + slack:
        return None
    scale = np.maximum(values / max(float(values[-1]), 1e-300), 1e-12)
    drawn = np.empty((n, len(values)))  # in the eigenvectors' coordinates, where the covariance is diagonal
    left = np.arange(n)
    for attempt in range(ROUNDS + 1):
        if not len(left):
            break
        a = _unit(generator.standard_normal((len(left), len(values))))
        variance_a = a**2 @ values
        upwards = (variance_a <= target)[:, None]
        if attempt < ROUNDS:
            power = 0.5 * 1.5**attempt
            noise = generator.standard_normal(a.shape)
            c = noise * np.where(upwards, scale**power, (scale[0] / scale) ** power)
        else:  # the plane with the extreme direction itself always holds the target
            c = np.where(upwards, np.eye(len(values))[-1], np.eye(len(values))[0])
        c = _unit(c - (c * a).sum(1, keepdims=True) * a)
        variance_c, both = c**2 @ values, (a * c) @ values
        # In the plane: variance(angle) = middle + reach cos(2 angle - phase).
        middle, phase = (variance_a + variance_c) / 2, np.arctan2(both, (variance_a - variance_c) / 2)
        reach = np.hypot((variance_a - variance_c) / 2, both)
        ratio = np.divide(target - middle, reach, out=np.zeros_like(reach), where=reach > 0)
        there = np.abs(variance_a - target) <= slack
        met = (np.abs(ratio) <= 1) | there | (attempt == ROUNDS)
        turn = np.arccos(np.clip(ratio, -1, 1))
        angles = np.stack([phase + turn, phase - turn]) / 2
        angles = (angles + np.pi / 2) % np.pi - np.pi / 2
        angle = np.where(there, 0.0, angles[np.abs(angles).argmin(0), np.arange(len(left))])[:, None]
        drawn[left[met]] = (np.cos(angle) * a + np.sin(angle) * c)[met]
        left = left[~met]
    return _unit(drawn) @ axes.T


def _unit(x: Float[Array, "rows size"]) -> Float[Array, "rows size"]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
