"""Sizes of a model by its config.json, and what a configuration may ask of a model of that size.

Read while the workflow is parsed, so that a null space larger than the model, a neuron that it does not have, or more
controls than neurons are refused before anything runs. Hub models are checked the same way once they were fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuronlab.configuration import ConfigError


@dataclass(frozen=True)
class Sizes:
    """Width, layers, neurons and heads per layer, context, vocabulary of a model; None where config.json does not say.

    Attributes:
        window: keys that a query of a layer with local attention sees; None where all layers see everything.
        parameters: of the whole model, where a configuration gives them; config.json never does.
    """

    d_model: int | None
    n_layers: int | None
    d_mlp: int | None
    n_heads: int | None = None
    n_ctx: int | None = None
    window: int | None = None
    d_vocab: int | None = None
    parameters: int | None = None


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)


def read_sizes(directory: Path) -> Sizes:
    """Sizes from the `config.json` of a directory; a nested `text_config` counts as the model's own."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config = {**config, **(config.get("text_config") or {})}
    d_model = _first(config, "hidden_size", "n_embd", "d_model")
    d_mlp = _first(config, "intermediate_size", "n_inner", "ffn_dim")
    if d_mlp is None and "n_embd" in config and d_model is not None:
        d_mlp = 4 * d_model  # GPT-2 leaves n_inner empty
    return Sizes(
        d_model,
        _first(config, "num_hidden_layers", "n_layer"),
        d_mlp,
        _first(config, "num_attention_heads", "n_head"),
        _first(config, "max_position_embeddings", "n_positions", "n_ctx"),
        # Qwen2 names a window that it does not use.
        _first(config, "sliding_window", "attention_chunk_size") if config.get("use_sliding_window", True) else None,
        _first(config, "vocab_size"),
    )


def planned_sizes(directory: Path, planned: Mapping[str, int]) -> Sizes:
    """Sizes of a model that may not be here yet.

    Args:
        directory: where its files lie, or will lie.
        planned: `models.<name>.size` of the configuration; it fills in what config.json leaves open, and all of it
            until that is there and whole: a download may have been cut short, and is made again.
    """
    try:
        found = read_sizes(directory)
    except (OSError, ValueError, TypeError):
        found = Sizes(None, None, None)
    missing = {key: value for key, value in planned.items() if getattr(found, key) is None}
    return replace(found, **missing)


def estimated_parameters(sizes: Sizes) -> int | None:
    """Parameters as the sizes suggest: full attention, a gated MLP, an unembedding of its own; too many at worst."""
    if None in (sizes.d_model, sizes.n_layers, sizes.d_mlp, sizes.d_vocab):
        return None
    d = sizes.d_model
    return sizes.n_layers * (4 * d * d + 3 * d * sizes.d_mlp) + 2 * sizes.d_vocab * d


def check_sizes(
    sizes: Sizes,
    *,
    where: str,
    null_space_k: Sequence[float],
    k_key: str,
    selections: Mapping[str, Mapping[str, Any]],
    control_sets: int,
    statistics_layers: Sequence[int],
) -> None:
    """Refuse what a model of these sizes cannot give.

    Args:
        where: the model's key, for messages.
        null_space_k, k_key: sizes of the null space, and the configuration key that they stand under.
        selections: selections that apply to the model.
        control_sets: control sets of either kind per selection.
        statistics_layers: layers whose activations get statistics; the last one must be among them.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    _check_null_space_k(sizes, null_space_k, k_key)
    for name, entry in selections.items():
        _check_selection(sizes, f"selections.{name}", entry, control_sets, where)
        k = entry.get("k")
        if isinstance(k, int | float) and k not in null_space_k:
            raise ConfigError(f"configuration: selections.{name}.k: {k} is not measured; add it to {k_key}")
    n = sizes.n_layers
    if n is None:
        return
    for layer in statistics_layers:
        if not -n <= layer < n:
            raise ConfigError(
                f"configuration: ablation.statistics_layers: {where} has no layer {layer}; its layers are 0 to {n - 1}"
            )
    if n - 1 not in {layer % n for layer in statistics_layers}:
        raise ConfigError("configuration: ablation.statistics_layers: the last layer is missing; add -1")


def _check_null_space_k(sizes: Sizes, null_space_k: Sequence[float], key: str) -> None:
    for k in null_space_k:
        if k >= 1 and k != int(k):
            raise ConfigError(f"configuration: {key}: {k} is neither a whole number nor a share below 1")
        if sizes.d_model is not None and k >= sizes.d_model:
            raise ConfigError(
                f"configuration: {key}: {k} directions, but the model has d_model {sizes.d_model}; "
                "give fewer (published studies take 1 to 5 % of d_model)"
            )


def _check_selection(sizes: Sizes, key: str, entry: Mapping[str, Any], control_sets: int, where: str) -> None:
    """Explicit neurons must exist, and disjoint controls must find neurons enough beside the selection."""
    for neuron in entry.get("neurons", []):
        layer, index = map(int, neuron.split("."))
        if sizes.n_layers is not None and layer >= sizes.n_layers:
            raise ConfigError(
                f"configuration: {key}.neurons: '{neuron}' is in layer {layer}, but {where} has layers 0 to "
                f"{sizes.n_layers - 1}"
            )
        if sizes.d_mlp is not None and index >= sizes.d_mlp:
            raise ConfigError(
                f"configuration: {key}.neurons: {where} has no neuron '{neuron}': its layers have {sizes.d_mlp} "
                "neurons, counted from 0"
            )
    # Rules that search several layers may spread a selection over them; those that search one cannot.
    if sizes.d_mlp is None or entry["rule"] not in ("top_rho", "top_rho_percent", "rho_then_logit_var"):
        return
    wanted = int(entry.get("count", entry.get("percent", 0) * sizes.d_mlp // 100))
    if wanted * (1 + control_sets) > sizes.d_mlp:
        raise ConfigError(
            f"configuration: {key}: {wanted} neurons and {control_sets} disjoint control sets of as many do not fit "
            f"into a layer of {sizes.d_mlp} neurons ({where}); select fewer, or lower controls.sets"
        )


def check_context(sizes: Sizes, *, where: str, sequence_lengths: Mapping[str, int]) -> None:
    """Refuse sequences longer than the model's context.

    Args:
        where: the model's key, for messages.
        sequence_lengths: of the texts that the model reads, by name.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    for text, length in sequence_lengths.items():
        if sizes.n_ctx is not None and length > sizes.n_ctx:
            raise ConfigError(
                f"configuration: texts.{text}.sequence_length: {length} tokens, but the context of {where} is "
                f"{sizes.n_ctx}; set it to {sizes.n_ctx} or less"
            )


