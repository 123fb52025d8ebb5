"""Rule `verify_ablation`: the closed form of this run against brute force, on a seeded sample; it must hold.

Two tiers (METHODS A2). 'readout': from the run's own residuals, norm, unembedding and softmax again in
float64 for every pair. 'forward': the whole model in float64 with a hook on the activation, where it fits. Both take
the kernel, precision and replacement values of the run. Pairs are drawn by stratum of |delta| |w|, so that the largest
changes, where errors would show, are among them.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from neuronlab.ablation import LastLayer, Tokens, clean_of, directions_of, effects_of_chunk
from neuronlab.final_states import AblationInputs, Batch, Setup, last_layer
from neuronlab.kernels import brute_force
from neuronlab.kernels.interface import Effects
from neuronlab.precise_copies import fits_twice, precise_copy
from neuronlab.replacements import Replacement
from neuronlab.schemas import OUTCOMES, VARIANTS
from neuronlab.tables import Provenance, read_table, write_table

Array = np.ndarray
# Upper ends of the strata as quantiles of |delta| |w| over all pairs of the sampled tokens.
STRATA = (0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0)
FORWARD_VARIANTS = ("total", "unigram")  # what a hook on the activation alone can show
MAX_PASSES = 4  # sequences of the forward tier


class VerificationError(ValueError):
    """The closed form differs from brute force by more than the tolerance."""


def verify_ablation(
    *,
    inputs: AblationInputs,
    verification: str | Path,
    pairs: int = 256,
    forward_pairs: int = 32,
    absolute: float = 1e-6,
    relative: float = 1e-5,
    float64_mb: float = math.inf,
    provenance: Provenance | None = None,
) -> None:
    """Write verification.parquet if every error is within absolute + relative * |effect|.

    Args:
        pairs, forward_pairs: (token, neuron) pairs of the two tiers, shared among the replacements; 0 leaves one out.
        float64_mb: limit on the model and its float64 copy; beyond it, the forward tier is left out, loudly.

    Raises:
        VerificationError: above tolerance; nothing is written then, the worst rows are in the message.
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    setup = inputs.set_up()
    generator = np.random.default_rng([inputs.seed, 0x7665])
    counted = np.flatnonzero(setup.text.counted.any(1))
    drawn = np.sort(generator.choice(counted, min(inputs.batch_size, len(counted)), replace=False))
    chunk = inputs.tokens_per_chunk
    frames = _tier(setup, setup.last, "readout", drawn, pairs, chunk, generator)
    if forward_pairs and not fits_twice(setup.model, float64_mb):
        forward_pairs = 0
        print(
            f"WARNING: no forward passes in float64: {inputs.model.where} does not fit twice into {float64_mb} MB; "
            "raise compute.float64_mb, or set ablation.verification.forward_pairs to 0",
            file=sys.stderr,
        )
    if forward_pairs:
        precise = precise_copy(setup.model)
        exact = last_layer(
            precise,
            read_table(inputs.counts, "token_counts"),
            include_padded=inputs.include_padded,
            kernel=setup.last.kernel,
        )
        doubled = replace(setup, model=precise, last=exact)
        frames += _tier(
            doubled, exact, "forward", drawn[:MAX_PASSES], forward_pairs, inputs.tokens_per_chunk, generator
        )
    frame = judge(pl.concat(frames), absolute, relative)
    report(frame, setup.last.kernel)
    record = {
        **(provenance or {}),
        "kernel": setup.last.kernel,
        "kernel_dtype": str(setup.last.dtype),
        "forward_pairs": forward_pairs,
    }
    write_table(frame, verification, "verification", record)


