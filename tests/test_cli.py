"""The commands as a user types them: wrong input is one line and exit code 2, and nothing is half-written."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masksup.cli import COMMANDS, main
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.training.train import train

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> Path:
    """A finished run of seconds."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(), folder) == 0
    return folder


@pytest.fixture
def photo(tiny_data: Path) -> Path:
    return open_index(tiny_data / "test").path(0)


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail; its message."""
    capsys.readouterr()
    status = main(arguments)
    err = capsys.readouterr().err
    assert status == 2, err
    assert err.count("\n") == 1, err
    assert err.startswith("masksup: ")
    assert "Traceback" not in err
    return err


def test_help_answers_without_torch() -> None:
    probe = (
        "import sys\nfrom masksup.cli import COMMANDS, main\n"
        "for command in ([], *([name] for name in COMMANDS)):\n"
        "    try: main([*command, '--help'])\n"
        "    except SystemExit as e: assert e.code == 0\n"
        "    assert not {'torch', 'numpy', 'pydantic', 'rich'} & {*sys.modules}, f'{command}: heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"usage: masksup {command} " in done.stdout


@pytest.mark.parametrize(
    ("program", "commands"), [("masksup", COMMANDS), ("launch", ("submit", "preflight", "requeue"))]
)
def test_help_has_each_command_in_one_line_with_its_meaning(program: str, commands: Iterable[str]) -> None:
    ask = [sys.executable, "-m", program, "--help"]
    lines = subprocess.run(ask, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}).stdout.splitlines()
    starts = [line[4:].split(maxsplit=1) for line in lines if line.startswith(4 * " ") and line[4] != " "]
    assert {start[0] for start in starts if len(start) == 2} >= set(commands), lines


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_says_what_it_does_and_fits_the_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    usage, told, *rest = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: masksup {command} ")
    assert told
    assert not told.startswith(("positional arguments:", "options:"))
    prose = [line for part in (told, *rest) if not part.startswith(" ") for line in part.splitlines()]
    assert max(map(len, prose)) <= 60, prose


def test_print_config_shows_sources(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(tiny_config()))
    assert main(["train", "--print-config", str(path), "optim.lr=0.5"]) == 0
    out = capsys.readouterr().out
    assert "optim.lr: 0.5  # command line; Learning rate before factors and schedule." in out
    assert f"epochs: 2.0  # {path}" in out
    assert not (tmp_path / "runs").exists()


def test_overrides_and_options_come_in_any_order(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(tiny_config()))
    words = ["train", "optim.lr=0.5", "--print-config", "seed=9", "--run-dir", "x", "epochs=3"]
    assert main([*words[:1], str(path), *words[1:]]) == 0
    out = capsys.readouterr().out
    assert "optim.lr: 0.5  # command line" in out
    assert "seed: 9  # command line" in out
    assert "epochs: 3.0  # command line" in out
    with pytest.raises(SystemExit) as left:
        main(["train", str(path), "--print-confg"])
    assert left.value.code == 2


def test_eval_repeats_the_score_of_the_result(run: Path, tmp_path: Path, tiny_data: Path) -> None:
    file, predictions = tmp_path / "scores.json", tmp_path / "all.npz"
    arguments = [
        "eval",
        str(run),
        "--data",
        str(tiny_data / "val"),
        "--json",
        str(file),
        "--predictions",
        str(predictions),
    ]
    assert main(arguments) == 0
    found, result = json.loads(file.read_text()), json.loads((run / "result.json").read_text())
    assert found["AP"] == result["best"]["eval"]["AP"]
    assert found["protocol"]["tf32"] is False
    assert found["protocol"]["checkpoint_sha256"] == result["best"]["eval"]["protocol"]["checkpoint_sha256"]
    with np.load(predictions) as arrays:
        index = open_index(tiny_data / "val")
        assert arrays["ids"].tolist() == [index.id(n) for n in range(len(index))]
        assert arrays["logits"].shape == (len(index), len(index.classes))
        assert (arrays["labels"] == index.labels_NC).all()


def test_eval_takes_a_checkpoint_and_other_weights_and_rules(run: Path, tmp_path: Path, tiny_data: Path) -> None:
    scores = {}
    for weights in ("live", "ema"):
        file = tmp_path / f"{weights}.json"
        model = str(run / "checkpoints" / "latest")
        assert main(["eval", model, "--data", str(tiny_data / "test"), "--weights", weights, "--json", str(file)]) == 0
        scores[weights] = json.loads(file.read_text())
        assert scores[weights]["protocol"]["weights"] == weights
    assert scores["live"]["AP"] != scores["ema"]["AP"]
    file = tmp_path / "eleven.json"
    rules = ["--ap-rule", "voc2007", "--threshold", "0.3"]
    assert main(["eval", str(run), "--data", str(tiny_data / "test"), "--json", str(file), *rules]) == 0
    assert json.loads(file.read_text())["protocol"]["ap_rule"] == "voc2007"
    assert json.loads(file.read_text())["protocol"]["threshold"] == 0.3


def test_predict_prints_lines_and_writes_scores_equal_to_eval(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = open_index(tiny_data / "val")
    files = [str(index.path(n)) for n in range(len(index))]
    predictions = tmp_path / "all.npz"
    assert main(["eval", str(run), "--data", str(tiny_data / "val"), "--predictions", str(predictions)]) == 0
    capsys.readouterr()
    table, records = tmp_path / "out.csv", tmp_path / "out.json"
    assert main(["predict", str(run), *files, "--out", str(table), "--threshold", "0.4"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if " prediction: " in line]
    assert main(["predict", str(run), *files, "--out", str(records), "--threshold", "0.4"]) == 0
    with table.open() as file:
        header, *rows = csv.reader(file)
    with np.load(predictions) as arrays:
        expected = 1 / (1 + np.exp(-arrays["logits"].astype(float)))
    scores = np.array([[float(value) for value in row[1:]] for row in rows])
    assert header[1:] == list(index.classes)
    assert [row[0] for row in rows] == files
    assert np.abs(scores - expected).max() < 1e-5
    for line, file_name, row in zip(printed, files, expected):
        labels = ",".join(name for name, score in zip(index.classes, row) if score >= 0.4)
        labels = labels or f"(none above 0.4; highest: {index.classes[row.argmax()]} {row.max():.2f})"
        assert line == f"{file_name} prediction: {labels}"
    images = json.loads(records.read_text())["images"]
    assert [image["scores"][index.classes[3]] for image in images] == pytest.approx(expected[:, 3].tolist(), abs=1e-9)


def test_predict_takes_folders_and_globs_turns_exif_and_draws(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    upright = Image.open(photo).convert("RGB")
    upright.save(folder / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(folder / "deeper" / "turned.png", exif=exif)
    (folder / "notes.txt").write_text("not an image")
    out, pictures = tmp_path / "out.csv", tmp_path / "pictures"
    assert main(["predict", str(run), str(folder), "--out", str(out), "--pictures", str(pictures)]) == 0
    with out.open() as file:
        rows = {Path(row[0]).name: row[1:] for row in list(csv.reader(file))[1:]}
    assert rows["upright.png"] == rows["turned.png"]
    assert {path.name for path in pictures.iterdir()} == {"upright.png", "turned.png"}
    with Image.open(pictures / "upright.png") as drawn:
        assert drawn.width > upright.width
    capsys.readouterr()
    assert main(["predict", str(run), str(folder / "*.png")]) == 0
    assert capsys.readouterr().out.count(" prediction: ") == 1


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_predict_labels_the_rest_and_names_the_broken(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], end: bytes
) -> None:
    shutil.copy(photo, tmp_path / "a.jpg")
    Image.effect_noise((64, 48), 60).convert("RGB").save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:1500] + end)
    shutil.copy(photo, tmp_path / "c.jpg")
    assert main(["predict", str(run), str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out.count(" prediction: ") == 2
    assert captured.err.count("\n") == 1
    assert "b.jpg" in captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["eval", "nowhere"], "nowhere: no such run folder or checkpoint"),
        (["eval", "{tmp}"], "expected a run folder or a checkpoint"),
        (["eval", "{run}", "--data", "nowhere"], "nowhere"),
        (["eval", "{run}", "--threshold", "1.5"], "--threshold: found 1.5"),
        (["eval", "{run}", "--bootstrap", "-1"], "--bootstrap: found -1"),
        (["train", "{config}", "eval.size_shares=[0.5,0.1]"], "eval.size_shares: the first number is above the second"),
        (["train", "{config}", "eval.masked=[high,high]"], "eval.masked: a level stands twice"),
        (["train", "{config}", "eval.masked=[middle]"], "eval.masked"),
        (["predict", "{run}", "{tmp}"], "found no image in this folder"),
        (["predict", "{run}", "nothing*.jpg"], "no such image, folder or match"),
        (["predict", "{run}", "{photo}", "--out", "scores.xlsx"], "ends in .csv or .json"),
        (["predict", "{run}", "{photo}", "--out", "nowhere/all.csv"], "nowhere: cannot be written to"),
        (["predict", "{run}", "{photo}", "--pictures", "{config}"], "cannot be written to"),
        (["predict", "{run}", "x" * 5000], "File name too long"),
        (["eval", "{run}", "--json", "nowhere/a.json"], "nowhere: cannot be written to"),
        (["train", "{config}", "--run-dir", "/proc/here"], "/proc/here: cannot be written to"),
        (["train", "{config}", "model.frozen=true", "data.broken_budget=0.5"], "data.broken_budget"),
        (["train", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["train", "{config}", "model.backbone=resnet1"], "resnet1"),
        (["train", "{config}", "model.weights={tmp}/none.pth"], "none.pth"),
        (["train", "{config}", "data.train={tmp}/none"], "none"),
        (["train", "{config}", "precision.device=cuda"], "precision.device: found cuda"),
        (["train", "{config}", "model.head.name=csra", "model.head.heads=3"], "model.head.heads"),
        (["train", "{config}", "data.folds=100", "data.eval=null"], "data.folds: found 100"),
        (["train", "{config}", "data.last_batch=drop", "batch.global=64", "batch.micro=64"], "data.last_batch"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], expected: str, run: Path, photo: Path, tiny_config: MakeConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if "precision.device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = tmp_path.parent / f"{tmp_path.name}.yaml"
    config.write_text(to_yaml(tiny_config()))
    places = {"run": run, "tmp": tmp_path, "photo": photo, "config": config}
    monkeypatch.chdir(tmp_path)
    message = one_line([argument.format(**places) for argument in arguments], capsys)
    assert expected in message
    assert not list(tmp_path.iterdir())


def test_a_wrong_section_is_told_of_the_command_line_where_it_stood_there(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(tiny_config()))
    assert main(["train", str(file), "modle.size=3"]) == 2
    assert capsys.readouterr().err.startswith("masksup: command line: modle: unknown key; did you mean 'model'?")


def test_checkpoint_of_another_model_is_one_line(
    run: Path, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "other.yaml"
    config.write_text(to_yaml(tiny_config(model={"backbone": "test_vit", "size": 32, "weights": str(run)})))
    message = one_line(["train", str(config), "--run-dir", str(tmp_path / "run")], capsys)
    assert "model.weights" in message
    assert "another backbone" in message


def test_a_damaged_best_checkpoint_is_refused_and_another_is_named(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    best = (tmp_path / "run" / "checkpoints" / "best").resolve()
    with (best / "state.safetensors").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    others = [path for path in (tmp_path / "run" / "checkpoints").glob("step-*") if path != best]
    command = ["eval", str(tmp_path / "run"), "--data", str(tiny_data / "val")]
    message = one_line(command, capsys)
    assert "damaged" in message
    assert all(path.name in message for path in others)
    for path in others:
        assert main([*command, "--checkpoint", path.name]) == 0


def test_a_crash_is_a_traceback_and_leaves_a_run_that_resumes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(to_yaml(tiny_config(checkpoint={"every_steps": 1})))
    probe = (
        "import sys, masksup.engine.step as s\nfrom masksup.cli import main\nreal = s.Stepper.step\n"
        "def step(self, b, n, *more):\n    if n == 3: raise RuntimeError('a bug')\n    return real(self, b, n, *more)\n"
        f"s.Stepper.step = step\nsys.exit(main(['train', {str(config)!r}, '--run-dir', {str(tmp_path / 'run')!r}]))"
    )
    crashed = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert crashed.returncode == 1
    assert "RuntimeError: a bug" in crashed.stderr
    assert main(["train", str(config), "--run-dir", str(tmp_path / "run")]) == 0


def test_predict_writes_its_file_although_the_reader_of_the_pipe_left(run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    command = [sys.executable, "-m", "masksup", "predict", run, *[photo] * 3, photo.parent, "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in said
    assert len(out.read_text().splitlines()) == 1 + len(list(photo.parent.glob("*.jpg")))


def test_pictures_of_files_with_one_name_do_not_overwrite_each_other(run: Path, photo: Path, tmp_path: Path) -> None:
    for folder in ("1/a/x", "2/a/x"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "photos" / folder / "i.jpg")
    Image.open(photo).save(tmp_path / "photos" / "1/a/x/i.png")
    assert main(["predict", str(run), str(tmp_path / "photos"), "--pictures", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
