"""Files that used to give wrong data in silence: each gives its right labels, or one line says what settles it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masksup.cli import main
from masksup.data.index import open_index
from masksup.data.prepare.coco import prepare_coco
from masksup.data.prepare.folders import prepare_folders
from masksup.data.prepare.images import check_images
from masksup.data.prepare.long import prepare_long
from masksup.data.prepare.voc_own import prepare_voc
from masksup.errors import UserError

BOX = {"bbox": [0, 0, 5, 5]}


def pictures(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (40 * number, len(name), 0)).save(root / name)
    return root


def labels(content: Any) -> dict[str, list[int]]:
    return dict(zip(content.image_names, content.labels_NC.tolist()))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.97])
def test_verify_finds_a_jpeg_that_ends_early_and_says_it_ends(tmp_path: Path, progressive: bool, share: float) -> None:
    whole = io.BytesIO()
    Image.effect_noise((96, 64), 60).convert("RGB").save(whole, "JPEG", progressive=progressive)
    data = whole.getvalue()
    (tmp_path / "cut.jpg").write_bytes(data[: int(share * len(data))].rstrip(b"\xff") + b"\xff\xd9")
    (tmp_path / "whole.jpg").write_bytes(data + b"what a camera adds behind it \xff\xd9")
    found = check_images(tmp_path, ["cut.jpg", "whole.jpg"], exif=False, verify=True)
    assert str(found["cut.jpg"]).startswith("truncated JPEG (its end-of-image marker comes before")
    assert not isinstance(found["whole.jpg"], str)


def test_verify_takes_every_real_photograph(shared_data: Path) -> None:
    folder = shared_data / "voc2007_mini/VOCdevkit/VOC2007/JPEGImages"
    names = sorted(path.name for path in folder.glob("*.jpg"))[:30]
    found = check_images(folder, names, exif=False, verify=True)
    assert names
    assert [name for name, fact in found.items() if isinstance(fact, str)] == []


def test_folders_one_level_deeper(tmp_path: Path) -> None:
    root = pictures(tmp_path, "animals/cat/a.jpg", "animals/dog/b.jpg", "cars/bus/c.jpg")
    with pytest.raises(
        UserError, match=r"animals/cat: found the image 'a.jpg' 2 folders below .*--nested outer.*'cat'"
    ):
        prepare_folders(root)
    expected = {
        "outer": (("animals", "cars"), [[1, 0], [1, 0], [0, 1]]),
        "inner": (("bus", "cat", "dog"), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        "both": (
            ("animals", "bus", "cars", "cat", "dog"),
            [[1, 0, 0, 1, 0], [1, 0, 0, 0, 1], [0, 1, 1, 0, 0]],
        ),
    }
    for nested, (classes, values) in expected.items():
        (content,) = prepare_folders(root, nested=nested)  # type: ignore[arg-type]
        assert (content.classes, list(labels(content).values())) == (classes, values)


def test_a_folder_more_than_expected_is_the_root_to_take(tmp_path: Path) -> None:
    root = pictures(tmp_path, "archive/cat/a.jpg", "archive/dog/b.jpg")
    with pytest.raises(UserError, match=f"or take --root {root}/archive$"):
        prepare_folders(root)


def test_folders_of_images_beside_something_else_are_no_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found the folder 'images' alone"):
        prepare_folders(pictures(tmp_path, "train/images/a.jpg", "val/images/b.jpg"))


ROWS = "ImageID,LabelName,Confidence\na,/m/01,1\nb,/m/02,1\nb,/m/03,0\n"


def test_long_labels_without_a_name_are_said(tmp_path: Path) -> None:
    root = pictures(tmp_path, "a.jpg", "b.jpg")
    (root / "t.csv").write_text(ROWS)
    (root / "names.csv").write_text("LabelName,DisplayName\n/m/01,Cat\n")
    (content,) = prepare_long(root, csv=["t.csv"], names="names.csv", suffix=".jpg")
    assert content.classes == ("/m/02", "/m/03", "Cat")
    assert content.warnings[0].startswith("2 labels without a name in ")
    (root / "names.csv").write_text("/m/01,Cat\n/m/02,Cat\n/m/03,Cow\n")
    (content,) = prepare_long(root, csv=["t.csv"], names="names.csv", suffix=".jpg")
    assert content.warnings[0] == "labels of one name are one class: 'Cat' (/m/01 and /m/02)"
    assert labels(content) == {"a.jpg": [1, -1], "b.jpg": [1, 0]}
    for text, message in (
        ("Cat,/m/01\n", "found no name for any label .first: '/m/01'."),
        ("/m/01,Cat\n/m/01,Dog\n", "line 2: found 'Dog' as the name of '/m/01', which is 'Cat' above"),
    ):
        (root / "names.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            prepare_long(root, csv=["t.csv"], names="names.csv", suffix=".jpg")


def coco(root: Path, **changes: Any) -> Path:
    """Two images; a cat on the first, a dog on the second; nobody drew a cow."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}],
        "annotations": [{"image_id": 1, "category_id": 1, **BOX}, {"image_id": 2, "category_id": 2, **BOX}],
    } | changes
    file = root / "annotations/instances_train.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_lvis_labels_are_known_where_somebody_looked(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train2017/a.jpg", "train2017/b.jpg")
    address = "http://images.cocodataset.org/train2017/"
    images = [
        {"id": 1, "coco_url": f"{address}a.jpg", "neg_category_ids": [2], "not_exhaustive_category_ids": [1]},
        {"id": 2, "coco_url": f"{address}b.jpg", "neg_category_ids": [1, 3], "not_exhaustive_category_ids": [3]},
    ]
    coco(root, images=images)
    (content,) = prepare_coco(root)
    assert labels(content) == {"train2017/a.jpg": [1, 0, -1], "train2017/b.jpg": [0, 1, -1]}
    assert "neg_category_ids" in content.warnings[0]
    (plain,) = prepare_coco(root, unlisted="absent")
    assert labels(plain) == {"train2017/a.jpg": [1, 0, 0], "train2017/b.jpg": [0, 1, 0]}
    coco(root, images=[images[0] | {"neg_category_ids": 2}, images[1]])
    with pytest.raises(UserError, match="image 1: found 'neg_category_ids' = 2, expected a list of ids"):
        prepare_coco(root)


