"""Checks of a loaded model, made before any work is spent on it; norms and softmax that are exact in float64.

What cannot be handled is refused with its reason: a mixture of experts has no `mlp.out` to hook; a model that
scales its logits after the unembedding does not agree with the folded read-out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuronlab.bridge_parts import FINAL_RESIDUAL, module_eps, norm_after_mlp, norm_before_mlp, post_activation
from neuronlab.model_files import ModelError

if TYPE_CHECKING:
    from neuronlab.models import Model

# Largest deviation that rounding explains, in units of 1 + the largest value compared: TransformerLens'
# noise floors are 5e-5 for float32 and 1e-2 for bfloat16; a forgotten gain or bias is of order 1.
TOLERANCE = {"float64": 1e-10, "float32": 5e-5, "float16": 1e-2, "bfloat16": 5e-2}
CHECK_BATCH, CHECK_POSITIONS = 2, 12
SOFTMAX_ROUNDING = 1e-5  # of probabilities in float32
ROWS = 4096  # of a weight looked at at once


def check_weights(network: nn.Module, report: Mapping[str, Any], where: str) -> None:
    """Refuse weights that the files lack (they would be random) and weights that are NaN or infinite.

    Raises:
        ModelError: naming the tensor.
    """
    for kind, what in (("missing_keys", "the files lack"), ("mismatched_keys", "of another shape than config.json's")):
        tensors = sorted(str(name) for name in report.get(kind, ()))
        if tensors:
            raise ModelError(f"{where}: {what} {', '.join(tensors[:5])}{' ...' if len(tensors) > 5 else ''}")
    for name, tensor in network.named_parameters():
        # In parts: the test makes copies of what it looks at, and an embedding is large.
        if not all(bool(torch.isfinite(part).all()) for part in tensor.detach().split(ROWS)):
            raise ModelError(f"{where}: the weights hold NaN or infinity in '{name}'; copy or train the model again")


def check_hook_points(bridge: Any, where: str) -> None:
    """Refuse an architecture that lacks what this library reads: MLPs with one output matrix, norms, unembedding.

    Raises:
        ModelError: naming the layer and the missing part.
    """
    architecture = type(bridge.original_model).__name__
    needed = [FINAL_RESIDUAL] + [post_activation(layer) for layer in range(len(bridge.blocks))]
    missing = [name for name in needed if name not in bridge.hook_dict]
    if missing:
        raise ModelError(
            f"{where}: {architecture} has no hook point {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: its MLP is not one matrix in and one out "
            "(a mixture of experts, for example). Choose a dense decoder"
        )
    norms = {"the final norm": bridge.ln_final}
    for layer, block in enumerate(bridge.blocks):
        norms[f"the norm before the MLP of layer {layer}"] = norm_before_mlp(block)
        norms[f"the norm after the MLP of layer {layer}"] = norm_after_mlp(block)
    for name, norm in norms.items():
        if norm is not None and getattr(norm.original_component, "weight", None) is None:
            raise ModelError(f"{where}: {name} of {architecture} has no gain to fold; that is not covered")


@torch.no_grad()
def check_algebra(model: Model) -> None:
    """Compare what the closed form builds on with the model itself, on a few random tokens.

    Two things: log-probabilities from the final residual by the folded read-out, and the move of the final residual
    when a neuron's activation is raised by as much as the residual is long.

    Raises:
        ModelError: if either differs by more than rounding: the architecture does something that this library does not
            know, such as a scale on its logits or on what its layers add to the residual stream.
    """
    generator = torch.Generator().manual_seed(0)
    positions = min(CHECK_POSITIONS, model.n_ctx or CHECK_POSITIONS)
    tokens = torch.randint(model.d_vocab_real, (CHECK_BATCH, positions), generator=generator)
    state, readout = model.run(tokens), model.readout(model.dtype)
    own, theirs = readout.logits(state.residual).log_softmax(-1), model.logits(tokens).log_softmax(-1)
    _compare(model, own, theirs, "log-probabilities from its final residual", "a scale on its logits")

    last = model.n_layers - 1
    w = model.raw_w_out(last)
    neuron = int(w.norm(dim=1).argmax())
    delta = state.residual.norm(dim=-1).mean() / w[neuron].norm()
    moved = model.residual_after(tokens, (last, neuron, state.activations[..., neuron] + delta))
    if state.mlp_out is None:
        expected = state.residual + delta * w[neuron]
    else:
        raised = state.mlp_out + delta * w[neuron]
        change = raised / readout.post_scale(raised) - state.mlp_out / readout.post_scale(state.mlp_out)
        expected = state.residual + readout.post_gain * change
    _compare(model, expected, moved, "its final residual after a change of an activation", "a scale on its layers")


def _compare(model: Model, ours: Tensor, theirs: Tensor, what: str, example: str) -> None:
    error, tolerance = float((ours - theirs).abs().max() / (1 + theirs.abs().max())), TOLERANCE[model.spec.dtype]
    if not error <= tolerance:  # NaN too
        raise ModelError(
            f"{model.spec.where}: {what} ({model.architecture}) is off by {error:.1e} where rounding in "
            f"{model.spec.dtype} explains {tolerance:.0e}: the architecture does something that is not covered "
            f"({example}, for example). Choose another"
        )


def make_norms_exact(network: nn.Module) -> None:
    """Let every RMS norm of a float64 model compute in float64.

    Hugging Face's RMSNorm casts to float32 whatever the dtype.
    """
    for module in network.modules():
        if "RMSNorm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            module.forward = _exact_forward(module)  # type: ignore[method-assign]


def _exact_forward(module: nn.Module) -> Any:
    eps = module_eps(module)
    # Gemma's norms store the gain minus one.
    offset = 1.0 if type(module).__name__.startswith("Gemma") else 0.0

    def forward(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (offset + module.weight)

    return forward


def make_softmax_exact(bridge: Any) -> None:
    """Let the attention softmax of every layer of a float64 model compute in float64.

    Hugging Face and TransformerLens cast to float32 in several architectures. Passes that differ in attention would
    differ by that rounding. A pattern that is not the softmax of its scores (attention sinks) is left alone.
    """
    for layer, block in enumerate(bridge.blocks):
        names = [f"blocks.{layer}.attn.hook_attn_scores", f"blocks.{layer}.attn.hook_pattern"]
        if all(name in bridge.hook_dict for name in names):
            _recompute_softmax(block.attn)


def _recompute_softmax(attention: Any) -> None:
    scores: list[Tensor] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        scores[:] = [tensor]

    def recompute(pattern: Tensor, hook: Any) -> Tensor | None:
        if not scores:
            return None
        exact = scores.pop().double().softmax(-1)
        if exact.shape != pattern.shape:
            return None
        # A query that sees no key (padding on the left) has a pattern of NaN where float64 scores pass float32.
        theirs = pattern.double()
        theirs = torch.where(theirs.isnan().all(-1, keepdim=True), exact, theirs)
        return exact.to(pattern.dtype) if torch.allclose(exact, theirs, rtol=0, atol=SOFTMAX_ROUNDING) else None

    attention.hook_attn_scores.add_perma_hook(keep)
    attention.hook_pattern.add_perma_hook(recompute)
