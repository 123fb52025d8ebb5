"""A second copy of a loaded model in float64, for verification, where memory allows it."""

from __future__ import annotations

from dataclasses import replace

from neuronlab.models import Model, load_model


def fits_twice(model: Model, float64_mb: float) -> bool:
    """Whether a float64 copy fits beside the model, by `compute.float64_mb`: the answer is the same everywhere."""
    parameters = list(model.bridge.original_model.parameters())
    size = sum(p.numel() * (p.element_size() + 8) for p in parameters)
    return size <= float64_mb * 2**20


def precise_copy(model: Model) -> Model:
    """The same model loaded in float64; on the CPU where the model's device (mps) has no such type."""
    device = "cpu" if model.device.type == "mps" else model.spec.device
    return load_model(replace(model.spec, dtype="float64", device=device))
