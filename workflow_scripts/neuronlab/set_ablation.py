"""Rule `ablate_sets`: selections and their controls ablated jointly; effects, proof, temperature and calibration.

All activations of a set are replaced at once, at every counted position by itself (see `joint`); selected neurons
stand beside the sets as sets of one. One pass over the text takes the effects of every replacement and the curves that
temperatures are found on; of the shown replacement it keeps the final residuals and the sets' changes of activation,
from which calibration makes its own passes without running the model again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuronlab.ablation import LastLayer, Tokens, clean_of
from neuronlab.ablation_shards import DocumentSums, token_values
from neuronlab.calibration import Pass, calibrate, halves
from neuronlab.calibration_tables import CLEAN, Documents, calibration_frames
from neuronlab.effects import effects_frame
from neuronlab.final_states import AblationInputs, Setup
from neuronlab.joint import SetLines, clean_part, joint_effects, lines_of_sets, logit_changes
from neuronlab.kernels.interface import Clean
from neuronlab.neuron_sets import NeuronSet, read_selections, sets_of_layer, single_neurons
from neuronlab.schemas import SCHEMAS
from neuronlab.set_verification import verify_sets
from neuronlab.tables import Provenance, write_table
from neuronlab.temperature import TemperatureSums, temperature_frame
from neuronlab.token_sample import with_sample

Array = np.ndarray


def ablate_sets(
    *,
    inputs: AblationInputs,
    selection: Sequence[str | Path],
    set_effects: str | Path,
    set_verification: str | Path,
    temperature: str | Path,
    calibration: str | Path,
    reliability: str | Path,
    bins: int = 15,
    tokens: int | None = None,
    verification_pairs: int = 64,
    absolute: float = 1e-6,
    relative: float = 1e-5,
    float64_mb: float = float("inf"),
    resamples: int = 1000,
    level: float = 0.95,
    te_floor: float = 1e-6,
    provenance: Provenance | None = None,
) -> None:
    """Write the five tables, named like the arguments; nothing if the verification fails.

    Args:
        selection: selection tables; their sets with neurons in the last layer are ablated.
        bins: bins of equal mass of the calibration error and the reliability diagram.
        tokens: counted tokens used, drawn by the seed; all for None.
        verification_pairs: (token, set) pairs that are compared with brute force.
        absolute, relative: tolerance of that comparison.
        float64_mb: limit on the model and its float64 copy; see `set_verification.verify_sets`.
        te_floor: 1 - DE/TE is missing where TE is not above this (nats).

    Raises:
        VerificationError: the closed form differs from brute force.
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    setup = with_sample(inputs.set_up(), tokens, inputs.seed)
    sets = sets_of_layer(read_selections(selection), setup.last.layer)
    targets = sets + single_neurons(sets, setup.last.layer)
    frames = {name: empty(name) for name in ("set_effects", "set_verification", "temperature")}
    if targets:
        frames["set_verification"] = verify_sets(
            inputs,
            setup,
            targets,
            pairs=verification_pairs,
            absolute=absolute,
            relative=relative,
            float64_mb=float64_mb,
        )
    measured = measure(setup, inputs, targets)
    documents = Documents.of(measured.documents, resamples, level, inputs.seed)
    if targets:
        effects = effects_frame(measured.sums(), resamples=resamples, level=level, te_floor=te_floor, seed=inputs.seed)
        frames["set_effects"] = name_sets(effects, targets)
        shown = setup.replacements[0].name
        frames["temperature"] = temperature_frame(measured.curves, targets, shown, documents.weights, level)
    half = halves(len(documents.counts), inputs.seed)[documents.row]
    calibrated = calibrate(measured.passes(setup.last, len(sets)), half, 1 + len(sets))
    frames["calibration"], frames["reliability"] = calibration_frames(calibrated, [CLEAN, *sets], bins, documents)
    paths = {
        "set_effects": set_effects,
        "set_verification": set_verification,
        "temperature": temperature,
        "calibration": calibration,
        "reliability": reliability,
    }
    for name, path in paths.items():
        write_table(frames[name], path, name, {**(provenance or {}), "kernel": setup.last.kernel})


def empty(name: str) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema={column: entry.dtype for column, entry in SCHEMAS[name].items()})


@dataclass(frozen=True)
class Kept:
    """A chunk's state, as far as the changes of the logits need it.

    Attributes:
        place: its tokens, counted over the whole text.
        tokens: without activations.
        delta: replacement minus activation, for the neurons of all sets.
    """

    place: slice
    tokens: Tokens
    delta: Float64[Tensor, "tokens neurons"]


