"""Scores rank by the logits themselves: whatever keeps their order keeps every AP, and what is ignored is not read."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from masksup.errors import UserError
from masksup.metrics.bootstrap import ScoredPairs
from masksup.metrics.histogram import PairCounts, average_precision_of_counts
from masksup.metrics.pairs import check_finite
from masksup.metrics.precision_recall import pr_curve
from masksup.metrics.stratified import stratified_scores
from masksup.metrics.summary import TOP, score, score_counts

N, C = 400, 5
NAMES = [f"class {c}" for c in range(C)]
MONOTONE = {
    "as they are": lambda z: z,
    "around 40": lambda z: z + 40,
    "around -800": lambda z: z - 800,
    "a hair apart": lambda z: z * 1e-6,
    "cubes": lambda z: z**3,
    "up to 1e30": lambda z: np.sign(z) * np.exp(np.abs(z) * 10),
    "to the ends of the line": lambda z: np.where(z >= 2.01, np.inf, np.where(z <= -3.01, -np.inf, z)),
}


def drawn(seed=0):
    """Logits that tell something of the labels, no two alike within a class but those beyond -3 and 2."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((N, C)) < 0.3).astype(np.int8)
    logits = np.clip(rng.normal(size=(N, C)) + labels, -3.01, 2.01)
    labels[rng.random((N, C)) < 0.1] = -1
    return logits, labels


def all_of(logits, labels, **rules):
    """Scores by rank alone: of all pairs, of the bootstrap, and within the top 3 where the threshold asks nothing."""
    found = score(logits, labels, NAMES, threshold=0.0, **rules)
    pairs = ScoredPairs.of(logits, labels, "area", 0.5)
    strata = stratified_scores(pairs, NAMES, {}, np.arange(N), resamples=20)["all"]
    return {"AP": found["AP"], "mAP": found["mAP"], f"top{TOP}": found["top3"], "strata": strata["AP"],
            "interval": strata["mAP_interval"]}  # fmt: skip


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize("rule", ["area", "voc2012", "voc2007"])
def test_any_monotone_map_of_the_logits_gives_the_same_scores(rule, name):
    logits, labels = drawn()
    assert all_of(MONOTONE[name](logits), labels, ap_rule=rule) == all_of(logits, labels, ap_rule=rule)


def test_large_logits_rank_as_scikit_learn_ranks_them():
    logits, labels = drawn(1)
    found = score(logits + 40, labels, NAMES)["AP"]
    for c, name in enumerate(NAMES):
        judged = labels[:, c] >= 0
        expected = average_precision_score(labels[judged, c], logits[judged, c] + 40)
        assert found[name] == pytest.approx(100 * expected, abs=1e-9)


@pytest.mark.parametrize("shift", [-40, 40])
def test_counts_tell_large_logits_apart_as_far_as_half_precision_does(shift):
    logits, labels = drawn(2)
    counts = PairCounts(C, 0.0, TOP)
    counts.add((logits + shift).astype(np.float32), labels, np.zeros(N, bool))
    halves = (logits + shift).astype(np.float16).astype(np.float64)
    exact = score(halves, labels, NAMES, threshold=0.0)
    np.testing.assert_allclose(100 * average_precision_of_counts(counts, "area"), list(exact["AP"].values()))
    assert score_counts(counts, NAMES, "area")["top3"] == score(logits + shift, labels, NAMES, threshold=0.0)["top3"]


@pytest.mark.parametrize("compat", ["csra", "csra_wider", "mcar"])
def test_compatibility_ranks_by_the_float32_sigmoid_of_the_originals(compat):
    """Above 17 all tie there, and ties keep the order of the samples."""
    logits, labels = np.array([[30.0], [20.0], [18.0]]), np.array([[0], [1], [1]], np.int8)
    assert score(logits[::-1], labels[::-1], ["a"], compat=compat)["mAP"] == 100.0
    assert score(logits, labels, ["a"])["mAP"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def test_ignored_pairs_are_not_looked_at():
    logits, labels = drawn(3)
    holed = np.where(labels == -1, np.nan, logits)
    assert all_of(holed, labels) == all_of(logits, labels)
    found, expected = (PairCounts(C, 0.5, TOP) for _ in range(2))
    for counts, values in ((found, holed), (expected, logits)):
        counts.add(values.astype(np.float32), labels, np.zeros(N, bool))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found.arrays, expected.arrays))
    p = 1 / (1 + np.exp(-logits))
    curves = pr_curve(np.where(labels == -1, np.nan, p), labels), pr_curve(p, labels)
    assert np.array_equal(curves[0].precision, curves[1].precision)


@pytest.mark.parametrize("compat", ["none", "csra", "csra_wider", "mcar"])
def test_nan_where_a_rule_looks_is_named(compat):
    """The originals' code looks at ignored pairs, too."""
    logits, labels = drawn(4)
    logits[7, 2], labels[7, 2] = np.nan, 0 if compat == "none" else -1
    with pytest.raises(UserError, match=r"scores: found NaN in 1 of 400 samples \(first: sample 7\), expected numbers"):
        score(logits, labels, NAMES, compat=compat)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_is_fitted_to_logits_that_are_not_finite(bad):
    logits, _ = drawn(5)
    check_finite(logits)
    logits[3, 1] = bad
    with pytest.raises(UserError, match="found NaN or infinity in 1 of 400 samples"):
        check_finite(logits)
