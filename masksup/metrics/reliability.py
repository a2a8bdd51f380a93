"""Do probabilities mean what they say: reliability diagram, expected calibration error, Brier score.

Over the judged pairs (labels 1 and 0; -1 is left out). Bins are of equal width; with n_b pairs in bin b, of mean
probability p_b and share of positives y_b, ECE = sum_b n_b / n |p_b - y_b| (Naeini et al. 2015; Guo et al. 2017). In
multi-label data nearly all pairs are absent and of low probability, so that ECE over all pairs is small; the mean over
classes of the ECE of each (classes with positives) tells more.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.pairs import Labels, Scores, check_pairs

BINS = 15


def calibration_scores(probabilities_NC: Scores, labels_NC: Labels) -> dict[str, Any]:
    """`ECE`, `class_ECE`, `brier` as fractions (None without judged pairs) and the `reliability` of all pairs."""
    check_pairs(probabilities_NC, labels_NC)
    judged_NC = labels_NC >= 0
    if not judged_NC.any():
        return {"ECE": None, "class_ECE": None, "brier": None, "reliability": None}
    p, present = probabilities_NC[judged_NC], labels_NC[judged_NC] == 1
    found = np.flatnonzero((labels_NC == 1).any(axis=0))
    each = []
    for c in found:
        rows = judged_NC[:, c]
        each.append(expected_calibration_error(reliability(probabilities_NC[rows, c], labels_NC[rows, c] == 1)))
    table = reliability(p, present)
    return {
        "ECE": expected_calibration_error(table), "class_ECE": float(np.mean(each)) if each else None,
        "brier": float(((p - present) ** 2).mean()), "reliability": table,
    }  # fmt: skip


def reliability(probabilities_N: Scores, present_N: NDArray[np.bool_], bins: int = BINS) -> dict[str, list[Any]]:
    """A reliability diagram: `edges` (bins + 1), and of each bin `count`, `probability` (mean), `present` (share).

    A probability on an edge is in the bin above it, 1 in the last. Means of an empty bin are None.
    """
    bin_N = np.minimum((probabilities_N * bins).astype(np.int64), bins - 1)
    count_B = np.bincount(bin_N, minlength=bins)
    means = [
        [float(total / n) if n else None for total, n in zip(np.bincount(bin_N, values, minlength=bins), count_B)]
        for values in (probabilities_N, present_N.astype(np.float64))
    ]
    edges = (np.arange(bins + 1) / bins).tolist()
    return {"edges": edges, "count": count_B.tolist(), "probability": means[0], "present": means[1]}


def expected_calibration_error(table: dict[str, list[Any]]) -> float:
    """ECE of a reliability diagram, as a fraction; 0 of an empty one."""
    rows = [row for row in zip(table["count"], table["probability"], table["present"]) if row[0]]
    total = sum(n for n, _, _ in rows)
    return sum(n * abs(p - y) for n, p, y in rows) / total if total else 0.0
