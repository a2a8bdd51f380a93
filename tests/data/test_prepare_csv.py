"""CSV: both forms give the same labels; every malformed line is named."""

import csv as csv_module
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from masksup.data.prepare.csv import prepare_csv, prepare_train_and_test
from masksup.errors import UserError

CLASSES = ("cat", "big dog", "a,b", 'q"x')


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    (root / "in").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(root / f"in/{number}.jpg")
    return root


def prepare(root: Path, text: str, **options: object) -> object:
    file = root / "given.csv"
    file.write_text(text)
    return prepare_csv(root, csv=[str(file)], **options)[0]  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_both_forms_give_the_same_index(photos: Path, rows: list[list[bool]]) -> None:
    listed, columns = io.StringIO(), io.StringIO()
    in_list, in_columns = csv_module.writer(listed), csv_module.writer(columns)
    in_list.writerow(["image", "labels"])
    in_columns.writerow(["image", *CLASSES])
    for number, row in enumerate(rows):
        in_list.writerow([f"in/{number}.jpg", "|".join(name for name, on in zip(CLASSES, row) if on)])
        in_columns.writerow([f"in/{number}.jpg", *map(int, row)])
    (photos / "names.txt").write_text("\n".join(CLASSES))
    first = prepare(photos, listed.getvalue(), classes="names.txt")
    second = prepare(photos, columns.getvalue())
    for content in (first, second):
        assert content.classes == CLASSES  # type: ignore[attr-defined]
        np.testing.assert_array_equal(content.labels_NC, np.array(rows))  # type: ignore[attr-defined]
        assert content.ids == [f"in/{number}.jpg" for number in range(len(rows))]  # type: ignore[attr-defined]
        assert content.exif  # type: ignore[attr-defined]


def test_ignored_values_default_files_and_classes_of_all_splits(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "pictures").mkdir(parents=True)
    for number in range(3):
        (root / "pictures" / f"{number}.jpg").write_bytes((photos / f"in/{number}.jpg").read_bytes())
    (root / "train.csv").write_text("0.jpg,dog|cat\n1.jpg,\n")  # no header
    (root / "val.csv").write_text("\ufeffimage,label\n2.jpg,ant\n", encoding="utf-8")
    train, val = prepare_csv(root, images="pictures")
    assert (train.split, val.split, train.classes, train.root) == (
        "train", "val", ("ant", "cat", "dog"), root / "pictures",
    )  # fmt: skip
    assert train.labels_NC.tolist() == [[0, 1, 1], [0, 0, 0]]
    (root / "val.csv").write_text("image,x,y\n2.jpg,-1,1\n1.jpg,-1,-1\n")
    with pytest.raises(UserError, match=r"found -1 but never 0 for class 'x' \(2 of 2 .*--absent -1 .*--ignored -1"):
        prepare_csv(root, images="pictures", split=["v=val.csv"])
    (content,) = prepare_csv(root, images="pictures", split=["v=val.csv"], ignored=["-1"])
    assert (content.split, content.labels_NC.tolist()) == ("v", [[-1, 1], [-1, -1]])
    assert content.warnings == ()
    assert content.image_names == ["2.jpg", "1.jpg"]


def test_size_is_that_after_exif_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "t.csv").write_text("a.jpg,cat\n")
    assert prepare_csv(tmp_path)[0].sizes_I2.tolist() == [[6, 8]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"given\.csv: found an empty file"),
        ("image,labels\n", "found a header and no row below it"),
        ("image\nin/0.jpg\n", "line 1: malformed CSV"),
        ("in/0.jpg,1,0\n", "line 1: found no header above 2 columns of 1 and 0.*--classes A,B"),
        ("image,labels\nin/0.jpg,cat\nin/1.jpg\n", "line 3: malformed CSV: found 1 column, expected 2"),
        ('image,labels\n"in/0.jpg,cat\n', "line [23]: malformed CSV"),
        ("image,cat,dog\nin/0.jpg,1,2\n", "line 2: found '2' for class 'dog'"),
        ("image,cat,dog\nin/0.jpg,1,\nin/1.jpg,0,1\n", "line 2: found '' for class 'dog'.*--absent blank"),
        ("image,dog,\nin/0.jpg,1,1\n", "line 1: found a column without a name .''.*--ignore-column '' leaves"),
        ("image,cat,cat\nin/0.jpg,1,1\n", "line 1: found the class 'cat' twice"),
        ("image,labels\nin/0.jpg,cat\nin/0.jpg,dog\n", r"line 3: found a second sample with the id 'in/0\.jpg'"),
        ("image,labels\n../x.jpg,cat\n", r"line 2: found the path '\.\./x\.jpg'"),
        ("image,labels\n/etc/x.jpg,cat\n", "line 2: found the path '/etc/x.jpg'"),
        ("image,labels\nin/9.jpg,cat\n", r"in/9\.jpg: no such image, .*line 2"),
    ],
)
def test_wrong_files_are_named(photos: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare(photos, text)
    assert "\n" not in str(caught.value)


def test_unknown_classes_and_missing_columns_are_named(photos: Path) -> None:
    with pytest.raises(UserError, match="line 2: found the unknown class 'dgo'; did you mean 'dog'"):
        prepare(photos, "image,labels\nin/0.jpg,cat|dgo\n", classes="cat,dog")
    with pytest.raises(UserError, match="line 1: found the unknown class 'dgo'; did you mean 'dog'"):
        prepare(photos, "image,cat,dgo\nin/0.jpg,1,1\n", classes="cat,dog")
    with pytest.raises(UserError, match="line 1: found no column 'dog', expected it as in --classes"):
        prepare(photos, "image,cat,ant\nin/0.jpg,1,1\n", classes="cat,dog,ant")
    (photos / "latin.csv").write_bytes(b"image,labels\nin/0.jpg,\xe9t\xe9\n")
    with pytest.raises(UserError, match=r"latin\.csv: found bytes that are no UTF-8"):
        prepare_csv(photos, csv=["latin.csv"])


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        prepare_csv(tmp_path / "none")
    with pytest.raises(UserError, match=r"found no \.csv file"):
        prepare_csv(tmp_path)
    with pytest.raises(UserError, match=r"--images pics: found no folder"):
        prepare_csv(tmp_path, images="pics")
    for outside in ("../pics", str(tmp_path)):
        with pytest.raises(UserError, match=r"--images: found the path .*expected one that stays inside the root"):
            prepare_csv(tmp_path, images=outside)
    with pytest.raises(UserError, match=r"x\.csv: no such file"):
        prepare_csv(tmp_path, csv=["x.csv"])


def test_the_training_table_alone_says_what_classes_there_are(photos: Path, tmp_path: Path) -> None:
    """A label that only the test table has could not be learnt: it is named, and makes no class."""
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    tables = f"train={train}", f"test={test}"
    train.write_text("image,labels\nin/0.jpg,cat|dog\nin/1.jpg,\n")
    test.write_text("image,labels\nin/2.jpg,dog\n")
    assert [content.classes for content in prepare_train_and_test(photos, *tables)] == [("cat", "dog")] * 2
    test.write_text("image,labels\nin/2.jpg,dog\nin/3.jpg,dogs\n")
    with pytest.raises(UserError, match=r"test\.csv, line 3: found the unknown class 'dogs'.*dog.*: leave it out here"):
        prepare_train_and_test(photos, *tables)
    test.write_text("image,dog\nin/2.jpg,1\n")
    with pytest.raises(UserError, match=r"test\.csv, line 1: found no column 'cat', expected it as in the training"):
        prepare_train_and_test(photos, *tables)
