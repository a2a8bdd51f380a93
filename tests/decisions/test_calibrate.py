"""`masksup calibrate` as a user types it: what it keeps, what it says, what it refuses."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from wrong_input import one_line

from masksup.calibration.calibrate import part_to_fit
from masksup.calibration.show import remarks, show
from masksup.cli import main
from masksup.config.schema import Config
from masksup.decisions.decisions import read_decisions
from masksup.engine.precision import set_numerics
from masksup.metrics.precision_recall import decision_scores
from masksup.metrics.reliability import calibration_scores
from masksup.saved.open import open_trained
from masksup.saved.outputs import predict_alone
from masksup.training.train import train

MakeConfig = Callable[..., Config]
QUICK = ["--bootstrap", "20", "--folds", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig, tiny_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(data__test=str(tiny_data / "test")), folder) == 0
    return folder


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "isotonic"])
def test_what_is_kept_is_what_was_fitted(
    method: str, run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", str(run), "--aim", "budget=2", "--method", method, "--rule", "shared", *QUICK]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "shared (kept)" in out
    assert "Aim budget=2" in out
    decisions = read_decisions(run)
    assert decisions is not None
    trained = open_trained(run)
    assert decisions.calibration.kind == method
    assert decisions.aim == "budget=2"
    assert decisions.fits(trained.sha256, trained.weights)
    assert decisions.fitted is not None
    assert decisions.fitted.samples == 20
    part = part_to_fit(trained, None)
    set_numerics(trained.config.precision)
    logits_NC = predict_alone(trained, part).logits_NC
    probabilities_NC = decisions.probabilities(logits_NC)
    predicted_NC = decisions.predicted(probabilities_NC)
    assert 1.5 < predicted_NC.sum(1).mean() <= 2 or method == "isotonic"  # whose ties are predicted together or not
    facts = json.loads((run / "calibration.json").read_text())
    assert facts["rules"]["shared"]["in_sample"] == decision_scores(predicted_NC, part.labels_NC)
    assert facts["calibration"]["after_in_sample"] == calibration_scores(probabilities_NC, part.labels_NC)
    same = facts["calibration"]["before"] == facts["calibration"]["after"]
    assert same == (method == "none")
    rows = facts["classes"].values()
    assert [row["threshold"] for row in rows] == list(decisions.thresholds)
    assert {row["origin"] for row in rows} == {"shared"}
    low, high = facts["shared"]["bounds"]
    assert low <= decisions.thresholds[0] <= high
    scores = run.parent / "scores.json"
    assert main(["eval", str(run), "--data", str(tiny_data / "val"), "--bootstrap", "0", "--json", str(scores)]) == 0
    assert f"{predicted_NC.sum(1).mean():.2f} labels an image" in capsys.readouterr().out
    decided = json.loads(scores.read_text())["decided"]
    assert {key: decided[key] for key in facts["rules"]["shared"]["in_sample"]} == facts["rules"]["shared"]["in_sample"]


def test_what_no_threshold_reaches_is_said_and_given_ones_are_kept(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aim = ["--aim", "precision=0.999", "--min-positives", "1"]
    assert main(["calibrate", str(run), *aim, "--class", "disc=0.25", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "no threshold reaches precision=0.999 (best " in out
    assert "set by hand, which the scores above do not know: disc" in out
    decisions = read_decisions(run)
    assert decisions is not None
    assert decisions.thresholds[decisions.classes.index("disc")] == 0.25
    facts = json.loads((run / "calibration.json").read_text())
    for name, row in facts["classes"].items():
        if row["best_precision"] is not None and name != "disc":
            assert f"{name}: no threshold" in out
            assert row["origin"] == "shared"
            assert row["threshold"] == facts["shared"]["threshold"]
        elif row["origin"] == "own":
            assert np.isfinite(row["threshold"])
    assert any(row["best_precision"] is not None for row in facts["classes"].values())


def test_of_many_thresholds_the_first_and_the_worst_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(c: int) -> dict[str, Any]:
        same = {
            "origin": "own",
            "threshold": 0.5,
            "low": None,
            "precision": 50.0,
            "positives": 9,
            "best_precision": 1.0,
        }
        return {**same, "best_precision": 1.0, "recall": 100 - c / 10}

    scores = dict.fromkeys(("F1", "OF1", "OP", "OR", "labels"), 1.0)
    held = {"held_out": scores, "in_sample": scores}
    calibration = dict.fromkeys(
        ("before", "after", "after_in_sample"), dict.fromkeys(("ECE", "class_ECE", "brier"), 0.1)
    )
    facts = {
        "aim": "precision=90", "folds": 5, "rule": "mixed", "rules": {"mixed": held}, "method": "platt", "level": 95,
        "calibration": calibration, "classes": {f"class {c}": row(c) for c in range(1, 902)},
        "shared": {"threshold": None, "reached": True},
    }  # fmt: skip
    console = Console(width=120, record=True, file=io.StringIO())
    monkeypatch.setattr("masksup.calibration.show.console", console)
    show(facts)
    text = console.export_text()
    shown = [int(number) for number in re.findall(r"│ class (\d+) ", text)]
    assert shown == [*range(1, 41), *range(901, 861, -1)]
    words = " ".join(text.split())
    assert "the first and the worst 40 of 901 classes (all: calibration.json" in words
    assert len([line for line in remarks(facts) if "no threshold reaches" in line]) == 40
    assert "the same holds for 861 other classes (best_precision in calibration.json of the run)" in remarks(facts)


def test_a_rule_that_is_better_by_both_scores_is_named() -> None:
    def found(**f1: tuple[float, float]) -> list[str]:
        rules = {name.replace("_", "-"): {"held_out": {"F1": a, "OF1": b}} for name, (a, b) in f1.items()}
        shared = {"threshold": 0.5, "bounds": [None, None], "reached": True}
        return remarks({"aim": "f1", "rule": "mixed", "rules": rules, "classes": {}, "shared": shared})

    assert found(mixed=(50, 50), shared=(49, 60), per_class=(60, 49)) == []
    assert (
        "--rule shrunk scores higher: F1 52.00, OF1 51.00" in found(mixed=(50, 50), shared=(51, 51), shrunk=(52, 51))[0]
    )
    assert "what nothing was fitted to (plain)" in found(mixed=(50, 50), plain=(51, 51))[0]


def test_wrong_input_is_one_line(
    run: Path, tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {
        name: (run / name).read_bytes() for name in ("decisions.json", "calibration.json") if (run / name).exists()
    }

    def refused(*options: str) -> str:
        return one_line(["calibrate", str(run), *options], capsys)

    assert "no such class 'disk'; did you mean 'disc'" in refused("--class", "disk=0.4")
    assert "expected NAME=P" in refused("--class", "disc")
    assert "expected NAME=P" in refused("--class", "disc=1.5")
    assert "--aim: found 'f7'" in refused("--aim", "f7")
    assert "--folds: found 1" in refused("--folds", "1")
    assert "--folds: found 21, but shapes val" in refused("--folds", "21")
    assert "--min-positives: found 0" in refused("--min-positives", "0")
    assert "--bootstrap: found 3" in refused("--bootstrap", "3")
    assert "20 of 20 samples lie in images that the run is tested on" in refused("--data", str(tiny_data / "test"))
    assert "50 of 50 samples lie in images that the run was trained on" in refused("--data", str(tiny_data / "train"))
    assert str(tmp_path / "none") in refused("--data", str(tmp_path / "none"))
    for name, content in before.items():
        assert (run / name).read_bytes() == content

    without = tmp_path / "without"
    shutil.copytree(run, without, symlinks=True)
    for meta in without.glob("checkpoints/*/state.json"):
        tree = json.loads(meta.read_text())
        tree["config"]["data"]["eval"] = None
        meta.write_text(json.dumps(tree))
        sums = meta.with_name("SHA256SUMS").read_text().splitlines()
        sums[1] = f"{hashlib.sha256(meta.read_bytes()).hexdigest()}  state.json"
        meta.with_name("SHA256SUMS").write_text("\n".join(sums) + "\n")
    assert "names no data.eval and no data.folds" in one_line(["calibrate", str(without)], capsys)
    assert main(["calibrate", str(without), "--data", str(tiny_data / "val"), *QUICK]) == 0
