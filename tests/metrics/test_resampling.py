"""Scores under weights equal those of repeated samples, for every rule; resamples draw whole images."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from masksup.base.random import draws
from masksup.metrics.average_precision import average_precision
from masksup.metrics.bootstrap import ScoredPairs, bootstrap, weighted_scores

N, C = 120, 6


def pairs(seed, samples=N, classes=C, levels=None):
    """Scores that tell something of the labels, with ignored pairs; `levels` makes ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((samples, classes)) < 0.2).astype(np.int8)
    scores = 1 / (1 + np.exp(-(rng.normal(size=labels.shape) + 1.5 * labels)))
    labels[rng.random(labels.shape) < 0.1] = -1
    return (scores if levels is None else np.round(scores * levels) / levels), labels


@pytest.mark.parametrize("rule", ["area", "voc2012", "voc2007"])
@pytest.mark.parametrize("levels", [None, 12])
def test_weights_are_repetitions(rule, levels):
    scores, labels = pairs(0, levels=levels)
    weights = np.random.default_rng(1).poisson(1, (N, 5)).astype(np.uint16)
    got = weighted_scores(ScoredPairs(scores, labels, (labels == 1)[None], scores >= 0.5, rule), weights)
    for r in range(5):
        repeated = np.repeat(np.arange(N), weights[:, r])
        expected = average_precision(scores[repeated], labels[repeated], rule)
        np.testing.assert_allclose(got.ap_GCR[0, :, r], expected, atol=1e-12)


def test_area_is_that_of_scikit_learn_with_sample_weights():
    scores, labels = pairs(2, levels=20)
    weights = np.random.default_rng(3).poisson(1, (N, 3)).astype(np.uint16)
    got = weighted_scores(ScoredPairs(scores, labels, (labels == 1)[None], scores >= 0.5, "area"), weights)
    for c in range(C):
        judged = labels[:, c] >= 0
        for r in range(3):
            expected = average_precision_score(
                labels[judged, c], scores[judged, c], sample_weight=weights[judged, r].astype(float)
            )
            assert got.ap_GCR[0, c, r] == pytest.approx(expected, abs=1e-12)


def test_a_group_is_scored_as_if_the_other_positives_were_ignored():
    scores, labels = pairs(4, levels=30)
    group = (labels == 1) & (np.random.default_rng(5).random((N, C)) < 0.4)
    weights = np.random.default_rng(6).poisson(1, (N, 4)).astype(np.uint16)
    got = weighted_scores(ScoredPairs(scores, labels, np.stack([labels == 1, group]), scores >= 0.6, "area"), weights)
    only = np.where((labels == 1) & ~group, np.int8(-1), labels)
    for r in range(4):
        repeated = np.repeat(np.arange(N), weights[:, r])
        np.testing.assert_allclose(got.ap_GCR[1, :, r], average_precision(scores[repeated], only[repeated]))
        hits = [sum(scores[n, c] >= 0.6 for n in repeated if group[n, c]) for c in range(C)]
        counts = [sum(1 for n in repeated if group[n, c]) for c in range(C)]
        assert got.hits_GCR[1, :, r].tolist() == hits
        assert got.positives_GCR[1, :, r].tolist() == counts
        assert got.overall_recall_GR[1, r] == sum(hits) / sum(counts)
        assert got.class_recall_GR[1, r] == pytest.approx(np.mean([h / n for h, n in zip(hits, counts) if n]))


def test_a_class_that_was_not_drawn_is_left_out_of_the_means():
    scores = np.array([[0.9, 0.2], [0.4, 0.7], [0.3, 0.8]])
    labels = np.array([[1, 0], [0, 1], [0, 0]], np.int8)
    weights = np.array([[1, 0], [0, 0], [1, 2]], np.uint16)
    got = weighted_scores(ScoredPairs(scores, labels, (labels == 1)[None], scores >= 0.5, "area"), weights)
    assert np.isnan(got.ap_GCR[0]).tolist() == [[False, True], [True, True]]
    assert got.mean_ap_GR[0, 0] == 1.0
    assert np.isnan([got.mean_ap_GR[0, 1], got.overall_recall_GR[0, 1], got.class_recall_GR[0, 1]]).all()


def test_resamples_draw_whole_images_and_are_functions_of_seed_and_number():
    scores, labels = pairs(7)
    image_N = np.repeat(np.arange(N // 4) * 7, 4)
    group = (labels == 1)[None]
    few, many = (
        bootstrap(ScoredPairs(scores, labels, group, scores >= 0.5, "area"), image_N, resamples=r, seed=3)
        for r in (2, 253)
    )
    for a, b in zip(few, many):
        assert b.shape == (1, 253)
        assert (a == b[:, :2]).all()
    for r in (0, 252):  # in the first chunk and in the second
        drawn = draws(3, r, "bootstrap").integers(0, N // 4, N // 4)
        repeated = np.concatenate([np.arange(4 * image, 4 * image + 4) for image in drawn])
        expected = average_precision(scores[repeated], labels[repeated])
        assert many[0][0, r] == pytest.approx(np.nanmean(expected), abs=1e-12)
    other = bootstrap(ScoredPairs(scores, labels, group, scores >= 0.5, "area"), image_N, resamples=2, seed=4)
    assert (other[0] != few[0]).all()


def test_resamples_of_many_images_stay_in_a_few_copies_of_their_weights():
    scores, labels = pairs(6, samples=20_000, classes=2)
    tracemalloc.start()
    bootstrap(
        ScoredPairs(scores, labels, (labels == 1)[None], scores >= 0.5, "area"),
        np.arange(20_000),
        resamples=250,
        seed=0,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The weights of 250 resamples are 10 MB; the numbers that are drawn for them would be 120 MB in all.
    assert peak < 120e6
