"""Average precision and recall of many bootstrap resamples at once, exactly.

A resample draws as many images as there are, with replacement; image i is then in it w_i times, and a score of
the resample is the score with pair weights w. Ranks do not change between resamples, so each class is sorted
once and only sums of weights are made: over the negatives between one positive and the next, for all resamples.

With TP(s) and FP(s) the weights of positives and negatives that score at least s, precision at a positive of
score s is TP(s) / (TP(s) + FP(s)), and the rules of `average_precision` hold with weights for counts.

Shapes: N samples, C classes, G groups of positives, P positives of a class, R resamples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.base.random import draws
from masksup.metrics.average_precision import ApRule
from masksup.metrics.pairs import Labels, Scores, check_pairs, probabilities

Floats = NDArray[np.float64]
Weights = NDArray[np.uint16]
_CHUNK = 250  # resamples at a time: gathered weights stay within tens of MB for 100,000 samples


@dataclass(frozen=True)
class ScoredPairs:
    """What is scored, and how: scores rank, a positive that is predicted is recalled, `rule` gives AP.

    group_GNC is within labels_NC == 1: each group of positives is scored by itself. UserError for NaN.
    """

    scores_NC: Scores
    labels_NC: Labels
    group_GNC: NDArray[np.bool_]
    predicted_NC: NDArray[np.bool_]
    rule: ApRule

    def __post_init__(self) -> None:
        check_pairs(self.scores_NC, self.labels_NC)

    @classmethod
    def of(cls, logits_NC: Scores, labels_NC: Labels, rule: ApRule, threshold: float) -> "ScoredPairs":
        """All positives as one group. Logits rank; a pair is predicted if its probability is >= threshold."""
        predicted_NC = probabilities(logits_NC) >= threshold
        return cls(logits_NC, labels_NC, (labels_NC == 1)[None], predicted_NC, rule)


@dataclass(frozen=True)
class GroupScores:
    """Fractions G x C x R: AP and recall of each group's positives, nan where it has none, and AP where the class
    has no negatives, too; and their weight."""

    ap_GCR: Floats
    hits_GCR: NDArray[np.int64]
    positives_GCR: NDArray[np.int64]

    @property
    def mean_ap_GR(self) -> Floats:
        return _mean_of_known(self.ap_GCR)

    @property
    def class_recall_GR(self) -> Floats:
        """Mean over classes of the recall of each."""
        return _mean_of_known(self.hits_GCR / np.where(self.positives_GCR > 0, self.positives_GCR, np.nan))

    @property
    def overall_recall_GR(self) -> Floats:
        """Recall of all pairs together."""
        positives_GR = self.positives_GCR.sum(axis=1)
        recall: Floats = self.hits_GCR.sum(axis=1) / np.where(positives_GR > 0, positives_GR, np.nan)
        return recall


def weighted_scores(pairs: ScoredPairs, weights_NR: Weights) -> GroupScores:
    """Scores of each group of positives against all negatives of their class, under R weightings of the samples.

    Positives outside a group take no part in its scores, as ignored pairs do. Ties are ranked together.
    """
    scores_NC, labels_NC, group_GNC = pairs.scores_NC, pairs.labels_NC, pairs.group_GNC
    groups, _, classes = group_GNC.shape
    shape = (groups, classes, weights_NR.shape[1])
    ap_GCR, hits_GCR, total_GCR = np.full(shape, np.nan), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    reduce = _REDUCE[pairs.rule]
    # A resample beside the other: where few of many samples are taken and summed, twice as fast as by rows.
    weights_RN = np.ascontiguousarray(weights_NR.T)
    all_R = weights_NR.sum(axis=0, dtype=np.int64)
    for c in range(classes):
        positive_P = np.flatnonzero(labels_NC[:, c] == 1)
        if not len(positive_P):
            continue
        positive_P = positive_P[np.argsort(-scores_NC[positive_P, c])]
        scores_P, weights_PR = scores_NC[positive_P, c], weights_NR[positive_P]
        false_PR = _weight_above(scores_NC[:, c], labels_NC[:, c] == 0, scores_P, weights_RN)
        opposed_R = _weight_of(labels_NC[:, c] == 0, weights_NR, all_R) > 0
        for g in range(groups):
            rows = np.flatnonzero(group_GNC[g, positive_P, c])
            if not len(rows):
                continue
            own_PR = weights_PR[rows]
            true_PR = own_PR.cumsum(axis=0, dtype=np.int64)
            total_GCR[g, c] = true_PR[-1]
            hits_GCR[g, c] = own_PR[pairs.predicted_NC[positive_P[rows], c]].sum(axis=0, dtype=np.int64)
            last_P = np.searchsorted(-scores_P[rows], -scores_P[rows], side="right") - 1
            true_PR = true_PR[last_P]
            precision_PR = true_PR / np.maximum(true_PR + false_PR[rows], 1)
            known = (total_GCR[g, c] > 0) & opposed_R
            ap_GCR[g, c, known] = reduce(precision_PR, true_PR, own_PR)[known]
    return GroupScores(ap_GCR, hits_GCR, total_GCR)


def bootstrap(
    pairs: ScoredPairs, image_N: NDArray[np.integer], *, resamples: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """(mAP, recall of all pairs, mean recall of classes), each G x R: of `resamples` resamples of the images.

    image_N is the image of each sample: the persons of one image are drawn together. Resample r is a function of
    (seed, r). A class without positives in a resample is left out of its means, and one without negatives of its mAP.
    """
    parts = []
    for weights_NR in _resampled_weights(image_N, resamples, seed):
        scores = weighted_scores(pairs, weights_NR)
        parts.append((scores.mean_ap_GR, scores.overall_recall_GR, scores.class_recall_GR))
    mean_ap, overall, by_class = (np.concatenate(values, axis=1) for values in zip(*parts))
    return mean_ap, overall, by_class


def _resampled_weights(image_N: NDArray[np.integer], resamples: int, seed: int) -> Iterator[Weights]:
    images, own_N = np.unique(image_N, return_inverse=True)
    count = len(images)
    for start in range(0, resamples, _CHUNK):
        numbers = range(start, min(start + _CHUNK, resamples))
        times_RI = np.empty((len(numbers), count), np.uint16)  # filled row by row: draws are four times as large
        for row, number in enumerate(numbers):
            times_RI[row] = np.bincount(draws(seed, number, "bootstrap").integers(0, count, count), minlength=count)
        yield np.ascontiguousarray(times_RI.T[own_N])


def _weight_of(chosen_N: NDArray[np.bool_], weights_NR: Weights, all_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Weight of the chosen samples in each resample, summed over those that are fewer: they or the others."""
    if 2 * np.count_nonzero(chosen_N) > len(chosen_N):
        weight_R: NDArray[np.int64] = all_R - weights_NR[~chosen_N].sum(axis=0, dtype=np.int64)
    else:
        weight_R = weights_NR[chosen_N].sum(axis=0, dtype=np.int64)
    return weight_R


