"""Look-ups that the rules of study B share: knowledge bases, templates, sets. No science here.

Needs: the look-ups of `common.smk`. Makes nothing.
"""

from neuronlab.configuration_copying import TEXT_SETS

COPY = config["context_copying"]
FACTS = "results/inputs/facts/{facts}"
KNOWLEDGE = "results/{model}/facts/{facts}/knowledge"
FACTS_SHARDS = range(COPY["shards"])


def facts_entry(wildcards):
    return configured("facts", wildcards.facts)


def facts_files(wildcards):
    """The files that a knowledge base is read from: the facts, and the relations where they stand in a file."""
    entry = facts_entry(wildcards)
    if entry["source"] == "demo":
        return ["results/inputs/demo/facts.parquet"]
    if entry["source"] == "pararel" and "path" not in entry:
        folder = f"results/inputs/facts/{wildcards.facts}"
        return [f"{folder}/pararel.csv", f"{folder}/pararel_relations.xlsx"]
    return [entry[key] for key in ("path", "relations") if key in entry]


def facts_text(wildcards):
    """The text of study A that a knowledge base names, if any."""
    return facts_entry(wildcards).get("text")


def template_of(wildcards):
    """How a model is asked for its own answers."""
    names = (wildcards.model, base_model(wildcards.model))
    return next(
        (COPY["templates"][name] for name in names if name in COPY["templates"]),
        COPY["template"],
    )


def filters_of(wildcards):
    """The configured filters that apply to the prompts that a model sees."""
    return shown_filters(COPY["filters"], template_of(wildcards))


def copying_sets(wildcards):
    """The named sets that a model has: a selection that is restricted to other models is none of them."""
    applying = selection_entries(wildcards)
    named = [n for n in COPY["selections"] if n in applying or n in TEXT_SETS]
    if COPY["selections"] and not named:
        raise WorkflowError(
            f"configuration: context_copying.selections: none of {', '.join(COPY['selections'])} applies to "
            f"'{wildcards.model}'; name one that does, or leave the model out of context_copying.models"
        )
    return named


def copying_selections(wildcards):
    """The tables of chosen neurons: by weights and, where the knowledge base names a text, by effects on it."""
    tables = [f"results/{wildcards.model}/weights/selection.parquet"]
    if facts_text(wildcards) and part("token_frequency"):
        tables.append(
            f"results/{wildcards.model}/texts/{facts_text(wildcards)}/ablation/selection.parquet"
        )
    return tables


def copying_heads(name):
    """A table about induction heads on the knowledge base's text, for the set of neurons that they drive."""
    return lambda wildcards: (
        [
            f"results/{wildcards.model}/texts/{facts_text(wildcards)}/induction/{name}.parquet"
        ]
        if facts_text(wildcards) and part("heads") and COPY["induction_driven"]
        else []
    )


def copying_statistics(wildcards):
    """The activation statistics that replacement values come from."""
    if facts_entry(wildcards)["statistics"] == "text":
        return f"results/{wildcards.model}/texts/{facts_text(wildcards)}/activation_statistics.parquet"
    return f"results/{wildcards.model}/facts/{wildcards.facts}/knowledge/activation_statistics.parquet"


def decoded(name):
    """One table of all shards of the decoding."""
    return expand(
        f"{KNOWLEDGE}/shards/{{shard}}/{name}.parquet",
        shard=FACTS_SHARDS,
        allow_missing=True,
    )


def copying_model_files(wildcards):
    return [file for name in COPY["models"] for file in model_files(as_model(name))]


def of_models(name):
    """One table of study B of all its models, in their order."""
    return expand(
        f"{KNOWLEDGE}/{name}.parquet", model=COPY["models"], allow_missing=True
    )
