"""Checks of image files: every kind of damage is found, every good file is accepted."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from masksup.data.decode import decode
from masksup.data.decode_pil import BrokenImage
from masksup.data.prepare.images import ImageFacts, check_images, inside
from masksup.errors import UserError


def encoded(format: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded("JPEG", exif=exif)


def with_thumbnail() -> bytes:
    """A JPEG that holds another, whole one in its EXIF, as cameras write them."""
    segment = b"Exif\0\0" + encoded("JPEG", (16, 16))
    jpeg = encoded("JPEG")
    return jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


def check(folder: Path, data: bytes, exif: bool = False) -> ImageFacts | str:
    (folder / "x").write_bytes(data)
    return check_images(folder, ["x"], exif=exif)["x"]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_whole_files_pass_and_truncated_ones_do_not(tmp_path: Path, format: str) -> None:
    data = encoded(format)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    assert check(tmp_path, data) == ImageFacts(40, 30, digest)
    for length in (1, 20, len(data) // 2, len(data) - 12):
        assert isinstance(check(tmp_path, data[:length]), str), length


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), progressive=st.booleans(), thumbnail=st.booleans())
def test_jpeg_cut_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, share: float, progressive: bool, thumbnail: bool
) -> None:
    data = with_thumbnail() if thumbnail else encoded("JPEG", progressive=progressive)
    folder = tmp_path_factory.mktemp("cut")
    assert isinstance(check(folder, data), ImageFacts)
    assert isinstance(check(folder, data[: int(share * len(data))]), str)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "quality": 1}])
def test_jpeg_head_that_is_larger_than_its_data_is_found_by_all_readers(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Decoders fill what is missing with grey. A plain white image has the least data of all, and passes."""
    file, buffer = tmp_path / "a.jpg", io.BytesIO()
    Image.new("RGB", (4000, 3000), "white").save(buffer, "JPEG", **options)
    file.write_bytes(buffer.getvalue())
    assert isinstance(check_images(tmp_path, ["a.jpg"], exif=False)["a.jpg"], ImageFacts)
    assert decode(file, exif=True, max_pixels=10**9).shape == (3, 3000, 4000)

    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(buffer, "JPEG", **options)
    data = bytearray(buffer.getvalue())
    frame = data.find(b"\xff\xc2\x00\x11" if options.get("progressive") else b"\xff\xc0\x00\x11")
    data[frame + 5 : frame + 9] = (65500).to_bytes(2) + (1500).to_bytes(2)
    file.write_bytes(data)
    said = "found a head of 1500 x 65500 pixels on data that cannot hold them"
    assert said in str(check_images(tmp_path, ["a.jpg"], exif=False)["a.jpg"])
    with pytest.raises(BrokenImage, match=said):
        decode(file, exif=True, max_pixels=10**9)


def test_links_in_the_root_are_followed_and_names_never_lead_out_of_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    Image.new("RGB", (4, 3)).save(outside / "a.png")
    (root / "linked").symlink_to(outside)
    (root / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "fifo.png")
    found = check_images(root, ["linked/a.png", "zero.png", "fifo.png"], exif=False)
    assert isinstance(found["linked/a.png"], ImageFacts)
    assert found["zero.png"] == "unreadable image (found a device, expected a regular file)"
    assert found["fifo.png"] == "unreadable image (found a FIFO, expected a regular file)"
    for name in ("../outside/a.png", "linked/../../outside/a.png", str(outside / "a.png")):
        with pytest.raises(UserError, match="expected one that stays inside the root"):
            inside(name, "x.csv, line 1")


def test_jpeg_with_bytes_behind_its_end_passes(tmp_path: Path) -> None:
    assert isinstance(check(tmp_path, encoded("JPEG") + b"\0" * 100), ImageFacts)


def test_real_photographs_pass(shared_data: Path) -> None:
    folder = shared_data / "coco_small" / "images"
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.jpg")]
    found = check_images(folder, names, exif=False)
    assert len(found) == 272
    for name in names:
        facts = found[name]
        assert isinstance(facts, ImageFacts), facts
        with Image.open(folder / name) as image:
            assert (facts.width, facts.height) == image.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_follows_exif_only_when_asked(tmp_path: Path, orientation: int) -> None:
    data = with_orientation(orientation)
    turned, plain = check(tmp_path, data, exif=True), check(tmp_path, data)
    assert isinstance(turned, ImageFacts)
    assert isinstance(plain, ImageFacts)
    assert (plain.width, plain.height) == (40, 30)
    assert (turned.width, turned.height) == ((30, 40) if orientation >= 5 else (40, 30))


def test_each_kind_of_damage_is_said(tmp_path: Path) -> None:
    assert check(tmp_path, b"") == "empty image file (0 bytes)"
    assert "not an image" in str(check(tmp_path, b"%PDF-1.4 hello"))
    assert check(tmp_path, encoded("JPEG")[:-2]) == "truncated JPEG (no end-of-image marker)"
    assert check(tmp_path, encoded("PNG")[:-4]) == "truncated PNG (no IEND chunk)"
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    assert isinstance(check(tmp_path, header + b"\0" * 20), str)
    (tmp_path / "folder").mkdir()
    found = check_images(tmp_path, ["folder", "none"], exif=False)
    assert found["none"] == "no such image"
    assert "unreadable image" in str(found["folder"])


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "..", "", ".", "a/..", "..\\a", "C:\\a", "a\0b"])
def test_paths_that_leave_the_root_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="list: found the path"):
        inside(name, "list")


def test_paths_inside_are_normalised() -> None:
    assert inside("a//b/./c.jpg", "list") == "a/b/c.jpg"
    assert inside("a/../b", "list") == "b"
    assert inside("..a/b", "list") == "..a/b"
    assert inside("a\\b", "list") == "a/b"
