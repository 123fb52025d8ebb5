"""Configuration, wildcards, resources and the code digest: the little that all stages share. No science here.

Parsing touches neither the network nor a model: a dry run costs seconds, and whatever the configuration gets
wrong is refused at this point.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

SCRIPTS = Path(workflow.basedir) / "workflow_scripts"
sys.path.insert(0, str(SCRIPTS))

from neuronlab.configuration import (
    BIAS,
    ConfigError,
    base_model,
    check_config,
    check_keys,
    find_entry,
)
from neuronlab.configuration_copying import check_copying
from neuronlab.configuration_extends import extended
from neuronlab.configuration_stages import check_stages
from neuronlab.digest import code_digest
from neuronlab.model_files import ModelError, ModelSpec
from neuronlab.model_files import model_files as list_model_files
from neuronlab.model_files import check_manifest, model_directory
from neuronlab.model_demands import check_demands
from neuronlab.model_sizes import check_reference
from neuronlab.published_models import VALUES as PUBLISHED_VALUES
from neuronlab.prompt_templates import shown_filters
from neuronlab.published_models import (
    COPYING_ACTIVATIONS,
    COPYING_MODELS,
    COPYING_VALUES,
    frequency_neurons,
    published_name,
)
from neuronlab.replacements import ReplacementError, parse_replacements
from neuronlab.selection_rules import SelectionError, complete_parameters

SCHEMA = Path(workflow.basedir) / "config" / "schema.yaml"
try:
    folders = [Path(file).parent for file in workflow.configfiles]
    config |= extended(config, [*folders, Path.cwd()])
    config.pop("extends", None)
    check_keys(config, yaml.safe_load(SCHEMA.read_text()))
    validate(config, SCHEMA)
    check_config(config)
    check_copying(config)
    check_stages(config)
    for name, entry in config["selections"].items():
        complete_parameters(name, {k: v for k, v in entry.items() if k != "text"})
    parse_replacements(config["ablation"]["replacements"])
except (ConfigError, SelectionError, ReplacementError) as error:
    raise WorkflowError(str(error)) from None

COMPUTE = config["compute"]
FORMATS = config["figures"]["formats"]
SHARDS = range(COMPUTE["shards"])

# Libraries read these when they are first imported, in every job, here or on a cluster's node. They come from
# the configuration because Snakemake lowers a rule's `threads` to --cores, and sums depend on their number.
os.environ.update(
    {
        name: str(COMPUTE["threads"])
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    | {
        "OPENBLAS_NUM_THREADS": str(COMPUTE["threads"]),
        "POLARS_MAX_THREADS": str(COMPUTE["threads"]),
    }
    | {"TOKENIZERS_PARALLELISM": "false", "TQDM_MININTERVAL": "5"}
)


wildcard_constraints:
    model=r"[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_.-]*)?",
    text=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    shard=r"\d+",
    kind="synthetic|natural",
    comparison=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    facts=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    seed=r"\d+",


def library(script):
    """Digest of the code that a script reaches (neuronlab/digest.py): the rule is stale when it changes."""
    return code_digest(SCRIPTS / f"{script}.py")


def configured(group, name):
    """An entry of the configuration; a name in a path that is not configured is refused with the nearest one."""
    try:
        return find_entry(config, group, name)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def model_entry(wildcards):
    return configured("models", base_model(wildcards.model))


def model_revision(model):
    """The part after '@', or the configured revision."""
    return model.partition("@")[2] or config["models"][base_model(model)].get(
        "revision"
    )


def model_spec(wildcards):
    """What `models.load_model` needs, as plain values."""
    entry = model_entry(wildcards)
    return {
        "key": wildcards.model,
        "source": entry["source"],
        "path": (
            f"results/inputs/models/{wildcards.model}"
            if entry["source"] == "hub"
            else entry.get("path")
        ),
        "name": entry.get("name"),
        "revision": model_revision(wildcards.model),
        "dtype": entry["dtype"],
        "trust_remote_code": entry["trust_remote_code"],
        "device": COMPUTE["device"],
    }


def texts_of(model):
    """The texts that a model reads: those of study A, of study C, of its comparisons, and those that knowledge
    bases name."""
    study, compared = config["confidence_regulation"], config["comparisons"].values()
    read = {entry["text"] for entry in compared if model in entry["models"]}
    copying = config["context_copying"]
    if model in copying["models"]:
        entries = [config["facts"][name] for name in copying["facts"]]
        read |= {entry["text"] for entry in entries if "text" in entry}
    stages = config["stages_of_inference"]
    read |= set(stages["texts"] if model in stages["models"] else [])
    return sorted(read | set(study["texts"] if model in study["models"] else []))


def model_demands(wildcards):
    """What `model_demands.check_demands` compares a model's sizes with, beside the configuration."""
    return {
        "model": wildcards.model,
        "null_space_k": null_space_k(wildcards),
        "k_key": null_space_key(wildcards),
        "selections": selections_of(wildcards),
        "texts": texts_of(wildcards.model),
    }


def model_files(wildcards):
    """The files that a model consists of; a fetched model is represented by its manifest."""
    spec = ModelSpec(**model_spec(wildcards))
    try:
        fetched = spec.source == "hub"
        files = [f"{spec.path}/manifest.json"] if fetched else list_model_files(spec)
        if not fetched or Path(files[0]).is_file():
            if fetched:
                check_manifest(model_directory(spec), spec.where)
            check_demands(model_directory(spec), config, **model_demands(wildcards))
        return files
    except (ModelError, ConfigError) as error:
        raise WorkflowError(str(error)) from None


