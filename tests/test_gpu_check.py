"""tools/gpu_check.py on the CPU in small: it goes on, stops in time, fails aloud, and leaves no process behind."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked import runs

from masksup.config.components import HEADS, METHODS
from masksup.exits import STOPPED
from tools import gpu_check
from tools.gpu_checks import run, steps
from tools.gpu_checks.combinations import all_combinations, one_of_each
from tools.gpu_checks.results import append, read, results
from tools.gpu_checks.table import tables

ROOT = Path(__file__).parents[1]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def ends(out: Path) -> dict[str, str]:
    return {row["step"]: row["ended"] for row in read(out) if "ended" in row}


def tiny(out: Path, *words: str) -> int:
    return gpu_check.main(["--tiny", "--out", str(out), *words])


def test_steps_write_rows_and_a_second_call_runs_none_of_them(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny(out, "--only", "ceilings", "scoring") == 0, out.with_suffix(".logs")
    assert ends(out) == {"ceilings": "passed", "scoring": "passed"}
    assert results(read(out), "ceilings")["bf16 products"]["tflops"] > 0
    assert results(read(out), "scoring")["evaluation"]["images_s"] > 0
    before = out.read_bytes()
    assert tiny(out, "--only", "ceilings", "scoring") == 0
    assert out.read_bytes() == before
    capsys.readouterr()
    assert gpu_check.main(["--table", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"scoring: evaluation \| \d+% of bare forwards", said), said
    assert "| loading: by the number of workers | not run |" in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_check(out: Path) -> None:
    assert tiny(out, "--seconds", "1500") == 0, [
        out.read_text(),
        *(f.read_text() for f in out.with_suffix(".logs").iterdir()),
    ]
    assert set(ends(out).values()) == {"passed"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_check_of_two_ranks(out: Path) -> None:
    assert tiny(out, "--ranks", "2", "--seconds", "1500") == 0, out.read_text()
    assert set(ends(out)) == {step.name for step in steps.SEVERAL}


def replaced(monkeypatch: pytest.MonkeyPatch, code: str, **step: Any) -> None:
    """One step alone, whose process runs `code`, which knows `append` and `out`."""
    one = steps.Step(**{"name": "odd", "seconds": 60.0, "does": "", "says": "", **step})
    start = subprocess.Popen

    def instead(words: list[str], **more: Any) -> subprocess.Popen[bytes]:
        out = words[words.index("--out") + 1]
        known = f"import os, time, pathlib\nfrom tools.gpu_checks.results import append\nout = pathlib.Path({out!r})\n"
        return start([sys.executable, "-c", known + code], **more)

    monkeypatch.setattr(run, "steps_for", lambda ranks: (one,))
    monkeypatch.setattr(gpu_check, "steps_for", lambda ranks: (one,))
    monkeypatch.setattr(run.subprocess, "Popen", instead)


def test_a_row_that_fails_and_a_step_that_breaks_fail_the_check(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        replaced(patch, "append(out, {'step': 'odd', 'what': 'losses', 'passed': False})")
        assert tiny(out) == 1
    assert read(out)[-1]["why"].startswith("losses; see ")
    out.unlink()
    with monkeypatch.context() as patch:
        replaced(patch, "raise SystemExit(3)")
        assert tiny(out) == 1
    assert read(out)[-1]["why"].startswith("exit status 3")


def test_a_step_that_hangs_is_ended_with_what_it_started_and_goes_on_later(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = (
        "append(out, {'step': 'odd', 'what': 'first', 'passed': True})\nchild = os.fork()\nchild or os.setsid()\n"
        "append(out, {'step': 'odd', 'what': 'pid', 'pid': os.getpid()})\ntime.sleep(300)"
    )
    with monkeypatch.context() as patch:
        replaced(patch, hang, seconds=0.8)  # eight in small
        assert tiny(out) == 1
    assert ends(out) == {"odd": "timed out"}
    pids = [row["pid"] for row in read(out) if "pid" in row]
    assert len(pids) == 2
    assert not any(map(runs, pids))
    with monkeypatch.context() as patch:
        replaced(patch, "append(out, {'step': 'odd', 'what': 'second', 'passed': True})")
        assert tiny(out) == 0
    assert set(results(read(out), "odd")) == {"first", "pid", "second"}


def test_no_time_is_told_and_the_same_command_goes_on(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, "")
    assert tiny(out, "--seconds", "1") == STOPPED
    assert "no time left: odd" in capsys.readouterr().out
    assert tiny(out) == 0
    assert ends(out) == {"odd": "passed"}


def test_a_step_whose_package_is_absent_is_named_and_fails_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "raise SystemExit(1)", needs=("no_such_package",))
    assert tiny(out) == 0
    assert read(out)[-1] == {"step": "odd", "ended": "absent", "seconds": 0.0, "why": "needs no_such_package"}


def test_a_check_that_is_ended_takes_its_step_along(out: Path) -> None:
    words = [sys.executable, "-m", "tools.gpu_check", "--tiny", "--only", "numbers", "--out", str(out)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as check:
        end, children = time.monotonic() + 60, []
        while not children and time.monotonic() < end:
            time.sleep(0.05)
            children = [child for child in children_of(check.pid) if b"--step" in command_of(child)]
        check.send_signal(signal.SIGTERM)
        assert check.wait(60) == 128 + signal.SIGTERM
    assert children
    end = time.monotonic() + 20  # a process that was killed takes a moment to be gone
    while any(b"--step" in command_of(child) for child in children):
        assert time.monotonic() < end, "its step goes on"
        time.sleep(0.05)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def test_results_of_another_machine_or_form_are_not_mixed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(out, {"step": "machine", "device": "NVIDIA H100", "ranks": 1})
    assert tiny(out, "--only", "ceilings") == 2
    assert (
        "found results of another device (NVIDIA H100), here it is CPU; expected a new file" in capsys.readouterr().err
    )
    assert tiny(out, "--only", "nothing") == 2
    assert "--only: found nothing, expected of ceilings, " in capsys.readouterr().err


def test_a_line_that_was_cut_off_is_no_result_and_spoils_none(out: Path) -> None:
    append(out, {"step": "a", "what": "x"})
    with out.open("a") as file:
        file.write('{"step": "a", "wh')
    append(out, {"step": "a", "what": "y"})
    assert list(results(read(out), "a")) == ["x", "y"]


def test_each_method_and_head_is_a_combination() -> None:
    for combinations in (one_of_each(), all_combinations()):
        assert {one.method["name"] for one in combinations} == set(METHODS.entries)
        assert {one.head for one in combinations} == set(HEADS.entries)
        assert len({one.title for one in combinations}) == len(combinations), "titles name them in the file"


def test_the_documented_tables_are_those_of_a_check(out: Path) -> None:
    """Empty ones until a GPU ran; then whoever renews them renews this too."""
    text = (ROOT / "docs" / "performance.md").read_text()
    (documented,) = re.findall(r"<!-- gpu_check --table -->\n\n(.*)\n\n<!-- end -->", text, flags=re.DOTALL)
    assert documented == tables([])
    assert len(re.findall(r"\| not run", documented)) > 40


def test_every_documented_docker_run_has_shared_memory() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docker").iterdir()]
    commands = [line for file in files for line in file.read_text().splitlines() if "docker run" in line]
    assert commands
    assert all("--ipc=host" in line or "--shm-size" in line for line in commands), commands
