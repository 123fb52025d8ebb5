"""What a kernel takes and gives: clean state, directions, coefficients, effects.

Every intervention on the final residual along one direction changes the logits of a token by

    D_v = A z_v + B u_v [+ C m_v] + G g_v        up to a constant          (exact)

with z the linear part of the clean logits (x_c W), u = w W the direction's own logits, m those of the MLP's
normed output (models with a norm after the MLP only), g a fixed unit direction over the vocabulary. A, B and C are
numbers per (variant, token, neuron); G freezes the logits' projection on g, G = -g.D, for the variants that ask for it.
Under a softcap D is A z + B u + C m passed through the cap: cap(logits + that) - cap(logits).

`Clean`, `Directions` and `Coefficients` hold the three, `Effects` what comes out. `numba_kernel` and `torch_kernel`
turn the former into the latter; neither knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuronlab.readout import Readout

BLOCK = 256  # rows at a time
COLUMNS = 8192  # of W made float64 at a time


class KernelError(ValueError):
    """Input that a kernel does not cover, or shapes that do not belong together."""


@dataclass(frozen=True)
class Reference:
    """What freezing and the KL divergence need of the unigram distribution, float64.

    Attributes:
        q: smoothed distribution, sums to 1.
        direction: unit vector g along log q, centred over the real ids, zero on padded ones.
    """

    q: Float[Tensor, " vocab"]
    direction: Float[Tensor, " vocab"]

    @property
    def negative_entropy(self) -> float:
        """Sum of q log q: the part of KL(q || p) that no model changes."""
        return float(torch.special.xlogy(self.q, self.q).sum())

    def to(self, device: torch.device) -> Reference:
        """The same on another device."""
        return Reference(self.q.to(device), self.direction.to(device))


@dataclass(frozen=True)
class Clean:
    """Clean read-out of a chunk of tokens.

    Attributes:
        z: linear part of the logits, x_c W, minus its mean under p; not centred under a softcap.
        lp: log-probabilities.
        p: probabilities.
        targets: id of the next token.
        loss, entropy, kl: float64, nats; kl is KL(q || p), zeros without a unigram distribution.
        rank: number of other tokens with a larger logit than the target's.
        prediction: token on top, the lowest id among equals.
        m: linear logits of the MLP's normed output where a norm follows the MLP.
        logits: logits before the cap where there is a softcap.
        softcap: its value.
    """

    z: Float[Tensor, "tokens vocab"]
    lp: Float[Tensor, "tokens vocab"]
    p: Float[Tensor, "tokens vocab"]
    targets: Int[Tensor, " tokens"]
    loss: Float[Tensor, " tokens"]
    entropy: Float[Tensor, " tokens"]
    kl: Float[Tensor, " tokens"]
    rank: Int[Tensor, " tokens"]
    prediction: Int[Tensor, " tokens"]
    m: Float[Tensor, "tokens vocab"] | None = None
    logits: Float[Tensor, "tokens vocab"] | None = None
    softcap: float | None = None

    @property
    def tokens(self) -> int:
        return self.z.shape[0]


@dataclass(frozen=True)
class Directions:
    """Logits that each neuron's direction writes, u = w W, with its products with the fixed vectors (float64).

    Where several neurons change together, each token has directions of its own: a leading axis of tokens.
    """

    U: Float[Tensor, "*tokens neurons vocab"]
    dot_g: Float[Tensor, "*tokens neurons"]
    dot_q: Float[Tensor, "*tokens neurons"]

    @property
    def neurons(self) -> int:
        return self.U.shape[-2]

    @property
    def own(self) -> bool:
        """Whether each token has its own directions."""
        return self.U.ndim == 3


@dataclass(frozen=True)
class Coefficients:
    """Numbers per (variant, token, neuron), float64.

    Attributes:
        A, B: factors of z and u.
        frozen: variants that keep the projection on the unigram direction.
        C: factor of m, where a norm follows the MLP.
    """

    A: Float[Tensor, "variants tokens neurons"]
    B: Float[Tensor, "variants tokens neurons"]
    frozen: tuple[bool, ...]
    C: Float[Tensor, "variants tokens neurons"] | None = None

    @property
    def variants(self) -> int:
        return self.A.shape[0]


@dataclass(frozen=True)
class Effects:
    """Changes, after minus before, float64.

    Attributes:
        loss, entropy, kl: nats. kl is zero without a unigram distribution.
        rank, prediction: after the change, for the variants asked for, in their order.
    """

    loss: Float[np.ndarray, "variants tokens neurons"]
    entropy: Float[np.ndarray, "variants tokens neurons"]
    kl: Float[np.ndarray, "variants tokens neurons"]
    rank: Int[np.ndarray, "ranked tokens neurons"] | None = None
    prediction: Int[np.ndarray, "ranked tokens neurons"] | None = None


def clean_state(
    readout: Readout,
    residual: Float[Tensor, "tokens d"],
    targets: Int[Tensor, " tokens"],
    *,
    reference: Reference | None = None,
    mlp: Float[Tensor, "tokens d"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Clean:
    """Clean read-out of `residual`, computed in float64, returned in `dtype`.

    The one product with the unembedding is shared by all neurons, so float64 costs little in the end, and keeps the
    product's rounding out of the effects: with float32 products, logit changes of 20 nats miss 1e-6 by a factor of 2.

    Args:
        residual: input of the final norm.
        mlp: output of the MLP before the norm that follows it; required exactly where there is such a norm.

    Raises:
        KernelError: if `mlp` is missing or superfluous, or a target lies outside the vocabulary.
    """
    if (mlp is None) != (readout.post_gain is None):
        raise KernelError("the MLP's output is needed exactly where a norm follows the MLP")
    if len(targets) and not bool(((targets >= 0) & (targets < readout.vocab)).all()):
        raise KernelError(f"a next token lies outside the vocabulary of {readout.vocab} ids")
    z = precise_product(readout.centre(residual.double()), readout.W)
    before_cap = z / readout.scale(residual.double()) + readout.b.double()
    logits = readout.cap(before_cap)
    lp = logits.log_softmax(-1)
    p = lp.exp()
    m = None
    if mlp is not None and readout.post_gain is not None:
        m = precise_product(readout.centre(mlp.double() * readout.post_gain.double()), readout.W)
    if readout.softcap is None:
        # Constants per token change no probability; without them D is the deviation that float32 has digits for.
        z = z - (p * z).sum(-1, keepdim=True)
        m = m if m is None else m - (p * m).sum(-1, keepdim=True)
    at_target = logits.gather(-1, targets[:, None])
    rank = (logits > at_target).sum(-1)
    kl = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    if reference is not None:
        kl = reference.negative_entropy - lp @ reference.q.to(z.device)
    return Clean(
        z=z.to(dtype),
        lp=lp.to(dtype),
        p=p.to(dtype),
        targets=targets.long(),
        loss=-lp.gather(-1, targets[:, None]).squeeze(-1),
        entropy=torch.special.entr(p).sum(-1),
        kl=kl,
        rank=rank,
        prediction=logits.argmax(-1),
        m=m if m is None else m.to(dtype),
        logits=None if readout.softcap is None else before_cap.to(dtype),
        softcap=readout.softcap,
    )


def directions(
    readout: Readout,
    w: Float[Tensor, "neurons d"],
    *,
    reference: Reference | None = None,
    dtype: torch.dtype = torch.float32,
) -> Directions:
    """Logits of the neurons' output directions; `w` as the measures use it (centred for LN, gamma_post * w)."""
    centred = readout.centre(w.double())
    U = torch.empty(len(w), readout.vocab, dtype=dtype, device=readout.W.device)
    for start in range(0, len(w), BLOCK):
        U[start : start + BLOCK] = precise_product(centred[start : start + BLOCK], readout.W)
    return from_logits(U, reference=reference, dtype=dtype)


