"""What activations are replaced by: the parser, the values, the donors."""

from __future__ import annotations

import numpy as np
import pytest
from neuronlab.replacements import (
    ActivationStatistics,
    ReplacementError,
    draw_donors,
    parse_replacement,
    parse_replacements,
)


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("mean", "mean", 0), ("zero", "constant", 0), ("median", "median", 0), ("mode", "mode", 0), ("min", "min", 0),
        ("max", "max", 0), ("mean-3sd", "deviations", -3), ("mean+0.5sd", "deviations", 0.5),
        ("constant:1.5", "constant", 1.5), ("constant:-2e-3", "constant", -2e-3), ("position_mean", "position_mean", 0),
        ("resample", "resample", 0),
    ],
)  # fmt: skip
def test_parsing(name: str, kind: str, number: float) -> None:
    parsed = parse_replacement(name)
    assert (parsed.name, parsed.kind, parsed.number) == (name, kind, number)


@pytest.mark.parametrize(
    "name", ["", "Mean", "mean 3sd", "mean-sd", "mean*2sd", "constant", "constant:x", "constant:nan"]
)
def test_what_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(ReplacementError, match=r"ablation\.replacements"):
        parse_replacement(name)


def test_lists_of_replacements() -> None:
    with pytest.raises(ReplacementError, match="empty"):
        parse_replacements([])
    with pytest.raises(ReplacementError, match="twice"):
        parse_replacements(["mean", "mean"])


def test_values() -> None:
    statistics = ActivationStatistics(
        mean=np.array([1.0, 2.0]), sd=np.array([1.0, 0.1]), median=np.array([0.5, 2.0]), mode=np.array([0.0, 2.1]),
        min=np.array([-1.0, 1.8]), max=np.array([5.0, 2.2]), position_means=np.array([[np.nan, 3.0], [np.nan, 4.0]]),
    )  # fmt: skip

    def values(name: str, donated: np.ndarray | None = None) -> list:
        return statistics.values(parse_replacement(name), np.array([1]), donated)[0].tolist()

    assert values("mean") == [1, 2]
    assert values("zero") == [0, 0]
    assert values("mode") == [0, 2.1]
    assert values("mean-3sd") == [-1, 1.8]  # both clipped to the observed range
    assert values("mean+2sd") == pytest.approx([3, 2.2])
    assert values("constant:7") == [7, 7]  # a constant is what it says, observed or not
    assert values("position_mean") == [3, 4]
    assert values("resample", np.array([[8.0, 9.0]])) == [8, 9]
    with pytest.raises(ReplacementError, match="position has no mean"):
        statistics.values(parse_replacement("position_mean"), np.array([0]))
    with pytest.raises(ReplacementError, match="donor"):
        values("resample")


@pytest.mark.parametrize("sequences", [1, 2, 7])
def test_donors_are_other_counted_positions(sequences: int) -> None:
    counted = np.random.default_rng(1).random((sequences, 30)) < 0.5
    if sequences == 7:
        counted[3] = False
    donors = draw_donors(counted, seed=5)
    for s, t in zip(*np.nonzero(counted), strict=True):
        other = donors.sequence[s], donors.position[s, t]
        assert counted[other]
        assert other != (s, t)
    again = draw_donors(counted, seed=5)
    assert np.array_equal(again.position, donors.position)
    assert not np.array_equal(draw_donors(counted, seed=6).position, donors.position)
