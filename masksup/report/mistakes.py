"""Who is predicted where it is absent, and the worst single mistakes."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.pairs import Labels

# Shapes: N samples, C classes; pair (i, j): class i is there, class j is not.


class Pair(NamedTuple):
    """Of the images that show class i and not class j: how many there are, and in how many j is predicted."""

    i: int
    j: int
    images: int
    predicted: int


@dataclass(frozen=True)
class Confusions:
    """`most`: the pairs with the most false alarms beyond those that j gives anyway, only pairs that exceed these.
    `usual_C`: the share of all images without class j in which j is predicted. `weight_C`: the false alarms of all
    pairs that a class is in."""

    most: list[Pair]
    usual_C: NDArray[np.float64]
    weight_C: NDArray[np.int64]


def confusions(present_NC: NDArray[np.bool_], labels_NC: Labels, most: int) -> Confusions:
    """Ignored pairs count as neither there nor absent. A class at a time: of all pairs of very many classes there is no
    table, and an image shows few."""
    absent_NC = labels_NC == 0
    false_NC = absent_NC & present_NC
    usual_C = false_NC.sum(0) / np.maximum(absent_NC.sum(0), 1)
    weight_C, found = np.zeros(labels_NC.shape[1], np.int64), list[tuple[float, Pair]]()
    for i in range(labels_NC.shape[1]):
        there_K = np.flatnonzero(labels_NC[:, i] == 1)
        images_C, predicted_C = (np.count_nonzero(of_NC[there_K], axis=0) for of_NC in (absent_NC, false_NC))
        weight_C += predicted_C
        weight_C[i] += predicted_C.sum()
        beyond_C = predicted_C - images_C * usual_C
        least = found[-1][0] if len(found) == most else 0.0
        # A pair of an earlier class comes first where two exceed alike.
        further = [(float(beyond_C[j]), Pair(i, int(j), int(images_C[j]), int(predicted_C[j])))
                   for j in np.flatnonzero(beyond_C > least)]  # fmt: skip
        found = sorted(found + further, key=lambda pair: -pair[0])[:most] if further else found
    return Confusions([pair for _, pair in found], usual_C, weight_C)


def matrix(
    present_NC: NDArray[np.bool_], labels_NC: Labels, shown: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images and false alarms of all pairs (i, j) of some classes."""
    there_NS, absent_NS = labels_NC[:, shown] == 1, labels_NC[:, shown] == 0
    false_NS = absent_NS & present_NC[:, shown]
    images_SS, predicted_SS = (there_NS.astype(np.int64).T @ of_NS for of_NS in (absent_NS, false_NS))
    return images_SS, predicted_SS


@dataclass(frozen=True)
class Mistake:
    """A row of the part and a class of which the decision is wrong."""

    kind: Literal["false", "missed"]
    row: int
    class_: int
    probability: float


def worst_mistakes(
    probabilities_NC: NDArray[np.float64], present_NC: NDArray[np.bool_], labels_NC: Labels,
    kind: Literal["false", "missed"], most: int, each: int = 2,
) -> list[Mistake]:  # fmt: skip
    """The surest false alarms, or the true labels held least likely; at most `each` of a class and of an image."""
    false = kind == "false"
    wrong_NC = ((labels_NC == 0) & present_NC) if false else ((labels_NC == 1) & ~present_NC)
    rows, columns = np.nonzero(wrong_NC)
    badness = probabilities_NC[rows, columns] * (1 if false else -1)
    found: list[Mistake] = []
    of_class, of_row = np.zeros(wrong_NC.shape[1], int), np.zeros(len(wrong_NC), int)
    for place in np.argsort(-badness, kind="stable"):
        row, c = int(rows[place]), int(columns[place])
        if of_class[c] < each and of_row[row] < each:
            found.append(Mistake(kind, row, c, float(probabilities_NC[row, c])))
            of_class[c] += 1
            of_row[row] += 1
        if len(found) == most:
            break
    return found
