"""Rule `verify_decoding`: a sample of what was decoded, generated anew one by one with hooks in float64; it must agree.

Two tiers. 'generation': token after token by the model's own forward passes with the activations replaced by hooks at
all positions; where the tokens part, the two best logits must lie nearer than `tie`, which rounding may decide either
way. 'readout': entropy and log-probabilities from such passes over the prompt and its objects.

The tables of a float32 or float64 model are held against float64 as they are. A model in half precision is another
model in float64: there the sample is decoded anew by the prefix tree of the float64 copy, so that the method is
verified. Where such a copy does not fit into the memory only the read-outs are left, in the model's own precision.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch

from neuronlab.conflict_prompts import Conflicts, longest_object
from neuronlab.copying_variants import read_groups
from neuronlab.decoding_sample import draw_pairs
from neuronlab.last_layers import last_layer_of
from neuronlab.model_checks import TOLERANCE
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.naive_comparison import ROWS, Naive, sampled
from neuronlab.precise_copies import fits_twice, precise_copy
from neuronlab.replacements import ActivationStatistics
from neuronlab.tables import Provenance, read_table, write_table

HALVES = ("float16", "bfloat16")


class DecodingVerificationError(ValueError):
    """The shared prefix tree differs from naive generation by more than rounding."""


def verify_decoding(
    *,
    model: ModelSpec,
    conflicts: str | Path,
    statistics: str | Path,
    sets: str | Path,
    variants: str | Path,
    decoded: Sequence[str | Path],
    continuations: Sequence[str | Path],
    states: Sequence[str | Path],
    verification: str | Path,
    pairs: int = 48,
    tie: float = 1e-4,
    absolute: float = 1e-6,
    relative: float = 1e-5,
    float64_mb: float = math.inf,
    new_tokens: int = 10,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write decoding_verification.parquet if the sample agrees; it is empty without pairs or prompts.

    Args:
        decoded, continuations, states: the shards' tables, in the same order.
        pairs: (prompt, variant) pairs that are generated anew.
        tie: two logits nearer than this (nats) are a tie.
        absolute, relative: read-outs must agree within absolute + relative * |value|, beside which the rounding of the
            model's own precision is granted (see `model_checks.TOLERANCE`).
        float64_mb: limit on the model and its float64 copy.

    Raises:
        DecodingVerificationError: tokens that part where there is no tie, or read-outs above the tolerance; nothing is
            written then.
        VariantError, ReplacementError, TableError, ModelError: tables or model unusable.
    """
    table = read_table(variants, "variants")
    drawn = draw_pairs([read_table(path, "decoded") for path in decoded], table, pairs, seed)
    frame, record = pl.DataFrame(schema=ROWS), {**(provenance or {})}
    if len(drawn):
        everything = read_table(conflicts, "conflicts")
        loaded = load_model(model)
        layer = ActivationStatistics.of_layer(
            read_table(statistics, "activation_statistics"), loaded.n_layers - 1, loaded.d_mlp
        )
        groups = read_groups(read_table(sets, "copying_sets"), table, layer)
        precise = _precise(loaded, float64_mb)
        naive = Naive(
            precise,
            last_layer_of(precise, kernel="torch"),
            Conflicts.of_frame(everything.filter(pl.col("prompt").is_in(drawn["prompt"].unique().to_list()))),
            longest_object(everything),
            new_tokens,
            seed,
        )
        if model.dtype in HALVES and precise is not loaded:
            sample = naive.decoded_again(drawn, groups, table, tie)
        else:
            keys = drawn.select("prompt", "variant")
            sample = sampled(
                drawn,
                groups,
                pl.concat([_semi(path, "continuations", keys.select("prompt")) for path in continuations]),
                pl.concat([_semi(path, "states", keys) for path in states]),
            )
        exact = precise.dtype == torch.float64
        # The run's own rounding is in its tables; a model in half precision was decoded again in float64.
        own = model.dtype if not exact or model.dtype not in HALVES else "float64"
        rounding = 0.0 if own == "float64" else TOLERANCE[own]
        frame = naive.compared(sample, tie, absolute, relative, rounding, generation=exact)
        report(frame, len(sample), tie)
        record |= {"verified_in": precise.spec.dtype, "rounding": rounding}
    else:
        print("WARNING: nothing to verify: no pairs are asked for, or there are no prompts", file=sys.stderr)
    write_table(frame, verification, "decoding_verification", record)


def report(frame: pl.DataFrame, pairs: int, tie: float) -> None:
    """Print how many pairs agree and how close the read-outs are.

    Raises:
        DecodingVerificationError: if a row did not pass.
    """
    generation = frame.filter(pl.col("tier") == "generation")
    if len(generation):
        parted = generation.filter(pl.col("brute_force") < pl.col("fast"))
        print(
            f"{pairs} pairs generated anew: {len(generation) - len(parted)} token for token the same, "
            f"{len(parted)} part, {parted['passed'].sum()} of them at a tie (two best logits nearer than {tie:g} nats)",
            file=sys.stderr,
        )
    share = frame.with_columns(share=pl.col("error") / pl.col("tolerance"))
    summary = share.filter(pl.col("tier") == "readout").group_by("quantity", maintain_order=True)
    worst = summary.agg(n=pl.len(), error=pl.col("error").max(), share=pl.col("share").max())
    for row in worst.iter_rows(named=True):
        print(
            f"{row['quantity']:18} {row['n']:4} pairs, largest error {row['error']:.2g} nats, "
            f"{row['share']:.2g} of the tolerance",
            file=sys.stderr,
        )
    failed = share.filter(~pl.col("passed")).sort("tier", "share", descending=[False, True])
    if not len(failed):
        return
    worst = failed.row(0, named=True)
    if worst["tier"] == "generation":
        what = (
            f"after {worst['brute_force']:.0f} of {worst['fast']:.0f} tokens they part where the two best logits are "
            f"{worst['error']:.3g} apart, and a tie is {tie:g} at most"
        )
        if not math.isfinite(worst["error"]):
            what = f"after {worst['brute_force']:.0f} tokens one ends and the other goes on"
    else:
        what = (
            f"{worst['quantity']} is {worst['fast']:.9g} in the tables and {worst['brute_force']:.9g} by brute force, "
            f"tolerance {worst['tolerance']:.3g}"
        )
    raise DecodingVerificationError(
        f"decoding with a shared prefix tree differs from naive generation in {len(failed)} of {len(frame)} "
        f"comparisons; prompt {worst['prompt']}, variant {worst['variant']}: {what}. The results cannot be trusted: "
        "delete the shards' tables and decode again with compute.batch_size 1; if the model's own precision explains "
        "the difference, raise context_copying.verification.tie, or ablation.verification.absolute and relative"
    )


def _precise(model: Model, float64_mb: float) -> Model:
    """The model in float64; itself, loudly, where a copy does not fit."""
    if model.dtype == torch.float64:
        return model
    if fits_twice(model, float64_mb):
        return precise_copy(model)
    print(
        f"WARNING: nothing is generated anew in float64: {model.spec.where} does not fit twice into {float64_mb} MB; "
        f"read-outs alone are verified, in {model.spec.dtype}. Raise compute.float64_mb",
        file=sys.stderr,
    )
    return model


def _semi(path: str | Path, name: str, keys: pl.DataFrame) -> pl.DataFrame:
    """Rows of a table that belong to the keys."""
    return read_table(path, name).join(keys.unique(), on=keys.columns, how="semi")
