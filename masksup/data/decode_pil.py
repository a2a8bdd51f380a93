"""Image files by PIL alone, which a machine without torch has too: headers, and pixels of all formats.

Formats: JPEG, PNG, GIF, WebP, BMP, TIFF and PPM, by content and not by name. Gray is repeated; alpha and
transparent colours are composited on white; CMYK is converted as PIL does (Adobe's inversion included); more than 8
bits, signed numbers and fractions become 8 bits as `masksup.data.reading` says; of animations the first frame. A file
that ends early or cannot be read raises `BrokenImage`.
"""

import io
import re
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from masksup.base.files import Bytes
from masksup.base.words import counted, first_line
from masksup.data.ends_early import ends_early, seems_early
from masksup.data.reading import DoesNotFit, PixelRange, to_bytes
from masksup.errors import UserError

_SOURCE_LINE = re.compile(r"^\w+, \S+:\d+, ")  # with which the errors of torchvision begin
FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG")
ORIENTATION = 0x0112  # of EXIF
# JPEG frames whose every block of 8 x 8 pixels takes a bit at least; decoders fill what is missing with grey.
_HUFFMAN = (0xC0, 0xC1, 0xC2, 0xC3)
_PPM = re.compile(
    rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n"
)  # in the form in which `masksup shards` and PIL write it
# Pillow's own limit warns from 89 million pixels on and refuses 179 million, whatever `data.max_pixels` says; that one
# is checked of every header before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


class BrokenImage(UserError):
    """An image file that cannot be decoded. The text names the file."""


class Header(NamedTuple):
    """What the head of a file says, before any pixel is decoded (width and height as stored).

    start: of "ppm" the byte where its pixels begin, which are RGB, row after row.
    """

    kind: Literal["jpeg", "cmyk", "ppm", "other"]
    width: int
    height: int
    start: int = 0


def read_header(data: Bytes, name: str, max_pixels: int | None = None) -> Header:
    """What the head of a file says. BrokenImage, naming `name`, if it is none, or has more than `max_pixels`."""
    header = _header(data, name)
    if max_pixels is not None and header.width * header.height > max_pixels:
        raise BrokenImage(
            f"{name}: found {header.width} x {header.height} pixels, expected at most {max_pixels} in all "
            "(data.max_pixels of the run)"
        )
    return header


def _header(data: Bytes, name: str) -> Header:
    if not data:
        raise BrokenImage(f"{name}: found an empty file, expected an image")
    if data[:2] == b"\xff\xd8":
        return _jpeg_header(data, name)
    ppm = _PPM.match(data)
    if ppm is not None:
        return _ppm_header(ppm, data, name)
    return Header("other", *open_image(data, name).size)


def _ppm_header(match: re.Match[Any], data: Bytes, name: str) -> Header:
    width, height, start = int(match[1]), int(match[2]), match.end()
    if len(data) - start < 3 * width * height:
        raise BrokenImage(
            f"{name}: found a PPM file with {counted(len(data) - start, 'byte')} of pixels, expected "
            f"{3 * width * height:,} for {width} x {height}"
        )
    return Header("ppm", width, height, start)


def _jpeg_header(data: Bytes, name: str) -> Header:
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


