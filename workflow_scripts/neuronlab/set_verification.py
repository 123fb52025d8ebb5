"""Joint ablation by the rank-k update against brute force, on a seeded sample of (token, set) pairs; it must hold.

The two tiers of `verification`: 'readout', norm, unembedding and softmax again in float64 with the sets' vector added
to the residual; 'forward', whole forward passes in float64 with all of a set's activations replaced at the pair's
position. Pairs are drawn by stratum of |D|, the length of what the set adds to the residual.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from neuronlab.ablation import LastLayer, clean_of
from neuronlab.final_states import AblationInputs, Batch, Setup, last_layer
from neuronlab.joint import joint_effects
from neuronlab.kernels import brute_force
from neuronlab.kernels.interface import Effects
from neuronlab.neuron_sets import NeuronSet
from neuronlab.precise_copies import fits_twice, precise_copy
from neuronlab.schemas import OUTCOMES, VARIANTS
from neuronlab.tables import read_table
from neuronlab.verification import MAX_PASSES, by_forward, judge, report, stratified_pairs, subset

Array = np.ndarray
FORWARD_SHARE = 4  # one forward pass for so many pairs of the other tier
PAIRS_AT_ONCE = 32


def verify_sets(
    inputs: AblationInputs,
    setup: Setup,
    sets: Sequence[NeuronSet],
    *,
    pairs: int,
    absolute: float,
    relative: float,
    float64_mb: float,
) -> pl.DataFrame:
    """The table "set_verification".

    Args:
        pairs: (token, set) pairs of the tier 'readout', shared among the replacements; a quarter as many of 'forward'.
        float64_mb: the forward tier is left out, loudly, if a float64 copy of the model does not fit.

    Raises:
        VerificationError: above the tolerance absolute + relative * |effect|.
    """
    generator = np.random.default_rng([inputs.seed, 0x7365])
    counted = np.flatnonzero(setup.text.counted.any(1))
    drawn = np.sort(generator.choice(counted, min(inputs.batch_size, len(counted)), replace=False))
    frames = _tier(setup, setup.last, "readout", drawn, sets, pairs, inputs.tokens_per_chunk, generator)
    if fits_twice(setup.model, float64_mb):
        precise = precise_copy(setup.model)
        exact = last_layer(
            precise,
            read_table(inputs.counts, "token_counts"),
            include_padded=inputs.include_padded,
            kernel=setup.last.kernel,
        )
        doubled = replace(setup, model=precise, last=exact)
        share = max(1, pairs // FORWARD_SHARE)
        chunk = inputs.tokens_per_chunk
        frames += _tier(doubled, exact, "forward", drawn[:MAX_PASSES], sets, share, chunk, generator)
    else:
        print(
            f"WARNING: sets not verified by forward passes in float64: {setup.model.where} does not fit twice into "
            f"{float64_mb} MB; raise compute.float64_mb",
            file=sys.stderr,
        )
    frame = judge(pl.concat(frames), absolute, relative)
    report(frame, setup.last.kernel)
    return frame


def _tier(
    setup: Setup,
    last: LastLayer,
    tier: str,
    sequences: Int[Array, " sequences"],
    sets: Sequence[NeuronSet],
    pairs: int,
    tokens_per_chunk: int,
    generator: np.random.Generator,
) -> list[pl.DataFrame]:
    """Both sides of every comparison of one tier."""
    batch = setup.batch(list(sequences))
    if len(batch) > tokens_per_chunk:
        batch = subset(batch, np.sort(generator.choice(len(batch), tokens_per_chunk, replace=False)))
    whole, frames = slice(0, len(batch)), []
    clean = clean_of(last, batch.tokens)
    for i, replacement in enumerate(setup.replacements):
        deltas = [setup.delta(batch, whole, list(one.neurons), replacement) for one in sets]
        moved = [d @ last.w[list(s.neurons)].double() for d, s in zip(deltas, sets, strict=True)]
        size = torch.stack([step.norm(dim=-1) for step in moved], 1)
        share = pairs // len(setup.replacements) + (i < pairs % len(setup.replacements))
        token, place, _ = stratified_pairs(size.cpu().numpy(), share, generator)
        if not len(token):
            continue
        members = [one.neurons for one in sets]
        closed = joint_effects(last, batch.tokens, clean, members, deltas)
        if tier == "readout":
            variants = tuple(VARIANTS)
            brute = _by_readout(last, batch, token, place, sets, deltas)
        else:
            variants = ("total",)
            brute = by_forward(setup, batch, token, [sets[i].neurons for i in place.tolist()], replacement)
        frames += [
            pl.DataFrame(
                {
                    "tier": [tier] * len(token),
                    "set": [sets[s].name for s in place],
                    "replacement": [replacement.name] * len(token),
                    "sequence": batch.sequence[token],
                    "position": batch.position[token],
                    "variant": [variant] * len(token),
                    "outcome": [outcome] * len(token),
                    "closed_form": getattr(closed, outcome)[list(VARIANTS).index(variant), token, place],
                    "brute_force": getattr(brute, outcome)[k, :, 0],
                }
            )
            for k, variant in enumerate(variants)
            for outcome in OUTCOMES
        ]
    return frames


def _by_readout(
    last: LastLayer,
    batch: Batch,
    token: Int[Array, " pairs"],
    place: Int[Array, " pairs"],
    sets: Sequence[NeuronSet],
    deltas: Sequence[Float64[Tensor, "tokens k"]],
) -> Effects:
    """The float64 oracle from the cached residuals, which is given nothing but the sum of the set's vectors."""
    readout, state = last.readout.to(dtype=torch.float64), batch.tokens
    step = torch.stack(
        [deltas[s][t] @ last.raw[list(sets[s].neurons)].double() for t, s in zip(token, place, strict=True)]
    )
    found = []
    for start in range(0, len(token), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        t = token[part]
        found.append(
            brute_force.pair_effects(
                readout,
                state.residual[t],
                step[part],
                torch.ones(len(t), dtype=torch.float64, device=step.device),
                state.targets[t],
                reference=last.reference,
                mlp=None if state.mlp is None else state.mlp[t],
            )
        )
    return brute_force.joined(found)
