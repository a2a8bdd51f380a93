"""AUROC equals scikit-learn's, ties and ignored pairs included, exact and counted."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from masksup.metrics.auroc import auroc
from masksup.metrics.histogram import PairCounts, auroc_of_counts
from masksup.metrics.summary import TOP


def counted(logits_NC, labels_NC):
    counts = PairCounts(logits_NC.shape[1], 0.5, TOP)
    counts.add(logits_NC.astype(np.float32), labels_NC, np.zeros(len(logits_NC), bool))
    return counts


def drawn(seed, samples, classes):
    rng = np.random.default_rng(seed)
    labels_NC = rng.choice(np.array([-1, 0, 1], np.int8), (samples, classes), p=(0.1, 0.7, 0.2))
    return (rng.normal(-3, 1.5, labels_NC.shape) + 3.0 * labels_NC).astype(np.float16).astype(np.float32), labels_NC


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_equals_scikit_learn(decimals):
    logits_NC, labels_NC = drawn(decimals, 900, 6)
    logits_NC = logits_NC.round(decimals)
    for c, area in enumerate(auroc(logits_NC, labels_NC)):
        judged_N = labels_NC[:, c] >= 0
        expected = roc_auc_score(labels_NC[judged_N, c], logits_NC[judged_N, c])
        assert area == pytest.approx(expected, abs=1e-12)


def test_of_half_precision_logits_the_counted_one_is_the_exact_one():
    logits_NC, labels_NC = drawn(3, 300, 4)
    for found in (logits_NC, np.round(logits_NC)):
        np.testing.assert_allclose(
            auroc_of_counts(counted(found, labels_NC)), auroc(found, labels_NC), rtol=0, atol=1e-12
        )


def test_a_class_of_one_kind_has_none():
    scores_NC = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    labels_NC = np.array([[1, 0, -1], [1, 0, 1]], np.int8)
    assert np.isnan(auroc(scores_NC, labels_NC)).all()
    assert np.isnan(auroc_of_counts(counted(scores_NC, labels_NC))).all()
