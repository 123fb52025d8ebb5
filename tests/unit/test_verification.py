"""The proof that every run carries: it passes for all architectures, and it does not let a wrong kernel pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from neuronlab import ablation
from neuronlab.activations import measure_activations
from neuronlab.final_states import AblationInputs
from neuronlab.kernels import numba_kernel
from neuronlab.kernels.interface import Effects
from neuronlab.model_files import ModelSpec
from neuronlab.tables import read_provenance, read_table
from neuronlab.verification import STRATA, VerificationError, judge, report, stratified_pairs, verify_ablation
from text_files import write_text


@pytest.fixture(scope="module")
def folders(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of inputs for every architecture."""
    made = {}
    for name, directory in tiny_directories.items():
        folder = made[name] = tmp_path_factory.mktemp(name)
        write_text(folder)
        measure_activations(
            model=ModelSpec(name, "directory", path=str(directory), device="cpu"),
            tokens=folder / "tokens.parquet",
            counts=folder / "counts.parquet",
            statistics=folder / "statistics.parquet",
            baseline=folder / "baseline.parquet",
        )
    return made


def verify(folder: Path, directory: Path, **options: object) -> pl.DataFrame:
    output = folder / "verification.parquet"
    fields = {
        "model": ModelSpec(folder.name, "directory", path=str(directory), device="cpu"),
        "tokens": folder / "tokens.parquet",
        "counts": folder / "counts.parquet",
        "statistics": folder / "statistics.parquet",
        "replacements": ["mean", "zero", "max", "resample"],
        "batch_size": 4,
    }
    own = {name: options.pop(name) for name in list(options) if name in AblationInputs.__dataclass_fields__}
    arguments = {"verification": output, "pairs": 70, "forward_pairs": 14}
    verify_ablation(inputs=AblationInputs(**fields | own), **arguments | options)
    return read_table(output, "verification")


def test_every_architecture_passes(
    folders: dict[str, Path], tiny_directories: dict[str, Path], architecture: str
) -> None:
    """Float32 kernels, the default tolerance, all replacements, both tiers."""
    frame = verify(folders[architecture], tiny_directories[architecture])
    assert frame["passed"].all()
    assert set(frame["tier"]) == {"readout", "forward"}
    assert set(frame["replacement"]) == {"mean", "zero", "max", "resample"}
    assert frame.filter(tier="readout").select("variant", "outcome").n_unique() == 12
    assert frame.filter(tier="forward").select("variant", "outcome").n_unique() == 6
    assert frame.filter(tier="readout", variant="total", outcome="loss").height == 70
    assert frame.filter(tier="forward", variant="total", outcome="loss").height == 14
    assert frame["brute_force"].abs().max() > 0.05
    made_by = read_provenance(folders[architecture] / "verification.parquet")["kernel"]
    assert made_by == ("torch" if architecture == "gemma2" else "numba")


def test_bfloat16_weights(folders: dict[str, Path], tiny_directories: dict[str, Path]) -> None:
    """The forward tier raises the weights to float64, so its two sides see the same numbers."""
    folder = folders["gpt2"]
    model = ModelSpec("gpt2", "directory", path=str(tiny_directories["gpt2"]), device="cpu", dtype="bfloat16")
    assert verify(folder, tiny_directories["gpt2"], model=model)["passed"].all()


@pytest.mark.parametrize("fault", ["scale", "sign", "nan", "direct"])
def test_a_wrong_kernel_stops_the_run(
    folders: dict[str, Path], tiny_directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    right = numba_kernel.effects

    def wrong(*args: object, **options: object) -> Effects:
        found = right(*args, **options)
        if fault == "scale":
            found.entropy[:] *= 1.001
        elif fault == "sign":
            found.loss[:] *= -1
        elif fault == "nan":
            found.kl[:] = np.nan
        else:
            found.loss[1] = found.loss[0]
        return found

    monkeypatch.setattr(ablation.numba_kernel, "effects", wrong)
    folder = folders["llama"]
    (folder / "verification.parquet").unlink(missing_ok=True)
    with pytest.raises(VerificationError, match=r"kernel 'numba' differs .* compute\.kernel"):
        verify(folder, tiny_directories["llama"])
    assert not (folder / "verification.parquet").exists()


def test_the_sample_is_seeded(folders: dict[str, Path], tiny_directories: dict[str, Path]) -> None:
    folder, directory = folders["qwen2"], tiny_directories["qwen2"]
    one, again = (verify(folder, directory, seed=1) for _ in range(2))
    assert one.equals(again)
    assert not verify(folder, directory, seed=2).select("neuron").equals(one.select("neuron"))


def test_no_forward_tier(folders: dict[str, Path], tiny_directories: dict[str, Path]) -> None:
    frame = verify(folders["phi"], tiny_directories["phi"], forward_pairs=0)
    assert set(frame["tier"]) == {"readout"}


def test_strata() -> None:
    """Every stratum is drawn from, the largest pair always is, none twice."""
    size = np.random.default_rng(0).pareto(1.5, (50, 80))
    for seed in range(5):
        token, neuron, stratum = stratified_pairs(size, 40, np.random.default_rng(seed))
        assert len({*zip(token.tolist(), neuron.tolist(), strict=True)}) == len(token) == 38  # the last holds but four
        assert set(stratum) == set(range(len(STRATA)))
        assert size[token, neuron].max() == size.max()
        order = np.argsort(size[token, neuron])
        assert (np.diff(stratum[order]) >= 0).all()


def test_equal_sizes_make_one_stratum() -> None:
    token, neuron, _ = stratified_pairs(np.zeros((3, 4)), 14, np.random.default_rng(0))
    assert 0 < len(token) <= 12
    assert len({*zip(token.tolist(), neuron.tolist(), strict=True)}) == len(token)


def test_missing_numbers_do_not_pass() -> None:
    frame = pl.DataFrame(
        {
            "tier": ["readout"] * 3, "variant": ["total"] * 3, "outcome": ["loss"] * 3, "neuron": [0, 1, 2],
            "layer": [1] * 3, "replacement": ["mean"] * 3, "sequence": [0] * 3, "position": [5] * 3,
            "closed_form": [1.0, float("nan"), 2.0], "brute_force": [1.0 + 1e-6, 1.0, 2.0 + 3e-5],
        }
    )  # fmt: skip
    judged = judge(frame, 1e-6, 1e-5)
    assert judged["passed"].to_list() == [True, False, False]
    with pytest.raises(VerificationError, match="2 of 3"):
        report(judged, "numba")
