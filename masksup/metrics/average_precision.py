"""Average precision per class, exact, by the three rules in use and by the originals' own.

With TP(s) positives and n(s) judged samples that score at least s, precision at a positive of score s is
TP(s) / n(s). All samples of one score enter together, so the order of ties cannot change a result.

- ``area``: mean of the precision at the positives, not interpolated (scikit-learn; CSRA, MSL, MCAR).
- ``voc2012``: area under the envelope of the curve: at recall r, the largest precision at any recall >= r.
- ``voc2007``: mean of that envelope at recalls 0, 0.1, ..., 1.
- ``original``: ``area`` over one ranking in which ties keep the order of the samples, as the released code of
  CSRA and MCAR ranks. It depends on the order of samples that tie: for comparison with their numbers only.

A class without negatives has an AP of 1 under any scores, so that it says nothing of a model. It has none here, except
by ``original``.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from masksup.errors import UserError, nearest
from masksup.metrics.pairs import Labels, Scores, check_pairs

ApRule = Literal["area", "voc2012", "voc2007", "original"]
Counts = NDArray[np.int64]


def average_precision(scores_NC: Scores, labels_NC: Labels, rule: ApRule = "area") -> NDArray[np.float64]:
    """AP of each class as a fraction, float64 of length C; nan for a class without positives or without negatives.

    By the rule ``original`` a class without negatives has one.

    Any strictly increasing function of the scores gives the same result. The sigmoid is one on paper alone: above
    36 all logits are 1. So give logits. Ignored pairs (label -1) are taken out before ranking.
    Raises UserError for an unknown rule and for scores that are NaN.
    """
    if rule not in get_args(ApRule):
        raise UserError(f"AP rule: unknown '{rule}'; {nearest(rule, get_args(ApRule))}")
    check_pairs(scores_NC, labels_NC)
    # A copy with one class after the other in memory: it is sorted in place below.
    scores_CN = np.array(scores_NC.T, order="C", copy=True)
    labels_CN = np.ascontiguousarray(labels_NC.T)
    rank = _ranks_in_sample_order if rule == "original" else _ranks
    reduce = _REDUCE[rule]
    result_C = np.full(len(scores_CN), np.nan)
    for c, (scores_N, labels_N) in enumerate(zip(scores_CN, labels_CN)):
        if labels_N.size and labels_N.min() < 0:
            judged_N = labels_N >= 0
            scores_N, labels_N = scores_N[judged_N], labels_N[judged_N]
        positive_N = labels_N == 1
        if positive_N.any() and (rule == "original" or not positive_N.all()):
            result_C[c] = reduce(*rank(scores_N, positive_N))
    return result_C


def mean_average_precision(ap_C: NDArray[np.float64]) -> float:
    """Mean over the classes that have an AP; nan if none has."""
    scored = ap_C[~np.isnan(ap_C)]
    return float(scored.mean()) if scored.size else float("nan")


def _ranks(scores_N: NDArray[Any], positive_N: NDArray[np.bool_]) -> tuple[Counts, Counts]:
    """(TP, n) at each positive, from the lowest-scored positive to the highest. Sorts scores_N in place.

    Sorting bare scores and looking up the positives alone is several times faster than an argsort of all.
    """
    positives_P = scores_N[positive_N]
    positives_P.sort()
    scores_N.sort()
    true_P = len(positives_P) - np.searchsorted(positives_P, positives_P, side="left")
    seen_P = len(scores_N) - np.searchsorted(scores_N, positives_P, side="left")
    return true_P, seen_P


def _ranks_in_sample_order(scores_N: NDArray[Any], positive_N: NDArray[np.bool_]) -> tuple[Counts, Counts]:
    hits = positive_N[np.argsort(-scores_N, kind="stable")]
    seen_P = np.flatnonzero(hits)[::-1] + 1
    return np.arange(len(seen_P), 0, -1), seen_P


def _area(true_P: Counts, seen_P: Counts) -> float:
    return float((true_P / seen_P).mean())


def _envelope_area(true_P: Counts, seen_P: Counts) -> float:
    return float(np.maximum.accumulate(true_P / seen_P).mean())


def _eleven_points(true_P: Counts, seen_P: Counts) -> float:
    envelope_P = np.maximum.accumulate(true_P / seen_P)
    recall_P = true_P / len(true_P)  # falls, as the score rises
    # Compared in float64, where 0.3 < 3 * 0.1, as the Python evaluations of VOC do (0.01 mAP).
    reaching = [np.count_nonzero(recall_P >= k * 0.1) for k in range(11)]
    return float(np.mean([envelope_P[count - 1] for count in reaching]))


_REDUCE: dict[str, Callable[[Counts, Counts], float]] = {
    "area": _area, "voc2012": _envelope_area, "voc2007": _eleven_points, "original": _area,
}  # fmt: skip
