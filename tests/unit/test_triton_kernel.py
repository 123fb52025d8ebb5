"""The fused kernel for GPUs against brute force, by Triton's interpreter.

With TRITON_INTERPRET=0 on a machine with a GPU the same tests run there.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.ablation_shards import ablate_neurons
from neuronlab.activations import measure_activations
from neuronlab.final_states import AblationInputs
from neuronlab.kernels import interface, torch_kernel
from neuronlab.kernels.interface import Coefficients, Directions, Effects, KernelError, Reference
from neuronlab.model_files import ModelSpec
from neuronlab.readout import Readout, fold
from neuronlab.tables import read_provenance, read_table
from test_kernels import RANKED, Case, assert_close, make
from text_files import write_text

triton = pytest.importorskip("triton", reason="Triton, which runs the fused kernel, is not installed")
INTERPRETED = triton.knobs.runtime.interpret
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

from neuronlab.kernels import triton_kernel  # noqa: E402 (needs triton)

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


def moved(value: object) -> object:
    """Tensors in a dataclass on the device of these tests."""
    if value is None:
        return None
    there = {field.name: getattr(value, field.name) for field in fields(value)}
    return replace(value, **{name: x.to(DEVICE) for name, x in there.items() if isinstance(x, torch.Tensor)})


def inputs(case: Case) -> tuple[interface.Clean, Directions, Coefficients]:
    clean = interface.clean_state(case.readout, case.residual, case.targets, reference=case.reference)
    lines = interface.directions(case.readout, case.w, reference=case.reference)
    return clean, lines, case.coefficients()


def run(
    clean: interface.Clean,
    lines: Directions,
    coefficients: Coefficients,
    *,
    reference: Reference | None = None,
    ranked: tuple[int, ...] = RANKED,
    **options: int,
) -> Effects:
    clean, lines, coefficients, reference = (moved(x) for x in (clean, lines, coefficients, reference))
    return triton_kernel.effects(clean, lines, coefficients, reference=reference, ranked=ranked, **options)


def run_case(case: Case, **options: int) -> Effects:
    return run(*inputs(case), reference=case.reference, **options)


def huge(case: Case) -> torch.Tensor:
    """Triples that the loops leave to the torch kernel."""
    clean, lines, coefficients, reference = (moved(x) for x in (*inputs(case), case.reference))
    return triton_kernel._change(clean, lines, coefficients, reference, list(coefficients.frozen)).huge


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 3),
    neurons=st.sampled_from([1, 3, 8, 17]),
    vocab=st.sampled_from([2, 63, 64, 300, 2048, 2100]),
    kind=st.sampled_from(["LN", "RMS"]),
    size=st.sampled_from([1e-4, 1e-2, 0.3, 1.0]),
)
def test_effects_equal_brute_force(seed: int, tokens: int, neurons: int, vocab: int, kind: str, size: float) -> None:
    """The four variants, one of them frozen, at sizes that fill no tile."""
    case = make(seed, tokens=tokens, neurons=neurons, vocab=vocab, kind=kind, size=size)
    assert_close(run_case(case), case.brute_force())


def test_tiny_effects_keep_their_digits() -> None:
    case = make(1, size=1e-6, vocab=3000, tokens=2)
    got, expected = run_case(case), case.brute_force()
    for name in ("loss", "entropy", "kl"):
        oracle = getattr(expected, name)
        assert 0 < np.abs(oracle).max() < 1e-4
        np.testing.assert_allclose(getattr(got, name), oracle, rtol=1e-4, atol=1e-11)


@pytest.mark.parametrize(("size", "sharpness"), [(6.0, 6.0), (100.0, 10.0), (100.0, 40.0)])
@pytest.mark.parametrize("budget", [1, 2**28])
def test_changes_that_overflow_float32(size: float, sharpness: float, budget: int) -> None:
    """Some triples by the loops, others by the torch kernel; a float32's rounding at that size beside the tolerance."""
    case = make(2, size=size, sharpness=sharpness, tokens=3, vocab=300)
    assert 0.02 < huge(case).double().mean() <= 1
    got, expected = run_case(case, budget=budget), case.brute_force()
    largest = np.abs(expected.loss).max()
    for name in ("loss", "entropy", "kl"):
        error = np.abs(getattr(got, name) - getattr(expected, name))
        assert (error <= 1e-6 + 1e-5 * np.abs(getattr(expected, name)) + 1e-7 * largest).all()
    assert np.array_equal(got.rank, expected.rank[list(RANKED)])
    assert np.array_equal(got.prediction, expected.prediction[list(RANKED)])


def test_both_ways_occur_in_one_call() -> None:
    share = huge(make(2, size=6.0, sharpness=6.0, tokens=3)).double().mean()
    assert 0.02 < share < 0.98


