"""Pictures of textured shapes on textured backgrounds, with what can be seen of each shape.

Sizes are spread over small, medium and large; later shapes hide earlier ones; shapes may leave the image. A class has
a favourite colour that its neighbours in `CLASSES` share in part, so that colour alone is not enough.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from masksup.base.random import draws

CLASSES = (
    "arrow", "bar", "checked_square", "crescent", "cross", "disc", "heart", "ring", "square", "star",
    "striped_disc", "triangle",
)  # fmt: skip

Floats = NDArray[np.float32]
Polygon = list[tuple[float, float]]

_SIZES = ((0.45, 0.16, 0.26), (0.35, 0.26, 0.42), (0.20, 0.42, 0.62))  # share of objects, side from and to
_CROWDING = 0.33
_HUE_SPREAD = 0.45  # of the distance between the favourite colours of two classes
_SUPERSAMPLE = 4
_TRIES = 12


@dataclass
class Shape:
    """One drawn object. Masks are bool HW of the image; `area` counts the pixels outside the image too."""

    name: str
    area: int
    inside_HW: NDArray[np.bool_]
    visible_HW: NDArray[np.bool_]

    def seen(self) -> float:
        return int(self.visible_HW.sum()) / self.area

    def box(self) -> tuple[int, int, int, int]:
        rows, columns = np.flatnonzero(self.visible_HW.any(axis=1)), np.flatnonzero(self.visible_HW.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def truncated(self) -> bool:
        return int(self.inside_HW.sum()) < 0.95 * self.area

    def occluded(self) -> bool:
        return int(self.visible_HW.sum()) < 0.9 * int(self.inside_HW.sum())

    def difficult(self) -> bool:
        x1, y1, x2, y2 = self.box()
        return self.seen() < 0.35 or min(x2 - x1, y2 - y1) < 0.08 * len(self.visible_HW)


def draw_image(size: int, seed: int, number: int) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Image `number` of the data set: uint8 HW3 and its objects, those behind first."""
    rng = draws(seed, number, "shapes")
    canvas_HW3 = _background(size, rng)
    objects: list[Shape] = []
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15]))):
        _place(CLASSES[rng.integers(len(CLASSES))], canvas_HW3, objects, rng)
    canvas_HW3 += rng.normal(0, 0.02, canvas_HW3.shape).astype(np.float32)
    return (np.clip(canvas_HW3, 0, 1) * 255 + 0.5).astype(np.uint8), objects


