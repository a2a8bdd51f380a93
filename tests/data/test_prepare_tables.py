"""Several tables, tables of other kinds, and names of images; `cases/` has the rest."""

from pathlib import Path

import pytest
from PIL import Image

from masksup.data.prepare.csv import prepare_csv
from masksup.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("0.jpg", "1.jpg", "2.jpg", "3.jpg")):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(root / name)
    return root


def test_a_column_of_splits_makes_a_split_of_each_value(root: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,is_valid,cat,dog\n0.jpg,False,1,0\n1.jpg,True,0,1\n2.jpg,False,1,1\n")
    train, val = prepare_csv(root, csv=[str(tmp_path / "t.csv")], split_column="is_valid")
    assert (train.split, train.image_names, train.labels_NC.tolist()) == ("train", ["0.jpg", "2.jpg"], [[1, 0], [1, 1]])
    assert (val.split, val.image_names, val.labels_NC.tolist(), val.classes) == (
        "val",
        ["1.jpg"],
        [[0, 1]],
        ("cat", "dog"),
    )
    (tmp_path / "u.csv").write_text("image,cat\n3.jpg,1\n")
    with pytest.raises(UserError, match="--split-column: found 2 tables"):
        prepare_csv(root, csv=[str(tmp_path / "t.csv"), str(tmp_path / "u.csv")], split_column="is_valid")


def test_an_image_that_lies_in_two_folders_is_named(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "y/a.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("image,labels\na.jpg,cat\n")
    with pytest.raises(UserError, match=r"line 2: found 2 images called 'a.jpg' .x/a.jpg and y/a.jpg."):
        prepare_csv(tmp_path, skip_broken=True)


def test_the_meaning_of_values_is_that_of_all_tables_together(root: Path, tmp_path: Path) -> None:
    """A class of a small split may lack any 0 by chance."""
    (tmp_path / "a.csv").write_text("image,cat\n0.jpg,0\n1.jpg,1\n")
    (tmp_path / "b.csv").write_text("image,cat\n2.jpg,1\n3.jpg,-1\n")
    contents = prepare_csv(root, csv=[str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    assert [content.labels_NC[:, 0].tolist() for content in contents] == [[0, 1], [1, -1]]


def test_real_voc_labels_are_refused_until_minus_one_is_named(shared_data: Path, tmp_path: Path) -> None:
    table = shared_data / "voc2007_labels" / "classification_trainval.csv"
    with pytest.raises(UserError, match=r"found -1 .*--absent -1"):
        prepare_csv(tmp_path, csv=[str(table)])


def test_parquet_gives_the_same_labels(root: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    names = {"image": ["0.jpg", "1.jpg"]}
    for more in ({"labels": [["cat", "dog"], ["dog"]]}, {"cat": [True, False], "dog": [1.0, 1.0]}):
        parquet.write_table(pyarrow.table(names | more), tmp_path / "t.parquet")
        (content,) = prepare_csv(root, csv=[str(tmp_path / "t.parquet")])
        assert (content.classes, content.labels_NC.tolist()) == (("cat", "dog"), [[1, 1], [0, 1]])


def test_without_pyarrow_one_line_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"t\.parquet: Parquet needs pyarrow.*masksup\[parquet\]"):
        prepare_csv(root, csv=[str(tmp_path / "t.parquet")])


def test_a_name_with_an_accent_is_found_however_the_system_writes_it(tmp_path: Path) -> None:
    """macOS keeps an accent as a letter of its own."""
    Image.new("RGB", (8, 6)).save(tmp_path / "cafe\u0301.jpg")
    (tmp_path / "t.csv").write_text("image,labels\ncaf\u00e9.jpg,cat\n", encoding="utf-8")
    (content,) = prepare_csv(tmp_path)
    assert content.image_names == ["cafe\u0301.jpg"]
    assert "1 image found in another case" in content.warnings[0]
