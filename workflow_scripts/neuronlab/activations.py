"""Rule `measure_activations`: activation statistics and clean outcomes over the counted positions of a text.

One loading of the model. Moments, histogram and median take three passes (see `streaming`), and the first of them gives
the clean outcomes; activations of a small run are kept between them, those of a large one are computed again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from tqdm import tqdm

from neuronlab.ablation import AblationError, LastLayer, Tokens, clean_of
from neuronlab.activation_frame import statistics_frame
from neuronlab.final_states import Text, last_layer
from neuronlab.model_files import ModelSpec
from neuronlab.models import FinalState, Model, load_model
from neuronlab.streaming import Histogram, MedianSearch, Moments, PositionMeans
from neuronlab.tables import Provenance, read_table, write_table

KEPT_BYTES = 2**29  # activations up to this size stay in memory between the passes
TOKENS_PER_CHUNK = 64

Layers = dict[int, Float[np.ndarray, "batch position neurons"]]


def measure_activations(
    *,
    model: ModelSpec,
    tokens: str | Path,
    counts: str | Path,
    statistics: str | Path,
    baseline: str | Path,
    include_padded: bool = False,
    layers: Sequence[int] = (-1,),
    histogram_bins: int = 256,
    batch_size: int = 16,
    provenance: Provenance | None = None,
) -> None:
    """Write activation_statistics.parquet and baseline.parquet.

    Args:
        tokens, counts: tables "tokens" and "token_counts".
        statistics, baseline: where to write.
        layers: layers whose activations are described; negative numbers count from the end.

    Raises:
        AblationError: a layer out of range, or counts of another vocabulary.
        ModelError, TableError: model or tables unusable.
    """
    text = Text.read(tokens)
    counts_frame = read_table(counts, "token_counts")
    loaded = load_model(model)
    last = last_layer(loaded, counts_frame, include_padded=include_padded, kernel="torch")
    chosen = resolve_layers(layers, loaded.n_layers)
    described, outcomes = _passes(loaded, last, text, chosen, histogram_bins, batch_size)
    write_table(described, statistics, "activation_statistics", provenance)
    write_table(outcomes, baseline, "baseline", provenance)


def resolve_layers(layers: Sequence[int], n_layers: int) -> list[int]:
    """Layers from 0, sorted, each once.

    Raises:
        AblationError: for a layer that the model does not have.
    """
    for layer in layers:
        if not -n_layers <= layer < n_layers:
            raise AblationError(
                f"ablation.statistics_layers: there is no layer {layer}; the model's are 0 to {n_layers - 1}, "
                f"or -1 to {-n_layers} from the end"
            )
    return sorted({layer % n_layers for layer in layers})


def _passes(
    model: Model, last: LastLayer, text: Text, layers: list[int], bins: int, batch_size: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    starts = range(0, len(text.tokens), batch_size)
    width = sum(4 * model.d_mlp for _ in layers)
    keep = text.tokens.size * width <= KEPT_BYTES
    kept: dict[int, Layers] = {}

    outcomes: list[pl.DataFrame | None] = []

    def stream(label: str, *, first: bool = False) -> Iterator[tuple[slice, Layers]]:
        for start in tqdm(starts, desc=label, unit="batch", file=sys.stderr, disable=None):
            part = slice(start, start + batch_size)
            if start in kept:
                yield part, kept[start]
                continue
            ids = torch.from_numpy(text.tokens[part]).long()
            if first:  # the one pass that outcomes are read in as well
                state, found = model.run_with_activations(ids, layers)
                outcomes.append(_baseline(model, last, text, part, state))
            else:
                found = model.activations(ids, layers)
            arrays = {layer: values.float().cpu().numpy() for layer, values in found.items()}
            if keep:
                kept[start] = arrays
            yield part, arrays

    moments = {layer: Moments(model.d_mlp) for layer in layers}
    means = {layer: PositionMeans(text.tokens.shape[1], model.d_mlp) for layer in layers}
    for part, arrays in stream("moments and baseline", first=True):
        for layer, values in arrays.items():
            moments[layer].update(values[text.counted[part]])
            means[layer].update(values, text.counted[part])
    histograms = {layer: Histogram(m.min, m.max, bins) for layer, m in moments.items()}
    for part, arrays in stream("histograms"):
        for layer, values in arrays.items():
            histograms[layer].update(values[text.counted[part]])
    medians = {layer: MedianSearch(histogram) for layer, histogram in histograms.items()}
    for part, arrays in stream("medians"):
        for layer, values in arrays.items():
            medians[layer].update(values[text.counted[part]])
    described = [
        statistics_frame(layer, moments[layer], means[layer], histograms[layer], medians[layer]) for layer in layers
    ]
    return pl.concat(described), pl.concat([frame for frame in outcomes if frame is not None])


def _baseline(model: Model, last: LastLayer, text: Text, part: slice, state: FinalState) -> pl.DataFrame | None:
    """Clean outcomes of one batch from its states; None where nothing is counted."""
    row, position = np.nonzero(text.counted[part])
    if not len(row):
        return None
    sequence: Int[np.ndarray, " tokens"] = row + part.start
    places = torch.from_numpy(row).to(model.device), torch.from_numpy(position).to(model.device)
    targets = torch.from_numpy(text.tokens[sequence, position + 1]).long()
    residual = state.residual[places].to(last.device)
    mlp = None if state.mlp_out is None else state.mlp_out[places].to(last.device)
    flat = Tokens(residual, residual[:, :0], targets.to(last.device), mlp)
    columns: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(row), TOKENS_PER_CHUNK):
        chunk = flat[start : start + TOKENS_PER_CHUNK]
        clean = clean_of(last, chunk)
        top = clean.lp.gather(-1, clean.prediction[:, None])[:, 0]
        found = {
            "loss": clean.loss,
            "entropy": clean.entropy,
            "kl": clean.kl,
            "norm_scale": last.readout.scale(chunk.residual.double())[:, 0],
            "prediction": clean.prediction,
            "top_log_prob": top.double(),
            "rank": clean.rank,
        }
        for name, values in found.items():
            columns.setdefault(name, []).append(values.cpu().numpy())
    return pl.DataFrame(
        text.rows(sequence, position) | {name: np.concatenate(values) for name, values in columns.items()}
    )
