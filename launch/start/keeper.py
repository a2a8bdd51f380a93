"""What runs on every place of a job that recovers by itself: it forks the rank, and forks it anew where one dies.

python -P -m launch.start.keeper RUN_FOLDER

A keeper has imported all that a rank needs, so that a recovery imports nothing. It computes nothing, asks no GPU, has
one thread, so that what it forks is as good as new. It makes the memory in which its rank keeps snapshots. A
rank ends with its keeper. The first keeper has the ranks' store in a process of its own: the death of rank 0 takes
nothing along. Where the keepers of a node are gone, those of the others go on without it as long as the job has its
fewest nodes; below that their ranks save what they have, and the launcher starts the job again. Where the first node is
gone, and its launcher with it, the others end their ranks and queue the job again.
"""

import os

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # how many GPUs there are is asked without CUDA

import json
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from torch._C._distributed_c10d import HashStore, PrefixStore

from launch.ledger import Folder, append, read_json
from launch.start import rank
from launch.start.council import PAUSE_S, Agreement, Council
from launch.start.orphaned import queue_again
from launch.start.recover import recovery
from launch.start.start import job_resources, leave_word, outlives_nodes, taken_over
from launch.start.threads import assert_one_thread, end_pool
from masksup.base import clock, signals
from masksup.base.lived import lived
from masksup.base.memory import killed_for_memory
from masksup.base.place import Place, find_place
from masksup.config.load import load_config
from masksup.exits import BUG, STOPPED, USER_ERROR
from masksup.runtime.fence import SUPERSEDED
from masksup.runtime.rendezvous import find_store, keep_store, limit_silence, named
from masksup.runtime.shelf import SHELF, TAKEN, Shelf

_FINAL = (0, USER_ERROR, STOPPED, SUPERSEDED)
"""Statuses of a rank after which nothing is to be recovered."""
_FORWARDED = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
_HEAR_S = 4.0
"""How long a rank that failed is given to be the consequence of another one's mistake."""
_MEET_S = 30.0
"""How long a keeper may take to end its rank."""
_SILENCE_S, _FOLLOW_S = 10, 2.0
"""How long a keeper waits for an answer of the first, and its rank then has to leave by itself."""
_KILLED = 128
"""Above it stands the signal."""
_STORE_GONE = RuntimeError
"""What torch raises where nobody answers."""


