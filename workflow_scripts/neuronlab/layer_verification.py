"""Interventions from cached residuals, of this very run, against whole float64 forward passes on a sample of tokens.

The brute force shares with the fast path neither its start (it reads the tokens, not a residual), nor its exchange of
weights (values are copied from block to block), nor its read-out (the model's own logits, unfolded): outputs are
replaced by hooks in a pass through all blocks. Both sides are float64.

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
from jaxtyping import Float64, Int
from torch import Tensor

from neuronlab.bridge_parts import hooked_forward
from neuronlab.final_states import Text
from neuronlab.layer_means import MEAN_OUTPUTS
from neuronlab.layer_outcomes import CLEAN_OUTCOMES, OUTCOMES, outcomes
from neuronlab.layer_passes import Intervention, InterventionError, LayerPasses, Means
from neuronlab.models import Model
from neuronlab.precise_copies import fits_twice, precise_copy
from neuronlab.schemas_stages import STAGES_TABLES
from neuronlab.token_sample import sample_counted

Array = np.ndarray
QUANTITIES = ("kl", "loss_change", "entropy", "agreement", "reciprocal_rank")
TIE = 1e-10  # logits nearer to one another than this, in units of 1 + the larger size, may come in either order
TOKENS_PER_CHUNK = 32


def verify_interventions(
    model: Model,
    text: Text,
    interventions: Sequence[Intervention],
    means: Means | None,
    *,
    tokens: int,
    absolute: float,
    relative: float,
    float64_mb: float,
    seed: int,
) -> pl.DataFrame:
    """Table "intervention_verification", at the token with the largest error per intervention and quantity.

    Without a row, loudly, where a float64 copy of the model does not fit into `float64_mb`, or `tokens` is 0.

    Args:
        means: of the run; both sides put them in place.
        tokens: how many counted tokens are compared, drawn by the seed.
    """
    schema = {name: column.dtype for name, column in STAGES_TABLES["intervention_verification"].items()}
    exact = model.spec.dtype == "float64"
    if not tokens or not interventions:
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
    sample = sample_counted(text.counted, tokens, seed)
    row, position = np.nonzero(sample)
    chosen, row = np.unique(row, return_inverse=True)
    # What comes after the last token compared changes nothing.
    length = int(position.max()) + 1
    sequences = torch.from_numpy(text.tokens[chosen, :length]).long()
    targets = torch.from_numpy(text.tokens[chosen[row], position + 1]).long()
    places = torch.from_numpy(row), torch.from_numpy(position)
    fast = _fast(precise, interventions, means, sequences, places, targets)
    low, high = _brute(precise, interventions, means, sequences, places, targets)
    brute = np.clip(fast, low, high)
    if not exact:
        own = _fast(model, interventions, means, sequences, places, targets)
        worst = np.abs(own - np.clip(own, low, high)).max(axis=(0, 2))
        listed = ", ".join(f"{name} {value:.1e}" for name, value in zip(QUANTITIES, worst, strict=True))
        print(f"largest error of the run's own {model.spec.dtype}: {listed}", file=sys.stderr)
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
    return judge(frame, absolute, relative)


def judge(frame: pl.DataFrame, absolute: float, relative: float) -> pl.DataFrame:
    """Errors, their tolerance, and whether they are within it; what is not finite is not."""
    return frame.with_columns(
        error=(pl.col("fast") - pl.col("brute_force")).abs(),
        tolerance=absolute + relative * pl.col("brute_force").abs(),
    ).with_columns(passed=((pl.col("error") <= pl.col("tolerance")) & pl.col("error").is_finite()).fill_null(False))


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
    sequences: Int[Tensor, "batch position"],
    places: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
    targets: Int[Tensor, " token"],
) -> Float64[Array, "interventions quantities token"]:
    """The way of the run, in the precision of `model`."""
    passes = LayerPasses(model, means)
    residuals = passes.clean(sequences)
    at = tuple(place.to(model.device) for place in places)
    states = [passes.changed(residuals, each)[at] for each in interventions]
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # mps has no float64
    readout = model.readout(model.dtype).to(device)
    before, after = outcomes(readout, residuals[-1][at], states, targets, TOKENS_PER_CHUNK)
    found = [after[:, OUTCOMES.index(name.removesuffix("_change"))] for name in QUANTITIES]
    found[QUANTITIES.index("loss_change")] -= before[CLEAN_OUTCOMES.index("loss")]
    return np.stack(found, axis=1)


@torch.no_grad()
def _brute(
    model: Model,
    interventions: Sequence[Intervention],
    means: Means | None,
    sequences: Int[Tensor, "batch position"],
    places: tuple[Int[Tensor, " token"], Int[Tensor, " token"]],
    targets: Int[Tensor, " token"],
) -> tuple[Float64[Array, "interventions quantities token"], Float64[Array, "interventions quantities token"]]:
    """Whole passes from the tokens, and the quantities by their definitions from the model's own logits.

    Returns:
        The smallest and the largest value that is right: they differ for ranks among equal logits alone.
    """
    passes, low, high = LayerPasses(model, means), [], []
    at, targets = tuple(place.to(model.device) for place in places), targets.to(model.device)

    def log_probabilities(intervention: Intervention | None = None) -> Float64[Tensor, "token vocab"]:
        changed = intervention is not None and intervention.kind != "swap"
        hooks = passes.replacing(intervention) if changed else {}
        return hooked_forward(model.bridge, sequences.to(model.device), hooks)[at].double().log_softmax(-1)

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
    return np.stack(low), np.stack(high)


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