def _weight_above(
    scores_N: Scores, negative_N: NDArray[np.bool_], scores_P: Scores, weights_RN: Weights
) -> NDArray[np.int64]:
    """Weight of the negatives that score at least as high as each positive (scores_P descending)."""
    negative_M = np.flatnonzero(negative_N)
    order_M = negative_M[np.argsort(-scores_N[negative_M])]
    count_P = np.searchsorted(-scores_N[order_M], -scores_P, side="right")
    ends_K, place_P = np.unique(count_P, return_inverse=True)
    weight_KR = np.zeros((len(ends_K), len(weights_RN)), np.int64)
    # `reduceat` sums from each start to the next; an empty first segment is left out, it would give one element.
    some = ends_K > 0
    if some.any():
        starts = np.concatenate([[0], ends_K[some][:-1]])
        gathered_RM = weights_RN.take(order_M[: ends_K[-1]], axis=1)
        weight_KR[some] = np.add.reduceat(gathered_RM, starts, axis=1, dtype=np.int32).cumsum(axis=1).T
    return weight_KR[place_P]


def _mean_of_known(values_GCR: Floats) -> Floats:
    """Mean over classes of what is not nan; nan where nothing is known."""
    known_GCR = ~np.isnan(values_GCR)
    count_GR = known_GCR.sum(axis=1)
    total_GR = np.where(known_GCR, values_GCR, 0).sum(axis=1)
    mean: Floats = total_GR / np.where(count_GR > 0, count_GR, np.nan)
    return mean


def _area(precision_PR: Floats, true_PR: NDArray[np.int64], weights_PR: Weights) -> Floats:
    area: Floats = (precision_PR * weights_PR).sum(axis=0) / np.maximum(true_PR[-1], 1)
    return area


def _envelope(precision_PR: Floats) -> Floats:
    # A positive that was not drawn has the TP of the one before it and no fewer FP: it never raises the envelope.
    return np.maximum.accumulate(precision_PR[::-1], axis=0)[::-1]


def _envelope_area(precision_PR: Floats, true_PR: NDArray[np.int64], weights_PR: Weights) -> Floats:
    return _area(_envelope(precision_PR), true_PR, weights_PR)


def _eleven_points(precision_PR: Floats, true_PR: NDArray[np.int64], _weights_PR: Weights) -> Floats:
    envelope_PR = _envelope(precision_PR)
    recall_PR = true_PR / np.maximum(true_PR[-1], 1)  # rises down the rows
    total_R = np.zeros(envelope_PR.shape[1])
    for k in range(11):  # compared in float64, as `average_precision` does
        first_R = np.minimum((recall_PR < k * 0.1).sum(axis=0), len(recall_PR) - 1)
        total_R += np.take_along_axis(envelope_PR, first_R[None], axis=0)[0]
    return total_R / 11


_REDUCE: dict[str, Callable[[Floats, NDArray[np.int64], Weights], Floats]] = {
    "area": _area, "voc2012": _envelope_area, "voc2007": _eleven_points,
}  # fmt: skip
