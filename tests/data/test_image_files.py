"""Image files that are not plain 8 bits, or lie on their side: one stated rule, in training, `predict` and exports."""

import io
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from processor import avx2

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.dataset import EvalDataset
from masksup.data.decode_pil import BrokenImage, decode_pixels
from masksup.data.index import Index, open_index
from masksup.data.prepare.frames import turn_boxes
from masksup.data.reading import Reading
from masksup.data.transforms import eval_transform

RAMP = np.linspace(0, 1, 16 * 12).reshape(12, 16)


def tiff(values: NDArray[Any]) -> bytes:
    """A plain TIFF of numbers of any type, gray HW or colours HWC."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    start = 8 + 2 + 12 * 11 + 4
    longs = [(256, width), (257, height), (259, 1), (262, 2 if channels > 1 else 1), (277, channels), (278, height)]
    longs += [(279, len(data)), (284, 1), (273, start + 12)]
    entries = [(tag, 4, 1, value) for tag, value in longs]
    kinds = {258: values.dtype.itemsize * 8, 339: {"u": 1, "i": 2, "f": 3}[values.dtype.kind]}
    for number, (tag, value) in enumerate(kinds.items()):
        entries.append((tag, 3, channels, value if channels == 1 else start + 6 * number))
    extra = struct.pack("<6H", *[kinds[258]] * 3, *[kinds[339]] * 3)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *e) for e in sorted(entries)) + b"\0\0\0\0" + extra + data


def prepared(root: Path, out: Path, *options: str, kind: str = "csv") -> Index:
    assert main(["prepare", kind, "--root", str(root), "--out", str(out), *options]) == 0
    return open_index(out / "train")


def table(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    rows = "".join(f"{name},{'cat' if number % 2 else 'dog'}\n" for number, name in enumerate(files))
    (root / "train.csv").write_text("image,labels\n" + rows)
    return root


def seen(index: Index, sample: int) -> NDArray[np.int64]:
    """The gray levels of a sample as training decodes them."""
    levels_HW3 = decode_pixels(
        index.read(sample), "x", exif=index.exif, pixel_range=index.pixel_range
    )  # the dataset's own call is compared below
    assert (levels_HW3 == levels_HW3[..., :1]).all()
    return levels_HW3[..., 0].astype(np.int64)


@pytest.mark.parametrize(
    ("values", "options", "expected", "levels"),
    [
        pytest.param((RAMP * 4095).astype("u2"), (), "0:4095", (RAMP * 4095).astype(int) >> 4, id="12 bits in 16"),
        pytest.param((RAMP * 65535).astype("u2"), (), "0:65535", (RAMP * 65535).astype(int) >> 8, id="16 bits"),
        pytest.param((RAMP * 255).astype("i4"), (), "0:255", (RAMP * 255).astype(int), id="8 bits in 32"),
        pytest.param((RAMP * 255).astype("u4"), (), "0:255", (RAMP * 255).astype(int), id="8 bits in 32, unsigned"),
        pytest.param(
            (RAMP * 4095 - 1024).astype("i2"), ("--pixel-range=-1024:3071",), "-1024:3071",
            ((RAMP * 4095 - 1024).astype("i2").astype(int) + 1024) >> 4, id="signed",
        ),
        pytest.param((RAMP * 127).astype("i1"), (), "0:255", (RAMP * 127).astype(int), id="signed, 8 bits"),
        pytest.param(RAMP.astype("f4"), (), "0:1", np.rint(RAMP.astype("f4") * 255), id="fractions"),
        pytest.param((RAMP * 255).astype("f4"), (), "0:255", np.rint((RAMP * 255).astype("f4")), id="8 bits in float"),
    ],
)  # fmt: skip
def test_deeper_pictures_have_a_stated_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: NDArray[Any], options: tuple[str, ...], expected: str,
    levels: NDArray[Any],
) -> None:  # fmt: skip
    plain = io.BytesIO()
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(plain, "PNG")
    root = table(tmp_path / "root", {"deep.tif": tiff(values), "plain.png": plain.getvalue()})
    index = prepared(root, tmp_path / "out", *options)
    said = " ".join(capsys.readouterr().out.split())
    assert f"pixel range {expected}" in said
    assert json.loads((index.folder / "index.json").read_text())["pixel_range"] == expected
    assert seen(index, 0).tolist() == levels.astype(int).tolist()
    assert seen(index, 1).tolist() == (RAMP * 255).astype(int).tolist(), "8 bits stay as they are"


def test_colours_of_12_bits_in_16_are_not_black(tmp_path: Path) -> None:
    colours = np.dstack([RAMP * 4095, RAMP[::-1] * 4095, RAMP[:, ::-1] * 4095]).astype("u2")
    index = prepared(table(tmp_path / "root", {"a.tif": tiff(colours), "b.tif": tiff(colours)}), tmp_path / "out")
    found = decode_pixels(index.read(0), "x", exif=True, pixel_range=index.pixel_range)
    assert found.tolist() == (colours >> 4).tolist()


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([(RAMP * 300 - 100).astype("i2")], (), "-100 to 200 .*--pixel-range=-100:200"),
        ([(RAMP * 4095).astype("u2")], ("--pixel-range", "0:255"), "outside the pixel range 0:255"),
        ([(RAMP * 200).astype("u2")], ("--pixel-range", "0:65535"), "all black in the pixel range 0:65535"),
        ([(RAMP * 4095).astype("u2"), RAMP.astype("f4")], (), "0:4095 .* and 0:1 .*expected one for all"),
        ([np.where(RAMP < 0.5, np.nan, RAMP).astype("f4")], (), "pixels that are no numbers"),
        ([RAMP.astype("f4"), np.where(RAMP < 0.5, np.inf, RAMP).astype("f4")], (), "1.tif: .*are no numbers"),
        ([RAMP.astype("f4")], ("--pixel-range", "9:1"), "--pixel-range: found '9:1', expected auto or LOW:HIGH"),
    ],
)
def test_what_has_no_rule_or_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[NDArray[Any]], options: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    root = table(tmp_path / "root", {f"{number}.tif": tiff(values) for number, values in enumerate(files)})
    assert main(["prepare", "csv", "--root", str(root), "--out", str(tmp_path / "out"), *options]) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_nearly_black_under_the_range_of_the_others_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"full.tif": tiff((RAMP * 65535).astype("u2")), "dark.tif": tiff((RAMP * 4000).astype("u2"))}
    prepared(table(tmp_path / "root", files), tmp_path / "out")
    assert "1 image nearly black in the pixel range 0:65535 (first: dark.tif, with values up to 4000)" in " ".join(
        capsys.readouterr().out.split()
    )


def coco(root: Path, pictures: dict[str, tuple[tuple[int, int], int, tuple[int, int] | None]]) -> Path:
    """Pictures by name: size as stored, EXIF orientation, size as the annotation states it. A box in each."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    images, annotations = [], []
    for number, (name, (size, turn, claimed)) in enumerate(pictures.items(), 1):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray((np.arange(size[1] * size[0]) % 251).astype(np.uint8).reshape(size[::-1])).save(
            root / "images" / name, exif=exif
        )
        stated = {"width": claimed[0], "height": claimed[1]} if claimed else {}
        images.append({"id": number, "file_name": name, **stated})
        annotations.append({"id": number, "image_id": number, "category_id": number % 2, "bbox": [2, 4, 10, 20]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": k, "name": "ab"[k]} for k in (0, 1)]}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return root


WIDE, TALL = (40, 30), (30, 40)


@pytest.mark.parametrize(
    ("pictures", "options", "exif", "says"),
    [
        (
            {"a.png": (WIDE, 6, TALL), "b.png": (WIDE, 1, WIDE)},
            (),
            True,
            "EXIF orientation is used: .* 1 image .*a.png",
        ),
        ({"a.png": (WIDE, 6, WIDE), "b.png": (WIDE, 1, WIDE)}, (), False, "1 image .*a.png.* read as stored"),
        ({"a.png": (WIDE, 8, TALL), "b.png": (WIDE, 5, WIDE)}, (), True, "b.png.* their boxes are turned with them"),
        ({"a.png": ((30, 30), 6, (30, 30)), "b.png": (WIDE, 1, WIDE)}, (), False, "1 image .*square.*--exif use"),
        ({"a.png": (WIDE, 6, None), "b.png": (WIDE, 1, WIDE)}, (), False, "no stated width and height tell.*--exif"),
        ({"a.png": ((30, 30), 6, (30, 30)), "b.png": (WIDE, 1, WIDE)}, ("--exif", "use"), True, ""),
        ({"a.png": (WIDE, 1, WIDE), "b.png": (WIDE, 1, WIDE)}, (), False, ""),
    ],
)
def test_the_stated_size_says_whether_the_annotator_saw_the_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: dict[str, Any], options: tuple[str, ...], exif: bool,
    says: str,
) -> None:  # fmt: skip
    index = prepared(coco(tmp_path / "root", pictures), tmp_path / "out", *options, kind="coco")
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(says, said), said
    assert ("EXIF" in said) == bool(says)
    assert index.exif is exif
    for sample, (name, (size, turn, claimed)) in enumerate(pictures.items()):
        decoded = decode_pixels(index.read(sample), name, exif=index.exif)
        assert list(index.sizes_I2[sample]) == [decoded.shape[1], decoded.shape[0]]
        if exif and turn > 4 and claimed == size != size[::-1]:  # the annotator's box was in the stored frame
            mask = np.zeros(size[::-1], np.uint8)
            mask[4:24, 2:12] = 1
            upright = np.asarray(_turned(mask, turn))
            x1, y1, x2, y2 = index.boxes_M4[sample].astype(int)
            assert upright[y1:y2, x1:x2].all()
            assert upright.sum() == (y2 - y1) * (x2 - x1)
        else:
            assert index.boxes_M4[sample].tolist() == [2, 4, 12, 24]
    # Whatever is outside of the index is read as its own files are.
    for sample in range(2):
        own = decode_pixels(index.read(sample), "own", exif=index.exif)
        assert (decode_pixels(index.read(sample), "other", exif=index.reading.exif) == own).all()


def _turned(mask: NDArray[np.uint8], turn: int) -> Image.Image:
    from PIL import ImageOps

    image = Image.fromarray(mask)
    image.getexif()[0x0112] = turn
    return ImageOps.exif_transpose(image)


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_turn_as_pil_turns_pixels(turn: int) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[4:9, 2:13] = 1
    ys, xs = np.nonzero(np.asarray(_turned(mask, turn)))
    expected = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
    assert turn_boxes(np.array([[2, 4, 13, 9]], np.float32), turn, 40, 30).tolist() == expected


def test_an_xml_file_that_states_the_turned_size_turns_its_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "VOC" / folder).mkdir(parents=True)
    Image.new("RGB", WIDE).save(tmp_path / "VOC/JPEGImages/a.jpg", exif=exif)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    (tmp_path / "VOC/Annotations/a.xml").write_text(
        "<annotation><size><width>30</width><height>40</height></size>"
        f"<object><name>cat</name>{box}</object></annotation>"
    )
    (tmp_path / "VOC/ImageSets/Main/train.txt").write_text("a\n")
    index = prepared(tmp_path / "VOC", tmp_path / "out", kind="voc")
    assert index.exif
    assert index.boxes_M4.tolist() == [[0, 0, 30, 40]]
    assert index.box_share_M.tolist() == [1]


