"""Curves as SVG paths: numbers to places in a box; the template draws axes and words around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """A plot of `width` x `height` units whose axes run over x and y; the margins hold the ticks' numbers."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: float = 480
    height: float = 300
    left: float = 54
    bottom: float = 34
    top: float = 26
    right: float = 18

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point, rounded to a tenth of a unit."""
        (x0, x1), (y0, y1) = self.x, self.y
        across, up = (x - x0) / ((x1 - x0) or 1), (y - y0) / ((y1 - y0) or 1)
        inner_width, inner_height = self.width - self.left - self.right, self.height - self.top - self.bottom
        return round(self.left + across * inner_width, 1), round(self.top + (1 - up) * inner_height, 1)

    def path(self, xs: Sequence[float] | Floats, ys: Sequence[float] | Floats) -> str:
        """The `d` of a path through the points that are finite."""
        points = [self.at(float(x), float(y)) for x, y in zip(xs, ys) if np.isfinite(x) and np.isfinite(y)]
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""


def frame(xs: Sequence[float], ys: Sequence[float], *, from_zero: bool = False, **size: float) -> Frame:
    """A frame that holds all the values, with round ticks."""
    low_x, high_x, x_ticks = _ticks(min(xs), max(xs))
    low_y, high_y, y_ticks = _ticks(0.0 if from_zero else min(ys), max(ys))
    return Frame((low_x, high_x), (low_y, high_y), x_ticks, y_ticks, **size)


def unit_frame(**size: float) -> Frame:
    """Both axes from 0 to 1, in percent."""
    ticks = tuple((share, f"{100 * share:.0f}") for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    return Frame((0.0, 1.0), (0.0, 1.0), ticks, ticks, **size)


def _ticks(low: float, high: float) -> tuple[float, float, tuple[tuple[float, str], ...]]:
    """Bounds and about four round ticks from `low` to `high`."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(power * min((m for m in (1, 2, 2.5, 5, 10) if m * power >= rough), default=10))
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    values = [float(k * step) for k in range(int(first), int(last) + 1)]
    return values[0], values[-1], tuple((value, f"{value:.10g}") for value in (round(v, 12) for v in values))


def training_curves(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """(epochs, values) of the loss, the learning rate, images/s and the evaluation's mAP, where there are any."""
    wanted = (("train", "loss"), ("eval", "mAP"), ("train", "learning_rate"), ("train", "images_per_second"))
    found: dict[str, tuple[list[float], list[float]]] = {}
    for kind, key in wanted:
        points = [(r["epoch"], r[key]) for r in rows if r["kind"] == kind and r.get(key) is not None and "epoch" in r]
        if len(points) > 1:
            thin = points[:: max(1, len(points) // 400)]
            thin = thin if thin[-1] == points[-1] else [*thin, points[-1]]
            found[key] = ([x for x, _ in thin], [y for _, y in thin])
    return found
