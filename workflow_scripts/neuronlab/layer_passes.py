"""Changed layers in a model, from the residual streams of one clean run (METHODS C1; C defect 4).

A causal model's stream before layer i does not know what happens in layer i, so a pass with that layer changed starts
there, from the clean residual, and evaluates the blocks that are left:

* `delete`, `mean`: the block's two outputs are nothing, or their means: the pass starts at block i + 1 (none is left
  after the last layer);
* `delete_attention`, `delete_mlp`, `mean_attention`, `mean_mlp`: one of them is changed by a hook: from block i;
* `swap` of i < j: from block i. The two blocks exchange their WEIGHTS (norms included) by exchanging pointers: nothing
  is copied or loaded. What depends on a layer's index stays in its slot: whether attention is windowed (Gemma-2
  alternates), rotary frequencies by kind of attention, GPT-2's `scale_attn_by_inverse_layer_idx`. A block that moves
  from a windowed slot to a global one attends globally there.

An output is what is added to the residual stream: with a norm after attention and MLP (Gemma-2) what that norm puts
out. In parallel blocks (Pythia, Phi) attention and MLP read the same stream, so that deleting one leaves the other as
it was; in sequential ones the MLP reads what attention has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from neuronlab.attention_parts import residual_before, skipped_blocks
from neuronlab.bridge_parts import FINAL_RESIDUAL, Hook, hooked_forward, norm_after_mlp
from neuronlab.model_checks import TOLERANCE
from neuronlab.models import Model

PARTS = ("attention", "mlp")
Means = Float64[Tensor, "layer 2 d"]


class InterventionError(ValueError):
    """Layers that cannot be changed as asked, or an architecture that does not add up as this module takes it to."""


@dataclass(frozen=True)
class Intervention:
    """One change of a model.

    Attributes:
        kind: a key of `schemas_stages.INTERVENTIONS`.
        layer: its layer; for a swap the first of two.
        other: the second layer of a swap.
    """

    kind: str
    layer: int
    other: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.kind} {self.layer}" if self.other is None else f"{self.kind} {self.layer}-{self.other}"

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of the block's outputs are replaced; none in a swap."""
        if self.kind == "swap":
            return ()
        return PARTS if self.kind in ("delete", "mean") else (self.kind.split("_")[1],)

    @property
    def needs_means(self) -> bool:
        """Whether outputs are replaced by their means."""
        return self.kind.startswith("mean")


def written(bridge: Any, layer: int) -> dict[str, str]:
    """Where the two outputs of a block pass that are added to the residual stream, by part."""
    block = bridge.blocks[layer]
    attention = "attn" if getattr(block, "ln1_post", None) is None else "ln1_post"
    mlp = "mlp" if norm_after_mlp(block) is None else "ln2_post"
    return {"attention": f"blocks.{layer}.{attention}.hook_out", "mlp": f"blocks.{layer}.{mlp}.hook_out"}


