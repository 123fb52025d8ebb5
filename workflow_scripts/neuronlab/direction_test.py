"""Is an effect along the log-unigram direction more than one along an arbitrary logit direction? (METHODS A3)

Each half of the documents gives a seeded sample of tokens and random directions of its own (`random_directions`);
1 - DE/TE of every candidate is compared between the log-unigram direction and these, singly and by the maximum over the
candidates. `token_frequency` selects by what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from neuronlab.final_states import AblationInputs, Setup
from neuronlab.frozen_directions import Frozen, draw_directions, draw_tokens, frozen_effects, gather
from neuronlab.random_directions import RowSpace
from neuronlab.statistics import mediated_fraction, rank_p_value

Array = np.ndarray
HALVES = ("selection", "report")


@dataclass(frozen=True)
class Comparison:
    """What the random directions say of the candidates; NaN where 1 - DE/TE is undefined on a sample."""

    m: Float[Array, " candidates"]
    m_null: Float[Array, " candidates"]
    p_single: Float[Array, " candidates"]
    p: Float[Array, " candidates"]
    p_report: Float[Array, " candidates"]
    table: pl.DataFrame
    notes: tuple[str, ...]

    def columns(self) -> dict[str, Float[Array, " candidates"]]:
        """As token_frequency.parquet names them."""
        return {
            "m_null": self.m_null,
            "p_value_single": self.p_single,
            "p_value": self.p,
            "p_value_report": self.p_report,
        }


def compare_with_null(
    setup: Setup,
    chosen: Int[Array, " candidates"],
    halves: tuple[Array, Array],
    outcome: str,
    *,
    inputs: AblationInputs,
    directions: int,
    tokens: int,
    te_floor: float,
) -> Comparison:
    """Freeze the log-unigram direction and random ones on a sample of each half."""
    last, candidates = setup.last, chosen.tolist()
    assert last.reference is not None
    # Ids that the log-unigram direction leaves out are zero in it; a real id may be zero by chance, harmlessly.
    space = RowSpace.of(last.readout, (last.reference.direction != 0) | last.readout.real.to(last.device))
    generators = [np.random.default_rng([inputs.seed, 1 + i]) for i in range(2)]
    drawn = [draw_tokens(setup.text, *pair) for pair in zip(halves, [tokens] * 2, generators, strict=True)]
    samples = gather(setup, drawn, candidates, inputs.batch_size)
    m, tables, notes = [], [], []
    for half, sample, generator in zip(HALVES, samples, generators, strict=True):
        frozen = draw_directions(last, space, sample, directions, generator, inputs.tokens_per_chunk)
        total, direct = frozen_effects(
            last,
            candidates,
            sample,
            frozen.directions,
            outcome,
            tokens_per_chunk=inputs.tokens_per_chunk,
            label=f"freeze, {half} half",
        )
        m.append(mediated_fraction(np.broadcast_to(total, direct.shape), direct, te_floor))
        tables.append(directions_table(half, frozen, m[-1], len(sample)))
        notes += direction_notes(half, frozen)
    single, family = p_values(m[0])
    defined = ~np.isnan(m[0][0])
    null = np.full(len(candidates), np.nan)
    null[defined] = m[0][1:, defined].mean(0)
    return Comparison(m[0][0], null, single, family, p_values(m[1])[0], pl.concat(tables), tuple(notes))


def p_values(
    m: Float[Array, "directions candidates"],
) -> tuple[Float[Array, " candidates"], Float[Array, " candidates"]]:
    """p-values of the first direction among the others: for each candidate alone, and by the maximum over them.

    NaN where m is undefined, which does not depend on the direction.
    """
    defined = ~np.isnan(m[0])
    single, family = np.full(m.shape[1], np.nan), np.full(m.shape[1], np.nan)
    if defined.any():
        observed, null = m[0, defined], m[1:, defined]
        single[defined] = rank_p_value(observed, null.T)
        family[defined] = rank_p_value(observed, np.broadcast_to(null.max(1), (len(observed), len(null))))
    return single, family


def directions_table(
    half: str, frozen: Frozen, m: Float[Array, "directions candidates"], n_tokens: int
) -> pl.DataFrame:
    """Rows of random_directions.parquet; the log-unigram direction is -1."""
    defined = m[:, ~np.isnan(m[0])]
    some = defined.shape[1] > 0
    nothing = [None] * len(m)
    return pl.DataFrame(
        {
            "direction": np.arange(-1, len(m) - 1),
            "half": [half] * len(m),
            "variance": frozen.variance,
            "cosine": frozen.cosine,
            "m_max": pl.Series(defined.max(1) if some else nothing, dtype=pl.Float64),
            "m_mean": pl.Series(defined.mean(1) if some else nothing, dtype=pl.Float64),
            "n_tokens": [n_tokens] * len(m),
        }
    )


def direction_notes(half: str, frozen: Frozen) -> list[str]:
    """What must be said of directions that are not as they should be."""
    target, reached = frozen.variance[0], frozen.variance[1:]
    if np.abs(reached - target).max(initial=0.0) > 1e-3 * target:
        return [
            f"WARNING: token_frequency, {half} half: no direction of the read-out's row space has the variance of the "
            f"log-unigram direction, {target:.4g}; random ones have {reached.min():.4g} to {reached.max():.4g}"
        ]
    if not frozen.orthogonal:
        return [
            f"WARNING: token_frequency, {half} half: directions orthogonal to the log-unigram direction do not reach "
            f"its variance, {target:.4g}; the random ones have |cosine| up to "
            f"{np.abs(frozen.cosine[1:]).max(initial=0.0):.2f} with it, so that the test is conservative"
        ]
    return []
