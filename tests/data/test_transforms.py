"""Resizes against PIL, crops and colours against torchvision, and boxes that stay on their pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import v2 as tv

from masksup.base.random import draws
from masksup.config.schema import Augment
from masksup.data.augment import RANDAUGMENT, apply_operation, color_jitter, cutout
from masksup.data.transforms import (
    clip_boxes,
    eval_transform,
    random_frame,
    random_longer_side,
    train_transform,
)


def picture(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """Smooth random colours, HWC-backed as the decoder gives them."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    pixels = np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def as_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def rng(position: int = 0) -> np.random.Generator:
    return draws(0, position, "transform")


def gap(image: torch.Tensor, expected: Image.Image) -> int:
    return int(np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected, int)).max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(500, 333), (90, 120), (224, 224), (640, 100)])
def test_squish_equals_pil_resize(interpolation: Any, width: int, height: int) -> None:
    image = picture(width, height)
    out, _ = eval_transform(Augment(interpolation=interpolation), 224)(image, rng())
    how = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    assert out.shape == (3, 224, 224)
    # Bicubic: both round to 8 bits between the two passes, with coefficients of different precision.
    assert gap(out, as_pil(image).resize((224, 224), how)) <= (1 if interpolation == "bilinear" else 2)


def test_antialiasing_is_on() -> None:
    checks = ((torch.arange(400)[:, None] + torch.arange(400)) % 2 * 255).to(torch.uint8).repeat(3, 1, 1)
    out, _ = eval_transform(Augment(), 90)(checks, rng())
    assert (out.int() - 127).abs().max() < 30


@pytest.mark.parametrize(("width", "height"), [(500, 333), (90, 120), (300, 301)])
def test_center_crop_equals_torchvision(width: int, height: int) -> None:
    image = picture(width, height)
    settings = Augment(eval_resize="center_crop", crop_share=0.875)
    out, _ = eval_transform(settings, 224)(image, rng())
    assert torch.equal(out, tv.CenterCrop(224)(tv.Resize(256, antialias=True)(image)))


def test_random_frames_follow_torchvisions_distribution() -> None:
    width, height, scale, ratio = 500, 375, (0.2, 1.0), (3 / 4, 4 / 3)
    ours = np.array([random_frame(width, height, scale, ratio, rng(i)) for i in range(4000)], float)
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(4000)], float)
    theirs = np.stack([theirs[:, 1], theirs[:, 0], theirs[:, 1] + theirs[:, 3], theirs[:, 0] + theirs[:, 2]], 1)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert np.quantile(ours, share, axis=0) == pytest.approx(np.quantile(theirs, share, axis=0), abs=14)


def test_frames_of_extreme_pictures_stay_inside_and_within_the_ratio() -> None:
    for width, height in ((1000, 20), (20, 1000), (1, 1), (3, 2)):
        for position in range(50):
            x1, y1, x2, y2 = random_frame(width, height, (0.7, 1.0), (3 / 4, 4 / 3), rng(position))
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
    x1, y1, x2, y2 = random_frame(1000, 20, (0.7, 1.0), (3 / 4, 4 / 3), rng())
    assert (y1, y2, x2 - x1) == (0, 20, 27)


