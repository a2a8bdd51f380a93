"""Which rung is better: by the mean AP over held-out images of all folds, compared on the same images.

Where robustness is asked for, each image is scored twice, as it is and with more than half of it hidden, and the mean
of the two mean APs judges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.average_precision import average_precision
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


@dataclass(frozen=True)
class Score:
    """Of a rung, over the classes that count."""

    clean: Resampled
    masked: Resampled | None = None

    @property
    def judged(self) -> Resampled:
        """What the choice goes by; resample r of both has the same images."""
        if self.masked is None:
            return self.clean
        both = self.clean, self.masked
        return Resampled(
            np.mean([one.ap_C for one in both], axis=0), float(np.mean([one.mean_ap for one in both])),
            np.mean([one.mean_ap_R for one in both], axis=0),
        )  # fmt: skip


def score_of(found: HeldOut, counted_C: NDArray[np.bool_]) -> Score:
    """The score of a rung by its held-out outputs."""
    labels_NC = found.labels_NC[:, counted_C]
    clean, *masked = (
        resampled(logits_NC[:, counted_C], labels_NC, found.image_N, "area", RESAMPLES)
        for logits_NC in (found.logits_NC, found.masked_NC) if logits_NC is not None
    )  # fmt: skip
    return Score(clean, *masked)


def mean_ap_of(fold: HeldOut, counted_C: NDArray[np.bool_]) -> float:
    """Mean AP of one fold in percent, over the classes that count and have a positive in it; NaN where none has."""
    ap_C = average_precision(fold.logits_NC[:, counted_C], fold.labels_NC[:, counted_C], "area")
    return 100 * float(np.mean(known)) if (known := ap_C[~np.isnan(ap_C)]).size else float("nan")


def gain(of: Resampled, over: Resampled) -> Gain:
    """Of one rung over another; resample r of both has the same images."""
    return Gain(of.mean_ap - over.mean_ap, float(np.nanstd(of.mean_ap_R - over.mean_ap_R, ddof=1)))


def chosen(scores: Mapping[str, Resampled], order: Sequence[str]) -> str:
    """The first rung in `order` that the best one does not beat by more than a standard error.

    What is simpler, cheaper and steadier wins where the images cannot tell the two apart.
    """
    best = max(order, key=lambda name: scores[name].mean_ap)
    return next(name for name in order if not gain(scores[best], scores[name]).pays)
