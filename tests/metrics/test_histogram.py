"""Scores from counts: the bins rise with the logits, any division gives the same counts, and AP is the exact one."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masksup.errors import UserError
from masksup.metrics.average_precision import average_precision, mean_average_precision
from masksup.metrics.histogram import (
    CODES,
    PairCounts,
    average_precision_of_counts,
    codes_of,
    logits_of,
    pr_curve_of_counts,
    pr_points_of_counts,
)
from masksup.metrics.pairs import probabilities, reaching
from masksup.metrics.precision_recall import largest, pr_curve, pr_points
from masksup.metrics.summary import COUNTED, TOP, score, score_counts

RULES = ("area", "voc2012", "voc2007")
HALF = np.arange(CODES, dtype=np.uint16).view(np.float16).astype(np.float32)
FINITE = HALF[np.isfinite(HALF)]


def counted(logits_NC, labels_NC, threshold=0.5, broken_N=None, cuts=()):
    """Counts of some pairs, added in as many pieces as `cuts` says."""
    counts = PairCounts(logits_NC.shape[1], threshold, TOP)
    broken_N = np.zeros(len(logits_NC), bool) if broken_N is None else broken_N
    for rows in np.split(np.arange(len(logits_NC)), sorted(cuts)):
        counts.add(logits_NC[rows], labels_NC[rows], broken_N[rows])
    return counts


def drawn(seed, samples, classes, half=False):
    """Logits of a middling model, with rare and common classes, and labels of all kinds."""
    rng = np.random.default_rng(seed)
    share_C = rng.uniform(0.003, 0.3, classes)
    labels_NC = (rng.random((samples, classes)) < share_C).astype(np.int8)
    logits_NC = (rng.normal(-3, 1.5, labels_NC.shape) + 3.0 * labels_NC).astype(np.float32)
    labels_NC[rng.random(labels_NC.shape) < 0.05] = -1
    return (logits_NC.astype(np.float16).astype(np.float32) if half else logits_NC), labels_NC


def test_every_half_precision_number_has_its_own_bin_in_their_order() -> None:
    order = np.unique(FINITE)  # sorted, 0 and -0 as one
    codes = codes_of(order)
    assert len(order) == 63487
    assert (np.diff(codes.astype(int)) > 0).all()
    assert np.array_equal(logits_of(codes), order)
    assert codes_of(np.array([-0.0], np.float32)) == codes_of(np.array([0.0], np.float32))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=30))
@settings(max_examples=200, deadline=None)
def test_bins_never_turn_an_order_around(values: list[float]) -> None:
    logits = np.sort(np.array(values, np.float32))
    assert (np.diff(codes_of(logits).astype(int)) >= 0).all()
    inside = logits[np.abs(logits) < 65000]
    np.testing.assert_allclose(logits_of(codes_of(inside)), inside, rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 60), coarse=st.booleans())
@settings(max_examples=60, deadline=None)
def test_of_half_precision_logits_ap_is_the_exact_one(rule: str, seed: int, samples: int, coarse: bool) -> None:
    logits_NC, labels_NC = drawn(seed, samples, 4, half=True)
    if coarse:  # most tie
        logits_NC = np.round(logits_NC)
    np.testing.assert_allclose(
        average_precision_of_counts(counted(logits_NC, labels_NC), rule),
        average_precision(logits_NC, labels_NC, rule), rtol=0, atol=1e-12,
    )  # fmt: skip


@given(
    seed=st.integers(0, 10**6), samples=st.integers(0, 40), ranks=st.integers(1, 5), data=st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_order_and_division_gives_the_same_counts(seed: int, samples: int, ranks: int, data: st.DataObject) -> None:
    logits_NC, labels_NC = drawn(seed, samples, 3)
    broken_N = np.random.default_rng(seed).random(samples) < 0.1
    whole = counted(logits_NC, labels_NC, broken_N=broken_N)
    order = np.random.default_rng(seed + 1).permutation(samples)
    rank_N = data.draw(st.lists(st.integers(0, ranks - 1), min_size=samples, max_size=samples))
    total = PairCounts(3, 0.5, TOP)
    for rank in range(ranks):
        mine = order[np.array(rank_N, int)[order] == rank]
        cuts = data.draw(st.lists(st.integers(0, max(len(mine) - 1, 0)), max_size=3))
        part = counted(logits_NC[mine], labels_NC[mine], broken_N=broken_N[mine], cuts=cuts)
        for sum_of, values in zip(total.arrays, part.arrays):
            sum_of += values
    assert all(np.array_equal(one, other) for one, other in zip(total.arrays, whole.arrays))


@pytest.mark.parametrize("threshold", [0.5, 0.73])
def test_all_but_ranking_scores_are_exact(threshold: float) -> None:
    logits_NC, labels_NC = drawn(1, 800, 6)
    logits_NC[:100] = np.float32(np.log(threshold / (1 - threshold)))  # at the threshold, where half precision fails
    logits_NC[100:200] = logits_NC[100:200, :1]  # the top 3 tie
    classes = [f"class {c}" for c in range(6)]
    broken_N = np.arange(800) % 50 == 0
    labels_NC[:, 5] = np.minimum(labels_NC[:, 5], 0)  # no positives
    seen_NC = np.where(broken_N[:, None], np.int8(-1), labels_NC)
    exact = score(logits_NC, seen_NC, classes, threshold=threshold)
    counts = counted(logits_NC, labels_NC, threshold, broken_N, cuts=(130, 500))
    ours = score_counts(counts, classes, "area")
    approximate = {"mAP", "AP", "mAUROC", "AUROC", "protocol"}
    assert ours.keys() == exact.keys()
    assert {k: v for k, v in ours.items() if k not in approximate} == {
        k: v for k, v in exact.items() if k not in approximate
    }
    assert ours["AP"]["class 5"] is None
    assert ours["protocol"] == exact["protocol"] | {"ap_computed": COUNTED}
    json.dumps(ours)


def test_of_40504_x_80_drawn_scores_map_is_within_1e_4() -> None:
    logits_NC, labels_NC = drawn(2, 40_504, 80)
    counts = counted(logits_NC, labels_NC)
    for rule in RULES:
        exact = average_precision(logits_NC, labels_NC, rule)
        ours = average_precision_of_counts(counts, rule)
        assert mean_average_precision(ours) == pytest.approx(mean_average_precision(exact), abs=1e-4)
        if rule == "area":
            np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-4)


@pytest.mark.shared
@pytest.mark.parametrize("model", ["resnet18_1", "resnet50_1", "resnet34_attempt11"])
def test_of_published_scores_map_is_within_1e_4(model, shared_data) -> None:
    with np.load(shared_data / "voc2012_val_scores" / "scores.npz") as arrays:
        scores_NC, raw_NC = arrays[model].astype(np.float64), arrays["labels"]
    scores_NC = np.clip(scores_NC, 1e-12, 1 - 1e-9)
    logits_NC = np.log(scores_NC / (1 - scores_NC)).astype(np.float32)
    labels_NC = np.where(raw_NC == 1, 1, np.where(raw_NC == 0, -1, 0)).astype(np.int8)
    counts = counted(logits_NC, labels_NC)
    for rule in RULES:
        exact = mean_average_precision(average_precision(logits_NC, labels_NC, rule))
        assert mean_average_precision(average_precision_of_counts(counts, rule)) == pytest.approx(exact, abs=1e-4)


def test_pr_curves_are_those_of_the_same_logits() -> None:
    logits_NC, labels_NC = drawn(3, 500, 3, half=True)
    logits_NC[:4] = np.array([-60000, 60000, 0, -0.0], np.float32)[:, None]
    ours, exact = pr_curve_of_counts(counted(logits_NC, labels_NC)), pr_curve(probabilities(logits_NC), labels_NC)
    for name in ("true_positive", "false_positive", "true_negative", "false_negative", "precision", "recall"):
        assert np.array_equal(getattr(ours, name), getattr(exact, name)), name


def test_points_of_a_pr_curve_are_those_of_the_same_logits() -> None:
    logits_NC, labels_NC = drawn(5, 800, 3, half=True)
    labels_NC[:, 2] = 0
    counts = counted(logits_NC, labels_NC)
    for c in range(3):
        for ours, exact in zip(pr_points_of_counts(counts, c), pr_points(logits_NC[:, c], labels_NC[:, c])):
            assert np.array_equal(ours, exact)
            assert (len(ours) > 20) == (c < 2)


def test_memory_does_not_grow_with_the_samples() -> None:
    logits_NC, labels_NC = drawn(4, 64, 5)
    broken_N = np.zeros(64, bool)
    counts = PairCounts(5, 0.5, TOP)
    counts.add(logits_NC, labels_NC, broken_N)
    tracemalloc.start()
    for _ in range(200):
        counts.add(logits_NC, labels_NC, broken_N)
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts.totals[0] == 64 * 201
    assert left < 20_000
    assert peak < 200_000


def test_pairs_that_wait_are_counted_as_those_that_do_not() -> None:
    """Of more samples than wait at a time, in blocks that their number does not divide."""
    logits_NC, labels_NC = drawn(6, 20_000, 2)
    expected_2CK = np.zeros((2, 2, CODES), np.int64)
    for label in (0, 1):
        row, c = np.nonzero(labels_NC == label)
        np.add.at(expected_2CK, (label, c, codes_of(logits_NC)[row, c]), 1)
    counts = counted(logits_NC, labels_NC, cuts=(5, 19_000))
    assert np.array_equal(counts.bins_2CK, expected_2CK)
    counts.add(logits_NC[:1], labels_NC[:1], np.zeros(1, bool))
    assert counts.arrays[0].sum() == expected_2CK.sum() + (labels_NC[0] >= 0).sum(), "one that waits still"


@given(st.floats(1e-8, 1 - 1e-8), st.lists(st.floats(-3e-4, 3e-4), max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_logit_reaches_a_threshold_where_its_probability_does(threshold: float, beside: list[float]) -> None:
    at = np.log(threshold / (1 - threshold))
    near = np.float32(at) + np.array([0, *beside], np.float32)
    close = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    logits = np.append(close, np.array([-np.inf, np.inf, np.nan, 0], np.float32))
    assert np.array_equal(reaching(logits, threshold), probabilities(logits) >= threshold)


@given(seed=st.integers(0, 10**6), classes=st.integers(1, 700), top=st.integers(1, 4), coarse=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_largest_of_many_classes_are_those_of_a_sorted_row(seed: int, classes: int, top: int, coarse: bool) -> None:
    logits_NC, _ = drawn(seed, 3, classes)
    logits_NC = np.round(logits_NC) if coarse else logits_NC  # most tie
    last_N1 = np.sort(logits_NC, axis=1)[:, -min(top, classes), None]
    assert np.array_equal(largest(logits_NC, top), logits_NC >= last_N1)


def test_logits_that_are_nan_are_one_line() -> None:
    logits_NC, labels_NC = drawn(5, 4, 2)
    logits_NC[2, 1] = np.nan
    with pytest.raises(UserError, match="found NaN in 1 of 4 samples"):
        counted(logits_NC, labels_NC)
