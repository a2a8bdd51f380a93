"""Elements of a sweep that end in the same instant, as a preempted array does: each comes back."""

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from launch.cluster.resources import Resources
from launch.ledger import Folder, Start, starts, write_json
from launch.start import first_node
from launch.start.start import Scheduler, leave_word
from masksup.exits import STOPPED

CROWD, ROUNDS = 6, 10


def _asked_to_leave(_: list[str], __: dict[str, str], folder: Folder, start: Start) -> int:
    leave_word(folder, start.number, 0, STOPPED, None)
    return STOPPED


def _element(home: Path, number: int, together: Barrier) -> None:
    os.environ.update(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(number))
    first_node.SLURM = Scheduler(_asked_to_leave, node_states=lambda _: {}, is_preempted=lambda _: True)
    for restart in range(ROUNDS):
        os.environ["SLURM_RESTART_COUNT"] = str(restart)
        together.wait(60)
        first_node.main([str(home / f"s{number}" / "seed1")])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep, and a scontrol that knows every job and writes down which one is queued again."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(
        "#!/bin/sh\n"
        'case "$1" in -o) echo "JobState=RUNNING Restarts=$SLURM_RESTART_COUNT";; '
        f'requeue) echo "$2 $SLURM_RESTART_COUNT" >> {tmp_path}/again;; esac\n'
    )
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    names = [f"s{k}" for k in range(CROWD)]
    told = {f"{name}/seed1": {"name": name, "seed": 1, "overrides": [f"x={name}"]} for name in names}
    write_json(tmp_path / "launch" / "sweep.json", {"settings": told})
    for name in names:
        run = Folder(tmp_path / name / "seed1")
        (run.run / "logs").mkdir(parents=True)
        write_json(run.job, {"job": "7", "resources": Resources(gpus_per_node=0).model_dump()})
    return tmp_path


def again(home: Path) -> list[str]:
    return sorted((home / "again").read_text().splitlines())


def test_all_that_end_together_are_queued_again(home: Path) -> None:
    context = multiprocessing.get_context("fork")
    together = context.Barrier(CROWD)
    crowd = [context.Process(target=_element, args=(home, k, together)) for k in range(CROWD)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(100)
    assert again(home) == sorted(f"7_{k} {restart}" for k in range(CROWD) for restart in range(ROUNDS))
    assert [process.exitcode for process in crowd] == [0] * CROWD
    for k in range(CROWD):
        found = starts(Folder(home / f"s{k}" / "seed1"))
        assert [a.outcome for a in found] == ["preempted"] * ROUNDS


def test_a_table_that_cannot_be_written_keeps_no_run_from_coming_back(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(home / "launch" / "sweep.json", {"settings": {"s0/seed1": {"seed": 1}}})
    monkeypatch.setattr(first_node, "SLURM", Scheduler(_asked_to_leave, lambda _: {}, lambda _: True))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert first_node.main([str(home / "s0" / "seed1")]) == 0
    assert again(home) == ["7 0"]
    assert "results of the sweep are not renewed" in capsys.readouterr().out