def stratified_pairs(
    size: Float[Array, "tokens neurons"], n: int, generator: np.random.Generator
) -> tuple[Int[Array, " pairs"], Int[Array, " pairs"], Int[Array, " pairs"]]:
    """Token, neuron and stratum of about `n` different pairs, equally many from every stratum of `size`.

    The last stratum always holds the largest pair of all.
    """
    flat = size.ravel()
    ends = np.quantile(flat, STRATA)
    stratum = np.minimum(np.searchsorted(ends, flat), len(STRATA) - 1)
    chosen = []
    for s in range(len(STRATA)):
        members = np.flatnonzero(stratum == s)
        quota = n // len(STRATA) + (s >= len(STRATA) - n % len(STRATA))
        chosen.append(generator.choice(members, min(quota, len(members)), replace=False))
    if n and flat.argmax() not in np.concatenate(chosen):
        chosen[-1] = np.append(chosen[-1][:-1], flat.argmax())
    picked = np.sort(np.concatenate(chosen))
    token, neuron = np.unravel_index(picked, size.shape)
    return token, neuron, stratum[picked]


def _tier(
    setup: Setup,
    last: LastLayer,
    tier: str,
    sequences: Int[Array, " sequences"],
    pairs: int,
    tokens_per_chunk: int,
    generator: np.random.Generator,
) -> list[pl.DataFrame]:
    """Both sides of every comparison of one tier."""
    batch = setup.batch(list(sequences))
    if len(batch) > tokens_per_chunk:
        # A chunk as the run has it: as many tokens at most, from all the sequences.
        kept = np.sort(generator.choice(len(batch), tokens_per_chunk, replace=False))
        batch = subset(batch, kept)
    whole, norms = slice(0, len(batch)), last.w.double().norm(dim=-1).cpu().numpy()
    frames = []
    for i, replacement in enumerate(setup.replacements):
        delta = setup.delta(batch, whole, slice(0, last.neurons), replacement)
        share = pairs // len(setup.replacements) + (i < pairs % len(setup.replacements))
        token, neuron, stratum = stratified_pairs(delta.abs().cpu().numpy() * norms, share, generator)
        if not len(token):
            continue
        unique, column = np.unique(neuron, return_inverse=True)
        neurons = unique.tolist()
        clean, lines = clean_of(last, batch.tokens), directions_of(last, neurons)
        closed = effects_of_chunk(last, batch.tokens, clean, lines, neurons, delta[:, neurons])
        if tier == "readout":
            variants = tuple(VARIANTS)
            brute = _by_readout(last, batch.tokens, token, neuron, delta)
        else:
            variants = FORWARD_VARIANTS
            brute = by_forward(setup, batch, token, neuron[:, None].tolist(), replacement)
        for k, variant in enumerate(variants):
            for outcome in OUTCOMES:
                row = list(VARIANTS).index(variant)
                frames.append(
                    pl.DataFrame(
                        {
                            "tier": [tier] * len(token),
                            "replacement": [replacement.name] * len(token),
                            "layer": np.full(len(token), last.layer),
                            "neuron": neuron,
                            "sequence": batch.sequence[token],
                            "position": batch.position[token],
                            "stratum": stratum,
                            "variant": [variant] * len(token),
                            "outcome": [outcome] * len(token),
                            "closed_form": getattr(closed, outcome)[row, token, column],
                            "brute_force": getattr(brute, outcome)[k, :, 0],
                        }
                    )
                )
    return frames


def subset(batch: Batch, kept: Int[Array, " tokens"]) -> Batch:
    """Some of a batch's tokens."""
    where = torch.from_numpy(kept).to(batch.tokens.residual.device)
    state = batch.tokens
    tokens = Tokens(
        state.residual[where],
        state.activations[where],
        state.targets[where],
        None if state.mlp is None else state.mlp[where],
    )
    donated = None if batch.donated is None else batch.donated[kept]
    return Batch(batch.sequence[kept], batch.position[kept], tokens, donated)


