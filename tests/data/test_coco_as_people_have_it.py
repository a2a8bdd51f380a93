"""COCO files as tools write them: without boxes, with ids of any kind, names from other machines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from masksup.cli import main
from masksup.data.index import Index, open_index
from masksup.data.prepare.coco import prepare_coco
from masksup.errors import UserError

MASK = np.zeros((20, 40), np.uint8)
MASK[5:15, 10:30] = 1
RLE = mask.encode(np.asfortranarray(MASK))
COLUMNS = MASK.T.reshape(-1)
RUNS = np.diff(np.flatnonzero(np.concatenate([[True], COLUMNS[1:] != COLUMNS[:-1], [True]]))).tolist()


def content(**changes: Any) -> dict[str, Any]:
    """Two images, a dog in the first, a cat in the second."""
    return {
        "images": [{"id": 1, "file_name": "one.jpg", "width": 40, "height": 20}, {"id": 2, "file_name": "two.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 10]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [10, 5, 20, 10]},
        ],
        **changes,
    }


def write(root: Path, tree: dict[str, Any], images: str = "images", json_folder: str = "annotations") -> Path:
    for folder in (json_folder, images):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("one", "two"):
        Image.new("RGB", (40, 20)).save(root / images / f"{name}.jpg")
    (root / json_folder / "instances_train.json").write_text(json.dumps(tree))
    return root


def prepared(root: Path, *options: str) -> Index:
    assert main(["prepare", "coco", "--root", str(root), "--out", str(root / "out"), *options]) == 0
    return open_index(root / "out" / "train")


def labels(index: Index) -> dict[str, list[str]]:
    return {
        index.id(n): [name for name, label in zip(index.classes, index.labels_NC[n]) if label == 1]
        for n in range(len(index))
    }


def marked(**fields: Any) -> list[dict[str, Any]]:
    return [{"image_id": 1, "category_id": 1, **fields}, {"image_id": 2, "category_id": 2, **fields}]


POLYGON = [[10, 5, 30, 5, 30, 15, 10, 15]]


@pytest.mark.parametrize(
    ("fields", "box"),
    [
        ({}, None),
        ({"bbox": [], "segmentation": []}, None),
        ({"bbox": None}, None),
        ({"segmentation": {"size": [20, 40], "counts": RLE["counts"].decode()}, "iscrowd": 0}, [10, 5, 30, 15]),
        ({"segmentation": {"size": [20, 40], "counts": RUNS}, "iscrowd": 1}, [10, 5, 30, 15]),
        ({"segmentation": POLYGON}, [10, 5, 30, 15]),
        ({"segmentation": POLYGON[0]}, [10, 5, 30, 15]),
    ],
    ids=["label", "empty", "null", "rle", "runs", "polygons", "polygon"],
)
def test_an_annotation_without_a_box_gives_its_label(tmp_path: Path, fields: dict[str, Any], box: Any) -> None:
    index = prepared(write(tmp_path, content(annotations=marked(**fields))))
    assert labels(index) == {"one": ["dog"], "two": ["cat"]}
    assert index.boxes_M4.tolist() == ([box, box] if box else [])


@pytest.mark.parametrize(
    "shape", [{"size": [20, 40], "counts": [1, 2]}, {"size": [20, 40]}, {"counts": "x"}, ["x"], [[1, 2, "a"]], "x"]
)
def test_a_damaged_shape_is_named(tmp_path: Path, shape: Any) -> None:
    with pytest.raises(UserError, match=r"image 1: segmentation: found .*expected polygons or an RLE") as caught:
        prepare_coco(write(tmp_path, content(annotations=marked(segmentation=shape))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image_ids", "used"),
    [
        (("a", "b"), ("a", "b")),
        ((1.0, 2.0), (1, 2)),
        ((1, 2), ("1", "2")),
        (("0001", "0002"), (1, 2)),
        (("1", "2"), (1.0, 2.0)),
        (("00a", " b"), ("00a", "b")),
    ],
)
@pytest.mark.parametrize("field", ["images", "categories"])
def test_ids_are_numbers_or_texts(tmp_path: Path, image_ids: Any, used: Any, field: str) -> None:
    tree = content()
    for item, value in zip(tree[field], image_ids):
        item["id"] = value
    for item, value in zip(tree["annotations"], used):
        item["image_id" if field == "images" else "category_id"] = value
    assert labels(prepared(write(tmp_path, tree))) == {"one": ["dog"], "two": ["cat"]}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((7, "7"), "and 7, which mean the same"),
        (("007", 7), "'007', which mean the same"),
        ((1.5, 2), "found 'id' = 1.5"),
    ],
)
def test_ids_that_may_mean_the_same_are_refused(tmp_path: Path, ids: Any, message: str) -> None:
    tree = content()
    for item, value in zip(tree["images"], ids):
        item["id"] = value
    with pytest.raises(UserError, match=message):
        prepare_coco(write(tmp_path, tree))


def test_classes_select_and_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = prepared(write(tmp_path, content()), "--classes", "cat,")
    assert index.classes == ("cat",)
    assert labels(index) == {"one": [], "two": ["cat"]}
    assert "left out 1 annotation of other classes" in " ".join(capsys.readouterr().out.split())
    assert prepared(tmp_path, "--classes", "cat,dog").classes == ("cat", "dog")
    assert main(["prepare", "coco", "--root", str(tmp_path), "--out", str(tmp_path / "x"), "--classes", "cat,dgo"]) == 2
    assert "has no class 'dgo'; did you mean 'dog'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (".", "{}.jpg"),
        ("annotations", "{}.jpg"),
        ("images", "images/{}.jpg"),
        ("images", "images\\{}.jpg"),
        ("images/a", "a\\{}.jpg"),
        ("images/a", "/home/me/set/images/a/{}.jpg"),
        ("images", "C:\\Users\\me\\set\\{}.jpg"),
        ("photos/all", "D:/set/photos/all/{}.jpg"),
    ],
)
def test_images_are_found_where_the_names_lead(tmp_path: Path, images: str, names: str) -> None:
    tree = content()
    for item in tree["images"]:
        item["file_name"] = names.format(Path(item["file_name"]).stem)
    index = prepared(write(tmp_path, tree, images))
    assert [found[-1:] for found in labels(index).values()] == [["dog"], ["cat"]]
    assert index.path(0).samefile(tmp_path / images / "one.jpg")


def test_an_absolute_name_is_said_and_never_leads_out_of_the_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "outside" / "one.jpg")
    tree = content()
    for item in tree["images"]:
        item["file_name"] = f"{tmp_path}/outside/{item['file_name']}"
    index = prepared(write(tmp_path / "root", tree))
    assert index.path(0).parent == tmp_path / "root" / "images"
    assert "named by absolute paths" in " ".join(capsys.readouterr().out.split())
    tree["images"][1]["file_name"] = "/etc/../../two.jpg"
    with pytest.raises(UserError, match="expected one that stays inside the root"):
        prepare_coco(write(tmp_path / "root", tree))


def test_classes_in_another_case_are_said_or_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path, content(categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "Dog "}]))
    assert prepared(root).classes == ("dog", "Dog ")
    assert "'dog' and 'Dog '; --same-case makes them one" in capsys.readouterr().out
    one = prepared(root, "--same-case")
    assert (one.classes, one.labels_NC.tolist()) == (("dog",), [[1], [1]])
