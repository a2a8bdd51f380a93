"""simplejpeg and torchvision show the same pixels and refuse the same files, so nobody can tell which one decoded."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from masksup.data import decode_jpeg
from masksup.data.decode import decode_bytes
from masksup.data.decode_jpeg import by_torchvision, decode_rgb_jpeg, fast_decoder
from masksup.data.decode_pil import BrokenImage

ORIENTATION = 0x0112


def noise(width: int, height: int) -> Image.Image:
    """In which no error of a decoder can hide."""
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:1:1": {"subsampling": "4:1:1"},
    "progressive": {"progressive": True},
    "RGB": {"keep_rgb": True},
    "restart markers": {"restart_marker_blocks": 1},
    "quality 1": {"quality": 1},
    "quality 100": {"quality": 100},
    "EXIF, not turned": {"exif": turned(1)},
    "EXIF, turned": {"exif": turned(6)},
    "gray": {},
}
SIDES = [(1, 1), (7, 5), (16, 16), (17, 33), (100, 3), (61, 43)]


def file_of(kind: str, width: int, height: int) -> bytes:
    image = noise(width, height)
    return jpeg(image.convert("L") if kind == "gray" else image, **KINDS[kind])


def found(data: bytes, exif: bool = True) -> torch.Tensor | str:
    """The image, or the text of the error."""
    try:
        return decode_bytes(data, "a.jpg", exif=exif, max_pixels=10**6)
    except BrokenImage as error:
        return str(error)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every file that simplejpeg was given."""
    calls: list[int] = []
    decoder = fast_decoder()
    assert decoder is not None, "simplejpeg is not used here"

    def counting(data: bytes) -> Any:
        calls.append(len(data))
        return decoder(data)

    monkeypatch.setattr(decode_jpeg, "fast_decoder", lambda: counting)
    return calls


@pytest.fixture
def fresh() -> Iterator[None]:
    """The choice of a decoder is made anew in this test and after it."""
    fast_decoder.cache_clear()
    yield
    fast_decoder.cache_clear()


def by_torchvision_alone(ask: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_jpeg, "fast_decoder", lambda: None)
        return ask()


def equal(a: torch.Tensor | str, b: torch.Tensor | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and a == b
    return torch.equal(a, b) and a.stride() == b.stride()


@pytest.mark.parametrize("side", SIDES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_pixels_of_torchvision(kind: str, side: tuple[int, int], counted: list[int]) -> None:
    data = file_of(kind, *side)
    image = found(data)
    assert isinstance(image, torch.Tensor)
    assert torch.equal(image, by_torchvision(data, True))
    assert counted == ([] if kind == "EXIF, turned" else [len(data)]), "which decoder it was"


@pytest.mark.parametrize("orientation", range(9))
def test_a_turned_file_is_turned_where_it_was_asked_for(orientation: int, counted: list[int]) -> None:
    data = jpeg(noise(20, 10), exif=turned(orientation))
    for exif in (True, False):
        assert equal(found(data, exif), by_torchvision(data, exif))
    assert len(counted) == (2 if orientation in (0, 1) else 1)


@pytest.mark.parametrize("profile", [b"", b"\xff\xda\xff\xe1" * 3, b"\xff\xda\xff\xe1" * 70_000], ids=len)
def test_exif_is_found_behind_a_colour_profile(profile: bytes) -> None:
    """Which may have the bytes of any marker in it."""
    plain = jpeg(noise(20, 10), icc_profile=profile)
    exif = jpeg(noise(20, 10), exif=turned(6))
    segment = exif[exif.index(b"\xff\xe1") :][: 2 + int.from_bytes(exif[exif.index(b"\xff\xe1") + 2 :][:2])]
    at = plain.rindex(b"\xff\xdb", 0, plain.rindex(b"\xff\xc0"))  # of the tables, behind the profile
    image = found(plain[:at] + segment + plain[at:])
    assert isinstance(image, torch.Tensor)
    assert tuple(image.shape) == (3, 20, 10)


@settings(max_examples=300, deadline=None)
@given(draw=st.data())
def test_damaged_exif_turns_an_image_as_torchvision_turns_it(draw: st.DataObject) -> None:
    exif = turned(draw.draw(st.integers(0, 9), "orientation"))
    exif[0x010F] = "maker"
    data = bytearray(jpeg(noise(20, 10), exif=exif))
    start = data.index(b"Exif")
    for _ in range(draw.draw(st.integers(0, 3), "bytes changed")):
        at = draw.draw(st.integers(start - 4, start + 50), "at")
        data[at] = draw.draw(st.sampled_from([0, 1, 2, 6, 8, 9, 0x12, 0x49, 0x4D, 0xFF]), "to")
    assert equal(found(bytes(data)), by_torchvision_alone(lambda: found(bytes(data))))


def test_a_view_of_a_shard_is_read_without_a_copy(counted: list[int]) -> None:
    data = file_of("4:2:0", 61, 43)
    image = decode_rgb_jpeg(memoryview(b"xx" + data)[2:], "a.jpg", exif=True)
    assert torch.equal(image, by_torchvision(data, False))
    assert counted == [len(data)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(draw=st.data())
def test_damage_is_judged_as_torchvision_judges_it(kind: str, draw: st.DataObject) -> None:
    data = bytearray(file_of(kind, 61, 43))
    for _ in range(draw.draw(st.integers(0, 3), "bytes changed")):
        data[draw.draw(st.integers(2, len(data) - 1), "at")] = draw.draw(st.integers(0, 255), "to")
    cut = draw.draw(st.sampled_from([len(data), len(data) - 1, len(data) - 30, len(data) // 2]), "cut at")
    tail = draw.draw(st.sampled_from([b"", b"\xff\xd9", b"behind the end"]), "tail")
    damaged = bytes(data[:cut]) + tail
    exif = draw.draw(st.booleans(), "exif")
    assert equal(found(damaged, exif), by_torchvision_alone(lambda: found(damaged, exif)))


def test_without_simplejpeg_torchvision_decodes(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert fast_decoder() is None
    data = file_of("4:2:0", 61, 43)
    assert equal(found(data), by_torchvision(data, True))


def test_simplejpeg_with_other_pixels_is_not_used(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another libjpeg: the fast transform differs by a few grey levels in places."""
    exact = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda data: exact(data, fastdct=True))
    assert fast_decoder() is None
    data = file_of("4:2:0", 61, 43)
    assert equal(found(data), by_torchvision(data, True))


def test_real_photographs_have_the_pixels_of_torchvision(shared_data: Path, counted: list[int]) -> None:
    files = sorted(shared_data.rglob("*.jpg"))[::6]
    assert len(files) > 40
    for file in files:
        data = file.read_bytes()
        assert equal(found(data), by_torchvision(data, True)), file.name
    assert len(counted) == len(files)
