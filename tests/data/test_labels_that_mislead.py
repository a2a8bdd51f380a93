"""Labels that look right and are not: each is refused or warned of, whichever reader meets it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masksup.cli import main
from masksup.config.components import DATASETS
from masksup.errors import UserError

LISTED = "image,labels\n0.jpg,{}\n1.jpg,dog\n2.jpg,cat\n3.jpg,{}\n"


def pictures(folder: Path, *names: str, turn: int = 1) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[274] = turn
        Image.new("RGB", (24, 16), (number, 0, 0)).save(folder / name, exif=exif)


def read(root: Path, kind: str, text: str, **options: Any) -> Any:
    """The first split of a table."""
    pictures(root, *(f"{number}.jpg" for number in range(4)))
    (root / "t.csv").write_text(text)
    return DATASETS.resolve(kind)(root, csv=[str(root / "t.csv")], **options)[0]


@pytest.mark.parametrize("sign", [*"/+&:~#@*=_-", "，", "、", "·", "::"])
def test_any_sign_between_two_labels_is_refused_until_it_is_named(tmp_path: Path, sign: str) -> None:
    text = LISTED.format(f"cat{sign}dog", f"dog{sign}cow")
    with pytest.raises(UserError, match=f"line 2: found the labels .*{re.escape(sign[0])}' seems to join"):
        read(tmp_path, "csv", text)
    assert read(tmp_path, "csv", text, separator=sign).classes == ("cat", "cow", "dog")
    assert len(read(tmp_path, "csv", text, separator="|").classes) == 4


def test_a_sign_that_stands_before_and_behind_one_label_joins_and_one_of_kinds_does_not(tmp_path: Path) -> None:
    joined = "image,labels\n0.jpg,cat/dog\n1.jpg,dog/cow\n2.jpg,cat/cow\n"
    with pytest.raises(UserError, match="'/' seems to join"):
        read(tmp_path, "csv", joined)
    kinds = (
        "image,labels\n0.jpg,color/red|t-shirt\n1.jpg,color/blue|hot-dog\n2.jpg,size/red\n3.jpg,shirt|crane (bird)\n"
    )
    assert len(read(tmp_path, "csv", kinds).classes) == 7


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("\"['cat', 'dog']\"", {"separator": ","}), ("[cat]", {}), ("\"['cat'\"", {}), ("set()", {}),
        ("\"array(['cat', 'dog'], dtype=object)\"", {}), ("{cat}", {}),
    ],
)  # fmt: skip
def test_a_piece_of_a_list_is_no_label(tmp_path: Path, cell: str, options: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"line 2: found the label .* piece of a list"):
        read(tmp_path, "csv", LISTED.format(cell, "dog"), **options)


@pytest.mark.parametrize(
    ("cell", "said"), [('"cat,dog"', "',' seems to join"), ("\"['cat','dog']\"", "piece of a list")]
)
def test_a_row_of_long_holds_one_label(tmp_path: Path, cell: str, said: str) -> None:
    text = f"image,label\n0.jpg,{cell}\n1.jpg,cat\n"
    with pytest.raises(UserError, match=f"line 2: .*{said}"):
        read(tmp_path, "long", text)
    (tmp_path / "names.txt").write_text("lamp\nlamp, floor\n")
    whole = 'image,label\n0.jpg,"lamp, floor"\n1.jpg,lamp\n'
    assert read(tmp_path, "long", whole, classes="names.txt").classes == ("lamp", "lamp, floor")


@pytest.mark.parametrize("name", ["-", "--", "#N/A", "[nan]", "normal", "n.a."])
def test_a_label_that_means_none_is_warned_of(tmp_path: Path, name: str) -> None:
    content = read(tmp_path, "csv", LISTED.format("cat|dog", name))
    assert any("--none" in line for line in content.warnings)


def test_background_of_coco_is_warned_of(tmp_path: Path) -> None:
    pictures(tmp_path, "train/1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0}],
        "categories": [{"id": 0, "name": "_background_"}, {"id": 1, "name": "cat"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    assert any("'_background_'" in line for line in DATASETS.resolve("coco")(tmp_path)[0].warnings)
    (tmp_path / "annotations/instances_train.json").write_bytes('{"x": "ch\xe2t"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"found bytes that are no UTF-8 .*save it as UTF-8"):
        DATASETS.resolve("coco")(tmp_path)


def test_prepare_names_classes_without_negatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path, "0.jpg", "1.jpg")
    (tmp_path / "t.csv").write_text("image,cat,dog\n0.jpg,1,0\n1.jpg,1,1\n")
    out = str(tmp_path / "out")
    assert main(["prepare", "csv", "--root", str(tmp_path), "--csv", str(tmp_path / "t.csv"), "--out", out]) == 0
    assert "t: 1 class without negatives: cat" in capsys.readouterr().out


def test_folders_of_programs_are_left_out_and_joined_names_warned_of(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/0.jpg", "dog/1.jpg", "cat/.ipynb_checkpoints/2.jpg", "dog/@eaDir/3.jpg", "cat_dog/4.jpg")
    content = DATASETS.resolve("folders")(tmp_path)[0]
    assert (content.classes, len(content.ids)) == (("cat", "cat_dog", "dog"), 3)
    assert any("'cat_dog' seems to join classes by '_'" in line for line in content.warnings)


@pytest.mark.parametrize(("stated", "follows"), [("24,16", False), ("16,24", True), (None, True)])
def test_boxes_of_roboflow_lie_in_the_picture_that_the_table_states(
    tmp_path: Path, stated: str | None, follows: bool
) -> None:
    pictures(tmp_path, "train/0.jpg", turn=8)
    head = "filename,width,height,class,xmin,ymin,xmax,ymax" if stated else "filename,class,xmin,ymin,xmax,ymax"
    row = f"0.jpg,{stated},cat,1,1,14,5" if stated else "0.jpg,cat,1,1,14,5"
    (tmp_path / "train/_annotations.csv").write_text(f"{head}\n{row}\n")
    content = DATASETS.resolve("roboflow")(tmp_path)[0]
    assert content.exif == follows
    assert content.boxes_M4.tolist() == [[1, 1, 14, 5]]


def test_celeba_that_was_cut_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "img_align_celeba/000001.jpg", "img_align_celeba/000002.jpg")
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    (tmp_path / "list_attr_celeba.txt").write_text("3\nMale\n000001.jpg 1\n000002.jpg -1\n")
    with pytest.raises(UserError, match="line 1: found 3 images stated and 2 below"):
        DATASETS.resolve("celeba")(tmp_path)
    (tmp_path / "list_attr_celeba.txt").write_text("2\nMale\n000001.jpg 1\n000002.jpg -1\n")
    with pytest.raises(UserError, match=r"list_eval_partition\.txt: found no line of 000002\.jpg"):
        DATASETS.resolve("celeba")(tmp_path)