def check_induction(
    sizes: Sizes, induction: Mapping[str, Any], *, where: str, parts: Sequence[str], sequence_lengths: Mapping[str, int]
) -> None:
    """Refuse repetitions longer than context, window or the text's sequences, and heads that the model does not have.

    Args:
        induction: the configuration's `induction`.
        where: the model's key, for messages.
        parts: the parts of study A that are made.
        sequence_lengths: of the texts that are studied, by name.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    synthetic, heads = induction["synthetic"], induction["heads"]
    repeated = {"induction.heads.length": 2 * heads["length"]} if "heads" in parts and heads["length"] else {}
    if {"induction", "heads"} & set(parts) and synthetic["length"]:
        repeated["induction.synthetic.length"] = synthetic["length"] * synthetic["repetitions"]
        for text, length in sequence_lengths.items():
            if synthetic["source"] == "text" and synthetic["length"] >= length:
                raise ConfigError(
                    f"configuration: induction.synthetic.length: {synthetic['length']} tokens after the BOS are "
                    f"repeated, but the sequences of texts.{text} have {length} tokens; lower it, or raise "
                    f"texts.{text}.sequence_length"
                )
    for key, tokens in repeated.items():
        if sizes.n_ctx is not None and tokens + 1 > sizes.n_ctx:
            raise ConfigError(
                f"configuration: {key}: BOS and all copies are {tokens + 1} tokens, but the context of {where} is "
                f"{sizes.n_ctx}; lower it"
            )
    copies = (synthetic["length"] or 0) * synthetic["repetitions"]
    if "heads" in parts and sizes.window is not None and copies > sizes.window:
        raise ConfigError(
            f"configuration: induction.synthetic.length: all copies are {copies} tokens, but the attention of {where} "
            f"reaches {sizes.window} tokens back, and the ablation of heads needs position 0 in sight; lower it, or "
            "leave heads out of confidence_regulation.parts"
        )
    for name in heads["sets"] if "heads" in parts else ():
        for layer, head in (map(int, part.split(".")) for part in name.split("+")):
            if (sizes.n_layers is not None and layer >= sizes.n_layers) or (
                sizes.n_heads is not None and head >= sizes.n_heads
            ):
                raise ConfigError(
                    f"configuration: induction.heads.sets: '{name}': {where} has no head {layer}.{head}; it has "
                    f"{sizes.n_layers} layers of {sizes.n_heads} heads, counted from 0"
                )


def read_vocabulary(directory: Path) -> dict[str, int] | None:
    """Pieces and ids by the `tokenizer.json` of a directory, added ones included; None where there is no such file."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    pieces = content["model"]["vocab"]
    if not isinstance(pieces, Mapping):  # a unigram model's list of (piece, score)
        pieces = {piece: i for i, (piece, _) in enumerate(pieces)}
    return dict(pieces) | {token["content"]: token["id"] for token in content.get("added_tokens") or []}


def check_reference(model: str, directory: Path, reference: str, reference_directory: Path) -> None:
    """Refuse a reference whose tokenizer differs from the model's in any piece or id, where both can be read.

    Raises:
        ConfigError: naming both models and a piece at fault.
    """
    own, other = read_vocabulary(directory), read_vocabulary(reference_directory)
    if own is None or other is None or own == other:
        return
    piece = min(piece for piece in own.keys() | other.keys() if own.get(piece) != other.get(piece))
    raise ConfigError(
        f"configuration: confidence_regulation.references.{model}: '{reference}' has another vocabulary "
        f"(piece {piece!r} has id {own.get(piece)} in '{model}', {other.get(piece)} in '{reference}'): their "
        "distributions cannot be compared; name a model with the same tokenizer"
    )
