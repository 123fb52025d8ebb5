"""Tables about depth: layers changed, logit lens, local attention, subjoiners, features, probes (METHODS C)."""

from __future__ import annotations

from neuronlab.schema_columns import BOOL, F64, I32, I64, NEURON, STR, Column, Schema, with_interval

INTERVENTIONS = {
    "delete": "the block's attention and MLP write nothing; the residual passes",
    "mean": "the block's two outputs are replaced by their means over counted positions",
    "delete_attention": "its attention writes nothing",
    "delete_mlp": "its MLP writes nothing",
    "mean_attention": "its attention writes its mean over counted positions",
    "mean_mlp": "its MLP writes its mean over counted positions",
    "swap": "the weights of two blocks change places; what depends on a layer's index stays in its slot",
}
STAGES = ("detokenization", "feature engineering", "prediction ensembling", "residual sharpening")

LAYER = {"layer": Column(I32, "layer, from 0")}
DEPTH = {"depth": Column(F64, "relative depth: layer / (layers - 1), 0 in a model of one layer")}
N = {
    "n_tokens": Column(I64, "counted tokens"),
    "n_documents": Column(I64, "documents, the clusters of the bootstrap"),
}
FAMILY = {"family": Column(STR, "family of the model, by its architecture (model_families.py)")}
HEAD = {"layer": Column(I32, "layer of the head"), "head": Column(I32, "head")}
FEATURE = {"feature": Column(STR, "name of the predicate on token strings")}


def _outcomes() -> Schema:
    columns = with_interval("kl", "mean KL(clean || intervened) (nats)")
    columns |= with_interval("loss_change", "mean loss, intervened minus clean (nats)")
    columns |= with_interval("entropy_change", "mean entropy, intervened minus clean (nats)")
    columns |= with_interval("entropy", "mean entropy under the intervention (nats)")
    columns |= with_interval("agreement", "share of tokens whose top prediction stays")
    return columns | with_interval("reciprocal_rank", "mean reciprocal rank of the clean top prediction after it")


