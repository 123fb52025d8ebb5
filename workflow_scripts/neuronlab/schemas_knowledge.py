"""Tables about knowledge conflicts: facts, answers, conflict prompts, decoding under ablation, scores (METHODS B)."""

from __future__ import annotations

import polars as pl

from neuronlab.schema_columns import BOOL, F64, I32, I64, STR, Column, Schema, with_interval

LABELS = ("CK", "ND", "PK")  # context, neither, parametric: the order of the published tables
ROUTES = {
    "clean": "nothing replaced",
    "total": "through the direction written and through the final norm's scale",
    "direct": "with the final norm's scale frozen at its clean value",
    "norm": "through the final norm's scale alone",
}
RATIOS = {
    "ck_pk": "log P_CK/P_PK",
    "nd_ck": "log P_ND/P_CK",
    "nd_pk": "log P_ND/P_PK",
}

FACT = {"fact": Column(I32, "fact, from 0, a row of facts.parquet")}
PROMPT = {"prompt": Column(I32, "conflict prompt, from 0, a row of conflicts.parquet")}
VARIANT = {"variant": Column(I32, "variant of the model, a row of variants.parquet; 0 is the clean model")}
COPYING_SET = {
    "set": Column(STR, "set of neurons that is replaced; `clean` for none"),
    "kind": Column(STR, "clean, selection, uniform, norm_matched or synthetic"),
    "control_of": Column(STR, "selection that it is a control of", nullable=True),
}
COPYING_VARIANT = COPYING_SET | {
    "replacement": Column(STR, "what activations are replaced by; `dose` for a clamped set, `none` for clean"),
}
DOSE = {
    "dose": Column(
        F64,
        "place between the smallest (0) and the largest (1) observed activation of each neuron; missing unless clamped",
        nullable=True,
    ),
}
N_PROMPTS = {
    "n_prompts": Column(I64, "conflict prompts"),
    "n_facts": Column(I64, "facts, the clusters of the bootstrap"),
}
FROM_TO = {
    "before": Column(STR, "label under the clean model: CK, ND or PK"),
    "after": Column(STR, "label under the ablated one"),
}


def _ratio_changes() -> Schema:
    """Changes of the entropy and of the log-ratios by a route."""
    columns = with_interval("entropy_change", "mean change of the entropy at the prompt's end (nats)")
    for name, meaning in RATIOS.items():
        columns |= with_interval(f"{name}_change", f"mean change of {meaning} of first tokens (nats)")
    return columns