def with_rectangle(width: int, height: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    image = torch.full((height, width, 3), 90, dtype=torch.uint8).permute(2, 0, 1)
    image[:, box[1] : box[3], box[0] : box[2]] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    return image


def found_box(image: torch.Tensor) -> NDArray[np.float64]:
    red = (image[0].int() - image[1].int() > 80).numpy()
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert len(rows), "the rectangle is gone"
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("settings", [
    Augment(crop="random_resized", scale=(0.4, 1.0)),
    Augment(crop="squish", eval_resize="center_crop"),
    Augment(crop="random_placed", longer_side=(0.9, 1.9), eval_resize="top_left"),
])  # fmt: skip
def test_boxes_follow_the_pixels(settings: Augment, train: bool) -> None:
    transform = train_transform(settings, 160) if train else eval_transform(settings, 160)
    for position in range(30):
        box = tuple(int(v) for v in np.random.default_rng(position).integers([60, 50, 160, 120], [120, 100, 240, 180]))
        image = with_rectangle(300, 220, box)  # type: ignore[arg-type]
        out, boxes = transform(image, rng(position), np.array([box], np.float32))
        assert boxes is not None
        assert found_box(out) == pytest.approx(boxes[0], abs=1.6)


FILL = (200, 10, 60)


def filled(image: torch.Tensor) -> NDArray[np.bool_]:
    return np.asarray((image.permute(1, 2, 0) == torch.tensor(FILL, dtype=torch.uint8)).all(-1).numpy())


@pytest.mark.parametrize(("width", "height"), [(100, 70), (70, 100), (300, 300)])
def test_random_placed_is_the_original_rule(width: int, height: int) -> None:
    """Longer side a whole number drawn from 40..80 of 64; no offset out of reach; the rest in one colour."""
    settings = Augment(crop="random_placed", flip=0, fill=FILL)
    image = torch.full((height, width, 3), 90, dtype=torch.uint8).permute(2, 0, 1)
    sides, corners = set(), []
    for position in range(600):
        out, _ = train_transform(settings, 64)(image, rng(position))
        assert out.shape == (3, 64, 64)
        inside = ~filled(out)
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (out[:, inside] == 90).all()
        w, h = len(columns), len(rows)
        longer = random_longer_side(width, height, 64, settings.longer_side, reseeded(position))
        assert (w, h) == (min(longer[0], 64), min(longer[1], 64))
        assert max(longer) / min(longer) == pytest.approx(max(width, height) / min(width, height), rel=0.03)
        sides.add(max(longer))
        corners.append((columns[0] / max(64 - w, 1), rows[0] / max(64 - h, 1)))
    assert sides == set(range(40, 81))
    reached = np.array(corners)
    assert reached.min(0).tolist() == [0, 0]
    assert reached.max(0).tolist() == [1, 1]


def reseeded(position: int) -> np.random.Generator:
    """The generator after the flip, which is drawn first."""
    generator = rng(position)
    generator.random()
    return generator


def test_random_placed_cuts_every_part_of_an_image_that_is_larger() -> None:
    ramp = torch.arange(200, dtype=torch.uint8).repeat(200, 1)
    image = torch.stack([ramp, ramp.T, ramp]).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    transform = train_transform(Augment(crop="random_placed", flip=0, longer_side=(3.125, 3.125)), 64)
    corners = np.array([transform(image, rng(position))[0][:2, 0, 0].tolist() for position in range(800)])
    assert corners.min(0).tolist() == [0, 0]  # the ramp is not resized, so a corner's values are its place
    assert corners.max(0).tolist() == [136, 136]
    assert corners.mean(0) == pytest.approx([68, 68], abs=5)


@pytest.mark.parametrize(("width", "height"), [(100, 40), (40, 100), (30, 20), (90, 80)])
def test_top_left_takes_the_pixels_as_they_are(width: int, height: int) -> None:
    image = picture(width, height)
    out, _ = eval_transform(Augment(eval_resize="top_left", fill=FILL), 64)(image, rng())
    w, h = min(width, 64), min(height, 64)
    assert torch.equal(out[:, :h, :w], image[:, :h, :w])
    rest = filled(out)
    assert rest[h:].all()
    assert rest[:, w:].all()


def test_the_fill_is_0_after_imagenets_normalisation() -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert np.abs((np.array(Augment().fill) / 255 - mean) / std).max() < 0.01


@pytest.mark.parametrize("name", RANDAUGMENT)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_boxes_follow_every_randaugment_operation(name: str, sign: float) -> None:
    box = np.array([[70, 60, 110, 90]], np.float32)
    image, moved = apply_operation(name, with_rectangle(180, 160, (70, 60, 110, 90)), box, 12, sign)
    if name in ("solarize", "posterize", "equalize", "autocontrast", "color", "brightness", "contrast"):
        assert (moved == box).all()
    else:
        assert found_box(image) == pytest.approx(moved[0], abs=1.6)


@pytest.mark.parametrize("name", RANDAUGMENT)
def test_randaugment_operations_equal_torchvision(name: str) -> None:
    image, magnitude = picture(160, 120), 9
    names = {
        "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX", "translate_y": "TranslateY",
        "autocontrast": "AutoContrast",
    }  # fmt: skip
    theirs = tv.RandAugment()
    key = names.get(name, name.capitalize())
    levels, signed = theirs._AUGMENTATION_SPACE[key]
    magnitudes = levels(31, 120, 160)
    value = 0.0 if magnitudes is None else float(magnitudes[magnitude])
    for sign in (1.0, -1.0) if signed else (1.0,):
        expected = theirs._apply_image_or_video_transform(
            image, key, sign * value, interpolation=tv.InterpolationMode.NEAREST, fill=theirs._fill
        )
        ours, _ = apply_operation(name, image, np.zeros((0, 4), np.float32), magnitude, sign)
        assert (ours.int() - expected.int()).abs().max() <= 1, (name, sign)


def test_randaugment_has_torchvisions_operations() -> None:
    assert len(RANDAUGMENT) == len(set(RANDAUGMENT)) == len(tv.RandAugment._AUGMENTATION_SPACE) == 14


def test_color_jitter_of_nothing_changes_nothing_and_of_something_stays_in_range() -> None:
    image = picture(80, 60)
    assert torch.equal(color_jitter(image, (0, 0, 0, 0), rng()), image)
    means = [
        float(color_jitter(image, (0.5, 0, 0, 0), rng(i)).float().mean() / image.float().mean()) for i in range(200)
    ]
    assert 0.45 < min(means) < 0.6
    assert 1.25 < max(means) < 1.55
    assert np.mean(means) == pytest.approx(1.0, abs=0.05)


def test_cutout_covers_its_share_where_it_fits() -> None:
    image = torch.arange(3 * 100 * 100).reshape(3, 100, 100).remainder(251).to(torch.uint8)
    shares = [float((cutout(image, 0.5, rng(i)) != image).any(dim=0).float().mean()) for i in range(200)]
    assert 0.24 <= max(shares) <= 0.25
    assert min(shares) < 0.12


def test_everything_at_once_is_a_function_of_seed_and_position() -> None:
    settings = Augment(crop="random_resized", randaugment=(2, 9), color_jitter=(0.4, 0.4, 0.4, 0.1), cutout=0.3)
    transform, image = train_transform(settings, 64), picture(120, 90)
    outputs = []
    for position in range(20):
        torch.manual_seed(position)
        np.random.seed(position)
        before = torch.get_rng_state()
        first, _ = transform(image, rng(position))
        assert torch.equal(first, transform(image, rng(position))[0])
        assert torch.equal(before, torch.get_rng_state())
        assert first.shape == (3, 64, 64)
        assert first.dtype == torch.uint8
        outputs.append(first)
    assert len({o.numpy().tobytes() for o in outputs}) == 20


def test_flip_has_its_probability_and_mirrors() -> None:
    image = picture(64, 64)
    transform = train_transform(Augment(flip=0.3), 64)
    flipped = [torch.equal(transform(image, rng(i))[0], image.flip(-1)) for i in range(1000)]
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.05)


def test_clipping_says_what_was_kept() -> None:
    boxes = np.array([[-10, 0, 10, 10], [0, 0, 5, 5], [20, 20, 30, 30]], np.float32)
    clipped, kept = clip_boxes(boxes, 16)
    assert kept == pytest.approx([0.5, 1.0, 0.0])
    assert clipped[0].tolist() == [0, 0, 10, 10]