def test_an_index_without_the_new_fields_is_read_as_before(tmp_path: Path) -> None:
    index = prepared(table(tmp_path / "root", {"a.tif": tiff((RAMP * 65535).astype("u2"))}), tmp_path / "out")
    header = json.loads((index.folder / "index.json").read_text())
    for key in ("pixel_range", "turned", "verified", "header_sha256"):
        del header[key]
    (index.folder / "index.json").write_text(json.dumps(header))
    old = open_index(index.folder)
    assert (old.hash, old.reading) == (index.hash, Reading(True, (0, 65535)))


@pytest.fixture(scope="module")
def run(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures of 12 bits that lie on their side and were annotated so."""
    from masksup.training.train import train

    folder = tmp_path_factory.mktemp("deep")
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 8)):
        root = folder / part
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()
        names = [f"{part}{number}.png" for number in range(count)]
        for name in names:
            Image.fromarray((rng.integers(0, 4096, (20, 28))).astype(np.uint16)).save(root / "images" / name, exif=exif)
        images = [{"id": k, "file_name": name, "width": 28, "height": 20} for k, name in enumerate(names)]
        labels = [{"image_id": k, "category_id": k % 3} for k in range(count)]
        content = {
            "images": images,
            "annotations": labels,
            "categories": [{"id": k, "name": "abc"[k]} for k in range(3)],
        }
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        words = ["prepare", "coco", "--root", str(root), "--out", str(folder / f"data_{part}")]
        assert main(words) == 0
    config = tiny_config(
        data__train=str(folder / "data_train/train"),
        data__eval=str(folder / "data_val/val"),
        epochs=1,
        eval__bootstrap=0,
    )
    assert train(config, folder / "run") == 0
    return folder / "run"


@avx2
def test_training_predict_an_archive_and_an_export_see_the_same_pixels(run: Path) -> None:
    from masksup.export.card import preprocessing_of
    from masksup.inference.preprocess import load_image
    from masksup.saved.open import open_trained

    assert main(["pack", str(run), "--out", str(run.parent / "model.zip")]) == 0
    for path in (run, run.parent / "model.zip"):
        trained = open_trained(path)
        assert trained.reading == Reading(False, (0, 4095))
        index = open_index(run.parent / "data_val" / "val")
        transform = eval_transform(trained.config.augment, trained.config.model.size)
        for sample in range(3):
            expected = EvalDataset(index, transform)[sample]["image"].numpy()
            assert expected.max() > 200
            found = transform(trained.reads(index.path(sample)), np.random.default_rng(0))[0].numpy()
            assert (found == expected).all()
            assert (load_image(index.path(sample), preprocessing_of(trained)) == expected).all()


def test_predict_refuses_a_file_outside_the_range(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep.tif").write_bytes(tiff((RAMP * 65535).astype("u2")))
    assert main(["predict", str(run), str(tmp_path / "deep.tif")]) == 2
    assert "deep.tif: found pixels from 0 to 65535, outside the pixel range 0:4095" in capsys.readouterr().err


def test_scoring_data_of_another_range_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{n}.tif": tiff((RAMP * 65535).astype("u2")) for n in range(2)}
    root = table(tmp_path / "root", files)
    (root / "train.csv").write_text("image,a,b,c\n0.tif,1,0,1\n1.tif,0,1,0\n")
    prepared(root, tmp_path / "out")
    assert main(["eval", str(run), "--data", str(tmp_path / "out/train")]) == 2
    assert "found the pixel range 0:65535, expected 0:4095" in capsys.readouterr().err


def test_verify_finds_damage_in_the_middle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = io.BytesIO(), bytearray()
    Image.effect_noise((64, 64), 60).convert("RGB").save(good, "PNG")
    bad = bytearray(good.getvalue())
    bad[len(bad) // 2] ^= 0xFF
    root = table(tmp_path / "root", {"good.png": good.getvalue(), "bad.png": bytes(bad)})
    prepared(root, tmp_path / "out")
    words = ["prepare", "csv", "--root", str(root), "--out", str(tmp_path / "verified"), "--verify"]
    capsys.readouterr()
    assert main(words) == 2
    assert "bad.png: a damaged image" in capsys.readouterr().err
    assert main([*words, "--skip-broken"]) == 0
    assert len(open_index(tmp_path / "verified/train")) == 1


def test_a_picture_of_no_known_range_is_never_black() -> None:
    """As `predict` reads it with a model that was trained on 8 bits."""
    levels = decode_pixels(tiff((RAMP * 4095).astype("u2")), "x", exif=True)[..., 0]
    assert levels.tolist() == ((RAMP * 4095).astype(int) >> 4).tolist()
    with pytest.raises(BrokenImage, match="all black"):
        decode_pixels(tiff((RAMP * 200).astype("i4")), "x", exif=True, pixel_range=(0, 65535))
