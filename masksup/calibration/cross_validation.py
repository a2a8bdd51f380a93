"""What rules for thresholds are worth on samples that they were not fitted on, and on those that they were.

Shapes: N samples, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.calibration.aims import Aim
from masksup.calibration.curves import Floats, Ints
from masksup.calibration.fit import fit_calibration
from masksup.calibration.thresholds import Sharing, ThresholdFit, fit_thresholds
from masksup.data.folds import stratified_folds
from masksup.decisions.calibration import Calibration
from masksup.metrics.pairs import Labels

RULES = ("shared", "per-class", "mixed", "shrunk")


@dataclass(frozen=True)
class FitPlan:
    """What is fitted, and how."""

    aim: Aim
    method: str
    """none, temperature, platt or isotonic."""
    least: int
    """Positives from which a class has a threshold, and a calibration, of its own; `shrunk`: half of its own."""
    rule: str
    """The one of RULES that is kept."""
    folds: int
    seed: int


@dataclass(frozen=True)
class FoldScores:
    """Probabilities and predictions of each sample by what was fitted without its fold; and in-sample ones."""

    held_out_NC: Floats
    held_out: dict[str, NDArray[np.bool_]]
    in_sample_NC: Floats
    in_sample: dict[str, NDArray[np.bool_]]
    calibration: Calibration
    """Fitted to all samples."""
    fit: ThresholdFit
    """Of the rule that is kept, to all samples."""


def sharing_by(rule: str, labels_NC: Labels, least: int) -> Sharing:
    """Which classes have a threshold of their own by a rule, and how much of it."""
    positives_C = (labels_NC == 1).sum(axis=0)
    wanted = {"shared": np.inf, "mixed": max(least, 1)}.get(rule, 1)
    return Sharing(np.asarray(positives_C >= wanted), float(least) if rule == "shrunk" else 0.0)


def cross_validate(plan: FitPlan, logits_NC: NDArray[np.floating], labels_NC: Labels, image_N: Ints) -> FoldScores:
    """Fit on all folds but one, predict that one, for each; samples of one image (`image_N`) are in one fold."""
    sharing = {rule: sharing_by(rule, labels_NC, plan.least) for rule in RULES}
    fold_N = stratified_folds(labels_NC == 1, image_N, plan.folds, plan.seed)
    held_out_NC = np.full(labels_NC.shape, np.nan)
    held_out = {rule: np.zeros(labels_NC.shape, bool) for rule in RULES}
    for fold in range(plan.folds):
        out_N = fold_N == fold
        if not out_N.any():
            continue
        calibration = fit_calibration(plan.method, logits_NC[~out_N], labels_NC[~out_N], plan.least)
        fitted_NC = calibration(logits_NC[~out_N])
        held_out_NC[out_N] = calibration(logits_NC[out_N])
        for rule in RULES:
            fit = fit_thresholds(plan.aim, fitted_NC, labels_NC[~out_N], sharing[rule])
            held_out[rule][out_N] = held_out_NC[out_N] >= fit.thresholds_RC[0]
    assert not np.isnan(held_out_NC).any(), "every sample is held out once"
    calibration = fit_calibration(plan.method, logits_NC, labels_NC, plan.least)
    in_sample_NC = calibration(logits_NC)
    fits = {rule: fit_thresholds(plan.aim, in_sample_NC, labels_NC, sharing[rule]) for rule in RULES}
    in_sample = {rule: in_sample_NC >= fit.thresholds_RC[0] for rule, fit in fits.items()}
    return FoldScores(held_out_NC, held_out, in_sample_NC, in_sample, calibration, fits[plan.rule])
