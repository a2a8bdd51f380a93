"""What every metric takes: a score and a label for each (sample, class) pair.

Scores are floats N x C, larger meaning "more likely present". Labels are int8 N x C: 1 present, 0 absent,
-1 ignored (VOC objects that are all difficult, WIDER attributes that are unspecified).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted
from masksup.errors import UserError

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.int8]


def probabilities(logits: Scores) -> NDArray[np.float64]:
    """Sigmoid in float64, for thresholds. Not to rank by: all logits above 36 are 1, in float32 those above 17."""
    with np.errstate(over="ignore"):  # below -709, where infinity gives the right answer, 0
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


def reaching(logits: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Where `probabilities(logits) >= threshold`: computed near the threshold, and elsewhere told by the logit."""
    if not _TOLD < threshold < 1 - _TOLD:
        return probabilities(logits) >= threshold
    at = float(np.log(threshold / (1 - threshold)))
    reach = logits >= np.float32(at - _NEAR)
    unsure = np.flatnonzero(reach & (logits <= np.float32(at + _NEAR)))
    reach.reshape(-1)[unsure] = probabilities(logits.reshape(-1)[unsure]) >= threshold
    return reach


# Within these bounds, a logit that is farther from the threshold's has a probability that differs by 1e-10 and more,
# of which float64 knows 16 digits.
_TOLD, _NEAR = 1e-6, 1e-4


def check_pairs(scores_NC: Scores, labels_NC: Labels, *, ignored_too: bool = False) -> None:
    """Refuse scores that are not numbers (UserError: a diverged model) and arrays that do not fit (assert).

    Pairs that are ignored are not looked at, unless the caller does (`ignored_too`). Infinity has its place in the
    order.
    """
    assert scores_NC.ndim == 2, f"scores must be samples x classes, got shape {scores_NC.shape}"
    assert scores_NC.shape == labels_NC.shape, f"scores {scores_NC.shape}, labels {labels_NC.shape}"
    assert np.issubdtype(scores_NC.dtype, np.floating), f"scores must be floats, got {scores_NC.dtype}"
    if labels_NC.size:
        assert labels_NC.min() >= -1, f"labels must be 1, 0 or -1, got {labels_NC.min()}"
        assert labels_NC.max() <= 1, f"labels must be 1, 0 or -1, got {labels_NC.max()}"
    if np.isnan(np.min(scores_NC, initial=np.inf)):
        _refuse(np.isnan(scores_NC) & (ignored_too | (labels_NC >= 0)), "NaN", "numbers")


def check_finite(scores_NC: Scores) -> None:
    """Refuse scores that nothing can be fitted to (UserError)."""
    _refuse(~np.isfinite(scores_NC), "NaN or infinity", "finite numbers")


def _refuse(bad_NC: NDArray[np.bool_], found: str, expected: str) -> None:
    bad_N: NDArray[np.bool_] = np.logical_or.reduce(bad_NC, axis=1)
    if bad_N.any():
        raise UserError(
            f"scores: found {found} in {bad_N.sum()} of {counted(len(bad_N), 'sample')} (first: sample "
            f"{bad_N.argmax()}), expected {expected}; has training diverged?"
        )
