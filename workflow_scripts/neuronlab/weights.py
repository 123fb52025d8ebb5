"""What can be said about a neuron from the weights alone (METHODS 0.2, A1, B1, D).

`w` is what a unit of activation adds to the residual stream: a row of `Model.w_out`, centred over d for LayerNorm and
with the gain of a following norm folded in (Gemma-2: w_eff). W_U is the folded read-out's. Measures of the cosine
profile c[t] = cos(w, W_U[:, t]) are taken over the real vocabulary; `include_padded` lets the ids that only pad it take
part, as in study B's values for Pythia and Phi. A column of W_U that is zero has cosine 0 with everything. A neuron
that writes nothing has norm 0 and no other measure: its row holds nulls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm import tqdm

from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.null_space import (
    Spectrum,
    automatic_k,
    drop_p_value,
    null_space_shares,
    random_share,
    share_survival,
    spectrum,
    successive_ratios,
)
from neuronlab.null_space_size import resolve_k
from neuronlab.readout import Readout
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table

NEURONS_PER_BLOCK, TOKENS_PER_BLOCK = 256, 1024  # of the cosine matrix: 1 MiB in float32, which stays in the cache
MEASURES = ("logit_var", "vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt", "unembed_gain")


class WeightsError(ValueError):
    """Weights that cannot be measured."""


@dataclass(frozen=True)
class Profile:
    """Moments over the vocabulary of every neuron's cosine profile; NaN for a neuron that writes nothing."""

    mean: Float64[np.ndarray, " neurons"]
    var: Float64[np.ndarray, " neurons"]  # population variance, ddof 0
    skew: Float64[np.ndarray, " neurons"]
    kurt: Float64[np.ndarray, " neurons"]  # E[z^4], 3 for a Gaussian
    n_tokens: int

    @property
    def logit_var(self) -> Float64[np.ndarray, " neurons"]:
        """LogitVar: the variance with ddof 1, as studies A and B take it."""
        return self.var * self.n_tokens / (self.n_tokens - 1)


def unit_columns(
    readout: Readout, include_padded: bool = False, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "d tokens"]:
    """Columns of W_U scaled to length 1, of the real vocabulary or (`include_padded`) of all of it.

    Raises:
        WeightsError: if fewer than two ids are left: no variance.
    """
    columns = readout.W.clone() if include_padded else readout.W[:, readout.real]  # a copy either way
    if columns.shape[1] < 2:
        raise WeightsError(f"a vocabulary of {columns.shape[1]} real ids has no variance; look at the tokenizer")
    length = columns.norm(dim=0)
    return columns.div_(torch.where(length > 0, length, 1.0)).to(dtype)


def profile_moments(
    w: Float[Tensor, "neurons d"], columns: Float[Tensor, "d tokens"], neurons_per_tile: int = 4096
) -> Profile:
    """Moments of c[t] = cos(w, column t) over the columns, without ever holding the profile.

    The mean is exact in float64; deviations from it are computed block by block in the columns' dtype, and their
    powers summed up across blocks in float64.

    Args:
        w: output weights, any length.
        columns: unit vectors, from `unit_columns`.
        neurons_per_tile: neurons whose profiles are worked on at once, up to `NEURONS_PER_BLOCK`.
    """
    n_tokens, device = columns.shape[1], columns.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    centre = torch.stack([part.to(wide).sum(1) for part in columns.split(TOKENS_PER_BLOCK, dim=1)]).sum(0) / n_tokens
    results: list[Float64[np.ndarray, "moments neurons"]] = []
    for weights in w.split(min(neurons_per_tile, NEURONS_PER_BLOCK)):
        part = weights.to(device=device, dtype=wide)
        norm = part.norm(dim=1, keepdim=True)
        unit = part / torch.where(norm > 0, norm, torch.nan)
        mean = unit @ centre
        sums = torch.zeros(3, len(part), dtype=wide, device=device)
        unit, offset = unit.to(columns.dtype), mean.to(columns.dtype)[:, None]
        for tokens in columns.split(TOKENS_PER_BLOCK, dim=1):
            deviation = unit @ tokens - offset
            square = deviation * deviation
            sums[0] += square.sum(1)
            sums[1] += deviation.mul_(square).sum(1)
            sums[2] += square.mul_(square).sum(1)
        results.append(torch.cat([mean[None], sums / n_tokens]).double().cpu().numpy())
    mean, second, third, fourth = np.concatenate(results, axis=1)
    # A profile that is flat to rounding (a direction that W_U does not read at all) has no shape.
    varies = second > 1e-24
    spread = np.where(varies, second, np.nan)
    return Profile(mean, second, third / spread**1.5, fourth / spread**2, n_tokens)


