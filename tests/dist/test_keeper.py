"""Ranks that die are forked anew by their keepers, from memory, and the run ends bit-equal (R12)."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
from compare import assert_same_run
from forked import in_background, youngest_child
from taken import GROWTH, taken

from launch.cluster.local import alive
from launch.ledger import Folder, progress, read_json, recoveries, starts
from launch.watch.status import rows
from masksup.config.load import to_yaml
from masksup.exits import STOPPED
from masksup.runtime.checkpoint import list_checkpoints
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.shelf import Shelf
from masksup.runtime.watchdog import process_runs
from masksup.training.train import train
from tools.same_run import differences

KILLS = int(os.environ.get("MASKSUP_KEEPER_KILLS", "2"))
TORTURE, EVERY = KILLS >= 30, 100
GAP_S = 15.0 if TORTURE else 0.5
"""The mean of the time between two kills, each of which waits for a step and a snapshot since the one before."""
pytestmark = pytest.mark.timeout(600 + 60 * KILLS)
PATIENCE = 240.0


def until(condition: Callable[[], object], what: str, told: Callable[[], str] = str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: {told()}"
        time.sleep(0.05)


class Job:
    """A run that keepers run on this machine as on a node."""

    def __init__(self, config: Path, run: Path, ranks: int) -> None:
        self.run, self.folder = run, Folder(run)
        words = ["submit", str(config), "--run-dir", str(run), "--cluster", "local", "--gpus-per-node", "0"]
        words += ["--ranks-per-node", str(ranks), "--cpus-per-rank", "1"]
        done = subprocess.run([sys.executable, "-P", "-m", "launch", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.name = str(read_json(self.folder.job)["job"])
        self.pid = int(self.name.removeprefix("local-"))

    def keepers(self) -> dict[int, int]:
        """Process by rank."""
        found = {}
        for pid in self._processes():
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if parent == self.pid:
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found[next(int(word[5:]) for word in words if word.startswith(b"RANK="))] = pid
        return found

    def rank_of(self, keeper: int) -> int:
        """The process of its rank: the youngest that it forked."""
        return youngest_child(keeper)

    def kept(self) -> list[int]:
        """Steps whose snapshot all keepers have."""
        steps = [{_head(file) for file in self._memory(keeper)} - {None} for keeper in self.keepers().values()]
        return sorted(set.intersection(*steps)) if steps else []

    def kept_mib(self) -> float:
        """The memory that all snapshots take."""
        files = [file for keeper in self.keepers().values() for file in self._memory(keeper)]
        return sum(file.stat().st_blocks for file in files) * 512 / 2**20

    def _memory(self, keeper: int) -> list[Path]:
        return [fd for fd in Path(f"/proc/{keeper}/fd").iterdir() if "masksup-snapshot" in str(fd.readlink())]

    def newer_kept(self) -> bool:
        """Whether one is newer than that which the run went on from: two recoveries in vain are the last."""
        went = [recovery.step or 0 for recovery in recoveries(self.folder)]
        return max(self.kept(), default=-1) > (went[-1] if went else -1)

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

    def went_on(self) -> int:
        """After how many recoveries the newest start does steps; -1: it does none yet."""
        beat, history = read_json(self.folder.heartbeat), starts(self.folder)
        own = bool(history) and bool(progress(self.folder, history[-1])) and "went_on_at" in beat
        return int(beat["recovery"]) if own else -1

    def wait(self, condition: Callable[[], object], what: str) -> None:
        until(condition, what, self.told)

    def told(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in sorted(self.run.rglob("*.log")))

    def to_the_end(self) -> None:
        self.wait(lambda: not alive(self.name, self.run), "the end")
        assert self._processes() == [], "a process was left behind"


def _head(file: Path) -> int | None:
    """The step of the snapshot in a memory file."""
    opened = os.open(file, os.O_RDONLY)
    try:
        return next(iter(Shelf((opened, opened)).steps()), None)
    finally:
        os.close(opened)


@pytest.fixture
def job(tmp_path: Path, tiny_config) -> Iterator[Callable[..., Job]]:
    made: list[Job] = []

    def make(ranks: int = 4, **settings: object) -> Job:
        changes = {**SETTINGS, **settings}
        (tmp_path / "config.yaml").write_text(to_yaml(tiny_config(**changes)))
        made.append(Job(tmp_path / "config.yaml", tmp_path / "run", ranks))
        return made[-1]

    yield make
    for each in made:
        if alive(each.name, each.run):
            os.kill(each.pid, signal.SIGKILL)  # first: it would start them again
        for pid in each._processes():
            os.kill(pid, signal.SIGKILL)


SETTINGS = {
    "epochs": 12.0 * KILLS,
    "batch__micro": 4,
    "checkpoint__snapshot_seconds": 0.5,
    "eval__every_epochs": 6.0 * KILLS,
}
# How far a run comes during many kills is a matter of the machine: it is ended then, and compared at a common step.
LONG = {
    "epochs": 100_000.0,
    "checkpoint__snapshot_seconds": 2.0,
    "eval__every_epochs": 200.0,
    "checkpoint__every_steps": EVERY,
}


def test_killed_ranks_go_on_from_memory_and_end_bit_equal(job, tiny_config, tmp_path: Path) -> None:
    seed, samples = random.randrange(10**6), []
    print(f"seed {seed}", flush=True)
    settings = SETTINGS | (LONG if TORTURE else {})
    undisturbed = tiny_config(**settings, **({"checkpoint__keep": 10**6} if TORTURE else {}))
    clean = in_background(lambda: train(undisturbed, tmp_path / "clean"))
    draw, run, due = random.Random(seed), job(**settings), 0.0
    for kill in range(KILLS):
        run.wait(lambda: run.went_on() == kill and run.newer_kept(), "steps and a new snapshot")
        time.sleep(max(due - time.monotonic(), 0))
        if run.folder.result.exists():
            break
        samples.append({**taken(run.keepers().values()), "snapshots_mib": run.kept_mib()})
        os.kill(run.rank_of(run.keepers()[draw.randrange(4) if kill else 0]), signal.SIGKILL)
        due = time.monotonic() + draw.expovariate(1 / GAP_S)
        run.wait(lambda: len(recoveries(run.folder)) > kill or run.folder.result.exists(), "a recovery")
    if TORTURE:
        last = end_at_a_checkpoint(run)
        until(lambda: last in saved_steps(tmp_path / "clean"), "the same step without kills")
        os.kill(clean, signal.SIGKILL)
        os.waitpid(clean, 0)
        print(about_recoveries(run, "cancelled"))
        assert differences(tmp_path / "clean", run.run, last) == []
        assert_flat(samples)
    else:
        run.to_the_end()
        print(about_recoveries(run, "done"))
        assert os.waitpid(clean, 0)[1] == 0
        assert_same_run(tmp_path / "clean", run.run)


def saved_steps(run: Path) -> set[int]:
    return {int(path.name.split("-")[1]) for path in list_checkpoints(run / "checkpoints")}


def end_at_a_checkpoint(run: Job) -> int:
    """Ends a run once it has saved at a multiple of EVERY since the last recovery. That step."""
    run.wait(lambda: run.went_on() == len(recoveries(run.folder)), "steps")
    first = int(read_json(run.folder.heartbeat)["last_step"])
    run.wait(lambda: max(saved_steps(run.run), default=0) >= first + EVERY, "a checkpoint")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launch", "cancel", str(run.run)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run.to_the_end()
    return max(step for step in saved_steps(run.run) if step % EVERY == 0)


def about_recoveries(run: Job, outcome: str) -> str:
    """Their figures, once all is as it should be."""
    found, row = recoveries(run.folder), rows([run.run], run.run.parent)[0]
    assert [start.outcome for start in starts(run.folder)] == [outcome], "the launcher had nothing to do"
    assert len(found) >= KILLS / 2, "the run was over too soon"
    assert all(recovery.step is not None for recovery in found), "one did not go on from memory"
    assert (row.starts, row.recoveries) == (1, len(found))
    events = [event["text"] for event in read_rows(run.run / "metrics.jsonl") if event["kind"] == "event"]
    assert sum("recovered within" in text for text in events) >= 1
    (start,) = starts(run.folder)
    assert start.first_step == 0, "the heartbeat of a forked rank speaks of the whole start"
    seconds, redone = [recovery.seconds for recovery in found], sum(recovery.redone for recovery in found)
    return (
        f"{len(found)} recoveries: {median(seconds):.1f} s (median), {max(seconds):.1f} s (worst), "
        f"{redone} of {start.last_step} steps again; the run stood still {sum(seconds):.0f} s of "
        f"{(found[-1].went_on or 0) - found[0].broke:.0f}"
    )


def assert_flat(samples: list[dict[str, float]]) -> None:
    """From the second third of the samples to the last."""
    third = len(samples) // 3
    for name, more in {**GROWTH, "snapshots_mib": 0.1}.items():
        before, after = (median(row[name] for row in part) for part in (samples[third:-third], samples[-third:]))
        print(f"keepers and ranks, {name}: {before:.1f} -> {after:.1f}")
        assert after - before <= more, name


@pytest.mark.slow
def test_a_keeper_that_dies_takes_its_rank_along_and_a_signal_to_one_reaches_all_ranks(job) -> None:
    run = job(2)
    run.wait(lambda: run.went_on() == 0, "steps")
    keeper = run.keepers()[1]
    rank = run.rank_of(keeper)
    os.kill(keeper, signal.SIGKILL)
    run.wait(lambda: not Path(f"/proc/{rank}").exists(), "the end of the rank")
    run.wait(lambda: starts(run.folder)[0].outcome is not None, "the launcher's answer")
    assert starts(run.folder)[0].outcome == "lost"
    run.wait(lambda: len(starts(run.folder)) == 2 and run.went_on() == 0, "steps")
    run.folder.cancelled.touch()
    os.kill(run.keepers()[1], signal.SIGUSR2)
    run.to_the_end()
    assert [start.outcome for start in starts(run.folder)] == ["lost", "cancelled"]
    words = [read_json(file)["status"] for file in sorted(run.folder.exits(2).iterdir())]
    assert words == [STOPPED] * 2
    assert recoveries(run.folder) == []


SCRIPT = """
import os, signal, sys
from pathlib import Path
from launch.start import keeper, rank
from launch.ledger import Folder, recoveries
from masksup.base.place import ALONE
import masksup.output.scores, masksup.training.train
import torch

