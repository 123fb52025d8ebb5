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
DOCUMENTS, FIRST_POSITION, CHUNK = 60, 3, 128
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
        ("d", "last-layer neurons with cosine beyond 0.3 or -0.3", share * neurons, "> random", share > expected),
        ("d", "as many random directions", expected * neurons, "", None),
        ("d", "largest absolute cosine", largest, "", None),
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


def mean_ablation_effects(model: GPTNeoXForCausalLM, split: str) -> dict[str, Float[Tensor, "neurons"]]:
    """Mean absolute effects of each last-layer neuron's mean ablation, in nats.

    Keys: loss and entropy, each total and direct (the norm's scale kept).
    """
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
    delta = mean - activation
    names = ("loss total", "entropy total", "loss direct", "entropy direct")
    effects = {name: torch.zeros(len(parts.output_weights)) for name in names}
    for rows in torch.arange(len(target)).split(CHUNK):
        for name, sums in _effects_of_chunk(parts, residual[rows], delta[rows], target[rows]).items():
            effects[name] += sums
    return {name: sums / len(target) for name, sums in effects.items()}


def _effects_of_chunk(
    parts: Readout,
    residual: Float[Tensor, "token d"],
    delta: Float[Tensor, "token neurons"],
    target: Int[Tensor, "token"],
) -> dict[str, Float[Tensor, "neurons"]]:
    """Sums over few tokens, so that their logits stay in the processor's cache; ``residual`` is centred."""
    raw, square = residual @ parts.unembedding, residual.square().mean(1)
    scale = (square + parts.epsilon).sqrt()
    clean_loss, clean_entropy = _loss_and_entropy(raw / scale[:, None] + parts.bias, target)
    sums: dict[str, list[Tensor]] = {}
    for neuron, weights in enumerate(parts.output_weights):
        moved = raw + delta[:, neuron, None] * (weights @ parts.unembedding)
        changed = residual + delta[:, neuron, None] * weights
        new_scale = (changed.square().mean(1) + parts.epsilon).sqrt()
        for kind, divisor in (("total", new_scale), ("direct", scale)):
            loss, entropy = _loss_and_entropy(moved / divisor[:, None] + parts.bias, target)
            sums.setdefault(f"loss {kind}", []).append((loss - clean_loss).abs().sum())
            sums.setdefault(f"entropy {kind}", []).append((entropy - clean_entropy).abs().sum())
    return {name: torch.stack(values) for name, values in sums.items()}


def _loss_and_entropy(
    logits: Float[Tensor, "token vocabulary"], target: Int[Tensor, "token"]
) -> tuple[Float[Tensor, "token"], Float[Tensor, "token"]]:
    """Next-token loss and entropy, in nats."""
    normaliser = logits.logsumexp(-1)
    expected = (logits * (logits - normaliser[:, None]).exp()).sum(-1)
    return normaliser - logits.gather(1, target[:, None])[:, 0], normaliser - expected


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
    effects = mean_ablation_effects(model, split)
    beyond = rho > chance
    rows: list[Row] = [
        ("e", f"largest rho, k = {k}", rho.max().item(), "", None),
        ("e", "largest rho of 100 rotations", chance, "", None),
        ("e", "neurons beyond every rotation", float(beyond.sum()), "", None),
        (
            "e",
            "smallest / median singular value (the exact null aside)",
            (values[-2] / values.median()).item(),
            "",
            None,
        ),
    ]
    for quantity in ("loss", "entropy"):
        total, direct = effects[f"{quantity} total"], effects[f"{quantity} direct"]
        mediated, large = 1 - direct / total, beyond & (total > total[~beyond].quantile(0.9))
        good = (large & (mediated > 0.6)).sum()
        best = mediated[large].max().item() if large.any() else float("nan")
        median = mediated[~beyond].median().item()
        judged = quantity == "loss"  # the goals are about the loss; entropy is there to compare
        rows += [
            ("e", f"{quantity}: of these, TE above the controls' 90 % quantile", float(large.sum()), "", None),
            ("e", f"{quantity}: largest 1 - DE/TE among these", best, "", None),
            ("e", f"{quantity}: of these, 1 - DE/TE > 0.6", float(good), ">= 3", bool(good >= 3) if judged else None),
            ("e", f"{quantity}: controls' median 1 - DE/TE", median, "near 0", abs(median) < 0.1 if judged else None),
        ]
    return rows
