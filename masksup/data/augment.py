"""Random changes of colour and shape beyond crop and flip: colour jitter, RandAugment, Cutout.

The pixel operations are torchvision's; only the draws are ours, because torchvision draws from torch's global
generator, and here each outcome must be a function of the generator passed in.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Boxes = NDArray[np.float32]

_LEVELS = 31  # magnitudes are 0 .. 30, as in torchvision and the paper
_ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "color": F.adjust_saturation,
    "sharpness": F.adjust_sharpness,
}
_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
RANDAUGMENT = ("identity", *_MOVES, *_ADJUST, "posterize", "solarize", "autocontrast", "equalize")


def color_jitter(image: Tensor, strengths: tuple[float, float, float, float], rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation (factors uniform in 1 +- strength) and hue (shift uniform in +- strength).

    As torchvision's ColorJitter, the four come in random order.
    """
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths[:3]]
    factors.append(rng.uniform(-strengths[3], strengths[3]))
    for k in rng.permutation(4):
        if strengths[k] > 0:
            image = adjust[k](image, factors[k])
    return image


def randaugment(
    image: Tensor, boxes: Boxes, count: int, magnitude: int, rng: np.random.Generator
) -> tuple[Tensor, Boxes]:
    """`count` operations drawn with replacement from the 14 of RandAugment (Cubuk et al. 2020, table 6 of
    AutoAugment's space), at one magnitude of 0..30 and with a random sign; boxes move with the pixels."""
    for _ in range(count):
        name = RANDAUGMENT[rng.integers(len(RANDAUGMENT))]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        image, boxes = apply_operation(name, image, boxes, magnitude, sign)
    return image, boxes


def apply_operation(name: str, image: Tensor, boxes: Boxes, magnitude: int, sign: float) -> tuple[Tensor, Boxes]:
    """One RandAugment operation on an image of 3HW and its xyxy boxes (the hull of the moved corners)."""
    share = magnitude / (_LEVELS - 1)
    if name in _MOVES:
        return _move(name, image, boxes, sign * share)
    if name in _ADJUST:
        image = _ADJUST[name](image, 1.0 + sign * 0.9 * share)
    elif name == "posterize":
        image = F.posterize(image, 8 - round(4 * share))
    elif name == "solarize":
        image = F.solarize(image, 255.0 * (1.0 - share))
    elif name == "autocontrast":
        image = F.autocontrast(image)
    elif name == "equalize":
        image = F.equalize(image)
    else:
        assert name == "identity", name
    return image, boxes


def cutout(image: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Fill a square of `share` times the side around a random centre with one random colour (as ASL's recipe)."""
    height, width = image.shape[-2:]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    half_y, half_x = round(height * share) // 2, round(width * share) // 2
    color = rng.integers(0, 256, 3).tolist()
    image = image.clone()
    for channel, value in enumerate(color):
        image[channel, max(y - half_y, 0) : y + half_y, max(x - half_x, 0) : x + half_x] = value
    return image


def _move(name: str, image: Tensor, boxes: Boxes, amount: float) -> tuple[Tensor, Boxes]:
    """Shear by up to 0.3 about the top left corner, translate by up to 150/331 of the side, rotate by up to 30°."""
    height, width = image.shape[-2:]
    degrees, shear, shift, center = 0.0, [0.0, 0.0], [0.0, 0.0], [width / 2, height / 2]
    matrix = np.eye(3)
    if name.startswith("shear"):
        axis = 0 if name == "shear_x" else 1
        shear[axis], center = math.degrees(math.atan(0.3 * amount)), [0.0, 0.0]
        matrix[axis, 1 - axis] = -0.3 * amount
    elif name.startswith("translate"):
        axis = 0 if name == "translate_x" else 1
        shift[axis] = float(int(150 / 331 * (width, height)[axis] * amount))
        matrix[axis, 2] = shift[axis]
    else:
        degrees = 30.0 * amount
        matrix = _rotation(math.radians(degrees), center[0], center[1])
    # F.affine turns clockwise, F.rotate and the paper counter-clockwise.
    image = F.affine(image, angle=-degrees, translate=shift, scale=1.0, shear=shear, center=center)
    return image, _moved_hull(boxes, matrix)


def _rotation(angle: float, x: float, y: float) -> NDArray[np.float64]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]])


def _moved_hull(boxes: Boxes, matrix: NDArray[np.float64]) -> Boxes:
    corners_K42 = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    moved = corners_K42 @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)
