"""Every kind of image file against PIL's own conversion; damaged files are refused, never guessed at."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from masksup.data.decode import crop_box, decode, decode_bytes, image_size
from masksup.data.decode_pil import BrokenImage, rgb_pixels
from masksup.data.prepare.images import _facts_of
from masksup.data.prepare.tables.labelled import Box
from masksup.data.prepare.yolo import _boxes
from masksup.errors import UserError

CAP = 10**7


def scene(width: int = 61, height: int = 43) -> NDArray[np.uint8]:
    """Smooth colours with one sharp corner, so that JPEG is close and a swap of axes or channels is not."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    pixels = np.stack(np.broadcast_arrays(x[None], y[:, None], (x[None] + 255 - y[:, None]) / 2), axis=-1)
    pixels[:9, :14] = (250, 30, 10)
    return pixels.astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(pixels: NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG of gray HW or RGB HW3; PIL cannot write the latter."""
    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def on_white(image: Image.Image) -> NDArray[np.uint8]:
    rgba = np.asarray(image.convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    return np.asarray(np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)), np.uint8)


def problem(data: bytes, name: str) -> str | torch.Tensor:
    """The image, or the text of the BrokenImage; any other error is the test's."""
    try:
        return decode_bytes(data, name, exif=True, max_pixels=CAP)
    except BrokenImage as error:
        return str(error)


def rgb(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def difference(image: torch.Tensor, expected: NDArray[np.uint8]) -> int:
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == (3, *expected.shape[:2])
    return int(np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max())


RGB = Image.fromarray(scene())
ALPHA = Image.fromarray(np.dstack([scene(), np.linspace(0, 255, 43 * 61).reshape(43, 61).astype(np.uint8)]))
PALETTE = RGB.quantize(16)
KINDS = {
    "jpeg": saved(RGB, "JPEG", quality=90),
    "jpeg progressive 4:2:0": saved(RGB, "JPEG", progressive=True, subsampling=2),
    "jpeg gray": saved(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": saved(RGB.convert("CMYK"), "JPEG"),
    "png": saved(RGB, "PNG"),
    "png gray": saved(RGB.convert("L"), "PNG"),
    "png 1 bit": saved(RGB.convert("1"), "PNG"),
    "png palette": saved(PALETTE, "PNG"),
    "gif": saved(PALETTE, "GIF"),
    "webp": saved(RGB, "WEBP"),
    "webp lossless": saved(RGB, "WEBP", lossless=True),
    "bmp": saved(RGB, "BMP"),
    "tiff": saved(RGB, "TIFF"),
    "ppm": saved(RGB, "PPM"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_pil(kind: str) -> None:
    tolerance = 2 if kind.startswith("jpeg") else 0
    image = decode_bytes(KINDS[kind], kind, exif=False, max_pixels=CAP)
    assert difference(image, rgb(KINDS[kind])) <= tolerance
    assert image.stride() == (1, 3 * 61, 3), "the fast resize needs HWC storage"


def test_cmyk_inversion_of_adobe_gives_back_the_colours() -> None:
    data = KINDS["jpeg cmyk"]
    assert b"Adobe" in data
    assert (
        np.abs(
            decode_bytes(data, "x", exif=False, max_pixels=CAP).permute(1, 2, 0).numpy() - scene().astype(float)
        ).mean()
        < 6
    )


@pytest.mark.parametrize("image", [ALPHA, ALPHA.convert("LA")], ids=["rgba", "la"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(image: Image.Image, kind: str) -> None:
    if kind == "WEBP":
        image = image.convert("RGBA")
    data = saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert difference(decode_bytes(data, "x", exif=False, max_pixels=CAP), on_white(image)) <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entries_become_white(kind: str) -> None:
    entry = PALETTE.getpixel((0, 0))
    data = saved(PALETTE, kind, transparency=entry)
    image = decode_bytes(data, "x", exif=False, max_pixels=CAP)
    assert image[:, 2, 2].tolist() == [255, 255, 255]
    assert difference(image, on_white(Image.open(io.BytesIO(data)))) <= 1


def test_16_bits_are_scaled_not_clipped() -> None:
    wide = scene().astype(np.uint16) * 257
    assert difference(decode_bytes(png16(wide), "x", exif=False, max_pixels=CAP), scene()) == 0
    gray = decode_bytes(png16(wide[..., 0]), "x", exif=False, max_pixels=CAP)
    assert difference(gray, np.repeat(scene()[..., :1], 3, axis=2)) == 0


def test_an_image_that_the_caller_opened_stays_as_it_is(tmp_path: Path) -> None:
    """`masksup.load(...).predict` takes images of Pillow, which may be turned by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(saved(RGB, "JPEG", exif=exif))) as image:
        before = image.size, image.tobytes()
        assert rgb_pixels(image, exif=True).shape[:2] == before[0]
        assert (image.size, image.tobytes()) == before
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_has_the_size_it_is_decoded_to(orientation: int, tmp_path: Path) -> None:
    """Pillow turns it by itself, whatever is asked."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "photo.tif"
    file.write_bytes(saved(RGB, "TIFF", exif=exif))
    for wanted in (True, False):
        height, width = decode(file, exif=wanted, max_pixels=CAP).shape[1:]
        assert image_size(file, exif=wanted) == (width, height)
        facts = _facts_of(file.read_bytes(), wanted)
        assert (facts.width, facts.height) == (width, height)
    assert _boxes(file, [("all", [0.0, 0.0, 1.0, 1.0])]) == [Box("all", 0.0, 0.0, float(width), float(height))]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_when_asked_and_only_then(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "photo"
    file.write_bytes(saved(RGB, kind, exif=exif))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    assert difference(decode(file, exif=True, max_pixels=CAP), turned) <= 2
    assert difference(decode(file, exif=False, max_pixels=CAP), rgb(file.read_bytes())) <= 2
    assert image_size(file) == (61, 43)
    assert image_size(file, exif=True) == (turned.shape[1], turned.shape[0])


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_at_any_byte_is_refused_or_loses_nothing(kind: str) -> None:
    data, refused = KINDS[kind], 0
    whole = decode_bytes(data, kind, exif=False, max_pixels=CAP)
    cuts = sorted({*range(0, len(data), max(1, len(data) // 150)), *range(max(0, len(data) - 40), len(data))})
    for cut in cuts:
        found = problem(data[:cut], "photo.jpg")
        if isinstance(found, str):
            refused += 1
            assert found.startswith("photo.jpg: found ")
            assert "\n" not in found
        else:
            assert torch.equal(found, whole), f"{cut} of {len(data)} bytes"
    assert refused >= len(cuts) - 40


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"GIF89a", b"%PDF-1.4 ...", b"RIFF\0\0\0\0WEBP", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(BrokenImage, match=r"^a/b\.png: found "):
        decode_bytes(data, "a/b.png", exif=False, max_pixels=CAP)


@pytest.mark.filterwarnings("ignore")  # PIL remarks on TIFF tags and sizes
def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(0)
    for kind, data in KINDS.items():
        for _ in range(40):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                broken[at] = rng.integers(256)
            found = problem(bytes(broken), kind)
            assert not isinstance(found, str) or "\n" not in found


def test_a_bomb_is_refused_before_its_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("masksup.data.decode.decode_rgb_jpeg", never)
    monkeypatch.setattr("masksup.data.decode._decode_pil", never)
    for kind in KINDS:
        with pytest.raises(BrokenImage, match=r"x: found 61 x 43 pixels, expected at most 2000 in all"):
            decode_bytes(KINDS[kind], "x", exif=False, max_pixels=2000)


def test_a_png_that_claims_a_huge_size_is_refused() -> None:
    bomb = bytearray(KINDS["png"])
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    with pytest.raises(BrokenImage, match=r"^bomb\.png: found "):
        decode_bytes(bytes(bomb), "bomb.png", exif=False, max_pixels=CAP)


def test_a_missing_file_is_a_user_error_but_not_a_broken_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jpg: found no such file") as raised:
        decode(tmp_path / "gone.jpg", exif=False, max_pixels=CAP)
    assert not isinstance(raised.value, BrokenImage)


@pytest.mark.parametrize("box", [(3.4, 4.5, 30.6, 20.5), (-7.2, -3, 20, 60), (50, 30, 70.5, 50.5), (80, 80, 90, 95)])
def test_person_crop_equals_pil(box: tuple[float, float, float, float]) -> None:
    expected = np.asarray(RGB.crop(box))
    assert difference(crop_box(torch.from_numpy(scene()).permute(2, 0, 1), box), expected) == 0
    assert difference(decode_bytes(KINDS["png"], "x", exif=False, max_pixels=CAP, crop=box), expected) == 0


def test_an_empty_crop_is_refused() -> None:
    with pytest.raises(UserError, match="x1 < x2"):
        crop_box(torch.zeros(3, 10, 10, dtype=torch.uint8), (4.1, 2, 4.2, 8))


def test_real_photographs_equal_pil(shared_data: Path) -> None:
    files = sorted((shared_data / "coco_small/images/val").glob("*.jpg"))[:12]
    assert files
    for file in files:
        image = decode(file, exif=False, max_pixels=CAP)
        assert difference(image, rgb(file.read_bytes())) <= 2
        assert image_size(file) == (image.shape[2], image.shape[1])
