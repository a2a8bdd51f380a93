"""`masksup export` and `masksup-run`: one trained run through both, and everything that can be wrong with them."""

import codecs
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logits import logit
from PIL import Image
from processor import avx2

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.decisions.calibration import Temperature
from masksup.decisions.decisions import Decisions, Fitted, Origin, write_decisions
from masksup.inference import command, model_file
from masksup.inference.model_file import open_exported
from masksup.metrics.summary import score
from masksup.saved.open import open_trained
from masksup.training.train import train

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# What a machine that only runs exported files does not have.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Absent())
"""
ABSENT = ("torch", "torchvision", "timm", "pydantic", "yaml", "rich", "safetensors", "onnx", "onnxscript", "scipy")


@pytest.fixture(scope="module")
def run(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run"
    config = tiny_config(epochs=1, ema__decay=0.0, augment__eval_resize="center_crop", eval__bootstrap=0)
    assert train(config, folder) == 0
    classes = open_index(Path(config.data.train)).classes
    # Decisions that nobody would get by a sigmoid and 0.5.
    thresholds = tuple(0.3 + 0.03 * c for c in range(len(classes)))
    trained = open_trained(folder)
    fitted = Fitted(trained.checkpoint, trained.sha256, trained.step, trained.weights, "val", "", 20, "by hand")
    origins: tuple[Origin, ...] = ("own", "given", *["shared"] * (len(classes) - 2))  # type: ignore[assignment]
    write_decisions(folder, Decisions(classes, thresholds, Temperature(0.5), origins, "recall=0.8", fitted))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.parent / "model.onnx"
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["export", str(run), "--out", str(out), "--precision", "fp32,fp16,int8"]) == 0
    (run.parent / "printed.txt").write_text(printed.getvalue())
    return run.parent / "model_fp32.onnx"


@pytest.fixture(scope="module")
def pictures(tiny_data: Path) -> list[Path]:
    index = open_index(tiny_data / "val")
    return [Path(index.where(sample)) for sample in range(len(index))]


@avx2
def test_labels_without_torch_are_those_of_predict(
    run: Path, exported: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(map(str, pictures))
    assert main(["predict", str(run), *names, "--out", str(tmp_path / "predict.json")]) == 0
    told, *expected = capsys.readouterr().out.splitlines()[:-1]  # the last line names the file of scores
    assert told == (
        "thresholds for recall=0.8, calibration temperature, fitted on val: 1 class has its own, "
        "10 classes have the shared one, 1 class has a given one"
    )
    assert len({line.partition(" prediction: ")[2] for line in expected}) > 1, "all images have the same labels"

    out = tmp_path / "run.json"
    script = WITHOUT.format(absent=ABSENT) + (
        "from masksup.inference.command import main\nstatus = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nsys.exit(status)"
    )
    options = ["--batch", "3", "--threads", "1", "--out", str(out), "--benchmark"]
    done = subprocess.run(
        [sys.executable, "-c", script, str(exported), *names, *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [told, *expected]
    for part in ("preparation", "inference", "post-processing", "images/s", "peak memory of the process"):
        assert part in done.stderr

    ours, theirs = (json.loads(file.read_text())["images"] for file in (out, tmp_path / "predict.json"))
    apart = [abs(a["scores"][name] - b["scores"][name]) for a, b in zip(ours, theirs) for name in a["scores"]]
    assert max(apart) < 1e-5
    assert max(apart) > 0, "the same numbers to the last bit: was this onnxruntime?"


def labelled_by_both(
    run: Path, exported: Path, images: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """What `predict` prints, and its scores by path, after `masksup-run` was seen to say the same; CSVs beside."""
    printed, scores = [], []
    for name, program in (("predict", lambda argv: main(["predict", str(run), *argv])),
                          ("run", lambda argv: command.main([str(exported), "--batch", "3", *argv]))):  # fmt: skip
        for suffix in ("json", "csv"):
            capsys.readouterr()
            assert program([*images, "--out", str(folder / f"{name}.{suffix}")]) == 0
        # By "\n" alone: any other break of a line has to be escaped as well.
        printed.append([line for line in capsys.readouterr().out.split("\n") if " prediction: " in line])
        rows = json.loads((folder / f"{name}.json").read_text())["images"]
        scores.append({row["image"]: row["scores"] for row in rows})
    assert printed[0] == printed[1]
    assert list(scores[0]) == list(scores[1])
    for path, expected in scores[0].items():
        assert scores[1][path] == pytest.approx(expected, abs=1e-5), path
    return printed[0], scores[0]


@avx2
def test_any_file_name_is_one_line_and_comes_back_from_the_files(
    run: Path, exported: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["break\nhere prediction: x.jpg", "tab\t.jpg", "return\r.jpg", "next\x85\u2028\u2029.jpg", "back\\n.jpg",
             'quote",.jpg', "escape\x1b[31m.jpg", os.fsdecode(b"no utf-8 \xff.jpg"), "plain \u00e9.jpg"]  # fmt: skip
    folder = tmp_path / "images"
    folder.mkdir()
    for name, picture in zip(names, pictures):
        (folder / name).write_bytes(picture.read_bytes())
    paths = sorted(str(folder / name) for name in names)
    lines, scores = labelled_by_both(run, exported, [str(folder)], tmp_path, capsys)
    assert list(scores) == paths
    assert len(lines) == len(names)
    assert all(line.isprintable() for line in lines)
    # A literal of Python without its quotes, so that any other program can take it back.
    shown = [line.rpartition(" prediction: ")[0].removeprefix(f"{folder}/") for line in lines]
    told = [codecs.decode(text.encode("ascii", "backslashreplace"), "unicode_escape") for text in shown]
    assert told == [path.removeprefix(f"{folder}/") for path in paths]
    for written in ("predict.csv", "run.csv"):
        with (tmp_path / written).open(newline="", errors="surrogateescape") as file:
            assert [row[0] for row in csv.reader(file)][1:] == paths


def odd_images(folder: Path, picture: Path) -> list[tuple[str, str]]:
    """Files of many kinds in `folder`, each with the name of a plain PNG of the same pixels."""
    photo = Image.open(picture).convert("RGB")
    gray_HW = np.asarray(photo.convert("L"))
    plain = {
        "photo.png": photo, "gray.png": Image.fromarray(gray_HW), "point.png": photo.crop((20, 20, 21, 21)),
        "turned.png": photo.transpose(Image.Transpose.ROTATE_270),
    }  # fmt: skip
    plain["white.png"] = Image.new("RGB", photo.size, "white")
    plain["flat.png"] = plain["point.png"].resize((7, 5))
    for name, image in plain.items():
        image.save(folder / name)
    Image.fromarray(gray_HW.astype(np.uint16) * 256 + 255).save(folder / "sixteen bits.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "exif.png", exif=exif)
    other = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    photo.save(folder / "moving.webp", save_all=True, append_images=[other], lossless=True)
    photo.convert("P").save(folder / "moving.gif", save_all=True, append_images=[other.convert("P")])
    Image.open(folder / "moving.gif").convert("RGB").save(folder / "first frame.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.open(folder / "cmyk.jpg").convert("RGB").save(folder / "printed.png")
    Image.new("RGBA", photo.size, (9, 9, 9, 0)).save(folder / "transparent.png")
    (folder / "named wrongly.jpg").write_bytes((folder / "photo.png").read_bytes())
    return [
        ("sixteen bits.png", "gray.png"), ("exif.png", "turned.png"), ("moving.webp", "photo.png"),
        ("moving.gif", "first frame.png"), ("cmyk.jpg", "printed.png"), ("transparent.png", "white.png"),
        ("named wrongly.jpg", "photo.png"), ("point.png", "flat.png"),
    ]  # fmt: skip


@avx2
def test_odd_images_are_labelled_by_their_pixels_and_each_once(
    run: Path, exported: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, nothing = tmp_path / "images", tmp_path / "nothing"
    for made in (folder, nothing):
        made.mkdir()
    pairs = odd_images(folder, pictures[0])
    photo = folder / "photo.png"
    given = [str(photo), str(folder), str(folder / "*.png"), str(photo)]
    lines, scores = labelled_by_both(run, exported, given, tmp_path, capsys)
    files = sorted(map(str, folder.iterdir()))
    assert list(scores) == [str(photo), *(file for file in files if file != str(photo))]
    assert len(lines) == len(files)
    for odd, plain in pairs:
        assert scores[str(folder / odd)] == scores[str(folder / plain)], odd
    assert len({tuple(found.values()) for found in scores.values()}) == len(files) - len(pairs)
    for program in (lambda argv: main(["predict", str(run), *argv]), lambda argv: command.main([str(exported), *argv])):
        line = told([str(photo), str(nothing)], capsys, program)
        assert f"{nothing}: found no image in this folder; expected .bmp, .gif" in line


@avx2
def test_scores_of_eval_are_reproduced(
    run: Path, exported: Path, pictures: list[Path], tiny_data: Path, tmp_path: Path
) -> None:
    assert main(["eval", str(run), "--json", str(tmp_path / "eval.json")]) == 0
    assert command.main([str(exported), *map(str, pictures), "--batch", "4", "--out", str(tmp_path / "run.csv")]) == 0
    rows = (tmp_path / "run.csv").read_text().splitlines()[1:]
    scores_NC = np.array([[float(value) for value in row.split(",")[1:]] for row in rows])
    index = open_index(tiny_data / "val")
    found = score(logit(scores_NC), np.asarray(index.labels_NC), index.classes)
    assert found["mAP"] == pytest.approx(json.loads((tmp_path / "eval.json").read_text())["mAP"], abs=1e-4)


def test_the_file_says_what_it_is(run: Path, exported: Path) -> None:
    card = open_exported(exported).card
    assert (card.preprocessing.size, card.preprocessing.resize) == (32, "center_crop")
    assert card.decisions.calibration == Temperature(0.5)
    assert card.facts["model"]["head"]["name"] == "linear"
    assert card.facts["checkpoint"]["name"].startswith("run/step-")
    assert len(card.facts["config_sha256"]) == 64
    assert card.facts["check"]["largest_difference"] <= 1e-4
    assert card.facts["check"]["images"] == 20
    for precision in ("fp16", "int8"):
        other = open_exported(exported.with_name(f"model_{precision}.onnx"))
        assert other.card.precision == precision
        assert other.card.facts["check"]["largest_difference"] > card.facts["check"]["largest_difference"]
    assert not list(exported.parent.glob(".*partial*"))


def said_of_size(printed: str, precision: str) -> list[int]:
    """The percentages that warn that a file is about as large as that of fp32."""
    return [int(p) for p in re.findall(rf"--precision {precision}: the file is (\d+) % as large as fp32", printed)]


def test_int8_that_saves_little_says_so(run: Path, exported: Path) -> None:
    """Nearly all weights of this residual network are in convolutions."""
    printed = (exported.parent / "printed.txt").read_text()
    share = exported.with_name("model_int8.onnx").stat().st_size / exported.stat().st_size
    assert share > 0.9
    assert said_of_size(printed, "int8") == [pytest.approx(100 * share, abs=1)]
    assert said_of_size(printed, "fp16") == []


@pytest.mark.slow
def test_int8_that_saves_much_says_nothing(
    tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of a transformer are in matrix products."""
    assert train(tiny_config(epochs=1, model__backbone="test_vit", eval__bootstrap=0), tmp_path / "run") == 0
    out = ["--out", str(tmp_path / "model.onnx"), "--precision", "fp32,int8"]
    assert main(["export", str(tmp_path / "run"), *out]) == 0
    large, small = ((tmp_path / f"model_{precision}.onnx").stat().st_size for precision in ("fp32", "int8"))
    assert small < 0.7 * large
    assert said_of_size(capsys.readouterr().out, "int8") == []


