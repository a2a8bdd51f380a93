"""Commands end with the commands that come next, which run as they are copied."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from masksup.cli import main
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.data.index import open_index

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


def test_after_preparing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--train", "8", "--val", "4", "--test", "2", "--size", "32"]
    assert main(["prepare", "shapes", "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "data"), *sizes]) == 0
    choose, train = following(capsys.readouterr().out)
    assert choose[:3] == ["masksup", "auto", "--data"]
    assert train[3:] == [
        f"data.train={tmp_path / 'data' / 'train'}", f"data.eval={tmp_path / 'data' / 'val'}",
        f"data.test={tmp_path / 'data' / 'test'}",
    ]  # fmt: skip
