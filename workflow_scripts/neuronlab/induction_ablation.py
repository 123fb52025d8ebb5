"""Rule `ablate_induction`: clipped mean ablation along a repetition (METHODS A4, A5; Figs 5b, 9, 10).

Selected and control neurons are clipped singly, selections and control sets jointly (the study forgot to clip there),
with the final norm free to follow and with its scale frozen. `clipped_ablation` measures; here sums become means with
intervals at every place, and tests of the first and the last copy.

The tests compare the copies at the places that a sequence has in both. The t test's sample are the documents' means;
its p-values are corrected (Holm) over all rows of the same kind: selections jointly, selected neurons singly.
Beside it stands the rank among controls, uniform and norm-matched ones together: of a selection among its control sets,
of a selected neuron among the single neurons of those sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64

from neuronlab.ablation import AblationError
from neuronlab.clipped_ablation import FLOOR, OUTCOMES, VARIANTS, Clip, Sums, measure
from neuronlab.final_states import AblationInputs
from neuronlab.neuron_sets import NeuronSet, read_selections, sets_of_layer, single_neurons
from neuronlab.paired_tests import control_p, holm, paired_t
from neuronlab.repetition import Repetition
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import Interval, bootstrap_weights, clustered_function_interval, clustered_interval
from neuronlab.tables import Provenance, read_table, write_table

Array = np.ndarray
KINDS, VALUES = ("synthetic", "natural"), ("first_copy", "text_mean")
SUMS_BYTES = 2**30  # sums per document kept at a time; more sets than fit are measured in further passes


def ablate_induction(
    *,
    inputs: AblationInputs,
    selection: Sequence[str | Path],
    repeats: str | Path,
    scores: str | Path,
    kind: str,
    ablation: str | Path,
    tests: str | Path,
    value: str = "first_copy",
    resamples: int = 1000,
    level: float = 0.95,
    provenance: Provenance | None = None,
) -> None:
    """Write ablation.parquet (every place) and tests.parquet (first and last copy).

    Args:
        inputs: model and text; its replacements are not used.
        selection: selection tables; every selection and control set of the last layer is ablated.
        repeats, scores: tables "repeats" and "induction_scores" of this kind of repetition.
        kind: "synthetic" or "natural".
        value: what synthetic repetitions are clipped to, "first_copy" or "text_mean"; natural ones to the text's mean.

    Without a repetition, or without a neuron of the last layer in the selections, both tables are empty.

    Raises:
        AblationError: an unknown kind or value, scores that lack a neuron, a place that occurs twice.
        TableError, ModelError: whatever does not fit.
    """
    if kind not in KINDS:
        raise AblationError(f"induction: there is no repetition '{kind}'; it must be one of {', '.join(KINDS)}")
    if value not in VALUES:
        raise AblationError(f"induction.value is '{value}'; it must be one of {', '.join(VALUES)}")
    repetition, selections = Repetition.read(repeats), read_selections(selection)
    scored = read_table(scores, "induction_scores")
    setup = inputs.set_up(["mean"])
    sets = sets_of_layer(selections, setup.last.layer)
    targets = [*sets, *single_neurons(sets, setup.last.layer, controls=True)]
    profile, tested = _empty("induction_ablation"), _empty("induction_tests")
    if targets and len(repetition.places):
        text_mean = setup.statistics.mean if kind == "natural" or value == "text_mean" else None
        clip = Clip.of_scores(scored, setup.last, text_mean, str(scores))
        setup = replace(setup, text=repetition.text)
        weights = bootstrap_weights(repetition.documents, resamples, inputs.seed)
        frames, changes = [], []
        for part in tiles(targets, repetition):
            sums = measure(setup, repetition, clip, part, inputs.batch_size, inputs.tokens_per_chunk)
            frames.append(profile_frame(repetition, sums, part, weights, level))
            changes.append(sums.changes)
        profile = pl.concat([profile, *(_as(frame, profile) for frame in frames)])
        tested = _as(
            frame_of_tests(repetition, np.concatenate(changes, axis=-1), targets, sets, weights, level), tested
        )
    record = {**(provenance or {}), "kernel": setup.last.kernel}
    write_table(profile, ablation, "induction_ablation", record)
    write_table(tested, tests, "induction_tests", record)


def _empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})


def _as(frame: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    return frame.select(like.columns).cast(dict(like.schema))


def tiles(targets: Sequence[NeuronSet], repetition: Repetition) -> Iterator[Sequence[NeuronSet]]:
    """The sets in parts whose sums per document fit into `SUMS_BYTES`."""
    each = 3 * len(VARIANTS) * repetition.documents * len(repetition.places) * 8
    size = max(1, SUMS_BYTES // each)
    for start in range(0, len(targets), size):
        yield targets[start : start + size]


def profile_frame(
    repetition: Repetition,
    sums: Sums,
    sets: Sequence[NeuronSet],
    weights: Float64[Array, "resamples documents"],
    level: float,
) -> pl.DataFrame:
    """Rows of "induction_ablation": every set, variant and place.

    The entropy ratio is a mean of ratios, over the sequences whose clean entropy is at least `FLOOR`, as in the study;
    the loss ratio a ratio of means, missing where the clean mean is below it.
    """
    per_document = repetition.over_documents(np.ones(len(repetition.document)))
    shape = sums.ratio.shape[1:]

    def ratio(
        top: Float64[Array, "documents places sets"], bottom: Float64[Array, "documents places"], floor: float
    ) -> Interval:
        def divided(above: Array, below: Array) -> Array:
            fits = below > floor
            return np.where(fits, above / np.where(fits, below, 1.0), np.nan)

        if np.array_equal(bottom, np.broadcast_to(per_document[:, None], bottom.shape)):
            return clustered_interval(top, per_document, weights, level)  # the same, with half the work
        below = np.broadcast_to(bottom[..., None], shape)
        return clustered_function_interval(divided, (top, below), per_document, weights, level)

    n = np.broadcast_to(sums.n.sum(axis=0)[:, None], shape[1:])
    columns = [chosen.columns() for chosen in sets]
    frames = []
    for v, variant in enumerate(VARIANTS):
        measured = {
            "entropy_ratio": ratio(sums.ratio[v], sums.usable, 0.0),
            "loss_ratio": ratio(sums.loss_change[v] + sums.loss[..., None], sums.loss, FLOOR),
            "entropy_change": ratio(sums.entropy_change[v], sums.n, 0.0),
            "loss_change": ratio(sums.loss_change[v], sums.n, 0.0),
        }
        found: dict[str, Array] = {"place": np.broadcast_to(np.arange(shape[1])[:, None], shape[1:]), "n_sequences": n}
        for name, interval in measured.items():
            for suffix in ("estimate", "low", "high"):
                found[name if suffix == "estimate" else f"{name}_{suffix}"] = getattr(interval, suffix)
        # Sets outermost: one block of rows per set, in the order of places.
        frame = pl.DataFrame({name: array.T.ravel() for name, array in found.items()}, nan_to_null=True)
        named = pl.DataFrame(columns, schema=_SET, orient="row")
        rows = np.repeat(np.arange(len(sets)), shape[1])
        frames.append(pl.concat([named[rows], frame], how="horizontal").with_columns(variant=pl.lit(variant)))
    both = pl.concat(frames)
    copies, offsets = (repetition.places[:, i][both["place"].to_numpy()] for i in (0, 1))
    order = np.tile(np.repeat(np.arange(len(sets)), shape[1]), len(VARIANTS))
    both = both.with_columns(copy=pl.Series(copies), offset=pl.Series(offsets), order=pl.Series(order))
    return both.sort("order", maintain_order=True)


_SET = {"set": pl.String, "kind": pl.String, "control_of": pl.String, "n_neurons": pl.Int32}


def frame_of_tests(
    repetition: Repetition,
    changes: Float64[Array, "outcomes variants copies sequences sets"],
    targets: Sequence[NeuronSet],
    sets: Sequence[NeuronSet],
    weights: Float64[Array, "resamples documents"],
    level: float,
) -> pl.DataFrame:
    """Rows of "induction_tests": every set, variant, outcome, on first and last copy; none if they share no place.

    Args:
        changes: mean changes of sequences over a copy, as in `Sums`, of all targets.
        targets: sets and single neurons.
        sets: the sets alone.
    """
    rivals = controls_of(targets, sets)
    blocks = []
    there = repetition.compared().any(axis=(0, 2)).astype(np.float64)  # the same sequences on both copies
    if not there.any():
        return _empty("induction_tests")
    counts = repetition.over_documents(there)
    for c, copy in enumerate(repetition.ends):
        for v, variant in enumerate(VARIANTS):
            for o, outcome in enumerate(OUTCOMES):
                sums = repetition.over_documents(changes[o, v, c])
                mean = clustered_interval(sums, counts, weights, level)
                test = paired_t(sums, counts)
                p_controls = [control_p(mean.estimate[i], mean.estimate[rivals[i]]) for i in range(len(targets))]
                frame = pl.DataFrame([target.columns() for target in targets], schema=_SET, orient="row")
                blocks.append(
                    frame.with_columns(
                        order=pl.int_range(pl.len()),
                        variant=pl.lit(variant),
                        outcome=pl.lit(outcome),
                        copy=pl.lit(copy),
                        n_sequences=pl.lit(int(there.sum())),
                        n_documents=pl.lit(int((counts > 0).sum())),
                        t=pl.Series(test.t),
                        p_value=pl.Series(test.p),
                        n_controls=pl.Series([len(rivals[i]) for i in range(len(targets))]),
                        p_value_controls=pl.Series(p_controls, dtype=pl.Float64),
                        mean_change=pl.Series(mean.estimate),
                        mean_change_low=pl.Series(mean.low),
                        mean_change_high=pl.Series(mean.high),
                    )
                )
    frame = pl.concat(blocks).sort("order", maintain_order=True)
    corrected = np.full(len(frame), np.nan)
    for kind in ("selection", "single"):
        family = ((frame["kind"] == kind) & frame["control_of"].is_null()).to_numpy()
        corrected[family] = holm(frame["p_value"].to_numpy()[family])
    return frame.with_columns(pl.Series("p_value_holm", corrected)).with_columns(pl.col(pl.Float64).fill_nan(None))


def controls_of(targets: Sequence[NeuronSet], sets: Sequence[NeuronSet]) -> list[list[int]]:
    """For every target the places among the targets of its controls; none for a control.

    Uniform and norm-matched controls count together. Those of a selected neuron are the neurons, neither selected
    themselves, of the control sets of the first selection that it is in.
    """
    selected = {neuron for chosen in sets if chosen.kind == "selection" for neuron in chosen.neurons}
    found: list[list[int]] = []
    for target in targets:
        if target.kind == "selection":
            found.append(
                [i for i, other in enumerate(targets) if other.kind != "single" and other.control_of == target.name]
            )
        elif target.kind == "single" and target.control_of is None:
            home = next(s.name for s in sets if s.kind == "selection" and target.neurons[0] in s.neurons)
            pool = {neuron for s in sets if s.control_of == home for neuron in s.neurons} - selected
            found.append([i for i, other in enumerate(targets) if other.kind == "single" and other.neurons[0] in pool])
        else:
            found.append([])
    return found
