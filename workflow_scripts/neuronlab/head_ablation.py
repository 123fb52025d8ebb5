"""Rule `ablate_heads`: attention heads ablated at one query position, every position in one pass (METHODS A6, Fig 5c).

Sets of heads (the best induction heads together and alone, configured ones, seeded baselines of other heads) are
ablated on repeated sequences, and what changes at the ablated position is averaged over sequences for every place of
every copy: activations of selected and control neurons, entropy, loss, scale and length of the final residual, top
logit, KL(clean || ablated). Beside it stands every head of the model, alone, against every such neuron. A sample is
computed again by one forward pass per position; the rule fails above the tolerance.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from neuronlab.attention import Method, all_heads, check_attention
from neuronlab.final_states import AblationInputs
from neuronlab.head_passes import Effects, Work
from neuronlab.head_readouts import QUANTITIES
from neuronlab.head_sets import AttentionError, HeadSet, PlannedSet, plan_sets
from neuronlab.head_verification import report, verify_sets
from neuronlab.models import load_model
from neuronlab.neuron_sets import NeuronSet, read_selections, sets_of_layer
from neuronlab.precise_copies import fits_twice, precise_copy
from neuronlab.repeat_places import Repeats
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, check_frame, read_table, write_table

Array = np.ndarray
TRACKED, TRACKED_CONTROLS = 24, 6  # neurons whose activation is kept for every place
MATRIX, MATRIX_CONTROLS = 96, 24  # neurons that every head is held against
MATRIX_SEQUENCES = 32  # on so many sequences: a pass for every head of the model


def ablate_heads(
    *,
    inputs: AblationInputs,
    selection: str | Path | Sequence[str | Path],
    repeats: str | Path,
    heads: str | Path,
    head_ablation: str | Path,
    head_neurons: str | Path,
    head_verification: str | Path,
    top: int = 3,
    sets: Sequence[str] = (),
    baselines: int = 3,
    methods: Sequence[Method] = ("bos", "mean"),
    sequences: int = 100,
    verification_positions: int = 8,
    absolute: float = 1e-6,
    relative: float = 1e-5,
    float64_mb: float = float("inf"),
    resamples: int = 1000,
    level: float = 0.95,
    provenance: Provenance | None = None,
) -> None:
    """Write the three tables; nothing is written if the sample does not agree with brute force.

    Args:
        repeats: synthetic repetitions, all of one layout.
        sequences: how many of them at most, drawn by the seed: they stand in the order of the text, and the first ones
            would be those of its first documents.
        heads: table "induction_heads".
        top, sets, baselines: see `head_sets.plan_sets`.
        verification_positions: (sequence, position) pairs for each set and method.
        float64_mb: limit on the model and its float64 copy; beyond it, the sample is computed in the model's precision.

    Raises:
        AttentionError: a head that does not exist, sequences of different layout, attention that is not covered.
        HeadVerificationError: above tolerance.
        ModelError, TableError: whatever does not fit.
    """
    plan = plan_sets(
        read_table(heads, "induction_heads"), top=top, configured=sets, baselines=baselines, seed=inputs.seed
    )
    repetitions = drawn(Repeats.read(repeats), sequences, inputs.seed)
    if not len(repetitions):
        print("no repetition: no heads are ablated", file=sys.stderr)
        for path, name in (
            (head_ablation, "head_ablation"),
            (head_neurons, "head_neurons"),
            (head_verification, "head_verification"),
        ):
            write_table(_empty(name), path, name, provenance)
        return
    positions = shared_positions(repetitions)
    model = load_model(inputs.model)
    check_attention(model, repetitions.tokens.shape[1])
    chosen = sets_of_layer(read_selections(selection), model.n_layers - 1)
    work = Work(model, repetitions, positions, inputs.batch_size, inputs.tokens_per_chunk)
    means = work.means() if "mean" in methods else None
    unique = list(dict.fromkeys(planned.heads for planned in plan))

    precise, exact = model, inputs.model.dtype == "float64"
    if not exact and fits_twice(model, float64_mb):
        precise, exact = precise_copy(model), True
    elif not exact:
        print(
            f"WARNING: no forward passes in float64: {inputs.model.where} does not fit twice into {float64_mb} MB; "
            f"heads are verified in {inputs.model.dtype}. Raise compute.float64_mb",
            file=sys.stderr,
        )
    checked = verify_sets(
        precise,
        repetitions,
        positions,
        unique,
        methods,
        means,
        pairs=verification_positions,
        absolute=absolute,
        relative=relative,
        seed=inputs.seed,
    )
    report(checked)
    del precise

    tracked = neurons_of(chosen, TRACKED, TRACKED_CONTROLS)
    held = neurons_of(chosen, MATRIX, MATRIX_CONTROLS)
    clusters = Clusters.of(repetitions.document, resamples, level, inputs.seed)
    effects = work.effects(unique, methods, means, tracked)
    few = replace(work, repetitions=drawn(repetitions, MATRIX_SEQUENCES, inputs.seed))
    fewer = Clusters.of(few.repetitions.document, resamples, level, inputs.seed)
    # The best head comes first in the plan; against neurons of no set as well, to find those that it drives.
    rest = sorted(set(range(model.d_mlp)) - set(held))
    matrices = [
        matrix_table(few.matrix(methods, means, neurons, heads), methods, few, neurons, heads, fewer)
        for neurons, heads in ((held, [HeadSet((head,)) for head in all_heads(model)]), (rest, [plan[0].heads]))
    ]
    record = {**(provenance or {}), "verified_in": "float64" if exact else inputs.model.dtype}
    table = effects_table(effects, plan, methods, work, tracked, clusters)
    write_table(table, head_ablation, "head_ablation", record)
    write_table(pl.concat(matrices), head_neurons, "head_neurons", record)
    write_table(checked, head_verification, "head_verification", record)


def drawn(repetitions: Repeats, sequences: int, seed: int) -> Repeats:
    """At most so many of the sequences, drawn by the seed without replacement, in their order."""
    if len(repetitions) <= sequences:
        return repetitions
    order = np.random.default_rng([seed, 0x5351]).permutation(len(repetitions))
    return repetitions.part(np.sort(order[:sequences]))


def shared_positions(repetitions: Repeats) -> Int[Array, " query"]:
    """Positions of the copies, which must be the same in every sequence.

    Raises:
        AttentionError: if they are not.
    """
    if (repetitions.copy != repetitions.copy[0]).any() or (repetitions.offset != repetitions.offset[0]).any():
        raise AttentionError("heads are ablated on repetitions that stand at the same positions: synthetic ones")
    return np.flatnonzero(repetitions.copy[0] >= 0)


def neurons_of(sets: Sequence[NeuronSet], selected: int, controls: int) -> list[int]:
    """Neurons of the selections and of their controls: each set's first, then each set's second ..., up to a limit."""
    found: dict[bool, dict[int, None]] = {True: {}, False: {}}
    for rank in range(max((len(chosen.neurons) for chosen in sets), default=0)):
        for chosen in sets:
            if rank < len(chosen.neurons):
                found[chosen.kind == "selection"].setdefault(chosen.neurons[rank])
    others = [neuron for neuron in found[False] if neuron not in found[True]]
    if len(found[True]) > selected:
        print(f"{len(found[True])} selected neurons: the first {selected} are followed", file=sys.stderr)
    return list(found[True])[:selected] + others[:controls]


@dataclass(frozen=True)
class Clusters:
    """How sequences are resampled: by the document that they stem from."""

    which: Int[Array, " sequences"]
    weights: Float[Array, "resamples clusters"]
    level: float

    @classmethod
    def of(cls, documents: Int[Array, " sequences"], resamples: int, level: float, seed: int) -> Clusters:
        """From the documents of the sequences."""
        unique, which = np.unique(documents, return_inverse=True)
        return cls(which, bootstrap_weights(len(unique), resamples, seed), level)

    def interval(self, values: Float[Array, "sequences ..."], name: str) -> dict[str, Array]:
        """Mean over sequences and the ends of its interval, flat."""
        flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        sums = np.zeros((self.weights.shape[1], flat.shape[1]))
        np.add.at(sums, self.which, flat)
        found = clustered_interval(sums, np.bincount(self.which), self.weights, self.level)
        return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def effects_table(
    effects: Effects,
    plan: Sequence[PlannedSet],
    methods: Sequence[Method],
    work: Work,
    neurons: Sequence[int],
    clusters: Clusters,
) -> pl.DataFrame:
    """Table "head_ablation"."""
    n, n_queries, _ = effects.clean.shape
    names = [*QUANTITIES, *["activation"] * len(neurons)]
    layers = [None] * len(QUANTITIES) + [work.model.n_layers - 1] * len(neurons)
    repetitions, positions = work.repetitions, work.positions
    body = pl.DataFrame(
        {
            "quantity": np.tile(np.array(names), n_queries),
            "layer": layers * n_queries,
            "neuron": ([None] * len(QUANTITIES) + list(neurons)) * n_queries,
            "copy": np.repeat(repetitions.copy[0, positions], len(names)),
            "offset": np.repeat(repetitions.offset[0, positions], len(names)),
            "n_sequences": np.full(n_queries * len(names), n),
            "clean": effects.clean.mean(0).ravel(),
        },
        schema_overrides={"layer": pl.Int32, "neuron": pl.Int32},
    )
    # The last position has no next token, so no loss.
    has_value = ~(
        (body["quantity"] == "loss") & pl.Series(np.repeat(positions == repetitions.tokens.shape[1] - 1, len(names)))
    )
    frames = []
    intervals = {key: clusters.interval(change, "change") for key, change in effects.change.items()}
    for planned in plan:
        for method in methods:
            frames.append(
                body.with_columns(
                    *(pl.Series(name, values) for name, values in intervals[planned.heads, method].items()),
                    set=pl.lit(planned.heads.name),
                    role=pl.lit(planned.role),
                    control_of=pl.lit(planned.control_of, dtype=pl.String),
                    method=pl.lit(method),
                ).filter(has_value)
            )
    return pl.concat(frames).with_columns(pl.col("change", "change_low", "change_high").fill_nan(None))


def matrix_table(
    matrix: Float[Array, "sequences method head neuron"],
    methods: Sequence[Method],
    work: Work,
    neurons: Sequence[int],
    heads: Sequence[HeadSet],
    clusters: Clusters,
) -> pl.DataFrame:
    """Rows of table "head_neurons": these heads, each alone, against these neurons."""
    if not neurons:
        return _empty("head_neurons")
    layer = work.model.n_layers - 1
    norms = work.model.w_out(layer)[list(neurons)].double().norm(dim=-1).cpu().numpy()
    alone = [chosen.heads[0] for chosen in heads]
    rows = [(at, head, method, neuron) for method in methods for at, head in alone for neuron in neurons]
    frame = pl.DataFrame(rows, schema=["layer", "head", "method", "neuron"], orient="row").with_columns(
        *(pl.Series(name, values).fill_nan(None) for name, values in clusters.interval(matrix, "change").items()),
        neuron_layer=pl.lit(layer),
        norm=pl.Series(np.tile(norms, len(methods) * len(heads))),
        n_sequences=pl.lit(len(matrix)),
    )
    return check_frame(frame, "head_neurons")


def _empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})
