"""An image file to the input of an exported model, by Pillow: the same pixels as evaluation, up to rounding.

Training and evaluation decode JPEG files with torchvision and resize with torch. Both follow libjpeg and Pillow, and
docs/export.md says how far the results are apart.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masksup.data.pillow import decode_pixels, read_header
from masksup.data.store import read_file
from masksup.inference.card import Preprocessing

_RULES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def load_image(path: Path, rules: Preprocessing) -> NDArray[np.uint8]:
    """uint8 RGB 3SS. BrokenImage, naming the file, if it is damaged, no image or too large; UserError if missing."""
    data = read_file(path)
    read_header(data, str(path), rules.max_pixels)
    return prepare(Image.fromarray(decode_pixels(data, str(path), exif=rules.exif)), rules)


def prepare(image: Image.Image, rules: Preprocessing) -> NDArray[np.uint8]:
    """An RGB image to uint8 3SS, as masksup.data.transforms does in evaluation."""
    size, how = rules.size, _RULES[rules.interpolation]
    if rules.resize == "squish":
        square = image.resize((size, size), how)
    elif rules.resize == "top_left":
        square = Image.new("RGB", (size, size), rules.fill)
        square.paste(image.crop((0, 0, min(image.width, size), min(image.height, size))))
    else:
        square = _centre(image, rules, how)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _centre(image: Image.Image, rules: Preprocessing, how: Image.Resampling) -> Image.Image:
    width, height, size = image.width, image.height, rules.size
    short = math.floor(size / rules.crop_share)
    shape = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = (round((side - size) / 2) for side in shape)
    return image.resize(shape, how).crop((left, top, left + size, top + size))
