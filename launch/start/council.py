"""What the keepers of a job agree on, through a store that outlives every rank: who lives, what broke, how to go on."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch._C._distributed_c10d import Store

from masksup.base.lived import lived

BEAT_S, LOST_S = 1.0, 8.0
"""Seconds between two signs of life of a keeper, and without one after which it is lost."""
_MEET_S = 30.0
"""Seconds in which the keepers that live say what they have."""


@dataclass(frozen=True)
class Plan:
    """How the job goes on."""

    members: list[int]
    """The keepers whose ranks go on, by number; a keeper's place among them is its rank."""
    step: int | None = None
    """Of the snapshot to go on from; None: from the disk."""
    furthest: int = -1
    """The last step that was done before."""
    stop: str | None = None
    """Why there is no further recovery, and all keepers leave."""


@dataclass
class Council:
    """One keeper's part in it. address: where the store listens."""

    store: Store
    number: int
    members: list[int]
    address: tuple[str, int]
    round: int = 0
    """How many recoveries there were."""
    _beats: int = 0
    _beat_at: float = 0.0
    _heard: dict[int, tuple[str, float]] = field(default_factory=dict)

    def beat(self) -> None:
        """Say that this keeper lives, every second at most; and hear who else does."""
        now = lived()
        if now - self._beat_at < BEAT_S:
            return
        self._beat_at, self._beats = now, self._beats + 1
        self._set(f"alive/{self.number}", str(self._beats))
        for other in self.members:
            said = self._get(f"alive/{other}") or ""
            if other not in self._heard or self._heard[other][0] != said:
                self._heard[other] = (said, now)

    def lost(self) -> list[int]:
        """Keepers that have said nothing for a while."""
        now = lived()
        return [other for other, (_, since) in self._heard.items() if other in self.members and now - since > LOST_S]

    def over(self, status: int) -> None:
        """A rank has left for good, with a status after which nothing is to be recovered."""
        self._set(f"{self.round}/over", str(status))

    @property
    def why(self) -> str | None:
        """The reason for the newest recovery."""
        return self._get(f"{self.round - 1}/broken")

    def is_over(self) -> bool:
        return self._get(f"{self.round}/over") is not None

    def broken(self, why: str) -> None:
        """Something is to be recovered from; the first reason counts."""
        self.store.compare_set(f"{self.round}/broken", "", why)

    def reason(self) -> str | None:
        return self._get(f"{self.round}/broken")

    def next(self, shelf: dict[str, Any], decide: Callable[[dict[int, dict[str, Any]]], Plan]) -> Plan:
        """Agree on how to go on, from what every keeper has. The lowest that lives decides."""
        self.round += 1
        self._set(f"{self.round}/has/{self.number}", json.dumps(shelf))
        end = lived() + _MEET_S
        while (text := self._get(f"{self.round}/plan")) is None:
            self.beat()
            living = [other for other in self.members if other not in self.lost()]
            has = {other: said for other in living if (said := self._get(f"{self.round}/has/{other}")) is not None}
            if living[0] == self.number and (len(has) == len(living) or lived() > end):
                plan = decide({other: json.loads(said) for other, said in has.items()})
                self._set(f"{self.round}/plan", json.dumps(asdict(plan)))
            time.sleep(0.05)
        plan = Plan(**json.loads(text))
        self.members = plan.members
        return plan

    def shelves(self, host: str) -> list[list[str]]:
        """Those of the members on a node, in their order."""
        said = [json.loads(self._get(f"{self.round}/has/{member}") or "{}") for member in self.members]
        return [row["shelf"] for row in said if row["host"] == host]

    def hosts(self) -> list[str]:
        """Of the members, in their order."""
        return [json.loads(self._get(f"{self.round}/has/{member}") or "{}")["host"] for member in self.members]

    def _set(self, name: str, value: str) -> None:
        self.store.set(name, value)

    def _get(self, name: str) -> str | None:
        return str(self.store.get(name).decode()) if self.store.check([name]) else None
