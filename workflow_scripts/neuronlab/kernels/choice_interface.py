"""What the kernels that choose next tokens take: changed logits as combinations, candidates, bounds.

Every variant makes of the clean logits l of a node, up to the softcap,

    l'_v = f l_v + (1 - f) b_v + e m_v + sum_n h_n u_nv                                               (exact)

with b the read-out's bias, u_n the logits that line n writes, and m those of the MLP's output where a norm follows it.

With f > 0 no token v outside the clean model's c best ones can have more than f l_next + R, where l_next is the best of
their clean logits and R the sum of the largest values that (1 - f) b, e m and h_n u_n take over the vocabulary. So a
pair is decided as soon as the best of the c tokens leads that by more than rounding, and than what counts as a near
tie: for most pairs by c = 1, the clean token itself. For that c the condition reads

    f (l_t - l_next) > sum_y max_v c_y (y_v - y_t)          over the terms c_y y of l'

Among logits equal but for rounding the lowest id wins, as with `torch.argmax`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CANDIDATES = 256  # at most
ROUNDING = 1e-12  # of float64 logits, in units of 1 + the largest term


@dataclass(frozen=True)
class Lines:
    """Logits U that directions write, with the smallest and the largest of each."""

    U: Float[Tensor, "lines vocab"]
    low: Float[Tensor, " lines"]
    high: Float[Tensor, " lines"]

    @classmethod
    def of_logits(cls, U: Float[Tensor, "lines vocab"]) -> Lines:
        """With the extremes of `U`."""
        return cls(U, U.amin(1).double(), U.amax(1).double())


@dataclass(frozen=True)
class Readings:
    """Clean logits of some nodes, float64.

    Attributes:
        logits: before a softcap.
        largest: largest of their absolute values.
        best, top: the largest logits and their tokens, from the largest; one more logit than tokens.
        b, b_low, b_high: bias of the read-out, its smallest and its largest value.
        m, m_low, m_high: logits of the MLP's output where a norm follows it, the smallest and the largest of a node.
        softcap: value of the softcap, if there is one.
    """

    logits: Float[Tensor, "nodes vocab"]
    largest: Float[Tensor, " nodes"]
    best: Float[Tensor, "nodes candidates+1"]
    top: Int[Tensor, "nodes candidates"]
    b: Float[Tensor, " vocab"]
    b_low: float
    b_high: float
    m: Float[Tensor, "nodes vocab"] | None = None
    m_low: Float[Tensor, " nodes"] | None = None
    m_high: Float[Tensor, " nodes"] | None = None
    softcap: float | None = None

    @classmethod
    def of_logits(
        cls,
        logits: Float[Tensor, "nodes vocab"],
        b: Float[Tensor, " vocab"],
        candidates: int,
        *,
        m: Float[Tensor, "nodes vocab"] | None = None,
        softcap: float | None = None,
    ) -> Readings:
        """With candidates and extremes of what is given."""
        best, top = logits.topk(candidates + 1, dim=1)
        return cls(
            logits=logits,
            largest=logits.abs().amax(1),
            best=best,
            top=top[:, :candidates],
            b=b,
            b_low=float(b.min()),
            b_high=float(b.max()),
            m=m,
            m_low=None if m is None else m.amin(1),
            m_high=None if m is None else m.amax(1),
            softcap=softcap,
        )

    @property
    def vocab(self) -> int:
        return self.logits.shape[1]

    def cap(self, logits: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """The softcap, the identity without one."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


@dataclass(frozen=True)
class Changes:
    """The factors of (node, variant) pairs; see the module's head.

    Attributes:
        node: rows of `Readings`.
        written: rows of `Lines`.
        e: None where no norm follows the MLP.
    """

    node: Int[Tensor, " pairs"]
    written: Int[Tensor, "pairs k"]
    f: Float[Tensor, " pairs"]
    e: Float[Tensor, " pairs"] | None
    h: Float[Tensor, "pairs k"]

    def __getitem__(self, chosen: Tensor) -> Changes:
        e = None if self.e is None else self.e[chosen]
        return Changes(self.node[chosen], self.written[chosen], self.f[chosen], e, self.h[chosen])

    def __len__(self) -> int:
        return len(self.node)


Decision = tuple[Int[Tensor, " pairs"], Bool[Tensor, " pairs"]]  # the token; whether the two best are nearly tied


def candidates_for(vocab: int) -> int:
    """How many of the clean model's best tokens are worth a look before the whole vocabulary is."""
    return max(1, min(CANDIDATES, vocab // 64))
