"""What the keepers of a job agree on, through a store that outlives every rank: who lives, what broke, how to go on."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch._C._distributed_c10d import Store

from masksup.base.lived import lived

PAUSE_S = 0.05
"""Seconds between two looks at what others say."""
BEAT_S, LOST_S = 1.0, 8.0
"""Seconds between two signs of life of a keeper, and without one after which it is lost."""


@dataclass(frozen=True)
class Agreement:
    """How the job goes on."""

    why: str = ""
    """What it is a recovery from."""
    step: int | None = None
    """Of the snapshot to go on from; None: from the disk."""
    furthest: int = -1
    """The last step that was done before."""
    stop: str | None = None
    """Why there is no further recovery, and all keepers leave."""
    members: list[int] | None = None
    """Keepers that go on, by number; their ranks are numbered anew in this order. None: all that there are."""
    leave: bool = False
    """The ranks only save what they have, and leave."""


@dataclass
class Council:
    """One keeper's part in it. address: where the store listens."""

    store: Store
    number: int
    world: int
    address: tuple[str, int]
    round: int = 0
    """Of the ranks that run, from 1; each recovery begins another."""
    members: list[int] = field(default_factory=list)
    """The keepers that are left, by number."""
    _beats: int = 0
    _beat_at: float = 0.0
    _heard: dict[int, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = list(range(self.world))

    @property
    def rank(self) -> int:
        """The number that the rank of this keeper has now."""
        return self.members.index(self.number)

    def beat(self) -> None:
        """Say that this keeper lives, every second at most. The first hears all the others, and they hear the first."""
        now = lived()
        if now - self._beat_at < BEAT_S:
            return
        self._beat_at, self._beats = now, self._beats + 1
        self._set(f"alive/{self.number}", str(self._beats))
        for other in self.members if self.number == 0 else (0,):
            said = self._get(f"alive/{other}")
            if said is not None and (other not in self._heard or self._heard[other][0] != said):
                self._heard[other] = (said, now)

    def lost(self) -> list[int]:
        """Keepers that say nothing any more."""
        now = lived()
        silent = {other for other, (_, since) in self._heard.items() if now - since > LOST_S}
        return sorted(silent.intersection(self.members))

    def over(self, status: int) -> None:
        """A rank has left for good, with a status after which nothing is to be recovered."""
        self._set(f"{self.round}/over", str(status))

    def is_over(self) -> bool:
        return self._get(f"{self.round}/over") is not None

    def broken(self, why: str) -> None:
        """Something is to be recovered from; the first reason counts."""
        self.store.compare_set(f"{self.round}/broken", "", why)

    def reason(self) -> str | None:
        """Why there is something to recover from, if there is."""
        return self._get(f"{self.round}/broken")

    def next(
        self, own: dict[str, Any], seconds: float, decide: Callable[[list[int], list[Any]], Agreement]
    ) -> Agreement:
        """Agree on how to go on. `own`: what this keeper has. `decide` is called on the first keeper, with the keepers
        that said nothing within so many seconds, and with what each of the others has.
        """
        self.round += 1
        self._set(f"{self.round}/has/{self.number}", json.dumps(own))
        if self.number == 0:
            plan = decide(self._missing(seconds), self.has())
            self._set(f"{self.round}/plan", json.dumps(asdict(plan)))
        while (text := self._get(f"{self.round}/plan")) is None:
            self.beat()
            if self.lost():
                return Agreement(stop="the first keeper is lost")
            time.sleep(PAUSE_S)
        plan = Agreement(**json.loads(text))
        if plan.members is not None:
            self.members = plan.members
        return plan

    def has(self) -> list[dict[str, Any]]:
        """What the keepers have, by number; nothing of those that said nothing."""
        return [json.loads(self._get(f"{self.round}/has/{other}") or "{}") for other in self.members]

    def _missing(self, seconds: float) -> list[int]:
        end, missing = lived() + seconds, self.members
        while lived() < end and set(missing).difference(self.lost()):
            self.beat()
            missing = [other for other in missing if self._get(f"{self.round}/has/{other}") is None]
            time.sleep(PAUSE_S)
        return missing

    def _set(self, name: str, value: str) -> None:
        self.store.set(name, value)

    def _get(self, name: str) -> str | None:
        return str(self.store.get(name).decode()) if self.store.check([name]) else None
