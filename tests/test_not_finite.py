"""A network whose outputs are NaN is refused in one line by all that label images, and no file gets a NaN."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from wrong_input import one_line

import masksup
from masksup.base.files import as_json
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.decisions.decisions import default_decisions
from masksup.demo.labelling import Labeller
from masksup.errors import UserError
from masksup.inference import command
from masksup.runtime.checkpoint import META, SUMS, TENSORS
from masksup.saved.open import open_trained
from masksup.training.train import train

REFUSED = r"the network's output: found NaN for class '\w+' of \d+ of \d+ images?, expected numbers"


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config]) -> Path:
    """A run whose weights are NaN at one place of the head, in a checkpoint that is whole."""
    run = tmp_path_factory.mktemp("diverged") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(epochs=1, ema__decay=0, data__eval=None), run) == 0
    for checkpoint in (run / "checkpoints").glob("step-*"):
        tensors = load_file(checkpoint / TENSORS)
        tensors["model/head.fc.weight"][1, 3] = torch.nan
        save_file(tensors, checkpoint / TENSORS)
        sums = [f"{hashlib.sha256((checkpoint / part).read_bytes()).hexdigest()}  {part}\n" for part in (TENSORS, META)]
        (checkpoint / SUMS).write_text("".join(sums))
    return run


def picture(tiny_data: Path) -> Path:
    return open_index(tiny_data / "test").path(0)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_predict(
    diverged: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    out = tmp_path / f"scores.{ending}"
    line = one_line(["predict", str(diverged), str(picture(tiny_data)), "--out", str(out)], capsys)
    assert "the network's output: found NaN for class" in line
    assert not list(tmp_path.iterdir())


def test_the_python_interface(diverged: Path, tiny_data: Path) -> None:
    with pytest.raises(UserError, match=REFUSED):
        masksup.load(diverged).predict(picture(tiny_data))


def test_the_demo(diverged: Path, tiny_data: Path) -> None:
    trained = open_trained(diverged)
    with pytest.raises(UserError, match=REFUSED):
        Labeller(trained, default_decisions(trained.classes, 0.5)).label("a", picture(tiny_data).read_bytes())


def test_an_exported_model(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_damage import make_exported

    from masksup.inference.model_file import Exported

    make_exported(tmp_path / "made")
    monkeypatch.setattr(Exported, "logits", lambda _, images: np.full((len(images), 2), np.nan, np.float32))
    out = tmp_path / "scores.json"
    assert command.main([str(tmp_path / "made" / "model.onnx"), str(picture(tiny_data)), "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert "found NaN for class 'cat' of 1 of 1 image" in err
    assert not out.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, {"a": -float("inf")}]])
def test_no_json_of_ours_holds_what_json_has_not(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json(value)


def test_every_json_is_written_that_way() -> None:
    """Elsewhere `json.dumps` only makes what is hashed, shown in an error, or sent between ranks."""
    root = Path(masksup.__file__).parents[1]
    writers = ("write_text(", ".write(", "write_atomically(", ".encode()).hexdigest", "json.dump(")
    found = [
        f"{file.relative_to(root)}:{number}: {line.strip()}"
        for folder in ("masksup", "launch", "tools")
        for file in sorted((root / folder).rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if "json.dump" in line and any(word in line for word in writers) and "hexdigest" not in line
        and "allow_nan=False" not in line
    ]  # fmt: skip
    assert not found, "\n".join(found)
