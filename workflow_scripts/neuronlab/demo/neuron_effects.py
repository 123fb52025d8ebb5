"""Targets (d) and (e) of the demo model's evaluation: token-frequency and entropy neurons of the last layer.

The final norm's gain and bias are folded into the unembedding, which is centred over the vocabulary; output weights and
residuals are centred over d. All effects are of mean ablation, exact, from one cached residual. float32.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from neuronlab.demo import tokenizer
from neuronlab.demo.world_files import SPLITS, evaluation_documents

ROTATIONS, RANDOM_DIRECTIONS = 100, 10_000
DOCUMENTS, FIRST_POSITION = 60, 3
Row = tuple[str, str, float, str, bool | None]


@dataclass(frozen=True)
class Readout:
    """``logits = (residual - mean) / scale @ unembedding + bias``."""

    unembedding: Float[Tensor, "d vocabulary"]
    bias: Float[Tensor, "vocabulary"]
    epsilon: float
    output_weights: Float[Tensor, "neurons d"]


def readout(model: GPTNeoXForCausalLM) -> Readout:
    norm, unembedding = model.gpt_neox.final_layer_norm, model.get_output_embeddings().weight
    folded = norm.weight[:, None] * unembedding.T
    bias = unembedding @ norm.bias
    folded = folded - folded.mean(0)  # residuals are centred, so only this part of each column counts
    out = model.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight.T
    return Readout(
        unembedding=folded - folded.mean(1, keepdim=True),
        bias=bias - bias.mean(),
        epsilon=norm.eps,
        output_weights=out - out.mean(1, keepdim=True),
    )


def token_frequency(model: GPTNeoXForCausalLM, counts: Int[np.ndarray, "vocabulary"]) -> list[Row]:
    """Neurons whose effect on the logits points along the log-unigram direction, against random directions."""
    parts = readout(model)
    direction = torch.from_numpy(np.log(counts + 1.0)).float()
    direction = direction - direction.mean()
    random = torch.randn(RANDOM_DIRECTIONS, parts.output_weights.shape[1], generator=torch.Generator().manual_seed(5))

    def above(weights: Float[Tensor, "rows d"]) -> tuple[float, float]:
        cosine = torch.cosine_similarity(weights @ parts.unembedding, direction[None], dim=1).abs()
        return (cosine > 0.3).float().mean().item(), cosine.max().item()

    neurons = len(parts.output_weights)
    share, largest = above(parts.output_weights)
    expected, _ = above(random - random.mean(1, keepdim=True))
    return [
        ("d", "last-layer neurons with |cosine| > 0.3", share * neurons, "> random", share > expected),
        ("d", "as many random directions", expected * neurons, "", None),
        ("d", "largest |cosine|", largest, "", None),
    ]


def null_space_share(parts: Readout, k: int) -> tuple[Float[Tensor, "neurons"], float, Float[Tensor, "d"]]:
    """rho of every neuron, the largest rho of any neuron under any of 100 random rotations, and the singular values.

    Rotations keep the centred subspace: the all-ones direction is null in every model with this norm and counts for
    nothing.
    """
    left, values, _ = torch.linalg.svd(parts.unembedding.double())
    weights = parts.output_weights.double()
    weights = weights / weights.norm(dim=1, keepdim=True)
    d = weights.shape[1]
    ones = torch.eye(d, dtype=torch.float64)
    ones[:, 0] = 1.0
    basis = torch.linalg.qr(ones).Q[:, 1:]  # orthonormal basis of what is orthogonal to all-ones
    inside, null = weights @ basis, basis.T @ left[:, -k:]
    generator, largest = torch.Generator().manual_seed(11), 0.0
    for _ in range(ROTATIONS):
        gaussian = torch.randn(d - 1, d - 1, generator=generator, dtype=torch.float64)
        factors = torch.linalg.qr(gaussian)
        rotation = factors.Q * factors.R.diagonal().sign()
        largest = max(largest, (inside @ rotation @ null).norm(dim=1).max().item())
    return (weights @ left[:, -k:]).norm(dim=1).float(), largest, values.float()


def mean_ablation_effects(
    model: GPTNeoXForCausalLM, split: str
) -> tuple[Float[Tensor, "neurons"], Float[Tensor, "neurons"]]:
    """Mean absolute change of the loss (nats) by each last-layer neuron: total, and direct (the norm's scale kept)."""
    parts = readout(model)
    residuals, activations, targets, kept = [], [], [], []
    for document in evaluation_documents(split, DOCUMENTS):
        tokens = torch.tensor([tokenizer.document_tokens(document)])
        residual, activation = _last_layer(model, tokens)
        residuals.append(residual[:-1])
        activations.append(activation[:-1])
        targets.append(tokens[0, 1:])
        kept.append(torch.arange(tokens.shape[1] - 1) >= FIRST_POSITION)
    keep = torch.cat(kept)
    activation, mean = torch.cat(activations)[keep], torch.cat(activations).mean(0)
    residual, target = torch.cat(residuals)[keep], torch.cat(targets)[keep]
    residual = residual - residual.mean(1, keepdim=True)
    raw, square = residual @ parts.unembedding, residual.square().mean(1)
    scale = (square + parts.epsilon).sqrt()
    clean = torch.nn.functional.cross_entropy(raw / scale[:, None] + parts.bias, target, reduction="none")
    total, direct = [], []
    for neuron, weights in enumerate(parts.output_weights):
        delta = mean[neuron] - activation[:, neuron]
        moved = raw + delta[:, None] * (weights @ parts.unembedding)
        changed = residual + delta[:, None] * weights
        new_scale = (changed.square().mean(1) + parts.epsilon).sqrt()
        for effects, divisor in ((total, new_scale), (direct, scale)):
            logits = moved / divisor[:, None] + parts.bias
            loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")
            effects.append((loss - clean).abs().mean())
    return torch.stack(total), torch.stack(direct)


def _last_layer(
    model: GPTNeoXForCausalLM, tokens: Int[Tensor, "1 position"]
) -> tuple[Float[Tensor, "position d"], Float[Tensor, "position neurons"]]:
    """The residual before the final norm and the activations of the last MLP, through hooks that must fire."""
    caught: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            caught[name] = arguments[0][0]

        return hook

    handles = [
        model.gpt_neox.final_layer_norm.register_forward_pre_hook(keep("residual")),
        model.gpt_neox.layers[-1].mlp.dense_4h_to_h.register_forward_pre_hook(keep("activation")),
    ]
    try:
        model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return caught["residual"], caught["activation"]


def entropy_neurons(model: GPTNeoXForCausalLM, split: str, k: int) -> list[Row]:
    """Neurons in the null space beyond chance whose effect goes through the norm, against all other neurons."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {SPLITS}")
    rho, chance, values = null_space_share(readout(model), k)
    total, direct = mean_ablation_effects(model, split)
    mediated = 1 - direct / total
    beyond = rho > chance
    controls = ~beyond
    floor = total[controls].quantile(0.9)
    good = beyond & (mediated > 0.6) & (total > floor)
    median = mediated[controls].median().item()
    best = mediated[beyond & (total > floor)]
    return [
        ("e", f"largest rho, k = {k}", rho.max().item(), "", None),
        ("e", "largest rho of 100 rotations", chance, "", None),
        ("e", "neurons beyond every rotation", float(beyond.sum()), "", None),
        ("e", "of these, TE above the controls' 90 % quantile", float((beyond & (total > floor)).sum()), "", None),
        ("e", "largest 1 - DE/TE among these", best.max().item() if len(best) else float("nan"), "", None),
        ("e", "of these, 1 - DE/TE > 0.6", float(good.sum()), ">= 3", bool(good.sum() >= 3)),
        ("e", "controls' median 1 - DE/TE", median, "near 0", abs(median) < 0.1),
        (
            "e",
            "smallest singular value (after the exact null) / median",
            (values[-2] / values.median()).item(),
            "",
            None,
        ),
    ]
