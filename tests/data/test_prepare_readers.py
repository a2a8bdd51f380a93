"""Readers of label files in the layouts that data sets come in: files made in each layout, with their right labels."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masksup.commands.prepare import add_arguments, run
from masksup.data.index import open_index
from masksup.data.prepare.celeba import prepare_celeba
from masksup.data.prepare.chestxray14 import FINDINGS, prepare_chestxray14
from masksup.data.prepare.chexpert import OBSERVATIONS, prepare_chexpert
from masksup.data.prepare.folders import prepare_folders
from masksup.data.prepare.long import prepare_long
from masksup.data.prepare.roboflow import prepare_roboflow
from masksup.data.prepare.voc_lists import prepare_voc_lists
from masksup.data.prepare.yolo import prepare_yolo
from masksup.errors import UserError


def pictures(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (number, len(name), 0)).save(root / name)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(contents: list[Any]) -> dict[str, dict[str, list[int]]]:
    """{split: {image: labels}}"""
    return {one.split: dict(zip(one.image_names, one.labels_NC.tolist())) for one in contents}


OPEN_IMAGES = """ImageID,Source,LabelName,Confidence
a,verification,/m/01,1
a,verification,/m/02,0
b,machine,/m/02,0.4
b,verification,/m/03,1
b,machine,/m/01,0.7
"""


def test_long_keeps_verified_negatives_and_leaves_the_rest_unknown(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, {"train.csv": OPEN_IMAGES, "names.csv": '/m/01,Cat\n/m/02,"Dog, small"\n/m/03,Cow\n'})
    (content,) = prepare_long(tmp_path, csv=["train.csv"], suffix=".jpg", names="names.csv")
    assert content.classes == ("Cat", "Cow", "Dog, small")
    assert found([content]) == {"train": {"a.jpg": [1, -1, 0], "b.jpg": [1, 1, -1]}}
    (strict,) = prepare_long(tmp_path, csv=["train.csv"], suffix=".jpg", confidence=0.9, unlisted="absent")
    assert found([strict])["train"] == {"a.jpg": [1, 0, 0], "b.jpg": [-1, -1, 1]}


def test_long_without_confidence_is_one_row_a_label(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, {"train.csv": "filename\ttag\na.jpg\tcat\nb.jpg\tdog\na.jpg\tdog\na.jpg\tdog\n"})
    (content,) = prepare_long(tmp_path)
    assert found([content])["train"] == {"a.jpg": [1, 1], "b.jpg": [0, 1]}
    write(tmp_path, {"train.csv": "image,label,score\na.jpg,cat,1\na.jpg,cat,0\nb.jpg,cat,0\n"})
    (content,) = prepare_long(tmp_path)
    assert (content.labels_NC.tolist(), len(content.warnings)) == ([[-1], [0]], 1)
    assert "1 label both present and absent" in content.warnings[0]


@pytest.mark.parametrize("marks", ["010", "101", "110", "0110", "1001"])
def test_long_rows_that_contradict_each_other_leave_a_label_unknown_in_any_order(tmp_path: Path, marks: str) -> None:
    pictures(tmp_path, "a.jpg")
    write(tmp_path, {"train.csv": "image,label,verified\n" + "".join(f"a.jpg,cat,{mark}\n" for mark in marks)})
    (content,) = prepare_long(tmp_path)
    assert (content.labels_NC.tolist(), content.warnings[0][:8]) == ([[-1]], "1 label ")


def test_long_uncertain_labels_are_those_that_a_row_names(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, {"train.csv": "image,label,present\na.jpg,cat,True\na.jpg,dog,False\nb.jpg,cow,0.3\n"})
    (content,) = prepare_long(tmp_path, uncertain="present")
    assert found([content])["train"] == {"a.jpg": [1, -1, 0], "b.jpg": [-1, 1, -1]}


@pytest.mark.parametrize("head", ["image,class,label", "image,label,target", "image,x,label"])
def test_long_a_column_of_1_and_0_is_no_column_of_labels(tmp_path: Path, head: str) -> None:
    pictures(tmp_path, "a.jpg")
    write(tmp_path, {"train.csv": f"{head}\na.jpg,cat,1\na.jpg,dog,0\n"})
    with pytest.raises(UserError, match=r"line 1: found nothing but 0, 1 in column .*'confidence'"):
        prepare_long(tmp_path)


def test_long_numbers_are_classes_where_the_column_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    write(tmp_path, {"train.csv": "image,label\na.jpg,1\na.jpg,0\n"})
    assert prepare_long(tmp_path, labels_column=["label"])[0].classes == ("0", "1")


def test_long_says_what_it_does_not_read(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, {"train.csv": "image,label,split\na.jpg,cat,train\nb.jpg,dog,val\n"})
    with pytest.raises(UserError, match=r"rows of several splits in column 'split'.*--split-column 'split'.*--ignore"):
        prepare_long(tmp_path)
    parts = prepare_long(tmp_path, split_column="split")
    assert found(parts) == {"train": {"a.jpg": [1, 0]}, "val": {"b.jpg": [0, 1]}}
    assert prepare_long(tmp_path, ignore_column=["split"])[0].warnings == ("not used: 1 column split",)
    write(tmp_path, {"train.csv": "image,label\na.jpg,cat|dog\nb.jpg,dog\n"})
    with pytest.raises(UserError, match=r"line 2: found the label 'cat\|dog', .*`prepare csv`"):
        prepare_long(tmp_path)


def test_folders_beside_splits_are_no_classes(tmp_path: Path) -> None:
    pictures(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg")
    write(tmp_path, {"__MACOSX/train/x": ""})
    assert prepare_folders(tmp_path)[0].classes == ("cat", "dog")
    write(tmp_path, {"docs/readme.txt": ""})
    with pytest.raises(UserError, match=r"found 'docs' beside .*; --split train --split val takes these"):
        prepare_folders(tmp_path)
    assert found(prepare_folders(tmp_path, split=["val"])) == {"val": {"val/cat/c.jpg": [1]}}
    pictures(tmp_path / "vehicles", "train/a.jpg", "bus/b.jpg")
    assert prepare_folders(tmp_path / "vehicles")[0].classes == ("bus", "train")


def test_folders_are_classes_and_links_are_further_labels(tmp_path: Path) -> None:
    pictures(tmp_path, "train/cat/a.jpg", "train/dog/b.JPG", "val/dog/sub/c.png", "val/cat/.hidden.jpg")
    (tmp_path / "train/dog/linked.jpg").symlink_to("../cat/a.jpg")
    os.link(tmp_path / "train/dog/b.JPG", tmp_path / "train/cat/hard.jpg")
    write(tmp_path, {"train/cat/notes.txt": "x", "val/empty/.keep": ""})
    contents = prepare_folders(tmp_path, nested="outer")
    assert contents[0].classes == ("cat", "dog", "empty")
    labels = found(contents)
    assert labels["train"] == {"train/cat/a.jpg": [1, 1, 0], "train/cat/hard.jpg": [1, 1, 0]}
    assert labels["val"] == {"val/dog/sub/c.png": [0, 1, 0]}
    assert "left out 1 file" in contents[0].warnings[0]
    (single,) = prepare_folders(tmp_path / "train", classes="dog,cat")
    assert (single.split, single.classes) == ("train", ("dog", "cat"))
    (tmp_path / "train/dog/copy.jpg").write_bytes((tmp_path / "train/cat/a.jpg").read_bytes())
    assert any("copies of others" in line for line in prepare_folders(tmp_path / "train")[0].warnings)


YOLO_YAML = "path: .\ntrain: {}\nval: {}\nnames: {}\n"


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}"])
def test_yolo_boxes_are_labels(tmp_path: Path, layout: str, names: str) -> None:
    train, val = layout.format("train"), layout.format("val")
    pictures(tmp_path, f"{train}/a.jpg", f"{train}/b.jpg", f"{val}/c.jpg")
    write(tmp_path, {
        f"{train.replace('images', 'labels')}/a.txt": "1 0.5 0.5 0.5 1\n\n1 0 0 0.5 0 0.5 0.5 0 0.5\n",
        f"{train.replace('images', 'labels')}/b.txt": "",
        f"{val.replace('images', 'labels')}/c.txt": "0 0.5 0.5 1 1 0.9\n",
        "data.yaml": YOLO_YAML.format(f"../{train}", val, names),
    })  # fmt: skip
    contents = prepare_yolo(tmp_path)
    assert found(contents) == {
        "train": {f"{train}/a.jpg": [0, 1], f"{train}/b.jpg": [0, 0]}, "val": {f"{val}/c.jpg": [1, 0]},
    }  # fmt: skip
    np.testing.assert_allclose(contents[0].boxes_M4, [[10, 0, 30, 20], [0, 0, 20, 10]], atol=1e-4)
    write(tmp_path, {f"{val.replace('images', 'labels')}/c.txt": "7 0.5 0.5 1 1\n"})
    with pytest.raises(UserError, match=r"c\.txt, line 1: found the class 7, expected 0 to 1 \(2 classes\)"):
        prepare_yolo(tmp_path)


def test_yolo_without_a_description_takes_a_list_and_texts_beside_the_images(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, {"a.txt": "0 .5 .5 .1 .1\n", "classes.txt": "cat\ndog\n"})
    (content,) = prepare_yolo(tmp_path)
    assert found([content])["train"] == {"a.jpg": [1, 0], "b.jpg": [0, 0]}
    assert content.warnings == ("1 image without a file of labels, taken as showing no class",)


@pytest.mark.parametrize("names", ["[no, 1.10]", "{0: no, 1: 1.10}"])
def test_yolo_names_are_texts(tmp_path: Path, names: str) -> None:
    """To YAML, no is false and 1.10 a number."""
    pictures(tmp_path, "a.jpg")
    write(tmp_path, {"a.txt": "0 .5 .5 .1 .1\n", "data.yaml": f"nc: 2\ntrain: .\nval: ~\nnames: {names}\n"})
    (content,) = prepare_yolo(tmp_path)
    assert (content.classes, content.labels_NC.tolist()) == (("no", "1.10"), [[1, 0]])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classes.txt", "cat\n\ndog\n", r"classes\.txt, line 2: found an empty line"),
        ("data.yaml", "nc: 3\ntrain: .\nnames: [cat, dog]\n", "found nc = 3, but 2 classes in names"),
    ],
)
def test_yolo_numbers_that_may_mean_another_class_are_refused(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    pictures(tmp_path, "a.jpg")
    write(tmp_path, {"a.txt": "1 .5 .5 .1 .1\n", file: text})
    with pytest.raises(UserError, match=message):
        prepare_yolo(tmp_path)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize("text", [f"{BOMB}names: *a39\n", "names: [cat]\nnames: [dog]\n", "names: [cat\n"])
def test_yaml_of_yolo_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    pictures(tmp_path, "a.jpg")
    write(tmp_path, {"a.txt": "0 .5 .5 .1 .1\n", "data.yaml": f"train: .\n{text}"})
    with pytest.raises(UserError, match=r"data\.yaml: malformed YAML \(.*\), expected names, train and val$"):
        prepare_yolo(tmp_path)


def test_voc_lists_without_xml(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit/VOC2007"
    pictures(base, "JPEGImages/000001.jpg", "JPEGImages/000002.jpg", "JPEGImages/000003.jpg")
    write(base, {
        "ImageSets/Main/train.txt": "000001\n000002\n",
        "ImageSets/Main/cat_train.txt": "000001  1\n000002 -1\n",
        "ImageSets/Main/dog_train.txt": "000001  0\n000002  1\n",
        "ImageSets/Main/cat_val.txt": "000003 -1\n", "ImageSets/Main/dog_val.txt": "000003 -1\r\n",
    })  # fmt: skip
    for root in (tmp_path, base):
        assert found(prepare_voc_lists(root)) == {
            "train": {"000001.jpg": [1, -1], "000002.jpg": [0, 1]}, "val": {"000003.jpg": [0, 0]},
        }  # fmt: skip
    assert found(prepare_voc_lists(base, split=["train"], difficult="absent"))["train"]["000001.jpg"] == [1, 0]
    write(base, {"ImageSets/Main/dog_val.txt": "000002 -1\n"})
    with pytest.raises(UserError, match=r"dog_val\.txt: found other ids than in cat_val\.txt"):
        prepare_voc_lists(base)


def test_voc_lists_without_any_absent_say_what_0_means(tmp_path: Path) -> None:
    pictures(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg")
    write(tmp_path, {
        "ImageSets/Main/cat_train.txt": "a 1\nb 0\n", "ImageSets/Main/dog_train.txt": "a 0\nb 1\n",
    })  # fmt: skip
    with pytest.raises(UserError, match=r"0 and 1 but never -1, .*--difficult absent if"):
        prepare_voc_lists(tmp_path)
    assert prepare_voc_lists(tmp_path, difficult="absent")[0].labels_NC.tolist() == [[1, 0], [0, 1]]
    assert prepare_voc_lists(tmp_path, difficult="ignore")[0].labels_NC.tolist() == [[1, -1], [-1, 1]]


def test_yolo_classes_in_another_case(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    write(tmp_path, {"a.txt": "1 .5 .5 .1 .1\n", "classes.txt": "cat\nCat\n"})
    assert "--same-case makes them one" in prepare_yolo(tmp_path)[0].warnings[0]
    assert prepare_yolo(tmp_path, same_case=True)[0].labels_NC.tolist() == [[1]]


def test_voc_lists_of_real_images_give_the_labels_of_their_xml(shared_data: Path) -> None:
    from masksup.data.prepare.voc import prepare_voc2007

    root = shared_data / "voc2007_mini"
    ours, theirs = prepare_voc_lists(root, split=["trainval"]), prepare_voc2007(root, split=["trainval"])
    assert ours[0].classes == theirs[0].classes
    by_id = dict(zip(theirs[0].ids, theirs[0].labels_NC.tolist()))
    assert {key.removesuffix(".jpg"): row for key, row in zip(ours[0].ids, ours[0].labels_NC.tolist())} == by_id


def test_roboflow_classes_and_boxes(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.rf.1.jpg", "train/b.jpg", "valid/c.jpg")
    write(tmp_path, {
        "train/_classes.csv": "filename, cat, dog\na.rf.1.jpg, 1, 1\nb.jpg, 0, 1\n",
        "valid/_classes.csv": "filename, cat, dog\nc.jpg, 0, 0\n",
    })  # fmt: skip
    assert found(prepare_roboflow(tmp_path)) == {
        "train": {"train/a.rf.1.jpg": [1, 1], "train/b.jpg": [0, 1]}, "valid": {"valid/c.jpg": [0, 0]},
    }  # fmt: skip
    (tmp_path / "train/_classes.csv").unlink()
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    write(tmp_path, {"train/_annotations.csv": f"{head}b.jpg,40,20,dog,1,2,30,20\nb.jpg,40,20,cat,0,0,5,5\n"})
    (content,) = prepare_roboflow(tmp_path, split=["train"])
    assert (content.classes, content.labels_NC.tolist()) == (("cat", "dog"), [[1, 1]])
    assert (content.boxes_M4.tolist(), content.box_class_M.tolist()) == ([[1, 2, 30, 20], [0, 0, 5, 5]], [1, 0])


CELEBA = {
    "Anno/list_attr_celeba.txt": "3\nSmiling Young \n000001.jpg -1  1\n000002.jpg  1 -1\n000003.jpg -1 -1\n",
    "Eval/list_eval_partition.txt": "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n",
}
CELEBA_CSV = {
    "list_attr_celeba.csv": "image_id,Smiling,Young\n000001.jpg,-1,1\n000002.jpg,1,-1\n000003.jpg,-1,-1\n",
    "list_eval_partition.csv": "image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n",
}


@pytest.mark.parametrize(
    ("files", "folder"),
    [(CELEBA, "Img/img_align_celeba"), (CELEBA_CSV, "img_align_celeba/img_align_celeba")],
)
def test_celeba_minus_one_is_absent_and_the_splits_are_the_official_ones(
    tmp_path: Path, files: dict[str, str], folder: str
) -> None:
    pictures(tmp_path, *(f"{folder}/00000{n}.jpg" for n in (1, 2, 3)))
    write(tmp_path, files)
    contents = prepare_celeba(tmp_path)
    assert contents[0].classes == ("Smiling", "Young")
    assert found(contents) == {
        "train": {"000001.jpg": [0, 1]}, "val": {"000002.jpg": [1, 0]}, "test": {"000003.jpg": [0, 0]},
    }  # fmt: skip
    (only,) = prepare_celeba(tmp_path, split=["val"], classes="Young")
    assert (only.classes, only.labels_NC.tolist()) == (("Young",), [[0]])


def test_chestxray14_has_14_findings_and_the_official_lists(tmp_path: Path) -> None:
    pictures(tmp_path, "images_001/images/1_000.png", "images_002/images/2_000.png", "images_002/images/3_000.png")
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,Image[Width"
    write(tmp_path, {
        "Data_Entry_2017.csv": f"{head},Height],\n1_000.png,Cardiomegaly|Hernia,0,1,58,M,PA,2682,2749,\n"
        "2_000.png,No Finding,1,2,58,M,PA,2682,2749,\n3_000.png,Mass,1,3,58,F,AP,2682,2749,\n",
        "train_val_list.txt": "1_000.png\n2_000.png", "test_list.txt": "3_000.png",
    })  # fmt: skip
    trainval, test = prepare_chestxray14(tmp_path)
    assert trainval.classes == FINDINGS
    on = [[FINDINGS[c] for c in np.flatnonzero(row == 1)] for row in trainval.labels_NC]
    assert (on, trainval.split, test.split) == ([["Cardiomegaly", "Hernia"], []], "trainval", "test")
    assert set(np.unique(trainval.labels_NC)) == {0, 1}
    assert test.image_names == ["images_002/images/3_000.png"]


@pytest.mark.parametrize("below", [True, False])
def test_chexpert_uncertain_labels_and_blanks(tmp_path: Path, below: bool) -> None:
    root = tmp_path / "CheXpert-v1.0-small"
    views = [f"{part}/patient0000{n}/study1/view1_frontal.jpg" for n, part in enumerate(("train", "train", "valid"))]
    pictures(root, *views)

    def row(view: str, **values: str) -> str:
        cells = [values.get(name.replace(" ", "_"), "") for name in OBSERVATIONS]
        return f"CheXpert-v1.0-small/{view},Female,68,Frontal,AP,{','.join(cells)}\n"

    head = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(OBSERVATIONS)}\n"
    first = row(views[0], Edema="-1.0", Pneumonia="1.0", Fracture="0.0")
    write(root, {"train.csv": head + first + row(views[1], No_Finding="1.0"), "valid.csv": head + row(views[2])})
    names = ("Edema", "Pneumonia", "Fracture", "Atelectasis")
    columns = [OBSERVATIONS.index(name) for name in names]

    def labels(**options: Any) -> list[int]:
        train, valid = prepare_chexpert(tmp_path if below else root, **options)
        assert (train.split, valid.split, train.image_names) == ("train", "valid", views[:2])
        return train.labels_NC[0, columns].tolist()

    assert labels() == [-1, 1, 0, 0]
    assert labels(uncertain="present") == [1, 1, 0, 0]
    assert labels(uncertain="absent") == [0, 1, 0, 0]
    assert labels(ignored=["blank"]) == [-1, 1, 0, -1]


PREPARERS: dict[str, Callable[..., Any]] = {
    "long": prepare_long, "folders": prepare_folders, "yolo": prepare_yolo, "voc-lists": prepare_voc_lists,
    "roboflow": prepare_roboflow, "celeba": prepare_celeba, "chestxray14": prepare_chestxray14,
    "chexpert": prepare_chexpert,
}  # fmt: skip


@pytest.mark.parametrize("name", PREPARERS)
def test_a_folder_that_is_missing_or_holds_something_else_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="expected") as caught:
            PREPARERS[name](root)
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_value_of_an_option_can_be_given_on_the_command_line(tmp_path: Path) -> None:
    import argparse

    pictures(tmp_path / "photos", "0.jpg", "1.jpg")
    write(tmp_path, {"t.csv": "image,cat,dog,age\n0,1,-1,7\n1,-1,,8\n"})
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [
        "csv",
        "--root",
        str(tmp_path / "photos"),
        "--out",
        str(tmp_path / "out"),
        "--csv",
        str(tmp_path / "t.csv"),
    ]
    words += ["--absent", "-1", "--ignored", "blank", "--ignore-column", "age", "--suffix", ".jpg", "--same-case"]
    assert run(parser.parse_args(words)) == 0
    assert open_index(tmp_path / "out/t").labels_NC.tolist() == [[1, 0], [0, -1]]
