"""COCO: labels and the crowd rule against pycocotools, boxes against the JSON, order, wrong input."""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from masksup.data.index import CROWD
from masksup.data.prepare.coco import prepare_coco, prepare_coco2014
from masksup.data.prepare.coco_json import box_of, read_coco
from masksup.data.prepare.originals import write_originals
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

TINY: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "seven.jpg", "width": 40, "height": 20},
        {"id": 3, "file_name": "three.jpg", "width": 40, "height": 20},
        {"id": 5, "file_name": "five.jpg", "width": 40, "height": 20},
    ],
    "categories": [{"id": 4, "name": "zebra"}, {"id": 2, "name": "dog"}, {"id": 9, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 4, "bbox": [10, 5, 20, 10], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 9, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        {"id": 3, "image_id": 3, "category_id": 9, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        {"id": 4, "image_id": 3, "category_id": 9, "bbox": [0, 0, 4, 2]},
    ],
}


def make_coco(root: Path, content: Any = TINY, split: str = "train", images: str = "images/train") -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / images).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("three", "five", "seven")):
        Image.new("RGB", (40, 20), (40 * number, 0, 0)).save(root / images / f"{name}.jpg")
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "annotations" / f"instances_{split}.json").write_text(text)
    return root


def oracle_labels(file: Path, content: IndexContent) -> np.ndarray:
    """Labels as pycocotools tells them: getImgIds for each category."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    rows = {image["file_name"].rsplit(".", 1)[0]: image_id for image_id, image in coco.imgs.items()}
    labels_NC = np.zeros(content.labels_NC.shape, np.int8)
    for column, name in enumerate(content.classes):
        positive = set(coco.getImgIds(catIds=coco.getCatIds(catNms=[name])))
        labels_NC[:, column] = [rows[image_id] in positive for image_id in content.ids]
    return labels_NC


def test_coco_small_equals_pycocotools_crowds_included(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shared_data / "coco_small"
    contents = prepare_coco(root)
    assert capsys.readouterr().out == ""
    totals = {content.split: int((content.labels_NC == 1).sum()) for content in contents}
    assert totals == {"train": 664, "val": 181}
    for content in contents:
        file = root / f"annotations/instances_{content.split}.json"
        np.testing.assert_array_equal(content.labels_NC, oracle_labels(file, content))
        assert content.warnings == ()
    train = contents[0]
    assert len(train.classes) == 80
    assert (train.classes[0], train.classes[79]) == ("person", "toothbrush")
    assert int((train.box_flags_M == CROWD).sum()) == 18
    empty = [image_id for image_id, row in zip(train.ids, train.labels_NC) if not row.any()]
    assert empty == ["000000000250", "000000000508"]


def test_classes_with_crowds_alone_are_positive_as_in_pycocotools_unless_ignored(
    shared_data: Path, tmp_path: Path
) -> None:
    """The real crowds never stand alone in their image, so here every third object is made one."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(shared_data / "coco_small" / "images")
    loaded = json.loads((shared_data / "coco_small/annotations/instances_train.json").read_text())
    for one in loaded["annotations"][::3]:
        one["iscrowd"] = 1
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_text(json.dumps(loaded))
    present, ignored = prepare_coco(tmp_path)[0], prepare_coco(tmp_path, crowd="ignore")[0]
    expected_NC = oracle_labels(file, present)
    np.testing.assert_array_equal(present.labels_NC, expected_NC)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    for image_id, row, expected in zip(ignored.ids, ignored.labels_NC, expected_NC):
        single = coco.loadAnns(coco.getAnnIds(imgIds=[int(image_id)], iscrowd=False))
        names = {coco.cats[one["category_id"]]["name"] for one in single}
        assert {name for name, label in zip(ignored.classes, row) if label == 1} == names
        np.testing.assert_array_equal(row != 0, expected == 1)
    assert (ignored.labels_NC == -1).sum() > 50


