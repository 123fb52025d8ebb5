"""Scores against naive code and scikit-learn, temperatures against a minimiser, synthetic data with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neuronlab.calibration import Calibrated, calibrate, halves, scores
from neuronlab.calibration_tables import CLEAN, Documents, calibration_error, calibration_frames, equal_mass_bins
from neuronlab.kernels.interface import Clean
from neuronlab.neuron_sets import NeuronSet
from neuronlab.schemas import SCHEMAS
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn import metrics
from sklearn.calibration import calibration_curve

TOKENS, VOCAB = 4000, 12
SETS = [CLEAN, NeuronSet("sharp", "selection", None, (1, 2)), NeuronSet("sharp/flat", "uniform", "sharp", (3, 4))]


def true_model(tokens: int = TOKENS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and next tokens drawn from them: calibrated by construction."""
    generator = np.random.default_rng(seed)
    lp = log_softmax(2 * generator.standard_normal((tokens, VOCAB)), -1)
    targets = (generator.random(tokens)[:, None] > np.exp(lp).cumsum(-1)).sum(-1).clip(0, VOCAB - 1)
    return lp, targets


def passes_of(lp: np.ndarray, targets: np.ndarray, factors: tuple[float, ...]):
    """Passes in which set s scales the log-probabilities by factors[s]; in chunks."""

    def sweep():
        for start in range(0, len(lp), 700):
            part = slice(start, min(start + 700, len(lp)))
            x = torch.from_numpy(lp[part])
            zeros, ids = torch.zeros(len(x), dtype=torch.float64), torch.from_numpy(targets[part])
            D = torch.stack([(factor - 1) * x for factor in factors], 1)
            yield part, Clean(x, x, x.exp(), ids, zeros, zeros, zeros, ids, ids), D

    return sweep


def documents_of(tokens: int, documents: int = 40, resamples: int = 300) -> Documents:
    return Documents.of(np.sort(np.arange(tokens) % documents), resamples, 0.95, 0)


def calibrated(factors: tuple[float, ...]) -> tuple[Calibrated, np.ndarray, np.ndarray, Documents, np.ndarray]:
    lp, targets = true_model()
    documents = documents_of(TOKENS)
    half = halves(len(documents.counts), 0)[documents.row]
    return calibrate(passes_of(lp, targets, factors), half, len(factors)), lp, targets, documents, half