def test_the_supercategory_of_roboflow_is_no_class(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train/a.jpg", "train/b.jpg")
    categories = [
        {"id": 3, "name": "animals", "supercategory": "none"},
        *({"id": key, "name": name, "supercategory": "animals"} for key, name in ((1, "cat"), (2, "dog"))),
    ]
    coco(root, categories=categories).rename(root / "train/_annotations.coco.json")
    (content,) = prepare_coco(root)
    assert (content.split, content.classes) == ("train", ("cat", "dog"))
    assert labels(content) == {"train/a.jpg": [1, 0], "train/b.jpg": [0, 1]}
    assert "left out 1 class without annotations that others name as their kind: animals" in content.warnings[-1]
    (kept,) = prepare_coco(root, classes="cat,dog,animals")
    assert kept.classes == ("cat", "dog", "animals")


def test_a_supercategory_with_annotations_is_a_class(tmp_path: Path) -> None:
    root = pictures(tmp_path, "a.jpg", "b.jpg")
    coco(root, categories=[{"id": 1, "name": "animal"}, {"id": 2, "name": "dog", "supercategory": "animal"}])
    assert prepare_coco(root)[0].classes == ("animal", "dog")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "utf-32"])
def test_json_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    root = pictures(tmp_path, "a.jpg", "b.jpg")
    file = coco(root)
    file.write_bytes(file.read_text().encode(encoding))
    assert labels(prepare_coco(root)[0]) == {"a.jpg": [1, 0, 0], "b.jpg": [0, 1, 0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"id": 1, "annotations": [], "data": {"image": "a.jpg"}}], "an export of Label Studio; export as COCO"),
        ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "an export of the VGG Image Annotator"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "a project of the VGG Image Annotator"),
        ({"version": "5.0", "shapes": [], "imagePath": "a.jpg"}, "a file of LabelMe; `prepare labelme`"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"caption": "A cat."}]}, "captions, which"),
    ],
)
def test_json_of_another_program_is_named(tmp_path: Path, content: Any, message: str) -> None:
    root = pictures(tmp_path, "a.jpg")
    (root / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"x.json: found no list '(images|categories)', .*{message}"):
        prepare_coco(root, split=["train=x.json"])


def test_a_json_of_another_name_is_offered(tmp_path: Path) -> None:
    root = pictures(tmp_path, "a.jpg", "b.jpg")
    coco(root).rename(root / "annotations/train.json")
    with pytest.raises(UserError, match=r"such as --split train=annotations/train\.json$"):
        prepare_coco(root)


XML = "<annotation><object><name>cat</name><bndbox>{}</bndbox></object></annotation>".format(
    "".join(f"<{key}>{value}</{key}>" for key, value in (("xmin", 1), ("ymin", 1), ("xmax", 9), ("ymax", 9)))
)


@pytest.mark.parametrize("ending", [".jpg", ".xml", ".png", ""])
def test_voc_ids_may_have_the_ending_of_another_copy(tmp_path: Path, ending: str) -> None:
    root = pictures(tmp_path, "JPEGImages/a.v1.png")
    for name, text in (("ImageSets/Main/train.txt", f"a.v1{ending}\n"), ("Annotations/a.v1.xml", XML)):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    assert labels(prepare_voc(root)[0]) == {"JPEGImages/a.v1.png": [1]}


def test_new_options_on_the_command_line(tmp_path: Path) -> None:
    root = pictures(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")
    (root / "t.csv").write_text("image,cat,dog,set\n/x/a.jpg,ja,nein,train\n/x/b.jpg,nein,ja,val\n/x/c.jpg,ja,ja,val\n")
    words = ["--split-column", "set", "--strip", "/x", "--present", "ja", "--absent", "nein"]
    assert main(["prepare", "csv", "--root", str(root), "--out", str(tmp_path / "out"), *words]) == 0
    assert open_index(tmp_path / "out/train").labels_NC[:].tolist() == [[1, 0]]
    assert open_index(tmp_path / "out/val").labels_NC[:].tolist() == [[0, 1], [1, 1]]
