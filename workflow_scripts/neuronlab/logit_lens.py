"""Rule `measure_lens`: what the model would predict after each block, by the logit lens (METHODS C3).

The lens reads the residual stream after l blocks as if it were the last one: final norm, unembedding, softmax. l = 0 is
what enters the first block, l = L the model's own output. Each residual is normed by its OWN statistics, and the
unembedding's bias and that of the final norm take part (the published one used the last layer's scale throughout and
left b_U out: METHODS C defect 2). Entropies are of normalised probabilities, not of clamped ones (C defect 3). All
outcomes of a row concern one position: the distribution there, and the next token as its target (C defect 1). Means are
over counted tokens, with intervals clustered by document (C defect 4).

Per token (see `layer_outcomes`): KL(final || lens), loss and entropy of the lens, whether the final top prediction is
on top of the lens, and its reciprocal rank there.

The lens of the last layer is the model itself. Every run compares it with the model's own logits and logs the result.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.ablation import readout_dtype
from neuronlab.attention_parts import residual_before
from neuronlab.boosted_tokens import spell_tokens
from neuronlab.bridge_parts import FINAL_RESIDUAL, Hook, hooked_forward
from neuronlab.final_states import Text
from neuronlab.layer_outcomes import OUTCOMES, outcomes, read
from neuronlab.model_checks import TOLERANCE
from neuronlab.model_families import family_of
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.readout import Readout
from neuronlab.sequence_sample import sample_sequences
from neuronlab.statistics import bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, write_table

Array = np.ndarray


class LensError(ValueError):
    """A lens whose last layer is not the model's own output, or residuals that are no numbers."""


