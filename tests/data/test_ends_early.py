"""A JPEG that says that it ends before its last pixels is broken to every reader, and a whole one to none."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masksup.cli import main
from masksup.config.schema import Augment
from masksup.data import decode_pil
from masksup.data.dataset import EvalDataset
from masksup.data.decode import decode_bytes
from masksup.data.decode_pil import BrokenImage, decode_pixels
from masksup.data.ends_early import ends_early, seems_early
from masksup.data.index import Index, open_index
from masksup.data.transforms import eval_transform
from masksup.data.write_shards import pack_index

NOISE = Image.effect_noise((120, 80), 60).convert("RGB")
END = b"\xff\xd9"
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6


def jpeg(image: Image.Image = NOISE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def cut(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))].rstrip(b"\xff") + END


def on_white() -> Image.Image:
    """As in a shop: its lower right corner is of one colour, which is the sign of a file that ends early."""
    image = Image.new("RGB", (120, 80), "white")
    image.paste(NOISE.crop((0, 0, 50, 50)))
    return image


def problems(data: bytes, exif: bool = False) -> list[str]:
    """What each of the two decoders says."""
    found = []
    for decode in (lambda: decode_bytes(data, "a.jpg", exif=exif, max_pixels=10**7),
                   lambda: decode_pixels(data, "a.jpg", exif=exif)):  # fmt: skip
        try:
            decode()
            found.append("")
        except BrokenImage as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
@pytest.mark.parametrize(
    "data",
    [jpeg(), jpeg(NOISE.convert("L")), jpeg(on_white(), subsampling=0), jpeg(optimize=True), jpeg(exif=SIDEWAYS)],
)
def test_both_decoders_refuse_what_ends_early(data: bytes, share: float) -> None:
    for exif in (False, True):
        for said in problems(cut(data, share), exif):
            assert said.startswith("a.jpg: found a truncated JPEG (its end-of-image marker comes before its last")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_progressive_file_without_its_last_scans_is_refused_and_within_the_last_one_loses_little(
    share: float,
) -> None:
    data = jpeg(progressive=True)
    last = data.rfind(b"\xff\xda")
    assert all(problems(cut(data, share * last / len(data))))
    short = data[: last + int(share * (len(data) - last))].rstrip(b"\xff") + END
    assert problems(short) == ["", ""]
    assert ends_early(short), "prepare --verify asks of every file"
    full, less = (np.asarray(Image.open(io.BytesIO(one))).astype(int) for one in (data, short))
    assert np.abs(full - less).mean() < 16


@pytest.mark.parametrize("image", [NOISE, on_white(), Image.new("RGB", (7, 5)), Image.new("L", (64, 64), 255)])
@pytest.mark.parametrize("progressive", [False, True])
def test_whole_files_pass(image: Image.Image, progressive: bool) -> None:
    data = jpeg(image, progressive=progressive)
    for whole in (data, data + b"what a camera adds behind it" + END, jpeg(image, exif=SIDEWAYS)):
        assert problems(whole, exif=True) == ["", ""]
    pixels_3HW = decode_bytes(data, "a.jpg", exif=False, max_pixels=10**7).numpy()
    assert seems_early(data, pixels_3HW, lambda: False) == (image is not NOISE and not progressive)


@pytest.mark.parametrize(("exif", "turned"), [(True, False), (False, True), (True, True)])
def test_other_corners_count_only_in_a_picture_that_was_turned(
    exif: bool, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a photograph with sky above: decoding it again takes longer than decoding it."""
    image = NOISE.copy()
    image.paste("white", (0, 0, 120, 40))
    asked: list[int] = []
    monkeypatch.setattr(decode_pil, "ends_early", lambda jpeg: bool(asked.append(len(jpeg))))
    assert problems(jpeg(image, subsampling=0, exif=SIDEWAYS if turned else b""), exif) == ["", ""]
    assert len(asked) == 2 * (exif and turned)


def table(folder: Path, content: bytes, *options: str) -> Index:
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg())
    (folder / "b.jpg").write_bytes(content)
    (folder / "t.csv").write_text("image,cat\na.jpg,1\nb.jpg,0\n")
    assert main(["prepare", "csv", "--root", str(folder), "--out", str(folder / "out"), *options]) == 0
    return open_index(folder / "out/t")


def test_a_run_names_it_or_counts_it_within_the_budget(tmp_path: Path) -> None:
    index = table(tmp_path / "photos", cut(jpeg(), 0.5))
    transform = eval_transform(Augment(), 32)
    for stored in (index, pack_index(index, tmp_path / "packed", 10**6, print)):
        with pytest.raises(BrokenImage, match=r"b\.jpg\W.*found a truncated JPEG"):
            EvalDataset(stored, transform)[1]
    tolerant = EvalDataset(index, transform, broken_budget=0.5)
    assert [bool(tolerant[n]["broken"]) for n in (0, 1)] == [False, True]


def test_images_that_were_verified_are_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = table(tmp_path / "photos", jpeg(on_white()), "--verify")
    plain = table(tmp_path / "others", jpeg(on_white()))
    assert (verified.verified, plain.verified, verified.hash) == (True, False, plain.hash)
    asked: list[int] = []
    monkeypatch.setattr(decode_pil, "ends_early", lambda jpeg: bool(asked.append(len(jpeg))))
    transform = eval_transform(Augment(), 32)
    EvalDataset(verified, transform)[1]
    assert not asked
    EvalDataset(plain, transform)[1]
    assert asked


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_decoder_that_waits_for_a_restart_marker_is_not_fooled(share: float) -> None:
    data = jpeg(restart_marker_blocks=5)
    zeros = data[: int(share * len(data))].rstrip(b"\xff") + bytes(200) + END
    assert ends_early(cut(data, share))
    assert ends_early(zeros)
    assert not ends_early(data)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_progressive_file_that_goes_on_with_zeros_lacks_its_later_scans(tmp_path: Path, share: float) -> None:
    data = jpeg(progressive=True)
    zeros = data[: int(share * len(data))].rstrip(b"\xff") + bytes(3000) + END
    assert ends_early(zeros)
    assert not ends_early(data)
    assert all(problems(zeros)), "and a run asks of it, too"
