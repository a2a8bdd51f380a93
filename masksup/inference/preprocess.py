"""An image file to the input of an exported model, by Pillow and numpy: the same pixels as evaluation has."""

import math

import numpy as np
from numpy.typing import NDArray

from masksup.data.decode_pil import decode_pixels, read_header
from masksup.data.reading import range_from_text
from masksup.data.url import Source, read_source
from masksup.inference.card import Preprocessing
from masksup.inference.resize import resize


def load_image(path: Source, rules: Preprocessing) -> NDArray[np.uint8]:
    """uint8 RGB 3SS. BrokenImage, naming the file, if it is damaged, no image or too large; UserError if missing."""
    data = read_source(path)
    read_header(data, str(path), rules.max_pixels)
    pixel_range = range_from_text(rules.pixel_range, "pixel_range")
    return preprocess(decode_pixels(data, str(path), exif=rules.exif, pixel_range=pixel_range), rules)


def preprocess(image_HW3: NDArray[np.uint8], rules: Preprocessing) -> NDArray[np.uint8]:
    """uint8 RGB HW3 to uint8 3SS, as masksup.data.transforms does in evaluation."""
    size = rules.size
    if rules.resize == "squish":
        return resize(image_HW3, size, size, rules.interpolation)
    if rules.resize == "top_left":
        square = np.full((size, size, 3), rules.fill, np.uint8)
        part = image_HW3[:size, :size]
        square[: part.shape[0], : part.shape[1]] = part
        return np.ascontiguousarray(square.transpose(2, 0, 1))
    return np.ascontiguousarray(_centre(image_HW3, rules))


def _centre(image_HW3: NDArray[np.uint8], rules: Preprocessing) -> NDArray[np.uint8]:
    (height, width), size = image_HW3.shape[:2], rules.size
    short = math.floor(size / rules.crop_share)
    shape = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = (round((side - size) / 2) for side in shape)
    return resize(image_HW3, *shape, rules.interpolation)[:, top : top + size, left : left + size]
