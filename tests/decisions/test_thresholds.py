"""Thresholds against plain loops over every cut; what they are worth where they were not fitted."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from masksup.calibration.aims import Aim, parse_aim
from masksup.calibration.cross_validation import RULES, FitPlan, cross_validate
from masksup.calibration.thresholds import Sharing, bootstrap_bounds, fit_thresholds
from masksup.errors import UserError
from masksup.metrics.precision_recall import decision_scores

AIMS = [Aim("f1"), Aim("precision", 0.6), Aim("recall", 0.7), Aim("budget", 1.3)]


def drawn(seed: int, samples: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with many ties, and labels 1, 0, -1 that follow them."""
    rng = np.random.default_rng(seed)
    p_NC = np.round(rng.random((samples, classes)), 2)
    labels_NC = (rng.random((samples, classes)) < p_NC**2).astype(np.int8)
    labels_NC[rng.random((samples, classes)) < 0.1] = -1
    return p_NC, labels_NC


def counts(p: np.ndarray, y: np.ndarray, cut: float) -> tuple[int, int, int]:
    """Hits, judged predictions and positives."""
    yes = (p >= cut) & (y >= 0)
    return int((yes & (y == 1)).sum()), int(yes.sum()), int((y == 1).sum())


def f1_at(p: np.ndarray, y: np.ndarray, cut: float) -> float:
    hits, predicted, positives = counts(p, y, cut)
    return 2 * hits / (predicted + positives) if positives else 0.0


def own_by_loop(aim: Aim, p: np.ndarray, y: np.ndarray, rate: float) -> float | None:
    """The score from which on is predicted, over all cuts from the highest down; None where no cut will do."""
    cuts = sorted(set(p[y >= 0] if aim.kind != "budget" else p), reverse=True)
    if aim.kind == "f1":
        return max(cuts, key=lambda cut: (f1_at(p, y, cut), cut))
    if aim.kind == "recall":
        return next(cut for cut in cuts if counts(p, y, cut)[0] >= aim.value * (y == 1).sum() - 1e-9)
    if aim.kind == "precision":
        good = [cut for cut in cuts if (n := counts(p, y, cut))[0] and n[0] / n[1] >= aim.value]
    else:
        good = [cut for cut in cuts if (p >= cut).sum() <= rate * len(p)]
    return min(good) if good else None