def unembed_gain(w: Float[Tensor, "neurons d"], product: Float64[Tensor, "d d"]) -> Float64[np.ndarray, " neurons"]:
    """|w W_U| sqrt(d) / (|w| |W_U|_F), from the Gram matrix of W_U (METHODS 0.2): how loudly W_U reads w.

    1 for the root mean square over all directions, 0 in the null space; sqrt(d/(d-1)) over those that a LayerNorm
    model's centred weights can take. Needs no k.
    """
    w = w.to(product.device).double()
    energy = ((w @ product) * w).sum(1).clamp(min=0)
    squared = w.square().sum(1)
    squared = torch.where(squared > 0, squared, torch.nan)
    return (energy * len(product) / (squared * product.trace())).sqrt().cpu().numpy()


def neuron_rows(
    layer: int,
    w_out: Float[Tensor, "neurons d"],
    w_in: Float[Tensor, "neurons d"],
    columns: Float[Tensor, "d tokens"],
    product: Float64[Tensor, "d d"],
    neurons_per_tile: int = 4096,
) -> pl.DataFrame:
    """Rows of neurons.parquet for one layer."""
    profile = profile_moments(w_out, columns, neurons_per_tile)
    frame = pl.DataFrame(
        {
            "layer": np.full(len(w_out), layer),
            "neuron": np.arange(len(w_out)),
            "norm": norms(w_out),
            "norm_in": norms(w_in),
            "logit_var": profile.logit_var,
            "vocab_mean": profile.mean,
            "vocab_var": profile.var,
            "vocab_skew": profile.skew,
            "vocab_kurt": profile.kurt,
            "unembed_gain": unembed_gain(w_out, product),
        }
    )
    return frame.with_columns(pl.col(MEASURES).fill_nan(None))


def norms(w: Float[Tensor, "neurons d"]) -> Float64[np.ndarray, " neurons"]:
    """|w| of every neuron, in float64."""
    return w.cpu().double().norm(dim=1).numpy()


def null_space_rows(
    layer: int, w_out: Float[Tensor, "neurons d"], directions: Spectrum, sizes: Sequence[tuple[int, str]]
) -> pl.DataFrame:
    """Rows of null_space.parquet for one layer; `sizes` are (k, rule) pairs."""
    shares = null_space_shares(w_out, directions, [k for k, _ in sizes])
    rows = [
        pl.DataFrame(
            {
                "layer": np.full(len(w_out), layer),
                "neuron": np.arange(len(w_out)),
                "k": np.full(len(w_out), k),
                "k_rule": [rule] * len(w_out),
                "rho": rho,
                "rho_excess": rho - random_share(k, directions),
                "rho_p_value": share_survival(rho, k, directions),
            }
        )
        for (k, rule), rho in zip(sizes, shares, strict=True)
    ]
    return pl.concat(rows).with_columns(pl.col("rho", "rho_excess", "rho_p_value").fill_nan(None))


def singular_value_rows(directions: Spectrum, k: int, p_value: float) -> pl.DataFrame:
    """singular_values.parquet: `k` is the automatic size of the null space, `p_value` that of its drop."""
    index = np.arange(directions.d)
    ratio = np.full(directions.d, np.nan)
    # Neither the last value has a successor, nor is a ratio to the exact zero a number.
    ratio[: directions.free - 1] = successive_ratios(directions.values[: directions.free])
    return pl.DataFrame(
        {
            "index": index,
            "singular_value": directions.values,
            "ratio": ratio,
            "automatic": index >= directions.d - k,
            "exact_null": (index == directions.d - 1) & directions.has_exact_null,
            "automatic_p_value": np.full(directions.d, p_value),
        }
    ).with_columns(pl.col("ratio").fill_nan(None))


def configured_sizes(null_space_k: Sequence[float], d: int, where: str) -> list[int]:
    """The configured sizes of the null space as numbers of directions, each once and in order.

    Raises:
        NullSpaceError: for a size that cannot be; the message names `where`.
    """
    return list(dict.fromkeys(resolve_k(k, d, where) for k in null_space_k))


