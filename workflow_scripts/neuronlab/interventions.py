"""Rule `intervene_layers`: what becomes of the prediction when a layer is deleted, averaged or swapped (METHODS C1).

Per batch of sequences one clean pass keeps what enters every block; each intervention starts from there (see
`layer_passes`). The study's own way runs the model twice for every intervention, once clean and once changed: over a
model of L layers that is 2 L passes of L blocks for deletions alone. Deleting a layer also changes the length of the
residual stream, so every output can be replaced by its mean over the counted positions instead (C defect 8); the means
take one more clean pass over the sequences.

Outcomes are read at the counted positions, all of one row at the same one (C defect 1), and averaged over tokens;
intervals are clustered by document (C defect 4). A sample of tokens is verified in every run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.final_states import Text
from neuronlab.layer_means import StreamChanges, verify_means
from neuronlab.layer_outcomes import CLEAN_OUTCOMES, OUTCOMES, outcomes
from neuronlab.layer_passes import Intervention, InterventionError, LayerPasses
from neuronlab.layer_plan import depth_of, plan_interventions
from neuronlab.layer_verification import QUANTITIES as VERIFIED
from neuronlab.layer_verification import report, verified_tokens, verify_interventions
from neuronlab.model_families import family_of
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.readout import Readout
from neuronlab.schemas_stages import STAGES_TABLES
from neuronlab.sequence_sample import sample_sequences
from neuronlab.statistics import bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, write_table

Array = np.ndarray
QUANTITIES = ("kl", "loss_change", "entropy_change", "entropy", "agreement", "reciprocal_rank")
RESIDUALS_MB = 1000.0  # for the clean residuals of a batch, and as much for the changed ones


def intervene_layers(
    *,
    model: ModelSpec,
    tokens: str | Path,
    table: str | Path,
    costs: str | Path,
    verification: str | Path,
    kinds: Sequence[str],
    swaps: str | Sequence[str] = "adjacent",
    sequences: int = 64,
    batch_size: int = 16,
    tokens_per_chunk: int = 128,
    verification_tokens: int = 32,
    absolute: float = 1e-6,
    relative: float = 1e-5,
    float64_mb: float = math.inf,
    residuals_mb: float = RESIDUALS_MB,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write interventions (means with intervals), intervention_costs and intervention_verification.

    Args:
        kinds: keys of `schemas_stages.INTERVENTIONS`.
        swaps: `adjacent`, `all`, or pairs such as "0-1". A model of one layer has none; that is said in the log.
        sequences: how many sequences are read.
        batch_size: sequences per forward pass; fewer where their residuals would exceed `residuals_mb`.
        tokens_per_chunk: tokens whose logits are in memory at once.
        verification_tokens: tokens compared with whole float64 passes; 0 leaves that out.
        float64_mb: limit on the model and its float64 copy; beyond it, changed layers are not verified.
        residuals_mb: for the clean residuals of a batch, and as much for the changed ones.

    Raises:
        InterventionError: kinds or pairs that do not exist, an architecture that is not covered, residuals that are
            not finite, or a failed verification; nothing is written then.
        ModelError, TableError, AblationError: whatever does not fit.
    """
    text = sample_sequences(Text.read(tokens), sequences, seed)
    loaded = load_model(model)
    planned = plan_interventions(kinds, swaps, loaded.n_layers, model.where)
    passes = LayerPasses(loaded)
    batch_size = bounded_batch(batch_size, loaded, text.tokens.shape[1], residuals_mb)
    wanted = np.flatnonzero(text.counted.any(axis=1))
    if planned:
        passes.check(torch.from_numpy(text.tokens[wanted[:1]]).long())
    if any(each.needs_means for each in planned):
        passes.means = passes.mean_outputs(
            (torch.from_numpy(text.tokens[rows]).long(), torch.from_numpy(text.counted[rows]))
            for rows in batches(wanted, batch_size, "mean outputs")
        )
    documents = np.unique(text.documents[text.counted])
    sums = np.zeros((len(documents), len(planned), len(QUANTITIES)))
    counts = np.zeros(len(documents), dtype=np.int64)
    device = torch.device("cpu") if loaded.device.type == "mps" else loaded.device  # mps has no float64
    readout = loaded.readout().to(device)
    stream = StreamChanges(loaded)
    sample, own = verified_tokens(text, verification_tokens, seed), []
    for rows in batches(wanted, batch_size, "layers") if planned else ():
        document = np.searchsorted(documents, text.documents[rows][text.counted[rows]])
        values = changes_of(passes, readout, text, rows, planned, tokens_per_chunk, residuals_mb, stream)
        np.add.at(sums, document, np.moveaxis(values, -1, 0))
        counts += np.bincount(document, minlength=len(counts))
        own.append(values[:, [QUANTITIES.index(name) for name in VERIFIED]][..., sample[rows][text.counted[rows]]])
    frame = interventions_frame(
        planned, loaded.n_layers, family_of(model), sums, counts, resamples=resamples, level=level, seed=seed
    )
    checked = verify_interventions(
        loaded,
        text,
        planned,
        passes.means,
        np.concatenate(own, axis=2) if own else np.zeros((0, len(VERIFIED), 0)),
        sample,
        batch_size=batch_size,
        absolute=absolute,
        relative=relative,
        float64_mb=float64_mb,
    )
    if passes.means is not None:
        checked = pl.concat([checked, verify_means(passes.means, stream, model.dtype)])
    report(checked)
    spent = costs_frame(planned, loaded.n_layers, passes.evaluations, len(wanted))
    write_table(spent, costs, "intervention_costs", provenance)
    write_table(checked, verification, "intervention_verification", provenance)
    write_table(frame, table, "interventions", provenance)


