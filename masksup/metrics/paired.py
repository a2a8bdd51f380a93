"""Two models on the same images: how much better the second is, and how sure that is.

A resample draws the same images for both, so what makes an image hard for both cancels out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.average_precision import ApRule, average_precision
from masksup.metrics.bootstrap import Floats, ScoredPairs, bootstrap
from masksup.metrics.pairs import Labels, Scores
from masksup.metrics.stratified import LEVEL, SEED


@dataclass(frozen=True)
class Resampled:
    """AP of each class (nan without positives), their mean, and that mean in each resample; in percent."""

    ap_C: Floats
    mean_ap: float
    mean_ap_R: Floats

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the resamples, moved so that their mean is the score, as all intervals here are."""
        return interval_of(self.mean_ap_R, self.mean_ap)


def resampled(
    scores_NC: Scores, labels_NC: Labels, image_N: NDArray[np.integer], rule: ApRule, resamples: int
) -> Resampled:
    """Resample r draws the same images for any model. image_N: the image of each sample, drawn as one."""
    pairs = ScoredPairs(scores_NC, labels_NC, (labels_NC == 1)[None], scores_NC >= 0, rule)
    means_GR, _, _ = bootstrap(pairs, image_N, resamples=resamples, seed=SEED)
    ap_C = 100 * average_precision(scores_NC, labels_NC, rule)
    return Resampled(ap_C, float(np.nanmean(ap_C)), 100 * means_GR[0])


def interval_of(values_R: Floats, at: float) -> tuple[float, float]:
    """The middle 95 % of some resamples, moved so that their mean is `at`."""
    moved_R = values_R - np.nanmean(values_R) + at
    low, high = np.nanpercentile(moved_R, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
