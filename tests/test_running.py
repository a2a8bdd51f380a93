"""A trained model is run on the device, batch and threads that are asked for, whatever its configuration names."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import masksup
from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.demo.labelling import Labeller
from masksup.methods.method import Method
from masksup.saved.decisions_of import decisions_for
from masksup.saved.open import open_trained
from masksup.saved.packed import read_packed, write_packed
from masksup.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config]) -> Path:
    folder = tmp_path_factory.mktemp("running") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(epochs=1), folder) == 0
    return folder


@pytest.fixture
def of_a_gpu(run: Path, tmp_path: Path) -> Path:
    """An archive of a run that was trained with `precision.device: cuda`."""
    assert main(["pack", str(run), "--out", str(tmp_path / "cpu.zip")]) == 0
    packed = read_packed(tmp_path / "cpu.zip")
    precision = packed.config.precision.model_copy(update={"device": "cuda"})
    write_packed(
        tmp_path / "gpu.zip", replace(packed, config=packed.config.model_copy(update={"precision": precision})), ""
    )
    return tmp_path / "gpu.zip"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images of each forward pass."""
    seen: list[int] = []
    before = Method.predict

    def predict(self: Method, images_B3SS: torch.Tensor) -> torch.Tensor:
        seen.append(len(images_B3SS))
        return before(self, images_B3SS)

    monkeypatch.setattr(Method, "predict", predict)
    return seen


def test_labelling_runs_the_images_that_are_there_and_no_more(
    run: Path, tiny_data: Path, tmp_path: Path, batches: list[int]
) -> None:
    photos = [open_index(tiny_data / "test").path(i) for i in range(5)]
    model = masksup.load(run)
    model.predict(photos[0])
    model.predict(photos)
    masksup.load(run, batch=2).predict(photos)
    trained = open_trained(run)
    Labeller(trained, decisions_for(trained)).label("a.jpg", photos[0].read_bytes())
    assert main(["predict", str(run), *map(str, photos)]) == 0
    assert main(["predict", str(run), *map(str, photos), "--batch", "3"]) == 0
    assert batches == [1, 5, 2, 2, 1, 1, 5, 3, 2]
    batches.clear()
    model.predict(photos[0], exact=True)
    assert main(["predict", str(run), *map(str, photos), "--exact"]) == 0
    assert batches == [32, 32]


def test_exact_scores_are_those_of_an_evaluation_to_the_last_bit(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    index = open_index(tiny_data / "test")
    where = ["--data", str(tiny_data / "test"), "--predictions", str(tmp_path / "out.npz")]
    assert main(["eval", str(run), *where]) == 0
    logits_NC = np.load(tmp_path / "out.npz")["logits"].astype(np.float64)
    files = [str(index.path(i)) for i in range(len(index))]
    assert main(["predict", str(run), *files, "--exact", "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["images"]
    found_NC = np.array([list(image["scores"].values()) for image in found])
    decisions = decisions_for(open_trained(run))
    assert np.array_equal(found_NC, decisions.probabilities(logits_NC))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["eval", "predict", "export", "report", "pack"])
def test_a_run_of_a_gpu_is_used_without_one(
    command: str, of_a_gpu: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tiny_data / "test")
    photo = str(open_index(tiny_data / "test").path(0))
    rest = {
        "eval": ["--data", data], "predict": [photo], "report": ["--data", data, "--out", str(tmp_path / "r.html")],
        "export": ["--format", "torch", "--out", str(tmp_path / "o.pt2"), "--check", photo],
        "pack": ["--out", str(tmp_path / "again.zip")],
    }[command]  # fmt: skip
    assert main([command, str(of_a_gpu), *rest]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("none here: the CPU is used" in said) == (command in ("eval", "predict", "report"))
    if command == "pack":
        assert open_trained(tmp_path / "again.zip").config.precision.device == "cuda"
    elif command != "export":
        assert main([command, str(of_a_gpu), *rest, "--device", "cuda"]) == 2
        assert "torch sees no GPU" in capsys.readouterr().err
        assert main([command, str(of_a_gpu), *rest, "--device", "cpu"]) == 0
        assert "the CPU is used" not in capsys.readouterr().out
    else:
        assert main([command, str(of_a_gpu), *rest, "--device", "cuda"]) == 2
        assert "--device: found cuda" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "predict", "calibrate", "export", "report", "demo"])
def test_every_command_that_runs_a_model_takes_the_options(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {"predict": ["a.jpg"], "export": ["--out", "o.onnx"]}.get(command, [])
    for option, wrong in (("--batch", "0"), ("--threads", "-1")):
        assert main([command, str(run), *rest, option, wrong]) == 2
        assert f"{option}: found {wrong}, expected at least" in capsys.readouterr().err


def test_threads_are_those_that_are_asked_for(run: Path, tiny_data: Path) -> None:
    photo = str(open_index(tiny_data / "test").path(0))
    for asked, expected in (("2", 2), ("1", 1)):
        assert main(["predict", str(run), photo, "--threads", asked]) == 0
        assert torch.get_num_threads() == expected, os.environ.get("OMP_NUM_THREADS")


def test_a_model_says_what_it_is(run: Path) -> None:
    model: Any = masksup.load(run)
    assert "test_resnet + linear, 32 px, 12 classes, threshold 0.5" in repr(model)
    assert model.trained.checkpoint in repr(model)
