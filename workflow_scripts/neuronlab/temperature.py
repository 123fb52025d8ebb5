"""Is an ablation only a change of temperature? The share of the KL divergence that one temperature explains.

For the clean distribution p, the ablated one a and p_T = softmax(clean logits / T), beta = 1/T (METHODS A2):

    kl_change = mean KL(p || a),    kl_left = min over T of mean KL(p_T || a),    explained = 1 - kl_left / kl_change

With eta = beta - 1, l = log p + H (mean zero under p) and D the change of the logits,

    KL(p_T || a) = F + eta^2 K(beta) - eta G(beta),     F = KL(p || a) = log sum p e^D - E_p D,
    K = KL(p_T || p) / eta^2,    G = (E_T D - E_p D) / eta          at eta = 0: Var_p(l) / 2 and Cov_p(l, D)

K and G are smooth in beta, keep their digits where effects are small, and add up over tokens. So one pass over the
text takes F, K and G at a grid of temperatures, the same for all sets, which share the distributions p_T; a cubic
spline through the grid stands for the vocabulary from there on: temperatures near 1 are exact to 1e-6, those near 6 to
1e-3. Sums per document are all that a bootstrap needs: every resample is minimised anew on its own curve, and none goes
back to the vocabulary. KL(p_T || a) may have several minima; the grid finds the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from scipy.interpolate import CubicSpline
from torch import Tensor

from neuronlab.kernels.interface import Clean
from neuronlab.kernels.torch_kernel import log_sum_exp_change
from neuronlab.neuron_sets import NeuronSet
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import Interval, percentile_interval

Array = np.ndarray
# The grid, in log beta: temperatures from 1/20 to 20, finest around 1.
HALF = 12
SPREAD = 3.0
STEEPNESS = 0.25
STEPS = 8  # of the root search, superlinear


def log_beta(place: Float64[Array, "..."]) -> Float64[Array, "..."]:
    """log(1/T) at places of the grid, from -HALF to HALF; also between nodes."""
    return SPREAD * np.sinh(STEEPNESS * place) / np.sinh(STEEPNESS * HALF)


NODES = np.arange(-HALF, HALF + 1, dtype=np.float64)
ETA = np.expm1(log_beta(NODES))
NEAR = slice(HALF - 5, HALF + 6)  # |eta| < 0.7: nodes whose distributions are taken in delta form
ROWS = 4096  # (token, set) pairs minimised at a time


@cache
def _slopes() -> Float64[Array, "nodes nodes"]:
    """Matrix that turns values at the nodes into slopes, per node, of their cubic spline."""
    return CubicSpline(NODES, np.eye(len(NODES)), axis=0)(NODES, 1)


def chunk_curves(
    clean: Clean, D: Float[Tensor, "tokens sets vocab"]
) -> tuple[Float64[Array, "tokens sets"], Float64[Array, "tokens nodes"], Float64[Array, "tokens sets nodes"]]:
    """F, K and G of the module's head for a chunk of tokens.

    Args:
        D: changes of the logits, about centred under the clean distribution; see `joint.logit_changes`.
    """
    p, dtype, device = clean.p, clean.lp.dtype, clean.p.device
    entropy = -(p.double() * clean.lp).sum(-1, keepdim=True)
    own = (clean.lp.double() + entropy).to(dtype)  # rounded once
    weights = torch.empty(len(p), len(ETA) + 1, p.shape[1], dtype=dtype, device=device)
    eta = torch.from_numpy(ETA).to(device)
    normaliser = torch.empty(len(p), len(ETA), dtype=torch.float64, device=device)
    # Near 1 in delta form, which keeps the digits of small differences; further off there is no need.
    rise = torch.expm1(own[:, None] * eta[NEAR, None].to(dtype)).mul_(p[:, None])
    total = rise.sum(-1, dtype=torch.float64)
    normaliser[:, NEAR] = torch.log1p(total)
    weights[:, NEAR] = rise.add_(p[:, None]).mul_((1 / (1 + total)).to(dtype)[..., None])
    for far in (slice(0, NEAR.start), slice(NEAR.stop, len(ETA))):
        tilted = (own[:, None] * eta[far, None].to(dtype)).add_(clean.lp[:, None])
        log_total = tilted.logsumexp(-1)
        normaliser[:, far] = log_total.double()
        weights[:, far] = tilted.sub_(log_total[..., None]).exp_()
    mean = torch.bmm(weights[:, :-1], own[..., None])[..., 0].double()
    K = (eta * mean - normaliser).clamp_min_(0) / eta.square()
    K[:, HALF] = (p * own.square()).sum(-1, dtype=torch.float64) / 2
    weights[:, -1] = p * own
    means = torch.bmm(weights, D.transpose(1, 2)).transpose(1, 2).double()
    F = (log_sum_exp_change(clean.lp, p, D) - means[..., HALF]).clamp_min(0)
    G = (means[..., :-1] - means[..., HALF, None]) / eta
    G[..., HALF] = means[..., -1]
    return F.cpu().numpy(), K.cpu().numpy(), G.cpu().numpy()


def minimise(
    F: Float64[Array, "..."], K: Float64[Array, "... nodes"], G: Float64[Array, "... nodes"]
) -> tuple[Float64[Array, "..."], Float64[Array, "..."]]:
    """Best temperature and the divergence left at it, elementwise, on curves that broadcast together.

    The best node brackets a root of the derivative, which is searched by the Illinois method: never worse than the
    node. A curve that falls to the end of the grid is left there (temperatures from 1/20 to 20).
    """
    shape = np.broadcast_shapes(F.shape, K.shape[:-1], G.shape[:-1])
    K, G = (np.broadcast_to(x, (*shape, len(NODES))).reshape(-1, len(NODES)) for x in (K, G))
    F = np.broadcast_to(F, shape).ravel()
    curves = (K, K @ _slopes().T, G, G @ _slopes().T)
    values = ETA**2 * K - ETA * G
    rows, index = np.arange(len(K)), values.argmin(1)
    best = NODES[index]
    # The bracket: from the best node to the neighbour that the slope there points to.
    _, fa = _curve(curves, best)
    a, b = best, np.clip(np.where(fa > 0, best - 1, best + 1), -HALF, HALF)
    _, fb = _curve(curves, b)
    bracket = fa * fb < 0
    a, b = np.where(bracket, a, best), np.where(bracket, b, best)
    fa, fb = np.where(bracket, fa, -1.0), np.where(bracket, fb, 1.0)
    middle = a
    for _ in range(STEPS):
        gap = fb - fa
        middle = np.where(gap == 0, b, (a * fb - b * fa) / np.where(gap == 0, 1.0, gap))
        _, slope = _curve(curves, middle)
        same = slope * fb > 0
        # Same side as b: b moves, and a's value is halved so that it moves next; else b becomes the old end.
        fa = np.where(same, fa / 2, fb)
        a = np.where(same, a, b)
        b, fb = middle, slope
    value, _ = _curve(curves, middle)
    node = values[rows, index]
    place = np.where(value <= node, middle, best)
    found = np.clip(F + np.minimum(value, node), 0, F)
    return np.exp(-log_beta(place)).reshape(shape), found.reshape(shape)


def _curve(
    curves: tuple[Float64[Array, "rows nodes"], ...], place: Float64[Array, " rows"]
) -> tuple[Float64[Array, " rows"], Float64[Array, " rows"]]:
    """eta^2 K - eta G and its slope along the grid, between nodes by the spline."""
    cell = np.clip(np.floor(place).astype(np.int64) + HALF, 0, len(NODES) - 2)
    t = place - NODES[cell]
    rows = np.arange(len(place))

    def spline(values: Float64[Array, "rows nodes"], slopes: Float64[Array, "rows nodes"]) -> tuple[Array, Array]:
        y0, y1, d0, d1 = values[rows, cell], values[rows, cell + 1], slopes[rows, cell], slopes[rows, cell + 1]
        c2, c3 = 3 * (y1 - y0) - 2 * d0 - d1, 2 * (y0 - y1) + d0 + d1
        return y0 + t * (d0 + t * (c2 + t * c3)), d0 + t * (2 * c2 + 3 * t * c3)

    x = log_beta(place)
    eta, dx = np.expm1(x), SPREAD * STEEPNESS * np.cosh(STEEPNESS * place) / np.sinh(STEEPNESS * HALF)
    deta = np.exp(x) * dx
    K, dK = spline(curves[0], curves[1])
    G, dG = spline(curves[2], curves[3])
    return eta**2 * K - eta * G, deta * (2 * eta * K - G) + eta**2 * dK - eta * dG


class TemperatureSums:
    """F, K, G and the divergence left at each token's best temperature, summed per document."""

    def __init__(self, documents: Int[Array, " documents"], sets: int) -> None:
        n = len(documents)
        self.documents = documents
        self.F = np.zeros((n, sets))
        self.K = np.zeros((n, len(NODES)))
        self.G = np.zeros((n, sets, len(NODES)))
        self.left = np.zeros((n, sets))
        self.tokens = np.zeros(n, dtype=np.int64)
        self.waiting: list[tuple[Array, ...]] = []

    def add(self, documents: Int[Array, " tokens"], clean: Clean, D: Float[Tensor, "tokens sets vocab"]) -> None:
        """Add the tokens of a chunk."""
        self.waiting.append((np.searchsorted(self.documents, documents), *chunk_curves(clean, D)))
        if sum(rows.size for _, rows, *_ in self.waiting) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Minimise and sum what waits, some chunks together."""
        if not self.waiting:
            return
        rows, F, K, G = (np.concatenate(arrays) for arrays in zip(*self.waiting, strict=True))
        self.waiting = []
        _, left = minimise(F, K[:, None], G)
        for here in np.unique(rows):
            chosen = rows == here
            self.tokens[here] += chosen.sum()
            for sums, values in ((self.F, F), (self.K, K), (self.G, G), (self.left, left)):
                sums[here] += values[chosen].sum(0)

    def measures(self, weights: Float64[Array, "resamples documents"]) -> dict[str, Float64[Array, "resamples sets"]]:
        """What the table holds, from weighted documents; NaN where nothing changes, or no token is drawn."""
        self.flush()
        counts = weights @ self.tokens
        n = np.where(counts > 0, counts, np.nan)[:, None]
        F, left = weights @ self.F / n, weights @ self.left / n
        K = weights @ self.K / n
        G = np.einsum("rd,dsj->rsj", weights, self.G) / n[..., None]
        temperature, kl_left = minimise(np.nan_to_num(F), np.nan_to_num(K)[:, None], np.nan_to_num(G))
        changed = F > 0
        whole = np.where(changed, F, 1.0)
        return {
            "kl_change": F,
            "temperature": np.where(changed, temperature, np.nan),
            "kl_left": np.where(np.isnan(F), np.nan, kl_left),
            "explained": np.where(changed, 1 - kl_left / whole, np.nan),
            "explained_per_token": np.where(changed, 1 - left / whole, np.nan),
        }


def temperature_frame(
    sums: TemperatureSums,
    sets: Sequence[NeuronSet],
    replacement: str,
    weights: Float64[Array, "resamples documents"],
    level: float,
) -> pl.DataFrame:
    """The table "temperature", a row for each set."""
    estimate = sums.measures(np.ones((1, len(sums.documents))))
    resampled = sums.measures(weights)
    columns: dict[str, Array] = {}
    for name, value in estimate.items():
        interval: Interval = percentile_interval(value[0], resampled[name], level, clusters=len(sums.documents))
        columns |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    frame = pl.DataFrame([one.columns() for one in sets], infer_schema_length=None).with_columns(
        replacement=pl.lit(replacement),
        n_tokens=pl.lit(int(sums.tokens.sum()), pl.Int64),
        n_documents=pl.lit(len(sums.documents), pl.Int64),
        **{name: pl.Series(values, dtype=pl.Float64).fill_nan(None) for name, values in columns.items()},
    )
    schema = {name: column.dtype for name, column in SCHEMAS["temperature"].items()}
    return frame.cast({name: schema[name] for name in frame.columns}).select(list(schema))
