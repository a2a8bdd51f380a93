"""Hits and predictions at every threshold that makes a difference, under many weightings of the samples at once.

Shapes: N samples or pairs, K distinct scores from the highest down, R weightings (bootstrap resamples).
A cut k predicts what scores at least the k-th distinct score; cut -1 predicts nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.calibration.aims import Aim

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """Of one class, or of several taken together."""

    score_K: Floats
    hits_KR: Ints
    predictions_KR: Ints
    positives_R: Ints

    def f1_KR(self) -> Floats:
        """F1 at each cut; 0 in a weighting without positives."""
        whole_KR = self.predictions_KR + self.positives_R
        f1_KR: Floats = np.where(self.positives_R > 0, 2 * self.hits_KR / np.maximum(whole_KR, 1), 0.0)
        return f1_KR

    def precision_KR(self) -> Floats:
        """Precision at each cut; 0 where nothing is predicted."""
        precision_KR: Floats = self.hits_KR / np.maximum(self.predictions_KR, 1)
        return precision_KR


def curve(scores_N: Floats, labels_N: NDArray[np.int8], weights_NR: Ints, *, ignored_too: bool = False) -> Curve:
    """The curve of N pairs. Ignored pairs take no part, but with `ignored_too` in the predictions, which a budget
    limits: whoever gets the labels of an image does not know which of them will not be scored.
    """
    if not ignored_too:
        judged = labels_N >= 0
        scores_N, labels_N, weights_NR = scores_N[judged], labels_N[judged], weights_NR[judged]
    order = np.argsort(-scores_N, kind="stable")
    score_N, weight_NR = scores_N[order], weights_NR[order]
    ends = _ends_of_ties(score_N)
    positive_N1 = (labels_N[order] == 1)[:, None]
    hits_NR = np.cumsum(weight_NR * positive_N1, axis=0, dtype=np.int64)
    predictions_NR = np.cumsum(weight_NR, axis=0, dtype=np.int64)
    none_R = np.zeros(weights_NR.shape[1], np.int64)
    return Curve(score_N[ends], hits_NR[ends], predictions_NR[ends], hits_NR[-1] if len(hits_NR) else none_R)


def best_cut(aim: Aim, of: Curve, most_R: Floats) -> tuple[Ints, NDArray[np.bool_]]:
    """(cut, whether it reaches the aim) for each weighting. `most_R`: the predictions that a budget allows.

    Where no cut reaches a precision, it is the lowest of those with the highest precision.
    """
    last = len(of.score_K) - 1
    every_R = np.ones(len(most_R), bool)
    if last < 0:
        return np.full(len(most_R), -1, np.int64), np.zeros(len(most_R), bool)
    if aim.kind == "f1":
        return of.f1_KR().argmax(axis=0), of.positives_R > 0
    if aim.kind == "recall":
        reached_KR = of.hits_KR >= aim.value * of.positives_R - 1e-9
        return reached_KR.argmax(axis=0), of.positives_R > 0
    if aim.kind == "budget":
        return (of.predictions_KR <= most_R + 1e-9).sum(axis=0) - 1, every_R
    precision_KR = of.precision_KR()
    reached_KR = (precision_KR >= aim.value - 1e-12) & (of.hits_KR > 0)
    reached_R: NDArray[np.bool_] = np.asarray(reached_KR.any(axis=0))
    wanted_KR = np.where(reached_R, reached_KR, precision_KR == precision_KR.max(axis=0))
    return last - wanted_KR[::-1].argmax(axis=0), reached_R


def best_shared_f1(curves: list[Curve]) -> tuple[Floats, Ints]:
    """(all distinct scores, falling; for each weighting the cut with the highest sum over classes of their F1).

    Only the F1 of its own class changes where a pair is passed, so that the sum is one cumulative sum of changes.
    """
    score_K = np.concatenate([of.score_K for of in curves])
    change_KR = np.concatenate([np.diff(of.f1_KR(), axis=0, prepend=0) for of in curves])
    order = np.argsort(-score_K, kind="stable")
    ends = _ends_of_ties(score_K[order])
    return score_K[order][ends], np.cumsum(change_KR[order], axis=0)[ends].argmax(axis=0)


def threshold_at(score_K: Floats, cut_R: Ints) -> Floats:
    """A threshold that makes the cut: halfway to the next lower score; the lowest score itself; above the highest."""
    if not len(score_K):
        return np.ones(len(cut_R))
    above = (min(float(score_K[0]), 1.0) + 1) / 2  # of cut -1, at the end, where index -1 finds it
    lower_K = np.append(score_K[1:], score_K[-1])
    half_K = (score_K + lower_K) / 2
    # Between neighbours among the floats half is the lower one, which would be predicted too.
    made: Floats = np.append(np.where(half_K > lower_K, half_K, score_K), above)[cut_R]
    return made


def _ends_of_ties(falling_N: Floats) -> Ints:
    return np.flatnonzero(np.append(falling_N[1:] != falling_N[:-1], True)) if len(falling_N) else np.zeros(0, np.int64)
