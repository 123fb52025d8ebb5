"""Rule `measure_induction`: last-layer neurons along a repetition (METHODS A4, A5; the paper's figures 5a and 11).

One forward pass per sequence. The profile has means over sequences at every place (copy, offset) of the table
"repeats"; nothing is averaged over places. A quantity about the next token (loss, correct) is left out where there is
none, at a sequence's last position, instead of being counted as zero. Natural repetitions have one row more: the share
of sequences in which the second occurrence `continues` as the first, at the end of its prefix (offset -1).

A neuron's score is (mean_second - mean_first) |w_out|: how far its activation moves from the first copy to the last at
the same tokens, in units of what it writes. The places compared are those where the next token can be predicted by
induction, at the same offsets in both copies:

* synthetic: offsets 0 to L - 2 of L. At the copy's last token the next one is unknown (in the first copy it opens
  the repetition or the separator, in the last copy there is none);
* natural: offset -1 alone, the end of the prefix: the repeated tokens before it mark the repetition, and what followed
  them the first time is what induction predicts.

`mean_first` and `mean_second` are the means over these places and over sequences; every sequence weighs the same.
The last copy also stands later in its sequence than the first: a neuron that follows the position, or how much of a
document has been seen, moves without any repetition.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from neuronlab.ablation import Tokens, clean_of
from neuronlab.final_states import AblationInputs, Setup
from neuronlab.neuron_sets import read_selections, sets_of_layer
from neuronlab.repeat_places import Repeats
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import Interval, bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, write_table

Array = np.ndarray
KINDS = ("synthetic", "natural")
OF_TOKENS = ("entropy", "loss", "norm_scale", "correct")


class InductionError(ValueError):
    """A repetition that cannot be measured as asked."""


@dataclass(frozen=True)
class Measured:
    """What one pass over the sequences gives; NaN where a sequence lacks a place or a place a next token.

    Attributes:
        places: (copy, offset), in order.
        tracked: last-layer neurons whose activations are kept for every place.
        activations: their activations, float32.
        quantities: `OF_TOKENS` at every place, float64.
        first, second: mean activation of every neuron over the compared places of the first and the last copy.
    """

    places: Int[Array, "places 2"]
    tracked: tuple[int, ...]
    activations: Float[Array, "tracked sequences places"]
    quantities: dict[str, Float[Array, "sequences places"]]
    first: Float[Array, "sequences neurons"]
    second: Float[Array, "sequences neurons"]


def measure_induction(
    *,
    inputs: AblationInputs,
    selection: Sequence[str | Path],
    repeats: str | Path,
    kind: str,
    profile: str | Path,
    scores: str | Path,
    score_threshold: float = 0.1,
    resamples: int = 1000,
    level: float = 0.95,
    provenance: Provenance | None = None,
) -> None:
    """Write profile.parquet and scores.parquet of one kind of repetition; without a sequence, both without a row.

    Args:
        inputs: model, and the text whose statistics give `mean_text`.
        selection: selection tables; their last-layer neurons, controls included, are in the profile.
        repeats: table "repeats".
        kind: "synthetic" or "natural": which places the scores compare.
        score_threshold: `moves` means that |score| is above this.
        resamples, level: of the intervals, clustered by document.

    Raises:
        InductionError: for an unknown kind, or copies that share no place to compare.
        AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    if kind not in KINDS:
        raise InductionError(f"there is no kind of repetition '{kind}'; it must be one of {', '.join(KINDS)}")
    repeated = Repeats.read(repeats)
    if not len(repeated):
        print(f"WARNING: {repeats} holds no sequence: profile and scores are empty", file=sys.stderr)
        for path, name in ((profile, "induction_profile"), (scores, "induction_scores")):
            write_table(empty(name), path, name, provenance)
        return
    setup = inputs.set_up(["mean"])
    sets = sets_of_layer(read_selections(selection), setup.last.layer)
    tracked = tuple(sorted({neuron for chosen in sets for neuron in chosen.neurons}))
    measured = measure(
        setup,
        repeated,
        compared_places(repeated, kind),
        tracked,
        batch_size=inputs.batch_size,
        tokens_per_chunk=inputs.tokens_per_chunk,
    )
    clusters = repeated.clusters()
    weights = bootstrap_weights(int(clusters.max()) + 1, resamples, inputs.seed)
    frame = profile_frame(measured, setup.last.layer, clusters, weights, level)
    if kind == "natural":
        frame = pl.concat([frame, continues_frame(repeated, clusters, weights, level)])
    write_table(frame, profile, "induction_profile", provenance)
    frame = score_frame(setup, measured, clusters, weights, level, score_threshold)
    write_table(frame, scores, "induction_scores", provenance)


