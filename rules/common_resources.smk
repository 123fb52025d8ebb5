"""What jobs ask for: memory, time and GPUs, planned from the sizes of their model and of what it reads.

Needs: the look-ups of `common.smk`. Makes nothing. The arithmetic is in neuronlab/resource_plan.py and explained in
docs/scale.md; `compute.memory_mb` and `compute.runtime_minutes` are the least that a model job asks for. Every further
attempt asks for more, so that a job that was stopped for its memory or time gets through with `--retries`.
"""

from functools import cache

from neuronlab.model_sizes import estimated_parameters, planned_sizes
from neuronlab.repeat_length import repeat_length
from neuronlab.resource_plan import Load, together
from neuronlab.resource_plan import plan as plan_resources

MEMORY_GROWTH, RUNTIME_GROWTH = 2.0, 1.5  # per attempt
BYTES_PER_WEIGHT = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
PROMPT_TOKENS = 32
PARAREL_SIZE = 5000  # facts
COUNTER_OBJECTS = 3  # per fact
OF_SHARDS = ("tables", "frequency")  # kinds that read all shards


@cache
def sizes_of(model):
    """Sizes of a model: its config.json's where that is there, the configured ones until then."""
    spec = ModelSpec(**model_spec(as_model(model)))
    return planned_sizes(
        model_directory(spec), config["models"][base_model(model)].get("size", {})
    )


def changes_per_token(kind, model, sizes):
    """How many changes of the model every token sees, as `resource_plan.Load.replacements` counts them."""
    if kind == "decoding":
        study = config["context_copying"]
        applying = [*selection_entries(as_model(model)), *TEXT_SETS]
        named = [name for name in applying if name in study["selections"]] or applying
        kinds = ("uniform", "norm_matched", "synthetic")
        controls = sum(study["controls"][kind] for kind in kinds)
        doses = study["dose_response"]
        clamped = doses["points"] * (1 + len(kinds) * doses["controls"])
        return len(named) * ((1 + controls) * len(study["replacements"]) + clamped)
    if kind == "layers":
        return sizes.n_layers * len(config["stages_of_inference"]["interventions"])
    if kind == "heads":
        heads = config["induction"]["heads"]
        sets = 2 * heads["top"] - 1 + len(heads["sets"])
        return sets * (1 + heads["baselines"]) * len(heads["methods"])
    return len(config["ablation"]["replacements"])


def read_sequences(kind, sizes, text, facts):
    """How many sequences a job reads, of which length: of a text, prompts, or repetitions."""
    available = text.get("sequences", 1)
    length = text.get("sequence_length", 256)
    if facts:
        known = facts.get("max_facts") or PARAREL_SIZE
        return known * (1 if kind == "answers" else COUNTER_OBJECTS), PROMPT_TOKENS
    if kind in ("layers", "lens"):
        return min(available, config["stages_of_inference"]["sequences"]), length
    if kind not in ("scores", "heads"):
        return available, length
    # Random sequences, and repetitions of stretches of the text or in its own sequences.
    repeated, heads = config["induction"], config["induction"]["heads"]
    random = repeat_length(heads["length"], n_ctx=sizes.n_ctx)
    copies = repeated["synthetic"]["repetitions"]
    copied = 1 + copies * repeat_length(
        repeated["synthetic"]["length"], n_ctx=sizes.n_ctx, repetitions=copies
    )
    if kind == "heads":
        return min(available, heads["ablated_sequences"]), copied
    found = sum(
        min(available, repeated[kind]["sequences"]) for kind in ("synthetic", "natural")
    )
    return heads["sequences"] + found, max(1 + 2 * random, copied, length)


def most_tokens(kind):
    """How many counted tokens a job keeps rows or states of, at most; None for all."""
    return {
        "chosen": config["ablation"]["traced_tokens"],
        "traces": config["ablation"]["traced_tokens"],
        "sets": config["sets"]["tokens"],
    }.get(kind)


def frozen_pairs():
    """(token, neuron) pairs of both halves' samples, once for the total effect and for each direction frozen."""
    chosen = config["token_frequency"]
    return 2 * chosen["tokens"] * chosen["candidates"] * (2 + chosen["directions"])


def load_of(kind, model, wildcards):
    """What a job has to do, as `resource_plan.plan` takes it; None where sizes are unknown."""
    sizes = sizes_of(model)
    if estimated_parameters(sizes) is None:
        return None
    text = config["texts"].get(getattr(wildcards, "text", None), {})
    facts = config["facts"].get(getattr(wildcards, "facts", None))
    sequences, sequence_length = read_sequences(kind, sizes, text, facts)
    shards = (config["context_copying"] if facts else COMPUTE)["shards"]
    return Load(
        parameters=sizes.parameters or estimated_parameters(sizes),
        d_model=sizes.d_model,
        n_layers=sizes.n_layers,
        d_mlp=sizes.d_mlp,
        d_vocab=sizes.d_vocab,
        bytes_per_weight=BYTES_PER_WEIGHT[config["models"][base_model(model)]["dtype"]],
        sequences=sequences,
        sequence_length=sequence_length,
        shards=shards if hasattr(wildcards, "shard") or kind in OF_SHARDS else 1,
        replacements=changes_per_token(kind, model, sizes),
        neurons_per_tile=COMPUTE["neurons_per_tile"],
        tokens_per_chunk=COMPUTE["tokens_per_chunk"],
        batch_size=COMPUTE["batch_size"],
        gpus=COMPUTE["gpus_per_job"],
        threads=COMPUTE["threads"],
        n_heads=sizes.n_heads,
        most_tokens=most_tokens(kind),
        pairs=frozen_pairs(),
    )


def planned(kind, wildcards, models=None):
    """The plan of a job of this kind, for all models that it loads; None where no sizes are known."""
    loads = [load_of(kind, name, wildcards) for name in models or [wildcards.model]]
    known = [
        plan_resources(kind, load, float64_limit_mb=COMPUTE["float64_mb"])
        for load in loads
        if load
    ]
    return together(known) if known else None


def both_models(wildcards):
    """A model and the larger one that it is compared with."""
    reference = reference_model(wildcards)
    return [wildcards.model, *([reference] if reference else [])]


def memory(kind, models=None):
    """Memory in MB of a rule's jobs, by wildcards and attempt.

    `kind` is one of `resource_plan.KINDS`; `models` lists the models that a job loads, by default its own.
    """

    def mem_mb(wildcards, attempt):
        plan = planned(kind, wildcards, models and models(wildcards))
        least = max(COMPUTE["memory_mb"], plan.memory_mb if plan else 0)
        return round(least * MEMORY_GROWTH ** (attempt - 1))

    return mem_mb


def minutes(kind, models=None):
    """Runtime in minutes of a rule's jobs, likewise."""

    def runtime(wildcards, attempt):
        plan = planned(kind, wildcards, models and models(wildcards))
        least = max(COMPUTE["runtime_minutes"], plan.minutes if plan else 0)
        return round(least * RUNTIME_GROWTH ** (attempt - 1))

    return runtime


def small(amount):
    """Memory in MB or runtime in minutes of jobs that load no model: a fixed amount, twice as much with every attempt."""
    return lambda wildcards, attempt: round(amount * 2 ** (attempt - 1))
