"""What a run shows of itself: enough lines and points, epochs that agree, cautions that say what to do."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compare import assert_same_run

from masksup.config.schema import Config, Log
from masksup.data.sampler import Plan
from masksup.exits import STOPPED
from masksup.runtime.metrics_rows import read_rows
from masksup.training.train import train

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(("total", "least"), [(1, 1), (29, 29), (50, 50), (120, 50), (1000, 50), (10_000, 500)])
def test_a_run_has_fifty_lines_or_one_a_step(total: int, least: int) -> None:
    due = [step for step in range(1, total + 1) if Log().due(step, total)]
    assert len(due) >= least
    assert due[-1] == total


@pytest.mark.parametrize("epochs", [1.0, 2.5, 20.0])
@pytest.mark.parametrize("samples", [7, 50, 64])
def test_a_run_ends_at_its_epochs(samples: int, epochs: float) -> None:
    plan = Plan(samples, 16, 16, epochs, "continue", seed=0)
    assert plan.epoch_shown(plan.total_steps) == epochs
    assert plan.epoch_shown(plan.total_steps - 1) < epochs


def test_twenty_nine_steps_draw_a_curve_that_a_stop_does_not_change(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    config = tiny_config(epochs=9.2, log={"images": 0, "pr_curves": False}, eval={"every_epochs": 3, "bootstrap": 0})
    assert train(config, tmp_path / "clean") == 0
    said = capsys.readouterr().out
    rows = [row for row in read_rows(tmp_path / "clean" / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 30))
    epochs = re.findall(r"^epoch ([\d.]+): loss \d+\.\d{4}  mAP [\d.]+  CF1", said, flags=re.MULTILINE)
    assert epochs == ["3.2", "6.08", "9.2"]
    assert rows[-1]["epoch"] == 9.2
    assert "step 29/29  epoch 9.20" in said
    left = re.findall(r"^step (\d+)/29 .* images/s  left \d", said, flags=re.MULTILINE)
    assert left == [str(step) for step in range(2, 30)], "before the second step nobody knows the pace"
    steps = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if next(steps) >= 11 else None)
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")


@pytest.mark.parametrize(("share", "said"), [(0.04, False), (0.06, True)])
def test_a_training_that_waited_for_data_names_the_doctor(
    share: float, said: bool, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    paces = {"images_per_second": 9.0, "step_seconds": 1.0, "data_wait_seconds": share, "data_wait_share": share}
    monkeypatch.setattr("masksup.runtime.progress.Meter.read", lambda _: {**paces, "memory_mib": 1.0})
    assert train(tiny_config(eval={"bootstrap": 0}), tmp_path / "run") == 0
    told = f"masksup doctor {tmp_path / 'run'}", "waiting for data took 6% of the training: what to change"
    out = " ".join(capsys.readouterr().out.split())
    assert [line in out for line in told] == [said, said]


def test_what_will_disappoint_is_said_once(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    config = tiny_config(batch={"global": 64}, eval={"threshold": 0.999, "bootstrap": 0})
    steps = iter(range(2))
    with monkeypatch.context() as patch:  # a second start says none of it again
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if next(steps) else None)
        assert train(config, tmp_path / "run") == STOPPED
    assert train(config, tmp_path / "run") == 0
    said = capsys.readouterr().out
    for caution in (
        "batch.global: 64 is more than the 50 training samples, so that a step sees some twice; expected at most 50",
        "the run has only 2 steps; more epochs or a smaller batch.global give more",
        "no label is found at the threshold 0.999, so CP to OF1 say nothing: masksup calibrate fits thresholds",
    ):
        assert said.count(caution) == 1, caution
    assert "\nepoch 1.28: loss " in said, "as at the end: best epoch (1.28)"
