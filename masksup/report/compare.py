"""Two runs on the same images: is the difference of their mAP more than chance of which images these are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.errors import UserError
from masksup.metrics.paired import interval_of, resampled
from masksup.report.gather import Gathered, Subject

RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """Second run minus first, in percentage points of mAP. `p`: share of the resamples, of both tails, in which the
    sign turns; at least 2 / (resamples + 1). `each_C`: AP of each class, nan without positives."""

    mean_ap: float
    low: float
    high: float
    p: float
    resamples: int
    each_C: NDArray[np.float64]

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.low <= 0 <= self.high


def refuse_other_data(first: Subject, other: Subject) -> None:
    """UserError unless both runs are scored on the same samples of the same classes by the same rules."""
    if first.trained.classes != other.trained.classes:
        raise UserError(
            f"{other.name}: has other classes than {first.name}, or in another order; runs side by side need the same"
        )
    same = first.part.index.hash == other.part.index.hash
    if not same or not np.array_equal(first.part.samples, other.part.samples):
        raise UserError(
            f"{other.name}: was scored on {other.part.title}, but {first.name} on {first.part.title}; name one index "
            "for all with --data"
        )
    labels_NC = first.part.labels_NC
    if not ((labels_NC == 1).any(axis=0) & (labels_NC == 0).any(axis=0)).any():
        raise UserError(f"{first.part.title}: no class is present in some samples and absent in others, to compare by")
    for key, mine, its in _rules(first, other):
        if mine != its:
            raise UserError(
                f"{other.name}: was scored with {key} {its}, but {first.name} with {mine}; --data INDEX scores all by "
                "the rules of the first"
            )


def _rules(first: Subject, other: Subject) -> list[tuple[str, object, object]]:
    """What makes scores comparable, of both runs."""
    shares = ("eval.size_shares", first.rules.size_shares, other.rules.size_shares)
    if first.scores is None or other.scores is None:  # both are scored anew, by the rules of the first
        return [shares]
    mine, its = first.scores["protocol"], other.scores["protocol"]
    return [*((f"eval.{key}", mine[key], its[key]) for key in ("ap_rule", "compat", "threshold")), shares]


def difference(first: Gathered, other: Gathered, resamples: int = RESAMPLES) -> Difference:
    """Paired: every resample draws the same images for both runs. The interval holds the middle 95 % of the
    resamples' differences, moved so that their mean is the difference itself, as all intervals here are."""
    labels_NC = np.where(first.outputs.broken_N[:, None], np.int8(-1), other.labels_NC)
    image_N = np.asarray(first.part.index.sample_image_N)[first.part.samples]
    # Probabilities, above all calibrated ones, may tie what the logits rank.
    mine, its = (
        resampled(run.outputs.logits_NC, labels_NC, image_N, first.rules.ap_rule, resamples) for run in (first, other)
    )
    each_C = its.ap_C - mine.ap_C
    mean_ap = float(np.nanmean(each_C))
    moved_R = its.mean_ap_R - mine.mean_ap_R
    low, high = interval_of(moved_R, mean_ap)
    moved_R = moved_R - np.nanmean(moved_R) + mean_ap
    turned = min(int((moved_R <= 0).sum()), int((moved_R >= 0).sum()))
    p = min(1.0, 2 * (turned + 1) / (resamples + 1))
    return Difference(mean_ap, low, high, p, resamples, each_C)
