"""Area under the ROC curve of each class: the share of (positive, negative) pairs that the scores put in order."""

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.pairs import Labels, Scores, check_pairs


def auroc(scores_NC: Scores, labels_NC: Labels) -> NDArray[np.float64]:
    """AUROC of each class as a fraction, float64 of length C; nan without positives or without negatives.

    A positive and a negative that tie count as half in order (Mann and Whitney), so the order of samples cannot matter.
    Ignored pairs (label -1) are left out. UserError for scores that are NaN.
    """
    check_pairs(scores_NC, labels_NC)
    result_C = np.full(scores_NC.shape[1], np.nan)
    for c in range(len(result_C)):
        positives_P, negatives_M = (scores_NC[labels_NC[:, c] == label, c] for label in (1, 0))
        if len(positives_P) and len(negatives_M):
            negatives_M.sort()
            below, up_to = (int(np.searchsorted(negatives_M, positives_P, side).sum()) for side in ("left", "right"))
            result_C[c] = (below + up_to) / (2 * len(positives_P) * len(negatives_M))
    return result_C
