"""The launcher's files of a run survive crashes and two writers."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from time import localtime, strftime

import pytest

from launch.cluster import slurm
from launch.cluster.resources import Resources
from launch.cluster.slurm import Accounted
from launch.ledger import Folder, Recovery, Start, Token, append, begin, end, recoveries, starts, write_json
from launch.start.first_node import allotted_gpus
from launch.start.start import Scheduler, StartRanks, leave_word, run_start
from launch.watch.hours import gpu_hours
from masksup.base.json_lines import read_lines
from masksup.runtime.fence import SUPERSEDED
from masksup.runtime.starts import new_start


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    run = Folder(tmp_path / "run")
    run.path.mkdir(parents=True)
    (run.run / "logs").mkdir()
    return run


def test_starts_are_numbered_and_one_without_an_end_is_closed_by_the_next(folder: Folder) -> None:
    first = begin(folder, Token("7", 0), ["n1"], 2)
    write_json(folder.heartbeat, {"token": "7.0", "time": 50.0, "first_step": 3, "last_step": 9, "first_step_at": 1.0,
                                  "last_step_at": 2.0})  # fmt: skip
    begin(folder, Token("7", 1), ["n2"], 2)
    found = starts(folder)
    assert [a.number for a in found] == [1, 2]
    assert found[0].outcome == "interrupted"
    assert (found[0].first_step, found[0].last_step, found[0].ended) == (3, 9, 50.0)
    assert first.number == 1
    assert found[1].outcome is None


def test_launcher_and_training_number_starts_as_one(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a start came to nothing before it trained, and where somebody started the run by hand."""
    for job, trains in (("7", False), ("8", True), (None, True), ("9", True)):
        given = None if job is None else begin(folder, Token(job, 0), ["n1"], 1).number
        monkeypatch.setenv("MASKSUP_START", "" if given is None else str(given))
        if trains:
            number = new_start(folder.run)
            assert given in (None, number)
    assert [start.number for start in starts(folder)] == [1, 2, 4]
    assert [row["start"] for row in read_lines(folder.run / "starts.jsonl")] == [2, 3, 4]
    assert new_start(folder.run) == 5, "a rank that its launcher starts once more has a number of its own"


