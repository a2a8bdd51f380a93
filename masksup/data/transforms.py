"""From a decoded image to the square the network sees: the recipes' crops, flips and resizes.

Everything works on uint8 stored as HWC, where torchvision's antialiased resize is fastest, and crops before it
resizes. Boxes, when given, follow the pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from masksup.config.schema import Augment
from masksup.data.augment import Boxes, color_jitter, cutout, randaugment


@dataclass(frozen=True)
class Transform:
    """Image to a square of `size` px, for training (drawing from the generator given) or for evaluation."""

    settings: Augment
    size: int
    train: bool

    def __call__(
        self, image: Tensor, rng: np.random.Generator, boxes: Boxes | None = None
    ) -> tuple[Tensor, Boxes | None]:
        """Transform one image.

        Args:
            image: uint8 3HW.
            boxes: xyxy px in the frame of `image`, float32 K4.

        Returns: uint8 3SS, and the boxes in its frame, clipped to it (empty where nothing is left).
        """
        if boxes is None:
            return self.track(image, rng, np.zeros((0, 4), np.float32))[0], None
        out, moved = self.track(image, rng, boxes)
        return out, clip_boxes(moved, self.size)[0]

    def track(self, image: Tensor, rng: np.random.Generator, boxes: Boxes) -> tuple[Tensor, Boxes]:
        """As `__call__`, with the boxes not clipped, so that `clip_boxes` can say how much of each was kept."""
        return self._train(image, rng, boxes) if self.train else self._eval(image, boxes)

    def _train(self, image: Tensor, rng: np.random.Generator, boxes: Boxes) -> tuple[Tensor, Boxes]:
        settings = self.settings
        flipped = rng.random() < settings.flip
        height, width = image.shape[1:]
        frame = (0, 0, width, height)
        if settings.crop == "random_placed":
            shape = random_longer_side(width, height, self.size, settings.longer_side, rng)
            image, boxes = self._resized_frame(image, boxes, frame, shape)
            left, top = (int(rng.integers(min(0, self.size - side), max(0, self.size - side) + 1)) for side in shape)
            image, boxes = self._placed(image, boxes, left, top)
        else:
            if settings.crop == "random_resized":
                frame = random_frame(width, height, settings.scale, settings.ratio, rng)
            image, boxes = self._resized_frame(image, boxes, frame, (self.size, self.size))
        if flipped:  # after the resize, when fewer pixels are left to move
            image = image.flip(-1)
            boxes = np.stack([self.size - boxes[:, 2], boxes[:, 1], self.size - boxes[:, 0], boxes[:, 3]], axis=1)
        if settings.randaugment is not None:
            image, boxes = randaugment(image, boxes, *settings.randaugment, rng)
        if settings.color_jitter is not None:
            image = color_jitter(image, settings.color_jitter, rng)
        if settings.cutout > 0:
            image = cutout(image, settings.cutout, rng)
        return image, boxes

    def _eval(self, image: Tensor, boxes: Boxes) -> tuple[Tensor, Boxes]:
        height, width = image.shape[1:]
        if self.settings.eval_resize == "squish":
            return self._resized_frame(image, boxes, (0, 0, width, height), (self.size, self.size))
        if self.settings.eval_resize == "top_left":
            return self._placed(image, boxes, 0, 0)
        short = math.floor(self.size / self.settings.crop_share)
        shape = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        image, boxes = self._resized_frame(image, boxes, (0, 0, width, height), shape)
        left, top = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        image = image[:, top : top + self.size, left : left + self.size]
        return image, boxes - np.array([left, top, left, top], np.float32)

    def _placed(self, image: Tensor, boxes: Boxes, left: int, top: int) -> tuple[Tensor, Boxes]:
        """The image on a square of `fill`, its top left corner at (left, top) px; what sticks out is cut off."""
        height, width = image.shape[1:]
        fill = torch.tensor(self.settings.fill, dtype=torch.uint8)
        square = fill.repeat(self.size, self.size, 1).permute(2, 0, 1)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, self.size), min(top + height, self.size)
        square[:, y1:y2, x1:x2] = image[:, y1 - top : y2 - top, x1 - left : x2 - left]
        return square, boxes + np.array([left, top, left, top], np.float32)

    def _resized_frame(
        self, image: Tensor, boxes: Boxes, frame: tuple[int, int, int, int], shape: tuple[int, int]
    ) -> tuple[Tensor, Boxes]:
        """Cut `frame` (xyxy px) out and resize it to `shape` (width, height), antialiased."""
        x1, y1, x2, y2 = frame
        width, height = shape
        # The copy restores the plain HWC storage that a cut-out lacks; it costs 2 % of the resize it speeds up.
        cut = image[:, y1:y2, x1:x2].permute(1, 2, 0).contiguous().permute(2, 0, 1)
        mode = InterpolationMode(self.settings.interpolation)
        resized: Tensor = F.resize(cut, [height, width], interpolation=mode, antialias=True)
        factor = np.array([width / (x2 - x1), height / (y2 - y1)] * 2, np.float32)
        return resized, (boxes - np.array([x1, y1, x1, y1], np.float32)) * factor


def train_transform(settings: Augment, size: int) -> Transform:
    """Flip, crop, resize, and the optional augmentations."""
    return Transform(settings, size, train=True)


def eval_transform(settings: Augment, size: int) -> Transform:
    """One deterministic view; the generator is not drawn from."""
    return Transform(settings, size, train=False)


def random_frame(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Where RandomResizedCrop cuts, by torchvision's rule; xyxy px.

    Area share uniform in `scale`, aspect ratio log-uniform in `ratio`; after ten frames that do not fit, the
    largest central one within the limits of `ratio`.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return x, y, x + w, y + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def random_longer_side(
    width: int, height: int, size: int, limits: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int]:
    """(width, height) px of an image whose longer side becomes a whole number of pixels, each as likely, from
    limits[0] to limits[1] times `size`; methods.md 5.1."""
    least, most = (max(1, round(limit * size)) for limit in limits)
    factor = int(rng.integers(least, most + 1)) / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def clip_boxes(boxes: Boxes, size: int) -> tuple[Boxes, Boxes]:
    """Boxes clipped to a square of `size` px (K4), and the share of each one's area that was kept (K)."""
    clipped = np.clip(boxes, 0, size)

    def area(xyxy: Boxes) -> Boxes:
        return np.asarray((xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1]))

    return clipped, (area(clipped) / np.maximum(area(boxes), 1e-6)).astype(np.float32)
