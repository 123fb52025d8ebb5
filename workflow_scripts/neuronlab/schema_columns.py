"""What a column of a table is, and the columns that several tables share; the tables stand in `schemas`."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

I32, I64, F64, STR, BOOL = pl.Int32, pl.Int64, pl.Float64, pl.String, pl.Boolean


@dataclass(frozen=True)
class Column:
    """One column: its type, what it means (with the unit), and whether values may be missing."""

    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    nullable: bool = False


Schema = dict[str, Column]

# How the activation's replacement reaches the output (METHODS A2).
VARIANTS = {
    "total": "through the direction written and through the final norm's scale",
    "direct": "with the final norm's scale frozen at its clean value",
    "norm": "through the final norm's scale alone",
    "unigram": "total, but the logits' projection on the centred log-unigram direction is kept clean",
}
OUTCOMES = {
    "loss": "loss of the next token (nats)",
    "entropy": "entropy of the output distribution (nats)",
    "kl": "KL(P_freq || P_model), the divergence from the unigram distribution (nats)",
}
RANK_VARIANTS = ("total", "direct")

NEURON = {
    "layer": Column(I32, "layer of the neuron, from 0"),
    "neuron": Column(I32, "index of the neuron within its layer, from 0"),
}
TOKEN = {
    "sequence": Column(I32, "sequence, a row of tokens.parquet"),
    "position": Column(I32, "position of the token in its sequence; 0 holds the BOS token where there is one"),
    "document": Column(I32, "document that the token stems from; -1 for a BOS put in front"),
    "token": Column(I32, "token id at this position"),
    "next_token": Column(I32, "token id at the next position, the one that the loss is about"),
}


def with_interval(name: str, meaning: str) -> Schema:
    """A number with the ends of its interval; all missing where it is undefined."""
    return {
        name: Column(F64, meaning, nullable=True),
        f"{name}_low": Column(F64, f"lower end of the interval of {name}", nullable=True),
        f"{name}_high": Column(F64, f"upper end of the interval of {name}", nullable=True),
    }


def effects() -> Schema:
    """Means per neuron, each with an interval (METHODS A2, A3, 0.6)."""
    columns: Schema = {
        "n_tokens": Column(I64, "counted tokens"),
        "n_documents": Column(I64, "documents, the clusters of the bootstrap"),
    }
    for outcome, meaning in OUTCOMES.items():
        columns |= with_interval(f"te_{outcome}", f"total effect: mean |change| of the {meaning}")
        columns |= with_interval(f"de_{outcome}", f"mean |change| of the {meaning} with the norm's scale frozen")
        columns |= with_interval(f"m_{outcome}", f"1 - DE/TE for the {outcome}; missing where TE is below the floor")
        columns |= with_interval(f"de_freq_{outcome}", f"mean |change| of the {meaning}, unigram projection frozen")
        columns |= with_interval(f"m_freq_{outcome}", f"1 - DE_freq/TE for the {outcome}")
        columns |= with_interval(f"total_{outcome}", f"mean change of the {meaning}")
        columns |= with_interval(
            f"direct_{outcome}", f"natural direct effect: mean change of the {outcome}, scale frozen"
        )
        columns |= with_interval(
            f"indirect_{outcome}", f"natural indirect effect: mean change of the {outcome} by the scale"
        )
        columns |= with_interval(f"interaction_{outcome}", "total - direct - indirect")
    columns |= with_interval("prediction_change", "share of tokens whose top prediction changes (total)")
    columns |= with_interval("prediction_change_direct", "share of tokens whose top prediction changes (direct)")
    columns |= with_interval("reciprocal_rank_change", "mean |change| of the correct token's reciprocal rank (total)")
    columns |= with_interval("reciprocal_rank_change_direct", "the same with the norm's scale frozen")
    return columns


REPLACEMENT = {"replacement": Column(STR, "what the activation is replaced by, a key of ablation.replacements")}
