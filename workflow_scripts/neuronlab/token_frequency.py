"""Rule `select_token_frequency`: neurons that move the output toward the unigram distribution or away from it.

Study A picks them by eye from a plot of mean |change of KL(P_freq || P_model)| against M_freq = 1 - DE_freq/TE (METHODS
A3). Here a stated rule does, with half of the documents (a seeded permutation) to select on and the other half to
report on:

1. Candidates: the last-layer neurons with the largest te_kl on the selection half whose M_freq is defined there.
2. Statistic: m = 1 - DE_g/TE of the configured outcome on a seeded sample of that half's tokens, with the logits'
   projection on the log-unigram direction g frozen. Null: the same, on the same tokens, with each of n random logit
   directions of the same variance frozen instead (`random_directions`).
3. p_value_single = (1 + b)/(1 + n), b random directions with m_r >= m. p_value: b random directions whose largest m_r
   over *all* candidates is >= m (maximum statistic, as Westfall and Young), which holds the family-wise error.
4. Selected: p_value at most the level, and m above the null's mean; at most `count`, those of the largest te_kl.

The columns te_kl and m_freq are means over all tokens of the half, from the ablation's shards; p-values and m_null come
from the sample, whose own m for g stands in random_directions.parquet as direction -1. On the reporting half,
te_kl_report and m_freq_report have intervals of a bootstrap over its documents, and p_value_report is p_value_single
anew: fresh tokens, fresh directions, matched to the variance there.

What the test asks is whether an effect runs along g more than along an arbitrary direction of the same variance. It is
meant for loss and entropy. A change of KL(P_freq || P_model) runs along g by its definition, whatever a neuron writes:
with that outcome more than the level's share of neurons may pass. Only the variance is matched, not the mean: a neuron
that scales all logits (an entropy neuron) also moves the mean's part along g.

Under a softcap the projection is frozen on the logits after the cap, for g and for random directions alike.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from neuronlab.direction_test import compare_with_null
from neuronlab.document_halves import documents_of, effects_of_halves, split_documents
from neuronlab.final_states import AblationInputs
from neuronlab.schemas import OUTCOMES, SCHEMAS
from neuronlab.selection import KINDS, draw_controls
from neuronlab.statistics import Interval, bootstrap_weights
from neuronlab.tables import Provenance, read_table, write_table

Array = np.ndarray
NAME = "token_frequency"
PLACE = ("layer", "neuron")
TABLES = ("token_frequency", "random_directions", "selection")


class TokenFrequencyError(ValueError):
    """A configuration that token-frequency neurons cannot be selected by."""


def select_token_frequency(
    *,
    inputs: AblationInputs,
    shards: Sequence[str | Path],
    frequency_cosine: str | Path,
    neurons: str | Path,
    weights_selection: str | Path,
    token_frequency: str | Path,
    random_directions: str | Path,
    selection: str | Path,
    replacement: str | None = None,
    outcome: str = "loss",
    candidates: int = 128,
    directions: int = 99,
    tokens: int = 1024,
    level: float = 0.05,
    count: int | None = None,
    control_sets: int = 5,
    resamples: int = 1000,
    interval_level: float = 0.95,
    te_floor: float = 1e-6,
    published: Sequence[int] = (),
    provenance: Provenance | None = None,
) -> None:
    """Write token_frequency.parquet, random_directions.parquet and the effect-based selection.parquet.

    Of a text of one document all three are empty, and a warning says so.

    Args:
        shards: tables "ablation_shard" of the same text, with sums per (neuron, document).
        frequency_cosine, neurons, weights_selection: tables "frequency_cosine", "neurons", "selection".
        replacement: which one; the first configured one by default.
        outcome: "loss", "entropy" or "kl": the effect that m_freq is about.
        candidates, directions, tokens: how many of each; tokens per half.
        level: largest family-wise error.
        count: keep at most so many; None for all.
        control_sets: uniform and norm-matched sets; fewer, loudly, where the layer has too few neurons.
        interval_level: nominal coverage of the intervals.
        te_floor: 1 - DE/TE is missing where TE is not above this (nats).
        published: last-layer neurons that the study of this model names.

    Raises:
        TokenFrequencyError: an unknown outcome, or a selection by weights called token_frequency.
        HalvesError: shards that do not fit.
        ReplacementError, AblationError, TableError, ModelError: see `final_states.AblationInputs.set_up`.
    """
    if outcome not in OUTCOMES:
        raise TokenFrequencyError(f"token_frequency.outcome is '{outcome}'; it is one of {', '.join(OUTCOMES)}")
    by_weights = read_table(weights_selection, "selection")
    if NAME in by_weights["set"].to_list():
        raise TokenFrequencyError(f"selections.{NAME}: the name is taken by the effect-based set; rename it")
    cosines, weights = read_table(frequency_cosine, "frequency_cosine"), read_table(neurons, "neurons")
    setup = inputs.set_up([replacement or inputs.replacements[0]])
    layer = setup.last.layer
    replaced = setup.replacements[0].name
    documents = documents_of(shards, replaced, layer)
    made = {**(provenance or {}), "kernel": setup.last.kernel, "outcome": outcome}
    if len(documents) < 2:
        print(
            "WARNING: no token-frequency neurons: the text has one document, but half of the documents select and the "
            "other half report; use a text of several documents",
            file=sys.stderr,
        )
        for path, name in zip((token_frequency, random_directions, selection), TABLES, strict=True):
            empty = {column: spec.dtype for column, spec in SCHEMAS[name].items()}
            write_table(pl.DataFrame(schema=empty), path, name, made)
        return
    halves = split_documents(documents, inputs.seed)
    effects = effects_of_halves(
        shards,
        replaced,
        layer,
        setup.last.neurons,
        halves,
        outcome,
        te_floor=te_floor,
        weights=bootstrap_weights(len(halves[1]), resamples, inputs.seed),
        level=interval_level,
    )
    te_kl, m_freq = effects.te_kl, effects.m_freq
    chosen = choose_candidates(te_kl, m_freq, candidates)
    tested = compare_with_null(
        setup, chosen, halves, outcome, inputs=inputs, directions=directions, tokens=tokens, te_floor=te_floor
    )
    frame = pl.DataFrame({"layer": np.full(len(te_kl), layer), "neuron": np.arange(len(te_kl))})
    frame = frame.cast(pl.Int32).join(cosines, on=PLACE, how="left", maintain_order="left")
    frame = frame.with_columns(
        te_kl=te_kl,
        m_freq=missing(m_freq),
        candidate=np.isin(np.arange(len(te_kl)), chosen),
        n_documents_selection=pl.lit(len(halves[0])),
        n_documents_report=pl.lit(len(halves[1])),
        published=np.isin(np.arange(len(te_kl)), list(published)),
        **interval_columns("te_kl_report", effects.te_kl_report),
        **interval_columns("m_freq_report", effects.m_freq_report),
        **{name: spread(chosen, values, len(te_kl)) for name, values in tested.columns().items()},
    )
    frame = mark_selected(frame, spread(chosen, tested.m, len(te_kl)), level, count)
    if outcome == "kl":
        print(
            "NOTE: token_frequency.outcome is kl: changes of the divergence run along the log-unigram direction by "
            "definition, so that the test is too lenient; loss and entropy are what it is meant for",
            file=sys.stderr,
        )
    table, note = selection_table(frame, weights, by_weights, layer, control_sets, inputs.seed)
    for message in (*tested.notes, *note):
        print(message, file=sys.stderr)
    for found, path, name in zip(
        (frame, tested.table, table), (token_frequency, random_directions, selection), TABLES, strict=True
    ):
        write_table(found, path, name, made)


def choose_candidates(te_kl: Float[Array, " neurons"], m_freq: Float[Array, " neurons"], n: int) -> Int[Array, " n"]:
    """The `n` neurons with the largest te_kl whose m_freq is defined, fewer if there are fewer; ties by index."""
    order = np.argsort(-te_kl, kind="stable")
    return order[~np.isnan(m_freq[order])][:n]


def missing(values: Float[Array, " rows"]) -> pl.Series:
    """NaN as null."""
    return pl.Series(values, dtype=pl.Float64).fill_nan(None)


def spread(chosen: Int[Array, " candidates"], values: Float[Array, " candidates"], n: int) -> pl.Series:
    """Values of some neurons as a column over all `n`."""
    column = np.full(n, np.nan)
    column[chosen] = values
    return missing(column)


def interval_columns(name: str, interval: Interval) -> dict[str, pl.Series]:
    """`name`, `name_low`, `name_high`."""
    return {
        name: missing(interval.estimate),
        f"{name}_low": missing(interval.low),
        f"{name}_high": missing(interval.high),
    }


def mark_selected(frame: pl.DataFrame, m: pl.Series, level: float, count: int | None) -> pl.DataFrame:
    """`frame` with the column `selected`; `m` is the statistic on the sample."""
    passed = (frame["candidate"] & (frame["p_value"] <= level) & (m > frame["m_null"])).fill_null(False)
    kept = (
        frame.filter(passed)
        .sort("te_kl", "neuron", descending=[True, False])["neuron"]
        .head(len(frame) if count is None else count)
    )
    return frame.with_columns(selected=pl.col("neuron").is_in(kept.to_list()))


def selection_table(
    frame: pl.DataFrame, weights: pl.DataFrame, by_weights: pl.DataFrame, layer: int, control_sets: int, seed: int
) -> tuple[pl.DataFrame, list[str]]:
    """selection.parquet of the selected neurons, largest te_kl first, with their controls; and what must be said.

    Controls are last-layer neurons that write something and that no selection holds, by weights or by effects.
    """
    schema = {name: column.dtype for name, column in SCHEMAS["selection"].items()}
    chosen = frame.filter("selected").sort("te_kl", "neuron", descending=[True, False]).select(*PLACE)
    if not len(chosen):
        return pl.DataFrame(schema=schema), [
            f"NOTE: no token-frequency neuron: no candidate of layer {layer} passes the test; the set is empty"
        ]
    chosen = chosen.join(weights.select(*PLACE, "norm"), on=PLACE, how="left", maintain_order="left")
    taken = pl.concat([by_weights.filter(kind="selection").select(*PLACE), chosen.select(*PLACE)])
    available = weights.filter(pl.col("layer") == layer, pl.col("norm") > 0).join(taken, on=PLACE, how="anti")
    possible = min(control_sets, len(available) // len(chosen))
    notes = []
    if possible < control_sets:
        notes.append(
            f"WARNING: token_frequency has {possible} control sets of each kind instead of {control_sets}: layer "
            f"{layer} has {len(available)} neurons in no selection, {len(chosen)} are needed per set"
        )
    rows = (
        chosen.select(*PLACE)
        .with_row_index("rank")
        .with_columns(
            pl.lit(NAME).alias("set"),
            pl.lit("selection").alias("kind"),
            pl.lit(NAME).alias("rule"),
            *(pl.lit(None).alias(column) for column in ("control_of", "matched", "norm_ratio")),
        )
    )
    tables = [rows.select(list(schema)).cast(schema)]
    tables += [draw_controls(NAME, kind, chosen, available, possible, seed) for kind in KINDS if possible]
    return pl.concat(tables), notes
