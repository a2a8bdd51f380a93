"""Readers of label files in the layouts that data sets come in; `cases/` has one file of each."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masksup.commands.prepare import add_arguments, run
from masksup.data.index import open_index
from masksup.data.prepare.celeba import prepare_celeba
from masksup.data.prepare.chestxray14 import prepare_chestxray14
from masksup.data.prepare.chexpert import prepare_chexpert
from masksup.data.prepare.cvat import prepare_cvat
from masksup.data.prepare.folders import prepare_folders
from masksup.data.prepare.labelme import prepare_labelme
from masksup.data.prepare.long import prepare_long
from masksup.data.prepare.nuswide import prepare_nuswide
from masksup.data.prepare.roboflow import prepare_roboflow
from masksup.data.prepare.via import prepare_via
from masksup.data.prepare.voc_lists import prepare_voc_lists
from masksup.data.prepare.yolo import prepare_yolo
from masksup.errors import UserError


def pictures(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (40 * number, len(name), 0)).save(root / name)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(contents: list[Any]) -> dict[str, dict[str, list[int]]]:
    """{split: {image: labels}}"""
    return {one.split: dict(zip(one.image_names, one.labels_NC.tolist())) for one in contents}


def test_long_a_label_that_one_row_has_and_another_denies_is_unknown(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
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
    assert any("equal bytes and other labels" in line for line in prepare_folders(tmp_path / "train")[0].warnings)


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


PREPARERS: dict[str, Callable[..., Any]] = {
    "long": prepare_long, "folders": prepare_folders, "yolo": prepare_yolo, "voc-lists": prepare_voc_lists,
    "roboflow": prepare_roboflow, "celeba": prepare_celeba, "chestxray14": prepare_chestxray14,
    "chexpert": prepare_chexpert, "cvat": prepare_cvat, "labelme": prepare_labelme, "via": prepare_via,
    "nuswide": prepare_nuswide,
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
    run(parser.parse_args(words))
    assert open_index(tmp_path / "out/t").labels_NC.tolist() == [[1, 0], [0, -1]]
