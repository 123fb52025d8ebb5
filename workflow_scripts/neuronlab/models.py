"""Loading a model and reading from it: the only place that knows TransformerLens.

`load_model(spec)` gives a `Model`, a thin wrapper around a TransformerBridge. The bridge keeps the weights as Hugging
Face has them (no compatibility mode); folding and centring are done here and in `readout`, where they can be tested:

* `readout()` folds the final norm into the unembedding;
* `w_out(layer)` is what a unit of activation adds to the residual stream, centred over d where norms centre
  (LayerNorm); where a norm follows the MLP (Gemma-2) its gain is folded in, w_eff = gamma_post * w;
* `w_in(layer)` has the gain of the norm before the MLP folded in, and is centred over d for LayerNorm. Of a gated
  MLP it is the linear branch ("up", TransformerLens' W_in), not the gate.

`activations` are TransformerLens' `hook_post`, what W_out multiplies; in a gated MLP act(gate) * up.

All tensors come back as float32 (float64 from a float64 model), on the model's device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from neuronlab.bridge_parts import (
    FINAL_RESIDUAL,
    Hook,
    HookError,
    exact,
    hooked_forward,
    mlp_out_before_norm,
    norm_after_mlp,
    norm_before_mlp,
    norm_eps,
    norm_gain,
    post_activation,
)
from neuronlab.devices import resolve_device
from neuronlab.model_checks import (
    check_algebra,
    check_hook_points,
    check_weights,
    make_norms_exact,
    make_softmax_exact,
)
from neuronlab.model_files import (
    DTYPES,
    TESTED_ARCHITECTURES,
    ModelError,
    ModelSpec,
    check_model_directory,
    model_directory,
)
from neuronlab.readout import Readout, fold
from neuronlab.vocabulary import Vocabulary, load_vocabulary

__all__ = ["FinalState", "HookError", "Model", "ModelError", "ModelSpec", "load_model"]

Replacement = tuple[int, "int | Sequence[int]", "float | Tensor"]


@dataclass(frozen=True)
class FinalState:
    """What the last layer's closed form needs of one forward pass.

    Attributes:
        residual: input of the final norm.
        activations: `hook_post` of the last layer.
        mlp_out: output of the last MLP before the norm that follows it (Gemma-2); None without such a norm.
    """

    residual: Float[Tensor, "batch position d"]
    activations: Float[Tensor, "batch position neurons"]
    mlp_out: Float[Tensor, "batch position d"] | None = None


def is_supported(architecture: str) -> bool:
    """Whether TransformerLens knows an architecture, by the name that config.json gives it."""
    return architecture in SUPPORTED_ARCHITECTURES


def load_model(spec: ModelSpec) -> Model:
    """Load a model from its directory, offline, and check that it is what this library can handle.

    Raises:
        ModelError: directory, tokenizer or weights missing or damaged (NaN, infinity, tensors that the files lack), an
            architecture without the hook points, or one that the closed form does not describe.
        DeviceError: no GPU can be claimed (see `devices`).
    """
    path = model_directory(spec)
    check_model_directory(path, spec.where)
    if spec.dtype not in DTYPES:
        raise ModelError(f"{spec.where}.dtype is '{spec.dtype}'; it must be one of {', '.join(DTYPES)}")
    vocabulary = load_vocabulary(spec)
    device, dtype = resolve_device(spec.device), getattr(torch, spec.dtype)
    if device.type == "mps" and dtype == torch.float64:
        raise ModelError(f"{spec.where}.dtype: float64 does not exist on mps; set `device: cpu`")
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            weights_only=True,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a damaged file or an unknown architecture raises
        raise ModelError(f"{spec.where}: the model in '{path}' cannot be loaded: {error}") from error
    check_weights(network, report, f"{spec.where}: '{path}'")
    try:
        network = network.to(device).eval()
    except RuntimeError as error:  # no such device, or too little memory on it
        raise ModelError(f"compute.device: {spec.where} cannot be put on '{device}' ({error}); try `cpu`") from error
    if dtype == torch.float64:
        make_norms_exact(network)
    try:
        bridge = TransformerBridge.boot_transformers(
            str(path),
            hf_model=network,
            # The bridge sets padding on its tokenizer: it gets one of its own.
            tokenizer=deepcopy(vocabulary.tokenizer),
            device=str(device),
            dtype=dtype,
            trust_remote_code=spec.trust_remote_code,
        )
    except Exception as error:
        raise ModelError(
            f"{spec.where}: TransformerLens does not support {type(network).__name__} ({error}); "
            f"tested are {', '.join(TESTED_ARCHITECTURES)}"
        ) from error
    check_hook_points(bridge, spec.where)
    if dtype == torch.float64:
        make_softmax_exact(bridge)
    model = Model(spec, bridge, vocabulary, device)
    check_algebra(model)
    return model


class Model:
    """A loaded model; see the module's head for what its weights mean."""

    def __init__(
        self, spec: ModelSpec, bridge: TransformerBridge, vocabulary: Vocabulary, device: torch.device
    ) -> None:
        self.spec = spec
        self.bridge = bridge
        self.vocabulary = vocabulary
        self.device = device
        self.dtype = torch.float64 if spec.dtype == "float64" else torch.float32
        self.architecture = type(bridge.original_model).__name__
        self.tokenizer = vocabulary.tokenizer
        self.n_layers = len(bridge.blocks)
        self.d_mlp, self.d_model = self._mlp(0).W_out.shape
        self.d_vocab = int(bridge.unembed.W_U.shape[1])
        self.d_vocab_real = vocabulary.d_vocab_real
        self.n_ctx = vocabulary.n_ctx
        self.bos_token_id = vocabulary.bos_token_id
        self.eos_token_id = vocabulary.eos_token_id
        self.newline_token_ids = vocabulary.newline_token_ids

    @property
    def norm_kind(self) -> Literal["LN", "RMS"]:
        """Kind of the final norm."""
        return "RMS" if self.bridge.ln_final.uses_rms_norm else "LN"

    @property
    def eps(self) -> float:
        """Constant under the root of the final norm."""
        return norm_eps(self.bridge.ln_final)

    @property
    def softcap(self) -> float | None:
        """Softcap on the logits; None without one."""
        config = self.bridge.original_model.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        return getattr(text, "final_logit_softcapping", None)

    @property
    def has_post_mlp_norm(self) -> bool:
        """Whether a norm stands between the MLP and the residual stream (Gemma-2)."""
        return self._post_norm(self.n_layers - 1) is not None

    def raw_w_out(self, layer: int) -> Float[Tensor, "neurons d"]:
        """Output weights as the forward pass has them, a row for each neuron."""
        return self._mlp(layer).W_out.detach().to(self.dtype)

    def w_out(self, layer: int) -> Float[Tensor, "neurons d"]:
        """What a unit of activation writes: gain of a following norm folded in; centred over d for LayerNorm."""
        w = exact(self._mlp(layer).W_out)
        post_norm = self._post_norm(layer)
        if post_norm is not None:
            w = w * norm_gain(post_norm)
        if self.norm_kind == "LN":
            w = w - w.mean(-1, keepdim=True)
        return w.to(self.device, self.dtype)

    def w_in(self, layer: int) -> Float[Tensor, "neurons d"]:
        """Input weights, the preceding norm's gain folded in, centred over d for LayerNorm; gated: the up branch."""
        norm = norm_before_mlp(self.bridge.blocks[self._layer(layer)])
        w = exact(self._mlp(layer).W_in).T * norm_gain(norm)
        if self.norm_kind == "LN":
            w = w - w.mean(-1, keepdim=True)
        return w.to(self.device, self.dtype)

    def readout(self, dtype: torch.dtype = torch.float32) -> Readout:
        """Final norm and unembedding, folded (METHODS 0.1)."""
        final, unembed = self.bridge.ln_final, self.bridge.unembed
        bias = getattr(unembed.original_component, "bias", None)
        norm_bias = getattr(final.original_component, "bias", None)
        post_norm = self._post_norm(self.n_layers - 1)
        return fold(
            unembed.W_U,
            None if bias is None else exact(bias),
            norm_gain(final),
            None if norm_bias is None else exact(norm_bias),
            eps=self.eps,
            kind=self.norm_kind,
            softcap=self.softcap,
            real=torch.from_numpy(self.vocabulary.real),
            post_gain=None if post_norm is None else norm_gain(post_norm),
            post_eps=None if post_norm is None else norm_eps(post_norm),
            dtype=dtype,
        ).to(self.device)

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "batch position"]) -> FinalState:
        """One forward pass: input of the final norm and the last layer's activations. Logits are not computed."""
        return self.run_with_activations(tokens, ())[0]

    @torch.no_grad()
    def run_with_activations(
        self, tokens: Int[Tensor, "batch position"], layers: Iterable[int]
    ) -> tuple[FinalState, dict[int, Float[Tensor, "batch position neurons"]]]:
        """What `run` and `activations` give, from one forward pass."""
        last = self.n_layers - 1
        names = [FINAL_RESIDUAL, post_activation(last)]
        if self.has_post_mlp_norm:
            names.append(mlp_out_before_norm(last))
        wanted = {layer: post_activation(self._layer(layer)) for layer in layers}
        caught = self._caught(tokens, list(dict.fromkeys([*names, *wanted.values()])))
        state = FinalState(*(caught[name] for name in names))
        return state, {layer: caught[name] for layer, name in wanted.items()}

    @torch.no_grad()
    def activations(
        self, tokens: Int[Tensor, "batch position"], layers: Iterable[int]
    ) -> dict[int, Float[Tensor, "batch position neurons"]]:
        """Activations (`hook_post`) of the layers named, from one forward pass."""
        names = {layer: post_activation(self._layer(layer)) for layer in layers}
        caught = self._caught(tokens, list(names.values()))
        return {layer: caught[name] for layer, name in names.items()}

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "batch position"], replace: Replacement | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """Logits of a full forward pass, with activations replaced where `replace` says so: the slow oracle.

        Args:
            replace: layer, neuron or neurons, and their value: a number, or a tensor that broadcasts to
                [batch, position] for one neuron, to [batch, position, neurons] for several.
        """
        hooks = {} if replace is None else self._replacing(replace)
        return self._forward(tokens, hooks).to(self.dtype)

    @torch.no_grad()
    def residual_after(
        self, tokens: Int[Tensor, "batch position"], replace: Replacement
    ) -> Float[Tensor, "batch position d"]:
        """Input of the final norm with activations replaced as in `logits`."""
        caught: dict[str, Tensor] = {}
        hooks = self._replacing(replace) | {FINAL_RESIDUAL: self._keeping(caught, FINAL_RESIDUAL)}
        self._forward(tokens, hooks, logits_to_keep=1)
        return caught[FINAL_RESIDUAL]

    def _replacing(self, replace: Replacement) -> dict[str, Hook]:
        layer, neuron, value = replace

        def put(activation: Tensor, hook: Any) -> Tensor:
            activation = activation.clone()
            activation[..., neuron] = torch.as_tensor(value, dtype=activation.dtype, device=activation.device)
            return activation

        return {post_activation(self._layer(layer)): put}

    def _keeping(self, caught: dict[str, Tensor], name: str) -> Hook:
        def keep(tensor: Tensor, hook: Any) -> None:
            caught[name] = tensor.detach().to(self.dtype)

        return keep

    def _caught(self, tokens: Int[Tensor, "batch position"], names: list[str]) -> dict[str, Tensor]:
        """The tensors that pass the hook points named, in this wrapper's dtype."""
        caught: dict[str, Tensor] = {}
        # The unembedding is most of a small model's work and is not wanted here: one position is the least it does.
        self._forward(tokens, {name: self._keeping(caught, name) for name in names}, logits_to_keep=1)
        return caught

    def _forward(self, tokens: Int[Tensor, "batch position"], hooks: dict[str, Hook], **options: Any) -> Tensor:
        """Logits of a hooked forward pass (see `bridge_parts.hooked_forward`)."""
        if tokens.shape[-1] > (self.n_ctx or tokens.shape[-1]):
            raise ModelError(
                f"{self.spec.where}: sequences of {tokens.shape[-1]} tokens, but its context is {self.n_ctx}; "
                "lower texts.<text>.sequence_length"
            )
        return hooked_forward(self.bridge, tokens.to(self.device), hooks, **options)

    def _layer(self, layer: int) -> int:
        if not 0 <= layer < self.n_layers:
            raise ModelError(f"{self.spec.where}: no layer {layer}; its layers are 0 to {self.n_layers - 1}")
        return layer

    def _mlp(self, layer: int) -> Any:
        return self.bridge.blocks[self._layer(layer)].mlp

    def _post_norm(self, layer: int) -> Any | None:
        return norm_after_mlp(self.bridge.blocks[layer])