def test_starts_of_earlier_versions_are_counted_on(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKSUP_START", raising=False)
    append(folder.older_starts, {"number": 1, "job": "7", "restart": 0, "began": 1.0, "outcome": "crashed"})
    append(folder.older_starts, {"number": 2, "job": "7", "restart": 1, "began": 2.0})
    append(folder.run / "starts.jsonl", {"attempt": 1})
    new = begin(folder, Token("8", 0), ["n1"], 1)
    assert [(start.number, start.outcome) for start in starts(folder)] == [
        (1, "crashed"),
        (2, "interrupted"),
        (3, None),
    ]
    monkeypatch.setenv("MASKSUP_START", str(new.number))
    assert new_start(folder.run) == 3


def test_a_heartbeat_of_another_start_is_not_taken_for_ones_own(folder: Folder) -> None:
    start = begin(folder, Token("7", 1), ["n1"], 1)
    write_json(folder.heartbeat, {"token": "7.0", "time": 1.0, "last_step": 99})
    end(folder, start, "crashed")
    assert starts(folder)[0].last_step is None


def test_a_line_that_a_crash_cut_off_harms_no_other(folder: Folder) -> None:
    begin(folder, Token("7", 0), ["n1"], 1)
    with folder.starts.open("a") as file:
        file.write('{"number": 1, "outc')
    append(folder.starts, {"number": 1, "outcome": "lost"})
    assert starts(folder)[0].outcome == "lost"


def scheduler(start_ranks: StartRanks) -> Scheduler:
    return Scheduler(start_ranks, node_states=lambda _: {}, is_preempted=lambda _: False)


def start_nobody(*_: object) -> int:
    raise AssertionError("no rank may start")


def test_an_older_start_does_not_take_the_folder_back(folder: Folder) -> None:
    write_json(folder.job, {"job": "7", "resources": Resources().model_dump()})
    folder.fence.write_text("7.2\n")
    verdict = run_start(folder, Token("7", 1), ["n1"], scheduler(start_nobody), time.time())
    assert verdict.outcome == "superseded"
    assert folder.fence.read_text() == "7.2\n"
    assert not starts(folder)


def test_a_cancelled_run_starts_nobody(folder: Folder) -> None:
    write_json(folder.job, {"job": "7", "resources": Resources().model_dump()})
    folder.cancelled.write_text("")
    assert run_start(folder, Token("7", 1), ["n1"], scheduler(start_nobody), time.time()).outcome == "cancelled"


def test_ranks_that_were_replaced_meanwhile_decide_nothing(folder: Folder) -> None:
    write_json(folder.job, {"job": "7", "resources": Resources(gpus_per_node=0).model_dump()})

    def replaced(*_: object) -> int:
        folder.fence.write_text("7.1\n")
        return 1

    verdict = run_start(folder, Token("7", 0), ["n1"], scheduler(replaced), time.time())
    assert verdict.outcome == "superseded"
    assert verdict.not_again is not None, "the newer start must not be queued again by the older one"
    assert starts(folder)[0].outcome is None


def test_a_last_word_that_a_file_system_shows_late_is_waited_for(folder: Folder) -> None:
    """Else a clean stop counts as a lost node, which is then kept away from."""
    write_json(folder.job, {"job": "7", "resources": Resources(gpus_per_node=0, ranks_per_node=2).model_dump()})

    def stopped(_: list[str], __: dict[str, str], folder: Folder, start: Start) -> int:
        leave_word(folder, start.number, 0, 75, None)
        threading.Timer(1, leave_word, (folder, start.number, 1, 75, None)).start()
        return 75

    verdict = run_start(folder, Token("7", 0), ["n1", "n2"], scheduler(stopped), time.time())
    assert (verdict.outcome, verdict.bad_nodes) == ("preempted", [])


def test_gpus_are_those_that_were_given(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(folder.job, {"job": "7", "resources": Resources(sbatch={"nice": "1"}).model_dump()})
    folder.cancelled.write_text("")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    given = Scheduler(start_nobody, lambda _: {}, lambda _: False, allotted_gpus)
    run_start(folder, Token("7", 0), ["n1", "n2"], given, time.time())
    assert starts(folder)[0].gpus == 8


def test_a_run_that_halving_stopped_is_not_started_again(folder: Folder) -> None:
    write_json(folder.job, {"job": "7", "resources": Resources(gpus_per_node=0).model_dump()})

    def stopped(_: list[str], __: dict[str, str], folder: Folder, start: Start) -> int:
        folder.stopped_early.write_text("stopped early: 3 of 4 are better\n")
        leave_word(folder, start.number, 0, 75, None)
        return 75

    verdict = run_start(folder, Token("7", 0), ["n1"], scheduler(stopped), time.time())
    assert (verdict.outcome, verdict.not_again) == ("hopeless", "hopeless")


@pytest.mark.parametrize(("status", "outcome", "again"), [(1, "lost", True), (2, "wrong", False)])
def test_a_mistake_that_preflight_finds_is_not_tried_again(
    status: int, outcome: str, again: bool, folder: Folder
) -> None:
    folder.config.write_text("data: {train: x}\nmodel: {backbone: test_resnet}\n")
    write_json(folder.job, {"job": "7", "resources": Resources(gpus_per_node=0, preflight=True).model_dump()})

    def unfit(*_: object) -> int:
        write_json(folder.path / "preflight.json", {"error": "data: x: no such index", "bad": {}})
        return status

    verdict = run_start(folder, Token("7", 0), ["n1", "n2"], scheduler(unfit), time.time())
    assert (verdict.outcome, verdict.not_again is None, verdict.bad_nodes) == (outcome, again, [])
    assert "no such index" in str(starts(folder)[0].error)


def test_runs_that_keep_losing_their_node_end(folder: Folder) -> None:
    write_json(folder.job, {"job": "7", "resources": Resources(gpus_per_node=0, max_losses=3).model_dump()})
    for restart in range(4):
        begin(folder, Token("7", restart), ["n1"], 1)
    verdict = run_start(folder, Token("7", 4), ["n1"], scheduler(start_nobody), time.time())
    assert "max_losses is 3" in str(verdict.not_again)


def test_a_process_that_lost_the_fence_leaves_before_it_publishes_a_checkpoint(tmp_path: Path) -> None:
    """The race of a node that was cut off: the old copy is in the middle of a save when the new one takes over."""
    code = f"""
import torch
from dataclasses import replace
from pathlib import Path
from time import localtime, strftime
from masksup.runtime import fence
from masksup.runtime.checkpoint import State, write_checkpoint
fence.hold(Path({str(tmp_path / "fence")!r}), "7.0")
write_checkpoint(Path({str(tmp_path)!r}), "step-000000001-a01", State({{"a": torch.ones(2)}}, {{}}))
Path({str(tmp_path / "fence")!r}).write_text("7.1")
write_checkpoint(Path({str(tmp_path)!r}), "step-000000002-a01", State({{"a": torch.ones(2)}}, {{}}))
print("still here")
"""
    (tmp_path / "fence").write_text("7.0\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == SUPERSEDED, done.stderr
    assert "7.1 has taken over" in done.stderr
    assert (tmp_path / "step-000000001-a01").is_dir()
    assert not (tmp_path / "step-000000002-a01").exists()
    assert "still here" not in done.stdout


def timed(number: int, began: float, ended: float, **more: float | str) -> Start:
    return Start(number, "7", number - 1, began, gpus=2, ended=ended, **more)  # type: ignore[arg-type]


def test_hours_add_up_and_name_what_was_lost() -> None:
    first = timed(1, 0, 100, outcome="interrupted", first_step=0, first_step_at=20, last_step=60, last_step_at=80)
    second = timed(2, 200, 300, outcome="done", first_step=40, first_step_at=210, last_step=90, last_step_at=290)
    found = gpu_hours([first, second], None)
    hour = 3600 / 2
    assert found.total * hour == pytest.approx(200)
    assert found.startup * hour == pytest.approx(20 + 10)
    assert found.redone * hour == pytest.approx(60 * 20 / 60), "20 of 60 steps were done again"
    assert found.waiting * hour == pytest.approx(20)
    assert found.useful * hour == pytest.approx(40 + 90)


def test_hours_follow_the_accounts_where_there_are_some() -> None:
    first = timed(1, 2, 100, outcome="lost", first_step=0, first_step_at=20, last_step=60, last_step_at=80)
    rows = [Accounted("7", "NODE_FAIL", 0.0, 130.0, 130), Accounted("7", "PREEMPTED", 140.0, 150.0, 10)]
    found = gpu_hours([first], rows)
    assert found.total * 1800 == pytest.approx(140), "the start that never got to write is counted too"


def test_hours_count_the_gpus_that_were_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of three nodes that loses one at 60 s; before it a start of one node that nobody could note."""
    start = timed(1, 0, 100, outcome="done", first_step=0, first_step_at=20, last_step=80, last_step_at=100)
    start.gpus = 3
    lost = Recovery(1, 1, broke=58, agreed=60, why="", step=40, furthest=40, ranks=2, ready=62, from_step=40)
    noted = gpu_hours([start], None, recoveries=[lost])
    assert noted.total * 3600 == pytest.approx(60 * 3 + 40 * 2)
    told = [
        "7|RESIZING|{}|{}|70|cpu=3,gres/gpu=3",
        "7|COMPLETED|{}|{}|30|cpu=2,gres/gpu=2",
        "7|NODE_FAIL|{}|{}|9|gres/gpu=1",
    ]
    moments = [(0, 70), (70, 100), (-29, -20)]
    monkeypatch.setattr(slurm, "call", lambda *_: "\n".join(
        line.format(*(strftime("%Y-%m-%dT%H:%M:%S", localtime(at)) for at in ends)) for line, ends in zip(told, moments)
    ))  # fmt: skip
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    rows = slurm.accounting(["7"])
    found = gpu_hours([start], rows, recoveries=[lost])
    assert found.total * 3600 == pytest.approx(70 * 3 + 30 * 2 + 9)
    assert found.startup * 3600 == pytest.approx((20 + 4) * 2.7 + 9), "the mean of what the start held, and the other"
    without = [replace(row, gpus=None) for row in rows or []]
    assert gpu_hours([start], without).total * 3600 == pytest.approx((70 + 30 + 9) * 3)


def test_a_damaged_row_of_the_recoveries_is_left_out(folder: Folder) -> None:
    whole = {"start": 1, "recovery": 1, "broke": 5.0, "agreed": 6.0, "why": "", "step": None, "furthest": 4, "ranks": 2}
    damaged = ({"broke": "x"}, {"agreed": None}, {"furthest": float("nan")}, {"start": []}, {"ranks": "2"})
    rows = [whole, *({**whole, "recovery": at, **odd} for at, odd in enumerate(damaged, 2))]
    folder.recoveries.parent.mkdir(parents=True, exist_ok=True)
    folder.recoveries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(found.recovery, found.seconds) for found in recoveries(folder)] == [(1, 1.0)]


def test_the_files_of_the_launcher_are_readable_json(folder: Folder) -> None:
    begin(folder, Token("7_3", 0), ["n1"], 1)
    assert json.loads(folder.starts.read_text())["job"] == "7_3"
    assert os.access(folder.starts, os.R_OK)
