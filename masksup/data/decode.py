"""Image files to RGB tensors: JPEG by the decoders of `masksup.data.decode_jpeg`, PPM as it lies there, everything else
by PIL; never a guess at a broken file.

What is read, and how it becomes RGB, is in `masksup.data.decode_pil`.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from masksup.base.files import Bytes
from masksup.data.decode_jpeg import decode_rgb_jpeg
from masksup.data.decode_pil import Header, decode_pixels, is_sideways, open_image, read_header
from masksup.data.reading import PixelRange
from masksup.data.shards import read_file
from masksup.errors import UserError


def decode(
    path: Path, *, exif: bool, max_pixels: int, pixel_range: PixelRange = None, crop: Sequence[float] | None = None
) -> Tensor:
    """Read an image as uint8 RGB.

    Args:
        exif: turn the image as its EXIF orientation says.
        max_pixels: larger images are refused before decoding.
        pixel_range: of pictures of more than 8 bits, as in `masksup.data.reading`.
        crop: xyxy in px of the (turned) image, cut out by `crop_box`.

    Returns: uint8 3HW, stored as HWC (strides of channels-last), which the resize is fastest on.
    Raises BrokenImage for a file that is damaged, no image, too large, or outside `pixel_range`; UserError for one that
    is missing.
    """
    return decode_bytes(
        read_file(path), str(path), exif=exif, max_pixels=max_pixels, pixel_range=pixel_range, crop=crop
    )


def decode_bytes(
    data: Bytes, name: str, *, exif: bool, max_pixels: int, pixel_range: PixelRange = None,
    crop: Sequence[float] | None = None, whole: bool = False,
) -> Tensor:  # fmt: skip
    """As `decode`, for the bytes of a file; `name` stands for it in errors. `whole`: it is known not to end early."""
    header = read_header(data, name, max_pixels)
    if header.kind == "jpeg":
        image = decode_rgb_jpeg(data, name, exif=exif, whole=whole)
    elif header.kind == "ppm":
        image = _pixels(data, header)
    else:
        image = _decode_pil(data, name, exif, pixel_range, whole)
    return image if crop is None else crop_box(image, crop)


def image_size(path: Path, *, exif: bool = False) -> tuple[int, int]:
    """Width and height in px from the head of the file; turned by the EXIF orientation if `exif`."""
    data = read_file(path)
    header = read_header(data, str(path))
    turned = exif and is_sideways(open_image(data, str(path)))
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


def _pixels(data: Bytes, header: Header) -> Tensor:
    shape = (header.height, header.width, 3)
    # A copy, because torch has no tensors that cannot be written to.
    pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8, count=math.prod(shape), offset=header.start)
    return pixels.view(shape).permute(2, 0, 1)


def _decode_pil(data: Bytes, name: str, exif: bool, pixel_range: PixelRange, whole: bool) -> Tensor:
    pixels_HW3 = decode_pixels(data, name, exif=exif, pixel_range=pixel_range, whole=whole)
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1)