class LayerPasses:
    """Clean and changed passes of one model, with a count of the blocks evaluated.

    Attributes:
        means: mean outputs, [layer, (attention, MLP), d]; None if no intervention needs them.
        evaluations: blocks evaluated so far, times sequences.
    """

    def __init__(self, model: Model, means: Means | None = None) -> None:
        self.model, self.means = model, means
        self.evaluations = 0

    @torch.no_grad()
    def clean(
        self, tokens: Int[Tensor, "batch position"], hooks: dict[str, Hook] | None = None
    ) -> list[Float[Tensor, "batch position d"]]:
        """What enters each block and then the final norm, L + 1 tensors in the model's own dtype.

        Args:
            hooks: what else looks at this pass, at other hook points; it changes nothing.
        """
        names = [*map(residual_before, range(self.model.n_layers)), FINAL_RESIDUAL]
        # Copies: a model may write into its stream.
        caught = self._run(tokens.to(self.model.device), names, hooks or {}, clone=True)
        self.evaluations += len(tokens) * self.model.n_layers
        return [caught[name] for name in names]

    @torch.no_grad()
    def changed(
        self, residuals: list[Float[Tensor, "batch position d"]], intervention: Intervention
    ) -> Float[Tensor, "batch position d"]:
        """What enters the final norm under an intervention.

        Args:
            residuals: from `clean`.

        Raises:
            InterventionError: a mean without `means`; a swap of blocks with different weights' shapes.
        """
        layer = intervention.layer
        if intervention.kind == "swap":
            first, second = sorted((layer, intervention.other))
            with exchanged_weights(self.model, first, second):
                return self.resume(residuals[first], first)
        if intervention.kind == "delete":
            return self.resume(residuals[layer], layer + 1)
        if intervention.kind == "mean":
            residual = residuals[layer]
            for mean in self._needed_means()[layer]:
                residual = residual + mean.to(residual)
            return self.resume(residual, layer + 1)
        return self.resume(residuals[layer], layer, self.replacing(intervention))

    def resume(
        self, residual: Float[Tensor, "batch position d"], first: int, hooks: dict[str, Hook] | None = None
    ) -> Float[Tensor, "batch position d"]:
        """What enters the final norm when `residual` enters block `first`; itself when no block is left."""
        if first == self.model.n_layers:
            return residual
        self.evaluations += len(residual) * (self.model.n_layers - first)
        with skipped_blocks(self.model.bridge, first):
            return self._run(residual, [FINAL_RESIDUAL], hooks or {}, start_at_layer=first)[FINAL_RESIDUAL]

    def replacing(self, intervention: Intervention) -> dict[str, Hook]:
        """Hooks that put zeros or means in place of a block's outputs."""
        names = written(self.model.bridge, intervention.layer)

        def put(part: str) -> Hook:
            if not intervention.needs_means:
                return lambda tensor, hook: torch.zeros_like(tensor)
            mean = self._needed_means()[intervention.layer, PARTS.index(part)]
            return lambda tensor, hook: mean.to(tensor).expand_as(tensor).clone()

        return {names[part]: put(part) for part in intervention.parts}

    def _needed_means(self) -> Means:
        if self.means is None:
            raise InterventionError("a mean ablation of layers needs their mean outputs")
        return self.means

    def _run(
        self, entering: Tensor, names: list[str], hooks: dict[str, Hook], *, clone: bool = False, **options: Any
    ) -> dict[str, Tensor]:
        """One hooked pass, and the tensors at the hook points named."""
        caught: dict[str, Tensor] = {}

        def keeping(name: str) -> Hook:
            def keep(tensor: Tensor, hook: Any) -> None:
                caught[name] = tensor.detach().clone() if clone else tensor.detach()

            return keep

        hooks = hooks | {name: keeping(name) for name in names}
        hooked_forward(self.model.bridge, entering, hooks, logits_to_keep=1, **options)
        return caught

    @torch.no_grad()
    def mean_outputs(
        self, batches: Iterable[tuple[Int[Tensor, "batch position"], Bool[Tensor, "batch position"]]]
    ) -> Means:
        """Mean outputs of every block's attention and MLP over chosen positions of clean passes, in float64.

        Args:
            batches: sequences, and which of their positions count.

        Raises:
            InterventionError: if none does.
        """
        device = self.model.device
        wide = torch.float32 if device.type == "mps" else torch.float64
        total, count = torch.zeros(self.model.n_layers, 2, self.model.d_model, dtype=torch.float64), 0
        names = [written(self.model.bridge, layer) for layer in range(self.model.n_layers)]
        for tokens, counted in batches:
            counted = counted.to(device)

            def adding(layer: int, part: int, counted: Tensor = counted) -> Hook:
                def add(tensor: Tensor, hook: Any) -> None:
                    total[layer, part] += tensor[counted].to(wide).sum(0).cpu()

                return add

            hooks = {name: adding(i, PARTS.index(part)) for i, at in enumerate(names) for part, name in at.items()}
            hooked_forward(self.model.bridge, tokens.to(device), hooks, logits_to_keep=1)
            self.evaluations += len(tokens) * self.model.n_layers
            count += int(counted.sum())
        if not count:
            raise InterventionError("no position to take the mean output of layers over")
        return total / count

    @torch.no_grad()
    def check(self, tokens: Int[Tensor, "batch position"]) -> None:
        """What changed passes build on, on a few sequences: streams add up, and a pass can start at any block.

        Raises:
            InterventionError: if a block adds something else than its attention's and its MLP's output to the stream,
                or a pass from a clean residual does not end where the clean run did.
        """
        model, where = self.model, self.model.spec.where
        points = [written(model.bridge, layer) for layer in range(model.n_layers)]
        missing = [name for at in points for name in at.values() if name not in model.bridge.hook_dict]
        if missing:
            raise InterventionError(
                f"{where}: {model.architecture} has no hook point {missing[0]}: changes of its layers are not covered. "
                "Leave `interventions` out of stages_of_inference.parts"
            )
        names = [*map(residual_before, range(model.n_layers)), FINAL_RESIDUAL]
        wanted = [*names, *(name for at in points for name in at.values())]
        caught = self._run(tokens.to(model.device), wanted, {}, clone=True)
        before = self.evaluations
        for layer, at in enumerate(points):
            total = caught[names[layer]] + caught[at["attention"]] + caught[at["mlp"]]
            self._same(total, caught[names[layer + 1]], f"the stream after layer {layer}, added up from its outputs,")
        for layer in sorted({0, model.n_layers // 2, model.n_layers - 1}):
            again = self.resume(caught[names[layer]], layer)
            self._same(again, caught[FINAL_RESIDUAL], f"a pass that starts at layer {layer}")
        self.evaluations = before  # a check is none of the study's passes

    def _same(self, ours: Tensor, theirs: Tensor, what: str) -> None:
        error = float((ours - theirs).abs().max() / (1 + theirs.abs().max()))
        tolerance = TOLERANCE[self.model.spec.dtype]
        if not error <= tolerance:  # NaN too
            raise InterventionError(
                f"{self.model.spec.where}: {what} differs from the clean run by {error:.1e} where rounding in "
                f"{self.model.spec.dtype} explains {tolerance:.0e}: {self.model.architecture} does something that is "
                "not covered. Leave `interventions` out of stages_of_inference.parts"
            )


def weight_pairs(model: Model, first: int, second: int) -> list[tuple[Tensor, Tensor]]:
    """The parameters of two blocks that correspond, each once: the bridge knows one by several names.

    Raises:
        InterventionError: if the blocks are not built alike.
    """
    one, two = (dict(model.bridge.blocks[layer].named_parameters(remove_duplicate=False)) for layer in (first, second))
    differing = [name for name in one.keys() | two.keys() if name not in one or name not in two]
    differing += [name for name in one.keys() & two.keys() if one[name].shape != two[name].shape]
    if differing:
        raise InterventionError(
            f"stages_of_inference.swaps: layers {first} and {second} of {model.spec.where} cannot change places: their "
            f"weights '{min(differing)}' are not of one shape. Leave this pair out"
        )
    pairs = {id(one[name]): (one[name], two[name]) for name in one}
    return [(a, b) for a, b in pairs.values() if a is not b]


@contextmanager
def exchanged_weights(model: Model, first: int, second: int) -> Iterator[None]:
    """Blocks `first` and `second` have each other's weights, for a while; nothing is copied.

    Raises:
        InterventionError: see `weight_pairs`.
    """
    pairs = weight_pairs(model, first, second)

    def exchange() -> None:
        for a, b in pairs:
            a.data, b.data = b.data, a.data

    exchange()
    try:
        yield
    finally:
        exchange()