def from_logits(
    U: Float[Tensor, "neurons vocab"], *, reference: Reference | None = None, dtype: torch.dtype = torch.float32
) -> Directions:
    """`Directions` of logits that are there already."""
    zeros = torch.zeros(len(U), dtype=torch.float64, device=U.device)
    return Directions(
        U=U.to(dtype).contiguous(),
        dot_g=zeros if reference is None else products(U, reference.direction),
        dot_q=zeros if reference is None else products(U, reference.q),
    )


def precise_product(x: Float[Tensor, "rows d"], W: Float[Tensor, "d vocab"]) -> Float[Tensor, "rows vocab"]:
    """x W in float64; where W is float32, block by block, so that no float64 copy of it is made."""
    if W.dtype == torch.float64:
        return x @ W
    blocks = [x @ W[:, start : start + COLUMNS].double() for start in range(0, W.shape[1], COLUMNS)]
    return torch.cat(blocks, dim=1)


def products(
    rows: Float[Tensor, "rows vocab"], vector: Float[Tensor, " vocab"], block: int = BLOCK
) -> Float[Tensor, " rows"]:
    """rows @ vector in float64, in blocks of rows, so that no float64 copy of the whole is made."""
    vector = vector.to(rows.device)
    parts = [rows[i : i + block].double() @ vector for i in range(0, len(rows), block)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=rows.device)


def check(
    clean: Clean, lines: Directions, coefficients: Coefficients, reference: Reference | None, ranked: tuple[int, ...]
) -> Bool[np.ndarray, " variants"]:
    """Check that shapes belong together; return the frozen variants as an array.

    Raises:
        KernelError: with the shapes at fault.
    """
    shape = (coefficients.variants, clean.tokens, lines.neurons)
    for name in ("A", "B", "C"):
        array = getattr(coefficients, name)
        if array is not None and tuple(array.shape) != shape:
            raise KernelError(f"coefficient {name} has shape {tuple(array.shape)}; expected {shape}")
    if clean.z.shape[1] != lines.U.shape[-1]:
        raise KernelError(f"clean logits have {clean.z.shape[1]} ids, directions {lines.U.shape[-1]}")
    if lines.own and len(lines.U) != clean.tokens:
        raise KernelError(f"directions of {len(lines.U)} tokens for {clean.tokens}")
    if len(coefficients.frozen) != coefficients.variants:
        raise KernelError(f"{len(coefficients.frozen)} flags for {coefficients.variants} variants")
    if any(coefficients.frozen) and reference is None:
        raise KernelError("freezing the unigram projection needs a reference distribution")
    if (coefficients.C is None) != (clean.m is None):
        raise KernelError("coefficient C and the MLP's logits m come together")
    if any(not 0 <= variant < coefficients.variants for variant in ranked):
        raise KernelError(f"ranks asked for variants {ranked} of {coefficients.variants}")
    return np.asarray(coefficients.frozen, dtype=bool)
