"""Commands end with the commands that come next, which run as they are copied."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from masksup.base.log import log, start_logging
from masksup.base.next_steps import tell_next
from masksup.cli import main
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.training.train import train

MakeConfig = Callable[..., Config]


def following(out: str) -> list[list[str]]:
    """The words of each command that the output ends with."""
    lines = out[out.rindex("next:\n") :].splitlines()[1:]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert commands
    assert all(command[0] in ("masksup", "masksup-run") for command in commands)
    return commands


def test_from_training_to_an_archive(
    tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    photo = str(open_index(tiny_data / "test").path(0))
    Path("run.yaml").write_text(to_yaml(tiny_config(epochs=1)))
    assert main(["train", "run.yaml", "--run-dir", "my run"]) == 0
    predict, calibrate, report, *_ = following(capsys.readouterr().out)  # a doctor where the loader was slow
    assert main([photo if word == "PHOTOS" else word for word in predict[1:]]) == 0
    assert report[1] == "report"
    assert main([*calibrate[1:], "--bootstrap", "20", "--folds", "2"]) == 0
    again, export, pack = following(capsys.readouterr().out)
    assert (again[1], export[1]) == ("predict", "export")
    assert main(pack[1:]) == 0
    assert Path("my run.zip").is_file()


def test_a_calibration_that_would_be_refused_is_not_offered(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("masksup.training.what_next.LEAST_POSITIVES", 10_000)
    assert train(tiny_config(epochs=1), tmp_path / "run") == 0
    assert [command[1] for command in following(capsys.readouterr().out)][:2] == ["predict", "report"]


def test_a_run_that_is_finished_says_what_comes_next(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    for _ in range(2):
        assert train(tiny_config(epochs=1), tmp_path / "run") == 0
        out = capsys.readouterr().out
        assert [command[1] for command in following(out)][:3] == ["predict", "calibrate", "report"]
    assert "this run is finished" in out
    (tmp_path / "run" / "result.json").write_text("{")
    assert train(tiny_config(epochs=1), tmp_path / "run") == 0
    assert "result.json: cannot be read" in capsys.readouterr().out


def test_after_preparing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--train", "8", "--val", "4", "--test", "2", "--size", "32"]
    assert main(["prepare", "shapes", "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "data"), *sizes]) == 0
    choose, train = following(capsys.readouterr().out)
    assert choose[:3] == ["masksup", "auto", "--data"]
    assert train[3:] == [
        f"data.train={tmp_path / 'data' / 'train'}", f"data.eval={tmp_path / 'data' / 'val'}",
        f"data.test={tmp_path / 'data' / 'test'}",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [30, 200])
def test_a_narrow_terminal_gets_whole_words_and_whole_commands(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("log", "next_steps"):
        narrow = Console(force_terminal=True, width=width, highlight=False, soft_wrap=True, color_system=None)
        monkeypatch.setattr(f"masksup.base.{module}.console", narrow)
    start_logging()
    log.info("a class without positives is left out of the mean")
    tell_next((("masksup", "report", "runs/of a long name"), "a page"), (("masksup", "predict", "b"), "labels"))
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    commands = ["  masksup report 'runs/of a long name'", "  masksup predict b"]
    if width == 200:
        assert said[1:] == ["next:", f"{commands[0]}   # a page", f"{commands[1].ljust(len(commands[0]))}   # labels"]
    else:
        assert said[:2] == ["a class without positives is", "left out of the mean"]
        assert said[2:] == ["next:", "  # a page", commands[0], "  # labels", commands[1]]
