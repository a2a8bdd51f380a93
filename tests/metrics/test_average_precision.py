"""AP against scikit-learn, against loops that follow the formulas word by word, and what must not change it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from masksup.errors import UserError
from masksup.metrics.average_precision import average_precision, mean_average_precision

RULES = ("area", "voc2012", "voc2007")


def curve(scores, labels):
    """[(recall, precision)] at each distinct score of the judged samples, by counting."""
    judged = [(s, y) for s, y in zip(scores.tolist(), labels.tolist()) if y != -1]
    total = sum(y == 1 for _, y in judged)
    points = []
    for level in sorted({s for s, _ in judged}, reverse=True):
        above = [y for s, y in judged if s >= level]
        points.append((sum(above) / total, sum(above) / len(above)))
    return points


def loop_ap(scores, labels, rule):
    if not ((labels == 1).any() and (labels == 0).any()):
        return float("nan")
    points = curve(scores, labels)
    if rule == "voc2007":
        return sum(max(p for r, p in points if r >= t) for t in np.arange(0, 1.1, 0.1)) / 11
    area, reached = 0.0, 0.0
    for i, (recall, precision) in enumerate(points):
        height = max(p for _, p in points[i:]) if rule == "voc2012" else precision
        area += (recall - reached) * height
        reached = recall
    return area


@st.composite
def pairs(draw):
    """Scores on a coarse grid, so that most tie, and labels of all three kinds."""
    shape = (draw(st.integers(1, 14)), draw(st.integers(1, 4)))
    scores = draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 6))).astype(np.float32) / 8
    return scores, draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))


@settings(max_examples=150, deadline=None)
@given(pairs(), st.sampled_from(RULES))
def test_equals_the_formula_followed_literally(given_pairs, rule):
    scores, labels = given_pairs
    expected = [loop_ap(scores[:, c], labels[:, c], rule) for c in range(scores.shape[1])]
    np.testing.assert_allclose(average_precision(scores, labels, rule), expected, rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(pairs(), st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_what_must_not_change_a_score_changes_no_bit(given_pairs, rule, random):
    scores, labels = given_pairs
    expected = average_precision(scores, labels, rule)
    order = random.sample(range(len(scores)), len(scores))
    for name, other in {
        "permutation": (scores[order], labels[order]),
        "float64": (scores.astype(np.float64), labels),
        "monotone": (np.exp(3 * scores) - 7, labels),
        "ignored rows": (
            np.vstack([scores, scores + 0.01, scores - 1]),
            np.vstack([labels, -np.ones_like(labels), -np.ones_like(labels)]),
        ),
    }.items():
        np.testing.assert_array_equal(average_precision(*other, rule), expected, err_msg=name)
    doubled = average_precision(np.vstack([scores, scores]), np.vstack([labels, labels]), rule)
    np.testing.assert_allclose(doubled, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_equals_scikit_learn(decimals):
    rng = np.random.default_rng(decimals)
    scores = rng.random((3000, 20)).round(decimals).astype(np.float32)
    labels = (rng.random((3000, 20)) < np.linspace(0.002, 0.9, 20)).astype(np.int8)
    expected = average_precision_score(labels, scores, average=None)
    np.testing.assert_allclose(average_precision(scores, labels), expected, rtol=0, atol=1e-12)
    assert mean_average_precision(average_precision(scores, labels)) == pytest.approx(expected.mean(), abs=1e-12)


def test_a_class_without_positives_is_left_out_not_zero():
    scores = np.array([[0.9, 0.5, 0.1], [0.1, 0.4, 0.2]], np.float32)
    labels = np.array([[1, 0, -1], [0, 0, -1]], np.int8)
    ap = average_precision(scores, labels)
    np.testing.assert_array_equal(ap, [1.0, np.nan, np.nan])
    assert mean_average_precision(ap) == 1.0
    assert np.isnan(mean_average_precision(ap[1:]))
    assert np.isnan(average_precision(np.empty((0, 2), np.float32), np.empty((0, 2), np.int8))).all()


def test_original_ranks_ties_in_sample_order():
    scores, labels = np.full((4, 1), 0.5, np.float32), np.array([[1], [0], [0], [1]], np.int8)
    assert average_precision(scores, labels, "original")[0] == (1 / 1 + 2 / 4) / 2
    assert average_precision(scores[::-1], labels[[1, 2, 3, 0]], "original")[0] == (1 / 3 + 2 / 4) / 2
    assert average_precision(scores, labels, "area")[0] == 0.5
    many = (np.arange(5000) % 7 == 3).astype(np.int8)[:, None]  # long enough for an unstable sort to show
    steps = (np.arange(5000) % 3).astype(np.float32)[:, None]
    order = sorted(range(5000), key=lambda n: -steps[n, 0])
    ranks = [rank for rank, n in enumerate(order, 1) if many[n, 0]]
    expected = np.mean([(hit + 1) / rank for hit, rank in enumerate(ranks)])
    assert average_precision(steps, many, "original")[0] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_original_is_the_area_rule_where_nothing_ties(given_pairs):
    scores, labels = given_pairs
    untied = scores + np.arange(len(scores), dtype=np.float32)[:, None] / 1024
    opposed = (labels == 0).any(axis=0)  # a class without negatives has an AP by the original's rule alone
    np.testing.assert_allclose(
        average_precision(untied, labels, "original")[opposed], average_precision(untied, labels)[opposed], atol=1e-12
    )


def test_inputs_are_left_as_they_were():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 1), dtype=np.float32), (rng.random((50, 1)) < 0.4).astype(np.int8)
    before = scores.copy()
    average_precision(scores, labels)
    average_precision(np.asfortranarray(scores), labels)
    np.testing.assert_array_equal(scores, before)


def test_scores_that_are_nan_are_counted_and_refused_where_they_are_judged():
    scores, labels = np.zeros((9, 2), np.float32), np.zeros((9, 2), np.int8)
    scores[2, 0] = scores[4, 1] = scores[7, :] = np.nan
    labels[2, 0] = -1
    with pytest.raises(UserError, match=r"found NaN in 2 of 9 samples \(first: sample 4\)"):
        average_precision(scores, labels)


def test_unknown_rule_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'voc2012'"):
        average_precision(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int8), "voc2021")  # type: ignore[arg-type]


def test_labels_of_another_convention_are_refused():
    with pytest.raises(AssertionError, match="labels must be"):
        average_precision(np.zeros((2, 1), np.float32), np.array([[1], [99]], np.int8))
