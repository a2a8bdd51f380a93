"""Image files by PIL alone, which a machine without torch has too: headers, and pixels of all formats.

Formats: JPEG, PNG, GIF, WebP, BMP, TIFF and PPM, by content and not by name. Gray is repeated; alpha and
transparent colours are composited on white; CMYK is converted as PIL does (Adobe's inversion included); of 16 bits
the upper 8 are kept; of animations the first frame. A file that ends early or cannot be read raises `BrokenImage`.
"""

import io
import re
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from masksup.base.words import first_line
from masksup.errors import UserError

_SOURCE_LINE = re.compile(r"^\w+, \S+:\d+, ")  # with which the errors of torchvision begin
FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG")
ORIENTATION = 0x0112  # of EXIF
# JPEG frames whose every block of 8 x 8 pixels takes a bit at least; decoders fill what is missing with grey.
_HUFFMAN = (0xC0, 0xC1, 0xC2, 0xC3)
FLOATING = "pixels in floating point, whose range is unknown"
# Pillow's own limit warns from 89 million pixels on and refuses 179 million, whatever `data.max_pixels` says; that one
# is checked of every header before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


class BrokenImage(UserError):
    """An image file that cannot be decoded. The text names the file."""


class Header(NamedTuple):
    """What the head of a file says, before any pixel is decoded (width and height as stored)."""

    kind: Literal["jpeg", "cmyk", "other"]
    width: int
    height: int


def read_header(data: bytes, name: str, max_pixels: int | None = None) -> Header:
    """What the head of a file says. BrokenImage, naming `name`, if it is none, or has more than `max_pixels`."""
    header = _header(data, name)
    if max_pixels is not None and header.width * header.height > max_pixels:
        raise BrokenImage(
            f"{name}: found {header.width} x {header.height} pixels, expected at most {max_pixels} in all "
            "(data.max_pixels of the run)"
        )
    return header


def _header(data: bytes, name: str) -> Header:
    if not data:
        raise BrokenImage(f"{name}: found an empty file, expected an image")
    if data[:2] == b"\xff\xd8":
        return _jpeg_header(data, name)
    return Header("other", *open_image(data, name).size)


def _jpeg_header(data: bytes, name: str) -> Header:
    """Walk the markers to the frame header (ITU T.81, B.2.2); about 25 times as fast as opening the file with PIL."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            if marker in _HUFFMAN and -(-width // 8) * -(-height // 8) > 8 * (len(data) - at):
                raise BrokenImage(
                    f"{name}: found a head of {width} x {height} pixels on data that cannot hold them, expected a "
                    "whole image"
                )
            return Header("cmyk" if data[at + 9] == 4 else "jpeg", width, height)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise BrokenImage(f"{name}: found a JPEG file without a frame header, expected a whole image")


def open_image(data: bytes, name: str) -> Image.Image:
    """The image with its head read, its pixels not yet. BrokenImage, naming `name`, if it is none."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BrokenImage(f"{name}: found no readable image, expected JPEG, PNG, GIF, WebP, BMP, TIFF or PPM") from None
    except Exception as error:  # whatever a decoder trips over here, the file is at fault
        raise broken(name, error) from None


def decode_pixels(data: bytes, name: str, *, exif: bool) -> NDArray[np.uint8]:
    """uint8 RGB HW3, turned as the EXIF orientation says if `exif`. BrokenImage, naming `name`, if it is damaged."""
    image = open_image(data, name)
    if image.mode == "F":
        raise BrokenImage(f"{name}: found {FLOATING}, expected 8 or 16 bits a channel")
    try:
        image.load()
        return rgb_pixels(image, exif=exif)
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise broken(name, error) from None


def rgb_pixels(image: Image.Image, *, exif: bool) -> NDArray[np.uint8]:
    """uint8 RGB HW3 of an opened image. ValueError where its pixels are floating point."""
    return np.array(_rgb(ImageOps.exif_transpose(image) if exif else image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError(FLOATING)
    if image.mode.startswith("I"):  # 16-bit gray; convert("RGB") would clip it at 255
        gray = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def broken(name: str, error: Exception) -> BrokenImage:
    """The error for a file that a decoder refused."""
    why = first_line(_SOURCE_LINE.sub("", str(error).strip())) or type(error).__name__
    return BrokenImage(f"{name}: found a damaged image ({why}), expected a whole one")
