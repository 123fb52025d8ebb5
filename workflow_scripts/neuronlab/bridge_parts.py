"""Parts of a TransformerBridge by the names this library uses: hook points, norms, hooked forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

FINAL_RESIDUAL = "ln_final.hook_in"

Hook = Callable[[Tensor, Any], "Tensor | None"]


class HookError(RuntimeError):
    """A hook that did not fire: its result would have been a silent nothing."""


def post_activation(layer: int) -> str:
    """Where `hook_post` of a layer lives: the input of W_out, which exists in plain and gated MLPs alike."""
    return f"blocks.{layer}.mlp.out.hook_in"


def mlp_out_before_norm(layer: int) -> str:
    """Input of the norm that follows the MLP (Gemma-2)."""
    return f"blocks.{layer}.ln2_post.hook_in"


def norm_after_mlp(block: Any) -> Any | None:
    """The norm between a block's MLP and the residual stream (Gemma-2); None where there is none."""
    return getattr(block, "ln2_post", None)


def norm_before_mlp(block: Any) -> Any:
    """The norm whose output a block's MLP reads; with one norm for attention and MLP (Phi) that one."""
    return getattr(block, "ln2", None) or block.ln1


def exact(tensor: Tensor) -> Tensor:
    """A weight in float64, where folding is done; on the CPU if its device (mps) has no such type."""
    device = "cpu" if tensor.device.type == "mps" else tensor.device
    return tensor.detach().to(device=device, dtype=torch.float64)


def norm_gain(norm: Any) -> Float[Tensor, " d"]:
    """Gain of a bridged norm in float64; 1 + weight where the model stores it so (Gemma)."""
    weight = exact(norm.original_component.weight)
    return 1 + weight if norm.uses_weight_offset else weight


def norm_eps(norm: Any) -> float:
    """Constant under a bridged norm's root: the module's own, which the bridge's configuration may not carry."""
    return module_eps(norm.original_component)


def module_eps(module: torch.nn.Module) -> float:
    """Constant under the root of a Hugging Face norm; its RMS norms name it in two ways."""
    return float(module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps)


def hooked_forward(
    bridge: Any, tokens: Int[Tensor, "batch position"], hooks: dict[str, Hook], **options: Any
) -> Tensor:
    """A forward pass in which every hook must fire exactly once; its logits.

    Args:
        options: passed on to the Hugging Face model, for example `logits_to_keep`.

    Raises:
        HookError: naming the hooks that fired more or less often. TransformerBridge lists hook points that a
            forward pass never reaches (`rotary_emb.hook_out`) and says nothing when they stay silent.
    """
    fired = dict.fromkeys(hooks, 0)

    def counted(name: str, function: Hook) -> Hook:
        def hook(tensor: Tensor, hook: Any) -> Tensor | None:
            fired[name] += 1
            return function(tensor, hook)

        return hook

    logits = bridge.run_with_hooks(
        tokens,
        fwd_hooks=[(name, counted(name, function)) for name, function in hooks.items()],
        use_cache=False,
        **options,
    )
    wrong = [f"{name} ({count} times)" for name, count in fired.items() if count != 1]
    if wrong:
        architecture = type(bridge.original_model).__name__
        raise HookError(f"hooks must fire once in {architecture}: {', '.join(wrong)}")
    return logits
