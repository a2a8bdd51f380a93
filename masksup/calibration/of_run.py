"""Thresholds and calibration for a run, fitted to outputs for images that it has not learnt from, and kept with it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import write_sealed
from masksup.base.log import log
from masksup.base.words import counted
from masksup.calibration.cross_validation import RULES, FoldScores, Plan, cross_validate, decision_scores, sharing_by
from masksup.calibration.show import show
from masksup.calibration.thresholds import LEVEL, Bounds, bootstrap_bounds
from masksup.decisions.decisions import CALIBRATION, Decisions, Fitted, Origin, write_decisions
from masksup.metrics.pairs import Labels, check_finite, probabilities
from masksup.metrics.reliability import calibration_scores
from masksup.saved.decisions_of import default_threshold
from masksup.saved.open import Trained

FORMAT = "masksup calibration 1"
FEW = 100  # samples


@dataclass(frozen=True)
class Known:
    """What is fitted to: N samples with the logits of the model and their labels, and the image of each."""

    title: str
    index: str
    """Hash of the index that they are of."""
    logits_NC: NDArray[np.float32]
    labels_NC: Labels
    image_N: NDArray[np.int64]


def fit_to(trained: Trained, known: Known, plan: Plan, resamples: int, given: dict[str, float]) -> None:
    """Fit, print what it is worth on samples it was not fitted on, and keep it in the run folder of `trained`.

    `given`: thresholds that are set by hand. Writes `decisions.json` and `calibration.json`.
    """
    assert trained.run is not None
    logits_NC, labels_NC = known.logits_NC, known.labels_NC
    check_finite(logits_NC)
    scores = cross_validate(plan, logits_NC, labels_NC, known.image_N)
    bounds = bootstrap_bounds(
        plan.aim, scores.in_sample_NC, labels_NC, sharing_by(plan.rule, labels_NC, plan.least), known.image_N,
        resamples, plan.seed,
    )  # fmt: skip
    decisions = _decisions(trained, known, plan, scores, resamples).with_given(given)
    facts = _facts(trained, plan, resamples, decisions, scores, bounds, logits_NC, labels_NC)
    show(facts)
    if len(labels_NC) < FEW:
        low, high = bounds.shared
        log.warning(
            f"{counted(len(labels_NC), 'sample')} are few: with others of this kind the shared threshold would lie "
            f"anywhere from {low:.2f} to {high:.2f}; expected {FEW} or more"
        )
    file = write_decisions(trained.run, decisions)
    write_sealed(trained.run / CALIBRATION, facts)
    log.info(f"kept: {file}, by which predict and exported models decide; {trained.run / CALIBRATION}")


def _decisions(trained: Trained, known: Known, plan: Plan, scores: FoldScores, resamples: int) -> Decisions:
    fallback = {
        "shared": "one threshold for all classes",
        "per-class": "a threshold for each class with a positive",
        "mixed": f"classes with fewer than {plan.least} positives share a threshold",
        "shrunk": f"thresholds drawn to the shared one, half way at {plan.least} positives",
    }[plan.rule]
    protocol = (
        f"{fallback}; calibration of classes with fewer than {plan.least} positives fitted to all of them together; "
        f"checked by {plan.folds} folds; {resamples} resamples of the images for the bounds; ignored labels left out; "
        f"{trained.config.model.size} px"
    )
    fitted = Fitted(
        trained.checkpoint, trained.sha256, trained.step, trained.weights, known.title, known.index,
        len(known.labels_NC), protocol,
    )  # fmt: skip
    own: tuple[Origin, Origin] = ("shared", "own")
    return Decisions(
        trained.classes, tuple(scores.fit.thresholds_RC[0].tolist()), scores.calibration,
        tuple(own[int(mine)] for mine in scores.fit.own_RC[0]), str(plan.aim), fitted,
    )  # fmt: skip


def _facts(
    trained: Trained, plan: Plan, resamples: int, decisions: Decisions, scores: FoldScores, bounds: Bounds,
    logits_NC: NDArray[np.float32], labels_NC: Labels,
) -> dict[str, Any]:  # fmt: skip
    """Everything that is known of the fit, ready for JSON."""
    before_NC = probabilities(logits_NC)
    usual = default_threshold(trained)
    plain = decision_scores(before_NC >= usual, labels_NC)
    rules = {f"{usual:g}, uncalibrated": {"held_out": plain, "in_sample": plain}}
    for rule in RULES:
        rules[rule] = {
            "held_out": decision_scores(scores.held_out[rule], labels_NC),
            "in_sample": decision_scores(scores.in_sample[rule], labels_NC),
        }
    assert decisions.fitted is not None
    return {
        "format": FORMAT, "aim": decisions.aim, "method": plan.method, "rule": plan.rule,
        "least_positives": plan.least, "folds": plan.folds, "seed": plan.seed, "resamples": resamples, "level": LEVEL,
        "fitted": vars(decisions.fitted), "rules": rules,
        "calibration": {
            "before": calibration_scores(before_NC, labels_NC),
            "after": calibration_scores(scores.held_out_NC, labels_NC),
            "after_in_sample": calibration_scores(scores.in_sample_NC, labels_NC),
        },
        "shared": {
            "threshold": _number(scores.fit.shared_R[0]), "bounds": [_number(end) for end in bounds.shared],
            "reached": bool(scores.fit.shared_reached_R[0]),
        },
        "classes": _class_rows(decisions, scores, bounds, scores.held_out[plan.rule], labels_NC),
    }  # fmt: skip


def _class_rows(
    decisions: Decisions, scores: FoldScores, bounds: Bounds, held_out_NC: NDArray[np.bool_], labels_NC: Labels
) -> dict[str, dict[str, Any]]:
    """Of each class its threshold, and precision and recall in percent where its fold was held out."""
    rows = {}
    for c, name in enumerate(decisions.classes):
        alone = decision_scores(held_out_NC[:, c : c + 1], labels_NC[:, c : c + 1])
        rows[name] = {
            "positives": int((labels_NC[:, c] == 1).sum()), "threshold": decisions.thresholds[c],
            "low": _number(bounds.low_C[c]), "high": _number(bounds.high_C[c]), "origin": decisions.origins[c],
            "precision": alone["OP"], "recall": alone["OR"], "F1": alone["F1"],
            "best_precision": _number(100 * scores.fit.best_precision_RC[0, c]),
        }  # fmt: skip
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
