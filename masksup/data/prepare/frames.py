"""Which frame the annotations of turned pictures are in: what the EXIF orientation says, or the pixels as stored.

A photograph that was taken upright is often stored lying, with a note in its EXIF. Whether an annotator saw it upright
shows in the width and height that the annotation states.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted
from masksup.data.prepare.images import SIDEWAYS, ImageFacts

Claim = tuple[str, tuple[int, int] | None]
"""An image and the width and height that its annotation states."""


@dataclass
class Frames:
    """The images that carry a turn, by what is known of their annotation."""

    turned: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def follow(self, exif: bool | None) -> bool:
        """Whether the EXIF orientation is to be used; `exif` is what was asked for, None: as the annotations say."""
        return bool(self.turned) if exif is None else exif

    def said(self, exif: bool | None) -> list[str]:
        """What is to be known of it, for people."""
        uses, lines = self.follow(exif), []
        if self.turned and exif is None:
            lines.append(
                f"the EXIF orientation is used: the annotations of {_some(self.turned)} state the turned width and "
                "height; predict and exported models use it too"
            )
        if self.stored:
            how = "their boxes are turned with them" if uses else "they are read as stored, by predict and exports too"
            lines.append(
                f"the annotations of {_some(self.stored)} state the width and height before the EXIF turn; {how}"
            )
        if self.unknown and exif is None:
            used = "is used for them" if uses else "is not used, by predict and exports neither"
            lines.append(
                f"{_some(self.unknown)} carry an EXIF turn, and no stated width and height tell whether the annotator "
                f"saw it (square, upside down, or no size): it {used}; --exif use or --exif ignore settles it"
            )
        return lines


def frames_of(claims: Iterable[Claim], facts: dict[str, ImageFacts | str]) -> Frames:
    """`facts` hold the sizes as stored."""
    frames = Frames()
    for image, claimed in dict(claims).items():
        fact = facts[image]
        if isinstance(fact, str) or fact.turn == 1:
            continue
        size = (fact.width, fact.height)
        if fact.turn < SIDEWAYS or size[0] == size[1] or claimed not in (size, size[::-1]):
            frames.unknown.append(image)
        else:
            (frames.stored if claimed == size else frames.turned).append(image)
    return frames


def turn_boxes(xyxy_K4: NDArray[np.float32], turn: int, width: int, height: int) -> NDArray[np.float32]:
    """Boxes in a picture of `width` x `height` px as stored, where its EXIF orientation `turn` takes them."""
    x1, y1, x2, y2 = xyxy_K4.T
    if turn in (2, 3, 7, 8):  # the stored left becomes right, or bottom
        x1, x2 = width - x2, width - x1
    if turn in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    return np.stack([y1, x1, y2, x2] if turn >= SIDEWAYS else [x1, y1, x2, y2], axis=1)


def _some(images: list[str]) -> str:
    return f"{counted(len(images), 'image')} (first: {images[0]})"
