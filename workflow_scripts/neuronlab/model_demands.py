"""Whether a model of given sizes can do everything that a configuration asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuronlab.configuration_stages import check_stages_sizes
from neuronlab.model_sizes import check_context, check_induction, check_sizes, read_sizes


def check_demands(
    directory: Path,
    config: Mapping[str, Any],
    *,
    model: str,
    null_space_k: Sequence[float],
    k_key: str,
    selections: Mapping[str, Mapping[str, Any]],
    texts: Sequence[str],
) -> None:
    """Compare a model's config.json with null space, selections, controls, layers, texts, repetitions and swaps.

    Args:
        directory: holds the config.json.
        model: its name in the configuration, with revision.
        null_space_k, k_key: sizes of the null space, and the configuration key that they stand under.
        selections: selections that apply to the model.
        texts: texts that the model reads.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    sizes, where, study = read_sizes(directory), f"models.{model}", config["confidence_regulation"]
    lengths = {text: config["texts"][text]["sequence_length"] for text in texts}
    check_context(sizes, where=where, sequence_lengths=lengths)
    if model in config["stages_of_inference"]["models"]:
        check_stages_sizes(sizes, config, where)
    if model in study["models"]:
        studied = {text: config["texts"][text]["sequence_length"] for text in study["texts"]}
        check_induction(sizes, config["induction"], where=where, parts=study["parts"], sequence_lengths=studied)
    check_sizes(
        sizes,
        where=where,
        null_space_k=null_space_k,
        k_key=k_key,
        selections=selections,
        control_sets=config["controls"]["sets"],
        statistics_layers=config["ablation"]["statistics_layers"],
    )
