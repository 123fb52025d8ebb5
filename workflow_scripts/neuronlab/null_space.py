"""Singular directions of the folded W_U, how much of a neuron lies in the bottom ones, and how many to take.

Published entropy neurons write into directions that W_U hardly reads (METHODS 0.2): with W_U = U S Z^T and V0 the
k columns of U with the smallest singular values, rho = |V0^T w| / |w|. All columns of W_U take part, those of padded
ids too, because they take part in the softmax.

**The all-ones direction.** Folding a LayerNorm makes ones(d) an exact left null vector of W_U, and centred output
weights have no part in it (METHODS 0.1). It is a singular direction like the others here, the last one, with the
singular value 0 and `exact_null` set; k counts it, as it does in the published values. What it cannot do is carry rho,
so a random direction is one among d - 1 dimensions of which k - 1 are in the null space, and the gap before the exact
zero is no evidence for anything: the search for the automatic k leaves it out.

**Precision.** The directions come from the d x d Gram matrix W W^T in float64, summed over tiles of the vocabulary: no
copy of W_U in float64 is ever made. Squaring costs accuracy at the bottom only: a singular value s is exact to about
1e-16 (s_max / s)^2, and anything below 1e-7 s_max counts as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.stats import beta
from torch import Tensor

from neuronlab.null_space_size import NullSpaceError, resolve_k
from neuronlab.readout import Readout

VOCABULARY_TILE = 8192
NUMERICAL_ZERO = 1e-7  # of the largest singular value; see Precision above
TAIL_SHARE = 4  # the lower tail is the lowest 1/4 of the singular values
NULL_DRAWS = 99


@dataclass(frozen=True)
class Spectrum:
    """Singular directions of W_U, largest singular value first.

    Attributes:
        directions: U, one column per direction; the entry of largest size in each is positive.
        values: singular values; exactly 0 for the exact null direction.
        has_exact_null: whether the last direction is the all-ones vector that LayerNorm makes null.
        gram: W W^T, what they were computed from.
    """

    directions: Float64[Tensor, "d d"]
    values: Float64[np.ndarray, " d"]
    has_exact_null: bool
    gram: Float64[Tensor, "d d"]

    @property
    def d(self) -> int:
        """Width of the residual stream."""
        return len(self.values)

    @property
    def free(self) -> int:
        """Directions that output weights can have a part in: d, or d - 1 with an exact null direction."""
        return self.d - int(self.has_exact_null)


def gram(W: Float[Tensor, "d vocab"], tile: int = VOCABULARY_TILE) -> Float64[Tensor, "d d"]:
    """W W^T in float64, summed over tiles of the vocabulary (on the CPU where the device is mps)."""
    device = torch.device("cpu") if W.device.type == "mps" else W.device
    total = torch.zeros(W.shape[0], W.shape[0], dtype=torch.float64, device=device)
    for start in range(0, W.shape[1], tile):
        part = W[:, start : start + tile].to(device=device).double()
        total += part @ part.T
    return total


def complement_of_ones(d: int, device: torch.device | str = "cpu") -> Float64[Tensor, "d d-1"]:
    """An orthonormal basis of the vectors whose entries sum to zero (the columns of a Helmert matrix)."""
    row, column = torch.meshgrid(torch.arange(d, device=device), torch.arange(1, d, device=device), indexing="ij")
    height = column.double()
    return ((row < column).double() - (row == column).double() * height) / (height * (height + 1)).sqrt()


def spectrum(readout: Readout) -> Spectrum:
    """Singular values and left singular directions of the folded W_U.

    Raises:
        NullSpaceError: if W_U is zero or not finite.
    """
    product = gram(readout.W)
    d = product.shape[0]
    if not torch.isfinite(product).all() or not product.any():
        raise NullSpaceError("the unembedding is zero, or holds NaN or infinity: the weights are damaged")
    has_exact_null = readout.kind == "LN"
    if has_exact_null:
        # Inside the complement the all-ones direction cannot mix with others that happen to be nearly null.
        basis = complement_of_ones(d, product.device)
        squares, within = torch.linalg.eigh(basis.T @ product @ basis)
        ones = torch.full((d, 1), d**-0.5, dtype=torch.float64, device=product.device)
        directions = torch.cat([(basis @ within).flip(1), ones], dim=1)
    else:
        squares, directions = torch.linalg.eigh(product)
        directions = directions.flip(1)
    values = squares.flip(0).clamp(min=0).sqrt().cpu().numpy()
    # Eigenvectors come with any sign: fix it, so that cosines are the same on every machine.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * torch.where(largest < 0, -1.0, 1.0)
    return Spectrum(directions, np.append(values, 0.0) if has_exact_null else values, has_exact_null, product)


def successive_ratios(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n-1"]:
    """Each singular value over the next smaller one, both at least `NUMERICAL_ZERO` of the largest."""
    floored = np.maximum(values, NUMERICAL_ZERO * values[0])
    return floored[:-1] / floored[1:]


def tail_start(n: int) -> int:
    """Index of the first singular value of the lower tail, of `n` that are not exactly null."""
    return n - max(2, n // TAIL_SHARE)


def largest_tail_ratio(values: Float64[np.ndarray, " n"]) -> tuple[int, float]:
    """The largest ratio of successive singular values in the lower tail: (index of the upper one, ratio)."""
    start = tail_start(len(values))
    ratios = successive_ratios(values)[start:]
    return start + int(ratios.argmax()), float(ratios.max())


def automatic_k(spectrum: Spectrum) -> int:
    """Size of the null space by rule: everything below the largest ratio of successive values in the lower tail.

    The tail is the lowest quarter of the singular values, the exact null direction left out of the search and
    counted in the result. The largest ratio always exists; whether it is remarkable, `drop_p_value` says.

    Raises:
        NullSpaceError: with fewer than two singular values that are not exactly null.
    """
    if spectrum.free < 2:
        raise NullSpaceError(f"d = {spectrum.d} leaves no two singular values to compare")
    index, _ = largest_tail_ratio(spectrum.values[: spectrum.free])
    return spectrum.d - 1 - index


def null_draws(d: int) -> int:
    """How many spectra `drop_p_value` simulates: 99 up to d = 512, fewer above (each costs d^3), at least 19."""
    return int(np.clip(NULL_DRAWS * (512 / d) ** 3, 19, NULL_DRAWS))


def drop_p_value(spectrum: Spectrum, vocab: int, seed: int) -> float:
    """Is the drop of `automatic_k` larger than in random matrices with the same bulk? p = (1 + b) / (1 + n).

    A rotation leaves singular values as they are, so the null is a Gaussian matrix [d, vocab] whose population
    spectrum is ours in the upper half and, in the lower half, a smooth curve through ours: a cubic in log s. Its
    sample spectra have that bulk and may bend downwards as ours does, but have no drop other than what random
    matrices fluctuate, which they do most at the lower edge. b counts the simulated spectra whose largest tail ratio
    is at least ours. Drawn through Bartlett's decomposition of a Wishart matrix; the exact null direction is left out.
    """
    values = spectrum.values[: spectrum.free]
    n = len(values)
    _, observed = largest_tail_ratio(values)
    population = np.log(np.maximum(values, NUMERICAL_ZERO * values[0]))
    lower = np.arange(n // 2, n)
    smooth = np.polynomial.Polynomial.fit(lower, population[lower], min(3, len(lower) - 1))(lower)
    population[lower] = np.minimum.accumulate(np.minimum(smooth, population[0]))  # singular values never rise
    scale = torch.from_numpy(np.exp(population))
    generator = np.random.default_rng(seed)
    device = spectrum.directions.device
    degrees = np.maximum(vocab - np.arange(n), 1e-3)  # fewer tokens than dimensions: the rest is (nearly) null
    exceeding, draws = 0, null_draws(n)
    for _ in range(draws):
        factor = np.tril(generator.normal(size=(n, n)), -1)
        np.fill_diagonal(factor, np.sqrt(generator.chisquare(degrees)))
        scaled = (torch.from_numpy(factor) * scale[:, None]).to(device)
        simulated = torch.linalg.eigvalsh(scaled @ scaled.T).flip(0).clamp(min=0).sqrt().cpu().numpy()
        exceeding += largest_tail_ratio(simulated)[1] >= observed
    return (1 + exceeding) / (1 + draws)


def null_space_shares(
    w: Float[Tensor, "neurons d"], spectrum: Spectrum, sizes: Sequence[int]
) -> Float64[np.ndarray, "sizes neurons"]:
    """rho of every neuron for every size k, in float64; NaN for a neuron that writes nothing.

    Raises:
        NullSpaceError: for a size outside 1..d.
    """
    for k in sizes:
        resolve_k(k, spectrum.d)
    w = w.to(spectrum.directions.device).double()
    bottom = spectrum.directions[:, spectrum.d - max(sizes) :].flip(1)
    # |V0^T w|^2 for k = 1, 2, ...: the last singular direction comes first.
    energy = (w @ bottom).square().cumsum(1)
    norm = w.norm(dim=1)
    shares = energy[:, [k - 1 for k in sizes]].sqrt() / torch.where(norm > 0, norm, torch.nan)[:, None]
    return shares.clamp(max=1.0).T.cpu().numpy()  # rounding may lift a neuron inside the null space above 1


def random_share(k: int, spectrum: Spectrum) -> float:
    """sqrt(k/d), the root mean square of rho over random directions; sqrt((k-1)/(d-1)) with an exact null direction."""
    return float(np.sqrt((k - int(spectrum.has_exact_null)) / spectrum.free))


def share_survival(rho: Float64[np.ndarray, " neurons"], k: int, spectrum: Spectrum) -> Float64[np.ndarray, " neurons"]:
    """Probability that a randomly rotated w_out has a rho at least as large.

    Exact: of a direction drawn uniformly among n dimensions, the energy in m given ones, rho^2, follows
    Beta(m/2, (n-m)/2). With an exact null direction m = k - 1 and n = d - 1, since a rotation that keeps w_out
    centred moves it in the complement of the all-ones direction only.
    """
    n, m = spectrum.free, k - int(spectrum.has_exact_null)
    if m == 0 or m == n:  # no part, or everything, of every direction: nothing is remarkable
        return np.where(np.isnan(rho), np.nan, 1.0)
    return beta.sf(np.square(rho), m / 2, (n - m) / 2)
