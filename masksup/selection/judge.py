"""Which rung is better: by the mean AP over held-out images of all folds, compared on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.paired import Resampled, resampled
from masksup.selection.out_of_fold import HeldOut

RESAMPLES = 1000


@dataclass(frozen=True)
class Gain:
    """Percentage points of mAP, and the standard error of that, over resamples of the images."""

    mean_ap: float
    error: float

    @property
    def pays(self) -> bool:
        """More than one standard error."""
        return self.mean_ap > self.error


def judged(found: HeldOut, counted_C: NDArray[np.bool_]) -> Resampled:
    """The score of a rung over the classes that count."""
    logits_NC, labels_NC = found.logits_NC[:, counted_C], found.labels_NC[:, counted_C]
    return resampled(logits_NC, labels_NC, found.image_N, "area", RESAMPLES)


def gain(of: Resampled, over: Resampled) -> Gain:
    """Of one rung over another; resample r of both has the same images."""
    return Gain(of.mean_ap - over.mean_ap, float(np.nanstd(of.mean_ap_R - over.mean_ap_R, ddof=1)))


def chosen(scores: Mapping[str, Resampled], order: Sequence[str]) -> str:
    """The first rung in `order` that the best one does not beat by more than a standard error.

    What is simpler, cheaper and steadier wins where the images cannot tell the two apart.
    """
    best = max(order, key=lambda name: scores[name].mean_ap)
    return next(name for name in order if not gain(scores[best], scores[name]).pays)