@pytest.mark.parametrize("nats", [0.2, 5.0, 20.0, 27.0, 28.0, 54.0, 56.0, 200.0])
def test_a_change_that_turns_the_distribution_over(nats: float) -> None:
    """All mass on a token that goes down as far as the others go up: centred, |D| is twice its bound."""
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
    factors = Coefficients(torch.zeros_like(factor), factor, (False,))
    got = run(clean, interface.from_logits(u), factors, ranked=(0,))
    after = (logits + nats * u).log_softmax(-1)
    assert got.loss.item() == pytest.approx(float(lp[0, 3] - after[0, 3]), rel=1e-6, abs=1e-6)
    assert got.entropy.item() == pytest.approx(float(-(after.exp() * after).sum() - entropy), rel=1e-5, abs=1e-5)
    assert got.prediction.item() == after.argmax()
    assert got.rank.item() == (after > after[0, 3]).sum()
    assert got.kl.item() == 0


def test_no_change_has_exactly_no_effect() -> None:
    case = make(3)
    case.delta.zero_()
    got = run_case(case)
    for name in ("loss", "entropy", "kl"):
        assert (getattr(got, name) == 0).all()
    clean = interface.clean_state(case.readout, case.residual, case.targets)
    assert (got.rank == clean.rank.numpy()[None, :, None]).all()
    assert (got.prediction == clean.prediction.numpy()[None, :, None]).all()


@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
def test_ranks_and_predictions(size: float) -> None:
    """Equal to the oracle's, but for tokens whose logits lie within rounding of the target's."""
    case = make(4, size=size, vocab=2500, tokens=4)
    got, expected = run_case(case), case.brute_force()
    wrong = np.abs(got.rank - expected.rank[list(RANKED)])
    assert len(np.unique(got.rank)) > 5
    assert wrong.max() <= 1
    assert (wrong > 0).mean() < 0.01
    assert (got.prediction == expected.prediction[list(RANKED)]).all()


@pytest.mark.parametrize(("size", "vocab"), [(0.5, 90), (0.5, 64), (300.0, 90)])
def test_equal_logits_are_not_above_the_target(size: float, vocab: int) -> None:
    """Every token three times, at the same place of tiles (64) or another: ranks in threes, the lowest id on top."""
    case = make(5, vocab=vocab, size=size)
    W = case.readout.W.repeat(1, 3)
    readout = Readout(W, case.readout.b.repeat(3), 1e-5, "LN", None, True, torch.ones(3 * vocab, dtype=torch.bool))
    q, g = torch.full((3 * vocab,), 1 / (3 * vocab), dtype=torch.float64), torch.zeros(3 * vocab, dtype=torch.float64)
    for targets in (case.targets, case.targets + vocab, case.targets + 2 * vocab):
        tied = Case(readout, case.residual, case.w, case.delta, targets, Reference(q, g))
        clean, lines, coefficients = inputs(tied)
        # Exactly equal, whatever the order in which a product was summed.
        clean = replace(clean, **{name: getattr(clean, name)[:, :vocab].repeat(1, 3) for name in ("z", "lp", "p")})
        got = run(clean, replace(lines, U=lines.U[:, :vocab].repeat(1, 3)), coefficients, reference=tied.reference)
        assert (got.rank % 3 == 0).all()
        assert (got.rank > 0).any()
        assert (got.prediction < vocab).all()
        assert np.array_equal(got.prediction, tied.brute_force().prediction[list(RANKED)] % vocab)


@pytest.mark.parametrize("size", [1.0, 6.0])
def test_directions_of_each_tokens_own(size: float) -> None:
    """The same neurons in another order for every token; the loops alone, and together with the torch kernel."""
    case = make(6, size=size, sharpness=6.0, tokens=3, neurons=5)
    clean, lines, factors = inputs(case)
    order = torch.stack([torch.arange(5).roll(t) for t in range(3)])
    # Rows that are not one after the other in memory, as slices of larger arrays are.
    U = torch.stack([lines.U[order], -lines.U[order]], 2)[:, :, 0]
    A, B = (x.gather(2, order.expand(4, -1, -1)) for x in (factors.A, factors.B))
    own = Directions(U, lines.dot_g[order], lines.dot_q[order])
    got = run(clean, own, replace(factors, A=A, B=B), reference=case.reference)
    found = case.brute_force()
    everything = {name: getattr(found, name) for name in Effects.__dataclass_fields__}
    index = order[None].expand(4, -1, -1).numpy()
    expected = Effects(**{name: np.take_along_axis(x, index, 2) for name, x in everything.items()})
    assert np.array_equal(got.rank, expected.rank[list(RANKED)])
    assert np.array_equal(got.prediction, expected.prediction[list(RANKED)])
    assert_close(got, expected)


