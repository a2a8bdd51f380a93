"""Scores: mean average precision over scikit-learn's, and counting very many pairs."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.average_precision import average_precision
from masksup.metrics.histogram import CODES, PairCounts
from tools.benchmark_metrics import draw_scores, sklearn_ap
from tools.speeds.measured import Arm, Figure, Setting, interleaved, median, noise, ratio

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
    """10 million images x 10,000 classes on 8 ranks: extrapolated from blocks on one core, without the last sum.

    Beside it the least that numpy does for it: logits in half precision, class by class, and 1 added to a bin of each.
    """
    images, blocks, classes = (8, 2, 20) if setting.tiny else (256, 13, 10_000)  # as many as wait to be counted
    scores_NC, labels_NC = draw_scores(images, classes, 0.0, seed=0)
    count, least = _count(scores_NC, labels_NC, blocks), _least(scores_NC, blocks)
    times = interleaved({"count": count, "again": count, "least": least}, setting.rounds)
    pairs = images * blocks * classes
    each = {name: median(times, name) / pairs for name in times}
    seconds = {name: value * _PAIRS / _RANKS for name, value in each.items()}
    yield Figure("counting 10 million x 10,000 pairs on 8 ranks, extrapolated", seconds["count"], "s",
                 ("at most", 60.0), noise(times, "count", "again"),
                 {"nanoseconds_a_pair": {name: round(1e9 * value, 2) for name, value in each.items()},
                  "least_seconds": round(seconds["least"], 1)})  # fmt: skip


def _count(scores_NC: NDArray[np.float32], labels_NC: NDArray[np.int8], blocks: int) -> Arm:
    counts, broken_N = PairCounts(scores_NC.shape[1], 0.5, 3), np.zeros(len(scores_NC), bool)

    def count() -> None:
        for _ in range(blocks):
            counts.add(scores_NC, labels_NC, broken_N)
        assert counts.arrays[0] is not None  # all of them are in their bins

    return count


def _least(scores_NC: NDArray[np.float32], blocks: int) -> Arm:
    samples, classes = scores_NC.shape
    bins_CK, code_CB = np.zeros((classes, CODES), np.int32), np.zeros((classes, samples * blocks), np.uint16)

    def add() -> None:
        for start in range(0, samples * blocks, samples):
            code_CB[:, start : start + samples] = scores_NC.astype(np.float16).view(np.uint16).T
        for bins_K, codes_B in zip(bins_CK, code_CB):
            np.add.at(bins_K, codes_B.astype(np.intp), np.int32(1))

    return add
