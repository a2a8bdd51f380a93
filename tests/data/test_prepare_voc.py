"""VOC: labels against the official tables for all 9,963 images, id lists, boxes, flags and wrong input."""

import csv
import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masksup.data.index import DIFFICULT, OCCLUDED, TRUNCATED
from masksup.data.prepare.originals import write_originals
from masksup.data.prepare.voc import VOC_CLASSES, prepare_voc2007, prepare_voc2012
from masksup.data.prepare.voc_own import prepare_voc
from masksup.errors import UserError


def xml(objects: str, size: str = "<size><width>20</width><height>10</height></size>") -> str:
    return f"<annotation>{size}{objects}</annotation>"


def thing(name: str, box: tuple[object, ...] = (1, 1, 20, 10), extra: str = "") -> str:
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


DIFFICULT_XML = "<difficult>1</difficult>"


def make_voc(folder: Path, annotations: dict[str, str | None], splits: dict[str, list[str]]) -> Path:
    """A VOC folder of 20 x 10 px images; hard links of one JPEG keep thousands of them cheap."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    source = folder / "source.jpg"
    Image.new("RGB", (20, 10)).save(source)
    for image_id, text in annotations.items():
        os.link(source, folder / "JPEGImages" / f"{image_id}.jpg")
        if text is not None:
            (folder / "Annotations" / f"{image_id}.xml").write_text(text)
    for split, ids in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids))
    return folder


def official_objects(classes: list[str], values: list[str]) -> str:
    """Objects that give the official labels: a difficult one for 0, and one of each kind for some of the 1s."""
    objects = ""
    for number, (name, value) in enumerate(zip(classes, values)):
        if value == "0":
            objects += thing(name, extra=DIFFICULT_XML)
        if value == "1":
            objects += thing(name, extra=DIFFICULT_XML) * (number % 2) + thing(name)
    return objects


def test_all_voc2007_labels_and_lists_equal_the_official_ones(shared_data: Path, tmp_path: Path) -> None:
    tables = shared_data / "voc2007_labels"
    annotations: dict[str, str | None] = {}
    splits: dict[str, list[str]] = {}
    official: dict[str, list[list[str]]] = {}
    for split in ("trainval", "test"):
        with (tables / f"classification_{split}.csv").open() as file:
            header, *rows = csv.reader(file)
        annotations |= {row[0]: xml(official_objects(header[1:], row[1:])) for row in rows}
        splits[split], official[split] = [row[0] for row in rows], [row[1:] for row in rows]
    folder = make_voc(tmp_path / "VOCdevkit" / "VOC2007", annotations, splits)
    contents = prepare_voc2007(tmp_path)
    assert [(content.split, len(content.ids)) for content in contents] == [("trainval", 5011), ("test", 4952)]
    ours = {"1": 1, "0": -1, "-1": 0}
    for content in contents:
        expected_NC = np.array([[ours[value] for value in row] for row in official[content.split]])
        np.testing.assert_array_equal(content.labels_NC, expected_NC)
        assert content.ids == splits[content.split]
    assert [int((content.labels_NC == 1).sum()) for content in contents] == [7306, 7013]
    assert [int((content.labels_NC == -1).sum()) for content in contents] == [607, 619]

    written = write_originals(contents, tmp_path, None, tmp_path / "out")
    for file in written:
        theirs = json.loads(gzip.decompress((tables / f"csra_{file.name}.gz").read_bytes()))
        expected = [
            {"target": item["target"], "img_path": str(folder / "JPEGImages" / item["image"])} for item in theirs
        ]
        assert json.loads(file.read_text()) == expected
    assert [file.name for file in written] == ["trainval_voc07.json", "test_voc07.json"]


def test_voc2007_mini_equals_its_own_lists_in_660_of_660_places(shared_data: Path) -> None:
    contents = {content.split: content for content in prepare_voc2007(shared_data / "voc2007_mini")}
    assert list(contents) == ["train", "val", "trainval", "test"]
    equal = 0
    for split in ("trainval", "test"):
        content = contents[split]
        assert content.warnings == ()
        for column, name in enumerate(VOC_CLASSES):
            lists = shared_data / f"voc2007_mini/VOCdevkit/VOC2007/ImageSets/Main/{name}_{split}.txt"
            stated = dict(line.split() for line in lists.read_text().splitlines())
            ours = {1: "1", -1: "0", 0: "-1"}
            for row, image_id in enumerate(content.ids):
                equal += stated[image_id] == ours[int(content.labels_NC[row, column])]
    assert equal == 660


def test_disagreement_of_xml_and_class_lists_is_counted(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "mini"
    shutil.copytree(shared_data / "voc2007_mini", root, copy_function=shutil.copyfile)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    lists = root / "VOCdevkit/VOC2007/ImageSets/Main/dog_test.txt"
    lines = lists.read_text().splitlines()
    swapped = [line.replace("-1", "1") for line in lines[:2]]
    lists.write_text("\n".join([*swapped, *lines[2:]]))
    content = prepare_voc2007(root, split=["test"])[0]
    assert [text for text in content.warnings if "differ" in text] == [
        "the XML files and the per-class lists <class>_test.txt differ in 2 of 100 labels; the XML files are used"
    ]


@pytest.mark.slow  # short: all of VOC 2007
def test_voc2012_segmentation_lists_with_difficult_present_equal_the_wsss_labels(
    shared_data: Path, tmp_path: Path
) -> None:
    """Two independent sources: per-image difficult-only labels of the val scores, and the union in cls_labels."""
    wsss, scores = shared_data / "voc2012_wsss_labels", shared_data / "voc2012_val_scores"
    with np.load(wsss / "image_labels.npz") as file:
        present = dict(zip(file["ids"].tolist(), file["labels"]))
        classes = file["classes"].tolist()
    with np.load(scores / "scores.npz") as file:
        official = dict(zip(file["ids"].tolist(), file["labels"]))
        assert file["classes"].tolist() == classes == list(VOC_CLASSES)
    ids = [image_id for image_id in (wsss / "val.txt").read_text().split() if image_id in official]
    augmented = (wsss / "train_aug.txt").read_text().split()
    annotations: dict[str, str | None] = {
        image_id: xml(official_objects(classes, [str(value) for value in official[image_id]])) for image_id in ids
    }
    for image_id in augmented:
        values = ["1" if value else "-1" for value in present[image_id]]
        annotations.setdefault(image_id, xml(official_objects(classes, values)))
    folder = make_voc(tmp_path / "VOC2012", annotations, {})
    (folder / "ImageSets/Segmentation/val.txt").write_text("\n".join(ids))
    listed = [f"/JPEGImages/{image_id}.jpg /SegmentationClassAug/{image_id}.png" for image_id in augmented]
    (tmp_path / "aug.txt").write_text("\n".join(listed))
    options = ["val", f"train_aug={tmp_path / 'aug.txt'}"]
    for content, wanted in zip(
        prepare_voc2012(tmp_path, difficult="present", split=options), (ids, augmented), strict=True
    ):
        assert content.ids == wanted
        assert len(wanted) > 400
        np.testing.assert_array_equal(content.labels_NC, np.stack([present[image_id] for image_id in wanted]))
    ignoring = prepare_voc2012(tmp_path, split=["val"])[0]
    np.testing.assert_array_equal(ignoring.labels_NC == -1, np.stack([official[one] for one in ids]) == 0)
    assert (ignoring.labels_NC == -1).sum() > 50


@pytest.mark.parametrize(("difficult", "label"), [("ignore", -1), ("present", 1), ("absent", 0)])
def test_label_of_a_class_with_difficult_objects_alone(tmp_path: Path, difficult: str, label: int) -> None:
    objects = thing("cat", extra=DIFFICULT_XML) + thing("dog", extra=DIFFICULT_XML) + thing("dog")
    root = make_voc(tmp_path / "VOC", {"a": xml(objects), "b": xml("")}, {"train": ["a", "b"]})
    content = prepare_voc(root, difficult=difficult)[0]  # type: ignore[arg-type]
    assert content.classes == ("cat", "dog")
    assert content.labels_NC.tolist() == [[label, 1], [0, 0]]


def test_boxes_flags_and_shares(tmp_path: Path) -> None:
    """VOC counts pixels from 1 and includes the last: 1..20 of 20 px is the whole width."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    flags = "<difficult>1</difficult><truncated>1</truncated><occluded>0</occluded>"
    objects = thing("dog", (1, 1, 20, 10), flags) + thing("cat", (6, 3, 10, 10), "<occluded>1</occluded>" + part)
    root = make_voc(tmp_path / "VOC", {"a": xml(objects)}, {"train": ["a"]})
    content = prepare_voc(root, classes="dog,cat")[0]
    assert content.boxes_M4.tolist() == [[0, 0, 20, 10], [5, 2, 10, 10]]
    assert content.box_share_M.tolist() == pytest.approx([1.0, 0.2])
    assert content.box_class_M.tolist() == [0, 1]
    assert content.box_flags_M.tolist() == [DIFFICULT | TRUNCATED, OCCLUDED]
    assert content.sizes_I2.tolist() == [[20, 10]]
    assert content.warnings == ()


