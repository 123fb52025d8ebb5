"""Tables about induction: repeated sequences, neurons and heads on them, ablations (METHODS A4, A5, A6)."""

from __future__ import annotations

import polars as pl

from neuronlab.schema_columns import BOOL, F64, I32, I64, STR, Column, Schema, with_interval
from neuronlab.schemas_sets import SET

PLACE = {
    "copy": Column(I32, "copy of the repeated tokens, 0 the first"),
    "offset": Column(
        I32,
        "place within the copy: synthetic from 0; natural relative to the token after the prefix (-n, ..., -1, 0, ...)",
    ),
}
N_SEQUENCES = {"n_sequences": Column(I64, "sequences averaged over")}
TRACKED = {
    "layer": Column(I32, "layer of the neuron; missing otherwise", nullable=True),
    "neuron": Column(I32, "neuron; missing otherwise", nullable=True),
}

INDUCTION: dict[str, Schema] = {
    "repeats": {
        "sequence": Column(I32, "sequence, from 0"),
        "document": Column(I32, "document that its tokens stem from, the cluster of the bootstrap"),
        "tokens": Column(pl.List(I32), "token ids, all sequences equally long"),
        "copy": Column(pl.List(I32), "copy that each position belongs to, 0 the first; -1 outside the copies"),
        "offset": Column(pl.List(I32), "place within the copy (0 outside the copies: see copy)"),
        "continues": Column(
            BOOL, "whether the token that follows the last repetition's prefix is the one that followed the first"
        ),
    },
    "induction_profile": {
        "quantity": Column(
            STR,
            "activation, entropy, loss (nats), norm_scale, correct (next token on top); natural: continues, the share "
            "of second occurrences that go on as the first (one row, at the end of the prefix)",
        ),
    }
    | TRACKED
    | PLACE
    | N_SEQUENCES
    | with_interval("mean", "mean over sequences at this place"),
    "induction_scores": {
        "layer": Column(I32, "layer"),
        "neuron": Column(I32, "neuron"),
        "mean_text": Column(F64, "mean activation on the text's counted positions"),
        "mean_first": Column(F64, "mean activation on the first copy"),
        "mean_second": Column(F64, "mean activation on the last copy, places that are predictable by induction"),
        "norm": Column(F64, "|w_out|"),
        "direction": Column(I32, "1 if the activation rises on the repetition, -1 if it falls"),
        "moves": Column(BOOL, "|score| is above induction.score_threshold"),
    }
    | N_SEQUENCES
    | with_interval("score", "(mean_second - mean_first) |w_out|"),
    "induction_ablation": SET
    | {"variant": Column(STR, "total, or direct (the norm's scale frozen)")}
    | PLACE
    | N_SEQUENCES
    | with_interval(
        "entropy_ratio",
        "mean over sequences of entropy after / before, those left out whose clean entropy is below 1e-6 nats",
    )
    | with_interval("loss_ratio", "mean loss after / mean loss before")
    | with_interval("entropy_change", "mean change of the entropy (nats)")
    | with_interval("loss_change", "mean change of the loss (nats)"),
    "induction_tests": SET
    | {
        "variant": Column(STR, "total, or direct (the norm's scale frozen)"),
        "outcome": Column(STR, "loss or entropy"),
        "copy": PLACE["copy"],
    }
    | N_SEQUENCES
    | {
        "n_documents": Column(I64, "documents, the t test's sample and the clusters of the bootstrap"),
        "t": Column(F64, "paired t statistic of the documents' mean changes against 0", nullable=True),
        "p_value": Column(F64, "its two-sided p-value, n_documents - 1 degrees of freedom", nullable=True),
        "p_value_holm": Column(
            F64, "Holm-corrected over the table's rows of the same kind; missing for controls", nullable=True
        ),
        "n_controls": Column(
            I64,
            "controls of the selection, uniform and norm-matched together: sets, or for a single neuron their neurons; "
            "0 for controls",
        ),
        "p_value_controls": Column(
            F64, "(1+b)/(1+n), b of n controls whose |mean change| is at least as large", nullable=True
        ),
    }
    | with_interval(
        "mean_change",
        "mean over sequences of the mean change on this copy, at the places that the first and the last share (nats)",
    ),
    "induction_heads": {
        "source": Column(STR, "random (uniform token ids), synthetic or natural (as in induction/)"),
        "layer": Column(I32, "layer"),
        "head": Column(I32, "head"),
        "previous_token": Column(F64, "mean attention to the previous token"),
        "bos_first": Column(F64, "mean attention to position 0 from the first copy"),
        "bos_second": Column(F64, "mean attention to position 0 from the last copy"),
        "is_induction": Column(BOOL, "score is above induction.heads.threshold"),
        "rank": Column(I32, "place by score within the source, from 0"),
    }
    | N_SEQUENCES
    | with_interval(
        "score", "mean attention from the last copy to the token after the same token's earlier occurrence"
    ),
    "head_ablation": {
        "set": Column(STR, "heads joined by +, as layer.head"),
        "role": Column(STR, "top, single, configured or baseline"),
        "control_of": Column(STR, "set whose baseline it is; missing otherwise", nullable=True),
        "method": Column(
            STR, "bos: the query attends to position 0 alone; mean: the head's output (hook_z) is its mean"
        ),
        "quantity": Column(
            STR,
            "activation, entropy, loss (nats), norm_scale, residual_norm, top_logit, kl: KL(clean || ablated) (nats)",
        ),
    }
    | TRACKED
    | PLACE
    | N_SEQUENCES
    | {"clean": Column(F64, "mean in the clean run")}
    | with_interval("change", "mean change by ablating the heads at this query position alone"),
    "head_neurons": {
        "layer": Column(I32, "layer of the head"),
        "head": Column(I32, "head"),
        "method": Column(STR, "bos or mean"),
        "neuron_layer": Column(I32, "layer of the neuron (the last)"),
        "neuron": Column(I32, "neuron"),
        "norm": Column(F64, "|w_out|"),
    }
    | N_SEQUENCES
    | with_interval("change", "mean change of the neuron's activation on the last copy when the head is ablated"),
    "head_verification": {
        "set": Column(STR, "heads joined by +, as layer.head"),
        "method": Column(STR, "bos or mean"),
        "sequence": Column(I32, "sequence, a row of repeats.parquet"),
        "position": Column(I32, "query position"),
        "quantity": Column(STR, "activation (largest error over neurons), entropy, loss, norm_scale, kl"),
        "one_pass": Column(F64, "value by the pass that ablates every query position at once"),
        "brute_force": Column(F64, "value by a hooked forward pass of this position alone, float64"),
        "error": Column(F64, "|one pass - brute force|"),
        "tolerance": Column(F64, "as configured"),
        "passed": Column(BOOL, "error <= tolerance"),
    },
}