def open_image(data: Bytes, name: str) -> Image.Image:
    """The image with its head read, its pixels not yet. BrokenImage, naming `name`, if it is none."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BrokenImage(f"{name}: found no readable image, expected JPEG, PNG, GIF, WebP, BMP, TIFF or PPM") from None
    except Exception as error:  # whatever a decoder trips over here, the file is at fault
        raise broken(name, error) from None


def is_sideways(image: Image.Image) -> bool:
    """Whether EXIF turns an opened image by a quarter that its size does not show: Pillow turns a TIFF by itself."""
    return image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)


def decode_pixels(
    data: Bytes, name: str, *, exif: bool, pixel_range: PixelRange = None, whole: bool = False
) -> NDArray[np.uint8]:
    """uint8 RGB HW3, turned as the EXIF orientation says if `exif`. BrokenImage, naming `name`, if it is damaged or
    its pixels do not fit `pixel_range`. `whole`: it is known to have all its pixels."""
    image = open_image(data, name)
    try:
        pixels_HW3 = rgb_pixels(image, exif=exif, pixel_range=pixel_range, again=lambda: open_image(data, name))
    except MemoryError:
        raise
    except DoesNotFit as error:
        raise BrokenImage(f"{name}: found {error}") from None
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise broken(name, error) from None
    if image.format == "JPEG" and not whole:
        refuse_early_end(data, name, pixels_HW3.transpose(2, 0, 1), exif)
    return pixels_HW3


def refuse_early_end(jpeg: Bytes, name: str, pixels_3HW: NDArray[np.uint8], exif: bool) -> None:
    """BrokenImage where a JPEG that was decoded to these pixels says that it ends before all of them were there.
    `exif`: they are turned as its EXIF orientation says."""
    if seems_early(jpeg, pixels_3HW, lambda: exif and _carries_turn(jpeg)) and ends_early(jpeg):
        raise BrokenImage(
            f"{name}: found a truncated JPEG (its end-of-image marker comes before its last pixels), expected a whole "
            "one"
        )


def _carries_turn(jpeg: Bytes) -> bool:
    try:
        return bool(open_image(jpeg, "").getexif().get(ORIENTATION, 1) != 1)
    except Exception:  # PIL's parsers raise anything for damaged EXIF, which other decoders may understand
        return True


def rgb_pixels(
    image: Image.Image, *, exif: bool, pixel_range: PixelRange = None, again: Callable[[], Image.Image] | None = None
) -> NDArray[np.uint8]:
    """uint8 RGB HW3 of an opened image. DoesNotFit where its pixels do not fit `pixel_range`.

    again: opens the same image anew; without it, colours of 16 bits keep their upper 8.
    """
    values = deep_values(image, again)
    if values is not None:
        orientation = image.getexif().get(ORIENTATION, 1)
        image = Image.fromarray(to_bytes(values, pixel_range))
        if exif and orientation != 1:
            image.getexif()[ORIENTATION] = orientation
    if exif and image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)  # a copy: the image may be the caller's own
    return np.array(_rgb(image))


def deep_values(image: Image.Image, again: Callable[[], Image.Image] | None = None) -> NDArray[Any] | None:
    """The pixels as they are stored, HW or HWC, where they are not 8 bits without a sign; else None."""
    if image.mode in ("RGB", "RGBA") and again is not None and _WIDE.search(_rawmode(image)):
        return _wide_colours(image, again)
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        unsigned = image.mode == "I" and _sample_format(image) == _UNSIGNED
        return values.view(np.uint32) if unsigned else values  # PIL has no mode for these
    return np.asarray(image).view(np.int8) if image.mode == "L" and _sample_format(image) == _SIGNED else None


def is_deep(image: Image.Image) -> bool:
    """Whether `deep_values` has anything to give, from the head of the file alone."""
    signed = image.mode == "L" and _sample_format(image) == _SIGNED
    return image.mode[0] in "FI" or signed or bool(_WIDE.search(_rawmode(image)))


_WIDE = re.compile(r"^(RGB|RGBA|RGBX|LA);16[BLN]$")
_SAMPLE_FORMAT, _UNSIGNED, _SIGNED = 339, 1, 2  # of TIFF


def _rawmode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _sample_format(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)
    return int(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0]) if tags is not None else 0


def _wide_colours(image: Image.Image, again: Callable[[], Image.Image]) -> NDArray[np.uint16]:
    """Colours of 16 bits. PIL gives a byte of each: the upper one, or the lower one where it is told another order."""
    raw = _rawmode(image)
    if raw.startswith("LA"):  # two numbers of two bytes, which are four channels of one
        bytes_HW4 = np.asarray(_unpacked(again(), "RGBA")).astype(np.uint16)
        values_HW2 = bytes_HW4[..., 0::2] * 256 + bytes_HW4[..., 1::2]
        return np.take(values_HW2, [0, 0, 0, 1], axis=2)
    order = raw[-1] if raw[-1] in "BL" else ("L" if sys.byteorder == "little" else "B")
    low = np.asarray(_unpacked(again(), raw[:-1] + ("L" if order == "B" else "B")))
    image.load()
    values: NDArray[np.uint16] = np.asarray(image).astype(np.uint16) * 256 + low
    return values


def _unpacked(image: Image.Image, rawmode: str) -> Image.Image:
    tile = image.tile[0]  # type: ignore[attr-defined]
    image.tile = [  # type: ignore[attr-defined]
        one._replace(args=(rawmode, *one.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for one in image.tile  # type: ignore[attr-defined]
    ]
    image.load()
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def broken(name: str, error: Exception) -> BrokenImage:
    """The error for a file that a decoder refused."""
    why = first_line(_SOURCE_LINE.sub("", str(error).strip())) or type(error).__name__
    return BrokenImage(f"{name}: found a damaged image ({why}), expected a whole one")
