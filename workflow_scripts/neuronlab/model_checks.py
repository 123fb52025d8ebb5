"""Checks of a loaded model, made before any work is spent on it, and norms that are exact in float64.

What cannot be handled is refused with its reason: a mixture of experts has no `mlp.out` to hook; a model that
scales its logits after the unembedding does not agree with the folded read-out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuronlab.model_files import ModelError

if TYPE_CHECKING:
    from neuronlab.models import Model

# Largest deviation of log-probabilities that rounding explains, in units of 1 + max |log p|: TransformerLens'
# noise floors are 5e-5 for float32 and 1e-2 for bfloat16; a forgotten gain or bias is of order 1.
READOUT_TOLERANCE = {"float64": 1e-10, "float32": 5e-5, "float16": 1e-2, "bfloat16": 5e-2}
CHECK_BATCH, CHECK_POSITIONS = 2, 12


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
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{where}: the weights hold NaN or infinity in '{name}'; copy or train the model again")


def check_hook_points(bridge: Any, where: str) -> None:
    """Refuse an architecture that lacks what this library reads: MLPs with one output matrix, norms, unembedding.

    Raises:
        ModelError: naming the layer and the missing part.
    """
    architecture = type(bridge.original_model).__name__
    needed = ["ln_final.hook_in"] + [f"blocks.{layer}.mlp.out.hook_in" for layer in range(len(bridge.blocks))]
    missing = [name for name in needed if name not in bridge.hook_dict]
    if missing:
        raise ModelError(
            f"{where}: {architecture} has no hook point {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: its MLP is not one matrix in and one out "
            "(a mixture of experts, for example). Choose a dense decoder"
        )


@torch.no_grad()
def check_readout(model: Model) -> None:
    """Compare log-probabilities from the cached residual, by the folded read-out, with the model's own.

    Raises:
        ModelError: if they differ by more than rounding: the architecture does something after its final norm
            that this library does not know.
    """
    generator = torch.Generator().manual_seed(0)
    positions = min(CHECK_POSITIONS, model.n_ctx or CHECK_POSITIONS)
    tokens = torch.randint(model.d_vocab_real, (CHECK_BATCH, positions), generator=generator)
    own = model.readout(model.dtype).logits(model.run(tokens).residual).log_softmax(-1)
    theirs = model.logits(tokens).log_softmax(-1)
    error = float(((own - theirs).abs().max()) / (1 + theirs.abs().max()))
    tolerance = READOUT_TOLERANCE[model.spec.dtype]
    if not error <= tolerance:
        raise ModelError(
            f"{model.spec.where}: log-probabilities of {model.architecture} from its final residual deviate by "
            f"{error:.1e} (relative; rounding in {model.spec.dtype} explains {tolerance:.0e}): it does something "
            "after the final norm that is not covered (a logit scale, for example). Choose another architecture"
        )


def make_norms_exact(network: nn.Module) -> None:
    """Let every RMS norm of a float64 model compute in float64.

    Hugging Face's RMSNorm casts to float32 whatever the dtype (so does its attention softmax; that error is shared by
    two passes that differ in the last MLP only, and does not matter to a comparison of them).
    """
    for module in network.modules():
        if "RMSNorm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            module.forward = _exact_forward(module)  # type: ignore[method-assign]


def _exact_forward(module: nn.Module) -> Any:
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    # Gemma's norms store the gain minus one.
    offset = 1.0 if type(module).__name__.startswith("Gemma") else 0.0

    def forward(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (offset + module.weight)

    return forward
