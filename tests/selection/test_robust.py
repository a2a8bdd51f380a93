"""`masksup auto --robust`: images with a part hidden have a say; and the runs of folds, which are nobody's runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from choosing import QUICK, SMALL, auto, choices

from launch.watch.status import find_runs
from masksup.cli import main
from masksup.config.load import as_config
from masksup.evaluation.kept import Stopped
from masksup.metrics.average_precision import average_precision
from masksup.selection import CHOICES, FOLDS
from masksup.selection.judge import chosen, score_of
from masksup.selection.ladder import StartingPoint, ladder
from masksup.selection.out_of_fold import HELD_OUT, HeldOut, fold_config, held_out_fold, run_of


@pytest.mark.parametrize("any_side", [True, False])
@pytest.mark.parametrize("weights", ["none", "weights.pth"])
def test_each_rung_is_a_configuration(weights: str, any_side: bool) -> None:
    for rung in ladder(StartingPoint("test_resnet", weights, 64, any_side=any_side), robust=True):
        as_config({**rung.settings, "data": {"train": "train"}}, rung.title, [])


@pytest.mark.parametrize(("weights", "longer"), [("none", 1), ("weights.pth", 2)])
def test_masksup_is_a_rung_after_what_it_is_added_to(weights: str, longer: int) -> None:
    start = StartingPoint("test_resnet", weights, 64)
    plain, robust = ladder(start), ladder(start, robust=True)
    added = [rung for rung in robust if rung not in plain]
    assert [rung for rung in robust if rung not in added] == list(plain)
    (rung,) = added
    below = robust[robust.index(rung) - 1]
    assert rung.settings.pop("method") == {"name": "masksup", "masks": "irregular", "level": "high"}
    assert rung.settings.pop("epochs") == longer * below.settings.pop("epochs")
    assert (rung.settings, rung.starts_from, rung.after) == (below.settings, below.starts_from, ())
    assert rung.passes == 2 * longer * below.passes, "it sees each image twice"


def held_out(clean: float, masked: float | None) -> HeldOut:
    """Outputs that tell 60 images of two classes apart as well as these shares of them."""
    draw = np.random.default_rng(0)
    labels_NC = draw.integers(0, 2, (60, 2)).astype(np.int8)

    def logits(right: float) -> Any:
        known_NC = np.arange(60)[:, None] < right * 60
        return np.where(known_NC, 2.0 * labels_NC - 1, draw.normal(0, 0.1, (60, 2))).astype(np.float32)

    hidden = None if masked is None else logits(masked)
    return HeldOut(np.arange(60), logits(clean), labels_NC, np.arange(60), hidden)


def test_the_mean_of_images_as_they_are_and_hidden_judges() -> None:
    counted_C = np.ones(2, bool)
    for robust, winner in ((False, "plain"), (True, "masksup")):
        found = {
            "plain": score_of(held_out(0.9, 0.2 if robust else None), counted_C),
            "masksup": score_of(held_out(0.8, 0.8 if robust else None), counted_C),
        }
        assert chosen({name: score.judged for name, score in found.items()}, list(found)) == winner
    score = found["masksup"]
    assert score.masked is not None
    assert score.judged.mean_ap == pytest.approx((score.clean.mean_ap + score.masked.mean_ap) / 2)
    assert score.judged.mean_ap_R == pytest.approx((score.clean.mean_ap_R + score.masked.mean_ap_R) / 2)


SHORT = ["--trials", "2"]


@pytest.fixture(scope="module")
def robust(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robust") / "out"
    assert auto(tiny_data, out, "--robust", *SHORT) == 0
    return out


def test_hidden_images_are_those_of_eval_and_a_fold_is_no_run_of_the_user(robust: Path, tmp_path: Path) -> None:
    """The outputs under masks have the AP that `masksup eval --masked high` gives the same run."""
    config = fold_config(robust / "rungs" / "head-32.yaml", QUICK, 2, 0, tmp_path / "features")
    found = held_out_fold(config, tmp_path, keep_run=True, masked="high")
    run, scores = run_of(config, tmp_path), tmp_path / "scores.json"
    assert run.parent.name == FOLDS
    assert not list(run.glob("*tfevents*")), "TensorBoard would list it"
    assert main(["eval", str(run), "--masked", "high", "--json", str(scores)]) == 0
    assert found.masked_NC is not None
    ours_C = 100 * average_precision(found.masked_NC, found.labels_NC, "area")
    theirs = [np.nan if value is None else value for value in json.loads(scores.read_text())["AP"].values()]
    assert ours_C == pytest.approx(np.array(theirs), abs=1e-6, nan_ok=True)
    assert not np.array_equal(found.masked_NC, found.logits_NC)

    assert find_runs(tmp_path) == [run]
    (tmp_path / CHOICES).write_text("{}")
    assert find_runs(tmp_path) == []


def test_both_figures_and_the_rule_are_told(robust: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = choices(robust)["rungs"][0]
    assert row["mAP_judged"] == pytest.approx((row["mAP"] + row["mAP_masked"]) / 2)
    assert "judged by the mean of mAP_masked, under high masks, and mAP" in choices(robust)["protocol"]
    assert auto(tiny_data, robust, "--robust", *SHORT) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{row['mAP']:.1f} │ {row['mAP_masked']:.1f} │ {row['mAP_judged']:.1f}" in said
    assert f"{row['mAP_masked']:.1f} with more than half of each hidden" in said
    assert [run.name for run in find_runs(robust)] == [choices(robust)["chosen"]]


def test_choices_of_a_version_without_robust_go_on_and_are_no_answer_to_it(
    robust: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(*_: object) -> None:
        assert (tmp_path / CHOICES).exists(), "from the start it says whose folds these are"
        raise Stopped

    tree = choices(robust)
    del tree["options"]["robust"]
    (tmp_path / CHOICES).write_text(json.dumps(tree))
    shutil.copytree(robust / HELD_OUT, tmp_path / HELD_OUT)
    monkeypatch.setattr("masksup.selection.climb.held_out_fold", stops)
    assert auto(tiny_data, tmp_path) == 75
    assert "goes on after" in capsys.readouterr().out
    assert auto(tiny_data, tmp_path, "--robust") == 2
    assert "--robust: found not given, asked for given; take another --out" in capsys.readouterr().err
    shutil.rmtree(tmp_path / HELD_OUT)
    assert auto(tiny_data, tmp_path, "--robust") == 75, "where nothing was found, there is nothing to contradict"


@pytest.mark.slow  # short: the rung, its judge and its figures, each by itself
def test_masksup_is_tried_and_what_wins_is_trained(tiny_data: Path, tmp_path: Path) -> None:
    words = ["auto", "--data", str(tiny_data / "train"), "--out", str(tmp_path / "out"), *SMALL]
    assert main([*words, "--robust", "--trials", "4", *QUICK]) == 0
    tree = choices(tmp_path / "out")
    rows = {row["name"]: row for row in tree["rungs"]}
    assert rows["masksup-trained-30"]["mAP_masked"] > rows["head-32"]["mAP_masked"]
    assert tree["chosen"] in ("trained-30", "masksup-trained-30")
    assert (tmp_path / "out" / tree["chosen"] / "decisions.json").exists()