@pytest.mark.parametrize("size", [1.0, 12.0])
def test_many_variants_in_any_order(size: float) -> None:
    """More than one launch takes, ranks of some in another order and of one twice: as each variant by itself."""
    case = make(7, tokens=2, neurons=4, size=size, sharpness=6.0)
    assert huge(case).any() == (size > 1)
    clean, lines, factors = inputs(case)
    order, ranked = [3, 0, 2, 1, 0, 3, 1], (5, 1, 6, 1)
    many = Coefficients(factors.A[order], factors.B[order] * 0.7, tuple(factors.frozen[v] for v in order))
    got = run(clean, lines, many, reference=case.reference, ranked=ranked)
    for place, v in enumerate(order):
        alone = Coefficients(factors.A[v][None], factors.B[v][None] * 0.7, (factors.frozen[v],))
        expected = run(clean, lines, alone, reference=case.reference, ranked=(0,))
        for name in ("loss", "entropy", "kl"):
            ours, theirs = getattr(got, name)[place], getattr(expected, name)[0]
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
        for i in [i for i, other in enumerate(ranked) if other == place]:
            assert np.array_equal(got.rank[i], expected.rank[0])
            assert np.array_equal(got.prediction[i], expected.prediction[0])


@pytest.mark.parametrize(("tokens", "neurons"), [(0, 3), (2, 0)])
def test_nothing_gives_nothing(tokens: int, neurons: int) -> None:
    got = run_case(make(8, tokens=tokens, neurons=neurons))
    assert got.loss.shape == (4, tokens, neurons)
    assert got.rank.shape == (len(RANKED), tokens, neurons)


def test_without_a_reference_and_without_ranks() -> None:
    case = make(9, tokens=2)
    clean, lines, factors = inputs(case)
    plain = Coefficients(factors.A[:3], factors.B[:3], (False,) * 3)
    got, expected = run(clean, lines, plain, ranked=()), case.brute_force()
    assert got.rank is None
    assert got.prediction is None
    assert (got.kl == 0).all()
    np.testing.assert_allclose(got.loss, expected.loss[:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_calls_go_to_the_torch_kernel(dtype: torch.dtype) -> None:
    """Under a softcap, or in float64."""
    case = make(10, vocab=50)
    capped = fold(case.readout.W, case.readout.b, torch.ones(16), None, eps=1e-5, kind="RMS", softcap=5.0)
    readout = capped if dtype == torch.float32 else case.readout
    clean = interface.clean_state(readout, case.residual, case.targets, reference=case.reference, dtype=dtype)
    lines = interface.directions(readout, case.w, reference=case.reference, dtype=dtype)
    got = run(clean, lines, case.coefficients(), reference=case.reference)
    expected = torch_kernel.effects(clean, lines, case.coefficients(), reference=case.reference, ranked=RANKED)
    for name in Effects.__dataclass_fields__:
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-6, atol=1e-7)


def test_input_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, lines, coefficients = inputs(make(11))
    with pytest.raises(KernelError, match="needs a reference"):
        run(clean, lines, coefficients)
    with pytest.raises(KernelError, match="coefficient A has shape"):
        run(clean, lines, replace(coefficients, A=coefficients.A[:, :2]), reference=make(11).reference)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(KernelError, match="CUDA device, not on cpu"):
        triton_kernel.effects(clean, lines, replace(coefficients, frozen=(False,) * 4))


def test_the_rule_gives_the_sums_of_the_numba_kernel(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    write_text(tmp_path)
    files = {name: tmp_path / f"{name}.parquet" for name in ("tokens", "counts", "statistics")}
    spec = ModelSpec("tiny", "directory", path=str(tiny_directories["gpt2"]), device=DEVICE.type)
    measure_activations(model=spec, **files, baseline=tmp_path / "baseline.parquet", batch_size=4)
    found = {}
    for kernel in ("numba", "triton"):
        output = tmp_path / f"{kernel}.parquet"
        ablate_neurons(inputs=AblationInputs(spec, **files, kernel=kernel), output=output, shard=0, shards=6)
        found[kernel] = read_table(output, "ablation_shard")
        assert read_provenance(output)["kernel"] == kernel or kernel == "numba"
    assert len(found["numba"]) > 40
    for name, column in found["numba"].to_dict(as_series=False).items():
        ours = found["triton"][name].to_list()
        if name in ("replacement", "document", "layer", "neuron", "n_tokens"):
            assert ours == column
        else:
            np.testing.assert_allclose(ours, column, rtol=1e-4, atol=2e-6, err_msg=name)
