"""Activations of the last layer over the conflict prompts: what means, medians, ... are taken over (METHODS B3).

Every token of every prompt counts once, but for BOS and pads. Study B's statistics counted both, and all steps of the
generation besides (B defect 4), were summed in float16, where most selected neurons' deviations overflowed (B defect
2), and held modes that were no numbers (B defect 3). Here they are streamed in float64 (see `streaming`): the mode is
the midpoint of the fullest of `histogram_bins` equal bins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from tqdm import tqdm

from neuronlab.activation_frame import statistics_frame
from neuronlab.models import Model
from neuronlab.prompt_batches import by_length
from neuronlab.prompt_tokens import PromptError, padded
from neuronlab.streaming import Histogram, MedianSearch, Moments, PositionMeans

KEPT_BYTES = 2**29  # activations up to this size stay in memory between the passes


def describe_prompts(
    model: Model, prompts: Sequence[Sequence[int]], *, histogram_bins: int, batch_size: int
) -> pl.DataFrame:
    """The last layer's rows of activation_statistics.parquet, over all tokens of the prompts that are not BOS.

    `n_tokens` is their number; position 0 is the prompt's first token, BOS where there is one, and has no mean then
    (NaN within the list, as everywhere in that table).

    Args:
        prompts: token ids, BOS included.
        batch_size: prompts per forward pass; changes results by rounding at most.

    Raises:
        PromptError: if no token counts.
        StreamingError: for activations that are not finite.
    """
    layer, neurons = model.n_layers - 1, model.d_mlp
    marks = [] if model.bos_token_id is None else [model.bos_token_id]
    width = max((len(prompt) for prompt in prompts), default=0)
    total = sum(1 for prompt in prompts for token in prompt if token not in marks)
    if not total:
        raise PromptError("the conflict prompts hold no token but BOS: there are no activations to describe")
    batches = list(by_length(prompts, batch_size))
    keep = total * neurons * 4 <= KEPT_BYTES
    kept: dict[int, Float[np.ndarray, "tokens neurons"]] = {}

    def activations(batch: list[int]) -> tuple[Float[np.ndarray, "b t n"], Bool[np.ndarray, "b t"]]:
        tokens, real = padded([prompts[index] for index in batch])
        values = model.activations(tokens, [layer])[layer].cpu().numpy()
        return values, real & ~np.isin(tokens.numpy(), marks)

    def stream(label: str) -> Iterator[Float[np.ndarray, "tokens neurons"]]:
        for number, batch in enumerate(tqdm(batches, desc=label, unit="batch", file=sys.stderr, disable=None)):
            if number in kept:
                yield kept[number]
            else:
                values, counted = activations(batch)
                yield values[counted]

    moments, means = Moments(neurons), PositionMeans(width, neurons)
    for number, batch in enumerate(tqdm(batches, desc="moments", unit="batch", file=sys.stderr, disable=None)):
        values, counted = activations(batch)
        flat = values[counted]
        moments.update(flat)
        missing = width - values.shape[1]
        means.update(np.pad(values, ((0, 0), (0, missing), (0, 0))), np.pad(counted, ((0, 0), (0, missing))))
        if keep:
            kept[number] = flat
    histogram = Histogram(moments.min, moments.max, histogram_bins)
    for flat in stream("histograms"):
        histogram.update(flat)
    median = MedianSearch(histogram)
    for flat in stream("medians"):
        median.update(flat)
    return statistics_frame(layer, moments, means, histogram, median)
