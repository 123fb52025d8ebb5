"""The last layer of a loaded model as the closed forms take it."""

from __future__ import annotations

import torch

from neuronlab.ablation import LastLayer, choose_kernel, readout_dtype
from neuronlab.kernels.interface import Reference
from neuronlab.models import Model


def last_layer_of(model: Model, *, kernel: str, reference: Reference | None = None) -> LastLayer:
    """The last layer of a model, on the device that effects are computed on.

    That is the model's GPU where it is one that knows float64, the CPU otherwise (mps).

    Args:
        reference: unigram distribution; without it divergences from it are zero, and nothing can be frozen to it.

    Raises:
        AblationError: for an unknown kernel.
    """
    device = model.device if model.device.type == "cuda" else torch.device("cpu")
    layer = model.n_layers - 1
    precise = device.type == "cuda" or model.device.type == "cpu"
    dtype = readout_dtype(model.d_model, model.d_vocab) if precise else torch.float32
    readout = model.readout(dtype).to(device)
    return LastLayer(
        layer=layer,
        readout=readout,
        w=model.w_out(layer).to(device),
        raw=model.raw_w_out(layer).to(device),
        reference=None if reference is None else reference.to(device),
        kernel=choose_kernel(kernel, readout, device),
        threads=torch.get_num_threads(),
    )
