"""`masksup eval --write-voc-server`: the files of the VOC server for a split without labels, from the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masksup.cli import main
from masksup.data.index import open_index
from masksup.data.prepare.voc import VOC_CLASSES, prepare_voc2007
from masksup.data.prepare.voc_own import prepare_voc
from masksup.data.write_index import write_index
from masksup.training.train import train

TEST_IDS = [f"2009_{number:06d}" for number in (12, 3, 7, 5, 9)]


def draw_voc2012(root: Path) -> Path:
    """VOCdevkit/VOC2012 with two labelled images a class, and a test list of images without XML files."""
    folder = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    rng, train_ids = np.random.default_rng(0), []
    for number in range(40):
        image_id = f"2008_{number:06d}"
        train_ids.append(image_id)
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        thing = f"<object><name>{VOC_CLASSES[number % 20]}</name>{box}</object>"
        (folder / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{thing}</annotation>")
    for image_id in train_ids + TEST_IDS:
        pixels = rng.integers(0, 255, (32, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{image_id}.jpg")
    (folder / "ImageSets/Main/trainval.txt").write_text("\n".join(train_ids))
    (root / "my_test_ids.txt").write_text("\n".join(TEST_IDS))
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The indexes trainval and test, as `masksup prepare` writes them."""
    root = draw_voc2012(tmp_path_factory.mktemp("devkit"))
    arguments = ["--split", "trainval", "--split", f"test={root / 'my_test_ids.txt'}"]
    assert main(["prepare", "voc2012", "--root", str(root), "--out", str(root / "out"), *arguments]) == 0
    return root / "out"