assert "deepspeed" not in sys.modules and not torch.cuda.is_initialized()

def kept(folder, lives, memory):
    # The exit status, how many ranks were forked, and how many recoveries are noted.
    begun = folder / "begun"
    (folder / "launch").mkdir(parents=True)

    def live(_):
        with begun.open("a") as file:
            file.write("x")
        status = lives[min(len(begun.read_text()), len(lives)) - 1]
        if status < 0:
            os.kill(os.getpid(), -status)
        return status

    rank.main = live
    keeper.killed_for_memory = lambda: len(begun.read_text()) if memory and begun.exists() else 0
    status = keeper.Keeper(Folder(folder), 1, ALONE, 60).run()
    return status, len(begun.read_text()), len(recoveries(Folder(folder)))

home = Path(sys.argv[1])
for number, (lives, memory) in enumerate([([-9, 1, 0], 0), ([-9], 0), ([2], 0), ([-9], 1)]):
    print(*kept(home / str(number), lives, memory), flush=True)
"""

MORTAL = """
import os, signal, sys, time
from pathlib import Path
from launch.start import keeper, rank
from launch.ledger import Folder
from masksup.base import signals
from masksup.base.place import ALONE

born = Path(sys.argv[1]) / "born"

def live(_):
    born.write_text(str(os.getpid()))
    while not signals.stop_requested():
        time.sleep(0.02)
    return 75

rank.main = live
sys.exit(keeper.Keeper(Folder(born.parent), 1, ALONE, 60).run())
"""


TWO_THREADS = {**os.environ, "OMP_NUM_THREADS": "2"}
"""What a rank with two cores has; numpy then comes with a thread, which must not be there when a keeper forks."""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR2, STOPPED), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_to_a_keeper_reaches_its_rank_which_ends_with_it(number: int, status: int, tmp_path: Path) -> None:
    keeper = subprocess.Popen([sys.executable, "-c", MORTAL, str(tmp_path)], env=TWO_THREADS)
    born = tmp_path / "born"
    until(lambda: born.exists() and born.read_text(), "a rank")
    keeper.send_signal(number)
    assert keeper.wait(PATIENCE) == status
    until(lambda: not process_runs(int(born.read_text())), "the end of the rank")


def test_there_is_no_third_recovery_at_one_step_and_none_where_it_would_be_in_vain(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=TWO_THREADS)
    assert done.stdout.splitlines() == [
        "0 3 2",  # it goes on from what killed a rank, and from a bug
        "137 3 2",  # the same again and again
        "2 1 0",  # a mistake of the user
        "137 1 0",  # killed by the kernel, which had no more memory
    ], done.stderr
