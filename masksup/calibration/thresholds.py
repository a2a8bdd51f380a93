"""Thresholds for an aim: a class's own, or one that several classes share.

Shapes: N samples, C classes, R weightings of the samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.base.random import draws
from masksup.calibration.aims import Aim
from masksup.calibration.curves import Curve, Floats, Ints, best_cut, best_shared_f1, curve, threshold_at
from masksup.metrics.pairs import Labels

_ELEMENTS = 10_000_000  # of a chunk of resamples: some hundred MB


@dataclass(frozen=True)
class ThresholdFit:
    """Thresholds for each weighting; where a class has its own and where it takes the shared one."""

    thresholds_RC: Floats
    own_RC: NDArray[np.bool_]
    shared_R: Floats
    shared_reached_R: NDArray[np.bool_]
    best_precision_RC: Floats
    """Under the aim of a precision, for a class that wanted its own threshold and takes the shared one because none
    reaches it: the highest precision there is. nan elsewhere."""


@dataclass(frozen=True)
class Sharing:
    """Which classes have a threshold of their own, and how much of it.

    shrink: 0, or the positives with which a class's own threshold counts as much as the shared one: with n positives
    its log-odds are n / (n + shrink) of its own and the rest of the shared one.
    """

    own_C: NDArray[np.bool_]
    shrink: float = 0.0


def fit_thresholds(
    aim: Aim, probabilities_NC: Floats, labels_NC: Labels, sharing: Sharing, weights_NR: Ints | None = None
) -> ThresholdFit:
    """Own thresholds for the classes in `sharing.own_C`, one shared threshold for the others, for each weighting.

    A class that no threshold of its own brings to the aim takes the shared one, as does a class without positives in
    a weighting. Labels are 1, 0 or -1 (ignored: left out, except that a budget counts every prediction).
    """
    own_C = sharing.own_C
    weights_NR = np.ones((len(labels_NC), 1), np.int64) if weights_NR is None else weights_NR
    samples_R, classes = weights_NR.sum(axis=0), labels_NC.shape[1]
    positives_RC = weights_NR.T @ (labels_NC == 1)
    rate_RC = _rates(aim, positives_RC, weights_NR.T @ (labels_NC >= 0))
    thresholds_RC = np.full((len(samples_R), classes), np.nan)
    best_RC = np.full((len(samples_R), classes), np.nan)
    left_R = aim.value * samples_R  # of a budget
    budget = aim.kind == "budget"
    curves: list[Curve] = []
    for c in range(classes):
        of = curve(probabilities_NC[:, c], labels_NC[:, c], weights_NR, ignored_too=budget)
        if aim.kind == "f1" and (labels_NC[:, c] == 1).any():
            curves.append(of)
        if not own_C[c]:
            continue
        cut_R, reached_R = best_cut(aim, of, rate_RC[:, c] * samples_R)
        reached_R = reached_R & (of.positives_R > 0)
        thresholds_RC[reached_R, c] = threshold_at(of.score_K, cut_R)[reached_R]
        if budget:
            left_R = left_R - np.where(reached_R & (cut_R >= 0), of.predictions_KR[cut_R, range(len(cut_R))], 0)
        elif aim.kind == "precision" and len(of.score_K):
            best_RC[~reached_R, c] = of.precision_KR().max(axis=0)[~reached_R]
    own_RC = ~np.isnan(thresholds_RC)
    if budget and not sharing.shrink and own_C.any():
        # The rest of the budget goes to the classes that share.
        probabilities_NC, labels_NC = probabilities_NC[:, ~own_C], labels_NC[:, ~own_C]
    else:
        left_R = aim.value * samples_R
    shared_R, reached_R = _shared(aim, probabilities_NC, labels_NC, weights_NR, curves, left_R)
    if sharing.shrink:
        thresholds_RC = _between(thresholds_RC, shared_R, positives_RC / (positives_RC + sharing.shrink))
    return ThresholdFit(np.where(own_RC, thresholds_RC, shared_R[:, None]), own_RC, shared_R, reached_R, best_RC)


def _between(own_RC: Floats, shared_R: Floats, share_RC: Floats) -> Floats:
    """In log-odds `share` of the way from the shared threshold to the own one."""
    own_RC, shared_R = own_RC.clip(1e-12, 1 - 1e-12), shared_R.clip(1e-12, 1 - 1e-12)
    own_odds_RC, odds_R1 = np.log(own_RC / (1 - own_RC)), np.log(shared_R / (1 - shared_R))[:, None]
    found_RC: Floats = 1 / (1 + np.exp(-(odds_R1 + share_RC * (own_odds_RC - odds_R1))))
    return found_RC


def _rates(aim: Aim, positives_RC: Ints, judged_RC: Ints) -> Floats:
    """The share of the images that a budget lets each class have: R x C."""
    share_RC = positives_RC / np.maximum(judged_RC, 1)
    rates_RC: Floats = aim.value * share_RC / np.maximum(share_RC.sum(axis=1, keepdims=True), 1e-300)
    return rates_RC.clip(max=1)


def _shared(
    aim: Aim, probabilities_NC: Floats, labels_NC: Labels, weights_NR: Ints, curves: list[Curve], most_R: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    if aim.kind == "f1":
        if not curves:
            return np.full(len(most_R), 0.5), np.zeros(len(most_R), bool)
        score_K, cut_R = best_shared_f1(curves)
        return threshold_at(score_K, cut_R), np.ones(len(most_R), bool)
    pairs_NR = np.repeat(weights_NR, labels_NC.shape[1], axis=0)
    of = curve(probabilities_NC.ravel(), labels_NC.ravel(), pairs_NR, ignored_too=aim.kind == "budget")
    cut_R, reached_R = best_cut(aim, of, most_R)
    return threshold_at(of.score_K, cut_R), reached_R


@dataclass(frozen=True)
class Bounds:
    """The middle 95 % of the thresholds that resamples of the images give. nan where too few of them gave one."""

    low_C: Floats
    high_C: Floats
    shared: tuple[float, float]


LEVEL = 95  # percent


def bootstrap_bounds(
    aim: Aim, probabilities_NC: Floats, labels_NC: Labels, sharing: Sharing, group_N: Ints, resamples: int, seed: int
) -> Bounds:
    """Bounds of every threshold: of own ones where `sharing` gives them, else those of the shared one.

    Images are drawn with replacement, all samples of an image (`group_N`) together; the calibration stays. A class
    has no bounds of its own where fewer than half of the resamples gave it a threshold of its own.
    """
    drawn = [
        fit_thresholds(aim, probabilities_NC, labels_NC, sharing, weights_NR)
        for weights_NR in _resampled(group_N, labels_NC.size, resamples, seed)
    ]
    own_RC = np.concatenate([fit.own_RC for fit in drawn])
    thresholds_RC = np.where(own_RC, np.concatenate([fit.thresholds_RC for fit in drawn]), np.nan)
    shared = _middle(np.concatenate([fit.shared_R for fit in drawn])[:, None])[:, 0]
    enough_C = own_RC.mean(axis=0) >= 0.5
    ends_2C = np.full((2, labels_NC.shape[1]), np.nan)
    ends_2C[:, enough_C] = _middle(thresholds_RC[:, enough_C])
    ends_2C[:, ~sharing.own_C] = shared[:, None]
    return Bounds(ends_2C[0], ends_2C[1], (float(shared[0]), float(shared[1])))


def _middle(values_RC: Floats) -> Floats:
    outside = (100 - LEVEL) / 2
    ends: Floats = np.nanpercentile(values_RC, [outside, 100 - outside], axis=0)
    return ends


def _resampled(group_N: Ints, pairs: int, resamples: int, seed: int) -> Iterator[Ints]:
    """Weights N x R of the samples, in chunks of resamples; each resample is a function of the seed and its number."""
    groups, place_N = np.unique(group_N, return_inverse=True)
    weights_RN = np.empty((resamples, len(group_N)), np.uint8)
    for r in range(resamples):
        chosen = draws(seed, r, "thresholds").integers(0, len(groups), len(groups))
        weights_RN[r] = np.bincount(chosen, minlength=len(groups))[place_N]
    chunk = max(1, _ELEMENTS // max(pairs, 1))
    for start in range(0, resamples, chunk):
        yield weights_RN[start : start + chunk].T.astype(np.int64)
