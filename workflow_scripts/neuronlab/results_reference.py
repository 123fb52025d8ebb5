"""The list of every artefact, generated from the schemas into results/README.md.

Run `python workflow_scripts/neuronlab/results_reference.py` (with `workflow_scripts` on PYTHONPATH) after changing a
schema or a path; tests fail when the list and what a run leaves behind have drifted apart.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from neuronlab.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS, TEXT, COMPARED = "{model}/weights", "{model}/texts/{text}", "comparison/{comparison}"
FACTS, KNOWLEDGE = "inputs/facts/{facts}", "{model}/facts/{facts}/knowledge"
LAYERS, OVERLAY = f"{TEXT}/layers", "stages/{text}"

PAPERS = {"tex": "LaTeX", "html": "HTML"}

# path below results/, the rule that makes it, and the schema or, for what is no table, what it is
TABLES = [
    ("inputs/demo/documents.parquet", "make_demo_world", "demo_documents"),
    ("inputs/demo/facts.parquet", "make_demo_world", "demo_facts"),
    ("inputs/demo/token_counts.parquet", "make_demo_world", "demo_token_counts"),
    ("inputs/texts/{text}/documents.parquet", "fetch_text", "documents"),
    (f"{WEIGHTS}/neurons.parquet", "measure_neurons", "neurons"),
    (f"{WEIGHTS}/null_space.parquet", "measure_neurons", "null_space"),
    (f"{WEIGHTS}/singular_values.parquet", "measure_neurons", "singular_values"),
    (f"{WEIGHTS}/selection.parquet", "select_neurons", "selection"),
    (f"{WEIGHTS}/alignment.parquet", "align_neurons", "alignment"),
    (f"{TEXT}/boosted_tokens.parquet", "boost_tokens", "boosted_tokens"),
    (f"{TEXT}/token_strings.parquet", "boost_tokens", "token_strings"),
    (f"{WEIGHTS}/published.parquet", "compare_published", "published"),
    (f"{TEXT}/tokens.parquet", "tokenize_text", "tokens"),
    (f"{TEXT}/token_counts.parquet", "count_tokens", "token_counts"),
    (f"{TEXT}/frequency_cosine.parquet", "measure_frequency_cosine", "frequency_cosine"),
    (f"{TEXT}/activation_statistics.parquet", "measure_activations", "activation_statistics"),
    (f"{TEXT}/baseline.parquet", "measure_activations", "baseline"),
    (f"{TEXT}/ablation/shards/{{shard}}.parquet", "ablate_neurons", "ablation_shard"),
    (f"{TEXT}/ablation/verification.parquet", "verify_ablation", "verification"),
    (f"{TEXT}/ablation/effects.parquet", "summarize_effects", "effects"),
    (f"{TEXT}/ablation/synthetic.parquet", "ablate_synthetic", "synthetic"),
    (f"{TEXT}/ablation/token_frequency.parquet", "select_token_frequency", "token_frequency"),
    (f"{TEXT}/ablation/random_directions.parquet", "select_token_frequency", "random_directions"),
    (f"{TEXT}/ablation/selection.parquet", "select_token_frequency", "selection"),
    (f"{TEXT}/ablation/traces.parquet", "trace_neurons", "traces"),
    (f"{TEXT}/ablation/set_effects.parquet", "ablate_sets", "set_effects"),
    (f"{TEXT}/ablation/set_verification.parquet", "ablate_sets", "set_verification"),
    (f"{TEXT}/ablation/temperature.parquet", "ablate_sets", "temperature"),
    (f"{TEXT}/ablation/calibration.parquet", "ablate_sets", "calibration"),
    (f"{TEXT}/ablation/reliability.parquet", "ablate_sets", "reliability"),
    (f"{TEXT}/ablation/dose_response.parquet", "clamp_neurons", "dose_response"),
    (f"{TEXT}/ablation/reference_kl.parquet", "measure_reference_kl", "reference_kl"),
    (f"{TEXT}/induction/synthetic/repeats.parquet", "make_repeats", "repeats"),
    (f"{TEXT}/induction/natural/repeats.parquet", "find_repeats", "repeats"),
    (f"{TEXT}/induction/{{kind}}/profile.parquet", "measure_induction", "induction_profile"),
    (f"{TEXT}/induction/{{kind}}/scores.parquet", "measure_induction", "induction_scores"),
    (f"{TEXT}/induction/{{kind}}/ablation.parquet", "ablate_induction", "induction_ablation"),
    (f"{TEXT}/induction/{{kind}}/tests.parquet", "ablate_induction", "induction_tests"),
    (f"{TEXT}/induction/heads.parquet", "score_heads", "induction_heads"),
    (f"{TEXT}/induction/head_ablation.parquet", "ablate_heads", "head_ablation"),
    (f"{TEXT}/induction/head_neurons.parquet", "ablate_heads", "head_neurons"),
    (f"{TEXT}/induction/head_verification.parquet", "ablate_heads", "head_verification"),
    (f"{TEXT}/survey/{{comparison}}/neurons.parquet", "survey_model", "survey_neurons"),
    (f"{TEXT}/survey/{{comparison}}/summary.parquet", "survey_model", "survey_summary"),
    (f"{TEXT}/survey/{{comparison}}/spectrum.parquet", "survey_model", "survey_spectrum"),
    (f"{COMPARED}/neurons.parquet", "compare_models", "comparison_neurons"),
    (f"{COMPARED}/summary.parquet", "compare_models", "comparison_summary"),
    (f"{COMPARED}/spectra.parquet", "compare_models", "comparison_spectra"),
    (f"{FACTS}/facts.parquet", "read_facts", "facts"),
    (f"{FACTS}/relations.parquet", "read_facts", "relations"),
    (f"{KNOWLEDGE}/answers.parquet", "answer_queries", "answers"),
    (f"{KNOWLEDGE}/filtered.parquet", "filter_answers", "filtered"),
    (f"{KNOWLEDGE}/counters.parquet", "make_conflicts", "counters"),
    (f"{KNOWLEDGE}/conflicts.parquet", "make_conflicts", "conflicts"),
    (f"{KNOWLEDGE}/funnel.parquet", "make_conflicts", "funnel"),
    (f"{KNOWLEDGE}/activation_statistics.parquet", "make_conflicts", "activation_statistics"),
    (f"{KNOWLEDGE}/sets.parquet", "select_copying_sets", "copying_sets"),
    (f"{KNOWLEDGE}/variants.parquet", "select_copying_sets", "variants"),
    (f"{KNOWLEDGE}/shards/{{shard}}/decoded.parquet", "decode_conflicts", "decoded"),
    (f"{KNOWLEDGE}/shards/{{shard}}/continuations.parquet", "decode_conflicts", "continuations"),
    (f"{KNOWLEDGE}/shards/{{shard}}/states.parquet", "decode_conflicts", "states"),
    (f"{KNOWLEDGE}/shards/{{shard}}/costs.parquet", "decode_conflicts", "decoding_costs"),
    (f"{KNOWLEDGE}/decoding_verification.parquet", "verify_decoding", "decoding_verification"),
    (f"{KNOWLEDGE}/class_counts.parquet", "score_copying", "class_counts"),
    (f"{KNOWLEDGE}/transitions.parquet", "score_copying", "transitions"),
    (f"{KNOWLEDGE}/scores.parquet", "score_copying", "copying_scores"),
    (f"{KNOWLEDGE}/control_tests.parquet", "score_copying", "control_tests"),
    (f"{KNOWLEDGE}/relations.parquet", "score_copying", "copying_relations"),
    (f"{KNOWLEDGE}/doses.parquet", "score_copying", "copying_doses"),
    (f"{KNOWLEDGE}/flips.parquet", "score_copying", "flips"),
    (f"{KNOWLEDGE}/flip_prediction.parquet", "score_copying", "flip_prediction"),
    (f"{KNOWLEDGE}/examples.parquet", "score_copying", "copying_examples"),
    (f"{KNOWLEDGE}/published.parquet", "compare_published_copying", "published_copying"),
    (f"{LAYERS}/interventions.parquet", "intervene_layers", "interventions"),
    (f"{LAYERS}/intervention_costs.parquet", "intervene_layers", "intervention_costs"),
    (f"{LAYERS}/intervention_verification.parquet", "intervene_layers", "intervention_verification"),
    (f"{LAYERS}/lens.parquet", "measure_lens", "lens"),
    (f"{LAYERS}/lens_documents.parquet", "measure_lens", "lens_documents"),
    (f"{LAYERS}/lens_tokens.parquet", "measure_lens", "lens_tokens"),
    (f"{WEIGHTS}/vocabulary_counts.parquet", "count_vocabulary_neurons", "vocabulary_counts"),
    (f"{WEIGHTS}/vocabulary_neurons.parquet", "count_vocabulary_neurons", "vocabulary_neurons"),
    (f"{LAYERS}/local_attention.parquet", "measure_local_attention", "local_attention"),
    (f"{LAYERS}/attention_bos.parquet", "measure_local_attention", "attention_bos"),
    (f"{LAYERS}/local_attention_layers.parquet", "measure_local_attention", "local_attention_layers"),
    (f"{LAYERS}/subjoiners.parquet", "score_subjoiners", "subjoiners"),
    (f"{LAYERS}/subjoiner_examples.parquet", "score_subjoiners", "subjoiner_examples"),
    (f"{WEIGHTS}/features.parquet", "score_features", "features"),
    (f"{WEIGHTS}/feature_neurons.parquet", "score_features", "feature_neurons"),
    (f"{WEIGHTS}/feature_histograms.parquet", "score_features", "feature_histograms"),
    (f"{LAYERS}/probes.parquet", "train_probes", "probes"),
    (f"{LAYERS}/stages.parquet", "estimate_stages", "stages"),
]
OTHERS = [
    (
        "inputs/demo/documents.parquet",
        "make_demo_world",
        "evaluation documents of the demo world: document, split, text",
    ),
    ("inputs/demo/facts.parquet", "make_demo_world", "its facts: subject, relation, object, query, statement, ..."),
    ("inputs/demo/token_counts.parquet", "make_demo_world", "counts over all training tokens: token_id, count"),
    ("inputs/models/{model}/manifest.json", "fetch_model", "revision and checksums of a fetched model"),
    ("inputs/texts/{text}/manifest.json", "fetch_text", "revision and checksum of a fetched data set"),
    (f"{FACTS}/pararel.csv", "fetch_facts", "ParaRel as study B used it"),
    (f"{FACTS}/pararel_relations.xlsx", "fetch_facts", "its relations, with descriptions and examples"),
    (f"{FACTS}/manifest.json", "fetch_facts", "where both come from, with checksums"),
    ("retrained/{seed}/", "train_demo_model", "the demo model trained again, with its checkpoints"),
    (
        f"{WEIGHTS}/figures/{{figure}}.svg",
        "draw_{figure}",
        "norm_logitvar, singular_values, published, selected_neurons, norm_logitvar_layers, layer_trends, "
        "norm_distributions, layer_neuron_counts, strongest_neurons, feature_neurons (and .png, ...)",
    ),
    (
        f"{TEXT}/figures/{{figure}}.svg",
        "draw_{figure}",
        "overview, total_direct, rho_mediation, entropy_prediction, synthetic_controls, verification, unigram_kl, "
        "token_effects, example_passage, token_frequency, temperature, calibration, dose_response, reference_kl, "
        "induction_profile_{kind}, induction_ablation_{kind}, induction_scores, induction_heads, head_ablation, "
        "head_neurons (and .png, ...)",
    ),
    (
        f"{KNOWLEDGE}/figures/{{figure}}.svg",
        "draw_{figure}",
        "class_counts, activation_densities, transition_scores, conversion_ratios, copying_bars, transition_matrix, "
        "copying_relations, copying_doses, decision_boundaries, log_ratio_changes, flips, published_copying "
        "(and .png, ...)",
    ),
    *(
        (
            f"{KNOWLEDGE}/tables/{{table}}.{suffix}",
            "write_copying_tables",
            f"transitions, transition_counts, global_scores, selected_neurons, examples, as {format_}",
        )
        for suffix, format_ in PAPERS.items()
    ),
    (
        f"{LAYERS}/figures/{{figure}}.svg",
        "draw_{figure}",
        "interventions, swap_matrix, lens, lens_tokens, local_attention, subjoiners, subjoiner_examples, probes, "
        "stages (and .png, ...)",
    ),
    (
        f"{OVERLAY}/figures/{{figure}}.svg",
        "overlay_{figure}",
        "all models of study C: interventions, stages, layer_neuron_counts, local_attention (and .png, ...)",
    ),
    *(
        (
            f"copying/{{facts}}/tables/{{table}}.{suffix}",
            "compare_copying",
            f"over all models: global_scores, models, as {format_}",
        )
        for suffix, format_ in PAPERS.items()
    ),
    (f"{COMPARED}/figures/{{figure}}.svg", "draw_{figure}", "emergence, models, spectra (and .png, ...)"),
    (f"{TEXT}/cards.html", "write_cards", "a page of neuron cards, one file that works offline"),
    ("logs/..., benchmarks/...", "every rule", "log, and wall time and memory, under the path of what was made"),
]
INTRODUCTION = """# Results

