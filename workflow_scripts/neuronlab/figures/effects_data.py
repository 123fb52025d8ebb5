"""What several effect figures need of the tables: one replacement, the last layer, the k of rho, notes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from neuronlab.figures import groups, theme
from neuronlab.traced_sample import TracedSample


class MissingReplacement(ValueError):
    """A figure asks for a replacement value that the tables do not hold."""


def one_replacement(frame: pl.DataFrame, replacement: str | None) -> tuple[pl.DataFrame, str]:
    """The rows of one replacement value and its name; `mean`, else the first by name, if none is asked for.

    Raises:
        MissingReplacement: if the one asked for does not occur; the message lists those that do.
    """
    present = sorted(frame["replacement"].unique().to_list())
    if replacement is None:
        replacement = "mean" if "mean" in present or not present else present[0]
    elif present and replacement not in present:
        raise MissingReplacement(
            f"no effects of replacement '{replacement}': the table holds {', '.join(present)}; "
            "name one of them, or add it to the config key ablation.replacements"
        )
    return frame.filter(pl.col("replacement") == replacement), replacement


def with_groups(effects: pl.DataFrame, selection: pl.DataFrame, sets: Sequence[str] | None) -> tuple[pl.DataFrame, int]:
    """Effects of the last layer in them, with group and label; and that layer."""
    layer = int(effects["layer"].max() or 0) if len(effects) else 0
    here = effects.filter(pl.col("layer") == layer)
    return groups.attach_groups(here, groups.group_neurons(selection, layer, sets)), layer


def chosen_k(null_space: pl.DataFrame, k: int | None) -> int:
    """The k asked for, else the first configured one, which selections mean too, else the automatic one.

    Raises:
        ValueError: if there is no rho for the k asked for.
    """
    present = null_space["k"].unique().sort().to_list()
    if k is None:
        configured = null_space.filter(pl.col("k_rule") == "configured")["k"].unique(maintain_order=True).to_list()
        return int((configured or present)[0])
    if k not in present:
        raise ValueError(f"no rho for k = {k}: the table holds k = {', '.join(map(str, present))}")
    return k


def join_rho(frame: pl.DataFrame, null_space: pl.DataFrame, k: int) -> pl.DataFrame:
    """`frame` with the column rho for this k."""
    rho = null_space.filter(pl.col("k") == k).unique(["layer", "neuron"], keep="first", maintain_order=True)
    return frame.join(rho.select("layer", "neuron", "rho"), on=["layer", "neuron"], how="inner")


def sample_size(effects: pl.DataFrame) -> str:
    """'24,310 tokens of 190 documents', from a table of effects."""
    if not len(effects):
        return ""
    tokens, documents = int(effects["n_tokens"].max()), int(effects["n_documents"].max())
    return f"{theme.count(tokens, 'token')} of {theme.count(documents, 'document')}"


def traced_part(sample: TracedSample | None) -> str | None:
    """What a subtitle says of traces that are a sample of the text; None where they are all of it."""
    return f"tokens are a sample: {sample}" if sample else None


def replaced_by(replacement: str) -> str:
    """How a subtitle names the replacement value."""
    return f"activation replaced by: {replacement.replace('_', ' ')}"
