"""What a row is, and how the two sides of it are timed: in turns, with one side twice as the floor of the noise."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Arm = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """How a row is measured. `rounds`: of all sides in turn; `folder`: for what it writes; `photos`: JPEGs, or None.

    tiny: the smallest form, which shows that the row runs and nothing else.
    """

    rounds: int
    folder: Path
    photos: Path | None = None
    tiny: bool = False


@dataclass(frozen=True)
class Figure:
    """One number with its bound. `noise`: what the same side, measured twice, differs from itself by."""

    what: str
    value: float
    unit: Literal["x", "%", "s"]
    bound: tuple[Literal["at least", "at most"], float] | None = None
    noise: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the number keeps to its bound; None without one."""
        if self.bound is None:
            return None
        side, limit = self.bound
        return self.value >= limit if side == "at least" else self.value <= limit

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Spent:
    """Seconds of one call: by the clock, and of the processor, in this process and in those it has waited for."""

    clock: float
    cpu: float

    def by(self, which: "By") -> float:
        return self.clock if which == "clock" else self.cpu


By = Literal["clock", "cpu"]
Times = dict[str, list[Spent]]


def interleaved(arms: Mapping[str, Arm], rounds: int, *, warm: bool = True) -> Times:
    """What `rounds` calls of each took, one of each in turn, every other round backwards; after one that warms up."""
    for arm in arms.values() if warm else ():
        arm()
    spent: Times = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            spent[name].append(timed(arms[name]))
    return spent


def timed(arm: Arm) -> Spent:
    """What one call takes."""
    began, used = time.perf_counter(), _processor()
    arm()
    return Spent(time.perf_counter() - began, _processor() - used)


def _processor() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def ratio(times: Times, over: str, under: str, by: By = "cpu") -> float:
    """How many times as long `over` takes as `under`: the median over the rounds.

    Processor time is what other work on the machine distorts least. The clock also sees what is done side by side.
    """
    return statistics.median(a.by(by) / b.by(by) for a, b in zip(times[over], times[under], strict=True))


def noise(times: Times, name: str, again: str, by: By = "cpu") -> float:
    """What a side differs from itself by, as a share."""
    return abs(ratio(times, again, name, by) - 1)


def median(times: Times, name: str, by: By = "cpu") -> float:
    """Seconds of a call."""
    return statistics.median(spent.by(by) for spent in times[name])