@dataclass(frozen=True)
class Measured:
    """What one pass over the text leaves.

    Attributes:
        documents: document of each counted token, in order.
        effects: sums per (document, set), by replacement.
        curves: what temperatures are found on, for the shown replacement.
        lines: the sets' directions; None without a set.
        kept: the chunks, for the shown replacement.
    """

    documents: Int[Array, " tokens"]
    effects: dict[str, DocumentSums]
    curves: TemperatureSums
    lines: SetLines | None
    kept: list[Kept]

    def sums(self) -> pl.DataFrame:
        """Sums as `effects_frame` takes them; the column `neuron` counts the sets."""
        return pl.concat([sums.frame(name, 0) for name, sums in self.effects.items()])

    def passes(self, last: LastLayer, sets: int) -> Pass:
        """Passes over the tokens, with the changes of the logits by nothing at all and by the first `sets` sets."""
        members = self.lines.sets[:sets] if self.lines else ()
        lines = lines_of_sets(last, members) if members else None
        columns = [self.lines.neurons.index(n) for n in lines.neurons] if self.lines and lines else []

        def sweep() -> Iterator[tuple[slice, Clean, Float[Tensor, "tokens sets vocab"]]]:
            for chunk in self.kept:
                clean = clean_of(last, chunk.tokens)
                start = chunk.place.start
                if lines is None:
                    yield chunk.place, clean, torch.zeros_like(clean.lp)[:, None]
                    continue
                delta = chunk.delta[:, columns]
                deltas = [delta[:, list(place)] for place in lines.places]
                for part, D in logit_changes(last, chunk.tokens, clean, members, deltas, lines=lines):
                    nothing = torch.zeros_like(D[:, :1])
                    here = slice(start + part.start, start + part.stop)
                    yield here, clean_part(clean, part), torch.cat([nothing, D], 1)

        return sweep


def measure(setup: Setup, inputs: AblationInputs, targets: Sequence[NeuronSet]) -> Measured:
    """One pass over the text: effects of all replacements, temperature curves and states of the shown one."""
    last, text = setup.last, setup.text
    documents = np.unique(text.documents[text.counted])
    members = [target.neurons for target in targets]
    lines = lines_of_sets(last, members) if members else None
    sums = {replacement.name: DocumentSums(documents, len(targets)) for replacement in setup.replacements}
    curves, kept, owners = TemperatureSums(documents, len(targets)), [], []
    n = 0
    for batch in setup.batches(range(len(text.tokens)), inputs.batch_size, "sets"):
        for part in batch.chunks(inputs.tokens_per_chunk):
            chunk = batch.tokens[part]
            owner = text.documents[batch.sequence[part], batch.position[part]]
            owners.append(owner)
            neurons = list(lines.neurons) if lines else []
            state = Tokens(chunk.residual, chunk.activations[:, :0], chunk.targets, chunk.mlp)
            clean = clean_of(last, chunk) if lines else None
            for i, replacement in enumerate(setup.replacements):
                delta = setup.delta(batch, part, neurons, replacement)
                if i == 0:
                    kept.append(Kept(slice(n, n + len(chunk)), state, delta))
                if lines is None or clean is None:
                    continue
                deltas = [delta[:, list(place)] for place in lines.places]
                effects = joint_effects(last, chunk, clean, members, deltas, lines=lines)
                moved = torch.stack([d.abs().sum(-1) for d in deltas], 1)
                sums[replacement.name].add(owner, slice(None), token_values(clean, moved, effects))
                if i == 0:
                    for here, D in logit_changes(last, chunk, clean, members, deltas, lines=lines):
                        curves.add(owner[here], clean_part(clean, here), D)
            n += len(chunk)
    return Measured(np.concatenate(owners), sums, curves, lines, kept)


def name_sets(effects: pl.DataFrame, targets: Sequence[NeuronSet]) -> pl.DataFrame:
    """The table "set_effects" from effects whose column `neuron` counts the sets."""
    names = pl.DataFrame([target.columns() for target in targets], infer_schema_length=None).with_columns(
        neuron=pl.int_range(len(targets), dtype=pl.Int64)
    )
    schema = {column: entry.dtype for column, entry in SCHEMAS["set_effects"].items()}
    found = effects.with_columns(pl.col("neuron").cast(pl.Int64)).join(
        names, on="neuron", how="left", maintain_order="left"
    )
    return found.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
