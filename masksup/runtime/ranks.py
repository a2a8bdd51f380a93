"""The ranks of a job as one: they agree on the CPU. Alone, all of it is free.

Tensors of the training travel over the default process group (NCCL on GPUs, gloo on CPUs); everything that ranks agree
on travels over a gloo group of its own, without a word to the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from masksup.base.place import Place
from masksup.base.signals import stop_code, stop_name
from masksup.config.schema import Parallel
from masksup.errors import ToldElsewhere, UserError
from masksup.runtime.rendezvous import joint_mistake
from masksup.runtime.watchdog import Watchdog


class Group:
    """The ranks of this job. Its methods but `beat` are collective: every rank calls them in the same order."""

    def __init__(
        self, place: Place, parallel: Parallel, control: dist.ProcessGroup | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:  # fmt: skip
        self.place, self.parallel, self.control, self.watchdog = place, parallel, control, watchdog
        self._seen: set[str] = set()

    @property
    def first(self) -> bool:
        """Whether this rank writes what a job writes once."""
        return self.place.first

    @property
    def world(self) -> int:
        return self.place.world

    def beat(self, doing: str, detail: object = "") -> None:
        """Tell the watchdog what this rank does now. The first time may take longer than the later ones."""
        if self.watchdog is not None:
            limit = self.parallel.step_seconds if doing in self._seen else self.parallel.first_step_seconds
            self._seen.add(doing)
            self.watchdog.beat(f"{doing} {detail}".rstrip(), limit)

    def beat_without_limit(self, doing: str) -> None:
        """The same for what takes as long as it takes."""
        if self.watchdog is not None:
            self.watchdog.beat(doing, None)

    def broadcast(self, value: Any) -> Any:
        """The value that rank 0 has."""
        if self.control is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def all(self, value: Any) -> list[Any]:
        """The values of all ranks, on all of them."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks on rank 0; nothing elsewhere."""
        if self.control is None:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, values, dst=0, group=self.control)
        return values or []

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks of a tensor in main memory."""
        if self.control is not None:
            dist.all_reduce(values, group=self.control)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work of each rank for itself, without collectives, whose UserError ends all ranks, told by rank 0."""
        mistake: UserError | None = None
        try:
            yield
        except UserError as error:
            if self.control is None:
                raise
            mistake = error
        joint = joint_mistake(self.all(None if mistake is None else str(mistake)))
        if joint is not None:
            raise UserError(joint) if self.first else ToldElsewhere(joint)


# Wishes, each of which includes those before it: to tell the others of broken images, to take a snapshot, to save, and
# whatever is larger is a request to stop.
TELL, KEEP, SAVE = 1, 2, 3


def wish(signal_name: str | None, save: bool = False, keep: bool = False, tell: bool = False) -> int:
    """What a rank votes for: to stop because of a signal, to save, to keep a snapshot, to tell, or (0) to go on."""
    if signal_name:
        return SAVE + stop_code(signal_name)
    return SAVE if save else KEEP if keep else TELL * tell


def signal_of(outcome: int) -> str | None:
    """The signal that a vote ended the run for."""
    return stop_name(outcome - SAVE) if outcome > SAVE else None


class Vote:
    """What all ranks do next, decided without waiting: cast after one step, read after the next (rule 6)."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._pending: tuple[dist.Work, Tensor] | None = None

    def cast(self, wish: int) -> int:
        """The largest wish of any rank: alone, of this call; with several ranks, of the call before (at first 0)."""
        if self._group.control is None:
            return wish
        outcome = self.drain()
        value = torch.tensor([wish], dtype=torch.int64)
        work = dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group.control, async_op=True)
        self._pending = (work, value)
        return outcome

    def drain(self) -> int:
        """Wait for the vote that is still open, and read it."""
        if self._pending is None:
            return 0
        work, value = self._pending
        self._pending = None
        work.wait()
        return int(value)
