"""What one survey says of a model in a few numbers, each with its interval (table "survey_summary").

Rules, the same for every model so that shares can be compared:

* entropy neuron: rho above chance (exact p-value, Holm-corrected over the layer, below 0.05), and more than half of its
  mean effect on the entropy goes through the final norm's scale (1 - DE/TE > 1/2), which is only asked of neurons whose
  total effect is above the layer's median: the ratio of a silent neuron is noise;
* token-frequency neuron: |cos(w_out W_U, log-unigram direction)| > 0.3. Beside it stands the share of random directions
  for which that holds: W_U itself leans towards the log-unigram direction, so the share is not zero.

Largest values (`max_m_*`) are taken among neurons whose total effect is above the layer's median, for the same reason.
Their intervals are those of the neuron found; that it was chosen as the largest is not in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from neuronlab.null_space import largest_tail_ratio, tail_start
from neuronlab.paired_tests import holm
from neuronlab.statistics import (
    bootstrap_weights,
    clustered_function_interval,
    clustered_interval,
    mediated_fraction,
    wilson_interval,
)

Array = np.ndarray
ALPHA = 0.05
MEDIATED = 0.5
FREQUENCY_COSINE = 0.3
RATIOS = {  # ratio: total effect, and the effect with something frozen
    "m_loss": ("loss_total", "loss_direct"),
    "m_entropy": ("entropy_total", "entropy_direct"),
    "m_freq_loss": ("loss_total", "loss_unigram"),
}


@dataclass(frozen=True)
class Sums:
    """Sums over the counted tokens of each document.

    Attributes:
        counts: counted tokens.
        outcomes: "loss", "entropy" and "accuracy" of the clean run.
        effects: "loss_total" and so on: |change| by replacing each neuron's activation.
    """

    counts: Float[Array, " documents"]
    outcomes: dict[str, Float[Array, " documents"]]
    effects: dict[str, Float[Array, "documents neurons"]]


def beyond_chance(p: Float[Array, " neurons"]) -> Bool[Array, " neurons"]:
    """Neurons whose rho is larger than a random direction's, at family-wise error `ALPHA` over the layer (Holm)."""
    return np.nan_to_num(holm(p), nan=1.0) < ALPHA


def audible(total: Float[Array, " neurons"]) -> Bool[Array, " neurons"]:
    """Neurons whose total effect is above the layer's median."""
    return total > np.median(total)


def entropy_neurons(neurons: pl.DataFrame) -> Bool[Array, " neurons"]:
    """Rows of a table "survey_neurons" that are entropy neurons by this module's rule."""
    mediated = neurons["m_entropy"].fill_null(-np.inf).to_numpy() > MEDIATED
    rho_p = neurons["rho_p_value"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return beyond_chance(rho_p) & mediated & audible(neurons["te_entropy"].to_numpy())


def summary_frame(
    neurons: pl.DataFrame,
    sums: Sums,
    *,
    values: Float[Array, " d"],
    heads: Float[Array, "sequences heads"],
    random_cosines: Float[Array, " directions"],
    resamples: int,
    level: float,
    te_floor: float,
    seed: int,
) -> pl.DataFrame:
    """The table "survey_summary".

    Args:
        neurons: table "survey_neurons".
        values: singular values of W_U without the exact null direction.
        heads: induction score of every head on every random sequence.
        random_cosines: cosines of random directions with the log-unigram direction.
    """
    rows: list[tuple[str, int, float, float, float]] = []
    nan = float("nan")

    def add(name: str, n: float, value: float, low: float = nan, high: float = nan) -> None:
        rows.append((name, int(n), float(value), float(low), float(high)))

    def add_share(name: str, hits: Bool[Array, " n"]) -> None:
        found = wilson_interval(hits.sum(), len(hits), level)
        add(name, len(hits), found.estimate, found.low, found.high)

    weights = bootstrap_weights(len(sums.counts), resamples, seed)
    for name, outcome in sums.outcomes.items():
        found = clustered_interval(outcome, sums.counts, weights, level)
        add(name, sums.counts.sum(), found.estimate, found.low, found.high)
    best = heads[:, [int(heads.mean(0).argmax())]]
    drawn = bootstrap_weights(len(best), resamples, seed)
    found = clustered_interval(best, np.ones(len(best)), drawn, level)
    add("induction_head", len(best), found.estimate[0], found.low[0], found.high[0])
    add_share("entropy_neurons", entropy_neurons(neurons))
    add_share("rho_beyond_chance", beyond_chance(neurons["rho_p_value"].fill_null(np.nan).to_numpy()))
    add_share("frequency_neurons", np.abs(neurons["frequency_cosine"].to_numpy()) > FREQUENCY_COSINE)
    add_share("frequency_chance", np.abs(random_cosines) > FREQUENCY_COSINE)
    rho = neurons["rho"].drop_nulls()
    add("max_rho", len(rho), rho.max() if len(rho) else nan)
    for ratio, (total, direct) in RATIOS.items():
        known = np.flatnonzero(
            audible(neurons[f"te_{total.split('_')[0]}"].to_numpy()) & neurons[ratio].is_not_null().to_numpy()
        )
        if not len(known):
            add(f"max_{ratio}", 0, nan)
            continue
        top = known[[neurons[ratio].to_numpy()[known].argmax()]]
        found = clustered_function_interval(
            lambda whole, part: mediated_fraction(whole, part, te_floor),
            (sums.effects[total][:, top], sums.effects[direct][:, top]),
            sums.counts,
            weights,
            level,
        )
        add(f"max_{ratio}", len(known), found.estimate[0], found.low[0], found.high[0])
    enough = len(values) > 1
    tail = len(values) - tail_start(len(values)) if enough else 0
    add("null_space_ratio", tail, largest_tail_ratio(values)[1] if enough else nan)
    return pl.DataFrame(rows, schema=["quantity", "n", "value", "value_low", "value_high"], orient="row").with_columns(
        pl.col("value", "value_low", "value_high").cast(pl.Float64).fill_nan(None)
    )