def test_boxes_outside_are_clipped_and_empty_ones_dropped_with_their_label_kept(tmp_path: Path) -> None:
    objects = thing("cat", (11, 1, 400, 10)) + thing("dog", (50, 1, 60, 5)) + thing("cow", (0, 0, 20, 10))
    root = make_voc(tmp_path / "VOC", {"a": xml(objects)}, {"train": ["a"]})
    content = prepare_voc(root)[0]
    assert content.classes == ("cat", "cow", "dog")
    assert content.labels_NC.tolist() == [[1, 1, 1]]
    assert content.boxes_M4.tolist() == [[10, 0, 20, 10], [0, 0, 20, 10]]
    assert content.box_start_N1.tolist() == [0, 2]
    clipped, dropped = content.warnings
    assert clipped.startswith("clipped 1 box more than 1 px outside")
    assert dropped.startswith("dropped 1 box without area")
    assert "a.xml" in dropped


def test_stated_size_that_is_not_the_files_is_a_warning(tmp_path: Path) -> None:
    wrong = xml(thing("cat"), "<size><width>10</width><height>20</height></size>")
    root = make_voc(tmp_path / "VOC", {"a": wrong, "b": xml(thing("cat"))}, {"train": ["a", "b"]})
    content = prepare_voc(root)[0]
    assert content.sizes_I2.tolist() == [[20, 10], [20, 10]]
    assert len(content.warnings) == 1
    assert "1 image of another size" in content.warnings[0]
    assert "says 10x20, the file is 20x10" in content.warnings[0]