def test_boxes_of_coco_small_are_those_of_the_json(shared_data: Path) -> None:
    root = shared_data / "coco_small"
    content = prepare_coco(root, split=["val"])[0]
    loaded = json.loads((root / "annotations/instances_val.json").read_text())
    by_image: dict[str, list[tuple[float, ...]]] = {}
    sizes = {image["id"]: (image["file_name"][:-4], image["width"], image["height"]) for image in loaded["images"]}
    for one in loaded["annotations"]:
        name, width, height = sizes[one["image_id"]]
        x, y, w, h = one["bbox"]
        right, bottom = min(x + w, width), min(y + h, height)
        share = (right - max(x, 0)) * (bottom - max(y, 0)) / (width * height)
        by_image.setdefault(name, []).append((max(x, 0), max(y, 0), right, bottom, share))
    for sample, image_id in enumerate(content.ids):
        own = slice(*content.box_start_N1[sample : sample + 2])
        ours = np.column_stack([content.boxes_M4[own], content.box_share_M[own]])
        np.testing.assert_allclose(ours, np.array(by_image[image_id]), rtol=1e-5, atol=1e-4)


def test_order_of_images_and_classes_and_empty_images(tmp_path: Path) -> None:
    root = make_coco(tmp_path)
    by_id = prepare_coco(root)[0]
    assert by_id.ids == ["three", "five", "seven"]
    assert by_id.classes == ("dog", "zebra", "cat")
    assert by_id.labels_NC.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 1]]
    alphabetical = prepare_coco(root, class_order="alphabetical", crowd="ignore", empty="drop")[0]
    assert alphabetical.ids == ["three", "seven"]
    assert alphabetical.classes == ("cat", "dog", "zebra")
    assert alphabetical.labels_NC.tolist() == [[1, 0, 0], [-1, 0, 1]]
    assert alphabetical.warnings == ("left out 1 image without objects (--empty drop)",)
    assert alphabetical.boxes_M4.tolist() == [[0, 0, 40, 20], [0, 0, 4, 2], [10, 5, 30, 15], [0, 0, 40, 20]]


@pytest.mark.parametrize("images", ["images/train2014", "train2014"])
def test_coco2014_layouts_and_original_lists(tmp_path: Path, images: str) -> None:
    root = make_coco(tmp_path / "COCO2014", split="train2014", images=images)
    content = prepare_coco2014(root)[0]
    assert (content.name, content.split) == ("coco2014", "train")
    assert content.image_names[0] == f"{images}/three.jpg"
    (file,) = write_originals([content], root, None, tmp_path / "out")
    assert file == tmp_path / "out/coco/train_coco2014.json"
    assert json.loads(file.read_text()) == [
        {"target": [0, 0, 1], "img_path": str(root / images / "three.jpg")},
        {"target": [0, 1, 1], "img_path": str(root / images / "seven.jpg")},
    ]


