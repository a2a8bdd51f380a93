"""How much of its time a run puts to use while its ranks are killed, with keepers and without, by the same kills.

    python -m tools.goodput configs/examples/quickstart.yaml --kills 10 --mean 60

Two jobs of `masksup-launch --cluster local` train the configuration side by side, so that both have the same machine:
one keeps snapshots in memory, the other has its checkpoints alone, ten of them in the mean time between two kills. The
instants (exponential, from the first step) and the ranks are drawn once, from `--seed`, and are those of both. A kill
at which no rank is there hits nothing, and is counted. A `--mean` after the last kill both are cancelled.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from launch.cluster.local import alive, ranks
from launch.ledger import Folder, job_of, progress, recoveries, starts
from launch.watch.hours import gpu_hours

LIMITS = ["--max-failures", "1000000", "--max-losses", "1000000"]
NAMES = ("with keepers", "without")
_POLL_S = 0.1


@dataclass
class Arm:
    """One of the two jobs. kills: seconds from its first step, and the rank."""

    folder: Folder
    kills: list[tuple[float, int]]
    until: float
    """Seconds from its first step, after which it is cancelled."""
    began: float | None = None
    missed: int = 0
    over: bool = False

    def look(self) -> None:
        """Kill what is due, or cancel the job."""
        history = starts(self.folder)
        if self.began is None:
            first = progress(self.folder, history[-1]).get("first_step_at") if history else None
            self.began = time.monotonic() if first is not None else None
            return
        now = time.monotonic() - self.began
        if self.kills and now >= self.kills[0][0]:
            self.missed += not _kill(self.folder, self.kills.pop(0)[1])
        elif not self.kills and now >= self.until and not self.over:
            _launch("cancel", str(self.folder.run))
            self.over = True

    def ended(self) -> bool:
        job = job_of(self.folder)
        return job is None or not alive(job, self.folder.run)


def _kill(folder: Folder, rank: int) -> bool:
    """Whether there was a process of this rank to be killed; one that has a keeper is a child of that."""
    found = {pid: facts for pid in ranks(folder) if (facts := _facts(pid)) is not None}
    for place in [pid for pid, facts in found.items() if facts.rank == rank and facts.parent not in found]:
        children = sorted((pid for pid in found if found[pid].parent == place), key=lambda pid: found[pid].born)
        forked = children[1:] if rank == 0 else children  # the first child of keeper 0 has the store
        for pid in (forked if found[place].keeper else [place])[-1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
    return False


class Facts(NamedTuple):
    """Of a process."""

    rank: int
    parent: int
    born: int
    keeper: bool
    """Or forked from one."""


def _facts(pid: int) -> Facts | None:
    """None for a process that has ended."""
    place = Path(f"/proc/{pid}")
    try:
        words = (place / "environ").read_bytes().split(b"\0")
        stat = (place / "stat").read_text().rpartition(")")[2].split()
        keeper = b"launch.start.keeper" in (place / "cmdline").read_bytes()
        rank = next(int(word[5:]) for word in words if word.startswith(b"RANK="))
        return Facts(rank, int(stat[1]), int(stat[19]), keeper)
    except (OSError, StopIteration, IndexError):
        return None


def _launch(*words: str) -> None:
    done = subprocess.run([sys.executable, "-P", "-m", "launch", *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def draw(seed: int, kills: int, mean: float, world: int) -> list[tuple[float, int]]:
    """Seconds from the first step, and the rank, of each kill."""
    drawn, at = random.Random(seed), 0.0
    return [(at := at + drawn.expovariate(1 / mean), drawn.randrange(world)) for _ in range(kills)]


def told(name: str, arm: Arm, kills: int) -> str:
    """A row of the table."""
    history, found = starts(arm.folder), recoveries(arm.folder)
    hours = gpu_hours(history, None, recoveries=found)
    parts = [hours.useful, hours.startup, hours.redone, hours.waiting]
    shares = " | ".join(f"{100 * part / hours.total:.0f} %" for part in parts)
    steps = max(start.last_step or 0 for start in history)
    return f"| {name} | {kills - arm.missed} | {len(history)}+{len(found)} | {steps} | {shares} |"


def measure(config: Path, folder: Path, seed: int, kills: int, mean: float, world: int) -> Iterator[str]:
    """The lines of the table."""
    drawn = draw(seed, kills, mean, world)
    arms = []
    for name, every in zip(("keepers", "without"), (mean / 10, 0)):
        settings = [
            f"checkpoint.snapshot_seconds={every:g}",
            f"checkpoint.every_minutes={mean / 600:g}",
            "epochs=100000",
        ]
        options = ["--cluster", "local", "--gpus-per-node", "0", "--ranks-per-node", str(world), "--cpus-per-rank", "1"]
        run = folder / name
        _launch("submit", str(config), *settings, "--run-dir", str(run), *options, *LIMITS)
        arms.append(Arm(Folder(run), list(drawn), drawn[-1][0] + mean))
    while not all(arm.ended() for arm in arms):
        for arm in arms:
            arm.look()
        time.sleep(_POLL_S)
    yield "| | kills that hit | starts+recoveries | steps | useful | starting | redone | waiting |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    yield from (told(name, arm, kills) for name, arm in zip(NAMES, arms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--mean", type=float, default=60.0, metavar="SECONDS", help="between two kills")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the two runs here (default: a temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = asked.folder or Path(folder)
        for line in measure(asked.config, place, asked.seed, asked.kills, asked.mean, asked.ranks):
            print(line, flush=True)


if __name__ == "__main__":
    main()
