"""Scores from counts: memory is the same for any number of samples, and sums over ranks are sums of integers.

A logit is rounded to half precision, whose 16 bits, reordered so that they rise with the value, number the bins of one
histogram of positives and one of negatives for each class: 512 KiB a class. AP is computed from them with all logits of
one bin ranked together. It differs from the exact AP only by pairs that half precision makes equal. Scores at a
threshold, and those within the top 3 of a sample, are counted from the logits as they are, so they are exact.
"""

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.average_precision import ApRule
from masksup.metrics.pairs import Labels, check_pairs, probabilities, reaching
from masksup.metrics.precision_recall import Counts, Floats, PrCurve, largest, pr_points_of

CODES = 1 << 16
_SIGN = np.uint16(0x8000)
_LARGEST = 65504.0  # of half precision: logits beyond it tie with it
_NEGATIVE, _POSITIVE = 0, 1
_ONE = np.int32(1)  # of the type of the bins: to add another type takes numpy ten times as long
_NO_NEGATIVE = CODES - 1  # a code that no logit has: of positive and ignored pairs among those that wait
_WAITING, _MOST_WAITING = 1 << 25, 1 << 13  # pairs, of 2 bytes, and samples that wait to be counted class after class


def codes_of(logits: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bin of each logit: rises with its value in half precision; 0 and -0 share one."""
    half = np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16).view(np.int16)
    codes = (half ^ (half >> 15 | _SIGN.view(np.int16))).view(np.uint16)  # of negative numbers all bits are turned
    codes += codes == _SIGN - 1  # -0
    return codes


def logits_of(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The logit that a bin stands for: the inverse of `codes_of` (nan and infinity for codes that it never gives)."""
    half = np.where(codes & _SIGN, codes ^ _SIGN, ~codes)
    return half.view(np.float16).astype(np.float32)


class PairCounts:
    """What the scores of a part are computed from. Any order and any division of the samples gives the same counts."""

    def __init__(self, classes: int, threshold: float, top: int) -> None:
        self.threshold, self.top = threshold, top
        # 32 bits, as 64 would double the only memory that matters; `add` sees to it that they suffice.
        self._bins_2CK = np.zeros((2, classes, CODES), np.int32)
        self.hits_2C = np.zeros((2, classes), np.int64)  # at the threshold; and within the top
        self.predictions_2C = np.zeros((2, classes), np.int64)
        self.totals = np.zeros(3, np.int64)  # samples, ignored pairs, samples whose image is broken
        self._waiting_CB = np.zeros((classes, min(_MOST_WAITING, max(1, _WAITING // classes))), np.uint16)
        self._waits = 0  # samples of it that are not in the bins yet

    def add(self, logits_NC: NDArray[np.float32], labels_NC: Labels, broken_N: NDArray[np.bool_]) -> None:
        """Count some samples; all labels of a broken one are ignored. UserError for logits that are NaN."""
        if broken_N.any():
            labels_NC = np.where(broken_N[:, None], np.int8(-1), labels_NC)
        check_pairs(logits_NC, labels_NC)
        ignored_NC = labels_NC < 0
        ignored = np.count_nonzero(ignored_NC)
        self.totals += np.array([len(logits_NC), ignored, broken_N.sum()], np.int64)
        assert self.totals[0] < 2**31, "more samples than the counts can hold"
        self._count(labels_NC, codes_of(logits_NC))
        if ignored:
            logits_NC = np.where(ignored_NC, np.float32(-np.inf), logits_NC)
        predicted_NC = reaching(logits_NC, self.threshold)
        if ignored:
            predicted_NC &= ~ignored_NC
        self._note_predictions(0, predicted_NC, labels_NC)
        self._note_predictions(1, predicted_NC & largest(logits_NC, self.top), labels_NC)

    def _note_predictions(self, row: int, predicted_NC: NDArray[np.bool_], labels_NC: Labels) -> None:
        classes = labels_NC.shape[1]
        at_P = np.flatnonzero(predicted_NC)
        hits_P = at_P[labels_NC.reshape(-1)[at_P] == 1]
        self.predictions_2C[row] += np.bincount(at_P % classes, minlength=classes)
        self.hits_2C[row] += np.bincount(hits_P % classes, minlength=classes)

    def _count(self, labels_NC: Labels, codes_NC: NDArray[np.uint16]) -> None:
        """Count positives now, as they are few, and put the codes of the others by until there are many of a class."""
        classes, codes_P = labels_NC.shape[1], codes_NC.reshape(-1)
        others_P = np.flatnonzero(labels_NC != 0)
        positive_P = others_P[labels_NC.reshape(-1)[others_P] == 1]
        cells_P = positive_P % classes * CODES + codes_P[positive_P]
        np.add.at(self._bins_2CK[_POSITIVE].reshape(-1), cells_P, _ONE)
        codes_P[others_P] = _NO_NEGATIVE
        while len(codes_NC):
            some_BC = codes_NC[: self._waiting_CB.shape[1] - self._waits]
            self._waiting_CB[:, self._waits : self._waits + len(some_BC)] = some_BC.T
            self._waits += len(some_BC)
            codes_NC = codes_NC[len(some_BC) :]
            if self._waits == self._waiting_CB.shape[1]:
                self._count_waiting()

    def _count_waiting(self) -> None:
        """Class after class: the bins of one class stay in the cache, those of all classes are far larger than it."""
        if self._waits:
            for bins_K, codes_B in zip(self._bins_2CK[_NEGATIVE], self._waiting_CB[:, : self._waits]):
                np.add.at(bins_K, codes_B.astype(np.intp), _ONE)
            self._bins_2CK[_NEGATIVE, :, _NO_NEGATIVE] = 0
            self._waits = 0

    @property
    def bins_2CK(self) -> NDArray[np.int32]:
        """Samples of each class in each bin: negatives, positives."""
        self._count_waiting()
        return self._bins_2CK

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