def test_split_without_any_xml_is_all_ignored(tmp_path: Path) -> None:
    annotations = {"a": xml(thing("cat")), "b": None, "c": None}
    root = make_voc(tmp_path / "VOC2012", annotations, {"train": ["a"], "test": ["b", "c"]})
    train, test = prepare_voc2012(root)
    assert train.warnings == ()
    assert (test.labels_NC == -1).all()
    assert test.warnings == ("2 images without an XML file: all labels there are ignored",)


def test_xml_files_of_other_tasks_do_not_label_the_voc2012_test_split(tmp_path: Path) -> None:
    annotations = {"a": xml(thing("cat")), "b": xml(thing("person")), "c": None}
    root = make_voc(tmp_path / "VOC2012", annotations, {"train": ["a"], "test": ["b", "c"]})
    for splits in (["train", "test"], ["test", "train"]):
        contents = {content.split: content for content in prepare_voc2012(root, split=splits)}
        assert (contents["test"].labels_NC == -1).all()
        assert len(contents["test"].warnings) == 2
        assert contents["test"].warnings[1].startswith("1 more have one, which is not used")
        assert contents["train"].labels_NC.max() == 1
    (root / "ImageSets/Main/test.txt").write_text("b")
    assert prepare_voc2012(root, split=["test"])[0].labels_NC.max() == 1, "all XML files are there: labels after all"