@pytest.mark.parametrize("aim", AIMS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_own_and_shared_thresholds_by_a_plain_loop(aim: Aim, seed: int) -> None:
    p_NC, labels_NC = drawn(seed)
    everyone, nobody = np.ones(4, bool), np.zeros(4, bool)
    own = fit_thresholds(aim, p_NC, labels_NC, Sharing(everyone))
    prevalence_C = (labels_NC == 1).sum(0) / (labels_NC >= 0).sum(0)
    for c in range(4):
        rate = aim.value * prevalence_C[c] / prevalence_C.sum()
        cut = own_by_loop(aim, p_NC[:, c], labels_NC[:, c], rate)
        taken = p_NC[:, c] if aim.kind == "budget" else p_NC[labels_NC[:, c] >= 0, c]
        found = taken >= own.thresholds_RC[0, c]
        assert cut is not None
        np.testing.assert_array_equal(found, taken >= cut)
        below = taken[taken < cut]
        if len(below):
            assert own.thresholds_RC[0, c] == pytest.approx((cut + below.max()) / 2), "halfway to the next one"
    shared = fit_thresholds(aim, p_NC, labels_NC, Sharing(nobody))
    assert not shared.own_RC.any()
    assert len(set(shared.thresholds_RC[0])) == 1
    if aim.kind == "f1":
        cuts = sorted(set(p_NC[labels_NC >= 0]), reverse=True)
        sums = [sum(f1_at(p_NC[:, c], labels_NC[:, c], cut) for c in range(4)) for cut in cuts]
        at = float(sum(f1_at(p_NC[:, c], labels_NC[:, c], shared.shared_R[0]) for c in range(4)))
        assert at == pytest.approx(max(sums), abs=1e-12)
    else:
        cut = own_by_loop(aim, p_NC.ravel(), labels_NC.ravel(), aim.value / 4)
        assert cut is not None
        judged = np.ones_like(p_NC, bool) if aim.kind == "budget" else labels_NC >= 0
        np.testing.assert_array_equal((p_NC >= shared.shared_R[0])[judged], (p_NC >= cut)[judged])


@pytest.mark.parametrize("aim", AIMS, ids=str)
def test_weights_are_repeated_samples(aim: Aim) -> None:
    """All resamples at once give what each gives alone, samples written out as often as they were drawn."""
    p_NC, labels_NC = drawn(7)
    weights_NR = np.random.default_rng(0).integers(0, 4, (60, 5)).astype(np.int64)
    sharing = Sharing(np.array([1, 1, 0, 0], bool))
    at_once = fit_thresholds(aim, p_NC, labels_NC, sharing, weights_NR)
    for r in range(5):
        rows = np.repeat(np.arange(60), weights_NR[:, r])
        alone = fit_thresholds(aim, p_NC[rows], labels_NC[rows], sharing)
        # Scores that were not drawn may lie between the threshold and the next score that was: the cut is the same.
        judged_NC = np.ones_like(p_NC[rows], bool) if aim.kind == "budget" else labels_NC[rows] >= 0
        found_NC, expected_NC = (p_NC[rows] >= t_C for t_C in (at_once.thresholds_RC[r], alone.thresholds_RC[0]))
        np.testing.assert_array_equal(found_NC[judged_NC], expected_NC[judged_NC])


def test_what_a_class_cannot_reach_it_leaves_to_the_shared_threshold() -> None:
    p_NC, labels_NC = drawn(1, samples=200)
    labels_NC[:, 1] = (p_NC[:, 1] < 0.5) & (np.arange(200) % 3 == 0)  # the higher the score, the less it is there
    labels_NC[:, 3] = 0
    fit = fit_thresholds(Aim("precision", 0.85), p_NC, labels_NC, Sharing(np.ones(4, bool)))
    assert fit.own_RC[0].tolist() == [True, False, True, False]
    assert fit.thresholds_RC[0, 1] == fit.thresholds_RC[0, 3] == fit.shared_R[0]
    best = max(counts(p_NC[:, 1], labels_NC[:, 1], cut)[0] / (p_NC[:, 1] >= cut).sum() for cut in set(p_NC[:, 1]))
    assert fit.best_precision_RC[0, 1] == pytest.approx(best)
    assert np.isnan(fit.best_precision_RC[0, 0])
    never = fit_thresholds(Aim("precision", 0.9999), p_NC, labels_NC, Sharing(np.zeros(4, bool)))
    assert not never.shared_reached_R[0]


def test_drawn_to_the_shared_threshold_and_the_rest_of_a_budget() -> None:
    p_NC, labels_NC = drawn(2, samples=300)
    own = fit_thresholds(Aim("f1"), p_NC, labels_NC, Sharing(np.ones(4, bool)))
    shrunk = fit_thresholds(Aim("f1"), p_NC, labels_NC, Sharing(np.ones(4, bool), 50.0))
    odds = [np.log(t / (1 - t)) for t in (own.thresholds_RC[0], own.shared_R[0], shrunk.thresholds_RC[0])]
    positives_C = (labels_NC == 1).sum(0)
    np.testing.assert_allclose(odds[2], (positives_C * odds[0] + 50 * odds[1]) / (positives_C + 50), atol=1e-9)
    for own_C in ([0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]):
        for budget in (0.2, 1.0, 2.5):
            fit = fit_thresholds(Aim("budget", budget), p_NC, labels_NC, Sharing(np.array(own_C, bool)))
            labels = (p_NC >= fit.thresholds_RC[0]).sum(1).mean()
            assert budget - 0.1 < labels <= budget + 1e-9, "as many as allowed, but for ties"


def test_bounds_are_of_resampled_images() -> None:
    p_NC, labels_NC = drawn(5, samples=200)
    labels_NC[:, 3] = np.where(np.arange(200) == 0, 1, 0)
    sharing = Sharing(np.array([1, 1, 0, 1], bool))
    bounds = bootstrap_bounds(Aim("f1"), p_NC, labels_NC, sharing, np.arange(200), 100, 0)
    again = bootstrap_bounds(Aim("f1"), p_NC, labels_NC, sharing, np.arange(200), 100, 0)
    np.testing.assert_array_equal(bounds.low_C, again.low_C)
    fit = fit_thresholds(Aim("f1"), p_NC, labels_NC, sharing)
    inside = (bounds.low_C[:3] <= fit.thresholds_RC[0, :3]) & (fit.thresholds_RC[0, :3] <= bounds.high_C[:3])
    assert inside.all()
    assert (bounds.low_C[:3] < bounds.high_C[:3]).all()
    assert (bounds.low_C[2], bounds.high_C[2]) == bounds.shared
    # A single image cannot be resampled: drawn as one, all samples always have the same weight.
    one = bootstrap_bounds(Aim("f1"), p_NC, labels_NC, sharing, np.zeros(200, np.int64), 20, 0)
    np.testing.assert_array_equal(one.low_C, one.high_C)
    np.testing.assert_array_equal(one.low_C, fit.thresholds_RC[0])


def test_scores_of_decisions_are_those_of_scikit_learn() -> None:
    p_NC, labels_NC = drawn(4)
    predicted_NC = p_NC >= 0.6
    scores = decision_scores(predicted_NC, labels_NC)
    judged_NC = labels_NC >= 0
    each = [f1_score(labels_NC[judged_NC[:, c], c], predicted_NC[judged_NC[:, c], c]) for c in range(4)]
    assert scores["F1"] == pytest.approx(100 * np.mean(each))
    assert scores["OF1"] == pytest.approx(100 * f1_score(labels_NC[judged_NC] == 1, predicted_NC[judged_NC]))
    assert scores["labels"] == predicted_NC.sum(1).mean()
    assert decision_scores(predicted_NC, np.zeros_like(labels_NC))["F1"] is None


def test_noise_is_worth_nothing_where_it_was_not_fitted() -> None:
    """Labels that no score knows of: in-sample all gain, held out none does better than knowing how common they are."""
    rng = np.random.default_rng(0)
    logits_NC, labels_NC = rng.normal(size=(300, 6)), (rng.random((300, 6)) < 0.3).astype(np.int8)
    found = cross_validate(FitPlan(Aim("f1"), "isotonic", 1, "mixed", 5, 0), logits_NC, labels_NC, np.arange(300))
    rates_C = labels_NC.mean(0)
    known = float((rates_C * (1 - rates_C)).mean())
    inside, outside = (((p_NC - labels_NC) ** 2).mean() for p_NC in (found.in_sample_NC, found.held_out_NC))
    assert inside < known < outside
    gap = {
        rule: decision_scores(found.in_sample[rule], labels_NC)["F1"]
        - decision_scores(found.held_out[rule], labels_NC)["F1"]
        for rule in RULES
    }
    assert gap["per-class"] > 1
    assert gap["per-class"] == gap["mixed"], "one positive is enough for a threshold of its own here"


def test_real_scores_show_what_thresholds_of_few_positives_cost(shared_data: Path) -> None:
    found = np.load(shared_data / "voc2012_val_scores" / "scores.npz")
    labels_NC = np.where(found["labels"] == -1, 0, np.where(found["labels"] == 0, -1, 1)).astype(np.int8)[:300]
    p_NC = found["resnet18_1"][:300].astype(np.float64).clip(1e-7, 1 - 1e-7)
    logits_NC = np.log(p_NC / (1 - p_NC))
    scores = cross_validate(FitPlan(Aim("f1"), "platt", 50, "mixed", 5, 0), logits_NC, labels_NC, np.arange(300))
    held = {rule: decision_scores(scores.held_out[rule], labels_NC)["F1"] for rule in RULES}
    inside = {rule: decision_scores(scores.in_sample[rule], labels_NC)["F1"] for rule in RULES}
    assert inside["per-class"] > inside["shared"] + 2
    assert held["per-class"] < held["shared"]
    assert held["per-class"] < held["shrunk"]


@pytest.mark.parametrize(
    "text",
    ["f2", "precision", "precision=", "precision=1", "recall=0", "recall=1.1", "budget=0", "budget=5", "f1=1", ""],
)
def test_aims_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--aim: found"):
        parse_aim(text, 4)
    assert parse_aim("recall=1", 4) == Aim("recall", 1.0)
    assert str(parse_aim("budget=2.5", 4)) == "budget=2.5"


def test_the_tool_reads_real_scores(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).resolve().parents[2] / "tools" / "threshold_rules.py"
    spec = importlib.util.spec_from_file_location("threshold_rules", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    file = shared_data / "voc2012_val_scores" / "scores.npz"
    logits_NC, labels_NC = tool.read(file, "resnet18_1", True)
    assert (labels_NC == 1).sum() == 8351
    assert (labels_NC == -1).sum() == 505
    found = tool.study(logits_NC, labels_NC, 300, 3, "platt", 50)
    assert found["per-class"][2] > found["per-class"][0] + 2, "in-sample F1 is above that of the others"
    assert found["shared"][0] > found["per-class"][0]
    assert tool.main([str(file)]) == 2
    assert "found no 'logits'" in capsys.readouterr().err
