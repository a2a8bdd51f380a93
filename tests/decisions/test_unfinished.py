"""Commands that need a trained or a scored run, given one that is not: one line, and nothing is written."""

import shutil
import socket
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from wrong_input import one_line

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.training.train import train

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config], tiny_data: Path) -> Path:
    """A finished run that names no evaluation index, and so was never scored."""
    folder = tmp_path_factory.mktemp("unfinished") / "never"
    assert train(tiny_config(epochs=1, data={"train": str(tiny_data / "train"), "workers": 0}), folder) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("folder", [True, False], ids=["no checkpoint", "no folder of checkpoints"])
def test_a_run_without_a_checkpoint(
    folder: bool, never: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(never, begun, symlinks=True)
    shutil.rmtree(begun / "checkpoints")
    (begun / "result.json").unlink()
    if folder:
        (begun / "checkpoints").mkdir()
    before = content(tmp_path)
    out = str(tmp_path / "out")
    commands = [
        ["calibrate"], ["calibrate", "--data", str(tiny_data / "val")], ["report"], ["eval"],
        ["report", "--out", f"{out}.html"], ["export", "--out", f"{out}.onnx"], ["pack", "--out", f"{out}.zip"],
        ["predict", str(open_index(tiny_data / "val").path(0)), "--out", f"{out}.csv"],
    ]  # fmt: skip
    if find_spec("nicegui") is not None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            commands.append(["demo", "--port", str(free.getsockname()[1])])
    for command, *options in commands:
        line = one_line([command, str(begun), *options], capsys)
        assert f"{begun}: found no checkpoint in it yet; train further first" in line
    assert content(tmp_path) == before


def test_a_run_that_was_never_scored(
    never: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(never)
    said = {
        ("calibrate",): "names no data.eval and no data.folds, so there is nothing to fit to; name an index",
        ("report",): "names no data.eval or data.test, so it was never evaluated; name an index",
        ("eval",): "--data: not given, and the run's configuration names no data.eval or data.test",
    }  # fmt: skip
    for (command, *options), expected in said.items():
        assert expected in one_line([command, str(never), *options], capsys)
    assert content(never) == before
    assert not list(tmp_path.iterdir())
    # To share it nothing is missing but scores, which its card says.
    assert main(["pack", str(never), "--out", str(tmp_path / "out.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        card = archive.read("README.md").decode()
    assert "epoch chosen on: nothing: it is the last epoch" in card
    assert "None are known of these weights." in card
