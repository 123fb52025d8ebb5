"""The kernels that choose tokens against the plain argmax of all logits, and their bound against what it must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.kernels import choice_numba, choice_torch
from neuronlab.kernels.choice_interface import Changes, Lines, Readings
from neuronlab.kernels.interface import KernelError
from torch import Tensor

TIE = 1e-3
NODES, LINES, PAIRS = 3, 7, 40


def make(
    seed: int,
    vocab: int,
    k: int,
    strength: float,
    *,
    mlp: bool = False,
    softcap: float | None = None,
    flipped: bool = True,
    single: bool = False,
) -> tuple[Lines, Readings, Changes]:
    """Random logits, lines and factors; some f are negative, as an extreme synthetic control makes them.

    `single`: lines in float32, as those of many neurons over a large vocabulary are kept.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape))

    m = 2 * draw(NODES, vocab) if mlp else None
    readings = Readings.of_logits(3 * draw(NODES, vocab), draw(vocab), max(1, vocab // 4), m=m, softcap=softcap)
    f = 1 + 0.3 * strength * draw(PAIRS)
    changes = Changes(
        node=torch.from_numpy(rng.integers(0, NODES, PAIRS)),
        written=torch.from_numpy(np.stack([rng.permutation(LINES)[:k] for _ in range(PAIRS)])),
        f=f if flipped else f.abs() + 0.1,
        e=strength * draw(PAIRS) if mlp else None,
        h=strength * draw(PAIRS, k),
    )
    U = draw(LINES, vocab)
    return Lines.of_logits(U.float() if single else U), readings, changes


def plain(lines: Lines, nodes: Readings, changes: Changes) -> Tensor:
    """All logits of all pairs, by the formula."""
    f = changes.f[:, None]
    logits = f * nodes.logits[changes.node] + (1 - f) * nodes.b
    logits += torch.einsum("pk,pkv->pv", changes.h, lines.U[changes.written].double())
    if changes.e is not None and nodes.m is not None:
        logits += changes.e[:, None] * nodes.m[changes.node]
    return nodes.cap(logits)


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "vocab": st.sampled_from([2, 3, 12, 60, 1300]),
        "k": st.integers(0, 6),
        "strength": st.sampled_from([0.0, 1e-3, 0.05, 0.3, 3.0]),
        "single": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_kernels_find_the_argmax_and_the_near_ties_of_all_logits(case):
    lines, nodes, changes = make(**case)
    logits = plain(lines, nodes, changes)
    best = logits.topk(2).values
    for found in (
        choice_torch.decide(lines, nodes, changes, tie=TIE, budget=5000),
        choice_torch.decide_over_all(lines, nodes, changes, tie=TIE, budget=5000),
        choice_numba.decide(lines, nodes, changes, tie=TIE),
    ):
        torch.testing.assert_close(found[0], logits.argmax(1))
        torch.testing.assert_close(found[1], best[:, 0] - best[:, 1] < TIE)


@settings(max_examples=25, deadline=None)
@given(cases, st.sampled_from([None, 4.0]))
def test_torch_kernel_covers_softcaps_and_norms_after_the_mlp(case, softcap):
    lines, nodes, changes = make(**case, mlp=True, softcap=softcap)
    logits = plain(lines, nodes, changes)
    best = logits.topk(2).values
    token, near = choice_torch.decide(lines, nodes, changes, tie=TIE, budget=5000)
    clear = best[:, 0] - best[:, 1] > 1e-9  # a saturated cap makes logits equal
    torch.testing.assert_close(token[clear], logits.argmax(1)[clear])
    torch.testing.assert_close(near, best[:, 0] - best[:, 1] < TIE)


@settings(max_examples=40, deadline=None)
@given(cases, st.integers(1, 15))
def test_bound_decides_no_pair_whose_best_token_is_not_a_candidate(case, candidates):
    lines, nodes, changes = make(**case)
    candidates = min(candidates, nodes.top.shape[1])
    logits = plain(lines, nodes, changes)
    done, token, _ = choice_torch._among(lines, nodes, changes, candidates, TIE)
    torch.testing.assert_close(token[done], logits.argmax(1)[done])
    # What was left out stays below the best by more than a near tie.
    inside = torch.zeros_like(logits, dtype=torch.bool).scatter(1, nodes.top[changes.node, :candidates], True)
    outside = logits.masked_fill(inside, -torch.inf).amax(1)
    assert bool((logits.amax(1) - outside >= TIE)[done].all())


def test_bound_proves_most_small_changes_by_the_clean_token_alone():
    lines, nodes, changes = make(0, 60, 3, 1e-3, flipped=False)
    gap = (nodes.best[:, 0] - nodes.best[:, 1])[changes.node]
    done, token, near = choice_torch._among(lines, nodes, changes, 1, TIE)
    assert bool(done[gap > 0.1].all())
    assert not bool(near[done].any())
    torch.testing.assert_close(token, nodes.top[changes.node, 0])


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_among_equal_logits_the_lowest_id_wins(strength):
    lines, nodes, changes = make(3, 60, 2, strength, flipped=False)
    doubled = torch.arange(60) // 2 * 2  # every even token has a twin
    nodes = Readings.of_logits(nodes.logits[:, doubled], nodes.b[doubled], 15)
    lines = Lines.of_logits(lines.U[:, doubled])
    for token, near in (
        choice_torch.decide(lines, nodes, changes, tie=0.0, budget=1000),
        choice_torch.decide_over_all(lines, nodes, changes, tie=0.0, budget=1000),
        choice_numba.decide(lines, nodes, changes, tie=0.0),
    ):
        torch.testing.assert_close(token, plain(lines, nodes, changes).argmax(1))
        assert bool((token % 2 == 0).all())
        assert not bool(near.any())


def test_numba_kernel_refuses_what_it_does_not_cover():
    lines, nodes, changes = make(0, 12, 2, 0.1, softcap=3.0)
    with pytest.raises(KernelError, match="softcap"):
        choice_numba.decide(lines, nodes, changes, tie=TIE)
