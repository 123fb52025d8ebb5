"""The columns of every table: one place that says what a file holds, in which type and in which unit.

Each entry of `SCHEMAS` maps a table's name to its columns; a column carries its Polars type, a sentence
that names the unit, and whether it may hold missing values. `tables.write_table` refuses a frame that
deviates, so a reader may rely on what stands here. `results/README.md` is generated from it.

Conventions: `layer` and `neuron` count from 0; losses, entropies and divergences are in nats; an effect
is *after minus before*; `*_low` and `*_high` are the ends of a percentile bootstrap interval clustered by
document; `n_*` says over how many.
"""

from __future__ import annotations

import polars as pl

from neuronlab.schema_columns import (
    BOOL,
    F64,
    I32,
    I64,
    NEURON,
    OUTCOMES,
    RANK_VARIANTS,
    REPLACEMENT,
    STR,
    TOKEN,
    VARIANTS,
    Column,
    Schema,
    effects,
)
from neuronlab.schemas_comparison import COMPARISON
from neuronlab.schemas_induction import INDUCTION
from neuronlab.schemas_knowledge import KNOWLEDGE
from neuronlab.schemas_sets import SETS
from neuronlab.schemas_stages import STAGES_TABLES

__all__ = ["OUTCOMES", "RANK_VARIANTS", "SCHEMAS", "VARIANTS", "Column", "Schema"]


def _sums() -> Schema:
    """Per-(neuron, document) sums over counted tokens of every effect, signed and absolute."""
    columns: Schema = {
        "n_tokens": Column(I64, "counted tokens of the document"),
        "abs_delta": Column(F64, "sum of |replacement - activation|"),
    }
    for outcome, meaning in OUTCOMES.items():
        for variant, route in VARIANTS.items():
            columns[f"{outcome}_{variant}"] = Column(F64, f"sum of the change of the {meaning}, {route}")
            columns[f"{outcome}_{variant}_abs"] = Column(F64, f"sum of its absolute value, {route}")
    for variant in RANK_VARIANTS:
        route = VARIANTS[variant]
        columns[f"prediction_{variant}"] = Column(F64, f"number of tokens whose top prediction changes, {route}")
        columns[f"reciprocal_rank_{variant}"] = Column(F64, f"sum of the change of 1/(rank + 1), {route}")
        columns[f"reciprocal_rank_{variant}_abs"] = Column(F64, f"sum of its absolute value, {route}")
    return columns


def _trace_effects() -> Schema:
    columns: Schema = {}
    for outcome, meaning in OUTCOMES.items():
        for variant, route in VARIANTS.items():
            columns[f"{outcome}_{variant}"] = Column(F64, f"change of the {meaning}, {route}")
    for variant in RANK_VARIANTS:
        columns[f"prediction_{variant}"] = Column(I32, f"top prediction after the replacement, {VARIANTS[variant]}")
        columns[f"rank_{variant}"] = Column(I32, f"rank of the next token after it (0 = on top), {VARIANTS[variant]}")
    return columns


SILENT = "; missing for a neuron that writes nothing"

