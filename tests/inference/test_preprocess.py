"""Images for exported models are, to the last bit, those that evaluation sees."""

import io
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processor import avx2

from masksup.config.schema import Augment
from masksup.data.decode import decode_bytes
from masksup.data.decode_pil import BrokenImage, decode_pixels
from masksup.data.transforms import eval_transform
from masksup.inference.card import Preprocessing
from masksup.inference.preprocess import load_image, preprocess

# (width, height): smaller and larger than the input, thin, one pixel, of the input's own size in one or both.
SHAPES = [(640, 427), (375, 500), (20, 31), (1, 1), (64, 64), (64, 200), (2000, 1501), (700, 3), (97, 65)]


def rules(**changes: object) -> Preprocessing:
    usual = {
        "size": 64, "resize": "squish", "interpolation": "bilinear", "crop_share": 0.875, "fill": (124, 116, 104),
        "exif": True, "max_pixels": 10**8, "mean": (0.5,) * 3, "std": (0.5,) * 3,
    }  # fmt: skip
    return Preprocessing(**{**usual, **changes})  # type: ignore[arg-type]


def evaluated(image_HW3: np.ndarray, wanted: Preprocessing) -> np.ndarray:
    settings = Augment(
        eval_resize=wanted.resize, interpolation=wanted.interpolation, crop_share=wanted.crop_share, fill=wanted.fill
    )
    transform = eval_transform(settings, wanted.size)
    pixels_3HW = torch.from_numpy(image_HW3).permute(2, 0, 1)
    return transform(pixels_3HW, np.random.default_rng(0))[0].numpy()


@avx2
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_pixels_are_those_of_evaluation(shape: tuple[int, int]) -> None:
    width, height = shape
    rng = np.random.default_rng(width)
    noise_HW3 = rng.integers(0, 256, (height, width, 3), np.uint8)
    noise_HW3[: height // 2] = 255 * (noise_HW3[: height // 2] > 127)  # overshoots of the bicubic filter are cut off
    for how, kind in itertools.product(("squish", "center_crop", "top_left"), ("bilinear", "bicubic")):
        wanted = rules(resize=how, interpolation=kind, crop_share=0.8)
        np.testing.assert_array_equal(preprocess(noise_HW3, wanted), evaluated(noise_HW3, wanted), f"{how}, {kind}")


def test_a_long_strip_takes_little_memory() -> None:
    """Enlarged until its short side fits it is 38,400 pixels long: a table of all weights would take 0.9 GB."""
    strip_HW3 = np.zeros((20, 3000, 3), np.uint8)
    tracemalloc.start()
    preprocess(strip_HW3, rules(size=224, resize="center_crop"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


def test_files_are_decoded_as_evaluation_does(tmp_path: Path) -> None:
    """JPEG by Pillow is JPEG by torchvision; every other format goes through the same function anyway."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize((97, 65), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for mode, quality, sampling in (("RGB", 90, 0), ("RGB", 75, 2), ("L", 80, 0)):
        file = io.BytesIO()
        smooth.convert(mode).save(file, "JPEG", quality=quality, subsampling=sampling, exif=exif)
        ours_HW3 = decode_pixels(file.getvalue(), "x.jpg", exif=True)
        theirs = decode_bytes(file.getvalue(), "x.jpg", exif=True, max_pixels=10**8).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(ours_HW3, theirs)
        assert ours_HW3.shape == (97, 65, 3)
    path = tmp_path / "cut.jpg"
    path.write_bytes(file.getvalue()[:-200])
    with pytest.raises(BrokenImage, match=r"cut\.jpg: found a damaged image"):
        load_image(path, rules())
    path.write_bytes(file.getvalue())
    with pytest.raises(BrokenImage, match="expected at most 100 in all"):
        load_image(path, rules(max_pixels=100))