def measure_lens(
    *,
    model: ModelSpec,
    tokens: str | Path,
    lens: str | Path,
    lens_documents: str | Path,
    lens_tokens: str | Path,
    sequences: int = 64,
    passages: int = 4,
    passage_tokens: int = 24,
    batch_size: int = 16,
    tokens_per_chunk: int = 128,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write lens (means), lens_documents (means by document) and lens_tokens (example passages, token by token).

    Args:
        sequences: how many sequences are read.
        passages: example passages, each of another sequence; fewer if fewer sequences are read.
        passage_tokens: length of a passage in counted tokens; see `draw_passages`.
        tokens_per_chunk: tokens whose log-probabilities are in memory at once, for two layers at a time.

    Raises:
        LensError: if the lens of the last layer is not the model's own output.
        ModelError, TableError: whatever does not fit.
    """
    text = sample_sequences(Text.read(tokens), sequences, seed)
    loaded = load_model(model)
    readout = readout_of(loaded)
    check_last_layer(loaded, readout, text)
    documents = np.unique(text.documents[text.counted])
    sums = np.zeros((len(documents), loaded.n_layers + 1, len(OUTCOMES)))
    counts = np.zeros(len(documents), dtype=np.int64)
    for rows in batches(text, batch_size):
        counted = text.counted[rows]
        found = read_lens(loaded, readout, text.tokens[rows], counted, tokens_per_chunk)
        document = np.searchsorted(documents, text.documents[rows][counted])
        np.add.at(sums, document, np.moveaxis(found, -1, 0))
        counts += np.bincount(document, minlength=len(counts))
    weights = bootstrap_weights(len(documents), resamples, seed)
    means = means_frame(sums, counts, weights, level).with_columns(family=pl.lit(family_of(model)))
    write_table(means, lens, "lens", provenance)
    write_table(documents_frame(documents, sums, counts), lens_documents, "lens_documents", provenance)
    frames = [
        passage_frame(loaded, readout, text, sequence, positions, tokens_per_chunk).with_columns(passage=pl.lit(number))
        for number, (sequence, positions) in enumerate(draw_passages(text, passages, passage_tokens, seed))
    ]
    write_table(pl.concat(frames), lens_tokens, "lens_tokens", provenance)


@torch.no_grad()
def read_lens(
    model: Model,
    readout: Readout,
    tokens: Int[Array, "batch position"],
    counted: Bool[Array, "batch position"],
    tokens_per_chunk: int,
) -> Float64[Array, "layers outcomes tokens"]:
    """Outcomes (`OUTCOMES`) of the lens at the counted positions of some sequences, in their order, from one pass.

    Args:
        counted: the last position may not be, as it has no next token.

    Returns:
        L + 1 layers, the embedding first.

    Raises:
        LensError: for residuals that hold NaN or infinity.
    """
    residuals = residuals_of(model, tokens, counted)
    row, position = np.nonzero(counted)
    targets = torch.from_numpy(tokens[row, position + 1]).long()
    _, found = outcomes(readout, residuals[-1], residuals, targets, tokens_per_chunk)
    if not np.isfinite(found).all():
        raise LensError(
            f"{model.spec.where}: NaN or infinity in the residual stream; its dtype {model.spec.dtype} overflows: "
            "choose bfloat16 or float32"
        )
    return found


def readout_of(model: Model) -> Readout:
    """The model's read-out, in float64 unless that would be too large, on a device that knows float64 (not mps)."""
    device = torch.device("cpu") if model.device.type == "mps" else model.device
    return model.readout(readout_dtype(model.d_model, model.d_vocab)).to(device)


def residuals_of(
    model: Model, tokens: Int[Array, "batch position"], counted: Bool[Array, "batch position"]
) -> list[Float[Tensor, "tokens d"]]:
    """What enters each block and then the final norm, at the counted positions, in the model's own dtype."""
    names = [*map(residual_before, range(model.n_layers)), FINAL_RESIDUAL]
    places = tuple(torch.from_numpy(place).to(model.device) for place in np.nonzero(counted))
    caught: dict[str, Tensor] = {}

    def keeping(name: str) -> Hook:
        def keep(tensor: Tensor, hook: Any) -> None:
            caught[name] = tensor[places].detach()  # a copy: later blocks may write into the stream

        return keep

    hooks = {name: keeping(name) for name in names}
    hooked_forward(model.bridge, torch.from_numpy(tokens).long().to(model.device), hooks, logits_to_keep=1)
    return [caught[name] for name in names]


@torch.no_grad()
def check_last_layer(model: Model, readout: Readout, text: Text) -> None:
    """Compare the lens of the last layer with the model's own log-probabilities, on the first sequence; log the result.

    Raises:
        LensError: if they differ by more than rounding in the model's dtype explains.
    """
    row = np.flatnonzero(text.counted.any(axis=1))[:1]
    counted = text.counted[row]
    read_out, _ = read(readout, residuals_of(model, text.tokens[row], counted)[-1])
    lens = read_out.logits - read_out.normaliser[:, None]
    places = tuple(torch.from_numpy(place).to(model.device) for place in np.nonzero(counted))
    own = model.logits(torch.from_numpy(text.tokens[row]).long())[places].to(lens.device).double().log_softmax(-1)
    error, tolerance = float((lens - own).abs().max() / (1 + own.abs().max())), TOLERANCE[model.spec.dtype]
    message = (
        f"the lens of the last layer differs from the model's own log-probabilities by {error:.1e} of the largest "
        f"(tolerance in {model.spec.dtype}: {tolerance:.0e}; {len(own)} tokens, {own.shape[1]} ids)"
    )
    if not error <= tolerance:  # NaN too
        raise LensError(f"{model.spec.where}: {message}: {model.architecture} is not covered")
    print(message, file=sys.stderr)


def batches(text: Text, batch_size: int) -> Iterator[Int[Array, " sequences"]]:
    """Places of sequences with counted positions, `batch_size` at a time."""
    wanted = np.flatnonzero(text.counted.any(axis=1))
    for start in tqdm(range(0, len(wanted), batch_size), desc="lens", unit="batch", file=sys.stderr, disable=None):
        yield wanted[start : start + batch_size]


def means_frame(
    sums: Float64[Array, "documents layers outcomes"],
    counts: Int[Array, " documents"],
    weights: Float64[Array, "resamples documents"],
    level: float,
) -> pl.DataFrame:
    """The table "lens": means over tokens with intervals clustered by document."""
    interval = clustered_interval(sums, counts, weights, level)
    n_layers = sums.shape[1]
    layer = np.arange(n_layers)
    columns: dict[str, Array] = {"layer": layer, "depth": layer / (n_layers - 1)}
    for place, name in enumerate(OUTCOMES):
        ends = (interval.estimate, interval.low, interval.high)
        columns |= {f"{name}{end}": values[:, place] for end, values in zip(("", "_low", "_high"), ends, strict=True)}
    columns |= {f"entropy_bits{end}": columns[f"entropy{end}"] / math.log(2) for end in ("", "_low", "_high")}
    frame = pl.DataFrame(columns).fill_nan(None)
    return frame.with_columns(n_tokens=pl.lit(int(counts.sum())), n_documents=pl.lit(len(counts)))


def documents_frame(
    documents: Int[Array, " documents"],
    sums: Float64[Array, "documents layers outcomes"],
    counts: Int[Array, " documents"],
) -> pl.DataFrame:
    """The table "lens_documents", layers first."""
    means = sums / counts[:, None, None]
    n_layers = sums.shape[1]
    columns = {name: means[:, :, place].T.ravel() for place, name in enumerate(OUTCOMES)}
    columns["entropy_bits"] = columns["entropy"] / math.log(2)
    return pl.DataFrame(
        {
            "layer": np.repeat(np.arange(n_layers), len(documents)),
            "document": np.tile(documents, n_layers),
            "n_tokens": np.tile(counts, n_layers),
        }
        | columns
    )


def draw_passages(text: Text, number: int, length: int, seed: int) -> list[tuple[int, Int[Array, " positions"]]]:
    """Sequences, each with `length` counted positions in a row, of one document, drawn by the seed.

    At each turn each passage of the sequences left has the same chance. Positions that do not count (line feeds, where
    they are excluded) are passed over. Where no document has as many in one sequence, the passage is the longest one,
    the first of equals.
    """
    stretches = []
    for sequence in np.flatnonzero(text.counted.any(axis=1)):
        positions = np.flatnonzero(text.counted[sequence])
        borders = np.flatnonzero(np.diff(text.documents[sequence, positions])) + 1
        stretches += [(int(sequence), part) for part in np.split(positions, borders)]
    generator = np.random.default_rng([seed, 0x6C65])
    found: list[tuple[int, Int[Array, " positions"]]] = []
    while stretches and len(found) < number:
        starts = np.array([max(0, len(part) - length + 1) for _, part in stretches])
        if starts.sum():
            start = int(generator.integers(starts.sum()))
            place = int(np.searchsorted(starts.cumsum(), start, side="right"))
            start -= int(starts[:place].sum())
        else:
            start, place = 0, max(range(len(stretches)), key=lambda i: len(stretches[i][1]))
        sequence, part = stretches[place]
        found.append((sequence, part[start : start + length]))
        stretches = [stretch for stretch in stretches if stretch[0] != sequence]
    return found


def passage_frame(
    model: Model,
    readout: Readout,
    text: Text,
    sequence: int,
    positions: Int[Array, " positions"],
    tokens_per_chunk: int,
) -> pl.DataFrame:
    """Rows of the table "lens_tokens", but for `passage`: the lens at some positions of one sequence, layers first."""
    chosen = np.zeros_like(text.counted[:1])
    chosen[0, positions] = True
    row, tokens = text.tokens[[sequence]], text.tokens[sequence, positions]
    found = read_lens(model, readout, row, chosen, tokens_per_chunk)
    tops = [top_of(readout, residual, tokens_per_chunk) for residual in residuals_of(model, row, chosen)]
    strings = spell_tokens(model.tokenizer, model.d_vocab)
    of = {name: found[:, place].ravel() for place, name in enumerate(OUTCOMES)}
    n_layers = len(found)
    return pl.DataFrame(
        {
            "layer": np.repeat(np.arange(n_layers), len(positions)),
            "sequence": np.full(n_layers * len(positions), sequence),
            "document": np.tile(text.documents[sequence, positions], n_layers),
            "position": np.tile(positions, n_layers),
            "token": np.tile(tokens, n_layers),
            "string": [strings[token] for token in tokens] * n_layers,
            "entropy": of["entropy"],
            "entropy_bits": of["entropy"] / math.log(2),
            "kl": of["kl"],
            "loss": of["loss"],
            "rank": np.rint(1 / of["reciprocal_rank"]).astype(np.int64) - 1,
            "top_string": [strings[token] for top in tops for token in top],
        },
    )


@torch.no_grad()
def top_of(readout: Readout, residual: Float[Tensor, "tokens d"], tokens_per_chunk: int) -> list[int]:
    """The most likely next token of each residual, the lowest id among equals."""
    return [
        int(token)
        for start in range(0, len(residual), tokens_per_chunk)
        for token in read(readout, residual[start : start + tokens_per_chunk])[0].logits.argmax(-1)
    ]
