"""Tables that put models or training checkpoints side by side."""

from __future__ import annotations

from neuronlab.schema_columns import F64, I32, I64, NEURON, STR, Column, Schema, with_interval

MODEL = {
    "model": Column(STR, "model, or model@revision"),
    "step": Column(I64, "training step that the revision names; missing where it names none", nullable=True),
}
SURVEY_NEURON: Schema = NEURON | {
    "norm": Column(F64, "|w_out|"),
    "logit_var": Column(F64, "LogitVar", nullable=True),
    "rho": Column(F64, "rho at the first configured null-space size", nullable=True),
    "rho_p_value": Column(F64, "probability of a rho at least as large for a random direction", nullable=True),
    "unembed_gain": Column(F64, "|w W_U| sqrt(d) / (|w| |W_U|_F)", nullable=True),
    "frequency_cosine": Column(F64, "cos(w_out W_U, centred log-unigram direction)"),
    "te_loss": Column(F64, "mean |change of loss| on mean ablation (nats)"),
    "te_entropy": Column(F64, "mean |change of entropy| (nats)"),
    "te_kl": Column(F64, "mean |change of KL(P_freq || P_model)| (nats)"),
    "m_loss": Column(F64, "1 - DE/TE of the loss; missing where TE is below the floor", nullable=True),
    "m_entropy": Column(F64, "1 - DE/TE of the entropy", nullable=True),
    "m_freq_loss": Column(F64, "1 - DE_freq/TE of the loss", nullable=True),
}
SURVEY_SUMMARY: Schema = {
    "quantity": Column(
        STR,
        "loss, entropy (nats), accuracy; induction_head (largest mean score); shares of the layer: entropy_neurons "
        "(rho above chance and 1 - DE/TE of the entropy > 1/2), rho_beyond_chance, frequency_neurons (|cos| > 0.3), "
        "frequency_chance (the same for random directions); max_rho; max_m_loss, max_m_entropy, max_m_freq_loss (among "
        "neurons with a total effect above the median); null_space_ratio (sharpest drop in the tail of W_U)",
    ),
    "n": Column(I64, "over how many (tokens, sequences or neurons)"),
} | with_interval("value", "the quantity")
SPECTRUM: Schema = {
    "index": Column(I32, "index, from 0, largest singular value first"),
    "singular_value": Column(F64, "singular value of the folded, centred W_U"),
}

COMPARISON: dict[str, Schema] = {
    "survey_neurons": SURVEY_NEURON,
    "survey_summary": SURVEY_SUMMARY,
    "survey_spectrum": SPECTRUM,
    "comparison_neurons": MODEL | SURVEY_NEURON,
    "comparison_summary": MODEL | SURVEY_SUMMARY,
    "comparison_spectra": MODEL | SPECTRUM,
}
