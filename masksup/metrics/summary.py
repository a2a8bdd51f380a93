"""All scores of one evaluation with the protocol that produced them, ready for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.errors import UserError
from masksup.metrics.auroc import auroc
from masksup.metrics.average_precision import ApRule, average_precision, mean_average_precision
from masksup.metrics.histogram import PairCounts, auroc_of_counts, average_precision_of_counts
from masksup.metrics.pairs import Labels, Scores, probabilities
from masksup.metrics.precision_recall import (
    IGNORED_IS_NEGATIVE,
    Compat,
    check_compat,
    precision_recall,
    precision_recall_of_counts,
)

TOP = 3
_THRESHOLD = {"none": 0.5, "csra": 0.5, "csra_wider": 0.5, "mcar": 0.6}
EXACT, COUNTED = "from every score", "from histograms of the logits in half precision"
THRESHOLD_SCORES = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def score(
    logits_NC: Scores,
    labels_NC: Labels,
    classes: Sequence[str],
    *,
    ap_rule: ApRule = "area",
    threshold: float | None = None,
    compat: Compat = "none",
) -> dict[str, Any]:
    """Every score in PERCENT, as a dict of Python numbers, strings, lists and None that `json.dump` takes.

    `logits_NC` float N x C rank; their probabilities are compared with the threshold. `labels_NC` int8 (1, 0, -1
    ignored). `threshold` None means the rule's own: 0.5, under compat "mcar" 0.6. `compat` "csra", "csra_wider",
    "mcar" follow the released code (sigmoid in float32, which also ranks; ties of AP in sample order; and the rules
    listed at `precision_recall`).

    Keys: `mAP`; `AP` (class -> percent, None without positives or negatives); `mAUROC` and `AUROC`, likewise;
    `CP CR CF1 OP OR OF1` at the threshold; `top3` (the same six); `images`; `classes`, `scored_classes` (counts; those
    with an AP); `unscored` (names of classes without positives, left out of every mean over classes);
    `without_negatives` (names of classes with positives alone, left out of mAP, unless `compat` says otherwise, and of
    mAUROC); `positives` (class -> count); `ignored_pairs`; `protocol` (every rule by name). A score that no class
    supports is None.
    Raises UserError for unknown rules and for logits that are NaN.
    """
    check_compat(compat)
    assert logits_NC.shape[1] == len(classes), (logits_NC.shape, classes)
    assert len(set(classes)) == len(classes), "class names repeat"
    if compat != "none" and ap_rule != "area":
        raise UserError(f"compat '{compat}': found AP rule '{ap_rule}', expected 'area', the only one of that code")
    level = decision_threshold(threshold, compat)
    clean = compat == "none"
    scores_NC = probabilities(logits_NC) if clean else _original_sigmoid(logits_NC)
    ranked_NC = logits_NC if clean else scores_NC
    ap_C = average_precision(ranked_NC, labels_NC, ap_rule if clean else "original")
    decided = (
        precision_recall(scores_NC, labels_NC, level, compat=compat),
        precision_recall(scores_NC, labels_NC, level, top=TOP, compat=compat, ranked_by=ranked_NC),
    )
    counted = {"images": len(logits_NC), "ignored_pairs": int(np.count_nonzero(labels_NC == -1))}
    pairs_2C = np.stack([np.count_nonzero(labels_NC == label, axis=0) for label in (0, 1)])
    protocol = _protocol(ap_rule, level, compat, EXACT)
    ranked = ap_C, auroc(ranked_NC, labels_NC)
    return _summary(ranked, decided, pairs_2C, classes, counted, protocol)


def _original_sigmoid(logits_NC: Scores) -> NDArray[np.float32]:
    """What the released code ranks and decides by: torch's sigmoid in float32, 1 for every logit above 17."""
    import torch  # no other score takes it

    found_NC: NDArray[np.float32] = torch.from_numpy(logits_NC.astype(np.float32)).sigmoid().numpy()
    return found_NC


def score_counts(counts: PairCounts, classes: Sequence[str], ap_rule: ApRule) -> dict[str, Any]:
    """The same from counts, with AP to the resolution of half precision, which the protocol says."""
    assert counts.top == TOP, counts.top
    positives_C = counts.positives_C
    decided = [
        precision_recall_of_counts(hits_C, predictions_C, positives_C)
        for hits_C, predictions_C in zip(counts.hits_2C, counts.predictions_2C)
    ]
    counted = {"images": int(counts.totals[0]), "ignored_pairs": int(counts.totals[1])}
    protocol = _protocol(ap_rule, counts.threshold, "none", COUNTED)
    ranked = average_precision_of_counts(counts, ap_rule), auroc_of_counts(counts)
    pairs_2C = np.stack([counts.negatives_C, positives_C])
    return _summary(ranked, decided, pairs_2C, classes, counted, protocol)


def _summary(
    ranked: tuple[NDArray[np.float64], NDArray[np.float64]], decided: Sequence[dict[str, float]],
    pairs_2C: NDArray[np.int64], classes: Sequence[str], counted: dict[str, int], protocol: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """ranked: AP and AUROC of each class. decided: at the threshold, and within the top.

    pairs_2C: how many negatives and positives each class has.
    """
    (ap_C, auroc_C), (at_threshold, at_top), (negatives_C, positives_C) = ranked, decided, pairs_2C
    return {
        "mAP": _percent(mean_average_precision(ap_C)),
        "mAUROC": _percent(mean_average_precision(auroc_C)),
        **{key: _percent(at_threshold[key]) for key in THRESHOLD_SCORES},
        f"top{TOP}": {key: _percent(at_top[key]) for key in THRESHOLD_SCORES},
        "AP": {name: _percent(ap) for name, ap in zip(classes, ap_C)},
        "AUROC": {name: _percent(area) for name, area in zip(classes, auroc_C)},
        "positives": {name: int(count) for name, count in zip(classes, positives_C)},
        "images": counted["images"],
        "classes": len(classes),
        "scored_classes": int(np.count_nonzero(~np.isnan(ap_C))),
        "unscored": [name for name, count in zip(classes, positives_C) if count == 0],
        "without_negatives": [classes[c] for c in np.flatnonzero((negatives_C == 0) & (positives_C > 0)).tolist()],
        "ignored_pairs": counted["ignored_pairs"],
        "protocol": protocol,
    }


def decision_threshold(threshold: float | None, compat: Compat) -> float:
    """The probability from which a class counts as predicted: `threshold`, or for None that of the rules."""
    return _THRESHOLD[compat] if threshold is None else threshold


def _percent(fraction: float) -> float | None:
    return None if np.isnan(fraction) else 100 * float(fraction)


def _protocol(ap_rule: str, threshold: float, compat: str, computed: str) -> dict[str, Any]:
    original = compat != "none"
    return {
        "unit": "percent",
        "ap_rule": ap_rule,
        "ap_computed": computed,
        "compat": compat,
        "ties": "in sample order" if original else "ranked together",
        "threshold": threshold,
        "top": TOP,
        "ignored_in_ap": "left out",
        "ignored_at_threshold": "negative" if compat in IGNORED_IS_NEGATIVE else "left out",
        "class_without_positives": "left out of means over classes",
        "class_without_negatives": "AP 100" if original else "left out of mAP",
        "auroc_ties": "count half",
        "class_without_predictions": "precision 0" + (", adds 1 to the predictions of OP" if original else ""),
    }
