"""What runs on every place of a job that recovers by itself: it forks the rank, and forks it anew where one dies.

python -P -m launch.start.keeper RUN_FOLDER

A keeper has imported all that a rank needs, so that a recovery imports nothing. It computes nothing, asks no GPU, has
one thread, so that what it forks is as good as new. It makes the memory in which its rank keeps snapshots. A
rank ends with its keeper. The first keeper has the ranks' store in a process of its own: the death of rank 0 takes
nothing along.
"""

import os

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # how many GPUs there are is asked without CUDA

import ctypes
import json
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from torch._C._distributed_c10d import HashStore, PrefixStore

from launch.start import rank
from launch.start.council import Council, Plan
from launch.start.ledger import Folder, append, read_json
from masksup.base import clock, signals
from masksup.base.lived import lived
from masksup.base.place import Place, find_place
from masksup.exits import BUG, STOPPED, USER_ERROR
from masksup.runtime.fence import SUPERSEDED
from masksup.runtime.rendezvous import find_store, keep_store
from masksup.runtime.shelf import SHELF, TAKEN, Shelf

FINAL = (0, USER_ERROR, STOPPED, SUPERSEDED)
"""Statuses of a rank after which nothing is to be recovered."""
_FORWARDED = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
_PAUSE_S = 0.05
_HEAR_S = 4.0
"""How long a rank that failed is given to be the consequence of another one's mistake."""
_SET_PDEATHSIG = 1
_START_S = 600.0
"""How long the keepers wait for the first of them."""
_KILLED = 128
"""Above it stands the signal."""
_SAME_STEP = 2
"""Recoveries at one furthest step, after which the next failure there is the launcher's."""


class Keeper:
    """One place of the job."""

    def __init__(self, folder: Folder, start: int, place: Place) -> None:
        self.folder, self.start, self.place = folder, start, place
        self.host = os.uname().nodename
        self.shelf = Shelf.make()
        self.pid: int | None = None
        """Of its rank."""
        self.history: list[int] = []
        """The furthest step at each recovery."""
        self._asked: list[int] = []
        for number in _FORWARDED:
            signal.signal(number, self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._asked.append(number)
        if self.pid is not None:
            os.kill(self.pid, number)

    def run(self) -> int:
        """Until the rank has left for good. Its exit status."""
        council = self._council()
        plan = council.next(self._has(), lambda has: Plan(sorted(has)))
        while True:
            self.pid = self._fork(partial(self._be_rank, self._variables(council, plan)))
            for number in list(self._asked):  # that came before there was a rank
                os.kill(self.pid, number)
            status = self._watch(self.pid, council)
            self.pid = None
            if council.reason() is None:
                return status
            broke = clock.now()
            plan = council.next(self._has(), lambda has: self._decide(council, has))
            self.history.append(plan.furthest)
            if plan.stop is not None or self.place.rank not in plan.members:
                return status
            if self.place.rank == plan.members[0]:
                append(self.folder.recoveries, {"start": self.start, "recovery": council.round - 1, "broke": broke,
                                                "agreed": clock.now(), "why": council.why, "step": plan.step,
                                                "furthest": plan.furthest, "ranks": len(plan.members)})  # fmt: skip

    def _council(self) -> Council:
        """With the other keepers; the first has their store in a process of its own, which has threads."""
        if self.place.world == 1:
            return Council(HashStore(), 0, [0], ("", 0))
        if self.place.first:
            self._fork(self._keep_store)
        store = find_store(self.place, _START_S)
        name = f"masksup/{self.place.job}"
        return Council(
            PrefixStore(name, store), self.place.rank, list(range(self.place.world)), (store.host, store.port)
        )

    def _keep_store(self) -> int:
        store = keep_store(self.place)
        while store is not None:
            signal.pause()
        return 0

    def _has(self) -> dict[str, object]:
        return {"host": self.host, "shelf": self.shelf.paths(os.getpid()), "steps": self.shelf.steps()}

    def _fork(self, work: Callable[[], int]) -> int:
        """A process that ends with this one, and does this work alone."""
        threads = list(Path("/proc/self/task").iterdir())
        assert len(threads) == 1, f"found {len(threads)} threads, of which a fork would lose all but one"
        pid = os.fork()
        if pid:
            return pid
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
        status = BUG
        try:
            status = work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _variables(self, council: Council, plan: Plan) -> dict[str, str]:
        """What a rank has as if torchrun had started it, with the keepers' store as that of its agent."""
        own, hosts = plan.members.index(self.place.rank), council.hosts()
        here = [at for at, host in enumerate(hosts) if host == self.host]
        taken = {} if plan.step is None else {"step": plan.step, "shelves": council.shelves(self.host)}
        return {
            "RANK": str(own), "WORLD_SIZE": str(len(hosts)), "LOCAL_RANK": str(here.index(own)),
            "LOCAL_WORLD_SIZE": str(len(here)), "MASTER_ADDR": council.address[0],
            "MASTER_PORT": str(council.address[1]), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RUN_ID": self.place.job, "TORCHELASTIC_RESTART_COUNT": str(council.round),
            SHELF: ",".join(map(str, self.shelf.files)), TAKEN: json.dumps(taken) if taken else "",
        }  # fmt: skip

    def _be_rank(self, variables: dict[str, str]) -> int:
        """In the forked process, which shares the keeper's connection to the store and must not use it."""
        signals.install()
        os.environ |= variables
        (self.folder.exits(self.start) / f"rank{int(variables['RANK']):05d}.json").unlink(missing_ok=True)
        return rank.main(self.folder.run)

    def _watch(self, pid: int, council: Council) -> int:
        """Until the rank has left, which is ended where something else broke. Its exit status, as a shell says it."""
        while True:
            ended, raw = os.waitpid(pid, os.WNOHANG)
            if ended:
                status = _as_shell(os.waitstatus_to_exitcode(raw))
                self._tell(council, status)
                return status
            council.beat()
            if council.reason() is not None:
                os.kill(pid, signal.SIGKILL)
                return _as_shell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            time.sleep(_PAUSE_S)

    def _tell(self, council: Council, status: int) -> None:
        """What the end of this rank means for the others."""
        if status in FINAL or self._asked:
            council.over(status)
            return
        end = lived() + (_HEAR_S if status < _KILLED else 0)  # a rank that leaves by itself may follow another one
        while lived() < end and council.reason() is None and not council.is_over():
            council.beat()
            time.sleep(_PAUSE_S)
        if not council.is_over():
            council.broken(f"rank {self.place.rank} on {self.host} left with status {status}")

    def _decide(self, council: Council, has: dict[int, dict[str, Any]]) -> Plan:
        """How to go on; by one keeper for all."""
        furthest = int(read_json(self.folder.heartbeat).get("last_step", -1))
        if council.is_over():
            return Plan([], stop="a rank has left for good")
        if self.history.count(furthest) >= _SAME_STEP:
            return Plan([], furthest=furthest, stop=f"{_SAME_STEP} recoveries at step {furthest}")
        steps = set.intersection(*(set(row["steps"]) for row in has.values()))
        return Plan(sorted(has), max(steps, default=None), furthest)


def _as_shell(status: int) -> int:
    return _KILLED - status if status < 0 else status


def main(run: Path) -> int:
    """Keep a rank of the run in this folder."""
    import masksup.output.scores
    import masksup.training.train  # noqa: F401  what every rank would import

    return Keeper(Folder(run), int(os.environ["MASKSUP_START"]), find_place()).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
