"""A disk that takes longer than a step may: the ranks wait for it where they must, and train on where they need not."""

import re
from pathlib import Path

import pytest
import torch
from compare import assert_same_run, final_state
from ranks import Launcher

from masksup.runtime.checkpoint import list_checkpoints
from masksup.runtime.metrics_rows import read_rows

STEP_SECONDS = 3.0  # what a step may take; a healthy one takes 0.05
LIMITS = {"parallel__step_seconds": STEP_SECONDS, "parallel__first_step_seconds": 4 * STEP_SECONDS}


def slow_writes(seconds: str) -> str:
    """A probe: how long the disk takes for a checkpoint, as an expression of its number `n`."""
    return (
        "import masksup.runtime.checkpoint as m, time\nreal, calls = m.save_file, []\n"
        "def slow(*given):\n    calls.append(1)\n    n = len(calls)\n"
        f"    time.sleep({seconds})\n    real(*given)\nm.save_file = slow\n"
    )


@pytest.mark.slow
def test_a_save_that_takes_longer_than_a_step_may_is_waited_for(job: Launcher, write_config, tmp_path: Path) -> None:
    """The last ones of a run: of the best epoch, and of the end."""
    config = write_config(epochs=2, **LIMITS)
    job.to_the_end(3, config, tmp_path / "slow", probe=slow_writes(str(2 * STEP_SECONDS)))
    job.to_the_end(3, config, tmp_path / "clean")
    assert_same_run(tmp_path / "slow", tmp_path / "clean")


def test_a_disk_that_is_behind_is_an_alarm_and_the_training_goes_on(
    job: Launcher, write_config, tmp_path: Path
) -> None:
    config = write_config(epochs=5, checkpoint={"every_steps": 2}, data__eval=None, **LIMITS)
    impatient = "import masksup.training.train as t\nt.save.__defaults__ = (0.2,)\n"
    ranks = job.to_the_end(3, config, tmp_path / "run", probe=slow_writes("8 * (n == 1)") + impatient)
    alarm = r"ALARM: step (\d+) is not saved, because the disk has been writing step-000000002-a01"
    said = re.findall(alarm, ranks.text())
    assert said[0] == "4"
    events = [row["text"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "event"]
    assert sum("is not saved" in text for text in events) == len(said)
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[0].name == "step-000000016-a01"
    job.to_the_end(3, config, tmp_path / "clean")
    ours, theirs = (final_state(tmp_path / name) for name in ("run", "clean"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("command", ["train", "eval"])
def test_outputs_that_are_kept_slowly_end_no_evaluation(
    command: str, job: Launcher, write_config, tmp_path: Path
) -> None:
    config = write_config(epochs=1, eval__batch=2, checkpoint={"every_minutes": 0.001}, **LIMITS)
    run = tmp_path / "run"
    probe = slow_writes(str(2 * STEP_SECONDS) + " * (n == 1)")
    if command == "eval":
        job.to_the_end(3, config, run)
        ranks = job.start(3, "eval", run, probe=probe)
        assert ranks.wait() == [0, 0, 0], ranks.text()
    else:
        job.to_the_end(3, config, run, probe=probe)


@pytest.mark.slow
def test_scores_that_take_long_on_rank_0_end_no_job(job: Launcher, write_config, tmp_path: Path) -> None:
    """The other ranks are done by then, and leave when it is."""
    slow = (
        "import masksup.training.score_run as m, time\nreal = m._final\n"
        f"def slow(*given):\n    time.sleep({6 * STEP_SECONDS})\n    return real(*given)\nm._final = slow\n"
    )
    job.to_the_end(3, write_config(epochs=1, **LIMITS), tmp_path / "run", probe=slow)
