"""Masks: hole ratios, reading by the original's rules, and which mask a position or an id gets."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from masksup.data.masks import (
    HOLE_RATIOS,
    choose,
    evaluation_masks,
    folder_holes,
    hide,
    irregular_holes,
    pack,
    patch_holes,
    unpack,
)  # fmt: skip
from masksup.errors import UserError


@pytest.mark.parametrize("size", [32, 97, 224])
@pytest.mark.parametrize("ratio", [*HOLE_RATIOS.values(), (0.3, 0.31), (0.85, 0.95)])
def test_every_irregular_mask_is_within_its_bin(size: int, ratio: tuple[float, float]) -> None:
    shares = [mask.mean() for mask in irregular_holes(60, size, ratio, seed=1)]
    assert len(shares) == 60
    assert ratio[0] <= min(shares)
    assert max(shares) <= ratio[1]
    assert max(shares) - min(shares) > 0.5 * (ratio[1] - ratio[0])  # spread over the bin, not at its edge


def test_irregular_masks_are_shapes_anywhere_and_differ() -> None:
    masks = np.stack(list(irregular_holes(300, 64, (0.5, 0.6), seed=2)))
    assert len({mask.tobytes() for mask in masks}) == 300
    cover = masks.mean(0)
    assert cover.min() > 0.3  # no place that is hardly ever hidden
    assert cover.max() < 0.85
    edges = (masks[:, 1:] != masks[:, :-1]).mean()
    assert edges < 0.1, "noise, not shapes"


def test_mask_k_depends_on_seed_and_k_alone() -> None:
    few, many = list(irregular_holes(3, 40, (0.1, 0.2), 5)), list(irregular_holes(9, 40, (0.1, 0.2), 5))
    assert all(np.array_equal(a, b) for a, b in zip(few, many))
    assert not np.array_equal(few[0], next(irregular_holes(1, 40, (0.1, 0.2), 6)))


@pytest.mark.parametrize("ratio", [(0.6, 0.5), (0.5, 1.0), (-0.1, 0.2), (0.501, 0.502), (0.0, 0.0)])
def test_hole_ratio_that_cannot_be_met_is_named(ratio: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"^method\.hole_ratio: found "):
        next(irregular_holes(1, 8, ratio, 0))


@pytest.mark.parametrize(("size", "patch", "ratio", "hidden"), [(64, 16, 0.5, 8), (64, 16, 0.75, 12), (70, 16, 0.2, 5)])
def test_patches_hide_their_share_of_the_grid(size: int, patch: int, ratio: float, hidden: int) -> None:
    masks = list(patch_holes(20, size, patch, ratio, 0))
    assert len({mask.tobytes() for mask in masks}) == 20
    for mask in masks:
        assert mask.shape == (size, size)
        corners = mask[::patch, ::patch]
        assert corners.sum() == hidden
        assert np.array_equal(mask, corners.repeat(patch, 0).repeat(patch, 1)[:size, :size])


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0])
def test_patch_ratio_that_hides_nothing_or_all_is_named(ratio: float) -> None:
    with pytest.raises(UserError, match=r"^method\.patch_ratio: found "):
        next(patch_holes(1, 64, 32, ratio, 0))


def draw(folder: Path, count: int, mode: str = "L", size: tuple[int, int] = (30, 20)) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(count)
    for number in range(count):
        pixels = np.where(rng.random(size[::-1]) < 0.4, 255, 0).astype(np.uint8)
        pixels[0, 0], pixels[size[1] // 2, size[0] // 2] = 0, 255
        Image.fromarray(pixels).convert(mode).save(folder / f"{number:05d}.png")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
@pytest.mark.parametrize("size", [(30, 20), (21, 33), (16, 16)])
def test_folder_is_read_as_the_original_reads_it(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    draw(tmp_path / "masks", 4, mode, size)
    # The original's chain: palette picture, shorter side to S ("bicubic", which PIL makes nearest), centre, > 0.
    resize = v2.Compose([v2.Resize(16, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16)])
    for file, holes in zip(sorted((tmp_path / "masks").iterdir()), folder_holes(tmp_path / "masks", "low", 16)):
        with Image.open(file) as picture:
            expected = np.asarray(resize(picture.convert("P"))) > 0
        assert np.array_equal(holes, expected), file.name


def test_low_takes_the_first_files_and_high_the_last_951_of_1000(tmp_path: Path) -> None:
    draw(tmp_path / "masks", 1010, size=(4, 4))
    files = sorted((tmp_path / "masks").iterdir())
    for level, wanted in (("low", files[:951]), ("high", files[:-952:-1])):
        found = list(folder_holes(tmp_path / "masks", level, 4))  # type: ignore[arg-type]
        assert len(found) == len(wanted) == 951
        for file, holes in zip(wanted, found):
            with Image.open(file) as picture:
                assert np.array_equal(np.asarray(picture) > 0, holes)


@pytest.mark.parametrize(("fill", "what"), [(255, "the whole image"), (0, "nothing")])
def test_mask_that_hides_all_or_nothing_is_refused(fill: int, what: str, tmp_path: Path) -> None:
    draw(tmp_path / "masks", 3)
    Image.new("L", (30, 20), fill).save(tmp_path / "masks" / "00001.png")
    with pytest.raises(UserError, match=rf"^method\.folder: .*00001\.png: this mask hides {what}"):
        list(folder_holes(tmp_path / "masks", "high", 16))


def test_folder_that_is_absent_empty_or_holds_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^method\.folder: .*: no such folder"):
        list(folder_holes(tmp_path / "none", "high", 16))
    with pytest.raises(UserError, match=r"^method\.folder: .*: found no \.png"):
        list(folder_holes(tmp_path, "high", 16))
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"^method\.folder: .*a\.png: cannot be read"):
        list(folder_holes(tmp_path, "high", 16))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_packing_loses_nothing(size: int, count: int, seed: int) -> None:
    holes = np.random.default_rng(seed).random((count, size, size)) < 0.5
    packed = pack(iter(holes))
    assert packed.shape == (count, size, -(-size // 8))
    assert np.array_equal(unpack(packed, size)[:, 0].numpy(), holes)


def literal_choice(position: int, seed: int, count: int) -> int:
    """The same hash on Python's integers."""
    mask = 2**64 - 1
    value = position ^ int.from_bytes(hashlib.blake2b(f"mask {seed}".encode(), digest_size=8).digest(), "little")
    for _ in range(2):
        value = (value + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & mask
        value ^= value >> 31
    return (value >> 11) % count


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=9), st.integers(0, 2**63 - 1), st.integers(1, 2000))
def test_choice_is_a_hash_of_seed_and_position(positions: list[int], seed: int, count: int) -> None:
    chosen = choose(torch.tensor(positions), seed, count)
    assert chosen.tolist() == [literal_choice(position, seed, count) for position in positions]