def changes_of(
    passes: LayerPasses,
    readout: Readout,
    text: Text,
    rows: Int[Array, " batch"],
    planned: Sequence[Intervention],
    tokens_per_chunk: int,
    residuals_mb: float = RESIDUALS_MB,
    stream: StreamChanges | None = None,
) -> Float64[Array, "interventions quantities tokens"]:
    """Quantities in the order of `QUANTITIES` at the counted positions of some sequences, in their order.

    The residuals of all layers are in memory for these sequences alone; the final residuals of as many interventions
    as fit share the clean read-out.

    Args:
        stream: what the blocks add to the stream here is added to it.

    Raises:
        InterventionError: for residuals that hold NaN or infinity.
    """
    counted = text.counted[rows]
    row, position = np.nonzero(counted)
    at = tuple(torch.from_numpy(place).to(passes.model.device) for place in (row, position))
    targets = torch.from_numpy(text.tokens[rows][row, position + 1]).long()
    seeing = {} if stream is None else stream.hooks(torch.from_numpy(counted))
    residuals = passes.clean(torch.from_numpy(text.tokens[rows]).long(), seeing)
    clean = residuals[-1][at]
    if stream is not None:
        stream.add([residual[at] for residual in residuals])
    fitting = residuals_mb * 2**20 / (clean.numel() * clean.element_size())
    together = int(min(max(1, fitting), len(planned)))
    values = np.zeros((len(planned), len(QUANTITIES), len(row)))
    for start in range(0, len(planned), together):
        group = slice(start, start + together)
        states: list[Tensor] = [passes.changed(residuals, each)[at] for each in planned[group]]
        before, after = outcomes(readout, clean, states, targets, tokens_per_chunk)
        for place, name in enumerate(QUANTITIES):
            source = name.removesuffix("_change")
            values[group, place] = after[:, OUTCOMES.index(source)]
            if name != source:
                values[group, place] -= before[CLEAN_OUTCOMES.index(source)]
    if not np.isfinite(values).all():
        worst = planned[int(np.argwhere(~np.isfinite(values))[0, 0])]
        raise InterventionError(
            f"{passes.model.spec.where}: NaN or infinity in the residual stream ({worst.name}); its dtype "
            f"{passes.model.spec.dtype} overflows: choose bfloat16 or float32"
        )
    return values


def bounded_batch(batch_size: int, model: Model, length: int, residuals_mb: float) -> int:
    """As many sequences as leave the clean residuals of all layers within `residuals_mb`, one at least."""
    size = next(model.bridge.original_model.parameters()).element_size()
    each = (model.n_layers + 1) * length * model.d_model * size
    fitting = int(min(max(1, residuals_mb * 2**20 / each), batch_size))
    if fitting < batch_size:
        print(
            f"{fitting} sequences per pass instead of {batch_size}: residuals take {residuals_mb:.0f} MB at most",
            file=sys.stderr,
        )
    return fitting


def batches(wanted: Int[Array, " sequences"], batch_size: int, label: str) -> Iterator[Int[Array, " batch"]]:
    """Places of sequences, `batch_size` at a time."""
    for start in tqdm(range(0, len(wanted), batch_size), desc=label, unit="batch", file=sys.stderr, disable=None):
        yield wanted[start : start + batch_size]


def interventions_frame(
    planned: Sequence[Intervention],
    n_layers: int,
    family: str,
    sums: Float64[Array, "documents interventions quantities"],
    counts: Int[Array, " documents"],
    *,
    resamples: int,
    level: float,
    seed: int,
) -> pl.DataFrame:
    """The table "interventions": means over tokens with intervals clustered by document."""
    schema = {name: column.dtype for name, column in STAGES_TABLES["interventions"].items()}
    if not planned:
        return pl.DataFrame(schema=schema)
    interval = clustered_interval(sums, counts, bootstrap_weights(len(counts), resamples, seed), level)
    columns: dict[str, object] = {
        "intervention": [each.kind for each in planned],
        "layer": [each.layer for each in planned],
        "other": [each.other for each in planned],
        "depth": [depth_of(each, n_layers) for each in planned],
        "family": [family] * len(planned),
        "n_tokens": [int(counts.sum())] * len(planned),
        "n_documents": [len(counts)] * len(planned),
    }
    for place, name in enumerate(QUANTITIES):
        ends = (interval.estimate, interval.low, interval.high)
        columns |= {f"{name}{end}": values[:, place] for end, values in zip(("", "_low", "_high"), ends, strict=True)}
    return pl.DataFrame(columns, schema_overrides=schema).fill_nan(None).select(*schema)


def costs_frame(planned: Sequence[Intervention], n_layers: int, evaluations: int, sequences: int) -> pl.DataFrame:
    """The table "intervention_costs"; a line about it on stderr."""
    each, naive, whole = evaluations // sequences, 2 * len(planned) * n_layers, (len(planned) + 1) * n_layers
    if planned:
        print(
            f"{each} blocks evaluated per sequence for {len(planned)} interventions on {n_layers} layers: "
            f"{naive / each:.2f} times fewer than with a clean and a changed pass for each, {whole / each:.2f} times "
            "fewer than with a whole pass for each and one clean pass",
            file=sys.stderr,
        )
    row = {"interventions": len(planned), "n_layers": n_layers, "block_evaluations": each}
    return pl.DataFrame([row | {"naive_block_evaluations": naive, "model_loads": 1}])