Generated from `workflow_scripts/neuronlab/schemas.py`; do not edit by hand. Everything in this folder but this file is
made by the workflow and can be deleted.

Tables are Parquet files with their provenance in the metadata. Layers, neurons and positions count from 0; losses,
entropies and divergences are in nats; an effect is after minus before; `_low` and `_high` are the ends of an interval
from a bootstrap over documents. A missing value is a null. Formulas are in [docs/methods.md](../docs/methods.md), whose
sections are meant by "METHODS C1" and the like.

"""


def type_name(dtype: pl.DataType | type[pl.DataType]) -> str:
    """A Polars type in a reader's words."""
    if isinstance(dtype, pl.List):
        return f"list of {type_name(dtype.inner)}"
    return {pl.Int32: "int32", pl.Int64: "int64", pl.Float64: "float64", pl.String: "string", pl.Boolean: "boolean"}[
        dtype if isinstance(dtype, type) else type(dtype)
    ]


def render() -> str:
    """The whole of results/README.md, as Markdown."""
    parts = [INTRODUCTION, "| path | rule | what it is |\n| --- | --- | --- |\n"]
    parts += [f"| `{path}` | `{rule}` | [{schema}](#{schema}) |\n" for path, rule, schema in TABLES]
    parts += [f"| `{path}` | `{rule}` | {what} |\n" for path, rule, what in OTHERS]
    for name in dict.fromkeys(schema for _, _, schema in TABLES):
        parts.append(f"\n## {name}\n\n| column | type | meaning |\n| --- | --- | --- |\n")
        for column, spec in SCHEMAS[name].items():
            nullable = ", or missing" if spec.nullable else ""
            meaning = spec.meaning.replace("|", chr(92) + "|")
            parts.append(f"| `{column}` | {type_name(spec.dtype)}{nullable} | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (ROOT / "results" / "README.md").write_text(render())