def test_a_torch_program_loads_without_this_package(run: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert main(["export", str(run), "--format", "torch", "--out", str(out)]) == 0
    script = WITHOUT.format(absent=("masksup", "timm")) + (
        "import json, torch\nfiles = {'masksup.json': ''}\n"
        "program = torch.export.load(sys.argv[1], extra_files=files).module()\n"
        "card = json.loads(files['masksup.json'])\n"
        "logits, = program(torch.full((3, 3, 32, 32), 90, dtype=torch.uint8))\n"
        "print(json.dumps([card['decisions']['classes'], logits.tolist()]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    classes, logits = json.loads(done.stdout)
    other = open_exported(exported)
    assert tuple(classes) == other.card.decisions.classes
    np.testing.assert_allclose(logits, other.logits(np.full((3, 3, 32, 32), 90, np.uint8)), atol=1e-4)


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], program: Callable[[list[str]], int] = main) -> str:
    """The one line of an error."""
    capsys.readouterr()
    assert program(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "torch", "--out", "x.pt2", "--precision", "fp16"], "found fp16 with --format torch"),
        (["--out", "x.onnx", "--precision", "fp8"], "--precision: found 'fp8', expected some of fp32, fp16, int8"),
        (["--out", "x.pt2"], "expected a name that ends in .onnx"),
        (["--out", "x.onnx", "--opset", "7"], "--opset: found 7, expected 18 to"),
        (["--out", "nowhere/x.onnx"], "nowhere: cannot be written to"),
        (["--out", "x.onnx", "--check", "nothing.jpg"], "nothing.jpg: no such image"),
    ],
)
def test_wrong_exports(
    options: list[str], says: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert says in told(["export", str(run), *options], capsys)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_model_that_differs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("masksup.export.check.TOLERANCE", 0.0)
    line = told(["export", str(run), "--out", str(tmp_path / "x.onnx")], capsys)
    assert line.endswith("expected at most 0; nothing was written")
    assert not list(tmp_path.iterdir())


def test_missing_packages(
    run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime is not installed" in told(["export", str(run), "--out", str(tmp_path / "x.onnx")], capsys)
    assert "onnxruntime is not installed" in told([str(exported), str(tmp_path)], capsys, lambda argv: only_run(argv))


def only_run(arguments: list[str]) -> int:
    """masksup-run with a picture to label."""
    picture = Path(arguments[1]) / "x.jpg"
    picture.write_bytes(b"")
    return command.main([arguments[0], str(picture)])


def changed(content: bytes) -> dict[str, bytes]:
    """Files that are no exported model any more."""
    at = content.index(b'"thresholds"') + 20
    middle = len(content) // 2
    return {
        "altered metadata": content[:at] + content[at:].replace(b"3", b"7", 1),
        "altered weights": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "cut off": content[:-1000],
        "text": b"not a model " * 100,
        "empty": b"",
        "other onnx": (sealed := content[:100]) + model_file.seal(sealed),
    }


def test_files_that_are_no_exported_model(
    exported: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = {
        "altered metadata": "was changed after its export", "altered weights": "was changed after its export",
        "cut off": "found no exported model in it", "text": "found no exported model in it",
        "empty": "found an empty file", "other onnx": "onnxruntime cannot read it",
    }  # fmt: skip
    for name, content in changed(exported.read_bytes()).items():
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(content)
        assert says[name] in told([str(file), str(pictures[0])], capsys, command.main), name
    line = told([str(tmp_path / "absent.onnx"), str(pictures[0])], capsys, command.main)
    assert "absent.onnx: no such file" in line
    assert f"{tmp_path}: found a folder" in told([str(tmp_path), str(pictures[0])], capsys, command.main)
    (tmp_path / "all.csv").mkdir()
    line = told([str(exported), str(pictures[0]), "--out", str(tmp_path / "all.csv")], capsys, command.main)
    assert "--out: found the folder" in line
    assert not list(tmp_path.glob(".*")), "nothing is left"
    line = told([str(exported), str(pictures[0]), "--precision", "int8"], capsys, command.main)
    assert "--precision: found int8" in line
    line = told([str(exported), str(pictures[0]), "--device", "cuda"], capsys, command.main)
    assert "--device: found cuda" in line


def test_an_image_that_is_none_is_named_and_the_others_are_labelled(
    exported: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    given: list[Any] = [exported, pictures[0], broken, pictures[1], "--batch", "2"]
    capsys.readouterr()
    assert command.main(list(map(str, given))) == 2
    seen = capsys.readouterr()
    assert seen.out.count(" prediction: ") == 2
    assert seen.err.strip().splitlines()[-1].startswith(f"masksup-run: {broken}: found no readable image")