STAGES_TABLES: dict[str, Schema] = {
    "interventions": {
        "intervention": Column(STR, ", ".join(INTERVENTIONS)),
        "layer": Column(I32, "layer; for a swap the first of the two"),
        "other": Column(I32, "swap: the second layer", nullable=True),
        "depth": Column(F64, "relative depth layer / (layers - 1); swap: of the middle between the two"),
    }
    | FAMILY
    | N
    | _outcomes(),
    "intervention_costs": {
        "interventions": Column(I64, "interventions made"),
        "n_layers": Column(I64, "layers of the model"),
        "block_evaluations": Column(I64, "blocks evaluated per sequence, clean runs (two with means) included"),
        "naive_block_evaluations": Column(
            I64, "the published way: a clean and a changed whole forward pass for each intervention (METHODS C1)"
        ),
        "model_loads": Column(I64, "times that the model was loaded; its float64 copy for the verification is another"),
    },
    "intervention_verification": {
        "intervention": Column(STR, ", ".join(INTERVENTIONS)),
        "layer": Column(I32, "layer"),
        "other": Column(I32, "swap: the second layer", nullable=True),
        "quantity": Column(
            STR,
            "kl, loss_change, entropy, agreement, reciprocal_rank: the way of the run, made again in float64 (largest "
            "error over the tokens of a sample); run_kl, run_loss_change, run_entropy: the run's own values at these; "
            "mean_attention_output, mean_mlp_output (of every layer, where outputs are replaced by means)",
        ),
        "fast": Column(F64, "value from cached residuals, at the token (means: dimension) with the largest error"),
        "brute_force": Column(
            F64,
            "value of a whole float64 forward pass with the intervention made on the model itself; means: mean change "
            "of the residual stream by this part of the block, over all counted positions",
        ),
        "error": Column(F64, "|difference|"),
        "tolerance": Column(F64, "as configured; means and the run's own: what rounding in the model's dtype explains"),
        "passed": Column(BOOL, "error <= tolerance"),
    },
    "lens": {
        "layer": Column(I32, "blocks that the residual has passed: 0 the embedding, L the model's own output"),
        "depth": Column(F64, "layer / L"),
    }
    | FAMILY
    | N
    | with_interval("entropy", "mean entropy of the lens (nats)")
    | with_interval("entropy_bits", "the same in bits")
    | with_interval("kl", "mean KL(final || lens) (nats)")
    | with_interval("loss", "mean loss of the next token under the lens (nats)")
    | with_interval("agreement", "share of tokens whose top prediction is the final one")
    | with_interval("reciprocal_rank", "mean reciprocal rank of the final top prediction in the lens"),
    "lens_documents": {
        "layer": Column(I32, "as in lens.parquet"),
        "document": Column(I32, "document"),
        "n_tokens": N["n_tokens"],
        "entropy": Column(F64, "mean entropy over the document's counted tokens (nats)"),
        "entropy_bits": Column(F64, "the same in bits"),
        "kl": Column(F64, "mean KL(final || lens) (nats)"),
        "loss": Column(F64, "mean loss of the next token under the lens (nats)"),
        "agreement": Column(F64, "share of tokens whose top prediction is the final one"),
        "reciprocal_rank": Column(F64, "mean reciprocal rank of the final top prediction in the lens"),
    },
    "lens_tokens": {
        "passage": Column(I32, "passage, in the order of their drawing"),
        "layer": Column(I32, "as in lens.parquet"),
        "sequence": Column(I32, "sequence, a row of tokens.parquet"),
        "document": Column(I32, "document of the passage"),
        "position": Column(I32, "position"),
        "token": Column(I32, "token at the position"),
        "string": Column(STR, "the same as text"),
        "entropy": Column(F64, "entropy of the lens (nats)"),
        "entropy_bits": Column(F64, "the same in bits"),
        "kl": Column(F64, "KL(final || lens) (nats)"),
        "loss": Column(F64, "loss of the next token under the lens (nats)"),
        "rank": Column(I32, "rank of the final top prediction in the lens, 0 = on top"),
        "top_string": Column(STR, "most likely next token in the lens"),
    },
    "vocabulary_counts": LAYER
    | DEPTH
    | FAMILY
    | {
        "kind": Column(STR, "prediction, suppression or partition"),
        "n": Column(I64, "neurons of this kind in the layer"),
        "n_neurons": Column(I64, "neurons of the layer that write something"),
        "threshold": Column(F64, "prediction, suppression: kurtosis above it; partition: variance above it"),
    }
    | with_interval("share", "n / n_neurons (Wilson)"),
    "vocabulary_neurons": NEURON
    | {
        "kind": Column(STR, "prediction, suppression or partition"),
        "place": Column(I32, "place among the model's neurons of this kind, 0 the strongest"),
        "vocab_var": Column(F64, "population variance of the cosine profile"),
        "vocab_skew": Column(F64, "skewness E[z^3]"),
        "vocab_kurt": Column(F64, "kurtosis E[z^4], 3 for a Gaussian"),
        "top_tokens": Column(STR, "tokens with the largest cosine, largest first, as JSON"),
        "bottom_tokens": Column(STR, "tokens with the smallest cosine, smallest first, as JSON"),
    },
    "local_attention": HEAD
    | {
        "measure": Column(STR, "offset (one key), or window (the previous `window` tokens added up)"),
        "offset": Column(
            I32, "how many tokens back the key lies, from 1; 0 the token itself; window: missing", nullable=True
        ),
        "n": Column(
            I64,
            "offset: (query, key) pairs; window: queries with all its keys; keys are of the query's document, and "
            "neither BOS nor EOS",
        ),
        "n_documents": N["n_documents"],
    }
    | with_interval("attention", "mean attention probability"),
    "attention_bos": HEAD
    | {"n": Column(I64, "queries behind a BOS at position 0"), "n_documents": N["n_documents"]}
    | with_interval("attention", "mean attention on the BOS"),
    "local_attention_layers": LAYER
    | DEPTH
    | FAMILY
    | {
        "measure": Column(STR, "window (the previous `window` tokens added up), offset (one key), or bos"),
        "window": Column(I32, "tokens back that are added up"),
        "offset": Column(I32, "how many tokens back the key lies, 0 the token itself; else missing", nullable=True),
        "n": Column(
            I64,
            "window: queries with all its keys; offset: (query, key) pairs; bos: queries behind a BOS; keys as in "
            "local_attention.parquet",
        ),
        "n_documents": N["n_documents"],
    }
    | with_interval("attention", "mean over heads of the attention"),
    "subjoiners": HEAD
    | {
        "half": Column(
            STR,
            "documents of the words: all, selection (the half that the best heads are chosen by), report (the other "
            "half, for what is shown of them); words of one document have no halves",
        ),
        "pieces": Column(I32, "tokens of the words; 0 for all"),
        "n_words": Column(I64, "multi-token words"),
        "n_single": Column(I64, "one-token words in matched contexts"),
    }
    | with_interval("attention_word", "mean over words of the last piece's attention to the earlier pieces, added up")
    | with_interval("attention_single", "the same of one-token words to as many tokens before them")
    | with_interval("score", "attention_word - attention_single")
    | {
        "p_value": Column(
            F64,
            "two-sided, of the score against 0, by sign flips of matched pairs, a document's together",
            nullable=True,
        ),
        "p_value_holm": Column(F64, "Holm-corrected over all heads", nullable=True),
    },
    "subjoiner_examples": {
        "example": Column(I32, "example, drawn at random among the words of the half `report`"),
        "layer": Column(I32, "layer of the best head, chosen by the half `selection`"),
        "head": Column(I32, "best head"),
        "query": Column(I32, "place of the attending token in the example"),
        "key": Column(I32, "place of the token attended to"),
        "query_string": Column(STR, "the attending token"),
        "key_string": Column(STR, "the token attended to"),
        "in_word": Column(BOOL, "whether both are pieces of the example's word"),
        "attention": Column(F64, "attention probability"),
    },
    "features": FEATURE
    | {
        "n_tokens": Column(I64, "real tokens of the vocabulary with the feature; special tokens have none"),
        "examples": Column(STR, "some of them, as JSON"),
    },
    "feature_neurons": NEURON
    | FEATURE
    | {
        "mean_feature": Column(F64, "mean logit effect (w_out W_U, per unit of activation) on tokens with the feature"),
        "mean_rest": Column(F64, "mean logit effect on the others"),
        "difference": Column(F64, "mean_feature - mean_rest"),
        "effect_size": Column(
            F64, "difference / pooled standard deviation (Cohen's d); missing where neither group varies", nullable=True
        ),
        "t": Column(F64, "Welch's t", nullable=True),
        "p_value": Column(F64, "its two-sided p-value, tokens taken as independent", nullable=True),
        "p_value_holm": Column(F64, "Holm-corrected over all candidate neurons and features", nullable=True),
        "variance_reduction": Column(F64, "1 - variance within the two groups / variance of all"),
        "skew_reduction": Column(F64, "1 - |skewness of the feature's tokens| / |skewness of all|", nullable=True),
        "kurtosis_reduction": Column(
            F64,
            "1 - excess kurtosis of the feature's tokens / that of all; missing where that is not positive",
            nullable=True,
        ),
        "n_feature": Column(I64, "tokens with the feature"),
        "kind": Column(STR, "prediction, suppression, partition", nullable=True),
        "place": Column(I32, "place among the neurons of this feature, 0 the largest |difference|"),
    },
    "feature_histograms": NEURON
    | FEATURE
    | {
        "group": Column(STR, "feature or rest"),
        "bin_start": Column(F64, "lower edge of the bin of the logit effect"),
        "bin_end": Column(F64, "upper edge"),
        "n": Column(I64, "tokens in the bin"),
    },
    "probes": FEATURE
    | {
        "order": Column(
            STR,
            "score (the first `size` neurons by |difference| of the feature), single (one of these neurons), random "
            "(others, at random), model (its top prediction), mass (a probe on the model's log odds of the feature)",
        ),
        "size": Column(I32, "neurons of the ensemble; 0 for model and mass"),
        "draw": Column(I32, "random: draw of the ensemble; single: place of the neuron, 0 the first; -1 otherwise"),
        "n_train": Column(I64, "tokens that the probe was fitted on"),
        "n_test": Column(I64, "tokens that it is measured on, of other documents"),
        "n_positive": Column(I64, "of these, tokens with the feature"),
    }
    | with_interval("accuracy", "share of right answers on a balanced test set (the mean of both classes' recalls)")
    | with_interval(
        "auc", "area under the ROC curve; of the model: of its probability mass on the tokens with the feature"
    ),
    "stages": {
        "border": Column(I32, "border, from 0: between stage `border` and the next one"),
        "before": Column(STR, "stage before the border"),
        "after": Column(STR, "stage after it"),
        "rule": Column(STR, "how it is estimated"),
        "layer": Column(F64, "layer at which it is; missing where it is not estimated", nullable=True),
        "layer_low": Column(F64, "lower end of its interval (the curves' points redrawn)", nullable=True),
        "layer_high": Column(F64, "upper end", nullable=True),
        "depth": Column(F64, "the same in relative depth", nullable=True),
        "reason": Column(STR, "why it is not estimated", nullable=True),
    },
}
