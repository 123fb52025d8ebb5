"""Rule `ablate_synthetic`: controls that no neuron can be: the same activations, another direction (METHODS 0.6).

A neuron's direction w is replaced by a random one that changes the residual's norm exactly as w does: at every token it
has the same length and the same product with the (centred) residual x. With a random r, drawn once per (neuron, draw),

    w'_t = c x + s (r - <x, r>/|x|^2 x),   c = <x, w>/|x|^2,   s = sqrt(|w|^2 - <x, w>^2/|x|^2) / |r - <x, r>/|x|^2 x|

so the effect through the norm is the neuron's own and only the direct part differs. Its logits are a combination of the
token's and of r W: u'_t = (c - s <x, r>/|x|^2) z + s r W, which fits the kernels with other factors of z and u.

Where a norm follows the MLP (Gemma-2), its scale moves as it does for the neuron's own direction.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from neuronlab.ablation import clean_of, coefficients, run_kernel
from neuronlab.ablation_shards import DocumentSums, token_values
from neuronlab.effects import KEYS, effects_frame
from neuronlab.final_states import AblationInputs, Setup
from neuronlab.kernels.interface import Coefficients, directions
from neuronlab.readout import Readout
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table


def ablate_synthetic(
    *,
    inputs: AblationInputs,
    selection: str | Path,
    synthetic: str | Path,
    draws: int = 5,
    resamples: int = 1000,
    level: float = 0.95,
    te_floor: float = 1e-6,
    provenance: Provenance | None = None,
) -> None:
    """Write synthetic.parquet: effects of the selections' last-layer neurons in `draws` random directions each.

    Raises:
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    if inputs.kernel == "brute_force":
        print("WARNING: synthetic controls by kernel 'torch': brute force has no such directions", file=sys.stderr)
        inputs = replace(inputs, kernel="torch")
    chosen = read_table(selection, "selection").filter(pl.col("kind") == "selection")
    setup = inputs.set_up()
    neurons = sorted(chosen.filter(pl.col("layer") == setup.last.layer)["neuron"].unique().to_list())
    frame = pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["synthetic"].items()})
    if neurons and draws:
        sums = synthetic_sums(
            setup,
            neurons,
            draws=draws,
            seed=inputs.seed,
            batch_size=inputs.batch_size,
            tokens_per_chunk=inputs.tokens_per_chunk,
            neurons_per_tile=inputs.neurons_per_tile,
        )
        frame = effects_frame(
            sums, resamples=resamples, level=level, te_floor=te_floor, seed=inputs.seed, keys=(*KEYS, "draw")
        )
    write_table(frame, synthetic, "synthetic", {**(provenance or {}), "kernel": setup.last.kernel})


def random_directions(
    readout: Readout, neurons: Sequence[int], draws: int, seed: int
) -> Float[Tensor, "neurons*draws d"]:
    """Random unit directions, the draws of a neuron in a row; they do not depend on which other neurons there are."""
    rows = [np.random.default_rng([seed, n, draw]).standard_normal(readout.d) for n in neurons for draw in range(draws)]
    r = readout.centre(torch.from_numpy(np.stack(rows)).to(readout.W.device))
    return r / r.norm(dim=-1, keepdim=True)


def synthetic_coefficients(
    readout: Readout,
    residual: Float[Tensor, "tokens d"],
    w: Float[Tensor, "neurons d"],
    r: Float[Tensor, "neurons d"],
    own: Coefficients,
) -> Coefficients:
    """Factors of z and r W for the directions w'_t, from the neuron's own factors of z and u; float64."""
    x, w, r = readout.centre(residual.double()), readout.centre(w.double()), r.double()
    power = x.square().sum(-1, keepdim=True)
    xw, xr = x @ w.T, x @ r.T
    left = (w.square().sum(-1) - xw.square() / power).clamp_min(0)
    s = (left / (r.square().sum(-1) - xr.square() / power)).sqrt()
    c = xw / power - s * xr / power
    return Coefficients(own.A + own.B * c, own.B * s, own.frozen, own.C)


def synthetic_sums(
    setup: Setup,
    neurons: Sequence[int],
    *,
    draws: int,
    seed: int,
    batch_size: int,
    tokens_per_chunk: int,
    neurons_per_tile: int,
) -> pl.DataFrame:
    """Sums per (replacement, document, neuron, draw) over the whole text."""
    last, text = setup.last, setup.text
    documents = np.unique(text.documents[text.counted])
    width = max(1, neurons_per_tile // draws)  # neurons at a time: each brings `draws` directions
    frames = []
    for start in range(0, len(neurons), width):
        part_neurons = list(neurons[start : start + width])
        r = random_directions(last.readout, part_neurons, draws, seed)
        lines = directions(last.readout, r, reference=last.reference, dtype=last.dtype)
        repeated = [n for n in part_neurons for _ in range(draws)]
        everyone = slice(0, len(repeated))
        sums = {replacement.name: DocumentSums(documents, len(repeated)) for replacement in setup.replacements}
        for batch in setup.batches(range(len(text.tokens)), batch_size, "synthetic"):
            for part in batch.chunks(tokens_per_chunk):
                chunk = batch.tokens[part]
                clean = clean_of(last, chunk)
                owners = text.documents[batch.sequence[part], batch.position[part]]
                for replacement in setup.replacements:
                    delta = setup.delta(batch, part, repeated, replacement)
                    w, raw = last.w[repeated], last.raw[repeated]
                    own = coefficients(last.readout, chunk.residual, w, delta, raw=raw, mlp=chunk.mlp)
                    factors = synthetic_coefficients(last.readout, chunk.residual, w, r, own)
                    effects = run_kernel(last, clean, lines, factors)
                    sums[replacement.name].add(owners, everyone, token_values(clean, delta, effects))
        for name, table in sums.items():
            frame = table.frame(name, last.layer)
            place = frame["neuron"].to_numpy()
            frames.append(
                frame.with_columns(neuron=np.repeat(part_neurons, draws)[place], draw=place % draws).cast(
                    {"neuron": pl.Int32, "draw": pl.Int32}
                )
            )
    return pl.concat(frames)
