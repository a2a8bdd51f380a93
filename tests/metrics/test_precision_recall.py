"""Threshold metrics and PR curves against loops, scikit-learn and TensorBoard's own computation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import precision_score, recall_score

from masksup.errors import UserError
from masksup.metrics.precision_recall import pr_curve, precision_recall

KEYS = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def loop_scores(scores, labels, threshold, top, compat):
    """The six scores by counting pair by pair, with the quirks of the released code where `compat` names them."""
    samples, classes = scores.shape
    hit, said, real = [0] * classes, [0] * classes, [0] * classes
    for n in range(samples):
        for c in range(classes):
            s, y = scores[n, c], labels[n, c]
            real[c] += y == 1
            if y == -1 and compat in ("none", "csra"):
                continue
            if top is not None and compat == "none":
                better = sum(scores[n, d] > s for d in range(classes) if labels[n, d] != -1)
            elif top is not None:
                better = sum((scores[n, d], -d) > (s, -c) for d in range(classes))
            else:
                better = 0
            if s >= threshold and (top is None or better < top):
                said[c] += 1
                hit[c] += y == 1
    if compat != "none":
        said = [max(count, 1) for count in said]
    scored = [c for c in range(classes) if real[c]]
    if not scored:
        return dict.fromkeys(KEYS, math.nan)
    cp = sum(hit[c] / said[c] if said[c] else 0 for c in scored) / len(scored)
    cr = sum(hit[c] / real[c] for c in scored) / len(scored)
    op, overall_recall = sum(hit) / max(sum(said), 1), sum(hit) / sum(real)

    def f1(a, b):
        return 2 * a * b / (a + b) if a + b else 0

    return {"CP": cp, "CR": cr, "CF1": f1(cp, cr), "OP": op, "OR": overall_recall, "OF1": f1(op, overall_recall)}


@st.composite
def pairs(draw):
    shape = (draw(st.integers(1, 10)), draw(st.integers(1, 6)))
    scores = draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 8))).astype(np.float32) / 8
    return scores, draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))


@settings(max_examples=200, deadline=None)
@given(pairs(), st.sampled_from([None, 1, 3]), st.sampled_from(["none", "csra", "csra_wider", "mcar"]))
def test_equals_counting_pair_by_pair(given_pairs, top, compat):
    scores, labels = given_pairs
    for threshold in (0.5, 0.6):
        got = precision_recall(scores, labels, threshold, top=top, compat=compat)
        assert got == pytest.approx(loop_scores(scores, labels, threshold, top, compat), abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(pairs(), st.sampled_from([None, 3]), st.randoms(use_true_random=False))
def test_orders_and_ignored_pairs_change_no_score(given_pairs, top, random):
    scores, labels = given_pairs
    expected = pytest.approx(precision_recall(scores, labels, 0.5, top=top), abs=1e-12, nan_ok=True)
    rows = random.sample(range(scores.shape[0]), scores.shape[0])
    columns = random.sample(range(scores.shape[1]), scores.shape[1])
    assert precision_recall(scores[rows], labels[rows], 0.5, top=top) == expected
    assert precision_recall(scores[:, columns], labels[:, columns], 0.5, top=top) == expected
    ones, ignored = np.ones_like(scores), -np.ones_like(labels)
    assert precision_recall(np.hstack([ones, scores]), np.hstack([ignored, labels]), 0.5, top=top) == expected
    assert precision_recall(np.vstack([ones, scores]), np.vstack([ignored, labels]), 0.5, top=top) == expected


def test_equals_scikit_learn():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((500, 9)), (rng.random((500, 9)) < 0.3).astype(np.int8)
    got = precision_recall(scores, labels, 0.7)
    for average, precision, recall in (("macro", "CP", "CR"), ("micro", "OP", "OR")):
        assert got[precision] == pytest.approx(precision_score(labels, scores >= 0.7, average=average), abs=1e-12)
        assert got[recall] == pytest.approx(recall_score(labels, scores >= 0.7, average=average), abs=1e-12)


def test_silent_class_adds_a_prediction_only_in_the_originals():
    scores, labels = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32), np.array([[1, 1], [1, 0]], np.int8)
    assert precision_recall(scores, labels, 0.5)["OP"] == 1
    assert precision_recall(scores, labels, 0.5, compat="csra")["OP"] == 2 / 3
    assert precision_recall(scores, labels, 0.5)["CP"] == 0.5


def test_unknown_compat_is_named():
    with pytest.raises(UserError, match="compat: unknown 'cssra'; did you mean 'csra'"):
        precision_recall(np.zeros((1, 1)), np.zeros((1, 1), np.int8), 0.5, compat="cssra")  # type: ignore[arg-type]


def test_curve_equals_tensorboards():
    from torch.utils.tensorboard.summary import compute_curve

    rng = np.random.default_rng(2)
    scores = rng.random((400, 3), dtype=np.float32)
    scores[0], scores[1], scores[2] = 0, 1, 0.5
    labels = (rng.random((400, 3)) < 0.3).astype(np.int8)
    curve = pr_curve(scores, labels)
    for c in range(3):
        expected = compute_curve(labels[:, c], scores[:, c], num_thresholds=127)
        got = [curve.true_positive, curve.false_positive, curve.true_negative, curve.false_negative]
        got += [curve.precision, curve.recall]
        np.testing.assert_allclose(np.stack([part[c] for part in got]), expected, rtol=0, atol=1e-6)


def test_curve_is_taken_by_the_summary_writer(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    curve = pr_curve(np.array([[0.2], [0.9]]), np.array([[0], [1]], np.int8), thresholds=11)
    parts = (curve.true_positive, curve.false_positive, curve.true_negative, curve.false_negative)
    with SummaryWriter(tmp_path) as writer:
        writer.add_pr_curve_raw("pr/a", *(p[0] for p in parts), curve.precision[0], curve.recall[0], 0, 11)
    assert any(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_curve_counts_the_judged_pairs_at_every_threshold(given_pairs):
    scores, labels = given_pairs
    curve = pr_curve(scores, labels, thresholds=9)  # thresholds k/8: the very grid of the scores
    for k in range(9):
        above = scores >= k / 8
        np.testing.assert_array_equal(curve.true_positive[:, k], (above & (labels == 1)).sum(0))
        np.testing.assert_array_equal(curve.false_positive[:, k], (above & (labels == 0)).sum(0))
        np.testing.assert_array_equal(curve.true_negative[:, k], (~above & (labels == 0)).sum(0))
        np.testing.assert_array_equal(curve.false_negative[:, k], (~above & (labels == 1)).sum(0))
