"""Tables about token-frequency neurons, clamped neurons and jointly ablated sets (METHODS A2, A3, D1, 0.6)."""

from __future__ import annotations

from neuronlab.schema_columns import (
    BOOL,
    F64,
    I32,
    I64,
    NEURON,
    OUTCOMES,
    REPLACEMENT,
    STR,
    VARIANTS,
    Column,
    Schema,
    effects,
    with_interval,
)

SET = {
    "set": Column(STR, "name of the set; `layer.neuron` for a single neuron"),
    "kind": Column(STR, "selection, uniform, norm_matched, or single"),
    "control_of": Column(STR, "set that it is a control of; missing for selections and their neurons", nullable=True),
    "n_neurons": Column(I32, "neurons of the last layer in the set"),
}
N_TOKENS = {
    "n_tokens": Column(I64, "counted tokens"),
    "n_documents": Column(I64, "documents, the clusters of the bootstrap"),
}


def _dose_response() -> Schema:
    """Means over tokens with one neuron clamped to a value (METHODS D1)."""
    columns: Schema = {}
    for name, meaning in {
        "entropy": "entropy (nats)",
        "loss": "loss (nats)",
        "norm_scale": "scale of the final norm",
        "reciprocal_rank": "reciprocal rank of the next token",
    }.items():
        columns[name] = Column(F64, f"mean {meaning} with the neuron clamped")
        columns |= with_interval(f"{name}_change", f"mean change of the {meaning}, against the clean run")
    for name in ("entropy", "loss"):
        columns |= with_interval(f"{name}_change_direct", f"mean change of the {name}, the norm's scale frozen")
    return columns


def _calibration_changes() -> Schema:
    """Differences from the clean model, each of the same resamples."""
    columns: Schema = {}
    for name in ("nll", "brier", "ece", "confidence", "accuracy"):
        columns |= with_interval(
            f"{name}_change", f"{name}: difference from the clean model in the same condition; missing for that itself"
        )
    return columns


SETS: dict[str, Schema] = {
    "token_frequency": NEURON
    | {
        "cosine": Column(F64, "cos(w_out W_U, centred log-unigram direction)"),
        "te_kl": Column(F64, "selection half: mean |change of KL(P_freq || P_model)| (nats)"),
        "m_freq": Column(F64, "selection half: 1 - DE_freq/TE of the configured outcome", nullable=True),
        "candidate": Column(BOOL, "te_kl is among the layer's largest on the selection half, and m_freq is defined"),
        "m_null": Column(
            F64, "mean over random logit directions of 1 - DE/TE with that direction frozen; candidates", nullable=True
        ),
        "p_value_single": Column(
            F64,
            "(1+b)/(1+n), b of n random directions with m at least that of the log-unigram direction, all m on one "
            "sample of the half's tokens",
            nullable=True,
        ),
        "p_value": Column(
            F64,
            "the same, b random directions whose largest m over all candidates is at least the neuron's: "
            "controls the family-wise error over the candidates (maximum statistic)",
            nullable=True,
        ),
        "selected": Column(BOOL, "candidate with p_value at most the configured level (and within the count)"),
        "published": Column(BOOL, "named as token-frequency neuron by the study of this model"),
        "n_documents_selection": Column(I64, "documents of the half that selects"),
        "n_documents_report": Column(I64, "documents of the half that reports"),
        "p_value_report": Column(F64, "p_value_single on the reporting half; candidates", nullable=True),
    }
    | with_interval("te_kl_report", "reporting half: mean |change of KL(P_freq || P_model)| (nats)")
    | with_interval("m_freq_report", "reporting half: 1 - DE_freq/TE of the configured outcome"),
    "random_directions": {
        "direction": Column(I32, "random logit direction, from 0; -1 the centred log-unigram direction"),
        "half": Column(STR, "selection or report"),
        "variance": Column(F64, "variance over tokens of the clean logits' projection on it"),
        "cosine": Column(F64, "its cosine with the log-unigram direction"),
        "m_max": Column(F64, "largest 1 - DE/TE over the candidates with it frozen", nullable=True),
        "m_mean": Column(F64, "mean 1 - DE/TE over the candidates", nullable=True),
        "n_tokens": Column(I64, "tokens"),
    },
    "dose_response": NEURON
    | {
        "value": Column(F64, "what the activation is clamped to"),
        "value_sd": Column(
            F64, "the same in standard deviations from the mean activation; missing for a constant one", nullable=True
        ),
    }
    | N_TOKENS
    | _dose_response(),
    "set_effects": SET | REPLACEMENT | effects(),
    "set_verification": {
        "tier": Column(STR, "'readout' or 'forward', as in verification.parquet"),
        "set": SET["set"],
        "replacement": REPLACEMENT["replacement"],
        "sequence": Column(I32, "sequence, a row of tokens.parquet"),
        "position": Column(I32, "position"),
        "variant": Column(STR, ", ".join(VARIANTS)),
        "outcome": Column(STR, ", ".join(OUTCOMES)),
        "closed_form": Column(F64, "effect of the joint ablation by the rank-k update"),
        "brute_force": Column(F64, "effect by brute force in float64"),
        "error": Column(F64, "|closed form - brute force|"),
        "tolerance": Column(F64, "as configured"),
        "passed": Column(BOOL, "error <= tolerance"),
    },
    "temperature": SET
    | REPLACEMENT
    | N_TOKENS
    | with_interval("kl_change", "mean KL(clean || ablated) (nats)")
    | with_interval("temperature", "the one temperature whose clean distribution is nearest the ablated one")
    | with_interval("kl_left", "mean KL(clean at that temperature || ablated) (nats)")
    | with_interval("explained", "1 - kl_left/kl_change: share of the change that one temperature explains")
    | with_interval("explained_per_token", "the same with the best temperature at every token"),
    "calibration": SET
    | {
        "condition": Column(
            STR, "clean, ablated, clean_refit or ablated_refit (a temperature fitted on the other half)"
        ),
        "refit_temperature": Column(F64, "temperature fitted on the other half; 1 without", nullable=False),
    }
    | N_TOKENS
    | with_interval("nll", "negative log-likelihood: mean loss (nats)")
    | with_interval("brier", "Brier score over the whole vocabulary, from 0 to 2")
    | with_interval("ece", "expected calibration error of the top prediction, equal-mass bins")
    | with_interval("confidence", "mean probability of the top prediction")
    | with_interval("accuracy", "share of tokens that the top prediction gets right")
    | _calibration_changes(),
    "reliability": SET
    | {
        "condition": Column(STR, "as in calibration.parquet"),
        "bin": Column(I32, "bin of equal mass, from 0, lowest confidence first"),
        "n_tokens": N_TOKENS["n_tokens"],
        "confidence": Column(F64, "mean probability of the top prediction in the bin"),
    }
    | with_interval("accuracy", "share of right top predictions in the bin"),
    "reference_kl": SET
    | REPLACEMENT
    | {
        "reference": Column(STR, "model:<name> (a larger model's distribution), or bias (softmax of the logits' bias)"),
    }
    | N_TOKENS
    | with_interval("kl_clean", "mean KL(reference || clean model) (nats)")
    | with_interval("kl_total", "mean change of KL(reference || model) by the ablation (nats)")
    | with_interval("kl_direct", "the same with the norm's scale frozen")
    | with_interval("kl_total_abs", "mean |change| of KL(reference || model) (nats)"),
}
