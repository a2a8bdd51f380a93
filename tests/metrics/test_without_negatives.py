"""A class that every judged sample shows: AP would be 100 under any scores, so it counts for nothing, and is named."""

import numpy as np
import pytest
from logits import logit

from masksup.metrics.average_precision import average_precision
from masksup.metrics.bootstrap import ScoredPairs, weighted_scores
from masksup.metrics.histogram import PairCounts
from masksup.metrics.summary import TOP, score, score_counts
from masksup.metrics.tables import headline, without_negatives

SCORES = np.array([[0.9, 0.2, 0.3], [0.4, 0.6, 0.1], [0.3, 0.7, 0.8]], np.float32)
LABELS = np.array([[0, 1, -1], [1, 1, 1], [0, -1, 1]], np.int8)  # cat both, dog and hat never absent
CLASSES = ["cat", "dog", "hat"]


@pytest.mark.parametrize("way", ["exact", "counted"])
def test_it_is_left_out_of_the_mean_counted_and_named(way: str) -> None:
    logits, counts = logit(SCORES), PairCounts(3, 0.5, TOP)
    counts.add(logits.astype(np.float32), LABELS, np.zeros(3, bool))
    summary = score(logits, LABELS, CLASSES) if way == "exact" else score_counts(counts, CLASSES, "area")
    assert summary["AP"] == {"cat": 50.0, "dog": None, "hat": None}
    assert (summary["mAP"], summary["mAUROC"], summary["scored_classes"]) == (50.0, 50.0, 1)
    assert (summary["unscored"], summary["without_negatives"]) == ([], ["dog", "hat"])
    assert summary["protocol"]["class_without_negatives"] == "left out of mAP"
    assert headline(summary).startswith("mAP 50.00 (area AP, 3 images, 1 of 3 classes")
    assert without_negatives(summary) == "2 classes without negatives, left out of mAP: dog, hat"


@pytest.mark.parametrize("rule", ["area", "voc2012", "voc2007"])
def test_of_every_rule_but_that_of_the_originals(rule: str) -> None:
    assert np.isnan(average_precision(SCORES, LABELS, rule)).tolist() == [False, True, True]  # type: ignore[arg-type]
    assert average_precision(SCORES, LABELS, "original").tolist()[1:] == [1.0, 1.0]
    original = score(logit(SCORES), LABELS, CLASSES, compat="csra")
    assert original["mAP"] == pytest.approx(250 / 3)
    assert original["protocol"]["class_without_negatives"] == "AP 100"


def test_a_resample_that_drew_no_negative_has_none_either() -> None:
    weights = np.array([[1, 0, 2], [1, 3, 1], [1, 0, 0]], np.uint16)
    got = weighted_scores(ScoredPairs(SCORES, LABELS, (LABELS == 1)[None], SCORES >= 0.5, "area"), weights)
    for r in range(3):
        repeated = np.repeat(np.arange(3), weights[:, r])
        expected = average_precision(SCORES[repeated], LABELS[repeated])
        np.testing.assert_array_equal(got.ap_GCR[0, :, r], expected)
    assert got.class_recall_GR[0, 1] == pytest.approx(1 / 3)  # recall needs no negative: dog alone is found


def test_nothing_is_scored_where_no_class_is_ever_absent() -> None:
    summary = score(logit(SCORES), np.ones_like(LABELS), CLASSES)
    assert (summary["mAP"], summary["mAUROC"], summary["scored_classes"]) == (None, None, 0)
    assert "mAP - " in headline(summary)
