"""`stop.patience_epochs`: where a run ends, however often it was cut off around that, and beside halving."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare import assert_same_run
from test_train import stop_after

from launch.ledger import Folder
from launch.sweeps.halving import score_at
from launch.watch.status import judge
from masksup.config.schema import Config
from masksup.exits import STOPPED
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.training import patience
from masksup.training.train import train

MakeConfig = Callable[..., Config]

# Weights that hardly move, in a network without batch norm: the score of epoch 1 stays the best.
STILL: dict[str, Any] = {
    "epochs": 8, "model__backbone": "test_vit", "optim__lr": 1e-12, "ema__decay": 0.0, "eval": {"bootstrap": 0},
}  # fmt: skip


@pytest.fixture
def config(tiny_config: MakeConfig) -> Config:
    return tiny_config(**STILL, stop={"patience_epochs": 1.5})


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())  # type: ignore[no-any-return]


def history(*scores: float | None, every: float = 1.0) -> list[dict[str, Any]]:
    return [{"step": k, "epoch": k * every, "mAP": score} for k, score in enumerate(scores, 1)]


def test_the_best_epoch_is_the_first_of_the_highest() -> None:
    assert patience.best_epoch(history(10, 30, 20, 30)) == 2
    assert patience.best_epoch(history(10, None, every=2.5)) == 2.5
    assert patience.best_epoch(history(None, None)) == 0, "nothing was ever measured: patience counts from the start"


def test_a_run_ends_early_and_its_schedule_is_not_shortened(
    config: Config, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(config, tmp_path / "early") == 0
    said = "".join(capsys.readouterr())
    assert "stopped early after step" in said
    assert "the schedule is not shortened" in said
    told = result(tmp_path / "early")["stopped_early"]
    assert told["by"] == "stop.patience_epochs"
    assert told["best_epoch"] == result(tmp_path / "early")["history"][0]["epoch"]
    assert [round(row["epoch"]) for row in result(tmp_path / "early")["history"]] == [1, 2, 3]
    newest = read_checkpoint(list_checkpoints(tmp_path / "early" / "checkpoints")[0])
    assert newest.meta["step"] == told["step"] < told["of_steps"]

    with pytest.MonkeyPatch.context() as patch:  # the run without patience, cut off at that step
        stop_after(patch, told["step"])
        assert train(tiny_config(**STILL), tmp_path / "whole") == STOPPED
    whole = read_checkpoint(list_checkpoints(tmp_path / "whole" / "checkpoints")[0])
    assert all(value.equal(newest.tensors[name]) for name, value in whole.tensors.items())
    assert train(config, tmp_path / "early") == 0
    assert "this run is finished" in "".join(capsys.readouterr())


def test_an_evaluation_each_few_epochs_is_where_patience_is_looked_at(tiny_config: MakeConfig, tmp_path: Path) -> None:
    still = {**STILL, "eval": {"bootstrap": 0, "every_epochs": 2}}
    assert train(tiny_config(**still, stop={"patience_epochs": 0.5}), tmp_path) == 0
    assert [round(row["epoch"]) for row in result(tmp_path)["history"]] == [2, 4]


@pytest.mark.parametrize("where", [pytest.param("save", marks=pytest.mark.slow), "finish", "signal"])
def test_cut_off_between_the_evaluation_and_the_end_it_comes_to_the_same_end(
    where: str, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import masksup.training.train as module

    assert train(config, tmp_path / "clean") == 0
    last = result(tmp_path / "clean")["stopped_early"]["step"]
    real = getattr(module, where, None)

    def dies(run: Any, *rest: Any) -> None:
        if run.progress.step == last:
            raise RuntimeError("power failure")
        real(run, *rest)  # type: ignore[misc]

    with monkeypatch.context() as patch:
        if where == "signal":
            stop_after(patch, last)
            assert train(config, tmp_path / "cut") == STOPPED
        else:
            patch.setattr(module, where, dies)
            with pytest.raises(RuntimeError, match="power failure"):
                train(config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "result.json").exists()
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")
    assert result(tmp_path / "cut")["stopped_early"] == result(tmp_path / "clean")["stopped_early"]


def test_halving_and_status_know_a_run_that_ended_by_itself(config: Config, tmp_path: Path) -> None:
    assert train(config, tmp_path) == 0
    told, folder = result(tmp_path)["stopped_early"], Folder(tmp_path)
    last = result(tmp_path)["history"][-1]["mAP"]
    assert score_at(tmp_path, 7) == pytest.approx(last), "a rung that it did not come to has its last score"
    expected = ("finished", f"stopped early at step {told['step']} of {told['of_steps']} (stop.patience_epochs)")
    assert judge(folder, None, None, None, None, None) == expected
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.stopped_early.write_text("stopped early: 3 of 4 are better\n")  # halving's word came when it was through
    assert judge(folder, None, None, None, None, None) == expected
    (tmp_path / "result.json").unlink()
    assert score_at(tmp_path, 7) is None, "a run that still goes has not come so far"
