"""Next tokens of many variants on a CPU: each pair looks at the clean model's best tokens until a bound ends it.

For read-outs without a softcap and without a norm after the MLP; `choice_torch` does the rest.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from neuronlab.kernels.choice_interface import ROUNDING, Changes, Decision, Lines, Readings
from neuronlab.kernels.compiled import inlined, kept
from neuronlab.kernels.interface import KernelError


def decide(lines: Lines, nodes: Readings, changes: Changes, *, tie: float) -> Decision:
    """The token of every pair.

    Args:
        tie: two best logits closer than this are a near tie.

    Raises:
        KernelError: for a read-out with a softcap or a norm after the MLP.
    """
    if nodes.softcap is not None or nodes.m is not None:
        raise KernelError("the numba kernel chooses no tokens under a softcap or behind a norm after the MLP")
    token = np.empty(len(changes), np.int64)
    near = np.empty(len(changes), np.bool_)
    LOOPS[lines.U.dtype](
        *(tensor.numpy() for tensor in (changes.node, changes.written.contiguous(), changes.f, changes.h.contiguous())),
        *(tensor.numpy() for tensor in (nodes.logits, nodes.largest, nodes.best, nodes.top.contiguous(), nodes.b)),
        nodes.b_low,
        nodes.b_high,
        *(tensor.numpy() for tensor in (lines.U, lines.low, lines.high)),
        float(tie),
        ROUNDING,
        token,
        near,
    )
    return torch.from_numpy(token), torch.from_numpy(near)


def _decide(
    node, written, f, h, logits, largest, best, top, b, b_low, b_high, U, low, high, tie, rounding, token, near
):
    """Fill `token` and `near`; see `decide` and `choice_interface`."""
    candidates, vocab, size = top.shape[1], logits.shape[1], h.shape[1]
    changed = np.empty(vocab)
    for i in range(node.size):
        here, kept = node[i], 1 - f[i]
        rise = max(kept * b_low, kept * b_high)
        for n in range(size):
            line = written[i, n]
            rise += max(h[i, n] * low[line], h[i, n] * high[line])
        margin = max(tie, rounding * (1 + abs(f[i]) * largest[here] + abs(rise)))
        first, second, chosen = -math.inf, -math.inf, -1
        done = False
        if f[i] > 0:
            for c in range(candidates):
                v = top[here, c]
                value = f[i] * best[here, c] + kept * b[v]
                for n in range(size):
                    value += h[i, n] * U[written[i, n], v]
                first, second, chosen = _compare(value, v, first, second, chosen, rounding)
                if first - (f[i] * best[here, c + 1] + rise) >= margin:
                    done = True
                    break
        if not done:
            for v in range(vocab):
                changed[v] = f[i] * logits[here, v] + kept * b[v]
            for n in range(size):
                factor, line = h[i, n], U[written[i, n]]
                for v in range(vocab):
                    changed[v] += factor * line[v]
            first, second, chosen = -math.inf, -math.inf, -1
            for v in range(vocab):
                if changed[v] > second:
                    first, second, chosen = _compare(changed[v], v, first, second, chosen, rounding)
        token[i], near[i] = chosen, first - second < tie


@inlined
def _compare(value, v, first, second, chosen, rounding):
    """The two largest logits and the best token, the lowest id among equals, after one more logit."""
    equal = rounding * (1 + abs(value))
    if value > first + equal:
        return value, first, v
    if value >= first - equal:
        return max(value, first), min(value, first), min(v, chosen)
    return first, max(value, second), chosen


# Decoding has its directions in the model's precision, its verification in float64.
LOOPS = {dtype: kept(_decide, str(dtype).removeprefix("torch.")) for dtype in (torch.float32, torch.float64)}