def test_missing_xml_files_are_named_except_for_voc2012_test(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC2012", {"a": None}, {"train": ["a"], "test": ["a"]})
    assert [content.split for content in prepare_voc2012(root, split=["test"])] == ["test"]
    for prepare, split in ((prepare_voc2012, "train"), (prepare_voc2007, "test"), (prepare_voc, "test")):
        with pytest.raises(UserError, match=r"Annotations/a\.xml: no such file"):
            prepare(root, split=[split])
    (root / "Annotations").rmdir()
    assert (prepare_voc2012(root, split=["test"])[0].labels_NC == -1).all()
    for prepare, split in ((prepare_voc2007, "test"), (prepare_voc2012, "train")):
        with pytest.raises(UserError, match="VOC2012/Annotations: no such folder, expected the XML files"):
            prepare(root, split=[split])


def test_own_image_formats_and_class_file(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC", {"a": xml(thing("cat"))}, {"train": ["a", "b"]})
    Image.new("RGB", (20, 10)).save(root / "JPEGImages" / "b.PNG")
    (root / "Annotations" / "b.xml").write_text(xml(thing("dog")))
    (tmp_path / "names.txt").write_text("dog\n\ncat\n")
    content = prepare_voc(root, classes=str(tmp_path / "names.txt"))[0]
    assert content.classes == ("dog", "cat")
    assert content.image_names == ["JPEGImages/a.jpg", "JPEGImages/b.PNG"]
    Image.new("RGB", (20, 10)).save(root / "JPEGImages" / "b.jpg")
    with pytest.raises(UserError, match=r"found b\.PNG and b\.jpg, expected one image"):
        prepare_voc(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<object>\n</annotation>", r"a\.xml, line 3: malformed XML"),
        ("", r"a\.xml, line 1: malformed XML"),
        ("<html/>", r"found <html>, expected <annotation>"),
        ('<!DOCTYPE x [<!ENTITY l "ha">]><annotation>&l;</annotation>', "document type, entity"),
        (xml("<object><bndbox/></object>"), r"object 1: found no <name>"),
        (xml("<object><name>cat</name></object>"), r"object 1: found no <bndbox>"),
        (xml(thing("cat", ("x", 1, 2, 2))), r"object 1: found <xmin> 'x'"),
        (xml(thing("cat", (1, 1, "inf", 2))), r"object 1: found <xmax> 'inf'"),
        (xml(thing("cat", (1, 1, "1e308", 2))), r"object 1: found <xmax> '1e308', expected a number of px"),
        (xml(thing("cat", extra="<difficult>7</difficult>")), r"found <difficult> '7', expected 0 or 1"),
        (xml(thing("dgo")), r"a\.xml: found the unknown class 'dgo'; did you mean 'dog'"),
    ],
)
def test_wrong_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    root = make_voc(tmp_path / "VOC", {"a": text}, {"train": ["a"]})
    with pytest.raises(UserError, match=message) as caught:
        prepare_voc(root, classes="cat,dog")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("", r"train\.txt: found an empty id list"),
        ("a\n\na", r"train\.txt, line 3: found the id 'a' again \(first on line 1\)"),
        ("../a", r"train\.txt, line 1: found the path '\.\./a'"),
        ("/etc/a", r"train\.txt, line 1: found the path '/etc/a'"),
        ("x/../../../a", r"line 1: found the path"),
        ("a" * 5000, r"line 1: found the path 'a{59}, expected names in UTF-8 of 255 bytes"),
        ("a" * 252, r"line 1: found the path 'a{59}, expected names in UTF-8 of 255 bytes"),
    ],
)
def test_wrong_id_lists_are_named(tmp_path: Path, ids: str, message: str) -> None:
    root = make_voc(tmp_path / "VOC", {"a": xml(thing("cat"))}, {})
    (root / "ImageSets/Main/train.txt").write_text(ids)
    with pytest.raises(UserError, match=message):
        prepare_voc(root)


def test_listed_image_that_is_missing_is_named(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC", {"a": xml(thing("cat")), "b": xml("")}, {"train": ["a", "b"]})
    (root / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"JPEGImages/b\.jpg: no such image, .*Annotations/b\.xml"):
        prepare_voc(root)
    content = prepare_voc(root, skip_broken=True)[0]
    assert content.ids == ["a"]
    assert content.warnings == ("left out JPEGImages/b.jpg: no such image",)


def test_missing_folders_and_bad_split_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        prepare_voc2007(tmp_path / "none")
    with pytest.raises(UserError, match="found no folder JPEGImages"):
        prepare_voc2007(tmp_path)
    for name in ("A", "B"):
        make_voc(tmp_path / "VOCdevkit" / name, {"a": xml(thing("cat"))}, {})
    with pytest.raises(UserError, match="expected one of them as --root"):
        prepare_voc(tmp_path)
    root = tmp_path / "VOCdevkit" / "A"
    with pytest.raises(UserError, match="found none of train, val"):
        prepare_voc(root)
    for wrong in (["x=none.txt"], ["../x=a"], ["x="], ["val"]):
        with pytest.raises(UserError):
            prepare_voc(root, split=wrong)
    for file in ("nope.txt", "lists/nope"):
        with pytest.raises(UserError, match=f"--classes {file}: no such file"):
            prepare_voc(root, classes=file)
    with pytest.raises(UserError, match="found the class 'cat' twice"):
        prepare_voc(root, classes="cat,dog,cat")
