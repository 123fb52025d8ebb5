"""The one pass that ablates every position, of this very run, against one hooked forward pass for each position."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from neuronlab.attention import Means, Method, States, ablated_pass, clean_pass, forward_at
from neuronlab.head_readouts import QUANTITIES, read
from neuronlab.head_sets import HeadSet
from neuronlab.model_checks import TOLERANCE
from neuronlab.models import Model
from neuronlab.readout import Readout
from neuronlab.repeat_places import Repeats

Array = np.ndarray
VERIFIED = ("entropy", "loss", "norm_scale", "kl")
MAX_SEQUENCES = 2  # sequences that pairs are drawn from


class HeadVerificationError(ValueError):
    """The pass that ablates all positions at once differs from brute force by more than the tolerance."""


def verify_sets(
    model: Model,
    repetitions: Repeats,
    positions: Int[Array, " query"],
    sets: Sequence[HeadSet],
    methods: Sequence[Method],
    means: Means | None,
    *,
    pairs: int,
    absolute: float,
    relative: float,
    seed: int,
) -> pl.DataFrame:
    """Table "head_verification": `pairs` seeded (sequence, position) pairs for each set and method.

    Args:
        model: in float64 where it fits; in a lower precision its own rounding is granted beside the tolerance.
        repetitions: to draw from; the table names them by their number in repeats.parquet.
        positions: query positions to draw from; those without a next token are left out.
    """
    generator = np.random.default_rng([seed, 0x6876])
    tokens = repetitions.tokens
    drawn = np.sort(generator.choice(len(tokens), min(MAX_SEQUENCES, len(tokens)), replace=False))
    usable = positions[positions < tokens.shape[1] - 1]
    chosen = torch.from_numpy(tokens[drawn]).long()
    query = torch.from_numpy(usable)
    clean = clean_pass(model, chosen, {layer for heads in sets for layer, _ in heads.heads})
    readout = model.readout(model.dtype)
    rounding = 0.0 if model.dtype == torch.float64 else TOLERANCE[model.spec.dtype]
    frames = []
    for heads in sets:
        places = np.sort(
            generator.choice(len(drawn) * len(usable), min(pairs, len(drawn) * len(usable)), replace=False)
        )
        row, column = np.divmod(places, len(usable))
        rows, at = chosen[row], query[column]
        before = clean.states.residual[torch.from_numpy(row), at]
        for method in methods:
            once = ablated_pass(model, clean, [heads], method, means=means, positions=query)
            found = States(once.residual[0][row, column], once.activations[0][row, column])
            brute = forward_at(model, rows, heads, method, at, means=means)
            left, right = (_values(readout, states.residual, before, rows, at) for states in (found, brute))
            worst = (found.activations - brute.activations).abs().argmax(-1, keepdim=True)
            left["activation"] = found.activations.gather(-1, worst)[:, 0]
            right["activation"] = brute.activations.gather(-1, worst)[:, 0]
            for name, value in left.items():
                frames.append(
                    pl.DataFrame(
                        {
                            "set": [heads.name] * len(row),
                            "method": [method] * len(row),
                            "sequence": repetitions.sequence[drawn[row]],
                            "position": at.numpy(),
                            "quantity": [name] * len(row),
                            "one_pass": value.double().cpu().numpy(),
                            "brute_force": right[name].double().cpu().numpy(),
                        }
                    )
                )
    granted = rounding * (1 + pl.col("brute_force").abs()) if rounding else pl.lit(0.0)
    return (
        pl.concat(frames)
        .with_columns(
            error=(pl.col("one_pass") - pl.col("brute_force")).abs(),
            tolerance=absolute + relative * pl.col("brute_force").abs() + granted,
        )
        .with_columns(passed=(pl.col("error") <= pl.col("tolerance")) & pl.col("error").is_finite())
    )


def _values(
    readout: Readout,
    residual: Float[torch.Tensor, "pair d"],
    clean: Float[torch.Tensor, "pair d"],
    rows: Int[torch.Tensor, "pair position"],
    at: Int[torch.Tensor, " pair"],
) -> dict[str, torch.Tensor]:
    """The verified quantities by name."""
    targets = rows[torch.arange(len(rows)), at + 1].to(residual.device)
    _, reference = read(readout, clean, targets)
    values, _ = read(readout, residual, targets, reference)
    return {name: values[QUANTITIES.index(name)] for name in VERIFIED}


def report(frame: pl.DataFrame) -> None:
    """Print how close the two sides are, by method and quantity.

    Raises:
        HeadVerificationError: if a row did not pass.
    """
    summary = frame.group_by("method", "quantity", maintain_order=True).agg(
        pairs=pl.len(), worst=pl.col("error").max(), share=(pl.col("error") / pl.col("tolerance")).max()
    )
    for row in summary.iter_rows(named=True):
        print(
            f"{row['method']:5} {row['quantity']:11} {row['pairs']:5} comparisons, largest error {row['worst']:.2g}, "
            f"{row['share']:.2g} of the tolerance",
            file=sys.stderr,
        )
    failed = frame.filter(~pl.col("passed")).sort(pl.col("error") / pl.col("tolerance"), descending=True)
    if not len(failed):
        return
    worst = failed.row(0, named=True)
    raise HeadVerificationError(
        f"ablating heads at all positions in one pass differs from one pass per position in {len(failed)} of "
        f"{len(frame)} comparisons; worst: {worst['quantity']} for heads {worst['set']}, method {worst['method']}, at "
        f"sequence {worst['sequence']} of repeats.parquet, position {worst['position']}: {worst['one_pass']:.9g} "
        f"against {worst['brute_force']:.9g}, tolerance {worst['tolerance']:.3g}. The results cannot be trusted: leave "
        "`heads` out of confidence_regulation.parts, or raise ablation.verification.absolute and relative if the "
        "model's own precision explains the difference"
    )
