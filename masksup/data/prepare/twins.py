"""Images whose files hold the same bytes: labels that contradict each other, scores that are too good."""

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted, listed
from masksup.data.labels import Labels
from masksup.data.write_index import IndexContent

_PIECE = 1 << 24  # labels


def within(content: IndexContent) -> list[str]:
    """What to say of images of one split that are the same file and contradict each other; unknown labels do not."""
    if len(content.crop_N4):  # samples are places in their image, each with labels of its own
        return []
    first_P, second_P = _pairs(content.file_hash_I16)
    other_P = np.flatnonzero(_contradict(content, first_P, content, second_P))
    if not len(other_P):
        return []
    first, second = int(first_P[other_P[0]]), int(second_P[other_P[0]])
    return [
        f"{counted(len(other_P), 'pair')} of images with equal bytes and other labels (first: "
        f"{content.image_names[first]} and {content.image_names[second]} differ in "
        f"{_differing(content, first, content, second)}); keep one file of each, with all its labels"
    ]


def between(one: IndexContent, two: IndexContent) -> list[str]:
    """What to say of images that two splits share, unless one is a part of the other by name (train, trainval)."""
    small, large = sorted((one, two), key=lambda content: len(content.image_names))
    if small.split in large.split and set(small.image_names) <= set(large.image_names):
        return []
    images = len(one.image_names)
    first_P, second_P = _pairs(np.concatenate([one.file_hash_I16, two.file_hash_I16]))
    across_P = (first_P < images) & (second_P >= images)
    first_P, second_P = first_P[across_P], second_P[across_P] - images
    if not len(first_P):
        return []
    shared = len(np.unique(first_P))
    said = (
        f"{one.split} and {two.split} share {counted(shared, 'image')} (equal bytes; first: "
        f"{one.image_names[first_P[0]]} and {two.image_names[second_P[0]]})"
    )
    if not len(one.crop_N4) + len(two.crop_N4) and (other := int(_contradict(one, first_P, two, second_P).sum())):
        said += f", {counted(other, 'pair')} of them with other labels"
    return [f"{said}; a score on images that were trained on is too high"]


def _pairs(hash_I16: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of images: the first one with some bytes, and each later one with the same."""
    key_I2 = np.ascontiguousarray(hash_I16).view("<u8").reshape(-1, 2)
    order_I = np.lexsort((key_I2[:, 1], key_I2[:, 0]))  # stable: equal keys stay in their order
    again_I = np.zeros(len(order_I), bool)
    again_I[1:] = (key_I2[order_I[1:]] == key_I2[order_I[:-1]]).all(1)
    leader_I = np.maximum.accumulate(np.where(again_I, 0, np.arange(len(order_I))))
    by_second = np.argsort(order_I[again_I], kind="stable")
    return order_I[leader_I[again_I]][by_second], order_I[again_I][by_second]


def _labels(content: IndexContent, image_K: NDArray[np.int64]) -> NDArray[np.int8]:
    sample_I = np.zeros(len(content.image_names), np.int64)
    sample_I[content.sample_image_N] = np.arange(len(content.sample_image_N))
    labels: Labels = content.labels_NC
    return labels[sample_I[image_K]]


def _contradict(
    one: IndexContent, first_P: NDArray[np.int64], two: IndexContent, second_P: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Of each pair: whether one image shows what the other one does not."""
    piece = max(1, _PIECE // len(one.classes))
    found = [
        _opposite(_labels(one, first_P[at : at + piece]), _labels(two, second_P[at : at + piece])).any(1)
        for at in range(0, len(first_P), piece)
    ]
    return np.concatenate([np.zeros(0, bool), *found])


def _opposite(one: NDArray[np.int8], two: NDArray[np.int8]) -> NDArray[np.bool_]:
    opposite: NDArray[np.bool_] = ((one == 1) & (two == 0)) | ((one == 0) & (two == 1))
    return opposite


def _differing(one: IndexContent, first: int, two: IndexContent, second: int) -> str:
    labels_2C = _labels(one, np.array([first])), _labels(two, np.array([second]))
    return listed([one.classes[c] for c in np.flatnonzero(_opposite(*labels_2C)[0])])
