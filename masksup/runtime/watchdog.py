"""Threads that end a job in which a rank is stuck, dead or failed, and name that rank (R7).

A signal handler cannot run inside a collective that waits for a dead rank; threads can. Each rank notes what
it is doing (`beat`); a thread publishes that, and when a rank has done one thing for longer than it may, compares.
All times are of a process that ran: a job that was suspended goes on.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from torch._C._distributed_c10d import Store

from masksup.base.lived import lived
from masksup.base.log import FILE_ONLY, log
from masksup.base.place import Place
from masksup.exits import BUG, INTERRUPTED
from masksup.runtime import heartbeat, nccl
from masksup.runtime.rendezvous import RankCard, named

_GRACE = 3.0  # seconds that a rank has to leave by itself once another one failed
_PAUSE = 0.5  # seconds between two looks
_MUTE = 4.0  # seconds without an answer, after which a store is not waited for
_MISSED = 8.0  # seconds after which a process of this host that is gone has had the time to be missed by a connection
_LOST = 5  # looks in a row at a store that does not answer, after which its keeper counts as gone


INTERRUPT = "a second Ctrl-C"
"""The reason for which a job ends that its user wants to end now."""


def status_for(reason: str) -> int:
    """With which status a rank follows another one that had this reason to end the job."""
    return INTERRUPTED if reason == INTERRUPT else BUG


class Watchdog:
    """Watches one rank from inside. `cards` say where the others run.

    A rank that does something for too long is found by its own thread and by those that wait for it; one whose thread
    says nothing for `silence` seconds, because it is stopped or gone, is found by rank 0, and rank 0 by rank 1. A
    process that is gone is found by the others on its host within seconds, also where no connection breaks (NCCL).
    """

    def __init__(self, store: Store, place: Place, cards: list[RankCard], silence: float) -> None:
        self._store, self._place, self._cards, self._silence = store, place, cards, silence
        self._beats, self._doing, self._since = 0, "starting", lived()
        self._limit: float | None = None
        self._looks, self._looked = 0, 0.0
        self._reason: str | None = None
        self._last: dict[int, tuple[str, float]] = {}
        me = cards[place.rank]
        self._near = {r: card.pid for r, card in enumerate(cards) if card.host == me.host and card.pid != me.pid}
        self._near = {r: pid for r, pid in self._near.items() if process_runs(pid)}  # not in a container of its own
        self._gone_at: dict[int, float] = {}
        self._stacks: TextIO = sys.stderr
        self._ended = threading.Event()
        self._answered = lived()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch)]
        for thread in self._threads:
            thread.start()

    def beat(self, doing: str, limit: float | None) -> None:
        """This rank now does something new, which may take `limit` seconds (None: as long as it takes)."""
        self._doing, self._since, self._limit = doing, lived(), limit
        self._beats += 1

    def dump_to(self, file: Path) -> None:
        """Where the stacks of all threads go when the job ends badly."""
        self._stacks = file.open("a", encoding="utf-8")

    def _place_of_stacks(self) -> str:
        return "above" if self._stacks is sys.stderr else "in logs/rank*.log"

    def stop(self) -> None:
        """The rank is about to leave in peace."""
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=10)
        faulthandler.cancel_dump_traceback_later()

    def claim(self, reason: str) -> bool:
        """Say why the job ends; False if another rank or thread was first, and its reason holds."""
        said = json.dumps([self._place.rank, threading.get_ident(), reason])
        return str(self._store.compare_set("failed", "", said).decode()) == said

    def reason(self) -> str | None:
        """Why the job ends, if some rank has said so."""
        if self._reason is None and self._store.check(["failed"]):
            self._reason = str(json.loads(self._store.get("failed"))[-1])
        return self._reason

    def part(self, gone: Sequence[int] = ()) -> None:
        """The last word of a rank, and in the name of those that are gone.

        Rank 0, which may keep the store, waits a little until all others have parted, and so know the reason.
        """
        for rank in (*gone, self._place.rank):
            self._store.set(f"parted/{rank}", "1")
        everyone = [f"parted/{rank}" for rank in range(self._place.world)]
        end = lived() + 2 * _GRACE + 1  # others wait for one grace before they leave
        while self._place.first and not self._store.check(everyone) and lived() < end:
            time.sleep(0.1)

    def gone(self, wait: float = 2.5) -> list[int]:
        """Ranks whose thread has said nothing for `wait` seconds: killed, stopped, or on a lost node."""
        before = self._heard()
        end = lived() + wait
        while lived() < end:
            self._publish()  # others look at this one meanwhile
            time.sleep(0.25)
        after = self._heard()
        return [rank for rank in range(self._place.world) if rank != self._place.rank and before[rank] == after[rank]]

    def _heard(self) -> list[str]:
        keys = [f"beat/{rank}" for rank in range(self._place.world)]
        return [self._store.get(key).decode() if self._store.check([key]) else "" for key in keys]

    def _talk(self) -> None:
        """The thread that asks the store. It hangs where rank 0 is stopped that keeps the store."""
        lost = 0
        while not self._ended.wait(_PAUSE):
            try:
                self._publish()
                silent, reason = self._silent(), self.reason()
                lost = 0
            except Exception as error:  # the store's errors are of many types
                lost, silent, reason = lost + 1, False, None
                if lost == _LOST and not self._ended.is_set():
                    self._end(f"the meeting point of the ranks at {self._place.host} is gone: {error}", tell=True)
            if reason is not None and not self._ended.wait(_GRACE):
                self._end(reason, tell=False)
            if silent or self._too_long():
                self._time_out(silent, self._silence if silent or self._limit is None else self._limit)
            elif self._missed():
                self._time_out(True, _MISSED)

    def _watch(self) -> None:
        """The thread that asks nobody, for the case that nobody answers."""
        patience = 0.0 if self._place.rank == 1 else _GRACE  # so that one rank tells, and the others follow
        while not self._ended.wait(_PAUSE):
            self._arm()
            mute = lived() - self._answered - patience
            if mute > self._silence or (self._too_long() and mute > _MUTE):
                seconds = self._silence if self._limit is None else self._limit
                where = f"rank 0 on {self._cards[0].host}, the meeting point of the ranks,"
                self._end(f"{where} did not answer for {seconds:g} s", tell=True, kill=[0])

    def _too_long(self) -> bool:
        return self._limit is not None and lived() - self._since > self._limit

    def _publish(self) -> None:
        self._looks += 1
        said = [self._looks, self._beats, self._doing, round(lived() - self._since, 1)]
        self._store.set(f"beat/{self._place.rank}", json.dumps(said))
        self._answered = lived()

    def _silent(self) -> bool:
        """Whether a rank that this one looks after has said nothing for too long."""
        now, rank = lived(), self._place.rank
        if rank > 1 or now - self._looked < 1:
            return False
        self._looked = now
        after = range(1, self._place.world) if rank == 0 else (0,)
        heard = self._heard()
        for other in after:
            if heard[other] != self._last.get(other, ("", now))[0] or other not in self._last:
                self._last[other] = (heard[other], now)
        return any(now - since > self._silence for _, since in self._last.values())

    def _missed(self) -> bool:
        """Whether a process of this host has been gone for a while; those that leave in peace leave together."""
        now = lived()
        for rank, pid in self._near.items():
            if not process_runs(pid):
                self._gone_at.setdefault(rank, now)
        return any(now - since > _MISSED for since in self._gone_at.values())

    def _arm(self) -> None:
        """Where even this thread cannot run, because a call holds the interpreter, a thread of C writes down which.

        It must not end the rank: it fires, too, when a job wakes that was suspended. The other ranks will.
        """
        if self._limit is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(self._limit + 30, file=self._stacks)

    def _time_out(self, silent: bool, limit: float) -> None:
        beats = self._beats
        try:
            gone = self.gone()
            if self.reason() is not None:  # the job ends already, and who is silent is leaving
                return
            reason = self._named(gone, limit)
            if not gone and (silent or self._beats != beats):  # it went on meanwhile
                return
            first = self.claim(reason)
            reason = reason if first else str(self.reason())
        except Exception:  # the store has gone meanwhile, which the next look finds
            return
        self._end(reason, tell=first, kill=gone)

    def _named(self, gone: list[int], limit: float) -> str:
        me = self._place.rank
        if gone:
            where = ", ".join(f"pid {self._cards[r].pid} on {self._cards[r].host}" for r in gone[:5])
            return f"{named(gone)} ({where}) did not answer for {limit:g} s while rank {me} was {self._doing}"
        said = {rank: json.loads(text) for rank, text in enumerate(self._heard()) if text}
        fewest = min(row[1] for row in said.values())
        behind = [rank for rank, row in said.items() if row[1] == fewest]
        if len(behind) == len(said):
            return f"all ranks have been {self._doing} for {limit:g} s; their stacks are {self._place_of_stacks()}"
        doing, seconds = said[behind[0]][2:]
        return f"{named(behind)} stuck for {seconds:g} s {doing}; the stacks are {self._place_of_stacks()}"

    def _kill(self, gone: list[int]) -> None:
        """A stopped process would hold up the launcher; it can only be killed. Those on other hosts are SLURM's."""
        me = self._cards[self._place.rank]
        for rank in gone:
            if self._cards[rank].host == me.host:
                try:
                    os.kill(self._cards[rank].pid, signal.SIGKILL)
                except OSError:
                    continue  # gone already, or not ours

    def _end(self, reason: str, tell: bool, kill: list[int] | None = None) -> None:
        self._ended.set()  # the other thread has nothing to add
        log.error(f"ended: {reason}", extra=FILE_ONLY)
        faulthandler.dump_traceback(self._stacks, all_threads=True)
        if self._stacks is not sys.stderr:
            nccl.dump(Path(self._stacks.name).with_suffix(".nccl.json"))
        if tell:
            print(f"masksup: {reason}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        status = status_for(reason)
        heartbeat.leave(status, reason)
        gone = kill or []
        self._kill(gone)  # last, because this rank's main thread leaves as soon as a connection breaks
        if 0 not in gone:
            with suppress(RuntimeError):
                self.part(gone)
        os._exit(status)


def process_runs(pid: int) -> bool:
    """Whether a process of this machine is there and has not ended; one that ended stays until it is asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def quick_to_answer(store: Store) -> Store:
    """A connection of its own to the same store, for the watchdog: the trainer's may be waiting."""
    copy: Store = store.clone()
    copy.set_timeout(timedelta(seconds=5))
    return copy
