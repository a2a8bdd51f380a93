"""Mean average precision beside scikit-learn's on one core, in pairs: `python -m tools.benchmark_metrics`.

Scores are drawn with the class frequencies of a COCO-like set (a few positives an image, one class in half of the
images) and separate positives from negatives about as well as a trained model. Prints both medians and the ratio.
With --resamples also the CPU time of all scores, and what the scores by stratum and their intervals add to it.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from masksup.metrics.average_precision import average_precision
from masksup.metrics.bootstrap import ScoredPairs
from masksup.metrics.pairs import Labels, Scores
from masksup.metrics.strata import MIXED, Division
from masksup.metrics.stratified import stratified_scores
from masksup.metrics.summary import score


def draw_scores(samples: int, classes: int, ignored: float, seed: int) -> tuple[Scores, Labels]:
    """float32 logits and int8 labels, samples x classes, with a share `ignored` of pairs set to -1."""
    rng = np.random.default_rng(seed)
    frequency_C = np.clip(0.5 / (1 + np.arange(classes)) + 0.008, 0, 1)
    labels_NC = (rng.random((samples, classes)) < frequency_C).astype(np.int8)
    logits_NC = rng.normal(-4, 1.6, (samples, classes)) + 5 * labels_NC
    if ignored:
        labels_NC[rng.random(labels_NC.shape) < ignored] = -1
    return logits_NC.astype(np.float32), labels_NC


def sklearn_ap(scores_NC: Scores, labels_NC: Labels) -> Any:
    """AP of each class by scikit-learn; ignored pairs are taken out class by class, as it has no such notion."""
    if labels_NC.min() >= 0:
        return average_precision_score(labels_NC, scores_NC, average=None)
    kept_NC = labels_NC >= 0
    return np.array([average_precision_score(y[k], s[k]) for y, s, k in zip(labels_NC.T, scores_NC.T, kept_NC.T)])


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long `call` took, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def stratified_seconds(scores_NC: Scores, labels_NC: Labels, resamples: int) -> tuple[float, float, float]:
    """CPU seconds of all scores, of those by size and occlusion (drawn at random), and of these with intervals."""
    names, rng = [str(c) for c in range(labels_NC.shape[1])], np.random.default_rng(1)
    kinds = (("small", "medium", "large"), ("not occluded", "occluded"))
    divided = {
        key: Division(kind, "", rng.integers(MIXED, len(kind), labels_NC.shape, np.int8))
        for key, kind in zip(("size", "occlusion"), kinds)
    }

    def by_stratum(count: int) -> Any:
        images_N = np.arange(len(scores_NC))
        pairs = ScoredPairs.of(scores_NC, labels_NC, "area", 0.5)
        return stratified_scores(pairs, names, divided, images_N, resamples=count)

    calls: list[Callable[[], Any]] = [
        lambda: score(scores_NC, labels_NC, names), lambda: by_stratum(0), lambda: by_stratum(resamples),
    ]  # fmt: skip
    times = []
    for call in calls:
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return times[0], times[1], times[2]


def main() -> int:
    """Time both, interleaved so that a busy machine slows both; 1 if the ratio misses --at-least."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40_504)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--ignored", type=float, default=0.0, help="share of pairs that are ignored")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 below this ratio")
    parser.add_argument("--resamples", type=int, default=0, help="also time the scores by stratum, with so many")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # Linux; elsewhere one thread, as neither side starts more
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    scores_NC, labels_NC = draw_scores(args.samples, args.classes, args.ignored, seed=0)
    ours, theirs = [], []
    for _ in range(args.pairs):
        time_ours, ap_ours = seconds(lambda: average_precision(scores_NC, labels_NC))
        time_theirs, ap_theirs = seconds(lambda: sklearn_ap(scores_NC, labels_NC))
        np.testing.assert_allclose(ap_ours, ap_theirs, rtol=0, atol=1e-12)
        ours.append(time_ours)
        theirs.append(time_theirs)
    ratio = float(np.median(np.array(theirs) / np.array(ours)))
    print(
        f"{args.samples} x {args.classes} float32, {args.ignored:.0%} ignored, {args.pairs} pairs on one core, medians:"
    )
    print(f"masksup {np.median(ours) * 1e3:.1f} ms, scikit-learn {np.median(theirs) * 1e3:.1f} ms, {ratio:.1f}x")
    if args.resamples:
        plain, strata, intervals = stratified_seconds(scores_NC, labels_NC, args.resamples)
        print(f"CPU time: all scores {plain:.2f} s, by stratum {strata:.2f} s, with intervals {intervals:.1f} s")
    return 0 if ratio >= args.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