SCHEMAS: dict[str, Schema] = {
    "documents": {
        "document": Column(I32, "document, from 0"),
        "text": Column(STR, "its text"),
    },
    "demo_documents": {
        "document": Column(I64, "document, from 0, over both splits"),
        "split": Column(STR, "evaluation_a or evaluation_b"),
        "text": Column(STR, "its text"),
    },
    "demo_facts": {
        "subject": Column(STR, "a person"),
        "relation": Column(STR, "the relation as it is phrased"),
        "relation_id": Column(STR, "the relation's short name"),
        "object": Column(STR, "what is true in the demo world"),
        "query": Column(STR, "the statement without its object"),
        "statement": Column(STR, "the whole statement"),
        "contradicted_in_training": Column(BOOL, "false for held-out pairs, which training never contradicts"),
    },
    "demo_token_counts": {
        "token_id": Column(I64, "token id"),
        "count": Column(I64, "how often the token was a target in training"),
    },
    "tokens": {
        "sequence": Column(I32, "sequence, from 0"),
        "tokens": Column(pl.List(I32), "token ids, all sequences equally long"),
        "documents": Column(pl.List(I32), "the document of every token; -1 for a BOS put in front"),
        "counted": Column(pl.List(BOOL), "whether the position counts in statistics and effects"),
    },
    "token_counts": {
        "token": Column(I32, "token id"),
        "count": Column(I64, "occurrences"),
        "real": Column(BOOL, "false for ids that only pad the vocabulary"),
    },
    "neurons": NEURON
    | {
        "norm": Column(F64, "|w_out|, after centring where the model has LayerNorm"),
        "norm_in": Column(F64, "|w_in|, with the preceding norm's gain folded in"),
        "logit_var": Column(
            F64, f"LogitVar: variance over the vocabulary of cos(w_out, W_U column), ddof 1{SILENT}", True
        ),
        "vocab_mean": Column(F64, f"mean of that cosine profile{SILENT}", True),
        "vocab_var": Column(F64, f"its population variance{SILENT}", True),
        "vocab_skew": Column(F64, f"its skewness E[z^3]{SILENT}", True),
        "vocab_kurt": Column(F64, f"its kurtosis E[z^4], 3 for a Gaussian{SILENT}", True),
        "unembed_gain": Column(
            F64, f"|w W_U| sqrt(d) / (|w| |W_U|_F): 1 for a direction of average gain; needs no k{SILENT}", True
        ),
    },
    "null_space": NEURON
    | {
        "k": Column(I32, "number of bottom singular directions of W_U counted as its null space"),
        "k_rule": Column(STR, "'configured' or 'automatic' (largest ratio of successive singular values in the tail)"),
        "rho": Column(F64, f"|V0^T w| / |w|, the share of the norm in the null space{SILENT}", True),
        "rho_excess": Column(
            F64,
            "rho - sqrt(k/d), zero for a random direction; sqrt((k-1)/(d-1)) where LayerNorm makes one exactly null",
            True,
        ),
        "rho_p_value": Column(
            F64,
            "probability that a random rotation of w_out has a rho at least as large (exact: a Beta distribution)",
            True,
        ),
    },
    "singular_values": {
        "index": Column(I32, "index, from 0, largest singular value first"),
        "singular_value": Column(F64, "singular value of the folded, centred W_U"),
        "ratio": Column(F64, "this singular value over the next smaller one; missing at the end", nullable=True),
        "automatic": Column(BOOL, "whether the index lies in the null space of automatic size"),
        "exact_null": Column(BOOL, "the all-ones direction that folding a LayerNorm makes exactly null"),
        "automatic_p_value": Column(
            F64,
            "of the automatic size: (1+b)/(1+n), b of n random matrices with the same bulk drop as much in the tail",
        ),
    },
    "alignment": NEURON
    | {
        "set": Column(STR, "set that the neuron was taken from"),
        "index": Column(I32, "index of the singular direction"),
        "cosine": Column(F64, "cos(w_out, U_index)"),
    },
    "selection": {
        "set": Column(STR, "name of the set"),
        "kind": Column(STR, "selection, uniform or norm_matched"),
        "rule": Column(STR, "rule that chose it"),
        "control_of": Column(STR, "set that it is a control of; missing for selections", nullable=True),
        "layer": NEURON["layer"],
        "neuron": NEURON["neuron"],
        "rank": Column(I32, "place within the set, from 0"),
        "matched": Column(I32, "neuron whose norm it matches", nullable=True),
        "norm_ratio": Column(F64, "its norm over the matched neuron's: the quality of the match", nullable=True),
    },
    "frequency_cosine": NEURON
    | {"cosine": Column(F64, "cos(w_out W_U, centred log-unigram direction) over the real vocabulary")},
    "activation_statistics": NEURON
    | {
        "n_tokens": Column(I64, "counted tokens"),
        "mean": Column(F64, "mean activation (hook_post)"),
        "sd": Column(F64, "standard deviation, ddof 0"),
        "min": Column(F64, "smallest"),
        "max": Column(F64, "largest"),
        "median": Column(F64, "median, by refined histogram"),
        "mode": Column(F64, "midpoint of the fullest bin of the histogram"),
        "skew": Column(F64, "skewness; missing for a constant activation", nullable=True),
        "kurtosis": Column(F64, "kurtosis E[z^4]; missing for a constant activation", nullable=True),
        "histogram": Column(pl.List(I64), "counts in equal bins from min to max"),
        "position_means": Column(pl.List(F64), "mean at every position over the counted tokens there (NaN where none)"),
    },
    "baseline": TOKEN
    | {
        "loss": Column(F64, "-log p(next token), nats"),
        "entropy": Column(F64, "entropy of the output distribution, nats"),
        "kl": Column(F64, "KL(P_freq || P_model), nats"),
        "norm_scale": Column(F64, "the final norm's scale sigma"),
        "prediction": Column(I32, "token on top"),
        "top_log_prob": Column(F64, "its log-probability"),
        "rank": Column(I32, "rank of the next token (0 = on top)"),
    },
    "ablation_shard": REPLACEMENT | {"document": Column(I32, "document")} | NEURON | _sums(),
    "effects": REPLACEMENT | NEURON | effects(),
    "synthetic": REPLACEMENT
    | NEURON
    | {
        "draw": Column(
            I32, "random direction put in place of the neuron's own, same norm and same <x, w> at every token"
        )
    }
    | effects(),
    "traces": REPLACEMENT
    | NEURON
    | TOKEN
    | {
        "sequence": Column(
            I32,
            "sequence, a row of tokens.parquet; of a text with more counted tokens than ablation.traced_tokens only "
            "some are here, drawn by the seed (how much of the text: `sample` of the table's provenance)",
        ),
        "activation": Column(F64, "the neuron's activation"),
        "value": Column(F64, "what it is replaced by"),
        "loss": Column(F64, "clean loss, nats"),
        "entropy": Column(F64, "clean entropy, nats"),
        "rank": Column(I32, "clean rank of the next token"),
        "prediction": Column(I32, "clean top prediction"),
    }
    | _trace_effects(),
    "verification": {
        "tier": Column(
            STR, "'readout': float64 norm, unembedding, softmax; 'forward': whole model with a hook, float64"
        ),
        "replacement": REPLACEMENT["replacement"],
        "layer": NEURON["layer"],
        "neuron": NEURON["neuron"],
        "sequence": TOKEN["sequence"],
        "position": TOKEN["position"],
        "stratum": Column(I32, "stratum of |delta| |w|, 0 the smallest"),
        "variant": Column(STR, "total, direct, norm or unigram"),
        "outcome": Column(STR, "loss, entropy or kl"),
        "closed_form": Column(F64, "effect by the kernel of this run"),
        "brute_force": Column(F64, "effect by brute force"),
        "error": Column(F64, "|closed form - brute force|"),
        "tolerance": Column(F64, "1e-6 + 1e-5 |effect|, or as configured"),
        "passed": Column(BOOL, "error <= tolerance"),
    },
    "boosted_tokens": NEURON
    | {
        "rank": Column(I32, "place from the top, from 0; from the bottom -1, -2, ... (as Python indexes a list)"),
        "token": Column(I32, "token id, of the real vocabulary"),
        "token_string": Column(STR, "the token as its tokenizer spells it"),
        "cosine": Column(F64, "cos(w_out, W_U column): above zero, the neuron raises the token's logit"),
    },
    "token_strings": {
        "token": Column(I32, "token id"),
        "string": Column(STR, "the token as its tokenizer spells it"),
    },
    "published": {
        "study": Column(STR, "where the value was published"),
        "layer": NEURON["layer"],
        "neuron": NEURON["neuron"],
        "k": Column(I32, "null-space size of the published rho", nullable=True),
        "measure": Column(STR, "rho, logit_var or norm"),
        "published": Column(F64, "published value", nullable=True),
        "ours": Column(F64, "value of this run", nullable=True),
        "relative_error": Column(F64, "ours / published - 1", nullable=True),
    },
}
SCHEMAS |= SETS | INDUCTION | COMPARISON | KNOWLEDGE | STAGES_TABLES