def _place(name: str, canvas_HW3: Floats, objects: list[Shape], rng: np.random.Generator) -> None:
    """Draw one object where it and all behind it stay visible enough; nothing if no such place is found."""
    size = len(canvas_HW3)
    for _ in range(_TRIES):
        _, low, high = _SIZES[rng.choice(len(_SIZES), p=[share for share, _, _ in _SIZES])]
        radius = size * rng.uniform(low, high) / 2
        alpha_PP, color_PP3 = _patch(name, radius, rng)
        x, y = (int(v) - len(alpha_PP) // 2 for v in _center(size, radius, objects, rng))
        rows, columns = _overlap(y, len(alpha_PP), size), _overlap(x, len(alpha_PP), size)
        alpha_HW = np.zeros((size, size), np.float32)
        alpha_HW[rows[0], columns[0]] = alpha_PP[rows[1], columns[1]]
        solid_HW = alpha_HW > 0.5
        new = Shape(name, int((alpha_PP > 0.5).sum()), solid_HW, solid_HW.copy())
        remaining = [int((o.visible_HW & ~solid_HW).sum()) / o.area for o in objects]
        if min([new.seen(), *remaining]) < 0.15:
            continue
        for o in objects:
            o.visible_HW &= ~solid_HW
        target, alpha = canvas_HW3[rows[0], columns[0]], alpha_PP[rows[1], columns[1], None]
        target += alpha * (color_PP3[rows[1], columns[1]] - target)
        objects.append(new)
        return


def _center(size: int, radius: float, objects: list[Shape], rng: np.random.Generator) -> NDArray[Any]:
    """Anywhere, a little beyond the border included; in a third of the cases near an object already there."""
    if objects and rng.random() < _CROWDING:
        x1, y1, x2, y2 = objects[rng.integers(len(objects))].box()
        return np.array([(x1 + x2) / 2, (y1 + y2) / 2]) + rng.normal(0, radius, 2)
    return np.asarray(rng.uniform(0.04, 0.96, 2) * size)


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Where [start, start + length) meets [0, size): in the image's and in the patch's coordinates."""
    low, high = max(start, 0), min(start + length, size)
    return slice(low, max(low, high)), slice(low - start, max(low, high) - start)


def _patch(name: str, radius: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Opacity PP and colour PP3 of an object, turned by up to 30 degrees, its texture turned along."""
    angle = rng.uniform(-math.pi / 6, math.pi / 6)
    side = 2 * math.ceil(radius) + 2
    mask = Image.new("L", (side * _SUPERSAMPLE, side * _SUPERSAMPLE))
    pen = ImageDraw.Draw(mask)
    for k, polygon in enumerate(_OUTLINES[name]):
        turned = [_turned(x, y, angle) for x, y in polygon]
        points = [((x * radius + side / 2) * _SUPERSAMPLE, (y * radius + side / 2) * _SUPERSAMPLE) for x, y in turned]
        pen.polygon(points, fill=255 * (k == 0))
    alpha_PP = np.asarray(mask.reduce(_SUPERSAMPLE), np.float32) / np.float32(255)
    axis = (np.arange(side) + 0.5 - side / 2) / radius
    u_PP, v_PP = _turned(axis[None, :], axis[:, None], -angle)
    first, second = _colors(name, rng)
    color_PP3 = first + _texture(name, u_PP, v_PP, rng)[..., None] * (second - first)
    return alpha_PP, color_PP3.astype(np.float32)


def _turned(x: Any, y: Any, angle: float) -> tuple[Any, Any]:
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _texture(name: str, u_PP: Floats, v_PP: Floats, rng: np.random.Generator) -> NDArray[Any]:
    """Share of the second colour: stripes, checks, or for plain objects a faint gradient."""
    phase = rng.uniform(0, 2 * math.pi)
    if name == "striped_disc":
        return np.asarray(np.clip(0.5 + 2 * np.sin(u_PP * 8 + phase), 0, 1))
    if name == "checked_square":
        return np.asarray(np.clip(0.5 + 4 * np.sin(u_PP * 6 + phase) * np.sin(v_PP * 6 + phase), 0, 1))
    return np.asarray(0.12 * (1 + u_PP * math.cos(phase) + v_PP * math.sin(phase)))


def _colors(name: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A saturated colour near the favourite of the class, and one of clearly other brightness for its texture."""
    hue = 3 * (CLASSES.index(name) + rng.normal(0, _HUE_SPREAD)) / len(CLASSES)
    bright = rng.random() < 0.5
    ramp = np.clip(1.5 - np.abs((hue - np.arange(3) + 1.5) % 3 - 1.5) * 1.5, 0, 1)
    color = (ramp * rng.uniform(0.75, 1.0) + rng.uniform(0.0, 0.15)).astype(np.float32)
    return color, color * np.float32(0.2) if bright else 1 - (1 - color) * np.float32(0.2)


def _background(size: int, rng: np.random.Generator) -> Floats:
    """Dull colours: smooth noise of two scales, and in half of the images faint waves."""
    base = rng.uniform(0.25, 0.75, 3) * 0.35 + rng.uniform(0.2, 0.8) * 0.65
    canvas_HW3 = np.broadcast_to(base.astype(np.float32), (size, size, 3)).copy()
    for cells, strength in ((3, 0.10), (12, 0.07)):
        noise = Image.fromarray((rng.random((cells, cells, 3)) * 255).astype(np.uint8))
        canvas_HW3 += (np.asarray(noise.resize((size, size), 3), np.float32) / 255 - 0.5) * 2 * strength
    if rng.random() < 0.5:
        axis = np.arange(size, dtype=np.float32)
        u_HW, _ = _turned(axis[None, :], axis[:, None], rng.uniform(0, math.pi))
        wave_HW = np.sin(u_HW * 2 * math.pi / rng.uniform(5, 24)) * rng.uniform(0.04, 0.12)
        canvas_HW3 += wave_HW[..., None].astype(np.float32)
    return canvas_HW3


def _regular(corners: int, radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> Polygon:
    """A regular polygon with a corner at the top."""
    angles = [2 * math.pi * k / corners - math.pi / 2 for k in range(corners)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _star() -> Polygon:
    outer, inner = _regular(5), [_turned(x, y, math.pi / 5) for x, y in _regular(5, 0.42)]
    return [point for pair in zip(outer, inner) for point in pair]


def _heart() -> Polygon:
    t = [2 * math.pi * k / 48 for k in range(48)]
    y = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in t]
    return [(math.sin(a) ** 3, -b / 17 + 0.05) for a, b in zip(t, y)]


_SQUARE: Polygon = [(-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)]
_CROSS: Polygon = [
    (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3), (0.3, 0.95), (-0.3, 0.95),
    (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
]  # fmt: skip
_ARROW: Polygon = [
    (0.98, 0.0), (0.15, -0.8), (0.15, -0.3), (-0.95, -0.3), (-0.95, 0.3), (0.15, 0.3), (0.15, 0.8),
]  # fmt: skip

# In units of the radius, y down. The first polygon is filled, a second one is cut out of it.
_OUTLINES: dict[str, list[Polygon]] = {
    "arrow": [_ARROW],
    "bar": [[(-1.0, -0.27), (1.0, -0.27), (1.0, 0.27), (-1.0, 0.27)]],
    "checked_square": [_SQUARE],
    "crescent": [_regular(48), _regular(48, 0.85, 0.45, -0.1)],
    "cross": [_CROSS],
    "disc": [_regular(48, 0.9)],
    "heart": [_heart()],
    "ring": [_regular(48, 0.98), _regular(48, 0.55)],
    "square": [_SQUARE],
    "star": [_star()],
    "striped_disc": [_regular(48, 0.9)],
    "triangle": [_regular(3)],
}
