"""Synthetic controls of a set: the same activations, other directions, the same effect on the final norm's scale.

A set that changes its activations by delta_n adds D = sum delta_n w_n to the final residual. Its synthetic control has
random directions r_n with |r_n| = |w_n|, drawn once, and adds at every token

    D' = c x + s (D_r - <D_r, x>/|x|^2 x),     D_r = sum delta_n r_n,
    c = <x, D>/|x|^2,     s = sqrt((|D|^2 - <x, D>^2/|x|^2) / (|D_r|^2 - <x, D_r>^2/|x|^2))

with x the residual as the norm scales it (centred for LayerNorm). So |D'| = |D| and <x, D'> = <x, D>: what happens to
the norm's scale is the set's own, only what is written differs (METHODS 0.6; `synthetic` does it for single neurons).

Where a norm follows the MLP (Gemma-2), D is not linear in delta; such controls are not made there.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuronlab.readout import Readout

ROUNDING = 1e-24  # of a squared length, relative: below it a vector is parallel to x, or nothing


class SyntheticSetError(ValueError):
    """A model that synthetic controls of sets are not made for."""


def check_synthetic(readout: Readout) -> None:
    """Refuse models with a norm after the MLP.

    Raises:
        SyntheticSetError: saying what to do.
    """
    if readout.post_gain is not None:
        raise SyntheticSetError(
            "synthetic control sets are not made for models with a norm after the MLP (Gemma-2): what a set writes "
            "there is rescaled with the whole MLP; set context_copying.controls.synthetic to 0"
        )


def synthetic_directions(readout: Readout, w: Float[Tensor, "k d"], draw: int, seed: int) -> Float[Tensor, "k d"]:
    """Random directions as long as the set's own, centred where the norm centres; float64, on the device of `w`.

    Args:
        w: output directions of the set's neurons, in its order.
        draw: number of the control; each has directions of its own, the same for every token and replacement.

    Raises:
        SyntheticSetError: see `check_synthetic`.
    """
    check_synthetic(readout)
    drawn = np.random.default_rng([seed, draw]).standard_normal(tuple(w.shape))
    r = readout.centre(torch.from_numpy(drawn).to(w.device))
    return r * (readout.centre(w.double()).norm(dim=-1, keepdim=True) / r.norm(dim=-1, keepdim=True))


def synthetic_factors(
    power: Float[Tensor, " tokens"],
    xD: Float[Tensor, " tokens"],
    DD: Float[Tensor, " tokens"],
    xR: Float[Tensor, " tokens"],
    RR: Float[Tensor, " tokens"],
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """D' = kappa x + s D_r: the two factors, float64.

    Args:
        power: |x|^2.
        xD, DD: <x, D> and |D|^2 of the set's own D.
        xR, RR: the same of D_r.
    """
    across = (DD - xD.square() / power).clamp_min(0)  # a square, but for rounding
    turned = RR - xR.square() / power
    s = torch.where(turned > ROUNDING * RR, (across / turned.clamp_min(torch.finfo(turned.dtype).tiny)).sqrt(), 0.0)
    return (xD - s * xR) / power, s


def synthetic_move(
    readout: Readout,
    residual: Float[Tensor, "tokens d"],
    w: Float[Tensor, "k d"],
    r: Float[Tensor, "k d"],
    delta: Float[Tensor, "tokens k"],
) -> Float[Tensor, "tokens d"]:
    """D', what a synthetic control adds to the residual of each token, float64.

    Args:
        residual: input of the final norm.
        w, r: the set's own directions and `synthetic_directions`.
        delta: replacement minus activation.
    """
    x, delta = readout.centre(residual.double()), delta.double()
    own, turned = delta @ readout.centre(w.double()), delta @ r
    kappa, s = synthetic_factors(
        x.square().sum(-1),
        (x * own).sum(-1),
        own.square().sum(-1),
        (x * turned).sum(-1),
        turned.square().sum(-1),
    )
    return kappa[:, None] * x + s[:, None] * turned
