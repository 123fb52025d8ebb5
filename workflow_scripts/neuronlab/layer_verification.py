"""Interventions from cached residuals against whole float64 forward passes, on a sample of a run's tokens.

The sample is spread over several sequences. Two things are compared with the brute force there: the way of the run,
made again in float64, at the tolerance as configured; and the very values that the run has averaged, at what rounding
in its dtype explains (rows `RUN_QUANTITIES`; ranks are left out, as rounding turns them).

The brute force shares with the fast path neither its start (it reads the tokens, not a residual), nor its exchange of
weights (values are copied from block to block), nor its read-out (the model's own logits, unfolded): outputs are
replaced by hooks in a pass through all blocks, one sequence at a time.

Ranks are counts: where two logits are nearer than rounding in float64, either order is right. The brute force's rank is
then whichever of the possible ones is nearest to the fast one.

Both sides put the same means in place, so these are checked on their own (see `layer_means`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from neuronlab.bridge_parts import hooked_forward
from neuronlab.final_states import Text
from neuronlab.layer_means import MEAN_OUTPUTS
from neuronlab.layer_outcomes import CLEAN_OUTCOMES, OUTCOMES, outcomes
from neuronlab.layer_passes import Intervention, InterventionError, LayerPasses, Means
from neuronlab.model_checks import TOLERANCE
from neuronlab.models import Model
from neuronlab.precise_copies import fits_twice, precise_copy
from neuronlab.schemas_stages import STAGES_TABLES
from neuronlab.token_sample import spread_counted

Array = np.ndarray
QUANTITIES = ("kl", "loss_change", "entropy", "agreement", "reciprocal_rank")
RUN_QUANTITIES = tuple(f"run_{name}" for name in QUANTITIES[:3])  # the run's own values
SPREAD = 8  # sequences that the sample is of, at least
TIE = 1e-10  # logits nearer to one another than this, in units of 1 + the larger size, may come in either order
TOKENS_PER_CHUNK = 32


def verified_tokens(text: Text, tokens: int, seed: int) -> Bool[Array, "sequences position"]:
    """Which counted tokens are compared: `tokens` of them, drawn by the seed, of `SPREAD` sequences or more."""
    return spread_counted(text.counted, tokens, SPREAD, seed)


def verify_interventions(
    model: Model,
    text: Text,
    interventions: Sequence[Intervention],
    means: Means | None,
    own: Float64[Array, "interventions quantities token"],
    sample: Bool[Array, "sequences position"],
    *,
    batch_size: int,
    absolute: float,
    relative: float,
    float64_mb: float,
) -> pl.DataFrame:
    """Table "intervention_verification", at the token with the largest error per intervention and quantity.

    Without a row, loudly, where a float64 copy of the model does not fit into `float64_mb`, or no token is compared.

    Args:
        means: of the run; both sides put them in place.
        own: what the run has found at the tokens of `sample`, in their order, by `QUANTITIES`.
        sample: from `verified_tokens`.
        batch_size: sequences per pass of the run.
    """
    schema = {name: column.dtype for name, column in STAGES_TABLES["intervention_verification"].items()}
    exact = model.spec.dtype == "float64"
    if not sample.any() or not interventions:
        print("changed layers are not verified: no token is to be compared", file=sys.stderr)
        return pl.DataFrame(schema=schema)
    if not exact and not fits_twice(model, float64_mb):
        print(
            f"WARNING: changed layers are not verified: {model.spec.where} does not fit twice into {float64_mb} MB; "
            "raise compute.float64_mb",
            file=sys.stderr,
        )
        return pl.DataFrame(schema=schema)
    precise = model if exact else precise_copy(model)
    places = np.nonzero(sample)
    # Residuals in float64 take more than those of the run.
    size = next(model.bridge.original_model.parameters()).element_size()
    fast = _fast(precise, interventions, means, text, places, max(1, batch_size * size // 8))
    low, high, largest = _brute(precise, interventions, means, text, places)
    brute = np.clip(fast, low, high)
    at = np.abs(fast - brute).argmax(axis=2)[..., None]
    sides = (np.take_along_axis(values, at, axis=2)[..., 0] for values in (fast, brute))
    frame = pl.DataFrame(
        [
            {"intervention": each.kind, "layer": each.layer, "other": each.other, "quantity": name}
            for each in interventions
            for name in QUANTITIES
        ],
        schema={name: schema[name] for name in ("intervention", "layer", "other", "quantity")},
    ).with_columns(pl.Series(name, side.ravel()) for name, side in zip(("fast", "brute_force"), sides, strict=True))
    frame = judge(frame, absolute, relative)
    count = len(RUN_QUANTITIES)
    rounding = TOLERANCE["float32" if exact else model.spec.dtype]  # logits are read in float32
    tolerance = np.broadcast_to(rounding * (1 + largest[:, None]), own[:, :count].shape)
    own, exact_values = own[:, :count], low[:, :count]
    at = np.nan_to_num(np.abs(own - exact_values) / tolerance, nan=np.inf).argmax(axis=2)[..., None]
    sides = (np.take_along_axis(values, at, axis=2)[..., 0].ravel() for values in (own, exact_values, tolerance))
    rows = frame.filter(pl.col("quantity").is_in(QUANTITIES[:count])).with_columns(
        pl.format("run_{}", "quantity").alias("quantity"),
        *(pl.Series(name, side) for name, side in zip(("fast", "brute_force", "tolerance"), sides, strict=True)),
    )
    return pl.concat([frame, _judged(rows)])


def judge(frame: pl.DataFrame, absolute: float, relative: float) -> pl.DataFrame:
    """Errors, their tolerance, and whether they are within it; what is not finite is not."""
    return _judged(frame.with_columns(tolerance=absolute + relative * pl.col("brute_force").abs()))


def _judged(frame: pl.DataFrame) -> pl.DataFrame:
    """The same with the tolerance given."""
    frame = frame.with_columns(error=(pl.col("fast") - pl.col("brute_force")).abs()).with_columns(
        passed=((pl.col("error") <= pl.col("tolerance")) & pl.col("error").is_finite()).fill_null(False)
    )
    return frame.select(*STAGES_TABLES["intervention_verification"])


def report(frame: pl.DataFrame) -> None:
    """Print the largest errors by quantity.

    Raises:
        InterventionError: if a row did not pass.
    """
    summary = frame.group_by("quantity", maintain_order=True).agg(
        n=pl.len(), worst=pl.col("error").max(), share=(pl.col("error") / pl.col("tolerance")).max()
    )
    for row in summary.iter_rows(named=True):
        against = "interventions against whole float64 passes"
        if row["quantity"] in MEAN_OUTPUTS:
            against = "layers against the changes of the residual stream"
        elif row["quantity"] in RUN_QUANTITIES:
            against = "interventions as the run has them against whole float64 passes"
        print(
            f"{row['quantity']:21} {row['n']:4} {against}: largest error {row['worst']:.2g}, {row['share']:.2g} of the "
            "tolerance",
            file=sys.stderr,
        )
    failed = frame.filter(~pl.col("passed")).sort(pl.col("error") / pl.col("tolerance"), descending=True)
    if len(failed):
        worst = failed.row(0, named=True)
        raise InterventionError(
            f"changing layers from cached residuals differs from whole forward passes in {len(failed)} of {len(frame)} "
            f"comparisons; worst: {worst['quantity']} of '{worst['intervention']}' at layer {worst['layer']}"
            f"{'' if worst['other'] is None else ' and ' + str(worst['other'])}: {worst['fast']:.9g} against "
            f"{worst['brute_force']:.9g}, tolerance {worst['tolerance']:.3g}. The results cannot be trusted: leave "
            "`interventions` out of stages_of_inference.parts, or raise ablation.verification.absolute and relative "
            "if rounding explains the difference"
        )


def _fast(
    model: Model,
    interventions: Sequence[Intervention],
    means: Means | None,
    text: Text,
    places: tuple[Int[Array, " token"], Int[Array, " token"]],
    batch_size: int,
) -> Float64[Array, "interventions quantities token"]:
    """The way of the run, in the precision of `model`: several sequences per pass, cut after the last token."""
    passes, (row, position) = LayerPasses(model, means), places
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # mps has no float64
    readout = model.readout(model.dtype).to(device)
    parts, chosen = [], np.unique(row)
    for start in range(0, len(chosen), batch_size):
        rows = chosen[start : start + batch_size]
        inside = np.isin(row, rows)
        here = np.searchsorted(rows, row[inside]), position[inside]
        at = tuple(torch.from_numpy(place).to(model.device) for place in here)
        residuals = passes.clean(torch.from_numpy(text.tokens[rows, : here[1].max() + 1]).long())
        states = [passes.changed(residuals, each)[at] for each in interventions]
        targets = torch.from_numpy(text.tokens[row[inside], position[inside] + 1]).long()
        before, after = outcomes(readout, residuals[-1][at], states, targets, TOKENS_PER_CHUNK)
        found = [after[:, OUTCOMES.index(name.removesuffix("_change"))] for name in QUANTITIES]
        found[QUANTITIES.index("loss_change")] -= before[CLEAN_OUTCOMES.index("loss")]
        parts.append(np.stack(found, axis=1))
    return np.concatenate(parts, axis=2)


@torch.no_grad()
def _brute(
    model: Model,
    interventions: Sequence[Intervention],
    means: Means | None,
    text: Text,
    places: tuple[Int[Array, " token"], Int[Array, " token"]],
) -> tuple[Array, Array, Float64[Array, "interventions token"]]:
    """Whole passes from the tokens, and the quantities by their definitions from the model's own logits.

    Returns:
        The smallest and the largest value that is right, [interventions, quantities, token]: they differ for ranks
        among equal logits alone. The largest size of a log-probability, clean or changed.
    """
    passes, low, high, largest = LayerPasses(model, means), [], [], []
    row, position = places
    targets = torch.from_numpy(text.tokens[row, position + 1]).long().to(model.device)

    def log_probabilities(intervention: Intervention | None = None) -> Float64[Tensor, "token vocab"]:
        changed = intervention is not None and intervention.kind != "swap"
        hooks = passes.replacing(intervention) if changed else {}
        found = []
        for sequence in np.unique(row):
            at = torch.from_numpy(position[row == sequence]).to(model.device)
            # What comes after the last token compared changes nothing.
            tokens = torch.from_numpy(text.tokens[sequence, : int(at.max()) + 1]).long()
            found.append(hooked_forward(model.bridge, tokens[None].to(model.device), hooks)[0, at])
        return torch.cat(found).double().log_softmax(-1)

    clean = log_probabilities()
    top = clean.argmax(-1, keepdim=True)
    # Swaps of one pair of layers share the copies.
    for pair, group in groupby(interventions, lambda each: (each.layer, each.other) if each.kind == "swap" else None):
        with _copied(model, *pair) if pair else _unchanged():
            for each in group:
                lp = log_probabilities(each)
                kl = (clean.exp() * (clean - lp)).sum(-1)
                loss = (clean - lp).gather(-1, targets[:, None])[:, 0]
                exact = [kl, loss, -(lp.exp() * lp).sum(-1)]
                wanted = lp.gather(-1, top)
                near = TIE * (1 + wanted.abs())
                for into, larger in ((low, (lp > wanted - near).sum(-1) - 1), (high, (lp > wanted + near).sum(-1))):
                    ranks = [(larger == 0).double(), 1 / (1 + larger.double())]
                    into.append(torch.stack([*exact, *ranks]).cpu().numpy())
                sizes = torch.maximum(clean.abs(), lp.abs()).nan_to_num(nan=0.0, posinf=0.0)
                largest.append(sizes.amax(-1).cpu().numpy())
    return np.stack(low), np.stack(high), np.stack(largest)


@contextmanager
def _unchanged() -> Iterator[None]:
    yield


@contextmanager
def _copied(model: Model, first: int, second: int) -> Iterator[None]:
    """Every weight of two blocks copied into the other, by name, and back."""
    blocks = [dict(model.bridge.blocks[i].named_parameters(remove_duplicate=False)) for i in (first, second)]
    kept = [{name: weight.detach().clone() for name, weight in block.items()} for block in blocks]

    def put(values: list[dict[str, Tensor]]) -> None:
        for block, given in zip(blocks, values, strict=True):
            for name, weight in block.items():
                weight.data.copy_(given[name])

    put(kept[::-1])
    try:
        yield
    finally:
        put(kept)
