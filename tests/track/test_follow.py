"""Following runs: a tracker that does not answer is asked again, and the end of the runs is the end."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cluster.snapshot import snapshot
from masksup.base.commit import COMMIT, commit_of_code
from masksup.base.log import start_logging
from masksup.errors import JobError
from masksup.track.follow import track
from masksup.track.run import TrackedRun, read_run

Growing = tuple[Path, Callable[[], None]]


class Flaky:
    """A tracker whose server is away when it is asked the second and the third time."""

    def __init__(self, grow: Callable[[], None], away: tuple[int, ...] = (2, 3)) -> None:
        self.away, self.asked, self.states, self.closed, self._grow = away, 0, [], 0, grow

    def send(self, run: TrackedRun, *, artifacts: bool) -> int:
        self.asked += 1
        self.states.append((run.state, artifacts))
        if self.asked in self.away:
            raise JobError("server: does not answer")
        self._grow()
        return 1

    def where(self, run: TrackedRun) -> str:
        return "nowhere"

    def close(self) -> None:
        self.closed += 1


def test_a_server_that_is_away_is_asked_again(growing: Growing, capsys: pytest.CaptureFixture[str]) -> None:
    folder, grow = growing
    flaky = Flaky(grow)
    start_logging()
    track([folder], flaky, "flaky", artifacts=True, every=0.01)
    assert flaky.states == [("going on", False), *[("finished", True)] * 3]
    assert flaky.closed == 1
    assert capsys.readouterr().out.count("server: does not answer; trying again every 0.01 s") == 1
    with pytest.raises(JobError, match="does not answer"):
        track([folder], Flaky(grow, away=(1,)), "flaky")


def test_a_cancelled_run_has_ended_and_one_that_never_started_has_nothing(growing: Growing, tmp_path: Path) -> None:
    folder, grow = growing
    (folder / "launch").mkdir()
    (folder / "launch" / "cancelled").touch()
    flaky = Flaky(grow)
    track([folder], flaky, "flaky", every=0.01)
    assert flaky.states == [("cancelled", False)]
    (tmp_path / "new").mkdir()
    (folder / "config.yaml").rename(tmp_path / "new" / "config.yaml")
    assert read_run(tmp_path / "new") is None


def test_the_commit_of_the_code(tmp_path: Path) -> None:
    assert commit_of_code(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "file").write_text("a")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    commit = commit_of_code(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "file").write_text("b")
    assert commit_of_code(tmp_path) == f"{commit}-dirty"
    (tmp_path / COMMIT).write_text("noted\n")
    assert commit_of_code(tmp_path) == "noted"
    (tmp_path / "runs").mkdir()
    copy = snapshot(tmp_path / "runs")
    assert commit_of_code(copy) == commit_of_code()
