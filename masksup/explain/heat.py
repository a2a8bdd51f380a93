"""Maps in colour: the colour scale, a map laid over its photograph, and the legend of both."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from masksup.explain.class_maps import Kind
from masksup.output.lettering import draw_text, text_width

# Dark violet over red to light yellow: lightness rises all the way, so that it reads in grey and to the colour-blind.
_STOPS = np.array(
    [(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
     (249, 201, 50), (252, 255, 164)], np.float64,
)  # fmt: skip
FADED = 0.75  # how much of the photograph's colour is taken away under a map
COVER = 0.7  # how much of the photograph the highest value hides
PAPER, INK = (255, 255, 255), (60, 64, 70)
TEXT_SIZE = 14  # px

MEANING: dict[Kind, tuple[str, str, str]] = {
    "activation": ("Class activation", "nothing", "highest of the class"),
    "attention": ("Attention of the class", "least", "most"),
    "gradient": ("Gradient times features", "nothing", "highest of the class"),
}
"""Of each kind of map: what it is, and what the ends of the scale mean."""


def colours(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values in [0, 1] of any shape to RGB."""
    place = np.clip(values, 0, 1) * (len(_STOPS) - 1)
    below = np.minimum(place.astype(int), len(_STOPS) - 2)
    share = (place - below)[..., None]
    return np.asarray(np.round(_STOPS[below] * (1 - share) + _STOPS[below + 1] * share), np.uint8)


def overlay(photo: Image.Image, map_HW: NDArray[np.floating]) -> Image.Image:
    """The photograph in faded colours under the map, which is enlarged to it (bilinear, positions in their middle)."""
    large = Image.fromarray(np.asarray(map_HW, np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
    value_HW = np.clip(np.asarray(large), 0, 1)
    pixels = np.asarray(photo.convert("RGB"), np.float64)
    grey = pixels.mean(-1, keepdims=True)
    under = pixels * (1 - FADED) + grey * FADED
    cover_HW1 = COVER * np.sqrt(value_HW)[..., None]
    return Image.fromarray((under * (1 - cover_HW1) + colours(value_HW) * cover_HW1).round().astype(np.uint8))


def legend(kind: Kind, width: int) -> Image.Image:
    """The scale with what it and its ends mean, `width` x 22 px."""
    title, low, high = MEANING[kind]
    strip = Image.new("RGB", (width, 22), PAPER)
    draw, x = ImageDraw.Draw(strip), 0.0
    for part in (f"{title}:  {low}", None, high):
        if part is None:
            scale_L = np.linspace(0, 1, 160)
            strip.paste(Image.fromarray(np.tile(colours(scale_L), (12, 1, 1))), (round(x), 5))
            x += 160 + 8
        else:
            draw_text(draw, (x, 2), part, TEXT_SIZE, INK)
            x += text_width(part, TEXT_SIZE) + 8
    return strip
