"""VOC files as tools write them: polygons, namespaces, other encodings, flags as fractions, ids with an ending."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from masksup.cli import main
from masksup.data.index import DIFFICULT, OCCLUDED, TRUNCATED, Index, open_index
from masksup.data.prepare.voc import prepare_voc2007
from masksup.data.prepare.voc_xml import read_annotation
from masksup.errors import UserError

BOX = "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax></bndbox>"


def thing(inside: str = BOX, name: str = "cat") -> str:
    return f"<object><name>{name}</name>{inside}</object>"


def prepared(root: Path, text: str | bytes, ids: str = "a\n") -> Index:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(root / "JPEGImages/a.jpg")
    data = text if isinstance(text, bytes) else text.encode()
    (root / "Annotations/a.xml").write_bytes(data)
    (root / "ImageSets/Main/train.txt").write_text(ids)
    assert main(["prepare", "voc", "--root", str(root), "--out", str(root / "out")]) == 0
    return open_index(root / "out" / "train")


CORNERS = ((11, 6), (30, 6), (30, 15), (11, 15))
ROBOFLOW = "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate(CORNERS, 1))
LABELME = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in CORNERS)


@pytest.mark.parametrize(
    "shape", [BOX, f"<polygon>{ROBOFLOW}</polygon>", f"<polygon><username>me</username>{LABELME}</polygon>",
              f"<segmentation>{ROBOFLOW}</segmentation>", f"{BOX}<polygon><x1>1</x1><y1>1</y1></polygon>"]
)  # fmt: skip
def test_a_polygon_has_the_box_around_it(tmp_path: Path, shape: str) -> None:
    index = prepared(tmp_path, f"<annotation>{thing(shape)}</annotation>")
    assert index.boxes_M4.tolist() == [[10, 5, 30, 15]]
    assert index.classes == ("cat",)


@pytest.mark.parametrize("shape", ["", "<polygon/>", "<polygon><x1>4</x1></polygon>"])
def test_an_object_without_a_place_is_named(tmp_path: Path, shape: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(f"<annotation>{thing(shape)}</annotation>")
    with pytest.raises(UserError, match="object 1: found no <bndbox> and no <polygon>"):
        read_annotation(file)


def test_an_object_that_labelme_marks_as_deleted_is_none(tmp_path: Path) -> None:
    things = thing(f"<deleted>0</deleted>{BOX}") + thing(f"<deleted>1</deleted>{BOX}", "dog")
    assert prepared(tmp_path, f"<annotation>{things}</annotation>").classes == ("cat",)


def test_classes_in_another_case_are_said_or_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = prepared(tmp_path, f"<annotation>{thing(name='cat')}{thing(name='Cat')}</annotation>")
    assert index.classes == ("Cat", "cat")
    assert "'Cat' and 'cat'; --same-case makes them one" in capsys.readouterr().out
    assert main(["prepare", "voc", "--root", str(tmp_path), "--out", str(tmp_path / "one"), "--same-case"]) == 0
    one = open_index(tmp_path / "one" / "train")
    assert (one.classes, one.labels_NC.tolist(), len(one.boxes_M4)) == (("Cat",), [[1]], 2)


def test_namespaces_are_looked_through(tmp_path: Path) -> None:
    text = f'<v:annotation xmlns:v="http://x/voc" xmlns="http://x/other">{thing()}</v:annotation>'
    assert prepared(tmp_path / "some", text).boxes_M4.tolist() == [[10, 5, 30, 15]]
    text = f'<annotation xmlns="http://x/voc"><size><width>40</width><height>20</height></size>{thing()}</annotation>'
    assert prepared(tmp_path / "all", text).boxes_M4.tolist() == [[10, 5, 30, 15]]


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("", "utf-8"), ("", "utf-8-sig"), ("", "utf-16"), ("utf-16", "utf-16-le"), ("UTF-16", "utf-16"),
     ("ISO-8859-1", "latin-1"), ("windows-1252", "cp1252"), ("gb2312", "gb2312"), ("Shift_JIS", "shift_jis")],
)  # fmt: skip
def test_encodings(tmp_path: Path, declared: str, encoding: str) -> None:
    name = "猫" if "gb" in encoding or "jis" in encoding else "Löwe"
    head = f"<?xml version='1.0' encoding='{declared}'?>\n" if declared else "<?xml version='1.0'?>"
    index = prepared(tmp_path, f"{head}<annotation>{thing(name=name)}</annotation>".encode(encoding))
    assert index.classes == (name,)


@pytest.mark.parametrize("head", ["", "<?xml version='1.0' encoding='utf-8'?>", "<?xml version='1.0' encoding='hex'?>"])
def test_bytes_that_are_not_the_encoding_are_named(tmp_path: Path, head: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(f"{head}<annotation>{thing(name='Löwe')}</annotation>".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.xml.*: malformed XML.*expected"):
        read_annotation(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(f'<!DOCTYPE a [<!ENTITY b "c">]><annotation>{thing()}</annotation>'.encode(encoding))
    with pytest.raises(UserError, match="found a document type, entity or zero byte"):
        read_annotation(file)


@pytest.mark.parametrize(
    ("flag", "bits"),
    [("<truncated>0.0</truncated>", 0), ("<truncated>1.0</truncated>", TRUNCATED),
     ("<truncated>0.35</truncated>", TRUNCATED),
     ("<truncated>Unspecified</truncated>", 0), ("<occluded>2</occluded>", OCCLUDED),
     ("<difficult>1.0</difficult>", DIFFICULT), ("<difficult>0.0</difficult>", 0), ("<difficult/>", 0)],
)  # fmt: skip
def test_flags_may_be_fractions(tmp_path: Path, flag: str, bits: int) -> None:
    index = prepared(tmp_path, f"<annotation>{thing(BOX + flag)}</annotation>")
    assert index.box_flags_M.tolist() == [bits]


@pytest.mark.parametrize(
    "flag", ["<difficult>0.5</difficult>", "<truncated>-1</truncated>", "<occluded>nan</occluded>"]
)
def test_flags_that_mean_nothing_are_named(tmp_path: Path, flag: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(f"<annotation>{thing(BOX + flag)}</annotation>")
    with pytest.raises(UserError, match=r"found <\w+> '.*', expected 0 or 1"):
        read_annotation(file)


@pytest.mark.parametrize("ids", ["a.jpg\n", "a.jpg 1\n", "/home/me/VOC2007/JPEGImages/a.jpg\n", "JPEGImages\\a.jpg\n"])
def test_ids_may_have_the_ending_of_their_image(tmp_path: Path, ids: str) -> None:
    index = prepared(tmp_path, f"<annotation>{thing()}</annotation>", ids)
    assert index.id(0) == "a"
    assert index.labels_NC.tolist() == [[1]]


def test_the_real_images_with_endings_in_their_list_are_the_same_data(shared_data: Path, tmp_path: Path) -> None:
    """The list of classification, not of each class: these stay as they are and are compared."""
    shutil.copytree(shared_data / "voc2007_mini" / "VOCdevkit", tmp_path / "VOCdevkit")
    plain = prepare_voc2007(tmp_path, split=["trainval"])[0]
    file = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    file.chmod(0o644)
    file.write_text("".join(f"{image_id}.jpg\n" for image_id in file.read_text().split()))
    ended = prepare_voc2007(tmp_path, split=["trainval"])[0]
    assert ended.ids == plain.ids
    assert (ended.labels_NC == plain.labels_NC).all()
    assert ended.warnings == plain.warnings == ()
