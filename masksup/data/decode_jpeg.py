"""JPEG files to RGB tensors, with the pixels of `torchvision.io` whichever library decodes them.

simplejpeg is faster (docs/performance.md). It decodes the files that it takes without a complaint. torchvision decodes
all others: it says more about damaged ones, and turns images as their EXIF orientation says.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from masksup.base.files import Bytes
from masksup.data.decode_pil import broken, refuse_early_end
from masksup.data.ends_early import segments

_APP1, _SCAN = 0xE1, 0xDA  # the segment that has EXIF, and the one after which there are pixels
# The entry of EXIF that turns an image, in either order of bytes: tag, kind, count and value.
_TURN = re.compile(rb"\x01\x12.{6}\x00[\x02-\x08]|\x12\x01.{6}[\x02-\x08]\x00", re.DOTALL)


def decode_rgb_jpeg(data: Bytes, name: str, *, exif: bool, whole: bool = False) -> Tensor:
    """A JPEG file of one or three components as uint8 RGB 3HW, stored as HWC; `name` stands for it in errors.

    Args:
        exif: turn the image as its EXIF orientation says.
        whole: it is known not to end early.

    Raises BrokenImage for a damaged file.
    """
    image = None if exif and _may_be_turned(data) else _quickly(data)
    if image is None:
        try:
            image = by_torchvision(data, exif)
        except RuntimeError as error:
            raise broken(name, error) from None
    # Decoders raise where the end marker is missing. Where it comes too early, torchvision says nothing, and simplejpeg
    # says nothing of a progressive file.
    if not whole:
        refuse_early_end(data, name, image.numpy(), exif)
    return image


def by_torchvision(data: Bytes, exif: bool) -> Tensor:
    """uint8 RGB 3HW. RuntimeError for a damaged file."""
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    image: Tensor = decode_jpeg(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=exif)
    return image


def _quickly(data: Bytes) -> Tensor | None:
    """As `by_torchvision`, not turned. None where simplejpeg is not used or complains of the file."""
    decoder = fast_decoder()
    if decoder is None:
        return None
    try:
        return torch.from_numpy(decoder(data)).permute(2, 0, 1)
    except ValueError:
        return None


def _may_be_turned(data: Bytes) -> bool:
    """Whether torchvision might turn it, which follows entries that other readers find damaged, too."""
    for marker, at in segments(data):
        if marker == _SCAN:
            break
        if marker == _APP1 and _TURN.search(data, at, at + 2 + int.from_bytes(data[at + 2 : at + 4])):
            return True
    return False


@cache
def fast_decoder() -> Callable[[Bytes], NDArray[Any]] | None:
    """simplejpeg's decoder, uint8 RGB HW3, ValueError for whatever is not in order. None where the package is not
    installed, or where its pixels are not those of torchvision here: both bring a libjpeg of their own."""
    try:
        import simplejpeg
    except ImportError:
        return None
    # Noise in colour, which is stored with half of the colours' resolution: every part of a decoder shows in it.
    noise_3HW = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    jpeg = encode_jpeg(noise_3HW, quality=90).numpy().tobytes()
    same = torch.equal(torch.from_numpy(simplejpeg.decode_jpeg(jpeg)).permute(2, 0, 1), by_torchvision(jpeg, False))
    return simplejpeg.decode_jpeg if same else None
