"""Final norm and unembedding as algebra: gain folded, centred where that changes nothing.

A model's last steps are a norm (LayerNorm or RMSNorm, with gain gamma and, for LayerNorm, a bias beta), a
linear unembedding, and in Gemma-2 a softcap. `fold` rewrites them (METHODS 0.1, 0.6) as

    logits = (x_c / sigma) W + b,     sigma = sqrt(|x_c|^2 / d + eps),     x_c = x - mean(x) for LN, x for RMS

* gamma goes into the rows of W, beta W_U into b;
* LN: x_c / sigma is orthogonal to the all-ones vector, so W may be projected on the complement of that vector
  without changing one logit. Afterwards ones(d) is an *exact* left null vector of W: its last singular value is 0,
  and one of the k bottom singular directions of such a model is that vector, in which no centred w_out has a part;
* W and b are centred over the vocabulary: the logits of a token shift by one constant, its probabilities do not
  change. Not under a softcap, which is applied elementwise after the unembedding and sees that constant.

A norm after the MLP (Gemma-2) is kept beside it as `post_gain`, `post_eps`; `ablation` composes the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

COLUMNS = 4096  # of W_U made float64 at a time
# Read-outs up to this size are kept in float64; larger ones become so block by block, whenever they are used.
DOUBLE_READOUT_BYTES = 2**30

NormKind = Literal["LN", "RMS"]


class ReadoutError(ValueError):
    """Weights that do not make a read-out: wrong shapes, an unknown norm, values that are not finite."""


@dataclass(frozen=True)
class Readout:
    """Folded final norm and unembedding.

    Attributes:
        W: folded unembedding, one column per token.
        b: folded bias (zeros where the model has none).
        eps: constant under the root of the norm.
        kind: "LN" (the residual is centred over d) or "RMS".
        softcap: logits pass `softcap * tanh(logits / softcap)`; None without one.
        vocabulary_centred: whether W and b have mean zero over the vocabulary.
        real: ids that the tokenizer knows; the others only pad the vocabulary, yet stay in the softmax.
        post_gain: gain of the norm between the MLP and the residual stream (Gemma-2: 1 + weight), else None.
        post_eps: constant under that norm's root.
    """

    W: Float[Tensor, "d vocab"]
    b: Float[Tensor, " vocab"]
    eps: float
    kind: NormKind
    softcap: float | None
    vocabulary_centred: bool
    real: Bool[Tensor, " vocab"]
    post_gain: Float[Tensor, " d"] | None = None
    post_eps: float | None = None

    @property
    def d(self) -> int:
        """Width of the residual stream."""
        return self.W.shape[0]

    @property
    def vocab(self) -> int:
        """Ids in the vocabulary, padding included."""
        return self.W.shape[1]

    def centre(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """`x` minus its mean over d for LN, `x` itself for RMS: what the norm scales."""
        return x - x.mean(-1, keepdim=True) if self.kind == "LN" else x

    def scale(self, residual: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
        """The norm's scale sigma = sqrt(|x_c|^2/d + eps) of a residual."""
        return (self.centre(residual).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def normalise(
        self, residual: Float[Tensor, "*batch d"], scale: Float[Tensor, "*batch 1"] | None = None
    ) -> Float[Tensor, "*batch d"]:
        """The residual centred (LN) and divided by its scale, or by `scale` where one is given (a frozen norm)."""
        return self.centre(residual) / (self.scale(residual) if scale is None else scale)

    def cap(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """The softcap, elementwise; the identity where the model has none."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def logits(
        self, residual: Float[Tensor, "*batch d"], scale: Float[Tensor, "*batch 1"] | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        """Logits of a residual, up to a constant per token where the vocabulary is centred.

        Args:
            residual: input of the final norm.
            scale: use this scale in place of the residual's own: METHODS A2's direct effect.
        """
        return self.cap(self.normalise(residual, scale) @ self.W + self.b)

    def post_scale(self, mlp: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
        """Scale of the norm after the MLP, from the MLP's output before it.

        Raises:
            ReadoutError: if the model has no such norm.
        """
        if self.post_eps is None:
            raise ReadoutError("this model has no norm after its MLP")
        return (mlp.square().mean(-1, keepdim=True) + self.post_eps).sqrt()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Readout:
        """The same read-out on another device or in another precision."""
        return Readout(
            W=self.W.to(device=device, dtype=dtype),
            b=self.b.to(device=device, dtype=dtype),
            eps=self.eps,
            kind=self.kind,
            softcap=self.softcap,
            vocabulary_centred=self.vocabulary_centred,
            real=self.real.to(device=device),
            post_gain=None if self.post_gain is None else self.post_gain.to(device=device, dtype=dtype),
            post_eps=self.post_eps,
        )


def readout_dtype(d: int, vocab: int) -> torch.dtype:
    """Precision that the folded read-out is kept in: float64 unless that would be too large."""
    return torch.float64 if d * vocab * 8 <= DOUBLE_READOUT_BYTES else torch.float32


def fold(
    W_U: Float[Tensor, "d vocab"],
    b_U: Float[Tensor, " vocab"] | None,
    gain: Float[Tensor, " d"],
    bias: Float[Tensor, " d"] | None,
    *,
    eps: float,
    kind: NormKind,
    softcap: float | None = None,
    real: Bool[Tensor, " vocab"] | None = None,
    post_gain: Float[Tensor, " d"] | None = None,
    post_eps: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Readout:
    """Fold a final norm into the unembedding (see the module's head). Computed in float64, returned in `dtype`.

    Columns are folded `COLUMNS` at a time: beside W_U and W, a few blocks of that size are in memory.

    Args:
        W_U: unembedding as the model holds it.
        b_U: its bias, if any.
        gain: gamma of the final norm, already 1 + weight where the model stores it so (Gemma).
        bias: beta of the final norm (LayerNorm), if any.
        real: ids that the tokenizer knows; all of them by default.
        post_gain, post_eps: the norm after the MLP, both or neither.

    Raises:
        ReadoutError: shapes that do not fit, an unknown `kind`, a bias on an RMS norm, weights that are not finite.
    """
    d, vocab = W_U.shape
    if kind not in ("LN", "RMS"):
        raise ReadoutError(f"kind of the final norm is '{kind}'; known are 'LN' and 'RMS'")
    if kind == "RMS" and bias is not None:
        raise ReadoutError("an RMS norm with a bias is not covered")
    if (post_gain is None) != (post_eps is None):
        raise ReadoutError("a norm after the MLP needs both post_gain and post_eps")
    for name, tensor, shape in (
        ("W_U", W_U, (d, vocab)),
        ("b_U", b_U, (vocab,)),
        ("gain", gain, (d,)),
        ("bias", bias, (d,)),
        ("real", real, (vocab,)),
        ("post_gain", post_gain, (d,)),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ReadoutError(f"{name} has shape {tuple(tensor.shape)}; W_U of shape {(d, vocab)} asks for {shape}")
        if not all(torch.isfinite(part).all() for part in tensor.split(COLUMNS, dim=-1)):
            raise ReadoutError(f"{name} holds NaN or infinity; the weights are damaged")

    # mps has no float64: there the folding is done on the CPU, and what comes out stays there.
    device = torch.device("cpu") if W_U.device.type == "mps" else W_U.device

    def precise(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device).to(torch.float64)

    factor = precise(gain)[:, None]

    def folded(columns: slice) -> Float64[Tensor, "d columns"]:
        part = factor * precise(W_U[:, columns])
        return part - part.mean(0, keepdim=True) if kind == "LN" else part

    blocks = [slice(start, min(start + COLUMNS, vocab)) for start in range(0, vocab, COLUMNS)]
    b = torch.zeros(vocab, dtype=torch.float64, device=device) if b_U is None else precise(b_U).clone()
    if bias is not None:
        for columns in blocks:
            b[columns] += precise(bias) @ precise(W_U[:, columns])
    centred = softcap is None
    mean = torch.zeros(d, 1, dtype=torch.float64, device=device)
    if centred:
        for columns in blocks:
            mean += folded(columns).sum(1, keepdim=True) / vocab
        b = b - b.mean()
    W = torch.empty(d, vocab, dtype=dtype, device=device)
    for columns in blocks:
        W[:, columns] = folded(columns) - mean
    if real is None:
        real = torch.ones(vocab, dtype=torch.bool)
    return Readout(
        W=W,
        b=b.to(dtype),
        eps=float(eps),
        kind=kind,
        softcap=None if softcap is None else float(softcap),
        vocabulary_centred=centred,
        real=real.to(device),
        post_gain=None if post_gain is None else precise(post_gain).to(dtype),
        post_eps=None if post_eps is None else float(post_eps),
    )