KNOWLEDGE: dict[str, Schema] = {
    "facts": FACT
    | {
        "subject": Column(STR, "subject as it stands in the statement"),
        "relation": Column(STR, "the relation's short name"),
        "relation_group": Column(STR, "group of relations about the same kind of thing"),
        "phrase": Column(STR, "the relation as it is phrased between subject and object"),
        "object": Column(STR, "object according to the knowledge base"),
        "query": Column(STR, "the statement without its object"),
        "statement": Column(STR, "the whole statement"),
        "subset": Column(STR, "a label by which results are broken down as well, if the source has one", nullable=True),
    },
    "relations": {
        "relation": Column(STR, "the relation's short name"),
        "relation_group": Column(STR, "group of relations about the same kind of thing"),
        "n_facts": Column(I64, "facts of this relation"),
        "description": Column(STR, "what kind of object completes a query", nullable=True),
        "example_query": Column(STR, "query of the example in the prompt", nullable=True),
        "example_subject": Column(STR, "subject of that example", nullable=True),
        "example_object": Column(STR, "object of that example", nullable=True),
    },
    "answers": FACT
    | {
        "text": Column(STR, "prompt that the model answered"),
        "continuation": Column(STR, "greedy continuation"),
        "answer": Column(STR, "parametric answer: the continuation up to the first delimiter; may be empty"),
        "ended": Column(STR, "delimiter, eos, or length: why the continuation ended"),
        "n_tokens": Column(I32, "tokens generated"),
        "first_token": Column(I32, "first generated token"),
        "log_prob": Column(F64, "log-probability of the generated tokens (nats)"),
        "entropy": Column(F64, "entropy of the first generated token's distribution (nats)"),
        "correct": Column(BOOL, "whether the answer is the knowledge base's object, whatever the case"),
    },
    "filtered": FACT
    | {
        "answer": Column(STR, "parametric answer"),
        "empty": Column(BOOL, "the answer is empty"),
        "containment": Column(BOOL, "subject and answer contain one another (whatever the case)"),
        "similarity": Column(F64, "Jaro-Winkler similarity of subject and answer (cased)"),
        "similar": Column(BOOL, "similarity is at least the configured threshold"),
        "example": Column(BOOL, "the answer is the example's object or subject, and not the knowledge base's object"),
        "overlap": Column(
            BOOL, "subject or answer occurs in another relation group among the facts that pass the filters before"
        ),
        "lonely": Column(BOOL, "no other answer of the same relation passes all other filters: no counter-object"),
        "dropped_by": Column(STR, "the first configured filter that drops the fact; missing for a kept one", True),
    },
    "funnel": {
        "order": Column(I32, "step, from 0"),
        "step": Column(STR, "name of the step"),
        "meaning": Column(STR, "what it takes away"),
        "n_facts": Column(I64, "facts left after it"),
        "n_relations": Column(I64, "relations left after it"),
        "n_prompts": Column(I64, "conflict prompts after it; missing before there are any", nullable=True),
    },
    "counters": FACT
    | {
        "place": Column(I32, "place among the fact's counter-objects, 0 the least likely"),
        "counter": Column(STR, "counter-object, a parametric answer of the same relation"),
        "n_candidates": Column(I32, "different answers of the relation, the fact's own left out"),
        "first_token": Column(I32, "its first token, as it occurs in the prompt"),
        "log_prob_first": Column(F64, "log-probability of that token after the prompt that asked for the answer"),
        "log_prob": Column(F64, "log-probability of the whole counter-object (nats)"),
        "tied": Column(BOOL, "another candidate has the same first token; the whole object decided"),
    },
    "conflicts": PROMPT
    | FACT
    | {
        "relation": Column(STR, "the fact's relation"),
        "subset": Column(STR, "the fact's subset", nullable=True),
        "counter": Column(STR, "what the context says: the CK object"),
        "answer": Column(STR, "what the model says by itself: the PK object"),
        "text": Column(STR, "the prompt"),
        "tokens": Column(pl.List(I32), "its tokens, BOS included where there is one"),
        "counter_ids": Column(pl.List(I32), "tokens of the counter-object as they would follow the prompt"),
        "answer_ids": Column(pl.List(I32), "tokens of the parametric answer as they would follow the prompt"),
    },
    "copying_sets": COPYING_SET
    | {
        "layer": Column(I32, "layer: the last one"),
        "neuron": Column(I32, "neuron; a synthetic set holds its selection's own"),
        "rank": Column(I32, "place in the set, from 0"),
        "norm": Column(F64, "|w_out|"),
        "matched": Column(I32, "selected neuron that it is matched with in norm", nullable=True),
        "norm_ratio": Column(F64, "its norm over that neuron's", nullable=True),
        "draw": Column(I32, "synthetic: number of the draw of random directions", nullable=True),
    },
    "variants": VARIANT | COPYING_VARIANT | DOSE | {"n_neurons": Column(I32, "neurons replaced")},
    "decoded": PROMPT
    | VARIANT
    | {
        "continuation": Column(I32, "the prompt's continuation, a row of continuations.parquet"),
        "label": Column(STR, "CK, ND or PK"),
        "entropy": Column(F64, "entropy at the prompt's end (nats)"),
    },
    "continuations": PROMPT
    | {
        "continuation": Column(I32, "continuation of this prompt, from 0"),
        "tokens": Column(pl.List(I32), "generated tokens"),
        "text": Column(STR, "as text"),
        "answer": Column(STR, "up to the first delimiter"),
        "label": Column(STR, "CK, ND or PK"),
    },
    "states": PROMPT
    | VARIANT
    | {
        "route": Column(STR, ", ".join(ROUTES)),
        "entropy": Column(F64, "entropy at the prompt's end (nats)"),
        "log_prob_ck": Column(F64, "log-probability of the counter-object's first token (nats)"),
        "log_prob_pk": Column(F64, "log-probability of the parametric answer's first token (nats)"),
        "log_prob_nd": Column(
            F64, "log-probability of the competitor: the clean model's best token that is neither of those (nats)"
        ),
        "nd_token": Column(I32, "the competitor, the same before and after"),
        "object_log_prob_ck": Column(F64, "of the whole counter-object; clean and total only", nullable=True),
        "object_log_prob_pk": Column(F64, "of the whole parametric answer; clean and total only", nullable=True),
        "top_token": Column(I32, "most likely next token"),
    },
    "decoding_costs": {
        "shard": Column(I32, "shard"),
        "n_prompts": Column(I64, "prompts"),
        "n_variants": Column(I64, "variants, the clean model included"),
        "n_continuations": Column(I64, "different continuations, summed over prompts"),
        "prefixes": Column(I64, "different prefixes that the model was run on, prompts included"),
        "passes": Column(I64, "batched forward passes"),
        "naive_prefixes": Column(I64, "prefixes that one generation for each variant runs on"),
        "near_ties": Column(I64, "(prefix, variant) pairs whose two best logits differ by less than the tolerance"),
    },
    "decoding_verification": PROMPT
    | VARIANT
    | {
        "tier": Column(STR, "generation (hooks, float64, variant by variant) or readout (entropy, log-probabilities)"),
        "quantity": Column(
            STR, "tokens, entropy, log_prob_ck, log_prob_pk, log_prob_nd, object_log_prob_ck, object_log_prob_pk"
        ),
        "fast": Column(F64, "value by the shared prefix tree; tokens: how many were generated"),
        "brute_force": Column(F64, "value by brute force; tokens: how many of them agree, from the first"),
        "error": Column(F64, "|difference|; tokens: gap of the two best logits where they part, 0 if they never do"),
        "tolerance": Column(F64, "as configured; readout: and the rounding of the model's own precision"),
        "passed": Column(BOOL, "error <= tolerance"),
    },
    "class_counts": {
        "subset": Column(STR, "subset of the facts; `all` for all of them"),
        "label": Column(STR, "CK, ND or PK, under the clean model"),
    }
    | N_PROMPTS
    | {
        "n": Column(I64, "prompts with this label"),
        "n_empty": Column(I64, "of these, prompts to which the model says nothing before a delimiter"),
    }
    | with_interval("share", "their share; missing without prompts"),
    "transitions": COPYING_VARIANT
    | FROM_TO
    | {
        "n_before": Column(I64, "prompts with the label `before`"),
        "n": Column(I64, "prompts that go from `before` to `after`"),
    }
    | with_interval("share", "n / n_before (interval by fact, for selections); missing for an empty class")
    | with_interval("entropy_change", "mean change of the entropy over these prompts (nats); missing for none"),
    "copying_scores": COPYING_VARIANT
    | N_PROMPTS
    | {
        "measure": Column(
            STR,
            "gts (share of labels that change), invariance (1 - gts), cr_ck, cr_nd, cr_pk (conversion ratios: of the "
            "prompts without that label, the share that gets it), ts_nd_ck, ts_pk_ck, ... (shares of one class)",
        ),
        "n_eligible": Column(I64, "prompts that the measure is a share of"),
        "n": Column(I64, "prompts that it counts"),
    }
    | with_interval("value", "n / n_eligible (interval by fact, for selections); missing where nothing is eligible"),
    "control_tests": {
        "set": Column(STR, "selection"),
        "replacement": COPYING_VARIANT["replacement"],
        "measure": Column(STR, "as in copying_scores.parquet"),
        "controls": Column(STR, "uniform, norm_matched or synthetic"),
        "value": Column(F64, "the selection's", nullable=True),
        "n_controls": Column(I64, "control sets with a value"),
        "control_mean": Column(F64, "mean of the controls", nullable=True),
        "control_sd": Column(F64, "their standard deviation (ddof 1)", nullable=True),
        "control_max": Column(F64, "the largest", nullable=True),
        "p_value": Column(
            F64,
            "(1+b)/(1+n), b of n controls at least as large (as small for what stays: invariance, ts_ck_ck, ...)",
            nullable=True,
        ),
        "percentile": Column(
            F64,
            "percentile of the selection among the controls, of equal ones half (what stays: 100 minus it)",
            nullable=True,
        ),
    },
    "copying_relations": {
        "set": Column(STR, "selection"),
        "replacement": COPYING_VARIANT["replacement"],
        "relation": Column(STR, "relation"),
        "measure": Column(STR, "ck, nd, pk (shares of the clean labels), gts, cr_ck"),
        "n_eligible": Column(I64, "prompts that the measure is a share of"),
        "n": Column(I64, "prompts that it counts"),
        "n_facts": Column(I64, "facts, the clusters of the bootstrap"),
    }
    | with_interval("value", "n / n_eligible"),
    "copying_doses": COPYING_SET
    | DOSE
    | N_PROMPTS
    | with_interval("ck", "share of prompts labelled CK (interval by fact, for selections)")
    | with_interval("nd", "share labelled ND")
    | with_interval("pk", "share labelled PK")
    | with_interval("entropy_change", "mean change of the entropy (nats)"),
    "flips": {
        "set": Column(STR, "selection"),
        "replacement": COPYING_VARIANT["replacement"],
        "route": Column(STR, "total, direct or norm"),
        "group": Column(STR, "changed, kept, or a transition such as PK->CK with at least one prompt"),
    }
    | N_PROMPTS
    | _ratio_changes()
    | {"n_top": Column(I64, "prompts whose most likely next token changes by this route alone")},
    "flip_prediction": {
        "set": Column(STR, "selection"),
        "replacement": COPYING_VARIANT["replacement"],
        "route": Column(STR, "total, direct or norm"),
        "quantity": Column(STR, "entropy (|change|), margin (largest |change| of the clean label's log-ratios)"),
        "n_changed": Column(I64, "prompts whose label changes"),
        "n_kept": Column(I64, "prompts whose label stays"),
    }
    | with_interval("auc", "probability that a changed prompt has the larger quantity than a kept one; ties half"),
    "copying_examples": {
        "set": Column(STR, "selection"),
        "replacement": COPYING_VARIANT["replacement"],
    }
    | PROMPT
    | {
        "relation": Column(STR, "relation"),
        "text": Column(STR, "prompt"),
        "counter": Column(STR, "CK object"),
        "answer": Column(STR, "PK object"),
        "before": FROM_TO["before"],
        "after": FROM_TO["after"],
        "text_before": Column(STR, "clean continuation"),
        "text_after": Column(STR, "continuation under the replacement"),
        "entropy_before": Column(F64, "entropy at the prompt's end (nats)"),
        "entropy_after": Column(F64, "the same under the replacement (nats)"),
    },
    "published_copying": {
        "measure": Column(
            STR,
            "gts, gts_percentile, gts_control_max, cr_ck, ..., ts_nd_ck, ..., count_ck, ..., share_ck (clean labels), "
            "activation_584 (what that neuron is held at), shared_neurons (of the published set, in ours)",
        ),
        "replacement": COPYING_VARIANT["replacement"],
        "set": Column(STR, "our selection that it is compared with; missing if there is none", nullable=True),
        "published": Column(F64, "published value, in percent where it is a share", nullable=True),
        "published_control": Column(F64, "published mean of the random sets", nullable=True),
        "control_3se": Column(F64, "three standard errors of that mean, as printed", nullable=True),
        "source": Column(STR, "table or figure, and how it was read"),
        "usable": Column(BOOL, "false where a defect of the published code made the value (see note)"),
        "note": Column(STR, "what is known about the value", nullable=True),
        "n": Column(I64, "ours: prompts that it is a share of", nullable=True),
    }
    | with_interval("ours", "our value, in the same unit")
    | {"ours_control": Column(F64, "our mean of the uniform controls", nullable=True)},
}
