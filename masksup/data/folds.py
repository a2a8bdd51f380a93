"""Cutting a training set into folds, each class in equal shares."""

import numpy as np
from numpy.typing import NDArray

from masksup.base.random import permuted
from masksup.data.index import Index


def folds_of(index: Index, folds: int, seed: int, copies_apart: bool = False) -> NDArray[np.int64]:
    """The fold of each sample, int64 N in [0, folds); a function of the index and the seed.

    Iterative stratification (Sechidis et al. 2011): the rarest class first, each of its images goes to the fold that
    still wants that class most. Persons of one image stay together. So do copies of one file, unless they are wanted
    `copies_apart`: a fold would be scored on what it learns from.
    """
    image_N = np.asarray(index.sample_image_N) if copies_apart else first_copies(index)
    return stratified_folds(np.asarray(index.labels_NC) == 1, image_N, folds, seed)


def first_copies(index: Index) -> NDArray[np.int64]:
    """Of each sample, int64 N: its image, or the first image whose file has the same bytes."""
    hash_I = np.ascontiguousarray(index.file_hash_I16).view("V16").reshape(-1)
    _, first, copies_I = np.unique(hash_I, return_index=True, return_inverse=True)
    return first[copies_I][np.asarray(index.sample_image_N)]


def stratified_folds(
    positive_NC: NDArray[np.bool_], image_of_N: NDArray[np.integer], folds: int, seed: int
) -> NDArray[np.int64]:
    """The same for any samples: which classes each has, and the image it is of."""
    images, group_N = np.unique(image_of_N, return_inverse=True)
    order = permuted(np.arange(len(images)), np.zeros(len(images), np.int64), len(images), seed)
    positive_GC = np.zeros((len(images), positive_NC.shape[1]), bool)
    np.logical_or.at(positive_GC, group_N, positive_NC)

    fold_G = np.full(len(images), -1, np.int64)
    wanted_FC = np.tile(positive_GC.sum(0) / folds, (folds, 1))
    room_F = np.full(folds, len(images) / folds)

    def place(group: int, wanted_F: NDArray[np.float64]) -> None:
        # Most wanted, then most room, then the first: no draw, so that the result is a function.
        fold = int(np.lexsort((np.arange(folds), -room_F, -wanted_F))[0])
        fold_G[group] = fold
        wanted_FC[fold] -= positive_GC[group]
        room_F[fold] -= 1

    while True:
        left_C = positive_GC[fold_G < 0].sum(0)
        if not left_C.any():
            break
        rarest = int(np.where(left_C > 0, left_C, left_C.max() + 1).argmin())
        for group in order[(fold_G[order] < 0) & positive_GC[order, rarest]]:
            place(int(group), wanted_FC[:, rarest].copy())
    for group in order[fold_G[order] < 0]:
        place(int(group), room_F.copy())
    return fold_G[group_N]
