"""The kernels against brute force: shapes and scales drawn at random, ties, overflow, nothing at all, threads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.kernels import brute_force, interface, numba_kernel, torch_kernel
from neuronlab.kernels.arithmetic import exp2m1, ordered
from neuronlab.kernels.interface import Coefficients, Effects, KernelError, Reference
from neuronlab.readout import Readout, fold
from numba import njit

VARIANTS = brute_force.VARIANTS
RANKED = (0, 1, 3)
KERNELS = [(numba_kernel, torch.float32), (torch_kernel, torch.float32), (torch_kernel, torch.float64)]


@dataclass(frozen=True)
class Case:
    """A random read-out with neurons, tokens and replacements, all float64."""

    readout: Readout
    residual: torch.Tensor
    w: torch.Tensor
    delta: torch.Tensor
    targets: torch.Tensor
    reference: Reference

    def coefficients(self) -> Coefficients:
        """The four variants, written out here from the norm's definition."""
        x, w = self.readout.centre(self.residual), self.readout.centre(self.w)
        after = x[:, None] + self.delta[..., None] * w
        inverse = 1 / self.readout.scale(self.residual)
        inverse_after = 1 / (after.square().mean(-1) + self.readout.eps).sqrt()
        change, zero = inverse_after - inverse, torch.zeros_like(inverse_after)
        return Coefficients(
            A=torch.stack([change, zero, change, change]),
            B=torch.stack([self.delta * inverse_after, self.delta * inverse, zero, self.delta * inverse_after]),
            frozen=(False, False, False, True),
        )

    def run(self, kernel: ModuleType, dtype: torch.dtype, **options: object) -> Effects:
        clean = interface.clean_state(self.readout, self.residual, self.targets, reference=self.reference, dtype=dtype)
        lines = interface.directions(self.readout, self.w, reference=self.reference, dtype=dtype)
        return kernel.effects(clean, lines, self.coefficients(), reference=self.reference, ranked=RANKED, **options)

    def brute_force(self) -> Effects:
        """Arrays [variants, tokens, neurons] by the oracle."""
        tokens, neurons = self.delta.shape
        flat = brute_force.pair_effects(
            self.readout,
            self.residual.repeat_interleave(neurons, 0),
            self.w.repeat(tokens, 1),
            self.delta.flatten(),
            self.targets.repeat_interleave(neurons),
            reference=self.reference,
        )
        shape = (len(VARIANTS), tokens, neurons)
        return Effects(*(getattr(flat, name).reshape(shape) for name in Effects.__dataclass_fields__))


