"""How far a run is and how fast: a bar with the remaining time on a terminal, plain lines in a log."""

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from masksup.base.log import console


class Bar(Progress):
    """A bar with a line above it."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield Text(self.note, overflow="ellipsis", no_wrap=True)
        yield self.make_tasks_table(self.tasks)


@contextmanager
def training_bar(total: int, done: int, shown: bool = True) -> Iterator[Bar]:
    """A bar over the steps of the run; prints nothing where the output is not a terminal."""
    columns = (
        TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(
        *columns, console=console, disable=not (shown and console.is_terminal), transient=True, expand=True
    ) as bar:
        bar.add_task("training", total=total, completed=done)
        yield bar


class Meter:
    """Time over the steps since it was last read: images a second, and the share spent waiting for data."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._start, self._steps, self._images, self._waited = time.perf_counter(), 0, 0, 0.0

    def add(self, images: int, waited: float) -> None:
        """Count a step of which this process did `images` samples; the loop waited `waited` seconds for their data."""
        self._steps += 1
        self._images += images
        self._waited += waited

    def pause(self, seconds: float) -> None:
        """Leave time out that was not training (an evaluation)."""
        self._start += seconds

    def read(self) -> dict[str, float]:
        """images/s, seconds a step, seconds and share waited for data, memory in MiB; then start again."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        values = {
            "images_per_second": self._images / elapsed,
            "step_seconds": elapsed / max(self._steps, 1),
            "data_wait_seconds": self._waited,
            "data_wait_share": self._waited / elapsed,
            "memory_mib": memory_mib(),
        }
        self._begin()
        return values


def memory_mib() -> float:
    """Largest memory of this process so far: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
