"""Scores: mean average precision over scikit-learn's, and counting very many pairs."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from masksup.metrics.average_precision import average_precision
from masksup.metrics.histogram import PairCounts
from tools.benchmark_metrics import draw_scores, sklearn_ap
from tools.speeds.measured import Figure, Setting, interleaved, median, noise, ratio

_PAIRS, _RANKS = 10_000_000 * 10_000, 8


def average(setting: Setting) -> Iterator[Figure]:
    """mAP of 40,504 x 80 scores on one core."""
    scores_NC, labels_NC = draw_scores(100 if setting.tiny else 40_504, 80, 0.0, seed=0)
    theirs = partial(sklearn_ap, scores_NC, labels_NC)
    arms = {"ours": partial(average_precision, scores_NC, labels_NC), "sklearn": theirs, "sklearn again": theirs}
    times = interleaved(arms, setting.rounds)
    yield Figure("mAP over scikit-learn's", ratio(times, "sklearn", "ours", "clock"), "x", ("at least", 6.0),
                 noise(times, "sklearn", "sklearn again", "clock"),
                 {"milliseconds": {name: round(1000 * median(times, name, "clock"), 1) for name in times}})  # fmt: skip


def counting(setting: Setting) -> Iterator[Figure]:
    """10 million images x 10,000 classes on 8 ranks: extrapolated from blocks on one core, without the last sum."""
    images, classes = (8, 20) if setting.tiny else (256, 10_000)
    scores_NC, labels_NC = draw_scores(images, classes, 0.0, seed=0)
    counts, broken_N = PairCounts(classes, 0.5, 3), np.zeros(images, bool)
    count = partial(counts.add, scores_NC, labels_NC, broken_N)
    times = interleaved({"count": count, "again": count}, setting.rounds)
    seconds = median(times, "count") / (images * classes)
    yield Figure("counting 10 million x 10,000 pairs on 8 ranks, extrapolated", seconds * _PAIRS / _RANKS, "s",
                 ("at most", 60.0), noise(times, "count", "again"),
                 {"nanoseconds_a_pair": round(1e9 * seconds, 2)})  # fmt: skip
