"""Rule `score_copying`: what ablation does to the answers, counted (METHODS B4).

From the labels and entropies of every prompt under every variant: how labels move, global transition scores and
conversion ratios, their place among the control sets, relations, doses, and whether a flip follows the entropy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from neuronlab.copying_breakdowns import count_classes, score_doses, score_relations
from neuronlab.copying_examples import choose_examples, with_texts
from neuronlab.copying_flips import predict_flips, read_changes, summarize_flips
from neuronlab.decoded_labels import Decoded, read_decoded
from neuronlab.fact_bootstrap import FactBootstrap
from neuronlab.tables import Provenance, read_table, write_table
from neuronlab.transitions import rank_among_controls, score_variants
from neuronlab.variant_groups import CLEAN

Array = np.ndarray
DOSE = "dose"  # the replacement of clamped variants


class ScoreError(ValueError):
    """Tables that cannot be scored."""


def score_copying(
    *,
    facts: str | Path,
    conflicts: str | Path,
    variants: str | Path,
    decoded: Sequence[str | Path],
    continuations: Sequence[str | Path],
    states: Sequence[str | Path],
    verification: str | Path,
    class_counts: str | Path,
    transitions: str | Path,
    scores: str | Path,
    control_tests: str | Path,
    relations: str | Path,
    doses: str | Path,
    flips: str | Path,
    flip_prediction: str | Path,
    examples: str | Path,
    replacement: str,
    examples_per_set: int,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Read facts, conflicts, variants, shards and their verification; write all the other tables.

    Args:
        decoded, continuations, states: one table per shard, shard i of n with prompts i, i + n, ...
        replacement: the one that relations are shown for, and whose flips come first among the examples.
        examples_per_set: flipped prompts shown per selection, at most.
        resamples, level, seed: of the bootstrap over facts.

    Raises:
        ScoreError: a verification that failed, tables whose rows are not numbered from 0, an unknown replacement.
        DecodedError, StateError, ExampleError: shards that do not belong to these prompts and variants.
        TableError: a table that is missing or not what it should be.
    """
    check_verification(verification)
    prompts, models = read_table(conflicts, "conflicts"), read_table(variants, "variants")
    check_numbers(prompts, "prompt", conflicts)
    check_numbers(models, "variant", variants)
    if models.is_empty() or models["kind"][CLEAN] != "clean":
        raise ScoreError(f"{variants}: variant {CLEAN} is not the clean model; make the table again")
    selected = models.filter((pl.col("kind") == "selection") & (pl.col("replacement") != DOSE))
    if len(selected) and replacement not in selected["replacement"]:
        known = ", ".join(selected["replacement"].unique(maintain_order=True))
        raise ScoreError(f"{variants}: no replacement '{replacement}'; context_copying.replacements gave {known}")
    if prompts.is_empty():
        print("no conflict prompt: the scores are empty (funnel.parquet says where prompts were lost)", file=sys.stderr)

    found = read_decoded(decoded, len(prompts), len(models))
    bootstrap = FactBootstrap.of(clusters_of(prompts, read_table(facts, "facts"), facts), resamples, level, seed)
    empty = empty_answers(found, continuations)
    if empty.any():
        print(f"the clean model says nothing to {empty.sum()} of {len(empty)} prompts: labelled ND", file=sys.stderr)
    classes = count_classes(found.labels[CLEAN], empty, prompts, bootstrap)
    write_table(classes, class_counts, "class_counts", provenance)
    scored = models.filter((pl.col("variant") != CLEAN) & (pl.col("replacement") != DOSE))
    moved, table = score_variants(found.labels, found.entropy, scored, bootstrap)
    write_table(moved, transitions, "transitions", provenance)
    write_table(table, scores, "copying_scores", provenance)
    write_table(rank_among_controls(table), control_tests, "control_tests", provenance)
    shown = selected.filter(pl.col("replacement") == replacement)
    write_table(score_relations(found.labels, prompts, shown, bootstrap), relations, "copying_relations", provenance)
    clamped = models.filter(pl.col("replacement") == DOSE)
    if len(clamped):  # the clean model stands beside the doses that are compared with it
        clamped = pl.concat([models.filter(pl.col("variant") == CLEAN), clamped])
    write_table(score_doses(found, clamped, bootstrap), doses, "copying_doses", provenance)

    changes = read_changes(states, len(prompts), selected)
    write_table(summarize_flips(changes, found.labels, bootstrap), flips, "flips", provenance)
    write_table(predict_flips(changes, found.labels, bootstrap), flip_prediction, "flip_prediction", provenance)
    order = [
        replacement,
        *(name for name in selected["replacement"].unique(maintain_order=True) if name != replacement),
    ]
    chosen = choose_examples(found, selected, prompts["relation"].to_list(), order, examples_per_set)
    write_table(with_texts(chosen, found, prompts, continuations), examples, "copying_examples", provenance)


def empty_answers(found: Decoded, continuations: Sequence[str | Path]) -> Bool[np.ndarray, " prompts"]:
    """Prompts whose continuation under the clean model is empty before its first delimiter."""
    tables = [read_table(path, "continuations") for path in continuations]
    texts = pl.concat([table.select("prompt", "continuation", "answer") for table in tables])
    texts = texts.unique(["prompt", "continuation"], keep="first")  # `with_texts` refuses doubles by name
    clean = pl.DataFrame({"prompt": range(found.labels.shape[1]), "continuation": found.continuation[CLEAN]})
    joined = clean.cast(pl.Int32).join(texts, on=["prompt", "continuation"], how="left", maintain_order="left")
    return (joined["answer"].str.len_chars() == 0).fill_null(False).to_numpy().astype(bool)


def check_verification(path: str | Path) -> None:
    """Nothing is scored that was decoded wrongly.

    Raises:
        ScoreError: if the fast path and brute force disagreed anywhere.
    """
    failed = read_table(path, "decoding_verification").filter(~pl.col("passed"))
    if len(failed):
        row = failed.row(0, named=True)
        raise ScoreError(
            f"{path}: {len(failed)} checks failed, first {row['quantity']} of prompt {row['prompt']} under variant "
            f"{row['variant']} (error {row['error']:.3g}, tolerance {row['tolerance']:.3g}): nothing is scored on it; "
            "see context_copying.verification"
        )


def check_numbers(table: pl.DataFrame, name: str, path: str | Path) -> None:
    """A row's number is its place, so that matrices can be indexed by it.

    Raises:
        ScoreError: unless the rows are numbered from 0.
    """
    if not np.array_equal(table[name].to_numpy(), np.arange(len(table))):
        raise ScoreError(f"{path}: column '{name}' does not number the rows from 0; make the table again")


def clusters_of(prompts: pl.DataFrame, facts: pl.DataFrame, path: str | Path) -> Int[Array, " prompts"]:
    """A number per (subject, relation) pair: two facts that differ in their objects only are one cluster.

    Raises:
        ScoreError: a prompt about a fact that is not there.
    """
    pairs = facts.select("fact", cluster=pl.struct("subject", "relation").rank("dense"))
    joined = prompts.select("fact").join(pairs, on="fact", how="left", maintain_order="left")
    if joined["cluster"].null_count():
        raise ScoreError(f"{path}: conflict prompts about facts that are not in it; make the conflicts again")
    return joined["cluster"].to_numpy().astype(np.int64)
