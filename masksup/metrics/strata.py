"""Which positive pairs show a class only as small objects, only as occluded ones, and so on.

A positive pair (sample, class) lies in a stratum if all objects of the class in that sample do; with objects of
several strata it is mixed and lies in none. Objects flagged difficult or crowd do not count: the first are not
scored by VOC, and the box of a crowd says nothing about the size of what is in it. A pair without any other box
has no stratum either.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masksup.data.index import CROWD, DIFFICULT, OCCLUDED, TRUNCATED, Index

MIXED, WITHOUT_BOXES = -1, -2


@dataclass(frozen=True)
class Division:
    """Strata by one property. A stratum of a pair is its number in `names`, or MIXED or WITHOUT_BOXES."""

    names: tuple[str, ...]
    rule: str
    stratum_NC: NDArray[np.int8]


def divisions(
    index: Index, samples_N: NDArray[np.int64], size_shares: tuple[float, float]
) -> dict[str, Division | str]:
    """The strata of some samples, by "size" and by "occlusion", or in place of one the reason why it is missing.

    size_shares: area of a box over that of its image below which an object is small, and from which it is large.
    Strata are meaningful for positive pairs only.
    """
    flags_M = np.asarray(index.box_flags_M)
    if not len(flags_M):
        return dict.fromkeys(("size", "occlusion"), "the index holds no boxes")
    small, large = size_shares
    size_M = np.digitize(np.asarray(index.box_share_M), size_shares)
    size = Division(
        ("small", "medium", "large"),
        f"all boxes of the class in the sample below {small:.4g} of the image's area, from there to below {large:.4g}, "
        f"or from {large:.4g}",
        _strata(index, size_M)[samples_N],
    )
    hidden_M = (flags_M & (OCCLUDED | TRUNCATED)) > 0
    if not hidden_M.any():
        return {"size": size, "occlusion": "the index marks no object as occluded or truncated"}
    return {
        "size": size,
        "occlusion": Division(
            ("not occluded", "occluded"),
            "no object of the class in the sample is marked as occluded or truncated, or all are",
            _strata(index, hidden_M.astype(np.int64))[samples_N],
        ),
    }


def _strata(index: Index, kind_M: NDArray[np.int64]) -> NDArray[np.int8]:
    """The one kind that all counted boxes of a pair have, for all samples of the index: int8 N x C."""
    counted_M = (np.asarray(index.box_flags_M) & (DIFFICULT | CROWD)) == 0
    sample_M = np.repeat(np.arange(len(index)), np.diff(index.box_start_N1))
    rows, columns = sample_M[counted_M], np.asarray(index.box_class_M)[counted_M]
    low_NC = np.full(index.labels_NC.shape, np.iinfo(np.int8).max, np.int8)
    high_NC = np.full(index.labels_NC.shape, WITHOUT_BOXES, np.int8)
    np.minimum.at(low_NC, (rows, columns), kind_M[counted_M].astype(np.int8))
    np.maximum.at(high_NC, (rows, columns), kind_M[counted_M].astype(np.int8))
    return np.where((high_NC == low_NC) | (high_NC == WITHOUT_BOXES), high_NC, np.int8(MIXED))