def empty(name: str) -> pl.DataFrame:
    """A table without a row."""
    return pl.DataFrame(schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})


def compared_places(repeats: Repeats, kind: str) -> Bool[Array, "sequences position"]:
    """The positions of first and last copy that a score compares (see the module's head).

    Raises:
        InductionError: if a sequence has not the same number of them in both copies, or none.
    """
    length = int(repeats.offset.max()) + 1
    place = (repeats.offset >= 0) & (repeats.offset <= length - 2) if kind == "synthetic" else repeats.offset == -1
    first, second = (place & (repeats.copy == copy) for copy in (0, repeats.last_copy))
    if repeats.last_copy < 1 or not first.any(1).all() or (first.sum(1) != second.sum(1)).any():
        raise InductionError(f"{kind} repetitions: a sequence without places that both copies have; make them again")
    return first | second


def measure(
    setup: Setup,
    repeats: Repeats,
    compared: Bool[Array, "sequences position"],
    tracked: Sequence[int],
    *,
    batch_size: int,
    tokens_per_chunk: int,
) -> Measured:
    """Run the model over the sequences, `batch_size` at a time."""
    places, place = repeats.places()
    n, neurons, last = len(repeats), setup.last.neurons, setup.last
    quantities = {name: np.full((n, len(places)), np.nan) for name in OF_TOKENS}
    activations = np.full((len(tracked), n, len(places)), np.nan, dtype=np.float32)
    means = {copy: np.zeros((n, neurons)) for copy in (0, repeats.last_copy)}
    for start in tqdm(range(0, n, batch_size), desc="induction", unit="batch", file=sys.stderr, disable=None):
        chosen = np.arange(start, min(start + batch_size, n))
        state = setup.model.run(torch.from_numpy(repeats.tokens[chosen]))
        acts = state.activations.to(last.device).double()
        for copy, sums in means.items():
            share = (compared & (repeats.copy == copy))[chosen].astype(np.float64)
            share /= share.sum(1, keepdims=True)
            mean = torch.einsum("sp,spn->sn", torch.from_numpy(share).to(acts.device), acts)
            sums[chosen] = mean.cpu().numpy()
        row, position = np.nonzero(place[chosen] >= 0)
        where = chosen[row], place[chosen][row, position]
        lines = torch.from_numpy(row).to(acts.device), torch.from_numpy(position).to(acts.device)
        kept = acts[..., list(tracked)][lines].T.cpu().numpy()
        activations[:, where[0], where[1]] = kept
        # The last position has no next token: any id stands in for it, and what comes of it is not kept.
        following = np.append(repeats.tokens[chosen, 1:], repeats.tokens[chosen, :1], axis=1)[row, position]
        has_next = position + 1 < repeats.tokens.shape[1]
        lines = tuple(index.to(state.residual.device) for index in lines)
        tokens = Tokens(
            residual=state.residual[lines].to(last.device),
            activations=state.activations[lines].to(last.device),
            targets=torch.from_numpy(following).to(last.device),
            mlp=None if state.mlp_out is None else state.mlp_out[lines].to(last.device),
        )
        for name, values in token_quantities(setup, tokens, tokens_per_chunk).items():
            values = np.where(has_next, values, np.nan) if name in ("loss", "correct") else values
            quantities[name][where] = values
    return Measured(places, tuple(tracked), activations, quantities, means[0], means[repeats.last_copy])


