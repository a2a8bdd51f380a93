"""Scores of the classes where they are seen only as small objects, only as occluded ones, and so on.

AP of a stratum ranks its positives against all negatives of the class; positives of other strata are left out,
as ignored pairs are. AP falls with the share of positives, so one stratum is compared between models, not with
another stratum; recall at the threshold can be compared either way.

Intervals are percentiles of the scores of resampled images, moved by the difference between their mean and the
score: a positive that is drawn twice ranks beside its copy, which raises AP where a class has few positives, by
more than the interval is wide where there are many such classes. They tell how far the score of another set of
images of this size may be. They are None where fewer than LEAST_IMAGES images hold a positive, and where all
resamples score alike, as with a recall of 0: that does not make it certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.bootstrap import ScoredPairs, bootstrap, weighted_scores
from masksup.metrics.strata import MIXED, WITHOUT_BOXES, Division

LEVEL = 95  # percent of the resamples between the ends of an interval
LEAST_IMAGES = 10
SEED = 0  # of the resamples: fixed, so that two models are scored on the same ones
STRATUM_SCORES = ("mAP", "OR", "CR")


def stratified_scores(
    pairs: ScoredPairs, classes: Sequence[str], divided: Mapping[str, Division | str], image_N: NDArray[np.integer], *,
    resamples: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Scores in PERCENT of all positives and of each stratum, as a dict that `json.dump` takes.

    pairs: all positives as one group (`ScoredPairs.of`). divided: what `strata.divisions` gives for these samples.
    image_N: the image of each sample, drawn as one.
    resamples: number of bootstrap resamples; 0 gives no intervals.

    Keys: `all` and, for each division, `{rule, strata: {name: scores}, mixed, without_boxes}` with the number of
    positive pairs that lie in no stratum, or `{strata: None, why}`. Scores are `mAP` (mean over the classes with
    positives there and any negatives), `OR` (recall of all pairs) and `CR` (mean over classes of the recall of each),
    each with `..._interval` [low, high] or None; `positives` (pairs), `scored_classes`, `AP`, class -> percent or None.
    """
    (positive_NC,) = pairs.group_GNC
    known = {key: division for key, division in divided.items() if isinstance(division, Division)}
    names = [("all", "")] + [(key, name) for key, division in known.items() for name in division.names]
    groups = [positive_NC]
    for division in known.values():
        groups += [positive_NC & (division.stratum_NC == number) for number in range(len(division.names))]
    pairs = replace(pairs, group_GNC=np.stack(groups))
    rows = _rows(pairs, classes)
    if resamples:
        _add_intervals(rows, pairs, image_N, resamples)
    found = dict(zip(names, rows))
    result: dict[str, Any] = {"all": found["all", ""]}
    for key, reason in divided.items():
        if isinstance(reason, str):
            result[key] = {"strata": None, "why": reason}
    for key, division in known.items():
        outside = division.stratum_NC[positive_NC]
        result[key] = {
            "rule": division.rule, "strata": {name: found[key, name] for name in division.names},
            "mixed": int((outside == MIXED).sum()), "without_boxes": int((outside == WITHOUT_BOXES).sum()),
        }  # fmt: skip
    return result


def interval_protocol(resamples: int) -> dict[str, Any] | None:
    """How the intervals were made, or None where there are none."""
    if not resamples:
        return None
    return {
        "kind": "bootstrap over images, percentiles less the bias of the resamples", "level": LEVEL,
        "resamples": resamples, "seed": SEED, "least_images": LEAST_IMAGES,
    }  # fmt: skip


def _rows(pairs: ScoredPairs, classes: Sequence[str]) -> list[dict[str, Any]]:
    scores = weighted_scores(pairs, np.ones((len(pairs.scores_NC), 1), np.uint16))
    values = (scores.mean_ap_GR, scores.overall_recall_GR, scores.class_recall_GR)
    rows = []
    for g in range(len(pairs.group_GNC)):
        row: dict[str, Any] = {}
        for key, value_GR in zip(STRATUM_SCORES, values):
            row |= {key: _percent(value_GR[g, 0]), f"{key}_interval": None}
        positives_C = scores.positives_GCR[g, :, 0]
        row |= {
            "positives": int(positives_C.sum()),
            "scored_classes": int(np.count_nonzero(~np.isnan(scores.ap_GCR[g, :, 0]))),
        }
        rows.append({**row, "AP": {name: _percent(ap) for name, ap in zip(classes, scores.ap_GCR[g, :, 0])}})
    return rows


def _add_intervals(
    rows: list[dict[str, Any]], pairs: ScoredPairs, image_N: NDArray[np.integer], resamples: int
) -> None:
    enough = [len(np.unique(image_N[group_NC.any(axis=1)])) >= LEAST_IMAGES for group_NC in pairs.group_GNC]
    if not any(enough):
        return
    drawn = bootstrap(replace(pairs, group_GNC=pairs.group_GNC[enough]), image_N, resamples=resamples, seed=SEED)
    for place, g in enumerate(np.flatnonzero(enough)):
        for key, value_GR in zip(STRATUM_SCORES, drawn):
            rows[g][f"{key}_interval"] = _interval(rows[g][key], 100 * value_GR[place])


def _interval(score: float | None, drawn_R: NDArray[np.float64]) -> list[float] | None:
    if score is None or np.nanmin(drawn_R) == np.nanmax(drawn_R):
        return None
    outside = (100 - LEVEL) / 2
    ends = np.nanpercentile(drawn_R, [outside, 100 - outside]) - np.nanmean(drawn_R) + score
    return [float(end) for end in ends.clip(0, 100)]


def _percent(fraction: float) -> float | None:
    return None if np.isnan(fraction) else 100 * float(fraction)
