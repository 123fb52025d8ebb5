"""Attention heads that are ablated together, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass


class AttentionError(ValueError):
    """Heads that do not exist, sequences that do not fit, or attention that the one pass does not cover."""


@dataclass(frozen=True)
class HeadSet:
    """Heads that are ablated together, as (layer, head), in the order of their name."""

    heads: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """`layer.head` joined by +."""
        return "+".join(f"{layer}.{head}" for layer, head in self.heads)

    @classmethod
    def parse(cls, name: str, n_layers: int, n_heads: int, *, where: str) -> HeadSet:
        """A set by its name.

        Args:
            where: the configuration key that it stands under, for messages.

        Raises:
            AttentionError: for a name of another form, a head that the model does not have or that is named twice.
        """
        parts = name.split("+")
        if not all(re.fullmatch(r"\d+\.\d+", part) for part in parts):
            raise AttentionError(f"{where}: '{name}' is no set of heads; write layer.head joined by +, as in 5.1+6.9")
        heads = tuple((int(layer), int(head)) for layer, head in (part.split(".") for part in parts))
        for layer, head in heads:
            if layer >= n_layers or head >= n_heads:
                raise AttentionError(
                    f"{where}: '{name}' names head {layer}.{head}, but the model has layers 0 to {n_layers - 1} of "
                    f"heads 0 to {n_heads - 1}"
                )
        if len(set(heads)) < len(heads):
            raise AttentionError(f"{where}: '{name}' names a head twice")
        return cls(heads)
