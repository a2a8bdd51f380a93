"""WIDER-Attribute, on files made in its schema: one sample a person, ternary attributes, crops as annotated."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masksup.data.prepare.originals import write_originals
from masksup.data.prepare.wider import WIDER_CLASSES, prepare_wider
from masksup.errors import UserError

FIRST = [1, -1, 0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1, -1]
SECOND = [-1] * 14


def make_wider(root: Path, persons: list[dict[str, Any]] | None = None) -> Path:
    """An image with two persons and one with one, for each of the two splits."""
    (root / "Annotations").mkdir(parents=True)
    if persons is None:
        persons = [{"bbox": [1.5, 2.25, 10.1, 20.2], "attribute": FIRST}, {"bbox": [-4, 0, 9, 9], "attribute": SECOND}]
    for split, folders in (("trainval", ("train", "val")), ("test", ("test", "test"))):
        images = []
        for number, folder in enumerate(folders):
            name = f"{folder}/0--Parade/{split}{number}.jpg"
            (root / "Image" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 40), (number, len(split), 0)).save(root / "Image" / name)
            images.append({"file_name": name, "scene_id": 0, "targets": persons[: 2 - number]})
        (root / "Annotations" / f"wider_attribute_{split}.json").write_text(json.dumps({"images": images}))
    return root


def test_one_sample_a_person_with_ternary_labels_and_its_crop(tmp_path: Path) -> None:
    trainval, test = prepare_wider(make_wider(tmp_path))
    assert trainval.classes == WIDER_CLASSES
    assert len(WIDER_CLASSES) == 14
    assert trainval.ids == [
        "train/0--Parade/trainval0#0", "train/0--Parade/trainval0#1", "val/0--Parade/trainval1#0",
    ]  # fmt: skip
    assert trainval.sample_image_N.tolist() == [0, 0, 1]
    assert trainval.image_names == ["Image/train/0--Parade/trainval0.jpg", "Image/val/0--Parade/trainval1.jpg"]
    ours = {1: 1, -1: 0, 0: -1}
    for content in (trainval, test):
        assert content.labels_NC.tolist() == [[ours[v] for v in row] for row in (FIRST, SECOND, FIRST)]
    assert trainval.crop_N4[0].tolist() == pytest.approx([1.5, 2.25, 11.6, 22.45])
    assert trainval.crop_N4[1].tolist() == [-4, 0, 5, 9]  # outside the image: padded when decoded, not clipped
    assert trainval.boxes_M4.shape == (0, 4)
    assert not trainval.exif


def test_original_lists_have_their_label_rules_and_exact_boxes(tmp_path: Path) -> None:
    root = make_wider(tmp_path / "WIDER")
    contents = prepare_wider(root)
    trainval, test = [json.loads(file.read_text()) for file in write_originals(contents, root, None, tmp_path / "out")]
    assert [item["target"] for item in trainval] == [[max(v, 0) for v in row] for row in (FIRST, SECOND, FIRST)]
    assert test[0]["target"] == [{1: 1, -1: 0, 0: 99}[value] for value in FIRST]
    assert test[0]["bbox"] == [1.5, 2.25, 10.1, 20.2]
    assert test[1]["img_path"] == str(root / "Image/test/0--Parade/test0.jpg")


@pytest.mark.parametrize(
    ("person", "message"),
    [
        ({"bbox": [0, 0, 5, 5], "attribute": FIRST[:-1]}, r"images\[0\]\.targets\[0\]\.attribute: found"),
        ({"bbox": [0, 0, 5, 5], "attribute": [2, *FIRST[1:]]}, r"attribute: found \[2, .*expected 1, 0 or -1"),
        ({"bbox": [0, 0, 5, 0], "attribute": FIRST}, "found a person of 5 x 0 px"),
        ({"bbox": [0, 0, 5], "attribute": FIRST}, r"bbox: found \[0, 0, 5\], expected 4 numbers"),
        ({"attribute": FIRST}, r"bbox: found null, expected 4 numbers"),
    ],
)
def test_wrong_persons_are_named(tmp_path: Path, person: dict[str, Any], message: str) -> None:
    root = make_wider(tmp_path, [person, person])
    with pytest.raises(UserError, match=message):
        prepare_wider(root)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        prepare_wider(tmp_path / "none")
    with pytest.raises(UserError, match=r"wider_attribute_trainval\.json: no such file"):
        prepare_wider(tmp_path)
    root = make_wider(tmp_path / "w")
    assert [content.split for content in prepare_wider(root, split=["test"])] == ["test"]
    (root / "Image/test/0--Parade/test1.jpg").unlink()
    with pytest.raises(UserError, match=r"test1\.jpg: no such image"):
        prepare_wider(root)
    file = root / "Annotations/wider_attribute_test.json"
    file.write_text(file.read_text().replace("test/0--Parade", "../../etc"))
    with pytest.raises(UserError, match=r"images\[0\]: found the path"):
        prepare_wider(root)
