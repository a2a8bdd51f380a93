"""Batches from worker processes or threads. What is in a batch depends on the plan alone, never on who loaded it."""

import atexit
import functools
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from masksup.base.place import ALONE, Place, cpus_of_rank
from masksup.base.signals import end_with_parent
from masksup.config.schema import Data
from masksup.data.ahead import ahead
from masksup.data.dataset import Batch, EvalDataset, TrainDataset, stack
from masksup.data.sampler import Plan
from masksup.errors import UserError

Workers = Literal["processes", "threads"]
_MOST_WORKERS = 16  # each keeps micro-batches ready


def workers_of(data: Data) -> int:
    """`data.workers` as a number: auto is all CPUs of this rank but the one that trains, 1 to 16."""
    return data.workers if data.workers != "auto" else max(1, min(_MOST_WORKERS, cpus_of_rank() - 1))


def train_loader(
    dataset: TrainDataset, start_step: int, workers: int, place: Place = ALONE, *, prefetch: int = 4,
    pin_memory: bool = False, kind: Workers = "processes",
) -> Iterator[list[Batch]]:  # fmt: skip
    """For each step from `start_step` to the last of the plan, the micro-batches that are the share of this rank.

    Args:
        workers: loader processes or threads (`kind`); 0 loads in this one. The batches are the same for any number.
        prefetch: micro-batches each worker keeps ready.

    Raises UserError for an unreadable sample; where `dataset.broken_budget` is above 0, `broken` marks a broken one.
    """
    plan = dataset.plan
    units = MicroBatches(plan, start_step, place.rank, place.world)
    batches = _load(dataset, units, workers, prefetch, pin_memory, kind)
    for step in range(start_step, plan.total_steps):
        yield [next(batches) for _ in plan.share(step, place.rank, place.world).indices]


def eval_loader(
    dataset: EvalDataset, batch: int, workers: int, *, numbers: range | None = None, prefetch: int = 4,
    pin_memory: bool = False, kind: Workers = "processes",
) -> Iterator[Batch]:  # fmt: skip
    """Blocks of `batch` samples in order, or those that `numbers` names: block k begins with sample k x `batch`.

    The last block is padded to full size by repeating the last sample, so that every forward has one shape (rule 7);
    `valid` (bool B) marks what is not padding.
    """
    numbers = range(-(-len(dataset) // batch)) if numbers is None else numbers
    blocks = _Blocks(len(dataset), batch, numbers)
    for number, block in zip(numbers, _load(dataset, blocks, workers, prefetch, pin_memory, kind)):
        first = number * batch
        yield {**block, "valid": torch.arange(first, first + batch) < len(dataset)}


@dataclass(frozen=True)
class MicroBatches(Sampler[NDArray[np.int64]]):
    """The positions of each micro-batch that is a rank's share, from a step to the last of the plan."""

    plan: Plan
    start_step: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for step in range(self.start_step, self.plan.total_steps):
            whole = self.plan.micro_batches(step)
            yield from (whole[index] for index in self.plan.share(step, self.rank, self.world).indices)


@dataclass(frozen=True)
class _Blocks(Sampler[NDArray[np.int64]]):
    samples: int
    batch: int
    numbers: range

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for number in self.numbers:
            first = number * self.batch
            yield np.minimum(np.arange(first, first + self.batch), self.samples - 1)


@dataclass(frozen=True)
class _Stacked(Dataset[Batch | UserError]):
    """Whole micro-batches as the items of a torch Dataset.

    A UserError travels as a value: torch would raise it again with the worker's traceback for its text.
    """

    dataset: TrainDataset | EvalDataset

    def __getitem__(self, positions: NDArray[np.int64]) -> Batch | UserError:
        try:
            return stack(self.dataset.fetch(positions))
        except UserError as error:
            return error


def _load(
    dataset: TrainDataset | EvalDataset,
    units: MicroBatches | _Blocks,
    workers: int,
    prefetch: int,
    pin_memory: bool,
    kind: Workers,
) -> Iterator[Batch]:
    by_threads = kind == "threads" and workers > 0
    load = _by_threads if by_threads else _by_processes
    for item in load(_Stacked(dataset), units, workers, prefetch, pin_memory):
        if isinstance(item, UserError):
            raise item
        yield item


def _by_threads(
    stacked: "_Stacked", units: MicroBatches | _Blocks, workers: int, prefetch: int, pin_memory: bool
) -> Iterator[Batch | UserError]:
    def make(positions: NDArray[np.int64]) -> Batch | UserError:
        made = stacked[positions]
        if isinstance(made, UserError) or not pin_memory:
            return made
        return {name: value.pin_memory() for name, value in made.items()}

    return ahead(make, units, workers, workers * prefetch)


def _by_processes(
    stacked: "_Stacked", units: MicroBatches | _Blocks, workers: int, prefetch: int, pin_memory: bool
) -> Iterator[Batch | UserError]:
    if workers:
        _end_with_this_process()
    loader: DataLoader[Any] = DataLoader(
        stacked,
        batch_size=None,
        sampler=units,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=prefetch if workers else None,
        # A generator of its own: without one, every iteration draws a seed from torch's global state.
        generator=torch.Generator(),
    )
    others = set(multiprocessing.active_children())
    items = iter(loader)
    mine = [process for process in multiprocessing.active_children() if process not in others]
    try:
        yield from _refuse_dead(items, mine)
    finally:
        # What is raised keeps this frame, and the processes of an iterator that the garbage collector finds never end.
        del items


def _refuse_dead(items: Iterator[Any], workers: list[BaseProcess]) -> Iterator[Any]:
    """The items; where taking one fails because its worker died while it handed it over, the error is torch's usual."""
    try:
        yield from items
    except (OSError, EOFError) as error:
        # `is_alive` may still say yes: the kernel closes what a process held before its parent can wait for it.
        ended = wait([process.sentinel for process in workers], timeout=1) if workers else []
        if not ended:
            raise
        dead = ", ".join(str(process.pid) for process in workers if process.sentinel in ended)
        raise RuntimeError(f"DataLoader worker (pid(s) {dead}) exited unexpectedly") from error


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(_: int) -> None:
    """Leave requests to stop to the trainer: workers end with it, however it ends.

    SLURM and a terminal send a signal to every process of a job. A worker that died of it would raise an error in
    the middle of the trainer's step, before the trainer could finish the step and save.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(1)


@functools.cache
def _end_with_this_process() -> None:
    """Python waits for its child processes before it ends, after a SIGTERM that ours ignore."""
    atexit.register(_kill_workers)  # runs before what Python itself has registered


def _kill_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for each
    for process in multiprocessing.active_children():
        process.kill()