def make(
    seed: int,
    *,
    tokens: int = 5,
    neurons: int = 9,
    d: int = 16,
    vocab: int = 300,
    kind: str = "LN",
    sharpness: float = 3.0,
    size: float = 1.0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    bias = draw(d) * 0.1 if kind == "LN" else None
    readout = fold(
        draw(d, vocab) * sharpness / math.sqrt(d),
        0.3 * draw(vocab),
        1 + 0.1 * draw(d),
        bias,
        eps=1e-5,
        kind=kind,
        dtype=torch.float64,
    )
    q = torch.softmax(2 * draw(vocab), 0)
    direction = q.log() - q.log().mean()
    return Case(
        readout=readout,
        residual=3 * draw(tokens, d),
        w=size * draw(neurons, d),
        delta=draw(tokens, neurons),
        targets=torch.randint(0, vocab, (tokens,), generator=generator),
        reference=Reference(q, direction / direction.norm()),
    )


def assert_close(got: Effects, expected: Effects, *, rounding: float = 1.0) -> None:
    for name in ("loss", "entropy", "kl"):
        value, oracle = getattr(got, name), getattr(expected, name)
        tolerance = rounding * (1e-6 + 1e-5 * np.abs(oracle))
        assert np.isfinite(value).all()
        assert (np.abs(value - oracle) <= tolerance).all(), f"{name}: {np.max(np.abs(value - oracle) / tolerance)}"


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 6),
    neurons=st.sampled_from([1, 3, 64, 65, 130]),
    vocab=st.sampled_from([2, 17, 300, 2048, 2049]),
    kind=st.sampled_from(["LN", "RMS"]),
    size=st.sampled_from([1e-4, 1e-2, 0.3, 1.0]),
)
def test_effects_equal_brute_force(
    kernel: ModuleType, dtype: torch.dtype, seed: int, tokens: int, neurons: int, vocab: int, kind: str, size: float
) -> None:
    case = make(seed, tokens=tokens, neurons=neurons, vocab=vocab, kind=kind, size=size)
    assert_close(case.run(kernel, dtype), case.brute_force(), rounding=1e-6 if dtype == torch.float64 else 1.0)


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_tiny_effects_keep_their_digits(kernel: ModuleType, dtype: torch.dtype) -> None:
    """Effects of 1e-6: differences of losses in float32 would be all noise."""
    case = make(1, size=1e-6, vocab=3000)
    got, expected = case.run(kernel, dtype), case.brute_force()
    for name in ("loss", "entropy", "kl"):
        oracle = getattr(expected, name)
        assert 0 < np.abs(oracle).max() < 1e-4
        np.testing.assert_allclose(getattr(got, name), oracle, rtol=1e-4, atol=1e-11)


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
@pytest.mark.parametrize("sharpness", [10.0, 40.0])
def test_changes_that_overflow_float32(kernel: ModuleType, dtype: torch.dtype, sharpness: float) -> None:
    """Logit changes of 20 to several hundred: beside the tolerance, the rounding of a float32 of that size."""
    case = make(2, size=100.0, sharpness=sharpness)
    got, expected = case.run(kernel, dtype), case.brute_force()
    largest = np.abs(expected.loss).max()
    assert largest > 20
    for name in ("loss", "entropy", "kl"):
        error = np.abs(getattr(got, name) - getattr(expected, name))
        assert (error <= 1e-6 + 1e-5 * np.abs(getattr(expected, name)) + 1e-7 * largest).all()


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_no_change_has_exactly_no_effect(kernel: ModuleType, dtype: torch.dtype) -> None:
    case = make(3)
    case.delta.zero_()
    got = case.run(kernel, dtype)
    for name in ("loss", "entropy", "kl"):
        assert (getattr(got, name) == 0).all()
    clean = interface.clean_state(case.readout, case.residual, case.targets)
    assert (got.rank == clean.rank.numpy()[None, :, None]).all()
    assert (got.prediction == clean.prediction.numpy()[None, :, None]).all()


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
def test_ranks_and_predictions(kernel: ModuleType, dtype: torch.dtype, size: float) -> None:
    """Equal to the oracle's, but for tokens whose logits lie within rounding of the target's."""
    case = make(4, size=size, vocab=5000, tokens=12)
    got, expected = case.run(kernel, dtype), case.brute_force()
    wrong = np.abs(got.rank - expected.rank[list(RANKED)])
    assert wrong.max() <= (0 if dtype == torch.float64 else 1)
    assert (wrong > 0).mean() < 0.01
    assert (got.prediction == expected.prediction[list(RANKED)]).all()


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_equal_logits_are_not_above_the_target(kernel: ModuleType, dtype: torch.dtype) -> None:
    """Every token occurs three times in the vocabulary: a rank is a multiple of 3, the prediction the lowest id."""
    case = make(5, vocab=40, size=0.5)
    third = fold(
        case.readout.W.repeat(1, 3),
        case.readout.b.repeat(3),
        torch.ones(16),
        None,
        eps=1e-5,
        kind="LN",
        dtype=torch.float64,
    )
    # Columns exactly equal, whatever the order in which means were summed.
    W = third.W[:, :40].repeat(1, 3)
    readout = Readout(W, third.b[:40].repeat(3), 1e-5, "LN", None, True, torch.ones(120, dtype=torch.bool))
    q = torch.full((120,), 1 / 120, dtype=torch.float64)
    g = torch.zeros(120, dtype=torch.float64)
    g[:3], g[3:6] = 1, -1
    tied = Case(readout, case.residual, case.w, case.delta, case.targets + 80, Reference(q, torch.zeros_like(g)))
    got = tied.run(kernel, dtype)
    # Three times the rank among the 40, where nothing is tied: the target's own copies are not above it.
    once = Readout(W[:, :40], third.b[:40], 1e-5, "LN", None, True, readout.real[:40])
    few = Case(once, case.residual, case.w, case.delta, case.targets, Reference(3 * q[:40], torch.zeros_like(g[:40])))
    assert (got.rank == 3 * few.brute_force().rank[list(RANKED)]).all()
    assert (got.prediction < 40).all()


def test_threads_change_no_bit() -> None:
    case = make(6, neurons=200, vocab=4000)
    one, three = case.run(numba_kernel, torch.float32, threads=1), case.run(numba_kernel, torch.float32, threads=3)
    for name in Effects.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(three, name))


def test_a_token_alone_gives_the_same_bits() -> None:
    """Results do not depend on what else is in the chunk."""
    case = make(7, neurons=70, vocab=3000)
    whole = case.run(numba_kernel, torch.float32)
    alone = Case(
        case.readout, case.residual[2:3], case.w[5:6], case.delta[2:3, 5:6], case.targets[2:3], case.reference
    ).run(numba_kernel, torch.float32)
    # The matrix product before the kernel may round differently for other shapes: 1e-9, not bits.
    np.testing.assert_allclose(alone.entropy[:, 0, 0], whole.entropy[:, 2, 5], rtol=1e-5, atol=1e-9)


