"""Scores from counts: memory is the same for any number of samples, and sums over ranks are sums of integers.

A logit is rounded to half precision, whose 16 bits, reordered so that they rise with the value, number the bins of one
histogram of positives and one of negatives for each class: 512 KiB a class. AP is computed from them with all logits of
one bin ranked together. It differs from the exact AP only by pairs that half precision makes equal. Scores at a
threshold, and those within the top 3 of a sample, are counted from the logits as they are, so they are exact.
"""

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.average_precision import ApRule
from masksup.metrics.pairs import Labels, check_pairs, probabilities
from masksup.metrics.precision_recall import Counts, Floats, PrCurve, pr_points_of, predicted_pairs

CODES = 1 << 16
_SIGN = np.uint16(0x8000)
_LARGEST = 65504.0  # of half precision: logits beyond it tie with it
_NEGATIVE, _POSITIVE = 0, 1


def codes_of(logits: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bin of each logit: rises with its value in half precision; 0 and -0 share one."""
    half = (np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16) + np.float16(0)).view(np.uint16)
    return np.where(half & _SIGN, ~half, half | _SIGN)


def logits_of(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The logit that a bin stands for: the inverse of `codes_of` (nan and infinity for codes that it never gives)."""
    half = np.where(codes & _SIGN, codes ^ _SIGN, ~codes)
    return half.view(np.float16).astype(np.float32)


class PairCounts:
    """What the scores of a part are computed from. Any order and any division of the samples gives the same counts."""

    def __init__(self, classes: int, threshold: float, top: int) -> None:
        self.threshold, self.top = threshold, top
        # 32 bits, as 64 would double the only memory that matters; `add` sees to it that they suffice.
        self.bins_2CK = np.zeros((2, classes, CODES), np.int32)
        self.hits_2C = np.zeros((2, classes), np.int64)  # at the threshold; and within the top
        self.predictions_2C = np.zeros((2, classes), np.int64)
        self.totals = np.zeros(3, np.int64)  # samples, ignored pairs, samples whose image is broken

    def add(self, logits_NC: NDArray[np.float32], labels_NC: Labels, broken_N: NDArray[np.bool_]) -> None:
        """Count some samples; all labels of a broken one are ignored. UserError for logits that are NaN."""
        labels_NC = np.where(broken_N[:, None], np.int8(-1), labels_NC)
        check_pairs(logits_NC, labels_NC)
        self.totals += np.array([len(logits_NC), (labels_NC == -1).sum(), broken_N.sum()], np.int64)
        assert self.totals[0] < 2**31, "more samples than the counts can hold"
        self._count(labels_NC, codes_of(logits_NC))
        scores_NC = probabilities(logits_NC)
        for row, top in enumerate((None, self.top)):
            predicted_NC = predicted_pairs(scores_NC, labels_NC, self.threshold, top, ranked_by=logits_NC)
            self.hits_2C[row] += np.count_nonzero(predicted_NC & (labels_NC == 1), axis=0)
            self.predictions_2C[row] += np.count_nonzero(predicted_NC, axis=0)

    def _count(self, labels_NC: Labels, codes_NC: NDArray[np.uint16]) -> None:
        """Class after class: bins of one class lie together, and their memory is what counting waits for."""
        classes = labels_NC.shape[1]
        judged_CN = labels_NC.T >= 0
        class_P = np.repeat(np.arange(classes), np.count_nonzero(judged_CN, axis=1))
        row_P = labels_NC.T[judged_CN].astype(np.int64) * classes + class_P
        np.add.at(self.bins_2CK.reshape(-1), row_P * CODES + codes_NC.T[judged_CN], 1)

    @property
    def arrays(self) -> tuple[NDArray[np.int32], Counts, Counts, Counts]:
        """The counts themselves: summed over ranks in place, they are those of all samples."""
        return self.bins_2CK, self.hits_2C, self.predictions_2C, self.totals

    @property
    def positives_C(self) -> Counts:
        return self._pairs_C(_POSITIVE)

    @property
    def negatives_C(self) -> Counts:
        return self._pairs_C(_NEGATIVE)

    def _pairs_C(self, which: int) -> Counts:
        pairs_C: Counts = self.bins_2CK[which].sum(axis=-1, dtype=np.int64)
        return pairs_C


def average_precision_of_counts(counts: PairCounts, rule: ApRule) -> NDArray[np.float64]:
    """AP of each class as a fraction, float64 C, by the rules of `average_precision`; nan where it is nan there."""
    assert rule != "original", "it ranks ties in the order of the samples, which counts do not know"
    result_C = np.full(counts.bins_2CK.shape[1], np.nan)
    for c in range(len(result_C)):
        positive_K, negative_K = counts.bins_2CK[_POSITIVE, c], counts.bins_2CK[_NEGATIVE, c]
        if positive_K.any() and negative_K.any():
            result_C[c] = _average_precision(positive_K, negative_K, rule)
    return result_C


def auroc_of_counts(counts: PairCounts) -> NDArray[np.float64]:
    """As `auroc`, where the logits of one bin tie."""
    result_C = np.full(counts.bins_2CK.shape[1], np.nan)
    for c in range(len(result_C)):
        positive_K, negative_K = (counts.bins_2CK[which, c].astype(np.float64) for which in (_POSITIVE, _NEGATIVE))
        if pairs := positive_K.sum() * negative_K.sum():
            below_K = np.cumsum(negative_K) - negative_K
            result_C[c] = float(positive_K @ (below_K + negative_K / 2)) / pairs
    return result_C


def _average_precision(positive_K: NDArray[np.int32], negative_K: NDArray[np.int32], rule: ApRule) -> float:
    """From the bins with positives alone, lowest first, as only there precision is asked for."""
    held = np.flatnonzero(positive_K)
    true_K = _at_or_above(positive_K)[held]
    precision_K = true_K / (true_K + _at_or_above(negative_K)[held])
    if rule != "area":
        precision_K = np.maximum.accumulate(precision_K)
    if rule == "voc2007":
        recall_K = true_K / true_K[0]  # falls, as the score rises
        reaching = [np.count_nonzero(recall_K >= k * 0.1) for k in range(11)]
        return float(np.mean([precision_K[count - 1] for count in reaching]))
    return float((precision_K * positive_K[held]).sum() / true_K[0])


def _at_or_above(counts_K: NDArray[np.int32]) -> Counts:
    total: Counts = counts_K[::-1].cumsum(dtype=np.int64)[::-1]
    return total


def pr_curve_of_counts(counts: PairCounts, thresholds: int = 127) -> PrCurve:
    """As `pr_curve` of probabilities, each of them that of its bin."""
    first, last = codes_of(np.array([-np.inf, np.inf], np.float32)).tolist()
    probability_K = probabilities(logits_of(np.arange(first, last + 1, dtype=np.uint16)))
    start_T = np.searchsorted(np.floor(probability_K * (thresholds - 1)), np.arange(thresholds))

    def at_or_above(which: int) -> Counts:
        return np.stack([_at_or_above(counts_K[first : last + 1])[start_T] for counts_K in counts.bins_2CK[which]])

    return PrCurve.of(at_or_above(_POSITIVE), at_or_above(_NEGATIVE))


def pr_points_of_counts(counts: PairCounts, c: int) -> tuple[Floats, Floats]:
    """As `pr_points` of class `c`, where the logits of one bin tie."""
    hits_K, false_K = (counts.bins_2CK[which, c, ::-1].cumsum(dtype=np.int64) for which in (_POSITIVE, _NEGATIVE))
    seen = np.flatnonzero(hits_K)
    return pr_points_of(hits_K[seen], (hits_K + false_K)[seen])
