"""Masks that hide part of an image: where they come from, and which one a sample gets.

A bank holds some hundred masks, one bit a pixel, and stays on the device; a training position picks its mask by
a hash computed there, so that masking costs the host nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from masksup.base.files import refuse_special
from masksup.base.random import draws
from masksup.errors import UserError

# Shapes: B images, N masks of the bank, S x S pixels. A hole is True where the image is hidden.

Holes = NDArray[np.bool_]
Level = Literal["low", "high"]

# Share of the image under the hole, the bins of the NVIDIA irregular mask set (arXiv 1804.07723) that MSL uses.
HOLE_RATIOS: dict[Level, tuple[float, float]] = {"low": (0.01, 0.1), "high": (0.5, 0.6)}

# The released MSL code keeps 1,000 files of a level and draws among the first 951 of them.
FILES_OF_A_LEVEL, FILES_DRAWN = 1000, 951

EVALUATION_MASKS = 1000
_EVALUATION_SEED = 0  # one set of masks for every run, so that scores under masks can be compared


def irregular_holes(
    count: int, size: int, ratio: tuple[float, float], seed: int, stream: str = "masks"
) -> Iterator[Holes]:
    """`count` masks of random strokes and ellipses, each with a hole of ratio[0] to ratio[1] of the image.

    Mask k is a function of (seed, k). UserError if no number of pixels lies within the ratios.
    """
    least, most = int(np.ceil(ratio[0] * size**2)), int(np.floor(ratio[1] * size**2))
    if not 0 <= ratio[0] <= ratio[1] < 1 or not 1 <= max(least, 1) <= most:
        raise UserError(
            f"method.hole_ratio: found {list(ratio)}, expected two shares below 1, the smaller first, between which "
            f"lies a number of the {size} x {size} pixels"
        )
    for number in range(count):
        yield _irregular(draws(seed, number, stream), size, max(least, 1), most)


def _irregular(rng: np.random.Generator, size: int, least: int, most: int) -> Holes:
    """Shapes are drawn until the hole is as large as a number drawn from its range; one too many is taken back."""
    wanted = int(rng.integers(least, most + 1))
    picture, scale, holes = Image.new("L", (size, size)), 1.0, np.zeros((size, size), bool)
    while (covered := int(np.count_nonzero(holes))) < wanted:
        # A shape about as large as what is missing would mostly overshoot.
        reach = scale * min(0.5, 2 * ((wanted - covered) / size**2) ** 0.5)
        trial = picture.copy()
        _draw_shape(ImageDraw.Draw(trial), rng, size, reach)
        drawn = np.asarray(trial) > 0
        if np.count_nonzero(drawn) > most:
            scale *= 0.7  # down to single pixels, of which one always fits
        else:
            picture, holes = trial, drawn
    return holes


def _draw_shape(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, reach: float) -> None:
    """A stroke three times in four, else an ellipse; `reach` is about its extent over the side of the image."""
    x, y = rng.uniform(-0.1 * size, 1.1 * size, 2)  # from beyond the border too, or the rim would mostly be seen
    if rng.random() < 0.25:
        a, b = size * reach * rng.uniform(0.2, 0.6, 2)
        draw.ellipse((x - a, y - b, x + a, y + b), fill=255)
        return
    width = size * reach * rng.uniform(0.05, 0.25)
    angle = rng.uniform(0, 2 * np.pi)
    for length, turn in zip(size * reach * rng.uniform(0.1, 0.5, 8), rng.uniform(-1, 1, 8)):
        angle += turn
        start, (x, y) = (x, y), (x + length * np.cos(angle), y + length * np.sin(angle))
        draw.line((*start, x, y), fill=255, width=max(1, round(width)))
        r = width / 2
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if not (0 <= x < size and 0 <= y < size):
            angle += np.pi  # walk back into the image


def patch_holes(count: int, size: int, patch: int, ratio: float, seed: int) -> Iterator[Holes]:
    """Masks of random square patches as in MAE (arXiv 2111.06377): round(ratio x patches) of a grid are hidden.

    Patches are `patch` pixels wide; those of the last row and column are cut where the grid does not fit.
    """
    side = -(-size // patch)
    hidden = round(ratio * side**2)
    if not 1 <= hidden < side**2:
        raise UserError(
            f"method.patch_ratio: found {ratio}, which hides {hidden} of {side**2} patches (method.patch {patch}), "
            f"expected at least 1 and not all"
        )
    for number in range(count):
        grid = np.zeros(side**2, bool)
        grid[draws(seed, number, "patches").permutation(side**2)[:hidden]] = True
        yield np.kron(grid.reshape(side, side), np.ones((patch, patch), bool))[:size, :size]


def folder_holes(folder: Path, level: Level, size: int) -> Iterator[Holes]:
    """The .png pictures of a folder, chosen and read as the released MSL code does; white is the hole.

    Of the sorted names the last 1,000 from the end ("high", when they are sorted by hole) or the first 1,000
    ("low"), of which the first 951 are used. Shorter side to `size` by nearest pixel, centre cut out.
    UserError if there is none, or one hides nothing or everything.
    """
    if not folder.is_dir():
        raise UserError(f"method.folder: {folder}: no such folder, expected one of mask pictures (.png)")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.name[0] != ".")
    if not files:
        raise UserError(f"method.folder: {folder}: found no .png in it, expected mask pictures, white where hidden")
    if level == "high":
        files.reverse()
    for file in files[:FILES_OF_A_LEVEL][:FILES_DRAWN]:
        holes = _read_holes(file, size)
        if holes.all() or not holes.any():
            what = "the whole image" if holes.all() else "nothing"
            raise UserError(f"method.folder: {file}: this mask hides {what}, expected a part (white is hidden)")
        yield holes


def _read_holes(file: Path, size: int) -> Holes:
    try:
        refuse_special(file)
        with Image.open(file) as opened:
            picture = opened.convert("P")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"method.folder: {file}: cannot be read as a picture ({error})") from None
    width, height = picture.size
    short = min(width, height)
    width, height = int(size * width / short), int(size * height / short)
    left, top = round((width - size) / 2), round((height - size) / 2)
    values = np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))
    return values[top : top + size, left : left + size] > 0


def pack(holes: Iterable[Holes]) -> Tensor:
    """Masks as one bit a pixel: uint8 N x S x ceil(S / 8)."""
    return torch.from_numpy(np.stack([np.packbits(mask, axis=1) for mask in holes]))


def unpack(packed_BSb: Tensor, size: int) -> Tensor:
    """The reverse of `pack`, on the device of its argument: bool B1SS, True where hidden."""
    bits = torch.arange(7, -1, -1, device=packed_BSb.device, dtype=torch.uint8)
    return (packed_BSb[..., None] >> bits & 1).flatten(2)[:, None, :, :size].bool()


def choose(position_B: Tensor, seed: int, count: int) -> Tensor:
    """Which of `count` masks each position gets, int64 B: a hash of (seed, position), without asking the device."""
    key = int.from_bytes(hashlib.blake2b(f"mask {seed}".encode(), digest_size=8).digest(), "little", signed=True)
    hashed_B = _mixed(_mixed(position_B ^ key))
    return _shift(hashed_B, 11) % count


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64, as masksup.base.random has it for numpy; int64 products wrap as unsigned ones do."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # The shift of int64 copies the sign; the wanted one brings in zeros.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hide(images_B3SS: Tensor, holes_B1SS: Tensor, mean_311: Tensor) -> Tensor:
    """Float pixels 0..1 of the uint8 images, the mean under the holes: exactly 0 once they are normalised."""
    return torch.where(holes_B1SS, mean_311.float(), images_B3SS.float() / 255)


@dataclass(frozen=True)
class FixedMasks:
    """A packed bank, which of its masks each sample gets, and what a protocol says of them."""

    bank: Tensor
    index_N: NDArray[np.int64]
    protocol: dict[str, Any]


def evaluation_masks(level: Level, size: int, ids: Sequence[str]) -> FixedMasks:
    """Irregular masks for scoring, one fixed for each sample id.

    They depend on the level, the size and the id alone, and are none of those that any run trains with.
    """
    return _fixed(_evaluation_bank(level, size), ids, {"level": level, "hole_ratio": list(HOLE_RATIOS[level])})


@lru_cache(maxsize=2)  # a run is scored under the same masks several times; drawing them takes seconds
def _evaluation_bank(level: Level, size: int) -> Tensor:
    return pack(irregular_holes(EVALUATION_MASKS, size, HOLE_RATIOS[level], _EVALUATION_SEED, "evaluation masks"))


def evaluation_blocks(patch: int, ratio: float, size: int, ids: Sequence[str]) -> FixedMasks:
    """Square blocks for scoring, one pattern fixed for each sample id: another kind of hole than irregular masks."""
    bank = pack(patch_holes(EVALUATION_MASKS, size, patch, ratio, _EVALUATION_SEED))
    return _fixed(bank, ids, {"level": f"blocks of {patch} px", "hole_ratio": [ratio, ratio]})


def _fixed(bank: Tensor, ids: Sequence[str], protocol: dict[str, Any]) -> FixedMasks:
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    index_N = np.array([int.from_bytes(digest, "little") % EVALUATION_MASKS for digest in digests], np.int64)
    return FixedMasks(bank, index_N, {**protocol, "masks_sha256": hashlib.sha256(bank.numpy().tobytes()).hexdigest()})
