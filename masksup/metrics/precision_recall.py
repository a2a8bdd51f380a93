"""Precision, recall and F1 at a threshold, by class (CP, CR, CF1) and overall (OP, OR, OF1), and PR curves.

With TP_c, P_c, G_c the true positives, predictions and positives of class c, over the pairs judged:
CP = mean_c TP_c/P_c, CR = mean_c TP_c/G_c, OP = sum TP / sum P, OR = sum TP / sum G; CF1 and OF1 are the
harmonic means of CP, CR and of OP, OR (of the two means, as in the code of CSRA and MCAR).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from masksup.errors import UserError, nearest
from masksup.metrics.pairs import Labels, Scores, check_pairs

Compat = Literal["none", "csra", "csra_wider", "mcar"]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
IGNORED_IS_NEGATIVE = ("csra_wider", "mcar")
MOST_POINTS = 80


def check_compat(compat: str) -> None:
    """Raises UserError for a compatibility mode that does not exist, naming the nearest."""
    if compat not in get_args(Compat):
        raise UserError(f"compat: unknown '{compat}'; {nearest(compat, get_args(Compat))}")


def precision_recall(
    scores_NC: Scores, labels_NC: Labels, threshold: float, *, top: int | None = None, compat: Compat = "none",
    ranked_by: Scores | None = None,
) -> dict[str, float]:  # fmt: skip
    """CP, CR, CF1, OP, OR, OF1 as fractions; a pair is predicted if its score is >= threshold.

    `top`: only the `top` largest judged scores of a sample can be predictions, and still only above the
    threshold; scores that tie with the last of them are all kept, so that the order of classes cannot matter.
    `ranked_by`: logits, where `scores_NC` are probabilities, which tie where logits are large.
    A class without positives has no CR and is left out of CP and CR; its false alarms count in OP. A class
    with positives but without predictions has precision 0. nan where no class has positives.

    `compat` follows released code ("csra" for VOC and COCO, "csra_wider", "mcar"): a class without predictions
    adds 1 to the denominator of OP; ignored pairs become negatives in the latter two; `top` looks at all pairs
    and breaks ties by class order. A class without positives, a division by zero there, is left out here too.
    """
    check_compat(compat)
    check_pairs(scores_NC, labels_NC, ignored_too=compat != "none")
    predicted_NC = predicted_pairs(scores_NC, labels_NC, threshold, top, compat, ranked_by)
    true_NC = labels_NC == 1
    hits_C = np.count_nonzero(predicted_NC & true_NC, axis=0)
    predictions_C = np.count_nonzero(predicted_NC, axis=0)
    if compat != "none":
        predictions_C = np.maximum(predictions_C, 1)
    return precision_recall_of_counts(hits_C, predictions_C, np.count_nonzero(true_NC, axis=0))


def predicted_pairs(
    scores_NC: Scores, labels_NC: Labels, threshold: float, top: int | None, compat: Compat = "none",
    ranked_by: Scores | None = None,
) -> NDArray[np.bool_]:  # fmt: skip
    """Which pairs count as predicted, by the rules of `precision_recall`: a matter of each sample alone."""
    judged_NC = labels_NC >= 0
    ranked_NC = scores_NC if ranked_by is None else ranked_by
    predicted_NC = scores_NC >= threshold
    if top is not None:
        if compat == "none":
            predicted_NC &= largest(np.where(judged_NC, ranked_NC, -np.inf), top)
        else:
            predicted_NC &= _first_largest(ranked_NC, top)
    if compat not in IGNORED_IS_NEGATIVE:
        predicted_NC &= judged_NC
    return predicted_NC


def precision_recall_of_counts(
    hits_C: NDArray[np.int64], predictions_C: NDArray[np.int64], positives_C: NDArray[np.int64]
) -> dict[str, float]:
    """The six scores as fractions, from the hits, predictions and positives of each class."""
    scored = positives_C > 0
    if not scored.any():
        return dict.fromkeys(("CP", "CR", "CF1", "OP", "OR", "OF1"), float("nan"))
    precision = float((hits_C[scored] / np.maximum(predictions_C[scored], 1)).mean())
    recall = float((hits_C[scored] / positives_C[scored]).mean())
    overall_precision = float(hits_C.sum() / max(predictions_C.sum(), 1))
    overall_recall = float(hits_C.sum() / positives_C.sum())
    return {
        "CP": precision, "CR": recall, "CF1": _harmonic(precision, recall),
        "OP": overall_precision, "OR": overall_recall, "OF1": _harmonic(overall_precision, overall_recall),
    }  # fmt: skip


def decision_scores(predicted_NC: NDArray[np.bool_], labels_NC: Labels) -> dict[str, Any]:
    """In percent: `F1` (mean of the F1 of the classes with positives), CP CR CF1 OP OR OF1; `labels` an image.

    Ignored pairs are left out, except of the labels an image. None where no class has positives.
    """
    judged_NC, true_NC = labels_NC >= 0, labels_NC == 1
    hits_C = (predicted_NC & true_NC).sum(axis=0)
    predictions_C, positives_C = (predicted_NC & judged_NC).sum(axis=0), true_NC.sum(axis=0)
    scored_C = positives_C > 0
    six = precision_recall_of_counts(hits_C, predictions_C, positives_C)
    f1_C = 2 * hits_C[scored_C] / (predictions_C[scored_C] + positives_C[scored_C])
    percent = {"F1": float(f1_C.mean()) if scored_C.any() else np.nan, **six}
    return {
        **{key: None if np.isnan(value) else 100 * value for key, value in percent.items()},
        "labels": float(predicted_NC.sum() / max(len(labels_NC), 1)),
    }


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def largest(scores_NC: Scores, top: int) -> NDArray[np.bool_]:
    """The `top` largest of each row, with all that tie with the last of them."""
    classes = scores_NC.shape[1]
    if top >= classes:
        return np.ones(scores_NC.shape, bool)
    some_NS = _with_the_largest(scores_NC, top) if classes > _WIDTH * (top + 1) else scores_NC
    last = some_NS.shape[1] - top
    return np.asarray(scores_NC >= np.partition(some_NS, last, axis=1)[:, last, None])


_WIDTH = 64  # of the groups that many classes are looked through in


def _with_the_largest(scores_NC: Scores, top: int) -> Scores:
    """A part of each row that holds its `top` largest: the groups of classes with the largest maxima, and the rest."""
    samples, groups = len(scores_NC), scores_NC.shape[1] // _WIDTH
    grouped_NGW = scores_NC[:, : groups * _WIDTH].reshape(samples, groups, _WIDTH)
    best_Nt = np.argpartition(grouped_NGW.max(axis=2), groups - top, axis=1)[:, groups - top :]
    chosen_NtW = grouped_NGW[np.arange(samples)[:, None], best_Nt]
    return np.concatenate([chosen_NtW.reshape(samples, -1), scores_NC[:, groups * _WIDTH :]], axis=1)


def _first_largest(scores_NC: Scores, top: int) -> NDArray[np.bool_]:
    """Exactly `top` of each row, the first class winning a tie."""
    kept_NC = np.zeros(scores_NC.shape, bool)
    np.put_along_axis(kept_NC, np.argsort(-scores_NC, axis=1, kind="stable")[:, :top], True, axis=1)
    return kept_NC


@dataclass(frozen=True)
class PrCurve:
    """Counts and rates of each class (rows) at thresholds 0, 1/(T-1), ..., 1 (columns): all C x T.

    One row of each is what `SummaryWriter.add_pr_curve_raw(tag, true_positive, false_positive, true_negative,
    false_negative, precision, recall, num_thresholds=T)` takes. Precision without predictions is 0, as there.
    """

    true_positive: NDArray[np.int64]
    false_positive: NDArray[np.int64]
    true_negative: NDArray[np.int64]
    false_negative: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @classmethod
    def of(cls, tp_CT: NDArray[np.int64], fp_CT: NDArray[np.int64]) -> "PrCurve":
        """From the positives and negatives at or above each threshold, of which the first takes all."""
        tn_CT, fn_CT = fp_CT[:, :1] - fp_CT, tp_CT[:, :1] - tp_CT
        precision_CT = tp_CT / np.maximum(tp_CT + fp_CT, 1)
        recall_CT = tp_CT / np.maximum(tp_CT[:, :1], 1)
        return cls(tp_CT, fp_CT, tn_CT, fn_CT, precision_CT, recall_CT)


def pr_curve(scores_NC: Scores, labels_NC: Labels, thresholds: int = 127) -> PrCurve:
    """PR curves of all classes over the judged pairs. Scores are probabilities (assert: within [0, 1]).

    For one curve over all pairs give `scores.reshape(-1, 1), labels.reshape(-1, 1)`.
    """
    check_pairs(scores_NC, labels_NC)
    assert thresholds >= 2, thresholds
    scores_NC = np.where(labels_NC >= 0, scores_NC, 0)
    assert not scores_NC.size or (scores_NC.min() >= 0 and scores_NC.max() <= 1), "PR curves need probabilities"
    bin_NC = np.floor(scores_NC * (thresholds - 1)).astype(np.int64)
    cell_NC = bin_NC + thresholds * np.arange(scores_NC.shape[1])

    def at_or_above(chosen_NC: NDArray[np.bool_]) -> NDArray[np.int64]:
        counts = np.bincount(cell_NC[chosen_NC], minlength=thresholds * scores_NC.shape[1])
        return counts.reshape(-1, thresholds)[:, ::-1].cumsum(axis=1)[:, ::-1]

    return PrCurve.of(at_or_above(labels_NC == 1), at_or_above(labels_NC == 0))


def pr_points(scores_N: Scores, labels_N: Labels, decided: int = 0) -> tuple[Floats, Floats]:
    """(recall, precision) at every score of a positive, highest first, thinned to 80 points; ties as one. Empty
    without positives. Ignored samples are left out. decided: where so many have the class, a point is kept."""
    judged_N = labels_N >= 0
    scores_N, positive_N = scores_N[judged_N], labels_N[judged_N] == 1
    order_N = np.argsort(-scores_N, kind="stable")
    last_K = np.flatnonzero(np.diff(scores_N[order_N], append=np.nan) != 0)  # the last of those that tie
    return pr_points_of(positive_N[order_N].cumsum()[last_K], last_K + 1, decided)


def pr_points_of(hits_K: Counts, predictions_K: Counts, decided: int = 0) -> tuple[Floats, Floats]:
    """The same, from the positives and all samples at or above each score, highest first."""
    if not len(hits_K) or not hits_K[-1]:
        return np.zeros(0), np.zeros(0)
    new = np.flatnonzero(np.diff(hits_K, prepend=0) > 0)
    spread = np.linspace(0, len(new) - 1, min(MOST_POINTS, len(new))).round().astype(int)
    kept = np.union1d(new[spread], np.flatnonzero(predictions_K == decided))
    return (hits_K / hits_K[-1])[kept], (hits_K / predictions_K)[kept]
