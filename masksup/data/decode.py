"""Image files to RGB tensors: JPEG by torchvision.io, everything else by PIL; never a guess at a broken file.

Formats: JPEG, PNG, GIF, WebP, BMP, TIFF and PPM, by content and not by name. Gray is repeated; alpha and
transparent colours are composited on white; CMYK is converted as PIL does (Adobe's inversion included); of 16 bits
the upper 8 are kept; of animations the first frame. A file that ends early or cannot be read raises `BrokenImage`.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from masksup.data.store import read_file
from masksup.errors import UserError

_FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG")
_ORIENTATION = 0x0112


class BrokenImage(UserError):
    """An image file that cannot be decoded. The text names the file."""


class Header(NamedTuple):
    """What the head of a file says, before any pixel is decoded (width and height as stored)."""

    kind: Literal["jpeg", "cmyk", "other"]
    width: int
    height: int


def decode(path: Path, *, exif: bool, max_pixels: int, crop: Sequence[float] | None = None) -> Tensor:
    """Read an image as uint8 RGB.

    Args:
        exif: turn the image as its EXIF orientation says.
        max_pixels: larger images are refused before decoding.
        crop: xyxy in px of the (turned) image, cut out by `crop_box`.

    Returns: uint8 3HW, stored as HWC (strides of channels-last), which the resize is fastest on.
    Raises BrokenImage for a file that is damaged, no image, or too large; UserError for one that is missing.
    """
    return decode_bytes(read_file(path), str(path), exif=exif, max_pixels=max_pixels, crop=crop)


def decode_bytes(data: bytes, name: str, *, exif: bool, max_pixels: int, crop: Sequence[float] | None = None) -> Tensor:
    """As `decode`, for the bytes of a file; `name` stands for it in errors."""
    header = _header(data, name)
    if header.width * header.height > max_pixels:
        raise BrokenImage(
            f"{name}: found {header.width} x {header.height} pixels, expected at most {max_pixels} in all"
        )
    image = _decode_jpeg(data, name, exif) if header.kind == "jpeg" else _decode_pil(data, name, exif)
    return image if crop is None else crop_box(image, crop)


def image_size(path: Path, *, exif: bool = False) -> tuple[int, int]:
    """Width and height in px from the head of the file; turned by the EXIF orientation if `exif`."""
    data = read_file(path)
    header = _header(data, str(path))
    turned = exif and _pil_header(data, str(path)).getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (header.height, header.width) if turned else (header.width, header.height)


def crop_box(image_3HW: Tensor, xyxy: Sequence[float]) -> Tensor:
    """Cut out a box as PIL's `Image.crop` does: coordinates rounded, black where it leaves the image."""
    x1, y1, x2, y2 = (round(float(v)) for v in xyxy)
    height, width = image_3HW.shape[1:]
    if x2 <= x1 or y2 <= y1:
        raise UserError(f"box: found {list(map(float, xyxy))}, expected x1 < x2 and y1 < y2 after rounding")
    out_HWC = image_3HW.new_zeros((y2 - y1, x2 - x1, 3))
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if left < right and top < bottom:
        inside = image_3HW[:, top:bottom, left:right].permute(1, 2, 0)
        out_HWC[top - y1 : bottom - y1, left - x1 : right - x1] = inside
    return out_HWC.permute(2, 0, 1)


def _header(data: bytes, name: str) -> Header:
    if not data:
        raise BrokenImage(f"{name}: found an empty file, expected an image")
    if data[:2] == b"\xff\xd8":
        return _jpeg_header(data, name)
    return Header("other", *_pil_header(data, name).size)


def _jpeg_header(data: bytes, name: str) -> Header:
    """Walk the markers to the frame header (ITU T.81, B.2.2); about 25 times as fast as opening the file with PIL."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return Header("cmyk" if data[at + 9] == 4 else "jpeg", width, height)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise BrokenImage(f"{name}: found a JPEG file without a frame header, expected a whole image")


def _pil_header(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise BrokenImage(f"{name}: found no readable image, expected JPEG, PNG, GIF, WebP, BMP, TIFF or PPM") from None
    except Exception as error:  # whatever a decoder trips over here, the file is at fault
        raise _broken(name, error) from None


def _decode_jpeg(data: bytes, name: str, exif: bool) -> Tensor:
    # torchvision raises at the first byte that is missing, where libjpeg itself would go on with grey.
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        image: Tensor = decode_jpeg(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=exif)
    except RuntimeError as error:
        raise _broken(name, error) from None
    return image


def _decode_pil(data: bytes, name: str, exif: bool) -> Tensor:
    image = _pil_header(data, name)
    try:
        image.load()
        if exif:
            image = ImageOps.exif_transpose(image)
        pixels_HWC = np.array(_rgb(image))
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise _broken(name, error) from None
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("pixels in floating point, whose range is unknown")
    if image.mode.startswith("I"):  # 16-bit gray; convert("RGB") would clip it at 255
        gray = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _broken(name: str, error: Exception) -> BrokenImage:
    # torchvision's text begins with its source line and may have several lines.
    reason = str(error).strip().splitlines()[0].split(", ")[-1] if str(error).strip() else type(error).__name__
    return BrokenImage(f"{name}: found a damaged image ({reason}), expected a whole one")
