"""Where OASS cuts an image: key points of class activation maps, without asking the device (rule 9); methods.md 5.3."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from masksup.models.heads.maps import cam

# Shapes: B images, C classes, T crops, H x W positions of the map, S x S pixels, k maxima of a map.

Strategy = Literal["max", "cmax", "ctopk", "ctopk_w"]
Compat = Literal["none", "original"]
Point = tuple[Tensor, Tensor]

CLASSES_AT_ONCE = 16  # maps that are enlarged together where only their maximum is kept: bounds the memory


def present_pairs(targets_BC: Tensor, logits_BC: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """(image_T, class_T, valid_T): the pairs of an image and a class that is present in it, as many as `slots`.

    Every image's likeliest class comes first, then every image's second, and so on, so that what does not fit is what
    the network sees least of. Slots that stay empty are marked as not valid and hold some other pair.
    """
    b, classes = targets_BC.shape
    present_BC = targets_BC == 1
    score_BC = torch.where(present_BC, logits_BC, -torch.inf)
    rank_BC = score_BC.argsort(stable=True, dim=1, descending=True).argsort(1)
    image_B1 = torch.arange(b, device=targets_BC.device)[:, None]
    turn_BC = torch.where(present_BC, 0, b * classes) + rank_BC * b + image_B1
    order_T = turn_BC.flatten().argsort()[:slots]
    return order_T // classes, order_T % classes, present_BC.flatten()[order_T]


def enlarge(cam_THW: Tensor, size: int) -> Tensor:
    """Maps stretched to `size` x `size` pixels by the half-pixel rule."""
    return F.interpolate(cam_THW[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def strongest_present(maps_BCHW: Tensor, targets_BC: Tensor, size: int) -> Tensor:
    """The maximum over the classes that are present of their activation maps, in pixels: BSS. Zero without any."""
    shown_BCHW = cam(maps_BCHW) * (targets_BC == 1)[:, :, None, None]
    best_BSS = torch.zeros(len(maps_BCHW), size, size, device=maps_BCHW.device)
    for group in torch.split(shown_BCHW, CLASSES_AT_ONCE, 1):
        large = F.interpolate(group, (size, size), mode="bilinear", align_corners=False)
        best_BSS = torch.maximum(best_BSS, large.amax(1))
    return best_BSS


def peak(cam_TSS: Tensor) -> Point:
    """(row_T, column_T) of the largest value; of equals the first row by row."""
    index_T = cam_TSS.flatten(1).argmax(1)
    width = cam_TSS.shape[2]
    return index_T // width, index_T % width


def local_maxima(cam_TSS: Tensor, distance: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `count` strongest local maxima: (row_Tk, column_Tk, value_Tk, found_Tk), strongest first.

    The rule of scikit-image's peak_local_max: not below anything within `distance` pixels (a square), above the
    smallest value of the map, at least `distance` from the border; of equals closer than `distance` the first row by
    row. A map of one value has none.
    """
    size = cam_TSS.shape[1]
    window = 2 * distance + 1
    around = F.max_pool2d(cam_TSS[:, None], (window, 1), 1, (distance, 0))
    around_TSS = F.max_pool2d(around, (1, window), 1, (0, distance))[:, 0]
    place_S = torch.arange(size, device=cam_TSS.device)
    inside_S = (place_S >= distance) & (place_S < size - distance)
    is_peak_TSS = (cam_TSS == around_TSS) & (cam_TSS > cam_TSS.amin((1, 2), keepdim=True))
    left_TSS = torch.where(is_peak_TSS & inside_S & inside_S[:, None], cam_TSS, -torch.inf)
    found = []
    for _ in range(count):
        row_T, column_T = peak(left_TSS)
        value_T = left_TSS.amax((1, 2))
        found.append((row_T, column_T, value_T, value_T > -torch.inf))
        close_TS1 = ((place_S - row_T[:, None]).abs() < distance)[:, :, None]
        close_T1S = ((place_S - column_T[:, None]).abs() < distance)[:, None, :]
        at_TSS = (place_S[:, None] == row_T[:, None, None]) & (place_S == column_T[:, None, None])
        left_TSS = left_TSS.masked_fill((close_TS1 & close_T1S) | at_TSS, -torch.inf)
    rows, columns, values, valid = (torch.stack(column, 1) for column in zip(*found))
    return rows, columns, values, valid


