"""The list of every artefact, generated from the schemas into results/README.md.

Run `python workflow_scripts/neuronlab/results_reference.py` (with `workflow_scripts` on PYTHONPATH) after changing a
schema or a path; tests fail when the list and what a run leaves behind have drifted apart.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from neuronlab.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS, TEXT = "{model}/weights", "{model}/texts/{text}"

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
    (f"{WEIGHTS}/boosted_tokens.parquet", "boost_tokens", "boosted_tokens"),
    (f"{WEIGHTS}/token_strings.parquet", "boost_tokens", "token_strings"),
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
    (f"{TEXT}/ablation/traces.parquet", "trace_neurons", "traces"),
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
    ("retrained/{seed}/", "train_demo_model", "the demo model trained again, with its checkpoints"),
    (f"{WEIGHTS}/figures/{{figure}}.svg", "draw_{figure}", "norm_logitvar, singular_values, published (and .png, ...)"),
    (
        f"{TEXT}/figures/{{figure}}.svg",
        "draw_{figure}",
        "total_direct, rho_mediation, entropy_prediction, synthetic_controls, verification (and .png, ...)",
    ),
    (f"{TEXT}/cards.html", "write_cards", "a page of neuron cards, one file that works offline"),
    ("logs/..., benchmarks/...", "every rule", "log, and wall time and memory, under the path of what was made"),
]
INTRODUCTION = """# Results

Generated from `workflow_scripts/neuronlab/schemas.py`; do not edit by hand. Everything in this folder but this file is
made by the workflow and can be deleted.

Tables are Parquet files with their provenance in the metadata. Layers, neurons and positions count from 0; losses,
entropies and divergences are in nats; an effect is after minus before; `_low` and `_high` are the ends of an interval
from a bootstrap over documents. A missing value is a null.

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
    for _, _, name in TABLES:
        parts.append(f"\n## {name}\n\n| column | type | meaning |\n| --- | --- | --- |\n")
        for column, spec in SCHEMAS[name].items():
            nullable = ", or missing" if spec.nullable else ""
            meaning = spec.meaning.replace("|", chr(92) + "|")
            parts.append(f"| `{column}` | {type_name(spec.dtype)}{nullable} | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (ROOT / "results" / "README.md").write_text(render())
