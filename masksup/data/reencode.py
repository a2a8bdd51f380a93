"""The images of an index as smaller JPEGs or as plain pixels, for data sets whose decoding keeps a GPU waiting."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import encode_jpeg
from torchvision.transforms.v2 import functional as F

from masksup.data.decode import decode_bytes
from masksup.data.index import Index

_MAX_PIXELS = 1 << 28
_AHEAD = 4  # images that each thread may be ahead of the one that is written


@dataclass(frozen=True)
class Reencoding:
    """quality: of JPEG, 1 to 100; None: pixels as they are, as PPM. short_side: pixels; larger images are shrunk to it,
    None: none is."""

    quality: int | None
    short_side: int | None = None

    def __str__(self) -> str:
        side = "" if self.short_side is None else f", short side at most {self.short_side} px"
        form = "PPM" if self.quality is None else f"JPEG of quality {self.quality}"
        return f"images re-encoded as {form}{side}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Encoded:
    """data: a JPEG or PPM file. width, height: of it, px."""

    data: bytes
    width: int
    height: int


def encoded(index: Index, how: Reencoding) -> Iterator[Encoded]:
    """Every image of `index` in order, each in a thread. BrokenImage for one that cannot be decoded."""
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for image in range(index.images):
                waiting.append(pool.submit(_encode, index, image, how))
                if len(waiting) > threads * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def scaled(index: Index, sizes_I2: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """The columns in pixels, for images that have these sizes (width, height) now."""
    factor_I2 = sizes_I2 / np.maximum(index.sizes_I2, 1)
    factor_N4 = np.tile(factor_I2[index.sample_image_N], 2)
    boxes_N1 = np.diff(index.box_start_N1)
    return {
        "sizes_I2": sizes_I2,
        "crop_N4": (index.crop_N4 * factor_N4[: len(index.crop_N4)]).astype(np.float32),
        "boxes_M4": (index.boxes_M4 * np.repeat(factor_N4, boxes_N1, axis=0)).astype(np.float32),
    }


def _encode(index: Index, image: int, how: Reencoding) -> Encoded:
    """Turned and brought to 8 bits as the index says; what is stored needs neither."""
    pixels_3HW = decode_bytes(
        index.read_image(image), index.where_image(image), exif=index.exif, max_pixels=_MAX_PIXELS,
        pixel_range=index.pixel_range, whole=index.verified,
    )  # fmt: skip
    height, width = pixels_3HW.shape[1:]
    if how.short_side is not None and min(height, width) > how.short_side:
        scale = how.short_side / min(height, width)
        shape = [max(1, round(height * scale)), max(1, round(width * scale))]
        pixels_3HW = F.resize(pixels_3HW, shape, interpolation=F.InterpolationMode.BICUBIC, antialias=True)
        height, width = shape
    if how.quality is None:
        return Encoded(
            b"P6\n%d %d\n255\n" % (width, height) + pixels_3HW.permute(1, 2, 0).numpy().tobytes(), width, height
        )
    jpeg: Tensor = encode_jpeg(pixels_3HW.contiguous(), how.quality)
    return Encoded(jpeg.numpy().tobytes(), width, height)
