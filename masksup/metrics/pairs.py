"""What every metric takes: a score and a label for each (sample, class) pair.

Scores are floats N x C, larger meaning "more likely present". Labels are int8 N x C: 1 present, 0 absent,
-1 ignored (VOC objects that are all difficult, WIDER attributes that are unspecified).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.errors import UserError

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.int8]


def probabilities(logits: Scores) -> NDArray[np.float64]:
    """Sigmoid in float64: in float32 all logits above 17 would tie at 1."""
    with np.errstate(over="ignore"):  # below -709, where infinity gives the right answer, 0
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


def check_pairs(scores_NC: Scores, labels_NC: Labels) -> None:
    """Refuse scores that are not finite (UserError: a diverged model) and arrays that do not fit (assert)."""
    assert scores_NC.ndim == 2, f"scores must be samples x classes, got shape {scores_NC.shape}"
    assert scores_NC.shape == labels_NC.shape, f"scores {scores_NC.shape}, labels {labels_NC.shape}"
    assert np.issubdtype(scores_NC.dtype, np.floating), f"scores must be floats, got {scores_NC.dtype}"
    if labels_NC.size:
        assert labels_NC.min() >= -1, f"labels must be 1, 0 or -1, got {labels_NC.min()}"
        assert labels_NC.max() <= 1, f"labels must be 1, 0 or -1, got {labels_NC.max()}"
    finite_NC = np.isfinite(scores_NC)
    if not finite_NC.all():
        bad_N: NDArray[np.bool_] = np.logical_not(finite_NC.all(axis=1))
        raise UserError(
            f"scores: found NaN or infinity in {bad_N.sum()} of {len(bad_N)} samples (first: sample "
            f"{bad_N.argmax()}), expected finite numbers; has training diverged?"
        )
