"""What a user types or drops by mistake is answered with what was found, what is expected and what helps."""

import csv
import io
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from launch.__main__ import main as launcher
from launch.sweeps.results import ScoredSetting
from launch.sweeps.results import as_csv as sweep_csv
from masksup.base.csv_text import as_csv
from masksup.base.words import counted
from masksup.cli import main
from masksup.config.load import to_yaml
from masksup.config.messages import _ELSEWHERE, schema_keys
from masksup.config.schema import Config
from masksup.data.decode import decode
from masksup.data.decode_pil import BrokenImage
from masksup.data.index import open_index
from masksup.data.prepare.images import ImageFacts, check_images
from masksup.decisions.decisions import default_decisions
from masksup.errors import UserError
from masksup.explain.predictions import class_numbers
from masksup.output.image_files import find_images
from masksup.output.labels import quoted, tell_unlabelled
from masksup.training.train import train

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> Path:
    folder = tmp_path_factory.mktemp("words") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(epochs=1), folder) == 0
    return folder


@pytest.fixture
def config(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(tiny_config()))
    return file


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["device=cuda"], "device: unknown key; did you mean precision.device=cuda?"),
        (["batch_size=64"], "did you mean batch.global=64?"),
        (["imgsz=448"], "did you mean model.size=448?"),
        (["optim.learning_rate=0.1"], "did you mean optim.lr=0.1?"),
        (["lr=1"], "did you mean optim.lr=1?"),
        (["optim.rl=1"], "did you mean 'lr'?"),
        (["model.lr=1"], "did you mean optim.lr=1?"),
        (["micro=1"], "did you mean batch.micro=1?"),
    ],
)
def test_a_setting_by_its_last_name(
    words: list[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--print-config", str(config), *words]) == 2
    assert said in capsys.readouterr().err
    config.write_text("data: {}\n")  # other keys are missing, too
    assert main(["train", str(config), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "5"], "settings are given as epochs=5"),
        (["--epochs=5"], "settings are given as epochs=5"),
        (["--batch-size", "64"], "settings are given as batch.global=64"),
        (["--lr", "0.1"], "settings are given as optim.lr=0.1"),
        (["--wrong"], "settings are given as section.key=VALUE"),
        (["--epohcs", "5"], "settings are given as epochs=5"),
        (["--run-dri", "x"], "did you mean --run-dir?"),
        (["--resume"], "the same command without it goes on where the run stopped"),
    ],
)
def test_an_option_that_is_a_setting(
    words: list[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", str(config), *words])
    assert said in capsys.readouterr().err


def test_a_command_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trian", "mine.yaml"])
    told = capsys.readouterr().err
    assert told.startswith("masksup: unknown command 'trian'; did you mean 'train'?")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("device=cuda", "takes no settings, but it has --device cuda; masksup eval --help lists the options\n"),
        ("precision.threads=1", "takes no settings, but it has --threads 1; masksup eval --help lists the options\n"),
        ("model.size=64", "takes no settings; masksup eval --help lists the options\n"),
    ],
)
def test_settings_where_there_are_none(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "runs/a", word])
    assert capsys.readouterr().err == f"masksup eval: unrecognized arguments: {word}; this command {said}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submitt", "mine.yaml"], "unknown command 'submitt'; did you mean 'submit'?"),
        (["submit", "mine.yaml", "--partition"], "argument --partition: expected one argument"),
        (["submit", "mine.yaml", "--lr", "0.1"], "settings are given as optim.lr=0.1"),
        (["status", "--sate", "failed"], "did you mean --state?"),
    ],
)
def test_the_launcher_answers_in_a_line_too(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launcher(words)
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_what_other_programs_call_a_setting_is_none_here() -> None:
    keys = schema_keys()
    for key, names in _ELSEWHERE.items():
        assert key in keys
        assert not {*names} & {other.rpartition(".")[2] for other in keys}


def test_only_what_is_required_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train"])
    told = "masksup train: the following arguments are required: CONFIG; masksup train --help lists the options\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("text", "kind"), [("", "nothing"), ("- a", "list"), ("word", "text"), ("3", "number"), ("1: 2", "mapping")]
)
def test_a_file_of_another_kind(text: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    assert f"found {kind}, expected a mapping of sections" in capsys.readouterr().err


def test_the_option_that_is_wrong_is_the_one_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "_classes.csv").write_text("image,labels\na.png,x\n")

    def said(*options: str) -> str:
        assert main(["prepare", *options, "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    found = said("csv", "--csv", "_classes.csv")
    assert found.startswith("masksup: --csv: found '_classes.csv', but a split cannot be called '_classes'")
    assert found.endswith("--split NAME=_classes.csv\n")
    assert said("csv").startswith(f"masksup: --root {tmp_path}: found '_classes.csv'")
    assert said("csv", "--split", "_classes.csv").startswith("masksup: --split: found '_classes.csv'")
    assert said("coco", "--split", "x.json:.").endswith("did you mean x=x.json:.?\n")
    shutil.copy(tmp_path / "_classes.csv", tmp_path / "._train.csv")
    (tmp_path / "_classes.csv").rename(tmp_path / "train.csv")
    assert main(["prepare", "csv", "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]


def test_coco_images_may_lie_in_the_root(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": 0, "area": 4}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    words = ["prepare", "coco", "--root", str(tmp_path), "--split", "x=x.json:.", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert open_index(tmp_path / "out" / "x").path(0) == tmp_path / "a.png"


def test_an_image_is_refused_for_what_it_is(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), -2.5, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(BrokenImage, match=r"f\.tif: found pixels from -2\.5 to -2\.5 and no rule for them"):
        decode(tmp_path / "f.tif", exif=True, max_pixels=100)
    Image.new("1", (16384, 16384)).save(tmp_path / "large.png")
    expected = r"found 16384 x 16384 pixels, expected at most 100000000 in all \(data\.max_pixels of the run\)"
    with pytest.raises(BrokenImage, match=expected):
        decode(tmp_path / "large.png", exif=True, max_pixels=100_000_000)
    found = check_images(tmp_path, ["f.tif", "large.png"], exif=True)
    assert found["large.png"] == "image of 16384 x 16384 pixels, above 178,956,970"
    assert isinstance(found["f.tif"], ImageFacts)  # a range for all files is found, or asked for, later


def test_a_folder_is_searched_for_images_alone_and_the_rest_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("masksup").propagate = True
    for name in ("b/a.png", "._x.png", ".cache/c.png", "b/.d.jpg", "B.JPEG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [path.relative_to(tmp_path).as_posix() for path in find_images([str(tmp_path)])] == ["B.JPEG", "b/a.png"]
    assert {record.message.partition(": ")[2] for record in caplog.records} == {
        "left out 3 hidden files, such as ._x.png"
    }
    (tmp_path / "b" / "scan").write_bytes(b"")
    find_images([str(tmp_path)])
    assert "left out 1 file without the ending of an image, such as scan;" in caplog.text
    assert find_images([str(tmp_path / "._x.png")]) == [tmp_path / "._x.png"], "who names a file wants it"
    inside = tmp_path / ".cache"
    assert find_images([str(inside)]) == [inside / "c.png"], "who names a folder wants it"
    with pytest.raises(UserError, match="no image in this folder"):
        find_images([str(tmp_path / "b" / "empty")] if (tmp_path / "b" / "empty").mkdir() is None else [])


TRIGGERS = "=+-@\t\r\n＝＋－＠"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), st.sampled_from(["", *TRIGGERS]))
def test_no_cell_of_a_table_begins_a_formula(text: str, first: str) -> None:
    [found] = csv.reader(io.StringIO(as_csv([[first + text, 0.5, "0.250000"]]), newline=""))
    assert found[0].removeprefix("'") == (first + text).removeprefix("'")
    assert not found[0].startswith(tuple(TRIGGERS))
    assert found[1:] == ["0.5", "0.250000"]
    [raw] = csv.reader(io.StringIO(as_csv([[first + text, 0.5]], raw=True), newline=""))
    assert raw[0] == first + text


def test_files_and_settings_are_no_formulas(
    run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = open_index(tiny_data / "test").path(0)
    name = "=cmd|' C'!A0.png"
    Image.open(photo).save(name)
    for options, expected in (([], f"'{name}"), (["--raw-csv"], name)):
        assert main(["predict", str(run), name, "--out", "out.csv", *options]) == 0
        with Path("out.csv").open(newline="") as lines:
            assert list(csv.reader(lines))[1][0] == expected
    [_, row] = csv.reader(sweep_csv([ScoredSetting("=a", ("@b=1",), (), 1, "-c")]).splitlines())
    assert [row[0], *row[-2:]] == ["'=a", "'@b=1", "'-c"]


def test_images_without_a_label_are_said_once_with_what_helps(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    photos = [str(open_index(tiny_data / "test").path(i)) for i in range(2)]
    assert main(["predict", str(run), *photos, "--threshold", "0.999"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("no class reaches its threshold in 2 of 2 images: masksup predict --threshold P") == 1
    assert out.count("masksup calibrate fits thresholds, and --out writes all scores") == 1
    assert main(["predict", str(run), *photos, "--threshold", "0.999", "--out", str(tmp_path / "scores.csv")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "and masksup calibrate fits thresholds" in out
    assert "--out" not in out
    assert main(["predict", str(run), *photos, "--threshold", "0.001"]) == 0
    assert "no class reaches" not in capsys.readouterr().out
    logging.getLogger("masksup").propagate = True
    tell_unlabelled([(Path("a"), np.array([0.9])), (Path("b"), np.array([0.1]))], default_decisions(["x"], 0.5), None)
    assert "in 1 of 2 images" in caplog.text


def test_names_with_commas_can_be_told_apart_and_asked_for() -> None:
    assert ",".join(map(quoted, ["a,b", "c", 'd"e'])) == '"a,b",c,"d""e"'
    assert class_numbers('"a,b", c', ["c", "a,b", "a"]) == (1, 0)


def test_numbers_stand_with_their_noun() -> None:
    assert [counted(n, "class") for n in (0, 1, 1200)] == ["0 classes", "1 class", "1,200 classes"]


@pytest.mark.parametrize(
    ("key", "value", "cure"),
    [
        ("augment__crop", "random_resized", "augment.crop=squish"),
        ("augment__cutout", 0.5, "augment.cutout=0"),
        ("method__name", "masksup", "method.name=baseline"),
    ],
)
def test_what_does_not_go_with_a_frozen_backbone_names_the_cure(
    key: str, value: object, cure: str, tiny_config: MakeConfig
) -> None:
    with pytest.raises(UserError, match=cure) as told:
        tiny_config(model__frozen=True, **{key: value})
    assert "model.frozen=false" in str(told.value)