def mean_of_maxima(cam_TSS: Tensor, distance: int, radius: float, top: int, compat: Compat) -> tuple[Point, Tensor]:
    """cTopk: the mean, rounded down, of those of the `top` strongest maxima that lie within `radius` of the peak;
    and whether there was one.

    "original" repeats a slip of the published code: with more than `top` maxima it compares their row with the row
    and with the column of the peak.
    """
    row_Tk, column_Tk, _, found_Tk = local_maxima(cam_TSS, distance, top + 1)
    more_T1 = found_Tk[:, top:]
    row_Tk, column_Tk, found_Tk = row_Tk[:, :top], column_Tk[:, :top], found_Tk[:, :top]
    peak_row_T, peak_column_T = peak(cam_TSS)
    compared_Tk = torch.where(more_T1, row_Tk, column_Tk) if compat == "original" else column_Tk
    away_Tk = (row_Tk - peak_row_T[:, None]).square() + (compared_Tk - peak_column_T[:, None]).square()
    kept_Tk = found_Tk & (away_Tk <= radius**2)
    count_T = kept_Tk.sum(1)
    row_T, column_T = ((place * kept_Tk).sum(1) // count_T.clamp(min=1) for place in (row_Tk, column_Tk))
    return (row_T, column_T), count_T > 0


def weighted_mean_of_maxima(cam_TSS: Tensor, distance: int, top: int, compat: Compat) -> tuple[Point, Tensor]:
    """cTopk-w: the mean of the `top` strongest maxima weighted by value, rounded down; and whether there was one.

    "original" rounds every addend down before it adds them.
    """
    row_Tk, column_Tk, value_Tk, found_Tk = local_maxima(cam_TSS, distance, top)
    value_Tk = torch.where(found_Tk, value_Tk, 0.0)
    total_T1 = value_Tk.sum(1, keepdim=True)
    total_T1 = torch.where(total_T1 > 0, total_T1, 1.0)
    addends = [place * value_Tk / total_T1 for place in (row_Tk, column_Tk)]
    if compat == "original":
        addends = [addend_Tk.floor() for addend_Tk in addends]
    row_T, column_T = (addend_Tk.sum(1).floor().long() for addend_Tk in addends)
    return (row_T, column_T), found_Tk.any(1)


def place_of(
    strategy: Strategy, cam_TSS: Tensor, distance: int, radius: float, top: int, compat: Compat, margin: int
) -> Point:
    """The key point of every map, 1 to S - 1 in rows and columns.

    Where a strategy finds nothing, the map's peak is taken, and the centre where nothing is positive. The point keeps
    `margin` pixels (one position of the feature map) from the border, so that every tile holds something.
    "original" takes the centre where nothing was found or a coordinate is 0, and lets a tile be one pixel thin.
    """
    size = cam_TSS.shape[1]
    highest = peak(cam_TSS)
    if strategy == "ctopk":
        point, found_T = mean_of_maxima(cam_TSS, distance, radius, top, compat)
    elif strategy == "ctopk_w":
        point, found_T = weighted_mean_of_maxima(cam_TSS, distance, top, compat)
    else:
        point, found_T = highest, torch.ones_like(highest[0], dtype=torch.bool)
    row_T, column_T = point
    if compat == "original":
        centre_T = ~found_T | (row_T == 0) | (column_T == 0)
        return torch.where(centre_T, size // 2, row_T), torch.where(centre_T, size // 2, column_T)
    positive_T = cam_TSS.amax((1, 2)) > 0
    row_T, column_T = (torch.where(found_T, mine, other) for mine, other in zip((row_T, column_T), highest))
    row_T, column_T = (torch.where(positive_T, place_T, size // 2) for place_T in (row_T, column_T))
    return row_T.clamp(margin, size - margin), column_T.clamp(margin, size - margin)
