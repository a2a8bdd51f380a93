"""From probabilities, as files and the originals give them, back to the logits that scores are computed from."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def logit(probabilities_NC: NDArray[Any]) -> NDArray[np.float64]:
    """Infinite at 0 and 1."""
    p_NC = probabilities_NC.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.log(p_NC) - np.log1p(-p_NC)