def test_budget_changes_no_result() -> None:
    case = make(8, neurons=20)
    large, small = (case.run(torch_kernel, torch.float64, budget=budget) for budget in (2**30, 1))
    np.testing.assert_allclose(large.loss, small.loss, rtol=0, atol=1e-14)
    assert np.array_equal(large.rank, small.rank)


def test_the_kl_identity() -> None:
    """dKL(q || p) for q the clean distribution itself is KL(p || p'), which cannot be negative."""
    case = make(9, tokens=1)
    p = case.readout.logits(case.residual)[0].softmax(-1)
    own = Case(
        case.readout, case.residual, case.w, case.delta, case.targets, Reference(p, case.reference.direction)
    ).run(numba_kernel, torch.float32)
    assert (own.kl >= -1e-7).all()
    assert (own.kl > 1e-3).any()


@pytest.mark.parametrize("y", [-80.0, -3.2, -0.5, -1e-3, -1e-8, 0.0, 1e-8, 1e-3, 0.49999, 0.50001, 7.7, 80.0])
def test_polynomial(y: float) -> None:
    single = float(np.float32(y))
    expected = math.expm1(single * math.log(2))
    assert exp2m1(np.float32(y)) == pytest.approx(expected, rel=3e-7, abs=0)


@given(x=st.floats(width=32, allow_nan=False), y=st.floats(width=32, allow_nan=False))
@settings(deadline=None)
def test_ordered_integers(x: float, y: float) -> None:
    if x < y:
        assert _ordered(np.float32(x)) < _ordered(np.float32(y))


@njit
def _ordered(x: np.float32) -> np.int32:
    return ordered(x)


def test_input_that_does_not_fit_is_refused() -> None:
    case = make(10)
    clean = interface.clean_state(case.readout, case.residual, case.targets, reference=case.reference)
    lines = interface.directions(case.readout, case.w, reference=case.reference)
    coefficients = case.coefficients()
    for kernel in (numba_kernel, torch_kernel):
        with pytest.raises(KernelError, match="needs a reference"):
            kernel.effects(clean, lines, coefficients)
        with pytest.raises(KernelError, match="coefficient A has shape"):
            kernel.effects(
                clean,
                lines,
                Coefficients(coefficients.A[:, :2], coefficients.B, coefficients.frozen),
                reference=case.reference,
            )
        with pytest.raises(KernelError, match="ranks asked"):
            kernel.effects(clean, lines, coefficients, reference=case.reference, ranked=(7,))
    with pytest.raises(KernelError, match="takes float32"):
        case.run(numba_kernel, torch.float64)
    with pytest.raises(KernelError, match="outside the vocabulary"):
        interface.clean_state(case.readout, case.residual, case.targets + 10_000)


@pytest.mark.parametrize("nats", [0.2, 5.0, 20.0, 27.0, 28.0, 45.0, 54.0, 56.0, 200.0])
def test_a_change_that_turns_the_distribution_over(nats: float) -> None:
    """All mass on a token that the change takes down, as far as the others go up: twice the bound on |D| in between."""
    vocab = 100
    logits = torch.zeros(1, vocab, dtype=torch.float64)
    logits[0, 0] = 60.0
    lp = logits.log_softmax(-1)
    p = lp.exp()
    u = torch.linspace(0.9, 1.0, vocab, dtype=torch.float64)[None]
    u[0, 0] = -1.0
    u = u.float().double()
    zero, target = torch.zeros(1, vocab, dtype=torch.float64), torch.tensor([3])
    entropy = torch.special.entr(p).sum(-1)
    clean = interface.Clean(
        z=zero.float(), lp=lp.float(), p=p.float(), targets=target, loss=-lp[:, 3], entropy=entropy, kl=zero[:, 0],
        rank=target, prediction=target,
    )  # fmt: skip
    factor = torch.full((1, 1, 1), nats, dtype=torch.float64)
    got = numba_kernel.effects(
        clean, interface.from_logits(u), Coefficients(torch.zeros_like(factor), factor, (False,)), ranked=(0,)
    )
    after = (logits + nats * u).log_softmax(-1)
    assert got.loss.item() == pytest.approx(float(lp[0, 3] - after[0, 3]), rel=1e-6, abs=1e-6)
    assert got.entropy.item() == pytest.approx(float(-(after.exp() * after).sum() - entropy), rel=1e-5, abs=1e-5)
    assert got.prediction.item() == after.argmax()
    assert got.rank.item() == (after > after[0, 3]).sum()
