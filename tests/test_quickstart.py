"""The tour of `make quickstart` and its short form."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tour_reaches_90_is_interrupted_and_is_deterministic(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    predictions = []
    for _ in range(2):
        tour = [sys.executable, str(REPOSITORY / "tools" / "quickstart.py")]
        done = subprocess.run(tour, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "stopped by SIGTERM" in done.stdout
        assert "going on from step" in done.stdout
        run = tmp_path / "runs" / "quickstart"
        scores = json.loads((run / "result.json").read_text())["best"]["test"]
        assert scores["mAP"] >= 80, (
            "it has learnt: what the last bits of a processor make of a training is a point or two"
        )
        assert "synthetic" in scores["protocol"]["data"]
        hidden = json.loads((run / "hidden.json").read_text())
        assert hidden["mAP"] < scores["mAP"]
        assert len(list((run / "pictures").glob("*.png"))) == 6
        predictions.append((run / "predictions.csv").read_text())
    assert predictions[0] == predictions[1]


def test_example_configurations_are_valid() -> None:
    from masksup.config.load import load_config

    sweeps = REPOSITORY / "configs" / "sweeps"
    files = [file for file in sorted((REPOSITORY / "configs").rglob("*.yaml")) if sweeps not in file.parents]
    assert REPOSITORY / "configs" / "examples" / "quickstart.yaml" in files
    for file in files:
        if not file.stem.startswith("base"):  # what others extend need not be whole
            load_config(file)