def token_quantities(setup: Setup, tokens: Tokens, tokens_per_chunk: int) -> dict[str, Float[Array, " tokens"]]:
    """`OF_TOKENS` of some tokens: entropy and loss in nats, the final norm's scale, 1.0 where the next is on top."""
    found: dict[str, list[Array]] = {name: [] for name in OF_TOKENS}
    for start in range(0, len(tokens), tokens_per_chunk):
        chunk = tokens[start : start + tokens_per_chunk]
        clean = clean_of(setup.last, chunk)
        scale = setup.last.readout.scale(chunk.residual.double()).squeeze(-1)
        values = (clean.entropy, clean.loss, scale, (clean.rank == 0).double())
        for name, value in zip(OF_TOKENS, values, strict=True):
            found[name].append(value.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def profile_frame(
    measured: Measured,
    layer: int,
    clusters: Int[Array, " sequences"],
    weights: Float[Array, "resamples documents"],
    level: float,
) -> pl.DataFrame:
    """Means over sequences at every place with a value, for every quantity and every tracked neuron."""
    frames = [
        place_means(values, measured.places, clusters, weights, level).with_columns(
            quantity=pl.lit(name), layer=pl.lit(None, pl.Int32), neuron=pl.lit(None, pl.Int32)
        )
        for name, values in measured.quantities.items()
    ]
    frames += [
        place_means(values, measured.places, clusters, weights, level).with_columns(
            quantity=pl.lit("activation"), layer=pl.lit(layer, pl.Int32), neuron=pl.lit(neuron, pl.Int32)
        )
        for neuron, values in zip(measured.tracked, measured.activations, strict=True)
    ]
    return pl.concat(frames).select(list(SCHEMAS["induction_profile"]))


def continues_frame(
    repeats: Repeats, clusters: Int[Array, " sequences"], weights: Float[Array, "resamples documents"], level: float
) -> pl.DataFrame:
    """One row of the profile: how often the second occurrence goes on as the first, at the end of its prefix."""
    place = np.array([[repeats.last_copy, -1]])
    return (
        place_means(repeats.continues[:, None].astype(np.float64), place, clusters, weights, level)
        .with_columns(quantity=pl.lit("continues"), layer=pl.lit(None, pl.Int32), neuron=pl.lit(None, pl.Int32))
        .select(list(SCHEMAS["induction_profile"]))
    )


def place_means(
    values: Float[Array, "sequences places"],
    places: Int[Array, "places 2"],
    clusters: Int[Array, " sequences"],
    weights: Float[Array, "resamples documents"],
    level: float,
) -> pl.DataFrame:
    """Mean over the sequences that have a value at a place, with its interval; places without any are left out."""
    there = ~np.isnan(values)
    estimate, low, high = (np.full(len(places), np.nan) for _ in range(3))
    # Places that the same sequences have share the counts per document.
    patterns, pattern = np.unique(there, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        some, columns = patterns[:, number], np.flatnonzero(pattern.ravel() == number)
        if not some.any():
            continue
        counts = np.bincount(clusters[some], minlength=weights.shape[1])
        sums = by_document(values[some][:, columns], clusters[some], weights.shape[1])
        interval = clustered_interval(sums, counts, weights, level)
        estimate[columns], low[columns], high[columns] = interval.estimate, interval.low, interval.high
    frame = pl.DataFrame(
        {
            "copy": places[:, 0].astype(np.int32),
            "offset": places[:, 1].astype(np.int32),
            "n_sequences": there.sum(0).astype(np.int64),
            "mean": estimate,
            "mean_low": low,
            "mean_high": high,
        },
        nan_to_null=True,
    )
    return frame.filter(pl.col("n_sequences") > 0)


def by_document(
    values: Float[Array, "sequences columns"], clusters: Int[Array, " sequences"], n_documents: int
) -> Float[Array, "documents columns"]:
    """Sums over the sequences of every document, float64."""
    sums = np.zeros((n_documents, values.shape[1]))
    np.add.at(sums, clusters, values)
    return sums


def score_frame(
    setup: Setup,
    measured: Measured,
    clusters: Int[Array, " sequences"],
    weights: Float[Array, "resamples documents"],
    level: float,
    threshold: float,
) -> pl.DataFrame:
    """Scores of all last-layer neurons."""
    norm = setup.last.w.double().norm(dim=-1).cpu().numpy()
    counts = np.bincount(clusters, minlength=weights.shape[1])
    change = (measured.second - measured.first) * norm
    score: Interval = clustered_interval(by_document(change, clusters, weights.shape[1]), counts, weights, level)
    n = setup.last.neurons
    return pl.DataFrame(
        {
            "layer": np.full(n, setup.last.layer, dtype=np.int32),
            "neuron": np.arange(n, dtype=np.int32),
            "mean_text": setup.statistics.mean,
            "mean_first": measured.first.mean(0),
            "mean_second": measured.second.mean(0),
            "norm": norm,
            "direction": np.where(score.estimate < 0, -1, 1).astype(np.int32),
            "moves": np.abs(score.estimate) > threshold,
            "n_sequences": np.full(n, len(change), dtype=np.int64),
            "score": score.estimate,
            "score_low": score.low,
            "score_high": score.high,
        },
        nan_to_null=True,
    )
