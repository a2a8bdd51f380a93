"""How image files become 8 bits a channel: whether their EXIF turn is followed, and which values black and white are.

An index keeps both, and so does what was trained on it, so that training, `predict` and an exported model treat a file
alike. Pictures of 8 bits are taken as they are. Of deeper ones, `--pixel-range LOW:HIGH` becomes 0 to 255, and a
picture with values outside, or one that would be black, is refused.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.errors import UserError

PixelRange = tuple[float, float] | None
"""The values that become 0 and 255; None: of each file, the fewest bits that hold it."""

SIXTEEN_BITS = (0.0, 65535.0)  # what every version before had
DEPTHS = (8, 10, 12, 14, 16)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})")


class DoesNotFit(ValueError):
    """Why pixels cannot become 8 bits under a range."""


@dataclass(frozen=True)
class Reading:
    """What a model was trained to see. The defaults are those of models that do not say."""

    exif: bool = True
    pixel_range: PixelRange = SIXTEEN_BITS

    def to_json(self) -> dict[str, Any]:
        return {"exif": self.exif, "pixel_range": range_text(self.pixel_range)}


AS_EVER = Reading()


def reading_from_json(tree: Any, where: str) -> Reading:
    """From what `to_json` gave; None, of an older file, is the default. UserError names `where`."""
    if tree is None:
        return Reading()
    if not isinstance(tree, dict) or not isinstance(tree.get("exif"), bool):
        raise UserError(f"{where}: found {str(tree)[:60]}, expected exif and pixel_range")
    return Reading(tree["exif"], range_from_text(str(tree.get("pixel_range")), f"{where}: pixel_range"))


def range_text(pixel_range: PixelRange) -> str:
    """As `range_from_text` reads it."""
    return "auto" if pixel_range is None else ":".join(f"{end:.10g}" for end in pixel_range)


def range_from_text(text: str, where: str) -> PixelRange:
    """`auto` or LOW:HIGH. UserError names `where`."""
    found = _RANGE.fullmatch(text)
    if text != "auto" and not (found and float(found[1]) < float(found[2]) and abs(float(found[2])) < 1e30):
        raise UserError(f"{where}: found '{text[:60]}', expected auto or LOW:HIGH, such as 0:4095")
    return (float(found[1]), float(found[2])) if found else None


def range_for(low: float, high: float, whole: bool) -> PixelRange:
    """The fewest bits, or 0:1, that hold values from `low` to `high`; None where no usual range does."""
    if low < 0 or not np.isfinite(high):
        return None
    if not whole and high <= 1:
        return (0.0, 1.0)
    return next(((0.0, float(2**bits - 1)) for bits in DEPTHS if high <= 2**bits - 1), None)


def level_of(value: float, pixel_range: tuple[float, float], whole: bool) -> int:
    """What becomes of one value within the range: 0 to 255."""
    return int(_levels(np.array([value]), pixel_range, whole)[0])


def span(values: NDArray[Any]) -> tuple[float, float, bool]:
    """The least and the largest value of a picture, its alpha aside, and whether values are whole numbers."""
    colours = values[..., :3] if values.ndim == 3 else values
    return float(colours.min()), float(colours.max()), values.dtype.kind != "f"


def to_bytes(values: NDArray[Any], pixel_range: PixelRange) -> NDArray[np.uint8]:
    """Values of any number type, HW or HWC, to uint8. DoesNotFit where they lie outside, or would all be black."""
    low, high, whole = span(values)
    chosen = pixel_range or range_for(low, high, whole)
    if problem := misfit(low, high, whole, chosen):
        raise DoesNotFit(problem)
    assert chosen is not None
    if values.ndim == 3 and values.shape[2] == 4:  # alpha has a range of its own
        return np.dstack([_levels(values[..., :3], chosen, whole), _levels(values[..., 3:], SIXTEEN_BITS, whole)])
    return _levels(values, chosen, whole)


def misfit(low: float, high: float, whole: bool, pixel_range: PixelRange) -> str:
    """Why a picture with values from `low` to `high` cannot be read under a range, or ""."""
    found = f"pixels from {low:.6g} to {high:.6g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"{found}, which are not all numbers"
    if pixel_range is None:
        return f"{found} and no rule for them; masksup prepare --pixel-range=LOW:HIGH says what is black and white"
    if low < pixel_range[0] or high > pixel_range[1]:
        return f"{found}, outside the pixel range {range_text(pixel_range)}"
    if high > low and level_of(high, pixel_range, whole) == 0:
        return f"{found}, which are all black in the pixel range {range_text(pixel_range)}"
    return ""


def _levels(values: NDArray[Any], pixel_range: tuple[float, float], whole: bool) -> NDArray[np.uint8]:
    """Whole numbers lose their lower bits (12 bits: value >> 4); fractions are rounded to the nearest level."""
    low, high = pixel_range
    shifted = values.astype(np.float64) - low
    levels = np.floor(shifted * 256 / (high - low + 1)) if whole else np.rint(shifted * 255 / (high - low))
    return np.clip(levels, 0, 255).astype(np.uint8)
