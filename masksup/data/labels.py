"""Labels of the samples of an index: an array, or, of very many classes of which each sample has few, marks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 24  # labels


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """Reads as an int8 array N x C of 1 present, 0 absent, -1 ignored, and keeps the labels that are not `rest`.

    A number, a slice, or an array of numbers or of bool gives dense rows; `np.asarray` gives all of them.
    """

    start_N1: NDArray[np.int64]  # sample n owns the marks [start[n], start[n + 1])
    class_L: NDArray[np.int32]
    value_L: NDArray[np.int8]
    classes: int
    rest: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.classes

    @property
    def size(self) -> int:
        return len(self) * self.classes

    def __len__(self) -> int:
        return len(self.start_N1) - 1

    def __getitem__(self, rows: Any) -> NDArray[np.int8]:
        if isinstance(rows, tuple):  # a sample and a class
            return self[rows[0]][..., rows[1]]
        number_K = np.arange(len(self))[rows]
        dense_KC: NDArray[np.int8] = np.full((np.size(number_K), self.classes), self.rest, np.int8)
        row_L, mark_L = self._marks(np.atleast_1d(number_K))
        dense_KC[row_L, self.class_L[mark_L]] = self.value_L[mark_L]
        return dense_KC[0] if np.ndim(number_K) == 0 else dense_KC

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.int8, copy=False)

    def take(self, number_K: NDArray[np.int64]) -> "SparseLabels":
        """The labels of some samples, kept in the same way."""
        row_L, mark_L = self._marks(number_K)
        start_K1 = np.zeros(len(number_K) + 1, np.int64)
        np.cumsum(np.bincount(row_L, minlength=len(number_K)), out=start_K1[1:])
        return SparseLabels(start_K1, self.class_L[mark_L], self.value_L[mark_L], self.classes, self.rest)

    def __iter__(self) -> Iterator[NDArray[np.int8]]:
        return (self[number] for number in range(len(self)))

    def count(self, label: int) -> NDArray[np.int64]:
        """How many samples of each class have `label`, int64 C."""
        if label == self.rest:
            return len(self) - np.bincount(self.class_L, minlength=self.classes)
        return np.bincount(self.class_L[self.value_L == label], minlength=self.classes)

    def present(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Sample and class of each label of 1."""
        present_L = np.asarray(self.value_L) == 1
        sample_L = np.repeat(np.arange(len(self)), np.diff(self.start_N1))
        return sample_L[present_L], self.class_L[present_L]

    def _marks(self, number_K: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each mark of some samples, which of these has it, and its number."""
        first_K, many_K = self.start_N1[number_K], np.diff(self.start_N1)[number_K]
        before_K = np.cumsum(many_K) - many_K
        row_L = np.repeat(np.arange(len(number_K)), many_K)
        return row_L, np.arange(len(row_L)) + np.repeat(first_K - before_K, many_K)


Labels: TypeAlias = NDArray[np.int8] | SparseLabels


def counts_of(labels: Labels, label: int, chosen: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """How many samples of each class have `label`, int64 C. A piece at a time, so that memory does not matter."""
    if isinstance(labels, SparseLabels):
        return (labels if chosen is None else labels.take(chosen)).count(label)
    counts_C = np.zeros(labels.shape[1], np.int64)
    piece = max(1, _PIECE // max(labels.shape[1], 1))
    for start in range(0, len(labels) if chosen is None else len(chosen), piece):
        rows: Any = slice(start, start + piece)
        counts_C += (labels[rows if chosen is None else chosen[rows]] == label).sum(0)
    return counts_C


def present(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Sample and class of each label of 1, in the order of the samples. A piece at a time."""
    if isinstance(labels, SparseLabels):
        return labels.present()
    piece = max(1, _PIECE // max(labels.shape[1], 1))
    found = [np.nonzero(labels[start : start + piece] == 1) for start in range(0, len(labels), piece)]
    samples = [sample_P + piece * number for number, (sample_P, _) in enumerate(found)]
    classes = [class_P.astype(np.int32) for _, class_P in found]
    return np.concatenate([np.zeros(0, np.int64), *samples]), np.concatenate([np.zeros(0, np.int32), *classes])
