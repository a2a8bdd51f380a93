"""Antialiased resize of uint8 images in numpy, to the last bit as torch does it on CPUs with AVX2.

Pillow's own resize rounds its weights elsewhere: one pixel in 500, and in some images one in 6, then differs by one or
more levels, which is enough to change a label now and then. Here the weights are rounded to 16-bit integers as torch
does, first along the rows, then along the columns.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Shapes: C colours, H x W pixels, n input and m output pixels along the side that is resized, R rows of all colours.

Kind = Literal["bilinear", "bicubic"]
Floats = NDArray[np.floating]

_REACH: dict[Kind, float] = {"bilinear": 1.0, "bicubic": 2.0}  # of the filter, in pixels of the coarser grid
_TOGETHER = 16  # output pixels computed in one product: their inputs overlap, and little outside is touched
_LARGEST = 1 << 15


def resize(image_HW3: NDArray[np.uint8], width: int, height: int, kind: Kind) -> NDArray[np.uint8]:
    """uint8 H x W x 3 to 3 x `height` x `width`, colours first, as networks take them."""
    planes_3HW = np.ascontiguousarray(image_HW3.transpose(2, 0, 1))
    if image_HW3.shape[1] != width:
        planes_3HW = _rows(planes_3HW, width, kind)
    return planes_3HW if image_HW3.shape[0] == height else _columns(planes_3HW, height, kind)


def _rows(planes_CHn: NDArray[np.uint8], m: int, kind: Kind) -> NDArray[np.uint8]:
    channels, height, n = planes_CHn.shape
    x_Rn, out_Rm = planes_CHn.reshape(-1, n), np.empty((channels * height, m), np.uint8)
    for outputs, inputs, weight_mn, shift in _products(n, m, kind):
        _round(x_Rn[:, inputs].astype(weight_mn.dtype) @ weight_mn.T, shift, out_Rm[:, outputs])
    return out_Rm.reshape(channels, height, m)


def _columns(planes_CnW: NDArray[np.uint8], m: int, kind: Kind) -> NDArray[np.uint8]:
    channels, n, width = planes_CnW.shape
    out_CmW = np.empty((channels, m, width), np.uint8)
    for outputs, inputs, weight_mn, shift in _products(n, m, kind):
        _round(weight_mn @ planes_CnW[:, inputs].astype(weight_mn.dtype), shift, out_CmW[:, outputs])
    return out_CmW


def _round(sums: Floats, shift: int, out: NDArray[np.uint8]) -> None:
    whole = sums.astype(np.int32)
    whole += 1 << (shift - 1)
    whole >>= shift
    np.maximum(whole, 0, out=whole)
    np.minimum(whole, 255, out=out, casting="unsafe")


@lru_cache(maxsize=64)  # the photographs of one camera share their sides
def _products(n: int, m: int, kind: Kind) -> list[tuple[slice, slice, Floats, int]]:
    """For some output pixels at a time: those, the input pixels they depend on, the weights between them, the shift.

    Integer weights, held as floats for the matrix product, and the power of 2 they are scaled by. Never all m x n at
    once: of a long strip, which is enlarged until its short side fits, they would take gigabytes.
    """
    rows = [_weights(i, n, m, kind) for i in range(m)]
    largest, shift = max(weights.max() for _, weights in rows), 0
    while shift < 22 and int(0.5 + largest * (1 << (shift + 1))) < _LARGEST:
        shift += 1
    whole = [(first, _whole(weights * (1 << shift))) for first, weights in rows]
    # The sums are whole numbers: exact in float32 up to 2^24, else in float64.
    fits = 255 * max(np.abs(weights).sum() for _, weights in whole) < 1 << 24
    found = []
    for start in range(0, m, _TOGETHER):
        some = whole[start : start + _TOGETHER]
        left, right = min(first for first, _ in some), max(first + len(weights) for first, weights in some)
        block_mn = np.zeros((len(some), right - left), np.float32 if fits else np.float64)
        for row_n, (first, weights) in zip(block_mn, some):
            row_n[first - left : first - left + len(weights)] = weights
        found.append((slice(start, start + _TOGETHER), slice(left, right), block_mn, shift))
    return found


def _weights(i: int, n: int, m: int, kind: Kind) -> tuple[int, Floats]:
    """Of output pixel `i`: the first input pixel it depends on, and the shares of that one and those after it."""
    scale, reach = n / m, _REACH[kind]
    support, finer, centre = reach * max(scale, 1.0), 1 / max(scale, 1.0), scale * (i + 0.5)
    first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), n)
    weights = _filter((np.arange(first, last) - centre + 0.5) * finer, kind)
    return first, weights / weights.sum()


def _whole(x: Floats) -> Floats:
    whole: Floats = np.trunc(x + np.copysign(0.5, x))
    return whole


def _filter(x: Floats, kind: Kind) -> Floats:
    x = np.abs(x)
    if kind == "bilinear":
        return np.maximum(1 - x, 0)
    a = -0.5  # Keys' cubic, as Pillow and torch have it where they antialias
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