def test_choice_is_uniform_and_seeds_and_epochs_are_unrelated() -> None:
    n, count = 100_000, 50
    a, b = choose(torch.arange(n), 0, count), choose(torch.arange(n), 1, count)
    later = choose(torch.arange(n) + n, 0, count)
    for chosen in (a, b):
        counts = torch.bincount(chosen, minlength=count).double()
        chi2 = ((counts - n / count).square() / (n / count)).sum()
        assert chi2 < 95  # 49 degrees of freedom: exceeded once in 10,000
    for other in (b, later, a.roll(1)):
        assert (a == other).double().mean().item() == pytest.approx(1 / count, abs=0.003)


def test_hidden_pixels_are_zero_once_normalised_and_the_rest_untouched() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    holes = torch.rand(2, 1, 8, 8) < 0.5
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    masked = (hide(images, holes, mean) - mean) / std
    assert torch.equal(masked, (images.float() / 255 - mean) / std * ~holes)


def test_evaluation_masks_belong_to_the_id_and_are_no_training_masks() -> None:
    all_ids = [f"{n:06d}" for n in range(50)]
    a, b = evaluation_masks("high", 24, all_ids), evaluation_masks("high", 24, all_ids[::-2])
    assert a.protocol == b.protocol
    assert torch.equal(a.bank, b.bank)
    assert a.index_N[::-2].tolist() == b.index_N.tolist()
    shares = unpack(a.bank, 24).double().mean((1, 2, 3))
    assert shares.min() >= 0.5
    assert shares.max() <= 0.6
    trained = pack(irregular_holes(1000, 24, (0.5, 0.6), 0))
    assert not {m.numpy().tobytes() for m in trained} & {m.numpy().tobytes() for m in a.bank}
    assert evaluation_masks("low", 24, all_ids).protocol["masks_sha256"] != a.protocol["masks_sha256"]
