"""Ranks that die are forked anew by their keepers, from memory, and the run ends bit-equal (R12)."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compare import assert_same_run

from launch.cluster.local import alive
from launch.start.ledger import Folder, read_json, starts
from masksup.base.json_lines import read_lines
from masksup.config.load import to_yaml
from masksup.training.train import train

KILLS = int(os.environ.get("MASKSUP_KEEPER_KILLS", "6"))
pytestmark = pytest.mark.timeout(300 + 30 * KILLS)
PATIENCE = 120.0


class Job:
    """A run that keepers run on this machine as on a node."""

    def __init__(self, config: Path, run: Path, ranks: int) -> None:
        self.run, self.folder = run, Folder(run)
        words = ["submit", str(config), "--run-dir", str(run), "--cluster", "local", "--gpus-per-node", "0"]
        words += ["--ranks-per-node", str(ranks), "--cpus-per-rank", "1"]
        done = subprocess.run([sys.executable, "-P", "-m", "launch", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.name = str(read_json(self.folder.job)["job"])

    def keepers(self) -> dict[int, int]:
        """Process by rank."""
        found = {}
        for pid in self._processes():
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if parent == int(self.name.removeprefix("local-")):
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found[next(int(word[5:]) for word in words if word.startswith(b"RANK="))] = pid
        return found

    def rank_of(self, keeper: int) -> int:
        """The process of its rank: the youngest that it forked."""
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        return max(map(int, children))

    def _processes(self) -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"launch.start.keeper" in words and os.fsencode(self.run) in words:
                found.append(int(place.name))
        return found

    def step(self) -> int:
        return int(read_json(self.folder.heartbeat).get("last_step", -1))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"{what}: {self.told()}"
            time.sleep(0.05)

    def told(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in sorted(self.run.rglob("*.log")))

    def to_the_end(self) -> None:
        self.wait(lambda: not alive(self.name, self.run), "the end")
        assert self._processes() == [], "a process was left behind"

    def recoveries(self) -> list[dict[str, object]]:
        return list(read_lines(self.folder.recoveries))


@pytest.fixture
def job(tmp_path: Path, tiny_config) -> Iterator[Callable[..., Job]]:
    made: list[Job] = []

    def make(ranks: int = 4, **settings: object) -> Job:
        changes = {"epochs": 120, "batch__micro": 4, "checkpoint__snapshot_seconds": 1, "eval__every_epochs": 40.0, **settings}
        (tmp_path / "config.yaml").write_text(to_yaml(tiny_config(**changes)))
        made.append(Job(tmp_path / "config.yaml", tmp_path / "run", ranks))
        return made[-1]

    yield make
    for each in made:
        for pid in each._processes():
            os.kill(pid, signal.SIGKILL)


def test_killed_ranks_go_on_from_memory_and_end_bit_equal(job, tiny_config, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw, run = random.Random(seed), job()
    for kill in range(KILLS):
        run.wait(lambda: run.step() >= 0 and len(run.recoveries()) == kill, "the ranks")  # noqa: B023
        furthest = run.step()
        run.wait(lambda: run.step() > furthest + 3 or run.folder.result.exists(), "steps")  # noqa: B023
        time.sleep(draw.expovariate(1.0))
        if run.folder.result.exists():
            break
        os.kill(run.rank_of(run.keepers()[draw.randrange(4)]), signal.SIGKILL)
        run.wait(lambda: len(run.recoveries()) == kill + 1 or run.folder.result.exists(), "a recovery")  # noqa: B023
    run.to_the_end()
    assert [start.outcome for start in starts(run.folder)] == ["done"], "the launcher had nothing to do"
    assert run.recoveries()
    assert any(row["step"] is not None for row in run.recoveries()), "none went on from memory"
    config = tiny_config(epochs=120, batch__micro=4, checkpoint__snapshot_seconds=1, eval__every_epochs=40.0)
    assert train(config, tmp_path / "clean") == 0
    assert_same_run(tmp_path / "clean", run.run)


def test_a_rank_that_always_fails_is_left_to_the_launcher_after_two_recoveries(job) -> None:
    """Its images are gone, which is no mistake that a rank would name: a stand-in for a bug."""
    run = job(2)
    run.wait(lambda: run.step() > 3, "steps")
    for _ in range(3):
        before = len(run.recoveries())
        run.wait(lambda: os.path.exists(f"/proc/{run.keepers().get(1, 0)}"), "a keeper")
        os.kill(run.rank_of(run.keepers()[1]), signal.SIGKILL)
        run.wait(lambda: len(run.recoveries()) > before or starts(run.folder)[0].outcome is not None, "an answer")  # noqa: B023
    assert json.dumps(run.recoveries())
