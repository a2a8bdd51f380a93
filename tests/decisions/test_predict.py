"""`masksup predict` decides by what is kept with the run, for the weights it was fitted for and no others."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.decisions.calibration import Platt
from masksup.decisions.decisions import Decisions, Fitted, write_decisions
from masksup.saved.open import open_trained
from masksup.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config]) -> Path:
    folder = tmp_path_factory.mktemp("decided") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(), folder) == 0
    return folder


def scores_of(file: Path) -> np.ndarray:
    with file.open() as lines:
        return np.array([list(map(float, row[1:])) for row in list(csv.reader(lines))[1:]])


def test_predict_uses_the_decisions_of_these_weights_only(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = open_trained(run)
    images = [str(open_index(tiny_data / "test").path(i)) for i in range(6)]
    assert main(["predict", str(run), *images, "--out", str(tmp_path / "plain.csv")]) == 0
    plain_NC = scores_of(tmp_path / "plain.csv")
    classes = trained.classes
    thresholds = tuple(float(t) for t in np.linspace(0.2, 0.8, len(classes)))
    slope, offset = (0.5,) * len(classes), tuple(float(b) for b in np.linspace(-1, 1, len(classes)))
    fitted = Fitted(trained.checkpoint, trained.sha256, trained.step, trained.weights, "val", "", 20, "by hand")
    origins = ("own",) * len(classes)
    made = Decisions(classes, thresholds, Platt(slope, offset), origins, "f1", fitted)
    write_decisions(run, made)

    capsys.readouterr()
    assert main(["predict", str(run), *images, "--out", str(tmp_path / "fitted.json")]) == 0
    out = capsys.readouterr().out
    assert "thresholds for f1, calibration platt" in out
    found = json.loads((tmp_path / "fitted.json").read_text())
    logits_NC = np.log(plain_NC) - np.log1p(-plain_NC)
    expected_NC = 1 / (1 + np.exp(-(logits_NC * 0.5 + np.array(offset))))
    for row, image in enumerate(found["images"]):
        np.testing.assert_allclose([image["scores"][name] for name in classes], expected_NC[row], atol=1e-4)
        names = [name for name in classes if image["scores"][name] >= found["thresholds"][name]]
        assert image["labels"] == names
        assert f"{images[row]} prediction: {','.join(names) or '(none above its threshold; highest: '}" in out
    assert list(found["thresholds"].values()) == list(thresholds)

    assert main(["predict", str(run), *images, "--out", str(tmp_path / "given.json"), "--threshold", "0.55"]) == 0
    assert "--threshold 0.55: takes the place of the thresholds" in capsys.readouterr().out
    given = json.loads((tmp_path / "given.json").read_text())
    assert set(given["thresholds"].values()) == {0.55}
    assert given["images"][0]["scores"] == found["images"][0]["scores"], "--threshold leaves the calibration"

    assert main(["predict", str(run), *images, "--weights", "live", "--out", str(tmp_path / "live.json")]) == 0
    assert "fitted for step" in capsys.readouterr().out
    live = json.loads((tmp_path / "live.json").read_text())
    assert live["aim"] is None
    assert set(live["thresholds"].values()) == {0.5}

    write_decisions(run, replace(made, classes=tuple(reversed(classes))))
    assert main(["predict", str(run), *images]) == 2
    assert "found other classes" in capsys.readouterr().err