def test_named_json_and_image_folder(tmp_path: Path) -> None:
    root = make_coco(tmp_path, split="odd", images="photos/all")
    for option in (
        "mine=annotations/instances_odd.json:photos/all",
        f"mine={root}/annotations/instances_odd.json:photos/all",
    ):
        content = prepare_coco(root, split=[option])[0]
        assert (content.split, content.image_names[0]) == ("mine", "photos/all/three.jpg")


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = copy.deepcopy(TINY)
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"images": [}', r"instances_train\.json, line 2: malformed JSON"),
        ("[]", "found no list 'images'"),
        (edited(lambda c: c.pop("categories")), "found no list 'categories'"),
        (edited(lambda c: c.update(categories=[])), "found the unknown class 4|found no class"),
        (edited(lambda c: c["images"].append(c["images"][0])), r"images\[3\]: found id 7 again \(first in images\[0"),
        (edited(lambda c: c["images"][0].update(id=8, file_name="three.jpg")), "found image_id 7"),
        (edited(lambda c: c["images"][2].update(file_name="three.jpg")), "found a second sample with the id 'three'"),
        (edited(lambda c: c["images"][0].update(file_name="../x.jpg")), r"image 7: found the path '\.\./x\.jpg'"),
        (edited(lambda c: c["images"][0].update(file_name="/x.jpg")), "image 7: found the path '/x.jpg'"),
        (edited(lambda c: c["images"][0].pop("file_name")), r"images\[0\]: found 'file_name' = null, expected str"),
        (edited(lambda c: c["images"][0].update(file_name="none.jpg")), r"none\.jpg: no such image, .*image 7"),
        (edited(lambda c: c["annotations"][1].update(category_id=77)), r"annotations\[1\]: found the unknown class 77"),
        (edited(lambda c: c["annotations"][1].update(bbox=[1, 2, 3])), r"annotations\[1\]: bbox: found \[1, 2, 3\]"),
        (edited(lambda c: c["annotations"][1].update(bbox=[1, 2, 3, float("nan")])), r"bbox: found .*NaN"),
        (edited(lambda c: c["annotations"][1].update(bbox=[1, 2, 3, 10**400])), r"\[1\]: bbox: found \[1, 2"),
        (edited(lambda c: c["annotations"][1].update(bbox=[1, 2, -1e308, 3])), r"annotations\[1\]: bbox: found \[1, 2"),
        ('{"images": [' + "7" * 6000 + "]}", r"instances_train\.json: malformed JSON \(Exceeds the limit"),
        (edited(lambda c: c["annotations"][1].update(id=[])), r"annotations\[1\]: found 'id' = \[\], expected int"),
        (edited(lambda c: c["annotations"][1].update(id={})), r"annotations\[1\]: found 'id' = \{\}, expected int"),
        (edited(lambda c: c["annotations"][1].update(iscrowd="0")), r"\[1\]: found 'iscrowd' = \"0\", expected 0, 1"),
        (edited(lambda c: c["annotations"][1].update(iscrowd=[0])), r"\[1\]: found 'iscrowd' = \[0\], expected 0, 1"),
        (edited(lambda c: c["annotations"][1].update(iscrowd=2)), r"\[1\]: found 'iscrowd' = 2, expected 0, 1"),
        (edited(lambda c: c["images"][0].update(file_name="\ud800.jpg")), r"image 7: found the path '\\ud800\.jpg'"),
        (edited(lambda c: c["images"][0].update(file_name="x" * 300)), r"image 7: found the path 'xxx.* of 255 bytes"),
        (edited(lambda c: c["categories"][0].update(name="\ud800")), r"train\.json: found '\\ud800' as the name of"),
        (edited(lambda c: c["categories"][0].update(name="")), r"train\.json: found '' as the name of class 2"),
        (edited(lambda c: c["categories"][0].update(name="dog")), "found the class 'dog' twice"),
        (edited(lambda c: c.update(images=[], annotations=[])), "found no samples for split 'train'"),
    ],
)  # fmt: skip
def test_wrong_json_is_named(tmp_path: Path, content: Any, message: str) -> None:
    root = make_coco(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        prepare_coco(root)
    assert "\n" not in str(caught.value)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        prepare_coco(tmp_path / "none")
    with pytest.raises(UserError, match=r"annotations: found no instances_<split>\.json"):
        prepare_coco(tmp_path)
    with pytest.raises(UserError, match=r"instances_train2014\.json: no such file"):
        prepare_coco2014(tmp_path)
    make_coco(tmp_path, images="elsewhere")
    with pytest.raises(UserError, match="found no folder images/train or train or images"):
        prepare_coco(tmp_path)


def test_categories_that_contradict_between_splits_are_named(tmp_path: Path) -> None:
    make_coco(tmp_path)
    make_coco(tmp_path, edited(lambda c: c["categories"][0].update(name="horse")), "val", "images/val")
    with pytest.raises(UserError, match="found 'horse' as category 4, expected 'zebra'"):
        prepare_coco(tmp_path)


def test_crowds_may_be_true_and_false(tmp_path: Path) -> None:
    plain = prepare_coco(make_coco(tmp_path / "plain"))[0]
    words = copy.deepcopy(TINY)
    for one in words["annotations"][:3]:
        one["iscrowd"] = bool(one["iscrowd"])
    content = prepare_coco(make_coco(tmp_path / "words", words))[0]
    assert content.box_flags_M.tolist() == plain.box_flags_M.tolist()
    assert CROWD in content.box_flags_M


def test_outlines_of_objects_that_have_a_box_are_not_kept(tmp_path: Path) -> None:
    """They are most of a large file, and nothing reads them."""
    boxed = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 4, 6, 1, 6]]}
    outlined = {**boxed, "id": 2, "bbox": []}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}],
        "annotations": [boxed, outlined],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    ((one, other),) = read_coco(tmp_path / "a.json", skip_broken=False).annotations.values()
    assert "segmentation" not in one
    assert box_of("", one) == box_of("", other) == [1, 2, 3, 4]
