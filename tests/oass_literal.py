"""OASS as methods.md 5.2 to 5.4 tells it: one image, class, point and tile after the other, in Python numbers."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Map = NDArray[np.float32]
Place = tuple[int, int]


def activation(scores: Tensor) -> Tensor:
    """CAM of one map HW."""
    positive = torch.clamp(scores, min=0)
    return torch.clamp(positive - 1e-5, min=0) / (positive.max() + 1e-5)


def stretched(scores: Tensor, size: int) -> Map:
    large = F.interpolate(scores[None, None], (size, size), mode="bilinear", align_corners=False)[0, 0]
    return np.asarray(large.numpy())


def first_peak(shown: Map) -> Place:
    row, column = divmod(int(shown.argmax()), shown.shape[1])
    return row, column


def peak_local_max(shown: Map, distance: int) -> list[Place]:
    """The rule of skimage.feature.peak_local_max(shown, min_distance=distance), strongest first."""
    size = len(shown)
    if (shown == shown[0, 0]).all():
        return []
    found = []
    for r in range(distance, size - distance):
        for c in range(distance, size - distance):
            window = shown[r - distance : r + distance + 1, c - distance : c + distance + 1]
            if shown[r, c] == window.max() and shown[r, c] > shown.min():
                found.append((r, c))
    found.sort(key=lambda place: -shown[place])  # a stable sort: of equals the first row by row
    kept: list[Place] = []
    for r, c in found:
        if all(max(abs(r - i), abs(c - j)) >= distance for i, j in kept):
            kept.append((r, c))
    return kept


def key_point(strategy: str, shown: Map, distance: int, radius: float, top: int, original: bool, grid: int) -> Place:
    size = len(shown)
    peak, point = first_peak(shown), None
    if strategy in ("max", "cmax"):
        point = peak
    else:
        found = peak_local_max(shown, distance)
        best = found[:top]
        if strategy == "ctopk":
            slip = original and len(found) > top
            kept = [(r, c) for r, c in best if math.hypot(r - peak[0], (r if slip else c) - peak[1]) <= radius]
            if kept:
                point = (sum(r for r, _ in kept) // len(kept), sum(c for _, c in kept) // len(kept))
        elif best:
            total = np.float32(sum(shown[place] for place in best))
            rows, columns = ([np.float32(place[i] * shown[place] / total) for place in best] for i in (0, 1))
            if original:
                point = (sum(int(x) for x in rows), sum(int(x) for x in columns))
            else:
                point = (int(np.float32(sum(rows))), int(np.float32(sum(columns))))
    if original:
        return point if point is not None and 0 not in point else (size // 2, size // 2)
    point = peak if point is None else point
    point = point if shown.max() > 0 else (size // 2, size // 2)
    step = size // grid
    return min(max(point[0], step), size - step), min(max(point[1], step), size - step)


def crops(
    maps: Tensor, logits: Tensor, targets: Tensor, size: int, options: dict[str, Any]
) -> Iterator[tuple[int, Place, list[int]]]:
    """(image, point, labels) of every crop that counts."""
    strategy, original, grid = options["strategy"], options["compat"] == "original", maps.shape[-1]
    settings = (options["distance"], options["radius"], options["top"], original, grid)
    wanted = []
    for i in range(len(maps)):
        present = [c for c in range(targets.shape[1]) if targets[i, c] == 1]
        if strategy == "max":
            shown = np.zeros((size, size), np.float32)
            for c in present:
                shown = np.maximum(shown, stretched(activation(maps[i, c]), size))
            yield i, key_point(strategy, shown, *settings), targets[i].tolist()
            continue
        present.sort(key=lambda c: -float(logits[i, c]))
        wanted += [(turn, i, c) for turn, c in enumerate(present)]
    for _, i, c in sorted(wanted)[: options["points"] * len(maps)]:
        point = key_point(strategy, stretched(activation(maps[i, c]), size), *settings)
        yield i, point, [-1 if targets[i, v] < 0 else int(v == c) for v in range(targets.shape[1])]


def tiles_of(image: Tensor, point: Place, tile: int, mode: str) -> list[Tensor]:
    r, c = point
    parts = [image[:, :r, :c], image[:, :r, c:], image[:, r:, :c], image[:, r:, c:]]
    return [resized(part, tile, tile, mode) for part in parts]


def put_together(maps: list[Tensor], point: Place, size: int, grid: int, mode: str, original: bool) -> Tensor:
    r, c = (
        max(1, x * grid // size) if original else min(max(1, round_half_up(x * grid / size)), grid - 1) for x in point
    )
    heights, widths = (r, r, grid - r, grid - r), (c, grid - c, c, grid - c)
    a, b, d, e = (resized(one, h, w, mode) for one, h, w in zip(maps, heights, widths))
    return torch.cat([torch.cat([a, b], 2), torch.cat([d, e], 2)], 1)


def round_half_up(x: float) -> int:
    return math.floor(x + 0.5)


def resized(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    if mode == "nearest":
        return F.interpolate(x[None], (height, width), mode="nearest")[0]
    return F.interpolate(x[None], (height, width), mode="bilinear", align_corners=False)[0]
