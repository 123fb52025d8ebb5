"""What probes read: activations of a few neurons at counted positions, and what the model itself predicts there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.bridge_parts import FINAL_RESIDUAL, hooked_forward, post_activation
from neuronlab.final_states import Text
from neuronlab.layer_outcomes import read
from neuronlab.models import Model
from neuronlab.probe_ensembles import ProbeError

Array = np.ndarray
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class ProbeInputs:
    """Counted tokens in the order of the text: sequence by sequence, position by position.

    Attributes:
        activations: `hook_post` of the neurons asked for, in their order.
        log_odds: log(p / (1 - p)) of the probability p that the model gives to next tokens with each feature.
        top: whether the model's most likely next token has the feature.
    """

    activations: Float32[Array, "tokens neurons"]
    log_odds: Float64[Array, "tokens features"]
    top: Bool[Array, "tokens features"]


def next_tokens(text: Text) -> Int[Array, " tokens"]:
    """The token after each counted position."""
    sequence, position = np.nonzero(text.counted)
    return text.tokens[sequence, position + 1]


def split_documents(documents: Int[Array, " tokens"], share: float, seed: int) -> Bool[Array, " tokens"]:
    """Which tokens are for testing: those of a random `share` of the documents, at least one; none of one document."""
    known = np.unique(documents)
    if len(known) < 2:
        return np.zeros(len(documents), dtype=bool)
    n_test = min(max(1, round(share * len(known))), len(known) - 1)
    chosen = np.random.default_rng([seed, 0x7073]).permutation(known)[:n_test]
    return np.isin(documents, chosen)


@torch.no_grad()
def read_inputs(
    model: Model,
    text: Text,
    neurons: Int[Array, " neurons"],
    has: Bool[Array, "vocab features"],
    *,
    batch_size: int,
    tokens_per_chunk: int,
) -> ProbeInputs:
    """One forward pass over the sequences with counted positions; of each layer only what is asked for stays.

    Args:
        neurons: by number, see `probe_ensembles`; ascending.
        has: which ids have which features; ids that pad the vocabulary have none, but take part in the softmax.

    Raises:
        ProbeError: for activations or a residual stream with NaN or infinity.
    """
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # mps has no float64
    readout = model.readout().to(device)
    members = torch.from_numpy(np.hstack([has, ~has])).to(device).double()
    layer_of, within = np.divmod(neurons, model.d_mlp)
    columns = {int(layer): np.flatnonzero(layer_of == layer) for layer in np.unique(layer_of)}
    n = int(text.counted.sum())
    activations = np.empty((n, len(neurons)), dtype=np.float32)
    log_odds, top = np.empty((n, has.shape[1])), np.empty((n, has.shape[1]), dtype=bool)
    wanted, before = np.flatnonzero(text.counted.any(axis=1)), 0
    for start in tqdm(range(0, len(wanted), batch_size), desc="probes", unit="batch", file=sys.stderr, disable=None):
        rows = wanted[start : start + batch_size]
        places = tuple(torch.from_numpy(place).to(model.device) for place in np.nonzero(text.counted[rows]))
        here = slice(before, before + len(places[0]))
        caught: list[Tensor] = []

        def gathering(layer: int, places: tuple[Tensor, ...] = places, here: slice = here) -> Callable[..., None]:
            chosen = torch.from_numpy(within[columns[layer]]).to(model.device)

            def gather(tensor: Tensor, hook: Any) -> None:
                activations[here, columns[layer]] = tensor[places][:, chosen].float().cpu().numpy()

            return gather

        def keep(tensor: Tensor, hook: Any, places: tuple[Tensor, ...] = places, caught: list[Tensor] = caught) -> None:
            caught.append(tensor[places].detach())

        hooks = {post_activation(layer): gathering(layer) for layer in columns} | {FINAL_RESIDUAL: keep}
        hooked_forward(
            model.bridge, torch.from_numpy(text.tokens[rows]).long().to(model.device), hooks, logits_to_keep=1
        )
        for chunk in caught[0].split(tokens_per_chunk):
            distribution, probabilities = read(readout, chunk)
            part = slice(before, before + len(chunk))
            # A probability below the smallest float is cut off there: log odds stay finite.
            mass = (probabilities @ members).clamp_min(TINY).log()
            log_odds[part] = (mass[:, : has.shape[1]] - mass[:, has.shape[1] :]).cpu().numpy()
            top[part] = has[distribution.logits.argmax(-1).cpu().numpy()]
            before += len(chunk)
    if not (np.isfinite(activations).all() and np.isfinite(log_odds).all()):
        raise ProbeError(
            f"{model.spec.where}: NaN or infinity in activations or logits; its dtype {model.spec.dtype} overflows: "
            "choose bfloat16 or float32"
        )
    return ProbeInputs(activations, log_odds, top)
