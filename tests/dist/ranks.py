"""Ranks of the real command on this machine, with deadlines, and with nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import masksup

DEADLINE = 240.0
# A probe: everything that would be float32 is float64. Trainings that differ in the order of sums alone then differ by
# so little that whatever a processor's rounding and some steps make of it stays far below any error in the sums.
IN_FLOAT64 = """
import torch
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
"""


class Zygote:
    """A process that has imported everything, and forks ranks."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(Path(__file__).with_name("zygote.py"))]
        # No variable of a job that the tests themselves may run in.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
        self.process = subprocess.Popen(
            command,
            env={**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(masksup.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, argv: Sequence[str], env: Mapping[str, str], out: Path, probe: str) -> int:
        return int(self._ask({"argv": list(argv), "env": dict(env), "out": str(out), "probe": probe}))

    def statuses(self) -> dict[int, int | None]:
        return {int(pid): status for pid, status in json.loads(self._ask({})).items()}

    def _ask(self, request: dict[str, Any]) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@dataclass
class Ranks:
    """A job that was started: `pids` and output files `outs`, by rank."""

    zygote: Zygote
    pids: list[int]
    outs: list[Path]

    def codes(self) -> list[int | None]:
        """Exit statuses so far; None: still running; negative: killed by that signal."""
        statuses = self.zygote.statuses()
        return [statuses[pid] for pid in self.pids]

    def wait(self, seconds: float = DEADLINE) -> list[int | None]:
        """The exit statuses, when all ranks have ended. Past the deadline the job is killed and the test fails."""
        end = time.monotonic() + seconds
        while None in (codes := self.codes()):
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"still running after {seconds:g} s: {codes}\n{self.text()}")
            time.sleep(0.02)
        return codes

    def until(self, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Wait for something while the job runs."""
        end = time.monotonic() + seconds
        while not condition() and None in self.codes():
            assert time.monotonic() < end, f"nothing happened before the deadline\n{self.text()}"
            time.sleep(0.005)

    def signal(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.pids[rank], number)

    def kill(self) -> None:
        for pid, code in zip(self.pids, self.codes()):
            if code is None:
                os.killpg(pid, signal.SIGKILL)

    def text(self) -> str:
        return "\n".join(f"--- rank {rank}\n{out.read_text()}" for rank, out in enumerate(self.outs) if out.exists())


@dataclass
class Launcher:
    """Starts jobs; what still runs at the end of the test is killed."""

    zygote: Zygote
    folder: Path
    started: list[Ranks]

    def start(
        self, world: int, *argv: object, env: Mapping[str, str] | None = None, probe: str = "", only: int | None = None
    ) -> Ranks:
        """`masksup ARGV` on `world` ranks, as torchrun would start them; `env` instead of torchrun's variables.

        probe: Python to run in each rank before the command. only: leave all but the first so many ranks out.
        """
        number, port = len(self.started), free_port()
        pids, outs = [], []
        for rank in range(world if only is None else only):
            place = {
                "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            if env is not None:
                place = {key: value.replace("{rank}", str(rank)) for key, value in env.items()}
            outs.append(self.folder / f"job{number}-rank{rank}.txt")
            pids.append(
                self.zygote.start([str(word) for word in argv], place if world > 1 or env else {}, outs[-1], probe)
            )
        self.started.append(Ranks(self.zygote, pids, outs))
        return self.started[-1]

    def train(self, world: int, config: Path, run: Path, *overrides: str, **options: Any) -> Ranks:
        return self.start(world, "train", config, *overrides, "--run-dir", run, **options)

    def to_the_end(self, world: int, config: Path, run: Path, *overrides: str, **options: Any) -> Ranks:
        ranks = self.train(world, config, run, *overrides, **options)
        assert ranks.wait() == [0] * world, ranks.text()
        return ranks


@contextmanager
def launcher(zygote: Zygote, folder: Path) -> Iterator[Launcher]:
    made = Launcher(zygote, folder, [])
    try:
        yield made
    finally:
        for ranks in made.started:
            ranks.kill()
        for ranks in made.started:
            ranks.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