@pytest.fixture(scope="module")
def run(prepared, tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc") / "run"
    assert train(tiny_config(data__train=str(prepared / "trainval"), data__eval=None, epochs=1), folder) == 0
    return folder


def read_files(folder):
    """{class: {id: confidence}} in the order of the lines, each of which must be an id, a space and a number."""
    found = {}
    for file in folder.iterdir():
        name = re.fullmatch(r"comp[12]_cls_test_(\w+)\.txt", file.name)
        assert name is not None, file.name
        rows = [re.fullmatch(r"(\S+) (\d\S*)", line) for line in file.read_text().splitlines()]
        found[name[1]] = {row[1]: float(row[2]) for row in rows}
    return found


def test_a_split_without_labels_is_written_but_not_scored(prepared, run, tmp_path, capsys):
    index = open_index(prepared / "test")
    assert (np.asarray(index.labels_NC) == -1).all()
    scores, logits = tmp_path / "scores.json", tmp_path / "all.npz"
    arguments = ["eval", str(run), "--data", str(prepared / "test"), "--write-voc-server", str(tmp_path / "server")]
    capsys.readouterr()
    assert main([*arguments, "--json", str(scores), "--predictions", str(logits)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "nothing to score: no label of these samples is known" in printed
    assert "mAP" not in printed
    summary = json.loads(scores.read_text())
    assert summary["mAP"] is summary["stratified"] is summary["mAP_interval"] is summary["OF1"] is None
    folder = tmp_path / "server" / "results" / "VOC2012" / "Main"
    assert {file.name for file in folder.iterdir()} == {f"comp1_cls_test_{name}.txt" for name in VOC_CLASSES}
    found = read_files(folder)
    with np.load(logits) as arrays:
        confidences = 1 / (1 + np.exp(-arrays["logits"].astype(float)))
    for c, name in enumerate(VOC_CLASSES):
        assert list(found[name]) == TEST_IDS, "every image, in the order of the list"
        assert list(found[name].values()) == confidences[:, c].tolist(), "to the last digit"


def test_the_competition_is_that_of_the_weights_or_as_asked(prepared, run, tiny_config, tmp_path):
    data = ["--data", str(prepared / "test"), "--write-voc-server"]
    assert main(["eval", str(run), *data, str(tmp_path / "asked"), "--voc-competition", "comp2"]) == 0
    other = tmp_path / "run"
    config = tiny_config(data__train=str(prepared / "trainval"), data__eval=None, epochs=1, model__weights=str(run))
    assert train(config, other) == 0
    assert main(["eval", str(other), *data, str(tmp_path / "weights")]) == 0
    for name in ("asked", "weights"):
        files = list((tmp_path / name / "results/VOC2012/Main").iterdir())
        assert len(files) == 20
        assert all(file.name.startswith("comp2_cls_test_") for file in files)


def test_an_unreadable_image_has_confidence_0_for_all_classes(prepared, tiny_config, tmp_path):
    root = draw_voc2012(tmp_path / "devkit")
    assert main(["prepare", "voc2012", "--root", str(root), "--out", str(root / "out"), "--split", "trainval",
                 "--split", f"test={root / 'my_test_ids.txt'}"]) == 0  # fmt: skip
    index = open_index(root / "out" / "test")
    index.path(1).write_bytes(index.path(1).read_bytes()[:100])
    config = tiny_config(data__train=str(root / "out" / "trainval"), data__eval=None, data__broken_budget=0.5, epochs=1)
    assert train(config, tmp_path / "run") == 0
    arguments = ["--data", str(root / "out" / "test"), "--write-voc-server", str(tmp_path)]
    assert main(["eval", str(tmp_path / "run"), *arguments]) == 0
    for rows in read_files(tmp_path / "results/VOC2012/Main").values():
        assert rows[TEST_IDS[1]] == 0
        assert min(value for name, value in rows.items() if name != TEST_IDS[1]) > 0


def test_the_server_scores_whole_images(prepared, run, tmp_path, capsys):
    arguments = ["eval", str(run), "--data", str(prepared / "test"), "--write-voc-server", str(tmp_path / "server")]
    assert main([*arguments, "--masked", "high"]) == 2
    assert "--write-voc-server: given with --masked" in capsys.readouterr().err
    assert not (tmp_path / "server").exists()


def test_files_appear_whole_or_not_at_all(prepared, run, tmp_path, monkeypatch, capsys):
    arguments = ["eval", str(run), "--data", str(prepared / "test"), "--write-voc-server", str(tmp_path)]
    assert main(arguments) == 0
    folder, real, calls = tmp_path / "results/VOC2012/Main", Path.open, []
    before = {file.name: file.read_text() for file in folder.iterdir()}

    def full(self, *args, **kwargs):
        if self.name.startswith(".partial-comp1"):
            calls.append(self)
            if len(calls) == 11:
                raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    capsys.readouterr()
    assert main([*arguments, "--weights", "live"]) == 2
    assert len(calls) == 11
    assert (
        capsys.readouterr().err
        == f"masksup: {folder / calls[-1].name[len('.partial-') : -13]}: No space left on device\n"
    )
    assert {file.name: file.read_text() for file in folder.iterdir()} == before


def one_line(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_wrong_input_is_one_line_and_writes_nothing(prepared, run, tiny_config, tiny_data, tmp_path, capsys):
    shapes = tmp_path / "shapes_run"
    assert train(tiny_config(epochs=1), shapes) == 0
    out = tmp_path / "out"
    other = ["eval", str(shapes), "--data", str(tiny_data / "val"), "--write-voc-server", str(out)]
    assert "found the class 'arrow', expected the 20 of PASCAL VOC" in one_line(other, capsys)
    test = ["eval", str(run), "--data", str(prepared / "test")]
    assert "it needs --write-voc-server" in one_line([*test, "--voc-competition", "comp1"], capsys)
    (tmp_path / "file").write_text("")
    message = one_line([*test, "--write-voc-server", str(tmp_path / "file")], capsys)
    assert "cannot be written to" in message
    assert not out.exists()


def test_the_year_comes_from_the_data_set_or_from_its_folder(shared_data, prepared, tmp_path, run, capsys):
    voc2007 = write_index(tmp_path / "2007", prepare_voc2007(shared_data / "voc2007_mini", split=["test"])[0])
    root = prepared.parent / "VOCdevkit" / "VOC2012"
    names = ",".join(VOC_CLASSES)
    voc = write_index(tmp_path / "voc", prepare_voc(root, classes=names, split=["trainval"])[0])
    for index, file in ((voc2007, "VOC2007/Main/comp1_cls_test"), (voc, "VOC2012/Main/comp1_cls_trainval")):
        out = tmp_path / index.split
        assert main(["eval", str(run), "--data", str(index.folder), "--write-voc-server", str(out)]) == 0
        assert len((out / "results" / f"{file}_person.txt").read_text().splitlines()) == len(index)
    moved = tmp_path / "pictures"
    root.rename(moved)
    try:
        own = write_index(tmp_path / "own", prepare_voc(moved, classes=names, split=["trainval"])[0])
    finally:
        moved.rename(root)
    message = one_line(["eval", str(run), "--data", str(own.folder), "--write-voc-server", str(tmp_path)], capsys)
    assert "found the data set 'voc'" in message
