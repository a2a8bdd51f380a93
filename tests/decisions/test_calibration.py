"""Calibrations and their scores against scikit-learn, plain loops and real scores."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from masksup.calibration.fit import fit_calibration, fit_isotonic, fit_platt, fit_temperature
from masksup.decisions.calibration import Isotonic, Platt, Temperature, Uncalibrated
from masksup.metrics.reliability import BINS, calibration_scores


def drawn(seed: int, samples: int = 400, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a class and labels that follow sigmoid(0.6 z - 1)."""
    rng = np.random.default_rng(seed)
    z_N = rng.normal(0, 2, samples)
    if ties:
        z_N = np.round(z_N)
    return z_N, rng.random(samples) < 1 / (1 + np.exp(1 - 0.6 * z_N))


@pytest.mark.parametrize("seed", range(4))
def test_each_fit_is_that_of_scikit_learn(seed: int) -> None:
    z_N, present_N = drawn(seed, ties=seed % 2 == 1)
    x, y = fit_isotonic(z_N, present_N)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(z_N, present_N)
    new = np.random.default_rng(9).normal(0, 4, 500)
    np.testing.assert_allclose(np.interp(new, x, y), oracle.predict(new), atol=1e-12)

    # Platt's targets are shares of both labels, which as weights make a plain logistic regression.
    positives, negatives = present_N.sum(), (~present_N).sum()
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    target_N = np.where(present_N, high, low)
    twice, labels = np.concatenate([z_N, z_N])[:, None], np.repeat([1, 0], len(z_N))
    regression = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000)
    regression.fit(twice, labels, sample_weight=np.concatenate([target_N, 1 - target_N]))
    found = fit_platt(z_N, present_N)
    assert found is not None
    np.testing.assert_allclose(found, [regression.coef_[0, 0], regression.intercept_[0]], atol=1e-4)

    def loss(t: float) -> float:
        return float((np.logaddexp(0, z_N / t) - present_N * z_N / t).mean())

    best = fit_temperature(z_N, present_N)
    assert all(loss(best) <= loss(t) + 1e-12 for t in np.exp(np.linspace(-4.6, 4.6, 2001)))
    assert all(loss(best) <= loss(best * factor) for factor in (0.999, 1.001))


def test_hard_cases() -> None:
    z_N, present_N = drawn(0)
    assert fit_platt(-z_N, present_N) is None, "a class that is turned round is not turned back"
    apart = np.array([-2.0, -1.0, 1.0, 2.0])
    separated = fit_platt(apart, apart > 0)
    assert separated is not None
    assert np.isfinite(separated).all(), "Platt's targets keep a perfect class finite"
    assert np.isfinite(fit_platt(np.full(5, 3.0), np.array([1, 0, 0, 0, 0], bool)) or (1, 0)).all()
    assert 1 / 0.011 < fit_temperature(-z_N, present_N) < 101, "the bound"


def test_ignored_are_left_out_and_rare_classes_are_fitted_together() -> None:
    rng = np.random.default_rng(3)
    z_NC = rng.normal(0, 2, (500, 4))
    labels_NC = (rng.random((500, 4)) < 1 / (1 + np.exp(1 - 0.6 * z_NC))).astype(np.int8)
    labels_NC[:, 2:] *= rng.random((500, 2)) < 0.05
    assert ((labels_NC == 1).sum(axis=0)[2:] < 50).all()
    labels_NC[rng.random((500, 4)) < 0.2] = -1
    z_NC[labels_NC == -1] = 1e6
    platt = fit_calibration("platt", z_NC.astype(np.float32), labels_NC, 50)
    isotonic = fit_calibration("isotonic", z_NC, labels_NC, 50)
    assert isinstance(platt, Platt)
    assert isinstance(isotonic, Isotonic)
    judged_NC = labels_NC >= 0
    for c in (0, 1):
        alone = fit_platt(z_NC[judged_NC[:, c], c], labels_NC[judged_NC[:, c], c] == 1)
        np.testing.assert_allclose((platt.slope[c], platt.offset[c]), alone, atol=1e-4)
    rare = judged_NC[:, 2:]
    together = fit_platt(z_NC[:, 2:][rare], labels_NC[:, 2:][rare] == 1)
    np.testing.assert_allclose((platt.slope[2], platt.offset[2]), together, atol=1e-4)
    assert (platt.slope[2], platt.offset[2]) == (platt.slope[3], platt.offset[3])
    assert isotonic.logits[2] == isotonic.logits[3] != isotonic.logits[0]
    assert isinstance(fit_calibration("temperature", z_NC, labels_NC, 50), Temperature)
    assert fit_calibration("platt", z_NC, np.where(labels_NC == 1, -1, labels_NC), 50) == Uncalibrated()
    turned = fit_calibration("platt", -z_NC, labels_NC, 50)
    assert isinstance(turned, Platt)
    assert set(turned.slope) == {1.0}


def test_scores_by_a_plain_loop_on_real_scores(shared_data: Path) -> None:
    found = np.load(shared_data / "voc2012_val_scores" / "scores.npz")
    labels_NC = np.where(found["labels"] == -1, 0, np.where(found["labels"] == 0, -1, 1)).astype(np.int8)
    p_NC = found["resnet18_1"].astype(np.float64)
    scores = calibration_scores(p_NC, labels_NC)

    def by_loop(p: np.ndarray, y: np.ndarray) -> float:
        total = 0.0
        for b in range(BINS):
            inside = (p * BINS >= b) & ((p * BINS < b + 1) | (b == BINS - 1))
            if inside.any():
                total += inside.sum() * abs(p[inside].mean() - y[inside].mean())
        return total / len(p)

    judged_NC = labels_NC >= 0
    assert scores["ECE"] == pytest.approx(by_loop(p_NC[judged_NC], labels_NC[judged_NC] == 1), abs=1e-12)
    each = [by_loop(p_NC[judged_NC[:, c], c], labels_NC[judged_NC[:, c], c] == 1) for c in range(20)]
    assert scores["class_ECE"] == pytest.approx(np.mean(each), abs=1e-12)
    assert scores["brier"] == pytest.approx(((p_NC - labels_NC)[judged_NC] ** 2).mean(), abs=1e-12)
    assert sum(scores["reliability"]["count"]) == judged_NC.sum()
    assert calibration_scores(p_NC[:2], np.full((2, 20), -1, np.int8))["ECE"] is None
    exact = calibration_scores(np.array([[0.0], [1.0]]), np.array([[0], [1]], np.int8))
    assert (exact["ECE"], exact["brier"]) == (0.0, 0.0)
