"""Who is predicted where it is absent, and the worst single mistakes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masksup.metrics.pairs import Labels

# Shapes: N samples, C classes; pair (i, j): class i is there, class j is not.


@dataclass(frozen=True)
class Confusions:
    """Of images that show class i and not class j: how many there are, and in how many j is predicted. `usual_C`: the
    share of all images without class j in which j is predicted."""

    images_CC: NDArray[np.int64]
    predicted_CC: NDArray[np.int64]
    usual_C: NDArray[np.float64]

    @property
    def share_CC(self) -> NDArray[np.float64]:
        """0 where there are no such images."""
        share_CC: NDArray[np.float64] = self.predicted_CC / np.maximum(self.images_CC, 1)
        return share_CC


def confusions(present_NC: NDArray[np.bool_], labels_NC: Labels) -> Confusions:
    """Ignored pairs count as neither there nor absent."""
    # As floats, whose products are made by BLAS, many times faster than of integers; exact up to 2^53 images.
    there_NC, absent_NC = (labels_NC == 1).astype(np.float64), (labels_NC == 0).astype(np.float64)
    false_NC = absent_NC * present_NC
    usual_C = false_NC.sum(0) / np.maximum(absent_NC.sum(0), 1)
    images_CC, predicted_CC = ((there_NC.T @ other_NC).astype(np.int64) for other_NC in (absent_NC, false_NC))
    return Confusions(images_CC, predicted_CC, usual_C)


def most_confused(found: Confusions, most: int) -> list[tuple[int, int]]:
    """The pairs (i, j) with the most false alarms beyond those that j gives anyway; only pairs that exceed them."""
    beyond_CC = found.predicted_CC - found.images_CC * found.usual_C[None]
    order = np.argsort(-beyond_CC, axis=None, kind="stable")[:most]
    pairs = [tuple(int(n) for n in np.unravel_index(place, beyond_CC.shape)) for place in order]
    return [(i, j) for i, j in pairs if beyond_CC[i, j] > 0]


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
