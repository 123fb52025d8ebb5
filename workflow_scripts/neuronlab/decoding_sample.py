"""Which (prompt, variant) pairs are decoded again for verification: seeded, and of every sort there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from neuronlab.variant_groups import CLEAN

# Sorts of pairs: what is replaced, by a statistic or a dose, and what that did. Those that changed come first.
CHANGES = ("label", "continuation", "nothing")
SORT = ("change", "kind", "clamped")


def draw_pairs(decoded: Sequence[pl.DataFrame], variants: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """`n` different rows of the tables "decoded", equally many of each sort as far as there are.

    Sorts are what a variant changes (the label, only the continuation, nothing) by the kind of its set by whether the
    set is clamped to a dose. Within a sort, replacements take turns.

    Args:
        decoded: one table for each shard, with all variants of its prompts.

    Returns:
        Rows of "decoded" with `SORT` and replacement, in order of prompt and variant.
    """
    generator = np.random.default_rng([seed, 0x6476])
    about = variants.select("variant", "kind", "replacement", clamped=pl.col("dose").is_not_null())
    few = []
    for table in decoded:
        clean = table.filter(pl.col("variant") == CLEAN).select(
            "prompt", clean_label=pl.col("label"), clean_continuation=pl.col("continuation")
        )
        sorted_out = (
            table.join(clean, on="prompt", how="left", maintain_order="left")
            .join(about, on="variant", how="left", maintain_order="left")
            .with_columns(
                change=pl.when(pl.col("label") != pl.col("clean_label"))
                .then(pl.lit(CHANGES[0]))
                .when(pl.col("continuation") != pl.col("clean_continuation"))
                .then(pl.lit(CHANGES[1]))
                .otherwise(pl.lit(CHANGES[2]))
            )
            .drop("clean_label", "clean_continuation")
        )
        few.append(_thinned(sorted_out, n, generator))
    if not few:
        return pl.DataFrame()
    return _taken(pl.concat(few), n, generator).sort("prompt", "variant")


def _thinned(rows: pl.DataFrame, n: int, generator: np.random.Generator) -> pl.DataFrame:
    """At most `n` rows, drawn at random, of each sort and replacement."""
    luck = pl.Series("luck", generator.random(len(rows)), dtype=pl.Float64)
    rows = rows.with_columns(luck)
    place = pl.col("luck").rank("ordinal").over(*SORT, "replacement")
    return rows.filter(place <= n).drop("luck")


def _taken(rows: pl.DataFrame, n: int, generator: np.random.Generator) -> pl.DataFrame:
    """`n` rows: sorts take turns, within a sort replacements do, within those luck decides."""
    luck = pl.Series("luck", generator.random(len(rows)), dtype=pl.Float64)
    change = pl.col("change").cast(pl.Enum(CHANGES)).alias("order")
    turn_of_replacement = pl.col("luck").rank("ordinal").over(*SORT, "replacement").alias("turn")
    rows = rows.with_columns(luck, change).with_columns(turn_of_replacement)
    rows = rows.sort("turn", "luck").with_columns(turn=pl.int_range(pl.len()).over(SORT))
    return rows.sort("turn", "order", "kind", "clamped").head(n).drop("turn", "luck", "order")
