"""Rule `preflight`: what can go wrong with models, texts, facts and disk, found out before anything is queued.

Every model, text and knowledge base that the studies name is looked at; all problems are listed at the end, not only
the first one. Nothing is downloaded but the config.json of models that are still to be fetched; what was fetched is
read and compared with the sha256 of its manifest.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.utils import disable_progress_bars

from neuronlab.documents import TextSpec
from neuronlab.fetching import OFFLINE_REMEDY, HubUnreachable
from neuronlab.model_demands import check_demands
from neuronlab.model_files import ModelSpec
from neuronlab.preflight_contents import check_contents
from neuronlab.preflight_models import Finding, Hub, check_model, estimate_fetch
from neuronlab.preflight_texts import check_facts, check_text
from neuronlab.resource_load import TOKENS_PER_DOCUMENT
from neuronlab.used_inputs import unused_models

LOOK_UPS = 8  # questions to the hub at a time
# Bytes on disk, measured on the default run: of a row of effects (document, neuron, replacement), of a traced effect
# (token, neuron) and of an answer under ablation (prompt, variant); documents in a short sequence, traced neurons;
# facts where their number is not known; everything else of a model on a text.
EFFECT_BYTES, TRACE_BYTES, ANSWER_BYTES = 230, 115, 5
DOCUMENTS_PER_SEQUENCE, TRACED = 2.5, 110
FACTS = 5000
OTHER_BYTES = 20_000_000
UNKNOWN_D_MLP = 16384
CONTROL_KINDS = ("uniform", "norm_matched", "synthetic")
UNREACHABLE = "hub unreachable"


class PreflightError(ValueError):
    """Something is in the way; the message lists everything that is."""


def preflight(
    *,
    models: Sequence[ModelSpec],
    demands: Mapping[str, Mapping[str, Any]],
    texts: Sequence[TextSpec],
    facts: Mapping[str, Sequence[str]],
    config: Mapping[str, Any],
    inputs: str | Path,
) -> None:
    """Print a table of all that is named and what is to be fetched; then fail if there are problems.

    Args:
        models: models, with revisions.
        demands: for each of them, what `check_demands` takes beside the configuration.
        facts: the files of each knowledge base.
        config: the whole configuration.
        inputs: the folder that models and texts are fetched to; it need not exist.

    Raises:
        PreflightError: with every problem.
    """
    inputs, hub = Path(inputs), Hub()
    looks: list[tuple[Finding, Callable[[], Finding]]] = []
    for model in models:
        planned = config["models"][model.key.split("@")[0]].get("size", {})
        fits = partial(check_demands, config=config, **demands[model.key])
        looks.append((Finding("model", model.key, model.revision), partial(check_model, model, planned, fits, hub)))
    for text in texts:
        folder = inputs / "texts" / text.key
        looks.append((Finding("text", text.key, text.revision), partial(check_text, text, folder, hub)))
    found = look_at_all(looks)
    for finding in found[: len(models)]:
        estimate_fetch(finding, config["models"][finding.name.split("@")[0]].get("size", {}))
    check_contents(found)
    found += [check_facts(key, config["facts"][key], files) for key, files in facts.items()]
    print(table(found))
    if unused := unused_models(config):
        print(f"Not looked at, because no study or comparison names them: {', '.join(unused)}")
    for note in dict.fromkeys(note for finding in found for note in finding.notes):
        print(f"Note: {note}")
    problems = [problem for finding in found for problem in finding.problems]
    problems += [*unreachable(found, hub), *disk_problems(found, config, inputs)]
    if problems:
        listed = "".join(f"\n{number:>3}. {problem}" for number, problem in enumerate(dict.fromkeys(problems), 1))
        raise PreflightError(f"this is in the way:{listed}")
    print("Nothing is in the way.")


def look_at_all(looks: Sequence[tuple[Finding, Callable[[], Finding]]]) -> list[Finding]:
    """Findings in the order of the looks; beside each look, what is found where the hub cannot be reached."""

    def look(item: tuple[Finding, Callable[[], Finding]]) -> Finding:
        nothing, call = item
        try:
            return call()
        except HubUnreachable:
            return replace(nothing, fetch=None, verdict=UNREACHABLE)

    disable_progress_bars()  # one for each config.json
    with ThreadPoolExecutor(LOOK_UPS) as pool:
        return list(pool.map(look, looks))


def unreachable(found: Sequence[Finding], hub: Hub) -> list[str]:
    """What to say of a hub that could not be reached: one problem, however many models it is about."""
    if not hub.unreachable:
        return []
    names = [f"{finding.kind}s.{finding.name}" for finding in found if finding.verdict == UNREACHABLE]
    return [f"the hub cannot be reached, and this is to be fetched: {', '.join(names)}; {OFFLINE_REMEDY}"]


def disk_problems(found: Sequence[Finding], config: Mapping[str, Any], inputs: Path) -> list[str]:
    """Free disk against what is to be fetched and what results may take, and whether files can be written at all."""
    place = next(path for path in (inputs, *inputs.parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return [f"'{place.resolve()}' cannot be written to ({error.strerror}); run the workflow in a folder of yours"]
    kept = [finding for finding in found if finding.kind != "text"]  # texts pass through the hub's cache
    fetch = sum(finding.fetch or 0 for finding in kept)
    results, free = results_bytes(found, config), shutil.disk_usage(place).free
    about = "about " if any(finding.estimated for finding in kept) else ""
    how = " (an estimate by models.<name>.size, as the hub did not say)" if about else ""
    models = [finding for finding in kept if finding.kind == "model"]  # knowledge bases are small
    unknown = ", ".join(f"models.{finding.name}" for finding in models if finding.fetch is None)
    how += f", {unknown} not counted," if unknown else ""
    sentence = (
        f"{about}{fetch / 1e9:.2f} GB are to be fetched{how} and results may take {results / 1e9:.2f} GB; "
        f"'{place.resolve()}' has {free / 1e9:.2f} GB free"
    )
    if fetch + results > free:
        return [f"disk: {sentence}: make room, or run the workflow on another disk (--directory)"]
    print(f"Disk: {sentence}.")
    return []


def results_bytes(found: Sequence[Finding], config: Mapping[str, Any]) -> int:
    """About what the results of all studies take, by the sizes of the tables that outgrow all others."""
    d_mlp = {finding.name: finding.d_mlp for finding in found if finding.kind == "model"}
    study, replacements = config["confidence_regulation"], len(config["ablation"]["replacements"])
    total = OTHER_BYTES * len(d_mlp)
    for model in study["models"]:
        for text in study["texts"]:
            sequences, length = (config["texts"][text][key] for key in ("sequences", "sequence_length"))
            documents = sequences * max(DOCUMENTS_PER_SEQUENCE, 1 + length // TOKENS_PER_DOCUMENT)
            effects = documents * (d_mlp.get(model) or UNKNOWN_D_MLP) * replacements
            tokens = min(sequences * length, config["ablation"]["traced_tokens"])
            total += int(effects * EFFECT_BYTES + tokens * TRACED * TRACE_BYTES)
    study = config["context_copying"]
    for model in study["models"]:
        for facts in study["facts"]:
            prompts = study["counters"] * (config["facts"][facts].get("max_facts") or FACTS)
            prompts = min(prompts, study["max_prompts"] or prompts)
            total += prompts * answers_per_prompt(config, model) * ANSWER_BYTES
    return total


def answers_per_prompt(config: Mapping[str, Any], model: str) -> int:
    """Variants of a model that answer every conflict prompt: its sets and their controls, replaced and clamped."""
    study, (base, *_) = config["context_copying"], model.split("@")
    named = study["selections"] or [*config["selections"], "token_frequency"]
    limits = [config["selections"].get(name, {}).get("models") for name in named]
    sets = sum(limit is None or model in limit or base in limit for limit in limits)
    replaced = (1 + sum(study["controls"][kind] for kind in CONTROL_KINDS)) * len(study["replacements"])
    doses = study["dose_response"]
    return 1 + sets * (replaced + doses["points"] * (1 + len(CONTROL_KINDS) * doses["controls"]))


def table(found: Sequence[Finding]) -> str:
    """One line for each finding, in columns."""
    rows = [("", "name", "revision", "commit", "GB to fetch", "verdict")]
    for finding in found:
        verdict = f"{len(finding.problems)} in the way" if finding.problems else finding.verdict
        fetch = "?" if finding.fetch is None else f"{finding.fetch / 1e9:.2f}" if finding.fetch else "-"
        fetch = f"~{fetch}" if finding.estimated else fetch
        revision, commit = (finding.revision or "-")[:16], (finding.commit or "-")[:12]
        rows.append((finding.kind, finding.name.split("@")[0], revision, commit, fetch, verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