def text_spec(wildcards):
    """What `documents.TextSpec` holds, as plain values."""
    return {"key": wildcards.text, **configured("texts", wildcards.text)}


def text_documents(wildcards):
    """The file that a text's documents stand in."""
    entry = configured("texts", wildcards.text)
    return {
        "demo": "results/inputs/demo/documents.parquet",
        "file": entry.get("path"),
        "hub": f"results/inputs/texts/{wildcards.text}/documents.parquet",
    }[entry["source"]]


def count_source(wildcards):
    """The published or shipped counts that a text names, if any."""
    counts = configured("texts", wildcards.text)["counts"]
    return {"text": [], "demo": "results/inputs/demo/token_counts.parquet"}.get(
        counts, counts
    )


def null_space_k(wildcards):
    return model_entry(wildcards).get("null_space_k", config["weights"]["null_space_k"])


def null_space_key(wildcards):
    """The configuration key that `null_space_k` comes from, for messages."""
    own = "null_space_k" in model_entry(wildcards)
    return (
        f"models.{base_model(wildcards.model)}.null_space_k"
        if own
        else "weights.null_space_k"
    )


def selection_entries(wildcards):
    """The configured selections that apply to a model."""
    names = {wildcards.model, base_model(wildcards.model)}
    return {
        name: entry
        for name, entry in config["selections"].items()
        if names & set(entry.get("models", names))
    }


def selections_of(wildcards):
    """Rule and parameters of the selections that apply to a model."""
    return {
        name: {
            key: value for key, value in entry.items() if key not in ("models", "text")
        }
        for name, entry in selection_entries(wildcards).items()
    }


def selection_statistics(wildcards):
    """Activation statistics that a selection's limit on kurtosis refers to, if one has such a limit."""
    texts = {
        entry["text"]
        for entry in selection_entries(wildcards).values()
        if "text" in entry
    }
    return [
        f"results/{wildcards.model}/texts/{text}/activation_statistics.parquet"
        for text in sorted(texts)
    ]


def ablation_settings(wildcards):
    """What `final_states.AblationInputs` holds beside the files, as plain values."""
    return {
        "include_padded": configured("texts", wildcards.text)["include_padded"],
        "replacements": config["ablation"]["replacements"],
        "kernel": COMPUTE["kernel"],
        "batch_size": COMPUTE["batch_size"],
        "tokens_per_chunk": COMPUTE["tokens_per_chunk"],
        "neurons_per_tile": COMPUTE["neurons_per_tile"],
        "seed": config["seed"],
    }


def part(name):
    """Whether a part of study A is asked for."""
    return name in config["confidence_regulation"]["parts"]


def of_part(name, path):
    """A table of a part of study A: no input where that part is switched off."""
    return path if part(name) else []


def selections(wildcards):
    """The tables of chosen neurons: by weights and, where that part is made, by effects."""
    tables = [f"results/{wildcards.model}/weights/selection.parquet"]
    if part("token_frequency"):
        tables.append(
            f"results/{wildcards.model}/texts/{wildcards.text}/ablation/selection.parquet"
        )
    return tables


def published_frequency_neurons(wildcards):
    """Neurons that study A calls token-frequency neurons, if the model is one that it looked at."""
    return frequency_neurons(
        published_name(model_entry(wildcards), wildcards.model) or ""
    )


def reference_model(wildcards):
    """The larger model that a model is compared with, if the configuration names one."""
    name = config["confidence_regulation"]["references"].get(wildcards.model)
    return None if name == BIAS else name


def as_model(model):
    """Wildcards that stand for another model than the rule's own."""
    return SimpleNamespace(model=model)


def reference_specs(wildcards):
    name = reference_model(wildcards)
    return {name: model_spec(as_model(name))} if name else {}


def reference_files(wildcards):
    name = reference_model(wildcards)
    if not name:
        return []
    files = model_files(as_model(name))
    specs = [ModelSpec(**model_spec(as_model(m))) for m in (wildcards.model, name)]
    try:
        if all(spec.source != "hub" or Path(spec.path).is_dir() for spec in specs):
            own, other = map(model_directory, specs)
            check_reference(wildcards.model, own, name, other)
    except (ModelError, ConfigError) as error:
        raise WorkflowError(str(error)) from None
    return files


def comparison_entry(wildcards):
    return configured("comparisons", wildcards.comparison)


def comparison_reference(wildcards):
    """The model whose selected neurons a comparison follows."""
    entry = comparison_entry(wildcards)
    return entry.get("reference", entry["models"][-1])


def reference_selections(wildcards):
    """The selections of that model, by weights and, where they are made, by effects on the comparison's text."""
    text = comparison_entry(wildcards)["text"]
    studied = config["confidence_regulation"]
    reference = comparison_reference(wildcards)
    tables = [f"results/{reference}/weights/selection.parquet"]
    if (
        part("token_frequency")
        and reference in studied["models"]
        and text in studied["texts"]
    ):
        tables.append(f"results/{reference}/texts/{text}/ablation/selection.parquet")
    return tables


def surveys(name):
    """One table of the surveys of all models of a comparison, in their order."""
    return lambda wildcards: [
        f"results/{model}/texts/{comparison_entry(wildcards)['text']}/survey/{wildcards.comparison}/{name}.parquet"
        for model in comparison_entry(wildcards)["models"]
    ]


def gpu(kind):
    """The GPUs of a model job, for the one of Slurm's two ways of asking that the configuration names."""
    count = COMPUTE["gpus_per_job"] if COMPUTE["gpu_request"] == kind else 0
    return count if kind == "gpus" else (f"gpu:{count}" if count else "")