class Keeper:
    """One place of the job. `patience`: seconds that all keepers have to show up.

    outlives: whether the job goes on where its first node is lost, if somebody queues it again.
    """

    def __init__(self, folder: Folder, start: int, place: Place, patience: float, outlives: bool = False) -> None:
        self.folder, self.start, self.place, self.patience = folder, start, place, patience
        self.outlives = outlives
        self.host, self.token = os.uname().nodename, os.environ.get("MASKSUP_TOKEN", "")
        self.shelf = Shelf.make()
        self.plans: list[Agreement] = []
        """Of the recoveries."""
        self.hosts: list[str] = []
        """Of all keepers at the start."""
        self.rank, self.recovery = place.rank, 0
        """The number of the rank, which is another one once a node is lost, and how often it was forked anew."""
        self._pid: int | None = None
        """Of the rank."""
        self._ended = False
        """Whether the rank was ended from here."""
        self._going_on = False
        """A recovery has begun whose end is not noted yet."""
        self._memory = killed_for_memory()
        self._asked: list[int] = []
        for number in _FORWARDED:
            signal.signal(number, self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._asked.append(number)
        if self._pid is not None:
            os.kill(self._pid, number)

    def run(self) -> int:
        """Until the rank has left for good. Its exit status, as a shell says it."""
        end_pool()
        council = self._council()
        plan, broke, status = council.next(self._has(), self.patience, self._first_plan), 0.0, BUG
        self.hosts = [has["host"] for has in council.has()] if plan.stop is None else []
        while plan.stop is None and self.place.rank in council.members:
            self.rank, self.recovery = council.rank, council.round - 1
            if plan.leave:
                self._asked.append(signal.SIGUSR2)  # which the rank hears when it has what was kept
            if self.recovery and self.place.first:
                self._note(broke=broke, agreed=clock.now(), why=plan.why, step=plan.step,
                           furthest=plan.furthest, ranks=len(council.members))  # fmt: skip
            self._fork_rank(partial(self._be_rank, self._variables(council, plan, broke)))
            try:
                status = self._watch(council)
                if council.reason() is None:
                    return status
                broke = clock.now()
                plan = council.next(self._has(), _MEET_S, partial(self._decide, str(council.reason())))
            except _STORE_GONE:
                return self._alone(status)
            self.plans.append(plan)
        if self.place.rank not in council.members:
            return SUPERSEDED  # the others have gone on without this node
        if self.place.first:
            print(f"masksup: no recovery: {plan.stop}", file=sys.stderr, flush=True)
        self._last_word(f"ended by its keeper: {plan.stop}")
        return status

    def _council(self) -> Council:
        """With the other keepers; the first has their store in a process of its own, which has threads."""
        if self.place.world == 1:
            return Council(HashStore(), 0, 1, ("", 0))
        if self.place.first:
            self._fork(self._keep_store)
        store = find_store(self.place, self.patience)
        limit_silence(store.port, _SILENCE_S)
        name = f"masksup/{self.place.job}"
        return Council(PrefixStore(name, store), self.place.rank, self.place.world, (store.host, store.port))

    def _keep_store(self) -> NoReturn:
        _store = keep_store(self.place)  # which is there as long as this name
        while True:
            signal.pause()

    def _has(self) -> dict[str, object]:
        shelf = self.shelf.paths(os.getpid())
        return {"number": self.place.rank, "host": self.host, "shelf": shelf, "steps": self.shelf.steps()}

    def _fork(self, work: Callable[[], int]) -> int:
        """A process that ends with this one, and does this work alone."""
        assert_one_thread()
        parent, pid = os.getpid(), os.fork()
        if pid:
            return pid
        status = BUG
        try:
            signals.end_with_parent()
            if os.getppid() == parent:  # else it ended before the kernel was told
                status = work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _fork_rank(self, work: Callable[[], int]) -> None:
        """The rank hears every signal that came here, whenever it came."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)  # in the rank until it has its own handlers
        self._pid, self._ended = self._fork(work), False
        for number in self._asked:
            os.kill(self._pid, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)

    def _variables(self, council: Council, plan: Agreement, broke: float) -> dict[str, str]:
        """What a rank has as if torchrun had started it, with the keepers' store as that of its agent."""
        here = [has for has in council.has() if has["host"] == self.host]
        own = [has["number"] for has in here].index(self.place.rank)
        taken = {} if plan.step is None else {"step": plan.step, "shelves": [has["shelf"] for has in here]}
        again = {
            "MASKSUP_RESUMED_AFTER": "recovered", "MASKSUP_RECOVERY": str(self.recovery),
            "MASKSUP_BROKE": json.dumps([broke, plan.why]),
        } if self.recovery else {}  # fmt: skip
        return {
            "RANK": str(self.rank), "WORLD_SIZE": str(len(council.members)), "LOCAL_RANK": str(own),
            "LOCAL_WORLD_SIZE": str(len(here)), "MASTER_ADDR": council.address[0],
            "MASTER_PORT": str(council.address[1]), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RUN_ID": self.place.job, "TORCHELASTIC_RESTART_COUNT": str(council.round),
            SHELF: ",".join(map(str, self.shelf.files)), TAKEN: json.dumps(taken) if taken else "", **again,
        }  # fmt: skip

    def _be_rank(self, variables: dict[str, str]) -> int:
        """In the forked process, which shares the keeper's connection to the store and must not use it."""
        os.environ |= variables
        signals.install()
        return rank.main(self.folder.run)

    def _watch(self, council: Council) -> int:
        """Until the rank has left, which is ended where something else broke. Its exit status."""
        while (status := self._left()) is None:
            council.beat()
            self._note_end()
            if self.place.first and (lost := council.lost()):
                council.broken(f"nothing is heard of the keepers of {named(lost)}")
            if council.reason() is not None:
                return self._end_rank(council.beat)
            time.sleep(PAUSE_S)
        self._tell(council, status)
        return status

    def _left(self) -> int | None:
        """The exit status of the rank, as a shell says it; None while it runs."""
        assert self._pid is not None
        ended, raw = os.waitpid(self._pid, os.WNOHANG)
        if not ended:
            return None
        self._pid = None
        status = os.waitstatus_to_exitcode(raw)
        return _KILLED - status if status < 0 else status

    def _end_rank(self, meanwhile: Callable[[], None] = lambda: None) -> int:
        """The kernel may take a while to give back what the rank held."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGKILL)
        self._ended = True
        while (status := self._left()) is None:
            meanwhile()
            time.sleep(PAUSE_S)
        return status

    def _tell(self, council: Council, status: int) -> None:
        """What the end of this rank means for the others."""
        if status in _FINAL or self._asked or killed_for_memory() > self._memory:
            council.over(status)
            return
        follows = status < _KILLED and self.place.world > 1
        end = lived() + (_HEAR_S if follows else 0)  # a rank that leaves by itself may follow another one
        while lived() < end and council.reason() is None and not council.is_over():
            council.beat()
            time.sleep(PAUSE_S)
        if not council.is_over():
            council.broken(f"rank {self.rank} on {self.host} left with status {status}")

    def _first_plan(self, missing: list[int], _: list[Any]) -> Agreement:
        if not missing:
            return Agreement()
        who = f"{named(missing)} of {self.place.world}"
        return Agreement(stop=f"{who} did not show up within {self.patience:.0f} s (parallel.start_seconds)")

    def _decide(self, why: str, missing: list[int], has: list[Any]) -> Agreement:
        """How to go on; on the first keeper for all."""
        if self._asked:
            return Agreement(stop="asked to leave")
        if taken_over(self.folder, self.token):
            return Agreement(stop="another start holds this run now")
        reached = int(read_json(self.folder.heartbeat).get("last_step", -1))
        there = {row["number"]: row for row in has if row and row["number"] not in missing}
        gone, fewest = {number: self.hosts[number] for number in missing}, job_resources(self.folder).fewest_ranks
        return recovery(why, there, gone, self.plans, reached, fewest)

    def _note(self, **facts: object) -> None:
        append(self.folder.recoveries, {"start": self.start, "recovery": self.recovery, **facts})
        self._going_on = True

    def _note_end(self) -> None:
        """Once the first new step is done."""
        if not self._going_on:
            return
        beat = read_json(self.folder.heartbeat)
        if beat.get("recovery") == self.recovery and "went_on_at" in beat:
            keys = {"ready": "ready_at", "from_step": "from_step", "went_on": "went_on_at"}
            self._note(**{key: beat[name] for key, name in keys.items()})
            self._going_on = False

    def _alone(self, status: int) -> int:
        """The first keeper is gone, and the store with it: the rank finds that out by itself, or stands still."""
        end = lived() + _FOLLOW_S
        while self._pid is not None and lived() < end:
            status = status if (left := self._left()) is None else left
            time.sleep(PAUSE_S)
        if self._pid is not None:
            status = self._end_rank()
        self._last_word("the first keeper is gone")
        if self.place.local_rank == 0 and self.hosts[0] != self.host and self.outlives:
            queue_again(self.folder, self.token, list(dict.fromkeys(self.hosts)), self.host)
        return status

    def _last_word(self, text: str) -> None:
        """In the name of a rank that was ended; one that died by itself said nothing, which is telling."""
        if self._ended and not self.folder.word(self.start, self.recovery, self.rank).exists():
            leave_word(self.folder, self.start, self.rank, BUG, text, self.recovery)


def main(run: Path) -> int:
    """Keep a rank of the run in this folder."""
    import masksup.training.train  # noqa: F401  what every rank would import

    folder = Folder(run)
    config = load_config(folder.config)[0]
    outlives = outlives_nodes(job_resources(folder), config)
    return Keeper(folder, int(os.environ["MASKSUP_START"]), find_place(), config.parallel.start_seconds, outlives).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
