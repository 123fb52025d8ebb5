"""Prompts and variants that the tests of decoding share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from neuronlab.ablation import LastLayer
from neuronlab.decoding import Decoded, decode_variants
from neuronlab.models import Model
from neuronlab.variant_groups import VariantGroup

SEED, TIE = 3, 1e-6
D_MLP = 48
# (neurons, standard deviation of the values, draw of a synthetic control): weak, and strong enough to change any token.
SETS = ((1, 1.0, None), (3, 3.0, None), (3, 0.3, None), (20, 2.0, None), (0, 1.0, None), (2, 4.0, 0), (20, 1.0, 1))


def random_prompts(lengths: Sequence[int] = (1, 7, 21), seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 190, (n,), generator=generator).tolist() for n in lengths]


def random_groups(synthetic: bool, values: int = 2, sets: Sequence[tuple] = SETS) -> list[VariantGroup]:
    rng, groups, first = np.random.default_rng(0), [], 1
    for size, scale, draw in sets:
        chosen = tuple(rng.permutation(D_MLP)[:size].tolist())
        held = scale * rng.standard_normal((values, size))
        if draw is None or synthetic:
            groups.append(VariantGroup(chosen, np.arange(first, first + values), held, draw))
            first += values
    return groups


def never(generated: Sequence[int]) -> bool:
    return False


def sometimes(generated: Sequence[int]) -> bool:
    """Ends continuations at different lengths."""
    return generated[-1] % 5 == 0


def decode(
    model: Model,
    last: LastLayer,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[VariantGroup],
    *,
    new_tokens: int = 4,
    finished: Callable[[Sequence[int]], bool] = sometimes,
    batch_size: int = 2,
    tie: float = TIE,
) -> Decoded:
    return decode_variants(
        model,
        last,
        prompts,
        groups,
        new_tokens=new_tokens,
        finished=finished,
        batch_size=batch_size,
        tie=tie,
        seed=SEED,
    )


def taken(decoded: Decoded, prompt: int, variant: int) -> tuple[int, ...]:
    return decoded.continuations[prompt][decoded.chosen[prompt, variant]]


def every_variant(groups: Sequence[VariantGroup]) -> list[tuple[int, VariantGroup | None, int]]:
    rows = [(int(v), group, row) for group in groups for row, v in enumerate(group.variants)]
    return [(0, None, 0), *rows]