def measure_model(
    model: Model, null_space_k: Sequence[float], *, include_padded: bool, neurons_per_tile: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The tables neurons, null_space and singular_values of a loaded model (see `measure_neurons`)."""
    configured = configured_sizes(null_space_k, model.d_model, f"weights.null_space_k ({model.spec.where})")
    readout = model.readout()
    directions = spectrum(readout)
    automatic = automatic_k(directions)
    sizes = [*((k, "configured") for k in configured), (automatic, "automatic")]
    p_value = drop_p_value(directions, readout.vocab, seed)
    columns = unit_columns(readout, include_padded)
    neurons, shares = [], []
    for layer in tqdm(range(model.n_layers), desc="measure_neurons", unit="layer"):
        w_out = model.w_out(layer)
        neurons.append(neuron_rows(layer, w_out, model.w_in(layer), columns, directions.gram, neurons_per_tile))
        shares.append(null_space_rows(layer, w_out, directions, sizes))
    singular_values = singular_value_rows(directions, automatic, p_value)
    return pl.concat(neurons), pl.concat(shares), singular_values


def measure_neurons(
    *,
    model: ModelSpec,
    null_space_k: Sequence[float],
    include_padded: bool,
    neurons_per_tile: int,
    seed: int,
    neurons: str | Path,
    null_space: str | Path,
    singular_values: str | Path,
    provenance: Provenance | None = None,
) -> None:
    """Rule `measure_neurons`: measure every neuron of every layer.

    Args:
        model: the model to load.
        null_space_k: sizes of the null space, whole numbers or shares of d; the automatic one comes on top.
        include_padded: let padded ids take part in the cosine profiles.
        neurons_per_tile: bound on memory.
        seed: of the random matrices behind `automatic_p_value`.
        neurons, null_space, singular_values: paths of the tables written.

    Raises:
        ModelError, NullSpaceError, WeightsError: see there.
    """
    loaded = load_model(model)
    frames = measure_model(
        loaded, null_space_k, include_padded=include_padded, neurons_per_tile=neurons_per_tile, seed=seed
    )
    paths = {"neurons": neurons, "null_space": null_space, "singular_values": singular_values}
    for frame, (name, path) in zip(frames, paths.items(), strict=True):
        write_table(frame, path, name, provenance)


def alignment_rows(chosen: pl.DataFrame, model: Model, directions: Spectrum) -> pl.DataFrame:
    """Rows of alignment.parquet for rows of a selection: cos(w_out, U_j) for every singular direction j."""
    if not len(chosen):  # no selection applies to the model: a table without rows
        return pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["alignment"].items()})
    frames = []
    for (layer,), rows in sorted(chosen.group_by("layer"), key=lambda group: group[0]):
        w = model.w_out(int(layer)).to(directions.directions.device).double()[rows["neuron"].to_list()]
        norm = w.norm(dim=1, keepdim=True)
        cosines = ((w @ directions.directions) / torch.where(norm > 0, norm, 1.0)).cpu().numpy()
        for name, neuron, cosine in zip(rows["set"], rows["neuron"], cosines, strict=True):
            frames.append(
                pl.DataFrame({"index": np.arange(directions.d), "cosine": cosine}).with_columns(
                    layer=pl.lit(layer), neuron=pl.lit(neuron), set=pl.lit(name)
                )
            )
    return pl.concat(frames)


def align_neurons(
    *,
    model: ModelSpec,
    selection: str | Path,
    alignment: str | Path,
    provenance: Provenance | None = None,
) -> None:
    """Rule `align_neurons`: chosen neurons and controls against every singular direction of W_U (Fig 2d of study A).

    Taken are all selections and, of each one's controls, the first set of either kind: a contrast is enough.
    """
    sets = read_table(selection, "selection")
    firsts = sets.group_by("control_of", "kind", maintain_order=True).agg(pl.col("set").first())
    contrast = firsts.filter(pl.col("kind") != "selection")["set"].to_list()
    chosen = sets.filter((pl.col("kind") == "selection") | pl.col("set").is_in(contrast))
    loaded = load_model(model)
    write_table(alignment_rows(chosen, loaded, spectrum(loaded.readout())), alignment, "alignment", provenance)