def test_scores_equal_naive_ones() -> None:
    lp, targets = true_model(200)
    tensor = torch.from_numpy(lp)[:, None]
    found = {name: values[:, 0] for name, values in scores(tensor, tensor.exp(), torch.from_numpy(targets)).items()}
    p, right = np.exp(lp), np.eye(VOCAB)[targets]
    np.testing.assert_allclose(found["brier"], ((p - right) ** 2).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(found["confidence"], p.max(-1), rtol=1e-12)
    labels = list(range(VOCAB))
    assert found["nll"].mean() == pytest.approx(metrics.log_loss(targets, p, labels=labels), rel=1e-10)
    assert found["right"].mean() == metrics.accuracy_score(targets, p.argmax(-1))


def test_bins_hold_equal_mass_and_ties_stay_in_order() -> None:
    confidence = np.array([0.5, 0.9, 0.5, 0.5, 0.1, 0.5, 0.7])
    assert equal_mass_bins(confidence, 3).tolist() == [0, 2, 0, 1, 0, 1, 2]
    bins = equal_mass_bins(np.random.default_rng(0).random(103), 10)
    assert set(np.bincount(bins)) == {10, 11}


def test_calibration_error_equals_naive_code() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.random(500)
    right = (generator.random(500) < confidence**2).astype(float)
    found, rows = calibration_error(confidence, right, 10, documents_of(500, 20))
    order = np.argsort(confidence)
    chunks = np.array_split(order, 10)
    naive = sum(len(c) / 500 * abs(confidence[c].mean() - right[c].mean()) for c in chunks)
    assert found.estimate == pytest.approx(naive, rel=1e-10)
    np.testing.assert_allclose(rows["accuracy"], [right[c].mean() for c in chunks])
    np.testing.assert_allclose(rows["confidence"], [confidence[c].mean() for c in chunks])
    assert rows["n_tokens"].to_list() == [50] * 10
    assert (rows["accuracy_low"] <= rows["accuracy"]).all()


def test_calibration_curve_of_sklearn() -> None:
    generator = np.random.default_rng(2)
    confidence = generator.random(1000)
    right = (generator.random(1000) < confidence).astype(float)
    _, rows = calibration_error(confidence, right, 8, documents_of(1000))
    accuracy, mean = calibration_curve(right, confidence, n_bins=8, strategy="quantile")
    np.testing.assert_allclose(rows["accuracy"], accuracy, atol=1e-12)
    np.testing.assert_allclose(rows["confidence"], mean, atol=1e-12)


def test_the_interval_of_the_error_resamples_documents() -> None:
    """Against resampling the tokens themselves, document by document, in the bins of all data."""
    generator = np.random.default_rng(4)
    confidence = generator.random(300)
    right = (generator.random(300) < confidence**2).astype(float)
    documents = documents_of(300, 10, 50)
    found, _ = calibration_error(confidence, right, 5, documents)
    place, values = equal_mass_bins(confidence, 5), []
    for draw in documents.weights:
        tokens = np.concatenate([np.tile(np.flatnonzero(documents.row == d), int(n)) for d, n in enumerate(draw)])
        gap = (confidence - right)[tokens]
        values.append(sum(abs(gap[place[tokens] == b].sum()) for b in range(5)) / len(tokens))
    np.testing.assert_allclose(found.resamples, values)
    columns = documents.columns("ece", found)
    assert [columns["ece_low"], columns["ece_high"]] == pytest.approx(list(np.quantile(values, [0.025, 0.975])))


def test_refitting_repairs_a_sharpened_model_and_leaves_a_calibrated_one() -> None:
    found, _, _, documents, _ = calibrated((1.0, 2.5, 0.4))
    calibration, reliability = calibration_frames(found, SETS, 15, documents)
    rows = {(r["set"], r["condition"]): r for r in calibration.iter_rows(named=True)}
    assert rows["none", "clean"]["ece"] < 0.03
    assert rows["sharp", "ablated"]["ece"] > 0.1
    assert rows["sharp/flat", "ablated"]["ece"] > 0.1
    for name, factor in (("sharp", 2.5), ("sharp/flat", 0.4)):
        clean, refit = rows["none", "clean_refit"], rows[name, "ablated_refit"]
        # The same family of distributions: refitted, all three are one.
        assert refit["refit_temperature"] == pytest.approx(factor * clean["refit_temperature"], rel=1e-3)
        for measure in ("nll", "brier", "ece", "confidence", "accuracy"):
            assert refit[measure] == pytest.approx(clean[measure], abs=1e-4)
        assert rows[name, "ablated"]["nll"] > refit["nll"] + 0.05
        assert rows[name, "ablated"]["accuracy"] == refit["accuracy"]
    assert rows["none", "clean_refit"]["refit_temperature"] == pytest.approx(1, abs=0.05)
    for name, row in rows.items():
        for measure in ("nll", "brier", "ece", "confidence", "accuracy"):
            if name[0] == "none":
                assert row[f"{measure}_change"] is None
                continue
            clean = rows["none", name[1].replace("ablated", "clean")]
            assert row[f"{measure}_change"] == pytest.approx(row[measure] - clean[measure], abs=1e-12)
            assert row[f"{measure}_change_low"] <= row[f"{measure}_change"] <= row[f"{measure}_change_high"]
    # Paired: the difference is known far better than either number.
    sharp = rows["sharp", "ablated"]
    assert sharp["nll_change_high"] - sharp["nll_change_low"] < 0.7 * (sharp["nll_high"] - sharp["nll_low"])
    assert calibration.columns == list(SCHEMAS["calibration"])
    assert reliability.columns == list(SCHEMAS["reliability"])
    assert reliability.group_by("set", "condition").len()["len"].to_list() == [15] * 6


def test_temperatures_minimise_the_likelihood_of_the_other_half() -> None:
    factors = (1.0, 3.0, 0.2)
    found, lp, targets, _, half = calibrated(factors)
    rows = np.arange(TOKENS)
    for s, factor in enumerate(factors):
        logits = factor * lp
        for h in (0, 1):
            other = half == 1 - h

            def loss(x: float, logits: np.ndarray = logits, other: np.ndarray = other) -> float:
                return -log_softmax(logits * np.exp(-x), -1)[rows, targets][other].mean()

            best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
            assert found.temperature[h, s] == pytest.approx(np.exp(best.x), rel=1e-4)
            own = log_softmax(logits / found.temperature[h, s], -1)
            np.testing.assert_allclose(found.refit.values["nll"][half == h, s], -own[rows, targets][half == h])


def test_one_document_is_not_refitted() -> None:
    lp, targets = true_model(50)
    documents = Documents.of(np.zeros(50, dtype=int), 100, 0.95, 0)
    found = calibrate(passes_of(lp, targets, (1.0,)), halves(1, 0)[documents.row], 1)
    calibration, _ = calibration_frames(found, [CLEAN], 5, documents)
    assert calibration["condition"].to_list() == ["clean"]
    assert calibration["refit_temperature"].to_list() == [1.0]
    assert calibration["ece_low"].to_list() == [None]
