"""The oracle: effects by doing what they mean, in float64, without the algebra of the kernels.

`pair_effects` changes the residual, runs norm, unembedding and softmax again and subtracts (METHODS A2, A3); it is
also what runs where the algebra does not hold. `forward_effects` goes through the whole model with a hook on the
activation. Both are slow and simple on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.kernels.interface import Effects, KernelError, Reference
from neuronlab.readout import Readout

VARIANTS = ("total", "direct", "norm", "unigram")


class HookedModel(Protocol):
    """What `forward_effects` needs of a model: a forward pass in which activations can be replaced."""

    def logits(self, tokens: Tensor, replace: tuple[int, int | Sequence[int], Tensor] | None = None) -> Tensor: ...


def pair_effects(
    readout: Readout,
    residual: Float[Tensor, "pairs d"],
    w: Float[Tensor, "pairs d"],
    delta: Float[Tensor, " pairs"],
    targets: Int[Tensor, " pairs"],
    *,
    variants: Sequence[str] = VARIANTS,
    reference: Reference | None = None,
    mlp: Float[Tensor, "pairs d"] | None = None,
    freeze_post_norm: bool = False,
) -> Effects:
    """Effects of adding `delta * w` to the MLP's output, a row for each pair; arrays [variants, pairs, 1].

    Args:
        readout: in float64.
        residual: clean input of the final norm.
        w: the neuron's output weights as the forward pass has them.
        delta: replacement minus activation.
        variants: total; direct (final scale of the clean residual); norm (clean residual, scale of the changed one);
            unigram (total with the projection of the logits, after any cap, put back to its clean value).
        mlp: clean output of the MLP before the norm that follows it, where there is one.
        freeze_post_norm: for the direct variant freeze that norm's scale, too.

    Raises:
        KernelError: if the read-out is not float64 or `mlp` does not match it.
    """
    if readout.W.dtype != torch.float64:
        raise KernelError("the oracle wants a read-out in float64")
    if (mlp is None) != (readout.post_gain is None):
        raise KernelError("the MLP's output is needed exactly where a norm follows the MLP")
    residual, w, delta = residual.double(), w.double(), delta.double()
    step = delta[:, None] * w

    def changed(frozen: bool) -> Float[Tensor, "pairs d"]:
        if mlp is None or readout.post_gain is None:
            return residual + step
        clean = mlp.double()
        after = clean + step
        scale = readout.post_scale(clean if frozen else after)
        return residual + readout.post_gain * (after / scale - clean / readout.post_scale(clean))

    base = readout.logits(residual)
    total = readout.logits(changed(False))
    outcomes = []
    for variant in variants:
        if variant == "total":
            logits = total
        elif variant == "direct":
            logits = readout.logits(changed(freeze_post_norm), readout.scale(residual))
        elif variant == "norm":
            logits = readout.logits(residual, readout.scale(changed(False)))
        elif variant == "unigram":
            if reference is None:
                raise KernelError("freezing the unigram projection needs a reference distribution")
            logits = restore_projection(total, base, reference)
        else:
            raise KernelError(f"no variant '{variant}'; there are {', '.join(VARIANTS)}")
        outcomes.append(_outcomes(base, logits, targets, reference))
    return _stack(outcomes)


def forward_effects(
    model: HookedModel,
    layer: int,
    neuron: int | Sequence[int],
    tokens: Int[Tensor, "batch position"],
    values: Float[Tensor, "batch position *neurons"],
    *,
    reference: Reference | None = None,
) -> Effects:
    """Effects of replacing one neuron's activation, or several at once, through the whole model.

    At all positions but the last. In the last layer a replacement acts on its own position alone, so that one pass
    serves them all. Variants total and, with a reference, unigram; arrays [variants, batch * (position - 1), 1].
    """
    base = model.logits(tokens).double()[:, :-1].flatten(0, 1)
    total = model.logits(tokens, (layer, neuron, values)).double()[:, :-1].flatten(0, 1)
    targets = tokens[:, 1:].flatten().to(base.device)
    outcomes = [_outcomes(base, total, targets, reference)]
    if reference is not None:
        outcomes.append(_outcomes(base, restore_projection(total, base, reference), targets, reference))
    return _stack(outcomes)


def stack_tokens(rows: Sequence[Effects], ranked: Sequence[int]) -> Effects:
    """One `Effects` [variants, tokens, neurons] of one per token, ranks for the variants asked for."""

    def stacked(name: str) -> np.ndarray:
        return np.stack([getattr(row, name)[..., 0] for row in rows], axis=1)

    chosen = list(ranked)
    return Effects(
        loss=stacked("loss"),
        entropy=stacked("entropy"),
        kl=stacked("kl"),
        rank=stacked("rank")[chosen] if chosen else None,
        prediction=stacked("prediction")[chosen] if chosen else None,
    )


def joined(parts: Sequence[Effects]) -> Effects:
    """One `Effects` of several, one after the other along the tokens."""

    def together(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays, axis=1)

    return Effects(*(together(name) for name in Effects.__dataclass_fields__))


def restore_projection(
    logits: Float[Tensor, "pairs vocab"], base: Float[Tensor, "pairs vocab"], reference: Reference
) -> Float[Tensor, "pairs vocab"]:
    """`logits` with their projection on the unigram direction put back to that of `base` (METHODS A3)."""
    g = reference.direction.to(logits)
    return logits + ((base - logits) @ g)[:, None] * g


def _outcomes(
    base: Float[Tensor, "pairs vocab"],
    logits: Float[Tensor, "pairs vocab"],
    targets: Int[Tensor, " pairs"],
    reference: Reference | None,
) -> tuple[Tensor, ...]:
    def measure(values: Float[Tensor, "pairs vocab"]) -> tuple[Tensor, Tensor, Tensor]:
        lp = values.log_softmax(-1)
        kl = torch.zeros(len(values), dtype=torch.float64, device=values.device)
        if reference is not None:
            q = reference.q.to(values)
            kl = (torch.special.xlogy(q, q) - q * lp).sum(-1)
        return -lp.gather(-1, targets[:, None])[:, 0], -(lp.exp() * lp).sum(-1), kl

    changes = [after - before for after, before in zip(measure(logits), measure(base), strict=True)]
    rank = (logits > logits.gather(-1, targets[:, None])).sum(-1)
    return *changes, rank, logits.argmax(-1)


def _stack(outcomes: list[tuple[Tensor, ...]]) -> Effects:
    loss, entropy, kl, rank, prediction = (
        np.stack([item.cpu().numpy() for item in column])[..., None] for column in zip(*outcomes, strict=True)
    )
    return Effects(loss, entropy, kl, rank.astype(np.int32), prediction.astype(np.int32))