def _by_readout(
    last: LastLayer, tokens: Tokens, token: Int[Array, " pairs"], neuron: Int[Array, " pairs"], delta: torch.Tensor
) -> Effects:
    """The float64 oracle from the cached residuals, in parts that bound the memory."""
    readout = last.readout.to(dtype=torch.float64)
    found = []
    for start in range(0, len(token), 32):
        t, n = token[start : start + 32], neuron[start : start + 32]
        found.append(
            brute_force.pair_effects(
                readout,
                tokens.residual[t],
                last.raw[n],
                delta[t, n],
                tokens.targets[t],
                reference=last.reference,
                mlp=None if tokens.mlp is None else tokens.mlp[t],
            )
        )
    return brute_force.joined(found)


def by_forward(
    setup: Setup,
    batch: Batch,
    token: Int[Array, " pairs"],
    neurons: Sequence[Sequence[int]],
    replacement: Replacement,
) -> Effects:
    """Full forward passes, one for each pair, with its neurons' activations replaced at the pair's position."""
    found, layer = [], setup.last.layer
    for t, chosen in zip(token.tolist(), neurons, strict=True):
        sequence, position = int(batch.sequence[t]), int(batch.position[t])
        ids = torch.from_numpy(setup.text.tokens[sequence][None, : position + 2]).long()
        values = setup.model.activations(ids, [layer])[layer][..., list(chosen)].double().clone()
        values[0, position] = setup.value(batch, slice(t, t + 1), list(chosen), replacement)[0].to(values.device)
        effects = brute_force.forward_effects(
            setup.model, layer, list(chosen), ids, values, reference=setup.last.reference
        )
        # The last position of the shortened sequence that has a next token is the pair's.
        found.append(Effects(*(getattr(effects, name)[:, -1:] for name in Effects.__dataclass_fields__)))
    return brute_force.joined(found)


def judge(frame: pl.DataFrame, absolute: float, relative: float) -> pl.DataFrame:
    """Add error, tolerance and verdict. NaN does not pass."""
    return frame.with_columns(
        error=(pl.col("closed_form") - pl.col("brute_force")).abs(),
        tolerance=absolute + relative * pl.col("brute_force").abs(),
    ).with_columns(passed=(pl.col("error") <= pl.col("tolerance")) & pl.col("error").is_finite())


def report(frame: pl.DataFrame, kernel: str) -> None:
    """Print how close the two sides are, by tier, variant and outcome, of single neurons or of sets.

    Raises:
        VerificationError: if a row did not pass.
    """
    of_sets = "set" in frame.columns
    share = frame.with_columns(share=pl.col("error") / pl.col("tolerance"))
    summary = share.group_by("tier", "variant", "outcome", maintain_order=True).agg(
        pairs=pl.len(), worst=pl.col("share").max(), effect=pl.col("brute_force").abs().max()
    )
    for row in summary.iter_rows(named=True):
        print(
            f"{'sets: ' if of_sets else ''}{row['tier']:8} {row['variant']:8} {row['outcome']:8} "
            f"{row['pairs']:5} pairs, largest effect {row['effect']:.3g} nats, "
            f"worst error {row['worst']:.2g} of the tolerance",
            file=sys.stderr,
        )
    failed = share.filter(~pl.col("passed"))
    if not len(failed):
        return
    worst = failed.sort("share", descending=True).row(0, named=True)
    subject = f"set {worst['set']} (" if of_sets else f"neuron {worst['neuron']} (layer {worst['layer']}, "
    raise VerificationError(
        f"{'joint ablation by ' if of_sets else ''}kernel '{kernel}' differs from brute force above the tolerance in "
        f"{len(failed)} of {len(frame)} comparisons; worst: {worst['tier']}, {worst['variant']} effect on "
        f"{worst['outcome']} of {subject}replacement {worst['replacement']}) at sequence {worst['sequence']}, position "
        f"{worst['position']}: {worst['closed_form']:.9g} against {worst['brute_force']:.9g}, tolerance "
        f"{worst['tolerance']:.3g}. The results cannot be trusted: set compute.kernel to brute_force, or "
        "ablation.verification.absolute and relative if the model's own precision explains the difference"
    )
