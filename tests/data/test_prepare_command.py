"""`masksup prepare` from the command line to the index and the table."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from masksup.commands.prepare import _OPTIONS, _key, add_arguments, run
from masksup.config.components import DATASETS
from masksup.data.index import open_index
from masksup.errors import UserError


def prepare(*words: object) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(word) for word in words]))


def make_csv(root: Path, splits: dict[str, str], images: int = 4) -> Path:
    root.mkdir()
    for number in range(images):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(root / f"{number}.png")
    for split, text in splits.items():
        (root / f"{split}.csv").write_text(text)
    return root


def test_every_registered_data_set_can_be_called_from_the_command_line() -> None:
    """Each option of each preparer has a flag, and each flag is an option of some preparer."""
    flags = {_key(flag) for options in _OPTIONS.values() for flag, _ in options}
    taken = {field for name in DATASETS.entries for field in DATASETS.options(name).model_fields}
    assert flags == taken


def test_coco_small_is_prepared_and_its_table_tells_what_was_found(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    out = tmp_path / "data" / "coco"
    prepare("coco", "--root", shared_data / "coco_small", "--out", out)
    text = capsys.readouterr().out
    lines = text.splitlines()
    sizes = next(line for line in lines if line.startswith("  train "))
    assert sizes.split() == ["train", "208", "208", "1,678", "664", "0", "2"]
    assert "person             97    35   tie" in text
    assert (
        max(len(line) for line in lines if not re.match("warning: |.*data.(train|eval|test)=|  masksup ", line)) <= 110
    )
    assert len([line for line in lines if "  " in line]) < 45  # 80 classes stand side by side
    (warning,) = [line for line in lines if line.startswith("warning: val: 18 classes without positives: motorcycle,")]
    assert warning.count(", ") == 17
    for split, samples, key in (("train", 208, "data.train"), ("val", 64, "data.eval")):
        index = open_index(out / split)
        assert (len(index), index.name, index.split) == (samples, "coco", split)
        assert index.path(0).is_file()
        assert f"{key}={out / split} " in text
    again = open_index(out / "val").hash
    prepare("coco", "--root", shared_data / "coco_small", "--out", out)
    assert open_index(out / "val").hash == again


def test_originals_are_written_and_only_under_their_rules(shared_data: Path, tmp_path: Path) -> None:
    root, out, lists = shared_data / "voc2007_mini", tmp_path / "voc", tmp_path / "lists"
    prepare("voc2007", "--root", root, "--out", out, "--write-originals", lists)
    items = json.loads((lists / "voc07/test_voc07.json").read_text())
    assert len(items) == 5
    assert items[0]["img_path"] == str(root / "VOCdevkit/VOC2007/JPEGImages/000002.jpg")
    with pytest.raises(UserError, match="--write-originals: found --difficult present, expected ignore"):
        prepare("voc2007", "--root", root, "--out", out, "--write-originals", lists, "--difficult", "present")
    with pytest.raises(UserError, match="--write-originals: found data set 'voc'"):
        prepare("voc", "--root", root, "--out", out, "--write-originals", lists)
    with pytest.raises(UserError, match="--write-originals: found none of the splits trainval, test"):
        prepare("voc2007", "--root", root, "--out", out, "--write-originals", lists, "--split", "val")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vco"], "unknown data set 'vco'; did you mean 'voc'"),
        (["csv", "--crowd", "ignore"], "--crowd: not an option of csv, expected one of --split, --skip-broken"),
        (["coco", "--crowd", "absent"], "--crowd: found 'absent'; Input should be 'present' or 'ignore'"),
        (["coco", "--class-order", "size"], "--class-order: found 'size'"),
        (["shapes", "--train", "many"], "--train: found 'many'"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare(*words, "--root", tmp_path, "--out", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_wrong_input_writes_nothing_and_leaves_what_was_there(tmp_path: Path) -> None:
    root = make_csv(tmp_path / "root", {"train": "0.png,cat\n1.png,dog\n", "val": "2.png,cat\n"})
    out = tmp_path / "out"
    (root / "2.png").write_bytes((root / "2.png").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"2\.png: truncated PNG .*val\.csv, line 1"):
        prepare("csv", "--root", root, "--out", out)
    assert not out.exists()
    Image.new("RGB", (8, 6)).save(root / "2.png")
    prepare("csv", "--root", root, "--out", out)
    before = {split: open_index(out / split).hash for split in ("train", "val")}
    (root / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.png: empty image file"):
        prepare("csv", "--root", root, "--out", out)
    assert {split: open_index(out / split).hash for split in ("train", "val")} == before


def test_folder_that_is_not_ours_is_refused_before_any_work(tmp_path: Path) -> None:
    root = make_csv(tmp_path / "root", {"train": "0.png,cat\n"})
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out: found 'notes\.txt' there"):
        prepare("csv", "--root", root, "--out", out)
    shutil.rmtree(out)
    (out / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"out: found 'train' there"):
        prepare("csv", "--root", root, "--out", out)
    shutil.rmtree(out)
    prepare("csv", "--root", root, "--out", out)
    with pytest.raises(UserError, match="expected the folder above the splits"):
        prepare("csv", "--root", root, "--out", out / "train")


def test_broken_images_are_left_out_by_name_and_counted_beyond_ten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = "".join(f"{number}.png,cat\n" for number in range(15))
    root = make_csv(tmp_path / "root", {"train": rows}, images=15)
    for number in range(1, 15):
        (root / f"{number}.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"1\.png: not an image .*13 more like it; --skip-broken leaves"):
        prepare("csv", "--root", root, "--out", tmp_path / "out")
    prepare("csv", "--root", root, "--out", tmp_path / "out", "--skip-broken")
    text = capsys.readouterr().out
    assert "warning: train: left out 10.png: not an image" in text
    assert "11.png" not in text
    assert "warning: train: left out 4 more broken images" in text
    assert len(open_index(tmp_path / "out" / "train")) == 1
    (root / "0.png").unlink()
    with pytest.raises(UserError, match="found 15 images of split 'train', all broken"):
        prepare("csv", "--root", root, "--out", tmp_path / "out", "--skip-broken")


def test_images_shared_by_splits_are_a_warning_unless_one_split_is_part_of_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {
        "train": "0.png,cat\n1.png,cat\n", "trainval": "0.png,cat\n1.png,cat\n2.png,cat\n",
        "test": "copy.png,dog\n3.png,cat\n",
    }  # fmt: skip
    root = make_csv(tmp_path / "root", splits)
    shutil.copy(root / "1.png", root / "copy.png")
    prepare("csv", "--root", root, "--out", tmp_path / "out")
    text = capsys.readouterr().out
    assert "test and train share 1 image (equal bytes; first: copy.png and 1.png), 1 pair of them with other" in text
    assert "test and trainval share 1 image" in text
    assert "train and trainval share" not in text


def test_adding_the_arguments_imports_nothing_heavy() -> None:
    code = (
        "import argparse, sys; from masksup.commands.prepare import add_arguments; "
        "add_arguments(argparse.ArgumentParser()); "
        "print([name for name in ('numpy', 'torch', 'PIL', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("flag", ["--out", "--root", "--images", "--csv", "--classes"])
def test_names_too_long_to_exist_are_named(tmp_path: Path, flag: str) -> None:
    root = make_csv(tmp_path / "root", {"train": "0.png,cat\n"})
    given = {"--out": str(tmp_path / "new" / "out"), "--root": str(root), flag: "a" * 300}
    with pytest.raises(UserError, match=r"a{58}") as caught:
        prepare("csv", *(word for pair in given.items() for word in pair))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_impossible_out_is_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("a" * 300, os.fsdecode(b"\xe9")):
        with pytest.raises(UserError, match=r"--out: found the path '.*, expected names in UTF-8 of 255 bytes"):
            prepare("csv", "--root", tmp_path / "none", "--out", Path("new", name))
    assert not Path("new").exists()


def test_root_that_no_index_could_store_is_named(tmp_path: Path) -> None:
    root = make_csv(tmp_path / os.fsdecode(b"caf\xe9"), {"train": "0.png,cat\n"})
    with pytest.raises(UserError, match=r"--root '.*caf\\udce9': found a path that is no UTF-8"):
        prepare("csv", "--root", root, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_many_classes_the_first_and_the_rarest_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masksup.data.labels._PIECE", 900)  # two samples at a time
    names = [f"c{number:03}" for number in range(400)]
    rows = [["1"] * 340 + ["-1"] * 10 + ["0"] * 50, ["1"] * 300 + ["0"] * 100, ["0"] * 399 + ["1"]]
    text = "\n".join(f"{number}.png,{','.join(row)}" for number, row in enumerate(rows))
    root = make_csv(tmp_path / "root", {"train": f"image,{','.join(names)}\n{text}\n3.png{',0' * 400}\n"})
    prepare("csv", "--root", root, "--out", tmp_path / "out", "--ignored", "-1")
    shown = capsys.readouterr().out
    assert re.search(r"train +4 +4 +0 +641 +10 +1 *\n", shown)
    assert "the first 40 and the rarest 40 of 400 classes" in " ".join(shown.split())
    assert {name for name in names if re.search(f"{name} +[0-9]", shown)} == {*names[:40], *names[340:380]}
    (silent,) = [line for line in shown.splitlines() if "without positives" in line]
    assert silent.endswith(": " + ", ".join(names[340:360]) + ", ... and 39 more")
