"""What the demo computes: the scores of a picture, and where its classes are seen. Knows no page."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masksup.base.random import draws
from masksup.data.transforms import eval_transform
from masksup.decisions.decisions import Decisions
from masksup.explain.heat import overlay
from masksup.explain.looks import Looks, look
from masksup.output.regions import draw_regions
from masksup.saved.label import Region, label
from masksup.saved.open import Trained

SIDE = 720  # px: longer side of a shown photograph


@dataclass(frozen=True)
class LabelledPicture:
    """A picture with the calibrated probabilities of all classes. `photo` is what the network saw, before it was made
    square."""

    name: str
    photo: Image.Image
    scores_C: NDArray[np.float64]
    looks: Looks
    regions: tuple[Region, ...]

    def shown(self, class_: int | None) -> Image.Image:
        """The photograph, under the map of a class where one is given, with the regions that were looked at again."""
        if class_ is None:
            return draw_regions(self.photo, self.regions) if self.regions else self.photo
        return overlay(self.photo, self.looks.maps_CHW[class_])

    def rows(self, thresholds: list[float], least: int = 5) -> list[int]:
        """The classes to list: all that are predicted and the likeliest, highest first."""
        order = np.argsort(-self.scores_C, kind="stable").tolist()
        return [c for rank, c in enumerate(order) if rank < least or self.scores_C[c] >= thresholds[c]]


@dataclass
class Labeller:
    """A model that takes one picture at a time, however many pages ask."""

    trained: Trained
    decisions: Decisions
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def label(self, name: str, data: bytes) -> LabelledPicture:
        """Label an image file, turned as its EXIF says. Raises BrokenImage where it is none."""
        config = self.trained.config
        picture_3HW = self.trained.reads_bytes(data, name)
        transform = eval_transform(config.augment, config.model.size)
        input_3SS, _ = transform(picture_3HW, draws(0, 0, "transform"))
        with self._lock:
            [(_, scores_C, regions)] = label([(Path(name), input_3SS)], self.trained, self.decisions)
            present = self.decisions.predicted(scores_C).tolist()
            looks = look(self.trained, self.decisions, input_3SS, present)
        as_seen = picture_3HW if config.augment.eval_resize == "squish" else input_3SS
        photo = Image.fromarray(as_seen.permute(1, 2, 0).contiguous().numpy())
        photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return LabelledPicture(name, photo, scores_C, looks, tuple(regions))
